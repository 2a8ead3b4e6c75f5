use std::sync::Mutex;

use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::*;
use crate::profile::framing::{Checksum, ChecksumKind, FramingKind, Marks, Span};

fn settings() -> Serial {
    Serial {
        name: "serial.test".to_owned(),
        port: "/dev/test".into(),
        profile: "generic/json-line".to_owned(),
        device: "test".to_owned(),
        ..Serial::default()
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
        let accept = |told: Told<'_>| {
            let mut lines = self.lines.lock().unwrap();
            let frames = match told {
                Told::Frames(frames) => frames,
                Told::State(online) => {
                    lines.push(if online { "online" } else { "offline" }.to_owned());
                    return lines.len() as u64;
                }
            };
            lines.extend(frames.iter().map(|frame| String::from_utf8_lossy(frame.payload).into_owned()));
            lines.extend(frames.damaged().map(|_| "damaged".to_owned()));
            lines.len() as u64
        };
        let durable = self.durable.subscribe();
        let mut reader = Reader::new(&self.settings, &self.framing, "/dev/test", &self.counters, durable, accept);
        reader.poller = poll.map(|(poll, link)| Poller::new(poll, link, &self.counters, "serial.test", &self.framing));
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
        start: Vec::new(),
        requests: vec![vec![0xff, 0x86, b'\n']],
        every: Duration::from_millis(300),
        timeout: Duration::from_millis(200),
    };
    let detail = || links.snapshot().values().next().map(|link| link.detail.clone()).unwrap_or_default();
    let answer = async {
        let mut request = [0; 3];
        // What is sent right after opening may be lost: it joins a transmission that was under way.
        for number in 0..4 {
            device.read_exact(&mut request).await.unwrap();
            assert_eq!(request, [0xff, 0x86, b'\n']);
            sleep(Duration::from_millis(if number == 0 { 300 } else { 5 })).await;
            device.write_all(format!("{{\"n\":{number}}}\n").as_bytes()).await.unwrap();
        }
        for _ in 0..5 {
            device.read_exact(&mut request).await.unwrap();
        }
        assert_eq!(detail(), "the device does not answer");
        device.write_all(b"{\"n\":9}\n").await.unwrap();
        while !rig.lines.lock().unwrap().iter().any(|line| line == "{\"n\":9}") {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(detail(), "");
        // Before it could fail to answer again.
        drop(device);
    };
    let asked = rig.ask(port, Some((poll, links.link("serial.test"))));
    let ((end, _), ()) = timeout(Duration::from_secs(20), async { tokio::join!(asked, answer) }).await.unwrap();
    assert!(matches!(end, End::Lost(_)), "{end:?}");
    let lines = rig.lines.lock().unwrap();
    assert_eq!(lines[0], "online");
    // Once each, in the order of what happened.
    assert_eq!(lines[lines.len() - 4..], ["{\"n\":3}", "offline", "online", "{\"n\":9}"]);
    drop(lines);
    assert!(rig.count(Count::UnitTimeouts) >= 3);
}

#[tokio::test]
async fn an_adapter_that_gives_requests_back_is_no_device() {
    let (mut device, port) = terminal();
    let rig = Rig::new();
    let links = crate::status::Links::default();
    let poll = Poll {
        start: Vec::new(),
        requests: vec![b"A?\r\n".to_vec(), b"B?\r\n".to_vec()],
        every: Duration::from_millis(300),
        timeout: Duration::from_millis(100),
    };
    let detail = || links.snapshot().values().next().map(|link| link.detail.clone()).unwrap_or_default();
    let adapter = async {
        let mut request = [0; 4];
        for round in 0.. {
            device.read_exact(&mut request).await.unwrap();
            device.write_all(&request).await.unwrap();
            // The device itself answers one of the two in the first rounds, and what it says may begin like the question.
            if round < 6 && request[0] == b'A' {
                device.write_all(b"A?1\r\n").await.unwrap();
            }
            if round > 6 && detail() == "the device does not answer" {
                break;
            }
        }
        rig.stop.send_replace(true);
    };
    let asked = rig.ask(port, Some((poll, links.link("serial.test"))));
    let ((end, _), ()) = timeout(Duration::from_secs(20), async { tokio::join!(asked, adapter) }).await.unwrap();
    assert_eq!(end, End::Stopped);
    let lines = rig.lines.lock().unwrap();
    assert!(lines.iter().all(|line| !line.ends_with('?')), "an echo was taken for an answer: {lines:?}");
    let states: Vec<_> = lines.iter().filter(|line| !line.starts_with('A')).collect();
    assert_eq!(states, ["online", "offline"], "{lines:?}");
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
    let ((end, _), ()) = timeout(Duration::from_secs(20), async { tokio::join!(rig.read(port), write) }).await.unwrap();
    assert_eq!(end, End::Stopped);
    let lines = rig.lines.lock().unwrap();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!((lines[0].as_str(), lines[2].as_str()), ("{\"a\":1}", "{\"b\":1}"));
    assert_eq!((rig.count(Count::FramesTooLong), rig.count(Count::NoiseBytes)), (1, 10_000 - 64 + 1));
}

fn checked(kind: FramingKind, gap: Option<Duration>) -> Framing {
    let sum = Checksum::at_end(ChecksumKind::Sum8, 1);
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
