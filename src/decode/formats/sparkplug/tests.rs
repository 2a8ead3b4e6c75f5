use proptest::prelude::*;

use super::*;
use crate::decode::doc::NODES_MAX;

/// Protobuf, written by hand.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    [&varint(field << 3 | 2)[..], &varint(content.len() as u64), content].concat()
}

fn payload(seq: u64, metrics: &[Vec<u8>]) -> Vec<u8> {
    let metrics = metrics.iter().flat_map(|metric| bytes(2, metric));
    [number(1, 1_700_000_000_000), metrics.collect(), number(3, seq)].concat()
}

/// A metric of a birth.
fn born(name: &str, alias: u64, datatype: u64, value: &[u8]) -> Vec<u8> {
    [&bytes(1, name.as_bytes())[..], &number(2, alias), &number(4, datatype), value].concat()
}

/// A metric of a data message.
fn known(alias: u64, value: &[u8]) -> Vec<u8> {
    [&number(2, alias), value].concat()
}

fn int(value: u64) -> Vec<u8> {
    number(10, value)
}

fn long(value: u64) -> Vec<u8> {
    number(11, value)
}

fn float(value: f32) -> Vec<u8> {
    [varint(12 << 3 | 5), value.to_le_bytes().to_vec()].concat()
}

fn double(value: f64) -> Vec<u8> {
    [varint(13 << 3 | 1), value.to_le_bytes().to_vec()].concat()
}

fn unit(unit: &str) -> Vec<u8> {
    let value = [number(1, 12), bytes(8, unit.as_bytes())].concat();
    bytes(9, &[bytes(1, b"low"), bytes(1, b"engUnit"), bytes(2, &number(3, 5)), bytes(2, &value)].concat())
}

fn connection(number: u64) -> Vec<u8> {
    [bytes(1, b"bdSeq"), self::number(4, 4), long(number)].concat()
}

/// What a message gives: name and value of each metric, and all else.
fn hear(nodes: &mut Nodes, message: &str, device: &str, bytes: &[u8]) -> Result<(Vec<String>, Heard), Refusal> {
    let mut doc = Doc::default();
    let heard = nodes.take(Topic { group: "plant", message, device }, bytes, &mut doc)?;
    let list = doc.children(0).find(|(_, node)| doc.key(node) == "metrics").map(|(list, _)| list);
    let line = |metric: usize| {
        let line = doc.children(metric).map(|(_, node)| match doc.key(node) {
            "name" | "value" | "text" | "flag" => doc.word(node).unwrap_or_else(|| "-".to_owned()),
            key => format!("{key} {}", doc.word(node).unwrap_or_default()),
        });
        line.collect::<Vec<_>>().join(" ")
    };
    let lines = list.map(|list| doc.children(list).map(|(metric, _)| line(metric)).collect()).unwrap_or_default();
    Ok((lines, heard))
}

#[test]
fn a_birth_names_what_data_only_numbers() {
    let mut nodes = Nodes::default();
    let birth = payload(
        0,
        &[
            connection(7),
            born("Node Control/Rebirth", 90, 11, &number(14, 0)),
            born("inlet/temp", 1, 9, &[float(21.3), unit("Cel")].concat()),
            born("count", 2, 8, &long(u64::MAX)),
            born("offset", 3, 1, &int(0xff)),
        ],
    );
    let (lines, heard) = hear(&mut nodes, "NBIRTH", "n1", &birth).unwrap();
    assert_eq!(lines, ["inlet/temp 21.3 unit Cel", "count 18446744073709551615", "offset -1"]);
    assert_eq!(heard, Heard { states: vec![("n1".into(), true)], ..Heard::default() });
    let data = payload(
        1,
        &[
            known(1, &float(-4.5)),
            known(2, &long((1 << 53) + 1)),
            known(3, &int(0xffff_fffe)),
            known(90, &number(14, 1)),
            [known(1, &number(7, 1)), number(3, 1_600_000_000_000)].concat(),
            [known(1, &float(1.0)), number(3, 1_500_000_000_000), number(5, 1)].concat(),
        ],
    );
    let (lines, heard) = hear(&mut nodes, "NDATA", "n1", &data).unwrap();
    assert_eq!(
        lines,
        [
            "inlet/temp -4.5 unit Cel",
            "count 9007199254740993",
            "offset -2",
            "inlet/temp - unit Cel time 1600000000000",
            "inlet/temp 1 unit Cel time 1500000000000 historical true",
        ]
    );
    assert_eq!(heard, Heard::default());
    let (lines, heard) = hear(&mut nodes, "NDATA", "n1", &payload(2, &[known(90, &number(14, 1))])).unwrap();
    assert_eq!((lines.len(), heard), (0, Heard { nothing: true, ..Heard::default() }));
    // A device has aliases of its own, and another node of that name in another group is another one.
    let (lines, heard) = hear(&mut nodes, "DDATA", "n1/d1", &payload(3, &[known(1, &float(1.0))])).unwrap();
    assert_eq!((lines.len(), heard.unknown), (0, 1));
    assert_eq!(heard.first.as_deref(), Some("the alias 1 is not known: no birth that names it was heard"));
    let topic = Topic { group: "other", message: "NDATA", device: "n1" };
    let heard = nodes.take(topic, &payload(2, &[known(1, &float(1.0))]), &mut Doc::default()).unwrap();
    assert_eq!(heard.unknown, 1);
}

