//! Raw records that wait in memory for Kafka instead of being written (`outbox.persist = "when-behind"`).
//!
//! ```text
//! append → block → given to the reader (frozen, numbered) → delivered in time → released: durable, nothing was written
//!                                                         → not in time → committed, with what is delivered by then marked
//! ```
//!
//! Invariants:
//! - Only raw readings, states and dead letters of devices are given before they are stored. A block with a journal,
//!   aggregates, alarms or declarations is committed first, and so is what comes behind it.
//! - Blocks leave in order, whether they are released or committed: what [`super::Outbox::durable`] announces is in Kafka
//!   or on the disk, all of it.
//! - Numbers are given out in the order of the blocks, once each, when a block is frozen. A commit that follows released
//!   blocks says which numbers they had, in the same atomic change: what was never stored is never taken for damage.
//! - The run is in the manifest, marked as one that holds, before the first of its records leaves.
//! - Receipts of released messages are not on the disk. Those that are there must not be taken for theirs: before the
//!   acknowledgement of a message leaves whose packet identifier is among the stored ones of its session, or so many
//!   later that the broker could come to use them again, the stored ones are made void. Where the identifier came again
//!   that soon, two receipts of it stand for all that a start would have read: that shows it what the broker does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roaring::RoaringBitmap;

use super::manifest::Range;
use super::on_disk::{OnDisk, Voided};
use super::pending::{BLOCK_BYTES, Block};
use super::progress::Progress;
use super::segment_state::{SegmentState, stream_name};
use super::state::State;
use super::{Lane, Stored};
use crate::clock;
use crate::config::{self, Persist};
use crate::reading::{Batch, Name, Receipt, Record};

/// Stands for the segment of a record of this run, which has none yet, or got one after it was given to the reader.
pub(crate) const OF_THIS_RUN: u64 = 0;
/// Records gather this long before they are given: a wake-up for each read of a source would cost more than the records.
const GATHER: Duration = Duration::from_millis(10);
/// While no append came for this long, a longer commit interval would only be waiting.
const QUIET_PART: u32 = 2;
/// Encoded bytes that make a commit worth its price: more of them in one commit saves little.
const COMMIT_BYTES_GOOD: usize = 64 * 1024;
/// Sources that are short of unacknowledged messages wait so long for Kafka, all in all, before their records are written …
const PATIENCE_MAX: Duration = Duration::from_millis(300);
/// … and this part of the time that passes comes back: where it is the rule, waiting would only hold the broker up.
const PATIENCE_PART: u32 = 20;
/// Less patience than this is none.
const PATIENCE_MIN: Duration = Duration::from_millis(10);
/// A segment spans at most so many numbers that were never stored.
pub(crate) const HOLE_MAX: u64 = 1 << 24;
/// Records that show whether Kafka is quick again are waited for at most this long.
const TRIAL_MAX: Duration = Duration::from_secs(10);

/// The raw records that are being committed.
#[derive(Debug)]
pub(crate) struct Committing {
    /// The first number, and the one after the last.
    numbers: (u64, u64),
    /// What of them is delivered already.
    pub(crate) progress: Option<Progress>,
    pub(crate) pins: Vec<Arc<()>>,
}

/// What the outbox keeps for records that wait in memory.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    pub(crate) enabled: bool,
    hold: Duration,
    /// Kafka is not quick enough: everything is written until it is.
    behind: bool,
    /// The first number of a commit, and when it was made: how soon it is delivered shows whether Kafka is quick again.
    trial: Option<(u64, Instant)>,
    /// A source waits for acknowledgements since then; the append that it waits for.
    pressed: Option<(Instant, u64)>,
    /// How long sources may still wait, as of a moment.
    patience: Option<(Duration, Instant)>,
    /// The segment that the last report was about.
    reported: u64,
    /// The manifest names this run as one that holds.
    pub(crate) begun: bool,
    /// It is to be made so.
    pub(crate) begin: bool,
    /// The writer is at work on the disk: nothing is released meanwhile, so that the order stays.
    pub(crate) writing: bool,
    pub(crate) committing: Option<Committing>,
    /// Receipts of released messages since the last commit.
    pub(crate) unstored: Vec<(Name, Receipt)>,
    on_disk: HashMap<Name, OnDisk>,
    /// Receipts of a session that a start takes notice of.
    kept_max: usize,
    /// Sessions whose stored receipts are to be made void before more is released.
    pub(crate) void: Vec<Voided>,
}

