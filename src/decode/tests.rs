use proptest::prelude::*;

use super::*;
use crate::config::{MqttVersion, ProfileUse, Retained};
use crate::profile::Profile;
use crate::reading::Value;
use std::path::Path;
use std::time::Duration;

const NOW: Stamp = Stamp { wall_ms: 1_800_000_000_000, monotonic_ms: 5, trusted: true };

pub(super) fn mqtt(profiles: &[ProfileUse], time_zone: Option<&str>) -> Mqtt {
    Mqtt {
        name: "mqtt.test".to_owned(),
        host: String::new(),
        port: 1883,
        tls: None,
        version: MqttVersion::V4,
        client_id: None,
        user: None,
        password: None,
        profiles: profiles.to_vec(),
        qos: 1,
        keep_alive: Duration::from_secs(30),
        session_expiry: Duration::ZERO,
        in_flight_max: 20,
        packet_bytes_max: 1 << 20,
        retained: Retained::First,
        time_zone: time_zone.map(str::to_owned),
        read_interval: Duration::ZERO,
        memory_bytes_max: 1 << 20,
        drop_qos0: false,
        names: BTreeMap::new(),
        rebirth: true,
    }
}

pub(super) fn used(id: &str) -> ProfileUse {
    ProfileUse { id: id.to_owned(), prefix: None, exclude: Vec::new() }
}

fn decoder(ids: &[&str]) -> Decoder {
    let uses: Vec<_> = ids.iter().map(|id| used(id)).collect();
    Decoder::for_mqtt(&mqtt(&uses, None), &ProfileSet::builtin()).unwrap()
}

fn own(fields: &str) -> Decoder {
    let head = "id = \"own\"\ndescription = \"d\"\nsource = \"s\"\ntransport = \"mqtt\"\nformat = \"json\"\n";
    let text = format!("{head}{fields}\n[mqtt]\ntopics = [\"t/{{device}}\"]\n");
    let mut set = ProfileSet::default();
    set.insert(Profile::parse(Path::new("own.toml"), &text).unwrap());
    Decoder::for_mqtt(&mqtt(&[used("own")], None), &set).unwrap()
}

fn frame<'a>(origin: &'a str, payload: &'a str) -> Frame<'a> {
    Frame { origin, payload: payload.as_bytes(), retained: false, oversize: None }
}

fn rejection(outcome: Outcome) -> (Reason, String) {
    match outcome {
        Outcome::Rejected(rejection) => (rejection.reason, rejection.detail),
        other => panic!("{other:?}"),
    }
}

fn values(batch: &Batch) -> Vec<(String, Value)> {
    batch.fields.iter().map(|field| (field.measurement.name.to_string(), field.value.clone())).collect()
}

#[test]
fn a_frame_that_cannot_be_read_says_why_and_leaves_nothing() {
    let mut decoder = decoder(&["generic/json", "tasmota"]);
    let mut batch = Batch::default();
    for (topic, payload, reason, detail) in [
        ("other/x", &b"{}"[..], Reason::NoProfile, "no profile of this source knows the topic \"other/x\""),
        ("sensors/x", b"", Reason::Empty, "the payload has no bytes"),
        ("sensors/x", b"{\"a\":\xff}", Reason::NotUtf8, "byte 5: expected UTF-8, found 0xff"),
        ("sensors/x", b"{\"a\":}", Reason::NotJson, "byte 6: expected value"),
        ("sensors/x", b"12", Reason::WrongType, "expected a JSON object, found \"12\""),
        ("sensors/x", b"{}", Reason::NoValue, "none of the fields that the profile knows is there"),
        ("sensors/x", b"{\"power\":\"high\"}", Reason::WrongType, "power: expected a number, found \"high\""),
        ("sensors/x", b"{\"a\":1e999}", Reason::NotJson, "byte 10: number out of range"),
        ("tele/x/LWT", b"what", Reason::WrongType, "expected one of `Online`, `Offline`, found \"what\""),
    ] {
        let frame = Frame { origin: topic, payload, retained: false, oversize: None };
        assert_eq!(rejection(decoder.decode(&frame, NOW, &mut batch)), (reason, detail.to_owned()));
        assert_eq!(batch, Batch::default());
    }
    let oversize = Frame { origin: "sensors/x", payload: b"{", retained: false, oversize: Some(10_000_000) };
    let (reason, detail) = rejection(decoder.decode(&oversize, NOW, &mut batch));
    assert_eq!((reason, detail.as_str()), (Reason::TooLarge, "10000000 bytes, more than the source's limit"));
}

#[test]
fn a_retained_message_without_a_time_is_no_reading_of_now_but_a_state_is_a_state() {
    let mut decoder = decoder(&["generic/json", "tasmota"]);
    let mut batch = Batch::default();
    let retained = |origin, payload| Frame { retained: true, ..frame(origin, payload) };
    assert_eq!(decoder.decode(&retained("sensors/x", "{\"a\":1}"), NOW, &mut batch), Outcome::RetainedWithoutTime);
    assert_eq!(decoder.decode(&retained("sensors/x", ""), NOW, &mut batch), Outcome::Ignored);
    assert_eq!(batch, Batch::default());
    let dated = retained("sensors/x", "{\"a\":1,\"time\":\"2026-05-04T12:00:00Z\"}");
    assert_eq!(decoder.decode(&dated, NOW, &mut batch), Outcome::Readings(1));
    assert_eq!(decoder.decode(&retained("tele/x/LWT", "Online"), NOW, &mut batch), Outcome::State);
}

