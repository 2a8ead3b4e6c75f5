//! `tidegate selftest`: whether this build works on this board, and what the board's disk is worth. It needs no
//! configuration and no network, and leaves nothing behind.
//!
//! There is no second implementation here: a real outbox is opened, filled, closed, opened again and read (`store`),
//! the gateway's own uplink drains it (`deliver`), and the profiles' samples go through the decoder. Each check says what
//! it found; a check that fails says what to do, and the others go on as far as they can without it. So it is also what a
//! cross-built binary is tried with.

mod deliver;
mod place;
mod report;
mod store;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use self::place::Directory;
use self::report::{Check, Report};
use super::status::size;
use super::{board, interrupt};
use crate::config::{self, Config, Loaded, Purpose};
use crate::profile::{BUILTIN_FILES, Profile, run_samples};
use crate::{clock, outbox};

/// A topic that nobody mistakes for one of theirs.
const TOPIC: &str = "tidegate.selftest";
/// The id under which its records go out.
const GATEWAY: &str = "tidegate-selftest";

/// What to test.
#[derive(Debug, Args)]
pub struct Selftest {
    /// Test the disk that holds, or will hold, this data directory; where temporary files go unless set
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Deliver to this Kafka broker, without TLS or a password; to a stand-in inside of the program unless set
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = broker)]
    broker: Vec<String>,
    /// The topic that up to 1,000 readings of a device `selftest` go to
    #[arg(long, default_value = TOPIC, requires = "broker", value_parser = topic)]
    topic: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

fn broker(text: &str) -> Result<String, String> {
    config::parse_broker(text).map_err(|expected| format!("expected {expected}"))
}

fn topic(text: &str) -> Result<String, String> {
    config::parse_topic(text).map_err(|expected| format!("expected {expected}"))
}

/// Tests, and says what it found: 0 if all is well, 1 if something is not.
#[must_use]
pub fn run(test: &Selftest) -> ExitCode {
    // A defect must not look like a board that is broken, nor take the other checks with it.
    std::panic::set_hook(Box::new(|panic| {
        if !outbox::is_loading() {
            super::fail(&format!("a defect of tidegate, please report it: {panic}"));
        }
    }));
    let mut report = Report::new();
    let config = match configuration(test) {
        Ok(config) => config,
        Err(errors) => return super::fail(&format!("a defect of tidegate, please report it: {errors}")),
    };
    disk(test, &config, &mut report);
    profiles(&mut report);
    time_zones(&mut report);
    report.checks.push(time(test.data_dir.as_deref()));
    report.checks.push(serial());
    report.print(test.json);
    if report.passed() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// A gateway's defaults, with topics of this test alone.
fn configuration(test: &Selftest) -> Result<Config, config::Errors> {
    let mut config = Loaded::parse("", Path::new("/"), Purpose::Replay, &|_| None)?.config;
    config.gateway.id = GATEWAY.to_owned();
    let topic = || test.topic.clone();
    config.kafka.topics = config::Topics { reading: topic(), aggregate: topic(), alarm: topic(), dead_letter: topic() };
    config.kafka.brokers.clone_from(&test.broker);
    Ok(config)
}

/// The disk, the outbox on it, and the way out of it.
fn disk(test: &Selftest, config: &Config, report: &mut Report) {
    let below = test.data_dir.clone().unwrap_or_else(std::env::temp_dir);
    let directory = match Directory::make(&below) {
        Ok(directory) => directory,
        Err(check) => {
            report.checks.push(check);
            report.skip(&["outbox", "commits", "uplink"], "there is no disk to try it on");
            return;
        }
    };
    let path = directory.path().to_owned();
    interrupt::clean_up(move || drop(std::fs::remove_dir_all(path)));
    report.checks.push(place::room(directory.path(), test.data_dir.is_some(), &config.outbox, &mut report.measured));
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            report.checks.push(Check::failed("outbox", format!("the runtime cannot be started: {error}"), None));
            return;
        }
    };
    let stored = runtime.block_on(store::store(directory.path(), config, &mut report.measured));
    match stored {
        Ok(checks) => {
            report.checks.extend(checks);
            report.checks.push(runtime.block_on(deliver::deliver(
                directory.path(),
                config,
                !test.broker.is_empty(),
                &mut report.measured,
            )));
        }
        Err(check) => {
            report.checks.push(check);
            report.skip(&["commits", "uplink"], "the outbox does not work");
        }
    }
    // What still polls Kafka's client has nothing to say any more.
    runtime.shutdown_background();
}

