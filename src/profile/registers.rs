//! Registers of Modbus devices: which of them a profile wants, how a bus is set, and the frame that a poll of a device gives.
//!
//! **The frame** of one device and one round is a row of blocks, in any order, each of them what one request brought:
//!
//! | bytes | |
//! |---|---|
//! | 1 | the table, as the function code that reads it: 1 coils, 2 discrete inputs, 3 holding registers, 4 input registers; with 0x80 added the device refused |
//! | 2 | the address of the first, counted from 0, as in the request; highest byte first, as everywhere here |
//! | 2 | how many |
//! | … | registers of two bytes each; coils and discrete inputs eight to a byte, the first in the lowest bit; of a refusal one byte, the exception code |
//!
//! So data and codes are the bytes of the protocol (MODBUS Application Protocol Specification V1.1b3), and the addresses that
//! its answers lack stand beside them: decoding is pure, and a dead letter of it says all that there was.

use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::BinaryKind;
use super::file::{Fault, fault, parity};
use crate::config::Parity;

/// Registers that one request may read (6.3 and 6.4 of the specification).
pub const REGISTERS_MAX: u16 = 125;
/// Coils or discrete inputs that one request may read (6.1 and 6.2).
pub const BITS_MAX: u16 = 2_000;
/// Registers between two wanted ones that are read along rather than asking twice: each takes as long as two characters, a
/// request of its own at least eight and the device's time to answer.
const GAP: u16 = 8;
/// Values of one profile.
const VALUES_MAX: usize = 1_000;
/// What stands before the data of a block.
const HEAD_BYTES: usize = 5;
/// Added to a table's code where the device refused.
const REFUSED: u8 = 0x80;

/// One of the four tables of a device. The number is the function code that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RegisterTable {
    /// Bits that can be written.
    Coil = 1,
    /// Bits that can only be read.
    Discrete = 2,
    /// Registers that can be written.
    Holding = 3,
    /// Registers that can only be read.
    Input = 4,
}

impl RegisterTable {
    const ALL: [Self; 4] = [Self::Coil, Self::Discrete, Self::Holding, Self::Input];

    /// The word for it in a profile.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete",
            Self::Holding => "holding",
            Self::Input => "input",
        }
    }

    /// The function code that reads it.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Whether it is one of bits.
    #[must_use]
    pub fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }

    /// How many bytes so many of it take.
    #[must_use]
    pub fn bytes(self, count: u16) -> usize {
        if self.is_bits() { usize::from(count).div_ceil(8) } else { usize::from(count) * 2 }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.as_str() == word)
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.code() == code)
    }
}

/// Which registers a profile wants, and how they may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// The values, by their keys.
    pub values: Vec<RegisterValue>,
    /// So many registers that nobody wants are read along, so that fewer requests are needed.
    pub gap: u16,
    /// The most that the device gives in one answer.
    pub count_max: u16,
}

/// A value, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterValue {
    /// Its key.
    pub key: Box<str>,
    /// In which table.
    pub table: RegisterTable,
    /// Where it begins, counted from 0.
    pub address: u16,
    /// What it is; of a coil or a discrete input there is nothing to say.
    pub kind: Option<BinaryKind>,
    /// In which order its bytes are.
    pub order: RegisterOrder,
}

impl RegisterValue {
    /// How many registers, or bits, it takes.
    #[must_use]
    pub fn count(&self) -> u16 {
        // A kind has at most 254 bytes.
        self.kind.map_or(1, |kind| (kind.bytes() / 2) as u16)
    }
}

/// The order of a value's bytes. The protocol only knows single registers, of which the high byte comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegisterOrder {
    /// Whether the register with the lowest bits comes first.
    pub little: bool,
    /// Whether the low byte of each register comes first.
    pub swapped: bool,
}

