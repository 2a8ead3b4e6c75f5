//! Random operations against a model that fits on a page: what was announced durable is delivered, still there, or declared.
//!
//! Each record carries a number of its own, so the model needs to know nothing of segments: only which numbers were
//! appended, announced, given and delivered, in which run and lane. To add an operation, add it to [`Op`], to
//! [`operation`], and to [`Run::apply`]; what must hold at any time is in [`Run::apply`], what must hold at the end in
//! [`Model::check`].
//!
//! It goes on for half a minute, with `TIDEGATE_HEAVY=1` for ten. A failure is made small and printed with its seed, and
//! `TIDEGATE_SEED=N` runs that again.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::super::segment::SegmentError;
use super::*;
use crate::config::{Encryption, EncryptionKey};
use crate::reading::Aggregate;

const SECONDS: u64 = 30;
const SECONDS_HEAVY: u64 = 600;
/// Cases between two looks at the clock.
const CASES: u32 = 4;
/// A disk that is full is tried again in 5 s at the latest.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
enum Op {
    /// Readings and aggregates in one append; with a piece of journal or without.
    Append {
        raw: usize,
        aggregates: usize,
        journal: bool,
    },
    /// Waits until all that was appended is durable, if it can be.
    Commit,
    /// Takes so many batches from the reader.
    Read(usize),
    /// Of what is held, delivers about so many of sixteen, in any order, some of them twice.
    Deliver(u32, u64),
    /// Gives back all that is held, delivered or not.
    Forget,
    Rewind,
    /// Stops in good order and starts again, with the key of this number.
    Restart(u8),
    /// Starts again from what is on the disk at this moment.
    Crash(u8),
}

fn operation() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..400_usize, prop_oneof![Just(0_usize), 0..40_usize], any::<bool>())
            .prop_map(|(raw, aggregates, journal)| Op::Append { raw, aggregates, journal }),
        6 => Just(Op::Commit),
        4 => (1..6_usize).prop_map(Op::Read),
        4 => (1..=16_u32, any::<u64>()).prop_map(|(share, seed)| Op::Deliver(share, seed)),
        1 => Just(Op::Forget),
        1 => Just(Op::Rewind),
        1 => (0..3_u8).prop_map(Op::Restart),
        1 => (0..3_u8).prop_map(Op::Crash),
    ]
}

#[derive(Clone, Debug)]
struct Case {
    size_max: u64,
    segment_bytes: u64,
    commit_ms: u64,
    when_full: WhenFull,
    operations: Vec<Op>,
}

fn case() -> impl Strategy<Value = Case> {
    let when_full = prop_oneof![3 => Just(WhenFull::DropOldest), 1 => Just(WhenFull::Block)];
    let operations = proptest::collection::vec(operation(), 10..80);
    // The configuration asks for four MiB at least: with less, what a start needs may be all that there is.
    (4..7_u64, 4..24_u64, prop_oneof![Just(1_u64), Just(50)], when_full, operations).prop_map(
        |(size, segment, commit_ms, when_full, operations)| Case {
            size_max: size << 20,
            segment_bytes: segment * 1024,
            commit_ms,
            when_full,
            operations,
        },
    )
}

/// What one record of ours went through.
#[derive(Clone, Debug)]
struct Fate {
    run: usize,
    lane: Lane,
    /// The append number that makes it durable.
    append: u64,
    durable: bool,
    /// Stream and number, once it was given.
    place: Option<(String, u64)>,
    /// In which run it was delivered last.
    delivered: Option<usize>,
}

#[derive(Debug, Default)]
struct Model {
    fates: BTreeMap<i64, Fate>,
    /// By stream: the numbers that were given, whatever they were.
    given: BTreeMap<String, BTreeSet<u64>>,
    /// Stream, from, to, count.
    gaps: Vec<(String, u64, u64, u64)>,
    ends: Vec<(String, u64)>,
    /// Names of the runs, by number.
    runs: Vec<String>,
    /// By lane: given up according to the counters; at least and at most, as a crash may fall between deed and count.
    evicted: [(u64, u64); 2],
    /// Delivered in a run that crashed: may be given again, or be given up and counted.
    delivered_at_crash: HashSet<i64>,
    /// The journal's last piece: appended, and announced durable.
    journal: (u64, u64),
}

