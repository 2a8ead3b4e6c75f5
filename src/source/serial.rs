//! A serial port: opened when it is there, read, closed at once when it is pulled, and opened again under the same name.
//!
//! Invariants: the task never ends but by `stop`; at most [`PENDING_BYTES_MAX`] of what was read waits to become durable,
//! then lines are dropped, counted, because a device on a wire does not wait, and what the kernel drops nobody counts;
//! whatever is skipped is counted. A read of no bytes means unplugged: the descriptor is
//! closed at once, or the adapter could not come back under its old name.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::framing::{Found, Framer};
use super::poll::{Asker, Turn};
use super::port::{self, Line};
use crate::clock;
use crate::config::Serial;
use crate::counters::{Count, Counter, Counters};
use crate::intake::Intake;
use crate::log::Throttle;
use crate::profile::Poll;
use crate::profile::framing::Framing;
use crate::reading::Frames;
use crate::status::Link;

/// What waits for a commit at most; above this the port is not read.
pub(super) const PENDING_BYTES_MAX: usize = 1024 * 1024;
/// One read takes at most this.
const READ_BYTES: usize = 16 * 1024;
/// Reads are this far apart, unless there is much to read: a wake-up costs more than what it reads.
const READ_INTERVAL: Duration = Duration::from_millis(10);
/// Half of what the kernel holds for a port (4,095 bytes): from here on the next read comes at once.
const BUSY_BYTES: usize = 2_048;
/// Bytes that come this soon after opening belong to a transmission that was under way.
const JOINED_WITHIN: Duration = Duration::from_millis(100);
/// Handing a request to the kernel takes no longer, unless the line is stuck.
const WRITE_MAX: Duration = Duration::from_secs(2);
/// The first wait before opening again …
pub(super) const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// … which doubles up to this.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long a stop waits for what was read to become durable.
pub(super) const STOP_MAX: Duration = Duration::from_secs(5);

/// Reads the port until `stop` says so (or its sender is gone), and returns when what was read is durable. `settings` are
/// those of the configuration, completed by the profile (`ProfileSet::resolve`); `framing` is `ProfileSet::framing`, and
/// `poll` is what its device is asked, if it has to be (`ProfileSet::poll`).
pub async fn run(
    settings: Serial,
    framing: Framing,
    poll: Option<Poll>,
    mut intake: Intake,
    link: Link,
    counters: &Counters,
    mut stop: watch::Receiver<bool>,
) {
    let port = settings.port.display().to_string();
    let durable = intake.durable();
    let mut reader = Reader::new(&settings, &framing, &port, counters, durable, |frames| intake.accept(frames, &[]));
    reader.poller = poll.map(|poll| Poller::new(poll, link.clone(), counters, &settings.name));
    let connects = counters.counter(Count::Connects, &settings.name);
    let errors = counters.counter(Count::ConnectionErrors, &settings.name);
    let line = Line {
        baud: settings.baud,
        data_bits: settings.data_bits,
        parity: settings.parity,
        stop_bits: settings.stop_bits,
    };
    let mut backoff = BACKOFF_FIRST;
    let mut down_told = false;
    while !*stop.borrow() {
        let why = match port::open(&settings.port, line) {
            Ok(stream) => {
                connects.add(1);
                link.up("");
                port::warn_if_shared(&settings.name, &settings.port);
                if down_told {
                    tracing::info!(source = settings.name, "{port} is back");
                } else {
                    tracing::info!(source = settings.name, "reading {port}");
                }
                down_told = false;
                let (end, got_any) = reader.read_all(stream, &mut stop).await;
                if got_any {
                    backoff = BACKOFF_FIRST;
                }
                match end {
                    End::Stopped => break,
                    End::Lost(why) => why,
                }
            }
            Err(error) => error,
        };
        errors.add(1);
        link.down(why.as_str());
        if !down_told {
            tracing::warn!(source = settings.name, "{port}: {why}; it is opened again when it is there");
            down_told = true;
        }
        // Jitter, so that several ports behind one hub are not all tried in the same moment.
        let wait = backoff.mul_f64(0.75 + fastrand::f64() * 0.5);
        backoff = (backoff * 2).min(BACKOFF_MAX);
        if timeout(wait, stopped(&mut stop)).await.is_ok() {
            break;
        }
    }
    let pending = reader.into_pending();
    intake.hurry();
    if !pending.settle(STOP_MAX).await {
        tracing::warn!(source = settings.name, "stopped before all that was read from {port} was durable");
    }
}

