//! What windows took in, as bytes: so few that they can go into every commit.
//!
//! ```text
//! piece    = version (1), entry*
//! entry    = reading | 1, rules | 3, device | 5, channel | 7, profile | 9, idle | 11, forget | 13, rewind
//! reading  = device * 2, time, shape, [profile], [first channel], value*
//! time     = (zigzag of the difference to the reading before in the piece) * 2 in ms, or that in seconds * 2 + 1
//! shape    = (values - 1) * 8 + layout * 2 + whether the profile is another than that of the device's reading before
//! layout   = 0: channels 0, 1, 2...; 1: from the first channel on; 2: a channel before each value; 3: and the windows it may open
//! value    = (zigzag of the difference of its digits to the value before in the same column) * 8 + places | 7, 8 bytes
//! rules    = length, CBOR    device = id, length, name    channel = device id, id, kind, length, name, length + 1 or 0, unit
//! profile  = id, length, name    idle = device id, rule    forget = device id
//! rewind   = device id, zigzag of a time in ms
//! ```
//!
//! All numbers are LEB128. Differences are taken within a piece, so that a piece that is lost falsifies no other. Ids are
//! given when they are first used, and mean the same in all later pieces, whatever checkpoints are made between.

use std::collections::VecDeque;

use super::Piece;
use super::decimal::{Decimal, near};
use super::state::Taken;
use super::table::{Device, UNNAMED};
use super::window::Definition;
use crate::outbox::to_cbor;
use crate::reading::{Measurement, MeasurementKind, Name};

/// The format that this release writes.
pub(super) const VERSION: u8 = 1;
/// Columns of which the value before is remembered.
pub(super) const COLUMNS: usize = 16;

pub(super) const RULES: u64 = 1;
pub(super) const DEVICE: u64 = 3;
pub(super) const CHANNEL: u64 = 5;
pub(super) const PROFILE: u64 = 7;
pub(super) const IDLE: u64 = 9;
pub(super) const FORGET: u64 = 11;
pub(super) const REWIND: u64 = 13;

/// What a reading is told as a difference to.
#[derive(Debug, Default)]
pub(super) struct Before {
    pub(super) time_ms: i64,
    pub(super) values: [f64; COLUMNS],
    /// Places that the value before had: what the writer tries first.
    places: [u8; COLUMNS],
}

/// The pieces that are being made.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pending: Vec<u8>,
    before: Before,
    /// Pieces that a checkpoint has closed before anyone took them.
    sealed: VecDeque<Piece>,
    /// The number of the newest piece, sealed ones included.
    last: u64,
    /// Bytes of pieces since the last checkpoint.
    closed_bytes: usize,
    /// Profiles that the journal knows.
    profiles: usize,
}

impl Journal {
    /// Goes on after the piece of this number, with so many bytes since the last checkpoint, and so many profiles known.
    pub(super) fn after(last: u64, bytes: usize, profiles: usize) -> Self {
        Self { last, closed_bytes: bytes, profiles, ..Self::default() }
    }

    /// The next piece, if anything is in it.
    pub(super) fn take(&mut self) -> Option<Piece> {
        self.sealed.pop_front().or_else(|| self.close())
    }

    fn close(&mut self) -> Option<Piece> {
        if self.pending.is_empty() {
            return None;
        }
        self.last = self.last.saturating_add(1);
        self.closed_bytes += self.pending.len();
        let room = Vec::with_capacity(self.pending.len());
        Some(Piece { number: self.last, bytes: std::mem::replace(&mut self.pending, room) })
    }

    /// A checkpoint includes all up to here. The piece that is the last it includes.
    pub(super) fn seal(&mut self) -> u64 {
        if let Some(piece) = self.close() {
            self.sealed.push_back(piece);
        }
        self.closed_bytes = 0;
        self.last
    }

    /// Bytes since the last checkpoint.
    pub(super) fn bytes(&self) -> usize {
        self.closed_bytes + self.pending.len()
    }

    fn begin(&mut self) {
        if self.pending.is_empty() {
            self.pending.push(VERSION);
            self.before = Before::default();
        }
    }

    fn entry(&mut self, numbers: &[u64]) {
        self.begin();
        numbers.iter().for_each(|number| put(&mut self.pending, *number));
    }

    fn text(&mut self, text: &str) {
        put(&mut self.pending, text.len() as u64);
        self.pending.extend_from_slice(text.as_bytes());
    }

    /// From here on these are the rules.
    pub(super) fn rules(&mut self, definitions: &[&Definition]) {
        // Strings and numbers: nothing that CBOR does not know.
        let bytes = to_cbor(&definitions).unwrap_or_default();
        self.entry(&[RULES, bytes.len() as u64]);
        self.pending.extend_from_slice(&bytes);
    }

