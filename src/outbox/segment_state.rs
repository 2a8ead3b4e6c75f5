//! What is known of one segment while the outbox is open: its entry in the manifest, and what of it is delivered.
//!
//! Invariant: a number is settled once, whether it was delivered, lost or given up; all that counts what waits asks here.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::chunk::CursorEntry;
use super::hold::OF_THIS_RUN;
use super::manifest::{Entry, Range};
use super::progress::Progress;
use super::{Lane, Stored, settled};
use crate::reading::{Batch, Name};

/// A segment that the manifest names.
#[derive(Debug)]
pub(crate) struct SegmentState {
    pub(crate) entry: Entry,
    pub(crate) streams: [Name; 3],
    pub(crate) progress: [Option<Progress>; 3],
    /// What had been delivered before it was asked for again.
    pub(crate) again: [Option<Progress>; 3],
    /// Held by every [`Stored`] of it.
    pub(crate) pin: Arc<()>,
    /// The same for those that were given before they were stored.
    pub(crate) pins: Vec<Arc<()>>,
    /// Its records are known by this run and their number alone, because some were given before they had a segment.
    pub(crate) of_this_run: bool,
    /// Something of it was lost: the append that declares it. Until that is durable it stays, and no cursor says so.
    pub(crate) gap_at: u64,
    /// Thinning it again would gain nothing.
    pub(crate) thin_enough: bool,
    /// Is being taken out of the manifest: nothing of it is given any more.
    pub(crate) leaving: bool,
}

impl SegmentState {
    pub(crate) fn new(entry: Entry) -> Self {
        let mut streams = Lane::ALL.map(|lane| stream_name(&entry.run, lane));
        if let Some(generation) = entry.thinned {
            streams[Lane::Raw.index()] = thinned_stream(&entry, generation).into();
        }
        let (progress, again) = settled::of_entry(&entry);
        let mut segment = Self {
            entry,
            streams,
            progress,
            again,
            pin: Arc::new(()),
            pins: Vec::new(),
            of_this_run: false,
            gap_at: 0,
            thin_enough: false,
            leaving: false,
        };
        // What was ordered or found out later says more.
        if segment.entry.settled.is_none() && segment.entry.delivered.is_none() {
            for entry in segment.entry.cursor.clone() {
                segment.apply(&entry);
            }
        }
        segment
    }

    /// Whether its records are known by their numbers in this run. What was rewritten has others.
    pub(crate) fn is_of_this_run(&self) -> bool {
        self.of_this_run && self.entry.generation == 0
    }

    /// Number and generation, which name its directory.
    pub(crate) fn id(&self) -> (u64, u32) {
        (self.entry.number, self.entry.generation)
    }

    /// Takes over how far it was delivered, if that was said of what it holds now.
    pub(crate) fn apply(&mut self, entry: &CursorEntry) {
        let lane = usize::from(entry.lane);
        if let Some(Some(range)) = self.entry.lanes.get(lane).filter(|_| entry.generation == self.entry.generation) {
            let mut progress = Progress::from_entry(range.first, entry);
            // A cursor may have been cut, and says less than the manifest then.
            if let Some(known) = &self.progress[lane] {
                progress.merge(known);
            }
            self.progress[lane] = Some(progress);
        }
    }

    /// Records that are not delivered.
    pub(crate) fn missing(&self) -> u64 {
        Lane::ALL.into_iter().map(|lane| self.missing_of(lane)).sum()
    }

    pub(crate) fn missing_of(&self, lane: Lane) -> u64 {
        let (range, progress) = (self.entry.lanes[lane.index()], &self.progress[lane.index()]);
        range.map_or(0, |range| progress.as_ref().map_or(range.count(), |progress| progress.missing(range)))
    }

    /// Whether nobody holds records of it, and it is not on its way out.
    pub(crate) fn is_free(&self) -> bool {
        !self.leaving && !self.is_pinned()
    }

