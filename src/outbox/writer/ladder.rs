//! The full-disk ladder: what is given up, in which order, when the outbox comes near its bounds.
//!
//! 1. What is delivered goes first, also where it is kept for a while, and what is older than `max_age` of its lane, whether or not there is room.
//! 2. `when_full = "thin"`: from `thin_at_percent` on, groups of the oldest segments are rewritten with coarse aggregates in
//!    place of their raw readings. That takes seconds on a small board, so a thread of its own does it, beside the commits.
//! 3. `"thin"` and `"drop-oldest"`: the oldest records of the lowest lane: raw, then aggregates, then alarms. A segment in
//!    which nothing else waits is deleted; another is rewritten with what it has of higher lanes.
//! 4. `"block"`, or nothing left to give up: commits fail, so that acknowledgements are withheld, until there is room.
//!
//! Invariants: a segment of which the uplink holds records is never touched; neither is one that a start needs (the newest
//! with a commit, and those since the checkpoint); each step is one replacement of the manifest, and what it gives up is
//! declared by that same manifest. Every step gives back at least one step of sled's file, so the ladder ends.

use std::thread::JoinHandle;

use super::keep::kept_bytes;
use super::*;
use crate::config::WhenFull;
use crate::outbox::rewrite::{self, Plan, RewriteError, Rewritten, Source};

/// Segments that are made one, at most. Each takes at least half a MiB, however little it holds.
const GROUP_MAX: usize = 16;
/// Older segments are looked at so many at a time for what is too old.
const EXPIRE_SEGMENTS_MAX: usize = 64;
/// A clock that was set by more than this says nothing about ages until it has kept step for as long.
const CLOCK_STEP: Duration = Duration::from_secs(3_600);

/// Why records are given up.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// There is no room for them.
    Evicted,
    /// They are older than wanted.
    Expired,
}

impl Cause {
    /// The word in the gap that declares it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Expired => "expired",
        }
    }
}

/// Segments that are being thinned.
#[derive(Debug)]
pub(super) struct Thinning {
    group: Vec<Source>,
    thread: JoinHandle<Result<Rewritten, RewriteError>>,
}

impl Writer {
    /// Goes down the ladder until one more segment fits.
    pub(super) fn make_room(&mut self, shared: &Arc<Shared>) -> Result<(), CommitError> {
        let settings = shared.settings();
        while !has_room(shared) {
            // A bound that became much smaller is many segments to give up, and each is some syncs.
            shared.beat.beat();
            let gives_up = settings.when_full != WhenFull::Block;
            let thins = settings.when_full == WhenFull::Thin;
            let done = self.release(shared)? > 0
                || self.release_kept(shared)?
                || (thins && (self.finish_thinning(shared)? || self.thin_now(shared)?))
                || (gives_up && self.drop_lowest(shared)?);
            // The state that would free it waits for what is to be committed: for a moment the bound gives way, by no more
            // than what the sources may have pending.
            if !done && self.journal_holds(shared) {
                break;
            }
            if !done {
                return Err(CommitError::Full { bytes: stored_bytes(&shared.lock()), max: settings.size_max });
            }
        }
        if settings.when_full == WhenFull::Thin {
            self.thin_beside(shared);
        }
        Ok(())
    }

    /// Whether only journal keeps segments that could go otherwise. A checkpoint frees them, and that comes after the commit
    /// of what it includes.
    fn journal_holds(&self, shared: &Shared) -> bool {
        let gives_up = shared.settings().when_full != WhenFull::Block;
        let state = shared.lock();
        let from = self.needed_from(&state).min(self.keep_from);
        let mut held = state.segments.range(from..self.keep_from).map(|(_, segment)| segment);
        held.any(|segment| segment.missing() == 0 || (gives_up && segment.is_free()))
    }

