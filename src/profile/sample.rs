//! Sample frames: a profile's own test, in the same file. A sample says what arrives, and all that must come of it.
//!
//! `hex` of a serial profile is what is on the wire: it goes through the framing and the checksum, and may hold noise before
//! a frame, or several frames. So does `payload`, but for lines without a checksum that do not end with their delimiter: there
//! it is the line itself.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::file::{Fault, OneOrMany, fault};
use super::registers;
use crate::reading::{Reason, Value};

const EXPECTED_BYTES: &str = "sample: expected one of `payload`, `hex` and `registers`";

/// A frame, and what must come of it.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// What is shown by it.
    pub name: String,
    /// The MQTT topic.
    pub topic: Option<String>,
    /// The bytes.
    pub payload: Vec<u8>,
    /// Whether they are written as `hex`.
    pub hex: bool,
    /// Where one read ends and the next begins.
    pub cuts: Vec<usize>,
    /// What was heard before, for a device whose messages build on earlier ones; what comes of it is not looked at.
    pub before: Vec<Self>,
    /// The source's `time_zone`.
    pub time_zone: Option<String>,
    /// Whether the broker had retained it.
    pub retained: bool,
    /// What must come of it.
    pub expected: Expected,
    /// What it says of the device besides: whether it came or went.
    pub state: Option<bool>,
    /// Why a part of it is refused, where readings come of the rest.
    pub error: Option<Reason>,
    /// How many single values must be left out.
    pub values_rejected: usize,
    /// The line of the file where it begins is known by the byte.
    pub at: usize,
}

/// What must come of a frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Expected {
    /// These readings, with these values and no others.
    Readings(Vec<SampleReading>),
    /// A device state: online or not.
    State(bool),
    /// Nothing: the profile knows it and passes it over.
    #[default]
    Ignored,
    /// It is refused for that reason.
    Error(Reason),
    /// It is dropped because it was retained and has no time.
    RetainedWithoutTime,
    /// There is no whole frame in it.
    Noise,
}

