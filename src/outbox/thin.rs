//! Thinning: what of old readings is worth its place when the disk is filling up. Pure.
//!
//! Numbers become an aggregate for each device, measurement and step of event time. Texts and flags stay where they
//! changed. What is no reading (a device's state, a dead letter, a declaration) stays as it is, and so does a reading whose
//! time is not known: an aggregate of it would claim to know.
//!
//! Invariants: every value that goes in is in exactly one aggregate, or in a reading that stays, or equal to the one that
//! stayed before it; the outcome does not depend on how the records were cut into batches.

use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;

use super::pending::{boxed_bytes, text_bytes};

use crate::reading::{Aggregate, Batch, Field, Measurement, Name, Origin, Reading, Record, Stamp, TimeQuality, Value};
use crate::sum::Sum;

/// The name that stands in place of a rule's.
const WINDOW: &str = "thinned";

/// Takes records in and gives what stands for them.
#[derive(Debug)]
pub(crate) struct Thinner {
    step_ms: i64,
    at: Stamp,
    window: Name,
    /// By the step's beginning, and the series.
    steps: HashMap<(i64, usize), Values>,
    series: Vec<Series>,
    by_name: HashMap<Series, usize>,
    /// The same by where its parts lie in memory, which is quicker; these are held for as long as they are known.
    by_place: HashMap<[usize; 3], (usize, Place)>,
    /// The last text or flag of each series that stayed.
    last: HashMap<usize, Value>,
    kept: Batch,
    readings: u64,
}

/// Device, measurement's name, profile.
type Series = (Name, Box<str>, Name);
type Place = (Name, Arc<Measurement>, Name);

#[derive(Debug)]
struct Values {
    measurement: Arc<Measurement>,
    count: u64,
    sum: Sum,
    min: f64,
    max: f64,
    /// With their times.
    first: (i64, f64),
    last: (i64, f64),
}

/// What stands for the records that went in.
#[derive(Debug)]
pub(crate) struct Thinned {
    pub(crate) batch: Batch,
    /// Readings that went in and did not stay.
    pub(crate) readings: u64,
    pub(crate) aggregates: u64,
}

impl Thinner {
    /// `step` is at least a millisecond; `at` is the moment at which it is done.
    pub(crate) fn new(step: Duration, at: Stamp) -> Self {
        Self {
            step_ms: i64::try_from(step.as_millis()).unwrap_or(i64::MAX).max(1),
            at,
            window: WINDOW.into(),
            steps: HashMap::default(),
            series: Vec::new(),
            by_name: HashMap::default(),
            by_place: HashMap::default(),
            last: HashMap::default(),
            kept: Batch::default(),
            readings: 0,
        }
    }

    /// Takes in the record at `index` of `batch`.
    pub(crate) fn add(&mut self, batch: &Batch, index: usize) {
        let Some(record) = batch.records.get(index) else { return };
        let Record::Reading(reading) = record else {
            self.kept.records.push(record.clone());
            return;
        };
        let fields = batch.fields_of(reading);
        if reading.time_quality == TimeQuality::Unsynced || fields.is_empty() {
            return self.keep(reading, fields.to_vec());
        }
        let mut stay = Vec::new();
        for field in fields {
            match field.value {
                Value::Number(value) => self.count(reading, &field.measurement, value),
                Value::Text(_) | Value::Flag(_) => {
                    let series = self.series(reading, &field.measurement);
                    if self.last.get(&series) != Some(&field.value) {
                        self.last.insert(series, field.value.clone());
                        stay.push(field.clone());
                    }
                }
            }
        }
        if stay.is_empty() {
            // What did not change, or went into an aggregate.
            self.readings += 1;
        } else {
            self.keep(reading, stay);
        }
    }

    fn keep(&mut self, reading: &Reading, fields: Vec<Field>) {
        let start = self.kept.mark();
        self.kept.fields.extend(fields);
        self.kept.records.push(Record::Reading(Reading { fields: start..self.kept.mark(), ..reading.clone() }));
    }

