use proptest::prelude::*;

use super::*;
use crate::decode::doc::{Kind, NODES_MAX};

fn find(doc: &Doc, path: &[&str]) -> Option<Kind> {
    let path: Vec<Box<str>> = path.iter().map(|&key| key.into()).collect();
    doc.find(&path).map(|node| node.kind)
}

fn word(doc: &Doc, path: &[&str]) -> Option<String> {
    let path: Vec<Box<str>> = path.iter().map(|&key| key.into()).collect();
    doc.find(&path).and_then(|node| doc.word(node))
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// A message around a body of hexadecimal digits, with its checksum.
fn message(body: &str) -> Vec<u8> {
    let mut bytes = unhex(&format!("76 02 01 62 00 62 00 {body}"));
    let [low, high] = CRC.checksum(&bytes).to_le_bytes();
    bytes.extend([0x63, low, high, END_OF_MESSAGE]);
    bytes
}

fn list(entries: &[&str]) -> Vec<u8> {
    let count = entries.len();
    assert!(count < 16);
    message(&format!(
        "72 63 07 01 77 01 0b 0a 01 54 53 54 00 00 01 02 03 01 72 62 01 64 01 02 03 7{count:x} {} 01 01",
        entries.concat()
    ))
}

fn entry(code: &str, unit: &str, scaler: &str, value: &str) -> String {
    format!("77 07 {code} 01 01 {unit} {scaler} {value} 01")
}

/// A whole transmission.
fn transmission(inside: &[u8]) -> Vec<u8> {
    let mut bytes = START.to_vec();
    let fill = inside.len().next_multiple_of(4) - inside.len();
    let mut filled = inside.to_vec();
    filled.resize(inside.len() + fill, 0);
    for group in filled.chunks(4) {
        bytes.extend_from_slice(group);
        if *group == ESCAPE {
            bytes.extend_from_slice(group);
        }
    }
    bytes.extend([0x1b, 0x1b, 0x1b, 0x1b, END, fill as u8]);
    let checksum = CRC.checksum(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

const OPEN: &str = "72 63 01 01 76 01 01 02 05 0b 0a 01 54 53 54 00 00 01 02 03 01 01";
const CLOSE: &str = "72 63 02 01 71 01";

#[test]
fn values_are_scaled_in_decimals_and_keep_their_units() {
    let bytes = list(&[
        // 123456789 of a tenth of a watt-hour, in eight bytes; and a tariff in five.
        &entry("01 00 01 08 00 ff", "62 1e", "52 ff", "69 00 00 00 00 07 5b cd 15"),
        &entry("01 00 01 08 01 ff", "62 1e", "52 ff", "56 00 00 00 05 39"),
        // -1234 W, and one byte of -5 A.
        &entry("01 00 10 07 00 ff", "62 1b", "52 00", "55 ff ff fb 2e"),
        &entry("01 00 1f 07 00 ff", "62 21", "52 fe", "52 fb"),
        &entry("01 00 20 07 00 ff", "62 23", "52 ff", "63 08 fc"),
        &entry("01 00 05 08 00 ff", "62 20", "52 03", "62 02"),
        &entry("01 00 01 08 00 01", "62 ff", "01", "69 ff ff ff ff ff ff ff ff"),
        &entry("81 81 c7 82 03 ff", "01", "01", "04 54 53 54"),
        &entry(
            "81 81 c7 82 05 ff",
            "01",
            "01",
            "83 02 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f 20 21 22 23 24 25 26 27 28 29 2a 2b 2c 2d 2e 2f",
        ),
    ]);
    let mut doc = Doc::default();
    sml(&bytes, &mut doc).unwrap();
    let value = |code: &str, key: &str| word(&doc, &["lists", "0", "values", code, key]);
    assert_eq!(
        word(&doc, &["lists", "0", "server"]).as_deref(),
        Some("0a0154535400000102 03".replace(' ', "").as_str())
    );
    assert_eq!(word(&doc, &["lists", "0", "manufacturer"]).as_deref(), Some("TST"));
    assert_eq!(word(&doc, &["lists", "0", "time"]), None, "seconds since it was switched on are no time");
    for (code, expected, unit) in [
        ("1-0:1.8.0", "12345678.9", Some("W.h")),
        ("1-0:1.8.1", "133.7", Some("W.h")),
        ("1-0:16.7.0", "-1234", Some("W")),
        ("1-0:31.7.0", "-0.05", Some("A")),
        ("1-0:32.7.0", "230", Some("V")),
        ("1-0:5.8.0", "2000", Some("V.A.h{reactive}")),
        ("1-0:1.8.0*1", "18446744073709551615", None),
        ("129-129:199.130.3", "TST", None),
    ] {
        assert_eq!(value(code, "value").as_deref(), Some(expected), "{code}");
        assert_eq!(value(code, "unit").as_deref(), unit, "{code}");
    }
    assert_eq!(value("129-129:199.130.5", "value").map(|key| key.len()), Some(96), "a length of two bytes");
}

#[test]
fn a_time_of_the_calendar_is_one_and_seconds_since_the_start_are_none() {
    let timed = |time: &str| {
        let body = format!(
            "72 63 07 01 77 01 01 01 {time} 71 77 07 01 00 10 07 00 ff 62 04 {time} 62 1b 52 00 62 05 01 01 01"
        );
        let mut doc = Doc::default();
        sml(&message(&body), &mut doc).unwrap();
        let value = word(&doc, &["lists", "0", "values", "1-0:16.7.0", "time"]);
        assert_eq!(value, word(&doc, &["lists", "0", "time"]));
        assert_eq!(word(&doc, &["lists", "0", "values", "1-0:16.7.0", "status"]).as_deref(), Some("4"));
        assert_eq!(find(&doc, &["lists", "0", "server"]), None);
        value
    };
    assert_eq!(timed("72 62 02 65 69 f8 89 00").as_deref(), Some("1777895680"));
    assert_eq!(timed("72 62 03 73 65 69 f8 89 00 53 00 3c 53 00 3c").as_deref(), Some("1777895680"));
    for none in ["01", "72 62 01 65 69 f8 89 00", "65 69 f8 89 00"] {
        assert_eq!(timed(none), None, "{none}");
    }
}

#[test]
fn a_whole_transmission_is_taken_as_what_it_carries_is() {
    // The meter's key holds an escape sequence, at a place where it is doubled.
    let mut inside = message(OPEN);
    let key = entry("81 81 c7 82 05 ff", "01", "01", "0d 1b 1b 1b 1b 1b 1b 1b 1b 1b 1b 1b 1b");
    inside.extend(list(&[&entry("01 00 01 08 00 ff", "62 1e", "52 ff", "62 2a"), &key]));
    inside.extend(message(CLOSE));
    let whole = transmission(&inside);
    assert!(whole.len() > inside.len().next_multiple_of(4) + 16, "something was doubled");
    for bytes in [&whole, &inside] {
        let mut doc = Doc::default();
        sml(bytes, &mut doc).unwrap();
        assert_eq!(word(&doc, &["lists", "0", "values", "1-0:1.8.0", "value"]).as_deref(), Some("4.2"));
        let key = word(&doc, &["lists", "0", "values", "129-129:199.130.5", "value"]);
        assert_eq!(key, Some("1b".repeat(12)));
        assert_eq!(find(&doc, &["lists", "1"]), None);
    }
}

#[test]
fn a_flipped_bit_is_noticed_with_and_without_the_transmissions_checksum() {
    let inside = list(&[&entry("01 00 01 08 00 ff", "62 1e", "52 ff", "62 2a")]);
    let mut doc = Doc::default();
    for bytes in [transmission(&inside), inside] {
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(sml(&damaged, &mut doc).is_err(), "bit {bit}");
        }
    }
    let mut damaged = list(&[&entry("01 00 01 08 00 ff", "62 1e", "52 ff", "62 2a")]);
    let at = damaged.len() - 8;
    damaged[at] ^= 1;
    assert!(matches!(sml(&damaged, &mut doc), Err(Refusal::Wrong(Reason::BadChecksum, _))));
}

#[test]
fn what_is_cut_off_or_no_message_is_refused() {
    let mut doc = Doc::default();
    let whole = transmission(&list(&[&entry("01 00 01 08 00 ff", "62 1e", "52 ff", "62 2a")]));
    for length in 0..whole.len() {
        assert!(sml(&whole[..length], &mut doc).is_err(), "{length} bytes");
    }
    for wrong in ["00 00", "76", "ff ff ff ff ff ff", "f7 f7 f7 f7", "8f 8f 8f 8f 8f 8f"] {
        assert!(sml(&unhex(wrong), &mut doc).is_err(), "{wrong}");
    }
    // A code of five bytes, a value that is too long for a number, a list of values that is none.
    for body in [
        "72 63 07 01 77 01 01 01 01 71 77 06 01 00 01 08 00 01 01 62 1e 52 ff 62 2a 01 01 01",
        "72 63 07 01 77 01 01 01 01 71 77 07 01 00 01 08 00 ff 01 01 62 1e 52 ff 6a 00 00 00 00 00 00 00 00 2a 01 01 01",
        "72 63 07 01 77 01 01 01 01 01 01 01",
    ] {
        assert!(matches!(sml(&message(body), &mut doc), Err(Refusal::Wrong(Reason::Malformed, _))), "{body}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_and_what_is_held_is_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut doc = Doc::default();
        let _ = sml(&bytes, &mut doc);
        let _ = sml(&transmission(&bytes), &mut doc);
        // With a right checksum more of it is looked at.
        let digits = hex::encode(&bytes);
        let _ = sml(&message(&format!("72 63 07 01 {digits}")), &mut doc);
        let _ = sml(&message(&format!("72 63 07 01 77 01 01 01 01 7f {digits}")), &mut doc);
        let nodes = doc.root().map_or(0, |_| doc.children(0).count());
        prop_assert!(nodes <= NODES_MAX);
    }
}