impl Hold {
    /// `stored` are the receipts that are on the disk, of which `kept_max` of each session count.
    pub(crate) fn new<'a>(
        settings: &config::Outbox,
        stored: impl Iterator<Item = (&'a Name, Vec<Receipt>)>,
        kept_max: usize,
    ) -> Self {
        let enabled = settings.persist == Persist::WhenBehind;
        let mut hold = Self { enabled, hold: settings.hold, kept_max, ..Self::default() };
        if hold.enabled {
            for (session, receipts) in stored {
                receipts.iter().for_each(|receipt| hold.stored(session, *receipt));
            }
        }
        hold
    }

    pub(crate) fn is_behind(&self) -> bool {
        self.behind
    }

    /// How long records wait from now on, and how many receipts of each session a start takes notice of.
    pub(crate) fn change(&mut self, settings: &config::Outbox, kept_max: usize) {
        self.hold = settings.hold;
        if kept_max > self.kept_max {
            self.kept_max = kept_max;
            // Those beyond the former number are not known here, and a start would take notice of them.
            self.void_all();
        }
    }

    fn void_all(&mut self) {
        for (session, on_disk) in &self.on_disk {
            if !self.void.iter().any(|voided| voided.is_of(session)) {
                self.void.extend(on_disk.void(session));
            }
        }
    }

    fn stored(&mut self, session: &Name, receipt: Receipt) {
        if receipt == Receipt::SESSION_LOST {
            self.on_disk.remove(session);
        } else {
            self.on_disk.entry(Arc::clone(session)).or_default().push(receipt.packet_id, self.kept_max);
        }
    }

    /// A commit with these receipts is durable; the first of a segment supersedes all before.
    pub(crate) fn receipts_stored(&mut self, receipts: &[(String, Vec<u16>, Vec<u64>)], first_of_segment: bool) {
        if !self.enabled {
            return;
        }
        if first_of_segment {
            self.on_disk.clear();
        }
        for (session, ids, hashes) in receipts {
            let session: Name = session.as_str().into();
            for (&packet_id, &hash) in ids.iter().zip(hashes) {
                self.stored(&session, Receipt { packet_id, hash });
            }
        }
        self.unstored.clear();
    }

    /// Whether the acknowledgements of these messages may leave without a commit; notes the sessions that keep them back.
    fn may_release(&mut self, receipts: &[(Name, Receipt)]) -> bool {
        for (session, receipt) in receipts {
            let on_disk = self.on_disk.get(session);
            let stale = on_disk.and_then(|on_disk| on_disk.stale(session, receipt.packet_id, receipts.len()));
            if let Some(stale) = stale
                && !self.void.iter().any(|voided| voided.is_of(session))
            {
                self.void.push(stale);
            }
        }
        self.void.is_empty()
    }

    fn released(&mut self, receipts: &[(Name, Receipt)]) {
        let kept_max = self.kept_max;
        for (session, receipt) in receipts {
            if let Some(on_disk) = self.on_disk.get_mut(session) {
                on_disk.released();
            }
            self.unstored.push((Arc::clone(session), *receipt));
        }
        // Only so many of each session are ever of use; far more than that need not be kept.
        let sessions = self.on_disk.len().max(1);
        if self.unstored.len() > 4 * kept_max * sessions {
            let mut counts: HashMap<Name, usize> = HashMap::new();
            let mut kept: Vec<_> = std::mem::take(&mut self.unstored).into_iter().rev().collect();
            kept.retain(|(session, _)| {
                let count = counts.entry(Arc::clone(session)).or_default();
                *count += 1;
                *count <= kept_max
            });
            kept.reverse();
            self.unstored = kept;
        }
    }

    /// A source is short of unacknowledged messages. Whether its records are to be written at once.
    fn press(&mut self, number: u64, now: Instant) -> bool {
        let left = self.patience_left(now);
        if left < PATIENCE_MIN {
            return true;
        }
        self.pressed = Some((self.pressed.map_or(now, |(since, _)| since), number));
        false
    }

