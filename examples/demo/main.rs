//! Tidegate in half a minute, with nothing installed: `cargo run --example demo`.
//!
//! Sensors, an MQTT broker, a serial device, a Kafka stand-in and a real gateway between them, in one process. The link to
//! Kafka is cut, the gateway is even restarted meanwhile, the link is mended, and a Kafka consumer counts what arrived.
//!
//! | file | what it is |
//! |---|---|
//! | `main.rs` | the story, and the verdict |
//! | `stage.rs` | all parts together, and how to wait for something |
//! | `sensors.rs`, `serial.rs` | what is measured |
//! | `broker.rs`, `kafka.rs` | what the gateway is connected to |
//! | `gateway.rs` | the gateway and its configuration file |
//! | `rules.rs` | the same readings once more, through rules |
//! | `display.rs` | what you see |
//!
//! Invariants: every wait has a bound and a name; the gateway is only asked what `tidegate status` asks it, and what
//! arrived is counted by a consumer that knows nothing of the gateway.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what a demo is for")]

mod broker;
mod display;
mod gateway;
mod kafka;
mod rules;
mod sensors;
mod serial;
mod stage;
mod verdict;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tidegate::clock;
use tokio::sync::OwnedMutexGuard;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use kafka::{Cluster, Consumer};
use sensors::Sensors;
use serial::Meter;
use stage::Stage;
use verdict::Verdict;

/// A single wait never takes longer, on the slowest machine either.
const BOUND: Duration = Duration::from_secs(30);
/// Nor do all of them.
const TOTAL: Duration = Duration::from_secs(85);
/// The exit code of a process that SIGINT ends.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let outcome = scratch().and_then(|dir| {
        let outcome = runtime()?.block_on(async {
            tokio::select! {
                outcome = story(dir.path()) => outcome.map(Some),
                _ = tokio::signal::ctrl_c() => Ok(None),
            }
        });
        // Whoever has to find out what went wrong needs the log.
        let wrong = outcome.as_ref().map_or(true, |verdict| verdict.as_ref().is_some_and(|verdict| !verdict.is_good()));
        if wrong {
            eprintln!("The gateway's log is in {}", dir.keep().join(LOG).display());
        }
        outcome
    });
    match outcome {
        Ok(Some(verdict)) if verdict.is_good() => ExitCode::SUCCESS,
        Ok(Some(_)) => ExitCode::FAILURE,
        Ok(None) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("The demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

const LOG: &str = "gateway.log";

/// A directory for everything, with the log in it: lines of the log would tear the display.
fn scratch() -> anyhow::Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("tidegate-demo-").tempdir().context("no temporary directory")?;
    let log = std::fs::File::create(dir.path().join(LOG)).context("the log cannot be written")?;
    let levels = [("tidegate", LevelFilter::INFO), ("rumqttd", LevelFilter::OFF)];
    let filter = Targets::new().with_default(LevelFilter::WARN).with_targets(levels);
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Mutex::new(log));
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(dir)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("the runtime cannot be started")
}

/// Sets the stage, plays, and clears it, however the play ended.
async fn story(dir: &Path) -> anyhow::Result<Verdict> {
    let begun = clock::instant();
    println!(
        "Tidegate collects readings from MQTT and serial sensors and brings them to\n\
         Kafka. Here the link to Kafka breaks, as links do, and nothing is lost.\n\
         All of it is in this process and {}: half a minute.\n",
        dir.display()
    );
    let mqtt_port = broker::start().await?;
    let cluster = Cluster::start()?;
    let consumer = Consumer::start(&cluster.address())?;
    let port = dir.join("meter");
    let (meter, silence) = Meter::plug(&port).await?;
    let config = gateway::configure(dir, mqtt_port, &port, &cluster.address())?;
    let mut stage = Stage::new(cluster, consumer, meter, config, begun);
    let played = play(&mut stage, mqtt_port, silence).await;
    let stopped = stage.stop_gateway().await;
    stage.close_display();
    let _silence = played?;
    stopped?;
    let verdict = Verdict::of(&stage, dir)?;
    println!("{verdict}");
    Ok(verdict)
}

