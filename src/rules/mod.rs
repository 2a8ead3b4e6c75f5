//! What happens to readings on the device: filters and windows, in one pass over a batch. Pure: no clock, no I/O, no
//! async; time comes in as an argument, and what has to be durable goes out as bytes.
//!
//! - `apply`: the way of a reading through all of it.
//! - `select`, `filter`, `plan`: which rules a value meets, and what filters do with it.
//! - `time`, `window` (with `crate::sum`): windows of event time, and what they hold.
//! - `state`, `table`, `limits`: all state that there is, the only code that changes it, and how much there may be.
//! - `journal`, `piece`, `saved`, `restore`: the same state after a restart.
//!
//! Invariants:
//! - The order of arrival within the lateness, the batches that values come in, and restarts change no aggregate.
//! - Whatever leaves the stream is counted once, under the rule that took it.
//! - Nothing is allocated for a reading of a known device, but for the alarms and the aggregates that it leads to.

mod apply;
mod decimal;
mod filter;
mod journal;
mod limits;
mod piece;
mod plan;
mod restore;
mod saved;
mod select;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod window;

use self::journal::Journal;
use self::limits::{Limit, Limits};
use self::plan::RuleSet;
use self::state::{Out, State, Taken};
use self::table::UNNAMED;
use self::time::millis;
use crate::config;
use crate::counters::Counters;
use crate::reading::{Batch, Record, Stamp};

/// A device that was silent for so long, and for twice as long as its windows can be amended, is forgotten.
const FORGET_AFTER_MS: u64 = 24 * 3_600_000;
/// How often such devices are looked for.
const FORGET_EVERY_MS: u64 = 600_000;

/// What the state took in since the last piece: to be stored in the same commit as the records that it led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Pieces are numbered from 1 without a gap, over all runs.
    pub number: u64,
    /// Opaque; [`Rules::restore`] reads it.
    pub bytes: Vec<u8>,
}

/// What rules make of a batch besides what they leave in it. All of a device is in the order in which it came about.
#[derive(Debug, Default)]
pub struct Made {
    /// Aggregates that are no alarms.
    pub aggregates: Batch,
    /// Readings and aggregates that are.
    pub alarms: Batch,
}

impl Made {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.aggregates.is_empty() && self.alarms.is_empty()
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.aggregates.clear();
        self.alarms.clear();
    }
}

/// The state as a run left it.
#[derive(Debug, Default)]
pub struct Left {
    /// The newest checkpoint ([`Rules::checkpoint`]).
    pub checkpoint: Option<Vec<u8>>,
    /// The pieces since then, in order; older ones may be among them.
    pub journal: Vec<Piece>,
}

/// All rules of a configuration and their state.
#[derive(Debug)]
pub struct Rules {
    state: State,
    journal: Journal,
    future_max_ms: i64,
    /// The most that the wall clock was ahead of the one that never steps, while it was trusted.
    offset_ms: Option<i64>,
    /// No window of a silent device closes before.
    idle_due_ms: u64,
    forget_due_ms: u64,
    /// Of the batch at hand: which fields are dropped.
    dropped: Vec<bool>,
    /// Of the reading at hand: its numbers for windows.
    taken: Vec<Taken>,
}

impl Rules {
    /// The rules of a configuration with the state that an earlier run left.
    #[must_use]
    pub fn restore(settings: &config::Rules, left: Left, now: Stamp, counters: &Counters) -> Self {
        let restore::Restored { state, last, bytes } = restore::read(left, now.monotonic_ms, counters);
        let mut rules = Self {
            journal: Journal::after(last, bytes, state.profiles.len()),
            state,
            future_max_ms: millis(settings.future_max),
            offset_ms: None,
            idle_due_ms: now.monotonic_ms,
            forget_due_ms: now.monotonic_ms.saturating_add(FORGET_EVERY_MS),
            dropped: Vec::new(),
            taken: Vec::new(),
        };
        rules.change(settings, counters);
        rules
    }

    /// Goes over to other rules between two batches. Windows of a rule that stays the same keep what they hold; those of others
    /// are given up, which is counted and said. What filters remember begins anew, as at a restart.
    pub fn change(&mut self, settings: &config::Rules, counters: &Counters) {
        self.state.rules.count();
        let rules = RuleSet::new(settings, counters);
        let changed = !self.state.rules.definitions().eq(rules.definitions());
        let state = std::mem::replace(&mut self.state, restore::nothing());
        self.state = restore::change(state, rules, Limits::new(settings, counters), Some(counters));
        if changed {
            self.journal.rules(&self.state.rules.definitions().collect::<Vec<_>>());
        }
        self.future_max_ms = millis(settings.future_max);
        // Another rule may close its windows after a shorter silence.
        self.idle_due_ms = 0;
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.rules.is_empty()
    }

