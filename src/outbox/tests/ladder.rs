//! The full-disk ladder: what is given up, in which order, and that all of it is said.

use std::collections::BTreeMap;

use super::*;
use crate::reading::{Aggregate, Gap, Origin};

/// Room for six MiB, in segments of 256 KiB of payload, each of which takes half a MiB or one.
fn rig(when_full: WhenFull) -> Rig {
    let mut rig = Rig::new();
    rig.settings.size_max = 6 << 20;
    rig.settings.segment_bytes = 256 << 10;
    rig.settings.when_full = when_full;
    rig.settings.ladder.thin_step = Duration::from_secs(1);
    rig
}

fn aggregate(n: u64) -> Record {
    Record::Aggregate(Box::new(Aggregate {
        device: "d".into(),
        profile: "p".into(),
        measurement: Arc::new(Measurement { name: "n".into(), unit: None, kind: MeasurementKind::Gauge }),
        origin: Origin::Window,
        window: "n-1m".into(),
        start_ms: n as i64 * 60_000,
        end_ms: (n as i64 + 1) * 60_000,
        revision: 1,
        count: n,
        sum: Some(6.0),
        min: 1.0,
        max: 3.0,
        first: 1.0,
        last: 3.0,
        at: Stamp { wall_ms: 61_000, monotonic_ms: 1, trusted: true },
    }))
}

/// Stores `rounds` times 50 readings and an aggregate.
async fn fill(rig: &mut Rig, outbox: &Outbox, rounds: u64) {
    let start = rig.next as u64 / 50;
    for round in start..start + rounds {
        let mut raw = wide(rig, 50, 40);
        let mut aggregates = Batch { records: vec![aggregate(round)], fields: Vec::new() };
        let append = Append { raw: Some(&mut raw), aggregates: Some(&mut aggregates), ..Append::default() };
        durable(outbox, outbox.append_all(append)).await;
    }
}

/// What a consumer knows after it has read everything.
#[derive(Default)]
struct Consumer {
    /// By stream: numbers that came, and those that were declared.
    came: BTreeMap<String, Vec<u64>>,
    gaps: Vec<Gap>,
    readings: Vec<i64>,
    windows: Vec<u64>,
    /// Values and records that came from thinned readings.
    thinned: (u64, u64),
    /// The sum of the first measurement over them.
    first: f64,
}

impl Consumer {
    fn read(&mut self, all: &[Arc<Stored>]) {
        for stored in all {
            for (index, record) in stored.batch.records.iter().enumerate() {
                if stored.is_delivered(index) {
                    continue;
                }
                self.came.entry(stored.stream.to_string()).or_default().push(stored.first_seq + index as u64);
                match record {
                    Record::Reading(reading) => {
                        if let Value::Number(n) = stored.batch.fields_of(reading)[0].value {
                            self.readings.push(n as i64);
                        }
                    }
                    Record::Aggregate(aggregate) if aggregate.origin == Origin::Thinned => {
                        self.thinned.0 += aggregate.count;
                        self.thinned.1 += 1;
                        if &*aggregate.measurement.name == "m0" {
                            self.first += aggregate.sum.unwrap();
                        }
                    }
                    Record::Aggregate(aggregate) => self.windows.push(aggregate.count),
                    Record::Gap(gap) => self.gaps.push((**gap).clone()),
                    _ => {}
                }
            }
        }
    }

    /// All aggregates of windows came, in their order.
    fn assert_windows(&self, count: u64) {
        let odd = self.windows.iter().zip(0..).find(|(number, expected)| **number != *expected);
        assert_eq!((odd, self.windows.len() as u64), (None, count));
    }

    fn given_up(&self, cause: &str) -> u64 {
        self.gaps.iter().filter(|gap| &*gap.cause == cause).map(|gap| gap.count).sum()
    }

    /// The numbers of a stream that came, or lie in a gap that says so.
    fn known(&self, stream: &str) -> Vec<u64> {
        let mut known = self.came.get(stream).cloned().unwrap_or_default();
        known.extend(self.gaps.iter().filter(|gap| &*gap.stream == stream).flat_map(|gap| gap.from..=gap.to));
        known.sort_unstable();
        // What was reported or declared just before a crash comes again.
        known.dedup();
        known
    }

    fn streams(&self) -> std::collections::BTreeSet<String> {
        let declared = self.gaps.iter().map(|gap| gap.stream.to_string());
        self.came.keys().cloned().chain(declared).collect()
    }

    fn known_raw(&self) -> u64 {
        self.streams().iter().filter(|name| name.ends_with(".raw")).map(|name| self.known(name).len() as u64).sum()
    }

    fn assert_complete(&self) {
        for stream in self.streams() {
            let known = self.known(&stream);
            let odd = known.iter().zip(1..).find(|(number, expected)| **number != *expected);
            assert_eq!(odd, None, "{stream}: a number that did not come");
        }
    }
}

async fn consume(outbox: &Outbox) -> Consumer {
    let mut consumer = Consumer::default();
    let mut reader = outbox.reader();
    // What is read is delivered at once, so that whatever is declared because of it comes too.
    while let Some(stored) = next(&mut reader).await {
        consumer.read(std::slice::from_ref(&stored));
        deliver(outbox, &[stored]);
    }
    consumer
}

