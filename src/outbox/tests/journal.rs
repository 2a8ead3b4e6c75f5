//! The journal and the checkpoint: whatever happens, together they are the state as of the last commit.

use super::super::manifest::Manifest;
use super::*;

/// A state that counts: piece `n` takes it from `n - 1` to `n`, and a checkpoint is the count.
struct State {
    outbox: Outbox,
    closer: Closer,
    count: u64,
}

impl State {
    /// Opens the outbox and makes of what was left what the rules would.
    fn open(rig: &Rig) -> Self {
        let options = Options { data_dir: rig.dir.path().to_owned(), receipts_max: 20, machine: "m".to_owned() };
        let (outbox, closer, left) = Outbox::open(&rig.settings, &options, &rig.counters).unwrap();
        let mut count = left.checkpoint.map_or(0, |bytes| u64::from_le_bytes(bytes[..8].try_into().unwrap()));
        for (number, piece) in left.journal {
            assert_eq!(piece, body(number), "piece {number}");
            if number > count {
                assert_eq!(number, count + 1, "the journal has a gap");
                count = number;
            }
        }
        outbox.begin_journal(&count.to_le_bytes()).unwrap();
        Self { outbox, closer, count }
    }

    /// Appends some records and a piece.
    fn append(&mut self, rig: &mut Rig, records: usize) -> u64 {
        self.count += 1;
        // Some appends bring two pieces.
        let mut pieces = vec![(self.count, body(self.count))];
        if self.count.is_multiple_of(5) {
            self.count += 1;
            pieces.push((self.count, body(self.count)));
        }
        let mut raw = rig.readings(records);
        self.outbox.append_all(Append { raw: Some(&mut raw), journal: &pieces, ..Append::default() })
    }

    async fn store(&mut self, rig: &mut Rig, records: usize) {
        let number = self.append(rig, records);
        durable(&self.outbox, number).await;
    }

    fn checkpoint(&self) {
        self.outbox.checkpoint(self.count.to_le_bytes().to_vec());
    }
}

/// Pieces of very different lengths, some of them longer than a value.
fn body(number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    let length = if number.is_multiple_of(7) { 20_000 } else { 40 };
    (0..length).map(|_| random.u8(..)).collect()
}

