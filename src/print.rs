//! `tidegate run --print`: readings as they come, for a person or for a file. What a newcomer runs first against their own
//! broker: no Kafka, no data directory, no session left behind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::config::{self, Config};
use crate::outbox::Lane;
use crate::reading::{Aggregate, Batch, Field, Frames, Record, Value};
use crate::uplink::lines::Lines;

/// How readings are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Columns for a person.
    Table,
    /// One record a line, as Kafka would get it.
    Ndjson,
}

/// Prints what the sources decode. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Printer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    printed: watch::Sender<u64>,
    /// Whether whoever read the output has gone.
    closed: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner {
    format: Format,
    lines: Lines,
    /// Subscriptions and ports that have not been heard of, by source.
    silent: Vec<(String, String)>,
    columns: Columns,
    out: Vec<u8>,
    batches: u64,
}

impl Printer {
    /// A printer for the gateway of that configuration. `expected` are pairs of a source and a topic filter (or a port).
    #[must_use]
    pub fn new(config: &Config, format: Format, expected: Vec<(String, String)>) -> Self {
        let inner = Inner {
            format,
            lines: Lines::new(&config.gateway, &config.kafka, Lane::Raw, "print"),
            silent: expected,
            columns: Columns::default(),
            out: Vec::new(),
            batches: 0,
        };
        Self(Arc::new(Shared {
            inner: Mutex::new(inner),
            printed: watch::Sender::new(0),
            closed: watch::Sender::new(false),
        }))
    }

    /// Prints what the frames became, and gives the number that [`Printer::printed`] reaches with it.
    pub(crate) fn print(&self, frames: &Frames, batch: &mut Batch) -> u64 {
        let mut inner = self.0.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for frame in frames.iter().chain(frames.damaged().map(|(frame, _)| frame)) {
            inner.silent.retain(|(_, filter)| !filter_matches(filter, frame.origin));
        }
        inner.write(batch);
        inner.batches += 1;
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(&inner.out).and_then(|()| stdout.flush());
        inner.out.clear();
        if written.is_err() {
            self.0.closed.send_replace(true);
        }
        self.0.printed.send_replace(inner.batches);
        inner.batches
    }

    /// What [`Printer::print`] has given last.
    #[must_use]
    pub fn printed(&self) -> watch::Receiver<u64> {
        self.0.printed.subscribe()
    }

    /// Turns true when nobody reads the output any more.
    #[must_use]
    pub fn closed(&self) -> watch::Receiver<bool> {
        self.0.closed.subscribe()
    }

    /// The subscriptions and ports that nothing came from so far: source and filter.
    #[must_use]
    pub fn silent(&self) -> Vec<(String, String)> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner).silent.clone()
    }
}

impl Inner {
    fn write(&mut self, batch: &mut Batch) {
        if self.format == Format::Ndjson {
            self.lines.write(batch, &mut self.out);
            return;
        }
        self.columns.write(batch, Lane::Raw, &mut self.out);
        batch.clear();
    }
}

/// Shows records in columns, for a person.
#[derive(Debug)]
pub(crate) struct Columns {
    device_width: usize,
}

impl Default for Columns {
    fn default() -> Self {
        Self { device_width: 12 }
    }
}

impl Columns {
    /// Appends a line for each record of a lane to `out`.
    pub(crate) fn write(&mut self, batch: &Batch, lane: Lane, out: &mut Vec<u8>) {
        let mut text = String::new();
        batch.records.iter().for_each(|record| self.record(batch, lane, record, &mut text));
        out.extend_from_slice(text.as_bytes());
    }

    /// Appends a line for a record of that batch; nothing for what only declares.
    pub(crate) fn record(&mut self, batch: &Batch, lane: Lane, record: &Record, text: &mut String) {
        // Writing to a string cannot fail.
        let _ = match record {
            Record::Reading(reading) => {
                self.widen(&reading.device);
                let width = self.device_width;
                let _ = write!(text, "{}  {:width$} ", time_of_day(reading.time_ms), reading.device);
                for field in batch.fields_of(reading) {
                    text.push_str("  ");
                    write_field(text, field);
                }
                if let Some(mark) = reading.mark.as_str() {
                    let _ = write!(text, "  ({mark})");
                }
                match &reading.alarm {
                    Some(rule) => writeln!(text, "  (ALARM {rule})"),
                    None => writeln!(text),
                }
            }
            Record::State(state) => {
                let (time, width) = (time_of_day(state.received.wall_ms), self.device_width);
                writeln!(
                    text,
                    "{time}  {:width$}   is {}",
                    state.device,
                    if state.online { "online" } else { "offline" }
                )
            }
            Record::DeadLetter(letter) => {
                let time = time_of_day(letter.received.wall_ms);
                writeln!(text, "{time}  {}: refused ({}): {}", letter.origin, letter.reason.as_str(), letter.detail)
            }
            Record::Aggregate(aggregate) => {
                self.widen(&aggregate.device);
                let _ = self.aggregate(text, aggregate);
                if lane == Lane::Alarm { writeln!(text, "  (ALARM {})", aggregate.window) } else { writeln!(text) }
            }
            Record::Gap(_) | Record::StreamEnd(_) | Record::Event(_) => Ok(()),
        };
    }
}

