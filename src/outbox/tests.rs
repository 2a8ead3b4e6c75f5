use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::config::WhenFull;
use crate::counters::Count;
use crate::reading::{
    Batch, DeadLetter, Field, Mark, Measurement, MeasurementKind, Reading, Reason, Record, Stage, Stamp, TimeQuality,
    Value,
};

mod change;
mod damage;
mod hold;
mod hostile;
mod journal;
mod ladder;
mod lanes;
mod model;
mod sealed;
mod torn;

/// An outbox with limits so small that segments roll after a few hundred records.
struct Rig {
    dir: TempDir,
    settings: config::Outbox,
    counters: Counters,
    next: i64,
}

impl Rig {
    fn new() -> Self {
        let settings = config::Outbox {
            size_max: 64 << 20,
            when_full: WhenFull::DropOldest,
            keep_delivered: Duration::ZERO,
            // Most of these hold either way; two say what is on the disk, and fail with it.
            persist: if std::env::var_os("TIDEGATE_WHEN_BEHIND").is_some() {
                config::Persist::WhenBehind
            } else {
                config::Persist::Always
            },
            hold: Duration::from_millis(300),
            ladder: config::Ladder { min_free: Some(0), ..config::Ladder::default() },
            commit_interval: Duration::from_millis(5),
            commit_interval_max: Duration::from_millis(5),
            commit_bytes: 64 * 1024,
            segment_bytes: 16 * 1024,
            memory_tail_bytes: 16 * 1024,
            encryption: config::Encryption::default(),
        };
        Self { dir: tempfile::tempdir().unwrap(), settings, counters: Counters::default(), next: 0 }
    }

