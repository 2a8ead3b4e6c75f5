//! The inside of a chunk: records as CBOR, held by column, so that what repeats (names, units, times that follow each
//! other) compresses to nearly nothing. The only file that names serde_cbor.
//!
//! Invariants: what [`encode`] wrote, [`decode`] gives back exactly; whatever else it is handed, it refuses without a
//! panic. The caller caps the size before decoding. Numbers are kept as decimals (an integer and a power of ten) only
//! where that gives back the very same double.

use std::sync::Arc;

use foldhash::HashMap;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::reading::{
    Aggregate, Batch, DeadLetter, DeviceState, Field, Gap, Mark, Measurement, MeasurementKind, Name, Reading, Reason,
    Record, Stage, Stamp, StreamEnd, TimeQuality, Value,
};

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
    serde_cbor::from_slice(bytes)
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
    State { device: u32, profile: u32, online: bool },
    DeadLetter(Letter),
    Gap { stream: u32, from: u64, to: u64, count: u64, cause: u32 },
    StreamEnd { stream: u32, last: u64 },
    Aggregate(Window),
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

#[derive(Default)]
struct Encoder<'a> {
    body: Body,
    count: usize,
    last_wall: i64,
    names: HashMap<&'a str, u32>,
    origins: HashMap<(*const u8, *const u8), u32>,
    measurements: HashMap<*const Measurement, u32>,
    column_of: HashMap<(u32, u8), u32>,
    columns: Vec<(u32, Values<'a>)>,
    shapes: HashMap<Vec<u32>, u32>,
    shape: Vec<u32>,
}

enum Values<'a> {
    Numbers(Vec<f64>),
    Texts(Vec<&'a str>),
    Flags(Vec<bool>),
}

impl<'a> Encoder<'a> {
    /// Room for that many records, where there is one number for each: growing by doubling costs more than the pushes.
    fn with_capacity(count: usize) -> Self {
        let mut encoder = Self { count, ..Self::default() };
        let body = &mut encoder.body;
        body.stamps.wall.reserve_exact(count);
        for column in [&mut body.origin, &mut body.shape] {
            column.reserve_exact(count);
        }
        body.time.reserve_exact(count);
        encoder
    }

    fn push(&mut self, batch: &'a Batch, record: &'a Record) {
        self.stamp(record.received());
        match record {
            Record::Reading(reading) => {
                run(&mut self.body.kinds, READING);
                self.reading(batch.fields_of(reading), reading);
            }
            other => {
                run(&mut self.body.kinds, OTHER);
                let other = self.other(other);
                self.body.others.extend(other);
            }
        }
    }

    fn stamp(&mut self, stamp: Stamp) {
        self.body.stamps.wall.push(stamp.wall_ms.wrapping_sub(self.last_wall));
        self.last_wall = stamp.wall_ms;
        run(&mut self.body.stamps.offset, stamp.wall_ms.wrapping_sub(stamp.monotonic_ms as i64));
        run(&mut self.body.stamps.trusted, u8::from(stamp.trusted));
    }

    fn name(&mut self, name: &'a str) -> u32 {
        let names = &mut self.body.names;
        *self.names.entry(name).or_insert_with(|| {
            names.push(name.to_owned());
            names.len() as u32 - 1
        })
    }

    fn reading(&mut self, fields: &'a [Field], reading: &'a Reading) {
        // Interned names are told apart by their address: a second copy of a name costs a table entry, nothing else.
        let pair = (reading.device.as_ptr(), reading.profile.as_ptr());
        let origin = match self.origins.get(&pair) {
            Some(&index) => index,
            None => {
                let names = (self.name(&reading.device), self.name(&reading.profile));
                self.body.origins.push(names);
                let index = self.body.origins.len() as u32 - 1;
                self.origins.insert(pair, index);
                index
            }
        };
        self.body.origin.push(origin);
        self.body.time.push(reading.time_ms.wrapping_sub(reading.received.wall_ms));
        run(&mut self.body.quality, reading.time_quality as u8);
        run(&mut self.body.marks, reading.mark as u8);
        self.shape.clear();
        for field in fields {
            let column = self.column(field);
            self.shape.push(column);
        }
        let shape = match self.shapes.get(&self.shape) {
            Some(&index) => index,
            None => {
                let index = self.body.shapes.len() as u32;
                self.body.shapes.push(self.shape.clone());
                self.shapes.insert(self.shape.clone(), index);
                index
            }
        };
        self.body.shape.push(shape);
    }

    fn measurement(&mut self, measurement: &Arc<Measurement>) -> u32 {
        let measurements = &mut self.body.measurements;
        *self.measurements.entry(Arc::as_ptr(measurement)).or_insert_with(|| {
            let Measurement { name, unit, kind } = &**measurement;
            measurements.push((name.to_string(), unit.as_ref().map(ToString::to_string), *kind as u8));
            measurements.len() as u32 - 1
        })
    }