/// Lanes that records of ours are in.
const LANES: [Lane; 2] = [Lane::Raw, Lane::Aggregate];

fn lane_at(lane: Lane) -> usize {
    usize::from(lane == Lane::Aggregate)
}

macro_rules! hold {
    ($($it:tt)*) => { prop_assert!($($it)*) };
}

type Checked<T = ()> = Result<T, TestCaseError>;

impl Model {
    fn announced(&mut self, run: usize, durable: u64) {
        for fate in self.fates.values_mut().filter(|fate| fate.run == run && fate.append <= durable) {
            fate.durable = true;
        }
    }

    /// A record was given by the reader.
    fn give(&mut self, stored: &Stored, at: usize) -> Checked {
        let (stream, seq) = (stored.stream.to_string(), stored.first_seq + at as u64);
        self.given.entry(stream.clone()).or_default().insert(seq);
        let n = match &stored.batch.records[at] {
            Record::Reading(reading) => match stored.batch.fields_of(reading)[0].value {
                Value::Number(n) => n as i64,
                _ => return Err(TestCaseError::fail("not a number of ours")),
            },
            Record::Aggregate(aggregate) => aggregate.start_ms,
            Record::Gap(gap) => {
                let declared = (gap.stream.to_string(), gap.from, gap.to, gap.count);
                if !self.gaps.contains(&declared) {
                    self.gaps.push(declared);
                }
                return Ok(());
            }
            Record::StreamEnd(end) => {
                self.ends.push((end.stream.to_string(), end.last));
                return Ok(());
            }
            other => return Err(TestCaseError::fail(format!("a record that nobody appended: {other:?}"))),
        };
        let Some(fate) = self.fates.get_mut(&n) else {
            return Err(TestCaseError::fail(format!("{n} was never appended")));
        };
        let place = (stream, seq);
        hold!(place.0 == format!("{}.{}", self.runs[fate.run], fate.lane.as_str()), "{n} is in {place:?}");
        if let Some(before) = &fate.place {
            hold!(*before == place, "{n} was given as {before:?} and as {place:?}");
        }
        fate.place = Some(place);
        Ok(())
    }

    /// Of the records that were announced, those that are neither delivered nor counted as given up.
    fn waiting_at_most(&self) -> u64 {
        self.fates.values().filter(|fate| fate.delivered.is_none()).count() as u64
    }

