//! Frames of bytes at fixed places.

use super::{Refusal, fits, malformed};
use crate::decode::doc::{Doc, Leaf};
use crate::profile::{Binary, BinaryKind, BinaryValue, Item, ItemKind, Items, Optional};

/// Takes a frame apart. A value beyond its end is not there: messages of one device differ in length. Gives why what is left
/// of its items could not be read, if something is.
pub(in crate::decode) fn binary(bytes: &[u8], rules: &Binary, doc: &mut Doc) -> Result<Option<String>, Refusal> {
    if let Some(length) = rules.length.filter(|length| *length != bytes.len()) {
        return malformed(format!("expected {length} bytes, found {}", bytes.len()));
    }
    doc.begin(false);
    let mut found = false;
    for value in &rules.values {
        if let Some(bytes) = place(bytes, value) {
            found = true;
            put(bytes, &value.key, value.kind, value.little, doc);
        }
    }
    let (mut count, mut unread) = rules.items.as_ref().map_or((0, None), |rules| items(bytes, rules, doc));
    if let Some(rules) = &rules.optional {
        let (more, cut) = optional(bytes, rules, doc);
        count += more;
        unread = unread.or(cut);
    }
    doc.end(0);
    fits(doc)?;
    match unread {
        unread if found || count > 0 => Ok(unread),
        Some(unread) => malformed(unread),
        None => malformed(format!("none of the values is within its {} bytes", bytes.len())),
    }
}

/// Reads items one behind the other. Gives how many, and why the rest could not be read.
fn items(bytes: &[u8], rules: &Items, doc: &mut Doc) -> (usize, Option<String>) {
    let (mut at, mut count) = (rules.from, 0);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let fits = |item: &&Item| {
            let is = |(tag, byte): (&Option<u8>, &u8)| tag.is_none_or(|tag| tag == *byte);
            rest.len() >= item.tag.len() && item.tag.iter().zip(rest).all(is)
        };
        let item = rules.known.iter().find(fits);
        // What is short of the longest frame is filled with zeros by some, where no item begins so.
        let is_filled = item.is_none() && rest.iter().all(|byte| *byte == 0);
        if rest.is_empty() || is_filled || doc.is_full() {
            return (count, None);
        }
        let Some(width) = item.or(rules.known.first()).map(|item| item.tag.len()) else { return (count, None) };
        let tag = rest.get(..width).unwrap_or(rest);
        let cut = || (count, Some(format!("byte {at}: item {} ends behind the frame", hex::encode(tag))));
        let body = rest.get(width..).unwrap_or_default();
        let (skipped, body) = match rules.length {
            None => (width, body),
            Some(length) => {
                let Some(written) = body.get(..length) else { return cut() };
                let announced = whole(written, false) as usize;
                let Some(body) = body.get(length..).and_then(|body| body.get(..announced)) else { return cut() };
                (width + length + announced, body)
            }
        };
        match item {
            Some(item) => {
                let whole = rules.length.is_some();
                let Some(taken) = take(item, tag, body, whole, doc) else { return cut() };
                count += 1;
                at += if whole { skipped } else { width + taken };
            }
            None if rules.length.is_some() => at += skipped,
            None => {
                return (count, Some(format!("byte {at}: no item of the profile begins with {}", hex::encode(tag))));
            }
        }
    }
}

/// Reads what the bits of the flags say is there. Gives how many, and why the rest could not be read.
fn optional(bytes: &[u8], rules: &Optional, doc: &mut Doc) -> (usize, Option<String>) {
    let Some(flags) = place(bytes, &rules.flags) else {
        return (0, Some("the flags are behind the end of the frame".to_owned()));
    };
    let flags = whole(flags, rules.flags.little);
    let (mut at, mut count) = (rules.from, 0);
    for bit in (0..64_u8).filter(|bit| flags >> bit & 1 == 1) {
        let Some((_, item)) = rules.bits.iter().find(|(known, _)| *known == bit) else {
            return (count, Some(format!("byte {at}: bit {bit} says what is there, and the profile does not know it")));
        };
        let body = bytes.get(at..).unwrap_or_default();
        let Some(taken) = take(item, &[], body, false, doc) else {
            return (count, Some(format!("byte {at}: what bit {bit} says is there ends behind the frame")));
        };
        at += taken;
        count += 1;
    }
    (count, None)
}