    /// sled lets its lock go a moment after it was closed, and on a busy machine that is long.
    fn open(&self) -> (Outbox, Closer) {
        for _ in 0..500 {
            match self.try_open() {
                Err(OpenError::Segment(segment::SegmentError::Locked { .. })) => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                opened => return opened.unwrap(),
            }
        }
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<(Outbox, Closer), OpenError> {
        let options = Options { data_dir: self.dir.path().to_owned(), receipts_max: 20, machine: "m".to_owned() };
        Outbox::open(&self.settings, &options, &self.counters).map(|(outbox, closer, _)| (outbox, closer))
    }

    /// Readings that nothing compresses well, numbered on and on.
    fn readings(&mut self, count: usize) -> Batch {
        let measurement = Arc::new(Measurement { name: "n".into(), unit: None, kind: MeasurementKind::Gauge });
        let noise = Arc::new(Measurement { name: "noise".into(), unit: None, kind: MeasurementKind::Gauge });
        let mut batch = Batch::default();
        for _ in 0..count {
            let mark = batch.mark();
            self.next += 1;
            batch.fields.push(Field { measurement: Arc::clone(&measurement), value: Value::Number(self.next as f64) });
            let value = Value::Text((0..40).map(|_| fastrand::alphanumeric()).collect::<String>().into());
            batch.fields.push(Field { measurement: Arc::clone(&noise), value });
            batch.records.push(Record::Reading(Reading {
                device: "d".into(),
                profile: "p".into(),
                time_ms: self.next,
                time_quality: TimeQuality::Device,
                received: Stamp { wall_ms: self.next, monotonic_ms: 1, trusted: true },
                mark: Mark::None,
                alarm: None,
                fields: mark..batch.mark(),
            }));
        }
        batch
    }

    /// Appends and waits until it is durable.
    async fn store(&mut self, outbox: &Outbox, count: usize) {
        let mut batch = self.readings(count);
        let number = outbox.append(Lane::Raw, &mut batch, None, &[]);
        assert!(batch.is_empty());
        durable(outbox, number).await;
    }

    fn count(&self, count: Count, label: &str) -> u64 {
        self.counters.counter(count, label).get()
    }
}

async fn durable(outbox: &Outbox, number: u64) {
    let mut watch = outbox.durable();
    let reached = watch.wait_for(|durable| *durable >= number);
    tokio::time::timeout(Duration::from_secs(20), reached).await.expect("durable in time").unwrap();
}

/// Receipts of a session, all of which are durable.
fn known_to(outbox: &Outbox, session: &str) -> Vec<Receipt> {
    let known = outbox.known_receipts(session);
    assert!(known.receipts.iter().all(|(_, append)| *append == 0), "{known:?}");
    known.receipts.into_iter().map(|(receipt, _)| receipt).collect()
}

async fn next(reader: &mut Reader) -> Option<Arc<Stored>> {
    tokio::time::timeout(Duration::from_secs(1), reader.next()).await.ok().map(Result::unwrap)
}

/// Reads all that waits; gives stream, number and the value of `n` for each reading, and the other records.
async fn drain(reader: &mut Reader) -> (Vec<(String, u64, i64)>, Vec<Record>, Vec<Arc<Stored>>) {
    let (mut readings, mut others, mut all) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(stored) = next(reader).await {
        for (at, record) in stored.batch.records.iter().enumerate() {
            if stored.is_delivered(at) {
                continue;
            }
            match record {
                Record::Reading(reading) => {
                    let Value::Number(n) = stored.batch.fields_of(reading)[0].value else { panic!("a number") };
                    readings.push((stored.stream.to_string(), stored.first_seq + at as u64, n as i64));
                }
                other => others.push(other.clone()),
            }
        }
        all.push(stored);
    }
    (readings, others, all)
}

fn deliver(outbox: &Outbox, stored: &[Arc<Stored>]) {
    for stored in stored {
        let seqs: Vec<u64> = (0..stored.batch.len() as u64).map(|at| stored.first_seq + at).collect();
        outbox.delivered(stored.segment, stored.lane, &seqs);
    }
}

fn directories(rig: &Rig) -> usize {
    let entries = std::fs::read_dir(rig.dir.path().join("outbox")).unwrap().flatten();
    entries.filter(|entry| entry.file_name().len() == 16).count()
}

/// Readings of so many values that nothing compresses, eight bytes each; the first value is the number of the reading.
fn wide(rig: &mut Rig, count: usize, values: usize) -> Batch {
    let measurement = |n: usize| Measurement { name: format!("m{n}").into(), unit: None, kind: MeasurementKind::Gauge };
    let measurements: Vec<_> = (0..values).map(|n| Arc::new(measurement(n))).collect();
    let mut batch = rig.readings(count);
    batch.fields.clear();
    for record in &mut batch.records {
        let Record::Reading(reading) = record else { continue };
        let start = batch.fields.len() as u32;
        for (n, measurement) in measurements.iter().enumerate() {
            let value = if n == 0 { reading.time_ms as f64 } else { fastrand::f64() };
            batch.fields.push(Field { measurement: Arc::clone(measurement), value: Value::Number(value) });
        }
        reading.fields = start..batch.fields.len() as u32;
    }
    batch
}

/// Stores batches of all sizes in a segment of the usual size, and sees that sled makes no blob of them.
async fn store_without_blobs(mut rig: Rig) {
    rig.settings.segment_bytes = 4 << 20;
    let (outbox, closer) = rig.open();
    for count in [1, 5, 400, 3000, 1, 1, 1000] {
        rig.store(&outbox, count).await;
    }
    for entry in std::fs::read_dir(rig.dir.path().join("outbox")).unwrap().flatten() {
        if let Ok(blobs) = std::fs::read_dir(entry.path().join("blobs")) {
            assert_eq!(blobs.count(), 0);
        }
    }
    closer.close().unwrap();
}

/// A copy of a directory as it is at one moment: two copies, one after the other, that are the same.
fn snapshot(of: &Path) -> TempDir {
    let copy = || {
        let image = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new("cp");
        command.arg("-a").arg(of.join(".")).arg(image.path()).stderr(std::process::Stdio::null());
        command.status().unwrap().success().then_some(image)
    };
    let same = |one: &TempDir, two: &TempDir| {
        let mut command = std::process::Command::new("diff");
        command.arg("-rq").args([one.path(), two.path()]).stdout(std::process::Stdio::null());
        command.status().unwrap().success()
    };
    for _ in 0..200 {
        if let (Some(one), Some(two)) = (copy(), copy())
            && same(&one, &two)
        {
            return one;
        }
    }
    panic!("the outbox never rests");
}

/// Ends the outbox as a crash would: nothing more is written, the locks go.
fn crash(rig: &mut Rig, outbox: Outbox, closer: Closer) {
    // The files as they are at this moment, in a directory of their own: what a restart would find.
    let image = snapshot(rig.dir.path());
    drop(outbox);
    closer.close().unwrap();
    rig.dir = image;
}

#[tokio::test]
async fn what_is_stored_is_read_in_order_over_many_segments() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    for _ in 0..40 {
        rig.store(&outbox, 50).await;
    }
    assert!(directories(&rig) > 3, "the limit makes it roll");
    let (readings, others, all) = drain(&mut outbox.reader()).await;
    let expected: Vec<_> = (1..=2000).map(|n| (format!("{}.raw", outbox.run()), n as u64, n)).collect();
    assert_eq!(readings, expected);
    assert!(others.is_empty());
    assert_eq!(outbox.backlog().records, 2000);
    deliver(&outbox, &all);
    assert_eq!(outbox.backlog().records, 0);
    drop(all);
    closer.close().unwrap();
    assert_eq!(directories(&rig), 1, "what is delivered is deleted, but for the newest");
}

