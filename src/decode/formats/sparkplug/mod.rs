//! Sparkplug B (Eclipse Sparkplug 3.0). A node says in its birth message which metrics it and its devices have, and which number
//! (alias) stands for each; data messages then hold numbers and values.
//!
//! What comes out of a message: `time` of the payload (milliseconds since 1970) and `metrics`: `name`, `value` (a number),
//! `text` or `flag`, `unit` (the property `engUnit`), `time` where the metric has its own, and `historical` where it is not of
//! now. A time is a text as in RFC 3339, bytes are hexadecimal digits, and several values in one (data sets, templates, arrays)
//! come out as a list, which rules reject. Births and deaths say that a node or device came or went. Metrics that are about
//! the protocol (`bdSeq`, `Node Control/…`, `Device Control/…`) are passed over.
//!
//! What is remembered of births is bounded; when there are too many nodes the one that was silent longest is forgotten. A
//! payload that cannot be read changes nothing. A node whose birth was missed is asked for another one ([`rebirth`]); nothing else
//! is ever sent.

mod payload;
mod rebirth;

use foldhash::{HashMap, HashMapExt};

use super::{Refusal, fits, malformed};
use crate::decode::doc::{Doc, Leaf};
use crate::decode::value::quoted;
use crate::reading::Reason;
use payload::{Meaning, Metric, Payload};
pub(in crate::decode) use rebirth::Rebirths;
pub use rebirth::Request;

/// The metric of births and deaths that numbers the node's connections.
const CONNECTION: &str = "bdSeq";
/// The property with a metric's unit.
const UNIT: &str = "engUnit";
/// What names of metrics that are commands begin with.
const COMMANDS: [&str; 2] = ["Node Control/", "Device Control/"];

/// Limits of what is remembered.
#[derive(Clone, Copy, Debug)]
struct Limits {
    nodes: usize,
    /// Of one node.
    devices: usize,
    /// Of one node, those of its devices included.
    metrics: usize,
    /// A longer name or unit is not remembered, in bytes.
    name_bytes: usize,
}

const LIMITS: Limits = Limits { nodes: 1_000, devices: 1_000, metrics: 10_000, name_bytes: 256 };

/// Where a message comes from, as its topic says.
#[derive(Clone, Copy, Debug)]
pub(in crate::decode) struct Topic<'t> {
    pub(in crate::decode) group: &'t str,
    /// `NBIRTH`, `DDATA` and so on.
    pub(in crate::decode) message: &'t str,
    /// `NODE` or `NODE/DEVICE`.
    pub(in crate::decode) device: &'t str,
}

/// What a message says besides the values that it holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::decode) struct Heard {
    /// Devices that came (true) or went.
    pub(in crate::decode) states: Vec<(String, bool)>,
    /// How many metrics cannot be read without a birth that was not heard.
    pub(in crate::decode) unknown: usize,
    /// The first of what is counted here, for a person.
    pub(in crate::decode) first: Option<String>,
    /// How many metrics are not remembered because there are too many.
    pub(in crate::decode) too_many: usize,
    /// How many pieces of it cannot be read at all.
    pub(in crate::decode) unreadable: usize,
    /// Whether it has no metrics, or none but those that are about the protocol.
    pub(in crate::decode) nothing: bool,
    /// Whether a message of this node was lost before this one.
    pub(in crate::decode) gap: bool,
}

impl Heard {
    /// All of it could be read but, if there is one, for a piece: why not.
    pub(in crate::decode) fn but(unread: Option<String>) -> Self {
        Self { unreadable: unread.iter().len(), first: unread, ..Self::default() }
    }
}

/// All nodes that were heard.
#[derive(Debug)]
pub(in crate::decode) struct Nodes {
    nodes: HashMap<(Box<str>, Box<str>), Node>,
    limits: Limits,
    /// Counts messages, to tell who was silent longest.
    now: u64,
}

impl Default for Nodes {
    fn default() -> Self {
        Self { nodes: HashMap::new(), limits: LIMITS, now: 0 }
    }
}

#[derive(Debug, Default)]
struct Node {
    heard: u64,
    seq: Option<u8>,
    connection: Option<u64>,
    /// By device; those of the node itself are under no name.
    metrics: HashMap<Box<str>, Metrics>,
}

