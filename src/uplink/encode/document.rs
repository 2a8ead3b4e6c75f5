//! The fields of each kind of record, for JSON and CBOR alike.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Arrival, SCHEMA};
use crate::config::Layout;
use crate::outbox::Lane;
use crate::reading::{
    Aggregate, DeadLetter, DeviceState, Event, Field, Gap, Origin, Reading, Record, StreamEnd, TimeQuality, Value,
};
use crate::uplink::time::rfc3339;

/// A record as a map of fields, for any format.
pub(super) struct Document<'a> {
    pub(super) gateway: &'a str,
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) stream: &'a str,
    pub(super) seq: u64,
    pub(super) is_alarm: bool,
    pub(super) record: &'a Record,
    pub(super) fields: &'a [Field],
    /// The narrow layout's one value.
    pub(super) field: Option<&'a Field>,
    pub(super) layout: Layout,
    pub(super) time: &'a [u8; 24],
    pub(super) arrival: &'a Arrival,
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
        map.serialize_entry(name!(self, "received"), ascii(&rfc3339(self.arrival.wall_ms)))?;
        let quality = match reading.time_quality {
            TimeQuality::Unsynced => self.arrival.quality,
            known => known,
        };
        map.serialize_entry(name!(self, "time_quality"), quality.as_str())?;
        self.since_boot(map)?;
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
        map.serialize_entry("received", ascii(&rfc3339(self.arrival.wall_ms)))?;
        self.since_boot(map)?;
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
        map.serialize_entry(name!(self, "time_quality"), self.arrival.quality.as_str())?;
        self.since_boot(map)?;
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
        map.serialize_entry("time_quality", self.arrival.quality.as_str())?;
        self.since_boot(map)?;
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
        map.serialize_entry(name!(self, "time_quality"), self.arrival.quality.as_str())?;
        self.since_boot(map)?;
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
        map.serialize_entry(name!(self, "time_quality"), self.arrival.quality.as_str())?;
        self.since_boot(map)?;
        self.place(map)?;
        map.serialize_entry(name!(self, "of_stream"), &*end.stream)?;
        map.serialize_entry(name!(self, "last"), &end.last)
    }

    fn event<M: SerializeMap>(&self, map: &mut M, event: &Event) -> Result<(), M::Error> {
        map.serialize_entry(name!(self, "time"), ascii(self.time))?;
        map.serialize_entry(name!(self, "time_quality"), self.arrival.quality.as_str())?;
        self.place(map)?;
        self.since_boot(map)?;
        map.serialize_entry(name!(self, "event"), event.event.as_str())?;
        map.serialize_entry(name!(self, "detail"), &*event.detail)
    }

    /// Where the clock was not trusted: what a consumer can put the time right with, or check that we did.
    fn since_boot<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Some((monotonic_ms, boot)) = &self.arrival.since_boot else { return Ok(()) };
        if let Some(boot) = boot {
            map.serialize_entry(name!(self, "boot"), &**boot)?;
        }
        map.serialize_entry(name!(self, "monotonic_ms"), monotonic_ms)
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