#[tokio::test]
async fn a_full_disk_takes_the_oldest_raw_records_and_leaves_the_aggregates() {
    let mut rig = rig(WhenFull::DropOldest);
    let (outbox, closer) = rig.open();
    fill(&mut rig, &outbox, 1_000).await;
    assert!(outbox.backlog().bytes <= rig.settings.size_max);
    let consumer = consume(&outbox).await;
    consumer.assert_complete();
    consumer.assert_windows(1_000);
    let (given_up, left) = (consumer.given_up("evicted"), consumer.readings.len() as u64);
    assert!(given_up > 20_000 && left > 5_000, "{given_up} {left}");
    assert_eq!(given_up + left, 50_000);
    assert_eq!(consumer.readings.first(), Some(&(given_up as i64 + 1)), "the newest are left");
    assert!(consumer.readings.is_sorted());
    assert_eq!((rig.count(Count::Evicted, "raw"), rig.count(Count::Evicted, "aggregate")), (given_up, 0));
    closer.close().unwrap();
}

#[tokio::test]
async fn what_was_delivered_before_a_segment_was_rewritten_is_no_damage_of_it() {
    let mut rig = rig(WhenFull::DropOldest);
    let (outbox, closer) = rig.open();
    fill(&mut rig, &outbox, 60).await;
    let (_, _, all) = drain(&mut outbox.reader()).await;
    let of_aggregates = all.into_iter().filter(|stored| stored.lane == Lane::Aggregate);
    let every_second: Vec<_> = of_aggregates.filter(|stored| stored.first_seq % 2 == 0).collect();
    assert!(every_second.iter().all(|stored| stored.batch.len() == 1));
    deliver(&outbox, &every_second);
    drop(every_second);
    fill(&mut rig, &outbox, 600).await;
    assert!(rig.count(Count::Evicted, "raw") > 3_000, "the first ones were rewritten without their readings");
    let consumer = consume(&outbox).await;
    assert_eq!(consumer.windows.len(), 630);
    assert_eq!(consumer.given_up("damaged"), 0);
    closer.close().unwrap();
    assert_eq!((rig.count(Count::Damaged, "aggregate"), rig.count(Count::Quarantined, "")), (0, 0));
}

#[tokio::test]
async fn thinning_keeps_every_value_in_a_coarser_form() {
    thin_all(16 << 10).await;
}

#[tokio::test]
async fn what_is_thinned_is_not_given_from_memory_as_it_was_before() {
    thin_all(256 << 20).await;
}

async fn thin_all(memory_tail_bytes: usize) {
    let mut rig = rig(WhenFull::Thin);
    rig.settings.memory_tail_bytes = memory_tail_bytes;
    let (outbox, closer) = rig.open();
    fill(&mut rig, &outbox, 340).await;
    assert!(outbox.backlog().bytes <= rig.settings.size_max);
    let thinned = rig.count(Count::Thinned, "");
    let consumer = consume(&outbox).await;
    consumer.assert_complete();
    consumer.assert_windows(340);
    let raw = consumer.readings.len() as u64;
    assert_eq!((consumer.given_up("evicted"), thinned + raw), (0, 17_000), "nothing had to be given up");
    assert!(raw > 1_000, "the newest are as they were: {raw}");
    assert_eq!(consumer.thinned.0, thinned * 40, "each value is in one aggregate");
    assert_eq!(consumer.first, (thinned * (thinned + 1) / 2) as f64, "the sum of the oldest numbers");
    for gap in &consumer.gaps {
        let by = gap.replaced_by.as_ref().expect("a stream that stands for it");
        assert!(!consumer.known(by).is_empty(), "{by}");
    }
    closer.close().unwrap();
}

#[tokio::test]
async fn what_is_thinned_is_thinned_whatever_the_moment_of_a_crash() {
    let mut rig = rig(WhenFull::Thin);
    for round in 0..6 {
        let (outbox, closer) = rig.open();
        fill(&mut rig, &outbox, 100 + 17 * round).await;
        crash(&mut rig, outbox, closer);
    }
    let stored = rig.next as u64;
    let (outbox, closer) = rig.open();
    let consumer = consume(&outbox).await;
    consumer.assert_complete();
    assert!(consumer.known_raw() >= stored, "each reading came, or lies in a gap");
    consumer.assert_windows(stored / 50);
    assert_eq!(rig.count(Count::Damaged, "raw"), 0);
    closer.close().unwrap();
}