/// Settings of a bus, and of asking; what is `None` is not the profile's business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BusSettings {
    /// Bits a second, as the device is shipped.
    pub baud: Option<u32>,
    /// Parity.
    pub parity: Option<Parity>,
    /// 1 or 2.
    pub stop_bits: Option<u8>,
    /// How often it is worth asking.
    pub every: Option<Duration>,
    /// How long an answer may take.
    pub timeout: Option<Duration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistersPart {
    word_order: Option<String>,
    gap: Option<u16>,
    count_max: Option<u16>,
    values: toml::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BusPart {
    baud: Option<u32>,
    parity: Option<String>,
    stop_bits: Option<u8>,
    every: Option<String>,
    timeout: Option<String>,
}

pub(super) fn registers(part: Spanned<RegistersPart>) -> Result<Registers, Fault> {
    let span = part.span();
    let part = part.into_inner();
    let Some(order) = RegisterOrder::default().with(part.word_order.as_deref().into_iter()) else {
        return fault(&span, "word_order: expected `big` (the register with the highest bits comes first) or `little`");
    };
    let count_max = part.count_max.unwrap_or(REGISTERS_MAX);
    if !(1..=REGISTERS_MAX).contains(&count_max) {
        return fault(&span, format!("count_max: expected 1 to {REGISTERS_MAX}"));
    }
    if part.values.is_empty() || part.values.len() > VALUES_MAX {
        return fault(&span, format!("registers: expected 1 to {VALUES_MAX} values"));
    }
    let mut values = Vec::new();
    for (key, text) in part.values {
        let parsed = text.as_str().and_then(|text| value(&key, text, order)).filter(|value| value.count() <= count_max);
        let Some(value) = parsed else {
            return fault(
                &span,
                format!(
                    "register value `{key}`: expected a table, an address and a kind such as \"input 0x0000 f32\", \
                     \"holding 18 u16\", \"input 6 i32 little\", \"holding 0 text8\", \"coil 3\" or \"discrete 1\", \
                     found {text}"
                ),
            );
        };
        values.push(value);
    }
    Ok(Registers { values, gap: part.gap.unwrap_or(GAP).min(REGISTERS_MAX), count_max })
}

fn value(key: &str, text: &str, order: RegisterOrder) -> Option<RegisterValue> {
    let mut words = text.split_ascii_whitespace();
    let (table, address) = place(words.next()?, words.next()?)?;
    let kind = match words.next() {
        None if table.is_bits() => None,
        Some(kind) if !table.is_bits() => Some(BinaryKind::parse(kind).filter(|kind| kind.bytes().is_multiple_of(2))?),
        _ => return None,
    };
    let value = RegisterValue { key: key.into(), table, address, kind, order: order.with(words)? };
    address.checked_add(value.count() - 1)?;
    Some(value)
}

fn place(table: &str, address: &str) -> Option<(RegisterTable, u16)> {
    let address = match address.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16).ok()?,
        None => address.parse().ok()?,
    };
    Some((RegisterTable::parse(table)?, address))
}

impl RegisterOrder {
    /// What words say of it beside what is known.
    fn with<'a>(mut self, words: impl Iterator<Item = &'a str>) -> Option<Self> {
        for word in words {
            match word {
                "big" => self.little = false,
                "little" => self.little = true,
                "swapped" => self.swapped = true,
                _ => return None,
            }
        }
        Some(self)
    }
}

pub(super) fn bus_settings(part: Spanned<BusPart>) -> Result<BusSettings, Fault> {
    let span = part.span();
    let part = part.into_inner();
    let parity = parity(part.parity.as_deref(), &span)?;
    if part.baud == Some(0) || part.stop_bits.is_some_and(|bits| !(1..=2).contains(&bits)) {
        return fault(&span, "expected a baud that is not 0, and 1 or 2 stop_bits");
    }
    Ok(BusSettings {
        baud: part.baud,
        parity,
        stop_bits: part.stop_bits,
        every: duration("every", part.every, &span)?,
        timeout: duration("timeout", part.timeout, &span)?,
    })
}

