//! Windows over event time: how they take values in, close, and settle. Live readings and the journal's go through the same
//! functions, so that a restart comes to the same state.
//!
//! Invariants: state depends on nothing but what [`State::accept`], [`State::close_idle`] and [`State::forget`] are called
//! with, in that order; no clock is involved. A window is open (revision 0) until its device's watermark has passed its end by
//! the lateness, or its device was silent; then it is gone, or kept until it can no longer be amended.

use super::Made;
use super::limits::{Limit, Limits, WINDOW};
use super::plan::RuleSet;
use super::table::{Channel, Device, Table};
use super::window::{NONE, Point, Series, Store, Window, WindowRule};
use crate::reading::{Aggregate, Name, Origin, Record, Stamp};

/// Where aggregates go.
#[derive(Debug)]
pub(super) enum Out<'a> {
    /// Nowhere: they were made in an earlier run.
    Nowhere,
    /// To these, made at this moment.
    To(&'a mut Made, Stamp),
}

/// A number for the windows of its channel, and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// Place of the field in its batch.
    pub(super) field: u32,
    /// Place of the channel in its device.
    pub(super) channel: u32,
    pub(super) value: f64,
    /// Whether a filter has taken it out of what is forwarded.
    pub(super) thinned: bool,
    /// How many windows it may open: fewer than it wants where a limit was reached.
    pub(super) allowed: u32,
    /// Some window has it.
    pub(super) accepted: bool,
    /// Some window had closed.
    pub(super) late: bool,
    /// There was no room for some window.
    pub(super) refused: bool,
    /// Some window did not take it, or its rule forwards what it takes.
    pub(super) raw: bool,
}

impl Taken {
    pub(super) fn new(field: u32, channel: u32, value: f64, thinned: bool, allowed: u32) -> Self {
        Self { field, channel, value, thinned, allowed, accepted: false, late: false, refused: false, raw: false }
    }
}

/// What [`State::accept`] did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Change {
    /// The watermark moved.
    pub(super) moved: bool,
    /// Some window has some value.
    pub(super) accepted: bool,
}

/// All state that outlives a run, and what it is measured by.
#[derive(Debug)]
pub(super) struct State {
    pub(super) rules: RuleSet,
    pub(super) table: Table,
    pub(super) store: Store,
    pub(super) limits: Limits,
    /// The names of all profiles met.
    pub(super) profiles: Vec<Name>,
    /// Places of windows on their way out: whether they leave the store.
    pub(super) closing: Vec<(u32, bool)>,
}

impl State {
    pub(super) fn new(rules: RuleSet, limits: Limits) -> Self {
        Self {
            rules,
            table: Table::default(),
            store: Store::default(),
            limits,
            profiles: Vec::new(),
            closing: Vec::new(),
        }
    }

    /// The number of a profile.
    pub(super) fn profile(&mut self, name: &Name) -> u32 {
        let known = self.profiles.iter().position(|other| other == name);
        known.unwrap_or_else(|| {
            self.profiles.push(Name::clone(name));
            self.profiles.len() - 1
        }) as u32
    }

    /// Gives a channel the state that its plan asks for.
    pub(super) fn equip(&mut self, slot: u32, channel: usize) {
        let Some(channel) = self.table.get_mut(slot).and_then(|device| device.channels.get_mut(channel)) else {
            return;
        };
        let Some(plan) = self.rules.plan(channel.plan) else { return };
        let before = channel.bytes();
        channel.filters.resize(plan.states, super::filter::Passed::default());
        channel.series = plan.windows.iter().map(|rule| Series::new(*rule)).collect();
        channel.counted = true;
        let grown = channel.bytes() - before;
        self.limits.take(Limit::Series, 1);
        self.limits.take(Limit::State, grown);
    }

