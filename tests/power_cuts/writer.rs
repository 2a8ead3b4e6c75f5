//! The child: a process that does with an outbox what a gateway does, through its public functions alone, and says on
//! its standard output what it was told. Whatever it says it says before the next step, so that what a dead one said is
//! true.
//!
//! Its appends have numbers `k` that rise through all runs. Append `k` brings records, a receipt with the hash `k` and the
//! next piece of journal; the state that the journal leads to is the number of its last piece. Where records may wait in
//! memory, most appends bring raw records alone and no journal: only such ones are sent before they are stored.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegate::config::{self, Loaded, Purpose};
use tidegate::counters::{Count, Counter, Counters};
use tidegate::outbox::{Append, Closer, Left, Options, Outbox, Reader, Stored};
use tidegate::reading::{Name, Origin, Receipt, Record, Value};

use crate::made::Maker;
use crate::modes::Mode;
use crate::orders::{Orders, Task};

/// How many receipts the outbox is to keep.
pub(crate) const RECEIPTS_MAX: usize = 20;
/// Appends that may wait to be durable.
const UNDURABLE_MAX: usize = 12;
/// Stored records that are held for later delivery.
const HELD_MAX: usize = 6;
/// A broker uses packet identifiers again; where messages are acknowledged without being stored, that matters.
const PACKET_IDS: u64 = 50;
/// Batches that Kafka takes at a time where records wait for it.
const BATCHES_MAX: usize = 8;

/// Not a test: what this program does when it is started again as the child.
#[test]
fn the_child_that_writes() {
    let Some(orders) = Orders::of_this_process() else { return };
    // The test's harness has begun a line.
    println!();
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("panic {}", panic.to_string().replace('\n', " ")));
        // As the gateway does: nobody would be woken any more.
        let sled = std::thread::current().name().is_some_and(|name| name.starts_with("sled"));
        if sled && !tidegate::outbox::is_loading() {
            std::process::abort();
        }
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(run(&orders));
    // The check is over with what was said; the rest of the test's harness has nothing to add.
    std::process::exit(0);
}

fn say(line: &str) {
    use std::io::Write;
    // Whoever reads may be gone, and then nothing matters any more.
    let _ = writeln!(std::io::stdout().lock(), "@ {line}");
}

/// Waits until all that was said has left this machine: a serial line has a buffer, and the power may be cut before it is
/// empty. A pipe has none that goes with this process.
fn be_heard() {
    let _ = rustix::termios::tcdrain(std::io::stdout());
}

/// The settings of an outbox so small that everything happens within a second.
fn settings(orders: &Orders) -> config::Outbox {
    let text = "[gateway]\nid = \"g\"\n[kafka]\nbrokers = [\"127.0.0.1:9\"]\n";
    let defaults = Loaded::parse(text, Path::new("t.toml"), Purpose::Replay, &|_| None).unwrap().config.outbox;
    let mut settings = config::Outbox {
        size_max: orders.size_max,
        commit_interval: Duration::from_millis(3),
        commit_bytes: 16 * 1024,
        segment_bytes: 16 * 1024,
        memory_tail_bytes: 4 * 1024,
        ..defaults
    };
    orders.mode.set(&mut settings, orders.life);
    settings
}

async fn run(orders: &Orders) {
    let counters = Counters::default();
    let options = Options { data_dir: orders.path.clone(), receipts_max: RECEIPTS_MAX, machine: "m".to_owned() };
    let (outbox, closer, left) = match Outbox::open(&settings(orders), &options, &counters) {
        Ok(opened) => opened,
        Err(error) => {
            say(&format!("refused {error}"));
            return;
        }
    };
    let Some(at) = state_of(&left) else { return };
    let receipts = outbox.known_receipts("s");
    let text = |(Receipt { hash, packet_id }, _): &(Receipt, u64)| format!("{hash}:{packet_id}");
    let receipts: Vec<String> = receipts.receipts.iter().map(text).collect();
    say(&format!("open {} {at} {}", outbox.run(), receipts.join(",")));
    let child = Child {
        reader: outbox.reader(),
        outbox,
        at,
        appends: orders.life * 1_000_000,
        said: 0,
        made: Maker::new(orders.life * 1_000_000, orders.mode.thins),
        mode: orders.mode,
        unwritten: (counters.counter(Count::Unwritten, ""), 0),
        undurable: VecDeque::new(),
        held: Vec::new(),
        random: fastrand::Rng::with_seed(orders.seed),
        patience: orders.patience,
    };
    match orders.task {
        Task::Write { steps, deliver } => child.write(closer, steps, deliver).await,
        Task::Drain => child.drain(closer).await,
    }
    let damaged: u64 =
        ["raw", "aggregate", "alarm"].iter().map(|lane| counters.counter(Count::Damaged, lane).get()).sum();
    let quarantined = counters.counter(Count::Quarantined, "").get();
    say(&format!("counts {damaged} {quarantined}"));
}

