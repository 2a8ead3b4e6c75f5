//! `docs/records.md` and the code say the same, and no value can break a record.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::outbox::Lane;
use crate::reading::{
    Aggregate, Batch, DeviceState, Event, EventKind, Gap, Mark, Measurement, MeasurementKind, Origin, Reason, Stage,
    StreamEnd, TimeQuality, Value,
};

const DOC: &str = include_str!("../../docs/records.md");

const AT: Stamp = Stamp { wall_ms: 1_777_896_000_410, monotonic_ms: 5_000, trusted: true };

fn gateway() -> config::Gateway {
    config::Gateway {
        id: "home-01".into(),
        labels: [("site".to_owned(), "home".to_owned())].into(),
        data_dir: PathBuf::new(),
        profiles_dir: PathBuf::new(),
        stop_timeout: Duration::ZERO,
        clock: config::ClockTrust::Auto,
    }
}

fn kafka(layout: Layout, format: Format) -> config::Kafka {
    config::Kafka {
        brokers: Vec::new(),
        tls: None,
        sasl: None,
        topics: config::Topics {
            reading: "r".into(),
            aggregate: "a".into(),
            alarm: "x".into(),
            dead_letter: "d".into(),
        },
        layout,
        format,
        timestamp: Timestamp::Send,
        compression: config::Compression::None,
        linger: Duration::ZERO,
        in_flight_max: 1,
        in_flight_bytes_max: 1,
        reconnect_max: Duration::ZERO,
    }
}

fn field(name: &str, unit: Option<&str>, value: Value) -> Field {
    let measurement = Measurement { name: name.into(), unit: unit.map(Into::into), kind: MeasurementKind::Gauge };
    Field { measurement: Arc::new(measurement), value }
}

fn chunk(seq: u64, record: Record, fields: Vec<Field>) -> Chunk {
    Chunk {
        segment: 1,
        lane: Lane::Raw,
        stream: "9f3c1d20a4b7.raw".into(),
        first_seq: seq,
        batch: Arc::new(Batch { records: vec![record], fields }),
        delivered: Vec::new(),
        replayed: Vec::new(),
        pin: None,
    }
}

fn reading(fields: Vec<Field>) -> Chunk {
    let reading = Reading {
        device: "kitchen".into(),
        profile: "zigbee2mqtt".into(),
        time_ms: 1_777_896_000_123,
        time_quality: TimeQuality::Device,
        received: AT,
        mark: Mark::None,
        alarm: None,
        fields: 0..fields.len() as u32,
    };
    chunk(1234, Record::Reading(reading), fields)
}

fn example_reading() -> Chunk {
    reading(vec![
        field("temperature", Some("Cel"), Value::Number(21.4)),
        field("state", None, Value::Text("ON".into())),
        field("occupied", None, Value::Flag(true)),
    ])
}

fn example_alarm() -> Chunk {
    let mut chunk = reading(vec![
        field("temperature", Some("Cel"), Value::Number(91.5)),
        field("state", None, Value::Text("ON".into())),
        field("occupied", None, Value::Flag(true)),
    ]);
    let batch = Arc::get_mut(&mut chunk.batch).unwrap();
    let Record::Reading(reading) = &mut batch.records[0] else { panic!() };
    reading.alarm = Some("kitchen-too-hot".into());
    Chunk { lane: Lane::Alarm, stream: "9f3c1d20a4b7.alarm".into(), first_seq: 7, ..chunk }
}

fn example_aggregate() -> Chunk {
    let measurement = Measurement { name: "power".into(), unit: Some("W".into()), kind: MeasurementKind::Gauge };
    let aggregate = Aggregate {
        device: "meter".into(),
        profile: "dsmr/5".into(),
        measurement: Arc::new(measurement),
        origin: Origin::Window,
        window: "power-1m".into(),
        start_ms: 1_777_896_000_000,
        end_ms: 1_777_896_060_000,
        revision: 1,
        count: 60,
        sum: Some(25_140.0),
        min: 402.0,
        max: 455.0,
        first: 410.0,
        last: 431.0,
        at: Stamp { wall_ms: 1_777_896_090_410, ..AT },
    };
    let stream = "9f3c1d20a4b7.aggregate".into();
    Chunk { lane: Lane::Aggregate, stream, ..chunk(12, Record::Aggregate(Box::new(aggregate)), Vec::new()) }
}