/// Returns when the gateway stops.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody is left to say it.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Returns after that time; never, if there is none.
async fn silence(after: Option<Duration>) {
    match after {
        Some(after) => tokio::time::sleep(after).await,
        None => std::future::pending().await,
    }
}

/// Why reading ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Stopped,
    Lost(String),
}

/// Reads one port after the other, which all have the same name. `accept` takes frames and gives the number that must
/// become durable.
struct Reader<'a, A> {
    accept: A,
    port: &'a str,
    framing: &'a Framing,
    frames: Frames,
    pending: Pending,
    noise: Counter,
    too_long: Counter,
    damaged: Counter,
    dropped: Counter,
    trouble: Throttle,
    poller: Option<Poller>,
}

/// Asks the device, where that has to be done.
#[derive(Debug)]
struct Poller {
    poll: Poll,
    asker: Asker,
    link: Link,
    missed: Counter,
}

impl Poller {
    fn new(poll: Poll, link: Link, counters: &Counters, name: &str) -> Self {
        let asker = Asker::new(poll.clone(), clock::monotonic());
        Self { poll, asker, link, missed: counters.counter(Count::UnitTimeouts, name) }
    }

    /// Another device may be there now.
    fn begin(&mut self) {
        self.asker = Asker::new(self.poll.clone(), clock::monotonic());
    }

    /// Does what is to be done. Why the port is lost, if it is.
    async fn turn(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), String> {
        match self.asker.turn(clock::monotonic()) {
            None => Ok(()),
            Some(Turn::Ask) => match timeout(WRITE_MAX, stream.write_all(self.asker.request())).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(format!("cannot be written: {error}")),
                Err(_) => Err("takes no bytes".to_owned()),
            },
            Some(Turn::Missed { tell }) => {
                self.missed.add(1);
                if tell {
                    self.link.up("the device does not answer");
                }
                Ok(())
            }
        }
    }

    fn heard(&mut self) {
        if self.asker.heard() {
            self.link.up("");
        }
    }
}

/// Returns when there is something to ask; never, where nobody has to be asked.
async fn due(poller: Option<&Poller>) {
    match poller {
        Some(poller) => tokio::time::sleep(poller.asker.wait(clock::monotonic())).await,
        None => std::future::pending().await,
    }
}

impl<'a, A: FnMut(&Frames) -> u64> Reader<'a, A> {
    fn new(
        settings: &Serial,
        framing: &'a Framing,
        port: &'a str,
        counters: &Counters,
        durable: watch::Receiver<u64>,
        accept: A,
    ) -> Self {
        Self {
            accept,
            port,
            framing,
            frames: Frames::default(),
            pending: Pending::new(durable),
            noise: counters.counter(Count::NoiseBytes, &settings.name),
            too_long: counters.counter(Count::FramesTooLong, &settings.name),
            damaged: counters.counter(Count::ChecksumErrors, &settings.name),
            dropped: counters.counter(Count::FramesDropped, &settings.name),
            trouble: Throttle::new(Duration::from_secs(60)),
            poller: None,
        }
    }

    fn into_pending(self) -> Pending {
        self.pending
    }

    /// Reads until the stream ends, fails or `stop` says so; also tells whether anything was read.
    async fn read_all(
        &mut self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        stop: &mut watch::Receiver<bool>,
    ) -> (End, bool) {
        let opened = clock::instant();
        self.poller.iter_mut().for_each(Poller::begin);
        let mut framer = Framer::new(self.framing);
        // Where silence ends a frame it must be seen, so there the port is read at once.
        let interval = self.framing.gap.map_or(READ_INTERVAL, |gap| READ_INTERVAL.min(gap / 4));
        let mut buffer = vec![0; READ_BYTES];
        let mut got_any = false;
        let end = loop {
            let read = tokio::select! {
                biased;
                () = stopped(stop) => break End::Stopped,
                read = stream.read(&mut buffer) => Some(read),
                () = silence(framer.idle_after()) => None,
                () = due(self.poller.as_ref()) => {
                    let Some(poller) = &mut self.poller else { continue };
                    match poller.turn(&mut stream).await {
                        Ok(()) => continue,
                        Err(why) => break End::Lost(why),
                    }
                }
            };
            let bytes = match read {
                None => {
                    self.take(&mut framer, &[]);
                    continue;
                }
                Some(Ok(0)) => break End::Lost("unplugged".to_owned()),
                Some(Ok(length)) => &buffer[..length],
                Some(Err(error)) => break End::Lost(format!("cannot be read: {error}")),
            };
            if !got_any && opened.elapsed() < JOINED_WITHIN {
                framer.join();
            }
            got_any = true;
            self.take(&mut framer, bytes);
            let busy = bytes.len() >= BUSY_BYTES;
            if !busy && timeout(interval, stopped(stop)).await.is_ok() {
                break End::Stopped;
            }
        };
        drop(stream);
        framer.end();
        self.noise.add(framer.take_noise());
        (end, got_any)
    }