#[test]
fn the_time_is_the_devices_or_that_of_arrival() {
    let mut decoder = decoder(&["generic/json"]);
    let mut time = |payload: &str, trusted: bool| {
        let mut batch = Batch::default();
        decoder.decode(&frame("sensors/x", payload), Stamp { trusted, ..NOW }, &mut batch);
        let Some(Record::Reading(reading)) = batch.records.pop() else { panic!("no reading") };
        (reading.time_ms, reading.time_quality, decoder.values_rejected().to_vec())
    };
    assert_eq!(time("{\"a\":1,\"time\":\"2026-05-04T12:00:00Z\"}", true).1, TimeQuality::Device);
    assert_eq!(time("{\"a\":1}", true), (NOW.wall_ms, TimeQuality::Arrival, vec![]));
    assert_eq!(time("{\"a\":1}", false).1, TimeQuality::Unsynced);
    assert_eq!(time("{\"a\":1,\"time\":\"soon\"}", true), (NOW.wall_ms, TimeQuality::Arrival, vec![Reason::BadTime]));
    // No zone is configured: that is no error, but the time cannot be placed.
    assert_eq!(time("{\"a\":1,\"time\":\"2026-05-04T12:00:00\"}", true), (NOW.wall_ms, TimeQuality::Arrival, vec![]));
}

#[test]
fn a_wrong_value_costs_only_itself_and_is_counted() {
    let counters = Counters::default();
    let mut decoder = decoder(&["generic/json"]).counting(&counters);
    let mut batch = Batch::default();
    let payload = format!("{{\"power\":true,\"humidity\":4,\"note\":\"{}\"}}", "x".repeat(TEXT_BYTES_MAX + 1));
    assert_eq!(decoder.decode(&frame("sensors/x", &payload), NOW, &mut batch), Outcome::Readings(1));
    assert_eq!(values(&batch), [("humidity".to_owned(), Value::Number(4.0))]);
    assert_eq!(counters.counter(Count::ValuesRejected, "wrong_type").get(), 1);
    assert_eq!(counters.counter(Count::ValuesRejected, "too_large").get(), 1);
}

#[test]
fn rules_convert_check_and_know_what_is_no_reading() {
    let mut decoder = own("field = [\
         { path = \"t\", name = \"t\", scale = 0.01, no_reading = [-12700, \"n/a\"], min = -50, max = 100 },\
         { path = \"on\", name = \"on\", type = \"flag\", on = [\"open\"], off = [\"shut\"] },\
         { path = \"list\", name = \"x\", list = true },\
         { path = \"n.*.v\", name = \"n_{1+1}\" }]");
    for (payload, expected) in [
        ("{\"t\":2101}", Ok("[(\"t\", Number(21.01))]")),
        ("{\"t\":\"2101\"}", Ok("[(\"t\", Number(21.01))]")),
        ("{\"t\":-12700,\"on\":\"open\"}", Ok("[(\"on\", Flag(true))]")),
        ("{\"t\":\"n/a\",\"on\":0}", Ok("[(\"on\", Flag(false))]")),
        ("{\"t\":100000}", Err(Reason::OutOfRange)),
        ("{\"t\":\"nan\"}", Err(Reason::WrongType)),
        ("{\"t\":\"inf\"}", Err(Reason::WrongType)),
        ("{\"on\":\"ajar\"}", Err(Reason::WrongType)),
        ("{\"list\":[1,2,\"x\"]}", Ok("[(\"x_1\", Number(1.0)), (\"x_2\", Number(2.0))]")),
        ("{\"list\":7}", Ok("[(\"x\", Number(7.0))]")),
        ("{\"n\":[{\"v\":1},{\"w\":5},{\"v\":3}]}", Ok("[(\"n_1\", Number(1.0)), (\"n_3\", Number(3.0))]")),
        ("{\"t\":{\"x\":1}}", Err(Reason::WrongType)),
    ] {
        let mut batch = Batch::default();
        let outcome = decoder.decode(&frame("t/x", payload), NOW, &mut batch);
        match expected {
            Ok(expected) => assert_eq!(format!("{:?}", values(&batch)), expected, "{payload}: {outcome:?}"),
            Err(reason) => assert_eq!(rejection(outcome).0, reason, "{payload}"),
        }
    }
}

#[test]
fn a_whole_number_beyond_2_53_keeps_its_digits() {
    let mut decoder = decoder(&["generic/json"]);
    let mut batch = Batch::default();
    let payload = "{\"a\":9007199254740992,\"b\":-9007199254740993,\"power\":18446744073709551615}";
    decoder.decode(&frame("sensors/x", payload), NOW, &mut batch);
    let text = |text: &str| Value::Text(text.into());
    let expected = [Value::Number(9_007_199_254_740_992.0), text("-9007199254740993"), text("18446744073709551615")];
    assert_eq!(batch.fields.iter().map(|field| field.value.clone()).collect::<Vec<_>>(), expected);
}

#[test]
fn a_large_whole_number_that_means_no_reading_or_cannot_be_is_no_value() {
    let mut decoder = own("field = [\
         { path = \"a\", name = \"a\", no_reading = [-9223372036854775808] },\
         { path = \"b\", name = \"b\", no_reading = [\"18446744073709551615\"] },\
         { path = \"c\", name = \"c\", min = 0, max = 1e9 },\
         { path = \"d\", name = \"d\", no_reading = [\"18446744073709551615\"], scale = 0.01 }]");
    let mut batch = Batch::default();
    for payload in [
        "{\"a\":-9223372036854775808,\"b\":18446744073709551615,\"d\":18446744073709551615}",
        "{\"a\":\"-9223372036854775808\",\"b\":\"18446744073709551615\",\"d\":\"18446744073709551615\"}",
    ] {
        assert_eq!(decoder.decode(&frame("t/x", payload), NOW, &mut batch), Outcome::Ignored, "{payload}");
    }
    for payload in ["{\"c\":18446744073709551615}", "{\"c\":\"-18446744073709551615\"}"] {
        let (reason, detail) = rejection(decoder.decode(&frame("t/x", payload), NOW, &mut batch));
        assert_eq!(reason, Reason::OutOfRange, "{detail}");
    }
    decoder.decode(&frame("t/x", "{\"b\":18446744073709551614}"), NOW, &mut batch);
    assert_eq!(values(&batch), [("b".to_owned(), Value::Text("18446744073709551614".into()))]);
}

