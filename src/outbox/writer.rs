//! The outbox's thread: commits, rolls, releases, evicts. It alone writes below the outbox's directory.
//!
//! The argument for each operation, that a kill or a power cut at any moment loses nothing that was announced:
//! - **Commit**: chunks, receipts and cursor go into one segment in one atomic change, which is fsynced before the append
//!   number is announced. A segment is written only once the manifest that names it is durable.
//! - **Roll**: the new segment's directory is made and synced, then the manifest is replaced by one that names it and seals
//!   the old one. A cut before that leaves a directory that no manifest names, which the next start removes.
//! - **Release**: a segment of which everything is delivered is taken out of the manifest, then deleted.
//! - **Evict**: the manifest is replaced by one that no longer names the segment and declares the gap; then it is deleted.
//!   The declaration stays in the manifest until the gap record is committed.
//! - **An error** of a commit ends the segment: it is sealed with what was announced of it, and the same records are
//!   committed to a new one. Whatever the failed commit left in the old one lies beyond its sealed range and is not read.

use std::collections::VecDeque;
use std::fs;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::chunk::{Chunk, CursorEntry, Cutter, Extras, TooLarge};
use super::manifest::{Declared, Entry, Manifest, Range, Witness, Witnessed, reserve_bytes};
use super::record;
use super::segment::{self, DISK_STEP_BYTES, Key, Segment};
use super::state::{Block, ChunkAt, SegmentState, Shared, State, Tail};
use super::{Lane, recovery};
use crate::clock;
use crate::counters::{Count, Counter, Counters};
use crate::log::Throttle;
use crate::reading::{Batch, DeadLetter, Name, Reason, Receipt, Record, Stage};

/// A cursor that nothing else carries to the disk is stored this long after it changed.
const CURSOR_INTERVAL: Duration = Duration::from_secs(5);
/// A cursor longer than this (a parked topic has made many holes) goes along only every [`CURSOR_INTERVAL`].
const CURSOR_BYTES_SMALL: usize = 256;
/// A cursor is cut to this: what is cut off may be delivered twice after a crash, nothing is lost.
const CURSOR_ABOVE_BYTES_MAX: usize = 2048;
/// Waits between attempts to commit while the disk refuses.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Attempts before a stop gives up on a disk that refuses.
const ATTEMPTS_AT_STOP: u32 = 3;
/// A segment may exceed its limit by the block that reaches it, and by what sled adds.
const SEGMENT_OVERHEAD_BYTES: u64 = 256 * 1024;
/// Gaps that wait in the manifest for their record; those of one stream that touch are made one.
const DECLARED_MAX: usize = 1000;
/// A commit's notes have keys of their own: the commit, and so many bits for the piece.
const NOTE_PIECE_BITS: u32 = 24;

#[derive(Debug)]
struct Counts {
    committed: [Counter; 3],
    evicted: [Counter; 3],
    commits: Counter,
    errors: Counter,
    bytes: Counter,
    quarantined: Counter,
}

/// The writer's own state.
#[derive(Debug)]
pub(crate) struct Writer {
    manifest: Manifest,
    run: Name,
    segment: Option<Segment>,
    payload_bytes: u64,
    /// Commits into the segment so far.
    commits: u64,
    /// The next number of each lane.
    next: [u64; 3],
    cutter: Cutter,
    witness: Option<Witness>,
    cursor_stored: Option<Instant>,
    receipts_max: usize,
    /// Once this append is durable, all that the manifest declares is among the records.
    declared_at: u64,
    /// The newest segment that has a commit: it holds the cursor and the receipts, so it stays, and all after it.
    keep_from: u64,
    trouble: Throttle,
    counts: Counts,
    counters: Counters,
}

