//! The payload of a Sparkplug B message (Eclipse Sparkplug 3.0, section 6.4): metrics, as they are written. What they are
//! metrics of may have been said in an earlier message.

use super::super::protobuf::{Wire, fields};

/// A payload with more metrics than this is refused: what is made of them would take many times its own size in memory.
pub(super) const METRICS_MAX: usize = 16_384;

/// Types of values (section 6.4.16), as far as they decide about anything.
const INT8: u64 = 1;
const INT16: u64 = 2;
const INT32: u64 = 3;
const INT64: u64 = 4;
const UINT8: u64 = 5;
const UINT64: u64 = 8;
const BOOLEAN: u64 = 11;
const DATE_TIME: u64 = 13;
const ARRAYS: std::ops::RangeInclusive<u64> = 22..=34;

/// A payload.
#[derive(Debug, Default)]
pub(super) struct Payload<'a> {
    /// Milliseconds since 1970.
    pub(super) timestamp: Option<u64>,
    pub(super) metrics: Vec<Metric<'a>>,
    /// 0 to 255, then 0 again.
    pub(super) seq: Option<u64>,
}

/// A metric.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Metric<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) alias: Option<u64>,
    /// Milliseconds since 1970.
    pub(super) timestamp: Option<u64>,
    /// The type; 0 if nothing is said.
    pub(super) datatype: u64,
    pub(super) is_historical: bool,
    pub(super) is_null: bool,
    pub(super) value: Option<Written<'a>>,
    /// The engineering unit among its properties.
    pub(super) unit: Option<&'a str>,
}

/// A value as it is written: its type says what is meant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Written<'a> {
    Int(u64),
    Float(f32),
    Double(f64),
    Flag(bool),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// A data set, a template, an extension.
    Nested,
}

/// What a value means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Meaning<'a> {
    /// There is no reading.
    Null,
    Whole(i128),
    Number(f64),
    Flag(bool),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Milliseconds since 1970.
    Time(u64),
    /// Several values in one.
    Several,
}

impl<'a> Payload<'a> {
    /// Reads a payload. The error says what is wrong.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut payload = Self::default();
        for field in fields(bytes) {
            let (number, wire) = field.ok_or("expected the fields of a protobuf message")?;
            match number {
                1 => payload.timestamp = Some(whole(wire, "timestamp")?),
                2 if payload.metrics.len() == METRICS_MAX => return Err(format!("more than {METRICS_MAX} metrics")),
                2 => payload.metrics.push(Metric::read(wire.bytes().ok_or("metrics: expected messages")?)?),
                3 => payload.seq = Some(whole(wire, "seq")?),
                _ => {}
            }
        }
        Ok(payload)
    }

    /// The number of the connection that a birth or a death is of.
    pub(super) fn connection(&self) -> Option<u64> {
        let metric = self.metrics.iter().find(|metric| metric.name == Some(super::CONNECTION))?;
        match metric.value? {
            Written::Int(number) => Some(number),
            _ => None,
        }
    }
}

fn whole(wire: Wire<'_>, what: &str) -> Result<u64, String> {
    wire.varint().ok_or_else(|| format!("{what}: expected a whole number"))
}

impl<'a> Metric<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut metric = Self::default();
        for field in fields(bytes) {
            let (number, wire) = field.ok_or("metric: expected the fields of a protobuf message")?;
            match number {
                1 => metric.name = Some(wire.text().ok_or("name: expected a text")?),
                2 => metric.alias = Some(whole(wire, "alias")?),
                3 => metric.timestamp = Some(whole(wire, "timestamp")?),
                4 => metric.datatype = whole(wire, "datatype")?,
                5 => metric.is_historical = whole(wire, "is_historical")? != 0,
                7 => metric.is_null = whole(wire, "is_null")? != 0,
                9 => metric.unit = unit(wire.bytes().ok_or("properties: expected a message")?)?,
                10..=19 => {
                    metric.value = Some(written(number, wire).ok_or("value: it is not of the type of its field")?);
                }
                _ => {}
            }
        }
        Ok(metric)
    }

    /// What the value means if it is of that type; nothing if only an earlier message knows.
    pub(super) fn meaning(&self, datatype: u64) -> Option<Meaning<'a>> {
        let Some(value) = self.value.filter(|_| !self.is_null) else { return Some(Meaning::Null) };
        Some(match (value, datatype) {
            // Some write a negative number in as many bits as its type has, others in 32.
            (Written::Int(number), INT8) => Meaning::Whole((number as u8).cast_signed().into()),
            (Written::Int(number), INT16) => Meaning::Whole((number as u16).cast_signed().into()),
            (Written::Int(number), INT32) => Meaning::Whole((number as u32).cast_signed().into()),
            (Written::Int(number), INT64) => Meaning::Whole(number.cast_signed().into()),
            (Written::Int(number), UINT8..=UINT64) => Meaning::Whole(number.into()),
            (Written::Int(number), BOOLEAN) => Meaning::Flag(number != 0),
            (Written::Int(number), DATE_TIME) => Meaning::Time(number),
            // Whether it has a sign is not known.
            (Written::Int(_), _) => return None,
            // The shortest decimals that mean this float: 21.3, not 21.299999237060547.
            (Written::Float(number), _) => {
                Meaning::Number(number.to_string().parse().unwrap_or_else(|_| number.into()))
            }
            (Written::Double(number), _) => Meaning::Number(number),
            (Written::Flag(flag), _) => Meaning::Flag(flag),
            (Written::Text(text), _) => Meaning::Text(text),
            (Written::Bytes(_), _) if ARRAYS.contains(&datatype) => Meaning::Several,
            (Written::Bytes(bytes), _) => Meaning::Bytes(bytes),
            (Written::Nested, _) => Meaning::Several,
        })
    }
}

fn written(number: u64, wire: Wire<'_>) -> Option<Written<'_>> {
    Some(match (number, wire) {
        // A field of 32 bits: what a writer put above them is not part of it.
        (10, Wire::Varint(number)) => Written::Int(number & u64::from(u32::MAX)),
        (11, Wire::Varint(number)) => Written::Int(number),
        (12, Wire::Fixed32(bits)) => Written::Float(f32::from_bits(bits)),
        (13, Wire::Fixed64(bits)) => Written::Double(f64::from_bits(bits)),
        (14, Wire::Varint(flag)) => Written::Flag(flag != 0),
        (15, Wire::Bytes(_)) => Written::Text(wire.text()?),
        (16, Wire::Bytes(bytes)) => Written::Bytes(bytes),
        (17..=19, Wire::Bytes(_)) => Written::Nested,
        _ => return None,
    })
}

/// The text of the property `engUnit`.
fn unit(bytes: &[u8]) -> Result<Option<&str>, String> {
    let wrong = "properties: expected the fields of a protobuf message";
    let (mut keys, mut place, mut values, mut unit) = (0, None, 0, None);
    for field in fields(bytes) {
        match field.ok_or(wrong)? {
            (1, key) => {
                if key.text() == Some(super::UNIT) {
                    place = Some(keys);
                }
                keys += 1;
            }
            // Keys are written before values.
            (2, value) => {
                if place == Some(values) {
                    for field in fields(value.bytes().ok_or(wrong)?) {
                        if let (8, text) = field.ok_or(wrong)? {
                            unit = text.text();
                        }
                    }
                }
                values += 1;
            }
            _ => {}
        }
    }
    Ok(unit.filter(|unit| !unit.is_empty()))
}
