//! What follows from packets, in tables: acknowledgements, redelivery, the memory budget and haste.

use bytes::{BufMut, BytesMut};

use super::*;
use crate::config::{MqttVersion, Retained};
use crate::source::mqtt::decoder::Decoder;
use crate::source::mqtt::tests::settings;
use crate::source::mqtt::wire::Packet;

/// A sink that numbers what it gets.
#[derive(Default)]
struct Numbers {
    appends: u64,
    frames: Vec<String>,
    receipts: Vec<Receipt>,
    hurries: u64,
}

impl Sink for Numbers {
    fn accept(&mut self, frames: &Frames, receipts: &[Receipt]) -> u64 {
        self.appends += 1;
        self.receipts.extend(receipts);
        self.frames.extend(frames.iter().map(|frame| {
            format!("{}={}", frame.origin, String::from_utf8_lossy(&frame.payload[..frame.payload.len().min(20)]))
        }));
        self.appends
    }

    fn hurry(&mut self) {
        self.hurries += 1;
    }

    fn take_requests(&mut self) -> Vec<crate::decode::Request> {
        Vec::new()
    }
}

struct Rig {
    session: Session,
    sink: Numbers,
}

const QOS1: u8 = 0b0010;
const DUP: u8 = 0b1000;
const RETAIN: u8 = 0b0001;

impl Rig {
    fn new(change: impl FnOnce(&mut config::Mqtt)) -> Self {
        let mut settings = settings(MqttVersion::V4, 1883);
        change(&mut settings);
        let mut session = Session::new(&settings, &[], vec!["#".to_owned()]);
        session.connected(false);
        Self { session, sink: Numbers::default() }
    }

    /// One read with these messages: flags, identifier, payload.
    fn read(&mut self, messages: &[(u8, u16, &str)]) {
        self.session.begin(Stamp::default());
        for &(flags, id, payload) in messages {
            let publish = publish(flags, id, payload);
            self.session.publish(&publish);
        }
        self.session.end(&mut self.sink);
    }

    fn due(&mut self, durable: u64) -> Vec<Ack> {
        self.session.durable(durable);
        std::iter::from_fn(|| self.session.take_due()).collect()
    }
}

fn publish(flags: u8, id: u16, payload: &str) -> Publish {
    let mut body = BytesMut::from(&b"\x00\x01t"[..]);
    if flags & 0b110 != 0 {
        body.put_u16(id);
    }
    body.put_slice(payload.as_bytes());
    let mut bytes = BytesMut::from(&[0x30 | flags, body.len() as u8][..]);
    bytes.unsplit(body);
    match Decoder::new(MqttVersion::V4, 1000).next(&mut bytes) {
        Ok(Some(Packet::Publish(publish))) => publish,
        other => panic!("{other:?}"),
    }
}

fn acks(ids: impl IntoIterator<Item = u16>) -> Vec<Ack> {
    ids.into_iter().map(Ack::Taken).collect()
}

#[test]
fn acks_wait_for_their_batch_and_leave_in_order() {
    let mut rig = Rig::new(|_| {});
    rig.read(&[(QOS1, 1, "a"), (0, 0, "b"), (QOS1, 2, "c")]);
    rig.read(&[(QOS1, 3, "d")]);
    assert_eq!(rig.due(0), []);
    assert_eq!(rig.due(1), acks([1, 2]));
    assert_eq!(rig.due(1), []);
    assert_eq!(rig.due(7), acks([3]));
    assert!(!rig.session.waits());
}

