//! Segments that are delivered and kept for a while (`outbox.keep_delivered`), so that `tidegate outbox replay` can have
//! them delivered again.
//!
//! Invariants: a kept segment is no backlog, and it is the first to go where room is needed. That it is delivered stands
//! in the manifest and no longer in the cursor, which would grow with the number of kept segments. A segment that is
//! damaged, or holds no records, is not kept.

use super::*;
use crate::outbox::settled::Settled;

impl Writer {
    /// The closed segments that are to be deleted now: all of them is delivered, and they are kept no longer. They are
    /// `leaving` from then on.
    pub(super) fn to_release(&self, shared: &Shared) -> Vec<u64> {
        let mut state = shared.lock();
        let needed_from = self.needed_from(&state);
        let now_ms = clock::wall_ms();
        let durable = *shared.durable.borrow();
        let mut waits = false;
        let old = state.segments.range_mut(..needed_from);
        let old = old.filter(|(_, old)| old.missing() == 0 && remains_ms(shared, old, now_ms).is_none());
        let declared = old.filter(|(_, old)| {
            waits |= old.gap_at > durable;
            old.gap_at <= durable
        });
        let done = declared.map(|(number, segment)| {
            segment.leaving = true;
            *number
        });
        let done = done.collect();
        state.gaps = waits;
        done
    }

    /// Deletes the oldest segment that is kept, because room is needed; whether there was one.
    pub(super) fn release_kept(&mut self, shared: &Shared) -> Result<bool, CommitError> {
        let oldest = {
            let mut state = shared.lock();
            let needed_from = self.needed_from(&state);
            let mut old = state.segments.range_mut(..needed_from);
            let durable = *shared.durable.borrow();
            old.find(|(_, segment)| segment.missing() == 0 && segment.gap_at <= durable).map(|(number, segment)| {
                segment.leaving = true;
                *number
            })
        };
        let Some(oldest) = oldest else { return Ok(false) };
        self.replace(shared, &[oldest], None, &[])?;
        Ok(true)
    }

    /// Notes in the manifest which segments are kept though they are delivered, and when the first of them is to go.
    pub(super) fn keep_delivered(&mut self, shared: &Shared) -> Result<(), CommitError> {
        if shared.settings().keep_delivered.is_zero() {
            return Ok(());
        }
        let mut state = shared.lock();
        let now_ms = clock::wall_ms();
        let old = state.segments.range(..self.needed_from(&state));
        let kept = old.filter(|(_, segment)| segment.missing() == 0);
        let left_ms = kept.clone().filter_map(|(_, segment)| remains_ms(shared, segment, now_ms)).min();
        let news: Vec<u64> =
            kept.filter(|(_, segment)| segment.entry.delivered.is_none()).map(|(number, _)| *number).collect();
        state.expires = left_ms.map(|left| clock::instant() + Duration::from_millis(left));
        if news.is_empty() {
            return Ok(());
        }
        let note = |entry: &mut Entry| {
            if news.contains(&entry.number) {
                entry.delivered = Some(now_ms);
                let order = entry.settled.take().filter(|order| !order.given_up.is_empty());
                entry.settled = order.map(|order| Settled { given_up: order.given_up, ..Settled::default() });
            }
        };
        let mut manifest = self.current_manifest(&state);
        drop(state);
        manifest.segments.iter_mut().for_each(note);
        manifest.write(&shared.directory).map_err(CommitError::Manifest)?;
        self.manifest = manifest;
        shared.lock().segments.values_mut().for_each(|segment| note(&mut segment.entry));
        Ok(())
    }

    /// Whether one more segment fits below the bounds, once something that is delivered is gone.
    pub(super) fn has_room_without_kept(&self, shared: &Shared) -> bool {
        has_room(shared) || {
            let state = shared.lock();
            state.segments.range(..self.needed_from(&state)).any(|(_, segment)| segment.missing() == 0)
        }
    }
}

/// Bytes of segments that are only kept: they go before anything is given up for room.
pub(super) fn kept_bytes(state: &State) -> u64 {
    let kept = state.segments.values().filter(|segment| segment.entry.delivered.is_some());
    kept.map(|segment| segment.entry.bytes).sum()
}

/// For how long a segment of which everything is delivered is still kept; `None` where it may go.
fn remains_ms(shared: &Shared, segment: &SegmentState, now_ms: i64) -> Option<u64> {
    let keep_ms = u64::try_from(shared.settings().keep_delivered.as_millis()).unwrap_or(u64::MAX);
    if segment.entry.damaged || segment.entry.lanes == [None; 3] {
        return None;
    }
    // A clock that was set back makes it stay longer: it is delivered, and the first to go where room is needed.
    let age_ms = now_ms.saturating_sub(segment.entry.delivered.unwrap_or(now_ms));
    keep_ms.checked_sub(u64::try_from(age_ms).unwrap_or(0)).filter(|left| *left > 0)
}