fn profiles(report: &mut Report) {
    let (mut samples, mut wrong) = (0, Vec::new());
    for (path, text) in BUILTIN_FILES {
        match Profile::parse(Path::new(path), text) {
            Ok(profile) => {
                samples += profile.samples.len();
                wrong.extend(run_samples(&profile).iter().map(|mismatch| format!("{path}: {mismatch}")));
            }
            Err(error) => wrong.push(error.to_string()),
        }
    }
    let what = format!("{} built in, {samples} samples of devices' messages", BUILTIN_FILES.len());
    report.checks.push(if wrong.is_empty() {
        Check::ok("profiles", what + " decode as they should")
    } else {
        let help = "this build decodes wrongly: do not use it, and report it with this output";
        Check::failed("profiles", format!("{what}; {}", wrong.join("; ")), Some(help.to_owned()))
    });
}

/// Time zones: half past two of the night in which Amsterdam's clocks go back, the first of the two.
fn time_zones(report: &mut Report) {
    const ZONE: &str = "Europe/Amsterdam";
    const EXPECTED_MS: i64 = 1_792_888_200_000;
    let found =
        jiff::civil::date(2026, 10, 25).at(2, 30, 0, 0).in_tz(ZONE).map(|time| time.timestamp().as_millisecond());
    let count = jiff::tz::db().available().count();
    report.checks.push(match found {
        Ok(EXPECTED_MS) => Check::ok("time zones", format!("{count} known")),
        Ok(other) => Check::failed(
            "time zones",
            format!("02:30 of 2026-10-25 in {ZONE} is {other} ms, expected {EXPECTED_MS}"),
            Some(
                "the system's zone data (/usr/share/zoneinfo) is damaged: install the package tzdata again".to_owned(),
            ),
        ),
        Err(error) => Check::failed("time zones", format!("{ZONE}: {error}"), None),
    });
}

/// The clock as a gateway without a setting for it would judge it on this data directory.
fn time(data_dir: Option<&Path>) -> Check {
    match clock::judge(&config::ClockTrust::Auto, data_dir) {
        Ok(voucher) => {
            let now = jiff::Timestamp::from_millisecond(clock::wall_ms()).map(|time| format!("{time:.0}"));
            Check::ok("clock", format!("{}, trusted by {}", now.unwrap_or_default(), voucher.as_str()))
        }
        Err(why) => Check::note(
            "clock",
            why,
            "what arrives is marked until it is; is there a time server (`timedatectl timesync-status`), and a network?",
        ),
    }
}

fn serial() -> Check {
    let ports = board::serial_ports();
    let names = |ports: &[board::Port]| {
        let names: Vec<_> = ports.iter().map(|port| port.path.display().to_string()).collect();
        names.join(", ")
    };
    let (allowed, refused): (Vec<_>, Vec<_>) = ports.into_iter().partition(|port| port.allowed);
    match (allowed.is_empty(), refused.is_empty()) {
        (true, true) => Check::ok("serial", "no port".to_owned()),
        (_, true) => Check::ok("serial", names(&allowed)),
        (_, false) => Check::note(
            "serial",
            format!("{}: not for this user", names(&refused)),
            "the service may open what belongs to the group dialout; yourself: sudo usermod -aG dialout $USER, and log in again",
        ),
    }
}

/// Bytes for a person, beside each other.
fn room_text(space: board::Space) -> String {
    format!("{} free of {}", size(space.free), size(space.total))
}
