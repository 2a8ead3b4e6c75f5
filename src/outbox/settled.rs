//! What counts as delivered although no cursor says so: a segment that is kept after its delivery, and what an operator
//! ordered with `tidegate outbox replay` or `purge`.
//!
//! The cursor lies in the newest segment, which is never written again, so such an order stands in the manifest. It holds
//! against every cursor that was stored before it ([`Settled::since`]); the first commit after it carries a whole cursor,
//! which knows of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use super::Lane;
use super::chunk::CursorEntry;
use super::manifest::Entry;
use super::progress::Progress;

/// An operator's order about one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settled {
    /// Cursors in segments before this one do not know of it.
    pub(crate) since: u64,
    /// How far each lane is delivered, or given up.
    pub(crate) cursor: Vec<Mark>,
    /// What had been delivered before it was asked for again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) again: Vec<Mark>,
    /// What was given up: it counts as delivered, and is not delivered again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) given_up: Vec<Mark>,
}

/// Numbers of one lane: all below one, and single ones above it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) lane: u8,
    pub(crate) next: u64,
    /// A serialized bitmap of the numbers above, less the lane's first one, as base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) above: String,
}

impl Mark {
    /// The numbers that `progress` has.
    pub(crate) fn new(lane: Lane, progress: &Progress) -> Self {
        let CursorEntry { lane, next, above, .. } = progress.entry(0, 0, lane.index_byte());
        Self { lane, next, above: STANDARD_NO_PAD.encode(above) }
    }

    /// The same for a lane that begins with `first`. What cannot be read counts as not delivered.
    fn progress(&self, first: u64) -> Progress {
        let above = STANDARD_NO_PAD.decode(&self.above).unwrap_or_default();
        Progress::from_entry(first, &CursorEntry { segment: 0, generation: 0, lane: self.lane, next: self.next, above })
    }
}

/// The numbers of lanes as they stand in the manifest.
pub(crate) fn marks(progress: &[Option<Progress>; 3]) -> Vec<Mark> {
    let lanes = Lane::ALL.into_iter().zip(progress);
    lanes.filter_map(|(lane, progress)| Some(Mark::new(lane, progress.as_ref()?))).collect()
}

fn find(entry: &Entry, marks: &[Mark], lane: Lane) -> Option<Progress> {
    let first = entry.lanes[lane.index()]?.first;
    marks.iter().find(|mark| mark.lane == lane.index_byte()).map(|mark| mark.progress(first))
}

/// What of a segment an operator has given up; for a lane of which nothing was, nothing yet.
pub(crate) fn given_up(entry: &Entry) -> [Option<Progress>; 3] {
    let marks = entry.settled.as_ref().map_or(&[][..], |settled| &settled.given_up);
    Lane::ALL.map(|lane| {
        let range = entry.lanes[lane.index()]?;
        Some(find(entry, marks, lane).unwrap_or_else(|| Progress::new(range.first)))
    })
}

/// How far a segment is delivered as far as the manifest knows, and what of it is delivered again.
pub(crate) fn of_entry(entry: &Entry) -> ([Option<Progress>; 3], [Option<Progress>; 3]) {
    let progress = Lane::ALL.map(|lane| {
        let range = entry.lanes[lane.index()]?;
        let whole = Mark { lane: lane.index_byte(), next: range.last + 1, above: String::new() };
        let known = match (&entry.delivered, &entry.settled) {
            (Some(_), _) => Some(whole.progress(range.first)),
            (None, Some(settled)) => find(entry, &settled.cursor, lane),
            (None, None) => None,
        };
        Some(known.unwrap_or_else(|| Progress::new(range.first)))
    });
    let again = Lane::ALL.map(|lane| find(entry, &entry.settled.as_ref()?.again, lane));
    (progress, again)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::manifest::Range;

    #[test]
    fn marks_survive_the_manifest() {
        let mut progress = Progress::new(10);
        assert!([10, 11, 14, 70_000].into_iter().all(|number| progress.deliver(number)));
        let mark = Mark::new(Lane::Raw, &progress);
        let text = serde_json::to_string(&mark).unwrap();
        assert_eq!(serde_json::from_str::<Mark>(&text).unwrap().progress(10), progress, "{text}");
        let range = Range { first: 10, last: 80_000 };
        assert_eq!(progress.missing(range), 80_000 - 10 + 1 - 4);
    }
}
