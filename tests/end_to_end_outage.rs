//! What an outage must not do: whatever the broker saw acknowledged is in Kafka afterwards.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use support::publish::{LinePublisher, PahoPublisher, publish_lines};
use support::{Config, Gateway, Kafka, Mosquitto, consume, need, seconds};

const READINGS: &str = support::gateway::READINGS;

/// What is promised does not depend on how it is kept.
fn in_both_ways(test: fn(&str)) {
    for persist in ["always", "when-behind"] {
        println!("persist = \"{persist}\"");
        test(&format!("persist = \"{persist}\""));
    }
}

fn payload(n: u64) -> String {
    format!("{{\"n\":{n},\"temperature\":{}.5,\"humidity\":40}}", n % 40)
}

#[test]
fn kafka_stopped_for_the_middle_third_of_20000_messages() {
    need!(Mosquitto, Kafka);
    in_both_ways(kafka_stopped);
}

fn kafka_stopped(outbox: &str) {
    const THIRD: u64 = 6_667;
    let broker = Mosquitto::start();
    let mut kafka = Kafka::start();
    let mut gateway = Gateway::start(&Config::new(&kafka.address()).mqtt("home", broker.port, "").outbox(outbox));
    gateway.wait_subscribed();

    publish_lines(broker.port, "sensors/a", 1, (0..THIRD).map(payload));
    gateway.wait_status(seconds(30), "the first deliveries", |status| status.sum("delivered_total") > 0);
    kafka.stop();
    publish_lines(broker.port, "sensors/a", 1, (THIRD..2 * THIRD).map(payload));
    let status = gateway.wait_status(seconds(60), "the second third in the outbox, the link down", |status| {
        status.backlog() >= THIRD && status.link("kafka") == "down"
    });
    assert!(status.count("outbox_evicted_total", "raw") == 0, "nothing is given up: {:#}", status.0);
    kafka.restart();
    publish_lines(broker.port, "sensors/a", 1, (2 * THIRD..3 * THIRD).map(payload));

    gateway.wait_delivered(3 * THIRD, seconds(90));
    let records = consume(&kafka, &[READINGS], 3 * THIRD as usize, seconds(60));
    records.assert_all(3 * THIRD);
    records.assert_no_gaps();
    records.assert_stored_once();
    gateway.stop(seconds(20));
}

#[test]
fn kafka_killed_under_load_and_restarted_with_its_data() {
    need!(Mosquitto, Kafka);
    in_both_ways(kafka_killed);
}

fn kafka_killed(outbox: &str) {
    const COUNT: u64 = 6_000;
    let broker = Mosquitto::start();
    let mut kafka = Kafka::start();
    let mut gateway = Gateway::start(&Config::new(&kafka.address()).mqtt("home", broker.port, "").outbox(outbox));
    gateway.wait_subscribed();

    let mut publisher = LinePublisher::start(broker.port, "sensors/a", 1);
    for n in 0..COUNT {
        publisher.send(&payload(n));
        if n % (COUNT / 3) == COUNT / 6 {
            kafka.kill();
        }
        if n % (COUNT / 3) == COUNT / 4 {
            kafka.restart();
        }
    }
    publisher.finish(seconds(30));

    gateway.wait_delivered(COUNT, seconds(90));
    let records = consume(&kafka, &[READINGS], COUNT as usize, seconds(60));
    records.assert_all(COUNT);
    records.assert_no_gaps();
    records.assert_stored_once();
}

#[test]
fn started_before_broker_and_kafka_exist() {
    need!(Mosquitto, Kafka);
    let mut broker = Mosquitto::start();
    broker.stop();
    let mut kafka = Kafka::stopped();
    let mut gateway = Gateway::start(&Config::new(&kafka.address()).mqtt("home", broker.port, ""));
    gateway.wait_status(seconds(20), "both links to be down", |status| {
        status.link("mqtt.home") == "down" && status.link("kafka") == "down"
    });

    broker.restart();
    gateway.wait_subscribed();
    publish_lines(broker.port, "sensors/a", 1, (0..100).map(payload));
    gateway.wait_status(seconds(20), "100 records in the outbox", |status| status.backlog() == 100);
    kafka.restart();

    gateway.wait_delivered(100, seconds(90));
    let records = consume(&kafka, &[READINGS], 100, seconds(30));
    records.assert_all(100);
    records.assert_no_gaps();
    let lines = gateway.logged().lines().count();
    assert!(lines < 60, "being offline is normal, and yet it logged {lines} lines:\n{}", gateway.logged());
}

#[test]
fn the_broker_restarted_under_load() {
    need!(Mosquitto, Kafka, Paho);
    in_both_ways(broker_restarted);
}

fn broker_restarted(outbox: &str) {
    const COUNT: u64 = 5_000;
    let mut broker = Mosquitto::start();
    let kafka = Kafka::start();
    let mut gateway = Gateway::start(&Config::new(&kafka.address()).mqtt("home", broker.port, "").outbox(outbox));
    gateway.wait_subscribed();

    let mut publisher = PahoPublisher::start(broker.port, "sensors/a", COUNT, 1_000);
    for part in 1..=2 {
        support::wait_until(seconds(60), "a third of the messages to be acknowledged", || {
            (publisher.acknowledged().len() as u64 > part * COUNT / 3).then_some(())
        });
        broker.stop();
        gateway.wait_status(seconds(20), "the link to be down", |status| status.link("mqtt.home") == "down");
        broker.restart();
    }
    publisher.finish(seconds(90));
    assert_eq!(publisher.acknowledged().len() as u64, COUNT);

    gateway.wait_delivered(COUNT, seconds(60));
    let records = consume(&kafka, &[READINGS], COUNT as usize, seconds(30));
    // The publisher may send a message again when the broker went before its PUBACK: those are messages of their own.
    records.assert_all(COUNT);
    records.assert_no_gaps();
}

#[test]
fn frozen_for_longer_than_its_keep_alive() {
    need!(Mosquitto, Kafka);
    let broker = Mosquitto::start();
    let kafka = Kafka::start();
    let config = Config::new(&kafka.address()).mqtt("home", broker.port, "keep_alive = \"5s\"");
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();

    publish_lines(broker.port, "sensors/a", 1, (0..500).map(payload));
    gateway.freeze();
    // The broker gives up a client after one and a half of its keep-alives.
    publish_lines(broker.port, "sensors/a", 1, (500..1_000).map(payload));
    std::thread::sleep(seconds(9));
    gateway.thaw();
    publish_lines(broker.port, "sensors/a", 1, (1_000..1_500).map(payload));

    gateway.wait_delivered(1_500, seconds(60));
    let records = consume(&kafka, &[READINGS], 1_500, seconds(30));
    records.assert_all(1_500);
    records.assert_no_gaps();
}