    /// Takes what one read gave; nothing was read when it was silent for so long that it says something.
    fn take(&mut self, framer: &mut Framer, bytes: &[u8]) {
        let Self { frames, port, too_long, damaged, .. } = self;
        frames.reset(clock::stamp());
        let found = |found: Found<'_>| match found {
            Found::Frame(frame) => frames.push(port, frame, false),
            Found::TooLong(beginning) => {
                too_long.add(1);
                // How long it will be is not known: longer than the maximum, at least by one.
                frames.push_oversize(port, beginning, false, beginning.len() as u64 + 1);
            }
            Found::BadChecksum(frame, mismatch) => {
                damaged.add(1);
                frames.push_damaged(port, frame, mismatch);
            }
        };
        if bytes.is_empty() {
            framer.idle(found);
        } else {
            framer.push(bytes, found);
        }
        self.noise.add(framer.take_noise());
        if self.frames.is_empty() {
            return;
        }
        self.poller.iter_mut().for_each(Poller::heard);
        self.pending.settled();
        if self.pending.bytes > PENDING_BYTES_MAX {
            self.dropped.add(self.frames.len() as u64);
            if let Some(suppressed) = self.trouble.pass(clock::instant()) {
                tracing::warn!(
                    port = self.port,
                    suppressed,
                    "lines are dropped: nothing more can be stored until the outbox has room"
                );
            }
        } else {
            let number = (self.accept)(&self.frames);
            self.pending.add(number, self.frames.bytes());
        }
    }
}

/// What was handed on and is not durable yet.
#[derive(Debug)]
pub(super) struct Pending {
    durable: watch::Receiver<u64>,
    waiting: VecDeque<(u64, usize)>,
    pub(super) bytes: usize,
}

