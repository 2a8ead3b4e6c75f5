//! `tidegate profile watch`: how a person finds out what a device says.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::gateway::TIDEGATE;
use support::publish::publish_one;
use support::{Mosquitto, Process, Pty, Scratch, need, seconds};

fn watch(scratch: &Scratch, arguments: &[&str]) -> Process {
    let none = scratch.join("none");
    let mut all = vec!["profile", "--profiles", none.to_str().unwrap(), "watch"];
    all.extend(arguments);
    Process::spawn("tidegate profile watch", Path::new(TIDEGATE), all, &[], &scratch.join("watch.log"))
}

/// The output's lines that are JSON.
fn json(output: &str) -> Vec<Value> {
    output.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_brokers_messages_are_shown_with_what_each_profile_makes_of_them() {
    need!(Mosquitto);
    let broker = Mosquitto::start();
    let scratch = Scratch::new("watch");
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let mut watching = watch(&scratch, &["--json", "--count", "4", "--broker", &url]);
    watching.wait_for_output("connected", seconds(20));
    publish_one(broker.port, "tele/plug/SENSOR", 1, r#"{"ENERGY":{"Power":-5},"TempUnit":"C"}"#, &[]);
    publish_one(broker.port, "home/mesh/porch", 1, r#"{"temperature":-3.5,"linkquality":91,"battery":77}"#, &[]);
    publish_one(broker.port, "nobody/knows", 0, "hello", &[]);
    publish_one(broker.port, "tele/plug/LWT", 0, "Offline", &["-r"]);
    assert!(watching.wait(seconds(20)).success(), "{}", watching.output());

    let messages = json(&watching.output());
    assert_eq!(messages.len(), 4, "{}", watching.output());
    let readings = &messages[0]["profiles"]["tasmota"]["readings"];
    assert_eq!(readings[0]["values"]["power"]["value"], -5.0, "{}", messages[0]);
    // No profile has such topics, but one would read what is in it if its prefix were that.
    assert_eq!(messages[1]["profiles"], serde_json::json!({}));
    let likely = messages[1]["likely"].as_array().unwrap();
    assert!(likely.contains(&serde_json::json!({"id": "zigbee2mqtt", "prefix": "home"})), "{}", messages[1]);
    assert_eq!((&messages[2]["payload"], &messages[2]["likely"]), (&"hello".into(), &serde_json::json!([])));
    assert_eq!(messages[3]["profiles"]["tasmota"]["states"][0]["online"], false);

    // For a person, and what the broker had kept.
    let mut watching = watch(&scratch, &["--count", "1", "--broker", &url]);
    assert!(watching.wait(seconds(20)).success());
    let shown = watching.output();
    assert!(shown.contains("tele/plug/LWT  7 bytes, retained\n  | Offline\n  tasmota:\n"), "{shown}");
    assert!(shown.contains("plug           is offline"), "{shown}");
}

/// A fine dust sensor's message of 12.3 and 26.1 ug/m3.
const DUST: [u8; 10] = [0xaa, 0xc0, 0x7b, 0x00, 0x05, 0x01, 0xa1, 0x60, 0x82, 0xab];

#[test]
fn a_ports_bytes_are_shown_with_what_each_profile_finds_in_them() {
    let scratch = Scratch::new("watch");
    let port = scratch.join("usb-1a86_USB_Serial-if00-port0");
    let name = port.to_str().unwrap().to_owned();
    let mut device = Pty::plug(&port);
    let mut watching = watch(&scratch, &["--port", &name]);
    watching.wait_for_output("listening", seconds(20));
    for _ in 0..100 {
        assert!(device.send(&DUST, seconds(10)));
        std::thread::sleep(Duration::from_millis(200));
        if watching.output().contains("nova/sds011") {
            break;
        }
    }
    watching.wait_for_output("pm2_5=12.3 ug/m3", seconds(5));
    let shown = watching.output();
    assert!(shown.contains("  | aa c0 7b 00 05 01 a1 60 82 ab"), "{shown}");
    assert!(watching.terminate(seconds(10)).success(), "{}", watching.output());
    assert!(watching.output().contains("nova/sds011: "), "what fitted is summed up: {}", watching.output());

    // Pulled out: said, and an error.
    let mut watching = watch(&scratch, &["--port", &name, "--baud", "57600"]);
    watching.wait_for_output("listening to", seconds(20));
    std::thread::sleep(Duration::from_millis(300));
    drop(device);
    assert_eq!(watching.wait(seconds(10)).code(), Some(2));
    let said = watching.output();
    assert!(said.contains("at 57600 8N1"), "{said}");
    assert!(said.contains("nothing came"), "{said}");
    assert!(said.contains("unplugged"), "{said}");

    let mut watching = watch(&scratch, &["--port", &name]);
    assert_eq!(watching.wait(seconds(10)).code(), Some(2));
    assert!(watching.output().contains("cannot be opened"), "{}", watching.output());
}

#[test]
fn a_device_that_only_answers_is_asked_if_its_profile_is_named() {
    let scratch = Scratch::new("watch");
    let port = scratch.join("co2");
    let mut device = Pty::plug(&port);
    let mut watching = watch(&scratch, &["--port", port.to_str().unwrap(), "--profile", "winsen/mhz19"]);
    let asked = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        device.received().starts_with(&[0xff, 0x01, 0x86])
    });
    assert!(asked, "{}", watching.output());
    // 621 ppm, and the checksum of that.
    let mut answer = vec![0xff, 0x86, 0x02, 0x6d, 0x41, 0x00, 0x00, 0x00];
    answer.push(answer[1..].iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte)));
    assert!(device.send(&answer, seconds(10)));
    watching.wait_for_output("co2=621 [ppm]", seconds(10));
    assert!(watching.terminate(seconds(10)).success());
}
