//! The value of a data record: what its bytes are, by the data field of its DIF (EN 13757-3, 6.3 and annex A).

use super::vif::Coding;

/// What a value is, before its power of ten.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// The record has none, or its bytes are the code for that.
    None,
    Whole(i128),
    Float(f32),
    Text(String),
    /// It cannot be one: what is there, for a person.
    Wrong(String),
}

/// How long a value is, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Binary(usize),
    Float,
    Bcd(usize),
    Variable,
}

/// The value at the beginning of `bytes`, and how many of them it takes; nothing if they end before it does, or if nobody
/// knows how long it is.
pub(super) fn read(data_field: u8, coding: Coding, bytes: &[u8]) -> Option<(Value, usize)> {
    let field = match data_field {
        // 8 is a question, not an answer.
        0x0 | 0x8 => return Some((Value::None, 0)),
        0x5 => Field::Float,
        0x6 => Field::Binary(6),
        0x7 => Field::Binary(8),
        1..=4 => Field::Binary(data_field.into()),
        0x9..=0xc => Field::Bcd((data_field - 8).into()),
        0xd => Field::Variable,
        0xe => Field::Bcd(6),
        _ => return None,
    };
    let length = match field {
        Field::Binary(length) | Field::Bcd(length) => length,
        Field::Float => 4,
        Field::Variable => return variable(bytes),
    };
    let content = bytes.get(..length)?;
    let value = match (field, content) {
        (Field::Bcd(_), _) => bcd(content),
        (Field::Float, &[a, b, c, d]) => float([a, b, c, d]),
        (_, _) if coding == Coding::Time => time(content),
        (_, _) if coding == Coding::Bits => Value::Whole(unsigned(content).into()),
        _ => signed(content),
    };
    Some((value, length))
}

/// Of variable length: the first byte says what and how long.
fn variable(bytes: &[u8]) -> Option<(Value, usize)> {
    let (&head, rest) = bytes.split_first()?;
    let length = match head {
        0x00..=0xbf => head,
        0xc0..=0xc9 => head - 0xc0,
        0xd0..=0xd9 => head - 0xd0,
        0xe0..=0xef => head - 0xe0,
        0xf0..=0xf4 => (head - 0xec) * 4,
        0xf5 => 48,
        0xf6 => 64,
        _ => return None,
    };
    let content = rest.get(..length.into())?;
    let value = match (head, bcd(content)) {
        (0x00..=0xbf, _) => Value::Text(text(content)),
        (0xd0..=0xd9, Value::Whole(number)) => Value::Whole(-number),
        (0xc0..=0xd9, value) => value,
        _ if content.len() <= 8 => signed(content),
        _ => Value::Text(hex::encode(reversed(content))),
    };
    Some((value, 1 + usize::from(length)))
}

fn reversed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().copied().collect()
}

/// Text comes last character first, in ISO 8859-1, whose codes are the first ones of Unicode.
pub(super) fn text(bytes: &[u8]) -> String {
    let text: String = bytes.iter().rev().map(|byte| char::from(*byte)).filter(|letter| !letter.is_control()).collect();
    text.trim().to_owned()
}

fn unsigned(bytes: &[u8]) -> u64 {
    // A number has at most eight bytes.
    crate::decode::formats::binary::whole(bytes, true)
}

/// Two's complement; the lowest number of all is the code for "none" (type B).
fn signed(bytes: &[u8]) -> Value {
    let bits = 8 * bytes.len() as u32;
    let raw = i128::from(unsigned(bytes));
    let lowest = if bits == 0 { return Value::None } else { 1_i128 << (bits - 1) };
    match raw {
        _ if raw == lowest && bits > 8 => Value::None,
        _ if raw >= lowest => Value::Whole(raw - 2 * lowest),
        _ => Value::Whole(raw),
    }
}

fn float(bytes: [u8; 4]) -> Value {
    let number = f32::from_le_bytes(bytes);
    // No number is how a meter says that it has none.
    if number.is_finite() { Value::Float(number) } else { Value::None }
}

/// Two digits a byte. `f` in the first place is a minus sign; other letters are what the meter's display shows for an error.
fn bcd(bytes: &[u8]) -> Value {
    let mut digits = bytes.iter().rev().flat_map(|byte| [byte >> 4, byte & 15]).peekable();
    let negative = digits.next_if_eq(&0xf).is_some();
    let number = digits.try_fold(0_i128, |sum, digit| (digit <= 9).then_some(sum * 10 + i128::from(digit)));
    match number {
        Some(number) => Value::Whole(if negative { -number } else { number }),
        None => Value::None,
    }
}

/// A date (type G), a date with a time (F, and I with seconds), or a time of the day (J), by length: as ISO 8601 writes it, in
/// the meter's own time zone.
fn time(bytes: &[u8]) -> Value {
    match *bytes {
        [low, high] => date(low, high, 0).map_or(Value::None, Value::Text),
        [minute, hour, low, high] if minute & 0x80 == 0 => {
            joined(date(low, high, hour >> 5 & 3), clock(hour, minute, None))
        }
        [second, minute, hour, low, high, _] if minute & 0x80 == 0 => {
            joined(date(low, high, 0), clock(hour, minute, Some(second)))
        }
        [second, minute, hour] => clock(hour, minute, Some(second)).map_or(Value::None, Value::Text),
        // Marked as not valid.
        [_, _, _, _] | [_, _, _, _, _, _] => Value::None,
        _ => Value::Wrong(format!("a time of {} bytes", bytes.len())),
    }
}

fn joined(date: Option<String>, clock: Option<String>) -> Value {
    match (date, clock) {
        (Some(date), Some(clock)) => Value::Text(format!("{date}T{clock}")),
        _ => Value::None,
    }
}

/// The day in the lower five bits, the month in the lower four, the year in what is left. `centuries` count from 1900; a meter
/// that does not know them means 2000 with years up to 80.
fn date(low: u8, high: u8, centuries: u8) -> Option<String> {
    let (day, month) = (low & 31, high & 15);
    let year = u16::from(low >> 5 | high >> 4 << 3);
    let century = match centuries {
        0 if year <= 80 => 2_000,
        _ => 1_900 + 100 * u16::from(centuries),
    };
    // Every day, month or year, or none.
    let is_one = (1..=31).contains(&day) && (1..=12).contains(&month) && year <= 99;
    is_one.then(|| format!("{:04}-{month:02}-{day:02}", century + year))
}

fn clock(hour: u8, minute: u8, second: Option<u8>) -> Option<String> {
    let (hour, minute, second) = (hour & 31, minute & 63, second.map(|second| second & 63));
    if hour > 23 || minute > 59 || second.is_some_and(|second| second > 59) {
        return None;
    }
    Some(match second {
        Some(second) => format!("{hour:02}:{minute:02}:{second:02}"),
        None => format!("{hour:02}:{minute:02}:00"),
    })
}
