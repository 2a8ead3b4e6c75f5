//! Wired M-Bus: what a meter answers (EN 13757-3), in the frame that `profile::telegram` describes.
//!
//! What comes out: `id` (eight digits, as they are printed on the meter), `manufacturer` (three letters), `version`, `medium`,
//! `access` and `status` of the header, and `records`, each with `quantity`, `unit` in UCUM, `value`, `storage`, `tariff`,
//! `subunit` and `function` (`value`, `max`, `min` or `error`), and where there is one `phase`, `direction`, `qualifier` and
//! `error`. `suffix` is how the value's name differs from that of the meter's present total: `_tariff_1_max`.
//!
//! It is a decoder of our own because the one that is kept, m-bus-parser 0.5, takes the length of a time from what the value is
//! and not from what the record says it is: of a time of three bytes it eats the head of the next record, and then finds an
//! energy of 0 that no meter sent. It also reads the code for "no value" as -32768, a time that is marked as not valid as a
//! valid one, a date about a volume as cubic metres, and a unit in words only in one of its two forms.
//!
//! Nothing is recursive, and no element reaches beyond the bytes. A record that cannot be read ends the telegram, for nobody
//! knows where the next one begins: those before it count.

mod data;
mod vif;

use super::{Refusal, fits, malformed};
use crate::decode::doc::{Doc, Leaf};
use crate::profile::Telegram;
use data::Value;
use vif::Meaning;

/// Extensions of a data information field that the standard allows.
const DIFES_MAX: usize = 10;
const EXTENSION: u8 = 0x80;
/// Stands between records and says nothing.
const IDLE: u8 = 0x2f;
/// What is behind it is the manufacturer's …
const MANUFACTURER: u8 = 0x0f;
/// … and there are more telegrams.
const MORE_FOLLOW: u8 = 0x1f;

/// What stands before the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    /// Number, manufacturer, version, medium: of the long header only.
    meter: Option<([u8; 4], u16, u8, u8)>,
    /// Access number and status.
    state: Option<(u8, u8)>,
}

/// Takes the telegrams of a round apart. What could not be read in one of them is said.
pub(in crate::decode) fn mbus(frame: &[u8], doc: &mut Doc) -> Result<Option<String>, Refusal> {
    let mut telegrams = Vec::new();
    let mut rest = frame;
    while !rest.is_empty() {
        let Some((telegram, length)) = Telegram::read(rest) else {
            return malformed(format!(
                "byte {}: expected a long frame of M-Bus (68 L L 68 … 16) with a right checksum",
                frame.len() - rest.len()
            ));
        };
        telegrams.push(header(&telegram)?);
        rest = &rest[length..];
    }
    let Some((first, _)) = telegrams.first() else { return malformed("no telegram is in it") };
    if let Some((other, _)) = telegrams.iter().find(|(other, _)| other.meter != first.meter) {
        let name = |header: &Header| header.meter.map_or_else(|| "nobody".to_owned(), |meter| number(&meter.0));
        return malformed(format!("the telegrams are of two meters, {} and {}", name(first), name(other)));
    }
    doc.begin(false);
    put_header(first, doc);
    let list = doc.begin_list("records");
    let mut unreadable = None;
    for (number, (_, records)) in (1..).zip(&telegrams) {
        if let Some(at) = put_records(records, doc) {
            unreadable
                .get_or_insert_with(|| format!("telegram {number}: byte {at} of the records is not one that is known"));
        }
    }
    doc.end(list);
    doc.end(0);
    fits(doc)?;
    Ok(unreadable)
}

/// Whether a meter has more to say than this telegram holds.
pub(crate) fn more_telegrams_follow(telegram: &Telegram<'_>) -> bool {
    let Ok((_, mut rest)) = header(telegram) else { return false };
    while let Some(&field) = rest.first() {
        match field {
            IDLE => rest = &rest[1..],
            MORE_FOLLOW => return true,
            _ => match record(rest) {
                Some((_, _, taken)) => rest = &rest[taken..],
                None => return false,
            },
        }
    }
    false
}

