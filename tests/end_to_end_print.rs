//! `tidegate run --print`: what a newcomer runs first against a broker of their own.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::path::Path;

use serde_json::Value;
use support::gateway::TIDEGATE;
use support::publish::publish_lines;
use support::{Config, Gateway, Mosquitto, Process, need, seconds};

fn print(gateway: &Gateway, arguments: &[&str]) -> Process {
    let config = gateway.config_path();
    let mut all = vec!["run", "--print", "--config", config.to_str().unwrap()];
    all.extend(arguments);
    Process::spawn("tidegate run --print", Path::new(TIDEGATE), all, &[], &gateway.log())
}

#[test]
fn shows_readings_without_kafka_and_without_a_data_directory() {
    need!(Mosquitto);
    let broker = Mosquitto::start();
    let config = Config::new("127.0.0.1:1").mqtt("home", broker.port, "");
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();
    // The real gateway's session must not be taken over: both run side by side.
    let mut printing = print(&gateway, &[]);
    for n in 0..100 {
        publish_lines(broker.port, "sensors/greenhouse", 1, [format!("{{\"n\":{n},\"temperature\":21.5}}")]);
        if printing.output().contains("greenhouse") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    // Not a terminal: a JSON object for each reading, which other programs can read.
    let line = printing.wait_for_output("greenhouse", seconds(5));
    let reading: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
    assert_eq!(reading["device"], "greenhouse");
    assert_eq!(reading["values"]["temperature"], 21.5);
    assert!(printing.terminate(seconds(10)).success());
    let status = gateway.status();
    assert_eq!(status.count("connects_total", "mqtt.home"), 1, "the gateway's own session was left alone");

    // And where there is no gateway: no data directory comes to be.
    let alone = Gateway::stopped(&config);
    let mut printing = print(&alone, &[]);
    std::thread::sleep(seconds(2));
    printing.assert_running("it to be printing");
    assert!(!alone.data_dir().exists());
    assert!(printing.terminate(seconds(10)).success());
}

#[test]
fn names_the_subscriptions_that_heard_nothing() {
    need!(Mosquitto);
    let broker = Mosquitto::start();
    let config = Config::new("127.0.0.1:1").mqtt("home", broker.port, "profiles = [\"generic/json\", \"tasmota\"]");
    let gateway = Gateway::stopped(&config);
    let mut printing = print(&gateway, &[]);
    std::thread::sleep(seconds(3));
    publish_lines(broker.port, "sensors/greenhouse", 1, ["{\"n\":1}".to_owned()]);
    printing.wait_for_output("greenhouse", seconds(10));
    let line = printing.wait_for_output("tele/", seconds(40));
    assert!(!line.contains("sensors/"), "only the silent ones are named: {line}");
    assert!(printing.terminate(seconds(10)).success());
}
