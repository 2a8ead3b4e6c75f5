use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::outbox::{Closer, Left, Options, Reader};
use crate::reading::{Field, Mark, Measurement, MeasurementKind, Reading, Record, TimeQuality, Value};

const NOW: Stamp = Stamp { wall_ms: 1_777_896_000_000, monotonic_ms: 1_000, trusted: true };

/// One-minute windows over the measurement `n`.
fn rules(update_within: Option<Duration>) -> config::Rules {
    let window = config::Window {
        name: "minute".into(),
        select: config::Select { measurements: vec!["n".into()], ..config::Select::default() },
        every: Duration::from_secs(60),
        time_zone: None,
        lateness: Duration::from_secs(10),
        update_within,
        forward_raw: false,
        alarm: None,
    };
    config::Rules {
        filters: Vec::new(),
        windows: vec![window],
        series_max: 100,
        open_windows_max: 100,
        state_bytes_max: 1 << 20,
        future_max: Duration::from_secs(3_600),
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// A gateway's middle, and what it is opened with.
struct Bed {
    directory: TempDir,
    rules: config::Rules,
    size_max: u64,
}

impl Bed {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), rules: rules(None), size_max: 64 << 20 }
    }

    fn outbox(&self) -> (Outbox, Closer, Left) {
        let settings = config::Outbox {
            size_max: self.size_max,
            when_full: config::WhenFull::DropOldest,
            keep_delivered: Duration::ZERO,
            persist: config::Persist::Always,
            hold: Duration::from_millis(300),
            ladder: config::Ladder { min_free: Some(0), ..config::Ladder::default() },
            commit_interval: Duration::from_millis(1),
            commit_interval_max: Duration::from_millis(1),
            commit_bytes: 64 * 1024,
            segment_bytes: 256 * 1024,
            memory_tail_bytes: 16 * 1024,
            encryption: config::Encryption::default(),
        };
        let options = Options { data_dir: self.directory.path().to_owned(), receipts_max: 20, machine: "m".to_owned() };
        Outbox::open(&settings, &options, &Counters::default()).unwrap()
    }

    fn open(&self) -> (Pipeline, Closer) {
        let (outbox, closer, left) = self.outbox();
        let mut rules = Rules::restore(&self.rules, left.into(), NOW, &Counters::default());
        outbox.begin_journal(&rules.checkpoint()).unwrap();
        (Pipeline::new(outbox, rules, true), closer)
    }

    /// The files as they are at this moment: what a restart after a crash would find. Gives the directory that is in use.
    fn crash(&mut self) -> TempDir {
        let image = tempfile::tempdir().unwrap();
        let mut copy = std::process::Command::new("cp");
        copy.arg("-a").arg(self.directory.path().join(".")).arg(image.path()).stderr(std::process::Stdio::null());
        // A file may be renamed while it is copied; an instant later it is not.
        assert!((0..20).any(|_| copy.status().unwrap().success()));
        std::mem::replace(&mut self.directory, image)
    }
}

/// Appends one value of one device; whether it is durable soon.
fn append(pipeline: &Pipeline, device: &str, measurement: &str, second: i64, value: Value) -> bool {
    let measurement = Arc::new(Measurement { name: measurement.into(), unit: None, kind: MeasurementKind::Gauge });
    let reading = Reading {
        device: device.into(),
        profile: "p".into(),
        time_ms: NOW.wall_ms + second * 1_000,
        time_quality: TimeQuality::Device,
        received: NOW,
        mark: Mark::None,
        alarm: None,
        fields: 0..1,
    };
    let mut batch = Batch { records: vec![Record::Reading(reading)], fields: vec![Field { measurement, value }] };
    let number = pipeline.append(&mut batch, None, &[]);
    let mut durable = pipeline.outbox().durable();
    let reached = async { tokio::time::timeout(Duration::from_secs(10), durable.wait_for(|at| *at >= number)).await };
    runtime().block_on(reached).is_ok()
}

/// A value of 1 for a window.
fn store(pipeline: &Pipeline, second: i64) {
    assert!(append(pipeline, "d", "n", second, Value::Number(1.0)));
}

/// A record of 24 kB that no window is for.
fn store_bulk(pipeline: &Pipeline) -> bool {
    let text: String = (0..24_000).map(|_| fastrand::alphanumeric()).collect();
    append(pipeline, "x", "o", 0, Value::Text(text.into()))
}

/// Delivers all that waits; gives start, revision and count of the aggregates.
fn deliver(pipeline: &Pipeline, reader: &mut Reader) -> Vec<(i64, u32, u64)> {
    let mut found = Vec::new();
    runtime().block_on(async {
        while let Ok(Ok(stored)) = tokio::time::timeout(Duration::from_millis(300), reader.next()).await {
            found.extend(stored.batch.records.iter().filter_map(|record| match record {
                Record::Aggregate(aggregate) => Some((aggregate.start_ms, aggregate.revision, aggregate.count)),
                _ => None,
            }));
            let seqs: Vec<u64> = (stored.first_seq..).take(stored.batch.len()).collect();
            pipeline.outbox().delivered(stored.segment, stored.lane, &seqs);
        }
    });
    found
}