fn checkpoint_of(rig: &Rig) -> u64 {
    let bytes = checkpoint::read(&rig.dir.path().join("outbox")).unwrap().unwrap().bytes;
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

#[tokio::test]
async fn after_each_crash_the_state_is_that_of_the_last_commit() {
    let mut rig = Rig::new();
    let mut state = State::open(&rig);
    for round in 0..6 {
        for step in 0..30 {
            state.store(&mut rig, 20).await;
            if step % 11 == round {
                state.checkpoint();
            }
        }
        let count = state.count;
        crash(&mut rig, state.outbox, state.closer);
        state = State::open(&rig);
        assert_eq!(state.count, count, "round {round}");
    }
    // And after a stop in good order, with and without a last checkpoint.
    state.store(&mut rig, 0).await;
    let count = state.count;
    state.closer.close().unwrap();
    let state = State::open(&rig);
    assert_eq!(state.count, count);
    state.checkpoint();
    state.closer.close().unwrap();
    assert_eq!(checkpoint_of(&rig), count);
}

#[tokio::test]
async fn a_state_without_records_is_kept_too() {
    let mut rig = Rig::new();
    let mut state = State::open(&rig);
    for _ in 0..5 {
        state.store(&mut rig, 0).await;
    }
    crash(&mut rig, state.outbox, state.closer);
    assert_eq!(State::open(&rig).count, 6);
}

#[tokio::test]
async fn a_checkpoint_waits_for_the_commit_of_what_it_includes() {
    let mut rig = Rig::new();
    rig.settings.commit_interval = Duration::from_secs(60);
    let mut state = State::open(&rig);
    state.append(&mut rig, 1);
    state.checkpoint();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(checkpoint_of(&rig), 0, "nothing is committed yet");
    state.closer.close().unwrap();
    assert_eq!(checkpoint_of(&rig), 1);
}

#[tokio::test]
async fn what_is_delivered_stays_while_its_journal_is_needed() {
    let mut rig = Rig::new();
    let mut state = State::open(&rig);
    for _ in 0..30 {
        state.store(&mut rig, 50).await;
    }
    assert!(state.outbox.wants_checkpoint(), "segments have begun since the checkpoint");
    let (_, _, all) = drain(&mut state.outbox.reader()).await;
    deliver(&state.outbox, &all);
    drop(all);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let held = directories(&rig);
    assert!(held > 3, "{held} segments hold the journal");
    state.checkpoint();
    assert!(!state.outbox.wants_checkpoint());
    let mut left = held;
    for _ in 0..100 {
        left = directories(&rig);
        if left <= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(left <= 2, "{left} of {held} segments are left after the checkpoint");
    let count = state.count;
    crash(&mut rig, state.outbox, state.closer);
    assert_eq!(State::open(&rig).count, count);
}

#[tokio::test]
async fn an_outbox_at_its_bound_gives_up_records_but_never_the_state() {
    let mut rig = Rig::new();
    rig.settings.size_max = 6 << 20;
    rig.settings.segment_bytes = 256 * 1024;
    let mut state = State::open(&rig);
    for _ in 0..700 {
        state.store(&mut rig, 200).await;
        if state.outbox.wants_checkpoint() {
            state.checkpoint();
        }
    }
    assert!(rig.count(Count::Evicted, "raw") > 0, "it was at its bound");
    let count = state.count;
    crash(&mut rig, state.outbox, state.closer);
    assert_eq!(State::open(&rig).count, count);
}

#[tokio::test]
async fn aggregates_are_a_stream_of_their_own_and_come_first() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    let aggregate = crate::reading::Aggregate {
        device: "d".into(),
        profile: "p".into(),
        measurement: Arc::new(Measurement { name: "n".into(), unit: None, kind: MeasurementKind::Gauge }),
        origin: crate::reading::Origin::Window,
        window: "n-1m".into(),
        start_ms: 0,
        end_ms: 60_000,
        revision: 1,
        count: 3,
        sum: Some(6.0),
        min: 1.0,
        max: 3.0,
        first: 1.0,
        last: 3.0,
        at: Stamp { wall_ms: 61_000, monotonic_ms: 1, trusted: true },
    };
    let mut raw = rig.readings(5);
    let mut aggregates = Batch { records: vec![Record::Aggregate(Box::new(aggregate.clone()))], fields: Vec::new() };
    let together = Append { raw: Some(&mut raw), aggregates: Some(&mut aggregates), ..Append::default() };
    let number = outbox.append_all(together);
    durable(&outbox, number).await;
    assert!(raw.is_empty() && aggregates.is_empty());
    assert_eq!(outbox.backlog().records, 6);
    let first = next(&mut outbox.reader()).await.unwrap();
    assert_eq!(
        (first.lane, &first.batch.records[..]),
        (Lane::Aggregate, &[Record::Aggregate(Box::new(aggregate))][..])
    );
    assert_eq!(&*first.stream, format!("{}.aggregate", outbox.run()));
    drop(first);
    closer.close().unwrap();
    // Read back from the disk, and counted by lane.
    let (outbox, closer) = rig.open();
    let (readings, others, all) = drain(&mut outbox.reader()).await;
    assert_eq!((readings.len(), others.len()), (5, 1));
    deliver(&outbox, &all);
    assert_eq!(outbox.backlog().records, 0);
    closer.close().unwrap();
}

#[tokio::test]
async fn what_a_failed_commit_left_behind_is_not_believed() {
    let mut rig = Rig::new();
    let mut state = State::open(&rig);
    for _ in 0..3 {
        state.store(&mut rig, 2).await;
    }
    state.closer.close().unwrap();
    // As if the last commit had failed after its bytes had reached the disk, and the records had gone elsewhere.
    let outbox = rig.dir.path().join("outbox");
    let mut manifest = Manifest::read(&outbox).unwrap().unwrap();
    let newest = manifest.segments.last_mut().unwrap();
    assert_eq!(newest.commits.map(|commits| commits >= 3), Some(true), "{newest:?}");
    newest.commits = Some(2);
    manifest.write(&outbox).unwrap();
    assert_eq!(State::open(&rig).count, 2);
}