    fn series(&mut self, reading: &Reading, measurement: &Arc<Measurement>) -> usize {
        let Reading { device, profile, .. } = reading;
        let place = [device.as_ptr().addr(), Arc::as_ptr(measurement).addr(), profile.as_ptr().addr()];
        if let Some((series, _)) = self.by_place.get(&place) {
            return *series;
        }
        let name = (Arc::clone(device), measurement.name.clone(), Arc::clone(profile));
        let series = *self.by_name.entry(name).or_insert_with_key(|name| {
            self.series.push(name.clone());
            self.series.len() - 1
        });
        let held = (Arc::clone(device), Arc::clone(measurement), Arc::clone(profile));
        self.by_place.insert(place, (series, held));
        series
    }

    fn count(&mut self, reading: &Reading, measurement: &Arc<Measurement>, value: f64) {
        // Of times that no step can hold the nearest that one can: a device with such a clock has no better.
        let start = reading.time_ms.div_euclid(self.step_ms).saturating_mul(self.step_ms);
        let at = (reading.time_ms, value);
        let series = self.series(reading, measurement);
        let values = self.steps.entry((start, series)).or_insert_with(|| Values {
            measurement: Arc::clone(measurement),
            count: 0,
            sum: Sum::default(),
            min: value,
            max: value,
            first: at,
            last: at,
        });
        values.count += 1;
        values.sum.add(value);
        values.min = values.min.min(value);
        values.max = values.max.max(value);
        // The order of arrival makes no difference.
        let earlier = |a: (i64, f64), b: (i64, f64)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).is_lt();
        if earlier(at, values.first) {
            values.first = at;
        }
        if earlier(values.last, at) {
            values.last = at;
        }
    }

    /// Bytes of memory that it takes, about.
    pub(crate) fn bytes(&self) -> u64 {
        let texts: usize = self.kept.fields.iter().map(|field| text_bytes(&field.value)).sum();
        let records: usize = self.kept.records.iter().map(boxed_bytes).sum();
        let kept = self.kept.records.len() * size_of::<Record>() + self.kept.fields.len() * size_of::<Field>();
        (texts + records + kept + self.steps.len() * (size_of::<Values>() + 32)) as u64
    }

    /// What stands for all of it: what stayed, in its order, then the aggregates by time.
    pub(crate) fn finish(self) -> Thinned {
        let mut batch = self.kept;
        let aggregates = self.steps.len() as u64;
        let mut steps: Vec<_> = self.steps.into_iter().collect();
        steps.sort_unstable_by(|((start, a), _), ((other, b), _)| {
            start.cmp(other).then_with(|| self.series[*a].cmp(&self.series[*b]))
        });
        for ((start_ms, series), values) in steps {
            let (device, _, profile) = self.series[series].clone();
            batch.records.push(Record::Aggregate(Box::new(Aggregate {
                device,
                profile,
                measurement: values.measurement,
                origin: Origin::Thinned,
                window: Arc::clone(&self.window),
                start_ms,
                end_ms: start_ms.saturating_add(self.step_ms),
                revision: 1,
                count: values.count,
                sum: values.sum.value(),
                min: values.min,
                max: values.max,
                first: values.first.1,
                last: values.last.1,
                at: self.at,
            })));
        }
        Thinned { batch, readings: self.readings, aggregates }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{Mark, MeasurementKind};

    const AT: Stamp = Stamp { wall_ms: 9_000_000, monotonic_ms: 9, trusted: true };

    fn push(batch: &mut Batch, device: &str, time_ms: i64, quality: TimeQuality, values: &[(&str, Value)]) {
        let start = batch.mark();
        batch.fields.extend(values.iter().map(|(name, value)| Field {
            measurement: Arc::new(Measurement { name: (*name).into(), unit: None, kind: MeasurementKind::Gauge }),
            value: value.clone(),
        }));
        batch.records.push(Record::Reading(Reading {
            device: device.into(),
            profile: "p".into(),
            time_ms,
            time_quality: quality,
            received: AT,
            mark: Mark::None,
            alarm: None,
            fields: start..batch.mark(),
        }));
    }

    fn thin(batch: &Batch, step: Duration) -> Thinned {
        let mut thinner = Thinner::new(step, AT);
        (0..batch.len()).for_each(|index| thinner.add(batch, index));
        thinner.finish()
    }

    fn show(thinned: &Thinned) -> Vec<String> {
        let show = |record: &Record| match record {
            Record::Aggregate(a) => format!(
                "{} {} {}..{}: {} {:?} {} {} {} {}",
                a.device, a.measurement.name, a.start_ms, a.end_ms, a.count, a.sum, a.min, a.max, a.first, a.last
            ),
            Record::Reading(r) => {
                let fields = thinned.batch.fields_of(r).iter().map(|f| format!("{} {:?}", f.measurement.name, f.value));
                format!("{} {}: {}", r.device, r.time_ms, fields.collect::<Vec<_>>().join(", "))
            }
            other => other.kind().to_owned(),
        };
        thinned.batch.records.iter().map(show).collect()
    }

    #[test]
    fn numbers_become_aggregates_and_changes_of_texts_and_flags_stay() {
        let mut batch = Batch::default();
        let on = Value::Flag(true);
        let n = |n: f64| Value::Number(n);
        push(&mut batch, "a", 1_500, TimeQuality::Device, &[("t", n(3.0)), ("on", on.clone())]);
        push(&mut batch, "a", 1_000, TimeQuality::Device, &[("t", n(1.0)), ("on", on)]);
        push(&mut batch, "b", 1_100, TimeQuality::Arrival, &[("t", n(0.1))]);
        push(&mut batch, "a", 2_000, TimeQuality::Device, &[("t", n(7.0)), ("on", Value::Flag(false))]);
        push(&mut batch, "a", -1, TimeQuality::Device, &[("t", n(5.0))]);
        push(&mut batch, "c", 70, TimeQuality::Unsynced, &[("t", n(5.0))]);
        let thinned = thin(&batch, Duration::from_secs(1));
        assert_eq!(
            show(&thinned),
            [
                "a 1500: on Flag(true)",
                "a 2000: on Flag(false)",
                "c 70: t Number(5.0)",
                "a t -1000..0: 1 Some(5.0) 5 5 5 5",
                "a t 1000..2000: 2 Some(4.0) 1 3 1 3",
                "b t 1000..2000: 1 Some(0.1) 0.1 0.1 0.1 0.1",
                "a t 2000..3000: 1 Some(7.0) 7 7 7 7",
            ]
        );
        assert_eq!((thinned.readings, thinned.aggregates), (3, 4));
    }

    #[test]
    fn the_cut_into_batches_makes_no_difference() {
        let mut all = Batch::default();
        let mut cut = vec![Batch::default()];
        for n in 0..500_i64 {
            let value = Value::Number((n * 37 % 101) as f64 / 10.0);
            let text = Value::Text((n / 60).to_string().into());
            let device = if n % 3 == 0 { "a" } else { "b" };
            if n % 7 == 0 {
                cut.push(Batch::default());
            }
            for batch in [&mut all, cut.last_mut().unwrap()] {
                push(batch, device, n * 41, TimeQuality::Device, &[("v", value.clone()), ("s", text.clone())]);
            }
        }
        let mut thinner = Thinner::new(Duration::from_secs(5), AT);
        for batch in &cut {
            (0..batch.len()).for_each(|index| thinner.add(batch, index));
        }
        let parts = thinner.finish();
        assert_eq!(show(&parts), show(&thin(&all, Duration::from_secs(5))));
        let counted: u64 =
            parts.batch.records.iter().map(|r| if let Record::Aggregate(a) = r { a.count } else { 0 }).sum();
        assert_eq!(counted, 500, "every value is in one aggregate");
    }

    #[test]
    fn times_that_no_step_can_hold_do_not_stop_it() {
        let mut batch = Batch::default();
        for time in [i64::MIN, i64::MAX, 0] {
            push(&mut batch, "a", time, TimeQuality::Device, &[("t", Value::Number(1.0))]);
        }
        assert_eq!(thin(&batch, Duration::from_secs(3_600)).aggregates, 3);
    }
}