/// The metrics of a node or a device, as its birth told.
#[derive(Debug, Default)]
struct Metrics {
    all: Vec<Definition>,
    by_alias: HashMap<u64, usize>,
    by_name: HashMap<Box<str>, usize>,
}

#[derive(Clone, Debug)]
struct Definition {
    name: Box<str>,
    datatype: u64,
    unit: Option<Box<str>>,
}

impl Nodes {
    /// Takes a message apart.
    pub(in crate::decode) fn take(&mut self, topic: Topic<'_>, bytes: &[u8], doc: &mut Doc) -> Result<Heard, Refusal> {
        doc.begin(false);
        doc.end(0);
        let (node, device) = match topic.device.split_once('/') {
            Some((node, device)) => (node, Some(device)),
            None => (topic.device, None),
        };
        match (topic.message, device) {
            ("NBIRTH" | "NDATA" | "NDEATH", None) | ("DBIRTH" | "DDATA" | "DDEATH", Some(_)) => {}
            ("NCMD", None) | ("DCMD", Some(_)) => return Err(Refusal::Ignored),
            (message, _) => {
                let at = topic.device;
                return malformed(format!("expected a message of a node or of a device, found {message} of {at}"));
            }
        }
        let payload = Payload::read(bytes).or_else(malformed)?;
        let mut heard = Heard::default();
        let key = (Box::from(topic.group), Box::from(node));
        if topic.message == "NDEATH" {
            // The broker sends the will of an earlier connection late when the node is back already.
            let known = self.nodes.get(&key).and_then(|node| node.connection);
            if let (Some(known), Some(dead)) = (known, payload.connection())
                && known != dead
            {
                return Err(Refusal::Ignored);
            }
            // With a node all of its devices are out of reach.
            heard.states.push((node.to_owned(), false));
            let devices = self.nodes.remove(&key).map(|node| node.metrics).unwrap_or_default();
            let mut devices: Vec<_> = devices.into_keys().filter(|device| !device.is_empty()).collect();
            devices.sort_unstable();
            heard.states.extend(devices.iter().map(|device| (format!("{node}/{device}"), false)));
            return Ok(heard);
        }
        self.now += 1;
        self.make_room(&key);
        let limits = self.limits;
        let entry = self.nodes.entry(key).or_default();
        entry.heard = self.now;
        let name = device.unwrap_or_default();
        if topic.message == "NBIRTH" {
            *entry = Node { heard: self.now, connection: payload.connection(), ..Node::default() };
        }
        heard.gap = entry.count(payload.seq);
        match topic.message {
            "NBIRTH" | "DBIRTH" => {
                if entry.metrics.len() > limits.devices && !entry.metrics.contains_key(name) {
                    let detail = format!("more than {} devices of one node", limits.devices);
                    return Err(Refusal::Wrong(Reason::TooLarge, detail));
                }
                entry.metrics.remove(name);
                let others: usize = entry.metrics.values().map(|metrics| metrics.all.len()).sum();
                let room = limits.metrics.saturating_sub(others);
                let metrics = entry.metrics.entry(name.into()).or_default();
                heard.too_many = metrics.define(&payload, room, limits.name_bytes);
                heard.states.push((topic.device.to_owned(), true));
            }
            "DDEATH" => {
                entry.metrics.remove(name);
                heard.states.push((topic.device.to_owned(), false));
                return Ok(heard);
            }
            _ => {}
        }
        put(&payload, entry.metrics.get(name), doc, &mut heard)?;
        Ok(heard)
    }

    fn make_room(&mut self, key: &(Box<str>, Box<str>)) {
        if self.nodes.len() < self.limits.nodes || self.nodes.contains_key(key) {
            return;
        }
        let silent = self.nodes.iter().min_by_key(|(_, node)| node.heard).map(|(key, _)| key.clone());
        if let Some(silent) = silent {
            self.nodes.remove(&silent);
        }
    }
}

impl Node {
    /// Whether a message is missing before the one of that number. One that comes twice is not a gap.
    fn count(&mut self, seq: Option<u64>) -> bool {
        let Some(seq) = seq.and_then(|seq| u8::try_from(seq).ok()) else { return false };
        let before = self.seq.replace(seq);
        before.is_some_and(|before| seq != before && seq != before.wrapping_add(1))
    }
}

