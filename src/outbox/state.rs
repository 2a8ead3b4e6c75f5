//! What the outbox's handles, its writer and its reader share: pending appends, the index of segments, the memory tail.
//!
//! Invariant: the lock is never held over I/O or over encoding. Numbers are given out in the order of the blocks.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::cipher::Keys;
use super::hold::{self, Hold, OF_THIS_RUN, Released};
use super::manifest::Range;
use super::memory::MemoryTail;
use super::pending::{Append, BLOCK_BYTES, Block, encoded_bytes};
use super::receipts::Receipts;
use super::segment::{Key, SharedSegment};
use super::segment_state::{NUMBER_MASK, SegmentState, place};
use super::{Backlog, Lane, checkpoint};
use crate::beats::Beat;
use crate::clock;
use crate::config;
use crate::counters::{Count, Counter, Counters};

/// An alarm's commit starts at once, but not sooner than this after the last one with alarms: very many of them are not to
/// cost a commit each.
const ALARM_INTERVAL: Duration = Duration::from_millis(100);

/// Where a chunk of the segment that is written lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkAt {
    pub(crate) lane: Lane,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) parts: u8,
    pub(crate) tree: u64,
}

/// The segment that is written, as the reader sees it.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) number: u64,
    pub(crate) segment: SharedSegment,
    pub(crate) index: Vec<ChunkAt>,
}

/// All that is behind the lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) blocks: VecDeque<Block>,
    pub(crate) pending_bytes: usize,
    pub(crate) pending_records: u64,
    pub(crate) pending_lanes: [u64; 3],
    pub(crate) appended: u64,
    /// The next number of each lane.
    pub(crate) next: [u64; 3],
    /// What is pending is to be committed at once.
    pub(crate) hurry: bool,
    /// When the last commit with alarms began, and when the next one is to.
    pub(crate) alarms_at: Option<Instant>,
    pub(crate) alarms_due: Option<Instant>,
    pub(crate) hold: Hold,
    pub(crate) closing: bool,
    /// Set while a block is being committed.
    pub(crate) commit_started: Option<Instant>,
    pub(crate) segments: BTreeMap<u64, SegmentState>,
    pub(crate) tail: Option<Tail>,
    pub(crate) memory: MemoryTail,
    /// A closed segment has nothing left, or one was found damaged.
    pub(crate) release: bool,
    /// A closed segment waits for a declaration to be durable.
    pub(crate) gaps: bool,
    /// The first segment that was rewritten since the reader last began anew: what is in it was perhaps passed by.
    pub(crate) rewritten: Option<u64>,
    /// Segments that were being thinned are done, or could not be.
    pub(crate) thinned: bool,
    /// Something was delivered since the cursor was last stored.
    pub(crate) cursor_changed: bool,
    pub(crate) receipts: Receipts,
    /// The rules' state as it was after that append, to be kept once the append is durable.
    pub(crate) checkpoint: Option<(u64, Vec<u8>)>,
    /// Bytes of the checkpoint on disk.
    pub(crate) checkpoint_bytes: u64,
    /// A segment has begun since the last checkpoint, which is wanted from this moment on.
    pub(crate) checkpoint_wanted: Option<Instant>,
    /// When the next segment that is kept though delivered is old enough to go.
    pub(crate) expires: Option<Instant>,
    /// The first segment with journal of earlier runs, until this run has a checkpoint of its own.
    pub(crate) left_from: Option<u64>,
}

impl State {
    pub(crate) fn new(segments: BTreeMap<u64, SegmentState>, receipts: Receipts) -> Self {
        let release = segments.values().any(|segment| segment.missing() == 0);
        Self {
            blocks: VecDeque::new(),
            pending_bytes: 0,
            pending_records: 0,
            pending_lanes: [0; 3],
            appended: 0,
            next: [1; 3],
            hurry: false,
            alarms_at: None,
            alarms_due: None,
            hold: Hold::default(),
            closing: false,
            commit_started: None,
            segments,
            tail: None,
            memory: MemoryTail::default(),
            release,
            gaps: false,
            rewritten: None,
            thinned: false,
            cursor_changed: false,
            receipts,
            checkpoint: None,
            checkpoint_bytes: 0,
            checkpoint_wanted: None,
            expires: None,
            left_from: None,
        }
    }