/// A duration that is not 0.
pub(super) fn duration(key: &str, text: Option<String>, span: &Range<usize>) -> Result<Option<Duration>, Fault> {
    let Some(text) = text else { return Ok(None) };
    match crate::config::parse_duration(&text).filter(|duration| !duration.is_zero()) {
        Some(duration) => Ok(Some(duration)),
        None => fault(span, format!("{key}: expected a duration such as \"500ms\" or \"10s\", found `{text}`")),
    }
}

/// A block of a frame: what one request brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterBlock<'a> {
    /// The table.
    pub table: RegisterTable,
    /// The address of the first.
    pub address: u16,
    /// How many were asked for.
    pub count: u16,
    /// What they are, or the exception code.
    pub data: Result<&'a [u8], u8>,
}

impl<'a> RegisterBlock<'a> {
    /// Appends it to a frame.
    pub fn write(&self, frame: &mut Vec<u8>) {
        frame.push(self.table.code() | if self.data.is_err() { REFUSED } else { 0 });
        frame.extend(self.address.to_be_bytes());
        frame.extend(self.count.to_be_bytes());
        match self.data {
            Ok(data) => frame.extend_from_slice(data),
            Err(code) => frame.push(code),
        }
    }

    /// The first block of a frame, and what follows it; `None` if the bytes are no block.
    #[must_use]
    pub fn read(frame: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = frame.split_first_chunk::<HEAD_BYTES>()?;
        let table = RegisterTable::from_code(head[0] & !REFUSED)?;
        let (address, count) = (u16::from_be_bytes([head[1], head[2]]), u16::from_be_bytes([head[3], head[4]]));
        let refused = head[0] & REFUSED != 0;
        let length = if refused { 1 } else { table.bytes(count) };
        let (data, rest) = rest.split_at_checked(length)?;
        let data = match data {
            [code] if refused => Err(*code),
            data => Ok(data),
        };
        Some((Self { table, address, count, data }, rest))
    }

    /// The bytes of `count` registers from `address` on, if they are all in it.
    #[must_use]
    pub fn registers(&self, table: RegisterTable, address: u16, count: u16) -> Option<&'a [u8]> {
        let from = usize::from(self.offset(table, address)?) * 2;
        self.data.ok()?.get(from..from + usize::from(count) * 2)
    }

    /// A coil or a discrete input, if it is in it.
    #[must_use]
    pub fn bit(&self, table: RegisterTable, address: u16) -> Option<bool> {
        let at = self.offset(table, address).filter(|at| *at < self.count)?;
        Some(self.data.ok()?.get(usize::from(at / 8))? >> (at % 8) & 1 == 1)
    }

    fn offset(&self, table: RegisterTable, address: u16) -> Option<u16> {
        address.checked_sub(self.address).filter(|_| table == self.table)
    }
}

/// What an exception code means (7 of the specification).
#[must_use]
pub fn exception_text(code: u8) -> &'static str {
    match code {
        1 => "illegal function",
        2 => "illegal data address",
        3 => "illegal data value",
        4 => "device failure",
        5 => "acknowledge",
        6 => "device busy",
        8 => "memory parity error",
        10 => "gateway path unavailable",
        11 => "gateway target failed to respond",
        _ => "unknown exception",
    }
}