    /// Windows of a device that was silent have closed.
    pub(super) fn idle(&mut self, device: u32, rule: u16) {
        self.entry(&[IDLE, device.into(), rule.into()]);
    }

    /// A device is forgotten.
    pub(super) fn forget(&mut self, device: u32) {
        self.entry(&[FORGET, device.into()]);
    }

    /// A device's watermark is set back to that time.
    pub(super) fn rewind(&mut self, device: u32, now_ms: i64) {
        self.entry(&[REWIND, device.into(), zigzag(now_ms)]);
    }

    /// Some numbers of a reading went into windows, or moved the watermark. Names what has no number yet.
    pub(super) fn reading<'a>(
        &mut self,
        device: &mut Device,
        next_id: &mut u32,
        profiles: &[Name],
        time_ms: i64,
        values: impl Iterator<Item = &'a Taken> + Clone,
    ) {
        self.name(device, next_id, profiles, values.clone());
        self.begin();
        let (mut count, mut in_line, mut limited, mut first) = (0, true, false, 0);
        for taken in values.clone() {
            let id = id_of(device, taken);
            if count == 0 {
                first = id;
            }
            in_line &= u64::from(id) == u64::from(first) + count;
            limited |= taken.allowed != u32::MAX;
            count += 1;
        }
        if count == 0 {
            return;
        }
        let layout = match (limited, in_line, first) {
            (true, ..) => 3,
            (_, false, _) => 2,
            (_, _, 0) => 0,
            _ => 1,
        };
        let profile = device.profile.1;
        put(&mut self.pending, u64::from(device.id) << 1);
        put(&mut self.pending, time_code(time_ms - self.before.time_ms));
        self.before.time_ms = time_ms;
        put(&mut self.pending, (count - 1) << 3 | layout << 1 | u64::from(profile != device.journal_profile));
        if profile != device.journal_profile {
            device.journal_profile = profile;
            put(&mut self.pending, profile.into());
        }
        if layout == 1 {
            put(&mut self.pending, first.into());
        }
        for (taken, column) in values.zip((0..COLUMNS).cycle()) {
            if layout >= 2 {
                put(&mut self.pending, id_of(device, taken).into());
            }
            if layout == 3 {
                // 0 is no limit.
                put(&mut self.pending, taken.allowed.wrapping_add(1).into());
            }
            self.value(column, taken.value);
        }
    }

    fn value(&mut self, column: usize, value: f64) {
        let (before, places) = (&mut self.before.values[column], &mut self.before.places[column]);
        match Decimal::of(value, *places) {
            Some(decimal) => {
                let difference = decimal.digits - near(*before, decimal.places);
                put(&mut self.pending, zigzag(difference) << 3 | u64::from(decimal.places));
                *places = decimal.places;
            }
            None => {
                put(&mut self.pending, Decimal::NO_PLACES.into());
                self.pending.extend_from_slice(&value.to_le_bytes());
            }
        }
        *before = value;
    }

    /// Gives numbers to what has none.
    fn name<'a>(
        &mut self,
        device: &mut Device,
        next_id: &mut u32,
        profiles: &[Name],
        values: impl Iterator<Item = &'a Taken>,
    ) {
        for (id, name) in profiles.iter().enumerate().skip(self.profiles) {
            self.entry(&[PROFILE, id as u64]);
            self.text(name);
            self.profiles = id + 1;
        }
        if device.id == UNNAMED {
            device.id = *next_id;
            *next_id = next_id.saturating_add(1);
            self.entry(&[DEVICE, device.id.into()]);
            self.text(&device.name);
        }
        for taken in values {
            if id_of(device, taken) != UNNAMED {
                continue;
            }
            let next = device.channels.iter().map(|channel| channel.id).filter(|id| *id != UNNAMED).max();
            let Some(channel) = device.channels.get_mut(taken.channel as usize) else { continue };
            channel.id = next.map_or(0, |id| id + 1);
            let Measurement { name, unit, kind } = &*channel.measurement;
            self.entry(&[CHANNEL, device.id.into(), channel.id.into(), u64::from(*kind == MeasurementKind::Counter)]);
            self.text(name);
            match unit {
                Some(unit) => {
                    put(&mut self.pending, unit.len() as u64 + 1);
                    self.pending.extend_from_slice(unit.as_bytes());
                }
                None => put(&mut self.pending, 0),
            }
        }
    }
}

fn id_of(device: &Device, taken: &Taken) -> u32 {
    device.channels.get(taken.channel as usize).map_or(UNNAMED, |channel| channel.id)
}

fn time_code(difference_ms: i64) -> u64 {
    if difference_ms % 1000 == 0 { zigzag(difference_ms / 1000) << 1 | 1 } else { zigzag(difference_ms) << 1 }
}

/// Small numbers for small differences, whichever way they go.
fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}
