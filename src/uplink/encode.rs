//! From a stored record to the Kafka record or records that it becomes; `docs/records.md` shows each kind, and a test
//! compares that file with this code.
//!
//! This is the hot path: one pass, no tree, into buffers that are used again for every record. One definition serves
//! JSON and CBOR, so that both have the same fields.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::source::Chunk;
use super::time::rfc3339;
use crate::config::{self, Format, Layout, Timestamp};
use crate::outbox::{Lane, to_cbor};
use crate::reading::{
    Aggregate, DeadLetter, DeviceState, Event, Field, Gap, Origin, Reading, Record, Stamp, StreamEnd, Value,
};

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
            value: Vec::with_capacity(1024),
            key: String::new(),
            id: String::new(),
            time: rfc3339(0),
            timestamp_ms: None,
        }
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
        let event_ms = event_ms(record);
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

/// When what the record tells of happened.
fn event_ms(record: &Record) -> i64 {
    match record {
        Record::Reading(reading) => reading.time_ms,
        Record::Aggregate(aggregate) => aggregate.start_ms,
        _ => record.received().wall_ms,
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

/// A record as a map of fields, for any format.
struct Document<'a> {
    gateway: &'a str,
    labels: &'a BTreeMap<String, String>,
    stream: &'a str,
    seq: u64,
    is_alarm: bool,
    record: &'a Record,
    fields: &'a [Field],
    /// The narrow layout's one value.
    field: Option<&'a Field>,
    layout: Layout,
    time: &'a [u8; 24],
}

/// The names of our own fields, as the flat layout has them; the others leave the prefix out.
macro_rules! name {
    ($self:ident, $name:literal) => {
        if $self.is_flat() { concat!("_", $name) } else { $name }
    };
}

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // No length is given: JSON does not need it, and CBOR has maps of indefinite length (RFC 8949, 3.2.2).
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(name!(self, "schema"), &SCHEMA)?;
        map.serialize_entry(name!(self, "kind"), self.record.kind())?;
        map.serialize_entry(name!(self, "gateway"), self.gateway)?;
        match self.record {
            Record::Reading(reading) => self.reading(&mut map, reading)?,
            Record::Aggregate(aggregate) => self.aggregate(&mut map, aggregate)?,
            Record::State(state) => self.state(&mut map, state)?,
            Record::DeadLetter(letter) => self.dead_letter(&mut map, letter)?,
            Record::Gap(gap) => self.gap(&mut map, gap)?,
            Record::StreamEnd(end) => self.stream_end(&mut map, end)?,
            Record::Event(event) => self.event(&mut map, event)?,
        }
        map.end()
    }
}

