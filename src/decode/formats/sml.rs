//! Smart Message Language, version 1.04 (BSI TR-03109-1, annex IV), as German meters push it: a tree of elements, each with a
//! head that says its type and length.
//!
//! What comes out: `lists`, one for each list of values in the message, with `server` (the meter's id, in hexadecimal digits),
//! `manufacturer`, `time` where the meter's clock is one (seconds since 1970; seconds since it was switched on are none), and
//! `values` by OBIS code (`1-0:1.8.0`; a last part of 255 is left out): `value`, scaled, `unit` in UCUM, `status`, `time`.
//! Signatures and what is not a list of values are passed over.
//!
//! It takes the whole transmission, from its first escape sequence to its checksum, or what that carries. Each message
//! has a checksum of its own, which is compared in either case. Nothing is recursive, and no element reaches beyond the bytes.

use super::{Refusal, fits, malformed};
use crate::decode::doc::{Doc, Leaf};
use crate::reading::Reason;

const ESCAPE: [u8; 4] = [0x1b; 4];
const START: [u8; 8] = [0x1b, 0x1b, 0x1b, 0x1b, 1, 1, 1, 1];
/// Behind the last escape sequence: `1a`, the number of fill bytes, the checksum.
const END: u8 = 0x1a;
const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_IBM_SDLC);

/// Ends a message.
const END_OF_MESSAGE: u8 = 0;
/// The kind of message that holds a list of values: a response to GetList, asked for or not.
const GET_LIST_RESPONSE: u64 = 0x0701;
/// Elements of a message, of a list of values, and of a value.
const MESSAGE: u32 = 6;
const LIST: u32 = 7;
const ENTRY: u32 = 7;
/// Bytes of an element's head: a length takes four bits of each.
const HEAD_BYTES_MAX: usize = 5;
/// Where a meter says who made it, the newer code first.
const MANUFACTURER: [[u8; 6]; 2] = [[1, 0, 96, 50, 1, 1], [129, 129, 199, 130, 3, 255]];

/// Takes a message apart.
pub(in crate::decode) fn sml(bytes: &[u8], doc: &mut Doc) -> Result<(), Refusal> {
    let carried;
    let messages = match bytes.strip_prefix(&START) {
        Some(rest) => {
            carried = unwrap(bytes, rest)?;
            carried.as_slice()
        }
        None => bytes,
    };
    doc.begin(false);
    let lists = doc.begin_list("lists");
    let mut reader = Reader { bytes: messages, at: 0 };
    let mut messages = 0;
    while let Some(&byte) = reader.bytes.get(reader.at) {
        // Fill bytes.
        if byte == END_OF_MESSAGE {
            reader.at += 1;
            continue;
        }
        let begin = reader.at;
        match message(&mut reader, doc) {
            Some(true) => messages += 1,
            Some(false) => {
                let detail = format!("the checksum of the message at byte {begin} is another one");
                return Err(Refusal::Wrong(Reason::BadChecksum, detail));
            }
            None => return malformed(format!("byte {}: expected the elements of an SML message", reader.at)),
        }
        if doc.is_full() {
            break;
        }
    }
    doc.end(lists);
    doc.end(0);
    fits(doc)?;
    if messages == 0 { malformed("no SML message is in it") } else { Ok(()) }
}

/// What a transmission carries, from behind its start: doubled escape sequences are single again, fill bytes are gone.
fn unwrap(whole: &[u8], rest: &[u8]) -> Result<Vec<u8>, Refusal> {
    let Some((inside, &[a, b, c, d, END, fill, low, high])) = rest.split_last_chunk() else {
        return malformed("expected the transmission to end with an escape sequence, 1a and a checksum");
    };
    let fill = usize::from(fill);
    if [a, b, c, d] != ESCAPE || fill > 3 || fill > inside.len() {
        return malformed("expected the transmission to end with an escape sequence, 1a and a checksum");
    }
    let (found, computed) = (u16::from_le_bytes([low, high]), CRC.checksum(&whole[..whole.len() - 2]));
    if found != computed {
        let detail = format!("the checksum is 0x{found:04x}, the bytes give 0x{computed:04x}");
        return Err(Refusal::Wrong(Reason::BadChecksum, detail));
    }
    let mut carried = Vec::with_capacity(inside.len());
    let mut groups = inside.chunks(ESCAPE.len());
    while let Some(group) = groups.next() {
        carried.extend_from_slice(if *group == ESCAPE { groups.next().unwrap_or_default() } else { group });
    }
    carried.truncate(carried.len().saturating_sub(fill));
    Ok(carried)
}

/// One element; those of a list follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element<'a> {
    /// Empty for what is left out.
    Octets(&'a [u8]),
    Flag(bool),
    Signed(i64),
    Unsigned(u64),
    List(u32),
}

