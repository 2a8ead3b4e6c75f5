//! From what a run left to the state of the next: the checkpoint, with the rules of its time, then the journal, then the
//! change to the rules of now.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::limits::Limits;
use super::piece::{Damaged, Entry, PieceReader};
use super::plan::RuleSet;
use super::state::{Out, State, Taken};
use super::table::UNNAMED;
use super::window::{Definition, Series};
use super::{Left, Piece, saved};
use crate::counters::{Count, Counters};
use crate::reading::Name;

/// What came of what was left.
#[derive(Debug)]
pub(super) struct Restored {
    /// The state, with the rules of the run that left it.
    pub(super) state: State,
    /// The number of the last piece that there was.
    pub(super) last: u64,
    /// Bytes of the pieces that were not in the checkpoint.
    pub(super) bytes: usize,
}

/// Reads what was left. Whatever cannot be read is said, counted, and left out.
pub(super) fn read(left: Left, now_ms: u64, counters: &Counters) -> Restored {
    let Left { checkpoint, mut journal } = left;
    journal.sort_by_key(|piece| piece.number);
    let newest = journal.last().map_or(0, |piece| piece.number);
    let (state, through) = match checkpoint.map(|bytes| saved::decode(&bytes, now_ms)) {
        Some(Ok(found)) => found,
        None => (nothing(), 0),
        Some(Err(error)) => {
            tracing::error!("rules: {error}; windows that were open are given up, and all begin anew");
            counters.add(Count::StateDiscarded, DAMAGED, 1);
            return Restored { state: nothing(), last: newest, bytes: 0 };
        }
    };
    let mut replay = Replay { now_ms, slots: HashMap::new(), taken: Vec::new(), lost: 0, state };
    replay.find_slots();
    let (mut last, mut bytes) = (through, 0);
    for Piece { number, bytes: piece } in journal {
        if number <= last {
            continue;
        }
        let missing = number - last - 1;
        if missing > 0 {
            tracing::error!(
                "rules: pieces {} to {} of the journal of windows are missing; what they held is missing from windows",
                last + 1,
                number - 1
            );
            counters.add(Count::StateDiscarded, DAMAGED, missing);
        }
        last = number;
        bytes += piece.len();
        if let Err(error) = replay.piece(&piece) {
            tracing::error!("rules: piece {number} of the journal of windows: {error}; the rest of it is left out");
            counters.add(Count::StateDiscarded, DAMAGED, 1);
        }
    }
    if replay.lost > 0 {
        tracing::error!("rules: {} values of the journal of windows are for series that it does not name", replay.lost);
        counters.add(Count::StateDiscarded, DAMAGED, replay.lost);
    }
    Restored { state: replay.state, last: last.max(newest), bytes }
}

const DAMAGED: &str = "damaged";
const RULE_CHANGED: &str = "rule_changed";

struct Replay {
    state: State,
    now_ms: u64,
    /// Slots by the number that the journal has for a device.
    slots: HashMap<u32, u32>,
    taken: Vec<Taken>,
    /// Values that belong to nothing known.
    lost: u64,
}

impl Replay {
    fn find_slots(&mut self) {
        self.slots.clear();
        for slot in self.state.table.slots() {
            if let Some(device) = self.state.table.get_mut(slot) {
                self.slots.insert(device.id, slot);
            }
        }
    }

