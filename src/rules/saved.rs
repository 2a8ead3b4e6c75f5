//! A checkpoint: all window state as bytes. One byte for the format, then CBOR, in arrays rather than maps where there is
//! one for each series. Times are told from a base, and numbers as decimals: a series takes some forty bytes so.
//!
//! It holds the definitions of the rules that it was made with, because state means nothing without them, and the numbers
//! that the journal has given, because the pieces after it use them.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use serde::{Deserialize, Serialize};

use super::decimal::Num;
use super::limits::Limits;
use super::plan::RuleSet;
use super::state::State;
use super::table::{Channel, Device, UNNAMED};
use super::time::{TIME_MAX_MS, TIME_MIN_MS};
use super::window::{Definition, NONE, Point, Series, Window};
use crate::outbox::{from_cbor, to_cbor};
use crate::reading::{Measurement, MeasurementKind, Name};
use crate::sum::Sum;

/// The format that this release writes. Whoever raises it raises that of `outbox/checkpoint.rs` too: an older release then
/// refuses to start, instead of giving up a state that it cannot read.
const VERSION: u8 = 1;

/// Why a checkpoint could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SavedError {
    /// It was written by a later release, or not as a checkpoint.
    #[error("expected a checkpoint of version 1, found {0:?}")]
    Version(Option<u8>),
    /// It is not what was written.
    #[error("expected the CBOR of a checkpoint: {0}")]
    Cbor(String),
    /// It contradicts itself.
    #[error("expected {0} in a checkpoint, found something else")]
    Content(&'static str),
}

#[derive(Serialize, Deserialize)]
struct Saved {
    /// The last piece of the journal that is included.
    through: u64,
    rules: Vec<Definition>,
    profiles: Vec<Name>,
    /// Name, unit, and whether it is a counter.
    measurements: Vec<(Box<str>, Option<Box<str>>, bool)>,
    /// What times are told from.
    base_ms: i64,
    next_device: u32,
    devices: Vec<SavedDevice>,
}

/// Id, name, profile, watermark, channels.
#[derive(Serialize, Deserialize)]
struct SavedDevice(u32, Name, u32, Option<i64>, Vec<SavedChannel>);

/// Id, measurement, series.
#[derive(Serialize, Deserialize)]
struct SavedChannel(u32, u32, Vec<SavedSeries>);

/// Rule, end of the latest window closed, windows from the newest to the oldest.
#[derive(Serialize, Deserialize)]
struct SavedSeries(u16, Option<i64>, Vec<SavedWindow>);

/// Start, length, revision, profile, count, least, greatest, first, last, sum. Times of values are told from the start.
#[derive(Serialize, Deserialize)]
struct SavedWindow(i64, i64, u32, u32, u64, Num, Num, (i64, Num), (i64, Num), Vec<Num>, Vec<Num>);

/// All state, with the number of the last piece that it includes.
pub(super) fn encode(state: &State, through: u64) -> Vec<u8> {
    let named = |device: &&Device| device.id != UNNAMED;
    let base_ms = state.table.devices().filter(named).map(|device| device.watermark).find(|time| *time != i64::MIN);
    let mut saved = Saved {
        through,
        rules: state.rules.definitions().cloned().collect(),
        profiles: state.profiles.clone(),
        measurements: Vec::new(),
        base_ms: base_ms.unwrap_or(0),
        next_device: state.table.next_id,
        devices: Vec::new(),
    };
    let mut measurements: HashMap<Arc<Measurement>, u32> = HashMap::new();
    for device in state.table.devices().filter(named) {
        let mut channels = Vec::with_capacity(device.channels.len());
        for channel in device.channels.iter().filter(|channel| channel.id != UNNAMED) {
            let measurement = *measurements.entry(Arc::clone(&channel.measurement)).or_insert_with(|| {
                let Measurement { name, unit, kind } = &*channel.measurement;
                saved.measurements.push((name.clone(), unit.clone(), *kind == MeasurementKind::Counter));
                (saved.measurements.len() - 1) as u32
            });
            let series = channel.series.iter().map(|series| save_series(state, series, saved.base_ms)).collect();
            channels.push(SavedChannel(channel.id, measurement, series));
        }
        let watermark = since(device.watermark, saved.base_ms);
        saved.devices.push(SavedDevice(
            device.id,
            Name::clone(&device.name),
            device.journal_profile,
            watermark,
            channels,
        ));
    }
    let mut bytes = vec![VERSION];
    // Strings and numbers: nothing that CBOR does not know.
    bytes.extend(to_cbor(&saved).unwrap_or_default());
    bytes
}

