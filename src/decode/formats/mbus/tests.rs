use proptest::prelude::*;

use super::*;
use crate::decode::doc::Kind;
use crate::reading::Reason;

/// Number 12345678, manufacturer "ABC", version 1, water, access 7, status 0, not encrypted.
const HEADER: [u8; 12] = [0x78, 0x56, 0x34, 0x12, 0x43, 0x04, 0x01, 0x07, 0x07, 0x00, 0x00, 0x00];

fn telegram(information: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    Telegram { control: 0x08, address: 5, information, data }.write(&mut frame);
    frame
}

fn long(records: &[u8]) -> Vec<u8> {
    telegram(0x72, &[&HEADER[..], records].concat())
}

fn decoded(frame: &[u8]) -> Doc {
    let mut doc = Doc::default();
    assert_eq!(mbus(frame, &mut doc).unwrap(), None);
    doc
}

fn refused(frame: &[u8]) -> String {
    match mbus(frame, &mut Doc::default()) {
        Err(Refusal::Wrong(Reason::Malformed, detail)) => detail,
        other => panic!("{other:?}"),
    }
}

fn word(doc: &Doc, path: &str) -> Option<String> {
    let keys: Vec<Box<str>> = path.split('.').map(Into::into).collect();
    doc.word(doc.find(&keys)?)
}

/// The only record: quantity with suffix, value, unit, and whatever else it says.
fn one(record: &[u8]) -> String {
    let doc = decoded(&long(record));
    assert_eq!(word(&doc, "records.1.quantity"), None, "one record");
    let of = |key: &str| word(&doc, &format!("records.0.{key}"));
    let mut text = format!("{}{}", of("quantity").unwrap(), of("suffix").unwrap_or_default());
    text += &format!(" {}", of("value").unwrap_or_else(|| "none".to_owned()));
    for key in ["unit", "direction", "qualifier", "error"] {
        if let Some(word) = of(key) {
            text += &format!(" {word}");
        }
    }
    if of("function").as_deref() == Some("error") {
        text += " (while in error)";
    }
    text
}

#[test]
fn the_header_is_taken_apart() {
    let doc = decoded(&long(&[]));
    for (path, expected) in [
        ("id", "12345678"),
        ("manufacturer", "ABC"),
        ("version", "1"),
        ("medium", "water"),
        ("access", "7"),
        ("status", "0"),
    ] {
        assert_eq!(word(&doc, path).as_deref(), Some(expected), "{path}");
    }
    let short = decoded(&telegram(0x7a, &[9, 0x10, 0, 0, 0x01, 0x13, 5]));
    assert_eq!(word(&short, "status").as_deref(), Some("16"));
    assert_eq!((word(&short, "id"), word(&short, "records.0.value").as_deref()), (None, Some("0.005")));
    let none = decoded(&telegram(0x78, &[0x01, 0x16, 5]));
    assert_eq!((word(&none, "status"), word(&none, "records.0.value").as_deref()), (None, Some("5")));
}