    /// Puts the value into its column and gives the column's index.
    fn column(&mut self, field: &'a Field) -> u32 {
        let measurement = self.measurement(&field.measurement);
        let kind = match field.value {
            Value::Number(_) => 0,
            Value::Text(_) => 1,
            Value::Flag(_) => 2,
        };
        let (columns, count) = (&mut self.columns, self.count);
        let column = *self.column_of.entry((measurement, kind)).or_insert_with(|| {
            let values = match field.value {
                Value::Number(_) => Values::Numbers(Vec::with_capacity(count)),
                Value::Text(_) => Values::Texts(Vec::new()),
                Value::Flag(_) => Values::Flags(Vec::new()),
            };
            columns.push((measurement, values));
            columns.len() as u32 - 1
        });
        match (&mut self.columns[column as usize].1, &field.value) {
            (Values::Numbers(column), Value::Number(number)) => column.push(*number),
            (Values::Texts(column), Value::Text(text)) => column.push(text),
            (Values::Flags(column), Value::Flag(flag)) => column.push(*flag),
            // The column was looked up by the value's kind.
            _ => {}
        }
        column
    }

    fn other(&mut self, record: &'a Record) -> Option<Other> {
        Some(match record {
            Record::Reading(_) => return None,
            Record::State(state) => Other::State {
                device: self.name(&state.device),
                profile: self.name(&state.profile),
                online: state.online,
            },
            Record::DeadLetter(letter) => Other::DeadLetter(Letter {
                source: self.name(&letter.source),
                origin: letter.origin.to_string(),
                profile: letter.profile.as_ref().map(|profile| self.name(profile)),
                stage: letter.stage as u8,
                reason: letter.reason.as_str().to_owned(),
                detail: letter.detail.to_string(),
                length: letter.length,
                payload: serde_cbor::Value::Bytes(letter.payload.to_vec()),
            }),
            Record::Gap(gap) => Other::Gap {
                stream: self.name(&gap.stream),
                from: gap.from,
                to: gap.to,
                count: gap.count,
                cause: self.name(&gap.cause),
            },
            Record::StreamEnd(end) => Other::StreamEnd { stream: self.name(&end.stream), last: end.last },
            Record::Aggregate(aggregate) => Other::Aggregate(Window {
                device: self.name(&aggregate.device),
                profile: self.name(&aggregate.profile),
                measurement: self.measurement(&aggregate.measurement),
                window: self.name(&aggregate.window),
                start: aggregate.start_ms,
                length: aggregate.end_ms.wrapping_sub(aggregate.start_ms),
                revision: aggregate.revision,
                count: aggregate.count,
                sum: aggregate.sum,
                min: aggregate.min,
                max: aggregate.max,
                first: aggregate.first,
                last: aggregate.last,
            }),
        })
    }

    fn finish(mut self) -> Body {
        if let [(0, _)] = self.body.marks[..] {
            self.body.marks.clear();
        }
        self.body.columns = self
            .columns
            .into_iter()
            .map(|(measurement, values)| {
                let column = match values {
                    Values::Numbers(numbers) => decimals(&numbers).unwrap_or(Column::F(numbers)),
                    Values::Texts(texts) => Column::T(texts.into_iter().map(str::to_owned).collect()),
                    Values::Flags(flags) => Column::B(flags),
                };
                (measurement, column)
            })
            .collect();
        self.body
    }
}

/// The numbers as whole numbers with the fewest decimals that give back each of them exactly, if there is such a way.
fn decimals(numbers: &[f64]) -> Option<Column> {
    let mut places = 0_u8;
    for &number in numbers {
        while !is_decimal(number, places) {
            places += 1;
            if places > DECIMALS_MAX {
                return None;
            }
        }
    }
    // A number that is exact with few decimals need not be with more: 2^52 times ten is beyond the doubles' digits.
    let power = 10_f64.powi(i32::from(places));
    numbers
        .iter()
        .map(|&number| is_decimal(number, places).then(|| (number * power).round() as i64))
        .collect::<Option<Vec<_>>>()
        .map(|digits| Column::D(places, digits))
}

fn is_decimal(number: f64, places: u8) -> bool {
    let power = 10_f64.powi(i32::from(places));
    let digits = (number * power).round();
    // Compared by bits: a negative zero is no decimal.
    digits.abs() < EXACT_MAX && ((digits as i64) as f64 / power).to_bits() == number.to_bits()
}

/// Extends the last run, or begins one.
fn run<T: PartialEq>(runs: &mut Vec<(T, u32)>, value: T) {
    match runs.last_mut() {
        Some((last, length)) if *last == value => *length += 1,
        _ => runs.push((value, 1)),
    }
}