impl Element<'_> {
    fn whole(self) -> Option<i128> {
        match self {
            Self::Signed(number) => Some(number.into()),
            Self::Unsigned(number) => Some(number.into()),
            _ => None,
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next element; nothing if there is none, or it is not one, or it does not end within the bytes.
    fn element(&mut self) -> Option<Element<'a>> {
        let first = *self.bytes.get(self.at)?;
        let mut byte = first;
        let mut length = u32::from(byte & 0x0f);
        let mut head = 1;
        while byte & 0x80 != 0 {
            byte = *self.bytes.get(self.at + head)?;
            head += 1;
            if head > HEAD_BYTES_MAX || byte & 0x70 != 0 {
                return None;
            }
            length = length << 4 | u32::from(byte & 0x0f);
        }
        let kind = first & 0x70;
        if kind == 0x70 {
            self.at += head;
            return Some(Element::List(length));
        }
        // The length of anything but a list counts its head.
        let end = self.at.checked_add(usize::try_from(length).ok()?)?;
        let content = self.bytes.get(self.at + head..end)?;
        let element = match (kind, content) {
            (0x00, _) => Element::Octets(content),
            (0x40, [flag]) => Element::Flag(*flag != 0),
            (0x50, [_, ..]) if content.len() <= 8 => {
                let unused = 64 - 8 * content.len();
                // What the shifts do is what they are for: the sign is spread over the bits that are not there.
                Element::Signed((unsigned(content) << unused).cast_signed() >> unused)
            }
            (0x60, [_, ..]) if content.len() <= 8 => Element::Unsigned(unsigned(content)),
            _ => return None,
        };
        self.at = end;
        Some(element)
    }

    /// Passes over the next element, and all that is in it.
    fn skip(&mut self) -> Option<()> {
        // Each of them takes a byte at least, so this ends with the bytes.
        let mut pending = 1_u64;
        while pending > 0 {
            pending -= 1;
            if let Element::List(count) = self.element()? {
                pending += u64::from(count);
            }
        }
        Some(())
    }

    fn list(&mut self, count: u32) -> Option<()> {
        (self.element()? == Element::List(count)).then_some(())
    }

    fn octets(&mut self) -> Option<&'a [u8]> {
        match self.element()? {
            Element::Octets(octets) => Some(octets),
            _ => None,
        }
    }

    /// A whole number, or nothing where it is left out.
    fn number(&mut self) -> Option<Option<i128>> {
        match self.element()? {
            Element::Octets([]) => Some(None),
            element => Some(Some(element.whole()?)),
        }
    }

    /// A time, if it is one of the calendar: seconds since 1970.
    fn time(&mut self) -> Option<Option<u64>> {
        match self.element()? {
            // Left out; or, of some meters, seconds since they were switched on without the choice before them.
            Element::Octets(_) | Element::Unsigned(_) => Some(None),
            Element::List(2) => match (self.element()?, self.element()?) {
                (Element::Unsigned(2), Element::Unsigned(seconds)) => Some(Some(seconds)),
                // With the offsets of zone and summer time, which it does not include.
                (Element::Unsigned(3), Element::List(3)) => {
                    let seconds = self.element()?;
                    self.skip()?;
                    self.skip()?;
                    match seconds {
                        Element::Unsigned(seconds) => Some(Some(seconds)),
                        _ => None,
                    }
                }
                (Element::Unsigned(_), Element::Unsigned(_)) => Some(None),
                _ => None,
            },
            _ => None,
        }
    }
}

fn unsigned(bytes: &[u8]) -> u64 {
    super::binary::whole(bytes, false)
}

/// A message; false if its checksum is wrong, which is found out before anything of it is taken.
fn message(reader: &mut Reader<'_>, doc: &mut Doc) -> Option<bool> {
    let begin = reader.at;
    reader.list(MESSAGE)?;
    // Transaction, group, what to do after an error.
    for _ in 0..3 {
        reader.skip()?;
    }
    let body = reader.at;
    reader.skip()?;
    let covered = &reader.bytes[begin..reader.at];
    // The lower byte comes first, in a number whose higher byte does; a zero before it may be left out.
    let found = u16::try_from(reader.number()??).ok()?.swap_bytes();
    if reader.bytes.get(reader.at) != Some(&END_OF_MESSAGE) {
        return None;
    }
    let end = reader.at + 1;
    if CRC.checksum(covered) != found {
        return Some(false);
    }
    reader.at = body;
    reader.list(2)?;
    if reader.number()?? == GET_LIST_RESPONSE.into() {
        value_list(reader, doc)?;
    }
    reader.at = end;
    Some(true)
}

fn value_list(reader: &mut Reader<'_>, doc: &mut Doc) -> Option<()> {
    reader.list(LIST)?;
    reader.skip()?;
    let server = reader.octets()?;
    reader.skip()?;
    let time = reader.time()?;
    let Element::List(count) = reader.element()? else { return None };
    let list = doc.begin_object("");
    if !server.is_empty() {
        doc.put("server", Leaf::Text(&hex::encode(server)));
    }
    if let Some(time) = time {
        doc.put("time", Leaf::Whole(time.into()));
    }
    let mut manufacturer = None;
    let values = doc.begin_object("values");
    let mut result = Some(());
    for _ in 0..count {
        result = entry(reader, &mut manufacturer, doc);
        if result.is_none() || doc.is_full() {
            break;
        }
    }
    doc.end(values);
    if let Some((_, name)) = manufacturer.and_then(|(place, name)| Some((place, text(name)?))) {
        doc.put("manufacturer", Leaf::Text(name));
    }
    doc.end(list);
    result
}

