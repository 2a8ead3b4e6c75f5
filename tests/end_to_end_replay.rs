//! `tidegate outbox replay` with everything real: what Kafka had acknowledged comes again, marked, under the same `ce_id`.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;

use support::gateway::{READINGS, tidegate};
use support::publish::publish_lines;
use support::{Config, Gateway, Kafka, Mosquitto, consume, need, seconds};

#[test]
fn what_was_delivered_comes_again_with_the_header_and_the_same_id() {
    need!(Mosquitto, Kafka);
    const COUNT: u64 = 3_000;
    let broker = Mosquitto::start();
    let kafka = Kafka::start();
    let config = Config::new(&kafka.address())
        .mqtt("home", broker.port, "")
        .outbox("max_size = \"64MiB\"\nkeep_delivered = \"1h\"\nadvanced = { segment_size = \"256KiB\", commit_bytes = \"64KiB\" }");
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();
    let mut random = fastrand::Rng::with_seed(7);
    let mut noise = || (0..300).map(|_| random.alphanumeric()).collect::<String>();
    publish_lines(broker.port, "sensors/a", 1, (0..COUNT).map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}", noise())));
    gateway.wait_delivered(COUNT, seconds(60));
    let path = gateway.config_path();
    let tool = |action: &str, arguments: &[&str]| {
        let all = [&["outbox", action, "--config", path.to_str().unwrap()], arguments].concat();
        let output = tidegate(&all);
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    // Beside the running gateway: read, and nothing else.
    let (code, said) = tool("verify", &[]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = tool("replay", &["--from", "1h", "--yes"]);
    assert!(code == Some(2) && said.contains("stop it first"), "{said}");
    gateway.stop(seconds(30));
    let (code, said) = tool("replay", &["--from", "1h", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("{COUNT} records will be delivered again")), "{said}");
    gateway.restart();
    gateway.wait_delivered(COUNT, seconds(60));
    let records = consume(&kafka, &[READINGS], COUNT as usize, seconds(60));
    let readings = records.of_kind("reading");
    let ids = |replayed: bool| -> BTreeSet<String> {
        let of = readings.iter().filter(|record| record.headers.contains_key("ce_replayed") == replayed);
        of.map(|record| record.headers["ce_id"].clone()).collect()
    };
    assert_eq!(ids(false).len() as u64, COUNT);
    assert_eq!(ids(true), ids(false), "each came again, under its own id");
    assert_eq!(readings.len() as u64, 2 * COUNT, "once more each");
    gateway.stop(seconds(30));
}
