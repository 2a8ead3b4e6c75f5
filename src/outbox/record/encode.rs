//! From records to columns.

use std::sync::Arc;

use foldhash::HashMap;

use super::{Body, Column, DECIMALS_MAX, EXACT_MAX, Letter, OTHER, Other, READING, Window};
use crate::reading::{Batch, Field, Measurement, Origin, Reading, Record, Stamp, Value};

#[derive(Default)]
pub(super) struct Encoder<'a> {
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
    pub(super) fn with_capacity(count: usize) -> Self {
        let mut encoder = Self { count, ..Self::default() };
        let body = &mut encoder.body;
        body.stamps.wall.reserve_exact(count);
        for column in [&mut body.origin, &mut body.shape] {
            column.reserve_exact(count);
        }
        body.time.reserve_exact(count);
        encoder
    }

    pub(super) fn push(&mut self, batch: &'a Batch, record: &'a Record) {
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
        let alarm = reading.alarm.as_ref().map_or(0, |rule| self.name(rule) + 1);
        run(&mut self.body.alarms, alarm);
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
                replaced_by: gap.replaced_by.as_ref().map(|stream| self.name(stream)),
            },
            Record::StreamEnd(end) => Other::StreamEnd { stream: self.name(&end.stream), last: end.last },
            Record::Event(event) => {
                Other::Event { event: event.event.as_str().to_owned(), detail: event.detail.to_string() }
            }
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
                thinned: aggregate.origin == Origin::Thinned,
            }),
        })
    }

    pub(super) fn finish(mut self) -> Body {
        if let [(0, _)] = self.body.marks[..] {
            self.body.marks.clear();
        }
        if let [(0, _)] = self.body.alarms[..] {
            self.body.alarms.clear();
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
pub(super) fn decimals(numbers: &[f64]) -> Option<Column> {
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
