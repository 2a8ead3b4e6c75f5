//! Filters: what they do with one value. Which of them a value meets is in its channel's plan.
//!
//! Two kinds of dropping: what `keep`, `drop` and `range` drop is gone, for windows too; a deadband and an interval only
//! thin out what is forwarded, and windows still see every value. So aggregates are true to every value, and they are the
//! same after a restart, although no deadband outlives one (it then sends a reading more).
//!
//! An alarm is never thinned out, and no filter after it applies to it: what was gone before it is no alarm. Deadbands and
//! intervals, those before it too, take an alarm for the last value that they let pass, so that the first value that is in
//! order again gets through a deadband. `at_most_every` makes ordinary values of further alarms; like a deadband it does not
//! outlive a restart, which costs an alarm more and never one less.

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::select::Select;
use super::time::millis;
use crate::config::{self, FilterAction, ValueRange};
use crate::counters::{Count, Counter, Counters};
use crate::reading::{Name, Value};

/// A filter of the configuration.
#[derive(Debug)]
pub(super) struct FilterRule {
    select: Select,
    action: FilterAction,
    range: Option<ValueRange>,
    deadband: Option<Deadband>,
    /// In milliseconds of event time.
    min_interval: u64,
    alarm: Option<Alarm>,
    stateful: bool,
    /// Values dropped, or alarms, since they were last counted.
    pub(super) hits: u64,
    counter: Counter,
}

#[derive(Debug)]
struct Alarm {
    /// Stands in the readings.
    rule: Name,
    when: config::Alarm,
    at_most_every: u64,
}

#[derive(Debug)]
struct Deadband {
    /// Infinite where there is none: nothing is greater.
    absolute: f64,
    /// Part of the last value; infinite where there is none.
    relative: f64,
    at_least_every: u64,
}

/// A filter that values of one channel meet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    rule: u16,
    does: Does,
}

#[derive(Clone, Debug, PartialEq)]
enum Does {
    /// Drops all.
    Drop,
    /// Drops what is in the range.
    DropRange,
    /// Drops what is not.
    KeepRange,
    /// Drops what is not, and thins out the rest.
    Thin,
    /// Makes alarms.
    Alarm,
    /// Makes alarms, and remembers the last.
    AlarmAtMost,
}

/// The last value that passed a deadband or an interval, or was an alarm.
#[derive(Clone, Debug, Default)]
pub(super) struct Passed {
    time_ms: i64,
    /// The number, the hash of the text, or the flag.
    bits: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Kind {
    #[default]
    Nothing,
    Number,
    Text,
    Flag,
}

/// For each step that keeps a state, in their order.
pub(super) type States = SmallVec<[Passed; 1]>;

/// What the filters made of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// It goes on.
    Pass,
    /// It is not forwarded itself, because of this rule; windows see it.
    Thin(u16),
    /// It is gone; it is counted under this rule.
    Gone(u16),
    /// It is an alarm by this rule; windows see it.
    Alarm(u16),
}

impl FilterRule {
    pub(super) fn new(filter: &config::Filter, counters: &Counters) -> Self {
        Self {
            select: Select::new(&filter.select),
            action: filter.action,
            range: filter.range,
            deadband: filter.deadband.map(|deadband| Deadband {
                absolute: deadband.absolute.unwrap_or(f64::INFINITY),
                relative: deadband.percent.map_or(f64::INFINITY, |percent| percent / 100.0),
                at_least_every: deadband.at_least_every.map_or(u64::MAX, |time| millis(time).unsigned_abs()),
            }),
            min_interval: filter.min_interval.map_or(0, |time| millis(time).unsigned_abs()),
            alarm: filter.alarm.as_ref().map(|when| Alarm {
                rule: filter.name.as_str().into(),
                when: when.clone(),
                at_most_every: when.at_most_every.map_or(0, |time| millis(time).unsigned_abs()),
            }),
            stateful: filter.deadband.is_some() || filter.min_interval.is_some(),
            hits: 0,
            counter: match filter.alarm {
                Some(_) => counters.counter(Count::Alarms, &filter.name),
                None => counters.counter(Count::ValuesFiltered, &filter.name),
            },
        }
    }

    /// The name that stands in readings that are alarms by this rule.
    pub(super) fn alarm(&self) -> Option<&Name> {
        self.alarm.as_ref().map(|alarm| &alarm.rule)
    }

    /// Hands on what was counted.
    pub(super) fn count(&mut self) {
        if self.hits > 0 {
            self.counter.add(std::mem::take(&mut self.hits));
        }
    }

    /// Whether a value is an alarm, and no other has been one since too short a time.
    fn is_alarm(&self, last: Option<&Passed>, time_ms: i64, value: &Value) -> bool {
        self.alarm.as_ref().is_some_and(|alarm| {
            let soon =
                |last: &Passed| last.kind != Kind::Nothing && time_ms.abs_diff(last.time_ms) < alarm.at_most_every;
            alarm.is_met(value) && !last.is_some_and(soon)
        })
    }

    fn in_range(&self, value: &Value) -> bool {
        let (Some(range), Value::Number(number)) = (self.range, value) else { return true };
        range.min.is_none_or(|min| *number >= min) && range.max.is_none_or(|max| *number <= max)
    }