/// Adds the values of an item, and gives how many bytes they have. Of one that says how long it is, those that are there.
fn take(item: &Item, tag: &[u8], body: &[u8], whole: bool, doc: &mut Doc) -> Option<usize> {
    let any = item.tag.iter().zip(tag).find_map(|(known, byte)| known.is_none().then_some(*byte));
    let mut at = 0;
    for value in &item.values {
        let (counted, kind) = match value.kind {
            ItemKind::Fixed(kind) => (0, kind),
            ItemKind::CountedHex => (1, BinaryKind::Hex(*body.get(at)?)),
            ItemKind::CountedText => (1, BinaryKind::Text(*body.get(at)?)),
        };
        let Some(bytes) = body.get(at + counted..).and_then(|rest| rest.get(..kind.bytes())) else {
            return whole.then_some(at);
        };
        at += counted + kind.bytes();
        match any {
            None => put(bytes, &value.key, kind, value.little, doc),
            Some(any) => {
                let open = doc.begin_object(&value.key);
                put(bytes, itoa::Buffer::new().format(any), kind, value.little, doc);
                doc.end(open);
            }
        }
    }
    Some(at)
}

/// A whole number of at most eight bytes.
pub(super) fn whole(bytes: &[u8], little: bool) -> u64 {
    let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    if little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) }
}

fn place<'a>(bytes: &'a [u8], value: &BinaryValue) -> Option<&'a [u8]> {
    let at = value.at.unsigned_abs() as usize;
    let at = if value.at < 0 { bytes.len().checked_sub(at)? } else { at };
    bytes.get(at..at.checked_add(value.kind.bytes())?)
}

