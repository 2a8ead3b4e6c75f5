//! Reads what [`super::journal`] wrote, or whatever else stands there: a wrong byte is an error, never a panic, and nothing
//! takes more memory than the piece has bytes.

use super::decimal::{Decimal, near};
use super::journal::{Before, CHANNEL, COLUMNS, DEVICE, FORGET, IDLE, PROFILE, REWIND, RULES, VERSION};
use super::time::{TIME_MAX_MS, TIME_MIN_MS};
use super::window::Definition;
use crate::outbox::from_cbor;
use crate::reading::{Measurement, MeasurementKind};

/// An entry of a piece.
#[derive(Debug, PartialEq)]
pub(super) enum Entry<'a> {
    Rules(Vec<Definition>),
    Device {
        id: u32,
        name: &'a str,
    },
    Channel {
        device: u32,
        id: u32,
        measurement: Measurement,
    },
    Profile {
        id: u32,
        name: &'a str,
    },
    Idle {
        device: u32,
        rule: u16,
    },
    Forget {
        device: u32,
    },
    Rewind {
        device: u32,
        now_ms: i64,
    },
    /// Its values are in [`PieceReader::values`].
    Reading {
        device: u32,
        time_ms: i64,
        profile: Option<u32>,
    },
}

/// What is wrong with a piece, and where.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("expected {expected} at byte {at} of {length}")]
pub(super) struct Damaged {
    expected: &'static str,
    at: usize,
    length: usize,
}

/// A number of a reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Number {
    pub(super) channel: u32,
    /// How many windows it may open.
    pub(super) allowed: u32,
    pub(super) value: f64,
}

/// Goes through a piece.
#[derive(Debug)]
pub(super) struct PieceReader<'a> {
    bytes: &'a [u8],
    at: usize,
    before: Before,
    /// Those of the last reading.
    pub(super) values: Vec<Number>,
}

impl<'a> PieceReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let mut reader = Self { bytes, at: 0, before: Before::default(), values: Vec::new() };
        if reader.take(1, "a version")? != [VERSION] {
            return Err(Damaged { expected: "a piece of version 1", at: 0, length: bytes.len() });
        }
        Ok(reader)
    }

    /// The next entry, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Entry<'a>>, Damaged> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let head = self.number()?;
        let entry = match head {
            RULES => {
                let length = self.number()?;
                let definitions: Option<Vec<Definition>> = from_cbor(self.take(length, "definitions of rules")?).ok();
                let sound = definitions.filter(|all| all.iter().all(Definition::is_sound));
                Entry::Rules(sound.ok_or_else(|| self.damaged("definitions of rules before this"))?)
            }
            DEVICE => Entry::Device { id: self.small("a device")?, name: self.text()? },
            CHANNEL => self.channel()?,
            PROFILE => Entry::Profile { id: self.small("a profile")?, name: self.text()? },
            IDLE => Entry::Idle {
                device: self.small("a device")?,
                rule: u16::try_from(self.number()?).map_err(|_| self.damaged("a rule"))?,
            },
            FORGET => Entry::Forget { device: self.small("a device")? },
            REWIND => Entry::Rewind { device: self.small("a device")?, now_ms: self.time()? },
            device if device % 2 == 0 => self.reading(device / 2)?,
            _ => return Err(self.damaged("an entry of a known kind before this")),
        };
        Ok(Some(entry))
    }

    fn time(&mut self) -> Result<i64, Damaged> {
        let time_ms = unzigzag(self.number()?);
        let known = (TIME_MIN_MS..=TIME_MAX_MS).contains(&time_ms);
        if known { Ok(time_ms) } else { Err(self.damaged("a time before this")) }
    }

    fn channel(&mut self) -> Result<Entry<'a>, Damaged> {
        let (device, id) = (self.small("a device")?, self.small("a channel")?);
        let kind = if self.number()? == 0 { MeasurementKind::Gauge } else { MeasurementKind::Counter };
        let name = self.text()?.into();
        let unit = match self.number()? {
            0 => None,
            length => Some(self.letters(length - 1)?.into()),
        };
        Ok(Entry::Channel { device, id, measurement: Measurement { name, unit, kind } })
    }

    fn reading(&mut self, device: u64) -> Result<Entry<'a>, Damaged> {
        let device = u32::try_from(device).map_err(|_| self.damaged("a device"))?;
        let code = self.number()?;
        let difference = unzigzag(code >> 1).checked_mul(if code & 1 == 1 { 1000 } else { 1 });
        let time_ms = difference.and_then(|difference| self.before.time_ms.checked_add(difference));
        let time_ms = time_ms.filter(|time| (TIME_MIN_MS..=TIME_MAX_MS).contains(time));
        let time_ms = time_ms.ok_or_else(|| self.damaged("a time before this"))?;
        self.before.time_ms = time_ms;
        let shape = self.number()?;
        let (count, layout) = ((shape >> 3).saturating_add(1), shape >> 1 & 3);
        // A value takes a byte at least.
        if count > (self.bytes.len() - self.at) as u64 {
            return Err(self.damaged("as many values as there are bytes"));
        }
        let profile = if shape & 1 == 1 { Some(self.small("a profile")?) } else { None };
        let mut next = if layout == 1 { self.small("a channel")? } else { 0 };
        self.values.clear();
        for column in (0..COLUMNS).cycle().take(count as usize) {
            let channel = if layout >= 2 { self.small("a channel")? } else { next };
            let allowed = if layout == 3 { self.small("a number of windows")?.wrapping_sub(1) } else { u32::MAX };
            let value = self.value(column)?;
            self.values.push(Number { channel, allowed, value });
            next = next.saturating_add(1);
        }
        Ok(Entry::Reading { device, time_ms, profile })
    }

    fn value(&mut self, column: usize) -> Result<f64, Damaged> {
        let code = self.number()?;
        let places = (code & 7) as u8;
        let value = if places == Decimal::NO_PLACES {
            let bytes = self.take(8, "a double")?;
            f64::from_le_bytes(bytes.try_into().map_err(|_| self.damaged("a double before this"))?)
        } else {
            let digits = near(self.before.values[column], places).checked_add(unzigzag(code >> 3));
            let value = digits.and_then(|digits| Decimal { digits, places }.value());
            value.ok_or_else(|| self.damaged("a decimal before this"))?
        };
        if !value.is_finite() {
            return Err(self.damaged("a finite number before this"));
        }
        self.before.values[column] = value;
        Ok(value)
    }

    fn damaged(&self, expected: &'static str) -> Damaged {
        Damaged { expected, at: self.at, length: self.bytes.len() }
    }

    fn take(&mut self, length: u64, expected: &'static str) -> Result<&'a [u8], Damaged> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| self.damaged(expected))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn text(&mut self) -> Result<&'a str, Damaged> {
        let length = self.number()?;
        self.letters(length)
    }

    fn letters(&mut self, length: u64) -> Result<&'a str, Damaged> {
        let bytes = self.take(length, "a name")?;
        std::str::from_utf8(bytes).map_err(|_| self.damaged("a name in UTF-8 before this"))
    }

    fn small(&mut self, expected: &'static str) -> Result<u32, Damaged> {
        u32::try_from(self.number()?).map_err(|_| self.damaged(expected))
    }

    fn number(&mut self) -> Result<u64, Damaged> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1, "more of a number")?;
            let bits = u64::from(byte[0] & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte[0] < 0x80 {
                return Ok(number);
            }
        }
        Err(self.damaged("a number of at most 64 bits before this"))
    }
}

fn unzigzag(code: u64) -> i64 {
    (code >> 1).cast_signed() ^ -(code & 1).cast_signed()
}
