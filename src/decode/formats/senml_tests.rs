use proptest::prelude::*;

use super::*;
use crate::decode::doc::NODES_MAX;

/// All records, a line each: device, name, time, unit, and what is measured.
fn records(bytes: &[u8]) -> Vec<String> {
    let (mut pack, mut doc) = (Doc::default(), Doc::default());
    senml(bytes, &mut pack, &mut doc).unwrap();
    let (list, _) = doc.children(0).next().unwrap();
    let line = |record: usize| {
        let words = doc.children(record).filter_map(|(_, node)| Some(format!("{}={}", doc.key(node), doc.word(node)?)));
        words.collect::<Vec<_>>().join(" ")
    };
    doc.children(list).map(|(record, _)| line(record)).collect()
}

fn refusal(bytes: &[u8]) -> Reason {
    match senml(bytes, &mut Doc::default(), &mut Doc::default()) {
        Err(Refusal::Wrong(reason, _)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn base_values_are_resolved() {
    let json = br#"[{"bn":"urn:dev:ow:00000001:","bt":1700000000.5,"bu":"A","bver":5,"n":"voltage","u":"V","v":230.1},
        {"n":"current","t":-2,"v":1.2},{"n":"current","t":-1,"v":0.13e1},
        {"bn":"hall/","bt":1700000100,"bu":"","n":"clicks","v":9007199254740993}]"#;
    assert_eq!(
        records(json),
        [
            "device=urn:dev:ow:00000001 name=voltage time=1700000000.5 unit=V value=230.1",
            "device=urn:dev:ow:00000001 name=current time=1699999998.5 unit=A value=1.2",
            "device=urn:dev:ow:00000001 name=current time=1699999999.5 unit=A value=1.3",
            "device=hall name=clicks time=1700000100 value=9007199254740993",
        ]
    );
    // A base value is added in decimals, and a sum has a base of its own.
    let json = br#"[{"bn":"m1/","bv":20.1,"bs":100,"u":"W","n":"load","v":1.2,"s":5.5},{"n":"load","u":"kWh","v":2},
        {"n":"label","vs":"x"},{"bv":0,"bs":0,"n":"only","s":3},{"bn":"m2/"}]"#;
    assert_eq!(
        records(json),
        [
            "device=m1 name=load unit=W value=21.3 sum=105.5 sum_unit=W.s",
            "device=m1 name=load unit=kW.h value=22.1 sum=100 sum_unit=kW.h.s",
            "device=m1 name=label text=x",
            "device=m1 name=only sum=3 sum_unit=s",
        ]
    );
}

#[test]
fn cbor_says_the_same_as_json() {
    // [{-2: "m1/", -3: 1700000000, 0: "t", 1: "Cel", 2: -1.5 (half), 6: -1}, {0: "p", 2: 4([-2, 2101])},
    //  {0: "d", 8: h'0102ff'}, {0: "f", 4: false}, {0: "s", 3: "on"}]
    let cbor = [
        &b"\x85\xa6\x21\x63m1/\x22\x1a\x65\x53\xf1\x00\x00\x61t\x01\x63Cel\x02\xf9\xbe\x00\x06\x20"[..],
        b"\xa2\x00\x61p\x02\xc4\x82\x21\x19\x08\x35\xa2\x00\x61d\x08\x43\x01\x02\xff\xa2\x00\x61f\x04\xf4",
        b"\xa2\x00\x61s\x03\x62on",
    ]
    .concat();
    let json = br#"[{"bn":"m1/","bt":1700000000,"n":"t","u":"Cel","v":-1.5,"t":-1},{"n":"p","v":21.01},
        {"n":"d","vd":"AQL_"},{"n":"f","vb":false},{"n":"s","vs":"on"}]"#;
    let found = records(&cbor);
    assert_eq!(found, records(json));
    assert_eq!(found[0], "device=m1 name=t time=1699999999 unit=Cel value=-1.5");
    assert_eq!(found[2], "device=m1 name=d time=1700000000 data=AQL_");
    // The same, in a list without a length.
    let open = [b"\x9f", &cbor[1..], b"\xff"].concat();
    assert_eq!(records(&open), found);
}

