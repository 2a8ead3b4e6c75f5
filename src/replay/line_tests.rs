//! What is written can be read again, and what is no record is refused with its reason.

use proptest::prelude::*;

use super::*;

const WIDE: &str = r#"{"schema":1,"kind":"reading","gateway":"g","device":"kitchen","profile":"zigbee2mqtt","time":"2026-05-04T12:00:00.123Z","received":"2026-05-04T12:00:00.410Z","time_quality":"device","stream":"print","seq":1,"values":{"b":21.4,"a":-0.0},"texts":{"state":"ON"},"flags":{"occupied":true},"units":{"b":"Cel"},"new":[1]}"#;

fn read(line: &str) -> Result<(Parsed, Batch), String> {
    let mut batch = Batch::default();
    Parser::default().read(line.as_bytes(), &mut batch).map(|parsed| (parsed, batch))
}

#[test]
fn a_reading_with_numbers_texts_flags_and_units() {
    let (parsed, batch) = read(WIDE).unwrap();
    let received = Stamp { wall_ms: 1_777_896_000_410, monotonic_ms: 0, trusted: true };
    assert_eq!(parsed, Parsed::Record(received));
    let [Record::Reading(reading)] = &batch.records[..] else { panic!("{batch:?}") };
    assert_eq!((&*reading.device, &*reading.profile), ("kitchen", "zigbee2mqtt"));
    assert_eq!((reading.time_ms, reading.time_quality), (1_777_896_000_123, TimeQuality::Device));
    assert_eq!((reading.received, reading.mark), (received, Mark::None));
    let fields: Vec<_> = batch
        .fields_of(reading)
        .iter()
        .map(|field| (&*field.measurement.name, field.measurement.unit.as_deref(), field.value.clone()))
        .collect();
    let expected = [
        ("b", Some("Cel"), Value::Number(21.4)),
        ("a", None, Value::Number(-0.0)),
        ("state", None, Value::Text("ON".into())),
        ("occupied", None, Value::Flag(true)),
    ];
    assert_eq!(fields, expected);
}