    /// When all has been read and delivered.
    fn check(&self) -> Checked {
        // Numbers of a stream have no gaps, and follow the order of the appends.
        for (stream, given) in &self.given {
            let of_stream = self.gaps.iter().filter(|(of, ..)| of == stream);
            let mut known = given.clone();
            of_stream.clone().for_each(|&(_, from, to, _)| known.extend(from..=to));
            let last = known.last().copied().unwrap_or(0);
            let missing = (1..=last).find(|number| !known.contains(number));
            hold!(missing.is_none(), "{stream}: {missing:?} of {last} was neither given nor declared");
            for (_, last) in self.ends.iter().filter(|(of, _)| of == stream) {
                let beyond = given.last().filter(|number| *number > last);
                hold!(beyond.is_none(), "{stream} ended at {last}, and {beyond:?} was given");
            }
        }
        for (run, name) in self.runs.iter().enumerate() {
            for lane in LANES {
                let of_lane = self.fates.iter().filter(|(_, fate)| fate.run == run && fate.lane == lane);
                let places = of_lane.clone().filter_map(|(n, fate)| Some((n, fate.place.as_ref()?.1)));
                let places: Vec<_> = places.collect();
                let disordered = places.windows(2).find(|pair| pair[0].1 >= pair[1].1);
                hold!(disordered.is_none(), "the order of {name}.{} changed: {disordered:?}", lane.as_str());
                // What was never given was given up, and lies where its neighbours leave room.
                let stream = format!("{name}.{}", lane.as_str());
                let declared: BTreeSet<u64> =
                    self.gaps.iter().filter(|(of, ..)| *of == stream).flat_map(|&(_, from, to, _)| from..=to).collect();
                let lost = of_lane.clone().filter(|(_, fate)| fate.durable && fate.place.is_none()).count();
                let given = self.given.get(&stream).cloned().unwrap_or_default();
                let room = declared.difference(&given).count();
                hold!(lost <= room, "{stream}: {lost} announced and never given, {room} declared and never given");
                let undelivered = of_lane.filter(|(_, fate)| fate.durable && fate.delivered.is_none());
                let undeclared: Vec<_> = undelivered
                    .filter(|(_, fate)| fate.place.as_ref().is_some_and(|(_, seq)| !declared.contains(seq)))
                    .collect();
                hold!(undeclared.is_empty(), "given, not delivered, not declared: {undeclared:?}");
            }
        }
        for lane in LANES {
            let (least, most) = self.evicted[lane_at(lane)];
            let of_lane = || self.fates.iter().filter(|(_, fate)| fate.lane == lane);
            let gone = of_lane().filter(|(_, fate)| fate.durable && fate.delivered.is_none()).count() as u64;
            let perhaps = of_lane().filter(|(n, fate)| {
                let unannounced = !fate.durable && fate.delivered.is_none();
                unannounced || self.delivered_at_crash.contains(n)
            });
            let perhaps = perhaps.count() as u64;
            hold!(gone <= most, "{gone} are gone, and {most} were counted in lane {}", lane.as_str());
            hold!(least <= gone + perhaps, "{least} counted, {gone} to {} are gone", gone + perhaps);
        }
        Ok(())
    }
}

/// The outbox and the model, side by side.
struct Run {
    rig: Rig,
    model: Model,
    outbox: Outbox,
    closer: Option<Closer>,
    reader: Reader,
    held: Vec<Arc<Stored>>,
    /// By stream: the last number given in this pass of the reader.
    pass: BTreeMap<String, u64>,
    appended: u64,
    next: i64,
    when_full: WhenFull,
}

fn encryption(key: u8) -> Encryption {
    let of = |number: u8| EncryptionKey::new(std::array::from_fn(|at| number.wrapping_mul(7).wrapping_add(at as u8)));
    Encryption { key: (key > 0).then(|| of(key)), previous_keys: vec![of(1), of(2)] }
}

impl Run {
    fn start(case: &Case) -> Checked<Self> {
        let mut rig = Rig::new();
        rig.settings.size_max = case.size_max;
        rig.settings.segment_bytes = case.segment_bytes;
        rig.settings.commit_interval = Duration::from_millis(case.commit_ms);
        rig.settings.when_full = case.when_full;
        let (outbox, closer, _) = Self::open(&rig);
        let reader = outbox.reader();
        let mut run = Self {
            rig,
            model: Model::default(),
            outbox,
            closer: Some(closer),
            reader,
            held: Vec::new(),
            pass: BTreeMap::new(),
            appended: 0,
            next: 0,
            when_full: case.when_full,
        };
        run.model.runs.push(run.outbox.run().to_owned());
        run.outbox.begin_journal(&0_u64.to_le_bytes()).unwrap();
        Ok(run)
    }

    fn open(rig: &Rig) -> (Outbox, Closer, Left) {
        let options = Options { data_dir: rig.dir.path().to_owned(), receipts_max: 20, machine: "m".to_owned() };
        for _ in 0..400 {
            match Outbox::open(&rig.settings, &options, &rig.counters) {
                // A thread of this process may still read a segment for the reader of before; another process has none.
                Err(OpenError::Segment(SegmentError::Locked { .. })) => std::thread::sleep(Duration::from_millis(10)),
                opened => return opened.unwrap(),
            }
        }
        panic!("a segment stays locked");
    }

    fn evicted(&self) -> [u64; 2] {
        LANES.map(|lane| self.rig.count(Count::Evicted, lane.as_str()))
    }