    /// Gives up the oldest records of the lowest lane; whether there were any that it may give up.
    fn drop_lowest(&mut self, shared: &Shared) -> Result<bool, CommitError> {
        let mut drop = [false; 3];
        for lane in Lane::ALL.into_iter().rev() {
            drop[lane.index()] = true;
            let candidates: Vec<u64> = {
                let state = shared.lock();
                let old = state.segments.range(..self.needed_from(&state));
                let waits = old.filter(|(_, segment)| segment.missing_of(lane) > 0 && segment.is_free());
                waits.map(|(number, _)| *number).collect()
            };
            for number in candidates {
                shared.beat.beat();
                let group = self.group_for_drop(shared, number, drop);
                if !group.is_empty() && self.give_up(shared, &group, drop, Cause::Evicted)? {
                    return Ok(true);
                }
            }
        }
        // Damaged segments, and those of which hardly anything would go: whole, the oldest first.
        let oldest = {
            let state = shared.lock();
            let mut old = state.segments.range(..self.needed_from(&state));
            old.find(|(_, segment)| segment.is_free()).map(|(_, segment)| Source::of(segment))
        };
        match oldest {
            Some(oldest) => self.give_up(shared, &[oldest], [true; 3], Cause::Evicted),
            None => Ok(false),
        }
    }

    /// The segment, with so many of its neighbours that giving up those lanes gives room back: a segment takes at least a
    /// step of sled's file, however little it holds. Nothing if there are not enough.
    fn group_for_drop(&self, shared: &Shared, number: u64, drop: [bool; 3]) -> Vec<Source> {
        let state = shared.lock();
        let Some(segment) = state.segments.get(&number) else { return Vec::new() };
        if drop_all(segment, drop) {
            return vec![Source::of(segment)];
        }
        let kept = |segment: &SegmentState| -> u64 {
            let lanes = Lane::ALL.into_iter().filter(|lane| !drop[lane.index()] && segment.missing_of(*lane) > 0);
            lanes.map(|lane| segment.entry.sizes[lane.index()]).sum()
        };
        let joins = |other: &SegmentState| {
            other.entry.run == segment.entry.run
                && other.is_free()
                && !other.entry.damaged
                && other.entry.sizes != [0; 3]
        };
        if !joins(segment) {
            return Vec::new();
        }
        // What was rewritten before is small already.
        let before = state.segments.range(..number).next_back().map(|(_, before)| before);
        let before = before.filter(|before| before.entry.generation > 0 && joins(before));
        let after = state.segments.range(number + 1..self.needed_from(&state).max(number + 1));
        let after = after.map(|(_, segment)| segment).take_while(|segment| joins(segment));
        let mut group: Vec<&SegmentState> = Vec::new();
        for next in before.into_iter().chain([segment]).chain(after).take(GROUP_MAX) {
            group.push(next);
            let held: u64 = group.iter().map(|segment| segment.entry.bytes).sum();
            let left: u64 = group.iter().map(|segment| kept(segment)).sum();
            if left > shared.settings().segment_bytes {
                break;
            }
            if next.entry.number >= number && taken_by(left) < held {
                return group.into_iter().map(Source::of).collect();
            }
        }
        Vec::new()
    }

    /// Gives up what waits in those lanes of the group; whether that gave room back.
    fn give_up(
        &mut self,
        shared: &Shared,
        group: &[Source],
        drop: [bool; 3],
        cause: Cause,
    ) -> Result<bool, CommitError> {
        if !self.claim(shared, group) {
            return Ok(false);
        }
        let whole = group.len() == 1 && {
            let state = shared.lock();
            state.segments.get(&group[0].entry.number).is_none_or(|segment| drop_all(segment, drop))
        };
        let rewritten = if whole {
            let (gaps, given_up) = group[0].give_up(drop, cause.as_str(), None);
            Ok(Rewritten { entry: None, gaps, given_up, thinned: 0, aggregates: 0 })
        } else {
            let (group, cause) = (group.to_vec(), cause.as_str());
            let plan = Plan { group, drop, cause, thin: None, kept_bytes_max: u64::MAX, at: clock::stamp() };
            rewrite::rewrite(&shared.directory, &shared.keys, &plan, &mut self.cutter)
        };
        let rewritten = match rewritten {
            Ok(rewritten) => rewritten,
            Err(error) => {
                self.unclaim(shared, group);
                self.failed(shared, group, &error);
                return Ok(false);
            }
        };
        let given_up = rewritten.given_up;
        let (why, counts) = match cause {
            Cause::Evicted => ("the outbox is full", self.counts.evicted.clone()),
            Cause::Expired => ("older than wanted", self.counts.expired.clone()),
        };
        if let Some(suppressed) = self.trouble.pass(clock::instant()) {
            let (segment, records) = (group[0].entry.number, given_up.iter().sum::<u64>());
            warn!(segment, records, suppressed, "{why}: the oldest records are given up");
        }
        self.adopt(shared, group, rewritten)?;
        // Counted once it is done: an attempt that the disk refuses is made again.
        counts.iter().zip(given_up).for_each(|(counter, count)| counter.add(count));
        Ok(true)
    }