    /// Takes out of `batch` what the rules drop and what is an alarm, and adds to `made` the alarms, and the aggregates of the
    /// windows that have closed.
    pub fn apply(&mut self, batch: &mut Batch, made: &mut Made) {
        if self.is_empty() {
            return;
        }
        self.dropped.clear();
        self.dropped.resize(batch.fields.len(), false);
        let mut any = false;
        for record in &mut batch.records {
            if let Record::Reading(reading) = record {
                any |= self.reading(reading, &batch.fields, made);
            }
        }
        if any {
            apply::compact(batch, &self.dropped);
        }
        self.state.rules.count();
    }

    /// Closes the windows of devices that have been silent for long enough.
    pub fn tick(&mut self, now: Stamp, made: &mut Made) {
        self.note_clock(now);
        if now.monotonic_ms >= self.idle_due_ms {
            self.close_idle(now, made);
        }
        if now.monotonic_ms >= self.forget_due_ms {
            self.forget(now.monotonic_ms);
        }
        self.state.rules.count();
    }

    /// What the state took in since the last call, if it did. To be called until there is none, and before
    /// [`Rules::checkpoint`] of the same commit.
    pub fn take_journal(&mut self) -> Option<Piece> {
        self.journal.take()
    }

    /// Bytes of journal since the last checkpoint: what a restart would have to read.
    #[must_use]
    pub fn journal_bytes(&self) -> usize {
        self.journal.bytes()
    }

    /// The whole state, and the pieces that it includes.
    #[must_use]
    pub fn checkpoint(&mut self) -> Vec<u8> {
        let through = self.journal.seal();
        saved::encode(&self.state, through)
    }

    /// Series with state, windows in memory, and roughly the bytes that all of it takes.
    #[must_use]
    pub fn usage(&self) -> (usize, usize, usize) {
        let used = |limit| self.state.limits.used(limit);
        (used(Limit::Series), used(Limit::OpenWindows), used(Limit::State))
    }

    fn note_clock(&mut self, now: Stamp) {
        if now.trusted {
            let offset = now.wall_ms.saturating_sub_unsigned(now.monotonic_ms);
            self.offset_ms = self.offset_ms.max(Some(offset));
        }
    }

    fn close_idle(&mut self, now: Stamp, made: &mut Made) {
        let mut due = now.monotonic_ms.saturating_add(self.state.rules.silence_min_ms);
        let mut out = Out::To(made, now);
        for slot in self.state.table.slots() {
            let Some(device) = self.state.table.get_mut(slot).filter(|device| device.open > 0) else { continue };
            let (since, id) = (device.windowed_ms, device.id);
            let first = since.saturating_add(self.state.rules.silence_min_ms);
            if now.monotonic_ms < first {
                due = due.min(first);
                continue;
            }
            for rule in 0..self.state.rules.windows.len() as u16 {
                let silence = self.state.rules.window(rule).map_or(u64::MAX, window::WindowRule::silence_ms);
                let at = since.saturating_add(silence);
                if now.monotonic_ms < at {
                    due = due.min(at);
                } else if self.state.close_idle(slot, rule, &mut out) {
                    self.journal.idle(id, rule);
                }
            }
        }
        self.idle_due_ms = due;
    }

    /// Forgets devices that have been silent for so long that nothing of theirs could still go into a window.
    fn forget(&mut self, now_ms: u64) {
        self.forget_due_ms = now_ms.saturating_add(FORGET_EVERY_MS);
        let settled_ms = self.state.rules.windows.iter().map(|rule| rule.settles_at(rule.definition.every_ms)).max();
        let silence_ms = FORGET_AFTER_MS.max(2 * settled_ms.unwrap_or(0).unsigned_abs());
        for slot in self.state.table.slots() {
            let Some(device) = self.state.table.get_mut(slot) else { continue };
            if device.open == 0 && now_ms.saturating_sub(device.heard_ms) >= silence_ms {
                if device.id != UNNAMED {
                    self.journal.forget(device.id);
                }
                self.state.forget(slot);
            }
        }
    }
}
