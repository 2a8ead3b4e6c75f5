//! A bed to try rules in: readings in seconds from a fixed noon, and what came of them as text.

mod alarms;
mod filters;
mod format;
mod limits;
mod properties;
mod restart;
mod windows;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::{Filter, FilterAction, Select, Window};
use crate::counters::Count;
use crate::reading::{Aggregate, Field, Mark, Measurement, MeasurementKind, Name, Reading, TimeQuality, Value};

/// 2026-05-04T12:00:00Z
const NOON: i64 = 1_777_896_000_000;

fn settings(filters: &[Filter], windows: &[Window]) -> config::Rules {
    config::Rules {
        filters: filters.to_vec(),
        windows: windows.to_vec(),
        series_max: 10_000,
        open_windows_max: 50_000,
        state_bytes_max: 16 << 20,
        future_max: Duration::from_secs(300),
    }
}

fn texts(patterns: &[&str]) -> Vec<String> {
    patterns.iter().map(|pattern| (*pattern).to_owned()).collect()
}

fn select(devices: &[&str], measurements: &[&str]) -> Select {
    Select { devices: texts(devices), measurements: texts(measurements) }
}

/// Windows of so many seconds over all values.
fn window(name: &str, every: u64, lateness: u64) -> Window {
    Window {
        name: name.to_owned(),
        select: Select::default(),
        every: Duration::from_secs(every),
        time_zone: None,
        lateness: Duration::from_secs(lateness),
        update_within: None,
        forward_raw: false,
        alarm: None,
    }
}

fn filter(name: &str, select: Select) -> Filter {
    let action = FilterAction::Test;
    Filter { name: name.to_owned(), select, action, range: None, deadband: None, min_interval: None, alarm: None }
}

/// Rules at work.
struct Bed {
    settings: config::Rules,
    counters: Counters,
    rules: Rules,
    now: Stamp,
    quality: TimeQuality,
    devices: HashMap<String, Name>,
    made: Made,
    checkpoint: Option<Vec<u8>>,
    journal: Vec<Piece>,
}

impl Bed {
    fn new(settings: config::Rules) -> Self {
        let now = Stamp { wall_ms: NOON + 3_600_000, monotonic_ms: 1_000_000, trusted: true };
        let counters = Counters::default();
        Self {
            rules: Rules::restore(&settings, Left::default(), now, &counters),
            settings,
            counters,
            now,
            quality: TimeQuality::Device,
            devices: HashMap::new(),
            made: Made::default(),
            checkpoint: None,
            journal: Vec::new(),
        }
    }

    fn reading(&mut self, batch: &mut Batch, device: &str, time_s: f64, fields: &[(&str, Value)]) {
        let name = self.devices.entry(device.to_owned()).or_insert_with(|| device.into());
        let start = batch.mark();
        batch.fields.extend(fields.iter().map(|(name, value)| {
            let measurement = Measurement { name: (*name).into(), unit: None, kind: MeasurementKind::Gauge };
            Field { measurement: Arc::new(measurement), value: value.clone() }
        }));
        batch.records.push(Record::Reading(Reading {
            device: Name::clone(name),
            profile: "generic/json".into(),
            time_ms: NOON + (time_s * 1000.0).round() as i64,
            time_quality: self.quality,
            received: self.now,
            mark: Mark::None,
            alarm: None,
            fields: start..batch.mark(),
        }));
    }

    /// Sends a reading; what of it is forwarded.
    fn values(&mut self, device: &str, time_s: f64, fields: &[(&str, Value)]) -> String {
        let mut batch = Batch::default();
        self.reading(&mut batch, device, time_s, fields);
        self.rules.apply(&mut batch, &mut self.made);
        self.take();
        shown(&batch)
    }

    /// Sends a number `v` of the device `d`; what of it is forwarded.
    fn send(&mut self, time_s: f64, value: f64) -> String {
        self.values("d", time_s, &[("v", Value::Number(value))])
    }

    fn take(&mut self) {
        self.journal.extend(std::iter::from_fn(|| self.rules.take_journal()));
    }

    /// Lets time go by.
    fn pass(&mut self, seconds: u64) {
        self.now.monotonic_ms += seconds * 1000;
        self.now.wall_ms += seconds as i64 * 1000;
        self.rules.tick(self.now, &mut self.made);
        self.take();
    }

    fn save(&mut self) {
        self.checkpoint = Some(self.rules.checkpoint());
        self.take();
    }

    /// Ends this run and begins another, by these settings.
    fn restart_with(&mut self, settings: config::Rules) {
        let left = Left { checkpoint: self.checkpoint.clone(), journal: self.journal.clone() };
        self.rules = Rules::restore(&settings, left, self.now, &self.counters);
        self.settings = settings;
        self.devices.clear();
        self.take();
    }

    /// Goes over to other rules while it runs.
    fn reload_with(&mut self, settings: config::Rules) {
        self.rules.change(&settings, &self.counters);
        self.settings = settings;
        self.take();
    }

    fn restart(&mut self) {
        self.restart_with(self.settings.clone());
    }

    /// The aggregates since the last call.
    fn made(&mut self) -> Vec<String> {
        self.made.aggregates.records.drain(..).map(|record| told(&record)).collect()
    }

    /// The alarms since the last call: readings by what is in them and their rule, aggregates by their window.
    fn alarms(&mut self) -> Vec<String> {
        let alarms = std::mem::take(&mut self.made.alarms);
        let told = |record: &Record| match record {
            Record::Reading(reading) => {
                let one = Batch { records: vec![record.clone()], fields: alarms.fields.clone() };
                format!("{}: {} by {}", reading.device, shown(&one), reading.alarm.as_deref().unwrap_or("no rule"))
            }
            _ => told(record),
        };
        alarms.records.iter().map(told).collect()
    }

    fn count(&self, count: Count, label: &str) -> u64 {
        self.counters.counter(count, label).get()
    }
}

fn told(record: &Record) -> String {
    let Record::Aggregate(aggregate) = record else { panic!("no aggregate: {record:?}") };
    let Aggregate { device, measurement, window, revision, count, min, max, first, last, .. } = &**aggregate;
    let (start, length) = ((aggregate.start_ms - NOON) / 1000, (aggregate.end_ms - aggregate.start_ms) / 1000);
    let sum = aggregate.sum.map_or("none".to_owned(), |sum| sum.to_string());
    let name = &measurement.name;
    format!("{window} {device}/{name} {start}+{length} r{revision} n{count} sum {sum} {min}..{max} {first}->{last}")
}

/// What is left of a batch, as text.
fn shown(batch: &Batch) -> String {
    let mut text = String::new();
    for record in &batch.records {
        let Record::Reading(reading) = record else {
            text.push_str(record.kind());
            continue;
        };
        for field in batch.fields_of(reading) {
            let value = match &field.value {
                Value::Number(number) => number.to_string(),
                Value::Text(text) => text.to_string(),
                Value::Flag(flag) => flag.to_string(),
            };
            let space = if text.is_empty() { "" } else { " " };
            write!(text, "{space}{}={value}", field.measurement.name).unwrap();
        }
        if let Some(mark) = reading.mark.as_str() {
            write!(text, " {mark}").unwrap();
        }
    }
    text
}