#[test]
fn names_are_device_and_measurement() {
    for (base, own, device, name) in [
        ("urn:dev:ow:10e2:", "voltage", "urn:dev:ow:10e2", "voltage"),
        ("urn:dev:ow:10e2", "voltage", "urn:dev:ow:10e2", "voltage"),
        ("", "urn:dev:ow:10e2:voltage", "urn:dev:ow:10e2", "voltage"),
        ("", "urn:dev:ow:10e2", "urn:dev:ow:10e2", ""),
        ("urn:dev:ow:10e2;inlet", "", "urn:dev:ow:10e2", "inlet"),
        ("", "urn:dev:org:32473-x_fan_speed", "urn:dev:org:32473-x", "fan_speed"),
        ("2001:db8::2/", "humidity", "2001:db8::2", "humidity"),
        ("2001:db8::2/", "", "2001:db8::2", ""),
        ("2001:db8::2/3311/0/", "5850", "2001:db8::2/3311/0", "5850"),
        ("", "house/kitchen/temperature", "house/kitchen", "temperature"),
        ("", "temperature", "", "temperature"),
        ("", "00:1f:2e:3d:4c:5b", "00:1f:2e:3d:4c:5b", ""),
        ("", "sensor7:temp", "sensor7", "temp"),
        ("/", "/", "", ""),
        ("urn:dev:", "", "urn", "dev"),
        ("", "", "", ""),
    ] {
        assert_eq!(split(base, own), (device, name), "{base:?} and {own:?}");
    }
    // Without a name of its own a value is called after its unit.
    let json =
        br#"[{"bn":"urn:dev:ow:10e2","bu":"%RH","v":20},{"u":"lon","v":24.3},{"u":"%EL","v":98},{"u":"x","v":1}]"#;
    assert_eq!(
        records(json),
        [
            "device=urn:dev:ow:10e2 name=humidity unit=% value=20",
            "device=urn:dev:ow:10e2 name=longitude unit=deg value=24.3",
            "device=urn:dev:ow:10e2 name=battery unit=% value=98",
            "device=urn:dev:ow:10e2 name=value unit=x value=1",
        ]
    );
}

