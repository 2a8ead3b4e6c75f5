//! A publisher that costs little: MQTT 3.1.1 (OASIS, sections 3.1 to 3.4) written by hand, all messages that are due in
//! one write.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate::clock;

/// Unacknowledged messages at most: well below the number of packet identifiers.
const WINDOW: u64 = 20_000;
const DEVICES: usize = 50;
const TICK: Duration = Duration::from_millis(1);
/// Messages that go out in one write, when there is no pace.
const UNPACED_BATCH: u64 = 500;
/// As which rate the times of such messages look, a second.
const UNPACED_RATE: u64 = 50_000;
/// The first message's time, in microseconds: 2026-05-04T12:00:00Z.
const START_US: i64 = 1_777_896_000_000_000;
const BEFORE_TIME: &str = "{\"time\":\"";

/// One connection. Dropping it closes it.
pub(crate) struct Publisher {
    stream: TcpStream,
    qos: u8,
    sent: u64,
    acknowledged: Arc<AtomicU64>,
    /// Topics, and what follows the time.
    bodies: Vec<(String, String)>,
    time_us: i64,
    time: String,
}

impl Publisher {
    pub(crate) fn connect(port: u16, qos: u8) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let id = b"bench-publisher";
        let mut connect = vec![0x10, 12 + id.len() as u8, 0, 4];
        // Protocol MQTT, level 4, clean session, no keep-alive.
        connect.extend(b"MQTT\x04\x02\x00\x00\x00");
        connect.push(id.len() as u8);
        connect.extend(id);
        stream.write_all(&connect).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0x20, 2, 0, 0], "the broker does not accept the connection");

        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut reader = stream.try_clone().unwrap();
        let count = Arc::clone(&acknowledged);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            let mut bytes = 0;
            // Only PUBACKs come, four bytes each.
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                bytes += length as u64;
                count.store(bytes / 4, Ordering::Relaxed);
            }
        });
        // About 100 bytes with three values.
        let bodies = (0..1_000_usize)
            .map(|n| {
                let body = format!(
                    "\",\"temperature\":{}.{:02},\"humidity\":{}.{},\"pressure\":10{:02}.{:02}}}",
                    18 + n % 9,
                    n * 37 % 100,
                    40 + n % 30,
                    n % 10,
                    n % 30,
                    n * 7 % 100
                );
                (format!("sensors/device-{:02}", n % DEVICES), body)
            })
            .collect();
        let time_us = START_US;
        let time = format!("{:.3}", jiff::Timestamp::from_microsecond(time_us).expect("a time of this century"));
        Self { stream, qos, sent: 0, acknowledged, bodies, time_us, time }
    }

    /// Publishes `count` messages, so many a second, or as fast as the broker takes them.
    pub(crate) fn publish(&mut self, count: u64, rate: Option<u64>) {
        let start = clock::instant();
        let step_us = (1_000_000 / rate.unwrap_or(UNPACED_RATE)).max(1) as i64;
        let mut done = 0;
        let mut buffer = Vec::with_capacity(256 * 1024);
        while done < count {
            let mut due = match rate {
                Some(rate) => (start.elapsed().as_secs_f64() * rate as f64) as u64,
                None => done + UNPACED_BATCH,
            }
            .min(count);
            if self.qos > 0 {
                let open = self.sent - self.acknowledged.load(Ordering::Relaxed);
                due = due.min(done + WINDOW.saturating_sub(open));
            }
            if due <= done {
                std::thread::sleep(TICK);
                continue;
            }
            buffer.clear();
            for _ in done..due {
                self.encode(step_us, &mut buffer);
            }
            self.stream.write_all(&buffer).expect("the broker takes messages");
            done = due;
        }
    }

    /// A message, its time as far after the one before as the rate says: windows go by it.
    fn encode(&mut self, step_us: i64, buffer: &mut Vec<u8>) {
        let before_ms = self.time_us / 1_000;
        self.time_us += step_us;
        if self.time_us / 1_000 > before_ms {
            let time = jiff::Timestamp::from_microsecond(self.time_us).expect("a time of this century");
            self.time = format!("{time:.3}");
        }
        let (topic, body) = &self.bodies[(self.sent % self.bodies.len() as u64) as usize];
        let payload = BEFORE_TIME.len() + self.time.len() + body.len();
        let length = 2 + topic.len() + 2 * usize::from(self.qos) + payload;
        buffer.push(0x30 | self.qos << 1);
        // One byte of length does up to 127, two up to 16,383.
        if length < 128 {
            buffer.push(length as u8);
        } else {
            buffer.extend([(length % 128) as u8 | 0x80, (length / 128) as u8]);
        }
        buffer.extend((topic.len() as u16).to_be_bytes());
        buffer.extend(topic.as_bytes());
        if self.qos > 0 {
            buffer.extend(((self.sent % 65_535) as u16 + 1).to_be_bytes());
        }
        buffer.extend(BEFORE_TIME.as_bytes());
        buffer.extend(self.time.as_bytes());
        buffer.extend(body.as_bytes());
        self.sent += 1;
    }

    /// Waits until the broker has acknowledged all of QoS 1.
    pub(crate) fn finish(&self) {
        let start = clock::instant();
        while self.qos > 0 && self.acknowledged.load(Ordering::Relaxed) < self.sent {
            assert!(start.elapsed() < Duration::from_secs(120), "the broker acknowledges no more");
            std::thread::sleep(TICK);
        }
    }
}
