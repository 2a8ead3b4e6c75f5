//! What Kafka itself refuses or throws away: old and future times, topics that may not be written to.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use support::gateway::{DEAD_LETTERS, READINGS};
use support::kafka::KafkaOptions;
use support::publish::publish_lines;
use support::{Config, Gateway, Kafka, Mosquitto, Scratch, consume, need, seconds};
use tidegate::clock::wall_ms;

const HOUR_MS: i64 = 3_600_000;

/// Retention stays at its default of seven days; Kafka only looks at once, and not after minutes, for what it has to delete.
fn impatient_retention() -> Kafka {
    let properties = "log.retention.check.interval.ms=1000\nlog.initial.task.delay.ms=500\nnum.partitions=1".into();
    Kafka::with(Scratch::new("kafka"), &KafkaOptions { properties, ..KafkaOptions::default() })
}

fn at(n: u64, time_ms: i64) -> String {
    format!("{{\"n\":{n},\"time\":{}.{:03}}}", time_ms.div_euclid(1_000), time_ms.rem_euclid(1_000))
}

#[test]
fn records_of_1970_and_of_the_future_with_a_week_old_backlog() {
    need!(Mosquitto, Kafka);
    let broker = Mosquitto::start();
    let kafka = impatient_retention();
    let mut gateway = Gateway::start(&Config::new(&kafka.address()).mqtt("home", broker.port, ""));
    gateway.wait_subscribed();

    let now = wall_ms();
    let mut payloads: Vec<String> = (0..500).map(|n| at(n, now - 8 * 24 * HOUR_MS + n as i64)).collect();
    payloads.push(at(500, 1_000));
    payloads.push(at(501, now + 2 * HOUR_MS));
    payloads.extend((502..600).map(|n| at(n, now)));
    publish_lines(broker.port, "sensors/a", 1, payloads);

    gateway.wait_delivered(600, seconds(60));
    std::thread::sleep(seconds(10));
    let records = consume(&kafka, &[READINGS], 600, seconds(30));
    records.assert_all(600);
    records.assert_no_gaps();
    for record in &records.0 {
        assert!((record.timestamp - now).abs() < HOUR_MS, "Kafka's time is that of sending: {record:?}");
        assert_eq!(record.value["time_quality"], "device", "{record:?}");
        assert_eq!(record.headers["ce_time"], record.value["time"].as_str().unwrap(), "{record:?}");
    }
    let of_1970 = records.0.iter().find(|record| record.n() == Some(500)).unwrap();
    assert_eq!(of_1970.value["time"], "1970-01-01T00:00:01.000Z");
}

#[test]
fn a_batch_that_is_rejected_for_one_record_costs_only_that_record() {
    need!(Mosquitto, Kafka);
    let broker = Mosquitto::start();
    let kafka = Kafka::shared();
    // With event times Kafka sees the future: more than an hour ahead it rejects the whole batch.
    let config = Config::new("").mqtt("home", broker.port, "").kafka_section(&format!(
        "brokers = [\"{}\"]\ntopics = {{ reading = \"future\", dead_letter = \"future.dead\" }}\n\
         timestamp = \"event\"\nlinger = \"500ms\"",
        kafka.address()
    ));
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();
    let now = wall_ms();
    let ahead = |n: u64| n == 123;
    let payloads = (0..400).map(|n| at(n, if ahead(n) { now + 2 * HOUR_MS } else { now }));
    publish_lines(broker.port, "sensors/a", 1, payloads);

    gateway.wait_status(seconds(90), "all delivered or dead-lettered", |status| {
        status.backlog() == 0 && status.count("rejected_total", "kafka_rejected") == 1
    });
    let records = consume(kafka, &["future", "future.dead"], 400, seconds(30));
    let numbers = records.numbers();
    let missing: Vec<u64> = (0..400).filter(|n| !numbers.contains(n)).collect();
    assert_eq!(missing, [123], "only the one ahead is missing among the readings");
    let dead = records.of_kind("dead-letter");
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!(dead[0].topic, "future.dead");
    assert_eq!(dead[0].value["reason_code"], "kafka_rejected");
}

#[test]
fn a_topic_that_may_not_be_written_to_is_parked_and_the_others_go_on() {
    need!(Mosquitto, Kafka);
    let broker = Mosquitto::start();
    let properties = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                      super.users=User:ANONYMOUS\nsasl.enabled.mechanisms=SCRAM-SHA-512\n\
                      listener.name.edge.scram-sha-512.sasl.jaas.config=\
                      org.apache.kafka.common.security.scram.ScramLoginModule required;"
        .into();
    let (edge_protocol, scram) = (Some("SASL_PLAINTEXT"), Some(("edge", "a-secret")));
    let options = KafkaOptions { properties, edge_protocol, scram, ..KafkaOptions::default() };
    let kafka = Kafka::with(Scratch::new("kafka"), &options);
    for topic in ["iot.kitchen", "iot.secret", DEAD_LETTERS] {
        kafka.admin(&["create-topic", topic, "2"]);
    }
    kafka.admin(&["allow-all", "edge"]);
    kafka.admin(&["deny-write", "edge", "iot.secret"]);

    let scratch = Scratch::new("gateway");
    scratch.write("kafka-password", "a-wrong-one\n");
    let config = Config::new("").mqtt("home", broker.port, "").kafka_section(&format!(
        "brokers = [\"127.0.0.1:{}\"]\n\
         sasl = {{ mechanism = \"SCRAM-SHA-512\", user = \"edge\", password = {{ file = \"kafka-password\" }} }}\n\
         topics = {{ reading = \"iot.{{device}}\", dead_letter = \"{DEAD_LETTERS}\" }}",
        kafka.edge_port.unwrap()
    ));
    let mut gateway = Gateway::in_scratch(scratch, &config);
    gateway.restart();
    gateway.wait_subscribed();
    // A password that is wrong is said, and the right one is there with a reload.
    gateway.wait_status(seconds(30), "the wrong password to be said", |status| {
        status.link("kafka") == "down" && status.link_detail("kafka").to_lowercase().contains("auth")
    });
    gateway.scratch().write("kafka-password", "a-secret\n");
    assert_eq!(gateway.reload_with(&config), "reloaded: the way to Kafka changed\n");
    let payload = |n: u64| format!("{{\"n\":{n}}}");
    for round in 0..5 {
        publish_lines(broker.port, "sensors/secret", 1, (round * 100..round * 100 + 20).map(payload));
        publish_lines(broker.port, "sensors/kitchen", 1, (round * 100 + 20..round * 100 + 100).map(payload));
    }
    let status = gateway.wait_status(seconds(60), "400 delivered and 100 parked", |status| {
        status.count("delivered_total", "iot.kitchen") == 400 && status.backlog() == 100
    });
    assert_eq!(status.link("kafka"), "up", "{:#}", status.0);
    let detail = status.link_detail("kafka");
    assert!(detail.contains("parked") && detail.contains("iot.secret"), "the status names what is parked: {detail:?}");

    kafka.admin(&["permit-write", "edge", "iot.secret"]);
    // It is tried again with a growing delay.
    gateway.wait_delivered(501, seconds(90));
    let records = consume(&kafka, &["iot.kitchen", "iot.secret", "iot.none"], 501, seconds(30));
    records.assert_all(500);
    records.assert_no_gaps();
    records.assert_stored_once();
}
