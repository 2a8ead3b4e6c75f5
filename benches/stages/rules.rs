//! What rules cost for each reading, with ten thousand series, beside decoding the same reading.

use std::path::Path;
use std::time::Duration;

use tidegate::clock;
use tidegate::config::{self, Config, Deadband, Filter, FilterAction, Select, Window};
use tidegate::counters::Counters;
use tidegate::decode::Decoder;
use tidegate::profile::ProfileSet;
use tidegate::reading::{Batch, Frames, Record, Stamp};
use tidegate::rules::{Left, Made, Rules};

const SERIES: usize = 10_000;
const ROUNDS: i64 = 120;
/// Each series has a value so often, in event time.
const PERIOD_MS: i64 = 10_000;
const START_MS: i64 = 1_777_896_000_000;

pub(super) fn run() {
    for fields in [1, 3] {
        println!("\n{SERIES} series, {fields} to a reading, a value every 10 s");
        let (frames, mut decoder) = frames(fields);
        let mut batch = Batch::default();
        let mut decode = || {
            batch.clear();
            for frame in frames.iter() {
                decoder.decode(&frame, frames.received, &mut batch);
            }
        };
        decode();
        let start = clock::instant();
        (0..ROUNDS).for_each(|_| decode());
        let decoding = start.elapsed().as_nanos() as f64 / (ROUNDS * batch.len() as i64) as f64;
        println!("{:34} {decoding:6.0} ns", "decode");
        let copying = measure(&batch, None);
        let deadband = Deadband { absolute: Some(0.15), percent: None, at_least_every: Some(Duration::from_secs(600)) };
        let filter = Filter {
            name: "deadband".to_owned(),
            select: Select::default(),
            action: FilterAction::Test,
            range: None,
            deadband: Some(deadband),
            min_interval: None,
            alarm: None,
        };
        let window = |forward_raw| Window {
            name: "minute".to_owned(),
            select: Select::default(),
            every: Duration::from_secs(60),
            time_zone: None,
            lateness: Duration::from_secs(10),
            update_within: None,
            forward_raw,
            alarm: None,
        };
        for (what, filters, windows) in [
            ("deadband", vec![filter.clone()], vec![]),
            ("window, raw forwarded", vec![], vec![window(true)]),
            ("window, raw not forwarded", vec![], vec![window(false)]),
            ("deadband and window", vec![filter], vec![window(true)]),
        ] {
            let settings = config::Rules {
                filters,
                windows,
                series_max: 2 * SERIES,
                open_windows_max: 50_000,
                state_bytes_max: 64 << 20,
                future_max: Duration::from_secs(300),
            };
            let mut rules = Rules::restore(&settings, Left::default(), frames.received, &Counters::default());
            let each = measure(&batch, Some(&mut rules)) - copying;
            println!("{what:34} {each:6.0} ns, {:.0} a value", each / fields as f64);
            state(&mut rules);
        }
    }
}

/// What the state takes, in memory and on disk.
fn state(rules: &mut Rules) {
    let (series, windows, bytes) = rules.usage();
    let values = series as f64;
    println!("    {:.0} bytes of memory a series, {windows} windows", bytes as f64 / values);
    let start = clock::instant();
    let checkpoint = rules.checkpoint();
    let took = start.elapsed();
    if windows > 0 {
        let packed = zstd::bulk::compress(&checkpoint, 1).unwrap().len();
        println!(
            "    checkpoint: {} bytes, {:.0} a series, {:.0} compressed, {:.1} ms",
            checkpoint.len(),
            checkpoint.len() as f64 / values,
            packed as f64 / values,
            took.as_secs_f64() * 1e3,
        );
    }
}

/// Runs all readings through the rules again and again, each time a period later. Nanoseconds a reading.
fn measure(batch: &Batch, mut rules: Option<&mut Rules>) -> f64 {
    let (mut copy, mut out) = (Batch::default(), Made::default());
    let (mut start, mut journal, mut packed, mut made) = (clock::instant(), 0, 0, 0);
    for round in 0..ROUNDS + 10 {
        if round == 10 {
            (start, journal, packed, made) = (clock::instant(), 0, 0, 0);
        }
        copy.clone_from(batch);
        for (record, n) in copy.records.iter_mut().zip(0..) {
            if let Record::Reading(reading) = record {
                reading.time_ms = START_MS + round * PERIOD_MS + n;
                reading.received.wall_ms = reading.time_ms;
                reading.received.monotonic_ms = (reading.time_ms - START_MS) as u64;
            }
        }
        let Some(rules) = &mut rules else { continue };
        out.clear();
        rules.apply(&mut copy, &mut out);
        made += out.aggregates.len();
        while let Some(piece) = rules.take_journal() {
            journal += piece.bytes.len();
            if round == ROUNDS {
                packed = zstd::bulk::compress(&piece.bytes, 1).unwrap().len();
            }
        }
    }
    let readings = (ROUNDS * batch.len() as i64) as f64;
    let each = start.elapsed().as_nanos() as f64 / readings;
    if journal > 0 {
        println!(
            "    journal: {:.2} bytes a value, {:.2} compressed; {made} aggregates",
            journal as f64 / (ROUNDS * batch.fields.len() as i64) as f64,
            packed as f64 / batch.fields.len() as f64,
        );
    }
    each
}

/// A JSON payload of each device, and what decodes it.
fn frames(fields: usize) -> (Frames, Decoder) {
    let config = Config::parse(super::CONFIG, Path::new("bench.toml"), &|_| None).unwrap();
    let decoder = Decoder::for_mqtt(&config.mqtt[0], &ProfileSet::builtin()).unwrap();
    let mut frames = Frames::new(Stamp { wall_ms: START_MS, monotonic_ms: 1, trusted: true });
    let mut random = fastrand::Rng::with_seed(1);
    let mut devices: Vec<usize> = (0..SERIES.div_ceil(fields)).collect();
    random.shuffle(&mut devices);
    for device in devices {
        let mut payload =
            format!(r#"{{"time":1777896000.125,"temperature":{}"#, f64::from(random.u32(1800..2600)) / 100.0);
        if fields == 3 {
            payload += &format!(
                r#","humidity":{},"pressure":{}"#,
                f64::from(random.u32(300..700)) / 10.0,
                f64::from(random.u32(99_000..103_000)) / 100.0
            );
        }
        payload.push('}');
        frames.push(&format!("sensors/sensor-{device:05}"), payload.as_bytes(), false);
    }
    (frames, decoder)
}