    fn patience_left(&self, now: Instant) -> Duration {
        let since = |at: Instant| now.saturating_duration_since(at);
        let left = self.patience.map_or(PATIENCE_MAX, |(left, at)| left + since(at) / PATIENCE_PART).min(PATIENCE_MAX);
        self.pressed.map_or(left, |(at, _)| left.saturating_sub(since(at)))
    }

    /// Everything up to this append is on its way out.
    fn relieve(&mut self, number: u64, now: Instant) {
        if self.pressed.is_some_and(|(_, waited_for)| waited_for <= number) {
            self.patience = Some((self.patience_left(now), now));
            self.pressed = None;
        }
    }

    /// A record of that number, which was committed before it was delivered, is delivered.
    fn tried(&mut self, number: u64, now: Instant) {
        let Some((_, since)) = self.trial.filter(|(first, _)| number >= *first) else { return };
        self.trial = None;
        if now.saturating_duration_since(since) < self.hold / 2 {
            self.behind = false;
        }
    }
}

/// What [`State::give`] has for the reader.
pub(crate) enum Held {
    /// Records that are not stored: the first number, what of them is delivered, and what keeps their segment later.
    Ready {
        first: u64,
        batch: Arc<Batch>,
        delivered: Progress,
        pin: Arc<()>,
    },
    /// Some once the writer has made this run known.
    Begin,
    /// Some in a moment.
    Soon(Duration),
    Nothing,
}

/// What was released.
#[derive(Debug, Default)]
pub(crate) struct Released {
    /// Up to here all appends are safe, if that is news.
    pub(crate) number: Option<u64>,
    /// Records that were never written.
    pub(crate) records: u64,
}

/// Whether records of the raw lane may be sent before they are stored.
pub(crate) fn may_be_held(raw: &Batch, receipts: &[Receipt]) -> bool {
    !receipts.contains(&Receipt::SESSION_LOST)
        && raw
            .records
            .iter()
            .all(|record| matches!(record, Record::Reading(_) | Record::State(_) | Record::DeadLetter(_)))
}

impl State {
    /// Gives the front blocks up to and including `at` their numbers, in order.
    fn freeze(&mut self, at: usize) {
        for block in self.blocks.iter_mut().take(at + 1) {
            if block.first.is_none() {
                block.first = Some(self.next);
                for lane in Lane::ALL {
                    self.next[lane.index()] += block.batches[lane.index()].len() as u64;
                }
            }
        }
    }

    /// Records from number `from` on that are not stored yet, for the reader.
    pub(crate) fn give(&mut self, from: u64, now: Instant) -> Held {
        if !self.hold.enabled || self.hold.behind || self.closing {
            return Held::Nothing;
        }
        if self.hold.committing.as_ref().is_some_and(|committing| committing.numbers.1 > from.max(committing.numbers.0))
        {
            return Held::Nothing;
        }
        for at in 0..self.blocks.len() {
            let block = &self.blocks[at];
            if block.must {
                return Held::Nothing;
            }
            if block.raw_len() == 0 {
                continue;
            }
            if block.raw_numbers().is_some_and(|(_, end)| end <= from) {
                continue;
            }
            let gathered = block.since.map_or(Duration::MAX, |since| now.saturating_duration_since(since));
            if block.first.is_none() && gathered < GATHER && at + 1 == self.blocks.len() {
                return Held::Soon(GATHER - gathered);
            }
            if !self.hold.begun {
                self.hold.begin = true;
                return Held::Begin;
            }
            self.freeze(at);
            let block = &mut self.blocks[at];
            let Some((first, _)) = block.raw_numbers() else { return Held::Nothing };
            let batches = &mut block.batches;
            let batch = block.given.get_or_insert_with(|| Arc::new(std::mem::take(&mut batches[Lane::Raw.index()])));
            let batch = Arc::clone(batch);
            let delivered = block.progress.get_or_insert_with(|| Progress::new(first)).clone();
            let pin = Arc::new(());
            block.pins.retain(|pin| Arc::strong_count(pin) > 1);
            block.pins.push(Arc::clone(&pin));
            return Held::Ready { first, batch, delivered, pin };
        }
        Held::Nothing
    }

