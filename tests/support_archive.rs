//! `tidegate support`: what is in the archive of a running gateway, of a stopped one, and of one whose configuration is
//! broken; and that no secret and, unless asked for, no payload is in any of them.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::gateway::TIDEGATE;
use support::publish::publish_one;
use support::{Config, Gateway, Mosquitto, Scratch, need, seconds};

/// Where each of them comes from, and what must never be seen.
const MQTT_PASSWORD: &str = "mqtt-secret-4711";
const KAFKA_PASSWORD: &str = "kafka-secret-4712";
const ENV_PASSWORD: &str = "env-secret-4713";
const ENV_TOKEN: &str = "token-secret-4714";
const CLIENT_KEY: &str = "client-key-secret-4715";
const INLINE_PASSWORD: &str = "inline-secret-4716";
const URL_PASSWORD: &str = "url-secret-4717";
const OUTBOX_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const SECRETS: [&str; 8] =
    [MQTT_PASSWORD, KAFKA_PASSWORD, ENV_PASSWORD, ENV_TOKEN, CLIENT_KEY, INLINE_PASSWORD, URL_PASSWORD, OUTBOX_KEY];
/// In a reading, and in a message that is none.
const PAYLOAD: &str = "payload-text-8811";
const DEAD_PAYLOAD: &str = "dead-letter-text-8812";
/// The same as a dead letter holds it.
const DEAD_PAYLOAD_BASE64: &str = "ZGVhZC1sZXR0ZXItdGV4dC04ODEy";

/// The archive's files by their names below its directory.
struct Archive(BTreeMap<String, String>);

impl Archive {
    fn read(path: &Path) -> Self {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()));
        let mut files = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let (path, mut text) = (entry.path().unwrap().into_owned(), String::new());
            assert_eq!(path.components().count(), 2, "{path:?}: expected all files in one directory");
            assert!(
                path.starts_with(path.components().next().unwrap())
                    && path.to_str().unwrap().starts_with("tidegate-support-")
            );
            entry.read_to_string(&mut text).unwrap();
            files.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), text);
        }
        Self(files)
    }

    #[track_caller]
    fn file(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("no {name} among {:?}", self.0.keys()))
    }

    #[track_caller]
    fn assert_without(&self, texts: &[&str]) {
        for (name, content) in &self.0 {
            for text in texts {
                assert!(!content.contains(text), "{text} is in {name}:\n{content}");
            }
        }
    }
}

/// Runs it for this configuration; gives what it said and the archive.
#[track_caller]
fn gather(gateway: &Gateway, output: &str, more: &[&str], environment: &[(&str, &str)]) -> (Output, Archive) {
    let path = gateway.scratch().join(output);
    let config = gateway.config_path();
    let mut command = Command::new(TIDEGATE);
    command.args(["support", "--config", config.to_str().unwrap(), "--output", path.to_str().unwrap()]).args(more);
    command.envs(environment.iter().copied()).stdin(Stdio::null());
    let said = command.output().unwrap();
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "only its owner may read it");
    let archive = Archive::read(&path);
    let shown = String::from_utf8_lossy(&said.stdout).into_owned();
    for secret in SECRETS {
        assert!(!shown.contains(secret), "{secret} is in {shown}");
    }
    archive.assert_without(&SECRETS);
    (said, archive)
}

/// Secrets from files, in a scratch directory, and a configuration that uses all of them.
fn configured(port: u16) -> (Scratch, Config) {
    let scratch = Scratch::new("support");
    for (name, text) in [
        ("mqtt-password", MQTT_PASSWORD),
        ("kafka-password", KAFKA_PASSWORD),
        ("client.key", CLIENT_KEY),
        ("client.pem", "no certificate"),
        ("outbox-key", OUTBOX_KEY),
    ] {
        scratch.write(name, &format!("{text}\n"));
    }
    let config = Config::new("127.0.0.1:1")
        .mqtt("home", port, "user = \"edge\"\npassword = { file = \"mqtt-password\" }")
        .outbox("encryption = { key = { file = \"outbox-key\" } }")
        .kafka_section(
            "brokers = [\"127.0.0.1:1\"]\n\
             tls = { certificate = \"client.pem\", key = \"client.key\" }\n\
             sasl = { mechanism = \"PLAIN\", user = \"edge\", password = { file = \"kafka-password\" } }",
        );
    (scratch, config)
}

/// A program beside the real ones that answers as the journal does, with a line that should never have been logged.
fn journal(scratch: &Scratch) -> String {
    let path = scratch.write(
        "bin/journalctl",
        &format!("#!/bin/sh\necho \"$*\"\necho 'tidegate[1]: connecting with {MQTT_PASSWORD}'\n"),
    );
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", scratch.join("bin").display(), std::env::var("PATH").unwrap())
}

