//! Sparkplug B as another implementation speaks it: a node whose payloads Eclipse Tahu makes, on a real mosquitto.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::io::Write;

use serde_json::{Value, json};
use support::gateway::READINGS;
use support::parts::{python, script};
use support::{Config, Gateway, Kafka, Mosquitto, Process, Records, Scratch, consume, need, seconds};

/// The node of `sparkplug.py`, connected.
struct Node {
    process: Process,
    scratch: Scratch,
}

impl Node {
    fn start(port: u16, connections: u64) -> Self {
        let scratch = Scratch::new("sparkplug");
        let commands = scratch.write("commands", "");
        let (script, port, connections) = (script("sparkplug.py"), port.to_string(), connections.to_string());
        let arguments = [script.to_str().unwrap(), &port, &connections, commands.to_str().unwrap()];
        let mut process = Process::spawn("sparkplug.py", &python(), arguments, &[], &scratch.join("log"));
        process.wait_for_output("ready", seconds(30));
        Self { process, scratch }
    }

    fn does(&mut self, command: &str) {
        let mut file = std::fs::OpenOptions::new().append(true).open(self.scratch.join("commands")).unwrap();
        file.write_all(format!("{command}\n").as_bytes()).unwrap();
        self.process.wait_for_output(&format!("did {command}"), seconds(20));
    }
}

fn config(kafka: &Kafka, broker: &Mosquitto) -> Config {
    Config::new(&kafka.address()).mqtt("plant", broker.port, "profiles = [\"sparkplug/sparkplug-b\"]")
}

/// Values, flags and texts of each reading of a device, in their order.
fn readings(records: &Records, device: &str) -> Vec<Value> {
    let of_device = records.of_kind("reading").into_iter().filter(|record| record.value["device"] == device);
    of_device
        .map(|record| {
            let parts = ["values", "flags", "texts"].into_iter().filter_map(|key| record.value[key].as_object());
            parts.flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
        })
        .collect()
}

/// How a device came (`online`) and went. Kafka keeps the order of one device's records, not that of all.
fn states(records: &Records, device: &str) -> Vec<String> {
    let of_device = records.of_kind("state").into_iter().filter(|record| record.value["device"] == device);
    of_device.map(|record| record.value["state"].as_str().unwrap().to_owned()).collect()
}

fn inlet(value: f64) -> Value {
    json!({ "temperatures_inlet": value })
}

/// What the device's birth says, and what is of a minute before.
fn born() -> [Value; 2] {
    let now = json!({
        "energy": 1234.5, "int8": -5.0, "int16": -300.0, "int32": -70_000.0, "int64": -7.0, "uint8": 255.0, "uint16": 65_535.0,
        "uint32": 4_294_967_295.0, "uint64": "18446744073709551615", "running": true, "state": "idle", "text": "a b",
        "serviced": "2026-05-04T11:59:00Z", "bytes": "00ff",
    });
    [now, json!({ "level": 0.75 })]
}

fn data() -> Value {
    json!({ "int8": -6.0, "int32": -70_001.0, "energy": 1235.5 })
}

#[test]
fn births_data_deaths_and_a_node_that_comes_back() {
    need!(Mosquitto, Kafka, Paho, Tahu);
    let broker = Mosquitto::start();
    let kafka = Kafka::start();
    let mut gateway = Gateway::start(&config(&kafka, &broker));
    gateway.wait_subscribed();
    let mut node = Node::start(broker.port, 0);
    node.does("birth");
    node.does("data");
    // Births: two states, three readings; data: two.
    let status = gateway.wait_delivered(7, seconds(30));
    assert_eq!(status.sum("sequence_gaps_total"), 0, "{:#}", status.0);
    node.does("gap");
    node.does("data");
    let status = gateway.wait_delivered(9, seconds(30));
    assert_eq!(status.sum("sequence_gaps_total"), 1, "{:#}", status.0);

    // It dies: the broker sends its will, and its device went with it.
    node.process.kill();
    gateway.wait_delivered(11, seconds(30));
    let mut node = Node::start(broker.port, 1);
    node.does("birth");
    // The will of a connection that is long over changes nothing.
    node.does("late-death");
    node.does("data");
    let status = gateway.wait_delivered(18, seconds(30));
    assert_eq!(status.sum("sequence_gaps_total"), 1, "{:#}", status.0);
    assert_eq!(status.sum("rebirths_requested_total"), 0, "{:#}", status.0);
    // A table is not one value.
    assert_eq!(status.sum("values_rejected_total"), 2, "{:#}", status.0);

    let records = consume(&kafka, &[READINGS], 18, seconds(30));
    records.assert_no_gaps();
    for device in ["tahu", "tahu/press"] {
        assert_eq!(states(&records, device), ["online", "offline", "online"], "{device}");
    }
    assert_eq!(readings(&records, "tahu"), [21.3, -4.5, -4.5, 21.3, -4.5].map(inlet));
    let [now, before] = born();
    let expected = [now.clone(), before.clone(), data(), data(), now, before, data()];
    assert_eq!(readings(&records, "tahu/press"), expected);
    for record in records.of_kind("reading") {
        let minute = if record.value["values"].get("level").is_some() { "11:59" } else { "12:00" };
        assert_eq!(record.value["time"], format!("2026-05-04T{minute}:00.000Z"), "{record:?}");
        if let Some(unit) = record.value["units"].get("energy") {
            assert_eq!(unit, "kW.h");
        }
    }
}

#[test]
fn a_node_whose_birth_was_missed_is_asked_and_answers() {
    need!(Mosquitto, Kafka, Paho, Tahu);
    let broker = Mosquitto::start();
    let kafka = Kafka::start();
    let mut node = Node::start(broker.port, 0);
    node.does("birth");
    let mut gateway = Gateway::start(&config(&kafka, &broker));
    gateway.wait_subscribed();
    // Aliases that mean nothing yet; Tahu reads the command that asks for the birth.
    node.does("data");
    node.process.wait_for_output("did a rebirth", seconds(30));
    gateway.wait_delivered(5, seconds(30));
    node.does("data");
    let status = gateway.wait_status(seconds(30), "readings of births and of data after them", |status| {
        status.backlog() == 0 && status.sum("readings_total") >= 5
    });
    assert_eq!(status.sum("rebirths_requested_total"), 1, "{:#}", status.0);
    let records = consume(&kafka, &[READINGS], 7, seconds(30));
    for device in ["tahu", "tahu/press"] {
        assert_eq!(states(&records, device), ["online"], "{device}");
    }
    assert_eq!(readings(&records, "tahu"), [21.3, -4.5].map(inlet));
    let [now, before] = born();
    assert_eq!(readings(&records, "tahu/press"), [now, before, data()]);
}