    /// Takes one reading's numbers into the windows of their channels. The watermark moves first, and what it closes closes
    /// before anything opens.
    pub(super) fn accept(
        &mut self,
        slot: u32,
        time_ms: i64,
        profile: u32,
        values: &mut [Taken],
        out: &mut Out<'_>,
    ) -> Change {
        let mut change = Change { moved: false, accepted: false };
        let Some(device) = self.table.get_mut(slot) else { return change };
        if time_ms > device.watermark
            && (time_ms >= device.closed_max
                || values.iter().any(|value| timely(&mut self.rules, device, value, time_ms)))
        {
            device.watermark = time_ms;
            change.moved = true;
            if time_ms >= device.next_close {
                self.close_due(slot, out);
            }
        }
        let Self { rules, table, store, limits, profiles, .. } = self;
        let Some(device) = table.get_mut(slot) else { return change };
        let Device { name, watermark, next_close, open, channels, .. } = device;
        for taken in values {
            let Some(channel) = channels.get_mut(taken.channel as usize) else { continue };
            let Channel { measurement, series, .. } = channel;
            let point = Point { time_ms, value: taken.value, profile };
            let mut opened = 0;
            for series in series {
                let Some(rule) = rules.windows.get_mut(usize::from(series.rule)) else { continue };
                let (above, at) = series.find(store, time_ms);
                if let Some(window) = store.get_mut(at).filter(|window| time_ms < window.end_ms) {
                    window.add(point, profiles);
                    taken.accepted = true;
                    taken.raw |= rule.forward_raw;
                    if window.revision > 0 {
                        window.revision = window.revision.saturating_add(1);
                        emit(rule, name, measurement, window, profiles, out);
                    }
                    continue;
                }
                let (start_ms, end_ms) = rule.windows.around(time_ms);
                let late = rule.closes_at(end_ms) <= *watermark || end_ms <= series.closed_before;
                if late && (rule.definition.update_within_ms.is_none() || rule.settles_at(end_ms) <= *watermark) {
                    rule.tally.late += 1;
                    taken.late = true;
                    taken.raw = true;
                    continue;
                }
                let limit = if taken.refused { None } else { limits.in_the_way(&WINDOW) };
                if let Some(limit) = limit {
                    limits.refuse(limit, name, &measurement.name);
                    taken.allowed = taken.allowed.min(opened);
                }
                if opened >= taken.allowed {
                    taken.refused = true;
                    taken.raw = true;
                    continue;
                }
                opened += 1;
                limits.take_window();
                let mut window = Window::new((start_ms, end_ms), point);
                if late {
                    window.revision = 1;
                    emit(rule, name, measurement, &window, profiles, out);
                    *next_close = rule.settles_at(end_ms).min(*next_close);
                } else {
                    *open += 1;
                    *next_close = rule.closes_at(end_ms).min(*next_close);
                }
                series.insert(store, above, window);
                taken.accepted = true;
                taken.raw |= rule.forward_raw;
            }
            change.accepted |= taken.accepted;
        }
        change
    }

    /// Closes the windows that the watermark has passed, and lets go of those that it has passed for good.
    fn close_due(&mut self, slot: u32, out: &mut Out<'_>) {
        let Self { rules, table, store, limits, profiles, closing } = self;
        let Some(device) = table.get_mut(slot) else { return };
        let Device { name, watermark, next_close, closed_max, open, channels, .. } = device;
        let mut next = i64::MAX;
        for channel in channels {
            for series in &mut channel.series {
                let Some(rule) = rules.windows.get_mut(usize::from(series.rule)) else { continue };
                let (mut above, mut at) = (NONE, series.newest);
                while let Some(window) = store.get_mut(at) {
                    let (closes_at, settles_at) = (rule.closes_at(window.end_ms), rule.settles_at(window.end_ms));
                    let closes = window.revision == 0 && closes_at <= *watermark;
                    if closes {
                        window.revision = 1;
                        *open -= 1;
                        series.closed_before = series.closed_before.max(window.end_ms);
                        *closed_max = window.end_ms.max(*closed_max);
                    }
                    let stays = window.revision == 0 || settles_at > *watermark;
                    if closes || !stays {
                        closing.push((at, closes));
                    }
                    if stays {
                        next = next.min(if window.revision == 0 { closes_at } else { settles_at });
                        (above, at) = (at, series.older(store, at));
                    } else {
                        let older = series.older(store, at);
                        series.unlink(store, above, at);
                        at = older;
                    }
                }
                // The oldest comes last in the list, and its aggregate first.
                for (at, closes) in closing.drain(..).rev() {
                    let Some(window) = store.get(at) else { continue };
                    if closes {
                        emit(rule, name, &channel.measurement, window, profiles, out);
                    }
                    if rule.settles_at(window.end_ms) <= *watermark {
                        release(store, limits, at);
                    }
                }
            }
        }
        *next_close = next;
    }

