//! What the newest segment says that the manifest cannot know.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use tracing::error;

use super::{OpenError, describe, ranges, segment_path};
use crate::counters::{Count, Counters};
use crate::outbox::Lane;
use crate::outbox::chunk::{self, CursorEntry, Extras, JournalPart};
use crate::outbox::holes;
use crate::outbox::manifest::{Declared, Manifest, Range, Witness};
use crate::outbox::reader::whole;
use crate::outbox::rebuild::Load;
use crate::outbox::record;
use crate::outbox::segment::{self, Contents, SegmentError};
use crate::outbox::segment_state::{SegmentState, stream_name};
use crate::outbox::settled::Settled;
use crate::outbox::state::missing_in;
use crate::reading::{Name, Receipt};

/// What the newest segment says.
#[derive(Default)]
pub(in crate::outbox) struct Found {
    /// The newest segment with a commit.
    pub(in crate::outbox) newest: Option<u64>,
    pub(in crate::outbox) cursor: Vec<CursorEntry>,
    pub(in crate::outbox) receipts: HashMap<Name, VecDeque<Receipt>>,
    pub(in crate::outbox) lost: Vec<(u64, Lane, Range)>,
    /// Delivered without being stored.
    pub(in crate::outbox) holes: Vec<(u64, Lane, Range)>,
    pub(in crate::outbox) damaged: Vec<u64>,
    pub(in crate::outbox) journal: Vec<JournalPart>,
}

impl Found {
    /// Reads segments from the newest on until one has a commit, and puts right what the manifest could not know. With a
    /// checkpoint it goes on to the segment whose number that is, for the journal.
    pub(in crate::outbox) fn read(
        &mut self,
        directory: &Path,
        manifest: &mut Manifest,
        journal_from: Option<u64>,
        load: Load<'_>,
    ) -> Result<(), OpenError> {
        for at in (0..manifest.segments.len()).rev() {
            let (number, generation) = (manifest.segments[at].number, manifest.segments[at].generation);
            let contents = match load((number, generation)) {
                Ok(contents) => contents,
                Err(SegmentError::Damaged { reason, .. }) => {
                    error!(segment = number, "the newest segment is damaged and goes to quarantine: {reason}");
                    self.damaged.push(number);
                    Contents { damage: Some(reason), ..Contents::default() }
                }
                Err(error) => return Err(error.into()),
            };
            let extras = extras(&contents, manifest.segments[at].commits);
            let holes = holes::of_commits(extras.iter());
            if !manifest.segments[at].sealed {
                self.seal(directory, manifest, at, &contents, &holes);
            }
            self.holes.extend(holes.into_iter().map(|(lane, range)| (number, lane, range)));
            if self.newest.is_none() && !contents.values.is_empty() && manifest.segments[at].commits != Some(0) {
                self.newest = Some(number);
                self.take_newest(&extras);
            }
            self.journal.extend(extras.into_iter().flat_map(|extras| extras.journal));
            if self.newest.is_some() && journal_from.is_none_or(|from| from >= number) {
                break;
            }
        }
        Ok(())
    }

    /// An open segment's entry as it should be, from its contents and the witness; the difference is lost.
    fn seal(
        &mut self,
        directory: &Path,
        manifest: &mut Manifest,
        at: usize,
        contents: &Contents,
        holes: &[(Lane, Range)],
    ) {
        let before = manifest.segments[..at].to_vec();
        let entry = &mut manifest.segments[at];
        let whole = whole(contents);
        let found = ranges(&whole);
        let witnessed = Witness::read(directory).filter(|witnessed| witnessed.segment == entry.number);
        let witnessed = witnessed.unwrap_or_default();
        for lane in Lane::ALL {
            let known = entry.lanes[lane.index()];
            let earlier = before.iter().filter(|other| other.run == entry.run).filter_map(|e| e.lanes[lane.index()]);
            let first = match (known, entry.starts[lane.index()]) {
                (Some(range), _) => range.first,
                // Those before it may have been delivered and be gone.
                (None, start @ 1..) => start,
                (None, 0) => earlier.map(|range| range.last + 1).max().unwrap_or(1),
            };
            let last = [found[lane.index()], known].into_iter().flatten().map(|range| range.last);
            let last = last.chain([witnessed.last[lane.index()]]).max().unwrap_or(0);
            entry.lanes[lane.index()] = (last >= first).then_some(Range { first, last });
            if let Some(range) = entry.lanes[lane.index()] {
                let missing = holes::without_holes(missing_in(&whole, lane, range), lane, holes);
                self.lost.extend(missing.into_iter().map(|range| (entry.number, lane, range)));
            }
        }
        entry.sealed = true;
        // The manifest learns it only when the segment is closed.
        describe(entry, contents);
        entry.bytes = segment::disk_bytes(&segment_path(directory, entry.number, entry.generation));
    }

