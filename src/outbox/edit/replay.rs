//! Deliver again what was delivered and is still there.

use super::super::inspect::{Piece, pieces};
use super::super::progress::Progress;
use super::super::record::Names;
use super::super::segment_state::SegmentState;
use super::super::settled::{self, Settled, marks};
use super::super::{Lane, segment::Contents};
use super::{Edit, EditError, Filter};

/// What a replay would do.
#[derive(Debug, Default)]
pub(crate) struct ReplayPlan {
    orders: Vec<(u64, Settled)>,
    /// Records to be delivered again, by lane.
    pub(crate) records: [u64; 3],
    /// When the first and the last of them were received.
    pub(crate) span_ms: Option<(i64, i64)>,
    /// When the oldest record that is still there was received, delivered or not.
    pub(crate) oldest_ms: Option<i64>,
    /// Records of those times that are damaged and cannot be delivered.
    pub(crate) damaged: u64,
}

impl ReplayPlan {
    /// Segments that hold such records.
    pub(crate) fn segments(&self) -> usize {
        self.orders.len()
    }
}

impl Edit {
    /// Finds the delivered records that `filter` takes; `looked_at` is told after each segment.
    pub(crate) fn plan_replay(
        &mut self,
        filter: &Filter,
        looked_at: &mut dyn FnMut(u64),
    ) -> Result<ReplayPlan, EditError> {
        let since = self.inspection.stored.next;
        let mut plan = ReplayPlan { oldest_ms: self.oldest_ms(), ..ReplayPlan::default() };
        let numbers: Vec<u64> = self.inspection.segments.keys().copied().collect();
        for number in numbers {
            let has_delivered = self.inspection.segments.get(&number).is_some_and(|segment| {
                Lane::ALL.into_iter().any(|lane| {
                    filter.takes_lane(lane)
                        && segment.entry.lanes[lane.index()]
                            .is_some_and(|range| segment.missing_of(lane) < range.count())
                })
            });
            if has_delivered && let Some(loaded) = self.inspection.load(number) {
                let contents = loaded?;
                if let Some(segment) = self.inspection.segments.get(&number)
                    && let Some(order) = plan.order(segment, &contents, filter, since)
                {
                    plan.orders.push((number, order));
                }
            }
            looked_at(number);
        }
        Ok(plan)
    }

    fn oldest_ms(&self) -> Option<i64> {
        self.inspection.segments.values().filter_map(|segment| segment.entry.oldest_ms).min()
    }

    /// Carries it out: the next start delivers these records again.
    pub(crate) fn replay(&self, plan: &ReplayPlan) -> Result<(), EditError> {
        let mut manifest = self.inspection.stored.clone();
        for (number, order) in &plan.orders {
            if let Some(entry) = manifest.segments.iter_mut().find(|entry| entry.number == *number) {
                (entry.delivered, entry.settled) = (None, Some(order.clone()));
            }
        }
        self.write(&manifest)
    }
}

impl ReplayPlan {
    /// What is to be delivered again of one segment.
    fn order(&mut self, segment: &SegmentState, contents: &Contents, filter: &Filter, since: u64) -> Option<Settled> {
        let ranges = segment.entry.lanes;
        // What stays delivered, and what had been delivered before: an earlier order may not be carried out yet.
        let mut again = ranges.map(|range| range.map(|range| Progress::new(range.first)));
        let given_up = settled::given_up(&segment.entry);
        let mut wanted = 0;
        let mut names = Names::default();
        for piece in pieces(&segment.entry, contents, &mut names) {
            match piece {
                Piece::Records { lane, first, batch } => {
                    for (number, record) in (first..).zip(&batch.records) {
                        let is_delivered = segment.is_delivered(lane, number);
                        let was_asked_for = !is_delivered && segment.was_delivered(lane, number);
                        let is_gone =
                            given_up[lane.index()].as_ref().is_some_and(|given_up| given_up.is_delivered(number));
                        let is_wanted = is_delivered && !is_gone && filter.takes_lane(lane) && filter.takes(record);
                        if (is_wanted || was_asked_for)
                            && let Some(again) = &mut again[lane.index()]
                        {
                            again.deliver(number);
                        }
                        if is_wanted {
                            wanted += 1;
                            self.records[lane.index()] += 1;
                            let at = record.received().wall_ms;
                            let (from, to) = self.span_ms.unwrap_or((at, at));
                            self.span_ms = Some((from.min(at), to.max(at)));
                        }
                    }
                }
                Piece::Damaged(damaged) if damaged.lane.is_some_and(|lane| filter.takes_lane(lane)) => {
                    self.damaged += damaged.range.count();
                }
                Piece::Damaged(_) => {}
            }
        }
        (wanted > 0).then(|| {
            let stays = Lane::ALL.map(|lane| {
                let range = ranges[lane.index()]?;
                let mut stays = Progress::new(range.first);
                let asked_for = |number| again[lane.index()].as_ref().is_some_and(|again| again.is_delivered(number));
                for number in (range.first..=range.last).filter(|&number| segment.is_delivered(lane, number)) {
                    if !asked_for(number) {
                        stays.deliver(number);
                    }
                }
                Some(stays)
            });
            let given_up = segment.entry.settled.as_ref().map(|order| order.given_up.clone()).unwrap_or_default();
            Settled { since, cursor: marks(&stays), again: marks(&again), given_up }
        })
    }
}
