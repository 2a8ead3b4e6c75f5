//! From columns to records. Nothing in here trusts an index or a length.

use std::sync::Arc;

use foldhash::HashMap;

use super::{Body, Column, DecodeError, Letter, OTHER, Other, READING, RECORDS_MAX, Stamps};
use crate::reading::{
    Aggregate, Batch, DeadLetter, DeviceState, Event, EventKind, Field, Gap, Mark, Measurement, MeasurementKind, Name,
    Origin, Reading, Reason, Record, Stage, Stamp, StreamEnd, TimeQuality, Value,
};

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

pub(super) struct Decoder {
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
    alarms: std::vec::IntoIter<u32>,
}

const SHORT: DecodeError = DecodeError::Columns("a column is too short");
const INDEX: DecodeError = DecodeError::Columns("an index points nowhere");

impl Decoder {
    pub(super) fn new(body: Body, names: &mut Names) -> Result<Self, DecodeError> {
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
            alarms: unroll(&body.alarms)?.into_iter(),
        })
    }

    pub(super) fn records(mut self) -> Result<Batch, DecodeError> {
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
            alarm: match self.alarms.next().unwrap_or_default() {
                0 => None,
                number => Some(self.name(number - 1)?),
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
            Other::Gap { stream, from, to, count, cause, replaced_by } => Record::Gap(Box::new(Gap {
                stream: self.name(stream)?,
                from,
                to,
                count,
                cause: self.name(cause)?,
                replaced_by: replaced_by.map(|stream| self.name(stream)).transpose()?,
                at: stamp,
            })),
            Other::StreamEnd { stream, last } => {
                Record::StreamEnd(Box::new(StreamEnd { stream: self.name(stream)?, last, at: stamp }))
            }
            Other::Event { event, detail } => Record::Event(Box::new(Event {
                event: EventKind::from_word(&event).ok_or(DecodeError::Columns("an unknown event"))?,
                detail: detail.into(),
                at: stamp,
            })),
            Other::Aggregate(window) => Record::Aggregate(Box::new(Aggregate {
                device: self.name(window.device)?,
                profile: self.name(window.profile)?,
                measurement: self.measurements.get(window.measurement as usize).cloned().ok_or(INDEX)?,
                origin: if window.thinned { Origin::Thinned } else { Origin::Window },
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
