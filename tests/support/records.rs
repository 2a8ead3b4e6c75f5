//! What arrived in Kafka, read back by kafka-python, and the questions that tests ask of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::kafka::Kafka;
use super::parts::{python, script};
use super::process::run_to_end;
use super::scratch::Scratch;

/// One Kafka record.
#[derive(Clone, Debug)]
pub(crate) struct KafkaRecord {
    pub(crate) topic: String,
    pub(crate) timestamp: i64,
    pub(crate) key: String,
    pub(crate) headers: BTreeMap<String, String>,
    /// The value as JSON; null if it is not.
    pub(crate) value: Value,
}

impl KafkaRecord {
    /// `kind` of its value.
    pub(crate) fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap_or("")
    }

    /// Its number in the test's own count: the measurement `n`.
    pub(crate) fn n(&self) -> Option<u64> {
        let n = self.value["values"]["n"].as_f64()?;
        (n >= 0.0 && n.fract() == 0.0).then_some(n as u64)
    }

    /// Its stream and number.
    pub(crate) fn identity(&self) -> (String, u64) {
        let stream = self.value["stream"].as_str().unwrap_or_else(|| panic!("a record without a stream: {self:?}"));
        let seq = self.value["seq"].as_u64().unwrap_or_else(|| panic!("a record without a number: {self:?}"));
        (stream.to_owned(), seq)
    }
}

/// All the records of some topics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records(pub(crate) Vec<KafkaRecord>);

/// Reads topics from their beginning until `distinct` different records (by `ce_id`) are there, and then to the end of
/// what is there; panics if they are not there when `limit` has passed.
#[track_caller]
pub(crate) fn consume(kafka: &Kafka, topics: &[&str], distinct: usize, limit: Duration) -> Records {
    let scratch = Scratch::new("consume");
    let mut arguments = vec![
        script("consume.py").to_str().unwrap().to_owned(),
        kafka.address(),
        distinct.to_string(),
        limit.as_secs().to_string(),
    ];
    arguments.extend(topics.iter().map(ToString::to_string));
    let output =
        run_to_end("consume.py", &python(), &arguments, limit + Duration::from_secs(30), &scratch.join("records"));
    Records(output.lines().map(parse).collect())
}

fn parse(line: &str) -> KafkaRecord {
    let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    let headers = record["headers"].as_object().unwrap();
    KafkaRecord {
        topic: record["topic"].as_str().unwrap().into(),
        timestamp: record["timestamp"].as_i64().unwrap(),
        key: record["key"].as_str().unwrap_or("").into(),
        headers: headers.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or("").into())).collect(),
        value: record["value"].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null),
    }
}

impl Records {
    /// Those of a kind.
    pub(crate) fn of_kind(&self, kind: &str) -> Vec<&KafkaRecord> {
        self.0.iter().filter(|record| record.kind() == kind).collect()
    }

    /// The numbers `n` of all readings.
    pub(crate) fn numbers(&self) -> BTreeSet<u64> {
        self.0.iter().filter_map(KafkaRecord::n).collect()
    }

    /// Panics unless the readings are numbered 0 to `count`, none missing.
    #[track_caller]
    pub(crate) fn assert_all(&self, count: u64) {
        let numbers = self.numbers();
        let missing: Vec<u64> = (0..count).filter(|n| !numbers.contains(n)).collect();
        let shown = &missing[..missing.len().min(20)];
        assert!(missing.is_empty(), "{} of {count} messages are not in Kafka, such as {shown:?}", missing.len());
        assert_eq!(numbers.len() as u64, count, "readings that were never sent");
    }