    /// Whether the uplink holds records of it.
    pub(crate) fn is_pinned(&self) -> bool {
        std::iter::once(&self.pin).chain(&self.pins).any(|pin| Arc::strong_count(pin) > 1)
    }

    /// The first number of `lane` from `from` on that is not delivered, if there is one.
    pub(crate) fn first_missing(&self, lane: Lane, from: u64) -> Option<u64> {
        let range = self.entry.lanes[lane.index()]?;
        let progress = self.progress[lane.index()].as_ref();
        let first = from.max(range.first).max(progress.map_or(0, Progress::next));
        let missing = progress.map_or(first, |progress| progress.first_missing(first));
        (missing <= range.last).then_some(missing)
    }

    /// Whether a number is delivered, or settled otherwise.
    pub(crate) fn is_delivered(&self, lane: Lane, number: u64) -> bool {
        self.progress[lane.index()].as_ref().is_some_and(|progress| progress.is_delivered(number))
    }

    /// Whether a number had been delivered before it was asked for again.
    pub(crate) fn was_delivered(&self, lane: Lane, number: u64) -> bool {
        self.again[lane.index()].as_ref().is_some_and(|again| again.is_delivered(number))
    }

    /// Marks a number as settled: delivered, or lost.
    pub(crate) fn settle(&mut self, lane: Lane, number: u64) -> bool {
        let Some(range) = self.entry.lanes[lane.index()] else { return false };
        number <= range.last
            && self.progress[lane.index()].get_or_insert_with(|| Progress::new(range.first)).deliver(number)
    }

    /// Marks numbers that were delivered without being stored.
    pub(crate) fn settle_hole(&mut self, lane: Lane, hole: Range) {
        let Some(range) = self.entry.lanes[lane.index()] else { return };
        let (from, to) = (hole.first.max(range.first), hole.last.min(range.last));
        self.progress[lane.index()].get_or_insert_with(|| Progress::new(range.first)).deliver_range(from, to);
    }

    /// Records of it, for the uplink, less those below `from`, which it has.
    pub(crate) fn stored(&self, lane: Lane, first_seq: u64, batch: Arc<Batch>, from: u64) -> Stored {
        let mut delivered = RoaringBitmap::new();
        delivered.insert_range(0..u32::try_from(from.saturating_sub(first_seq)).unwrap_or(u32::MAX));
        if let Some(progress) = &self.progress[lane.index()] {
            let numbers = first_seq..first_seq + batch.len() as u64;
            delivered
                .extend(numbers.zip(0_u32..).filter(|(number, _)| progress.is_delivered(*number)).map(|(_, at)| at));
        }
        let stream = Arc::clone(&self.streams[lane.index()]);
        let mut replayed = RoaringBitmap::new();
        if let Some(again) = &self.again[lane.index()] {
            let numbers = first_seq..first_seq + batch.len() as u64;
            replayed.extend(numbers.zip(0_u32..).filter(|(number, _)| again.is_delivered(*number)).map(|(_, at)| at));
        }
        Stored {
            segment: if self.is_of_this_run() { OF_THIS_RUN } else { place(self.id()) },
            lane,
            stream,
            first_seq,
            batch,
            delivered,
            replayed,
            _pin: Some(Arc::clone(&self.pin)),
        }
    }
}

/// What a segment and its generation are called outside of the outbox: one number, so that a report about records that
/// have been rewritten since is told from one about what stands for them.
pub(crate) fn place((number, generation): (u64, u32)) -> u64 {
    number | (u64::from(generation) << NUMBER_BITS)
}

const NUMBER_BITS: u32 = 40;
pub(crate) const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;

/// The name of a lane's stream in a run.
pub(crate) fn stream_name(run: &str, lane: Lane) -> Name {
    format!("{run}.{}", lane.as_str()).into()
}

/// The name of the stream that stands for the readings that were thinned in a segment.
pub(crate) fn thinned_stream(entry: &Entry, generation: u32) -> String {
    format!("{}.thinned.{}.{generation}", entry.run, entry.number)
}