#[test]
fn every_way_of_writing_a_number_is_read() {
    for (record, expected) in [
        (&[0x01, 0x16, 0xfe][..], "volume -2 m3"),
        (&[0x02, 0x13, 0x39, 0x30], "volume 12.345 m3"),
        (&[0x03, 0x13, 0x39, 0x30, 0x00], "volume 12.345 m3"),
        (&[0x04, 0x13, 0xff, 0xff, 0xff, 0xff], "volume -0.001 m3"),
        (&[0x05, 0x5b, 0x00, 0x00, 0x48, 0x41], "flow_temperature 12.5 Cel"),
        (&[0x05, 0x2b, 0xcd, 0xcc, 0xcc, 0x3d], "power 0.1 W"),
        (&[0x06, 0x03, 1, 0, 0, 0, 0, 1], "energy 1099511627777 W.h"),
        (&[0x07, 0x03, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "energy 9223372036854775807 W.h"),
        (&[0x09, 0x16, 0x42], "volume 42 m3"),
        (&[0x0a, 0x5a, 0x15, 0x02], "flow_temperature 21.5 Cel"),
        (&[0x0b, 0x61, 0x18, 0x00, 0xf0], "temperature_difference -0.18 K"),
        (&[0x0c, 0x06, 0x78, 0x56, 0x34, 0x12], "energy 12345678000 W.h"),
        (&[0x0e, 0x13, 0x21, 0x43, 0x65, 0x87, 0x09, 0x00], "volume 987654.321 m3"),
        (&[0x0d, 0x13, 0xc2, 0x34, 0x12], "volume 1.234 m3"),
        (&[0x0d, 0x13, 0xd2, 0x34, 0x12], "volume -1.234 m3"),
        (&[0x0d, 0x13, 0xe2, 0xff, 0xff], "volume -0.001 m3"),
        (&[0x0d, 0xfd, 0x0c, 0x03, b'1', b'-', b'A'], "model A-1"),
        (&[0x0d, 0xfd, 0x11, 0x02, 0xdc, b'X'], "customer XÜ"),
        (
            &[0x0d, 0x78, 0xf0, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1],
            "fabrication_number 0102030405060708090a0b0c0d0e0f10",
        ),
    ] {
        assert_eq!(one(record), expected, "{record:02x?}");
    }
}

#[test]
fn what_means_that_there_is_no_value_is_none() {
    for (record, expected) in [
        (&[0x00, 0x13][..], "volume none m3"),
        (&[0x02, 0x5b, 0x00, 0x80], "flow_temperature none Cel"),
        (&[0x04, 0x13, 0x00, 0x00, 0x00, 0x80], "volume none m3"),
        (&[0x05, 0x5b, 0x00, 0x00, 0xc0, 0x7f], "flow_temperature none Cel"),
        // What its display shows: no digits.
        (&[0x0b, 0x3b, 0xee, 0xee, 0xee], "volume_flow none m3/h"),
        (&[0x04, 0x93, 0x15, 0, 0, 0, 0], "volume none m3 no data"),
        (&[0x04, 0x93, 0x16, 1, 2, 3, 4], "volume none m3 overflow"),
        // Marked as not valid; every day; no month.
        (&[0x04, 0x6d, 0x80, 0x0a, 0xa4, 0x35], "time none"),
        (&[0x02, 0x6c, 0xff, 0xff], "date none"),
        (&[0x02, 0x6c, 0xa4, 0x30], "date none"),
    ] {
        assert_eq!(one(record), expected, "{record:02x?}");
    }
    assert_eq!(one(&[0x01, 0xfd, 0x17, 0x80]), "error_flags 128", "bits have no such code");
    // An answer with a question in it, and one with nothing.
    assert_eq!(word(&decoded(&long(&[0x08, 0x13])), "records.0.quantity"), None);
    assert_eq!(word(&decoded(&long(&[0x2f, 0x2f])), "records.0.quantity"), None);
}

#[test]
fn times_are_as_long_as_the_record_says() {
    for (record, expected) in [
        (&[0x02, 0x6c, 0x44, 0x35][..], "date 2026-05-04"),
        (&[0x04, 0x6d, 0x1e, 0x0c, 0x44, 0x35], "time 2026-05-04T12:30:00"),
        // With centuries, as newer meters have them, and a year before 2000.
        (&[0x04, 0x6d, 0x1e, 0x2c, 0x44, 0x35], "time 2026-05-04T12:30:00"),
        (&[0x02, 0x6c, 0x64, 0xc5], "date 1999-05-04"),
        (&[0x06, 0x6d, 0x0f, 0x1e, 0x0c, 0x44, 0x35, 0x00], "time 2026-05-04T12:30:15"),
        (&[0x03, 0x6d, 0x0f, 0x1e, 0x0c], "time 12:30:15"),
        (&[0x44, 0xed, 0x6a, 0x1e, 0x0c, 0x44, 0x35], "time_storage_1 2026-05-04T12:30:00 when"),
        (&[0x02, 0xfd, 0x70, 0x44, 0x35], "battery_change 2026-05-04"),
    ] {
        assert_eq!(one(record), expected, "{record:02x?}");
    }
    // The record behind it is whole.
    let doc = decoded(&long(&[0x03, 0x6d, 0x10, 0x20, 0x0a, 0x04, 0x13, 1, 0, 0, 0]));
    assert_eq!(word(&doc, "records.1.value").as_deref(), Some("0.001"));
}

#[test]
fn storage_tariff_subunit_and_function_are_read() {
    for (record, expected) in [
        (&[0x41, 0x16, 1][..], "volume_storage_1 1 m3"),
        (&[0x81, 0x10, 0x16, 1], "volume_tariff_1 1 m3"),
        (&[0x81, 0x40, 0x16, 1], "volume_subunit_1 1 m3"),
        (&[0xc1, 0x01, 0x16, 1], "volume_storage_3 1 m3"),
        (&[0x81, 0xd1, 0x60, 0x16, 1], "volume_subunit_3_tariff_9_storage_2 1 m3"),
        (&[0x11, 0x2b, 1], "power_max 1 W"),
        (&[0x61, 0x2b, 1], "power_storage_1_min 1 W"),
        (&[0x31, 0x2b, 1], "power 1 W (while in error)"),
        (
            &[0xc1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x16, 1],
            "volume_subunit_1023_tariff_1048575_storage_2199023255551 1 m3",
        ),
    ] {
        assert_eq!(one(record), expected, "{record:02x?}");
    }
}

/// The power of ten at both ends of each row of the tables.
#[test]
fn the_tables_have_the_right_units_and_powers() {
    for (fields, expected) in [
        (&[0x00][..], "energy 0.007 W.h"),
        (&[0x07], "energy 70000 W.h"),
        (&[0x08], "energy 7 J"),
        (&[0x0f], "energy 70000000 J"),
        (&[0x10], "volume 0.000007 m3"),
        (&[0x17], "volume 70 m3"),
        (&[0x18], "mass 0.007 kg"),
        (&[0x1f], "mass 70000 kg"),
        (&[0x20], "on_time 7 s"),
        (&[0x23], "on_time 604800 s"),
        (&[0x26], "operating_time 25200 s"),
        (&[0x28], "power 0.007 W"),
        (&[0x2f], "power 70000 W"),
        (&[0x30], "power 7 J/h"),
        (&[0x37], "power 70000000 J/h"),
        (&[0x38], "volume_flow 0.000007 m3/h"),
        (&[0x3f], "volume_flow 70 m3/h"),
        (&[0x40], "volume_flow 0.0000007 m3/min"),
        (&[0x4f], "volume_flow 0.07 m3/s"),
        (&[0x50], "mass_flow 0.007 kg/h"),
        (&[0x58], "flow_temperature 0.007 Cel"),
        (&[0x5f], "return_temperature 7 Cel"),
        (&[0x62], "temperature_difference 0.7 K"),
        (&[0x65], "external_temperature 0.07 Cel"),
        (&[0x68], "pressure 0.007 bar"),
        (&[0x6e], "heat_cost 7"),
        (&[0x6f], "unknown 7"),
        (&[0x72], "averaging_duration 25200 s"),
        (&[0x75], "actuality_duration 420 s"),
        (&[0x7e], "any 7"),
        (&[0x7f], "manufacturer 7"),
        (&[0xfd, 0x01], "credit 0.07"),
        (&[0xfd, 0x32], "tariff_duration 25200 s"),
        (&[0xfd, 0x3d], "transmission_period 420 s"),
        (&[0xfd, 0x40], "voltage 0.000000007 V"),
        (&[0xfd, 0x49], "voltage 7 V"),
        (&[0xfd, 0x5c], "current 7 A"),
        (&[0xfd, 0x6f], "battery_operating_time 7 a"),
        (&[0xfd, 0x74], "battery_left 604800 s"),
        (&[0xfd, 0xfd, 0x02], "battery_left 7 mo"),
        (&[0xfb, 0x00], "energy 700000 W.h"),
        (&[0xfb, 0x01], "energy 7000000 W.h"),
        (&[0xfb, 0x02], "reactive_energy 7000 V.A.h{reactive}"),
        (&[0xfb, 0x08], "energy 700000000 J"),
        (&[0xfb, 0x0d], "energy 7000000 cal"),
        (&[0xfb, 0x11], "volume 7000 m3"),
        (&[0xfb, 0x14], "reactive_power 7 V.A{reactive}"),
        (&[0xfb, 0x1a], "humidity 0.7 %"),
        (&[0xfb, 0x22], "volume 0.7 [gal_us]"),
        (&[0xfb, 0x28], "power 700000 W"),
        (&[0xfb, 0x2d], "frequency 0.07 Hz"),
        (&[0xfb, 0x5b], "flow_temperature 7 [degF]"),
        (&[0xfb, 0x7f], "cumulated_power 70000 W"),
    ] {
        assert_eq!(one(&[&[0x01], fields, &[7]].concat()), expected, "{fields:02x?}");
    }
}

#[test]
fn extensions_say_more_and_never_make_one_quantity_of_another() {
    for (fields, expected) in [
        (&[0x93, 0x7d][..], "volume 7 m3"),
        (&[0x93, 0x74], "volume 0.00007 m3"),
        (&[0x93, 0xf4, 0x7d], "volume 0.07 m3"),
        (&[0xab, 0xfc, 0x01], "power_l1 7 W"),
        (&[0xfd, 0xc9, 0xfc, 0x03], "voltage_l3 7 V"),
        (&[0xfd, 0xc9, 0xfc, 0x06], "voltage_l2_l3 7 V"),
        (&[0x83, 0x3c], "energy 7 W.h backward"),
        (&[0x83, 0x3b], "energy 7 W.h forward"),
        (&[0x93, 0x3a], "volume 0.007 m3"),
        (&[0x93, 0x00], "volume 0.007 m3"),
        (&[0x93, 0x40], "volume 0.007 m3 limit"),
        (&[0x93, 0x49], "volume 7 limit_exceeds"),
        (&[0x93, 0x51], "volume 7 limit_duration"),
        (&[0x93, 0x7e], "volume 0.007 m3 future"),
        (&[0x93, 0x22], "volume 0.007 m3 per_unit"),
        (&[0x93, 0xff, 0x55], "volume 0.007 m3 manufacturer"),
        (&[0x93, 0xfc, 0x55], "volume 0.007 m3 unknown"),
        (&[0xff, 0x15], "manufacturer 7"),
        (&[0xfe, 0x00], "any 7"),
        // In words, with and without more behind them.
        (&[0x7c, 3, b'H', b'R', b'%'], "text 7 %RH"),
        (&[0xfc, 3, b'H', b'R', b'%', 0x74], "text 0.07 %RH"),
    ] {
        assert_eq!(one(&[&[0x01], fields, &[7]].concat()), expected, "{fields:02x?}");
    }
    assert_eq!(one(&[0x04, 0x93, 0x6e, 0x1e, 0x0c, 0x44, 0x35]), "volume 2026-05-04T12:30:00 when");
}

#[test]
fn the_records_end_where_the_manufacturers_begin() {
    let doc = decoded(&long(&[0x2f, 0x01, 0x16, 5, 0x2f, 0x0f, 0x01, 0x16, 6]));
    assert_eq!((word(&doc, "records.0.value").as_deref(), word(&doc, "records.1.value")), (Some("5"), None));
    let two = [long(&[0x01, 0x16, 5, 0x1f]), long(&[0x01, 0x5b, 6])].concat();
    let doc = decoded(&two);
    assert_eq!(word(&doc, "records.1.quantity").as_deref(), Some("flow_temperature"));
}

#[test]
fn a_record_that_cannot_be_read_is_told_and_those_before_it_count() {
    for bad in [
        &[0x04, 0x13, 1, 2, 3][..],
        &[0x3f],
        &[0x04],
        &[0x84],
        &[0x84, 0x93],
        &[0x04, 0xfd],
        &[0x0d, 0x13, 0xf8, 1],
        &[0x0d, 0x13, 5, 1],
        &[0x01, 0x7c, 9, 1],
        // Eleven extensions.
        &[0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00, 0x16, 1],
        &[0x01, 0x93, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00, 1],
    ] {
        let mut doc = Doc::default();
        let told = mbus(&long(&[&[0x01, 0x16, 5], bad].concat()), &mut doc).unwrap();
        assert_eq!(told.as_deref(), Some("telegram 1: byte 3 of the records is not one that is known"), "{bad:02x?}");
        assert_eq!((word(&doc, "records.0.value").as_deref(), word(&doc, "records.1.quantity")), (Some("5"), None));
    }
}

#[test]
fn what_is_not_taken_is_refused_with_a_reason() {
    let mut encrypted = HEADER;
    encrypted[11] = 0x05;
    let with = |records: &[u8]| telegram(0x72, &[&encrypted[..], records].concat());
    assert!(refused(&with(&[0x12, 0x34])).contains("it is encrypted (mode 5), and no key is supported"));
    assert_eq!(word(&decoded(&with(&[0x2f, 0x2f, 0x01, 0x16, 5])), "records.0.value").as_deref(), Some("5"));
    assert!(refused(&telegram(0x73, &[0; 16])).contains("fixed data structure"));
    assert!(refused(&telegram(0x76, &HEADER)).contains("highest byte"));
    assert!(refused(&telegram(0x70, &[8])).contains("an error of its application instead of values: code 8"));
    assert!(refused(&telegram(0x72, &[0; 11])).contains("ends within the header"));
    assert!(refused(&telegram(0xb7, &[])).contains("control information b7: expected 72, 78 or 7a"));
    assert!(refused(&[0xe5]).contains("byte 0: expected a long frame"));
    let mut other = HEADER;
    other[0] = 0x79;
    let collided = [long(&[0x1f]), telegram(0x72, &other)].concat();
    assert!(refused(&collided).contains("of two meters, 12345678 and 12345679"), "{}", refused(&collided));
    let mut wrong = long(&[0x01, 0x16, 5]);
    *wrong.last_mut().unwrap() = 0x17;
    assert!(refused(&wrong).contains("right checksum"));
}

proptest! {
    #[test]
    fn no_bytes_panic_and_what_comes_out_is_bounded(records in prop::collection::vec(any::<u8>(), 0..240), information in any::<u8>()) {
        for frame in [long(&records), telegram(information, &records), records.clone()] {
            let mut doc = Doc::default();
            let _ = mbus(&frame, &mut doc);
            prop_assert!(!doc.is_full());
        }
    }

    #[test]
    fn records_that_are_right_are_all_read(values in prop::collection::vec(any::<i32>(), 0..30)) {
        let records: Vec<u8> = values.iter().flat_map(|value| [&[0x04, 0x16][..], &value.to_le_bytes()].concat()).collect();
        let doc = decoded(&long(&records));
        for (at, value) in values.iter().enumerate() {
            let kind = doc.find(&["records".into(), at.to_string().into(), "value".into()]).unwrap().kind;
            let expected = if *value == i32::MIN { Kind::Null } else { Kind::Number(f64::from(*value)) };
            prop_assert_eq!(kind, expected);
        }
    }
}