/// The frame that a sample shows: by table and first address registers as numbers, bits as flags, or `exception N`.
pub(super) fn sample_frame(blocks: &toml::Table) -> Result<Vec<u8>, String> {
    let mut frame = Vec::new();
    for (place, content) in blocks {
        let wrong = || {
            format!(
                "registers `{place}`: expected a table and an address, and what is there, such as \
                 \"input 0x0000\" = [0x4366, 0x3333], \"coil 3\" = [true, false] or \"holding 7\" = \"exception 2\", \
                 found {content}"
            )
        };
        let mut words = place.split_ascii_whitespace();
        let parsed = words.next().zip(words.next()).filter(|_| words.next().is_none());
        let (table, address) = parsed.and_then(|(table, address)| self::place(table, address)).ok_or_else(wrong)?;
        let mut data = Vec::new();
        let (count, data) = match content {
            toml::Value::String(text) => {
                let code = text.strip_prefix("exception ").and_then(|code| code.parse().ok()).ok_or_else(wrong)?;
                (1, Err(code))
            }
            toml::Value::Array(items) if table.is_bits() => {
                let bits: Vec<bool> =
                    items.iter().map(toml::Value::as_bool).collect::<Option<_>>().ok_or_else(wrong)?;
                let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
                data.extend(bits.chunks(8).map(byte));
                (bits.len(), Ok(data.as_slice()))
            }
            toml::Value::Array(items) => {
                for item in items {
                    let register = item.as_integer().and_then(|number| u16::try_from(number).ok()).ok_or_else(wrong)?;
                    data.extend(register.to_be_bytes());
                }
                (items.len(), Ok(data.as_slice()))
            }
            _ => return Err(wrong()),
        };
        let count = u16::try_from(count).map_err(|_| wrong())?;
        RegisterBlock { table, address, count, data }.write(&mut frame);
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<RegisterValue> {
        value("v", text, RegisterOrder::default())
    }

    #[test]
    fn values_are_read() {
        let found = parse("input 0x001e f32").unwrap();
        assert_eq!((found.table, found.address, found.count()), (RegisterTable::Input, 0x1e, 2));
        let found = parse("holding 18 u64 little swapped").unwrap();
        assert_eq!((found.count(), found.order), (4, RegisterOrder { little: true, swapped: true }));
        assert_eq!(parse("coil 3").unwrap().kind, None);
        for wrong in [
            "",
            "input",
            "input 0",
            "input 0 u8",
            "input 0 i24",
            "coil 3 u16",
            "discrete",
            "input 65535 u32",
            "input 65536 u16",
            "input -1 u16",
            "register 1 u16",
            "input 1 u16 middle",
            "input 0x u16",
            "input 1 text7",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn blocks_are_written_and_read_again() {
        let mut frame = Vec::new();
        let blocks = [
            RegisterBlock { table: RegisterTable::Input, address: 6, count: 2, data: Ok(&[1, 2, 3, 4]) },
            RegisterBlock { table: RegisterTable::Coil, address: 10, count: 9, data: Ok(&[0b1000_0001, 1]) },
            RegisterBlock { table: RegisterTable::Holding, address: 7, count: 300, data: Err(2) },
        ];
        blocks.iter().for_each(|block| block.write(&mut frame));
        assert_eq!(frame[..9], [4, 0, 6, 0, 2, 1, 2, 3, 4]);
        let mut rest = frame.as_slice();
        for block in &blocks {
            let (found, after) = RegisterBlock::read(rest).unwrap();
            assert_eq!(found, *block);
            rest = after;
        }
        assert!(rest.is_empty());
        let [input, coils, refused] = blocks;
        assert_eq!(input.registers(RegisterTable::Input, 7, 1), Some(&[3, 4][..]));
        for (table, address, count) in [
            (RegisterTable::Input, 7, 2),
            (RegisterTable::Input, 5, 1),
            (RegisterTable::Holding, 6, 1),
            (RegisterTable::Input, u16::MAX, 1),
        ] {
            assert_eq!(input.registers(table, address, count), None);
        }
        let bits: Vec<_> = (9..20).filter(|at| coils.bit(RegisterTable::Coil, *at) == Some(true)).collect();
        assert_eq!(bits, [10, 17, 18]);
        assert_eq!(coils.bit(RegisterTable::Coil, 19), None);
        assert_eq!(refused.registers(RegisterTable::Holding, 7, 1), None);
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for wrong in
            [&[][..], &[4, 0, 0, 0], &[5, 0, 0, 0, 0], &[4, 0, 0, 0, 1, 7], &[0x84, 0, 0, 0, 1], &[0, 0, 0, 0, 0]]
        {
            assert_eq!(RegisterBlock::read(wrong), None, "{wrong:?}");
        }
    }
}