fn encode(chunk: &Chunk, layout: Layout, format: Format, part: usize) -> Encoder {
    let mut encoder = Encoder::new(&gateway(), &kafka(layout, format));
    encoder.encode(chunk, 0, &chunk.batch.records[0], part).unwrap();
    encoder
}

fn json(chunk: &Chunk, layout: Layout) -> serde_json::Value {
    serde_json::from_slice(&encode(chunk, layout, Format::Json, 0).value).unwrap()
}

/// All examples of the document, by name.
fn examples() -> BTreeMap<String, serde_json::Value> {
    DOC.split("<!-- example: ")
        .skip(1)
        .map(|rest| {
            let (name, rest) = rest.split_once(" -->").unwrap();
            let block = rest.split("```json").nth(1).unwrap().split("```").next().unwrap();
            (name.to_owned(), serde_json::from_str(block).unwrap())
        })
        .collect()
}

#[test]
fn the_document_shows_what_is_written() {
    let state = DeviceState { device: "kitchen".into(), profile: "zigbee2mqtt".into(), online: false, received: AT };
    let letter = DeadLetter {
        source: "mqtt.home".into(),
        origin: "zigbee2mqtt/kitchen".into(),
        profile: Some("zigbee2mqtt".into()),
        received: AT,
        stage: Stage::Decode,
        reason: Reason::NotJson,
        detail: "expected JSON, found 'hello' at byte 0".into(),
        length: 5,
        payload: b"hello".as_slice().into(),
    };
    let stream: crate::reading::Name = "77aa01b2c3d4.raw".into();
    let gap = Gap {
        stream: stream.clone(),
        from: 100,
        to: 250,
        count: 149,
        cause: "evicted".into(),
        replaced_by: None,
        at: AT,
    };
    let end = StreamEnd { stream, last: 98_765, at: AT };
    let event = Event::new(EventKind::ConfigReloaded, "rules changed, mqtt.hall added", AT);
    let cases = [
        ("wide", example_reading(), Layout::Wide),
        ("narrow", example_reading(), Layout::Narrow),
        ("flat", example_reading(), Layout::Flat),
        ("alarm", example_alarm(), Layout::Wide),
        ("state", chunk(1235, Record::State(Box::new(state)), Vec::new()), Layout::Wide),
        ("dead-letter", chunk(1236, Record::DeadLetter(Box::new(letter)), Vec::new()), Layout::Flat),
        ("gap", chunk(1237, Record::Gap(Box::new(gap)), Vec::new()), Layout::Wide),
        ("stream-end", chunk(1238, Record::StreamEnd(Box::new(end)), Vec::new()), Layout::Narrow),
        ("event", chunk(1239, Record::Event(Box::new(event)), Vec::new()), Layout::Wide),
        ("aggregate", example_aggregate(), Layout::Flat),
    ];
    let mut examples = examples();
    for (name, chunk, layout) in cases {
        let expected = examples.remove(name).unwrap_or_else(|| panic!("the document has no example {name}"));
        assert_eq!(json(&chunk, layout), expected, "{name}");
        let cbor = encode(&chunk, layout, Format::Cbor, 0).value;
        assert_eq!(serde_cbor_value(&cbor), expected, "{name} in CBOR");
    }
    assert!(examples.is_empty(), "nobody checks {examples:?}");
}

/// CBOR read back as the JSON value with the same fields.
fn serde_cbor_value(bytes: &[u8]) -> serde_json::Value {
    crate::outbox::from_cbor(bytes).unwrap()
}

#[test]
fn the_document_names_every_reason_and_every_event() {
    let list = DOC.split("<!-- reasons -->").nth(1).unwrap().split("\n\n").next().unwrap();
    let named: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    let all: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(named, all);
    let list = DOC.split("<!-- events -->").nth(1).unwrap().split("\n\n").next().unwrap();
    let named: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    assert_eq!(named, EventKind::ALL.map(EventKind::as_str));
}

#[test]
fn what_identifies_a_record() {
    let chunk = example_reading();
    let wide = encode(&chunk, Layout::Wide, Format::Json, 0);
    assert_eq!((&*wide.key, &*wide.id), ("home-01/kitchen", "9f3c1d20a4b7.raw-1234"));
    let narrow = encode(&chunk, Layout::Narrow, Format::Json, 1);
    assert_eq!(narrow.id, "9f3c1d20a4b7.raw-1234-state");
    assert_eq!(narrow.parts(&chunk.batch.records[0]), 3);
    assert_eq!(event_source("Küche 1"), "/gateways/K%C3%BCche%201");
}