#[test]
fn a_clock_that_was_not_trusted_is_not_trusted_again() {
    let line = WIDE.replace(r#""device","stream""#, r#""unsynced","monotonic_ms":5000,"stream""#);
    let (parsed, _) = read(&line).unwrap();
    assert!(matches!(parsed, Parsed::Record(Stamp { trusted: false, .. })), "{parsed:?}");
}

#[test]
fn other_kinds_are_no_readings() {
    for kind in ["aggregate", "dead-letter", "gap", "stream-end"] {
        assert_eq!(read(&format!(r#"{{"kind":"{kind}"}}"#)).unwrap(), (Parsed::Other(kind), Batch::default()));
    }
    let state = r#"{"kind":"state","device":"d","profile":"p","received":"2026-05-04T12:00:00Z","time_quality":"arrival","state":"offline"}"#;
    let (_, batch) = read(state).unwrap();
    assert!(matches!(&batch.records[..], [Record::State(state)] if !state.online), "{batch:?}");
}

#[test]
fn what_is_no_record_is_refused_with_its_reason_and_leaves_nothing_behind() {
    for (from, to, reason) in [
        ("{\"schema\"", "{schema", "not JSON: key must be a string at byte 2"),
        ("21.4", "\"21.4\"", "expected a number as `values.b`, found \"21.4\""),
        ("21.4", "null", "expected a number as `values.b`, found null"),
        ("21.4", "1e999", "not JSON: number out of range at byte 226"),
        ("true", "1", "expected true or false as `flags.occupied`, found the number 1"),
        ("\"ON\"", "[\"ON\"]", "expected a string as `texts.state`, found an array"),
        ("\"kitchen\"", "7", "expected a string as `device`, found the number 7"),
        ("\"kitchen\"", "\"\"", "missing `device`: expected a string"),
        ("\"profile\"", "\"profil\"", "missing `profile`: expected a string"),
        ("{\"b\":21.4,\"a\":-0.0}", "3", "expected an object as `values`, found the number 3"),
        ("\"schema\":1", "\"schema\":2", "expected schema 1, found 2, which a newer tidegate wrote"),
        ("\"schema\":1", "\"kind\":\"reading\"", "duplicate field `kind`"),
        ("\"reading\"", "\"reeding\"", "expected \"reading\" or \"state\" as `kind`, found \"reeding\""),
        (
            "\"kind\"",
            "\"kid\"",
            "missing `kind`: expected a record as `tidegate run --print --format ndjson` writes it",
        ),
        (
            "\"kind\"",
            "\"_kind\"",
            "expected the wide layout, found the flat one, which does not tell a text from a unit",
        ),
        (
            "\"values\"",
            "\"measurement\":\"b\",\"value\"",
            "expected the wide layout, with `values`, found the narrow one, with `measurement`",
        ),
        (
            "12:00:00.123Z",
            "noon",
            "expected a time such as \"2026-05-04T12:00:00.123Z\" as `time`, found \"2026-05-04Tnoon\"",
        ),
        (
            "\"time_quality\":\"device\"",
            "\"time_quality\":\"good\"",
            "expected \"device\" or \"arrival\" or \"unsynced\" or \"corrected\" as `time_quality`, found \"good\"",
        ),
    ] {
        let line = WIDE.replacen(from, to, 1);
        assert_ne!(line, WIDE, "{from}");
        let mut batch = Batch::default();
        assert_eq!(Parser::default().read(line.as_bytes(), &mut batch), Err(reason.to_owned()), "{line}");
        assert_eq!(batch, Batch::default(), "{line}");
    }
    let nothing = r#"{"kind":"reading","device":"d","profile":"p","time":"2026-05-04T12:00:00Z","received":"2026-05-04T12:00:00Z","time_quality":"device"}"#;
    assert_eq!(read(nothing).unwrap_err(), "expected `values`, `texts` or `flags`, found none of them");
    assert_eq!(read("[]").unwrap_err(), "expected an object, found an array");
    assert_eq!(read("7").unwrap_err(), "expected an object, found the number 7");
}

proptest! {
    #[test]
    fn no_line_panics(cut in 0_usize..WIDE.len(), piece in "\\PC{0,12}", length in 0_usize..8) {
        let mut line: Vec<char> = WIDE.chars().collect();
        let end = (cut + length).min(line.len());
        line.splice(cut..end, piece.chars());
        let line: String = line.into_iter().collect();
        if let Err(reason) = read(&line) {
            prop_assert!(!reason.is_empty() && reason.len() < 400, "{}", reason);
        }
    }

    #[test]
    fn what_kafka_would_get_is_read_back(
        device in "\\PC{1,20}", number in prop::num::f64::NORMAL | prop::num::f64::ZERO,
        text in "\\PC{0,40}|[\\x00-\\x1f\"\\\\]{1,5}", flag in any::<bool>(),
        time_ms in -60_000_000_000_000_i64..250_000_000_000_000, quality in 0_usize..4,
    ) {
        let of = |name: &str, unit: Option<&str>, value| Field {
            measurement: Arc::new(Measurement { name: name.into(), unit: unit.map(Into::into), kind: MeasurementKind::Gauge }),
            value,
        };
        let time_quality =
            [TimeQuality::Device, TimeQuality::Arrival, TimeQuality::Unsynced, TimeQuality::Corrected][quality];
        let trusted = time_quality != TimeQuality::Unsynced;
        let written = Batch {
            fields: vec![
                of("n", Some("Cel"), Value::Number(number)),
                of("t", None, Value::Text(text.into())),
                of("f", None, Value::Flag(flag)),
            ],
            records: vec![Record::Reading(Reading {
                device: device.into(), profile: "p".into(), time_ms, time_quality,
                received: Stamp { wall_ms: 1_777_896_000_410, monotonic_ms: 0, trusted },
                mark: Mark::None, alarm: None, fields: 0..3,
            })],
        };
        let mut lines = crate::uplink::lines::Lines::new(&gateway(), &kafka(), crate::outbox::Lane::Raw, "print");
        let mut out = Vec::new();
        lines.write(&mut written.clone(), &mut out);
        let mut read = Batch::default();
        Parser::default().read(&out, &mut read).unwrap();
        prop_assert_eq!(read, written);
    }
}

fn configuration() -> crate::config::Config {
    let text =
        "[gateway]\nid = \"g\"\n[mqtt.m]\nurl = \"mqtt://b\"\nprofiles = [\"tasmota\"]\n[kafka]\nbrokers = [\"k\"]";
    crate::config::Config::parse(text, std::path::Path::new("gateway.toml"), &|_| None).unwrap()
}

fn gateway() -> crate::config::Gateway {
    configuration().gateway
}

fn kafka() -> crate::config::Kafka {
    configuration().kafka
}