    /// Puts what was made in the place of the group, which is claimed.
    fn adopt(&mut self, shared: &Shared, group: &[Source], made: Rewritten) -> Result<(), CommitError> {
        let numbers: Vec<u64> = numbers(group).collect();
        let new = made.entry.as_ref().map(|entry| (entry.number, entry.generation));
        let done = self.replace(shared, &numbers, made.entry, &made.gaps);
        if done.is_err()
            && let Some(new) = new
            && Manifest::read(&shared.directory).is_ok_and(|manifest| manifest.is_some_and(|known| !known.names(new)))
        {
            // Half of a replacement may have come to the disk: then either may be the one that a start finds.
            let _ = fs::remove_dir_all(recovery::segment_path(&shared.directory, new.0, new.1));
        }
        done
    }

    /// Marks the group as leaving, if it is as it was and nobody holds records of it.
    fn claim(&self, shared: &Shared, group: &[Source]) -> bool {
        let mut state = shared.lock();
        let same = |source: &Source| {
            state.segments.get(&source.entry.number).is_some_and(|segment| {
                segment.id() == source.id() && segment.is_free() && segment.progress == source.progress
            })
        };
        let is_same = group.iter().all(same);
        if is_same {
            state.each(numbers(group), |segment| segment.leaving = true);
        }
        is_same
    }

    fn unclaim(&self, shared: &Shared, group: &[Source]) {
        shared.lock().each(numbers(group), |segment| segment.leaving = false);
        shared.readable.notify_one();
    }

    /// A group that cannot be rewritten: damage is settled, and whatever else it is, it is not tried again and again.
    fn failed(&mut self, shared: &Shared, group: &[Source], error: &RewriteError) {
        match error {
            RewriteError::Short { segment, lost } => {
                let records: u64 = lost.iter().map(|(_, range)| range.count()).sum();
                error!(
                    segment = segment.0,
                    records, "a segment of the outbox is damaged and goes to quarantine: {error}"
                );
                crate::outbox::reader::lose(shared, *segment, lost);
            }
            // The reader says what is lost once it comes to it; until then it is not rewritten.
            RewriteError::Unreadable { segment, reason } => {
                error!(segment = segment.0, "a segment of the outbox is damaged: {reason}");
                shared.lock().each([segment.0], |segment| segment.entry.damaged = true);
            }
            error => {
                if let Some(suppressed) = self.trouble.pass(clock::instant()) {
                    let segment = group.first().map_or(0, |source| source.entry.number);
                    warn!(segment, suppressed, "a segment of the outbox could not be rewritten: {error}");
                }
            }
        }
        let failed = match error {
            RewriteError::Short { segment, .. } | RewriteError::Unreadable { segment, .. } => Some(*segment),
            _ => None,
        };
        let failed = group.iter().filter(|source| failed.is_none_or(|failed| failed == source.id()));
        shared.lock().each(failed.map(|source| source.entry.number), |segment| segment.thin_enough = true);
    }