    /// Whether the manifest names that segment (number, generation).
    pub(crate) fn holds(&self, (number, generation): (u64, u32)) -> bool {
        self.segments.get(&number).is_some_and(|segment| segment.entry.generation == generation)
    }

    /// Changes those of these segments that there are.
    pub(crate) fn each(&mut self, numbers: impl IntoIterator<Item = u64>, change: impl Fn(&mut SegmentState)) {
        for number in numbers {
            if let Some(segment) = self.segments.get_mut(&number) {
                change(segment);
            }
        }
    }

    pub(crate) fn pending_is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    fn append(&mut self, append: Append<'_>) -> u64 {
        let Append { alarms, raw, aggregates, session, receipts, journal } = append;
        let urgent = alarms.as_ref().is_some_and(|batch| !batch.is_empty());
        let batches = [(Lane::Alarm, alarms), (Lane::Raw, raw), (Lane::Aggregate, aggregates)];
        let mut bytes = 10 * receipts.len() + journal.iter().map(|(_, piece)| 4 + piece.len()).sum::<usize>();
        for (_, batch) in &batches {
            bytes += batch.as_ref().map_or(0, |batch| encoded_bytes(batch));
        }
        if bytes == 0 {
            return self.appended;
        }
        let raw_only = batches.iter().all(|(lane, batch)| {
            batch.as_ref().is_none_or(|batch| match lane {
                Lane::Raw => hold::may_be_held(batch, receipts),
                _ => batch.is_empty(),
            })
        });
        let must = !raw_only || !journal.is_empty();
        self.appended += 1;
        if let Some(session) = session {
            self.receipts.append(session, receipts, self.appended);
        }
        self.pending_bytes += bytes;
        let now = Some(clock::instant());
        if self.blocks.back().is_none_or(|block| block.first.is_some() || block.bytes + bytes > BLOCK_BYTES) {
            self.blocks.push_back(Block { since: now, ..Block::default() });
        }
        if let Some(block) = self.blocks.back_mut() {
            for (lane, batch) in batches {
                let Some(batch) = batch else { continue };
                self.pending_records += batch.len() as u64;
                self.pending_lanes[lane.index()] += batch.len() as u64;
                block.batches[lane.index()].append(batch);
            }
            for (number, piece) in journal {
                block.journal.push(*number, piece);
            }
            if let Some(session) = session {
                block.receipts.extend(receipts.iter().map(|receipt| (Arc::clone(session), *receipt)));
            }
            block.number = self.appended;
            block.last = now;
            block.must |= must;
            block.bytes += bytes;
        }
        if urgent {
            let now = clock::instant();
            self.alarms_due.get_or_insert(self.alarms_at.map_or(now, |at| now.max(at + ALARM_INTERVAL)));
        }
        self.appended
    }
}

/// Handles, writer and reader meet here.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Wakes the writer.
    wake: Condvar,
    /// Announces what is durable.
    pub(crate) durable: watch::Sender<u64>,
    /// Wakes the reader.
    pub(crate) readable: Notify,
    /// The outbox's directory.
    pub(crate) directory: PathBuf,
    /// Replaced whole by a reload: whoever decides something asks once, and keeps what it was given until then.
    settings: Mutex<Arc<config::Outbox>>,
    pub(crate) keys: Keys,
    pub(crate) run: String,
    pub(crate) installation: String,
    /// The number of the first segment that this run can begin.
    pub(crate) first_segment: u64,
    /// Receipts to remember of each session.
    receipts_max: AtomicUsize,
    /// The writer's.
    pub(crate) beat: Beat,
    /// Held for as long as the outbox is: one gateway for each data directory.
    data_dir_lock: Mutex<Option<std::fs::File>>,
    appended: [Counter; 3],
    pub(crate) damaged: [Counter; 3],
    unwritten: Counter,
}