impl Metrics {
    /// Remembers what a birth defines; gives how many there is no room for.
    fn define(&mut self, payload: &Payload<'_>, room: usize, name_bytes_max: usize) -> usize {
        let mut too_many = 0;
        for metric in &payload.metrics {
            let Some(name) = metric.name else { continue };
            if self.all.len() >= room || name.len() > name_bytes_max {
                too_many += 1;
                continue;
            }
            let index = self.all.len();
            let unit = metric.unit.filter(|unit| unit.len() <= name_bytes_max).map(Into::into);
            self.all.push(Definition { name: name.into(), datatype: metric.datatype, unit });
            self.by_name.insert(name.into(), index);
            if let Some(alias) = metric.alias {
                self.by_alias.insert(alias, index);
            }
        }
        too_many
    }

    fn find(&self, metric: &Metric<'_>) -> Option<&Definition> {
        let index = match (metric.name, metric.alias) {
            (Some(name), _) => self.by_name.get(name),
            (None, Some(alias)) => self.by_alias.get(&alias),
            (None, None) => None,
        };
        self.all.get(*index?)
    }
}

fn put(payload: &Payload<'_>, known: Option<&Metrics>, doc: &mut Doc, heard: &mut Heard) -> Result<(), Refusal> {
    doc.begin(false);
    let mut found = 0;
    if let Some(time) = payload.timestamp {
        doc.put("time", Leaf::Whole(time.into()));
    }
    let metrics = doc.begin_list("metrics");
    for metric in &payload.metrics {
        let definition = known.and_then(|known| known.find(metric));
        let name = metric.name.or_else(|| definition.map(|definition| &*definition.name));
        if name.is_some_and(|name| name == CONNECTION || COMMANDS.iter().any(|prefix| name.starts_with(prefix))) {
            continue;
        }
        let datatype = match metric.datatype {
            0 => definition.map_or(0, |definition| definition.datatype),
            datatype => datatype,
        };
        let (Some(name), Some(meaning)) = (name, metric.meaning(datatype)) else {
            found += 1;
            heard.unknown += 1;
            heard.first.get_or_insert_with(|| unknown(metric, name));
            continue;
        };
        found += 1;
        let unit = metric.unit.or_else(|| definition.and_then(|definition| definition.unit.as_deref()));
        let object = doc.begin_object("");
        doc.put("name", Leaf::Text(name));
        put_value(meaning, doc);
        if let Some(unit) = unit {
            doc.put("unit", Leaf::Text(unit));
        }
        if let Some(time) = metric.timestamp {
            doc.put("time", Leaf::Whole(time.into()));
        }
        if metric.is_historical {
            doc.put("historical", Leaf::Flag(true));
        }
        doc.end(object);
        if doc.is_full() {
            break;
        }
    }
    doc.end(metrics);
    doc.end(0);
    heard.nothing = found == 0;
    fits(doc)
}

fn unknown(metric: &Metric<'_>, name: Option<&str>) -> String {
    match (name, metric.alias) {
        (Some(name), _) => format!("the type of {} is not known: no birth that names it was heard", quoted(name)),
        (None, Some(alias)) => format!("the alias {alias} is not known: no birth that names it was heard"),
        (None, None) => "a metric has neither name nor alias".to_owned(),
    }
}

fn put_value(meaning: Meaning<'_>, doc: &mut Doc) {
    match meaning {
        Meaning::Null => doc.put("value", Leaf::Null),
        Meaning::Whole(number) => doc.put("value", Leaf::Whole(number)),
        Meaning::Number(number) => doc.put("value", Leaf::Number(number)),
        Meaning::Flag(flag) => doc.put("flag", Leaf::Flag(flag)),
        Meaning::Text(text) => doc.put("text", Leaf::Text(text)),
        Meaning::Bytes(bytes) => doc.put("text", Leaf::Text(&hex::encode(bytes))),
        Meaning::Time(ms) => match i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()) {
            Some(time) => doc.put("text", Leaf::Text(&time.to_string())),
            None => doc.put("value", Leaf::Whole(ms.into())),
        },
        Meaning::Several => {
            let several = doc.begin_object("value");
            doc.end(several);
        }
    }
}

#[cfg(test)]
mod tests;