/// Why a block was not committed.
#[derive(Debug, thiserror::Error)]
enum CommitError {
    #[error(transparent)]
    Segment(#[from] segment::SegmentError),
    #[error("the disk has no room for what draining the outbox needs: {0}; free some space, or set a smaller max_size")]
    Reserve(std::io::Error),
    #[error("the manifest could not be replaced: {0}")]
    Manifest(std::io::Error),
    #[error("the outbox is full ({bytes} of {max} bytes): nothing more is taken until something is delivered")]
    Full { bytes: u64, max: u64 },
}

impl Writer {
    pub(crate) fn new(
        manifest: Manifest,
        run: &str,
        cutter: Cutter,
        (receipts_max, keep_from): (usize, u64),
        counters: &Counters,
    ) -> Self {
        let by_lane = |count: Count| Lane::ALL.map(|lane| counters.counter(count, lane.as_str()));
        let one = |count: Count| counters.counter(count, "");
        Self {
            manifest,
            run: run.into(),
            segment: None,
            payload_bytes: 0,
            commits: 0,
            next: [1; 3],
            cutter,
            witness: None,
            cursor_stored: None,
            receipts_max,
            declared_at: 0,
            keep_from,
            trouble: Throttle::new(Duration::from_secs(60)),
            counts: Counts {
                committed: by_lane(Count::Committed),
                evicted: by_lane(Count::Evicted),
                commits: one(Count::Commits),
                errors: one(Count::CommitErrors),
                bytes: one(Count::CommittedBytes),
                quarantined: one(Count::Quarantined),
            },
            counters: counters.clone(),
        }
    }