/// Adds the value that these bytes are.
pub(super) fn put(bytes: &[u8], key: &str, kind: BinaryKind, little: bool, doc: &mut Doc) {
    let whole = || whole(bytes, little);
    match kind {
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
            if little {
                bytes.reverse();
            }
            for digit in bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
                if digit > 9 {
                    // Not a number: the rules say so, if they want it.
                    return doc.put(key, Leaf::Text(&hex::encode(&bytes)));
                }
                number = number * 10 + i128::from(digit);
            }
            doc.put(key, Leaf::Whole(number));
        }
        // In capitals, as data sheets and labels print identifiers.
        BinaryKind::Hex(_) => doc.put(key, Leaf::Text(&hex::encode(bytes).to_ascii_uppercase())),
        BinaryKind::Text(_) => {
            let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
            doc.put(key, Leaf::Text(text.trim_end_matches(['\0', ' '])));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::doc::Kind;
    use crate::profile::{Format, Profile, run_samples};

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
            binary(&bytes, &Binary { values: vec![value], ..Binary::default() }, &mut doc).unwrap();
            assert_eq!(doc.find(&["v".into()]).unwrap().kind, Kind::Number(expected), "{shown}");
        }
        for at in [8, 9, 100, -1, -10, i32::MIN, i32::MAX] {
            let rules = Binary { values: vec![value(at, BinaryKind::Unsigned(2), false)], ..Binary::default() };
            assert!(binary(&bytes, &rules, &mut doc).is_err(), "{at}");
        }
        let rules = Binary { length: Some(9), values: vec![value(1, BinaryKind::Hex(2), false)], ..Binary::default() };
        binary(&bytes, &rules, &mut doc).unwrap();
        assert_eq!(doc.find(&["v".into()]).and_then(|node| doc.word(node)).as_deref(), Some("FF80"));
        assert!(binary(&bytes[1..], &rules, &mut doc).is_err(), "the length is not right");
    }

    /// The texts of fuzzing, so that what is tested here is what is fuzzed.
    fn of(text: &str) -> Profile {
        Profile::parse("items.toml".as_ref(), text).unwrap()
    }

    fn read(profile: &Profile, bytes: &[u8]) -> (String, Result<Option<String>, Refusal>) {
        let Format::Binary(rules) = &profile.format else { panic!("{:?}", profile.format) };
        let mut doc = Doc::default();
        let outcome = binary(bytes, rules, &mut doc);
        let words: Vec<String> = doc
            .children(0)
            .map(|(index, node)| {
                let below = doc.children(index).map(|(_, node)| format!(".{}={:?}", doc.key(node), doc.word(node)));
                format!("{}={:?}{}", doc.key(node), doc.word(node), below.collect::<String>())
            })
            .collect();
        (words.join(" ").replace("Some(", "").replace("=None", "").replace([')', '"'], ""), outcome)
    }

    #[test]
    fn items_come_in_any_order_and_what_cannot_be_read_is_told() {
        let items = of(include_str!("../../../fuzz/profiles/items.toml"));
        assert_eq!(run_samples(&items), []);
        for (bytes, expected, unread) in [
            // One kind twice, a channel, and zeros that fill the frame.
            (&[9, 1, 7, 1, 8, 0, 0][..], "first=9 a=7 a=8", None),
            (&[9, 2, 5, 1, 0, 0, 0, 0, 0x28, 0x42], "first=9 b.5=1 c.5=42", None),
            // The channel is behind the tag, and before it.
            (&[9, 7, 3, 2, b'h', b'i'], "first=9 d.7=hi", None),
            (&[9, 1, 7, 0x77, 1, 8], "first=9 a=7", Some("byte 3: no item of the profile begins with 77")),
            (&[9, 5, 0x12], "first=9", Some("byte 1: item 05 ends behind the frame")),
            (&[9, 4, 200, 1], "first=9", Some("byte 1: item 04 ends behind the frame")),
        ] {
            assert_eq!(read(&items, bytes), (expected.to_owned(), Ok(unread.map(str::to_owned))), "{bytes:?}");
        }
        // A tag of zeros, and a value of zero, fill nothing.
        let zero =
            of(&include_str!("../../../fuzz/profiles/items.toml").replace("\"01\" = \"a u8\"", "\"00\" = \"a u8\""));
        assert_eq!(read(&zero, &[9, 0, 0, 0, 0]), ("first=9 a=0 a=0".to_owned(), Ok(None)));
        // Nothing of it at all can be read.
        let (_, outcome) = read(&items, &[]);
        assert!(matches!(outcome, Err(Refusal::Wrong(..))), "{outcome:?}");
    }

    #[test]
    fn what_bits_say_is_there_is_read_as_far_as_it_is_known() {
        let optional = of(include_str!("../../../fuzz/profiles/optional.toml"));
        assert_eq!(run_samples(&optional), []);
        for (bytes, expected, unread) in [
            (&[7, 0, 0][..], "first=7", None),
            (&[7, 8, 0, 0xbf, 0x80, 0, 0, 99], "first=7 c=-1", None),
            (&[7, 9, 0, 0, 1, 2], "first=7 a=1 b=2", Some("byte 6: what bit 3 says is there ends behind the frame")),
            (
                &[7, 3, 0, 0, 1, 2, 4],
                "first=7 a=1 b=2",
                Some("byte 6: bit 1 says what is there, and the profile does not know it"),
            ),
            (&[7, 1], "first=7", Some("the flags are behind the end of the frame")),
        ] {
            assert_eq!(read(&optional, bytes), (expected.to_owned(), Ok(unread.map(str::to_owned))), "{bytes:?}");
        }
    }

    #[test]
    fn an_unknown_item_that_says_its_length_is_passed_over() {
        let counted = of(include_str!("../../../fuzz/profiles/counted.toml"));
        assert_eq!(run_samples(&counted), []);
        // A newer firmware says more behind a value that is known, or leaves one out.
        for (bytes, expected) in
            [(&[1, 0, 5, 0, 7, 0, 8, 99, 1, 0, 2, 0, 9][..], "a=7 b=8 a=9"), (&[0x55, 0, 0, 1, 0, 2, 0, 9], "a=9")]
        {
            assert_eq!(read(&counted, bytes), (expected.to_owned(), Ok(None)), "{bytes:?}");
        }
        let (found, outcome) = read(&counted, &[1, 0, 2, 0, 7, 1, 0xff, 0xff, 3]);
        assert_eq!((&*found, outcome), ("a=7", Ok(Some("byte 5: item 01 ends behind the frame".to_owned()))));
    }
}