/// A value. `manufacturer` is the best that was found so far, with its place in [`MANUFACTURER`].
fn entry<'a>(reader: &mut Reader<'a>, manufacturer: &mut Option<(usize, &'a [u8])>, doc: &mut Doc) -> Option<()> {
    reader.list(ENTRY)?;
    let code = reader.octets()?;
    let status = reader.element()?;
    let time = reader.time()?;
    let unit = reader.number()?;
    let scaler = reader.number()?;
    let at = reader.at;
    let value = reader.element()?;
    if matches!(value, Element::List(_)) {
        // A time, which no rule is for.
        reader.at = at;
        reader.skip()?;
    }
    reader.skip()?;
    let code: &[u8; 6] = code.try_into().ok()?;
    let object = doc.begin_object(&obis(code));
    match value {
        Element::Octets(octets) => {
            let place = MANUFACTURER.iter().position(|own| own[..5] == code[..5]);
            if let Some(place) = place
                && manufacturer.is_none_or(|(best, _)| place < best)
            {
                *manufacturer = Some((place, octets));
            }
            match text(octets) {
                Some(text) => doc.put("value", Leaf::Text(text)),
                None if octets.is_empty() => doc.put("value", Leaf::Null),
                None => doc.put("value", Leaf::Text(&hex::encode(octets))),
            }
        }
        Element::Flag(flag) => doc.put("value", Leaf::Flag(flag)),
        Element::Signed(_) | Element::Unsigned(_) => {
            let whole = value.whole()?;
            match scaler {
                None | Some(0) => doc.put("value", Leaf::Whole(whole)),
                // By way of decimals: the nearest double to the number that the meter means.
                Some(scaler) => match format!("{whole}e{scaler}").parse::<f64>() {
                    Ok(number) if number.is_finite() => doc.put("value", Leaf::Number(number)),
                    _ => doc.put("value", Leaf::Null),
                },
            }
        }
        Element::List(_) => {}
    }
    if let Some(unit) = unit.and_then(|unit| ucum(u8::try_from(unit).ok()?)) {
        doc.put("unit", Leaf::Text(unit));
    }
    match status {
        Element::Octets([]) | Element::List(_) | Element::Flag(_) => {}
        Element::Octets(octets) => doc.put("status", Leaf::Text(&hex::encode(octets))),
        Element::Signed(_) | Element::Unsigned(_) => doc.put("status", Leaf::Whole(status.whole()?)),
    }
    if let Some(time) = time {
        doc.put("time", Leaf::Whole(time.into()));
    }
    doc.end(object);
    Some(())
}

/// Readable text, if it is nothing else; zeros and spaces at its end are left out.
fn text(octets: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(octets).ok()?.trim_end_matches(['\0', ' ']);
    (!text.is_empty() && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))).then_some(text)
}

/// A code as it is printed (DIN EN 62056-61).
fn obis(&[a, b, c, d, e, f]: &[u8; 6]) -> String {
    match f {
        255 => format!("{a}-{b}:{c}.{d}.{e}"),
        _ => format!("{a}-{b}:{c}.{d}.{e}*{f}"),
    }
}

/// The UCUM code of a unit's number (DLMS UA Blue Book, enumeration of physical units); nothing for a count.
fn ucum(unit: u8) -> Option<&'static str> {
    Some(match unit {
        1 => "a",
        2 => "mo",
        3 => "wk",
        4 => "d",
        5 => "h",
        6 => "min",
        7 => "s",
        8 => "deg",
        9 => "Cel",
        11 => "m",
        12 => "m/s",
        13 | 14 => "m3",
        15 | 16 => "m3/h",
        17 | 18 => "m3/d",
        19 => "L",
        20 => "kg",
        21 => "N",
        22 => "N.m",
        23 => "Pa",
        24 => "bar",
        25 => "J",
        26 => "J/h",
        27 => "W",
        28 => "V.A",
        29 => "V.A{reactive}",
        30 => "W.h",
        31 => "V.A.h",
        32 => "V.A.h{reactive}",
        33 => "A",
        34 => "C",
        35 => "V",
        36 => "V/m",
        37 => "F",
        38 => "Ohm",
        40 => "Wb",
        41 => "T",
        42 => "A/m",
        43 => "H",
        44 => "Hz",
        50 => "kg/s",
        51 => "S",
        52 => "K",
        56 => "%",
        57 => "A.h",
        _ => return None,
    })
}

#[cfg(test)]
#[path = "sml_tests.rs"]
mod tests;