#[test]
fn a_crash_after_any_commit_leaves_every_value_in_one_window() {
    let mut bed = Bed::new();
    let mut stored = 0;
    for round in 0..12_i64 {
        let (pipeline, closer) = bed.open();
        // From one commit to many, the first of the very first run among them.
        for _ in 0..=round {
            store(&pipeline, stored * 5);
            stored += 1;
        }
        let _before = bed.crash();
        drop(pipeline);
        closer.close().unwrap();
    }
    let (pipeline, closer) = bed.open();
    pipeline.tick(Stamp { monotonic_ms: NOW.monotonic_ms + 3_600_000, ..NOW });
    let mut found = deliver(&pipeline, &mut pipeline.outbox().reader());
    found.sort_unstable();
    let windows = (stored * 5 - 5) / 60 + 1;
    let count = |window: i64| (stored - window * 12).min(12) as u64;
    let expected: Vec<_> = (0..windows).map(|window| (NOW.wall_ms + window * 60_000, 1, count(window))).collect();
    assert_eq!(found, expected);
    closer.close().unwrap();
}

#[test]
fn a_crash_around_a_change_of_rules_leaves_every_value_in_one_window_or_forwarded() {
    for commits_after in 0..3_i64 {
        let mut bed = Bed::new();
        let with = bed.rules.clone();
        let without = config::Rules { windows: Vec::new(), ..with.clone() };
        let mut other = with.clone();
        other.windows.insert(0, config::Window { name: "other".into(), ..with.windows[0].clone() });
        // The run begins without rules, and without a journal; then they come, and more of them.
        bed.rules = without.clone();
        let (outbox, closer, left) = bed.outbox();
        let rules = Rules::restore(&bed.rules, left.into(), NOW, &Counters::default());
        let pipeline = Pipeline::new(outbox, rules, false);
        store(&pipeline, 0);
        pipeline.begin().unwrap();
        pipeline.change(&with, &Counters::default());
        (1..4).for_each(|second| store(&pipeline, second));
        let number = pipeline.change(&other, &Counters::default());
        (4..4 + commits_after).for_each(|second| store(&pipeline, second));
        let mut durable = pipeline.outbox().durable();
        runtime().block_on(durable.wait_for(|at| *at >= number)).unwrap();
        let _before = bed.crash();
        pipeline.change(&without, &Counters::default());
        drop(pipeline);
        closer.close().unwrap();

        bed.rules = other;
        let (pipeline, closer) = bed.open();
        store(&pipeline, 59);
        pipeline.tick(Stamp { monotonic_ms: NOW.monotonic_ms + 3_600_000, ..NOW });
        let mut found = deliver(&pipeline, &mut pipeline.outbox().reader());
        found.sort_unstable();
        let (of_both, of_new) = (3 + commits_after as u64 + 1, commits_after as u64 + 1);
        assert_eq!(found, [(NOW.wall_ms, 1, of_new), (NOW.wall_ms, 1, of_both)], "{commits_after}");
        closer.close().unwrap();
    }
}

#[test]
fn a_device_that_falls_quiet_does_not_hold_the_disk() {
    let mut bed = Bed::new();
    bed.size_max = 8 << 20;
    let (pipeline, closer) = bed.open();
    let mut reader = pipeline.outbox().reader();
    store(&pipeline, 0);
    for n in 0..40 {
        assert!(store_bulk(&pipeline), "append {n} is not stored: {:?}", pipeline.outbox().backlog());
        pipeline.tick(NOW);
        deliver(&pipeline, &mut reader);
    }
    assert!(pipeline.outbox().backlog().segments < 4, "{:?}", pipeline.outbox().backlog());
    drop(reader);
    closer.close().unwrap();
}

#[test]
fn the_smallest_outbox_takes_more_when_all_is_delivered() {
    let mut bed = Bed::new();
    bed.size_max = 4 << 20;
    let (pipeline, closer) = bed.open();
    let mut reader = pipeline.outbox().reader();
    for n in 0..40 {
        assert!(store_bulk(&pipeline), "append {n} is not stored: {:?}", pipeline.outbox().backlog());
        deliver(&pipeline, &mut reader);
    }
    drop(reader);
    closer.close().unwrap();
}

