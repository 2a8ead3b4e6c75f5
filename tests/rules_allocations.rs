//! The rules allocate nothing for a reading of a known device.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used)]

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tidegate::config;
use tidegate::counters::Counters;
use tidegate::reading::{
    Batch, Field, Mark, Measurement, MeasurementKind, Name, Reading, Record, Stamp, TimeQuality, Value,
};
use tidegate::rules::{Left, Made, Rules};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const START_MS: i64 = 1_777_896_000_000;
const DEVICES: usize = 100;

fn settings() -> config::Rules {
    let select =
        |measurement: &str| config::Select { measurements: vec![measurement.to_owned()], ..config::Select::default() };
    let deadband = config::Deadband { absolute: Some(0.2), percent: None, at_least_every: None };
    config::Rules {
        filters: vec![config::Filter {
            name: "changes".into(),
            select: select("temperature"),
            action: config::FilterAction::Test,
            range: None,
            deadband: Some(deadband),
            min_interval: None,
            alarm: None,
        }],
        windows: vec![config::Window {
            name: "minute".into(),
            select: select("*"),
            every: Duration::from_secs(60),
            time_zone: None,
            lateness: Duration::from_secs(10),
            update_within: None,
            forward_raw: true,
            alarm: None,
        }],
        series_max: 10_000,
        open_windows_max: 50_000,
        state_bytes_max: 16 << 20,
        future_max: Duration::from_secs(300),
    }
}

/// One reading of each device at that second, two values in each.
fn batch(devices: &[Name], measurements: &[Arc<Measurement>], second: i64) -> Batch {
    let mut batch = Batch::default();
    for (n, device) in devices.iter().enumerate() {
        let mark = batch.mark();
        let values = [20.0 + (second % 7) as f64 / 10.0, 40.0 + n as f64];
        let fields = measurements.iter().zip(values);
        batch.fields.extend(
            fields.map(|(measurement, value)| Field {
                measurement: Arc::clone(measurement),
                value: Value::Number(value),
            }),
        );
        let time_ms = START_MS + second * 1_000;
        batch.records.push(Record::Reading(Reading {
            device: Arc::clone(device),
            profile: Arc::clone(&devices[0]),
            time_ms,
            time_quality: TimeQuality::Device,
            received: Stamp { wall_ms: time_ms, monotonic_ms: second as u64 * 1_000, trusted: true },
            mark: Mark::None,
            alarm: None,
            fields: mark..batch.mark(),
        }));
    }
    batch
}

#[test]
fn nothing_is_allocated_for_a_reading_of_a_known_device() {
    let devices: Vec<Name> = (0..DEVICES).map(|n| format!("device-{n}").into()).collect();
    let measurement =
        |name: &str| Arc::new(Measurement { name: name.into(), unit: None, kind: MeasurementKind::Gauge });
    let measurements = [measurement("temperature"), measurement("humidity")];
    let mut rules = Rules::restore(&settings(), Left::default(), Stamp::default(), &Counters::default());
    let mut made = Made::default();
    // Three minutes, so that windows have opened and closed.
    for second in 0..196 {
        rules.apply(&mut batch(&devices, &measurements, second), &mut made);
        while rules.take_journal().is_some() {}
        made.clear();
    }
    // Within a minute: no window closes.
    let batches: Vec<Batch> = (196..236).map(|second| batch(&devices, &measurements, second)).collect();
    let mut kept = 0;
    let mut allocations = 0;
    for mut batch in batches {
        let region = Region::new(ALLOCATOR);
        rules.apply(&mut batch, &mut made);
        let change = region.change();
        allocations += change.allocations + change.reallocations;
        kept += batch.len();
        while rules.take_journal().is_some() {}
    }
    assert_eq!(kept, 40 * DEVICES, "humidity is forwarded");
    assert_eq!(allocations, 0, "allocations in 40 batches of {DEVICES} readings");
}