#[test]
fn empty_maps_and_impossible_numbers_are_left_out() {
    let only_text = json(&reading(vec![field("state", None, Value::Text("ON".into()))]), Layout::Wide);
    assert!(only_text.get("values").is_none() && only_text.get("flags").is_none() && only_text.get("units").is_none());
    for layout in [Layout::Wide, Layout::Narrow, Layout::Flat] {
        let record = json(&reading(vec![field("t", None, Value::Number(f64::NAN))]), layout);
        assert!(!record.to_string().contains("null"), "{record}");
        assert!(record.get("values").is_none());
    }
}

/// `chunk` as it was stored while the clock was not trusted and said that it is 1970.
fn in_1970(chunk: Chunk) -> Chunk {
    let at = Stamp { wall_ms: 5_000, trusted: false, ..AT };
    let mut batch = (*chunk.batch).clone();
    match &mut batch.records[0] {
        Record::Reading(reading) if reading.time_quality == TimeQuality::Device => reading.received = at,
        Record::Reading(reading) => (reading.received, reading.time_ms) = (at, at.wall_ms),
        Record::Aggregate(aggregate) => aggregate.at = at,
        Record::State(state) => state.received = at,
        Record::DeadLetter(letter) => letter.received = at,
        Record::Gap(gap) => gap.at = at,
        Record::StreamEnd(end) => end.at = at,
        Record::Event(event) => event.at = at,
    }
    Chunk { batch: Arc::new(batch), ..chunk }
}

fn json_knowing(boots: &Boots, chunk: &Chunk, layout: Layout) -> serde_json::Value {
    let mut encoder = Encoder::new(&gateway(), &kafka(layout, Format::Json)).knowing(boots.clone());
    encoder.encode(chunk, 0, &chunk.batch.records[0], 0).unwrap();
    serde_json::from_slice(&encoder.value).unwrap()
}

#[test]
fn what_arrived_before_the_time_was_known_is_put_right_once_it_is() {
    let mut unsynced = example_reading();
    if let Record::Reading(reading) = &mut Arc::make_mut(&mut unsynced.batch).records[0] {
        reading.time_quality = TimeQuality::Unsynced;
    }
    let unsynced = in_1970(unsynced);
    let record = json(&unsynced, Layout::Wide);
    assert_eq!((&record["time"], &record["time_quality"]), (&"1970-01-01T00:00:05.000Z".into(), &"unsynced".into()));
    assert_eq!(record["monotonic_ms"], 5_000);
    assert!(record.get("boot").is_none(), "nothing is known of the run");

    let boots = Boots::knowing("9f3c1d20a4b7", "0123", None);
    let record = json_knowing(&boots, &unsynced, Layout::Flat);
    assert_eq!((&record["_time_quality"], &record["_boot"]), (&"unsynced".into(), &"0123".into()));
    let boots = Boots::knowing("9f3c1d20a4b7", "0123", Some(AT.wall_ms - 5_000));
    let right = "2026-05-04T12:00:00.410Z";
    for (chunk, quality, time) in
        [(unsynced, "corrected", right), (in_1970(example_reading()), "device", "2026-05-04T12:00:00.123Z")]
    {
        let record = json_knowing(&boots, &chunk, Layout::Wide);
        assert_eq!((&record["time"], &record["received"]), (&time.into(), &right.into()));
        assert_eq!((&record["time_quality"], &record["boot"]), (&quality.into(), &"0123".into()));
        assert_eq!(record["monotonic_ms"], 5_000);
    }
    let aggregate = json_knowing(&boots, &in_1970(example_aggregate()), Layout::Wide);
    assert_eq!((&aggregate["received"], &aggregate["boot"]), (&right.into(), &"0123".into()));
    // What arrived by a trusted clock needs no more words.
    assert!(json_knowing(&boots, &example_reading(), Layout::Wide).get("boot").is_none());
}

#[test]
fn a_reading_that_no_window_could_count_says_why() {
    let document = DOC.split("| `mark` |").nth(1).unwrap().split('\n').next().unwrap();
    for mark in [Mark::None, Mark::Late, Mark::Future] {
        let chunk = example_reading();
        let mut batch = (*chunk.batch).clone();
        if let Record::Reading(reading) = &mut batch.records[0] {
            reading.mark = mark;
        }
        let chunk = Chunk { batch: Arc::new(batch), ..chunk };
        for (layout, key) in [(Layout::Wide, "mark"), (Layout::Narrow, "mark"), (Layout::Flat, "_mark")] {
            assert_eq!(json(&chunk, layout).get(key).and_then(serde_json::Value::as_str), mark.as_str());
        }
        assert!(mark.as_str().is_none_or(|word| document.contains(&format!("`{word}`"))), "{mark:?}");
    }
}