    /// Panics if one message was stored more than once: each `n` has one stream and number, so that what Kafka holds
    /// twice says so by its `ce_id`.
    #[track_caller]
    pub(crate) fn assert_stored_once(&self) {
        let mut identities: BTreeMap<u64, BTreeSet<(String, u64)>> = BTreeMap::new();
        for record in &self.0 {
            if let Some(n) = record.n() {
                identities.entry(n).or_default().insert(record.identity());
            }
            let (stream, seq) = record.identity();
            let id = record.headers.get("ce_id").unwrap_or_else(|| panic!("a record without ce_id: {record:?}"));
            assert_eq!(*id, format!("{stream}-{seq}"), "ce_id is not made of stream and number");
        }
        let twice: Vec<_> = identities.iter().filter(|(_, identities)| identities.len() > 1).take(10).collect();
        assert!(twice.is_empty(), "messages that were stored more than once: {twice:?}");
    }

    /// How many messages were stored more than once, each time under another number.
    pub(crate) fn stored_again(&self) -> usize {
        let mut identities: BTreeMap<u64, BTreeSet<(String, u64)>> = BTreeMap::new();
        for record in self.0.iter().filter(|record| record.n().is_some()) {
            identities.entry(record.n().unwrap_or_default()).or_default().insert(record.identity());
        }
        identities.values().filter(|identities| identities.len() > 1).count()
    }

    /// How many records are repetitions of another one with the same `ce_id`.
    pub(crate) fn duplicates(&self) -> usize {
        let distinct: BTreeSet<&str> =
            self.0.iter().filter_map(|record| record.headers.get("ce_id").map(String::as_str)).collect();
        self.0.len() - distinct.len()
    }

    /// Numbers by stream.
    pub(crate) fn streams(&self) -> BTreeMap<String, BTreeSet<u64>> {
        let mut streams: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for record in &self.0 {
            let (stream, seq) = record.identity();
            streams.entry(stream).or_default().insert(seq);
        }
        streams
    }

    /// Panics unless each stream has the numbers from 1 on without a gap. The records must be those of all topics.
    #[track_caller]
    pub(crate) fn assert_no_gaps(&self) {
        for record in self.0.iter().filter(|record| ["reading", "aggregate"].contains(&record.kind())) {
            let (stream, seq) = record.identity();
            let of_alarms = stream.ends_with(".alarm");
            assert_eq!(of_alarms, record.value["lane"] == "alarm", "{stream}-{seq} is in the stream of another lane");
        }
        for (stream, numbers) in self.streams() {
            let last = numbers.last().copied().unwrap_or(0);
            let missing: Vec<u64> = (1..=last).filter(|seq| !numbers.contains(seq)).take(20).collect();
            assert!(missing.is_empty(), "stream {stream} ends with {last} and lacks numbers such as {missing:?}");
        }
    }

    /// Panics unless each stream has its numbers up to its declared end, a number stands for one reading alone, and nothing
    /// is declared lost. All streams but one have ended: the gateway was killed.
    #[track_caller]
    pub(crate) fn assert_whole_streams(&self) {
        assert!(self.of_kind("gap").is_empty(), "nothing was lost: {:?}", self.of_kind("gap"));
        let mut readings: BTreeMap<(String, u64), Option<u64>> = BTreeMap::new();
        for record in &self.0 {
            let before = readings.insert(record.identity(), record.n());
            assert!(before.is_none_or(|before| before == record.n()), "a number was used twice: {record:?}");
        }
        let ends: BTreeMap<&str, u64> = self
            .of_kind("stream-end")
            .iter()
            .map(|end| (end.value["of_stream"].as_str().unwrap(), end.value["last"].as_u64().unwrap()))
            .collect();
        let mut open = 0;
        for (stream, numbers) in self.streams() {
            let last = ends.get(stream.as_str()).copied().unwrap_or_else(|| {
                open += 1;
                *numbers.last().unwrap()
            });
            let missing: Vec<u64> = (1..=last).filter(|seq| !numbers.contains(seq)).take(20).collect();
            assert!(missing.is_empty(), "stream {stream} ends with {last} and lacks numbers such as {missing:?}");
        }
        assert_eq!(open, 1, "one stream is still going on; the others have an end: {ends:?}");
    }
}
