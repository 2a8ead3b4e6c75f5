//! Windows with everything real: exact over kills, closed for devices that fell silent, indifferent to the gateway's clock.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use support::day::{Aggregates, Day, assert_same, expect, numbers};
use support::gateway::{READINGS, TIDEGATE};
use support::publish::{LinePublisher, publish_one};
use support::{Config, Gateway, Kafka, Mosquitto, Records, consume, need, seconds};

const AGGREGATES: &str = "iot.aggregates";

fn config(kafka: &Kafka, broker: &Mosquitto, rule: &str) -> Config {
    Config::new("").mqtt("home", broker.port, "").section(&format!("[[window]]\n{rule}")).kafka_section(&format!(
        "brokers = [\"{}\"]\ntopics = {{ reading = \"{READINGS}\", aggregate = \"{AGGREGATES}\" }}",
        kafka.address()
    ))
}

/// The aggregates by device and start; panics if one was made twice.
#[track_caller]
fn aggregates(records: &Records) -> Aggregates {
    let (mut found, mut identities) = (Aggregates::new(), BTreeMap::new());
    for record in records.of_kind("aggregate") {
        let id = record.value["id"].as_str().unwrap().to_owned();
        // The same record may come twice; the same window in two records must not.
        let first = identities.entry(id).or_insert_with(|| record.identity()).clone();
        assert_eq!(record.identity(), first, "a window was made twice: {}", record.value);
        assert_eq!(record.value["revision"], 1, "{}", record.value);
        let text = |name: &str| record.value[name].as_str().unwrap().to_owned();
        found.insert((text("device"), text("start")), numbers(&record.value));
    }
    found
}

