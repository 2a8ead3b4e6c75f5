//! MQTT as brokers really do it: several of them, retained messages, refused subscriptions, both versions and qualities.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use support::gateway::READINGS;
use support::publish::{publish_lines, publish_one};
use support::{Config, Gateway, Kafka, Mosquitto, Scratch, consume, need, seconds};

fn payload(n: u64) -> String {
    format!("{{\"n\":{n}}}")
}

#[test]
fn two_brokers_both_versions_both_qualities() {
    need!(Mosquitto, Kafka);
    let brokers = [Mosquitto::start(), Mosquitto::start()];
    let kafka = Kafka::start();
    let config = Config::new(&kafka.address())
        .mqtt("five", brokers[0].port, "version = \"5\"\nqos = 1")
        .mqtt("three", brokers[0].port, "version = \"3.1.1\"\nqos = 0")
        .mqtt("other", brokers[1].port, "version = \"3.1.1\"\nqos = 1");
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();
    publish_lines(brokers[0].port, "sensors/shed/door", 1, (0..200).map(payload));
    publish_lines(brokers[1].port, "sensors/b", 0, (200..400).map(payload));
    let status = gateway.wait_delivered(600, seconds(30));
    for (source, count) in [("mqtt.five", 200), ("mqtt.three", 200), ("mqtt.other", 200)] {
        assert_eq!(status.count("readings_total", source), count, "{source}: {:#}", status.0);
    }
    let records = consume(&kafka, &[READINGS], 600, seconds(30));
    records.assert_all(400);
    records.assert_no_gaps();
    let device = |n: u64| records.0.iter().find(|record| record.n() == Some(n)).unwrap();
    assert_eq!(device(0).value["device"], "shed/door", "a device over several levels");
    assert_eq!(device(0).key, "test/shed/door");
    assert_eq!(device(300).value["device"], "b");
}

#[test]
fn retained_messages_are_news_only_with_a_time_of_their_own() {
    need!(Mosquitto, Kafka);
    let broker = Mosquitto::start();
    let kafka = Kafka::start();
    let port = broker.port;
    publish_one(port, "sensors/timeless", 1, "{\"n\":7}", &["-r"]);
    publish_one(port, "sensors/timed", 1, "{\"n\":0,\"time\":\"2026-05-04T12:00:00Z\"}", &["-r"]);
    let config = Config::new(&kafka.address())
        .mqtt("drop", port, "retained = \"drop\"")
        .mqtt("first", port, "retained = \"first\"")
        .mqtt("keep", port, "retained = \"keep\"");
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();
    let status = gateway.wait_delivered(2, seconds(30));
    assert_eq!(status.count("retained_dropped_total", "mqtt.drop"), 2, "{:#}", status.0);
    for source in ["mqtt.first", "mqtt.keep"] {
        assert_eq!(status.count("readings_total", source), 1, "{source}: {:#}", status.0);
        assert_eq!(status.count("retained_without_time_total", source), 1, "{source}: {:#}", status.0);
    }
    let records = consume(&kafka, &[READINGS], 2, seconds(30));
    records.assert_all(1);
    assert!(records.0.iter().all(|record| record.value["time"] == "2026-05-04T12:00:00.000Z"));
}

#[test]
fn a_refused_subscription_is_said_and_the_others_go_on() {
    need!(Mosquitto, Kafka);
    // mosquitto's ACL files cannot refuse a subscription; its security plugin can.
    let scratch = Scratch::new("mosquitto");
    scratch.write(
        "security.json",
        r#"{"defaultACLAccess": {"publishClientSend": true, "publishClientReceive": true, "subscribe": false,
             "unsubscribe": true},
            "anonymousGroup": "anybody",
            "groups": [{"groupname": "anybody", "roles": [{"rolename": "reader"}]}],
            "roles": [{"rolename": "reader",
              "acls": [{"acltype": "subscribePattern", "topic": "sensors/#", "priority": 0, "allow": true}]}],
            "clients": []}"#,
    );
    let plugin = ["x86_64", "aarch64", "arm"]
        .iter()
        .flat_map(|architecture| ["gnu", "gnueabihf"].map(|abi| format!("/usr/lib/{architecture}-linux-{abi}")))
        .map(|directory| format!("{directory}/mosquitto_dynamic_security.so"))
        .find(|path| std::path::Path::new(path).exists())
        .expect("mosquitto's package has its security plugin");
    let broker = Mosquitto::in_scratch(
        scratch,
        &format!("allow_anonymous true\nplugin {plugin}\nplugin_opt_config_file {{dir}}/security.json\n"),
    );
    let kafka = Kafka::shared();
    for version in ["3.1.1", "5"] {
        let settings = format!("version = \"{version}\"\nprofiles = [\"generic/json\", \"tasmota\"]");
        let mut gateway = Gateway::start(&Config::new(&kafka.address()).mqtt("home", broker.port, &settings));
        // The link is up when the last of several SUBACKs is there; the refusals are counted as they come.
        let status = gateway.wait_status(seconds(20), "the refusal to be shown, and the link to be up", |status| {
            status.count("subscriptions_refused_total", "mqtt.home") > 0 && status.link("mqtt.home") == "up"
        });
        assert!(status.link_detail("mqtt.home").contains("tele/"), "{:#}", status.0);
        publish_lines(broker.port, "sensors/allowed", 1, (0..10).map(payload));
        gateway.wait_delivered(10, seconds(30));
        let log = gateway.logged();
        assert_eq!(log.lines().filter(|line| line.contains("refused")).count(), 1, "said in one line:\n{log}");
    }
}