/// Makes devices, profiles and measurements one `Arc` each over all chunks that are decoded.
#[derive(Debug, Default)]
pub(crate) struct Names {
    names: HashMap<String, Name>,
    measurements: HashMap<(String, Option<String>, u8), Arc<Measurement>>,
}

impl Names {
    /// More names than this and the tables begin anew, so that they stay bounded whatever arrives.
    const NAMES_MAX: usize = 20_000;

    fn name(&mut self, name: String) -> Name {
        if self.names.len() >= Self::NAMES_MAX {
            self.names.clear();
        }
        Arc::clone(self.names.entry(name).or_insert_with_key(|name| Arc::from(name.as_str())))
    }

    fn measurement(&mut self, key: (String, Option<String>, u8)) -> Arc<Measurement> {
        if self.measurements.len() >= Self::NAMES_MAX {
            self.measurements.clear();
        }
        let made = self.measurements.entry(key).or_insert_with_key(|(name, unit, kind)| {
            Arc::new(Measurement {
                name: name.as_str().into(),
                unit: unit.as_deref().map(Into::into),
                kind: if *kind == 0 { MeasurementKind::Gauge } else { MeasurementKind::Counter },
            })
        });
        Arc::clone(made)
    }
}

/// Decodes what [`encode`] wrote.
///
/// # Errors
/// When the bytes are anything else.
pub(crate) fn decode(bytes: &[u8], names: &mut Names) -> Result<Batch, DecodeError> {
    let body: Body = serde_cbor::from_slice(bytes)?;
    Decoder::new(body, names)?.records()
}

struct Decoder {
    stamps: std::vec::IntoIter<Stamp>,
    kinds: std::vec::IntoIter<u8>,
    names: Vec<Name>,
    origins: Vec<(u32, u32)>,
    origin: std::vec::IntoIter<u32>,
    time: std::vec::IntoIter<i64>,
    quality: std::vec::IntoIter<u8>,
    shapes: Vec<Vec<u32>>,
    shape: std::vec::IntoIter<u32>,
    columns: Vec<(Arc<Measurement>, std::vec::IntoIter<Value>)>,
    others: std::vec::IntoIter<Other>,
    measurements: Vec<Arc<Measurement>>,
    marks: std::vec::IntoIter<u8>,
}

const SHORT: DecodeError = DecodeError::Columns("a column is too short");
const INDEX: DecodeError = DecodeError::Columns("an index points nowhere");

impl Decoder {
    fn new(body: Body, names: &mut Names) -> Result<Self, DecodeError> {
        let measurements: Vec<_> = body.measurements.into_iter().map(|key| names.measurement(key)).collect();
        let mut columns = Vec::with_capacity(body.columns.len());
        for (measurement, column) in body.columns {
            let measurement = Arc::clone(measurements.get(measurement as usize).ok_or(INDEX)?);
            columns.push((measurement, values(column).into_iter()));
        }
        Ok(Self {
            stamps: stamps(&body.stamps)?.into_iter(),
            kinds: unroll(&body.kinds)?.into_iter(),
            names: body.names.into_iter().map(|name| names.name(name)).collect(),
            origins: body.origins,
            origin: body.origin.into_iter(),
            time: body.time.into_iter(),
            quality: unroll(&body.quality)?.into_iter(),
            shapes: body.shapes,
            shape: body.shape.into_iter(),
            columns,
            others: body.others.into_iter(),
            measurements,
            marks: unroll(&body.marks)?.into_iter(),
        })
    }

    fn records(mut self) -> Result<Batch, DecodeError> {
        let mut batch = Batch::default();
        batch.records.reserve(self.kinds.len());
        while let Some(kind) = self.kinds.next() {
            let stamp = self.stamps.next().ok_or(SHORT)?;
            let record = match kind {
                READING => Record::Reading(self.reading(stamp, &mut batch.fields)?),
                OTHER => self.other(stamp)?,
                _ => return Err(DecodeError::Columns("an unknown kind of record")),
            };
            batch.records.push(record);
        }
        Ok(batch)
    }

    fn name(&self, index: u32) -> Result<Name, DecodeError> {
        self.names.get(index as usize).cloned().ok_or(INDEX)
    }

