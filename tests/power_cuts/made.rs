//! What the child appends: readings with numbers of their own, and something beside them that nothing compresses.

use std::sync::Arc;

use tidegate::reading::{Batch, Field, Mark, Measurement, MeasurementKind, Reading, Record, Stamp, TimeQuality, Value};

/// The measurement that carries the numbers.
pub(crate) const NUMBER: &str = "n";
/// Values beside the number, where readings are to be thinned.
const VALUES: usize = 6;

/// Makes readings.
pub(crate) struct Maker {
    number: Arc<Measurement>,
    noise: Arc<Measurement>,
    values: Vec<Arc<Measurement>>,
    /// A text of its own would keep each reading from being thinned.
    in_numbers: bool,
    /// The last number.
    next: u64,
}

impl Maker {
    /// The numbers begin after `next`.
    pub(crate) fn new(next: u64, in_numbers: bool) -> Self {
        let measurement =
            |name: &str| Arc::new(Measurement { name: name.into(), unit: None, kind: MeasurementKind::Gauge });
        let values = (0..VALUES).map(|at| measurement(&format!("value-{at}"))).collect();
        Self { number: measurement(NUMBER), noise: measurement("noise"), values, in_numbers, next }
    }

    /// The number that the next reading gets.
    pub(crate) fn first(&self) -> u64 {
        self.next + 1
    }

    pub(crate) fn readings(&mut self, count: u64, random: &mut fastrand::Rng) -> Batch {
        let mut batch = Batch::default();
        for _ in 0..count {
            let mark = batch.mark();
            self.next += 1;
            let field = |measurement, value| Field { measurement: Arc::clone(measurement), value };
            batch.fields.push(field(&self.number, Value::Number(self.next as f64)));
            if self.in_numbers {
                let values = self.values.iter().map(|of| field(of, Value::Number(random.f64())));
                batch.fields.extend(values);
            } else {
                let text: String = (0..random.usize(1..80)).map(|_| random.alphanumeric()).collect();
                batch.fields.push(field(&self.noise, Value::Text(text.into())));
            }
            batch.records.push(Record::Reading(Reading {
                device: "d".into(),
                profile: "p".into(),
                time_ms: self.next as i64,
                time_quality: TimeQuality::Device,
                received: Stamp { wall_ms: self.next as i64, monotonic_ms: 1, trusted: true },
                mark: Mark::None,
                alarm: None,
                fields: mark..batch.mark(),
            }));
        }
        batch
    }
}
