//! The inside of a chunk: records as CBOR, held by column, so that what repeats (names, units, times that follow each
//! other) compresses to nearly nothing. This file and those below it are the only ones that name serde_cbor.
//!
//! Invariants: what [`encode`] wrote, [`decode`] gives back exactly; whatever else it is handed, it refuses without a
//! panic. The caller caps the size before decoding. Numbers are kept as decimals (an integer and a power of ten) only
//! where that gives back the very same double.

mod decode;
mod encode;
mod items;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use self::decode::Decoder;
pub(crate) use self::decode::Names;
use self::encode::Encoder;
#[cfg(test)]
use self::encode::decimals;
use crate::reading::Batch;

/// Powers of ten that decimals are tried with.
const DECIMALS_MAX: u8 = 9;
/// Whole numbers up to here are exact as doubles: 2^53.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
/// A chunk that claims more records than this is damaged.
pub(crate) const RECORDS_MAX: usize = 1 << 16;

/// Why bytes are not a chunk's inside.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    /// Not the CBOR that was expected.
    #[error("not the expected CBOR: {0}")]
    Cbor(#[from] serde_cbor::Error),
    /// CBOR of the right shape that contradicts itself.
    #[error("the columns contradict each other: {0}")]
    Columns(&'static str),
}

/// Any value as CBOR.
///
/// # Errors
/// When the value cannot be serialized.
pub fn to_cbor<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_cbor::Error> {
    serde_cbor::to_vec(value)
}

/// A value from CBOR.
///
/// # Errors
/// When the bytes are not the CBOR of such a value.
pub(crate) fn from_cbor<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_cbor::Error> {
    items::from_slice(bytes)
}

/// A chunk's inside. Serialized as an array: fields are only ever added at the end, and a change of meaning raises the
/// chunk's version.
#[derive(Serialize, Deserialize, Default)]
struct Body {
    /// Kinds of the records in order, as runs: kind, length.
    kinds: Vec<(u8, u32)>,
    stamps: Stamps,
    names: Vec<String>,
    /// Device and profile pairs.
    origins: Vec<(u32, u32)>,
    /// For each reading, which pair.
    origin: Vec<u32>,
    /// Event times, as differences from the time of arrival.
    time: Vec<i64>,
    quality: Vec<(u8, u32)>,
    measurements: Vec<(String, Option<String>, u8)>,
    /// Lists of columns: what the readings' fields are, in order.
    shapes: Vec<Vec<u32>>,
    /// For each reading, which list.
    shape: Vec<u32>,
    columns: Vec<(u32, Column)>,
    others: Vec<Other>,
    /// The readings' marks, as runs; nothing where none has one.
    #[serde(default)]
    marks: Vec<(u8, u32)>,
    /// The rules by which the readings are alarms, as runs of a name's number plus one, or 0; nothing where none is one.
    #[serde(default)]
    alarms: Vec<(u32, u32)>,
}

/// When the records were received, each as the difference from the one before.
#[derive(Serialize, Deserialize, Default)]
struct Stamps {
    wall: Vec<i64>,
    /// Wall clock less monotonic clock: constant but for steps.
    offset: Vec<(i64, u32)>,
    trusted: Vec<(u8, u32)>,
}

/// The values of one measurement.
#[derive(Serialize, Deserialize)]
enum Column {
    /// Numbers: this many decimals, and the digits as whole numbers.
    D(u8, Vec<i64>),
    /// Numbers that are no short decimals.
    F(Vec<f64>),
    T(Vec<String>),
    B(Vec<bool>),
}

#[derive(Serialize, Deserialize)]
enum Other {
    State {
        device: u32,
        profile: u32,
        online: bool,
    },
    DeadLetter(Letter),
    Gap {
        stream: u32,
        from: u64,
        to: u64,
        count: u64,
        cause: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaced_by: Option<u32>,
    },
    StreamEnd {
        stream: u32,
        last: u64,
    },
    Aggregate(Window),
    Event {
        event: String,
        detail: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Window {
    device: u32,
    profile: u32,
    measurement: u32,
    window: u32,
    start: i64,
    length: i64,
    revision: u32,
    count: u64,
    sum: Option<f64>,
    min: f64,
    max: f64,
    first: f64,
    last: f64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    thinned: bool,
}

#[derive(Serialize, Deserialize)]
struct Letter {
    source: u32,
    origin: String,
    profile: Option<u32>,
    stage: u8,
    reason: String,
    detail: String,
    length: u64,
    payload: serde_cbor::Value,
}

/// What a record takes before compression, roughly; only a first reservation.
const ENCODED_BYTES_GUESS: usize = 24;
const READING: u8 = 0;
const OTHER: u8 = 1;

/// Encodes records `range` of `batch`.
///
/// # Errors
/// Never for records that this crate makes; the encoder's error otherwise.
pub(crate) fn encode(batch: &Batch, range: std::ops::Range<usize>) -> Result<Vec<u8>, serde_cbor::Error> {
    let records = batch.records.get(range).unwrap_or_default();
    let mut encoder = Encoder::with_capacity(records.len());
    for record in records {
        encoder.push(batch, record);
    }
    let mut bytes = Vec::with_capacity(512 + records.len() * ENCODED_BYTES_GUESS);
    let mut serializer = serde_cbor::Serializer::new(serde_cbor::ser::IoWrite::new(&mut bytes)).packed_format();
    encoder.finish().serialize(&mut serializer)?;
    Ok(bytes)
}

/// Decodes what [`encode`] wrote.
///
/// # Errors
/// When the bytes are anything else.
pub(crate) fn decode(bytes: &[u8], names: &mut Names) -> Result<Batch, DecodeError> {
    // Every reading comes through here, and the parser made for these types takes less than half the instructions.
    let body: Body = serde_cbor::from_slice(bytes)?;
    Decoder::new(body, names)?.records()
}

#[cfg(test)]
mod tests;
