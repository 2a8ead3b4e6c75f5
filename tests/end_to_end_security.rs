//! TLS, passwords and certificates, as clusters and brokers outside a test bed have them.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use support::authority::certificates;
use support::gateway::{READINGS, tidegate};
use support::kafka::KafkaOptions;
use support::publish::publish_lines;
use support::{Config, Gateway, Kafka, Mosquitto, Scratch, consume, need, seconds};

fn copy(from: &Path, to: &Scratch, names: &[&str]) {
    for name in names {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn client_certificates_at_the_broker_and_at_kafka() {
    need!(Mosquitto, Kafka, Openssl);
    let authority = Scratch::new("authority");
    certificates(&authority);
    let server_files = ["ca.pem", "server.pem", "server.key"];

    // The broker asks for a certificate and for a user and password; publishers come in by another door.
    let scratch = Scratch::new("mosquitto");
    copy(authority.path(), &scratch, &server_files);
    scratch.write("passwords", "");
    let status = Command::new("mosquitto_passwd")
        .args(["-b", scratch.join("passwords").to_str().unwrap(), "edge", "a-secret"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let tls_port = support::free_port();
    let broker = Mosquitto::in_scratch(
        scratch,
        &format!(
            "per_listener_settings true\nallow_anonymous true\nmax_queued_messages 0\n\
             listener {tls_port} 127.0.0.1\ncafile {{dir}}/ca.pem\ncertfile {{dir}}/server.pem\n\
             keyfile {{dir}}/server.key\nrequire_certificate true\nallow_anonymous false\n\
             password_file {{dir}}/passwords\n"
        ),
    );

    let scratch = Scratch::new("kafka");
    copy(authority.path(), &scratch, &server_files);
    // Kafka takes a key and its certificate in one file, the key in PKCS #8, as openssl writes it.
    let chain = std::fs::read_to_string(scratch.join("server.key")).unwrap()
        + &std::fs::read_to_string(scratch.join("server.pem")).unwrap();
    scratch.write("server-chain.pem", &chain);
    let options = KafkaOptions {
        properties: "ssl.keystore.type=PEM\nssl.keystore.location={dir}/server-chain.pem\nssl.truststore.type=PEM\n\
                     ssl.truststore.location={dir}/ca.pem\nssl.client.auth=required"
            .into(),
        edge_protocol: Some("SSL"),
        scram: None,
        edge_behind: None,
    };
    let kafka = Kafka::with(scratch, &options);

    let scratch = Scratch::new("gateway");
    copy(authority.path(), &scratch, &["ca.pem", "client.pem", "client.key"]);
    scratch.write("mqtt-password", "a-secret\n");
    let tls = "tls = { ca = \"ca.pem\", certificate = \"client.pem\", key = \"client.key\" }";
    let config = Config::new("")
        .section(&format!(
            "[mqtt.home]\nurl = \"mqtts://localhost:{tls_port}\"\nuser = \"edge\"\n\
             password = {{ file = \"mqtt-password\" }}\nprofiles = [\"generic/json\"]\n{tls}"
        ))
        .kafka_section(&format!(
            "brokers = [\"localhost:{}\"]\ntopics = {{ reading = \"{READINGS}\" }}\n{tls}",
            kafka.edge_port.unwrap()
        ));
    let mut gateway = Gateway::in_scratch(scratch, &config);
    gateway.restart();
    gateway.wait_subscribed();
    publish_lines(broker.port, "sensors/a", 1, (0..100).map(|n| format!("{{\"n\":{n}}}")));
    gateway.wait_delivered(100, seconds(60));
    consume(&kafka, &[READINGS], 100, seconds(30)).assert_all(100);
    gateway.stop(seconds(30));

    // Another authority: said, not taken, and no secret in the log.
    let other = Scratch::new("authority");
    certificates(&other);
    copy(other.path(), gateway.scratch(), &["ca.pem"]);
    gateway.restart();
    let status = gateway.wait_status(seconds(30), "both links to be refused", |status| {
        status.link("mqtt.home") == "down" && status.link("kafka") == "down"
    });
    let detail = status.link_detail("mqtt.home").to_lowercase();
    assert!(detail.contains("certificate"), "{detail}");
    assert!(!gateway.logged().contains("a-secret"), "a password in the log");
}

#[test]
fn a_wrong_password_is_said_and_secrets_are_not_shown() {
    need!(Mosquitto);
    let scratch = Scratch::new("mosquitto");
    scratch.write("passwords", "");
    let status = Command::new("mosquitto_passwd")
        .args(["-b", scratch.join("passwords").to_str().unwrap(), "edge", "the-right-one"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let broker = Mosquitto::in_scratch(scratch, "allow_anonymous false\npassword_file {dir}/passwords\n");
    for version in ["3.1.1", "5"] {
        let scratch = Scratch::new("gateway");
        scratch.write("mqtt-password", "a-wrong-one\n");
        let settings = format!("version = \"{version}\"\nuser = \"edge\"\npassword = {{ file = \"mqtt-password\" }}");
        let config = Config::new("127.0.0.1:1").mqtt("home", broker.port, &settings);
        let mut gateway = Gateway::in_scratch(scratch, &config);
        gateway.restart();
        let status = gateway.wait_status(seconds(20), "a refusal", |status| status.link("mqtt.home") == "down");
        let detail = status.link_detail("mqtt.home").to_lowercase();
        assert!(detail.contains("password") || detail.contains("authori"), "{detail}");
        let printed = tidegate(&["check", "--print", "--config", gateway.config_path().to_str().unwrap()]);
        let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
        assert!(printed.contains("edge"), "{printed}");
        for text in [&printed, &gateway.logged(), &status.0.to_string()] {
            assert!(!text.contains("a-wrong-one"), "a password is shown: {text}");
        }
        // With the right one it comes up.
        gateway.scratch().write("mqtt-password", "the-right-one\n");
        gateway.stop(seconds(30));
        gateway.restart();
        gateway.wait_subscribed();
    }
}