    /// The oldest segments that are worth thinning together, and what was thinned just before them if it is little: so
    /// that many small ones become one.
    fn thin_group(&self, shared: &Shared) -> Vec<Source> {
        let state = shared.lock();
        let mut group: Vec<Source> = Vec::new();
        let most = (state.segments.len() / 2).clamp(1, GROUP_MAX);
        let mut before: Option<&SegmentState> = None;
        for (_, segment) in state.segments.range(..self.needed_from(&state)) {
            let may = segment.missing_of(Lane::Raw) > 0
                && segment.entry.thinned.is_none()
                && !segment.thin_enough
                && !segment.entry.damaged
                && segment.is_free();
            let fits = may && group.first().is_none_or(|first| first.entry.run == segment.entry.run);
            if fits {
                let little = |before: &&SegmentState| {
                    before.entry.thinned.is_some()
                        && before.is_free()
                        && !before.entry.damaged
                        && before.entry.run == segment.entry.run
                        && before.entry.sizes[Lane::Raw.index()] <= shared.settings().segment_bytes / 2
                };
                group.extend(before.filter(|_| group.is_empty()).filter(little).map(Source::of));
                group.push(Source::of(segment));
            }
            before = Some(segment);
            let ended = !fits && !group.is_empty();
            let kept: u64 = group.iter().map(|source| source.entry.sizes[0] + source.entry.sizes[1]).sum();
            if ended || group.len() >= most || kept >= shared.settings().segment_bytes {
                break;
            }
        }
        // A segment takes at least a step of sled's file, however little it holds: one that is that small gives nothing back.
        let held: u64 = group.iter().map(|source| source.entry.bytes).sum();
        if held > DISK_STEP_BYTES { group } else { Vec::new() }
    }

    fn thin_plan(&self, shared: &Shared) -> Option<Plan> {
        let group = self.thin_group(shared);
        (!group.is_empty()).then(|| Plan {
            group,
            drop: [false; 3],
            cause: "thinned",
            thin: Some(shared.settings().ladder.thin_step),
            kept_bytes_max: 2 * shared.settings().segment_bytes,
            at: clock::stamp(),
        })
    }

    /// Thins while the commits wait: there is no room for them.
    fn thin_now(&mut self, shared: &Shared) -> Result<bool, CommitError> {
        let Some(plan) = self.thin_plan(shared) else { return Ok(false) };
        let made = rewrite::rewrite(&shared.directory, &shared.keys, &plan, &mut self.cutter);
        self.take_thinned(shared, &plan.group, made).map(|_| true)
    }

    /// Begins to thin on a thread of its own, if it is time to.
    fn thin_beside(&mut self, shared: &Arc<Shared>) {
        let percent = u64::from(shared.settings().ladder.thin_at_percent);
        let (stored, most) = {
            let state = shared.lock();
            (
                stored_bytes(&state) - kept_bytes(&state),
                shared.settings().size_max.saturating_sub(beside_segments(&state, shared)),
            )
        };
        if self.thinning.is_some() || stored < most / 100 * percent {
            return;
        }
        let Some(plan) = self.thin_plan(shared) else { return };
        let shared = Arc::clone(shared);
        let group = plan.group.clone();
        let spawned = std::thread::Builder::new().name("outbox-thin".to_owned()).spawn(move || {
            let made = Cutter::new()
                .map_err(|error| RewriteError::Content(error.to_string()))
                .and_then(|mut cutter| rewrite::rewrite(&shared.directory, &shared.keys, &plan, &mut cutter));
            shared.thinned();
            made
        });
        match spawned {
            Ok(thread) => self.thinning = Some(Thinning { group, thread }),
            Err(error) => warn!("old readings are not thinned, a thread cannot be started: {error}"),
        }
    }

    /// Waits for what is being thinned and puts it in its place; whether that gave room back.
    pub(super) fn finish_thinning(&mut self, shared: &Shared) -> Result<bool, CommitError> {
        shared.lock().thinned = false;
        let Some(Thinning { group, thread }) = self.thinning.take() else { return Ok(false) };
        let made = thread.join().unwrap_or_else(|_| Err(RewriteError::Content("the thread panicked".to_owned())));
        self.take_thinned(shared, &group, made)
    }