    fn reading(&mut self, received: Stamp, fields: &mut Vec<Field>) -> Result<Reading, DecodeError> {
        let origin = self.origin.next().ok_or(SHORT)?;
        let (device, profile) = *self.origins.get(origin as usize).ok_or(INDEX)?;
        let shape = self.shape.next().ok_or(SHORT)?;
        let start = fields.len() as u32;
        for &column in self.shapes.get(shape as usize).ok_or(INDEX)? {
            let (measurement, values) = self.columns.get_mut(column as usize).ok_or(INDEX)?;
            fields.push(Field { measurement: Arc::clone(measurement), value: values.next().ok_or(SHORT)? });
        }
        let time_quality = match self.quality.next().ok_or(SHORT)? {
            0 => TimeQuality::Device,
            1 => TimeQuality::Arrival,
            2 => TimeQuality::Unsynced,
            3 => TimeQuality::Corrected,
            _ => return Err(DecodeError::Columns("an unknown time quality")),
        };
        Ok(Reading {
            device: self.name(device)?,
            profile: self.name(profile)?,
            time_ms: received.wall_ms.wrapping_add(self.time.next().ok_or(SHORT)?),
            time_quality,
            received,
            mark: match self.marks.next().unwrap_or_default() {
                0 => Mark::None,
                1 => Mark::Late,
                2 => Mark::Future,
                _ => return Err(DecodeError::Columns("an unknown mark")),
            },
            fields: start..fields.len() as u32,
        })
    }

    fn other(&mut self, stamp: Stamp) -> Result<Record, DecodeError> {
        Ok(match self.others.next().ok_or(SHORT)? {
            Other::State { device, profile, online } => Record::State(Box::new(DeviceState {
                device: self.name(device)?,
                profile: self.name(profile)?,
                online,
                received: stamp,
            })),
            Other::DeadLetter(letter) => Record::DeadLetter(Box::new(self.letter(letter, stamp)?)),
            Other::Gap { stream, from, to, count, cause } => Record::Gap(Box::new(Gap {
                stream: self.name(stream)?,
                from,
                to,
                count,
                cause: self.name(cause)?,
                at: stamp,
            })),
            Other::StreamEnd { stream, last } => {
                Record::StreamEnd(Box::new(StreamEnd { stream: self.name(stream)?, last, at: stamp }))
            }
            Other::Aggregate(window) => Record::Aggregate(Box::new(Aggregate {
                device: self.name(window.device)?,
                profile: self.name(window.profile)?,
                measurement: self.measurements.get(window.measurement as usize).cloned().ok_or(INDEX)?,
                window: self.name(window.window)?,
                start_ms: window.start,
                end_ms: window.start.wrapping_add(window.length),
                revision: window.revision,
                count: window.count,
                sum: window.sum,
                min: window.min,
                max: window.max,
                first: window.first,
                last: window.last,
                at: stamp,
            })),
        })
    }

    fn letter(&self, letter: Letter, received: Stamp) -> Result<DeadLetter, DecodeError> {
        let serde_cbor::Value::Bytes(payload) = letter.payload else {
            return Err(DecodeError::Columns("a dead letter's payload is not bytes"));
        };
        Ok(DeadLetter {
            source: self.name(letter.source)?,
            origin: letter.origin.into(),
            profile: letter.profile.map(|profile| self.name(profile)).transpose()?,
            received,
            stage: match letter.stage {
                0 => Stage::Source,
                1 => Stage::Decode,
                2 => Stage::Outbox,
                3 => Stage::Uplink,
                _ => return Err(DecodeError::Columns("an unknown stage")),
            },
            reason: Reason::from_code(&letter.reason).ok_or(DecodeError::Columns("an unknown reason"))?,
            detail: letter.detail.into(),
            length: letter.length,
            payload: payload.into(),
        })
    }
}

fn values(column: Column) -> Vec<Value> {
    match column {
        Column::D(places, digits) => {
            let power = 10_f64.powi(i32::from(places));
            digits.into_iter().map(|digits| Value::Number(digits as f64 / power)).collect()
        }
        Column::F(numbers) => numbers.into_iter().map(Value::Number).collect(),
        Column::T(texts) => texts.into_iter().map(|text| Value::Text(text.into())).collect(),
        Column::B(flags) => flags.into_iter().map(Value::Flag).collect(),
    }
}

fn stamps(stamps: &Stamps) -> Result<Vec<Stamp>, DecodeError> {
    let (offset, trusted) = (unroll(&stamps.offset)?, unroll(&stamps.trusted)?);
    if offset.len() != stamps.wall.len() || trusted.len() != stamps.wall.len() {
        return Err(SHORT);
    }
    let mut wall_ms = 0_i64;
    let of = |((step, offset), trusted): ((&i64, i64), u8)| {
        wall_ms = wall_ms.wrapping_add(*step);
        Stamp { wall_ms, monotonic_ms: wall_ms.wrapping_sub(offset) as u64, trusted: trusted != 0 }
    };
    Ok(stamps.wall.iter().zip(offset).zip(trusted).map(of).collect())
}

/// Runs to single values, as long as they stay within what a chunk may hold.
fn unroll<T: Copy>(runs: &[(T, u32)]) -> Result<Vec<T>, DecodeError> {
    let mut values = Vec::new();
    for &(value, length) in runs {
        if values.len() + length as usize > RECORDS_MAX {
            return Err(DecodeError::Columns("more records than a chunk may hold"));
        }
        values.resize(values.len() + length as usize, value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests;