    /// Takes over receipts and cursor of all commits, in their order.
    fn take_newest(&mut self, all: &[Extras]) {
        let mut cursor_of = None;
        for extras in all {
            for (session, ids, hashes) in &extras.receipts {
                let known = self.receipts.entry(session.as_str().into()).or_default();
                for receipt in ids.iter().zip(hashes).map(|(&packet_id, &hash)| Receipt { packet_id, hash }) {
                    match receipt {
                        Receipt::SESSION_LOST => known.clear(),
                        _ => known.push_back(receipt),
                    }
                }
            }
            if let Some(cursor) = &extras.cursor {
                if cursor_of != Some(extras.commit) {
                    self.cursor.clear();
                }
                cursor_of = Some(extras.commit);
                self.cursor.extend_from_slice(cursor);
            }
        }
    }
}

/// What the announced commits of a segment carried along, in their order. A commit that failed may have left something
/// too: its records are elsewhere, and its receipts must not make anybody believe that they are here.
pub(crate) fn extras(contents: &Contents, commits: Option<u64>) -> Vec<Extras> {
    let opened = contents.values.iter().filter_map(|(_, value)| chunk::open(value).ok());
    let mut all: Vec<Extras> = opened
        .filter(|opened| !opened.extras.is_empty())
        .filter_map(|opened| record::from_cbor(opened.extras).ok())
        .filter(|extras: &Extras| commits.is_none_or(|commits| extras.commit < commits))
        .collect();
    all.sort_by_key(|extras| extras.commit);
    all
}

/// Takes over the cursor of the newest commit, but for what the manifest knows better.
pub(in crate::outbox) fn apply_cursor(segments: &mut BTreeMap<u64, SegmentState>, found: &Found) {
    for entry in &found.cursor {
        let Some(segment) = segments.get_mut(&entry.segment) else { continue };
        let ordered_later = |settled: &Settled| found.newest.is_none_or(|newest| newest < settled.since);
        if segment.entry.delivered.is_none() && !segment.entry.settled.as_ref().is_some_and(ordered_later) {
            segment.apply(entry);
        }
    }
}

/// Settles what the newest segment should hold and does not: counted, declared, the segment to quarantine.
pub(in crate::outbox) fn settle_losses(
    segments: &mut BTreeMap<u64, SegmentState>,
    found: &Found,
    manifest: &mut Manifest,
    counters: &Counters,
) {
    for number in &found.damaged {
        if let Some(segment) = segments.get_mut(number) {
            segment.entry.damaged = true;
        }
    }
    for &(number, lane, range) in &found.lost {
        let Some(segment) = segments.get_mut(&number) else { continue };
        segment.entry.damaged = true;
        let news = (range.first..=range.last).filter(|&seq| segment.settle(lane, seq)).count() as u64;
        if news == 0 {
            continue;
        }
        counters.add(Count::Damaged, lane.as_str(), news);
        error!(
            segment = number,
            records = news,
            "the newest segment holds less than was stored; it goes to quarantine"
        );
        let stream = segment.streams[lane.index()].to_string();
        let (from, to) = (range.first, range.last);
        manifest.declared.push(Declared::Gap {
            stream,
            from,
            to,
            count: news,
            cause: "damaged".to_owned(),
            replaced_by: None,
        });
    }
}

/// The end of a lane's stream of the run that did not end in good order, if it had begun.
pub(in crate::outbox) fn end_of_stream(manifest: &Manifest, lane: Lane) -> Option<Declared> {
    let of_run = manifest.segments.iter().filter(|entry| entry.run == manifest.run);
    // What stands for thinned readings has numbers of its own.
    let of_run = of_run.filter(|entry| lane != Lane::Raw || entry.thinned.is_none());
    let stored = of_run.clone().filter_map(|entry| entry.lanes[lane.index()]).map(|range| range.last).max();
    // What came before a segment's first number was delivered, whether or not anything of it is still here.
    let before = of_run.filter_map(|entry| entry.starts[lane.index()].checked_sub(1)).filter(|last| *last > 0).max();
    // A run that holds may have delivered records and stored none.
    let last = stored.max(before).or((manifest.holds && lane == Lane::Raw).then_some(0))?;
    Some(Declared::End { stream: stream_name(&manifest.run, lane).to_string(), last })
}
