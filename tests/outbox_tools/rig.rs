//! An outbox of a test's own, filled through the library, and the built binary on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use tidegate::config::{self, WhenFull};
use tidegate::counters::Counters;
use tidegate::outbox::{Closer, Lane, Options, Outbox, Reader, Stored};
use tidegate::reading::{
    Aggregate, Batch, Field, Mark, Measurement, MeasurementKind, Reading, Receipt, Record, Stamp, TimeQuality, Value,
};

/// 2026-05-04T12:00:00Z; record `n` was received `n` seconds later.
pub(crate) const NOON_MS: i64 = 1_777_896_000_000;

pub(crate) struct Rig {
    scratch: tempfile::TempDir,
    pub(crate) settings: config::Outbox,
    pub(crate) machine: String,
    pub(crate) counters: Counters,
    next: i64,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let settings = config::Outbox {
            size_max: 256 << 20,
            commit_interval: Duration::from_millis(5),
            commit_bytes: 64 * 1024,
            segment_bytes: 12 * 1024,
            memory_tail_bytes: 64 * 1024,
            ..config::Config::parse(
                "[kafka]\nbrokers = [\"x:1\"]\n[serial.a]\nport = \"/dev/x\"\nprofile = \"generic/json-line\"",
                Path::new("/x.toml"),
                &|_| None,
            )
            .unwrap()
            .outbox
        };
        assert_eq!(settings.when_full, WhenFull::DropOldest);
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned();
        Self { scratch: tempfile::tempdir().unwrap(), settings, machine, counters: Counters::default(), next: 0 }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    pub(crate) fn outbox_dir(&self) -> PathBuf {
        self.data_dir().join("outbox")
    }

    /// A directory beside the data.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn open(&self) -> (Outbox, Closer) {
        std::fs::create_dir_all(self.data_dir()).unwrap();
        let options = Options { data_dir: self.data_dir(), receipts_max: 100, machine: self.machine.clone() };
        let (outbox, closer, _) = Outbox::open(&self.settings, &options, &self.counters).unwrap();
        (outbox, closer)
    }

    /// Readings of devices `d0` to `d3` in turn, of noise that does not compress.
    pub(crate) fn readings(&mut self, count: usize) -> Batch {
        let measurement =
            |name: &str| Arc::new(Measurement { name: name.into(), unit: None, kind: MeasurementKind::Gauge });
        let (n, noise) = (measurement("n"), measurement("noise"));
        let mut batch = Batch::default();
        for _ in 0..count {
            let mark = batch.mark();
            batch.fields.push(Field { measurement: Arc::clone(&n), value: Value::Number(self.next as f64) });
            let text: String = (0..40).map(|_| fastrand::alphanumeric()).collect();
            batch.fields.push(Field { measurement: Arc::clone(&noise), value: Value::Text(text.into()) });
            let time_ms = NOON_MS + self.next * 1_000;
            batch.records.push(Record::Reading(Reading {
                device: format!("d{}", self.next % 4).into(),
                profile: "p".into(),
                time_ms,
                time_quality: TimeQuality::Device,
                received: Stamp { wall_ms: time_ms, monotonic_ms: 1, trusted: true },
                mark: Mark::None,
                alarm: None,
                fields: mark..batch.mark(),
            }));
            self.next += 1;
        }
        batch
    }

    pub(crate) fn aggregates(&mut self, count: usize) -> Batch {
        let measurement = Arc::new(Measurement { name: "n".into(), unit: None, kind: MeasurementKind::Gauge });
        let records = (0..count).map(|at| {
            let start_ms = NOON_MS + at as i64 * 60_000;
            Record::Aggregate(Box::new(Aggregate {
                device: "d0".into(),
                profile: "p".into(),
                measurement: Arc::clone(&measurement),
                window: "w".into(),
                start_ms,
                end_ms: start_ms + 60_000,
                origin: tidegate::reading::Origin::Window,
                revision: 1,
                count: 1,
                sum: Some(1.0),
                min: 1.0,
                max: 1.0,
                first: 1.0,
                last: 1.0,
                at: Stamp { wall_ms: start_ms + 60_000, monotonic_ms: 1, trusted: true },
            }))
        });
        Batch { records: records.collect(), fields: Vec::new() }
    }

    /// Stores so many readings in commits of 200.
    pub(crate) fn store(&mut self, outbox: &Outbox, count: usize) {
        let mut left = count;
        while left > 0 {
            let now = left.min(200);
            let mut batch = self.readings(now);
            let number = outbox.append(Lane::Raw, &mut batch, None, &[]);
            wait_durable(outbox, number);
            left -= now;
        }
    }

    /// The same with a receipt of a session.
    pub(crate) fn store_with_receipt(&mut self, outbox: &Outbox, session: &str) {
        let mut batch = self.readings(1);
        let receipt = [Receipt { packet_id: 1, hash: 2 }];
        wait_durable(outbox, outbox.append(Lane::Raw, &mut batch, Some(&session.into()), &receipt));
    }

    /// The binary on this outbox.
    pub(crate) fn tool(&self, arguments: &[&str]) -> Answer {
        let data_dir = self.data_dir();
        let mut all = vec!["outbox", arguments[0], "--data-dir", data_dir.to_str().unwrap()];
        all.extend(&arguments[1..]);
        run(&all)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Json {
        let mut all = arguments.to_vec();
        all.push("--json");
        let answer = self.tool(&all);
        serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error} in {answer:?}"))
    }

    /// Records that `export` with these arguments gives.
    pub(crate) fn export(&self, arguments: &[&str]) -> Vec<Json> {
        let mut all = vec!["export", "--gateway", "g"];
        all.extend(arguments);
        let answer = self.tool(&all);
        assert_eq!(answer.code, 0, "{answer:?}");
        answer.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Name, content and time of change of each file.
    pub(crate) fn fingerprint(&self) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
        let mut found = BTreeMap::new();
        gather(&self.data_dir(), &mut found);
        found
    }

    /// The data directory as it is now, as if the power had gone.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        let to = self.beside(name);
        let status = Command::new("cp").arg("-r").arg(self.data_dir()).arg(&to).status().unwrap();
        assert!(status.success());
        to
    }
}

