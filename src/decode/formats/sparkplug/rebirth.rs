//! Asking a node of Sparkplug B for its birth message, since without it the numbers that stand for its metrics mean nothing: a
//! gateway that starts after the nodes would wait for the next birth for days.
//!
//! Pure: time is an argument. A node is asked at once, then ever more seldom while no birth comes, so that a node that does not
//! listen, or a broker that ends the connection of who may not ask, is not pestered.

use foldhash::HashMap;

/// A node that did not give birth is asked again after this …
const WAIT_MS_MIN: u64 = 60_000;
/// … twice that, and so on, up to this.
const WAIT_MS_MAX: u64 = 3_600_000;
/// Nodes whose turn is remembered; when there are more, all are forgotten.
const NODES_MAX: usize = 1_000;
/// Requests that wait to be sent; who does not take them asks for none.
const REQUESTS_MAX: usize = 1_000;

/// The type "boolean" (Sparkplug 3.0, 6.4.16).
const BOOLEAN: u64 = 11;

/// A message for the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The topic, of a node's commands.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Whom to ask, and when again.
#[derive(Debug, Default)]
pub(in crate::decode) struct Rebirths {
    turns: HashMap<Box<str>, Turn>,
    requests: Vec<Request>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    due_ms: u64,
    wait_ms: u64,
}

impl Rebirths {
    /// A message of `device` (`NODE` or `NODE/DEVICE`) on `topic` has what only a birth explains. `now_ms` never goes back,
    /// `wall_ms` stands in the command.
    pub(in crate::decode) fn want(&mut self, topic: &str, device: &str, now_ms: u64, wall_ms: i64) {
        let Some(topic) = command_topic(topic, device) else { return };
        if self.turns.len() >= NODES_MAX && !self.turns.contains_key(&*topic) {
            self.turns.clear();
        }
        let turn = self.turns.entry(topic.as_str().into()).or_insert(Turn { due_ms: now_ms, wait_ms: WAIT_MS_MIN });
        if now_ms < turn.due_ms || self.requests.len() >= REQUESTS_MAX {
            return;
        }
        turn.due_ms = now_ms.saturating_add(turn.wait_ms);
        turn.wait_ms = (turn.wait_ms * 2).min(WAIT_MS_MAX);
        self.requests.push(Request { topic, payload: command(wall_ms) });
    }

    /// A node has told what its metrics are.
    pub(in crate::decode) fn born(&mut self, topic: &str, device: &str) {
        if !self.turns.is_empty()
            && let Some(topic) = command_topic(topic, device)
        {
            self.turns.remove(&*topic);
        }
    }

    /// What is to be sent now.
    pub(in crate::decode) fn take(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.requests)
    }
}

/// `PREFIX/GROUP/NCMD/NODE` of `PREFIX/GROUP/MESSAGE/NODE[/DEVICE]`.
fn command_topic(topic: &str, device: &str) -> Option<String> {
    let (group, _message) = topic.strip_suffix(device)?.strip_suffix('/')?.rsplit_once('/')?;
    let node = device.split('/').next()?;
    Some(format!("{group}/NCMD/{node}"))
}

/// `Node Control/Rebirth` = true.
fn command(wall_ms: i64) -> Vec<u8> {
    let time = u64::try_from(wall_ms).unwrap_or_default();
    let mut metric = Vec::new();
    bytes(1, b"Node Control/Rebirth", &mut metric);
    number(3, time, &mut metric);
    number(4, BOOLEAN, &mut metric);
    number(14, 1, &mut metric);
    let mut payload = Vec::new();
    number(1, time, &mut payload);
    bytes(2, &metric, &mut payload);
    payload
}

/// A field of protobuf that is a whole number.
fn number(field: u64, value: u64, out: &mut Vec<u8>) {
    varint(field << 3, out);
    varint(value, out);
}

/// A field of protobuf that is bytes, a text or a message.
fn bytes(field: u64, value: &[u8], out: &mut Vec<u8>) {
    varint(field << 3 | 2, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::super::payload::Payload;
    use super::*;

    #[test]
    fn a_node_is_asked_at_once_then_ever_more_seldom_and_anew_after_a_birth() {
        let mut rebirths = Rebirths::default();
        let topic = "site/spBv1.0/plant/DDATA/n1/d1";
        let asked: Vec<u64> = (0..5 * 3_600)
            .map(|s| s * 1_000)
            .filter(|&now| {
                rebirths.want(topic, "n1/d1", now, 5);
                !rebirths.take().is_empty()
            })
            .collect();
        let minutes: Vec<u64> = asked.iter().map(|ms| ms / 60_000).collect();
        assert_eq!(minutes, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);

        // A birth of a device says nothing of the node's others, but the node listens.
        rebirths.born("site/spBv1.0/plant/NBIRTH/n1", "n1");
        rebirths.want(topic, "n1/d1", 5 * 3_600_000, 5);
        let requests = rebirths.take();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].topic, "site/spBv1.0/plant/NCMD/n1");
    }

    #[test]
    fn the_command_is_a_payload_with_one_metric() {
        let bytes = command(1_777_896_000_000);
        let payload = Payload::read(&bytes).unwrap();
        assert_eq!(payload.timestamp, Some(1_777_896_000_000));
        let [metric] = payload.metrics.as_slice() else { panic!("{} metrics", payload.metrics.len()) };
        assert_eq!((metric.name, metric.datatype), (Some("Node Control/Rebirth"), BOOLEAN));
        assert!(matches!(metric.meaning(BOOLEAN), Some(super::super::Meaning::Flag(true))));
    }

    #[test]
    fn what_nobody_takes_is_bounded() {
        let mut rebirths = Rebirths::default();
        for node in 0..3 * NODES_MAX {
            rebirths.want(&format!("spBv1.0/g/NDATA/{node}"), &node.to_string(), 0, 0);
        }
        assert!(rebirths.turns.len() <= NODES_MAX);
        assert_eq!(rebirths.take().len(), REQUESTS_MAX);
    }
}
