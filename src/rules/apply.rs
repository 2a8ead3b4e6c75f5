//! The way of a reading: its fields through the filters of their channels, its numbers into windows and the journal, and
//! then the decision what of it is forwarded, and whether as an alarm.

use std::ops::Range;

use super::filter::{self, Verdict};
use super::limits::Limit;
use super::plan::Plan;
use super::state::{Change, Out, State, Taken};
use super::table::{Channel, Device, UNNAMED};
use super::time::{TIME_MAX_MS, TIME_MIN_MS};
use super::window::Tally;
use super::{Made, Rules};
use crate::reading::{Batch, Field, Mark, Name, Reading, Record, TimeQuality, Value};

impl Rules {
    /// Takes one reading through all rules. Whether anything of it was dropped, or moved to the alarms.
    pub(super) fn reading(&mut self, reading: &mut Reading, fields: &[Field], made: &mut Made) -> bool {
        self.note_clock(reading.received, made);
        let Range { start, end } = reading.fields;
        let mut slot = self.state.table.find(&reading.device);
        if let Some(device) = slot.and_then(|slot| self.state.table.get_mut(slot)) {
            device.heard_ms = reading.received.monotonic_ms;
        }
        self.taken.clear();
        let (mut near, mut any) = (0, false);
        let mut alarm: Option<u16> = None;
        for (index, field) in (start..end).zip(fields.get(start as usize..end as usize).unwrap_or_default()) {
            let number = match field.value {
                Value::Number(number) if number.is_finite() => Some(number),
                _ => None,
            };
            let verdict = match self.channel(&mut slot, near, reading, field) {
                Ok(channel) => {
                    near = channel + 1;
                    self.filter(slot, channel, reading, field, number, index)
                }
                Err(plan) => self.without_state(&plan, reading, field, number),
            };
            let (Verdict::Thin(rule) | Verdict::Gone(rule) | Verdict::Alarm(rule)) = verdict else { continue };
            if let Some(rule) = self.state.rules.filters.get_mut(usize::from(rule)) {
                rule.hits += 1;
            }
            if let Verdict::Alarm(rule) = verdict {
                alarm = Some(alarm.map_or(rule, |first| first.min(rule)));
            } else {
                self.dropped[index as usize] = true;
                any = true;
            }
        }
        if let Some(slot) = slot
            && !self.taken.is_empty()
        {
            any |= self.windows(slot, reading, made);
        }
        if let Some(rule) = alarm.and_then(|rule| self.state.rules.filters.get(usize::from(rule))) {
            reading.alarm = rule.alarm().cloned();
            self.move_to_alarms(reading, fields, &mut made.alarms);
            any = true;
        }
        any
    }

    /// Moves a reading, as far as it is forwarded, out of its batch: there it has nothing left.
    fn move_to_alarms(&mut self, reading: &Reading, fields: &[Field], alarms: &mut Batch) {
        let (start, Range { start: first, end }) = (alarms.mark(), reading.fields.clone());
        for (index, field) in (first..end).zip(fields.get(first as usize..end as usize).unwrap_or_default()) {
            if !std::mem::replace(&mut self.dropped[index as usize], true) {
                alarms.fields.push(field.clone());
            }
        }
        alarms.records.push(Record::Reading(Reading { fields: start..alarms.mark(), ..reading.clone() }));
    }

    /// The channel of a field, or, where there is no room for one, the rules that its values meet.
    fn channel(
        &mut self,
        slot: &mut Option<u32>,
        near: usize,
        reading: &Reading,
        field: &Field,
    ) -> Result<usize, Plan> {
        let device = slot.and_then(|slot| self.state.table.get_mut(slot));
        if let Some(channel) = device.and_then(|device| device.channel(&field.measurement, near)) {
            return Ok(channel);
        }
        let plan = self.state.rules.work_out(&reading.device, &field.measurement.name);
        let limits = &self.state.limits;
        let bytes = size_of::<Channel>() + if slot.is_some() { 0 } else { Device::bytes(&reading.device) };
        let stateful =
            plan.wants_state(true) && limits.in_the_way(&[(Limit::Series, 1), (Limit::State, bytes)]).is_none();
        // What needs no state is remembered to be faster, while there is room to spare.
        if !stateful && !limits.at_ease() {
            return Err(plan);
        }
        let place = match *slot {
            Some(place) => place,
            None => self.state.add_device(&reading.device, reading.received.monotonic_ms),
        };
        *slot = Some(place);
        let plan = self.state.rules.keep(plan);
        Ok(self.state.add_channel(place, &field.measurement, plan))
    }