/// The last piece of journal that is in the state.
fn state_of(left: &Left) -> Option<u64> {
    let word = |bytes: &[u8]| bytes.first_chunk::<8>().map(|word| u64::from_le_bytes(*word));
    let mut at = match &left.checkpoint {
        Some(bytes) => word(bytes)?,
        None => 0,
    };
    for (number, piece) in &left.journal {
        if *number <= at {
            continue;
        }
        if *number != at + 1 || word(piece) != Some(*number) {
            say(&format!("trouble the journal goes on with {number} after {at}"));
            return None;
        }
        at = *number;
    }
    Some(at)
}

struct Child {
    outbox: Outbox,
    reader: Reader,
    /// The last piece of journal.
    at: u64,
    /// The last append.
    appends: u64,
    /// The last append that was said to be durable.
    said: u64,
    made: Maker,
    mode: Mode,
    /// Records that were delivered before they were written, and how many of them were said.
    unwritten: (Counter, u64),
    /// The outbox's numbers of appends, and ours.
    undurable: VecDeque<(u64, u64)>,
    held: Vec<Arc<Stored>>,
    random: fastrand::Rng,
    patience: Duration,
}

impl Child {
    async fn write(mut self, closer: Closer, steps: u64, deliver: u8) {
        let state = self.state();
        if self.outbox.begin_journal(&state).is_err() {
            say("refused the beginning of the journal");
            return;
        }
        say("begun");
        for _ in 0..steps {
            let dice = self.random.u8(0..100);
            match dice {
                0..4 => self.checkpoint(),
                4..6 => self.reader.rewind(),
                _ if dice < 6 + deliver => self.deliver().await,
                _ => self.append(),
            }
            if self.outbox.wants_checkpoint() {
                self.checkpoint();
            }
            let many = self.undurable.len() >= UNDURABLE_MAX;
            if self.mode.holds && many {
                // A source waits, and meanwhile Kafka may have caught up.
                self.deliver().await;
            }
            if many || (!self.mode.holds && self.random.u8(0..4) == 0) {
                self.outbox.hurry();
                if !self.wait(UNDURABLE_MAX / 2).await {
                    break;
                }
            }
            self.say_durable();
        }
        self.held.clear();
        let all = self.wait(0).await;
        let Self { outbox, reader, .. } = self;
        drop((outbox, reader));
        if all && closer.close().is_ok() {
            say("closed");
        }
    }

    fn checkpoint(&mut self) {
        let state = self.state();
        self.outbox.checkpoint(state);
    }

    /// The state after all appends so far: its length varies.
    fn state(&mut self) -> Vec<u8> {
        let mut state = self.at.to_le_bytes().to_vec();
        let length = if self.random.u8(0..8) == 0 { self.random.usize(0..40_000) } else { 200 };
        state.extend((0..length).map(|_| self.random.u8(..)));
        state
    }

    fn append(&mut self) {
        let long = self.random.u8(0..20) == 0;
        let raw = self.random.u64(0..if long { 200 } else { 12 });
        // What may wait in memory is raw records without any state.
        let may_wait = self.mode.holds && self.random.u8(0..5) > 0;
        let aggregates = if may_wait { 0 } else { self.random.u64(0..3) };
        let alarms = if may_wait { 0 } else { self.random.u64(0..6).saturating_sub(3) };
        self.appends += 1;
        let mut journal = Vec::new();
        if !may_wait {
            self.at += 1;
            let mut piece = self.at.to_le_bytes().to_vec();
            piece.extend((0..self.random.usize(0..300)).map(|_| self.random.u8(..)));
            journal.push((self.at, piece));
        }
        let packet_id = if self.mode.holds { self.appends % PACKET_IDS } else { self.at % 65_535 } as u16 + 1;
        let (k, first, at) = (self.appends, self.made.first(), if may_wait { 0 } else { self.at });
        say(&format!("append {k} {at} {packet_id} {first} {raw} {aggregates} {alarms}"));
        be_heard();
        let [mut raw, mut aggregates, mut alarms] =
            [raw, aggregates, alarms].map(|count| self.made.readings(count, &mut self.random));
        let session: Name = "s".into();
        let number = self.outbox.append_all(Append {
            alarms: Some(&mut alarms),
            raw: Some(&mut raw),
            aggregates: Some(&mut aggregates),
            session: Some(&session),
            receipts: &[Receipt { packet_id, hash: k }],
            journal: &journal,
        });
        self.undurable.push_back((number, k));
    }

    fn say_durable(&mut self) {
        let durable = *self.outbox.durable().borrow();
        while let Some((_, at)) = self.undurable.pop_front_if(|(number, _)| *number <= durable) {
            self.said = at;
        }
        if self.said > 0 {
            say(&format!("durable {}", self.said));
        }
        let unwritten = self.unwritten.0.get();
        if unwritten > self.unwritten.1 {
            say(&format!("unwritten {}", unwritten - self.unwritten.1));
            self.unwritten.1 = unwritten;
        }
    }