/// The header of a telegram, and the records behind it.
fn header<'a>(telegram: &Telegram<'a>) -> Result<(Header, &'a [u8]), Refusal> {
    let nothing = Header { meter: None, state: None };
    let (header, security, records) = match (telegram.information, telegram.data) {
        (0x78, records) => (nothing, 0, records),
        (0x7a, [access, status, low, high, records @ ..]) => {
            (Header { state: Some((*access, *status)), ..nothing }, u16::from_le_bytes([*low, *high]), records)
        }
        (0x72, [a, b, c, d, m, n, version, medium, access, status, low, high, records @ ..]) => {
            let meter = ([*a, *b, *c, *d], u16::from_le_bytes([*m, *n]), *version, *medium);
            let header = Header { meter: Some(meter), state: Some((*access, *status)) };
            (header, u16::from_le_bytes([*low, *high]), records)
        }
        (0x72 | 0x7a, _) => return malformed("it ends within the header"),
        (0x70, data) => {
            let code = data.first().map_or_else(|| "no code".to_owned(), |code| format!("code {code}"));
            return malformed(format!("the meter reports an error of its application instead of values: {code}"));
        }
        (0x73 | 0x77, _) => {
            return malformed("it is in the fixed data structure of meters from before 1997, which is not supported");
        }
        (0x76, _) => return malformed("its highest byte comes first (mode 2), which is not supported"),
        (other, _) => return malformed(format!("control information {other:02x}: expected 72, 78 or 7a")),
    };
    let mode = security >> 8 & 0x1f;
    // Some say how it would be encrypted and send it plain: two idle fillers are what a master sees after decrypting.
    if mode != 0 && !records.starts_with(&[IDLE, IDLE]) {
        return malformed(format!(
            "it is encrypted (mode {mode}), and no key is supported: have the meter send plain on its wire"
        ));
    }
    Ok((header, records))
}

/// What is printed on the meter. Digits are decimal; a meter that was never set has others.
fn number(bytes: &[u8; 4]) -> String {
    format!("{:08x}", u32::from_le_bytes(*bytes))
}

fn put_header(header: &Header, doc: &mut Doc) {
    if let Some((id, manufacturer, version, medium)) = header.meter {
        doc.put("id", Leaf::Text(&number(&id)));
        // Five bits a letter, A is 1 (EN 62056-21).
        let letter = |shift: u16| char::from(b'@' + (manufacturer >> shift & 31) as u8);
        doc.put("manufacturer", Leaf::Text(&[letter(10), letter(5), letter(0)].iter().collect::<String>()));
        doc.put("version", Leaf::Whole(version.into()));
        doc.put("medium", Leaf::Text(medium_name(medium)));
        doc.put("medium_code", Leaf::Whole(medium.into()));
    }
    if let Some((access, status)) = header.state {
        doc.put("access", Leaf::Whole(access.into()));
        doc.put("status", Leaf::Whole(status.into()));
    }
}

/// EN 13757-3, table 3 (in later editions EN 13757-7).
fn medium_name(medium: u8) -> &'static str {
    match medium {
        0x01 => "oil",
        0x02 => "electricity",
        0x03 => "gas",
        0x04 | 0x0c => "heat",
        0x05 => "steam",
        0x06 => "warm water",
        0x07 => "water",
        0x08 => "heat cost",
        0x09 => "compressed air",
        0x0a | 0x0b => "cooling",
        0x0d => "heat and cooling",
        0x0e => "bus",
        0x0f => "unknown",
        0x15 => "hot water",
        0x16 => "cold water",
        0x17 => "hot and cold water",
        0x18 => "pressure",
        0x19 => "converter",
        0x1a => "smoke",
        0x1b => "room",
        0x1c => "gas alarm",
        0x20 => "breaker",
        0x21 => "valve",
        0x28 => "waste water",
        _ => "other",
    }
}

/// What a record says before its value.
#[derive(Debug, PartialEq, Eq)]
struct Head<'a> {
    data_field: u8,
    function: &'static str,
    storage: u64,
    tariff: u32,
    subunit: u16,
    meaning: Meaning<'a>,
}

/// The records of a telegram, and where one is that could not be read.
fn put_records(records: &[u8], doc: &mut Doc) -> Option<usize> {
    let mut rest = records;
    while let Some(&field) = rest.first().filter(|_| !doc.is_full()) {
        match field {
            IDLE => rest = &rest[1..],
            MANUFACTURER | MORE_FOLLOW => return None,
            _ => {
                let Some((head, value, taken)) = record(rest) else { return Some(records.len() - rest.len()) };
                put_record(&head, &value, doc);
                rest = &rest[taken..];
            }
        }
    }
    None
}

