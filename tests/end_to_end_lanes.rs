//! Lanes with everything real: an alarm overtakes what has waited for longer, and loses nobody's place in its own lane.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::publish::publish_lines;
use support::{Config, Gateway, Kafka, Mosquitto, Records, consume, need, seconds};

const READINGS: &str = support::gateway::READINGS;
const ALARMS: &str = "iot.alarms";
const AGGREGATES: &str = "iot.aggregates";

fn config(kafka: &Kafka, broker: &Mosquitto, topics: &str, rules: &str) -> Config {
    Config::new("").mqtt("home", broker.port, "").section(rules).kafka_section(&format!(
        "brokers = [\"{}\"]\ntopics = {{ {topics} }}\n[kafka.advanced]\nin_flight_max = 500",
        kafka.address()
    ))
}

const RULE: &str = "[[filter]]\nname = \"hot\"\nmeasurement = \"temperature\"\nalarm = { above = 80 }";

/// What an alarm is by [`RULE`] and what is not, told by `n`.
fn payload(n: u64, alarm: bool) -> String {
    format!("{{\"n\":{n},\"temperature\":{}}}", if alarm { 95 } else { 20 })
}

/// Panics unless the readings of each device are in the order of their numbers within each lane.
#[track_caller]
fn assert_order(records: &Records) {
    let mut last: BTreeMap<(String, bool), u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for record in records.of_kind("reading") {
        let lane = (record.value["device"].as_str().unwrap().to_owned(), record.value["lane"] == "alarm");
        // What has no number is not about order, and a second copy of a record has its place where the first is.
        let Some(n) = record.n().filter(|_| seen.insert(record.identity())) else { continue };
        if let Some(before) = last.insert(lane.clone(), n) {
            assert!(before < n, "{lane:?}: {n} came after {before}");
        }
    }
}

#[test]
fn an_alarm_at_the_end_of_an_outage_is_among_the_first_records_delivered() {
    need!(Mosquitto, Kafka);
    const BACKLOG: u64 = 30_000;
    const ALARMED: u64 = 3;
    const IN_FLIGHT: usize = 500;
    let broker = Mosquitto::start();
    let mut kafka = Kafka::start();
    // One topic for both lanes and one device, hence one partition: its offsets are the order of delivery.
    let topics = format!("reading = \"{READINGS}\", alarm = \"{READINGS}\"");
    let mut gateway = Gateway::start(&config(&kafka, &broker, &topics, RULE));
    gateway.wait_subscribed();
    publish_lines(broker.port, "sensors/a", 1, (0..100).map(|n| payload(n, false)));
    gateway.wait_delivered(100, seconds(30));

    kafka.stop();
    publish_lines(broker.port, "sensors/a", 1, (100..BACKLOG).map(|n| payload(n, false)));
    gateway.wait_status(seconds(120), "the backlog in the outbox", |status| {
        status.backlog() == BACKLOG - 100 && status.link("kafka") == "down"
    });
    publish_lines(broker.port, "sensors/a", 1, (BACKLOG..BACKLOG + ALARMED).map(|n| payload(n, true)));
    let status = gateway.wait_status(seconds(30), "the alarms in their lane", |status| {
        status.0["backlog"]["lanes"]["alarm"] == ALARMED
    });
    assert_eq!(status.0["backlog"]["lanes"]["raw"], BACKLOG - 100, "{:#}", status.0);
    assert_eq!(status.count("alarms_total", "hot"), ALARMED);
    assert_eq!(status.count("outbox_appended_total", "alarm"), ALARMED);
    kafka.restart();

    let total = BACKLOG + ALARMED;
    gateway.wait_delivered(total, seconds(120));
    let records = consume(&kafka, &[READINGS], total as usize, seconds(90));
    records.assert_all(total);
    records.assert_no_gaps();
    records.assert_stored_once();
    assert_order(&records);
    let is_alarm = |record: &&support::records::KafkaRecord| record.value["lane"] == "alarm";
    let last = records.0.iter().rposition(|record| is_alarm(&record)).unwrap();
    println!("the last alarm is record {last} of {}", records.0.len());
    // Ahead of it: what was delivered before the outage, and what Kafka's client had been handed when it began.
    assert!(last < 100 + IN_FLIGHT + ALARMED as usize, "the last alarm is only record {last} of {total}");
    let alarms: Vec<_> = records.0.iter().filter(is_alarm).collect();
    assert_eq!(alarms.len() as u64, ALARMED);
    for (alarm, seq) in alarms.iter().zip(1..) {
        assert_eq!(alarm.value["alarm"], "hot");
        let (stream, number) = alarm.identity();
        assert!(stream.ends_with(".alarm") && number == seq, "a stream of their own: {stream}-{number}");
    }
    gateway.stop(seconds(20));
}