fn since(time_ms: i64, base_ms: i64) -> Option<i64> {
    (time_ms != i64::MIN).then(|| time_ms - base_ms)
}

fn save_series(state: &State, series: &Series, base_ms: i64) -> SavedSeries {
    let nums = |parts: &[f64]| parts.iter().copied().map(Num).collect();
    let windows = series.windows(&state.store).map(|(_, window)| {
        let (parts, huge) = window.sum.parts();
        let start = window.start_ms;
        let value = |(time_ms, value): (i64, f64)| (time_ms - start, Num(value));
        SavedWindow(
            start - base_ms,
            window.end_ms - start,
            window.revision,
            window.profile,
            window.count,
            Num(window.min),
            Num(window.max),
            value(window.first),
            value(window.last),
            nums(parts),
            nums(huge),
        )
    });
    SavedSeries(series.rule, since(series.closed_before, base_ms), windows.collect())
}

/// The state of a checkpoint, with the rules that it was made with, and the last piece that it includes.
pub(super) fn decode(bytes: &[u8], now_ms: u64) -> Result<(State, u64), SavedError> {
    let Some((&VERSION, bytes)) = bytes.split_first() else { return Err(SavedError::Version(bytes.first().copied())) };
    let saved: Saved = from_cbor(bytes).map_err(|error| SavedError::Cbor(error.to_string()))?;
    if !saved.rules.iter().all(Definition::is_sound) {
        return Err(SavedError::Content("sound rules"));
    }
    let base_ms = time(Some(saved.base_ms), 0)?;
    let mut state = State::new(RuleSet::earlier(saved.rules), Limits::none());
    state.profiles = saved.profiles;
    state.table.next_id = saved.next_device;
    let measurement = |(name, unit, counter): (Box<str>, Option<Box<str>>, bool)| {
        let kind = if counter { MeasurementKind::Counter } else { MeasurementKind::Gauge };
        Arc::new(Measurement { name, unit, kind })
    };
    let measurements: Vec<_> = saved.measurements.into_iter().map(measurement).collect();
    for SavedDevice(id, name, profile, watermark, channels) in saved.devices {
        if state.table.find(&name).is_some() {
            return Err(SavedError::Content("each device once"));
        }
        let slot = state.add_device(&name, now_ms);
        if let Some(device) = state.table.get_mut(slot) {
            device.id = id;
            device.journal_profile = profile;
            device.watermark = time(watermark, base_ms)?;
        }
        for SavedChannel(id, measurement, series) in channels {
            let measurement =
                measurements.get(measurement as usize).ok_or(SavedError::Content("a known measurement"))?;
            let channel = state.define_channel(slot, id, measurement);
            for saved in series {
                load_series(&mut state, slot, channel, saved, base_ms)?;
            }
        }
        state.recount(slot);
    }
    Ok((state, saved.through))
}

fn time(time_ms: Option<i64>, base_ms: i64) -> Result<i64, SavedError> {
    let Some(time_ms) = time_ms else { return Ok(i64::MIN) };
    let time_ms = time_ms.checked_add(base_ms).filter(|time| (2 * TIME_MIN_MS..=2 * TIME_MAX_MS).contains(time));
    time_ms.ok_or(SavedError::Content("a time"))
}

