//! The gateway killed at random moments: nothing that the broker saw acknowledged is missing, and in a session that the
//! broker resumed nothing is stored twice.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use support::gateway::{DEAD_LETTERS, READINGS};
use support::publish::LinePublisher;
use support::{Config, Gateway, Kafka, Mosquitto, Records, consume, need, seconds};

#[test]
fn killed_five_times_with_mqtt_5() {
    killed_five_times("5", "always");
}

#[test]
fn killed_five_times_with_mqtt_3_1_1() {
    killed_five_times("3.1.1", "always");
}

#[test]
fn killed_five_times_while_little_is_written() {
    killed_five_times("3.1.1", "when-behind");
}

fn killed_five_times(version: &str, persist: &str) {
    need!(Mosquitto, Kafka);
    const COUNT: u64 = 20_000;
    const PER_SECOND: u64 = 2_500;
    const KILLS: usize = 5;
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(fastrand::u64(..));
    println!("seed: TIDEGATE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    let broker = Mosquitto::start();
    let mut kafka = Kafka::start();
    let config = Config::new(&kafka.address())
        .mqtt("home", broker.port, &format!("version = \"{version}\""))
        .outbox(&format!("persist = \"{persist}\""));
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();

    // Kafka is away for the middle third; the kills fall anywhere.
    let port = broker.port;
    let publisher = std::thread::spawn(move || {
        let mut publisher = LinePublisher::start(port, "sensors/a", 1);
        for n in 0..COUNT {
            publisher.send(&format!("{{\"n\":{n},\"temperature\":{}.5}}", n % 40));
            if n % (PER_SECOND / 50) == 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        publisher.finish(seconds(60));
    });
    let whole_ms = COUNT * 1_000 / PER_SECOND;
    let mut events: Vec<(u64, Event)> = (0..KILLS).map(|_| (random.u64(..whole_ms), Event::Kill)).collect();
    events.push((whole_ms / 3, Event::KafkaAway));
    events.push((whole_ms * 2 / 3, Event::KafkaBack));
    events.sort_by_key(|(at, _)| *at);
    let start = tidegate::clock::instant();
    for (at_ms, event) in events {
        std::thread::sleep(Duration::from_millis(at_ms).saturating_sub(start.elapsed()));
        match event {
            Event::KafkaAway => kafka.kill(),
            Event::KafkaBack => kafka.restart_without_waiting(),
            Event::Kill => {
                gateway.kill();
                // Sometimes at once, while it is still recovering from the last one.
                gateway.restart_without_waiting();
                if random.bool() {
                    gateway.wait_started();
                }
            }
        }
    }
    publisher.join().unwrap();
    kafka.wait_ready();
    gateway.wait_started();

    gateway.wait_status(seconds(120), "everything received and delivered", |status| {
        status.backlog() == 0 && status.link("kafka") == "up" && status.link("mqtt.home") == "up"
    });
    // One line of a 3.1.1 session may still be on its way from the broker when the outbox is empty for a moment: the
    // reader below waits for all.
    let records = consume(&kafka, &[READINGS, DEAD_LETTERS], COUNT as usize, seconds(60));
    let records = settled(&mut gateway, &kafka, &records);
    records.assert_all(COUNT);
    records.assert_whole_streams();
    let (again, duplicates) = (records.stored_again(), records.duplicates());
    println!("{} records, {duplicates} duplicates by ce_id, {again} messages under two numbers", records.0.len());
    // Of what was not written there is no receipt: it is acknowledged by Kafka, and the broker may send it again.
    if persist == "always" {
        records.assert_no_gaps();
        records.assert_stored_once();
        assert_ends_declared(&records);
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Kill,
    KafkaAway,
    KafkaBack,
}

/// Reads again once the gateway is idle: what comes twice comes late.
fn settled(gateway: &mut Gateway, kafka: &Kafka, before: &Records) -> Records {
    gateway.wait_status(seconds(60), "an empty outbox", |status| status.backlog() == 0);
    consume(kafka, &[READINGS, DEAD_LETTERS], before.0.len() - before.duplicates(), seconds(60))
}

/// Each stream but the last was ended by a kill, and the next run says where: every number up to there is in Kafka.
fn assert_ends_declared(records: &Records) {
    let streams = records.streams();
    let ends: BTreeMap<&str, u64> = records
        .of_kind("stream-end")
        .iter()
        .map(|end| (end.value["of_stream"].as_str().unwrap(), end.value["last"].as_u64().unwrap()))
        .collect();
    let mut open = 0;
    for (stream, numbers) in &streams {
        match ends.get(stream.as_str()) {
            Some(last) => assert_eq!(numbers.last(), Some(last), "the end of stream {stream}"),
            None => open += 1,
        }
    }
    assert_eq!(open, 1, "one stream is still going on; the others have an end: {ends:?}, {:?}", streams.keys());
}