#[test]
fn of_a_running_and_of_a_stopped_gateway() {
    need!(Mosquitto);
    let broker = Mosquitto::start();
    let (scratch, config) = configured(broker.port);
    let path = journal(&scratch);
    let mut gateway = Gateway::in_scratch(scratch, &config);
    gateway.restart();
    gateway.wait_subscribed();
    publish_one(broker.port, "sensors/kitchen", 1, &format!("{{\"temperature\":21.4,\"note\":\"{PAYLOAD}\"}}"), &[]);
    publish_one(broker.port, "sensors/kitchen", 1, DEAD_PAYLOAD, &[]);
    gateway.wait_status(seconds(20), "both of them stored", |status| status.sum("outbox_committed_total") == 2);

    let payloads = [PAYLOAD, DEAD_PAYLOAD, DEAD_PAYLOAD_BASE64];
    let (said, archive) = gather(&gateway, "running.tar.gz", &[], &[("PATH", &path)]);
    archive.assert_without(&payloads);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("Look through it before you send it"), "{said}");
    let status: serde_json::Value = serde_json::from_str(archive.file("status.json")).unwrap();
    assert_eq!(status["backlog"]["records"], 2);
    assert!(archive.file("status.txt").contains("mqtt.home"));
    assert!(archive.file("check.txt").contains("all is well"), "{}", archive.file("check.txt"));
    let shown = archive.file("config.toml");
    assert!(shown.contains("password = { file = \"mqtt-password\" }") && shown.contains("client.key"), "{shown}");
    assert!(archive.file("machine.txt").contains(concat!("tidegate      ", env!("CARGO_PKG_VERSION"))));
    let log = archive.file("log.txt");
    assert!(log.contains("--unit tidegate --lines 2000") && log.contains("connecting with (secret)"), "{log}");
    let outbox: serde_json::Value = serde_json::from_str(archive.file("outbox.json")).unwrap();
    assert_eq!(outbox["status"]["waiting"]["total"], 2, "{outbox:#}");
    assert!(archive.file("manifest.txt").contains("\"segments\""));
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    assert!(machine.trim().is_empty() || !archive.file("manifest.txt").contains(machine.trim()));

    // What is there is not written over.
    let taken = gateway.scratch().join("running.tar.gz");
    let before = std::fs::read(&taken).unwrap();
    let again = ["support", "--config", gateway.config_path().to_str().unwrap(), "--output", taken.to_str().unwrap()]
        .map(str::to_owned);
    let refused = Command::new(TIDEGATE).args(again).stdin(Stdio::null()).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is there already"), "{refused:?}");
    assert_eq!(std::fs::read(&taken).unwrap(), before);

    gateway.stop(seconds(30));
    let (_, archive) = gather(&gateway, "stopped.tar.gz", &["--unit", "no-such-unit"], &[]);
    archive.assert_without(&payloads);
    assert!(archive.file("status.txt").starts_with("not there: not running"), "{}", archive.file("status.txt"));
    assert!(archive.file("outbox.txt").contains("2 records"), "{}", archive.file("outbox.txt"));
    assert!(archive.file("log.txt").contains("journalctl -u no-such-unit"), "{}", archive.file("log.txt"));

    let (said, archive) = gather(&gateway, "payloads.tar.gz", &["--with-payloads"], &[]);
    let records = archive.file("records.ndjson");
    assert!(records.contains(PAYLOAD) && records.contains(DEAD_PAYLOAD_BASE64), "{records}");
    assert!(String::from_utf8_lossy(&said.stdout).contains("READINGS AND DEAD LETTERS"), "{said:?}");

    // Broken, with all that people put where it does not belong: and yet the data directory is found.
    let data_dir = gateway.data_dir();
    let head = format!("[gateway]\nid = \"edge\"\ndata_dir = \"{}\"\n", data_dir.display());
    for (name, rest, expected) in [
        (
            "wrong",
            format!("[mqtt.home]\nurl = \"mqtt://edge:{URL_PASSWORD}@127.0.0.1\"\npassword = \"{INLINE_PASSWORD}\"\n"),
            ":6:",
        ),
        ("no-toml", format!("[mqtt.home]\npasswrod = \"{INLINE_PASSWORD}\n[kafka\n"), "not TOML"),
    ] {
        gateway.scratch().write("gateway.toml", &(head.clone() + &rest));
        let (_, archive) = gather(&gateway, &format!("{name}.tar.gz"), &[], &[]);
        archive.assert_without(&payloads);
        assert!(archive.file("config.toml").contains("check.txt says why"), "{name}");
        assert!(archive.file("check.txt").contains(expected), "{name}: {}", archive.file("check.txt"));
        assert!(archive.file("manifest.txt").contains("\"segments\""), "{name}: {}", archive.file("manifest.txt"));
    }
    gateway.scratch().write("gateway.toml", "");
    std::fs::remove_file(gateway.config_path()).unwrap();
    let data_dir = data_dir.to_str().unwrap();
    let (_, archive) = gather(&gateway, "missing.tar.gz", &["--data-dir", data_dir], &[]);
    assert!(archive.file("check.txt").contains("no configuration yet"), "{}", archive.file("check.txt"));
    assert!(archive.file("manifest.txt").contains("\"segments\""));
}

#[test]
fn secrets_of_the_environment_stay_there() {
    let gateway = Gateway::stopped(
        &Config::new("127.0.0.1:1").gateway("labels = { site = \"${SITE}\", note = \"${EDGE_TOKEN}\" }").mqtt(
            "home",
            1,
            "user = \"edge\"\npassword = { env = \"MQTT_PASSWORD\" }\nclient_id = \"x-${EDGE_TOKEN}\"",
        ),
    );
    let environment = [("MQTT_PASSWORD", ENV_PASSWORD), ("EDGE_TOKEN", ENV_TOKEN), ("SITE", "shed-number-9")];
    let (_, archive) = gather(&gateway, "environment.tar.gz", &[], &environment);
    let shown = archive.file("config.toml");
    assert!(shown.contains("password = { env = \"MQTT_PASSWORD\" }"), "{shown}");
    // A variable stands for itself, since nobody knows what it holds.
    assert!(shown.contains("client_id = \"x-${EDGE_TOKEN}\"") && !shown.contains("shed-number-9"), "{shown}");
    assert!(archive.file("check.txt").contains("all is well"), "{}", archive.file("check.txt"));
}