    fn piece(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
        let mut reader = PieceReader::new(bytes)?;
        while let Some(entry) = reader.next()? {
            self.entry(entry, &reader);
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry<'_>, reader: &PieceReader<'_>) {
        match entry {
            Entry::Rules(definitions) => {
                let state = std::mem::replace(&mut self.state, nothing());
                self.state = change(state, RuleSet::earlier(definitions), Limits::none(), None);
                self.find_slots();
            }
            Entry::Device { id, name } => {
                let name: Name = name.into();
                let slot = match self.state.table.find(&name) {
                    Some(slot) => slot,
                    None => self.state.add_device(&name, self.now_ms),
                };
                if let Some(device) = self.state.table.get_mut(slot) {
                    device.id = id;
                }
                self.state.table.next_id = self.state.table.next_id.max(id.saturating_add(1));
                self.slots.insert(id, slot);
            }
            Entry::Channel { device, id, measurement } => {
                if let Some(slot) = self.slots.get(&device) {
                    self.state.define_channel(*slot, id, &Arc::new(measurement));
                }
            }
            Entry::Profile { id, name } => {
                let profiles = &mut self.state.profiles;
                if id as usize == profiles.len() {
                    profiles.push(name.into());
                } else if let Some(known) = profiles.get_mut(id as usize) {
                    *known = name.into();
                }
            }
            Entry::Idle { device, rule } => {
                if let Some(slot) = self.slots.get(&device) {
                    self.state.close_idle(*slot, rule, &mut Out::Nowhere);
                }
            }
            Entry::Forget { device } => {
                if let Some(slot) = self.slots.remove(&device) {
                    self.state.forget(slot);
                }
            }
            Entry::Reading { device, time_ms, profile } => self.reading(device, time_ms, profile, reader),
        }
    }

    fn reading(&mut self, device: u32, time_ms: i64, profile: Option<u32>, reader: &PieceReader<'_>) {
        let slot = self.slots.get(&device).copied();
        let Some((slot, device)) = slot.and_then(|slot| Some((slot, self.state.table.get_mut(slot)?))) else {
            self.lost += reader.values.len() as u64;
            return;
        };
        if let Some(profile) = profile {
            device.journal_profile = profile;
        }
        let profile = device.journal_profile;
        self.taken.clear();
        for number in &reader.values {
            match device.channels.iter().position(|channel| channel.id == number.channel) {
                Some(channel) => self.taken.push(Taken::new(0, channel as u32, number.value, false, number.allowed)),
                None => self.lost += 1,
            }
        }
        if profile as usize >= self.state.profiles.len() {
            self.lost += self.taken.len() as u64;
            return;
        }
        self.state.accept(slot, time_ms, profile, &mut self.taken, &mut Out::Nowhere);
    }
}

/// No state, of no rules.
pub(super) fn nothing() -> State {
    State::new(RuleSet::earlier(Vec::new()), Limits::none())
}

/// Goes over to other rules: windows of a rule stay where it is the same (name, length, time zone) and still selects them.
/// What is given up is said and counted, unless that was done when it happened.
pub(super) fn change(mut state: State, rules: RuleSet, limits: Limits, counters: Option<&Counters>) -> State {
    let old: Vec<Definition> = std::mem::replace(&mut state.rules, rules).definitions().cloned().collect();
    let same = |old: &Definition| state.rules.definitions().zip(0..=u16::MAX).find(|(new, _)| old.same_windows(new));
    let now: Vec<Option<u16>> = old.iter().map(|old| same(old).map(|(_, index)| index)).collect();
    let mut given_up = vec![(0u64, 0u64); old.len()];
    for slot in state.table.slots() {
        let Some(device) = state.table.get_mut(slot) else { continue };
        let name = Name::clone(&device.name);
        let mut channels = std::mem::take(&mut device.channels);
        channels.retain_mut(|channel| {
            let plan = state.rules.work_out(&name, &channel.measurement.name);
            let earlier = std::mem::take(&mut channel.series);
            channel.series = plan.windows.iter().map(|rule| Series::new(*rule)).collect();
            channel.filters = (0..plan.states).map(|_| super::filter::Passed::default()).collect();
            channel.plan = state.rules.keep(plan);
            for series in earlier {
                let rule = now.get(usize::from(series.rule)).copied().flatten();
                let place = channel.series.iter_mut().find(|place| Some(place.rule) == rule);
                if let Some(place) = place {
                    (place.newest, place.closed_before) = (series.newest, series.closed_before);
                } else {
                    let (windows, values) = state.forget_windows(&series);
                    if let Some(lost) = given_up.get_mut(usize::from(series.rule)) {
                        *lost = (lost.0 + windows, lost.1.saturating_add(values));
                    }
                }
            }
            // A channel without windows leaves nothing that outlives a run.
            !channel.series.is_empty() && channel.id != UNNAMED
        });
        let stays = !channels.is_empty();
        if let Some(device) = state.table.get_mut(slot) {
            device.channels = channels;
        }
        if stays {
            state.recount(slot);
        } else {
            state.table.remove(slot);
        }
    }
    state.limits = limits;
    state.measure();
    if let Some(counters) = counters {
        for ((rule, now), (windows, values)) in old.iter().zip(now).zip(given_up).filter(|(_, lost)| lost.0 > 0) {
            let why =
                if now.is_some() { "no longer selects them" } else { "is gone, or has another length or time zone" };
            tracing::warn!(
                "rules: {windows} open windows with {values} values are given up: window `{}` {why}; what they held is not aggregated",
                rule.name
            );
            counters.add(Count::StateDiscarded, RULE_CHANGED, values);
        }
    }
    state
}

impl State {
    /// Works out how much is in use.
    fn measure(&mut self) {
        use super::limits::Limit;
        use super::table::Device;
        for device in self.table.devices() {
            self.limits.take(Limit::State, Device::bytes(&device.name));
            for channel in &device.channels {
                self.limits.take(Limit::State, channel.bytes());
                self.limits.take(Limit::Series, usize::from(channel.counted));
            }
        }
        (0..self.store.used()).for_each(|_| self.limits.take_window());
    }
}