#[test]
fn numbers_of_several_places_are_put_together() {
    let mut decoder = own("field = [\
         { path = \"low\", name = \"t\", unit = \"Cel\", scale = 0.1, offset = -100, plus = [{ path = \"high\", scale = 25.6 }] },\
         { path = \"whole\", name = \"total\", unit = \"m3\", plus = [{ path = \"part\" }] },\
         { path = \"w\", name = \"power\", unit = \"W\", times = [\"ct\", \"pt\"], exponent = \"sf\" },\
         { path = \"text\", name = \"x\", pattern = '^(?<value>[0-9.,]+) ?bar$', decimal = \",\" }]");
    for (payload, expected) in [
        // As JeeLink writes 18.0 degrees: 4 and 156.
        ("{\"low\":156,\"high\":4}", Ok("[(\"t\", Number(18.0))]")),
        ("{\"whole\":1234567,\"part\":0.125}", Ok("[(\"total\", Number(1234567.125))]")),
        ("{\"whole\":1234567}", Err(Reason::MissingField)),
        ("{\"w\":2301,\"ct\":2,\"pt\":\"10\",\"sf\":-1}", Ok("[(\"power\", Number(4602.0))]")),
        ("{\"w\":2301,\"ct\":2,\"pt\":10,\"sf\":0.5}", Err(Reason::MissingField)),
        ("{\"w\":2301,\"ct\":2,\"pt\":10,\"sf\":300}", Err(Reason::MissingField)),
        ("{\"w\":2301,\"ct\":2,\"sf\":1}", Err(Reason::MissingField)),
        ("{\"text\":\"1,5 bar\"}", Ok("[(\"x\", Number(1.5))]")),
        ("{\"text\":\"1.500,5 bar\"}", Err(Reason::WrongType)),
        ("{\"text\":\"1,5 psi\"}", Err(Reason::WrongType)),
    ] {
        let mut batch = Batch::default();
        let outcome = decoder.decode(&frame("t/x", payload), NOW, &mut batch);
        match expected {
            Ok(expected) => assert_eq!(format!("{:?}", values(&batch)), expected, "{payload}: {outcome:?}"),
            Err(reason) => assert_eq!(rejection(outcome).0, reason, "{payload}"),
        }
    }
}

#[test]
fn a_time_of_digits_may_be_a_number_and_its_zone_an_offset() {
    let mut decoder = own("field = [{ path = \"a\", name = \"a\" }]\n\
         [time]\npath = \"d\"\nformat = \"%Y%m%d%H%M\"\nzone = \"+01:00\"\n");
    for payload in ["{\"a\":1,\"d\":202403151200}", "{\"a\":1,\"d\":\"202403151200\"}"] {
        let mut batch = Batch::default();
        decoder.decode(&frame("t/x", payload), NOW, &mut batch);
        let [Record::Reading(reading)] = batch.records.as_slice() else { panic!("{:?}", batch.records) };
        assert_eq!((reading.time_ms, reading.time_quality), (1_710_500_400_000, TimeQuality::Device), "{payload}");
    }
}

#[test]
fn columns_may_be_lined_up_and_the_last_ones_missing() {
    let mut decoder = own_mqtt(
        "format = \"delimited\"\n[delimited]\nseparator = \" \"\ncolumns = [\"a\", \"b\", \"c\"]\nruns = true\noptional = 1\n\
         [[field]]\npath = \"*\"\nname = \"{1}\"\n[mqtt]\ntopics = [\"t/{device}\"]\n",
    );
    for (line, expected) in [
        ("  1    2  3 ", Ok("[(\"a\", Number(1.0)), (\"b\", Number(2.0)), (\"c\", Number(3.0))]")),
        ("1 2", Ok("[(\"a\", Number(1.0)), (\"b\", Number(2.0))]")),
        ("1", Err("expected 2 to 3 columns, found 1")),
        ("1 2 3 4", Err("expected 2 to 3 columns, found 4")),
    ] {
        let mut batch = Batch::default();
        let outcome = decoder.decode(&frame("t/x", line), NOW, &mut batch);
        match expected {
            Ok(expected) => assert_eq!(format!("{:?}", values(&batch)), expected, "{line}: {outcome:?}"),
            Err(detail) => assert_eq!(rejection(outcome), (Reason::WrongColumns, detail.to_owned())),
        }
    }
}

#[test]
fn a_line_beside_the_pattern_is_passed_over_where_that_is_wanted() {
    let text = "format = \"regex\"\n[regex]\npattern = '^T=(?<t>[0-9.]+)'\n\
                [[field]]\npath = \"t\"\nname = \"t\"\n[mqtt]\ntopics = [\"t/{device}\"]\n";
    let mut batch = Batch::default();
    let outcome = own_mqtt(text).decode(&frame("t/x", "Welcome"), NOW, &mut batch);
    assert_eq!(rejection(outcome).0, Reason::Malformed);
    let outcome = own_mqtt(&format!("no_value = \"ignore\"\n{text}")).decode(&frame("t/x", "Welcome"), NOW, &mut batch);
    assert_eq!(outcome, Outcome::Ignored);
}

