//! What single stages cost for each reading of three values: `cargo bench --bench stages`. Ratios hold on a shared machine,
//! single figures do not.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement has nobody to hand an error to but its reader"
)]

mod decoders;
mod framings;
mod rules;
mod sealing;

use std::path::Path;

use tidegate::clock;
use tidegate::config::Config;
use tidegate::decode::Decoder;
use tidegate::outbox::Lane;
use tidegate::profile::ProfileSet;
use tidegate::reading::{Batch, Frames, Stamp};
use tidegate::uplink::lines::Lines;

const CONFIG: &str = r#"
[gateway]
id = "bench"
[mqtt.a]
url = "mqtt://127.0.0.1"
profiles = ["generic/json"]
[kafka]
brokers = ["127.0.0.1:9092"]
"#;
const ROUNDS: u32 = 500;
const BATCH: u32 = 1_000;

fn main() {
    // `cargo test --benches` runs this with `--test`, and wants no measurement.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let config = Config::parse(CONFIG, Path::new("bench.toml"), &|_| None).unwrap();
    let mut decoder = Decoder::for_mqtt(&config.mqtt[0], &ProfileSet::builtin()).unwrap();
    let mut frames = Frames::new(Stamp { wall_ms: 1_777_896_000_000, monotonic_ms: 1, trusted: true });
    let mut bytes = 0;
    for n in 0..BATCH {
        let payload = format!(
            r#"{{"time":1777896000.{n:03},"temperature":{}.4{},"humidity":5{}.2,"pressure":101{}.25}}"#,
            20 + n % 9,
            n % 10,
            n % 7,
            n % 5,
        );
        bytes += payload.len();
        frames.push(&format!("sensors/sensor-{:04}", n % 100), payload.as_bytes(), false);
    }
    println!("one JSON payload of {} bytes, three values", bytes / BATCH as usize);

    let mut batch = Batch::default();
    measure("decode", || {
        batch.clear();
        for frame in frames.iter() {
            decoder.decode(&frame, frames.received, &mut batch);
        }
    });

    let mut lines = Lines::new(&config.gateway, &config.kafka, Lane::Raw, "bench.raw");
    let (mut out, mut copy) = (Vec::new(), Batch::default());
    let copying = measure("copy of a batch (part of the next)", || copy.clone_from(&batch));
    let encoding = measure("encode as wide JSON", || {
        copy.clone_from(&batch);
        out.clear();
        lines.write(&mut copy, &mut out);
    });
    println!("{:34} {:6.0} ns a record of {} bytes", "encode alone", encoding - copying, out.len() / BATCH as usize);
    framings::run();
    decoders::run();
    sealing::run();
    rules::run();
}

/// Runs it, prints what a reading costs, and gives it in nanoseconds.
fn measure(what: &str, mut run: impl FnMut()) -> f64 {
    run();
    let start = clock::instant();
    for _ in 0..ROUNDS {
        run();
    }
    let each = start.elapsed().as_nanos() as f64 / f64::from(ROUNDS * BATCH);
    println!("{what:34} {each:6.0} ns");
    each
}
