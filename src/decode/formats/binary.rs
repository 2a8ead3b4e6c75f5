//! Frames of bytes at fixed places.

use std::fmt::Write as _;

use super::{Refusal, fits, malformed};
use crate::decode::doc::{Doc, Leaf};
use crate::profile::{Binary, BinaryKind, BinaryValue};

/// Takes a frame apart. A value beyond its end is not there: messages of one device differ in length.
pub(in crate::decode) fn binary(bytes: &[u8], rules: &Binary, doc: &mut Doc) -> Result<(), Refusal> {
    if let Some(length) = rules.length.filter(|length| *length != bytes.len()) {
        return malformed(format!("expected {length} bytes, found {}", bytes.len()));
    }
    doc.begin(false);
    let mut found = false;
    for value in &rules.values {
        if let Some(bytes) = place(bytes, value) {
            found = true;
            put(bytes, value, doc);
        }
    }
    doc.end(0);
    fits(doc)?;
    if found { Ok(()) } else { malformed(format!("none of the values is within its {} bytes", bytes.len())) }
}

fn place<'a>(bytes: &'a [u8], value: &BinaryValue) -> Option<&'a [u8]> {
    let at = value.at.unsigned_abs() as usize;
    let at = if value.at < 0 { bytes.len().checked_sub(at)? } else { at };
    bytes.get(at..at.checked_add(value.kind.bytes())?)
}

/// Adds the value that these bytes are.
pub(super) fn put(bytes: &[u8], value: &BinaryValue, doc: &mut Doc) {
    let key = &value.key;
    let whole = || {
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        if value.little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) }
    };
    match value.kind {
        BinaryKind::Unsigned(_) => doc.put(key, Leaf::Whole(whole().into())),
        BinaryKind::Signed(count) => {
            let unused = 64 - 8 * u32::from(count);
            // What the shifts do is what they are for: the sign is spread over the bits that are not there.
            let number = (whole() << unused).cast_signed() >> unused;
            doc.put(key, Leaf::Whole(number.into()));
        }
        BinaryKind::Float => {
            // The shortest decimals that mean this float: 21.3, not 21.299999237060547.
            let number = f32::from_bits(whole() as u32);
            doc.put(key, number.to_string().parse().map_or(Leaf::Null, Leaf::Number));
        }
        BinaryKind::Double => doc.put(key, Leaf::Number(f64::from_bits(whole()))),
        BinaryKind::Bcd(_) => {
            let mut number = 0_i128;
            let mut bytes: Vec<u8> = bytes.to_vec();
            if value.little {
                bytes.reverse();
            }
            for digit in bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
                if digit > 9 {
                    // Not a number: the rules say so, if they want it.
                    return doc.put(key, Leaf::Text(&hex(&bytes)));
                }
                number = number * 10 + i128::from(digit);
            }
            doc.put(key, Leaf::Whole(number));
        }
        // In capitals, as data sheets and labels print identifiers.
        BinaryKind::Hex(_) => doc.put(key, Leaf::Text(&hex(bytes).to_ascii_uppercase())),
        BinaryKind::Text(_) => {
            let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
            doc.put(key, Leaf::Text(text.trim_end_matches(['\0', ' '])));
        }
    }
}

/// Bytes as hexadecimal digits.
pub(in crate::decode) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::doc::Kind;

    #[test]
    fn every_kind_is_read_in_both_orders_and_from_both_ends() {
        let value = |at, kind, little| BinaryValue { key: "v".into(), at, kind, little };
        let bytes = [0x01, 0xff, 0x80, 0x12, 0x34, 0x42, 0x28, 0x00, 0x00];
        let cases = [
            (value(0, BinaryKind::Unsigned(2), false), 511.0),
            (value(0, BinaryKind::Unsigned(2), true), 65_281.0),
            (value(1, BinaryKind::Signed(1), false), -1.0),
            (value(1, BinaryKind::Signed(2), false), -128.0),
            (value(1, BinaryKind::Signed(3), false), -32_750.0),
            (value(3, BinaryKind::Bcd(2), false), 1_234.0),
            (value(3, BinaryKind::Bcd(2), true), 3_412.0),
            (value(5, BinaryKind::Float, false), 42.0),
            (value(-4, BinaryKind::Float, false), 42.0),
            (value(-9, BinaryKind::Unsigned(1), false), 1.0),
        ];
        let mut doc = Doc::default();
        for (value, expected) in cases {
            let shown = format!("{value:?}");
            binary(&bytes, &Binary { length: None, values: vec![value] }, &mut doc).unwrap();
            assert_eq!(doc.find(&["v".into()]).unwrap().kind, Kind::Number(expected), "{shown}");
        }
        for at in [8, 9, 100, -1, -10, i32::MIN, i32::MAX] {
            let rules = Binary { length: None, values: vec![value(at, BinaryKind::Unsigned(2), false)] };
            assert!(binary(&bytes, &rules, &mut doc).is_err(), "{at}");
        }
        let rules = Binary { length: Some(9), values: vec![value(1, BinaryKind::Hex(2), false)] };
        binary(&bytes, &rules, &mut doc).unwrap();
        assert_eq!(doc.find(&["v".into()]).and_then(|node| doc.word(node)).as_deref(), Some("FF80"));
        assert!(binary(&bytes[1..], &rules, &mut doc).is_err(), "the length is not right");
    }
}