impl Columns {
    fn widen(&mut self, device: &str) {
        self.device_width = self.device_width.max(device.chars().count().min(32));
    }

    fn aggregate(&self, text: &mut String, aggregate: &Aggregate) -> std::fmt::Result {
        let Aggregate { device, window, measurement, count, min, max, first, last, revision, .. } = aggregate;
        let (time, width) = (time_of_day(aggregate.start_ms), self.device_width);
        let unit = measurement.unit.as_deref().unwrap_or_default();
        write!(text, "{time}  {device:width$}   [{window}] {} {unit}  count={count}", measurement.name)?;
        if let Some(mean) = aggregate.mean() {
            write!(text, "  mean={mean}")?;
        }
        write!(text, "  min={min}  max={max}  first={first}  last={last}")?;
        if *revision > 1 { write!(text, "  (revision {revision})") } else { Ok(()) }
    }
}

fn write_field(text: &mut String, field: &Field) {
    let name = &field.measurement.name;
    let unit = field.measurement.unit.as_deref().unwrap_or_default();
    let space = if unit.is_empty() { "" } else { " " };
    let _ = match &field.value {
        Value::Number(number) => write!(text, "{name}={number}{space}{unit}"),
        Value::Text(value) => write!(text, "{name}={value:?}"),
        Value::Flag(flag) => write!(text, "{name}={flag}"),
    };
}

fn time_of_day(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map(|time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()).unwrap_or_default()
}

/// Whether a topic is one that a filter asks for (MQTT 3.1.1, 4.7).
fn filter_matches(filter: &str, topic: &str) -> bool {
    let filter = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')).map_or(filter, |(_, rest)| rest);
    let (mut levels, mut topics) = (filter.split('/'), topic.split('/'));
    loop {
        match (levels.next(), topics.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(topic)) if level == topic => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// The configuration as it is used for printing: a session that leaves nothing behind at the broker.
#[must_use]
pub fn without_traces(mut config: Config) -> Config {
    for mqtt in &mut config.mqtt {
        mqtt.session_expiry = std::time::Duration::ZERO;
        mqtt.client_id = None;
        mqtt.retained = match mqtt.retained {
            config::Retained::Drop => config::Retained::Drop,
            config::Retained::First | config::Retained::Keep => config::Retained::First,
        };
    }
    config
}

/// What a person should know of the subscriptions that nothing came from, a line for each source.
#[must_use]
pub fn silence(silent: &[(String, String)]) -> Vec<String> {
    let mut by_source: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (source, filter) in silent {
        by_source.entry(source).or_default().push(filter);
    }
    let line =
        |(source, filters): (&str, Vec<&str>)| format!("nothing came so far on {source}: {}", filters.join(", "));
    by_source.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_standard_says() {
        for (filter, topic, expected) in [
            ("tele/+/SENSOR", "tele/desk/SENSOR", true),
            ("tele/+/SENSOR", "tele/desk/x/SENSOR", false),
            ("zigbee2mqtt/#", "zigbee2mqtt/a/b", true),
            ("zigbee2mqtt/#", "zigbee2mqtt", true),
            ("$share/g/a/+", "a/b", true),
            ("a/b", "a", false),
        ] {
            assert_eq!(filter_matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn silence_is_told_by_source() {
        let silent = [("mqtt.a", "x/#"), ("mqtt.a", "y/+"), ("serial.m", "/dev/x")];
        let silent: Vec<_> = silent.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert_eq!(
            silence(&silent),
            ["nothing came so far on mqtt.a: x/#, y/+", "nothing came so far on serial.m: /dev/x"]
        );
    }
}
