//! More at once than fits: memory stays within its budget, and the connection holds.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use support::gateway::{DEAD_LETTERS, READINGS};
use support::publish::{publish_file, publish_lines};
use support::{Config, Gateway, Kafka, Mosquitto, consume, need, seconds};

/// The whole process, with 4 MiB of message budget, 4 MiB of memory tail and 4 MiB in flight to Kafka.
const RSS_MAX_KB: u64 = 80 * 1024;

#[test]
fn a_burst_of_200000_messages_of_qos_0_with_kafka_down() {
    need!(Mosquitto, Kafka);
    const COUNT: u64 = 200_000;
    let broker = Mosquitto::start();
    let kafka = Kafka::stopped();
    let config = Config::new(&kafka.address()).mqtt("home", broker.port, "keep_alive = \"5s\"");
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();

    publish_lines(broker.port, "sensors/a", 0, (0..COUNT).map(|n| format!("{{\"n\":{n},\"temperature\":21.5}}")));
    publish_lines(broker.port, "sensors/b", 1, (0..100).map(|n| format!("{{\"n\":{n}}}")));
    let status = gateway.wait_status(seconds(120), "all of them in the outbox", |status| {
        status.count("readings_total", "mqtt.home") == COUNT + 100 && status.backlog() == COUNT + 100
    });
    let peak_kb = gateway.process().memory_kb("VmHWM");
    println!("peak RSS {peak_kb} kB");
    assert!(peak_kb < RSS_MAX_KB, "{peak_kb} kB resident");
    assert_eq!(status.count("connects_total", "mqtt.home"), 1, "the connection held: {:#}", status.0);
    assert_eq!(status.count("qos0_dropped_total", "mqtt.home"), 0);
    // Two keep-alives later it is still the same connection.
    std::thread::sleep(seconds(10));
    assert_eq!(gateway.status().count("connects_total", "mqtt.home"), 1);
    let broker_kb = broker.process().memory_kb("VmHWM");
    println!("the broker's peak: {broker_kb} kB");
}

#[test]
fn a_packet_of_10_mb_at_qos_1_between_others() {
    need!(Mosquitto, Kafka);
    let broker = Mosquitto::start();
    let mut kafka = Kafka::stopped();
    let config = Config::new(&kafka.address()).mqtt("five", broker.port, "version = \"5\"\nkeep_alive = \"5s\"").mqtt(
        "three",
        broker.port,
        "version = \"3.1.1\"\nkeep_alive = \"5s\"",
    );
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();
    let big = gateway.scratch().write("big", &"{\"n\":1,".repeat(10_000_000 / 7));
    let payload = |n: u64| format!("{{\"n\":{n}}}");
    publish_lines(broker.port, "sensors/a", 1, (0..50).map(payload));
    gateway.wait_status(seconds(30), "the first ones", |status| status.backlog() == 100);
    // What a first message takes has been taken: buffers, a segment.
    let before_kb = gateway.process().memory_kb("VmHWM");
    publish_file(broker.port, "sensors/big", 1, &big, &[]);
    publish_lines(broker.port, "sensors/a", 1, (50..100).map(payload));
    publish_file(broker.port, "sensors/big", 1, &big, &[]);

    let status = gateway.wait_status(seconds(60), "100 readings and two refusals from each", |status| {
        status.sum("readings_total") == 200 && status.count("rejected_total", "too_large") == 4
    });
    for source in ["mqtt.five", "mqtt.three"] {
        assert_eq!(status.count("connects_total", source), 1, "{source} kept its connection: {:#}", status.0);
    }
    let grown_kb = gateway.process().memory_kb("VmHWM").saturating_sub(before_kb);
    println!("grown by {grown_kb} kB");
    // Two sources, each with a budget of 4 MiB for messages, and less than one such packet beside.
    assert!(grown_kb < 16 * 1024, "packets of 10 MB made it grow by {grown_kb} kB");
    // Acknowledged, they do not come again.
    gateway.stop(seconds(30));
    gateway.restart();
    gateway.wait_subscribed();
    std::thread::sleep(seconds(2));
    assert_eq!(gateway.status().sum("frames_received_total"), 0, "nothing was left unacknowledged");

    kafka.restart();
    gateway.wait_status(seconds(60), "an empty outbox", |status| status.backlog() == 0 && status.link("kafka") == "up");
    let records = consume(&kafka, &[READINGS, DEAD_LETTERS], 204, seconds(30));
    records.assert_all(100);
    let dead = records.of_kind("dead-letter");
    assert_eq!(dead.len(), 4);
    for letter in dead {
        assert_eq!(letter.topic, DEAD_LETTERS);
        assert_eq!(letter.value["topic_or_port"], "sensors/big");
        assert_eq!(letter.value["reason_code"], "too_large");
        assert_eq!(letter.value["length"].as_u64(), Some(10_000_000 / 7 * 7));
        assert_eq!(letter.value["truncated"], true);
        // 4 KiB as base64.
        assert_eq!(letter.value["payload_base64"].as_str().map(str::len), Some(4096_usize.div_ceil(3) * 4));
    }
}