fn gather(path: &Path, found: &mut BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)>) {
    for entry in std::fs::read_dir(path).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            found.insert(entry.path(), (Vec::new(), metadata.modified().unwrap()));
            gather(&entry.path(), found);
        } else {
            found.insert(entry.path(), (std::fs::read(entry.path()).unwrap(), metadata.modified().unwrap()));
        }
    }
}

/// What the binary said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the binary to its end.
pub(crate) fn run(arguments: &[&str]) -> Answer {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .env("TIDEGATE_CONFIG", "/nonexistent/gateway.toml")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Answer { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
}

pub(crate) fn wait_durable(outbox: &Outbox, number: u64) {
    let deadline = tidegate::clock::instant() + Duration::from_secs(60);
    while *outbox.durable().borrow() < number {
        assert!(tidegate::clock::instant() < deadline, "not durable within a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// All that the reader gives until there is nothing for half a second.
pub(crate) fn drain(reader: &mut Reader) -> Vec<Arc<Stored>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut all = Vec::new();
        while let Ok(stored) = tokio::time::timeout(Duration::from_millis(500), reader.next()).await {
            all.push(stored.unwrap());
        }
        all
    })
}

/// The `n` of all readings that are not delivered, and the other records.
pub(crate) fn undelivered(all: &[Arc<Stored>]) -> (Vec<i64>, Vec<Record>) {
    let (mut numbers, mut others) = (Vec::new(), Vec::new());
    for stored in all {
        for (_, record) in stored.batch.records.iter().enumerate().filter(|(at, _)| !stored.is_delivered(*at)) {
            match record {
                Record::Reading(reading) => match stored.batch.fields_of(reading)[0].value {
                    Value::Number(n) => numbers.push(n as i64),
                    _ => panic!("a number"),
                },
                other => others.push(other.clone()),
            }
        }
    }
    (numbers, others)
}

/// Says that all of it was delivered.
pub(crate) fn deliver(outbox: &Outbox, all: &[Arc<Stored>]) {
    for stored in all {
        let seqs: Vec<u64> = (0..stored.batch.len() as u64).map(|at| stored.first_seq + at).collect();
        outbox.delivered(stored.segment, stored.lane, &seqs);
    }
}

/// Waits until the backlog has so many records.
pub(crate) fn wait_backlog(outbox: &Outbox, records: u64) {
    let deadline = tidegate::clock::instant() + Duration::from_secs(30);
    while outbox.backlog().records != records {
        assert!(tidegate::clock::instant() < deadline, "{:?} instead of {records}", outbox.backlog());
        std::thread::sleep(Duration::from_millis(5));
    }
}
