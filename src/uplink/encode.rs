//! From a stored record to the Kafka record or records that it becomes; `docs/records.md` shows each kind, and a test
//! compares that file with this code.
//!
//! This is the hot path: one pass, no tree, into buffers that are used again for every record. One definition serves
//! JSON and CBOR, so that both have the same fields.

mod document;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use document::Document;

use super::source::Chunk;
use super::time::rfc3339;
use crate::clock::Boots;
use crate::config::{self, Format, Layout, Timestamp};
use crate::outbox::{Lane, to_cbor};
use crate::reading::{DeadLetter, Field, Reading, Record, Stamp, TimeQuality};

/// The version of the records' shape: fields are only ever added; a change of meaning raises it.
const SCHEMA: u32 = 1;

/// Why a record could not be encoded. With what decoders let through this does not happen; were it to, the record
/// would be dead-lettered.
#[derive(Debug, thiserror::Error)]
#[error("a record could not be encoded as {format}: {reason}")]
pub(crate) struct EncodeError {
    format: &'static str,
    reason: String,
}

/// Encodes the records of one gateway. What it encoded stays readable until the next call.
#[derive(Debug)]
pub(crate) struct Encoder {
    gateway: String,
    labels: BTreeMap<String, String>,
    pub(crate) layout: Layout,
    format: Format,
    timestamp: Timestamp,
    boots: Boots,
    /// The record.
    pub(crate) value: Vec<u8>,
    /// The record's key.
    pub(crate) key: String,
    /// CloudEvents' `id`.
    pub(crate) id: String,
    /// CloudEvents' `time`.
    pub(crate) time: [u8; 24],
    /// Kafka's timestamp, if it is not to be the moment of sending.
    pub(crate) timestamp_ms: Option<i64>,
}

impl Encoder {
    /// An encoder for the records of this gateway.
    pub(crate) fn new(gateway: &config::Gateway, kafka: &config::Kafka) -> Self {
        Self {
            gateway: gateway.id.clone(),
            labels: gateway.labels.clone(),
            layout: kafka.layout,
            format: kafka.format,
            timestamp: kafka.timestamp,
            boots: Boots::default(),
            value: Vec::with_capacity(1024),
            key: String::new(),
            id: String::new(),
            time: rfc3339(0),
            timestamp_ms: None,
        }
    }

    /// The same for other settings: what is known of times stays known.
    pub(crate) fn with(&self, gateway: &config::Gateway, kafka: &config::Kafka) -> Self {
        Self::new(gateway, kafka).knowing(self.boots.clone())
    }

    /// The same, and it puts times right that were not known when records were stored.
    pub(crate) fn knowing(self, boots: Boots) -> Self {
        Self { boots, ..self }
    }

    /// How many Kafka records a stored record becomes: one, but for a reading of several values in the narrow layout.
    pub(crate) fn parts(&self, record: &Record) -> usize {
        match record {
            Record::Reading(reading) if self.layout == Layout::Narrow => reading.fields.len().max(1),
            _ => 1,
        }
    }

    /// The value that part `part` of a record is about, in the narrow layout.
    pub(crate) fn field<'a>(&self, chunk: &'a Chunk, index: usize, part: usize) -> Option<&'a Field> {
        match chunk.batch.records.get(index) {
            Some(Record::Reading(reading)) if self.layout == Layout::Narrow => chunk.batch.fields_of(reading).get(part),
            _ => None,
        }
    }

    /// Encodes part `part` of the record at `index`, which is `record`.
    pub(crate) fn encode(
        &mut self,
        chunk: &Chunk,
        index: usize,
        record: &Record,
        part: usize,
    ) -> Result<(), EncodeError> {
        let field = self.field(chunk, index, part);
        let seq = chunk.seq(index);
        let arrival = Arrival::new(&self.boots, &chunk.stream, record.received());
        let event_ms = event_ms(record, &arrival);
        self.time = rfc3339(event_ms);
        // Kafka's clients take 0 for "now".
        self.timestamp_ms = (self.timestamp == Timestamp::Event).then(|| event_ms.max(1));

        self.id.clear();
        self.id.push_str(&chunk.stream);
        self.id.push('-');
        self.id.push_str(itoa::Buffer::new().format(seq));
        if let Some(field) = field {
            self.id.push('-');
            self.id.push_str(&field.measurement.name);
        }

        self.key.clear();
        self.key.push_str(&self.gateway);
        if let Some(subject) = match record {
            Record::Reading(reading) => Some(&reading.device),
            Record::Aggregate(aggregate) => Some(&aggregate.device),
            Record::State(state) => Some(&state.device),
            Record::DeadLetter(letter) => Some(&letter.source),
            Record::Gap(_) | Record::StreamEnd(_) | Record::Event(_) => None,
        } {
            self.key.push('/');
            self.key.push_str(subject);
        }

        let document = Document {
            gateway: &self.gateway,
            labels: &self.labels,
            stream: &chunk.stream,
            seq,
            is_alarm: chunk.lane == Lane::Alarm,
            record,
            fields: match record {
                Record::Reading(reading) => chunk.batch.fields_of(reading),
                _ => &[],
            },
            field,
            layout: self.layout,
            time: &self.time,
            arrival: &arrival,
        };
        self.value.clear();
        match self.format {
            Format::Json => serde_json::to_writer(&mut self.value, &document)
                .map_err(|error| EncodeError { format: "JSON", reason: error.to_string() }),
            Format::Cbor => {
                self.value =
                    to_cbor(&document).map_err(|error| EncodeError { format: "CBOR", reason: error.to_string() })?;
                Ok(())
            }
        }
    }
}

