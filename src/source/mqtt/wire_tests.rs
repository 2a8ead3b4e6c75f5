//! What is written is read back, in any pieces; packets over the limit are read past; no bytes make it panic.

use proptest::prelude::*;

use super::*;

const VERSIONS: [MqttVersion; 2] = [MqttVersion::V4, MqttVersion::V5];

/// A PUBLISH as a broker writes it.
fn publish_bytes(version: MqttVersion, topic: &str, id: u16, first: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend((topic.len() as u16).to_be_bytes());
    body.extend(topic.as_bytes());
    if first & 0b110 != 0 {
        body.extend(id.to_be_bytes());
    }
    if version == MqttVersion::V5 {
        body.push(0);
    }
    body.extend(payload);
    packet(0x30 | first, &body)
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut rest = body.len();
    loop {
        let more = if rest > 0x7f { 0x80 } else { 0 };
        bytes.push(more | (rest & 0x7f) as u8);
        rest >>= 7;
        if rest == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

/// Feeds `bytes` in pieces of `piece` and gives all packets.
fn decode(version: MqttVersion, packet_bytes_max: usize, bytes: &[u8], piece: usize) -> Result<Vec<Packet>, WireError> {
    let mut decoder = Decoder::new(version, packet_bytes_max);
    let mut buffer = BytesMut::new();
    let mut packets = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        buffer.extend_from_slice(piece);
        while let Some(packet) = decoder.next(&mut buffer)? {
            packets.push(packet);
        }
        assert!(buffer.len() <= packet_bytes_max.max(OVERSIZE_HEAD_BYTES) + piece.len() + 5, "held back too much");
    }
    Ok(packets)
}

fn publishes(packets: Vec<Packet>) -> Vec<Publish> {
    packets
        .into_iter()
        .map(|packet| match packet {
            Packet::Publish(publish) => publish,
            other => panic!("expected a publish, found {other:?}"),
        })
        .collect()
}

#[test]
fn messages_are_read_in_any_pieces() {
    for version in VERSIONS {
        let mut bytes = publish_bytes(version, "a/b", 7, 0b1010, b"one");
        bytes.extend(publish_bytes(version, "a/\u{e9}", 0, 0b0001, b""));
        for piece in [1, 2, 3, 7, 1000] {
            let packets = publishes(decode(version, 1000, &bytes, piece).unwrap());
            assert_eq!(packets.len(), 2);
            assert_eq!((packets[0].topic(), &packets[0].payload[..]), ("a/b", &b"one"[..]));
            assert_eq!((packets[0].id, packets[0].qos, packets[0].dup, packets[0].retain), (7, 1, true, false));
            assert_eq!((packets[1].topic(), packets[1].qos, packets[1].retain), ("a/\u{e9}", 0, true));
        }
    }
}

#[test]
fn a_packet_over_the_limit_is_read_past_and_what_follows_is_read() {
    for version in VERSIONS {
        let payload: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let mut bytes = publish_bytes(version, "big", 9, 0b0010, &payload);
        bytes.extend(publish_bytes(version, "small", 10, 0b0010, b"next"));
        for piece in [1000, 4096, 300_000, 2_000_000] {
            let packets = publishes(decode(version, 2000, &bytes, piece).unwrap());
            assert_eq!(packets.len(), 2);
            assert_eq!((packets[0].topic(), packets[0].id, packets[0].oversize), ("big", 9, Some(1_000_000)));
            assert_eq!(&packets[0].payload[..], &payload[..DeadLetter::PAYLOAD_BYTES_MAX]);
            assert_eq!((packets[1].topic(), packets[1].oversize), ("small", None));
        }
    }
}

#[test]
fn a_packet_just_over_the_limit_keeps_all_that_a_dead_letter_keeps() {
    for version in VERSIONS {
        let bytes = publish_bytes(version, "t", 9, 0b0010, &[7; 100]);
        let packets = publishes(decode(version, 50, &bytes, 3).unwrap());
        assert_eq!((packets[0].payload.len(), packets[0].oversize), (100, Some(100)));
    }
}

#[test]
fn a_packet_over_the_limit_with_endless_properties_does_not_cost_the_connection() {
    let mut properties = Vec::new();
    while properties.len() < 2 * OVERSIZE_HEAD_BYTES {
        properties.push(38);
        properties.extend(60_000u16.to_be_bytes());
        properties.extend(vec![b'k'; 60_000]);
        properties.extend(1u16.to_be_bytes());
        properties.push(b'v');
    }
    let mut body = vec![0, 1, b't', 0, 5];
    let mut length = properties.len();
    while length > 0x7f {
        body.push(0x80 | (length & 0x7f) as u8);
        length >>= 7;
    }
    body.push(length as u8);
    body.extend(properties);
    body.extend(b"payload");
    let packets = publishes(decode(MqttVersion::V5, 1000, &packet(0x32, &body), 10_000).unwrap());
    assert_eq!((packets[0].topic(), packets[0].id, packets[0].qos), ("t", 5, 1));
    assert!(packets[0].oversize.is_some() && packets[0].payload.is_empty());
}

#[test]
fn an_endless_control_packet_is_refused() {
    let bytes = packet(0x90, &vec![0; 100_000]);
    assert!(matches!(decode(MqttVersion::V4, 1000, &bytes, 1000), Err(WireError::Malformed { packet_type: 9, .. })));
}

#[test]
fn disconnect_tells_why_with_and_without_properties() {
    let reason = |bytes: &[u8]| match decode(MqttVersion::V5, 1000, bytes, 1).unwrap().remove(0) {
        Packet::Disconnect { reason, taken_over } => (reason, taken_over),
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(&[0xe0, 0]), ("normal disconnection".to_owned(), false));
    assert_eq!(reason(&[0xe0, 1, 0x8e]), ("session taken over".to_owned(), true));
    assert_eq!(reason(&[0xe0, 7, 0x8b, 5, 31, 0, 2, b'h', b'i']), ("server shutting down: hi".to_owned(), false));
}

#[test]
fn refusals_are_words() {
    let refused = |version, bytes: &[u8]| match decode(version, 1000, bytes, 1).unwrap().remove(0) {
        Packet::ConnAck(ack) => ack.refused.unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(MqttVersion::V4, &[0x20, 2, 0, 4]), "bad user name password");
    assert_eq!(refused(MqttVersion::V5, &[0x20, 3, 0, 0x87, 0]), "not authorized");
    let granted = match decode(MqttVersion::V5, 1000, &[0x90, 5, 0, 3, 0, 1, 0x87], 9).unwrap().remove(0) {
        Packet::SubAck { id: 3, granted } => granted,
        other => panic!("{other:?}"),
    };
    assert_eq!(granted, [Ok(1), Err("not authorized".to_owned())]);
}

#[test]
fn a_length_of_five_bytes_is_not_mqtt() {
    assert_eq!(decode(MqttVersion::V4, 1000, b"HTTP/1.1".as_slice(), 8).unwrap_err().to_string().is_empty(), false);
    assert_eq!(decode(MqttVersion::V4, 1000, &[0x30, 0xff, 0xff, 0xff, 0xff], 5).unwrap_err(), WireError::Length);
}

#[test]
fn topics_that_are_no_utf8_or_empty_are_refused() {
    for version in VERSIONS {
        let mut bytes = publish_bytes(version, "abc", 0, 0, b"x");
        bytes[4] = 0xff;
        assert!(decode(version, 1000, &bytes, 100).is_err());
    }
    let alias_only = [0x30, 7, 0, 0, 3, 35, 0, 1, b'x'];
    assert!(decode(MqttVersion::V5, 1000, &alias_only, 100).is_err());
}

proptest! {
    /// Random bytes, and random bytes behind a plausible first byte, give packets or an error, and never a panic.
    #[test]
    fn no_bytes_make_it_panic(
        v5 in any::<bool>(),
        first in any::<u8>(),
        body in proptest::collection::vec(any::<u8>(), 0..300),
        piece in 1_usize..400,
        packet_bytes_max in 0_usize..200,
    ) {
        let version = VERSIONS[usize::from(v5)];
        let _ = decode(version, packet_bytes_max, &body, piece);
        let _ = decode(version, packet_bytes_max, &packet(first, &body), piece);
    }

    #[test]
    fn what_a_broker_writes_is_read(
        v5 in any::<bool>(),
        topic in "[a-z/]{1,40}",
        payload in proptest::collection::vec(any::<u8>(), 0..500),
        id in 1_u16..,
        piece in 1_usize..600,
    ) {
        let version = VERSIONS[usize::from(v5)];
        let bytes = publish_bytes(version, &topic, id, 0b0010, &payload);
        let packets = publishes(decode(version, 200, &bytes, piece).unwrap());
        prop_assert_eq!(packets[0].topic(), &topic);
        prop_assert_eq!(packets[0].id, id);
        prop_assert_eq!(&packets[0].payload[..], &payload[..]);
    }
}