    /// Starts the thread. A panic in it ends the process: nothing could be acknowledged any more, and a restart recovers.
    pub(crate) fn start(mut self, shared: Arc<Shared>) -> std::io::Result<std::thread::JoinHandle<()>> {
        std::thread::Builder::new().name("outbox".to_owned()).spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| self.run(&shared));
            if std::panic::catch_unwind(run).is_err() {
                std::process::abort();
            }
        })
    }

    fn run(&mut self, shared: &Shared) {
        self.declare(shared);
        let mut backoff = RETRY_MIN;
        let mut attempts = 0;
        loop {
            let (work, closing) = self.next_work(shared);
            let is_release = matches!(work, Work::Release);
            let done = match work {
                Work::Commit(block) => self.commit(shared, block),
                Work::Cursor => self.store_cursor(shared),
                Work::Release => self.release(shared),
                Work::Close => match self.finish(shared) {
                    Ok(()) => return,
                    Err(error) => Err(error),
                },
            };
            {
                let mut state = shared.lock();
                state.commit_started = None;
                state.release |= is_release && done.is_err();
            }
            match done {
                Ok(()) => (backoff, attempts) = (RETRY_MIN, 0),
                Err(error) => {
                    self.report(&error);
                    attempts += 1;
                    if closing && attempts >= ATTEMPTS_AT_STOP {
                        return;
                    }
                    pause(shared, backoff);
                    backoff = (backoff * 2).min(RETRY_MAX);
                }
            }
        }
    }

    fn report(&mut self, error: &CommitError) {
        self.counts.errors.add(1);
        if let Some(suppressed) = self.trouble.pass(clock::instant()) {
            error!(suppressed, "nothing is acknowledged until this is resolved: {error}");
        }
    }

    /// Waits until there is something to do.
    fn next_work(&self, shared: &Shared) -> (Work, bool) {
        let mut state = shared.lock();
        loop {
            let closing = state.closing;
            let now = clock::instant();
            if state.release {
                state.release = false;
                return (Work::Release, closing);
            }
            let interval = shared.settings.commit_interval;
            let commit_in = state.blocks.front().map(|block| remaining(block.since, interval, now));
            if state.commit_is_due(shared.settings.commit_bytes) || commit_in.is_some_and(|left| left.is_zero()) {
                state.commit_started = Some(now);
                if let Some(block) = state.take_block() {
                    return (Work::Commit(block), closing);
                }
            }
            if closing {
                return (Work::Close, closing);
            }
            let cursor_in = state.cursor_changed.then(|| remaining(self.cursor_stored, CURSOR_INTERVAL, now));
            if cursor_in.is_some_and(|left| left.is_zero()) && state.blocks.is_empty() {
                return (Work::Cursor, closing);
            }
            let timeout = [commit_in, cursor_in].into_iter().flatten().filter(|left| !left.is_zero()).min();
            state = shared.wait(state, timeout);
        }
    }

    /// Appends the records that declare what the manifest says is still to be declared.
    fn declare(&mut self, shared: &Shared) {
        let at = clock::stamp();
        let records = self.manifest.declared.iter().map(|declared| declared.record(at)).collect();
        let mut batch = Batch { records, fields: Vec::new() };
        self.declared_at = shared.append(Lane::Raw, &mut batch, None, &[]);
    }

    fn commit(&mut self, shared: &Shared, mut block: Block) -> Result<(), CommitError> {
        let done = self.try_commit(shared, &mut block, false);
        if done.is_err() {
            // Nothing of it was announced, so it is whole: the next attempt gives out the same numbers.
            shared.lock().return_block(block);
        }
        done
    }

    fn try_commit(&mut self, shared: &Shared, block: &mut Block, cursor_must: bool) -> Result<(), CommitError> {
        let chunks = self.cut(block);
        self.make_room_for_commit(shared)?;
        let first_of_segment = self.commits == 0;
        let receipts = self.receipts(shared, block, first_of_segment);
        let cursor = self.cursor(shared, first_of_segment || cursor_must);
        let has_cursor = cursor.is_some();
        let values = self.seal(&chunks, Extras { commit: self.commits, receipts, cursor });
        let tree = match self.store(shared, &values) {
            Ok(tree) => tree,
            Err(error) => {
                shared.lock().cursor_changed |= has_cursor;
                return Err(error);
            }
        };
        self.commits += 1;
        self.counts.commits.add(1);
        self.announce(shared, block, &chunks, tree);
        if has_cursor {
            self.cursor_stored = Some(clock::instant());
        }
        Ok(())
    }

    /// Cuts the block's records into chunks, by lane. A record that no chunk can hold becomes a dead letter.
    fn cut(&mut self, block: &mut Block) -> Vec<(Lane, Vec<Chunk>)> {
        let mut cut = Vec::new();
        for lane in Lane::ALL {
            let batch = &mut block.batches[lane.index()];
            while !batch.is_empty() {
                match self.cutter.cut(batch) {
                    Ok(chunks) => {
                        cut.push((lane, chunks));
                        break;
                    }
                    Err(TooLarge { index, bytes }) => {
                        self.counters.add(Count::Rejected, Reason::TooLarge.as_str(), 1);
                        batch.records[index] = too_large(&batch.records[index], bytes);
                    }
                }
            }
        }
        cut
    }

    /// Remembers the block's receipts, and gives those that belong into this commit: all that are remembered where the
    /// commit is a segment's first, because only the newest segment is read at a start.
    fn receipts(&self, shared: &Shared, block: &Block, all: bool) -> Vec<(String, Vec<u16>, Vec<u64>)> {
        let mut by_session: Vec<(String, Vec<u16>, Vec<u64>)> = Vec::new();
        let mut add = |session: &Name, receipt: &Receipt| {
            let at = by_session.iter().position(|(name, ..)| **name == **session).unwrap_or_else(|| {
                by_session.push((session.to_string(), Vec::new(), Vec::new()));
                by_session.len() - 1
            });
            by_session[at].1.push(receipt.packet_id);
            by_session[at].2.push(receipt.hash);
        };
        if all {
            for (session, receipts) in &shared.lock().receipts {
                receipts.iter().for_each(|receipt| add(session, receipt));
            }
        }
        // The broker has at most so many unacknowledged: older ones are acknowledged, or it would not have sent these.
        let mut counts: Vec<(&Name, usize)> = Vec::new();
        let newest: Vec<_> = block
            .receipts
            .iter()
            .rev()
            .filter(|(session, _)| {
                let at = counts.iter().position(|(name, _)| *name == session).unwrap_or_else(|| {
                    counts.push((session, 0));
                    counts.len() - 1
                });
                counts[at].1 += 1;
                counts[at].1 <= self.receipts_max
            })
            .collect();
        newest.into_iter().rev().for_each(|(session, receipt)| add(session, receipt));
        by_session
    }

    /// The cursor, if it has changed and belongs into this commit.
    fn cursor(&self, shared: &Shared, must: bool) -> Option<Vec<CursorEntry>> {
        let mut state = shared.lock();
        if !state.cursor_changed && !must {
            return None;
        }
        let entries = cursor_entries(&state);
        let bytes: usize = entries.iter().map(|entry| 16 + entry.above.len()).sum();
        let due = remaining(self.cursor_stored, CURSOR_INTERVAL, clock::instant()).is_zero();
        (must || due || bytes <= CURSOR_BYTES_SMALL).then(|| {
            state.cursor_changed = false;
            entries
        })
    }

    /// Numbers the chunks and puts the extras with the last of them, or beside it where they do not fit.
    fn seal(&self, chunks: &[(Lane, Vec<Chunk>)], mut extras: Extras) -> Vec<(Key, Vec<u8>)> {
        let mut values = Vec::new();
        let mut notes = Vec::new();
        let wanted = !extras.receipts.is_empty() || extras.cursor.is_some();
        let last = chunks.last().and_then(|(_, chunks)| chunks.last());
        let mut encoded = encode_extras(&extras);
        if wanted && !last.is_some_and(|chunk| chunk.has_room(encoded.len())) {
            notes = split_extras(&mut extras);
            encoded = Vec::new();
        }
        for (lane, chunks) in chunks {
            for (at, chunk) in chunks.iter().enumerate() {
                let number = self.next[lane.index()] + chunk.first as u64;
                let is_last = at + 1 == chunks.len() && last.is_some_and(|last| std::ptr::eq(last, chunk));
                let extras: &[u8] = if is_last && wanted { &encoded } else { &[] };
                values.push((Key { lane: Some(*lane), number, part: chunk.part }, chunk.seal(extras)));
            }
        }
        for (piece, note) in (0_u64..).zip(&notes) {
            // A cursor over thousands of segments, or the receipts of many sessions, take more pieces than a key has parts.
            let key = Key { lane: None, number: (self.commits << NOTE_PIECE_BITS) + piece, part: 0 };
            values.push((key, Chunk::empty().seal(&encode_extras(note))));
        }
        values
    }

    /// Makes the values durable. After an error the segment is given up; the manifest will seal it where it stood.
    fn store(&mut self, shared: &Shared, values: &[(Key, Vec<u8>)]) -> Result<u64, CommitError> {
        let Some(segment) = &mut self.segment else {
            return Err(CommitError::Manifest(std::io::ErrorKind::NotFound.into()));
        };
        let stored = segment.commit(values);
        if stored.is_err() {
            self.segment = None;
            shared.lock().tail = None;
        }
        let bytes: usize = values.iter().map(|(_, value)| value.len()).sum();
        self.payload_bytes += bytes as u64;
        self.counts.bytes.add(bytes as u64);
        Ok(stored?)
    }

    /// Everything in the block is durable: says so to who waits for it.
    fn announce(&mut self, shared: &Shared, block: &mut Block, chunks: &[(Lane, Vec<Chunk>)], tree: u64) {
        let mut guard = shared.lock();
        let state = &mut *guard;
        let number = state.tail.as_ref().map_or(0, |tail| tail.number);
        for (lane, chunks) in chunks {
            let lane = *lane;
            let batch = Arc::new(std::mem::take(&mut block.batches[lane.index()]));
            let first = self.next[lane.index()];
            let count = batch.len() as u64;
            let Some(segment) = state.segments.get_mut(&number) else { continue };
            segment.entry.lanes[lane.index()].get_or_insert(Range { first, last: first }).last = first + count - 1;
            let declares =
                batch.records.iter().zip(first..).filter_map(|(record, seq)| Some((seq, Declared::of(record)?)));
            segment.entry.declares.extend(declares);
            if segment.entry.oldest_ms.is_none() {
                segment.entry.oldest_ms = batch.records.first().map(|record| record.received().wall_ms);
            }
            if let Some(tail) = &mut state.tail {
                tail.index.extend(chunks.iter().filter(|chunk| chunk.part == 0).map(|chunk| ChunkAt {
                    lane,
                    first: first + chunk.first as u64,
                    last: first + (chunk.first + chunk.count) as u64 - 1,
                    parts: chunk.parts(),
                    tree,
                }));
            }
            state.pending_records -= count;
            self.next[lane.index()] += count;
            self.counts.committed[lane.index()].add(count);
            state.memory.push(number, lane, first, batch, shared.settings.memory_tail_bytes);
        }
        for (session, receipt) in block.receipts.drain(..) {
            let known: &mut VecDeque<Receipt> = state.receipts.entry(session).or_default();
            if receipt == Receipt::SESSION_LOST {
                known.clear();
                continue;
            }
            known.push_back(receipt);
            while known.len() > self.receipts_max {
                known.pop_front();
            }
        }
        if let (Some(segment), Some(open)) = (state.segments.get_mut(&number), &self.segment) {
            segment.entry.bytes = open.disk_bytes();
        }
        drop(guard);
        self.keep_from = number;
        if block.number >= self.declared_at {
            self.manifest.declared.clear();
        }
        self.write_witness(shared, number);
        shared.durable.send_replace(block.number);
        // Kept as a permit if nobody waits just now.
        shared.readable.notify_one();
    }

    fn write_witness(&mut self, shared: &Shared, segment: u64) {
        if self.witness.is_none() {
            self.witness = Witness::open(&shared.directory).ok();
        }
        let last = self.next.map(|next| next - 1);
        let written = self.witness.as_ref().map(|witness| witness.write(Witnessed { segment, last }));
        if let Some(Err(error)) = written
            && let Some(suppressed) = self.trouble.pass(clock::instant())
        {
            warn!(suppressed, "damage of the newest segment may go unnoticed, its witness cannot be written: {error}");
        }
    }

    /// Sees to it that there is a segment with room.
    fn make_room_for_commit(&mut self, shared: &Shared) -> Result<(), CommitError> {
        if self.must_roll(shared) { self.roll(shared) } else { Ok(()) }
    }

    /// Whether there is no segment, or a full one.
    fn must_roll(&self, shared: &Shared) -> bool {
        let limit = shared.settings.segment_bytes;
        let full =
            |segment: &Segment| self.payload_bytes >= limit || segment.disk_bytes() >= 2 * limit.max(DISK_STEP_BYTES);
        self.segment.as_ref().is_none_or(full)
    }

    fn roll(&mut self, shared: &Shared) -> Result<(), CommitError> {
        self.keep_within_bound(shared)?;
        self.manifest.reserve(&shared.directory).map_err(CommitError::Reserve)?;
        let number = self.manifest.next;
        let path = recovery::segment_path(&shared.directory, number);
        // Left by an attempt that failed half way; no manifest names it.
        if path.exists() {
            fs::remove_dir_all(&path).map_err(CommitError::Manifest)?;
        }
        let segment = match Segment::create(&path, &self.run) {
            Ok(segment) => segment,
            Err(error) => {
                // Half a segment that no manifest names; its number is used again.
                let _ = fs::remove_dir_all(&path);
                return Err(error.into());
            }
        };
        let entry = Entry {
            number,
            run: self.run.to_string(),
            lanes: [None; 3],
            starts: self.next,
            oldest_ms: None,
            bytes: segment.disk_bytes(),
            sealed: false,
            declares: Vec::new(),
        };
        // Without this a disk that refuses first commits would fill up with segments that hold nothing.
        let abandoned;
        {
            let mut state = shared.lock();
            abandoned = self.without_commit(&state);
            let mut manifest = self.current_manifest(&state);
            manifest.segments.retain(|entry| !abandoned.contains(&entry.number));
            manifest.segments.iter_mut().for_each(|entry| entry.sealed = true);
            manifest.segments.push(entry.clone());
            manifest.next = number + 1;
            manifest.run = self.run.to_string();
            manifest.clean = false;
            drop(state);
            if let Err(error) = manifest.write(&shared.directory) {
                drop(segment);
                let _ = fs::remove_dir_all(&path);
                return Err(CommitError::Manifest(error));
            }
            self.manifest = manifest;
            state = shared.lock();
            state.segments.retain(|number, _| !abandoned.contains(number));
            state.segments.values_mut().for_each(|segment| segment.entry.sealed = true);
            state.release |= state.segments.values().any(|segment| segment.missing() == 0);
            state.segments.insert(number, SegmentState::new(entry));
            state.tail = Some(Tail { number, segment: segment.shared(), index: Vec::new() });
        }
        (self.payload_bytes, self.commits) = (0, 0);
        // Closing the old one takes a moment; nobody else waits for it.
        drop(self.segment.replace(segment));
        abandoned.into_iter().for_each(|number| self.delete(shared, number, false));
        Ok(())
    }

    /// Segments whose first commit failed: nothing of them was ever announced.
    fn without_commit(&self, state: &State) -> Vec<u64> {
        let newer = state.segments.range(self.keep_from + 1..);
        let empty = newer.filter(|(_, segment)| segment.entry.lanes == [None; 3] && !segment.damaged);
        empty.map(|(number, _)| *number).collect()
    }

    /// The manifest as it should be now.
    fn current_manifest(&self, state: &State) -> Manifest {
        let segments = state.segments.values().map(|segment| segment.entry.clone()).collect();
        Manifest { segments, ..self.manifest.clone() }
    }

    /// Gives up the oldest segments until one more fits below the bound.
    fn keep_within_bound(&mut self, shared: &Shared) -> Result<(), CommitError> {
        let max = shared.settings.size_max;
        loop {
            let state = shared.lock();
            if has_room(&state, shared) {
                return Ok(());
            }
            let old = || state.segments.range(..self.keep_from);
            let done = old().find(|(_, segment)| segment.missing() == 0).map(|(number, _)| *number);
            if let Some(number) = done {
                self.remove(shared, state, number, &[])?;
                continue;
            }
            let victim = old().find(|(_, segment)| !segment.is_pinned()).map(|(number, _)| *number);
            match victim {
                Some(number) if shared.settings.when_full == crate::config::WhenFull::DropOldest => {
                    self.evict(shared, state, number)?;
                }
                _ => return Err(CommitError::Full { bytes: stored_bytes(&state), max }),
            }
        }
    }

    fn evict(&mut self, shared: &Shared, state: MutexGuard<'_, State>, number: u64) -> Result<(), CommitError> {
        let Some(segment) = state.segments.get(&number) else { return Ok(()) };
        // Declarations that nobody has seen yet are made again, so they are not among what is given up.
        let raw = segment.progress[Lane::Raw.index()].as_ref();
        let unseen = segment.entry.declares.iter().filter(|(seq, _)| !raw.is_some_and(|raw| raw.is_delivered(*seq)));
        let mut gaps: Vec<Declared> = unseen.map(|(_, declared)| declared.clone()).collect();
        let mut repeated = gaps.len() as u64;
        let mut counts = [0; 3];
        for lane in Lane::ALL.into_iter().rev() {
            let missing = segment.missing_of(lane);
            // All declarations are in the raw lane.
            let count = missing - std::mem::take(&mut repeated).min(missing);
            counts[lane.index()] = count;
            if let (true, Some(range)) = (missing > 0, segment.entry.lanes[lane.index()]) {
                let from = segment.first_missing(lane, range.first).unwrap_or(range.first);
                let stream = segment.streams[lane.index()].to_string();
                let gap = Declared::Gap { stream, from, to: range.last, count, cause: "evicted".to_owned() };
                declare(&mut gaps, gap);
            }
        }
        if let Some(suppressed) = self.trouble.pass(clock::instant()) {
            let records = segment.missing();
            warn!(segment = number, records, suppressed, "the outbox is full: the oldest records are given up");
        }
        self.remove(shared, state, number, &gaps)?;
        // Counted once it is done: an attempt that the disk refuses is made again.
        self.counts.evicted.iter().zip(counts).for_each(|(counter, count)| counter.add(count));
        Ok(())
    }

    /// Takes a segment out of the manifest, with what is to be declared about it, and deletes it.
    fn remove(
        &mut self,
        shared: &Shared,
        mut state: MutexGuard<'_, State>,
        number: u64,
        gaps: &[Declared],
    ) -> Result<(), CommitError> {
        // It stays where it is until the manifest is replaced, so that a reader does not pass it by if that fails.
        let Some(segment) = state.segments.get_mut(&number) else { return Ok(()) };
        segment.leaving = true;
        let damaged = segment.damaged;
        let mut manifest = self.current_manifest(&state);
        manifest.segments.retain(|entry| entry.number != number);
        for gap in gaps {
            declare(&mut manifest.declared, gap.clone());
        }
        drop(state);
        let written = manifest.write(&shared.directory);
        let mut state = shared.lock();
        if written.is_ok() {
            state.segments.remove(&number);
        } else if let Some(segment) = state.segments.get_mut(&number) {
            segment.leaving = false;
        }
        drop(state);
        shared.readable.notify_one();
        written.map_err(CommitError::Manifest)?;
        self.manifest = manifest;
        if !gaps.is_empty() {
            self.declare_later(shared, gaps);
        }
        self.delete(shared, number, damaged);
        // What was used of the reserve comes back with the first room; if not yet, the next segment asks for it.
        let _ = self.manifest.reserve(&shared.directory);
        Ok(())
    }

    /// The records that declare `gaps`, among those to be committed next.
    fn declare_later(&mut self, shared: &Shared, gaps: &[Declared]) {
        let at = clock::stamp();
        let records = gaps.iter().map(|gap| gap.record(at)).collect();
        let mut batch = Batch { records, fields: Vec::new() };
        self.declared_at = shared.append(Lane::Raw, &mut batch, None, &[]);
    }

    fn delete(&mut self, shared: &Shared, number: u64, damaged: bool) {
        let path = recovery::segment_path(&shared.directory, number);
        let done = if damaged {
            self.counts.quarantined.add(1);
            recovery::quarantine(&shared.directory, number)
        } else {
            fs::remove_dir_all(&path)
        };
        if let Err(error) = done {
            // No manifest names it: the next start tries again.
            warn!("{} could not be removed: {error}", path.display());
        }
    }

    /// Deletes the closed segments of which nothing is left to deliver.
    fn release(&mut self, shared: &Shared) -> Result<(), CommitError> {
        loop {
            let state = shared.lock();
            let mut old = state.segments.range(..self.keep_from);
            let Some(number) = old.find(|(_, segment)| segment.missing() == 0).map(|(number, _)| *number) else {
                return Ok(());
            };
            // The cursor is never only in what goes: each segment's first commit carries it, and the newest stays.
            self.remove(shared, state, number, &[])?;
        }
    }

    /// Stores the cursor alone: a commit without records, which begins a segment where there is none or it is full. Not
    /// where records would have to go for it: then the cursor waits until there is room.
    fn store_cursor(&mut self, shared: &Shared) -> Result<(), CommitError> {
        self.cursor_stored = Some(clock::instant());
        if self.must_roll(shared) && !has_room(&shared.lock(), shared) {
            return Ok(());
        }
        let mut block = Block { number: *shared.durable.borrow(), ..Block::default() };
        self.try_commit(shared, &mut block, true)
    }

    /// The clean end: cursor stored, manifest final.
    fn finish(&mut self, shared: &Shared) -> Result<(), CommitError> {
        if shared.lock().cursor_changed {
            self.store_cursor(shared)?;
            self.release(shared)?;
        }
        if self.segment.is_none() && self.manifest.clean {
            return Ok(());
        }
        let mut manifest = self.current_manifest(&shared.lock());
        manifest.segments.iter_mut().for_each(|entry| entry.sealed = true);
        // The newest one is read again at the next start: it holds the cursor and the receipts.
        if let Some(newest) = manifest.segments.last_mut() {
            newest.sealed = false;
        }
        manifest.clean = true;
        manifest.write(&shared.directory).map_err(CommitError::Manifest)?;
        self.manifest = manifest;
        shared.lock().tail = None;
        self.segment = None;
        info!("the outbox is closed");
        Ok(())
    }
}