#[tokio::test]
async fn half_delivered_segments_are_rewritten_without_what_is_delivered() {
    let mut rig = rig(WhenFull::DropOldest);
    let (outbox, closer) = rig.open();
    fill(&mut rig, &outbox, 100).await;
    // Every second chunk is delivered, of both lanes; then the rest of the raw lane has to go.
    let mut reader = outbox.reader();
    let mut consumer = Consumer::default();
    let mut odd = false;
    while let Some(stored) = next(&mut reader).await {
        odd = !odd;
        if odd {
            consumer.read(std::slice::from_ref(&stored));
            deliver(&outbox, &[stored]);
        }
    }
    drop(reader);
    fill(&mut rig, &outbox, 600).await;
    crash(&mut rig, outbox, closer);
    let (outbox, closer) = rig.open();
    let rest = consume(&outbox).await;
    for (stream, numbers) in rest.came {
        consumer.came.entry(stream).or_default().extend(numbers);
    }
    consumer.gaps.extend(rest.gaps);
    consumer.windows.extend(rest.windows);
    consumer.readings.extend(rest.readings);
    consumer.windows.sort_unstable();
    consumer.windows.dedup();
    consumer.assert_windows(700);
    consumer.assert_complete();
    assert!(consumer.known_raw() >= 35_000, "each reading came, or lies in a gap");
    assert_eq!((rig.count(Count::Damaged, "raw"), rig.count(Count::Quarantined, "")), (0, 0));
    closer.close().unwrap();
}

#[tokio::test]
async fn what_is_too_old_is_given_up_by_lane_and_counted() {
    let mut rig = rig(WhenFull::Block);
    let (outbox, closer) = rig.open();
    // They were received a moment after the beginning of 1970.
    fill(&mut rig, &outbox, 60).await;
    closer.close().unwrap();
    drop(outbox);
    rig.settings.ladder.max_age = [None, None, Some(Duration::from_secs(3_600))];
    let (outbox, closer) = rig.open();
    fill(&mut rig, &outbox, 1).await;
    let consumer = consume(&outbox).await;
    let expired = consumer.given_up("expired");
    consumer.assert_windows(61);
    assert_eq!(rig.count(Count::Expired, "raw"), expired);
    assert!(expired > 1_000, "{expired}");
    assert_eq!(expired + consumer.readings.len() as u64, 61 * 50);
    consumer.assert_complete();
    closer.close().unwrap();
}

#[tokio::test]
async fn a_reader_that_has_passed_what_is_then_thinned_is_told_to_begin_anew() {
    let mut rig = rig(WhenFull::Thin);
    let (outbox, closer) = rig.open();
    fill(&mut rig, &outbox, 100).await;
    let mut reader = outbox.reader();
    // Given, and not delivered: as when their topic is parked.
    while next(&mut reader).await.is_some() {}
    assert!(!reader.is_stale());
    fill(&mut rig, &outbox, 250).await;
    assert!(rig.count(Count::Thinned, "") > 0);
    assert!(reader.is_stale());
    reader.rewind();
    assert!(!reader.is_stale());
    let mut thinned = 0;
    while let Some(stored) = next(&mut reader).await {
        thinned += u64::from(stored.stream.contains(".thinned."));
        deliver(&outbox, &[stored]);
    }
    assert!(thinned > 0);
    assert_eq!(outbox.backlog().records, 0);
    closer.close().unwrap();
}

#[tokio::test]
async fn a_full_outbox_that_could_not_store_its_last_records_lets_go_of_the_newest_segment() {
    let mut rig = rig(WhenFull::Block);
    rig.settings.persist = config::Persist::Always;
    let (outbox, closer) = rig.open();
    while outbox.backlog().records < 50_000 {
        let mut raw = wide(&mut rig, 500, 40);
        let number = outbox.append(Lane::Raw, &mut raw, None, &[]);
        let mut watch = outbox.durable();
        let reached = watch.wait_for(|durable| *durable >= number);
        if tokio::time::timeout(Duration::from_secs(2), reached).await.is_err() {
            break;
        }
    }
    closer.close().unwrap_err();
    // With a handle of the old one still there.
    let (again, closer) = rig.open();
    drop(outbox);
    deliver(&again, &drain(&mut again.reader()).await.2);
    closer.close().unwrap();
}

#[tokio::test]
async fn journal_that_waits_for_its_checkpoint_does_not_stop_the_commits_that_this_waits_for() {
    // The least that the configuration allows: an eighth of it is a segment.
    let mut rig = rig(WhenFull::DropOldest);
    rig.settings.size_max = 4 << 20;
    rig.settings.segment_bytes = 512 << 10;
    let (outbox, closer) = rig.open();
    outbox.begin_journal(b"nothing yet").unwrap();
    let mut last = 0;
    for number in 1..=240 {
        let mut raw = wide(&mut rig, 100, 40);
        let journal = [(number, vec![7; 200])];
        last = outbox.append_all(Append { raw: Some(&mut raw), journal: &journal, ..Append::default() });
    }
    outbox.checkpoint(b"all of it".to_vec());
    durable(&outbox, last).await;
    // The bound holds again with the next segments.
    for _ in 0..40 {
        let mut raw = wide(&mut rig, 100, 40);
        durable(&outbox, outbox.append(Lane::Raw, &mut raw, None, &[])).await;
    }
    assert!(outbox.backlog().bytes <= rig.settings.size_max, "{:?}", outbox.backlog());
    let consumer = consume(&outbox).await;
    consumer.assert_complete();
    assert!(consumer.known_raw() >= 28_000);
    closer.close().unwrap();
}