#[test]
fn what_must_be_understood_and_is_not_refuses_the_pack() {
    assert_eq!(records(br#"[{"n":"a/tt","v":1,"later":[1,2]}]"#), ["device=a name=tt value=1"]);
    assert_eq!(refusal(br#"[{"n":"a","v":1},{"n":"b","v":1,"unit_":"x"}]"#), Reason::Malformed);
    for version in ["5", "10", "26"] {
        assert_eq!(records(format!(r#"[{{"bver":{version},"n":"tt","v":1}}]"#).as_bytes()).len(), 1, "{version}");
    }
    for version in ["11", "27", "42", "-1", "\"10\""] {
        assert_eq!(
            refusal(format!(r#"[{{"bver":{version},"n":"tt","v":1}}]"#).as_bytes()),
            Reason::Malformed,
            "{version}"
        );
    }
}

#[test]
fn what_is_no_pack_is_refused() {
    for (bytes, reason) in [
        (&b"[{\"n\":\"a\",\"v\":1}"[..], Reason::NotJson),
        (b"{\"n\":\"a\",\"v\":1}", Reason::Malformed),
        (b"[1]", Reason::Malformed),
        (b"[{\"n\":1,\"v\":1}]", Reason::Malformed),
        (b"[{\"n\":\"a\",\"v\":1,\"t\":\"now\"}]", Reason::Malformed),
        (b" [\"\xff\"]", Reason::NotUtf8),
        (b"hello", Reason::Malformed),
        (b"\x81\xa2\x00\x61", Reason::Malformed),
        (b"\x81\xa1\x06\x81\x01", Reason::Malformed),
        (b"\xa1\x00\x61a", Reason::Malformed),
    ] {
        assert_eq!(refusal(bytes), reason, "{}", String::from_utf8_lossy(bytes));
    }
    let many = format!("[{}{{\"n\":\"a\"}}]", "{\"n\":\"a\",\"v\":1},".repeat(NODES_MAX / 4));
    assert_eq!(refusal(many.as_bytes()), Reason::TooLarge);
}

fn any_record() -> impl Strategy<Value = String> {
    let key = prop_oneof!["bn|bt|bu|bv|bs|bver|n|u|v|vs|vb|vd|s|t|ut|x_", "[a-z]{1,3}"];
    let value = prop_oneof!["-?[0-9]{1,20}", "\"[ -!#-\\[\\]-~é]{0,12}\"", "true|null|\\[1\\]|\\{\\}|1e400|-1e308"];
    proptest::collection::vec((key, value), 0..6).prop_map(|fields| {
        let fields = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect::<Vec<_>>();
        format!("{{{}}}", fields.join(","))
    })
}

proptest! {
    #[test]
    fn no_bytes_panic_and_what_is_held_is_bounded(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        pack in proptest::collection::vec(any_record(), 0..6),
    ) {
        let (mut read, mut doc) = (Doc::default(), Doc::default());
        let _ = senml(&bytes, &mut read, &mut doc);
        let _ = senml(&[b"\x85", &bytes[..]].concat(), &mut read, &mut doc);
        if senml(format!("[{}]", pack.join(",")).as_bytes(), &mut read, &mut doc).is_ok() {
            let (list, _) = doc.children(0).next().unwrap();
            prop_assert!(doc.children(list).count() <= pack.len());
        }
    }
}

/// What RFC 8428 gives as examples in section 5, resolved by hand.
mod examples_of_the_rfc {
    use super::records;

    /// Records of one device: name, seconds after `start`, unit, value.
    fn expected(device: &str, start: f64, values: &[(&str, f64, &str, &str)]) -> Vec<String> {
        let line = |(name, seconds, unit, value): &(&str, f64, &str, &str)| {
            format!("device={device} name={name} time={} unit={unit} value={value}", start + seconds)
        };
        values.iter().map(line).collect()
    }

    #[test]
    fn single_and_multiple_points() {
        assert_eq!(
            records(br#"[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]"#),
            ["device=urn:dev:ow:10e2073a01080063 name=temperature unit=Cel value=23.1"]
        );
        let both = br#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"voltage","u":"V","v":120.1},{"n":"current","u":"A","v":1.2}]"#;
        assert_eq!(
            records(both),
            [
                "device=urn:dev:ow:10e2073a01080063 name=voltage unit=V value=120.1",
                "device=urn:dev:ow:10e2073a01080063 name=current unit=A value=1.2"
            ]
        );
        let series =
            br#"[{"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":21.2},{"t":10,"v":21.3},
            {"t":20,"v":21.4},{"t":30,"v":21.4},{"t":40,"v":21.5},{"t":80,"v":21.7}]"#;
        let humidity = |seconds, value| ("humidity", seconds, "%", value);
        let values = [(0.0, "21.2"), (10.0, "21.3"), (20.0, "21.4"), (30.0, "21.4"), (40.0, "21.5"), (80.0, "21.7")];
        let values = values.map(|(seconds, value)| humidity(seconds, value));
        assert_eq!(records(series), expected("urn:dev:ow:10e2073a01080063", 1_320_067_464.0, &values));
    }

    /// Of section 5.1.2 in JSON, and of section 6 in CBOR: a half, doubles, negative labels and times.
    #[test]
    fn base_values_in_json_and_in_cbor() {
        let json = br#"[{"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","bver":5,"n":"voltage","u":"V","v":120.1},
            {"n":"current","t":-5,"v":1.2},{"n":"current","t":-4,"v":1.3},{"n":"current","t":-3,"v":1.4},
            {"n":"current","t":-2,"v":1.5},{"n":"current","t":-1,"v":1.6},{"n":"current","v":1.7}]"#;
        let double = |number: f64| [&[0xfb][..], &number.to_be_bytes()].concat();
        let mut cbor = b"\x87\xa7\x21\x78\x1burn:dev:ow:10e2073a0108006:\x22".to_vec();
        cbor.extend(double(1_276_020_076.001));
        cbor.extend(b"\x23\x61A\x20\x05\x00\x67voltage\x01\x61V\x02");
        cbor.extend(double(120.1));
        for (time, value) in [(-5_i8, 1.2), (-4, 1.3), (-3, 1.4), (-2, 1.5), (-1, 1.6), (0, 1.7)] {
            cbor.extend(b"\xa3\x00\x67current\x06");
            // A negative number is written as what is missing to -1.
            cbor.push(if time < 0 { 0x20 | (-1 - time).unsigned_abs() } else { 0 });
            cbor.push(0x02);
            if value == 1.5 {
                cbor.extend(b"\xf9\x3e\x00");
            } else {
                cbor.extend(double(value));
            }
        }
        let line = |name: &str, second: u64, unit: &str, value: &str| {
            format!("device=urn:dev:ow:10e2073a0108006 name={name} time={second}.001 unit={unit} value={value}")
        };
        let mut resolved = vec![line("voltage", 1_276_020_076, "V", "120.1")];
        let currents = (1_276_020_071..).zip(["1.2", "1.3", "1.4", "1.5", "1.6", "1.7"]);
        resolved.extend(currents.map(|(second, value)| line("current", second, "A", value)));
        assert_eq!(records(json), resolved);
        assert_eq!(records(&cbor), resolved);
    }

    #[test]
    fn a_sensor_that_moves_and_the_same_resolved() {
        let json =
            br#"[{"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":20},{"u":"lon","v":24.30621},
            {"u":"lat","v":60.07965},{"t":60,"v":20.3},{"u":"lon","t":60,"v":24.30622},{"u":"%EL","t":150,"v":98},
            {"u":"lat","t":180,"v":60.07967}]"#;
        let resolved = br#"[{"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067464e+09,"v":20},
            {"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067464e+09,"v":24.30621},
            {"n":"urn:dev:ow:10e2073a01080063","u":"lat","t":1.320067464e+09,"v":60.07965},
            {"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067524e+09,"v":20.3},
            {"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067524e+09,"v":24.30622},
            {"n":"urn:dev:ow:10e2073a01080063","u":"%EL","t":1.320067614e+09,"v":98},
            {"n":"urn:dev:ow:10e2073a01080063","u":"lat","t":1.320067644e+09,"v":60.07967}]"#;
        let values = [
            ("humidity", 0.0, "%", "20"),
            ("longitude", 0.0, "deg", "24.30621"),
            ("latitude", 0.0, "deg", "60.07965"),
            ("humidity", 60.0, "%", "20.3"),
            ("longitude", 60.0, "deg", "24.30622"),
            ("battery", 150.0, "%", "98"),
            ("latitude", 180.0, "deg", "60.07967"),
        ];
        let expected = expected("urn:dev:ow:10e2073a01080063", 1_320_067_464.0, &values);
        assert_eq!(records(json), expected);
        assert_eq!(records(resolved), expected);
    }

    #[test]
    fn several_types_several_devices_and_settings() {
        let types =
            br#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"temp","u":"Cel","v":23.1},{"n":"label","vs":"Machine Room"},
            {"n":"open","vb":false},{"n":"nfc-reader","vd":"aGkgCg"}]"#;
        let device = "device=urn:dev:ow:10e2073a01080063";
        let values =
            ["temp unit=Cel value=23.1", "label text=Machine Room", "open flag=false", "nfc-reader data=aGkgCg"];
        assert_eq!(records(types), values.map(|value| format!("{device} name={value}")));
        // The last record has the base name of the third and the base time of the first.
        let devices = br#"[{"bn":"2001:db8::2/","bt":1.320078429e+09,"n":"temperature","u":"Cel","v":25.2},
            {"n":"humidity","u":"%RH","v":30},{"bn":"2001:db8::1/","n":"temperature","u":"Cel","v":12.3},
            {"n":"humidity","u":"%RH","v":67}]"#;
        let at = |device, temperature, humidity| {
            expected(
                device,
                1_320_078_429.0,
                &[("temperature", 0.0, "Cel", temperature), ("humidity", 0.0, "%", humidity)],
            )
        };
        assert_eq!(records(devices), [at("2001:db8::2", "25.2", "30"), at("2001:db8::1", "12.3", "67")].concat());
        let thermostat =
            br#"[{"bn":"urn:dev:ow:10e2073a01080063:"},{"n":"temp","u":"Cel","v":23.1},{"n":"heat","u":"/","v":1},
            {"n":"fan","u":"/","v":0}]"#;
        let values = ["temp unit=Cel value=23.1", "heat unit=1 value=1", "fan unit=1 value=0"];
        assert_eq!(records(thermostat), values.map(|value| format!("{device} name={value}")));
        // Two lights: the whole name is a device.
        let lights =
            br#"[{"bt":1.320078429e+09,"bu":"/","n":"2001:db8::3","v":0.5},{"n":"2001:db8::4","t":0.1,"v":0}]"#;
        let found = records(lights);
        assert_eq!(found[0], "device=2001:db8::3 name=value time=1320078429 unit=1 value=0.5");
        assert_eq!(found[1], "device=2001:db8::4 name=value time=1320078429.1 unit=1 value=0");
    }
}