#[test]
fn the_journal_of_a_crashed_run_stays_until_the_next_run_has_begun_its_own() {
    let mut bed = Bed::new();
    let (pipeline, closer) = bed.open();
    let mut reader = pipeline.outbox().reader();
    store(&pipeline, 0);
    assert!(store_bulk(&pipeline));
    deliver(&pipeline, &mut reader);
    store(&pipeline, 1);
    let _before = bed.crash();
    drop(reader);
    closer.close().unwrap();
    // Starts that are cut off before they could write a checkpoint of their own.
    let numbers = |left: &Left| left.journal.iter().map(|(number, _)| *number).collect::<Vec<_>>();
    let mut first = None;
    for _ in 0..3 {
        let (outbox, closer, left) = bed.outbox();
        let numbers = numbers(&left);
        assert!(!numbers.is_empty());
        assert_eq!(*first.get_or_insert(numbers.clone()), numbers);
        std::thread::sleep(Duration::from_millis(300));
        let _before = bed.crash();
        drop(outbox);
        closer.close().unwrap();
    }
    let (pipeline, closer) = bed.open();
    pipeline.tick(Stamp { monotonic_ms: NOW.monotonic_ms + 3_600_000, ..NOW });
    let found = deliver(&pipeline, &mut pipeline.outbox().reader());
    assert_eq!(found, [(NOW.wall_ms, 1, 2)]);
    closer.close().unwrap();
}

#[test]
fn a_device_is_not_forgotten_while_its_windows_can_be_amended() {
    let mut bed = Bed::new();
    bed.rules = rules(Some(Duration::from_secs(7 * 86_400)));
    let (pipeline, closer) = bed.open();
    let mut reader = pipeline.outbox().reader();
    let at = |hours: u64| Stamp { monotonic_ms: NOW.monotonic_ms + hours * 3_600_000, ..NOW };
    store(&pipeline, 0);
    pipeline.tick(at(1));
    pipeline.tick(at(26));
    store(&pipeline, 30);
    assert_eq!(deliver(&pipeline, &mut reader), [(NOW.wall_ms, 1, 1), (NOW.wall_ms, 2, 2)]);
    drop(reader);
    closer.close().unwrap();
}

#[test]
fn alarms_and_the_state_that_they_come_from_are_one_commit() {
    let mut bed = Bed::new();
    bed.rules.windows[0].alarm = Some(config::WindowAlarm::All);
    bed.rules.filters.push(config::Filter {
        name: "ones".into(),
        select: config::Select::default(),
        action: config::FilterAction::Test,
        range: None,
        deadband: None,
        min_interval: None,
        alarm: Some(config::Alarm { equals: vec![Value::Number(1.0)], ..config::Alarm::default() }),
    });
    let (mut stored, mut lanes, mut windows) = (0, [0; 3], 0);
    for _ in 0..6 {
        let (pipeline, closer) = bed.open();
        for _ in 0..7 {
            store(&pipeline, stored * 10);
            stored += 1;
        }
        let crashed = bed.crash();
        pipeline.finish();
        closer.close().unwrap();
        drop(crashed);
        let (outbox, closer, _) = bed.outbox();
        lanes = outbox.backlog().lanes;
        closer.close().unwrap();
        // A window of six values is over once one that is ten seconds past its end has come.
        windows = (stored - 1).saturating_sub(1) / 6;
        assert_eq!(lanes[0] as i64, stored + windows, "{stored} values");
    }
    assert!(windows > 5);
    assert_eq!(lanes[1], 0, "no aggregate is anything but an alarm");
}

#[test]
fn after_a_change_to_no_rules_segments_with_journal_go_once_delivered() {
    let bed = Bed::new();
    let (pipeline, closer) = bed.open();
    for second in 0..20 {
        store(&pipeline, second);
        assert!(store_bulk(&pipeline));
    }
    pipeline.change(&config::Rules { windows: Vec::new(), ..bed.rules.clone() }, &Counters::default());
    let mut reader = pipeline.outbox().reader();
    // As long as it runs: each segment that begins asks for a checkpoint, which only the tick can give.
    let segments = || {
        std::fs::read_dir(bed.directory.path().join("outbox"))
            .unwrap()
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .count()
    };
    let mut most = 0;
    for _ in 0..4 {
        for _ in 0..80 {
            assert!(store_bulk(&pipeline));
        }
        most = most.max(segments());
        pipeline.tick(NOW);
        deliver(&pipeline, &mut reader);
    }
    assert!(most > 4, "{most} segments: too few to show anything");
    for _ in 0..100 {
        pipeline.tick(NOW);
        if segments() <= 2 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(segments() <= 2, "{} of {most} segments stayed", segments());
    pipeline.finish();
    drop((pipeline, reader));
    closer.close().unwrap();
    let (outbox, closer, left) = bed.outbox();
    assert!(left.journal.is_empty(), "nothing is left to be read by the next start");
    drop(outbox);
    closer.close().unwrap();
}