/// When the gateway received or made a record, as far as that is known by now.
struct Arrival {
    wall_ms: i64,
    quality: TimeQuality,
    /// Where the clock was not trusted: the milliseconds since the board booted, and the boot.
    since_boot: Option<(u64, Option<Arc<str>>)>,
}

impl Arrival {
    fn new(boots: &Boots, stream: &str, at: Stamp) -> Self {
        if at.trusted {
            return Self { wall_ms: at.wall_ms, quality: TimeQuality::Arrival, since_boot: None };
        }
        let moment = boots.moment(stream, at);
        let known_ms = moment.as_ref().and_then(|moment| moment.wall_ms);
        Self {
            wall_ms: known_ms.unwrap_or(at.wall_ms),
            quality: if known_ms.is_some() { TimeQuality::Corrected } else { TimeQuality::Unsynced },
            since_boot: Some((at.monotonic_ms, moment.map(|moment| moment.boot))),
        }
    }
}

/// When what the record tells of happened.
fn event_ms(record: &Record, arrival: &Arrival) -> i64 {
    match record {
        Record::Reading(Reading { time_quality: TimeQuality::Unsynced, .. })
            if arrival.quality == TimeQuality::Corrected =>
        {
            arrival.wall_ms
        }
        Record::Reading(reading) => reading.time_ms,
        Record::Aggregate(aggregate) => aggregate.start_ms,
        _ => arrival.wall_ms,
    }
}

/// CloudEvents' `type` of a record.
pub(crate) fn event_type(record: &Record) -> &'static str {
    match record {
        Record::Reading(_) => "io.tidegate.reading.v1",
        Record::Aggregate(_) => "io.tidegate.aggregate.v1",
        Record::State(_) => "io.tidegate.state.v1",
        Record::DeadLetter(_) => "io.tidegate.dead-letter.v1",
        Record::Gap(_) => "io.tidegate.gap.v1",
        Record::StreamEnd(_) => "io.tidegate.stream-end.v1",
        Record::Event(_) => "io.tidegate.event.v1",
    }
}

/// CloudEvents' `source` of a gateway: a URI reference, so all but RFC 3986's unreserved characters are escaped.
pub(crate) fn event_source(gateway: &str) -> String {
    let mut source = String::from("/gateways/");
    for byte in gateway.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            source.push(char::from(byte));
        } else {
            let _ = write!(source, "%{byte:02X}");
        }
    }
    source
}

/// The media type of a format.
pub(crate) fn content_type(format: Format) -> &'static str {
    match format {
        Format::Json => "application/json",
        Format::Cbor => "application/cbor",
    }
}

/// What a record that Kafka refused leaves behind: the encoder still holds it.
pub(crate) fn dead_letter(encoder: &Encoder, record: &Record, topic: &str, why: &str, now: Stamp) -> DeadLetter {
    let mut detail = String::new();
    let _ = write!(detail, "Kafka refused record {} for topic {topic} for good: {why}", encoder.id);
    let kept = &encoder.value[..encoder.value.len().min(DeadLetter::PAYLOAD_BYTES_MAX)];
    DeadLetter {
        source: "kafka".into(),
        origin: topic.into(),
        profile: match record {
            Record::Reading(reading) => Some(reading.profile.clone()),
            Record::Aggregate(aggregate) => Some(aggregate.profile.clone()),
            Record::State(state) => Some(state.profile.clone()),
            _ => None,
        },
        received: now,
        stage: crate::reading::Stage::Uplink,
        reason: crate::reading::Reason::KafkaRejected,
        detail: detail.into_boxed_str(),
        length: encoder.value.len() as u64,
        payload: kept.into(),
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