fn stored_bytes(state: &State) -> u64 {
    state.segments.values().map(|segment| segment.entry.bytes).sum()
}

/// Whether one more segment fits below the bound.
fn has_room(state: &State, shared: &Shared) -> bool {
    let limit = shared.settings.segment_bytes + shared.settings.segment_bytes / 16;
    let one_more = (limit + SEGMENT_OVERHEAD_BYTES).next_multiple_of(DISK_STEP_BYTES);
    let reserve = reserve_bytes(state.segments.len() + 1);
    stored_bytes(state) + one_more + reserve <= shared.settings.size_max || state.segments.is_empty()
}

/// Waits before the next attempt, less long when something is delivered, which may have made room, or at the end.
fn pause(shared: &Shared, backoff: Duration) {
    let since = Some(clock::instant());
    let mut state = shared.lock();
    loop {
        let left = remaining(since, backoff, clock::instant());
        if left.is_zero() || state.release || state.closing {
            break;
        }
        state = shared.wait(state, Some(left));
    }
    drop(state);
    // Whatever woke it: a disk that refuses is not asked again at once.
    std::thread::sleep(RETRY_MIN / 4);
}

#[derive(Debug)]
enum Work {
    Commit(Block),
    Cursor,
    Release,
    Close,
}

/// What is left of `interval` after `since`; nothing where there is no beginning.
fn remaining(since: Option<Instant>, interval: Duration, now: Instant) -> Duration {
    since.map_or(Duration::ZERO, |since| interval.saturating_sub(now.saturating_duration_since(since)))
}