#[tokio::test]
async fn a_clean_stop_and_a_start_lose_nothing_and_repeat_nothing() {
    let mut rig = Rig::new();
    let mut streams = std::collections::BTreeSet::new();
    let mut delivered = 0;
    for round in 0..4 {
        let (outbox, closer) = rig.open();
        rig.store(&outbox, 30).await;
        let mut reader = outbox.reader();
        let (readings, others, all) = drain(&mut reader).await;
        assert!(others.is_empty(), "nothing is declared after a clean stop: {others:?}");
        assert_eq!(readings.first().map(|(.., n)| *n), Some(delivered + 1), "round {round}");
        assert_eq!(readings.len() as i64, (round + 1) * 30 - delivered);
        streams.extend(readings.into_iter().map(|(stream, ..)| stream));
        // Half of it is delivered.
        let half = &all[..all.len().div_ceil(2)];
        delivered += half
            .iter()
            .map(|stored| (0..stored.batch.len()).filter(|at| !stored.is_delivered(*at)).count() as i64)
            .sum::<i64>();
        deliver(&outbox, half);
        closer.close().unwrap();
    }
    assert_eq!(streams.len(), 4, "each run has a stream of its own");
}

#[tokio::test]
async fn after_a_crash_all_that_was_durable_is_there_and_the_stream_is_ended() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    let run = outbox.run().to_owned();
    for _ in 0..12 {
        rig.store(&outbox, 50).await;
    }
    crash(&mut rig, outbox, closer);
    let (outbox, closer) = rig.open();
    let (readings, others, _) = drain(&mut outbox.reader()).await;
    assert_eq!(readings.iter().map(|(.., n)| *n).collect::<Vec<_>>(), (1..=600).collect::<Vec<_>>());
    let ends: Vec<_> = others
        .iter()
        .map(|record| match record {
            Record::StreamEnd(end) => (end.stream.to_string(), end.last),
            other => panic!("only the end of the stream: {other:?}"),
        })
        .collect();
    assert_eq!(ends, [(format!("{run}.raw"), 600)]);
    closer.close().unwrap();
}

#[tokio::test]
async fn how_old_the_oldest_is_survives_a_crash() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 5).await;
    crash(&mut rig, outbox, closer);
    let (outbox, closer) = rig.open();
    assert_eq!(outbox.backlog().oldest_ms, Some(1), "the first reading was received at 1");
    closer.close().unwrap();
}

#[tokio::test]
async fn delivered_records_are_not_given_again_after_a_rewind_or_a_restart() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 100).await;
    let mut reader = outbox.reader();
    let stored = next(&mut reader).await.unwrap();
    outbox.delivered(stored.segment, stored.lane, &[1, 2, 3, 5, 7]);
    reader.rewind();
    let (readings, ..) = drain(&mut reader).await;
    let expected: Vec<u64> = (1..=100).filter(|n| ![1, 2, 3, 5, 7].contains(n)).collect();
    assert_eq!(readings.iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>(), expected);
    closer.close().unwrap();
    let (outbox, closer) = rig.open();
    let (readings, ..) = drain(&mut outbox.reader()).await;
    assert_eq!(readings.iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>(), expected);
    closer.close().unwrap();
}