#[test]
fn killed_fifty_times_the_aggregates_are_those_of_an_uninterrupted_run() {
    need!(Mosquitto, Kafka, Pandas);
    const KILLS: usize = 50;
    const DAY: Day = Day { seed: 4, devices: 100, step: 120 };
    const PER_SECOND: usize = 2_500;
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(fastrand::u64(..));
    println!("seed: TIDEGATE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    // A last reading of each device, days later, closes all windows of the day.
    let mut messages = DAY.messages();
    for device in 0..DAY.devices {
        messages += &format!("{{\"device\":\"meter-{device}\",\"time\":\"2026-05-08T00:00:00.000Z\",\"power\":0.5}}\n");
    }
    let expected = expect(&messages, 900, 300, None);
    let total = messages.lines().count();

    let broker = Mosquitto::start();
    let kafka = Kafka::start();
    let rule = "name = \"quarter\"\nmeasurement = \"power\"\nevery = \"15m\"\nlateness = \"5m\"\nforward_raw = false";
    // Small segments, so that state is carried over from one to the next; and checkpoints with them.
    let config = config(&kafka, &broker, rule)
        .outbox("max_size = \"64MiB\"\n[outbox.advanced]\nsegment_size = \"256KiB\"\ncommit_interval = \"50ms\"");
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();
    let port = broker.port;
    let publisher = std::thread::spawn(move || {
        let mut publisher = LinePublisher::start(port, "sensors/day", 1);
        for (n, message) in messages.lines().enumerate() {
            publisher.send(message);
            if n % (PER_SECOND / 50) == 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        publisher.finish(seconds(120));
    });
    for _ in 0..KILLS {
        std::thread::sleep(Duration::from_millis(random.u64(50..1_000)));
        gateway.kill();
        gateway.restart_without_waiting();
        if random.bool() {
            gateway.wait_started();
        }
    }
    publisher.join().unwrap();
    gateway.wait_started();
    let settled = |status: &support::Status| {
        status.backlog() == 0 && status.link("kafka") == "up" && status.link("mqtt.home") == "up"
    };
    gateway.wait_status(seconds(120), "everything received and delivered", settled);
    let late = expected.late as usize;
    // Aggregates, late readings, and the last reading of each device in no window that is over.
    let records = consume(&kafka, &[AGGREGATES, READINGS], expected.aggregates.len() + late, seconds(120));
    assert_same(&aggregates(&records), &expected.aggregates);
    // Every message is in one window, or went as it was because it was late, or waits in a window that is open.
    let raw: BTreeSet<_> = records.of_kind("reading").iter().map(|record| record.identity()).collect();
    let counted: u64 = expected.aggregates.values().map(|numbers| numbers.count).sum();
    assert_eq!(raw.len(), late);
    assert!(records.of_kind("reading").iter().all(|record| record.value["mark"] == "late"));
    assert_eq!(counted + expected.late + expected.open, total as u64);
    assert_eq!(expected.open, u64::from(DAY.devices));
    records.assert_no_gaps();
    gateway.stop(seconds(30));
}

#[test]
fn the_last_window_of_a_device_that_fell_silent_comes_without_another_message() {
    need!(Mosquitto, Kafka);
    let (broker, kafka) = (Mosquitto::start(), Kafka::start());
    let rule = "name = \"quick\"\nmeasurement = \"power\"\nevery = \"2s\"\nlateness = \"1s\"";
    let mut gateway = Gateway::start(&config(&kafka, &broker, rule));
    gateway.wait_subscribed();
    // Two windows of the past; nothing comes afterwards. In between the gateway is killed, which the silence survives.
    for (second, power) in [(1, 10), (2, 20), (3, 30)] {
        let payload = format!("{{\"time\":\"2026-05-04T12:00:0{second}Z\",\"power\":{power}}}");
        publish_one(broker.port, "sensors/a", 1, &payload, &[]);
    }
    gateway.wait_delivered(3, seconds(30));
    gateway.kill();
    gateway.restart();
    let records = consume(&kafka, &[AGGREGATES], 2, seconds(30));
    let found: Vec<_> = aggregates(&records).values().map(|numbers| (numbers.count, numbers.sum)).collect();
    assert_eq!(found, [(1, 10.0), (2, 50.0)]);
    // One more for a window that was closed by the silence: it goes as it is, and the window does not come again.
    publish_one(broker.port, "sensors/a", 1, "{\"time\":\"2026-05-04T12:00:03.500Z\",\"power\":1}", &[]);
    gateway.wait_delivered(1, seconds(30));
    let raw = consume(&kafka, &[READINGS], 4, seconds(30));
    assert_eq!(raw.of_kind("reading").iter().filter(|record| record.value["mark"] == "late").count(), 1);
    assert_eq!(gateway.status().count("values_late_total", "quick"), 1);
    assert_eq!(aggregates(&consume(&kafka, &[AGGREGATES], 2, seconds(30))).len(), 2);
    gateway.stop(seconds(30));
}

#[test]
fn a_clock_set_back_and_forth_loses_and_doubles_no_window() {
    need!(Mosquitto, Kafka, Faketime);
    let (broker, kafka) = (Mosquitto::start(), Kafka::start());
    let rule = "name = \"minute\"\nmeasurement = \"power\"\nevery = \"1m\"\nlateness = \"10s\"\nforward_raw = false";
    let mut gateway = Gateway::stopped(&config(&kafka, &broker, rule));
    let clock = gateway.scratch().join("clock");
    let set = |offset: &str| std::fs::write(&clock, format!("{offset}\n")).unwrap();
    set("+0");
    let environment = [
        format!("LD_PRELOAD={}", support::parts::faketime().unwrap().display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        "FAKETIME_NO_CACHE=1".into(),
        "DONT_FAKE_MONOTONIC=1".into(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
    ];
    let configuration = gateway.config_path();
    let mut arguments: Vec<&str> = environment.iter().map(String::as_str).collect();
    arguments.extend([TIDEGATE, "run", "--config", configuration.to_str().unwrap()]);
    gateway.restart_as(&PathBuf::from("/usr/bin/env"), &arguments);
    gateway.wait_started();
    gateway.wait_subscribed();
    // The device's own clock is right all the time: 40 minutes around now, faster than they pass. The gateway's is set an
    // hour back, two hours forth, a day back, and right again.
    let now = tidegate::clock::wall_ms() / 1000;
    let mut publisher = LinePublisher::start(broker.port, "sensors/a", 1);
    let (start, steps) = (now - 3_000, ["-3600", "+7200", "-86400", "+0"]);
    for n in 0..2_400 {
        if n % 600 == 300 {
            set(steps[n as usize / 600]);
        }
        publisher.send(&format!("{{\"time\":{},\"power\":{}}}", start + n, n % 10));
        if n % 5 == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    publisher.finish(seconds(60));
    // Of 40 minutes two are still open, or three, as the minutes lie.
    let records = consume(&kafka, &[AGGREGATES], 38, seconds(60));
    let found = aggregates(&records);
    let minutes: Vec<&str> = found.keys().map(|(_, start)| start.as_str()).collect();
    let parse = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_second();
    assert!(minutes.windows(2).all(|pair| parse(pair[1]) - parse(pair[0]) == 60), "a window is missing: {minutes:?}");
    let counts: Vec<u64> = found.values().map(|numbers| numbers.count).collect();
    assert!(counts[1..].iter().all(|count| *count == 60), "a reading is missing, or was counted twice: {counts:?}");
    let status = gateway.status();
    assert_eq!(status.sum("values_late_total") + status.sum("values_future_total"), 0, "{:#}", status.0);
    gateway.stop(seconds(30));
}