/// A reading that must come out.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleReading {
    /// The device, if it is checked.
    pub device: Option<String>,
    /// The event time in milliseconds, if the payload gives one.
    pub time_ms: Option<i64>,
    /// All values, by measurement.
    pub values: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SamplePart {
    name: String,
    topic: Option<String>,
    payload: Option<OneOrMany>,
    hex: Option<OneOrMany>,
    registers: Option<toml::Table>,
    #[serde(default)]
    before: Vec<BeforePart>,
    time_zone: Option<String>,
    #[serde(default)]
    retained: bool,
    #[serde(default)]
    reading: Vec<ReadingPart>,
    state: Option<String>,
    expect: Option<String>,
    expect_error: Option<String>,
    #[serde(default)]
    values_rejected: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BeforePart {
    topic: Option<String>,
    payload: Option<OneOrMany>,
    hex: Option<OneOrMany>,
    #[serde(default)]
    retained: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadingPart {
    device: Option<String>,
    time: Option<String>,
    values: BTreeMap<String, toml::Value>,
}

impl Sample {
    pub(super) fn build(part: Spanned<SamplePart>) -> Result<Self, Fault> {
        let span = part.span();
        let part = part.into_inner();
        let heard = match (part.payload, part.hex, part.registers) {
            (None, None, Some(blocks)) => match registers::sample_frame(&blocks) {
                Ok(payload) => Self { payload, ..Self::default() },
                Err(message) => return fault(&span, format!("sample: {message}")),
            },
            (payload, hex, None) => Self::heard(payload, hex, &span)?,
            _ => return fault(&span, EXPECTED_BYTES),
        };
        let before = part.before.into_iter().map(|before| {
            let heard = Self::heard(before.payload, before.hex, &span)?;
            let topic = before.topic.or_else(|| part.topic.clone());
            Ok(Self { topic, retained: before.retained, ..heard })
        });
        let before = before.collect::<Result<_, _>>()?;
        let error = match &part.expect_error {
            None => None,
            Some(code) => match Reason::from_code(code) {
                Some(reason) => Some(reason),
                None => {
                    let codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
                    return fault(&span, format!("expect_error `{code}`: expected one of {}", codes.join(", ")));
                }
            },
        };
        // A birth message has both.
        let state = match part.state.as_deref() {
            Some("online") if !part.reading.is_empty() => Some(true),
            Some("offline") if !part.reading.is_empty() => Some(false),
            _ => None,
        };
        let alone = part.state.as_deref().filter(|_| state.is_none());
        let expected = match (part.reading.is_empty(), alone, part.expect.as_deref(), error) {
            (false, None, None, _) => {
                Expected::Readings(part.reading.into_iter().map(|part| reading(part, &span)).collect::<Result<_, _>>()?)
            }
            (true, Some("online"), None, None) => Expected::State(true),
            (true, Some("offline"), None, None) => Expected::State(false),
            (true, None, Some("ignored"), None) => Expected::Ignored,
            (true, None, Some("noise"), None) => Expected::Noise,
            (true, None, Some("retained_without_time"), None) => Expected::RetainedWithoutTime,
            (true, None, None, Some(reason)) => Expected::Error(reason),
            _ => {
                return fault(
                    &span,
                    "sample: expected one of [[sample.reading]] (with or without state), state = \"online\" or \"offline\", \
                     expect = \"ignored\", \"noise\" or \"retained_without_time\", expect_error = a reason",
                );
            }
        };
        Ok(Self {
            name: part.name,
            topic: part.topic,
            before,
            time_zone: part.time_zone,
            retained: part.retained,
            error: error.filter(|_| matches!(expected, Expected::Readings(_))),
            expected,
            state,
            values_rejected: part.values_rejected,
            at: span.start,
            ..heard
        })
    }

    /// One with these bytes and nothing else.
    fn heard(payload: Option<OneOrMany>, hex: Option<OneOrMany>, span: &Range<usize>) -> Result<Self, Fault> {
        let (reads, hex) = match (payload, hex) {
            (Some(texts), None) => (texts.into_vec().into_iter().map(String::into_bytes).collect(), false),
            (None, Some(texts)) => {
                let reads = texts.into_vec().iter().map(|digits| unhex(digits)).collect::<Option<Vec<_>>>();
                match reads {
                    Some(reads) => (reads, true),
                    None => return fault(span, "sample: expected pairs of hexadecimal digits in `hex`"),
                }
            }
            _ => return fault(span, EXPECTED_BYTES),
        };
        let ends = reads.iter().scan(0, |end, read| {
            *end += read.len();
            Some(*end)
        });
        let cuts = ends.take(reads.len().saturating_sub(1)).collect();
        Ok(Self { payload: reads.concat(), hex, cuts, ..Self::default() })
    }
}

fn reading(part: ReadingPart, span: &Range<usize>) -> Result<SampleReading, Fault> {
    let mut values = BTreeMap::new();
    for (name, value) in part.values {
        let value = match value {
            toml::Value::Integer(number) => Value::Number(number as f64),
            toml::Value::Float(number) => Value::Number(number),
            toml::Value::String(text) => Value::Text(text.into()),
            toml::Value::Boolean(flag) => Value::Flag(flag),
            other => {
                return fault(
                    span,
                    format!("sample value `{name}`: expected a number, a text or a flag, found {other}"),
                );
            }
        };
        values.insert(name, value);
    }
    let time_ms = match part.time.map(|time| time.parse::<jiff::Timestamp>()) {
        None => None,
        Some(Ok(time)) => Some(time.as_millisecond()),
        Some(Err(error)) => return fault(span, format!("sample time: {error}")),
    };
    Ok(SampleReading { device: part.device, time_ms, values })
}

/// Bytes of hexadecimal digits, with or without spaces between pairs.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    hex::decode(digits).ok()
}
