//! One line of a recording, as `tidegate run --print --format ndjson` writes it and as the wide layout has it in Kafka.
//!
//! Invariants: types are strict, and a line that is refused says which field was expected to be what; fields that are not
//! known are ignored, because fields are only ever added. Marks are not read: the rules of the recording set them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::passing::Passing;
use crate::reading::{
    Batch, DeviceState, Field, Mark, Measurement, MeasurementKind, Name, Reading, Record, Stamp, TimeQuality, Value,
};

/// The longest line that is read, in bytes: far more than Kafka takes as a record.
pub const LINE_BYTES_MAX: usize = 4 << 20;
/// The newest version of the records' shape that is known.
const SCHEMA: u64 = 1;
/// Names that are kept to be used again.
const NAMES_MAX: usize = 100_000;

/// What a line holds.
#[derive(Debug, PartialEq)]
pub enum Parsed {
    /// A reading or a device state: a record to be replayed, which was received at that moment.
    Record(Stamp),
    /// A record of another kind, which rules have nothing to do with.
    Other(&'static str),
}

/// Reads lines, in their order.
#[derive(Debug, Default)]
pub struct Parser {
    passing: Passing,
    /// The gateway of the first record, and how many were of another one.
    gateway: Option<Box<str>>,
    strangers: u64,
    names: HashMap<Box<str>, Name>,
    measurements: HashMap<Box<str>, Arc<Measurement>>,
}

#[derive(Deserialize)]
struct Line<'a> {
    schema: Option<u64>,
    #[serde(borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    _kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    gateway: Option<Cow<'a, str>>,
    #[serde(borrow)]
    device: Option<Cow<'a, str>>,
    #[serde(borrow)]
    profile: Option<Cow<'a, str>>,
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    received: Option<Cow<'a, str>>,
    #[serde(borrow)]
    time_quality: Option<Cow<'a, str>>,
    monotonic_ms: Option<u64>,
    #[serde(borrow)]
    state: Option<Cow<'a, str>>,
    #[serde(borrow)]
    measurement: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    values: Pairs<'a, f64>,
    #[serde(borrow, default)]
    texts: Pairs<'a, Cow<'a, str>>,
    #[serde(default, borrow)]
    flags: Pairs<'a, bool>,
    #[serde(borrow, default)]
    units: Pairs<'a, Cow<'a, str>>,
}

/// A map in the order in which it is written.
struct Pairs<'a, T>(Vec<(Cow<'a, str>, T)>);