#[tokio::test]
async fn at_its_bound_the_oldest_go_and_the_count_is_exact() {
    let mut rig = Rig::new();
    rig.settings.size_max = 6 << 20;
    rig.settings.segment_bytes = 256 * 1024;
    let (outbox, closer) = rig.open();
    for _ in 0..400 {
        rig.store(&outbox, 200).await;
        assert!(outbox.backlog().bytes <= rig.settings.size_max, "{:?}", outbox.backlog());
    }
    let (readings, others, _) = drain(&mut outbox.reader()).await;
    let evicted = rig.count(Count::Evicted, "raw");
    assert!(evicted > 1000, "{evicted}");
    let gaps: Vec<_> =
        others.iter().filter_map(|record| if let Record::Gap(gap) = record { Some(gap) } else { None }).collect();
    assert_eq!(gaps.len(), others.len());
    // Declarations are made again when they are given up themselves: counts are of readings alone.
    assert_eq!(readings.len() as u64 + evicted, 80_000);
    assert_eq!(gaps.iter().map(|gap| gap.count).sum::<u64>(), evicted);
    let first = readings[0].1;
    let mut missing =
        (1..=first + readings.len() as u64).filter(|seq| !readings.iter().any(|(_, there, _)| there == seq));
    assert!(missing.all(|seq| seq > first || gaps.iter().any(|gap| (gap.from..=gap.to).contains(&seq))));
    assert_eq!(readings.last().map(|(.., n)| *n), Some(80_000));
    closer.close().unwrap();
}

#[tokio::test]
async fn a_full_outbox_that_blocks_takes_no_more_until_something_is_delivered() {
    let mut rig = Rig::new();
    rig.settings.size_max = 3 << 20;
    rig.settings.segment_bytes = 64 * 1024;
    rig.settings.when_full = WhenFull::Block;
    let (outbox, closer) = rig.open();
    let mut last = 0;
    for _ in 0..200 {
        let mut batch = rig.readings(100);
        last = outbox.append(Lane::Raw, &mut batch, None, &[]);
    }
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(*outbox.durable().borrow() < last);
    assert!(outbox.backlog().bytes <= rig.settings.size_max);
    // As it drains, the rest is taken.
    let mut reader = outbox.reader();
    let mut seen = 0;
    while let Some(stored) = tokio::time::timeout(Duration::from_secs(8), reader.next()).await.ok().map(Result::unwrap)
    {
        seen += stored.batch.len();
        deliver(&outbox, &[stored]);
        if seen == 20_000 {
            break;
        }
    }
    assert_eq!(seen, 20_000);
    durable(&outbox, last).await;
    assert_eq!(rig.count(Count::Evicted, "raw"), 0);
    closer.close().unwrap();
}

#[tokio::test]
async fn receipts_survive_a_crash_and_are_bounded() {
    let mut rig = Rig::new();
    let session: Name = "mqtt.home/c".into();
    let (outbox, closer) = rig.open();
    let receipt = |n: u16| Receipt { packet_id: n, hash: u64::from(n) << 40 };
    for n in 1..=30 {
        let mut batch = rig.readings(1);
        let number = outbox.append(Lane::Raw, &mut batch, Some(&session), &[receipt(n)]);
        durable(&outbox, number).await;
    }
    crash(&mut rig, outbox, closer);
    let expected: Vec<_> = (11..=30).map(receipt).collect();
    for _ in 0..2 {
        let (outbox, closer) = rig.open();
        assert_eq!(known_to(&outbox, "mqtt.home/c"), expected);
        assert!(known_to(&outbox, "mqtt.other/c").is_empty());
        rig.store(&outbox, 1).await;
        crash(&mut rig, outbox, closer);
    }
}

#[tokio::test]
async fn messages_that_led_to_nothing_are_remembered_too() {
    let mut rig = Rig::new();
    let session: Name = "s".into();
    let (outbox, closer) = rig.open();
    let many: Vec<_> = (1..=20).map(|n| Receipt { packet_id: n, hash: fastrand::u64(..) }).collect();
    let number = outbox.append(Lane::Raw, &mut Batch::default(), Some(&session), &many);
    durable(&outbox, number).await;
    crash(&mut rig, outbox, closer);
    let (outbox, closer) = rig.open();
    assert_eq!(known_to(&outbox, "s"), many);
    closer.close().unwrap();
}

#[tokio::test]
async fn receipts_of_a_session_that_the_broker_has_lost_are_void() {
    let mut rig = Rig::new();
    let (session, other): (Name, Name) = ("s".into(), "t".into());
    let (outbox, closer) = rig.open();
    let receipt = |n: u16| Receipt { packet_id: n, hash: 7 };
    let mut last = 0;
    for (session, receipts) in [
        (&session, [receipt(1), receipt(2)]),
        (&other, [receipt(1), receipt(2)]),
        (&session, [Receipt::SESSION_LOST, receipt(3)]),
    ] {
        last = outbox.append(Lane::Raw, &mut Batch::default(), Some(session), &receipts);
        durable(&outbox, last).await;
    }
    assert!(last > 0);
    assert_eq!(known_to(&outbox, "s"), [receipt(3)]);
    crash(&mut rig, outbox, closer);
    let (outbox, closer) = rig.open();
    assert_eq!(known_to(&outbox, "s"), [receipt(3)]);
    assert_eq!(known_to(&outbox, "t"), [receipt(1), receipt(2)]);
    closer.close().unwrap();
}