/// A record, and how many bytes it takes.
fn record(bytes: &[u8]) -> Option<(Head<'_>, Value, usize)> {
    let (&field, mut rest) = bytes.split_first()?;
    let data_field = field & 15;
    if data_field == 15 {
        return None;
    }
    let function = match field >> 4 & 3 {
        0 => "value",
        1 => "max",
        2 => "min",
        _ => "error",
    };
    let mut storage = u64::from(field >> 6 & 1);
    let (mut tariff, mut subunit) = (0_u32, 0_u16);
    let mut extended = field & EXTENSION != 0;
    let mut place = 0;
    while extended {
        let (&more, after) = rest.split_first().filter(|_| place < DIFES_MAX)?;
        // Ten of them give a storage number of 41 bits, a tariff of 20 and a subunit of 10.
        storage |= u64::from(more & 15) << (1 + 4 * place);
        tariff |= u32::from(more >> 4 & 3) << (2 * place);
        subunit |= u16::from(more >> 6 & 1) << place;
        (extended, rest, place) = (more & EXTENSION != 0, after, place + 1);
    }
    let (meaning, taken) = vif::read(rest)?;
    rest = &rest[taken..];
    let (value, taken) = data::read(data_field, meaning.coding, rest)?;
    let head = Head { data_field, function, storage, tariff, subunit, meaning };
    Some((head, value, bytes.len() - rest.len() + taken))
}

fn put_record(head: &Head<'_>, value: &Value, doc: &mut Doc) {
    let meaning = &head.meaning;
    // A question for a value is none.
    if head.data_field == 8 {
        return;
    }
    let object = doc.begin_object("");
    doc.put("quantity", Leaf::Text(meaning.quantity));
    match meaning.text {
        Some(words) => doc.put("unit", Leaf::Text(&data::text(words))),
        None if !meaning.unit.is_empty() => doc.put("unit", Leaf::Text(meaning.unit)),
        None => {}
    }
    match value {
        _ if meaning.error.is_some() => doc.put("value", Leaf::Null),
        Value::None => doc.put("value", Leaf::Null),
        // At most 64 bits, or 18 digits, by the seconds of a day.
        Value::Whole(number) if meaning.exponent == 0 => {
            doc.put("value", Leaf::Whole(number * i128::from(meaning.factor)));
        }
        Value::Whole(number) => put_scaled(number, meaning.exponent, doc),
        Value::Float(number) => put_scaled(number, meaning.exponent, doc),
        Value::Text(text) | Value::Wrong(text) => doc.put("value", Leaf::Text(text)),
    }
    doc.put("storage", Leaf::Whole(head.storage.into()));
    doc.put("tariff", Leaf::Whole(head.tariff.into()));
    doc.put("subunit", Leaf::Whole(head.subunit.into()));
    doc.put("function", Leaf::Text(head.function));
    let more = [
        ("phase", meaning.phase),
        ("direction", meaning.direction),
        ("qualifier", meaning.qualifier),
        ("error", meaning.error),
    ];
    for (key, word) in more {
        if let Some(word) = word {
            doc.put(key, Leaf::Text(word));
        }
    }
    doc.put("suffix", Leaf::Text(&suffix(head)));
    doc.end(object);
}

/// By way of decimals: the nearest double to the number that the meter means.
fn put_scaled(number: impl std::fmt::Display, exponent: i32, doc: &mut Doc) {
    match format!("{number}e{exponent}").parse::<f64>() {
        Ok(number) if number.is_finite() => doc.put("value", Leaf::Number(number)),
        _ => doc.put("value", Leaf::Null),
    }
}

fn suffix(head: &Head<'_>) -> String {
    let mut suffix = String::new();
    for (word, number) in [("_subunit_", head.subunit.into()), ("_tariff_", u64::from(head.tariff))] {
        if number != 0 {
            suffix += &format!("{word}{number}");
        }
    }
    if let Some(phase) = head.meaning.phase {
        suffix += &format!("_{phase}");
    }
    if head.storage != 0 {
        suffix += &format!("_storage_{}", head.storage);
    }
    if matches!(head.function, "max" | "min") {
        suffix += &format!("_{}", head.function);
    }
    suffix
}

#[cfg(test)]
mod tests;