#[test]
fn alarms_and_backlog_of_many_devices_over_kills_keep_their_orders_and_miss_nothing() {
    need!(Mosquitto, Kafka);
    const COUNT: u64 = 12_000;
    const DEVICES: u64 = 4;
    let broker = Mosquitto::start();
    let mut kafka = Kafka::start();
    let rules = format!(
        "{RULE}\n[[window]]\nname = \"minute\"\nmeasurement = \"power\"\nevery = \"1m\"\nlateness = \"0s\"\n\
         alarm = {{ field = \"max\", above = 5 }}"
    );
    let topics = format!("reading = \"{READINGS}\"");
    let mut gateway = Gateway::start(&config(&kafka, &broker, &topics, &rules));
    gateway.wait_subscribed();
    kafka.stop();
    let lines = |from: u64, to: u64| {
        let line = |n: u64| {
            let body = payload(n, n % 100 == 99);
            format!("{{\"device\":\"d{}\",{}", n % DEVICES, &body[1..])
        };
        (from..to).map(line).collect::<Vec<_>>()
    };
    for part in 0..3 {
        let third = COUNT / 3;
        publish_lines(broker.port, "sensors/x", 1, lines(part * third, (part + 1) * third));
        gateway.wait_status(seconds(90), "a third in the outbox", |status| status.backlog() >= (part + 1) * third);
        if part < 2 {
            gateway.kill();
            gateway.restart();
            gateway.wait_subscribed();
        }
    }
    // Two windows, of which the first is an alarm and the second is not.
    for (second, power) in [("00:00", 9), ("01:00", 1), ("02:00", 1)] {
        let line = format!("{{\"device\":\"m\",\"time\":\"2026-05-04T12:{second}Z\",\"power\":{power}}}");
        publish_lines(broker.port, "sensors/x", 1, std::iter::once(line));
    }
    kafka.restart();
    gateway.wait_status(seconds(120), "an empty outbox", |status| status.backlog() == 0);
    // The readings, three of power, two aggregates; ends of streams are declared besides.
    let all = [READINGS, ALARMS, AGGREGATES];
    let records = consume(&kafka, &all, COUNT as usize + 3 + 2, seconds(90));
    assert_eq!(records.numbers().len() as u64, COUNT, "a message is missing");
    records.assert_no_gaps();
    assert_order(&records);
    let in_alarms: Vec<_> = records.0.iter().filter(|record| record.topic == ALARMS).collect();
    let mut numbers: Vec<u64> = in_alarms.iter().filter_map(|record| record.n()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers, (0..COUNT).filter(|n| n % 100 == 99).collect::<Vec<_>>());
    assert!(in_alarms.iter().all(|record| record.value["lane"] == "alarm" && record.value["alarm"].is_string()));
    let aggregates = records.of_kind("aggregate");
    let by_topic = |topic: &str| {
        let of: Vec<_> = aggregates.iter().filter(|record| record.topic == topic).collect();
        of.iter().map(|record| record.value["max"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((by_topic(ALARMS), by_topic(AGGREGATES)), (vec![9.0], vec![1.0]));
    gateway.stop(seconds(20));
}