impl Pending {
    pub(super) fn new(durable: watch::Receiver<u64>) -> Self {
        Self { durable, waiting: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn add(&mut self, number: u64, bytes: usize) {
        match self.waiting.back_mut() {
            Some((last, sum)) if *last == number => *sum += bytes,
            _ => self.waiting.push_back((number, bytes)),
        }
        self.bytes += bytes;
        self.settled();
    }

    /// Forgets what has become durable.
    pub(super) fn settled(&mut self) {
        let durable = *self.durable.borrow_and_update();
        while let Some((_, bytes)) = self.waiting.pop_front_if(|(number, _)| *number <= durable) {
            self.bytes -= bytes;
        }
    }

    /// Waits until all is durable, `limit` at most. Whether it is.
    pub(super) async fn settle(mut self, limit: Duration) -> bool {
        let Some((last, _)) = self.waiting.back().copied() else { return true };
        matches!(timeout(limit, self.durable.wait_for(|durable| *durable >= last)).await, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::AsyncWriteExt;
    use tokio::time::sleep;

    use super::*;
    use crate::profile::framing::{Checksum, ChecksumKind, Endian, FramingKind, Marks, Place, Span};

    fn settings() -> Serial {
        Serial {
            name: "serial.test".to_owned(),
            port: "/dev/test".into(),
            profile: "generic/json-line".to_owned(),
            device: "test".to_owned(),
            baud: None,
            data_bits: None,
            parity: None,
            stop_bits: None,
            delimiter: None,
            frame_bytes_max: None,
            time_zone: None,
            names: Default::default(),
        }
    }

    struct Rig {
        settings: Serial,
        framing: Framing,
        counters: Counters,
        durable: watch::Sender<u64>,
        stop: watch::Sender<bool>,
        lines: Mutex<Vec<String>>,
    }

    impl Rig {
        fn new() -> Self {
            Self {
                settings: settings(),
                framing: Framing::lines(b"\n", 64),
                counters: Counters::default(),
                durable: watch::Sender::new(u64::MAX),
                stop: watch::Sender::new(false),
                lines: Mutex::default(),
            }
        }

        async fn read(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> (End, bool) {
            self.ask(stream, None).await
        }

        async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin, poll: Option<(Poll, Link)>) -> (End, bool) {
            let accept = |frames: &Frames| {
                let mut lines = self.lines.lock().unwrap();
                lines.extend(frames.iter().map(|frame| String::from_utf8_lossy(frame.payload).into_owned()));
                lines.extend(frames.damaged().map(|_| "damaged".to_owned()));
                lines.len() as u64
            };
            let durable = self.durable.subscribe();
            let mut reader = Reader::new(&self.settings, &self.framing, "/dev/test", &self.counters, durable, accept);
            reader.poller = poll.map(|(poll, link)| Poller::new(poll, link, &self.counters, "serial.test"));
            reader.read_all(stream, &mut self.stop.subscribe()).await
        }

        fn count(&self, count: Count) -> u64 {
            self.counters.counter(count, "serial.test").get()
        }
    }

    /// A pseudo-terminal: what is written to the first can be read from the second.
    fn terminal() -> (port::Port, port::Port) {
        port::Port::pair().unwrap()
    }

    #[tokio::test]
    async fn lines_are_read_from_a_terminal_until_it_is_pulled() {
        let (mut device, port) = terminal();
        let rig = Rig::new();
        let write = async {
            for number in 0..500 {
                device.write_all(format!("{{\"n\":{number}}}\r\n").as_bytes()).await.unwrap();
            }
            device.write_all(b"{\"cut").await.unwrap();
            device.flush().await.unwrap();
            sleep(Duration::from_millis(300)).await;
            drop(device);
        };
        let ((end, got_any), ()) =
            timeout(Duration::from_secs(20), async { tokio::join!(rig.read(port), write) }).await.unwrap();
        assert!(matches!(end, End::Lost(_)) && got_any, "{end:?}");
        let lines = rig.lines.lock().unwrap();
        assert_eq!(lines.len(), 500);
        assert_eq!((lines[0].as_str(), lines[499].as_str()), ("{\"n\":0}", "{\"n\":499}"));
        assert_eq!(rig.count(Count::NoiseBytes), 5);
    }

    #[tokio::test]
    async fn a_device_that_is_asked_answers_and_one_that_does_not_is_told() {
        let (mut device, port) = terminal();
        let rig = Rig::new();
        let links = crate::status::Links::default();
        let poll = Poll {
            request: vec![0xff, 0x86, b'\n'],
            every: Duration::from_millis(100),
            timeout: Duration::from_millis(50),
        };
        let detail = || links.snapshot().values().next().map(|link| link.detail.clone()).unwrap_or_default();
        let answer = async {
            let mut request = [0; 3];
            // What is sent right after opening may be lost: it joins a transmission that was under way.
            for number in 0..4 {
                device.read_exact(&mut request).await.unwrap();
                assert_eq!(request, [0xff, 0x86, b'\n']);
                sleep(Duration::from_millis(if number == 0 { 120 } else { 5 })).await;
                device.write_all(format!("{{\"n\":{number}}}\n").as_bytes()).await.unwrap();
            }
            for _ in 0..5 {
                device.read_exact(&mut request).await.unwrap();
            }
            assert_eq!(detail(), "the device does not answer");
            device.write_all(b"{\"n\":9}\n").await.unwrap();
            sleep(Duration::from_millis(60)).await;
            assert_eq!(detail(), "");
            drop(device);
        };
        let asked = rig.ask(port, Some((poll, links.link("serial.test"))));
        let ((end, _), ()) = timeout(Duration::from_secs(20), async { tokio::join!(asked, answer) }).await.unwrap();
        assert!(matches!(end, End::Lost(_)), "{end:?}");
        assert!(rig.lines.lock().unwrap().ends_with(&["{\"n\":3}".to_owned(), "{\"n\":9}".to_owned()]));
        assert!(rig.count(Count::UnitTimeouts) >= 3);
    }

    #[tokio::test]
    async fn a_line_that_never_ends_costs_only_itself() {
        let (mut device, port) = terminal();
        let rig = Rig::new();
        let write = async {
            sleep(JOINED_WITHIN * 2).await;
            device.write_all(b"{\"a\":1}\n").await.unwrap();
            device.write_all(&[b'x'; 10_000]).await.unwrap();
            device.write_all(b"\n{\"b\":1}\n").await.unwrap();
            sleep(Duration::from_millis(200)).await;
            rig.stop.send_replace(true);
        };
        let ((end, _), ()) =
            timeout(Duration::from_secs(20), async { tokio::join!(rig.read(port), write) }).await.unwrap();
        assert_eq!(end, End::Stopped);
        let lines = rig.lines.lock().unwrap();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!((lines[0].as_str(), lines[2].as_str()), ("{\"a\":1}", "{\"b\":1}"));
        assert_eq!((rig.count(Count::FramesTooLong), rig.count(Count::NoiseBytes)), (1, 10_000 - 64 + 1));
    }

    fn checked(kind: FramingKind, gap: Option<Duration>) -> Framing {
        let sum = Checksum {
            kind: ChecksumKind::Sum8,
            from: 0,
            to: None,
            place: Place::At(-1),
            width: 1,
            endian: Endian::Big,
            hex: false,
            optional: false,
        };
        Framing { checksum: Some(sum), gap, payload: Some(Span { from: 0, to: Some(-1) }), ..Framing::new(kind, 64) }
    }

    #[tokio::test]
    async fn damaged_frames_are_counted_and_handed_on_as_such() {
        let (mut device, port) = terminal();
        let marks = Marks { start: vec![b"T".to_vec()], end: Vec::new() };
        let rig = Rig { framing: checked(FramingKind::Fixed { bytes: 4, marks }, None), ..Rig::new() };
        let write = async {
            sleep(JOINED_WITHIN * 2).await;
            device.write_all(b"T21\xb7~~T20\xb7T20\xb6").await.unwrap();
            sleep(Duration::from_millis(200)).await;
            rig.stop.send_replace(true);
        };
        timeout(Duration::from_secs(20), async { tokio::join!(rig.read(port), write) }).await.unwrap();
        assert_eq!(*rig.lines.lock().unwrap(), ["T21", "T20", "damaged"]);
        assert_eq!((rig.count(Count::ChecksumErrors), rig.count(Count::NoiseBytes)), (1, 2));
    }

    #[tokio::test]
    async fn a_silent_line_ends_a_frame() {
        let (mut device, port) = terminal();
        let framing = checked(FramingKind::Idle, Some(Duration::from_millis(150)));
        let rig = Rig { framing, ..Rig::new() };
        let write = async {
            sleep(JOINED_WITHIN * 2).await;
            // A pause that is shorter than the gap ends nothing.
            for part in [b"ab".as_slice(), b"c\x26"] {
                device.write_all(part).await.unwrap();
                sleep(Duration::from_millis(20)).await;
            }
            sleep(Duration::from_millis(600)).await;
            assert_eq!(*rig.lines.lock().unwrap(), ["abc"]);
            device.write_all(b"ba\xc3").await.unwrap();
            sleep(Duration::from_millis(600)).await;
            rig.stop.send_replace(true);
        };
        timeout(Duration::from_secs(20), async { tokio::join!(rig.read(port), write) }).await.unwrap();
        assert_eq!(*rig.lines.lock().unwrap(), ["abc", "ba"]);
        assert_eq!((rig.count(Count::ChecksumErrors), rig.count(Count::NoiseBytes)), (0, 0));
    }

    #[tokio::test]
    async fn while_too_much_is_not_durable_lines_are_dropped_and_counted() {
        let rig = Rig::new();
        rig.durable.send_replace(0);
        let (mut device, port) = tokio::io::duplex(64 * 1024);
        let line = format!("{{\"x\":\"{}\"}}\n", "y".repeat(40));
        let total = 4 * PENDING_BYTES_MAX / line.len();
        let write = async {
            for _ in 0..total {
                device.write_all(line.as_bytes()).await.unwrap();
            }
            // The outbox has room again: the next line is taken.
            rig.durable.send_replace(u64::MAX);
            sleep(Duration::from_millis(50)).await;
            device.write_all(line.as_bytes()).await.unwrap();
            drop(device);
        };
        let all = async { tokio::join!(rig.read(port), write) };
        let ((end, _), ()) = timeout(Duration::from_secs(60), all).await.unwrap();
        assert_eq!(end, End::Lost("unplugged".to_owned()));
        let (taken, dropped) = (rig.lines.lock().unwrap().len(), rig.count(Count::FramesDropped) as usize);
        assert_eq!(taken + dropped, total + 1);
        assert!(dropped > total / 2 && taken > total / 8, "{taken} taken, {dropped} dropped");
    }

    #[tokio::test]
    async fn a_stop_waits_for_what_was_read_and_no_longer_than_its_limit() {
        let durable = watch::Sender::new(0);
        let pending = |number| {
            let mut pending = Pending::new(durable.subscribe());
            pending.add(number, 10);
            pending
        };
        assert!(!pending(3).settle(Duration::from_millis(20)).await);
        let waiting = pending(3);
        durable.send_replace(3);
        assert!(waiting.settle(STOP_MAX).await);
    }
}