#[test]
fn lists_of_samples_below_the_names_of_devices_are_told_apart() {
    let mut decoder = own_mqtt(
        "format = \"json\"\n[mqtt]\ntopics = [\"v1/gateway/{path...}\"]\n\
         [[part]]\neach = \"*.*\"\ndevice = \"@outer\"\n[part.time]\npath = \"ts\"\nformat = \"epoch_ms\"\n\
         [[part.field]]\npath = \"values.*\"\nname = \"{1}_{@path}\"\n",
    );
    let mut batch = Batch::default();
    let payload = "{\"A\":[{\"ts\":1483228800000,\"values\":{\"t\":42}},{\"ts\":1483228801000,\"values\":{\"t\":43}}],\
                    \"B\":[{\"ts\":1483228800000,\"values\":{\"t\":40}}]}";
    assert_eq!(decoder.decode(&frame("v1/gateway/x/y", payload), NOW, &mut batch), Outcome::Readings(3));
    let found: Vec<_> = batch
        .records
        .iter()
        .map(|record| match record {
            Record::Reading(reading) => {
                (&*reading.device, reading.time_ms, batch.fields_of(reading)[0].measurement.name.to_string())
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let name = || "t_x_y".to_owned();
    assert_eq!(
        found,
        [("A", 1_483_228_800_000, name()), ("A", 1_483_228_801_000, name()), ("B", 1_483_228_800_000, name())]
    );
}

#[test]
fn two_keys_that_give_one_name_are_both_kept() {
    let mut decoder = decoder(&["generic/json"]);
    let mut batch = Batch::default();
    decoder.decode(&frame("sensors/x", "{\"Level\":1,\"level\":2,\"LEVEL\":3}"), NOW, &mut batch);
    let names: Vec<_> = values(&batch).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["level", "level_2", "level_3"]);
    let many: Vec<_> = (0..FIELDS_MAX + 10).map(|n| format!("\"k{n}\":1")).collect();
    batch.clear();
    decoder.decode(&frame("sensors/x", &format!("{{{}}}", many.join(","))), NOW, &mut batch);
    assert_eq!((batch.fields.len(), decoder.values_rejected().len()), (FIELDS_MAX, 10));
}

#[test]
fn an_empty_key_is_a_level_of_its_own() {
    let mut decoder = own("field = [{ path = \"a\", name = \"a\" }, { path = '\"\".a', name = \"inner\" }]");
    let mut batch = Batch::default();
    decoder.decode(&frame("t/x", "{\"\":{\"a\":1},\"a\":2}"), NOW, &mut batch);
    assert_eq!(format!("{:?}", values(&batch)), "[(\"inner\", Number(1.0)), (\"a\", Number(2.0))]");
}

#[test]
fn prefixes_are_replaced_and_filters_not_taken() {
    let uses = [
        ProfileUse {
            id: "tasmota".to_owned(),
            prefix: Some("home/tele".to_owned()),
            exclude: vec!["home/tele/a/#".to_owned()],
        },
        used("zigbee2mqtt"),
    ];
    let mut decoder = Decoder::for_mqtt(&mqtt(&uses, None), &ProfileSet::builtin()).unwrap();
    let filters = decoder.subscriptions();
    assert!(filters.contains(&"home/tele/+/SENSOR".to_owned()) && filters.contains(&"home/tele/+/LWT".to_owned()));
    // Availability and bridge are within this one: a second filter would bring them twice.
    assert_eq!(
        filters.iter().filter(|filter| filter.starts_with("zigbee2mqtt")).collect::<Vec<_>>(),
        ["zigbee2mqtt/#"]
    );
    let mut batch = Batch::default();
    let mut outcome = |topic: &str| decoder.decode(&frame(topic, "{\"Heap\":1}"), NOW, &mut batch);
    assert_eq!(outcome("home/tele/b/STATE"), Outcome::Readings(1));
    assert_eq!(outcome("home/tele/a/STATE"), Outcome::Ignored);
    assert_eq!(rejection(outcome("tele/b/STATE")).0, Reason::NoProfile);
    assert_eq!(rejection(outcome("zigbee2mqtt/")).0, Reason::NoProfile);
}

#[test]
fn what_cannot_be_configured_is_refused() {
    let set = ProfileSet::builtin();
    let message = |uses: &[ProfileUse], zone| Decoder::for_mqtt(&mqtt(uses, zone), &set).unwrap_err().to_string();
    assert_eq!(message(&[used("tasmot")], None), "mqtt.test: there is no profile `tasmot`; did you mean `tasmota`?");
    assert!(message(&[used("generic/csv-line")], None).contains("is for serial sources"));
    assert!(message(&[used("tasmota")], Some("Mars/Olympus")).contains("time_zone `Mars/Olympus` is not known"));
    let exclude = ProfileUse { exclude: vec!["a/#/b".to_owned()], ..used("tasmota") };
    assert!(message(&[exclude], None).contains("topic `a/#/b`"));
    let every = Some(Duration::from_secs(1));
    let serial = Serial { name: "serial.test".to_owned(), profile: "dsmr/5".to_owned(), every, ..Serial::default() };
    let told = Decoder::for_serial(&serial, &set).unwrap_err().to_string();
    assert_eq!(told, "serial.test: the profile `dsmr/5` asks its device nothing, so `every` says nothing; remove it");
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut decoder = decoder(&["generic/json"]);
    let mut batch = Batch::default();
    for number in 0..12_000 {
        let payload = format!("{{\"key{number}\":1,\"device\":\"d{number}\"}}");
        decoder.decode(&frame(&format!("sensors/{number}"), &payload), NOW, &mut batch);
    }
    assert_eq!(batch.len(), 12_000);
    assert!(decoder.devices.known.len() <= DEVICES_MAX);
    assert!(values(&batch).iter().enumerate().all(|(number, (name, _))| *name == format!("key{number}")));
}

proptest! {
    #[test]
    fn no_input_panics(topic in "\\PC{0,30}", payload in prop::collection::vec(any::<u8>(), 0..200), retained in any::<bool>()) {
        let mut decoder = decoder(&["tasmota", "zigbee2mqtt", "generic/json"]);
        let mut batch = Batch::default();
        for origin in [topic.as_str(), "tele/a/SENSOR", "tele/a/LWT", "zigbee2mqtt/a/availability", "sensors/a"] {
            decoder.decode(&Frame { origin, payload: &payload, retained, oversize: None }, NOW, &mut batch);
        }
    }

    #[test]
    fn no_json_panics_and_numbers_are_finite(json in any_json(), origin in prop::sample::select(vec!["tele/a/SENSOR", "zigbee2mqtt/a", "sensors/a"])) {
        let mut decoder = decoder(&["tasmota", "zigbee2mqtt", "generic/json"]);
        let mut batch = Batch::default();
        let outcome = decoder.decode(&frame(origin, &json), NOW, &mut batch);
        let not_json = matches!(&outcome, Outcome::Rejected(Rejection { reason: Reason::NotJson, .. }));
        prop_assert!(!not_json, "{:?}", outcome);
        for field in &batch.fields {
            let good = field.measurement.name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
            prop_assert!(good, "{}", field.measurement.name);
            prop_assert!(!matches!(field.value, Value::Number(number) if !number.is_finite()));
        }
        prop_assert_eq!(matches!(outcome, Outcome::Readings(_)), !batch.records.is_empty());
        prop_assert_eq!(batch.records.is_empty(), batch.fields.is_empty());
    }
}

/// JSON objects of all shapes, with keys that profiles know among them.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|flag| flag.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(|number| format!("{number:e}")),
        "\\PC{0,12}".prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    let key = prop_oneof![
        prop::sample::select(vec![
            "Time",
            "time",
            "ENERGY",
            "Power",
            "Temperature",
            "TempUnit",
            "voltage",
            "device",
            ""
        ])
        .prop_map(str::to_owned),
        "\\PC{0,8}",
    ];
    let value = leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(","))),
            object(key.clone(), inner),
        ]
    });
    object("\\PC{0,8}", value)
}