#[test]
fn without_a_birth_only_what_speaks_for_itself_is_taken() {
    let named = |name: &str, value: &[u8]| [bytes(1, name.as_bytes()), value.to_vec()].concat();
    let data = payload(
        9,
        &[
            named("double", &double(0.1)),
            named("flag", &number(14, 1)),
            named("text", &bytes(15, "é".as_bytes())),
            named("signed or not", &int(0xffff_ffff)),
            [named("typed", &int(0xffff_ffff)), number(4, 3)].concat(),
        ],
    );
    let (lines, heard) = hear(&mut Nodes::default(), "DDATA", "n/d", &data).unwrap();
    assert_eq!(lines, ["double 0.1", "flag true", "text é", "typed -1"]);
    assert_eq!(
        heard.first.as_deref(),
        Some("the type of \"signed or not\" is not known: no birth that names it was heard")
    );
}

#[test]
fn every_type_means_what_it_says() {
    for (datatype, value, expected) in [
        (1, int(0x80), "-128"),
        (2, int(0x8000), "-32768"),
        (2, int(0xffff_8000), "-32768"),
        (3, int(0x8000_0000), "-2147483648"),
        (4, long(u64::MAX), "-1"),
        (5, int(255), "255"),
        (7, int(0xffff_ffff), "4294967295"),
        (8, long(5), "5"),
        (10, double(-1.25), "-1.25"),
        (11, number(14, 1), "true"),
        (12, bytes(15, b"on"), "on"),
        (13, long(1_700_000_000_123), "2023-11-14T22:13:20.123Z"),
        (13, long(u64::MAX), "18446744073709551615"),
        (16, bytes(17, b""), "-"),
        (17, bytes(16, b"\x01\xff"), "01ff"),
        (19, bytes(18, b""), "-"),
        (22, bytes(16, b"\x01\xff"), "-"),
    ] {
        let (lines, _) =
            hear(&mut Nodes::default(), "NBIRTH", "n", &payload(0, &[born("x", 1, datatype, &value)])).unwrap();
        assert_eq!(lines, [format!("x {expected}")], "type {datatype}");
    }
}

#[test]
fn who_dies_is_out_of_reach_and_a_node_takes_its_devices_along() {
    let mut nodes = Nodes::default();
    let states = |nodes: &mut Nodes, message: &str, device: &str, bytes: &[u8]| {
        hear(nodes, message, device, bytes).map(|(_, heard)| heard.states)
    };
    let offline = |device: &str| (device.to_owned(), false);
    hear(&mut nodes, "NBIRTH", "n", &payload(0, &[connection(3)])).unwrap();
    for (seq, device) in [(1, "n/b"), (2, "n/a"), (3, "n/c")] {
        hear(&mut nodes, "DBIRTH", device, &payload(seq, &[born("x", 1, 9, &float(1.0))])).unwrap();
    }
    assert_eq!(states(&mut nodes, "DDEATH", "n/c", &payload(4, &[])), Ok(vec![offline("n/c")]));
    assert_eq!(hear(&mut nodes, "DDATA", "n/c", &payload(5, &[known(1, &float(1.0))])).unwrap().1.unknown, 1);
    // The will of the connection before this one came late.
    assert_eq!(states(&mut nodes, "NDEATH", "n", &payload(0, &[connection(2)])), Err(Refusal::Ignored));
    assert_eq!(hear(&mut nodes, "DDATA", "n/a", &payload(6, &[known(1, &float(1.0))])).unwrap().0, ["x 1"]);
    let gone = vec![offline("n"), offline("n/a"), offline("n/b")];
    assert_eq!(states(&mut nodes, "NDEATH", "n", &payload(0, &[connection(3)])), Ok(gone));
    assert_eq!(hear(&mut nodes, "DDATA", "n/a", &payload(7, &[known(1, &float(1.0))])).unwrap().1.unknown, 1);
    // A death of somebody who was never heard is a death.
    assert_eq!(states(&mut nodes, "NDEATH", "m", &payload(0, &[])), Ok(vec![offline("m")]));
}

#[test]
fn a_gap_in_the_numbers_is_noticed() {
    let mut nodes = Nodes::default();
    let mut gap =
        |message: &str, device: &str, seq: u64| hear(&mut nodes, message, device, &payload(seq, &[])).unwrap().1.gap;
    assert!(!gap("NDATA", "n", 17), "where we begin to listen is no gap");
    assert!(!gap("DDATA", "n/d", 18), "a node and its devices count together");
    assert!(!gap("DDATA", "n/d", 18), "twice the same is no gap");
    assert!(gap("NDATA", "n", 20));
    assert!(!gap("NDATA", "n", 21));
    assert!(gap("NDATA", "n", 255));
    assert!(!gap("NDATA", "n", 0), "255 is followed by 0");
    assert!(!gap("NBIRTH", "n", 0), "a birth begins anew");
    assert!(!gap("DBIRTH", "n/d", 1));
    assert!(gap("DDEATH", "n/d", 3));
    assert!(!gap("NDATA", "other", 99));
}

