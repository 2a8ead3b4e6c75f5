//! Windows: what one holds, the rules that ask for them, and where they are kept.
//!
//! All windows of all series are in one [`Store`], each series' as a list from the newest to the oldest: opening one where
//! another has closed takes its place, so that a gateway at work allocates nothing for it.

use serde::{Deserialize, Serialize};

use super::select::Select;
use super::time::{SPAN_MAX_MS, Windows, millis};
use crate::config;
use crate::counters::{Count, Counter, Counters};
use crate::reading::Name;
use crate::sum::Sum;

/// What of a window rule decides about its state: with another of these, state means something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Definition {
    pub(super) name: Name,
    pub(super) devices: Vec<String>,
    pub(super) measurements: Vec<String>,
    pub(super) every_ms: i64,
    pub(super) time_zone: Option<String>,
    pub(super) lateness_ms: i64,
    pub(super) update_within_ms: Option<i64>,
}

impl Definition {
    pub(super) fn new(window: &config::Window) -> Self {
        Self {
            name: window.name.as_str().into(),
            devices: window.select.devices.clone(),
            measurements: window.select.measurements.clone(),
            every_ms: millis(window.every).max(1),
            time_zone: window.time_zone.clone(),
            lateness_ms: millis(window.lateness),
            update_within_ms: window.update_within.map(millis),
        }
    }

    /// Whether a definition that was read from a disk can be worked with.
    pub(super) fn is_sound(&self) -> bool {
        (1..=SPAN_MAX_MS).contains(&self.every_ms)
            && (0..=SPAN_MAX_MS).contains(&self.lateness_ms)
            && self.update_within_ms.is_none_or(|within| (0..=SPAN_MAX_MS).contains(&within))
    }

    /// Whether windows of the other rule are windows of this one.
    pub(super) fn same_windows(&self, other: &Self) -> bool {
        self.name == other.name && self.every_ms == other.every_ms && self.time_zone == other.time_zone
    }
}

/// A window rule.
#[derive(Debug)]
pub(super) struct WindowRule {
    pub(super) definition: Definition,
    pub(super) select: Select,
    pub(super) windows: Windows,
    pub(super) forward_raw: bool,
    pub(super) tally: Tally,
    counters: Option<[Counter; 5]>,
}

/// What happened since it was last counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) made: u64,
    pub(super) absorbed: u64,
    pub(super) late: u64,
    pub(super) future: u64,
    pub(super) unsynced: u64,
}

impl WindowRule {
    /// A rule whose outcome nobody sees: of an earlier run.
    pub(super) fn earlier(definition: Definition) -> Self {
        Self {
            select: Select::new(&config::Select {
                devices: definition.devices.clone(),
                measurements: definition.measurements.clone(),
            }),
            windows: Windows::new(definition.every_ms, definition.time_zone.as_deref()),
            definition,
            forward_raw: true,
            tally: Tally::default(),
            counters: None,
        }
    }

    pub(super) fn new(window: &config::Window, counters: &Counters) -> Self {
        let counts =
            [Count::Aggregates, Count::ValuesAggregated, Count::ValuesLate, Count::ValuesFuture, Count::ValuesUnsynced];
        Self {
            forward_raw: window.forward_raw,
            counters: Some(counts.map(|count| counters.counter(count, &window.name))),
            ..Self::earlier(Definition::new(window))
        }
    }

    /// Hands on what was counted.
    pub(super) fn count(&mut self) {
        let Tally { made, absorbed, late, future, unsynced } = std::mem::take(&mut self.tally);
        let Some(counters) = &self.counters else { return };
        for (counter, n) in counters.iter().zip([made, absorbed, late, future, unsynced]) {
            if n > 0 {
                counter.add(n);
            }
        }
    }

    /// How long a device has to be silent, by the clock that never steps, for its windows to close.
    pub(super) fn silence_ms(&self) -> u64 {
        (self.definition.every_ms + self.definition.lateness_ms).unsigned_abs()
    }

    /// The watermark that closes a window.
    pub(super) fn closes_at(&self, end_ms: i64) -> i64 {
        end_ms + self.definition.lateness_ms
    }

    /// The watermark from which on a closed window is no longer amended.
    pub(super) fn settles_at(&self, end_ms: i64) -> i64 {
        self.closes_at(end_ms) + self.definition.update_within_ms.unwrap_or(0)
    }
}

/// What a window holds. Nothing in it depends on the order in which its values came.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
    /// 0 while it is open, then that of the aggregate that was made of it last.
    pub(super) revision: u32,
    /// Of the last value.
    pub(super) profile: u32,
    pub(super) count: u64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) first: (i64, f64),
    pub(super) last: (i64, f64),
    pub(super) sum: Sum,
    /// The next older window of the series, or the next free place.
    older: u32,
}

/// A value with all that a window wants to know of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) time_ms: i64,
    pub(super) value: f64,
    pub(super) profile: u32,
}