    /// Marks records of this run as delivered, wherever they are by now; whether any of that is news, and whether a closed
    /// segment has nothing left.
    pub(crate) fn settle_of_this_run(&mut self, lane: Lane, seqs: &[u64], now: Instant) -> (bool, bool) {
        let (mut news, mut done) = (false, false);
        for &seq in seqs {
            if lane == Lane::Raw {
                if let Some(committing) = self
                    .hold
                    .committing
                    .as_mut()
                    .filter(|committing| (committing.numbers.0..committing.numbers.1).contains(&seq))
                {
                    let first = committing.numbers.0;
                    news |= committing.progress.get_or_insert_with(|| Progress::new(first)).deliver(seq);
                    self.cursor_changed = true;
                    continue;
                }
                let held =
                    |block: &&mut Block| block.raw_numbers().is_some_and(|(from, end)| (from..end).contains(&seq));
                if let Some(block) = self.blocks.iter_mut().find(held) {
                    let first = block.raw_numbers().map_or(seq, |(first, _)| first);
                    news |= block.progress.get_or_insert_with(|| Progress::new(first)).deliver(seq);
                    continue;
                }
            }
            let holds = |segment: &SegmentState| {
                let range = segment.entry.lanes[lane.index()];
                segment.is_of_this_run() && range.is_some_and(|range| (range.first..=range.last).contains(&seq))
            };
            // Reports come in the order of the records, mostly.
            let last = self.segments.get(&self.hold.reported).is_some_and(&holds).then_some(self.hold.reported);
            let newest_first =
                || self.segments.iter().rev().find(|(_, segment)| holds(segment)).map(|(number, _)| *number);
            let Some(number) = last.or_else(newest_first) else { continue };
            self.hold.reported = number;
            let Some(segment) = self.segments.get_mut(&number) else { continue };
            if segment.settle(lane, seq) {
                news = true;
                done |= segment.entry.sealed && segment.missing() == 0;
                self.cursor_changed = true;
                if lane == Lane::Raw {
                    self.hold.tried(seq, now);
                }
            }
        }
        (news, done)
    }

    /// Takes the front blocks out that are delivered.
    pub(crate) fn release_held(&mut self, receipts_max: usize) -> Released {
        let mut released = Released::default();
        if !self.hold.enabled || self.hold.writing || !self.hold.void.is_empty() {
            return released;
        }
        while let Some(front) = self.blocks.front() {
            let count = front.raw_len();
            let delivered = count == 0
                || front
                    .raw_numbers()
                    .zip(front.progress.as_ref())
                    .is_some_and(|((first, end), progress)| progress.missing(Range { first, last: end - 1 }) == 0);
            if front.must || !delivered || !self.hold.may_release(&front.receipts) {
                break;
            }
            let Some(block) = self.blocks.pop_front() else { break };
            self.pending_bytes -= block.bytes;
            self.pending_records -= count as u64;
            self.pending_lanes[Lane::Raw.index()] -= count as u64;
            self.hold.released(&block.receipts);
            self.receipts.settle(block.receipts, receipts_max, block.number);
            released.records += count as u64;
            released.number = Some(block.number);
        }
        if self.blocks.is_empty() {
            self.hurry = false;
        }
        if let Some(number) = released.number {
            self.hold.relieve(number, clock::instant());
        }
        released
    }

    /// How long until what is pending is to be committed; nothing if it is to be at once, `None` if nothing is pending.
    pub(crate) fn commit_in(&self, settings: &config::Outbox, now: Instant) -> Option<Duration> {
        let front = self.blocks.front()?;
        if self.closing || self.hurry || self.pending_bytes >= settings.commit_bytes {
            return Some(Duration::ZERO);
        }
        let alarms = self.alarms_due.map(|at| at.saturating_duration_since(now));
        if !self.hold.enabled {
            let paced = if self.blocks.len() > 1 { Duration::ZERO } else { self.paced(front, settings, now) };
            return Some(alarms.map_or(paced, |alarms| alarms.min(paced)));
        }
        let must = self.blocks.iter().find(|block| self.hold.behind || block.must);
        let must = must.map(|block| self.paced(block, settings, now));
        let held = front.since.map(|since| (since + settings.hold).saturating_duration_since(now));
        let pressed = self.hold.pressed.map(|_| self.hold.patience_left(now));
        [must, held, pressed, alarms].into_iter().flatten().min()
    }