impl Shared {
    pub(crate) fn new(
        state: State,
        directory: PathBuf,
        settings: config::Outbox,
        (run, installation, first_segment, receipts_max): (String, String, u64, usize),
        lock: std::fs::File,
        counters: &Counters,
    ) -> Self {
        let by_lane = |count: Count| Lane::ALL.map(|lane| counters.counter(count, lane.as_str()));
        Self {
            state: Mutex::new(state),
            wake: Condvar::new(),
            durable: watch::Sender::new(0),
            readable: Notify::new(),
            directory,
            keys: Keys::new(&settings.encryption),
            settings: Mutex::new(Arc::new(settings)),
            run,
            installation,
            first_segment,
            receipts_max: AtomicUsize::new(receipts_max),
            beat: Beat::default(),
            data_dir_lock: Mutex::new(Some(lock)),
            appended: by_lane(Count::Appended),
            damaged: by_lane(Count::Damaged),
            unwritten: counters.counter(Count::Unwritten, ""),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics between two changes that belong together: a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the outbox is to work now.
    pub(crate) fn settings(&self) -> Arc<config::Outbox> {
        Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Receipts to remember of each session.
    pub(crate) fn receipts_max(&self) -> usize {
        self.receipts_max.load(Ordering::Relaxed)
    }

    /// Goes on with other settings, and with at least so many receipts of each session.
    pub(crate) fn change(&self, settings: config::Outbox, receipts_max: usize) {
        // Sources that stop are still to find theirs: never fewer.
        self.receipts_max.fetch_max(receipts_max, Ordering::Relaxed);
        let mut state = self.lock();
        state.hold.change(&settings, self.receipts_max());
        // A smaller bound is kept to from the next commit on, and what may go by it goes now.
        state.release = true;
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.wake.notify_one();
    }

    /// Waits until woken, or until `timeout` where there is one.
    pub(crate) fn wait<'a>(&self, state: MutexGuard<'a, State>, timeout: Option<Duration>) -> MutexGuard<'a, State> {
        match timeout {
            Some(timeout) => self.wake.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0,
            None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }

    pub(crate) fn append(&self, append: Append<'_>) -> u64 {
        self.append_to(&mut self.lock(), append)
    }

    /// The same for who holds the lock.
    pub(crate) fn append_to(&self, state: &mut State, append: Append<'_>) -> u64 {
        let Append { alarms, aggregates, raw, .. } = &append;
        for (lane, batch) in Lane::ALL.into_iter().zip([alarms, aggregates, raw]) {
            self.appended[lane.index()].add(batch.as_ref().map_or(0, |batch| batch.len() as u64));
        }
        let alarms_were_due = state.alarms_due;
        let before = state.blocks.back().map(|block| block.must);
        let number = state.append(append);
        // The writer needs to know when its interval begins and when it is to start early, nothing in between.
        let begins = state.blocks.back().map(|block| block.must) > before;
        let due = state.pending_bytes >= self.settings().commit_bytes
            || state.blocks.len() > 1 && !state.hold.enabled
            || state.alarms_due != alarms_were_due;
        if begins || (due && state.commit_started.is_none()) {
            self.wake.notify_one();
        }
        if state.hold.enabled {
            self.readable.notify_one();
        }
        number
    }

    /// Takes out what is delivered of what waits in memory, and says that it is safe. Whether the writer has something to
    /// do because of it.
    fn release_held(&self, state: &mut State) -> bool {
        let Released { number, records } = state.release_held(self.receipts_max());
        self.unwritten.add(records);
        if let Some(number) = number {
            self.announce(number);
        }
        !state.hold.void.is_empty() || number.is_some() && state.checkpoint.is_some()
    }

    /// The reader needs something of the writer.
    pub(crate) fn wake_writer(&self) {
        self.wake.notify_one();
    }

    /// The writer is back from the disk: what was delivered meanwhile may go.
    pub(crate) fn written(&self, state: &mut State) {
        state.hold.writing = false;
        self.release_held(state);
    }

    /// Everything up to this append is safe.
    pub(crate) fn announce(&self, number: u64) {
        self.durable.send_if_modified(|durable| {
            let news = number > *durable;
            *durable = number.max(*durable);
            news
        });
    }

    /// Takes the rules' state as it is after all that was appended so far.
    pub(crate) fn checkpoint(&self, bytes: Vec<u8>) {
        let mut state = self.lock();
        state.checkpoint = Some((state.appended, bytes));
        state.checkpoint_wanted = None;
        self.wake.notify_one();
    }

    /// Writes a checkpoint that no commit has to wait for: all journal is older than it, or not there yet.
    pub(crate) fn begin_journal(&self, bytes: &[u8]) -> std::io::Result<()> {
        let written = checkpoint::write(&self.directory, self.first_segment, bytes, &self.keys)?;
        let mut state = self.lock();
        state.checkpoint_bytes = written;
        // What only the journal of earlier runs held back can go now.
        state.left_from = None;
        state.release = true;
        self.wake.notify_one();
        Ok(())
    }

    /// What was being thinned is done.
    pub(crate) fn thinned(&self) {
        self.lock().thinned = true;
        self.wake.notify_one();
    }

    pub(crate) fn hurry(&self) {
        if self.lock().ask_to_hurry(clock::instant()) {
            self.wake.notify_one();
        }
    }

    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    /// Lets another gateway have the data directory, and its newest segment, whoever still has a handle of this outbox: a
    /// writer that had to give up at the end leaves that one open.
    pub(crate) fn unlock(&self) {
        self.lock().tail = None;
        self.data_dir_lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(crate) fn delivered(&self, number: u64, lane: Lane, seqs: &[u64]) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if number == OF_THIS_RUN {
            let (cursor_changed, was_behind) = (state.cursor_changed, state.hold.is_behind());
            let (news, done) = state.settle_of_this_run(lane, seqs, clock::instant());
            if !news {
                return;
            }
            state.release |= done;
            state.memory.forget(&state.segments);
            if was_behind && !state.hold.is_behind() {
                // What came meanwhile waits for the reader now, no longer for a commit.
                self.readable.notify_one();
            }
            if self.release_held(state) || done || !cursor_changed && state.cursor_changed {
                self.wake.notify_one();
            }
            return;
        }
        // What was rewritten in the meantime has other records under the same numbers.
        let same = |segment: &&mut SegmentState| place(segment.id()) == number;
        let Some(segment) = state.segments.get_mut(&(number & NUMBER_MASK)).filter(same) else { return };
        let mut news = false;
        for &seq in seqs {
            news |= segment.settle(lane, seq);
        }
        if !news {
            return;
        }
        let done = segment.entry.sealed && segment.missing() == 0;
        state.memory.forget(&state.segments);
        // A writer that waits for nothing but appends has to learn that the cursor is to be stored some time.
        let wake = done || !state.cursor_changed;
        state.cursor_changed = true;
        state.release |= done;
        if wake {
            self.wake.notify_one();
        }
    }

    pub(crate) fn backlog(&self) -> Backlog {
        let state = self.lock();
        let mut backlog = Backlog { records: state.pending_records, lanes: state.pending_lanes, ..Backlog::default() };
        for segment in state.segments.values() {
            let missing = segment.missing();
            backlog.records += missing;
            for lane in Lane::ALL {
                backlog.lanes[lane.index()] += segment.missing_of(lane);
            }
            backlog.bytes += segment.entry.bytes;
            backlog.segments += 1;
            if missing > 0 && backlog.oldest_ms.is_none() {
                backlog.oldest_ms = segment.entry.oldest_ms;
            }
        }
        backlog
    }
}

/// What a lane of a segment should hold and does not.
pub(crate) fn missing_in(values: &[(Key, usize)], lane: Lane, range: Range) -> Vec<Range> {
    let mut missing = Vec::new();
    let mut next = range.first;
    let of_lane = values.iter().filter(|(key, _)| key.lane == Some(lane) && key.part == 0);
    for &(key, count) in of_lane {
        if key.number > range.last {
            break;
        }
        if key.number > next {
            missing.push(Range { first: next, last: key.number - 1 });
        }
        next = next.max(key.number + count as u64);
    }
    if next <= range.last {
        missing.push(Range { first: next, last: range.last });
    }
    missing
}
