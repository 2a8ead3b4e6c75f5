//! The outbox: opened, filled commit by commit, closed, opened again, and read back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::place;
use super::report::{Check, Measured};
use crate::clock;
use crate::config::Config;
use crate::counters::{Count, Counters};
use crate::outbox::{Closer, Lane, OpenError, Options, Outbox};
use crate::reading::{
    Batch, Field, Mark, Measurement, MeasurementKind, Reading, Receipt, Record, Stamp, TimeQuality, Value,
};
use crate::status::report::process;

/// So many commits are made, of so many readings each …
const COMMITS_MAX: usize = 50;
const READINGS_EACH: u64 = 20;
/// … but for no longer than this, once there are enough for a median.
const COMMITTING_MAX: Duration = Duration::from_secs(8);
const COMMITS_MIN: usize = 5;
/// A disk that takes longer for one commit is of no use.
const COMMIT_MAX: Duration = Duration::from_secs(30);
/// All of it is in one segment, so reading it takes a moment.
const READ_MAX: Duration = Duration::from_secs(20);
/// A commit that takes this long is worth a remark, however rare.
const SLOW: Duration = Duration::from_secs(1);

/// The readings of this test, and what must come out of each part of it.
pub(super) struct Readings {
    measurements: [Arc<Measurement>; 4],
    received: Stamp,
}

impl Readings {
    pub(super) fn new(received: Stamp) -> Self {
        let measurement =
            |name: &str| Arc::new(Measurement { name: name.into(), unit: None, kind: MeasurementKind::Gauge });
        Self { measurements: ["n", "level", "text", "even"].map(measurement), received }
    }

    /// What reading `n` says: a whole number, one below zero with a fraction, a text beyond ASCII, a flag.
    fn values(n: u64) -> [Value; 4] {
        let whole = n as f64;
        [
            Value::Number(whole),
            Value::Number(whole / 8.0 - 40.1),
            Value::Text(format!("Prüfung {n}: 21 °C").into()),
            Value::Flag(n.is_multiple_of(2)),
        ]
    }

    /// Reading `n` with its measurements' names.
    pub(super) fn named(&self, n: u64) -> impl Iterator<Item = (&str, Value)> {
        self.measurements.iter().map(|measurement| &*measurement.name).zip(Self::values(n))
    }

    fn push(&self, n: u64, batch: &mut Batch) {
        let mark = batch.mark();
        let fields = self.measurements.iter().zip(Self::values(n));
        batch.fields.extend(fields.map(|(measurement, value)| Field { measurement: Arc::clone(measurement), value }));
        batch.records.push(Record::Reading(Reading {
            device: "selftest".into(),
            profile: "selftest".into(),
            time_ms: self.received.wall_ms,
            time_quality: TimeQuality::Device,
            received: self.received,
            mark: Mark::None,
            alarm: None,
            fields: mark..batch.mark(),
        }));
    }
}

pub(super) fn open(directory: &Path, config: &Config, counters: &Counters) -> Result<(Outbox, Closer), Check> {
    let options = Options {
        data_dir: directory.to_owned(),
        receipts_max: Receipt::KEPT_MIN.into(),
        machine: crate::gateway::machine_id(),
    };
    let opened = Outbox::open(&config.outbox, &options, counters).map(|(outbox, closer, _)| (outbox, closer));
    opened.map_err(|error| {
        let help = match &error {
            OpenError::Directory { source, .. } => place::help(source, directory),
            _ => None,
        };
        Check::failed("outbox", error.to_string(), help)
    })
}