    /// How long until the interval of a block is over: it stretches while appends keep coming and are worth less than a
    /// good commit. A source that has fallen silent, perhaps because it waits for its acknowledgements, stretches nothing.
    fn paced(&self, block: &Block, settings: &config::Outbox, now: Instant) -> Duration {
        let Some(since) = block.since else { return Duration::ZERO };
        let (least, most) = (settings.commit_interval, settings.commit_interval_max.max(settings.commit_interval));
        let last = self.blocks.back().and_then(|block| block.last).unwrap_or(since);
        let wanted = if self.pending_bytes >= COMMIT_BYTES_GOOD { since } else { last + least / QUIET_PART };
        wanted.clamp(since + least, since + most).saturating_duration_since(now)
    }

    /// Takes out what is to be committed now, frozen and in one block.
    pub(crate) fn take_for_commit(&mut self, settings: &config::Outbox, now: Instant) -> Option<Block> {
        self.hold.behind |= self.hold.enabled && self.pending_bytes >= settings.commit_bytes;
        let late =
            self.blocks.front()?.since.is_some_and(|since| now.saturating_duration_since(since) >= self.hold.hold);
        self.freeze(0);
        let mut block = self.blocks.pop_front()?;
        block.reclaim();
        while self.hold.enabled && self.blocks.front().is_some_and(|next| block.bytes + next.bytes <= BLOCK_BYTES) {
            self.freeze(0);
            let Some(next) = self.blocks.pop_front() else { break };
            block.join(next);
        }
        self.pending_bytes -= block.bytes;
        if !block.batches[Lane::Alarm.index()].is_empty() {
            self.alarms_at = Some(now);
        }
        if self.blocks.is_empty() {
            self.hurry = false;
            self.alarms_due = None;
        }
        self.hold.relieve(block.number, now);
        if self.hold.enabled {
            self.hold.behind |= late;
            let numbers = block.raw_numbers().unwrap_or_default();
            self.hold.committing =
                Some(Committing { numbers, progress: block.progress.take(), pins: std::mem::take(&mut block.pins) });
        }
        Some(block)
    }

    /// Puts a block back that could not be committed. Its numbers stay.
    pub(crate) fn return_block(&mut self, mut block: Block) {
        self.pending_bytes += block.bytes;
        if let Some(committing) = self.hold.committing.take() {
            (block.progress, block.pins) = (committing.progress, committing.pins);
        }
        if !block.batches[Lane::Alarm.index()].is_empty() {
            self.alarms_due.get_or_insert_with(clock::instant);
        }
        self.blocks.push_front(block);
    }

    /// Many messages wait for their acknowledgement. Whether the writer is to be told.
    pub(crate) fn ask_to_hurry(&mut self, now: Instant) -> bool {
        if self.blocks.is_empty() || self.hurry {
            return false;
        }
        let waits_for_kafka = self.hold.enabled && !self.hold.behind && self.blocks.iter().all(|block| !block.must);
        let number = self.appended;
        self.hurry = !waits_for_kafka || self.hold.press(number, now);
        true
    }
}

impl Stored {
    /// Raw records of this run that no segment holds yet, less those below `from`, which were given before.
    pub(crate) fn held(
        run: &str,
        first_seq: u64,
        batch: Arc<Batch>,
        (progress, from): (&Progress, u64),
        pin: Arc<()>,
    ) -> Self {
        let numbers = (first_seq..first_seq + batch.len() as u64).zip(0_u32..);
        let known = numbers.filter(|(number, _)| *number < from || progress.is_delivered(*number));
        let delivered = known.map(|(_, index)| index).collect();
        let stream = stream_name(run, Lane::Raw);
        let replayed = RoaringBitmap::new();
        Self { segment: OF_THIS_RUN, lane: Lane::Raw, stream, first_seq, batch, delivered, replayed, _pin: Some(pin) }
    }
}

impl Hold {
    /// What was committed is announced: its records show from now on whether Kafka is quick again.
    pub(crate) fn committed(&mut self, first: u64, now: Instant) {
        let waits = self.trial.is_some_and(|(_, since)| now.saturating_duration_since(since) < TRIAL_MAX);
        if self.behind && !waits {
            self.trial = Some((first, now));
        }
    }
}
