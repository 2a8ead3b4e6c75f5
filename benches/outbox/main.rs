//! What the outbox alone costs, with real commits on a real disk: filling it, starting with what it holds, draining it.
//!
//! ```text
//! cargo bench --bench outbox -- [--backlog 1GiB] [--seconds 10] [--dir DIRECTORY]
//! ```
//!
//! Each step is a process of its own, so that its peak of memory is its own; what is written is killed, not closed, so that
//! a start is one after a crash. Counts and ratios hold on a shared machine, single times do not.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement has nobody to hand an error to but its reader, and is about the clock"
)]

#[path = "../end-to-end/cost.rs"]
mod cost;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use comfy_table::Table;
use tidegate::config::Config;
use tidegate::counters::Counters;
use tidegate::outbox::{Closer, Lane, Options, Outbox, Stored};
use tidegate::reading::{
    Batch, Field, Mark, Measurement, MeasurementKind, Name, Reading, Record, Stamp, TimeQuality, Value,
};

use self::cost::Cost;

/// One commit every 20 ms, as the figure asks.
const COMMIT_INTERVAL: Duration = Duration::from_millis(20);
const RATE: u64 = 50_000;
const DEVICES: u64 = 100;
/// SIGKILL
const KILLED: i32 = 9;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test --benches` runs this with `--test`, and wants no measurement.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let value = |key: &str| Some(arguments.get(arguments.iter().position(|argument| argument == key)? + 1)?.clone());
    let seconds: u64 = value("--seconds").map_or(10, |text| text.parse().unwrap());
    let backlog = value("--backlog").unwrap_or_else(|| "1GiB".to_owned());
    let (number, unit) = backlog.split_at(backlog.find(char::is_alphabetic).unwrap_or(backlog.len()));
    let scale = match unit {
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => panic!("--backlog takes a size such as 512MiB or 10GiB"),
    };
    let backlog_bytes: u64 = number.parse::<u64>().unwrap() * scale;
    if let Some(step) = value("--step") {
        return run(&step, Path::new(&value("--dir").unwrap()), seconds, backlog_bytes);
    }
    let directory = value("--dir").map_or_else(|| tempfile::tempdir().unwrap().keep(), PathBuf::from);
    let mut table = Table::new();
    table.set_header([
        "step",
        "records",
        "CPU us each",
        "a second of one core",
        "a second",
        "bytes written each",
        "peak RSS MB",
        "ready ms",
        "disk MB",
    ]);
    let rounds = [
        ("sensors: fill at 50,000 a second, 20 ms", "sensors", "fill"),
        ("sensors: start after a kill", "sensors", "start"),
        ("sensors: drain", "sensors", "drain"),
        ("nothing: start", "nothing", "start"),
        ("backlog: fill, 1 KB that does not compress", "backlog", "fat"),
        ("backlog: start after a kill", "backlog", "start"),
        ("backlog: drain", "backlog", "drain"),
    ];
    for (title, name, step) in rounds {
        let data_dir = directory.join(name);
        std::fs::create_dir_all(&data_dir).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--bench", "--step", step, "--seconds", &seconds.to_string(), "--backlog", &backlog])
            .arg("--dir")
            .arg(&data_dir)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success() || output.status.signal() == Some(KILLED), "{title}: {}", output.status);
        let line = String::from_utf8(output.stdout).unwrap();
        let mut row = vec![title.to_owned()];
        row.extend(line.trim().split('\t').map(str::to_owned));
        row.push(format!("{:.1}", disk_bytes(&data_dir) as f64 / 1e6));
        table.add_row(row);
    }
    println!("{table}");
    let _ = std::fs::remove_dir_all(&directory);
}

fn run(step: &str, data_dir: &Path, seconds: u64, backlog_bytes: u64) {
    let started = Instant::now();
    let (outbox, closer) = open(data_dir);
    let ready = started.elapsed();
    let before = Cost::of(std::process::id());
    let since = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let records = match step {
        "fill" => runtime.block_on(fill(&outbox, seconds)),
        "fat" => runtime.block_on(fill_with_noise(&outbox, backlog_bytes)),
        "drain" => runtime.block_on(drain(&outbox)),
        _ => 0,
    };
    let took = since.elapsed();
    if step == "drain" {
        drop(outbox);
        closer.close().unwrap();
    }
    let cost = Cost::of(std::process::id()).since(&before);
    let each = |total: f64| if records == 0 { "".to_owned() } else { format!("{:.2}", total / records as f64) };
    let cpu_us = cost.cpu.as_secs_f64() * 1e6;
    println!(
        "{records}\t{}\t{}\t{}\t{}\t{:.1}\t{:.1}",
        each(cpu_us),
        if records == 0 { String::new() } else { format!("{:.0}", records as f64 / cost.cpu.as_secs_f64()) },
        if records == 0 { String::new() } else { format!("{:.0}", records as f64 / took.as_secs_f64()) },
        each(cost.written_bytes as f64),
        cost.peak_rss_bytes as f64 / 1e6,
        ready.as_secs_f64() * 1e3,
    );
    if step != "drain" {
        // Not closed: what comes next is a start after a crash.
        let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
    }
}

fn open(data_dir: &Path) -> (Outbox, Closer) {
    let config = format!(
        "[gateway]\nid = \"bench\"\n[mqtt.a]\nurl = \"mqtt://127.0.0.1\"\nprofiles = [\"generic/json\"]\n\
         [outbox]\nmax_size = \"1TiB\"\nmin_free = 0\n[outbox.advanced]\ncommit_interval = \"{}ms\"\n\
         [kafka]\nbrokers = [\"127.0.0.1:9092\"]\n",
        COMMIT_INTERVAL.as_millis()
    );
    let config = Config::parse(&config, Path::new("bench.toml"), &|_| None).unwrap();
    let options = Options { data_dir: data_dir.to_owned(), receipts_max: 4_096, machine: "bench".to_owned() };
    let (outbox, closer, _) = Outbox::open(&config.outbox, &options, &Counters::default()).unwrap();
    (outbox, closer)
}

/// Readings of three values, so many a second, a batch for each commit.
async fn fill(outbox: &Outbox, seconds: u64) -> u64 {
    let measurement = |name: &str, unit: &str| {
        Arc::new(Measurement { name: name.into(), unit: Some(unit.into()), kind: MeasurementKind::Gauge })
    };
    let measurements = [measurement("temperature", "Cel"), measurement("humidity", "%"), measurement("pressure", "Pa")];
    let devices: Vec<Name> = (0..DEVICES).map(|n| format!("sensor-{n:04}").into()).collect();
    let mut interval = tokio::time::interval(COMMIT_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let per_tick = RATE * COMMIT_INTERVAL.as_millis() as u64 / 1_000;
    let (mut count, mut last) = (0, 0);
    while count < RATE * seconds {
        interval.tick().await;
        let mut batch = Batch::default();
        for _ in 0..per_tick {
            count += 1;
            let values =
                [20.0 + (count % 97) as f64 / 10.0, 40.0 + (count % 31) as f64, 101_300.0 + (count % 13) as f64];
            let device = &devices[(count % DEVICES) as usize];
            push(&mut batch, device, count as i64, measurements.iter().zip(values.map(Value::Number)));
        }
        last = outbox.append(Lane::Raw, &mut batch, None, &[]);
    }
    durable(outbox, last).await;
    count
}

/// Readings that take a KB each on the disk, as fast as they go, until so much is stored.
async fn fill_with_noise(outbox: &Outbox, bytes: u64) -> u64 {
    let noise = Arc::new(Measurement { name: "noise".into(), unit: None, kind: MeasurementKind::Gauge });
    let device: Name = "d".into();
    let mut count = 0;
    while outbox.backlog().bytes < bytes {
        let mut batch = Batch::default();
        for _ in 0..1_000 {
            count += 1;
            let text: String = (0..1_300).map(|_| fastrand::alphanumeric()).collect();
            push(&mut batch, &device, count, std::iter::once((&noise, Value::Text(text.into()))));
        }
        durable(outbox, outbox.append(Lane::Raw, &mut batch, None, &[])).await;
    }
    count as u64
}

fn push<'a>(
    batch: &mut Batch,
    device: &Name,
    time_ms: i64,
    fields: impl Iterator<Item = (&'a Arc<Measurement>, Value)>,
) {
    let start = batch.mark();
    batch.fields.extend(fields.map(|(measurement, value)| Field { measurement: Arc::clone(measurement), value }));
    batch.records.push(Record::Reading(Reading {
        device: Arc::clone(device),
        profile: "generic/json".into(),
        time_ms,
        time_quality: TimeQuality::Device,
        received: Stamp { wall_ms: time_ms, monotonic_ms: 1, trusted: true },
        mark: Mark::None,
        alarm: None,
        fields: start..batch.mark(),
    }));
}

async fn durable(outbox: &Outbox, number: u64) {
    outbox.durable().wait_for(|durable| *durable >= number).await.unwrap();
}

/// Reads and reports all that waits.
async fn drain(outbox: &Outbox) -> u64 {
    let mut reader = outbox.reader();
    let mut count = 0;
    let mut seqs = Vec::new();
    while outbox.backlog().records > 0 {
        let stored: Arc<Stored> = reader.next().await.unwrap();
        seqs.clear();
        seqs.extend(
            (0..stored.batch.len()).filter(|at| !stored.is_delivered(*at)).map(|at| stored.first_seq + at as u64),
        );
        count += seqs.len() as u64;
        outbox.delivered(stored.segment, stored.lane, &seqs);
    }
    count
}

fn disk_bytes(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
