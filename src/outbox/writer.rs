//! The outbox's thread: commits, rolls, releases, evicts. It alone writes below the outbox's directory.
//!
//! # Why a kill or a power cut at any moment loses nothing that was announced
//!
//! Assumed of the file system, and not more: what fsync (of a directory: names) has returned for is there after a cut;
//! of what came after, each block of 4 KiB and each change of a name is there or not; a rename is old or new.
//! `sync_file_range`, which is sled's `flush`, counts for nothing. Tried by `tests/power_cuts`; figures are in
//! `docs/durability.md`.
//!
//! - **Append** touches memory only. Nothing is announced, so nothing is owed.
//! - **Commit**. Before: the manifest on disk names the segment, with the run and the first number of each lane. The
//!   chunks, receipts, cursor and journal of a block are one sled batch (or one value) in one tree; `flush` writes it
//!   to the end of the log, `sync_data` makes that durable, and only then is the number announced. A cut before the
//!   sync leaves any part of the log's new blocks: sled finds the end of what is whole by its checksums and cuts off
//!   the rest, so the batch is there whole or not at all, and earlier commits lie in bytes that are not written again
//!   (a tree of eight values is never rewritten). A cut after the sync finds it. A commit that is there and was never
//!   announced is kept by the next start: it is whole, its receipts say so to the broker's second sending, and reading
//!   it back has synced it (sled syncs when it closes) before anything is built on it.
//! - **Witness**: written in place after the sync, never synced. It knows less than the log, or the same; torn, its
//!   checksum is wrong and it says nothing. It never claims what a cut may have taken.
//! - **Roll**. The new directory is made, the database in it, `conf`, the directory and the outbox's own names are
//!   synced; then the manifest is replaced by one that names it and seals the segments before it at what was announced
//!   of them; then the first commit may go there. A cut before the replacement leaves a directory that no manifest
//!   names: the next start removes it, and its number is used again, for nothing of it was announced. A cut after it
//!   leaves an empty segment in which nothing was announced.
//! - **Manifest**: written beside the old one, synced, renamed, directory synced
//!   ([`replace`](super::manifest::replace)). A cut leaves the old or the new one whole, and the operations here are
//!   such that both are right. If it is gone or damaged all the same, it is made anew from the segments before anything
//!   is deleted.
//! - **Release**: the manifest is replaced by one without the segment, of which everything is delivered; then it is
//!   deleted. A cut before the replacement brings it back, to be delivered again from the last cursor on; a cut after
//!   it leaves remains that the next start removes. One that is kept for a while (see [`keep`]) is noted in the manifest as
//!   delivered first: before that the cursor says so.
//! - **Evict** and **rewrite**: one replacement of the manifest takes the old segment out and takes in what stands for
//!   it: the declared gap, or the new directory, which was synced before as in a roll. So the old records are there, or
//!   what stands for them is, never both and never neither. A gap stays in the manifest until the record that declares
//!   it is committed; a cut between the two declares it once more.
//! - **Journal and checkpoint**: what the rules' state took in is in the commit of the records that it led to. A
//!   checkpoint is replaced as the manifest is, after the commit of all that it includes, and no segment that holds
//!   journal since then is deleted before. So after a cut at any moment both together give the state as of the last
//!   commit.
//! - **Reading back** writes too: sled zeroes the end of the log behind what is whole, and notes what it found beside
//!   it. Neither touches what was committed; the note is removed before the next opening, because sled takes half of
//!   one for damage. So a start may be cut, and cut again.
//! - **Quarantine** comes last: what could be read is delivered, the rest declared, the manifest no longer names the
//!   segment; then it is moved. A cut before the move is durable removes the remains.
//! - **Begin to hold**: the manifest is replaced by one that names this run and says that it holds records back from the
//!   disk; only then the first of them is given to the reader. A cut before that leaves a run that nobody has heard of.
//! - **An error** of a commit ends the segment: it is sealed with what was announced of it, and the same records are
//!   committed to a new one. A sync is never tried again on the same file: Linux may have dropped what it could not
//!   write. Whatever the failed commit left in the old one lies beyond its sealed range, and beyond the number of
//!   commits that its entry allows: it is not read.