#[test]
fn what_is_remembered_is_bounded() {
    let limits = Limits { nodes: 2, devices: 2, metrics: 3, name_bytes: 8 };
    let mut nodes = Nodes { limits, ..Nodes::default() };
    let two = payload(0, &[born("a", 1, 9, &float(1.0)), born("b", 2, 9, &float(1.0))]);
    let long = payload(0, &[born("a long name", 1, 9, &float(1.0))]);
    let data = |alias: u64| payload(0, &[known(alias, &float(1.0))]);
    let mut too_many = |message: &str, device: &str, bytes: &[u8]| match hear(&mut nodes, message, device, bytes) {
        Ok((lines, heard)) => Ok((lines.len(), heard.too_many, heard.unknown)),
        Err(Refusal::Wrong(reason, _)) => Err(reason),
        Err(Refusal::Ignored) => panic!(),
    };
    assert_eq!(too_many("NBIRTH", "n", &two), Ok((2, 0, 0)));
    assert_eq!(too_many("DBIRTH", "n/1", &two), Ok((2, 1, 0)), "the values of a birth are taken all the same");
    assert_eq!(too_many("DDATA", "n/1", &data(2)), Ok((0, 0, 1)));
    assert_eq!(too_many("DBIRTH", "n/1", &two), Ok((2, 1, 0)), "a second birth stands for the first");
    assert_eq!(too_many("DBIRTH", "n/2", &long), Ok((1, 1, 0)));
    assert_eq!(too_many("DBIRTH", "n/3", &two), Err(Reason::TooLarge));
    assert_eq!(too_many("NBIRTH", "m", &two), Ok((2, 0, 0)));
    assert_eq!(too_many("NDATA", "n", &data(1)), Ok((1, 0, 0)));
    assert_eq!(too_many("NBIRTH", "k", &two), Ok((2, 0, 0)));
    assert_eq!(too_many("NDATA", "n", &data(1)), Ok((1, 0, 0)));
    assert_eq!(too_many("NDATA", "m", &data(1)), Ok((0, 0, 1)), "it was silent longest");
    assert_eq!(nodes.nodes.len(), 2);
}

#[test]
fn what_is_no_message_is_refused_and_changes_nothing() {
    let mut nodes = Nodes::default();
    hear(&mut nodes, "NBIRTH", "n", &payload(0, &[born("x", 1, 9, &float(1.0))])).unwrap();
    let mut refused = |message: &str, device: &str, bytes: &[u8]| match hear(&mut nodes, message, device, bytes) {
        Err(Refusal::Wrong(Reason::Malformed, detail)) => detail,
        other => panic!("{message} {device}: {other:?}"),
    };
    assert_eq!(refused("NDATA", "n/d", b""), "expected a message of a node or of a device, found NDATA of n/d");
    refused("DDATA", "n", b"");
    refused("XDATA", "n", b"");
    refused("NBIRTH", "n", b"\x0b");
    refused("NBIRTH", "n", &number(2, 1));
    refused("NBIRTH", "n", &payload(0, &[bytes(1, b"\xff")]));
    refused("NBIRTH", "n", &payload(0, &[bytes(10, b"")]));
    refused("NBIRTH", "n", &payload(0, &[bytes(9, b"\x0b")]));
    refused("NBIRTH", "n", &bytes(2, b"").repeat(payload::METRICS_MAX + 1));
    assert_eq!(hear(&mut nodes, "NCMD", "n", b"\x0b").unwrap_err(), Refusal::Ignored);
    assert_eq!(hear(&mut nodes, "NDATA", "n", &payload(1, &[known(1, &float(2.0))])).unwrap().0, ["x 2"]);
}

proptest! {
    #[test]
    fn no_bytes_panic_and_what_is_held_is_bounded(
        messages in proptest::collection::vec(
            (0..6_usize, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..60), any::<u64>(), 0..40_u64),
            0..20,
        ),
    ) {
        let limits = Limits { nodes: 2, devices: 2, metrics: 3, name_bytes: 8 };
        let mut nodes = Nodes { limits, ..Nodes::default() };
        for (kind, device, noise, value, datatype) in messages {
            let message = ["NBIRTH", "NDATA", "NDEATH", "DBIRTH", "DDATA", "DDEATH"][kind];
            let name = format!("{}{}", noise.len() % 4, if device { "/d" } else { "" });
            let metric = [&bytes(1, b"x")[..], &number(4, datatype), &long(value), &noise].concat();
            for bytes in [noise, payload(value, &[metric])] {
                let mut doc = Doc::default();
                let _ = nodes.take(Topic { group: "g", message, device: &name }, &bytes, &mut doc);
                prop_assert!(doc.children(0).count() <= NODES_MAX);
            }
            prop_assert!(nodes.nodes.len() <= 2);
            prop_assert!(nodes.nodes.values().all(|node| node.metrics.len() <= 3));
        }
    }
}