    /// Waits until no more than `left` appends wait; whether that came about in time.
    async fn wait(&mut self, left: usize) -> bool {
        let behind = self.undurable.len().saturating_sub(left);
        let Some((number, _)) = behind.checked_sub(1).and_then(|at| self.undurable.get(at).copied()) else {
            return true;
        };
        let mut durable = self.outbox.durable();
        let reached = tokio::time::timeout(self.patience, durable.wait_for(|durable| *durable >= number)).await;
        self.say_durable();
        reached.is_ok()
    }

    /// Reads a little, and acknowledges some of what was read lately. Where records wait for Kafka it is quick, mostly.
    async fn deliver(&mut self) {
        if self.reader.is_stale() {
            self.reader.rewind();
        }
        for _ in 0..if self.mode.holds { BATCHES_MAX } else { 1 } {
            let is_more = self.read().await;
            self.acknowledge();
            self.say_durable();
            if !is_more {
                break;
            }
        }
    }

    async fn read(&mut self) -> bool {
        let patience = Duration::from_millis(20);
        // As the uplink does while it still has records of other lanes.
        if self.random.u8(0..4) == 0
            && let Ok(Ok(stored)) = tokio::time::timeout(Duration::from_millis(1), self.reader.next_alarms()).await
        {
            say_stored(&stored);
            self.held.push(stored);
        }
        if self.held.len() < HELD_MAX
            && let Ok(Ok(stored)) = tokio::time::timeout(patience, self.reader.next()).await
        {
            say_stored(&stored);
            self.held.push(stored);
            return true;
        }
        false
    }

    fn acknowledge(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let is_quick = self.mode.holds && self.random.u8(0..8) > 0;
        let at = if is_quick { 0 } else { self.random.usize(0..self.held.len()) };
        let stored = Arc::clone(&self.held[at]);
        let all = is_quick || self.random.u8(0..3) > 0;
        let mut seqs: Vec<u64> = (stored.first_seq..).take(stored.batch.len()).collect();
        self.random.shuffle(&mut seqs);
        if all {
            self.held.remove(at);
        } else {
            seqs.truncate(self.random.usize(0..=seqs.len()));
        }
        seqs.iter().for_each(|seq| say(&format!("given {} {seq}", stored.stream)));
        be_heard();
        self.outbox.delivered(stored.segment, stored.lane, &seqs);
    }

    /// Reads all that is there.
    async fn drain(mut self, closer: Closer) {
        let mut seen = 0;
        let mut errors = 0;
        // What a start declares is not stored yet: it belongs to the backlog all the same.
        while seen < self.outbox.backlog().records {
            match tokio::time::timeout(self.patience, self.reader.next()).await {
                Ok(Ok(stored)) => {
                    seen += (0..stored.batch.len()).filter(|at| !stored.is_delivered(*at)).count() as u64;
                    say_stored(&stored);
                }
                Ok(Err(error)) if errors > 20 => {
                    say(&format!("trouble {error}"));
                    return;
                }
                Ok(Err(_)) => {
                    errors += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(_) => {
                    say(&format!("trouble {:?} wait, {seen} were given", self.outbox.backlog()));
                    return;
                }
            }
        }
        say("drained");
        let Self { outbox, reader, .. } = self;
        drop((outbox, reader));
        if closer.close().is_ok() {
            say("closed");
        }
    }
}

fn say_stored(stored: &Stored) {
    for (at, record) in stored.batch.records.iter().enumerate() {
        let (stream, seq) = (&stored.stream, stored.first_seq + at as u64);
        if stored.is_delivered(at) {
            continue;
        }
        match record {
            Record::Reading(reading) => {
                let Value::Number(n) = stored.batch.fields_of(reading)[0].value else { panic!("a number") };
                say(&format!("record {stream} {seq} {n}"));
            }
            Record::Aggregate(coarse) if coarse.origin == Origin::Thinned => {
                let (of, sum) = (&coarse.measurement.name, coarse.sum.unwrap_or(f64::NAN));
                let ends = [coarse.min, coarse.max, coarse.first, coarse.last];
                say(&format!("coarse {stream} {seq} {of} {} {sum} {} {ends:?}", coarse.count, coarse.start_ms));
            }
            Record::Gap(gap) => {
                let by = gap.replaced_by.as_deref().unwrap_or("-");
                let range = format!("{} {} {}", gap.from, gap.to, gap.count);
                say(&format!("gap {stream} {seq} {} {range} {} {by}", gap.stream, gap.cause));
            }
            Record::StreamEnd(end) => say(&format!("end {stream} {seq} {} {}", end.stream, end.last)),
            other => say(&format!("trouble a record that nobody wrote: {other:?}")),
        }
    }
}
