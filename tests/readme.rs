//! The README's configuration is what it says: at most 25 lines, valid, and a gateway runs on it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::path::Path;

use support::gateway::tidegate;
use support::publish::publish_one;
use support::{Config, Gateway, Mosquitto, Pty, need, seconds};

const README: &str = include_str!("../README.md");
const MARK: &str = "<!-- the configuration that a test runs -->\n```toml\n";

fn configuration() -> &'static str {
    let (_, rest) = README.split_once(MARK).expect("the README marks its configuration");
    rest.split_once("```").expect("the block ends").0
}

#[test]
fn the_configuration_in_the_readme_runs_and_stores_readings() {
    need!(Mosquitto);
    let text = configuration();
    assert!(text.lines().count() <= 25, "{} lines", text.lines().count());
    let broker = Mosquitto::start();
    let mut gateway = Gateway::stopped(&Config::new("127.0.0.1:9"));
    let mut pty = Pty::plug(&gateway.scratch().join("meter"));
    // Only what a reader has to replace is replaced: addresses, and where this test may write.
    let below = |name: &str| gateway.scratch().join(name).display().to_string();
    let text = text
        .replace(
            "[gateway]\n",
            &format!("[gateway]\ndata_dir = {:?}\nprofiles_dir = {:?}\n", below("data"), below("p")),
        )
        .replace("192.168.1.10:1883", &format!("127.0.0.1:{}", broker.port))
        .replace("/dev/serial/by-id/usb-FTDI_FT232R_P1-if00-port0", &below("meter"))
        .replace("broker.example.net:9093", "127.0.0.1:9");
    gateway.scratch().write("gateway.toml", &text);
    gateway.scratch().write("mqtt-password", "secret\n");
    gateway.scratch().write("kafka-password", "secret\n");
    gateway.restart();
    gateway.wait_subscribed();
    gateway.wait_status(seconds(20), "the serial port to be open", |status| status.links("serial.") == ["up"]);
    publish_one(broker.port, "tele/desk/SENSOR", 1, r#"{"Time":"2026-05-04T12:00:00","ENERGY":{"Power":56}}"#, &[]);
    publish_one(broker.port, "zigbee2mqtt/kitchen", 1, r#"{"temperature":21.4}"#, &[]);
    assert!(pty.send(b"{\"temperature\":20.5}\n", seconds(5)));
    let status = gateway.wait_status(seconds(20), "three readings to be stored", |status| status.backlog() == 3);
    assert_eq!(status.sum("readings_total"), 3, "{:#}", status.0);
    gateway.stop(seconds(40));
}

#[test]
fn the_example_with_every_key_passes_its_own_check() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.example.toml");
    let output = tidegate(&["check", "--config", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_configuration_in_the_installation_guide_passes_the_check() {
    let guide = include_str!("../docs/install.md");
    let text = guide.split_once("```toml\n").expect("the guide has a configuration").1.split_once("```").unwrap().0;
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in [("gateway.toml", text), ("mqtt-password", "a"), ("kafka-password", "b")] {
        std::fs::write(directory.path().join(name), content).unwrap();
    }
    let output = tidegate(&["check", "--config", directory.path().join("gateway.toml").to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