fn object(key: impl Strategy<Value = String>, value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec((key, value), 0..8).prop_map(|entries| {
        let entry = |(key, value): (String, String)| format!("{}:{value}", serde_json::to_string(&key).unwrap());
        format!("{{{}}}", entries.into_iter().map(entry).collect::<Vec<_>>().join(","))
    })
}

fn own_mqtt(text: &str) -> Decoder {
    let head = "id = \"own\"\ndescription = \"d\"\nsource = \"s\"\ntransport = \"mqtt\"\n";
    let mut set = ProfileSet::default();
    set.insert(Profile::parse(Path::new("own.toml"), &format!("{head}{text}")).unwrap());
    Decoder::for_mqtt(&mqtt(&[used("own")], None), &set).unwrap()
}

#[test]
fn a_sensor_that_is_not_there_costs_the_others_nothing() {
    let mut decoder = own_mqtt(
        r#"
        format = "json"
        [mqtt]
        topics = ["t/{device}"]
        [[field]]
        path = "t"
        name = "temperature"
        [[field]]
        path = "h"
        name = "humidity"
        "#,
    );
    for absent in ["null", "nan", "NaN", "-nan", "inf", "[]"] {
        let mut batch = Batch::default();
        let payload = format!("{{\"t\":{absent},\"h\":50}}");
        assert_eq!(decoder.decode(&frame("t/x", &payload), NOW, &mut batch), Outcome::Readings(1), "{payload}");
        assert_eq!(values(&batch), [("humidity".to_owned(), Value::Number(50.0))], "{payload}");
        assert_eq!(decoder.values_rejected(), [], "{payload}");
    }
    for (wrong, reason) in [("[1]", Reason::WrongType), ("{}", Reason::WrongType), ("\"nan\"", Reason::WrongType)] {
        let payload = format!("{{\"t\":{wrong},\"h\":50}}");
        assert_eq!(decoder.decode(&frame("t/x", &payload), NOW, &mut Batch::default()), Outcome::Readings(1));
        assert_eq!(decoder.values_rejected(), [reason], "{payload}");
    }
    // What is wrong is said of what came, not of what was made of it.
    let Outcome::Rejected(rejection) = decoder.decode(&frame("t/x", "{\"t\":nan,,}"), NOW, &mut Batch::default())
    else {
        panic!("expected it to be refused");
    };
    assert_eq!(rejection.detail, "byte 7: expected ident");
}

#[test]
fn a_message_of_several_payloads_is_taken_apart_where_its_profile_says_so() {
    let mut decoder = own_mqtt(
        r#"
        format = "json"
        [mqtt]
        topics = ["t/{device}"]
        delimiter = "\n"
        [[mqtt.state]]
        topic = "t/{device}/state"
        online = ["on"]
        offline = ["off"]
        [[field]]
        path = "t"
        name = "t"
        "#,
    );
    let mut outcomes = |topic: &str, payload: &str| {
        let mut batch = Batch::default();
        let pieces: Vec<_> = decoder.pieces(frame(topic, payload)).collect();
        let outcomes = pieces.iter().map(|piece| decoder.decode(piece, NOW, &mut batch)).collect::<Vec<_>>();
        (outcomes, values(&batch).len())
    };
    let (found, values) = outcomes("t/x", "{\"t\":1}\n{\"t\":\n{\"t\":3}\n");
    assert!(matches!(found[..], [Outcome::Readings(1), Outcome::Rejected(_), Outcome::Readings(1)]), "{found:?}");
    assert_eq!(values, 2);
    // States and topics that no profile knows are one frame.
    assert_eq!(outcomes("t/x/state", "on\n").0.len(), 1);
    assert_eq!(outcomes("other", "1\n2").0.len(), 1);
}

