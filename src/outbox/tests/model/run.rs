//! The outbox and the model, side by side.

use super::oracle::{Fate, Model};
use super::*;
use crate::reading::Aggregate;

/// The outbox and the model, side by side.
pub(super) struct Run {
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

/// Longer than any case takes.
const KEPT: Duration = Duration::from_secs(86_400);

fn encryption(key: u8) -> Encryption {
    let of = |number: u8| EncryptionKey::new(std::array::from_fn(|at| number.wrapping_mul(7).wrapping_add(at as u8)));
    Encryption { key: (key > 0).then(|| of(key)), previous_keys: vec![of(1), of(2)] }
}

impl Run {
    pub(super) fn start(case: &Case) -> Checked<Self> {
        let mut rig = Rig::new();
        rig.settings.size_max = case.size_max;
        rig.settings.segment_bytes = case.segment_bytes;
        rig.settings.commit_interval = Duration::from_millis(case.commit_ms);
        rig.settings.when_full = case.when_full;
        rig.settings.ladder.thin_step = Duration::from_secs(1);
        rig.settings.ladder.thin_at_percent = case.thin_at_percent;
        // Our records were received a moment after the beginning of 1970.
        rig.settings.ladder.max_age[Lane::Raw.index()] = case.expires.then_some(Duration::from_secs(3_600));
        rig.settings.persist = if case.holds { Persist::WhenBehind } else { Persist::Always };
        rig.settings.hold = Duration::from_millis(50);
        rig.settings.keep_delivered = if case.keeps { KEPT } else { Duration::ZERO };
        let (outbox, closer, _) = Self::open(&rig)?;
        let reader = outbox.reader();
        let mut run = Self {
            rig,
            model: Model { holds: case.holds, ..Model::default() },
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

    fn open(rig: &Rig) -> Checked<(Outbox, Closer, Left)> {
        let options = Options { data_dir: rig.dir.path().to_owned(), receipts_max: 20, machine: "m".to_owned() };
        for _ in 0..400 {
            match Outbox::open(&rig.settings, &options, &rig.counters) {
                // A thread of this process may still read a segment for the reader of before; another process has none.
                Err(OpenError::Segment(SegmentError::Locked { .. })) => std::thread::sleep(Duration::from_millis(10)),
                opened => return opened.map_err(|error| TestCaseError::fail(error.to_string())),
            }
        }
        Err(TestCaseError::fail("a segment stays locked"))
    }

    /// By lane, what was given up for room or for its age; and how many readings were thinned.
    fn given_up(&self) -> ([u64; 3], u64) {
        let of = |count, lane: Lane| self.rig.count(count, lane.as_str());
        let given_up = Lane::ALL.map(|lane| of(Count::Evicted, lane) + of(Count::Expired, lane));
        (given_up, self.rig.count(Count::Thinned, ""))
    }

    fn look(&mut self) {
        let durable = *self.outbox.durable().borrow();
        self.model.announced(self.model.runs.len() - 1, durable);
    }

    pub(super) async fn apply(&mut self, op: &Op) -> Checked {
        match *op {
            Op::Append { alarms, raw, aggregates, journal } => self.append(alarms, raw, aggregates, journal),
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

    fn append(&mut self, alarms: usize, raw: usize, aggregates: usize, journal: bool) {
        self.rig.next = self.next;
        let mut readings = wide(&mut self.rig, raw, 12);
        let mut urgent = wide(&mut self.rig, alarms, 12);
        let first = self.next + 1;
        let first_alarm = first + raw as i64;
        self.next += (raw + alarms) as i64;
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
        let append = Append {
            alarms: Some(&mut urgent),
            raw: Some(&mut readings),
            aggregates: Some(&mut batch),
            journal: &pieces,
            ..Append::default()
        };
        self.appended = self.outbox.append_all(append);
        let run = self.model.runs.len() - 1;
        for n in first..=self.next {
            let lane = match n {
                n if n < first_alarm => Lane::Raw,
                n if n < first_aggregate => Lane::Alarm,
                _ => Lane::Aggregate,
            };
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
        // As the uplink does it.
        if self.reader.is_stale() {
            self.reader.rewind();
            self.pass.clear();
        }
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
            let early = self.model.holds && fate.lane == Lane::Raw && fate.run == current;
            hold!(fate.durable || fate.run < current || early, "{stream} {seq} is given before it is durable");
            fate.durable |= !early;
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
            self.model.delivered(&stored.stream, &seqs);
        }
        self.held.truncate(4);
    }

    fn restart(&mut self, key: u8, crashes: bool) -> Checked {
        self.held.clear();
        self.look();
        let (before, _) = self.given_up();
        let image = crashes.then(|| snapshot(self.rig.dir.path()));
        let closed = self.closer.take().map(Closer::close);
        self.look_unless(crashes);
        if let Some(image) = image {
            self.rig.dir = image;
            self.model.forget_deliveries();
        } else if matches!(closed, Some(Ok(()))) {
            self.model.journal.1 = self.model.journal.0;
        }
        // An outbox at its bound has no room for the cursor: what was delivered since it was last stored comes again.
        if !crashes && self.outbox.shared.lock().cursor_changed {
            self.model.forget_deliveries();
        }
        let (after, thinned) = self.given_up();
        self.model.thinned_most += thinned;
        for (at, (before, after)) in before.into_iter().zip(after).enumerate() {
            self.model.evicted[at].0 += if crashes { before } else { after };
            self.model.evicted[at].1 += after;
        }
        hold!(self.rig.count(Count::Quarantined, "") == 0);
        self.rig.counters = Counters::default();
        self.rig.settings.encryption = encryption(key);
        let (outbox, closer, left) = Self::open(&self.rig)?;
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

    /// What the end of the old run still announced counts only if its files are the ones that go on.
    fn look_unless(&mut self, crashes: bool) {
        if !crashes {
            self.look();
        }
    }

    /// Reads and delivers all that is there, then checks what must hold at the end.
    pub(super) async fn finish(mut self) -> Checked {
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
        let (given_up, thinned) = self.given_up();
        self.model.thinned_most += thinned;
        for (at, evicted) in given_up.into_iter().enumerate() {
            self.model.evicted[at].0 += evicted;
            self.model.evicted[at].1 += evicted;
        }
        self.model.check()?;
        let evicted: u64 = self.model.evicted.iter().map(|(_, most)| most).sum();
        let again = self.model.delivered_at_crash.len();
        println!(
            "{} records, {evicted} given up, {} thinned, {} runs, {again} delivered when it crashed",
            self.next,
            self.model.thinned_most,
            self.model.runs.len()
        );
        hold!(self.rig.count(Count::Quarantined, "") == 0);
        if let Some(closer) = self.closer.take() {
            hold!(closer.close().is_ok());
        }
        let left = directories(&self.rig);
        // The newest, the one before it, and those with journal that no checkpoint includes: small ones roll quickly.
        hold!(left <= 4 || self.rig.settings.keep_delivered == KEPT, "{left} segments are left");
        Ok(())
    }
}