    /// Closes all open windows that a device has for a rule: it has been silent. Whether there were any.
    pub(super) fn close_idle(&mut self, slot: u32, rule_index: u16, out: &mut Out<'_>) -> bool {
        let Self { rules, table, store, limits, profiles, closing } = self;
        let Some(rule) = rules.windows.get_mut(usize::from(rule_index)) else { return false };
        let Some(device) = table.get_mut(slot) else { return false };
        let Device { name, watermark, next_close, closed_max, open, channels, .. } = device;
        let before = *open;
        for channel in channels {
            for series in channel.series.iter_mut().filter(|series| series.rule == rule_index) {
                let (mut above, mut at) = (NONE, series.newest);
                while at != NONE {
                    let older = series.older(store, at);
                    let Some(window) = store.get_mut(at).filter(|window| window.revision == 0) else {
                        (above, at) = (at, older);
                        continue;
                    };
                    window.revision = 1;
                    *open -= 1;
                    series.closed_before = series.closed_before.max(window.end_ms);
                    *closed_max = window.end_ms.max(*closed_max);
                    let settles_at = rule.settles_at(window.end_ms);
                    let stays = rule.definition.update_within_ms.is_some() && settles_at > *watermark;
                    closing.push((at, stays));
                    if stays {
                        *next_close = settles_at.min(*next_close);
                        above = at;
                    } else {
                        series.unlink(store, above, at);
                    }
                    at = older;
                }
                for (at, stays) in closing.drain(..).rev() {
                    let Some(window) = store.get(at) else { continue };
                    emit(rule, name, &channel.measurement, window, profiles, out);
                    if !stays {
                        release(store, limits, at);
                    }
                }
            }
        }
        *open < before
    }

    /// Forgets a device and all its state.
    pub(super) fn forget(&mut self, slot: u32) {
        let Some(device) = self.table.remove(slot) else { return };
        self.limits.give_back(Limit::State, Device::bytes(&device.name));
        for channel in device.channels {
            self.forget_channel(&channel);
        }
    }

    /// Gives back what a channel takes that is in no device any more.
    pub(super) fn forget_channel(&mut self, channel: &Channel) {
        self.limits.give_back(Limit::State, channel.bytes());
        self.limits.give_back(Limit::Series, usize::from(channel.counted));
        for series in &channel.series {
            self.forget_windows(series);
        }
    }

    /// Gives back the windows of a series that is in no channel any more. How many were open, and how many values these held.
    pub(super) fn forget_windows(&mut self, series: &Series) -> (u64, u64) {
        let (mut windows, mut values, mut at) = (0, 0, series.newest);
        while let Some(window) = self.store.get(at) {
            if window.revision == 0 {
                windows += 1;
                values = window.count.saturating_add(values);
            }
            let older = series.older(&self.store, at);
            release(&mut self.store, &mut self.limits, at);
            at = older;
        }
        (windows, values)
    }
}

/// Frees a window's place.
pub(super) fn release(store: &mut Store, limits: &mut Limits, at: u32) {
    store.free(at);
    limits.give_back_window();
}

/// Whether a value newer than the watermark has a window that would take it.
fn timely(rules: &mut RuleSet, device: &Device, value: &Taken, time_ms: i64) -> bool {
    let Some(channel) = device.channels.get(value.channel as usize) else { return false };
    channel.series.iter().any(|series| {
        let Some(rule) = rules.windows.get_mut(usize::from(series.rule)) else { return false };
        // What is newer than the watermark is late only where silence has closed its window.
        rule.definition.update_within_ms.is_some() || rule.windows.around(time_ms).1 > series.closed_before
    })
}

pub(super) fn emit(
    rule: &mut WindowRule,
    device: &Name,
    measurement: &std::sync::Arc<crate::reading::Measurement>,
    window: &Window,
    profiles: &[Name],
    out: &mut Out<'_>,
) {
    let Out::To(made, at) = out else { return };
    rule.tally.made += 1;
    let is_alarm = rule.is_alarm(window);
    rule.tally.alarms += u64::from(is_alarm);
    let batch = if is_alarm { &mut made.alarms } else { &mut made.aggregates };
    batch.records.push(Record::Aggregate(Box::new(Aggregate {
        device: Name::clone(device),
        profile: profiles.get(window.profile as usize).map_or_else(|| "".into(), Name::clone),
        measurement: std::sync::Arc::clone(measurement),
        origin: Origin::Window,
        window: Name::clone(&rule.definition.name),
        start_ms: window.start_ms,
        end_ms: window.end_ms,
        revision: window.revision,
        count: window.count,
        sum: window.sum.value(),
        min: window.min,
        max: window.max,
        first: window.first.1,
        last: window.last.1,
        at: *at,
    })));
}
