//! A serial port: opened when it is there, read, closed at once when it is pulled, and opened again under the same name.
//!
//! Invariants: the task never ends but by `stop`; at most [`PENDING_BYTES_MAX`] of what was read waits to become durable,
//! then lines are dropped, counted, because a device on a wire does not wait, and what the kernel drops nobody counts;
//! whatever is skipped is counted. A read of no bytes means unplugged: the descriptor is
//! closed at once, or the adapter could not come back under its old name.

mod pending;
mod poller;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use super::framing::{Found, Framer};
use super::port::{self, Line};
use crate::clock;
use crate::config::Serial;
use crate::counters::{Count, Counter, Counters};
use crate::intake::Intake;
use crate::log::Throttle;
use crate::profile::Poll;
use crate::profile::framing::Framing;
use crate::reading::{Frames, Name};
use crate::status::Link;
pub(super) use pending::Pending;
use poller::{Poller, due};

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
    let (device, profile) = (Name::from(settings.device.as_str()), Name::from(settings.profile.as_str()));
    let accept = |told: Told<'_>| match told {
        Told::Frames(frames) => intake.accept(frames, &[]),
        Told::State(online) => intake.state(&device, &profile, online, clock::stamp()),
    };
    let mut reader = Reader::new(&settings, &framing, &port, counters, durable, accept);
    reader.poller = poll.map(|poll| Poller::new(poll, link.clone(), counters, &settings.name, &framing));
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

/// What is handed on.
#[derive(Debug)]
enum Told<'a> {
    Frames(&'a Frames),
    /// The device that is asked answers, or does so no longer.
    State(bool),
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

impl<'a, A: FnMut(Told<'_>) -> u64> Reader<'a, A> {
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
                        Ok(state) => {
                            self.tell(state);
                            continue;
                        }
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

    /// Hands on that the device came or went, if it did.
    fn tell(&mut self, state: Option<bool>) {
        if let Some(online) = state {
            let number = (self.accept)(Told::State(online));
            self.pending.add(number, 0);
        }
    }

    /// Takes what one read gave; nothing was read when it was silent for so long that it says something.
    fn take(&mut self, framer: &mut Framer, bytes: &[u8]) {
        let Self { frames, port, too_long, damaged, noise, poller, .. } = self;
        frames.reset(clock::stamp());
        let mut answered = false;
        let found = |found: Found<'_>| match found {
            // Of a device that is asked, what comes first may be the request itself.
            Found::Frame(frame) if poller.as_mut().is_some_and(|poller| poller.is_echo(frame)) => {
                noise.add(frame.len() as u64);
            }
            Found::Frame(frame) => {
                answered = true;
                frames.push(port, frame, false);
            }
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
        // What is damaged is no answer: noise on the line of a device that is gone is so, too.
        let state = self.poller.as_mut().filter(|_| answered).and_then(Poller::heard);
        self.tell(state);
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
            let number = (self.accept)(Told::Frames(&self.frames));
            self.pending.add(number, self.frames.bytes());
        }
    }
}

#[cfg(test)]
mod tests;