    fn look(&mut self) {
        let durable = *self.outbox.durable().borrow();
        self.model.announced(self.model.runs.len() - 1, durable);
    }

    async fn apply(&mut self, op: &Op) -> Checked {
        match *op {
            Op::Append { raw, aggregates, journal } => self.append(raw, aggregates, journal),
            Op::Commit => self.commit().await?,
            Op::Read(most) => {
                for _ in 0..most {
                    if !self.read(Duration::from_millis(100)).await? {
                        break;
                    }
                }
            }
            Op::Deliver(share, seed) => self.deliver(share, seed),
            Op::Forget => self.held.clear(),
            Op::Rewind => {
                self.reader.rewind();
                self.pass.clear();
            }
            Op::Restart(key) => self.restart(key, false)?,
            Op::Crash(key) => self.restart(key, true)?,
        }
        self.give_checkpoint();
        self.look();
        let damaged: u64 = Lane::ALL.iter().map(|lane| self.rig.count(Count::Damaged, lane.as_str())).sum();
        hold!(damaged == 0, "{damaged} taken for damaged");
        let backlog = self.outbox.backlog();
        hold!(backlog.bytes <= self.rig.settings.size_max, "{backlog:?}");
        // Declarations wait beside the records of ours; each stands for a segment or a run.
        let most = self.model.waiting_at_most() + self.model.delivered_at_crash.len() as u64 + 1_000;
        hold!(backlog.records <= most, "{backlog:?}, and only {most} can wait");
        Ok(())
    }

    /// What is asked for: until then the journal holds segments back.
    fn give_checkpoint(&self) {
        if self.outbox.wants_checkpoint() {
            self.outbox.checkpoint(self.model.journal.0.to_le_bytes().to_vec());
        }
    }

    fn append(&mut self, raw: usize, aggregates: usize, journal: bool) {
        self.rig.next = self.next;
        let mut readings = self.rig.readings(raw);
        self.next += raw as i64;
        let ours = |n: i64| Aggregate {
            device: "d".into(),
            profile: "p".into(),
            measurement: Arc::new(Measurement { name: "n".into(), unit: None, kind: MeasurementKind::Gauge }),
            origin: crate::reading::Origin::default(),
            window: "n-1m".into(),
            start_ms: n,
            end_ms: n + 60_000,
            revision: 1,
            count: 3,
            sum: Some(n as f64 / 7.0),
            min: 1.0,
            max: 3.0,
            first: 1.0,
            last: 3.0,
            at: Stamp { wall_ms: n, monotonic_ms: 1, trusted: true },
        };
        let first_aggregate = self.next + 1;
        self.next += aggregates as i64;
        let records = (first_aggregate..=self.next).map(|n| Record::Aggregate(Box::new(ours(n)))).collect();
        let mut batch = Batch { records, fields: Vec::new() };
        let pieces: Vec<(u64, Vec<u8>)> = if journal {
            self.model.journal.0 += 1;
            vec![(self.model.journal.0, vec![self.model.journal.0 as u8; 40])]
        } else {
            Vec::new()
        };
        let append =
            Append { raw: Some(&mut readings), aggregates: Some(&mut batch), journal: &pieces, ..Append::default() };
        self.appended = self.outbox.append_all(append);
        let run = self.model.runs.len() - 1;
        for n in first_aggregate - raw as i64..=self.next {
            let lane = if n < first_aggregate { Lane::Raw } else { Lane::Aggregate };
            let fate = Fate { run, lane, append: self.appended, durable: false, place: None, delivered: None };
            self.model.fates.insert(n, fate);
        }
    }

    async fn commit(&mut self) -> Checked {
        self.outbox.hurry();
        let mut watch = self.outbox.durable();
        let appended = self.appended;
        // What is held cannot be given up, and with "block" nothing is.
        let may_be_full = self.when_full == WhenFull::Block || !self.held.is_empty();
        let patience = if may_be_full { Duration::from_millis(150) } else { PATIENCE };
        let reached = tokio::time::timeout(patience, watch.wait_for(|durable| *durable >= appended)).await.is_ok();
        hold!(reached || may_be_full, "not durable in {PATIENCE:?}: {:?}", self.outbox.backlog());
        if reached {
            self.model.journal.1 = self.model.journal.0;
        }
        Ok(())
    }