    fn take_thinned(
        &mut self,
        shared: &Shared,
        group: &[Source],
        made: Result<Rewritten, RewriteError>,
    ) -> Result<bool, CommitError> {
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                self.failed(shared, group, &error);
                return Ok(false);
            }
        };
        let held: u64 = group.iter().map(|source| source.entry.bytes).sum();
        let gains = made.entry.as_ref().is_none_or(|entry| entry.bytes < held);
        let new = made.entry.as_ref().map(|entry| (entry.number, entry.generation));
        let path = new.map(|(number, generation)| recovery::segment_path(&shared.directory, number, generation));
        if !gains || !self.claim(shared, group) {
            // It would take as much as before, or the uplink has begun with it.
            let mut state = shared.lock();
            if let Some(path) = path.filter(|_| !new.is_some_and(|new| state.holds(new))) {
                let _ = fs::remove_dir_all(path);
            }
            if !gains {
                state.each(numbers(group), |segment| segment.thin_enough = true);
            }
            return Ok(false);
        }
        let (readings, aggregates) = (made.thinned, made.aggregates);
        self.adopt(shared, group, made)?;
        self.counts.thinned.add(readings);
        if let Some(suppressed) = self.trouble.pass(clock::instant()) {
            warn!(readings, aggregates, suppressed, "the outbox is filling up: aggregates stand for old readings now");
        }
        Ok(true)
    }

    /// Whether anything can become too old.
    pub(super) fn expires(&self, shared: &Shared) -> bool {
        shared.settings().ladder.max_age.iter().any(Option::is_some)
    }

    /// Gives up what is older than wanted. Only a clock that is trusted, and was not set lately, says what that is.
    pub(super) fn expire(&mut self, shared: &Shared) -> Result<(), CommitError> {
        let (now, stamp) = (clock::instant(), clock::stamp());
        self.expired = Some(now);
        // What is being thinned is among the oldest, and goes to the same directory.
        if self.thinning.is_some() {
            return Ok(());
        }
        // A clock that was just set has to keep step with the monotonic one for a while first.
        let offset = stamp.wall_ms.saturating_sub_unsigned(stamp.monotonic_ms);
        let (known, mut set_at) = self.offset.unwrap_or((offset, None));
        if known.abs_diff(offset) > CLOCK_STEP.as_millis() as u64 {
            set_at = Some(now);
        }
        set_at = set_at.filter(|set_at| now.saturating_duration_since(*set_at) < CLOCK_STEP);
        self.offset = Some((offset, set_at));
        if !stamp.trusted || set_at.is_some() {
            return Ok(());
        }
        let expired = |entry: &Entry, lane: Lane| {
            let age_max = shared.settings().ladder.max_age[lane.index()]?;
            let age = stamp.wall_ms.saturating_sub(entry.newest[lane.index()]?);
            Some(u128::try_from(age).is_ok_and(|age| age > age_max.as_millis()))
        };
        let mut passed = 0;
        for _ in 0..EXPIRE_SEGMENTS_MAX {
            let found = {
                let state = shared.lock();
                let mut old = state.segments.range(passed..self.needed_from(&state).max(passed));
                old.find_map(|(_, segment)| {
                    let drop = Lane::ALL
                        .map(|lane| segment.missing_of(lane) > 0 && expired(&segment.entry, lane).unwrap_or(false));
                    let rewritable = !segment.entry.damaged || drop_all(segment, drop);
                    (drop != [false; 3] && segment.is_free() && rewritable).then(|| (Source::of(segment), drop))
                })
            };
            let Some((source, drop)) = found else { break };
            passed = source.entry.number + 1;
            self.give_up(shared, &[source], drop, Cause::Expired)?;
        }
        Ok(())
    }
}

fn numbers(group: &[Source]) -> impl Iterator<Item = u64> {
    group.iter().map(|source| source.entry.number)
}

/// Whether nothing that waits in the segment is outside of those lanes.
fn drop_all(segment: &SegmentState, drop: [bool; 3]) -> bool {
    Lane::ALL.into_iter().all(|lane| drop[lane.index()] || segment.missing_of(lane) == 0)
}

/// What a segment takes that holds so many bytes of values.
fn taken_by(bytes: u64) -> u64 {
    (bytes + bytes / 16 + 64 * 1024).next_multiple_of(DISK_STEP_BYTES)
}