    /// Whether a value has changed enough, and its time is not too close, for it to be forwarded.
    fn forwards(&self, passed: &Passed, time_ms: i64, value: &Value, bits: u64) -> bool {
        let since = time_ms.abs_diff(passed.time_ms);
        let differs = || passed.kind != kind(value) || passed.bits != bits;
        let changed = self.deadband.as_ref().is_none_or(|deadband| {
            since >= deadband.at_least_every
                || match value {
                    Value::Number(number) if passed.kind == Kind::Number => {
                        let last = f64::from_bits(passed.bits);
                        let change = (number - last).abs();
                        change > deadband.absolute || change > deadband.relative * last.abs()
                    }
                    _ => differs(),
                }
        });
        // The distance in either direction, so that a clock that was set back does not silence a device.
        changed && since >= self.min_interval
    }
}

impl Alarm {
    fn is_met(&self, value: &Value) -> bool {
        let config::Alarm { below, above, equals, .. } = &self.when;
        if below.is_none() && above.is_none() && equals.is_empty() {
            return true;
        }
        let outside =
            |number: f64| below.is_some_and(|below| number < below) || above.is_some_and(|above| number > above);
        matches!(value, Value::Number(number) if outside(*number)) || equals.contains(value)
    }
}

impl Does {
    fn keeps_state(&self) -> bool {
        matches!(self, Self::Thin | Self::AlarmAtMost)
    }
}

impl Passed {
    fn new(time_ms: i64, value: &Value) -> Self {
        Self { time_ms, bits: bits(value), kind: kind(value) }
    }
}

fn kind(value: &Value) -> Kind {
    match value {
        Value::Number(_) => Kind::Number,
        Value::Text(_) => Kind::Text,
        Value::Flag(_) => Kind::Flag,
    }
}

fn bits(value: &Value) -> u64 {
    match value {
        Value::Number(number) => number.to_bits(),
        Value::Text(text) => xxh3_64(text.as_bytes()),
        Value::Flag(flag) => u64::from(*flag),
    }
}

/// The filters that values of a channel meet, and how many of them keep a state.
pub(super) fn steps(rules: &[FilterRule], device: &str, measurement: &str) -> (Vec<Step>, usize) {
    let mut states = 0;
    let mut steps = Vec::new();
    // There are fewer rules than a `u16` counts; the configuration allows 256.
    for (rule, index) in rules.iter().zip(0..=u16::MAX) {
        let does = match (rule.action, rule.select.selects(device, measurement)) {
            (FilterAction::Keep, false) => Does::Drop,
            (FilterAction::Keep, true) if rule.range.is_some() => Does::KeepRange,
            (FilterAction::Drop, true) if rule.range.is_some() => Does::DropRange,
            (FilterAction::Drop, true) => Does::Drop,
            (FilterAction::Test, true) => match &rule.alarm {
                Some(alarm) if alarm.at_most_every > 0 => Does::AlarmAtMost,
                Some(_) => Does::Alarm,
                None if rule.stateful => Does::Thin,
                None => Does::KeepRange,
            },
            _ => continue,
        };
        states += usize::from(does.keeps_state());
        steps.push(Step { rule: index, does });
    }
    (steps, states)
}

/// Whether these steps let nothing through.
pub(super) fn drop_all(steps: &[Step]) -> bool {
    let decides = |step: &&Step| matches!(step.does, Does::Drop | Does::Alarm | Does::AlarmAtMost);
    steps.iter().find(decides).is_some_and(|step| step.does == Does::Drop)
}

/// What a channel's filters make of a value. Without `states` (there was no room for them) nothing is thinned out.
pub(super) fn pass(
    rules: &[FilterRule],
    steps: &[Step],
    states: &mut [Passed],
    time_ms: i64,
    value: &Value,
) -> Verdict {
    let mut verdict = Verdict::Pass;
    let mut next = 0;
    for step in steps {
        let Some(rule) = rules.get(usize::from(step.rule)) else { continue };
        let at = next;
        next += usize::from(step.does.keeps_state());
        if matches!(step.does, Does::Alarm | Does::AlarmAtMost) {
            let last = states.get(at).filter(|_| step.does == Does::AlarmAtMost);
            if rule.is_alarm(last, time_ms, value) {
                remember(steps, step, states, time_ms, value);
                return Verdict::Alarm(step.rule);
            }
            continue;
        }
        let gone = match step.does {
            Does::Drop => true,
            Does::DropRange => rule.in_range(value),
            _ => !rule.in_range(value),
        };
        if gone {
            // A value is counted once, under the first rule that dropped it.
            return Verdict::Gone(if let Verdict::Thin(first) = verdict { first } else { step.rule });
        }
        if verdict != Verdict::Pass || step.does != Does::Thin {
            continue;
        }
        let Some(passed) = states.get_mut(at) else { continue };
        let new = Passed::new(time_ms, value);
        if passed.kind == Kind::Nothing || rule.forwards(passed, time_ms, value, new.bits) {
            *passed = new;
        } else {
            verdict = Verdict::Thin(step.rule);
        }
    }
    verdict
}

/// An alarm was forwarded, whatever stood before it: for deadbands and intervals it is the last value that passed.
fn remember(steps: &[Step], by: &Step, states: &mut [Passed], time_ms: i64, value: &Value) {
    for (step, passed) in steps.iter().filter(|step| step.does.keeps_state()).zip(states) {
        if step.does == Does::Thin || step == by {
            *passed = Passed::new(time_ms, value);
        }
    }
}