impl<T> Default for Pairs<'_, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de: 'a, 'a, T: Deserialize<'de>> Deserialize<'de> for Pairs<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<'a, T>(PhantomData<(&'a (), T)>);
        impl<'de: 'a, 'a, T: Deserialize<'de>> Visitor<'de> for Map<'a, T> {
            type Value = Pairs<'a, T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Map(PhantomData))
    }
}

impl Parser {
    /// Reads a line, and puts its record, if it is one to be replayed, at the end of `batch`.
    ///
    /// # Errors
    /// What was expected and what was found, where it is no such record; `batch` is as it was then.
    pub fn read(&mut self, line: &[u8], batch: &mut Batch) -> Result<Parsed, String> {
        let line: Line<'_> = serde_json::from_slice(line).map_err(|error| said(line, &error))?;
        if line.kind.is_none() && line._kind.is_some() {
            return Err(
                "expected the wide layout, found the flat one, which does not tell a text from a unit".to_owned()
            );
        }
        if let Some(schema) = line.schema.filter(|schema| *schema > SCHEMA) {
            return Err(format!("expected schema {SCHEMA}, found {schema}, which a newer tidegate wrote"));
        }
        match line.kind.as_deref() {
            Some("reading") => self.reading(&line, batch).inspect(|_| self.of_gateway(&line)),
            Some("state") => self.state(&line, batch).inspect(|_| self.of_gateway(&line)),
            Some("aggregate") => Ok(Parsed::Other("aggregate")),
            Some("dead-letter") => Ok(Parsed::Other("dead-letter")),
            Some("gap") => Ok(Parsed::Other("gap")),
            Some("stream-end") => Ok(Parsed::Other("stream-end")),
            Some(kind) => Err(format!("expected \"reading\" or \"state\" as `kind`, found {}", quoted(kind))),
            None => {
                Err("missing `kind`: expected a record as `tidegate run --print --format ndjson` writes it".to_owned())
            }
        }
    }

    fn reading(&mut self, line: &Line<'_>, batch: &mut Batch) -> Result<Parsed, String> {
        if line.measurement.is_some() && line.values.0.is_empty() {
            return Err("expected the wide layout, with `values`, found the narrow one, with `measurement`".to_owned());
        }
        let (device, profile) = (required("device", &line.device)?, required("profile", &line.profile)?);
        let (time_ms, wall_ms) = (time("time", &line.time)?, time("received", &line.received)?);
        let time_quality = quality(required("time_quality", &line.time_quality)?)?;
        if line.values.0.is_empty() && line.texts.0.is_empty() && line.flags.0.is_empty() {
            return Err("expected `values`, `texts` or `flags`, found none of them".to_owned());
        }
        let received = self.passing.stamp(wall_ms, time_quality != TimeQuality::Unsynced, line.monotonic_ms);
        let first = batch.mark();
        let numbers = line.values.0.iter().map(|(name, number)| (name, Value::Number(*number)));
        let texts = line.texts.0.iter().map(|(name, text)| (name, Value::Text(text.as_ref().into())));
        let flags = line.flags.0.iter().map(|(name, flag)| (name, Value::Flag(*flag)));
        for (name, value) in numbers.chain(texts).chain(flags) {
            let unit = line.units.0.iter().find(|(of, _)| of == name).map(|(_, unit)| unit.as_ref());
            batch.fields.push(Field { measurement: self.measurement(name, unit), value });
        }
        batch.records.push(Record::Reading(Reading {
            device: self.name(device),
            profile: self.name(profile),
            time_ms,
            time_quality,
            received,
            mark: Mark::None,
            alarm: None,
            fields: first..batch.mark(),
        }));
        Ok(Parsed::Record(received))
    }

    fn state(&mut self, line: &Line<'_>, batch: &mut Batch) -> Result<Parsed, String> {
        let (device, profile) = (required("device", &line.device)?, required("profile", &line.profile)?);
        let wall_ms = time("received", &line.received)?;
        let online = match required("state", &line.state)? {
            "online" => true,
            "offline" => false,
            other => return Err(format!("expected \"online\" or \"offline\" as `state`, found {}", quoted(other))),
        };
        let trusted = line.time_quality.as_deref() != Some("unsynced");
        let received = self.passing.stamp(wall_ms, trusted, line.monotonic_ms);
        let (device, profile) = (self.name(device), self.name(profile));
        batch.records.push(Record::State(Box::new(DeviceState { device, profile, online, received })));
        Ok(Parsed::Record(received))
    }

    /// How many records were received before one that stands above them.
    #[must_use]
    pub fn out_of_order(&self) -> u64 {
        self.passing.back()
    }

    /// How many records came from another gateway than the first.
    #[must_use]
    pub fn of_other_gateways(&self) -> u64 {
        self.strangers
    }

    fn of_gateway(&mut self, line: &Line<'_>) {
        let gateway = line.gateway.as_deref().unwrap_or_default();
        let first = self.gateway.get_or_insert_with(|| gateway.into());
        self.strangers += u64::from(**first != *gateway);
    }

    fn name(&mut self, name: &str) -> Name {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        let new: Name = name.into();
        self.names.insert(name.into(), Arc::clone(&new));
        new
    }

    fn measurement(&mut self, name: &str, unit: Option<&str>) -> Arc<Measurement> {
        if let Some(known) = self.measurements.get(name).filter(|known| known.unit.as_deref() == unit) {
            return Arc::clone(known);
        }
        if self.measurements.len() >= NAMES_MAX {
            self.measurements.clear();
        }
        // A record does not say whether it counts up, and no rule asks.
        let unit = unit.map(Into::into);
        let new = Arc::new(Measurement { name: name.into(), unit, kind: MeasurementKind::Gauge });
        self.measurements.insert(name.into(), Arc::clone(&new));
        new
    }
}

fn required<'a>(key: &str, value: &'a Option<Cow<'_, str>>) -> Result<&'a str, String> {
    value.as_deref().filter(|text| !text.is_empty()).ok_or_else(|| format!("missing `{key}`: expected a string"))
}

fn time(key: &str, value: &Option<Cow<'_, str>>) -> Result<i64, String> {
    let text = required(key, value)?;
    let time: Result<jiff::Timestamp, _> = text.parse();
    time.map(jiff::Timestamp::as_millisecond)
        .map_err(|_| format!("expected a time such as \"2026-05-04T12:00:00.123Z\" as `{key}`, found {}", quoted(text)))
}

fn quality(text: &str) -> Result<TimeQuality, String> {
    const ALL: [TimeQuality; 4] =
        [TimeQuality::Device, TimeQuality::Arrival, TimeQuality::Unsynced, TimeQuality::Corrected];
    ALL.into_iter().find(|quality| quality.as_str() == text).ok_or_else(|| {
        let words = ALL.map(|quality| format!("\"{}\"", quality.as_str())).join(" or ");
        format!("expected {words} as `time_quality`, found {}", quoted(text))
    })
}

/// What is wrong with a line that could not be read into [`Line`]: its first field that has another type, or the parser's words.
fn said(line: &[u8], error: &serde_json::Error) -> String {
    use serde_json::Value as Json;
    let document = match serde_json::from_slice(line) {
        Ok(Json::Object(document)) => document,
        Ok(other) => return format!("expected an object, found {}", kind_of(&other)),
        Err(_) => {
            let words = error.to_string();
            let words = words.split(" at line ").next().unwrap_or_default();
            return format!("not JSON: {words} at byte {}", error.column());
        }
    };
    for (key, value) in &document {
        let each = |expected: &str, right: fn(&Json) -> bool| match value {
            Json::Object(map) => map.iter().find(|(_, value)| !right(value)).map(|(name, value)| {
                format!("expected {expected} as `{key}.{}`, found {}", clip(name), kind_of(value))
            }),
            other => Some(format!("expected an object as `{key}`, found {}", kind_of(other))),
        };
        let wrong = match key.as_str() {
            "values" => each("a number", Json::is_number),
            "texts" | "units" => each("a string", Json::is_string),
            "flags" => each("true or false", Json::is_boolean),
            "schema" | "monotonic_ms" => (!value.is_u64() && !value.is_null())
                .then(|| format!("expected a whole number as `{key}`, found {}", kind_of(value))),
            "kind" | "_kind" | "gateway" | "device" | "profile" | "time" | "received" | "time_quality" | "state"
            | "measurement" => (!value.is_string() && !value.is_null())
                .then(|| format!("expected a string as `{key}`, found {}", kind_of(value))),
            _ => None,
        };
        if let Some(wrong) = wrong {
            return wrong;
        }
    }
    // A field that stands there twice.
    error.to_string().split(" at line ").next().unwrap_or_default().to_owned()
}

fn kind_of(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "null".to_owned(),
        serde_json::Value::Bool(value) => value.to_string(),
        serde_json::Value::Number(number) => format!("the number {number}"),
        serde_json::Value::String(text) => quoted(text),
        serde_json::Value::Array(_) => "an array".to_owned(),
        serde_json::Value::Object(_) => "an object".to_owned(),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", clip(text))
}

fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(48).flat_map(char::escape_debug).collect();
    if text.chars().nth(48).is_some() {
        clipped.push('…');
    }
    clipped
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