/// The play, act by act. The serial sensor is silent before it, and after it as long as what is given is kept.
async fn play(stage: &mut Stage, mqtt_port: u16, silence: OwnedMutexGuard<()>) -> anyhow::Result<OwnedMutexGuard<()>> {
    stage.tell("The gateway starts.", "It connects to the MQTT broker and to Kafka, and opens the serial port.");
    stage.start_gateway()?;
    stage.until("all links of the gateway are up", BOUND, Stage::all_up).await?;

    stage.tell(
        "17 sensors send 340 readings a second: 16 by MQTT, one on a serial line.",
        "The gateway acknowledges what is safe on disk, and sends it to Kafka.",
    );
    stage.sensors = Some(Sensors::start(mqtt_port));
    drop(silence);
    let arrived = |stage: &Stage| stage.consumer.found().delivered() > 300;
    stage.go_on(secs(5), "the first readings are in Kafka", BOUND, arrived).await?;

    stage.tell("The link to Kafka is cut.", "The sensors do not notice: their readings wait on the gateway's disk.");
    stage.cut()?;
    let held = |stage: &Stage| !stage.is_up("kafka") && stage.waiting() > Some(1_000);
    stage.go_on(secs(6), "the gateway has noticed, and a backlog has grown", BOUND, held).await?;

    restart(stage).await?;
    stage.go_on(secs(3), "the backlog has grown on", BOUND, |stage| stage.waiting() > Some(2_000)).await?;

    stage.tell("The link is back.", "The gateway finds out by itself, and sends what waited, oldest first.");
    stage.mend()?;
    stage.until("the backlog is gone", BOUND, |stage| stage.is_up("kafka") && stage.waiting() < Some(300)).await?;

    stage.tell("The backlog is gone.", "New readings go straight through again.");
    stage.go_on(secs(2), "", BOUND, |_| true).await?;

    stage.tell("The sensors stop.", "What is on its way arrives. Then what they sent is looked for in Kafka.");
    finish(stage).await
}

/// The gateway goes off and on in the middle of the outage.
async fn restart(stage: &mut Stage) -> anyhow::Result<()> {
    stage.tell(
        "On top of it, the gateway is switched off.",
        "The broker keeps messages for it. A wire cannot: the meter is silent.",
    );
    let silence = stage.meter.silence().await;
    let heard = |stage: &Stage| stage.count("readings_total", Some("serial.meter")) == stage.meter.lines();
    stage.until("the gateway has read what is on the wire", BOUND, heard).await?;
    let before = stage.waiting().unwrap_or(0);
    stage.stop_gateway().await?;
    stage.go_on(secs(1), "", BOUND, |_| true).await?;

    stage.tell(
        "It starts again, still without Kafka.",
        "What was on its disk still is, and the broker hands over the rest.",
    );
    stage.start_gateway()?;
    let back = |stage: &Stage| stage.is_up("mqtt.house") && stage.is_up("serial.meter");
    stage.until("the gateway has its sensors again", BOUND, back).await?;
    let waiting = stage.waiting().unwrap_or(0);
    if waiting < before {
        bail!("{before} readings were waiting before the restart, and only {waiting} after it");
    }
    // A port that has just been opened may be in the middle of a line, and the gateway skips that.
    stage.go_on(Duration::from_millis(500), "", BOUND, |_| true).await?;
    drop(silence);
    Ok(())
}

/// Lets everything that was sent arrive, if it does.
async fn finish(stage: &mut Stage) -> anyhow::Result<OwnedMutexGuard<()>> {
    let silence = stage.meter.silence().await;
    if let Some(sensors) = &stage.sensors {
        sensors.stop();
    }
    let acknowledged = |stage: &Stage| {
        stage.sensors.as_ref().is_none_or(|sensors| {
            let (published, acknowledged) = sensors.counts();
            published == acknowledged
        })
    };
    stage.go_on(Duration::from_millis(200), "the broker has acknowledged everything", BOUND, acknowledged).await?;
    let arrived = |stage: &Stage| stage.consumer.found().delivered() >= stage.sent() && stage.waiting() == Some(0);
    // What does not arrive is lost, and the verdict says so; duplicates may come after the last reading.
    let quiet = |stage: &Stage| stage.consumer.found().last_at.elapsed() > secs(1);
    let waited = match stage.until("everything has arrived", secs(20), arrived).await {
        Ok(()) => stage.until("nothing more comes", secs(5), quiet).await,
        Err(error) => Err(error),
    };
    match waited {
        Err(error) if !stage.has_gateway() => Err(error),
        _ => Ok(silence),
    }
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