    /// What filters make of a value; a number that windows want is noted.
    fn filter(
        &mut self,
        slot: Option<u32>,
        channel: usize,
        reading: &Reading,
        field: &Field,
        number: Option<f64>,
        index: u32,
    ) -> Verdict {
        let Some(slot) = slot else { return Verdict::Pass };
        self.equip_if_wanted(slot, channel, number);
        let State { rules, table, .. } = &mut self.state;
        let Some(found) = table.get_mut(slot).and_then(|device| device.channels.get_mut(channel)) else {
            return Verdict::Pass;
        };
        let Some(plan) = rules.plan(found.plan) else { return Verdict::Pass };
        let verdict = if plan.filters.is_empty() {
            Verdict::Pass
        } else {
            filter::pass(&rules.filters, &plan.filters, &mut found.filters, reading.time_ms, &field.value)
        };
        if let Some(number) = number
            && !found.series.is_empty()
            && !matches!(verdict, Verdict::Gone(_))
        {
            let mut taken = Taken::new(index, channel as u32, number, matches!(verdict, Verdict::Thin(_)), u32::MAX);
            // An alarm is forwarded, whatever windows make of it.
            taken.raw = matches!(verdict, Verdict::Alarm(_));
            self.taken.push(taken);
        }
        verdict
    }

    /// Gives a channel its state at the first value that needs one, if there is room.
    fn equip_if_wanted(&mut self, slot: u32, channel: usize, number: Option<f64>) {
        let State { rules, table, limits, .. } = &mut self.state;
        let Some(device) = table.get_mut(slot) else { return };
        let Some(found) = device.channels.get(channel).filter(|channel| !channel.counted) else { return };
        let Some(plan) = rules.plan(found.plan) else { return };
        if !plan.wants_state(number.is_some()) {
            return;
        }
        match limits.in_the_way(&[(Limit::Series, 1), (Limit::State, 1)]) {
            Some(limit) => limits.refuse(limit, &device.name, &found.measurement.name),
            None => self.state.equip(slot, channel),
        }
    }

    /// What filters make of a value for which there is no room.
    fn without_state(&mut self, plan: &Plan, reading: &Reading, field: &Field, number: Option<f64>) -> Verdict {
        if plan.wants_state(number.is_some()) {
            let limit = self.state.limits.in_the_way(&[(Limit::Series, 1)]).unwrap_or(Limit::State);
            self.state.limits.refuse(limit, &reading.device, &field.measurement.name);
        }
        filter::pass(&self.state.rules.filters, &plan.filters, &mut [], reading.time_ms, &field.value)
    }

    /// Takes the numbers that were noted into their windows. Whether any is not forwarded for it.
    fn windows(&mut self, slot: u32, reading: &mut Reading, made: &mut Made) -> bool {
        if reading.time_quality == TimeQuality::Unsynced {
            self.stay_out(slot, |tally| &mut tally.unsynced);
            return false;
        }
        // Once known it says what is ahead also while the wall clock is not trusted.
        let now = self.offset_ms.map(|offset| offset.saturating_add_unsigned(reading.received.monotonic_ms));
        let outside = if reading.time_ms < TIME_MIN_MS { Some(Mark::Late) } else { None };
        let ahead = now.is_some_and(|now| reading.time_ms > now.saturating_add(self.future_max_ms));
        let outside = if ahead || reading.time_ms > TIME_MAX_MS { Some(Mark::Future) } else { outside };
        if let Some(mark) = outside {
            self.stay_out(slot, |tally| if mark == Mark::Late { &mut tally.late } else { &mut tally.future });
            if self.taken.iter().any(|taken| !taken.thinned) {
                reading.mark = mark;
            }
            return false;
        }
        let Some(profile) = self.profile(slot, &reading.profile) else { return false };
        let mut out = Out::To(made, reading.received);
        let change = self.state.accept(slot, reading.time_ms, profile, &mut self.taken, &mut out);
        if change.moved || change.accepted {
            self.keep(slot, reading, change);
        }
        self.settle(slot, reading)
    }

