//! `outbox.persist = "when-behind"` with everything real: killed at any moment an acknowledged message is in Kafka or on
//! the disk, and a gateway that is online writes nothing.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::gateway::{DEAD_LETTERS, READINGS};
use support::publish::{LinePublisher, publish_lines};
use support::{Config, Gateway, Kafka, Mosquitto, consume, need, seconds};

const WHEN_BEHIND: &str = "persist = \"when-behind\"";

fn payload(n: u64) -> String {
    format!("{{\"n\":{n},\"temperature\":{}.5}}", n % 40)
}

#[test]
fn killed_fifty_times_while_kafka_comes_and_goes() {
    need!(Mosquitto, Kafka);
    const COUNT: u64 = 60_000;
    const PER_SECOND: u64 = 1_500;
    const KILLS: usize = 50;
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(fastrand::u64(..));
    println!("seed: TIDEGATE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let broker = Mosquitto::start();
    let mut kafka = Kafka::start();
    // Small segments, so that there are many of them with numbers that were never stored in between.
    let outbox = format!("{WHEN_BEHIND}\n[outbox.advanced]\nsegment_size = \"256KiB\"");
    let config = Config::new(&kafka.address()).mqtt("home", broker.port, "").outbox(&outbox);
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();

    let port = broker.port;
    let publisher = std::thread::spawn(move || {
        let mut publisher = LinePublisher::start(port, "sensors/a", 1);
        for n in 0..COUNT {
            publisher.send(&payload(n));
            if n % (PER_SECOND / 50) == 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        publisher.finish(seconds(120));
    });
    let mut unwritten = 0;
    for kill in 0..KILLS {
        std::thread::sleep(Duration::from_millis(random.u64(50..1_200)));
        match kill % 16 {
            9 => kafka.kill(),
            13 => kafka.restart_without_waiting(),
            _ => {}
        }
        unwritten += gateway.try_status().map_or(0, |status| status.sum("outbox_unwritten_total"));
        gateway.kill();
        gateway.restart_without_waiting();
        if random.bool() {
            gateway.wait_started();
        }
    }
    publisher.join().unwrap();
    kafka.wait_ready();
    gateway.wait_started();
    gateway.wait_status(seconds(120), "everything received and delivered", |status| {
        status.backlog() == 0 && status.link("kafka") == "up" && status.link("mqtt.home") == "up"
    });
    let records = consume(&kafka, &[READINGS, DEAD_LETTERS], COUNT as usize, seconds(60));
    records.assert_all(COUNT);
    records.assert_whole_streams();
    println!(
        "{} records, {} of them more than once in Kafka; {unwritten} were seen not to be written; after {KILLS} kills {} \
         messages have two numbers",
        records.0.len(),
        records.duplicates(),
        records.stored_again()
    );
}

/// What would differ if anything had been written: of each file its inode, length and times.
fn prints(path: &Path) -> BTreeMap<PathBuf, (u64, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        let print = (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        found.insert(entry.path(), print);
        if metadata.is_dir() {
            found.extend(prints(&entry.path()));
        }
    }
    found
}

#[test]
fn online_nothing_is_written() {
    need!(Mosquitto, Kafka);
    online(&Mosquitto::start(), "", 3_000);
}

#[test]
fn a_broker_with_20_messages_in_flight_leaves_little_to_write() {
    need!(Mosquitto, Kafka);
    online(&Mosquitto::with_default_in_flight(), "version = \"3.1.1\"", 2_700);
}

/// 3,000 messages, 100 a second, of which at least so many are never written.
fn online(broker: &Mosquitto, mqtt: &str, unwritten_min: u64) {
    const COUNT: u64 = 3_000;
    let kafka = Kafka::start();
    // On a busy machine Kafka may take its time; that it has to be quick is tried elsewhere.
    let outbox = format!("{WHEN_BEHIND}\n[outbox.advanced]\nhold = \"10s\"");
    let config = Config::new(&kafka.address()).mqtt("home", broker.port, mqtt).outbox(&outbox);
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();
    // The topic is made, and the run is made known.
    publish_lines(broker.port, "sensors/a", 1, [payload(0)]);
    gateway.wait_delivered(1, seconds(60));
    // The source may have lost patience with a first connection to Kafka; what that wrote is settled by now.
    std::thread::sleep(seconds(6));
    let before = gateway.status();
    let files = prints(&gateway.data_dir());
    let mut publisher = LinePublisher::start(broker.port, "sensors/a", 1);
    for n in 1..=COUNT {
        publisher.send(&payload(n));
        std::thread::sleep(Duration::from_millis(10));
    }
    publisher.finish(seconds(30));
    let after = gateway.wait_delivered(COUNT + 1, seconds(30));
    let written = |status: &support::Status| status.0["process"]["disk_written_bytes"].as_u64().unwrap();
    let commits = after.sum("outbox_commits_total") - before.sum("outbox_commits_total");
    let unwritten = after.sum("outbox_unwritten_total") - before.sum("outbox_unwritten_total");
    println!(
        "{commits} commits, {unwritten} records never written, {} bytes written, flash: {}",
        written(&after) - written(&before),
        after.0["flash"]
    );
    assert!(unwritten >= unwritten_min, "{unwritten} of {COUNT} were never written");
    if unwritten_min == COUNT {
        assert_eq!(commits, 0);
        assert_eq!(prints(&gateway.data_dir()), files, "the data directory was touched");
    }
    assert!(after.0["flash"]["write_amplification"].is_number(), "{}", after.0["flash"]);
    gateway.stop(seconds(30));
    let records = consume(&kafka, &[READINGS], COUNT as usize + 1, seconds(30));
    records.assert_all(COUNT + 1);
    records.assert_stored_once();
    assert_eq!(records.duplicates(), 0);
}

#[test]
fn a_source_at_its_limit_flows_all_the_same_and_a_stop_offline_loses_nothing() {
    need!(Mosquitto, Kafka);
    const COUNT: u64 = 6_000;
    let broker = Mosquitto::with_default_in_flight();
    let mut kafka = Kafka::start();
    let config = Config::new(&kafka.address())
        .gateway("stop_timeout = \"2s\"")
        .mqtt("home", broker.port, "version = \"3.1.1\"")
        .outbox(WHEN_BEHIND);
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();
    let start = tidegate::clock::instant();
    publish_lines(broker.port, "sensors/a", 1, (0..COUNT).map(payload));
    gateway.wait_delivered(COUNT, seconds(60));
    println!("{COUNT} messages, 20 in flight, in {:?}", start.elapsed());
    kafka.kill();
    publish_lines(broker.port, "sensors/a", 1, (COUNT..2 * COUNT).map(payload));
    gateway.wait_status(seconds(60), "them in the outbox", |status| status.backlog() == COUNT);
    gateway.stop(seconds(10));
    kafka.restart();
    gateway.restart();
    gateway.wait_delivered(COUNT, seconds(60));
    let records = consume(&kafka, &[READINGS, DEAD_LETTERS], 2 * COUNT as usize, seconds(30));
    records.assert_all(2 * COUNT);
    records.assert_no_gaps();
    records.assert_stored_once();
    gateway.stop(seconds(30));
}
