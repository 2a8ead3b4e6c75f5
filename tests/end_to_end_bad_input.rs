//! Bad input of every kind: a clear error or a counted outcome, and all other data goes on.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::path::Path;

use support::gateway::{DEAD_LETTERS, READINGS, TIDEGATE, tidegate};
use support::parts::unshare_arguments;
use support::publish::{publish_file, publish_lines, publish_one};
use support::{Config, Gateway, Kafka, Mosquitto, consume, need, seconds};

#[test]
fn payloads_that_cannot_be_read_are_dead_lettered_with_the_reason() {
    need!(Mosquitto, Kafka);
    let broker = Mosquitto::start();
    let kafka = Kafka::start();
    let mut gateway = Gateway::start(&Config::new(&kafka.address()).mqtt("home", broker.port, ""));
    gateway.wait_subscribed();
    let port = broker.port;
    let scratch = gateway.scratch();
    let file = |name: &str, bytes: &[u8]| {
        let path = scratch.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let not_utf8 = file("not-utf8", b"{\"n\":1,\"text\":\"\xff\xfe\"}");
    let ten_mb = file("ten-mb", &vec![b'1'; 10_000_000]);

    // Each bad one stands between two good ones.
    let mut n = 0;
    let mut good = || {
        publish_lines(port, "sensors/a", 1, [format!("{{\"n\":{n}}}")]);
        n += 1;
    };
    good();
    publish_file(port, "sensors/bad/not_utf8", 1, &not_utf8, &[]);
    good();
    publish_one(port, "sensors/bad/not_json", 1, "{\"n\":", &[]);
    good();
    publish_one(port, "sensors/bad/wrong_type", 1, "{\"temperature\":\"hot\"}", &[]);
    good();
    publish_file(port, "sensors/bad/too_large", 1, &ten_mb, &[]);
    good();
    publish_one(port, "sensors/bad/empty", 1, "", &[]);
    good();
    // The filter sensors/# matches the level above, too, and no profile has a device there.
    publish_one(port, "sensors", 1, "{\"n\":1}", &[]);
    good();

    gateway.wait_delivered(13, seconds(30));
    let records = consume(&kafka, &[READINGS, DEAD_LETTERS], 13, seconds(30));
    records.assert_all(7);
    records.assert_no_gaps();
    let reason = |topic: &str| {
        let letters: Vec<_> = records
            .of_kind("dead-letter")
            .into_iter()
            .filter(|letter| letter.value["topic_or_port"] == topic)
            .collect();
        assert_eq!(letters.len(), 1, "dead letters of {topic}: {letters:?}");
        let letter = letters[0];
        assert_eq!(letter.topic, DEAD_LETTERS);
        assert_eq!(letter.value["source"], "mqtt.home");
        assert!(letter.value["reason"].as_str().is_some_and(|text| !text.is_empty()), "{letter:?}");
        letter.value["reason_code"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason("sensors/bad/not_utf8"), "not_utf8");
    assert_eq!(reason("sensors/bad/not_json"), "not_json");
    assert_eq!(reason("sensors/bad/too_large"), "too_large");
    assert_eq!(reason("sensors/bad/empty"), "empty");
    assert_eq!(reason("sensors"), "no_profile");
    // One wrong value is left out; here it was the only one.
    let wrong = reason("sensors/bad/wrong_type");
    assert!(["wrong_type", "no_value"].contains(&wrong.as_str()), "{wrong}");
}

#[test]
fn a_flood_of_bad_payloads_is_counted_and_does_not_flood_the_dead_letter_topic() {
    need!(Mosquitto, Kafka);
    let broker = Mosquitto::start();
    let kafka = Kafka::start();
    let mut gateway = Gateway::start(&Config::new(&kafka.address()).mqtt("home", broker.port, ""));
    gateway.wait_subscribed();
    publish_lines(broker.port, "sensors/bad", 1, (0..5_000).map(|n| format!("{{\"n\":{n}")));
    publish_lines(broker.port, "sensors/a", 1, (0..100).map(|n| format!("{{\"n\":{n}}}")));
    let status = gateway.wait_delivered(101, seconds(60));
    assert_eq!(status.count("rejected_total", "not_json"), 5_000, "{:#}", status.0);
    let suppressed = status.count("dead_letters_suppressed_total", "mqtt.home");
    assert!(suppressed > 4_000, "only {suppressed} of 5000 were held back");
    let letters = 5_000 - suppressed;
    let records = consume(&kafka, &[READINGS, DEAD_LETTERS], 100 + letters as usize, seconds(30));
    records.assert_all(100);
    records.assert_no_gaps();
    assert_eq!(records.of_kind("dead-letter").len() as u64, letters);
    let lines = gateway.logged().lines().count();
    assert!(lines < 60, "no line per message, and yet it logged {lines} lines");
}

#[test]
fn a_profile_with_a_typo_is_named_by_check_and_stops_nothing_else() {
    need!(Mosquitto, Kafka);
    let broker = Mosquitto::start();
    let kafka = Kafka::shared();
    let config = Config::new(&kafka.address()).mqtt("home", broker.port, "");
    let mut gateway = Gateway::stopped(&config);
    gateway.scratch().write(
        "profiles/acme/thermo.toml",
        "id = \"acme/thermo\"\ndescription = \"A thermometer\"\nsource = \"its label\"\ntransprot = \"mqtt\"\n",
    );
    let output = tidegate(&["check", "--config", gateway.config_path().to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("thermo.toml") && error.contains("transprot"), "names file and key: {error}");

    gateway.restart();
    gateway.wait_subscribed();
    publish_lines(broker.port, "sensors/typo", 1, ["{\"n\":0}".to_owned()]);
    gateway.wait_delivered(1, seconds(30));
    assert!(gateway.logged().contains("thermo.toml"), "the log names it too:\n{}", gateway.logged());
}

#[test]
fn a_second_gateway_on_the_same_data_directory_is_refused() {
    let kafka = "127.0.0.1:1";
    let first_config = Config::new(kafka).serial("meter", Path::new("/dev/no-such-port"), "");
    let mut first = Gateway::start(&first_config);
    let config = first.config_path();
    let output = tidegate(&["run", "--config", config.to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "a second one must not run:\n{error}");
    let data_dir = first.data_dir();
    assert!(error.contains(data_dir.to_str().unwrap()), "the error names the directory: {error}");
    // The first goes on, and a kill leaves no lock behind.
    first.status();
    first.kill();
    first.restart();
    first.stop(seconds(30));
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let scratch = support::Scratch::new("unreadable");
    let file = scratch.write("a-file", "not a directory");
    for data_dir in [file.clone(), file.join("below")] {
        let config = Config::new("127.0.0.1:1").gateway(&format!("data_dir = \"{}\"", data_dir.display())).serial(
            "meter",
            Path::new("/dev/no-such-port"),
            "",
        );
        let gateway = Gateway::stopped(&config);
        let output = tidegate(&["run", "--config", gateway.config_path().to_str().unwrap()]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success());
        assert!(error.contains(data_dir.to_str().unwrap()), "the error names the directory: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
}

#[test]
fn a_disk_that_is_full_at_start_is_said_and_loses_nothing() {
    need!(Mosquitto, Kafka, Mount);
    let broker = Mosquitto::start();
    let kafka = Kafka::start();
    let scratch = support::Scratch::new("gateway");
    let disk = scratch.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let config = Config::new(&kafka.address())
        .gateway(&format!("data_dir = \"{}/data\"", disk.display()))
        .mqtt("home", broker.port, "")
        .outbox("max_size = \"16MiB\"");
    let mut gateway = Gateway::in_scratch(scratch, &config);

    // In a namespace of its own: a small disk that `fill` fills. It is freed when a file `free` appears. The gateway is
    // started again whenever it ends by itself, as systemd would.
    let script = format!(
        "mount -t tmpfs -o size=24m tmpfs '{disk}' || exit 99; mkdir '{disk}/data'
         dd if=/dev/zero of='{disk}/fill' bs=64k 2>/dev/null
         ( while [ ! -e '{base}/free' ]; do sleep 0.1; done; rm '{disk}/fill' ) &
         trap 'kill $child; exit 0' TERM
         while :; do '{TIDEGATE}' run --config '{config}' & child=$!; wait $child; echo \"ended with $?\"; sleep 1; done",
        disk = disk.display(),
        base = gateway.scratch().path().display(),
        config = gateway.config_path().display(),
    );
    let mut arguments = unshare_arguments();
    arguments.extend(["sh".into(), "-c".into(), script]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    gateway.restart_as(Path::new("unshare"), &arguments);

    support::wait_until(seconds(20), "a word about the disk in the log", || {
        let log = gateway.logged().to_lowercase();
        (log.contains("no space left") || log.contains("full")).then_some(())
    });
    assert!(!gateway.logged().contains("panicked"), "{}", gateway.logged());
    // Published while it cannot store: retained by nobody but the publisher and, once there is a session, the broker.
    std::fs::write(gateway.scratch().join("free"), "").unwrap();
    support::wait_until(seconds(40), "the session at the broker", || {
        gateway.logged().contains("connected").then_some(())
    });
    std::thread::sleep(seconds(2));
    publish_lines(broker.port, "sensors/a", 1, (0..100).map(|n| format!("{{\"n\":{n}}}")));
    let records = consume(&kafka, &[READINGS], 100, seconds(60));
    records.assert_all(100);
}
