//! The records of a segment one chunk at a time, and what is damaged among them.
//!
//! Invariant: each number that the segment's entry promises is in one piece: as a record, or as damaged. What lies beyond
//! (a commit failed, its records are in the next segment) is in none.

use super::super::chunk::{self, Extras};
use super::super::manifest::{Entry, Range};
use super::super::record::{self, Names};
use super::super::segment::{Contents, Key};
use super::super::segment_state::SegmentState;
use super::super::state::missing_in;
use super::super::{Lane, holes, reader};
use crate::reading::Batch;

/// A part of a segment.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Records of a lane, from that number on.
    Records { lane: Lane, first: u64, batch: Batch },
    /// What cannot be read.
    Damaged(Damaged),
}

/// A chunk that cannot be read, or numbers that no chunk holds.
#[derive(Debug)]
pub(crate) struct Damaged {
    /// `None` for what a commit carries along without records: receipts, cursor, journal.
    pub(crate) lane: Option<Lane>,
    /// Its records' numbers, as far as they can be told; of a note its key.
    pub(crate) range: Range,
    pub(crate) why: String,
}

/// All pieces of a segment that `entry` describes: lane by lane, in the order of their numbers.
pub(crate) fn pieces<'a>(
    entry: &'a Entry,
    contents: &'a Contents,
    names: &'a mut Names,
) -> impl Iterator<Item = Piece> + 'a {
    let groups: Vec<&[(Key, Vec<u8>)]> =
        contents.values.chunk_by(|(a, _), (b, _)| a.lane == b.lane && a.number == b.number).collect();
    let missing = missing(entry, contents, &groups);
    let present = (0..groups.len()).filter_map(move |at| piece(entry, &groups, at, names));
    present.chain(missing.into_iter().map(Piece::Damaged))
}

fn piece(entry: &Entry, groups: &[&[(Key, Vec<u8>)]], at: usize, names: &mut Names) -> Option<Piece> {
    let group = groups[at];
    let key = group[0].0;
    let Some(lane) = key.lane else {
        let why = note_damage(&group[0].1)?;
        let range = Range { first: key.number, last: key.number };
        return Some(Piece::Damaged(Damaged { lane: None, range, why }));
    };
    let range = entry.lanes[lane.index()].filter(|range| (range.first..=range.last).contains(&key.number))?;
    match decode(group, names) {
        Ok(mut batch) => {
            // A failed commit may have left a chunk that reaches beyond what counts.
            let room = usize::try_from(range.last - key.number + 1).unwrap_or(usize::MAX);
            batch.records.truncate(room);
            Some(Piece::Records { lane, first: key.number, batch })
        }
        Err(why) => {
            let range = Range { first: key.number, last: last_of(range, groups, at) };
            Some(Piece::Damaged(Damaged { lane: Some(lane), range, why }))
        }
    }
}

/// The last number of a chunk that cannot be read: the one before the next chunk.
fn last_of(range: Range, groups: &[&[(Key, Vec<u8>)]], at: usize) -> u64 {
    let lane = groups[at][0].0.lane;
    let next = groups.get(at + 1).map(|group| group[0].0).filter(|next| next.lane == lane);
    next.map_or(range.last, |next| next.number - 1).clamp(groups[at][0].0.number, range.last)
}

fn decode(group: &[(Key, Vec<u8>)], names: &mut Names) -> Result<Batch, String> {
    if let Some((at, (key, _))) = (0_u8..).zip(group).find(|(at, (key, _))| key.part != *at) {
        return Err(format!("part {at} is missing, part {} is there", key.part));
    }
    let mut parts = Vec::new();
    for (key, value) in group {
        let opened = chunk::open(value).map_err(|error| match group.len() {
            1 => error.to_string(),
            _ => format!("part {}: {error}", key.part),
        })?;
        if !opened.extras.is_empty() {
            record::from_cbor::<Extras>(opened.extras)
                .map_err(|error| format!("what the commit carried along cannot be decoded: {error}"))?;
        }
        parts.push(opened);
    }
    chunk::decode(&parts, names).map_err(|error| error.to_string())
}

fn note_damage(value: &[u8]) -> Option<String> {
    match chunk::open(value) {
        Ok(opened) if opened.extras.is_empty() => None,
        Ok(opened) => record::from_cbor::<Extras>(opened.extras).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

/// Numbers that no chunk holds, whole or damaged.
fn missing(entry: &Entry, contents: &Contents, groups: &[&[(Key, Vec<u8>)]]) -> Vec<Damaged> {
    let whole = super::quietly(|| reader::whole(contents));
    // What was rewritten has left out what was delivered.
    let known = SegmentState::new(entry.clone());
    let holes = holes::of_segment(contents);
    let mut found = Vec::new();
    for lane in Lane::ALL {
        let Some(range) = entry.lanes[lane.index()] else { continue };
        let waits = |gap: &Range| (gap.first..=gap.last).any(|number| !known.is_delivered(lane, number));
        let gaps = holes::without_holes(missing_in(&whole, lane, range), lane, &holes);
        for gap in gaps.into_iter().filter(|gap| entry.generation == 0 || waits(gap)) {
            // A damaged chunk is named by itself.
            let is_there =
                |number: u64| groups.iter().any(|group| group[0].0.lane == Some(lane) && group[0].0.number == number);
            if !is_there(gap.first) {
                let why = contents.damage.clone().unwrap_or_else(|| "it is not there".to_owned());
                found.push(Damaged { lane: Some(lane), range: gap, why });
            }
        }
    }
    found
}
