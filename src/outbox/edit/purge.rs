//! Give up what waits, or what is only kept.

use std::fs;

use tracing::warn;

use super::super::inspect::{Piece, pieces};
use super::super::manifest::Declared;
use super::super::progress::Progress;
use super::super::record::Names;
use super::super::segment_state::SegmentState;
use super::super::settled::{self, Settled, marks};
use super::super::{Lane, recovery, segment::Contents};
use super::{Edit, EditError, Filter};

/// So many gaps go into the manifest one by one; of more those of one stream become one.
const GAPS_MAX: usize = 400;

/// What is settled of a segment, and what of it was given up.
#[derive(Debug)]
struct Order {
    settled: [Option<Progress>; 3],
    given_up: [Option<Progress>; 3],
}

/// What a purge would do.
#[derive(Debug, Default)]
pub(crate) struct PurgePlan {
    since: u64,
    /// By segment, what is given up: numbers to settle.
    orders: Vec<(u64, Order)>,
    gaps: Vec<Declared>,
    /// Declarations among what is given up: they are made again.
    repeated: Vec<Declared>,
    /// Segments that go whole.
    remove: Vec<u64>,
    /// Records given up, by lane.
    pub(crate) records: [u64; 3],
    /// Delivered segments that were kept and go, and bytes that come back at once.
    pub(crate) kept_segments: u64,
    pub(crate) freed_bytes: u64,
    /// Segments of which a part stays, or that the next start still needs.
    pub(crate) partly: usize,
}

impl PurgePlan {
    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.remove.is_empty()
    }

    /// Segments that go whole.
    pub(crate) fn removed(&self) -> usize {
        self.remove.len()
    }
}

impl Edit {
    /// Finds the waiting records that `filter` takes, and the kept segments where it takes all. `looked_at` is told after
    /// each segment.
    pub(crate) fn plan_purge(
        &mut self,
        filter: &Filter,
        looked_at: &mut dyn FnMut(u64),
    ) -> Result<PurgePlan, EditError> {
        let mut plan = PurgePlan { since: self.inspection.stored.next, ..PurgePlan::default() };
        let numbers: Vec<u64> = self.inspection.segments.keys().copied().collect();
        let everything = filter.is_by_lane() && filter.lanes.is_empty();
        for number in numbers {
            let is_old = number < self.inspection.needed_from;
            let (waits, missing) = match self.inspection.segments.get(&number) {
                Some(segment) => {
                    let waits = |lane: &Lane| filter.takes_lane(*lane) && segment.missing_of(*lane) > 0;
                    (Lane::ALL.iter().any(waits), segment.missing())
                }
                None => continue,
            };
            let contents = match waits && !filter.is_by_lane() {
                true => match self.inspection.load(number) {
                    Some(loaded) => Some(loaded?),
                    None => None,
                },
                false => None,
            };
            let Some(segment) = self.inspection.segments.get(&number) else { continue };
            let given_up = if waits { plan.give_up(segment, contents.as_ref(), filter) } else { 0 };
            let kept = missing == 0 && everything;
            if is_old && ((given_up > 0 && given_up == missing) || kept) {
                plan.remove.push(number);
                plan.kept_segments += u64::from(kept);
                plan.freed_bytes += segment.entry.bytes;
                plan.orders.retain(|(of, _)| *of != number);
            } else if given_up > 0 {
                plan.partly += 1;
            }
            looked_at(number);
        }
        Ok(plan)
    }

    /// Carries it out.
    pub(crate) fn purge(&self, plan: &PurgePlan) -> Result<(), EditError> {
        let mut manifest = self.inspection.stored.clone();
        for (number, order) in &plan.orders {
            if let Some(entry) = manifest.segments.iter_mut().find(|entry| entry.number == *number) {
                let again = entry.settled.take().map(|before| before.again).unwrap_or_default();
                let (cursor, given_up) = (marks(&order.settled), marks(&order.given_up));
                entry.settled = Some(Settled { since: plan.since, cursor, again, given_up });
            }
        }
        let removed: Vec<_> = manifest.segments.extract_if(.., |entry| plan.remove.contains(&entry.number)).collect();
        manifest.declared.extend(plan.repeated.iter().chain(&joined(&plan.gaps)).cloned());
        self.write(&manifest)?;
        for entry in removed {
            let path = recovery::segment_path(&self.inspection.directory, entry.number, entry.generation);
            if let Err(error) = fs::remove_dir_all(&path) {
                // No manifest names it: the next start tries again.
                warn!("{} could not be removed: {error}", path.display());
            }
        }
        Ok(())
    }