impl Document<'_> {
    /// Dead letters and aggregates have topics of their own, where one shape is enough.
    fn is_flat(&self) -> bool {
        self.layout == Layout::Flat && !matches!(self.record, Record::DeadLetter(_) | Record::Aggregate(_))
    }

    fn reading<M: SerializeMap>(&self, map: &mut M, reading: &Reading) -> Result<(), M::Error> {
        map.serialize_entry(name!(self, "device"), &*reading.device)?;
        map.serialize_entry(name!(self, "profile"), &*reading.profile)?;
        map.serialize_entry(name!(self, "time"), ascii(self.time))?;
        map.serialize_entry(name!(self, "received"), ascii(&rfc3339(reading.received.wall_ms)))?;
        map.serialize_entry(name!(self, "time_quality"), reading.time_quality.as_str())?;
        if reading.time_quality == crate::reading::TimeQuality::Unsynced {
            map.serialize_entry(name!(self, "monotonic_ms"), &reading.received.monotonic_ms)?;
        }
        if let Some(mark) = reading.mark.as_str() {
            map.serialize_entry(name!(self, "mark"), mark)?;
        }
        self.lane(map, reading.alarm.as_deref())?;
        self.place(map)?;
        match self.layout {
            Layout::Wide => self.wide(map),
            Layout::Narrow => self.narrow(map),
            Layout::Flat => self.flat(map),
        }
    }

    fn wide<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let (mut numbers, mut texts, mut flags, mut units) = (false, false, false, false);
        for field in self.fields {
            match &field.value {
                Value::Number(number) => numbers |= number.is_finite(),
                Value::Text(_) => texts = true,
                Value::Flag(_) => flags = true,
            }
            units |= field.measurement.unit.is_some();
        }
        if numbers {
            map.serialize_entry("values", &Values(self.fields, number))?;
        }
        if texts {
            map.serialize_entry("texts", &Values(self.fields, text))?;
        }
        if flags {
            map.serialize_entry("flags", &Values(self.fields, flag))?;
        }
        if units {
            map.serialize_entry("units", &Units(self.fields))?;
        }
        Ok(())
    }

    fn narrow<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Some(field) = self.field else { return Ok(()) };
        map.serialize_entry("measurement", &*field.measurement.name)?;
        if let Some(unit) = &field.measurement.unit {
            map.serialize_entry("unit", &**unit)?;
        }
        match &field.value {
            Value::Number(number) if number.is_finite() => map.serialize_entry("value", number),
            Value::Number(_) => Ok(()),
            Value::Text(text) => map.serialize_entry("text", &**text),
            Value::Flag(flag) => map.serialize_entry("flag", flag),
        }
    }

    fn flat<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        for field in self.fields {
            let name = &*field.measurement.name;
            // A measurement that begins with an underscore gets another one, so it never meets a field of ours.
            let escaped = name.starts_with('_').then(|| format!("_{name}"));
            let name = escaped.as_deref().unwrap_or(name);
            match &field.value {
                Value::Number(number) if number.is_finite() => map.serialize_entry(name, number)?,
                Value::Number(_) => {}
                Value::Text(text) => map.serialize_entry(name, &**text)?,
                Value::Flag(flag) => map.serialize_entry(name, flag)?,
            }
        }
        if self.fields.iter().any(|field| field.measurement.unit.is_some()) {
            map.serialize_entry("_units", &Units(self.fields))?;
        }
        Ok(())
    }

    fn aggregate<M: SerializeMap>(&self, map: &mut M, aggregate: &Aggregate) -> Result<(), M::Error> {
        let Aggregate { device, profile, measurement, window, start_ms, end_ms, .. } = aggregate;
        let (start, end) = (rfc3339(*start_ms), rfc3339(*end_ms));
        let id = match aggregate.origin {
            Origin::Window => format!("{}/{device}/{}/{window}/{}", self.gateway, measurement.name, ascii(&start)),
            // One step of a series may have several, each of which stands for other readings.
            Origin::Thinned => {
                let (stream, seq) = (self.stream, self.seq);
                format!("{}/{device}/{}/{stream}-{seq}/{}", self.gateway, measurement.name, ascii(&start))
            }
        };
        map.serialize_entry("id", &id)?;
        map.serialize_entry("revision", &aggregate.revision)?;
        map.serialize_entry("device", &**device)?;
        map.serialize_entry("profile", &**profile)?;
        map.serialize_entry("window", &**window)?;
        self.lane(map, self.is_alarm.then_some(window))?;
        map.serialize_entry("origin", aggregate.origin.as_str())?;
        map.serialize_entry("measurement", &*measurement.name)?;
        if let Some(unit) = &measurement.unit {
            map.serialize_entry("unit", &**unit)?;
        }
        map.serialize_entry("start", ascii(&start))?;
        map.serialize_entry("end", ascii(&end))?;
        map.serialize_entry("received", ascii(&rfc3339(aggregate.at.wall_ms)))?;
        self.place(map)?;
        map.serialize_entry("count", &aggregate.count)?;
        if let Some(sum) = aggregate.sum {
            map.serialize_entry("sum", &sum)?;
        }
        map.serialize_entry("min", &aggregate.min)?;
        map.serialize_entry("max", &aggregate.max)?;
        if let Some(mean) = aggregate.mean() {
            map.serialize_entry("mean", &mean)?;
        }
        map.serialize_entry("first", &aggregate.first)?;
        map.serialize_entry("last", &aggregate.last)
    }

    fn state<M: SerializeMap>(&self, map: &mut M, state: &DeviceState) -> Result<(), M::Error> {
        map.serialize_entry(name!(self, "device"), &*state.device)?;
        map.serialize_entry(name!(self, "profile"), &*state.profile)?;
        map.serialize_entry(name!(self, "time"), ascii(self.time))?;
        map.serialize_entry(name!(self, "received"), ascii(self.time))?;
        map.serialize_entry(name!(self, "time_quality"), quality(state.received))?;
        self.place(map)?;
        map.serialize_entry(name!(self, "state"), if state.online { "online" } else { "offline" })
    }

    fn dead_letter<M: SerializeMap>(&self, map: &mut M, letter: &DeadLetter) -> Result<(), M::Error> {
        map.serialize_entry("source", &*letter.source)?;
        map.serialize_entry("topic_or_port", &*letter.origin)?;
        if let Some(profile) = &letter.profile {
            map.serialize_entry("profile", &**profile)?;
        }
        map.serialize_entry("received", ascii(self.time))?;
        map.serialize_entry("time_quality", quality(letter.received))?;
        self.place(map)?;
        map.serialize_entry("stage", letter.stage.as_str())?;
        map.serialize_entry("reason_code", letter.reason.as_str())?;
        map.serialize_entry("reason", &*letter.detail)?;
        map.serialize_entry("length", &letter.length)?;
        map.serialize_entry("truncated", &(letter.length > letter.payload.len() as u64))?;
        map.serialize_entry("payload_base64", &STANDARD.encode(&letter.payload))
    }

    fn gap<M: SerializeMap>(&self, map: &mut M, gap: &Gap) -> Result<(), M::Error> {
        map.serialize_entry(name!(self, "time"), ascii(self.time))?;
        map.serialize_entry(name!(self, "time_quality"), quality(gap.at))?;
        self.place(map)?;
        map.serialize_entry(name!(self, "of_stream"), &*gap.stream)?;
        map.serialize_entry(name!(self, "from"), &gap.from)?;
        map.serialize_entry(name!(self, "to"), &gap.to)?;
        map.serialize_entry(name!(self, "count"), &gap.count)?;
        map.serialize_entry(name!(self, "cause"), &*gap.cause)?;
        match &gap.replaced_by {
            Some(stream) => map.serialize_entry(name!(self, "replaced_by"), &**stream),
            None => Ok(()),
        }
    }

    fn stream_end<M: SerializeMap>(&self, map: &mut M, end: &StreamEnd) -> Result<(), M::Error> {
        map.serialize_entry(name!(self, "time"), ascii(self.time))?;
        map.serialize_entry(name!(self, "time_quality"), quality(end.at))?;
        self.place(map)?;
        map.serialize_entry(name!(self, "of_stream"), &*end.stream)?;
        map.serialize_entry(name!(self, "last"), &end.last)
    }

    fn event<M: SerializeMap>(&self, map: &mut M, event: &Event) -> Result<(), M::Error> {
        map.serialize_entry(name!(self, "time"), ascii(self.time))?;
        map.serialize_entry(name!(self, "time_quality"), quality(event.at))?;
        self.place(map)?;
        map.serialize_entry(name!(self, "event"), event.event.as_str())?;
        map.serialize_entry(name!(self, "detail"), &*event.detail)
    }

    /// The lane, unless that can be told from the record's kind, and the rule that chose it.
    fn lane<M: SerializeMap>(&self, map: &mut M, rule: Option<&str>) -> Result<(), M::Error> {
        if !self.is_alarm {
            return Ok(());
        }
        map.serialize_entry(name!(self, "lane"), Lane::Alarm.as_str())?;
        rule.map_or(Ok(()), |rule| map.serialize_entry(name!(self, "alarm"), rule))
    }

    /// Where the record stands, and the gateway's labels.
    fn place<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry(name!(self, "stream"), self.stream)?;
        map.serialize_entry(name!(self, "seq"), &self.seq)?;
        if !self.labels.is_empty() {
            map.serialize_entry(name!(self, "labels"), self.labels)?;
        }
        Ok(())
    }
}

/// What is known of a time of arrival.
fn quality(stamp: Stamp) -> &'static str {
    if stamp.trusted { "arrival" } else { "unsynced" }
}

/// [`rfc3339`] writes ASCII only.
fn ascii(time: &[u8; 24]) -> &str {
    std::str::from_utf8(time).unwrap_or_default()
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) if number.is_finite() => Some(*number),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Flag(flag) => Some(*flag),
        _ => None,
    }
}

/// The values of one type, by measurement.
struct Values<'a, F>(&'a [Field], F);

impl<'a, T: Serialize, F: Fn(&'a Value) -> Option<T>> Serialize for Values<'a, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for field in self.0 {
            if let Some(value) = (self.1)(&field.value) {
                map.serialize_entry(&*field.measurement.name, &value)?;
            }
        }
        map.end()
    }
}

/// The units, by measurement.
struct Units<'a>(&'a [Field]);

impl Serialize for Units<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for field in self.0 {
            if let Some(unit) = &field.measurement.unit {
                map.serialize_entry(&*field.measurement.name, &**unit)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