/// Fills an outbox and reads it back; what remains in it is for the uplink.
pub(super) async fn store(directory: &Path, config: &Config, measured: &mut Measured) -> Result<Vec<Check>, Check> {
    let readings = Readings::new(clock::stamp());
    let counters = Counters::default();
    let (outbox, closer) = open(directory, config, &counters)?;
    let written_before = process().disk_written_bytes;
    let mut times = Vec::new();
    let begun = clock::instant();
    while times.len() < COMMITS_MAX && (times.len() < COMMITS_MIN || begun.elapsed() < COMMITTING_MAX) {
        let mut batch = Batch::default();
        let first = times.len() as u64 * READINGS_EACH + 1;
        (first..first + READINGS_EACH).for_each(|n| readings.push(n, &mut batch));
        let started = clock::instant();
        let number = outbox.append(Lane::Raw, &mut batch, None, &[]);
        outbox.hurry();
        let mut durable = outbox.durable();
        if tokio::time::timeout(COMMIT_MAX, durable.wait_for(|durable| *durable >= number)).await.is_err() {
            let errors = counters.counter(Count::CommitErrors, "").get();
            let found =
                format!("commit {} did not come to an end within {COMMIT_MAX:?} ({errors} errors)", times.len() + 1);
            let help = "the log lines above say why; the disk is full, hangs, or is failing (`dmesg`)";
            return Err(Check::failed("outbox", found, Some(help.to_owned())));
        }
        times.push(started.elapsed());
    }
    let count = times.len() as u64 * READINGS_EACH;
    measured.written_bytes = Some(process().disk_written_bytes.saturating_sub(written_before));
    measured.stored_bytes = Some(outbox.backlog().bytes);
    drop(outbox);
    closer.close().map_err(|error| Check::failed("outbox", error.to_string(), None))?;

    let (outbox, closer) = open(directory, config, &counters)?;
    let read = read_back(&outbox, &readings, count).await;
    drop(outbox);
    closer.close().map_err(|error| Check::failed("outbox", error.to_string(), None))?;
    read.map_err(|found| {
        let help = "the disk does not give back what it was given, or this build is broken: try another disk";
        Check::failed("outbox", found, Some(help.to_owned()))
    })?;
    let commits = times.len();
    let stored = format!("{count} readings in {commits} commits stored; closed, opened again, all of them read back");
    Ok(vec![Check::ok("outbox", stored), speed(times, config, measured)])
}

async fn read_back(outbox: &Outbox, readings: &Readings, count: u64) -> Result<(), String> {
    let mut reader = outbox.reader();
    let mut next = 1;
    let reading = async {
        while next <= count {
            let stored = reader.next().await.map_err(|error| error.to_string())?;
            for record in &stored.batch.records {
                let Record::Reading(reading) = record else { continue };
                let fields =
                    stored.batch.fields_of(reading).iter().map(|field| (&*field.measurement.name, &field.value));
                let same =
                    fields.eq(readings.named(next).collect::<Vec<_>>().iter().map(|(name, value)| (*name, value)));
                if !same || *reading.device != *"selftest" {
                    return Err(format!("reading {next} of {count} came back changed"));
                }
                next += 1;
            }
        }
        Ok(())
    };
    let read = tokio::time::timeout(READ_MAX, reading).await;
    read.unwrap_or_else(|_| Err(format!("only {} of {count} readings came back within {READ_MAX:?}", next - 1)))
}

/// Whether the disk is fast enough for the default of `commit_interval`.
fn speed(mut times: Vec<Duration>, config: &Config, measured: &mut Measured) -> Check {
    times.sort_unstable();
    let (median, max) = (times[times.len() / 2], times.last().copied().unwrap_or_default());
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    measured.commits = Some(times.len());
    (measured.commit_median_ms, measured.commit_max_ms) = (Some(ms(median)), Some(ms(max)));
    // The kernel counts nothing for some file systems, an overlay among them.
    let written = measured.written_bytes.filter(|bytes| *bytes > 0);
    let each = written
        .map_or_else(String::new, |bytes| format!("; {} written for each", super::size(bytes / times.len() as u64)));
    let found = format!("{:.1} ms each with fsync, the slowest {:.1} ms{each}", ms(median), ms(max));
    let interval = config.outbox.commit_interval;
    if median > interval {
        let longer = (ms(median) * 2.0 / 100.0).ceil() * 100.0;
        let help = format!(
            "that is longer than commit_interval ({} ms): set it to \"{longer} ms\" or so below [outbox.advanced], so that \
             each commit covers more; acknowledgements to MQTT brokers wait for it",
            interval.as_millis()
        );
        Check::note("commits", found, help)
    } else if max > SLOW {
        let help = "alarms and acknowledgements wait as long; some cards do that now and then, a better one does not";
        Check::note("commits", found, help)
    } else {
        Check::ok("commits", found)
    }
}