fn load_series(
    state: &mut State,
    slot: u32,
    channel: usize,
    saved: SavedSeries,
    base_ms: i64,
) -> Result<(), SavedError> {
    let SavedSeries(rule, closed_before, windows) = saved;
    let State { table, store, limits, profiles, .. } = state;
    let channel = table.get_mut(slot).and_then(|device| device.channels.get_mut(channel));
    let series = channel.and_then(|channel| channel.series.iter_mut().find(|series| series.rule == rule));
    let series: &mut Series = series.ok_or(SavedError::Content("a series that its rule selects"))?;
    series.closed_before = time(closed_before, base_ms)?;
    let mut above = NONE;
    for saved in windows {
        let window = load_window(saved, base_ms, profiles)?;
        if store.get(above).is_some_and(|above| window.start_ms >= above.start_ms) {
            return Err(SavedError::Content("windows in falling order"));
        }
        limits.take_window();
        above = series.insert(store, above, window);
    }
    Ok(())
}

fn load_window(saved: SavedWindow, base_ms: i64, profiles: &[Name]) -> Result<Window, SavedError> {
    let SavedWindow(start, length, revision, profile, count, min, max, first, last, parts, huge) = saved;
    let start_ms = time(Some(start), base_ms)?;
    let end_ms = time(Some(length), start_ms)?;
    let inside = |(at, value): (i64, Num)| {
        let inside = (0..length).contains(&at);
        if inside { Ok((start_ms + at, value.0)) } else { Err(SavedError::Content("times inside of their window")) }
    };
    if count == 0 || profile as usize >= profiles.len() {
        return Err(SavedError::Content("a window with values of a known profile"));
    }
    let plain = |nums: Vec<Num>| nums.into_iter().map(|num| num.0).collect::<Vec<f64>>();
    let (first, last) = (inside(first)?, inside(last)?);
    let mut window = Window::new((start_ms, end_ms), Point { time_ms: first.0, value: first.1, profile });
    window.revision = revision;
    window.count = count;
    (window.min, window.max, window.first, window.last) = (min.0, max.0, first, last);
    window.sum = Sum::from_parts(&plain(parts), &plain(huge));
    Ok(window)
}

impl State {
    /// Adds a device that is not there yet.
    pub(super) fn add_device(&mut self, name: &Name, now_ms: u64) -> u32 {
        self.limits.take(super::limits::Limit::State, Device::bytes(name));
        self.table.add(name, now_ms)
    }

    /// Adds a channel to a device, without the state that its plan asks for.
    pub(super) fn add_channel(&mut self, slot: u32, measurement: &Arc<Measurement>, plan: u32) -> usize {
        let channel = Channel::new(measurement, plan);
        self.limits.take(super::limits::Limit::State, channel.bytes());
        let Some(device) = self.table.get_mut(slot) else { return 0 };
        device.channels.push(channel);
        device.channels.len() - 1
    }

    /// Adds a channel as an earlier run had it; one that is there already gets the number.
    pub(super) fn define_channel(&mut self, slot: u32, id: u32, measurement: &Arc<Measurement>) -> usize {
        let Some(device) = self.table.get_mut(slot) else { return 0 };
        let channel = match device.channel(measurement, 0) {
            Some(channel) => channel,
            None => {
                let plan = self.rules.work_out(&device.name, &measurement.name);
                let plan = self.rules.keep(plan);
                let channel = self.add_channel(slot, measurement, plan);
                self.equip(slot, channel);
                channel
            }
        };
        if let Some(device) = self.table.get_mut(slot) {
            device.channels[channel].id = id;
        }
        channel
    }

    /// Works out what a device knows of its windows, after these were changed from outside.
    pub(super) fn recount(&mut self, slot: u32) {
        let Self { rules, table, store, .. } = self;
        let Some(device) = table.get_mut(slot) else { return };
        (device.open, device.next_close, device.closed_max) = (0, i64::MAX, i64::MIN);
        for series in device.channels.iter().flat_map(|channel| &channel.series) {
            let Some(rule) = rules.window(series.rule) else { continue };
            device.closed_max = device.closed_max.max(series.closed_before);
            for (_, window) in series.windows(store) {
                let open = window.revision == 0;
                device.open += u32::from(open);
                let next = if open { rule.closes_at(window.end_ms) } else { rule.settles_at(window.end_ms) };
                device.next_close = device.next_close.min(next);
            }
        }
    }
}