#[tokio::test]
async fn a_second_gateway_is_refused() {
    let rig = Rig::new();
    let (_outbox, closer) = rig.open();
    let error = rig.try_open().map(drop).unwrap_err().to_string();
    assert!(error.contains("in use by another gateway"), "{error}");
    assert!(error.contains(&std::process::id().to_string()), "{error}");
    closer.close().unwrap();
}

#[tokio::test]
async fn a_damaged_segment_costs_only_itself() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    for _ in 0..24 {
        rig.store(&outbox, 50).await;
    }
    closer.close().unwrap();
    let mut names: Vec<_> = std::fs::read_dir(rig.dir.path().join("outbox"))
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_dir())
        .collect();
    names.sort();
    assert!(names.len() >= 3);
    std::fs::write(names[1].join("db"), vec![0x5a; 300_000]).unwrap();
    let (outbox, closer) = rig.open();
    let (readings, _, all) = drain(&mut outbox.reader()).await;
    let lost = rig.count(Count::Damaged, "raw");
    assert!(lost > 0);
    assert_eq!(readings.len() as u64 + lost, 1200);
    deliver(&outbox, &all);
    drop(all);
    let (_, others, all) = drain(&mut outbox.reader()).await;
    let declared: u64 = others.iter().map(|record| if let Record::Gap(gap) = record { gap.count } else { 0 }).sum();
    assert!(others.is_empty() || declared == lost, "{others:?}");
    deliver(&outbox, &all);
    drop(all);
    closer.close().unwrap();
    assert!(rig.dir.path().join("outbox/quarantine").join(names[1].file_name().unwrap()).is_dir());
}

#[tokio::test]
async fn a_lost_manifest_is_made_anew() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    for _ in 0..12 {
        rig.store(&outbox, 50).await;
    }
    closer.close().unwrap();
    std::fs::remove_file(rig.dir.path().join("outbox/MANIFEST")).unwrap();
    let (outbox, closer) = rig.open();
    let (readings, ..) = drain(&mut outbox.reader()).await;
    assert_eq!(readings.iter().map(|(.., n)| *n).collect::<Vec<_>>(), (1..=600).collect::<Vec<_>>());
    closer.close().unwrap();
}

#[tokio::test]
async fn a_record_of_many_values_comes_back_whole_and_one_too_large_is_dead_lettered() {
    let rig = Rig::new();
    let (outbox, closer) = rig.open();
    let letter = |bytes: usize| {
        let payload: Box<[u8]> = (0..bytes).map(|_| fastrand::u8(..)).collect();
        Record::DeadLetter(Box::new(DeadLetter {
            source: "s".into(),
            origin: "t".into(),
            profile: None,
            received: Stamp::default(),
            stage: Stage::Decode,
            reason: Reason::NotJson,
            detail: "d".into(),
            length: bytes as u64,
            payload,
        }))
    };
    let mut batch =
        Batch { records: vec![letter(4096), letter(60_000), letter(10), letter(900_000)], fields: Vec::new() };
    let kept = batch.clone();
    let number = outbox.append(Lane::Raw, &mut batch, None, &[]);
    durable(&outbox, number).await;
    closer.close().unwrap();
    let (outbox, closer) = rig.open();
    let (_, others, _) = drain(&mut outbox.reader()).await;
    assert_eq!(others[..3], kept.records[..3]);
    let Record::DeadLetter(refused) = &others[3] else { panic!("a dead letter") };
    assert_eq!((refused.stage, refused.reason), (Stage::Outbox, Reason::TooLarge));
    closer.close().unwrap();
}

#[tokio::test]
async fn no_segment_ever_has_a_blob() {
    store_without_blobs(Rig::new()).await;
}

#[tokio::test]
async fn what_a_start_declares_belongs_to_the_backlog_from_the_first_moment() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 10).await;
    let (.., all) = drain(&mut outbox.reader()).await;
    deliver(&outbox, &all);
    drop(all);
    crash(&mut rig, outbox, closer);
    let (outbox, closer) = rig.open();
    // The end of the run that crashed, if nothing else.
    assert!(outbox.backlog().records > 0);
    closer.close().unwrap();
}