    /// Deletes what was set aside; gives the directories and their bytes.
    pub(crate) fn purge_quarantine(&self) -> Result<(usize, u64), EditError> {
        let found = self.inspection.quarantine();
        for (path, _) in &found {
            fs::remove_dir_all(path).map_err(|source| EditError::Io { path: path.clone(), source })?;
        }
        Ok((found.len(), found.iter().map(|(_, bytes)| bytes).sum()))
    }
}

impl PurgePlan {
    /// Settles what of a segment is given up; gives how many records that are.
    fn give_up(&mut self, segment: &SegmentState, contents: Option<&Contents>, filter: &Filter) -> u64 {
        let (mut settled, mut given_up) = (segment.progress.clone(), settled::given_up(&segment.entry));
        let mut taken: [Vec<u64>; 3] = Default::default();
        match contents {
            // By lane alone: nothing needs to be read.
            None => {
                for lane in Lane::ALL.into_iter().filter(|lane| filter.takes_lane(*lane)) {
                    let Some(range) = segment.entry.lanes[lane.index()] else { continue };
                    taken[lane.index()] =
                        (range.first..=range.last).filter(|&number| !segment.is_delivered(lane, number)).collect();
                }
            }
            Some(contents) => {
                let mut names = Names::default();
                for piece in pieces(&segment.entry, contents, &mut names) {
                    let Piece::Records { lane, first, batch } = piece else { continue };
                    for (number, record) in (first..).zip(&batch.records) {
                        if filter.takes_lane(lane) && !segment.is_delivered(lane, number) && filter.takes(record) {
                            taken[lane.index()].push(number);
                        }
                    }
                }
            }
        }
        let mut total = 0;
        for (lane, numbers) in Lane::ALL.into_iter().zip(&taken) {
            let (Some(&from), Some(&to)) = (numbers.first(), numbers.last()) else { continue };
            for progress in [&mut settled[lane.index()], &mut given_up[lane.index()]].into_iter().flatten() {
                for &number in numbers {
                    progress.deliver(number);
                }
            }
            // Nobody has seen these declarations yet: they are made again, so they are not among what is given up.
            let declares = segment.entry.declares.iter().filter(|_| lane == Lane::Raw);
            let again: Vec<_> = declares.filter(|(seq, _)| numbers.binary_search(seq).is_ok()).collect();
            self.repeated.extend(again.iter().map(|(_, declared)| declared.clone()));
            let count = numbers.len() as u64 - again.len() as u64;
            self.records[lane.index()] += count;
            total += numbers.len() as u64;
            let (stream, cause) = (segment.streams[lane.index()].to_string(), "purged".to_owned());
            self.gaps.push(Declared::Gap { stream, from, to, count, cause, replaced_by: None });
        }
        if total > 0 {
            self.orders.push((segment.entry.number, Order { settled, given_up }));
        }
        total
    }
}

/// Gaps of one stream that touch become one; all of one stream where they would be too many.
fn joined(gaps: &[Declared]) -> Vec<Declared> {
    let mut joined: Vec<Declared> = Vec::new();
    for gap in gaps {
        match joined.iter().enumerate().rev().find_map(|(at, before)| Some((at, before.joined(gap)?))) {
            Some((at, both)) => joined[at] = both,
            None => joined.push(gap.clone()),
        }
    }
    if joined.len() <= GAPS_MAX {
        return joined;
    }
    let mut by_stream: Vec<Declared> = Vec::new();
    for gap in joined {
        let Declared::Gap { stream, from, to, count, .. } = &gap else { continue };
        let known = by_stream.iter_mut().find_map(|known| match known {
            Declared::Gap { stream: of, from, to, count, .. } if of == stream => Some((from, to, count)),
            _ => None,
        });
        match known {
            Some((known_from, known_to, known_count)) => {
                (*known_from, *known_to) = (*(&*known_from).min(from), *(&*known_to).max(to));
                *known_count += count;
            }
            None => by_stream.push(gap),
        }
    }
    by_stream
}