#[test]
fn an_aggregate_is_the_same_in_every_layout_and_known_by_what_it_is_of() {
    let chunk = example_aggregate();
    let wide = json(&chunk, Layout::Wide);
    assert_eq!((&wide, &wide), (&json(&chunk, Layout::Narrow), &json(&chunk, Layout::Flat)));
    let encoder = encode(&chunk, Layout::Narrow, Format::Json, 0);
    assert_eq!((&*encoder.key, &*encoder.id), ("home-01/meter", "9f3c1d20a4b7.aggregate-12"));
    assert_eq!(encoder.parts(&chunk.batch.records[0]), 1);
    let mut chunk = example_aggregate();
    if let Record::Aggregate(aggregate) = &mut Arc::make_mut(&mut chunk.batch).records[0] {
        aggregate.sum = None;
        aggregate.revision = 2;
    }
    let beyond = json(&chunk, Layout::Wide);
    assert_eq!((&beyond["id"], &beyond["revision"]), (&wide["id"], &2.into()));
    assert!(beyond.get("sum").is_none() && beyond.get("mean").is_none(), "{beyond}");
}

#[test]
fn a_measurement_never_meets_a_field_of_ours() {
    let record = json(&reading(vec![field("_device", None, Value::Text("x".into()))]), Layout::Flat);
    assert_eq!((&record["_device"], &record["__device"]), (&"kitchen".into(), &"x".into()));
}

proptest! {
    #[test]
    fn any_reading_is_json_with_the_same_values(
        device in "\\PC{0,20}",
        number in prop::num::f64::NORMAL | prop::num::f64::ZERO,
        text in "\\PC{0,40}|[\\x00-\\x1f\"\\\\]{1,5}",
        time_ms in any::<i64>(),
        seq in any::<u64>(),
    ) {
        let mut chunk = reading(vec![
            field("n", None, Value::Number(number)),
            field("t", None, Value::Text(text.clone().into())),
        ]);
        let mut batch = (*chunk.batch).clone();
        if let Record::Reading(reading) = &mut batch.records[0] {
            reading.device = device.as_str().into();
            reading.time_ms = time_ms;
        }
        chunk.batch = Arc::new(batch);
        chunk.first_seq = seq;
        let record = json(&chunk, Layout::Wide);
        prop_assert_eq!(record["device"].as_str(), Some(&*device));
        prop_assert_eq!(record["values"]["n"].as_f64(), Some(number));
        prop_assert_eq!(record["texts"]["t"].as_str(), Some(&*text));
        prop_assert_eq!(record["seq"].as_u64(), Some(seq));
    }
}

#[test]
fn alarms_say_so_in_every_layout_and_kind_and_others_do_not() {
    let (narrow, flat) = (json(&example_alarm(), Layout::Narrow), json(&example_alarm(), Layout::Flat));
    assert_eq!((&narrow["lane"], &narrow["alarm"]), (&"alarm".into(), &"kitchen-too-hot".into()));
    assert_eq!((&flat["_lane"], &flat["_alarm"]), (&"alarm".into(), &"kitchen-too-hot".into()));
    let aggregate = Chunk { lane: Lane::Alarm, ..example_aggregate() };
    let aggregate = json(&aggregate, Layout::Flat);
    assert_eq!((&aggregate["lane"], &aggregate["alarm"]), (&"alarm".into(), &"power-1m".into()));
    for chunk in [example_reading(), example_aggregate()] {
        assert!(json(&chunk, Layout::Wide).get("lane").is_none());
    }
}

#[test]
fn topics_are_those_of_lanes() {
    let settings = kafka(Layout::Wide, Format::Json);
    let mut topics = crate::uplink::topic::Topics::new(
        "g",
        &settings.topics,
        settings.layout,
        &crate::counters::Counters::default(),
    )
    .unwrap();
    let mut name = |chunk: &Chunk| topics.resolve(chunk.lane, &chunk.batch.records[0], None).name.to_string();
    let aggregate = Chunk { lane: Lane::Alarm, ..example_aggregate() };
    let names = [example_reading(), example_aggregate(), example_alarm(), aggregate].map(|chunk| name(&chunk));
    assert_eq!(names, ["r", "a", "x", "x"]);
}
