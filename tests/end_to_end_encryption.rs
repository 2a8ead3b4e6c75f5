//! Encryption at rest with the real binary: the key as a systemd credential, kill -9, a changed key, a wrong one.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use support::gateway::{READINGS, TIDEGATE};
use support::publish::publish_lines;
use support::{Config, Gateway, Kafka, Mosquitto, Scratch, consume, need, seconds};

const COUNT: u64 = 3_000;
/// In each message, as a text.
const MARKER: &str = "Zwischenkieferknochenzwischenraum";

/// Whether the head of a chunk stands here: version 1, zstd, the only part; then counts, and a zstd frame.
fn is_chunk(bytes: &[u8]) -> bool {
    bytes.starts_with(&[1, 1, 0, 1]) && bytes[20..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
}

/// A file below that holds the marker, or a chunk, as it is.
fn readable(below: &Path) -> Option<String> {
    std::fs::read_dir(below).unwrap().flatten().find_map(|entry| match entry.metadata() {
        Ok(about) if about.is_dir() => readable(&entry.path()),
        Ok(about) if about.is_file() => {
            let bytes = std::fs::read(entry.path()).ok()?;
            let found = bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes() || is_chunk(window));
            found.then(|| entry.path().display().to_string())
        }
        _ => None,
    })
}

/// A message that compression makes little smaller.
fn message(n: u64, random: &mut fastrand::Rng) -> String {
    let noise: String = (0..60).map(|_| random.char('\u{4e00}'..'\u{9fff}')).collect();
    format!("{{\"n\":{n},\"noise\":\"{noise}\",\"name\":\"{MARKER}\"}}")
}

fn key(byte: u8) -> String {
    (0..32_u8).map(|at| format!("{:02x}", byte ^ at)).collect()
}

#[test]
fn what_is_stored_is_unreadable_survives_kills_and_needs_its_key() {
    need!(Mosquitto, Kafka);
    let broker = Mosquitto::start();
    let mut kafka = Kafka::stopped();
    let scratch = Scratch::new("encryption");
    // What lies beside the configuration is another key: the credential comes first.
    scratch.write("outbox-key", &key(200));
    let credentials = scratch.join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::write(credentials.join("outbox-key"), key(1) + "\n").unwrap();
    let address = kafka.address();
    let config = |encryption: &str| {
        Config::new(&address)
            .mqtt("home", broker.port, "")
            .section("[[window]]\nmeasurement = \"n\"\nevery = \"1h\"")
            .outbox(&format!("max_size = \"64MiB\"\n[outbox.advanced]\nsegment_size = \"256KiB\"\ncommit_bytes = \"64KiB\"\n{encryption}"))
    };
    let on = "[outbox.encryption]\nkey = { file = \"outbox-key\" }\n";
    let mut gateway = Gateway::in_scratch(scratch, &config(on));
    let path = gateway.config_path();
    let with_credentials = |gateway: &mut Gateway| {
        let directory = format!("CREDENTIALS_DIRECTORY={}", credentials.display());
        gateway
            .restart_as(Path::new("/usr/bin/env"), &[&directory, TIDEGATE, "run", "--config", path.to_str().unwrap()]);
        gateway.wait_subscribed();
    };
    let mut random = fastrand::Rng::with_seed(7);
    let mut sent = 0;
    let mut send = |gateway: &mut Gateway| {
        let lines: Vec<String> = (sent..sent + COUNT).map(|n| message(n, &mut random)).collect();
        sent += COUNT;
        publish_lines(broker.port, "sensors/a", 1, lines);
        gateway.wait_status(seconds(60), "them in the outbox", |status| status.backlog() >= sent);
    };
    for _ in 0..2 {
        with_credentials(&mut gateway);
        send(&mut gateway);
        gateway.kill();
        assert_eq!(readable(&gateway.data_dir()), None);
    }

    // Without the credential the other key is found, which is the wrong one: it says so and ends.
    gateway.restart_without_waiting();
    gateway.process().wait(seconds(20));
    let log = std::fs::read_to_string(gateway.log()).unwrap();
    assert!(log.contains("encrypted with key") && log.contains("nothing was changed"), "{log}");
    assert!(!log.contains(&key(1)) && !log.contains(&key(200)), "{log}");
    gateway.kill();

    // Another key for what is new, and the first for what is there.
    std::fs::write(credentials.join("outbox-key"), key(2)).unwrap();
    std::fs::write(credentials.join("old-key"), key(1)).unwrap();
    gateway.scratch().write("old-key", &key(201));
    gateway.configure(&config(&format!("{on}previous_keys = [{{ file = \"old-key\" }}]\n")));
    with_credentials(&mut gateway);
    send(&mut gateway);
    gateway.kill();
    assert_eq!(readable(&gateway.data_dir()), None);
    with_credentials(&mut gateway);
    kafka.restart();
    gateway.wait_status(seconds(120), "an empty outbox", |status| {
        status.backlog() == 0 && status.link("kafka") == "up" && status.link("mqtt.home") == "up"
    });
    let records = consume(&kafka, &[READINGS], (3 * COUNT) as usize, seconds(60));
    records.assert_all(3 * COUNT);
    records.assert_no_gaps();
    assert_eq!(readable(&gateway.data_dir()), None);
    assert_eq!(std::fs::read(gateway.data_dir().join("outbox/CHECKPOINT")).unwrap()[..5], *b"TGCP\x02");
    gateway.stop(seconds(30));

    // The same messages without encryption: the search finds them.
    gateway.configure(&config("[outbox.encryption]\nprevious_keys = [{ file = \"outbox-key\" }]\n"));
    kafka.kill();
    with_credentials(&mut gateway);
    let lines: Vec<String> = (0..COUNT).map(|n| message(n, &mut random)).collect();
    publish_lines(broker.port, "sensors/a", 1, lines);
    gateway.wait_status(seconds(60), "them in the outbox", |status| status.backlog() >= COUNT);
    gateway.kill();
    assert!(readable(&gateway.data_dir()).is_some());
}