#[test]
fn a_value_may_count_only_where_another_is_within_bounds() {
    let mut decoder = own_mqtt(
        r#"
        format = "json"
        no_value = "ignore"
        [mqtt]
        topics = ["t/{device}"]
        [[field]]
        path = "d"
        name = "distance"
        when = [{ path = "strength", above = 99, below = 65535 }]
        [[field]]
        path = "n"
        name = "few"
        when = [{ below = 10 }]
        [[field]]
        path = "n"
        name = "many"
        "#,
    );
    let mut of = |payload: &str| {
        let mut batch = Batch::default();
        decoder.decode(&frame("t/x", payload), NOW, &mut batch);
        values(&batch).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    for (strength, expected) in [("100", 1), ("\"100\"", 1), ("99", 0), ("65535", 0), ("null", 0), ("true", 0)] {
        assert_eq!(of(&format!("{{\"d\":5,\"strength\":{strength}}}")).len(), expected, "{strength}");
    }
    assert_eq!(of("{\"d\":5}"), [""; 0]);
    assert_eq!((of("{\"n\":9.5}"), of("{\"n\":10}")), (vec!["few".to_owned()], vec!["many".to_owned()]));
}

#[test]
fn signs_and_bases_of_odd_devices() {
    let mut decoder = own_mqtt(
        r#"
        format = "json"
        no_value = "ignore"
        [mqtt]
        topics = ["t/{device}"]
        [[field]]
        path = "magnitude"
        name = "magnitude"
        base = 16
        bits = [0, 16]
        sign = "magnitude"
        scale = 0.1
        no_reading = [-32767]
        [[field]]
        path = "twelve"
        name = "twelve"
        bits = [4, 12]
        sign = "complement"
        [[field]]
        path = "flags"
        name = "bits"
        base = 2
        [[field]]
        path = "plain"
        name = "plain"
        negative = { path = "status", bit = 7 }
        min = -40
        offset = 1
        "#,
    );
    let mut of = |payload: &str| {
        let mut batch = Batch::default();
        let outcome = decoder.decode(&frame("t/x", payload), NOW, &mut batch);
        let number = |(_, value): (String, Value)| match value {
            Value::Number(number) => number,
            other => panic!("{other:?}"),
        };
        (values(&batch).into_iter().map(number).next(), matches!(outcome, Outcome::Rejected(_)))
    };
    for (payload, expected) in [
        (r#"{"magnitude":"00cf"}"#, (Some(20.7), false)),
        (r#"{"magnitude":"80CF"}"#, (Some(-20.7), false)),
        (r#"{"magnitude":"ffff"}"#, (None, false)),
        (r#"{"magnitude":"0g"}"#, (None, true)),
        (r#"{"magnitude":"ffffffffffffffffff"}"#, (None, true)),
        (r#"{"twelve":32767}"#, (Some(2047.0), false)),
        (r#"{"twelve":32768}"#, (Some(-2048.0), false)),
        (r#"{"twelve":65535}"#, (Some(-1.0), false)),
        (r#"{"plain":"-  20"}"#, (Some(-19.0), false)),
        (r#"{"plain":"- "}"#, (None, true)),
        (r#"{"flags":"0110"}"#, (Some(6.0), false)),
        (r#"{"flags":"0120"}"#, (None, true)),
        (r#"{"plain":20,"status":127}"#, (Some(21.0), false)),
        (r#"{"plain":20,"status":128}"#, (Some(-21.0), false)),
        // What is possible is asked of the number with its sign.
        (r#"{"plain":50,"status":128}"#, (None, true)),
    ] {
        assert_eq!(of(payload), expected, "{payload}");
    }
}

#[test]
fn a_flag_may_be_on_for_any_word_but_one() {
    let mut decoder = own_mqtt(
        r#"
        format = "json"
        [mqtt]
        topics = ["t/{device}"]
        [[field]]
        path = "status"
        name = "fault"
        type = "flag"
        on = ["*"]
        off = ["OK", "test *"]
        "#,
    );
    for (status, on) in
        [("OK", false), ("DRY LEAK", true), ("0", true), ("", true), ("test *", false), ("test 1", true)]
    {
        let mut batch = Batch::default();
        decoder.decode(&frame("t/x", &format!("{{\"status\":\"{status}\"}}")), NOW, &mut batch);
        assert_eq!(values(&batch), [("fault".to_owned(), Value::Flag(on))], "{status}");
    }
}

#[test]
fn json_in_a_text_is_taken_apart() {
    let mut decoder = own_mqtt(
        r#"
        format = "json"
        [mqtt]
        topics = ["t/{device}"]
        [[inside]]
        path = "data"
        text = "json"
        [[inside]]
        path = "data.more"
        text = "json"
        [[field]]
        path = "data.t"
        name = "t"
        [[field]]
        path = "data.more.*"
        name = "more_{1}"
        [[field]]
        path = "h"
        name = "h"
        "#,
    );
    let mut of = |payload: &str| {
        let mut batch = Batch::default();
        decoder.decode(&frame("t/x", payload), NOW, &mut batch);
        let found: Vec<String> = values(&batch).into_iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        (found.join(" "), decoder.values_rejected().to_vec())
    };
    let nested = r#"{"data":"{\"t\":21.5,\"more\":\"[1,2]\"}","h":50}"#;
    assert_eq!(of(nested), ("t=Number(21.5) more_0=Number(1.0) more_1=Number(2.0) h=Number(50.0)".to_owned(), vec![]));
    let of_printf = r#"{"data":"{\"t\":nan}","h":50}"#;
    assert_eq!(of(of_printf), ("h=Number(50.0)".to_owned(), vec![]));
    for wrong in [r#"{"data":"{\"t\":","h":50}"#, r#"{"data":"5","h":50}"#] {
        assert_eq!(of(wrong), ("h=Number(50.0)".to_owned(), vec![Reason::WrongType]), "{wrong}");
    }
}

#[test]
fn bytes_in_a_text_are_taken_apart_where_they_begin_as_they_must() {
    let mut decoder = own_mqtt(
        r#"
        format = "json"
        [mqtt]
        topics = ["t/{device}"]
        [[inside]]
        path = "tags.*.data"
        text = "hex"
        starts = "01 ff"
        values = { temperature = "2 i16", late = "100 u8" }
        [[inside]]
        path = "raw"
        text = "base64"
        endian = "little"
        values = { temperature = "0 i16" }
        [[field]]
        path = "raw.temperature"
        name = "raw"
        [[part]]
        each = "tags.*"
        device = "@key"
        [[part.field]]
        path = "data.temperature"
        name = "temperature"
        [[part.field]]
        path = "data"
        name = "other"
        type = "text"
        "#,
    );
    let mut batch = Batch::default();
    let number = |name: &str, number| (name.to_owned(), Value::Number(number));
    let text = |name: &str, text: &str| (name.to_owned(), Value::Text(text.into()));
    // Two places, the second of which moves when the first is taken apart.
    let payload = r#"{"tags":{"a":{"data":"01ffff38"},"b":{"data":"01FF00c8"},"c":{"data":"02ff00c8"}},"raw":"OP8="}"#;
    assert_eq!(decoder.decode(&frame("t/x", payload), NOW, &mut batch), Outcome::Readings(4));
    assert_eq!(
        values(&batch),
        [number("raw", -200.0), number("temperature", -200.0), number("temperature", 200.0), text("other", "02ff00c8")]
    );
    let devices = batch.records.iter().map(|record| match record {
        Record::Reading(reading) => reading.device.to_string(),
        other => panic!("{other:?}"),
    });
    assert_eq!(devices.collect::<Vec<_>>(), ["x", "a", "b", "c"]);
    // Half a byte, a sign, too short for any value, not base64: left as they are.
    for (payload, expected) in [
        (r#"{"tags":{"a":{"data":"01ff1"}}}"#, vec![text("other", "01ff1")]),
        (r#"{"tags":{"a":{"data":"01ff+1+1"}}}"#, vec![text("other", "01ff+1+1")]),
        (r#"{"tags":{"a":{"data":"01ff00"}}}"#, vec![text("other", "01ff00")]),
        (r#"{"raw":"OP8","tags":{"a":{"data":"é1ff"}}}"#, vec![number("raw", -200.0), text("other", "é1ff")]),
        (r#"{"raw":"OP*","tags":{"a":{"data":""}}}"#, vec![text("other", "")]),
    ] {
        batch.clear();
        decoder.decode(&frame("t/x", payload), NOW, &mut batch);
        assert_eq!(values(&batch), expected, "{payload}");
        // Where nothing else can stand, a text that is no bytes is told.
        let rejected: &[Reason] = if payload.contains("OP*") { &[Reason::WrongType] } else { &[] };
        assert_eq!(decoder.values_rejected(), rejected, "{payload}");
    }
}

#[test]
fn rules_ask_what_the_topic_the_key_and_the_whole_payload_say() {
    let mut decoder = own_mqtt(
        r#"
        format = "json"
        no_value = "ignore"
        [mqtt]
        topics = ["t/{device}/events", "t/{device}/status/{key}"]
        [time]
        path = "@root.at"
        format = "epoch"
        when = [{ path = "@root.at", not = "@*" }]
        [[field]]
        path = "v"
        name = "{@key}_whole"
        when = [{ path = "@key", is = "sw*:0" }, { path = "id", absent = true }]
        [[field]]
        path = "in.v"
        name = "{@key}_inner"
        when = [{ path = "@key" }]
        [[part]]
        each = "params.*"
        when = [{ path = "@root.method", is = "Notify*" }]
        "#,
    );
    let mut batch = Batch::default();
    let mut names = |topic: &str, payload: &str| {
        batch.clear();
        let outcome = decoder.decode(&frame(topic, payload), NOW, &mut batch);
        let names: Vec<_> = values(&batch).into_iter().map(|(name, _)| name).collect();
        let time = match batch.records.first() {
            Some(Record::Reading(reading)) => Some((reading.time_ms, reading.time_quality)),
            _ => None,
        };
        (outcome, names, time)
    };
    let at = |seconds: i64| Some((seconds * 1000, TimeQuality::Device));
    let arrival = Some((NOW.wall_ms, TimeQuality::Arrival));
    let of = |expected: &[&str]| expected.iter().map(ToString::to_string).collect::<Vec<_>>();
    let event = r#"{"method":"NotifyX","at":2000,"params":{"at":1,"switch:0":{"v":1,"in":{"v":2},"at":7}}}"#;
    let expected = of(&["switch_0_whole", "switch_0_inner"]);
    assert_eq!(names("t/d/events", event), (Outcome::Readings(1), expected.clone(), at(2000)));
    assert_eq!(
        names("t/d/status/switch:0", r#"{"v":1,"in":{"v":2},"at":"@0.5s"}"#),
        (Outcome::Readings(1), expected, arrival)
    );
    // Another key, an `id`, another method: nothing is left, and nothing is an error here.
    for (topic, payload) in [
        ("t/d/status/light:0", r#"{"v":1}"#),
        ("t/d/status/switch:0", r#"{"v":1,"id":0}"#),
        ("t/d/events", r#"{"method":"Other","params":{"switch:0":{"v":1}}}"#),
        ("t/d/events", r#"{"v":1}"#),
    ] {
        assert_eq!(names(topic, payload), (Outcome::Ignored, vec![], None), "{payload}");
    }
}

#[test]
fn a_topic_of_plain_values_may_have_an_object() {
    let mut decoder = own_mqtt(
        "format = \"plain\"\n[mqtt]\ntopics = [\"t/{device}\"]\n\
         [[field]]\npath = \"value\"\nname = \"value\"\n[[field]]\npath = \"a\"\nname = \"a\"\n",
    );
    let mut batch = Batch::default();
    for (payload, name, number) in [(" -2.5 ", "value", -2.5), (" {\"a\":3}", "a", 3.0)] {
        batch.clear();
        assert_eq!(decoder.decode(&frame("t/x", payload), NOW, &mut batch), Outcome::Readings(1));
        assert_eq!(values(&batch), [(name.to_owned(), Value::Number(number))]);
    }
    assert_eq!(rejection(decoder.decode(&frame("t/x", "{"), NOW, &mut batch)).0, Reason::NotJson);
}

#[test]
fn what_means_no_reading_is_looked_for_in_the_bits_that_count() {
    let mut decoder = own(
        "[[field]]\npath = \"p\"\nname = \"v\"\nbits = [5, 11]\nscale = 0.001\noffset = 1.6\nno_reading = [2047]\n",
    );
    let mut batch = Batch::default();
    assert_eq!(decoder.decode(&frame("t/x", r#"{"p":65504}"#), NOW, &mut batch), Outcome::Ignored);
    decoder.decode(&frame("t/x", r#"{"p":65472}"#), NOW, &mut batch);
    assert_eq!(values(&batch), [("v".to_owned(), Value::Number(3.646))]);
}

#[test]
fn times_relative_to_now_are_relative_to_the_arrival() {
    let mut decoder = decoder(&["senml"]);
    let mut batch = Batch::default();
    let pack = r#"[{"bn":"m/","n":"load","v":1,"t":-2.5},{"n":"load","v":2},{"n":"load","v":3,"t":1777896000}]"#;
    assert_eq!(decoder.decode(&frame("senml/x", pack), NOW, &mut batch), Outcome::Readings(3));
    let time = |record: &Record| match record {
        Record::Reading(reading) => (reading.time_ms, reading.time_quality),
        other => panic!("{other:?}"),
    };
    let times: Vec<_> = batch.records.iter().map(time).collect();
    let arrival = |ms: i64| (NOW.wall_ms + ms, TimeQuality::Arrival);
    assert_eq!(times, [arrival(-2_500), arrival(0), (1_777_896_000_000, TimeQuality::Device)]);
    // When a message that the broker had kept was sent is not known; only the time that stands on its own is one.
    batch = Batch::default();
    let retained = Frame { retained: true, ..frame("senml/x", pack) };
    assert_eq!(decoder.decode(&retained, NOW, &mut batch), Outcome::Readings(1));
    assert_eq!(values(&batch), [("load".to_owned(), Value::Number(3.0))]);
}

#[test]
fn a_birth_is_a_state_and_a_reading_and_lost_messages_are_counted() {
    let counters = Counters::default();
    let mut decoder = decoder(&["sparkplug/sparkplug-b"]).counting(&counters);
    let mut batch = Batch::default();
    let mut hear = |topic: &str, payload: &[u8]| {
        batch.clear();
        let frame = Frame { origin: topic, payload, retained: false, oversize: None };
        let outcome = decoder.decode(&frame, NOW, &mut batch);
        let line = |record: &Record| match record {
            Record::State(state) => format!("{} {}", state.device, state.online),
            Record::Reading(reading) => format!("{} {:?}", reading.device, batch.fields_of(reading)[0].value),
            other => panic!("{other:?}"),
        };
        (outcome, batch.records.iter().map(line).collect::<Vec<_>>())
    };
    // One metric: t, of alias 1, a float of 21.5; then only the alias, and -1.5.
    let birth = b"\x12\x0c\x0a\x01t\x10\x01\x20\x09\x65\x00\x00\xac\x41\x18\x01";
    let data = |seq: u8| [&b"\x12\x07\x10\x01\x65\x00\x00\xc0\xbf\x18"[..], &[seq]].concat();
    let (outcome, records) = hear("spBv1.0/g/DDATA/n/d", &data(0));
    let detail = "the alias 1 is not known: no birth that names it was heard".to_owned();
    assert_eq!((rejection(outcome), records.len()), ((Reason::UnknownAlias, detail), 0));
    let (outcome, records) = hear("spBv1.0/g/DBIRTH/n/d", birth);
    assert_eq!((outcome, records), (Outcome::Readings(1), vec!["n/d true".into(), "n/d Number(21.5)".into()]));
    assert_eq!(hear("spBv1.0/g/DDATA/n/d", &data(2)).1, ["n/d Number(-1.5)"]);
    assert_eq!(counters.counter(Count::SequenceGaps, "mqtt.test").get(), 0);
    assert_eq!(hear("spBv1.0/g/DDATA/n/d", &data(4)).1, ["n/d Number(-1.5)"]);
    assert_eq!(counters.counter(Count::SequenceGaps, "mqtt.test").get(), 1);
    // No metric is in it that is not about the protocol.
    assert_eq!(hear("spBv1.0/g/NDATA/n", b"\x18\x05").0, Outcome::Ignored);
    assert_eq!(hear("spBv1.0/g/NDEATH/n", b"\x08\x01"), (Outcome::State, vec!["n false".into(), "n/d false".into()]));
}

#[test]
fn a_node_whose_birth_was_missed_is_asked_for_it_where_it_may_be() {
    let data = b"\x12\x07\x10\x01\x65\x00\x00\xc0\xbf\x18\x07";
    let asked = |settings: Mqtt| {
        let mut decoder = Decoder::for_mqtt(&settings, &ProfileSet::builtin()).unwrap();
        for topic in ["plc/spB/g/DDATA/n/d", "plc/spB/g/DDATA/n/e", "plc/spB/g/NDATA/m"] {
            let frame = Frame { origin: topic, payload: data, retained: false, oversize: None };
            decoder.decode(&frame, NOW, &mut Batch::default());
        }
        let topics: Vec<_> = decoder.take_requests().into_iter().map(|request| request.topic).collect();
        assert!(decoder.take_requests().is_empty());
        (decoder.asks(), topics)
    };
    let used = ProfileUse { prefix: Some("plc/spB".to_owned()), ..used("sparkplug/sparkplug-b") };
    let settings = mqtt(&[used], None);
    assert_eq!(asked(settings.clone()), (true, vec!["plc/spB/g/NCMD/n".to_owned(), "plc/spB/g/NCMD/m".to_owned()]));
    assert_eq!(asked(Mqtt { rebirth: false, ..settings }), (false, Vec::new()));
}