mod commit;
mod keep;
mod ladder;
mod space;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use self::ladder::Thinning;
use self::space::{beside_segments, has_room, stored_bytes};
use super::chunk::{Chunk, CursorEntry, Cutter, Extras, JournalPart, TooLarge};
use super::hold::HOLE_MAX;
use super::manifest::{Declared, Entry, Manifest, Range, Witness, Witnessed, reserve_bytes};
use super::on_disk::Voided;
use super::pending::Block;
use super::progress::Progress;
use super::record;
use super::segment::{self, DISK_STEP_BYTES, Key, Segment};
use super::segment_state::SegmentState;
use super::state::{ChunkAt, Shared, State, Tail};
use super::{Append, Lane, checkpoint, recovery};
use crate::beats;
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
/// Records that are too old are looked for this often.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(60);
/// Room that is left to others on the file system unless the configuration says otherwise, at most.
const MIN_FREE_DEFAULT: u64 = 64 << 20;
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
    expired: [Counter; 3],
    thinned: Counter,
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
    /// One above the last number of each lane that was committed, or that a segment's beginning skipped.
    next: [u64; 3],
    cutter: Cutter,
    witness: Option<Witness>,
    cursor_stored: Option<Instant>,
    /// Once this append is durable, all that the manifest declares is among the records.
    declared_at: u64,
    /// The newest segment that has a commit: it holds the cursor and the receipts, so it stays, and all after it.
    keep_from: u64,
    /// The segment of the first commit with a journal since the last checkpoint.
    journal_from: Option<u64>,
    /// Segments that are being thinned on a thread of their own.
    thinning: Option<Thinning>,
    /// The last thing that was done has failed.
    failed: bool,
    /// When records were last looked for that are too old.
    expired: Option<Instant>,
    /// How much the wall clock was ahead of the monotonic one then, and when it was set lately.
    offset: Option<(i64, Option<Instant>)>,
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
    #[error("the journal of the windows could not be compressed: {0}")]
    Journal(std::io::Error),
    #[error("the outbox is full ({bytes} of {max} bytes): nothing more is taken until something is delivered")]
    Full { bytes: u64, max: u64 },
}