impl Window {
    /// A window with its first value.
    pub(super) fn new((start_ms, end_ms): (i64, i64), point: Point) -> Self {
        let Point { time_ms, value, profile } = point;
        let mut sum = Sum::default();
        sum.add(value);
        let of = (time_ms, value);
        Self {
            start_ms,
            end_ms,
            revision: 0,
            profile,
            count: 1,
            min: value,
            max: value,
            first: of,
            last: of,
            sum,
            older: NONE,
        }
    }

    /// Takes a value in. Equal times are told apart by value, and equal values by profile, so that no order matters.
    pub(super) fn add(&mut self, point: Point, profiles: &[Name]) {
        let Point { time_ms, value, profile } = point;
        // Nothing counts that far, but a damaged checkpoint may begin there.
        self.count = self.count.saturating_add(1);
        self.sum.add(value);
        // Not `f64::min`, which may return either of 0.0 and -0.0.
        if value.total_cmp(&self.min).is_lt() {
            self.min = value;
        }
        if value.total_cmp(&self.max).is_gt() {
            self.max = value;
        }
        let order = |to: &(i64, f64)| time_ms.cmp(&to.0).then_with(|| value.total_cmp(&to.1));
        if order(&self.first).is_lt() {
            self.first = (time_ms, value);
        }
        let name = |profile: u32| profiles.get(profile as usize);
        if order(&self.last).then_with(|| name(profile).cmp(&name(self.profile))).is_gt() {
            self.last = (time_ms, value);
            self.profile = profile;
        }
    }
}

/// No window.
pub(super) const NONE: u32 = u32::MAX;

/// All windows.
#[derive(Debug)]
pub(super) struct Store {
    slots: Vec<Window>,
    free: u32,
    used: usize,
}

impl Default for Store {
    fn default() -> Self {
        Self { slots: Vec::new(), free: NONE, used: 0 }
    }
}

impl Store {
    /// Windows in use.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    pub(super) fn get(&self, at: u32) -> Option<&Window> {
        self.slots.get(at as usize)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Window> {
        self.slots.get_mut(at as usize)
    }

    /// A place for a window; the place is unknown to any series yet.
    pub(super) fn put(&mut self, window: Window) -> u32 {
        self.used += 1;
        if let Some(slot) = self.slots.get_mut(self.free as usize) {
            let at = self.free;
            self.free = slot.older;
            *slot = window;
            return at;
        }
        self.slots.push(window);
        // There are at most as many as the configuration allows, which is less than a `u32` counts.
        (self.slots.len() - 1) as u32
    }

    /// Frees the place of a window that no series knows any more.
    pub(super) fn free(&mut self, at: u32) {
        if let Some(slot) = self.slots.get_mut(at as usize) {
            slot.older = self.free;
            self.free = at;
            self.used -= 1;
        }
    }
}

/// The windows of one channel for one rule.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) rule: u16,
    /// The newest of its windows in the store.
    pub(super) newest: u32,
    /// The end of the latest window that has closed; the least time if none has.
    pub(super) closed_before: i64,
}

impl Series {
    pub(super) fn new(rule: u16) -> Self {
        Self { rule, newest: NONE, closed_before: i64::MIN }
    }

    /// Its windows and their places, from the newest to the oldest.
    pub(super) fn windows<'a>(&self, store: &'a Store) -> impl Iterator<Item = (u32, &'a Window)> {
        let mut at = self.newest;
        std::iter::from_fn(move || {
            let window = store.get(at)?;
            let found = (at, window);
            at = window.older;
            Some(found)
        })
    }

    /// The place of the next older window.
    pub(super) fn older(&self, store: &Store, at: u32) -> u32 {
        store.get(at).map_or(NONE, |window| window.older)
    }

    /// The place of the newest window that `time_ms` is not before, and the place of the one after it.
    pub(super) fn find(&self, store: &Store, time_ms: i64) -> (u32, u32) {
        let (mut above, mut at) = (NONE, self.newest);
        while let Some(window) = store.get(at)
            && time_ms < window.start_ms
        {
            (above, at) = (at, window.older);
        }
        (above, at)
    }

    /// Puts a window below `above`, which [`Series::find`] found.
    pub(super) fn insert(&mut self, store: &mut Store, above: u32, mut window: Window) -> u32 {
        window.older = store.get(above).map_or(self.newest, |above| above.older);
        let at = store.put(window);
        self.link(store, above, at);
        at
    }

    /// Takes the window below `above` out of the list. Its place is still to be freed.
    pub(super) fn unlink(&mut self, store: &mut Store, above: u32, at: u32) {
        let older = store.get(at).map_or(NONE, |window| window.older);
        self.link(store, above, older);
    }

    fn link(&mut self, store: &mut Store, above: u32, below: u32) {
        match store.get_mut(above) {
            Some(above) => above.older = below,
            None => self.newest = below,
        }
    }
}