#[test]
fn a_message_that_led_to_nothing_is_acknowledged_in_its_turn() {
    let mut rig = Rig::new(|settings| settings.retained = Retained::Drop);
    rig.read(&[(QOS1 | RETAIN, 1, "old")]);
    assert_eq!(rig.due(0), acks([1]), "nothing waits before it");
    rig.read(&[(QOS1, 2, "a"), (QOS1 | RETAIN, 3, "old"), (QOS1, 4, "b")]);
    rig.read(&[(QOS1 | RETAIN, 5, "old")]);
    assert_eq!(rig.due(0), []);
    assert_eq!(rig.due(1), acks([2, 3, 4, 5]));
    assert_eq!(rig.session.take_tally().retained_dropped, 3);
    assert_eq!(rig.sink.frames, ["t=a", "t=b"]);
    assert_eq!(rig.sink.receipts.iter().map(|receipt| receipt.packet_id).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn acks_of_an_older_connection_are_dropped() {
    let mut rig = Rig::new(|_| {});
    rig.read(&[(QOS1, 1, "a")]);
    rig.session.connected(true);
    assert_eq!(rig.due(1), []);
}

#[test]
fn a_redelivered_message_is_acknowledged_once_durable_and_not_taken_again() {
    let mut rig = Rig::new(|_| {});
    rig.read(&[(QOS1, 1, "a"), (QOS1, 2, "b")]);
    rig.session.connected(true);
    rig.read(&[(QOS1 | DUP, 1, "a"), (QOS1 | DUP, 2, "other"), (QOS1, 3, "c")]);
    assert_eq!(rig.session.take_tally().redelivered_known, 1);
    assert_eq!(rig.sink.frames, ["t=a", "t=b", "t=other", "t=c"]);
    assert_eq!(rig.due(0), [], "the first append is not durable yet");
    assert_eq!(rig.due(1), acks([1]));
    assert_eq!(rig.due(2), acks([2, 3]));
}

#[test]
fn in_a_new_session_everything_is_new() {
    let mut rig = Rig::new(|_| {});
    rig.read(&[(QOS1, 1, "a")]);
    rig.session.connected(false);
    rig.read(&[(QOS1 | DUP, 1, "a")]);
    assert_eq!(rig.sink.frames, ["t=a", "t=a"]);
}

#[test]
fn receipts_of_earlier_runs_are_durable_already() {
    let stored = Receipt { packet_id: 4, hash: hash("t", b"a") };
    let settings = settings(MqttVersion::V4, 1883);
    let mut rig = Rig { session: Session::new(&settings, &[(stored, 0)], Vec::new()), sink: Numbers::default() };
    rig.session.connected(true);
    rig.read(&[(QOS1 | DUP, 4, "a")]);
    assert_eq!(rig.due(0), acks([4]));
    assert_eq!(rig.sink.appends, 0);
}

#[test]
fn what_the_source_before_took_is_acknowledged_once_it_is_durable_and_not_taken_again() {
    let taken = Receipt { packet_id: 4, hash: hash("t", b"a") };
    let settings = settings(MqttVersion::V4, 1883);
    let mut rig = Rig { session: Session::new(&settings, &[(taken, 9)], Vec::new()), sink: Numbers::default() };
    rig.session.connected(true);
    rig.read(&[(QOS1 | DUP, 4, "a")]);
    assert_eq!(rig.sink.appends, 0);
    assert_eq!(rig.due(8), []);
    assert_eq!(rig.due(9), acks([4]));
}

#[test]
fn qos_2_is_answered_with_pubrec_once_durable() {
    let mut rig = Rig::new(|_| {});
    rig.read(&[(0b0100, 1, "a"), (QOS1, 2, "b")]);
    assert_eq!(rig.due(0), []);
    assert_eq!(rig.due(1), [Ack::Received(1), Ack::Taken(2)]);
}

#[test]
fn haste_begins_at_three_quarters_of_the_limit_once_for_each_commit() {
    let mut rig = Rig::new(|settings| settings.in_flight_max = 20);
    for id in 1..=14 {
        rig.read(&[(QOS1, id, "a")]);
    }
    assert_eq!(rig.sink.hurries, 0, "slow traffic waits for the timer");
    for id in 15..=20 {
        rig.read(&[(QOS1, id, "a")]);
    }
    assert_eq!(rig.sink.hurries, 1, "one commit is under way");
    assert_eq!(rig.due(15).len(), 15);
    rig.session.hurry_if_near_the_limit(&mut rig.sink);
    assert_eq!(rig.sink.hurries, 1, "five wait, which the timer will see to");
    let next: Vec<_> = (21..=35).map(|id| (QOS1, id, "a")).collect();
    rig.read(&next);
    assert_eq!(rig.sink.hurries, 2);
}

#[test]
fn a_limit_of_one_is_always_near() {
    let mut rig = Rig::new(|settings| settings.in_flight_max = 1);
    rig.read(&[(QOS1, 1, "a")]);
    assert_eq!(rig.sink.hurries, 1);
}

#[test]
fn at_the_budget_the_socket_is_not_read_until_something_is_durable() {
    let mut rig = Rig::new(|settings| settings.memory_bytes_max = 1000);
    let text = "x".repeat(100);
    for _ in 0..6 {
        assert!(!rig.session.is_full());
        rig.read(&[(0, 0, &text)]);
    }
    rig.read(&[(0, 0, &text)]);
    assert!(rig.session.is_full());
    assert_eq!(rig.sink.hurries, 1, "a full source does not wait for the timer");
    rig.due(3);
    assert!(!rig.session.is_full());
}

#[test]
fn with_drop_qos0_messages_over_the_budget_are_counted_and_qos_1_is_not_dropped() {
    let mut rig = Rig::new(|settings| {
        settings.memory_bytes_max = 300;
        settings.drop_qos0 = true;
    });
    let text = "x".repeat(100);
    rig.read(&[(0, 0, &text), (0, 0, &text), (0, 0, &text), (QOS1, 1, "a"), (0, 0, &text)]);
    assert_eq!(rig.session.take_tally().qos0_dropped, 2);
    assert!(!rig.session.is_full());
    assert_eq!(rig.sink.frames.len(), 3);
    assert_eq!(rig.due(1), acks([1]));
    rig.read(&[(0, 0, "b")]);
    assert_eq!(rig.session.take_tally(), Tally::default());
    rig.read(&[(QOS1, 2, &text), (QOS1, 3, &text), (QOS1, 4, &text), (QOS1, 5, &text)]);
    assert!(rig.session.is_full(), "QoS 1 has a bound too");
}

#[test]
fn empty_messages_fill_the_budget_too() {
    let mut rig = Rig::new(|settings| settings.memory_bytes_max = 1000);
    rig.read(&[(0, 0, ""); 20]);
    assert!(rig.session.is_full());
}