    /// One batch of the reader's, if there is one soon.
    async fn read(&mut self, patience: Duration) -> Checked<bool> {
        let Ok(stored) = tokio::time::timeout(patience, self.reader.next()).await else { return Ok(false) };
        let stored = stored.map_err(|error| TestCaseError::fail(error.to_string()))?;
        self.look();
        let last = self.pass.entry(stored.stream.to_string()).or_default();
        for at in 0..stored.batch.len() {
            let seq = stored.first_seq + at as u64;
            if stored.is_delivered(at) {
                continue;
            }
            hold!(seq > *last, "{} {seq} after {last} in one pass", stored.stream);
            *last = seq;
        }
        for at in 0..stored.batch.len() {
            self.model.give(&stored, at)?;
        }
        let current = self.model.runs.len() - 1;
        let range = stored.first_seq..stored.first_seq + stored.batch.len() as u64;
        for (n, fate) in &mut self.model.fates {
            let Some((stream, seq)) = &fate.place else { continue };
            if **stream != *stored.stream || !range.contains(seq) {
                continue;
            }
            if fate.delivered.is_some() && !self.model.delivered_at_crash.contains(n) {
                let at = (seq - stored.first_seq) as usize;
                let why = format!("delivered in run {:?}, given again in run {current}", fate.delivered);
                hold!(stored.is_delivered(at), "{stream} {seq} {why}");
            }
            // Of an earlier run, a crash may have come between the commit and its announcement.
            hold!(fate.durable || fate.run < current, "{stream} {seq} is given before it is durable");
            fate.durable = true;
        }
        self.held.push(stored);
        Ok(true)
    }

    fn deliver(&mut self, share: u32, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        random.shuffle(&mut self.held);
        for stored in &self.held {
            let mut seqs: Vec<u64> = (stored.first_seq..).take(stored.batch.len()).collect();
            seqs.retain(|_| random.u32(0..16) < share);
            random.shuffle(&mut seqs);
            self.outbox.delivered(stored.segment, stored.lane, &seqs);
            self.outbox.delivered(stored.segment, stored.lane, &seqs[..seqs.len() / 2]);
            let seqs: HashSet<u64> = seqs.into_iter().collect();
            for fate in self.model.fates.values_mut() {
                if fate.place.as_ref().is_some_and(|(stream, seq)| **stream == *stored.stream && seqs.contains(seq)) {
                    fate.delivered = Some(self.model.runs.len() - 1);
                }
            }
        }
        self.held.truncate(4);
    }

    fn restart(&mut self, key: u8, crashes: bool) -> Checked {
        self.held.clear();
        self.look();
        let evicted_before = self.evicted();
        let image = crashes.then(|| snapshot(self.rig.dir.path()));
        let closed = self.closer.take().map(Closer::close);
        self.look_unless(crashes);
        if let Some(image) = image {
            self.rig.dir = image;
            self.forget_deliveries();
        } else if matches!(closed, Some(Ok(()))) {
            self.model.journal.1 = self.model.journal.0;
        }
        // An outbox at its bound has no room for the cursor: what was delivered since it was last stored comes again.
        if !crashes && self.outbox.shared.lock().cursor_changed {
            self.forget_deliveries();
        }
        for (at, (before, after)) in evicted_before.into_iter().zip(self.evicted()).enumerate() {
            self.model.evicted[at].0 += if crashes { before } else { after };
            self.model.evicted[at].1 += after;
        }
        hold!(self.rig.count(Count::Quarantined, "") == 0);
        self.rig.counters = Counters::default();
        self.rig.settings.encryption = encryption(key);
        let (outbox, closer, left) = Self::open(&self.rig);
        let mut journal = left.checkpoint.map_or(0, |bytes| u64::from_le_bytes(bytes[..8].try_into().unwrap()));
        for (number, piece) in left.journal {
            hold!(piece == vec![number as u8; 40], "piece {number} of the journal");
            if number > journal {
                hold!(number == journal + 1, "the journal goes from {journal} to {number}");
                journal = number;
            }
        }
        let (appended, announced) = self.model.journal;
        hold!((announced..=appended).contains(&journal), "the state is {journal}, not {announced} to {appended}");
        self.model.journal = (journal, journal);
        outbox.begin_journal(&journal.to_le_bytes()).unwrap();
        self.model.runs.push(outbox.run().to_owned());
        (self.reader, self.outbox, self.closer) = (outbox.reader(), outbox, Some(closer));
        self.pass.clear();
        self.appended = 0;
        Ok(())
    }