impl Writer {
    pub(crate) fn new(manifest: Manifest, run: &str, cutter: Cutter, keep_from: u64, counters: &Counters) -> Self {
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
            declared_at: 0,
            keep_from,
            journal_from: None,
            thinning: None,
            failed: false,
            expired: None,
            offset: None,
            trouble: Throttle::new(Duration::from_secs(60)),
            counts: Counts {
                committed: by_lane(Count::Committed),
                evicted: by_lane(Count::Evicted),
                expired: by_lane(Count::Expired),
                thinned: one(Count::Thinned),
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
        // What the run before could not tell any more. Before anybody asks for the backlog, which counts it.
        let declared = self.manifest.declared.clone();
        self.declare_later(&shared, &declared);
        std::thread::Builder::new().name("outbox".to_owned()).spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| self.run(&shared));
            if std::panic::catch_unwind(run).is_err() {
                std::process::abort();
            }
        })
    }

    fn run(&mut self, shared: &Arc<Shared>) {
        let mut backoff = RETRY_MIN;
        let mut attempts = 0;
        loop {
            shared.beat.beat();
            let (work, closing) = self.next_work(shared);
            let is_release = matches!(work, Work::Release);
            let done = match work {
                Work::Commit(block) => self.commit(shared, *block),
                Work::Begin => self.begin_to_hold(shared),
                Work::Void(sessions) => self.make_void(shared, &sessions),
                Work::Cursor => self.store_cursor(shared),
                Work::Release => self.release(shared).map(drop),
                Work::Expire => self.expire(shared),
                Work::Thinned => self.finish_thinning(shared).map(drop),
                Work::Checkpoint(bytes) => {
                    self.keep_checkpoint(shared, &bytes);
                    Ok(())
                }
                Work::Close => match self.finish(shared) {
                    Ok(()) => return,
                    Err(error) => Err(error),
                },
            };
            {
                let mut state = shared.lock();
                state.commit_started = None;
                shared.written(&mut state);
                state.release |= is_release && done.is_err();
            }
            self.failed = done.is_err();
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
            // First, because a checkpoint waits for what it announces.
            shared.written(&mut state);
            if let Some((_, bytes)) = state.checkpoint.take_if(|(number, _)| *number <= *shared.durable.borrow()) {
                return (Work::Checkpoint(bytes), closing);
            }
            state.release |= state.expires.take_if(|at| *at <= now).is_some();
            // What failed may have lacked the room that this gives back.
            if state.release && self.failed {
                state.release = false;
                return (Work::Release, closing);
            }
            if std::mem::take(&mut state.hold.begin) && !state.hold.begun {
                return (Work::Begin, closing);
            }
            if !state.hold.void.is_empty() {
                state.hold.writing = true;
                return (Work::Void(state.hold.void.clone()), closing);
            }
            let commit_in = state.commit_in(&shared.settings(), now);
            if commit_in.is_some_and(|left| left.is_zero()) {
                state.commit_started = Some(now);
                if let Some(block) = state.take_for_commit(&shared.settings(), now) {
                    state.hold.writing = true;
                    return (Work::Commit(Box::new(block)), closing);
                }
            }
            if std::mem::take(&mut state.release) {
                return (Work::Release, closing);
            }
            // At the end too: what it declares is to be committed before the close.
            if std::mem::take(&mut state.thinned) || (closing && self.thinning.is_some()) {
                return (Work::Thinned, closing);
            }
            if closing {
                return (Work::Close, closing);
            }
            let expire_in = self.expires(shared).then(|| remaining(self.expired, EXPIRE_INTERVAL, now));
            if expire_in.is_some_and(|left| left.is_zero()) {
                return (Work::Expire, closing);
            }
            let cursor_in = state.cursor_changed.then(|| remaining(self.cursor_stored, CURSOR_INTERVAL, now));
            let waits = state.blocks.is_empty() || state.hold.enabled;
            if cursor_in.is_some_and(|left| left.is_zero()) && waits {
                state.hold.writing = true;
                return (Work::Cursor, closing);
            }
            let kept_in = state.expires.map(|at| at.saturating_duration_since(now));
            let waits = [commit_in, cursor_in, expire_in, kept_in, Some(beats::INTERVAL)].into_iter().flatten();
            let timeout = waits.filter(|left| !left.is_zero()).min();
            state = shared.wait(state, timeout);
            shared.beat.beat();
        }
    }

    /// Makes the name of this run durable before the first of its records leaves without being stored.
    fn begin_to_hold(&mut self, shared: &Arc<Shared>) -> Result<(), CommitError> {
        let mut manifest = self.current_manifest(&shared.lock());
        manifest.run = self.run.to_string();
        (manifest.clean, manifest.holds) = (false, true);
        manifest.write(&shared.directory).map_err(CommitError::Manifest)?;
        self.manifest = manifest;
        shared.lock().hold.begun = true;
        shared.readable.notify_one();
        Ok(())
    }

    /// Makes the stored receipts of these sessions void.
    fn make_void(&mut self, shared: &Arc<Shared>, sessions: &[Voided]) -> Result<(), CommitError> {
        let mut block = Block { number: *shared.durable.borrow(), ..Block::default() };
        {
            let mut state = shared.lock();
            let is_void = |session: &Name| sessions.iter().any(|voided| voided.is_of(session));
            state.receipts.forget(is_void);
            // Those of released messages go the same way: they would only make a later list incomplete.
            state.hold.unstored.retain(|(session, _)| !is_void(session));
        }
        block.receipts = sessions.iter().flat_map(Voided::receipts).collect();
        self.try_commit(shared, &mut block, false)?;
        shared.lock().hold.void.clear();
        Ok(())
    }

    fn commit(&mut self, shared: &Arc<Shared>, mut block: Block) -> Result<(), CommitError> {
        let done = self.try_commit(shared, &mut block, false);
        if done.is_err() {
            // Nothing of it was announced, so it is whole: the next attempt gives out the same numbers.
            shared.lock().return_block(block);
            // Meanwhile the reader may have what it was not given while this was tried.
            shared.readable.notify_one();
        }
        done
    }

    /// Stores the cursor alone: a commit without records, which begins a segment where there is none or it is full. Not
    /// where records would have to go for it: then the cursor waits until there is room.
    fn store_cursor(&mut self, shared: &Arc<Shared>) -> Result<(), CommitError> {
        self.cursor_stored = Some(clock::instant());
        if self.must_roll(shared) && !self.has_room_without_kept(shared) {
            return Ok(());
        }
        let mut block = Block { number: *shared.durable.borrow(), ..Block::default() };
        self.try_commit(shared, &mut block, true)
    }

    /// Replaces the checkpoint. Everything that it includes is durable. If the disk refuses, the older one and the journal
    /// are still there, and another one is asked for a little later.
    fn keep_checkpoint(&mut self, shared: &Shared, bytes: &[u8]) {
        let segment = shared.lock().tail.as_ref().map_or(self.manifest.next, |tail| tail.number);
        let written = checkpoint::write(&shared.directory, segment, bytes, &shared.keys);
        let mut state = shared.lock();
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                state.checkpoint_wanted = Some(clock::instant() + RETRY_MAX);
                drop(state);
                // It may have used the reserve, which a drain needs more.
                let _ = self.manifest.reserve(&shared.directory);
                if let Some(suppressed) = self.trouble.pass(clock::instant()) {
                    warn!(suppressed, "the windows' state could not be written, it stays in the journal: {error}");
                }
                return;
            }
        };
        self.counters.add(Count::CheckpointBytes, "", written);
        state.checkpoint_bytes = written;
        let held_back = self.needed_from(&state);
        self.journal_from = self.journal_from.map(|_| segment);
        // What only the journal held back can go now.
        state.release |= held_back < self.needed_from(&state);
        drop(state);
        // What was used of the reserve comes back with the first room.
        let _ = self.manifest.reserve(&shared.directory);
    }

    /// The clean end: cursor stored, manifest final.
    fn finish(&mut self, shared: &Arc<Shared>) -> Result<(), CommitError> {
        if shared.lock().cursor_changed {
            self.store_cursor(shared)?;
            self.release(shared)?;
        }
        if self.segment.is_none() && self.manifest.clean {
            return Ok(());
        }
        self.close_newest(&mut shared.lock());
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
    Commit(Box<Block>),
    Begin,
    Void(Vec<Voided>),
    Cursor,
    Release,
    Expire,
    Thinned,
    Checkpoint(Vec<u8>),
    Close,
}

/// What is left of `interval` after `since`; nothing where there is no beginning.
fn remaining(since: Option<Instant>, interval: Duration, now: Instant) -> Duration {
    since.map_or(Duration::ZERO, |since| interval.saturating_sub(now.saturating_duration_since(since)))
}
