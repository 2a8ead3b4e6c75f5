//! Stopping: on SIGTERM and SIGINT everything is committed, what can be delivered in time is, and the exit code is 0.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use rustix::process::Signal;
use support::gateway::{DEAD_LETTERS, READINGS};
use support::publish::publish_lines;
use support::{Config, Gateway, Kafka, Mosquitto, consume, need, seconds};

fn payload(n: u64) -> String {
    format!("{{\"n\":{n}}}")
}

#[test]
fn stopped_online_it_delivers_and_leaves_nothing_behind() {
    need!(Mosquitto, Kafka);
    let broker = Mosquitto::start();
    let kafka = Kafka::start();
    let mut gateway = Gateway::start(&Config::new(&kafka.address()).mqtt("home", broker.port, ""));
    gateway.wait_subscribed();
    for (round, signal) in [Signal::TERM, Signal::INT].into_iter().enumerate() {
        let first = round as u64 * 2_000;
        publish_lines(broker.port, "sensors/a", 1, (first..first + 2_000).map(payload));
        gateway.process().signal(signal);
        let status = gateway.wait_end(seconds(20));
        assert!(status.success(), "{signal:?} ended it with {status}:\n{}", gateway.logged());
        gateway.restart();
        gateway.wait_subscribed();
    }
    gateway.wait_status(seconds(30), "an empty outbox", |status| status.backlog() == 0);
    let records = consume(&kafka, &[READINGS, DEAD_LETTERS], 4_000, seconds(30));
    records.assert_all(4_000);
    records.assert_no_gaps();
    records.assert_stored_once();
    assert_eq!(records.duplicates(), 0, "a clean stop repeats nothing");
    assert!(records.of_kind("stream-end").is_empty(), "a clean stop needs no end declared");
}

#[test]
fn stopped_offline_it_ends_in_time_and_delivers_after_the_next_start() {
    need!(Mosquitto, Kafka);
    let broker = Mosquitto::start();
    let mut kafka = Kafka::stopped();
    let config = Config::new(&kafka.address()).gateway("stop_timeout = \"2s\"").mqtt("home", broker.port, "");
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();
    publish_lines(broker.port, "sensors/a", 1, (0..3_000).map(payload));
    gateway.wait_status(seconds(30), "3000 records in the outbox", |status| status.backlog() == 3_000);

    gateway.stop(seconds(8));
    kafka.restart();
    gateway.restart();
    gateway.wait_delivered(3_000, seconds(60));
    let records = consume(&kafka, &[READINGS, DEAD_LETTERS], 3_000, seconds(30));
    records.assert_all(3_000);
    records.assert_no_gaps();
    assert_eq!(records.duplicates(), 0);
}

#[test]
fn a_second_signal_ends_it_at_once_and_loses_nothing() {
    need!(Mosquitto, Kafka);
    let broker = Mosquitto::start();
    let mut kafka = Kafka::stopped();
    let config = Config::new(&kafka.address()).gateway("stop_timeout = \"60s\"").mqtt("home", broker.port, "");
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();
    publish_lines(broker.port, "sensors/a", 1, (0..3_000).map(payload));
    gateway.process().signal(Signal::TERM);
    std::thread::sleep(seconds(1));
    assert!(gateway.process().ended().is_none(), "it has a minute to deliver, and Kafka is away");
    let start = tidegate::clock::instant();
    gateway.process().signal(Signal::TERM);
    gateway.wait_end(seconds(5));
    assert!(start.elapsed() < seconds(2), "the second signal took {:?}", start.elapsed());

    kafka.restart();
    gateway.restart();
    gateway.wait_subscribed();
    gateway.wait_status(seconds(60), "everything delivered", |status| {
        status.backlog() == 0 && status.sum("delivered_total") > 0
    });
    let records = consume(&kafka, &[READINGS, DEAD_LETTERS], 3_000, seconds(30));
    records.assert_all(3_000);
    records.assert_stored_once();
}
