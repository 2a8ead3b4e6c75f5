//! When the time comes to be known: devices whose windows lie in the future of it.
//!
//! While nobody knew the time, a device's own time was taken as it was, however far ahead: it moved that device's watermark,
//! and all that came afterwards would be late until the time has caught up. So the watermark goes back to now. Windows that lie
//! wholly ahead are closed, which gives out what they hold, and forgotten: they begin anew when their time comes. A window of
//! now that may have closed already stays closed, so that it is not made a second time.

use super::state::{Out, State};
use super::table::UNNAMED;
use super::time::{TIME_MAX_MS, TIME_MIN_MS};
use super::window::NONE;
use super::{Made, Rules};
use crate::reading::Stamp;

impl Rules {
    /// Rewinds all devices that are further ahead of `now`, which is trusted, than is believed.
    pub(super) fn rewind(&mut self, now: Stamp, made: &mut Made) {
        let believed_ms = now.wall_ms.saturating_add(self.future_max_ms);
        let now_ms = now.wall_ms.clamp(TIME_MIN_MS, TIME_MAX_MS);
        let mut out = Out::To(made, now);
        for slot in self.state.table.slots() {
            let Some(device) = self.state.table.get_mut(slot) else { continue };
            if device.watermark <= believed_ms {
                continue;
            }
            let id = device.id;
            tracing::warn!(
                "rules: the times of device {:?} were in the future: its windows go on from now",
                device.name
            );
            self.state.rewind(slot, now_ms, &mut out);
            if id != UNNAMED {
                self.journal.rewind(id, now_ms);
            }
        }
    }
}

impl State {
    /// Sets a device's watermark back to `now_ms`.
    pub(super) fn rewind(&mut self, slot: u32, now_ms: i64, out: &mut Out<'_>) {
        let Self { rules, table, store, limits, profiles, closing } = self;
        let Some(device) = table.get_mut(slot) else { return };
        device.watermark = device.watermark.min(now_ms);
        for channel in &mut device.channels {
            for series in &mut channel.series {
                let Some(rule) = rules.windows.get_mut(usize::from(series.rule)) else { continue };
                let end_ms = rule.windows.around(now_ms).1;
                series.closed_before = series.closed_before.min(end_ms);
                while series.newest != NONE
                    && let Some(window) = store.get_mut(series.newest).filter(|window| window.start_ms >= end_ms)
                {
                    let is_open = window.revision == 0;
                    window.revision = window.revision.max(1);
                    closing.push((series.newest, is_open));
                    series.newest = series.older(store, series.newest);
                }
                for (at, is_open) in closing.drain(..).rev() {
                    if let Some(window) = store.get(at).filter(|_| is_open) {
                        super::state::emit(rule, &device.name, &channel.measurement, window, profiles, out);
                    }
                    super::state::release(store, limits, at);
                }
            }
        }
        self.recount(slot);
    }
}