    /// Counts what stays out of all windows.
    fn stay_out(&mut self, slot: u32, count: impl Fn(&mut Tally) -> &mut u64) {
        let State { rules, table, .. } = &mut self.state;
        let Some(device) = table.get_mut(slot) else { return };
        let channels = self.taken.iter().filter_map(|taken| device.channels.get(taken.channel as usize));
        for series in channels.flat_map(|channel| &channel.series) {
            if let Some(rule) = rules.windows.get_mut(usize::from(series.rule)) {
                *count(&mut rule.tally) += 1;
            }
        }
    }

    /// The number of the profile that a device speaks.
    fn profile(&mut self, slot: u32, name: &Name) -> Option<u32> {
        let device = self.state.table.get_mut(slot)?;
        if !Name::ptr_eq(&device.profile.0, name) || device.profile.1 == UNNAMED {
            let number = self.state.profile(name);
            self.state.table.get_mut(slot)?.profile = (Name::clone(name), number);
            return Some(number);
        }
        Some(device.profile.1)
    }

    /// Writes into the journal what changed the state.
    fn keep(&mut self, slot: u32, reading: &Reading, change: Change) {
        let State { table, profiles, .. } = &mut self.state;
        let mut next_id = table.next_id;
        let Some(device) = table.get_mut(slot) else { return };
        if change.accepted {
            device.windowed_ms = reading.received.monotonic_ms;
        }
        // What was refused for want of room may have moved the watermark before.
        let values = self.taken.iter().filter(|taken| taken.accepted || (change.moved && taken.refused));
        self.journal.reading(device, &mut next_id, profiles, reading.time_ms, values);
        table.next_id = next_id;
    }

    /// Decides what of a reading is forwarded beside the windows that have it.
    fn settle(&mut self, slot: u32, reading: &mut Reading) -> bool {
        let State { rules, table, .. } = &mut self.state;
        let mut any = false;
        for taken in self.taken.iter().filter(|taken| !taken.thinned) {
            if taken.raw {
                if taken.late {
                    reading.mark = Mark::Late;
                }
                continue;
            }
            let channel = table.get_mut(slot).and_then(|device| device.channels.get(taken.channel as usize));
            let first = channel.and_then(|channel| channel.series.first()).map_or(0, |series| series.rule);
            if let Some(rule) = rules.windows.get_mut(usize::from(first)) {
                rule.tally.absorbed += 1;
            }
            self.dropped[taken.field as usize] = true;
            any = true;
        }
        any
    }
}

/// Takes dropped fields out of a batch, and readings that had no other, in place.
pub(super) fn compact(batch: &mut Batch, dropped: &[bool]) {
    // How many fields are gone before the one at hand. Readings lie one after the other, so that this is one pass.
    let (mut at, mut gone) = (0usize, 0u32);
    let mut gone_before = |index: u32| {
        if (index as usize) < at {
            (at, gone) = (0, 0);
        }
        while at < index as usize {
            gone += u32::from(dropped.get(at).copied().unwrap_or(false));
            at += 1;
        }
        gone
    };
    batch.records.retain_mut(|record| {
        let Record::Reading(reading) = record else { return true };
        let Range { start, end } = reading.fields;
        reading.fields = start - gone_before(start)..end - gone_before(end);
        start == end || !reading.fields.is_empty()
    });
    let mut index = 0;
    batch.fields.retain(|_| {
        index += 1;
        !dropped.get(index - 1).copied().unwrap_or(false)
    });
}