/// How far all segments are delivered that are partly delivered.
fn cursor_entries(state: &State) -> Vec<CursorEntry> {
    let mut entries = Vec::new();
    for (number, segment) in &state.segments {
        for lane in Lane::ALL {
            let Some(progress) = segment.progress[lane.index()].as_ref().filter(|progress| progress.count() > 0) else {
                continue;
            };
            let mut entry = progress.entry(*number, lane.index_byte());
            if entry.above.len() > CURSOR_ABOVE_BYTES_MAX {
                entry.above = Vec::new();
            }
            entries.push(entry);
        }
    }
    entries
}

fn encode_extras(extras: &Extras) -> Vec<u8> {
    // Encoding into memory does not fail for maps and sequences of known length.
    record::to_cbor(extras).unwrap_or_default()
}

/// Cuts extras into pieces that each fit into a value.
fn split_extras(extras: &mut Extras) -> Vec<Extras> {
    /// A receipt takes at most 12 bytes, so this many and a session's name fit into 6 KiB.
    const RECEIPTS: usize = 400;
    let mut pieces = Vec::new();
    let piece = || Extras { commit: extras.commit, receipts: Vec::new(), cursor: None };
    for (session, ids, hashes) in &extras.receipts {
        for (ids, hashes) in ids.chunks(RECEIPTS).zip(hashes.chunks(RECEIPTS)) {
            pieces.push(Extras { receipts: vec![(session.clone(), ids.to_vec(), hashes.to_vec())], ..piece() });
        }
    }
    if let Some(cursor) = extras.cursor.take() {
        // A piece whose cursor is there supersedes older cursors; the further pieces of it add to it.
        let mut current: Vec<CursorEntry> = Vec::new();
        let mut bytes = 0;
        for entry in cursor {
            let size = 80 + entry.above.len();
            if bytes + size > 5 * 1024 {
                pieces.push(Extras { cursor: Some(std::mem::take(&mut current)), ..piece() });
                bytes = 0;
            }
            bytes += size;
            current.push(entry);
        }
        pieces.push(Extras { cursor: Some(current), ..piece() });
    }
    pieces
}

/// Adds a gap to those that wait to be declared; gaps of one stream that touch become one.
fn declare(declared: &mut Vec<Declared>, gap: Declared) {
    if let Some((at, joined)) = declared.iter().enumerate().find_map(|(at, last)| Some((at, last.joined(&gap)?))) {
        declared[at] = joined;
    } else if declared.len() < DECLARED_MAX {
        declared.push(gap);
    }
}

/// What stands for a record that is too large to be stored.
fn too_large(record: &Record, bytes: usize) -> Record {
    let (source, profile): (Name, Option<Name>) = match record {
        Record::Reading(reading) => (Arc::clone(&reading.device), Some(Arc::clone(&reading.profile))),
        _ => ("tidegate".into(), None),
    };
    Record::DeadLetter(Box::new(DeadLetter {
        source,
        origin: "".into(),
        profile,
        received: record.received(),
        stage: Stage::Outbox,
        reason: Reason::TooLarge,
        detail: format!("the record takes {bytes} bytes after compression, more than the outbox stores").into(),
        length: bytes as u64,
        payload: Box::default(),
    }))
}
