//! `tidegate selftest`, the binary as a person runs it: on a good disk, on disks that are full or read-only, against a real
//! Kafka, and against a broker that is not there.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;
use support::gateway::{TIDEGATE, tidegate};
use support::parts::unshare_arguments;
use support::{Kafka, Scratch, consume, free_port, need, seconds};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Json {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in {}", text(&output.stdout)))
}

/// What came of a check, what was found, and what to do.
fn check(report: &Json, name: &str) -> (String, String, String) {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("no {name} in {report:#}"));
    let word = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
    (word("outcome"), word("found"), word("help"))
}

#[test]
fn a_good_disk_passes_is_measured_and_nothing_stays_behind() {
    let scratch = Scratch::new("selftest");
    // The data directory need not exist: its disk is what is tested.
    let data_dir = scratch.join("not/yet/there");
    let output = tidegate(&["selftest", "--json", "--data-dir", data_dir.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    let report = json(&output);
    assert_eq!(report["passed"], true);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    for name in ["outbox", "uplink", "profiles", "time zones"] {
        assert_eq!(check(&report, name).0, "ok", "{report:#}");
    }
    for name in ["disk", "commits", "clock", "serial"] {
        assert!(matches!(check(&report, name).0.as_str(), "ok" | "note"), "{report:#}");
    }
    let measured = &report["measured"];
    let number = |key: &str| measured[key].as_f64().unwrap_or_else(|| panic!("no {key} in {measured:#}"));
    assert!(number("commits") >= 5.0 && number("delivered") == number("commits") * 20.0);
    assert!(number("commit_median_ms") > 0.0 && number("commit_max_ms") >= number("commit_median_ms"));
    // Each commit is fsynced, so the kernel has counted blocks for each.
    assert!(number("written_bytes") >= number("commits") * 4096.0 && number("stored_bytes") > 0.0);
    assert!(number("free_bytes") <= number("total_bytes"));
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "something stayed behind");

    // The same for a person: one line a check, without a word of the log.
    let output = tidegate(&["selftest", "--data-dir", scratch.path().to_str().unwrap()]);
    let table = text(&output.stdout);
    assert!(output.status.success() && table.ends_with("all is well\n"), "{table}");
    assert!(table.starts_with("tidegate ") && table.contains("ms each with fsync"), "{table}");
    assert_eq!(text(&output.stderr), "");
}

/// Runs the self-test where `mount` has mounted something at `point`, in a mount namespace of its own.
fn on_mount(point: &Path, mount: &str) -> Output {
    let script =
        format!("mount -t tmpfs {mount} tmpfs '{0}' && exec '{TIDEGATE}' selftest --data-dir '{0}'", point.display());
    let mut command = Command::new("unshare");
    command.args(unshare_arguments()).args(["sh", "-c", &script]).stdin(Stdio::null());
    command.output().unwrap()
}

#[test]
fn a_full_and_a_read_only_disk_fail_with_what_to_do() {
    need!(Mount);
    let scratch = Scratch::new("selftest-mount");
    let point = scratch.path();
    for (mount, reason, advice) in [
        ("-o size=1m", "No space left on device", "make room on"),
        ("-o ro", "Read-only file system", "mount -o remount,rw"),
    ] {
        let output = on_mount(point, mount);
        let table = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{mount}: {table}{}", text(&output.stderr));
        let line = |start: &str| table.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
        assert!(line("disk").contains("FAILED") && line("disk").contains(reason), "{mount}: {table}");
        assert!(table.contains(advice) && table.contains(point.to_str().unwrap()), "{mount}: {table}");
        // What does not need the disk is tried all the same, and what does is not said to be well.
        assert!(line("profiles").contains(" ok "), "{table}");
        assert!(line("outbox").contains("skipped") && table.ends_with("see above\n"), "{table}");
    }
}

#[test]
fn a_broker_that_is_not_there_fails_and_names_it() {
    let scratch = Scratch::new("selftest-broker");
    let address = format!("127.0.0.1:{}", free_port());
    let output =
        tidegate(&["selftest", "--json", "--data-dir", scratch.path().to_str().unwrap(), "--broker", &address]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    let report = json(&output);
    let (outcome, found, help) = check(&report, "uplink");
    assert_eq!(outcome, "failed");
    assert!(found.contains(&address) && found.contains("Connection refused"), "{found}");
    assert!(help.contains("advertised.listeners"), "{help}");
    assert_eq!(check(&report, "outbox").0, "ok");
    assert_eq!(report["passed"], false);
}

#[test]
fn a_real_kafka_gets_the_readings_in_a_topic_of_their_own() {
    need!(Kafka);
    let kafka = Kafka::start();
    kafka.admin(&["create-topic", "tidegate.selftest", "1"]);
    let scratch = Scratch::new("selftest-kafka");
    let output =
        tidegate(&["selftest", "--json", "--data-dir", scratch.path().to_str().unwrap(), "--broker", &kafka.address()]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let delivered = report["measured"]["delivered"].as_u64().unwrap();
    let records = consume(&kafka, &["tidegate.selftest"], usize::try_from(delivered).unwrap(), seconds(30));
    assert!(records.numbers().into_iter().eq(1..=delivered), "{report:#}");
    assert!(records.0.iter().all(|record| record.value["device"] == "selftest"));
}