    /// What this run delivered may be given again.
    fn forget_deliveries(&mut self) {
        let run = Some(self.model.runs.len() - 1);
        let delivered = self.model.fates.iter().filter(|(_, fate)| fate.delivered == run).map(|(n, _)| *n);
        self.model.delivered_at_crash.extend(delivered);
    }

    /// What the end of the old run still announced counts only if its files are the ones that go on.
    fn look_unless(&mut self, crashes: bool) {
        if !crashes {
            self.look();
        }
    }

    /// Reads and delivers all that is there, then checks what must hold at the end.
    async fn finish(mut self) -> Checked {
        self.held.clear();
        self.reader.rewind();
        self.pass.clear();
        let start = clock::instant();
        loop {
            while self.read(Duration::from_millis(200)).await? {
                self.deliver(16, 1);
                self.held.clear();
            }
            self.outbox.hurry();
            self.look();
            if self.outbox.backlog().records == 0 {
                break;
            }
            hold!(start.elapsed() < PATIENCE * 2, "it does not drain: {:?}", self.outbox.backlog());
        }
        hold!(*self.outbox.durable().borrow() >= self.appended);
        // Of the last operations' commits too, which may have come after them.
        self.give_checkpoint();
        for (at, evicted) in self.evicted().into_iter().enumerate() {
            self.model.evicted[at].0 += evicted;
            self.model.evicted[at].1 += evicted;
        }
        self.model.check()?;
        let evicted: u64 = self.model.evicted.iter().map(|(_, most)| most).sum();
        let again = self.model.delivered_at_crash.len();
        println!(
            "{} records, {evicted} given up, {} runs, {again} delivered when it crashed",
            self.next,
            self.model.runs.len()
        );
        hold!(self.rig.count(Count::Quarantined, "") == 0);
        if let Some(closer) = self.closer.take() {
            hold!(closer.close().is_ok());
        }
        let left = directories(&self.rig);
        // The newest, the one before it, and those with journal that no checkpoint includes: small ones roll quickly.
        hold!(left <= 4, "{left} segments are left");
        Ok(())
    }
}

fn run(case: &Case) -> Checked {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut run = Run::start(case)?;
        for op in &case.operations {
            run.apply(op).await?;
        }
        run.finish().await
    })
}

#[test]
fn whatever_happens_what_was_announced_is_delivered_stored_or_declared() {
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let heavy = std::env::var_os("TIDEGATE_HEAVY").is_some_and(|value| value == "1");
    let limit = Duration::from_secs(if heavy { SECONDS_HEAVY } else { SECONDS });
    let start = clock::instant();
    let mut cases = 0;
    while start.elapsed() < limit {
        let this: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&this.to_le_bytes());
        let settings =
            ProptestConfig { cases: CASES, max_shrink_iters: 40, failure_persistence: None, ..Default::default() };
        let mut runner = TestRunner::new_with_rng(settings, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        match runner.run(&case(), |case| run(&case)) {
            Ok(()) => cases += CASES,
            Err(TestError::Fail(why, case)) => panic!("TIDEGATE_SEED={this}: {why}\n{case:#?}"),
            Err(error) => panic!("TIDEGATE_SEED={this}: {error}"),
        }
        if seed.is_some() {
            break;
        }
    }
    assert!(cases > 0);
}
