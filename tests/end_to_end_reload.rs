//! The configuration changes while the gateway runs: what did not change goes on undisturbed, nothing is lost or stored twice,
//! and a bad one is refused.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use support::gateway::{DEAD_LETTERS, READINGS};
use support::publish::{LinePublisher, publish_lines, publish_one};
use support::{Config, Gateway, Kafka, Mosquitto, Pty, Scratch, consume, need, seconds};

const NOWHERE: &str = "127.0.0.1:1";

fn payload(n: u64) -> String {
    format!("{{\"n\":{n}}}")
}

/// How often a client with this id has connected to the broker, by the broker's own log.
fn connections(broker: &Mosquitto, id: &str) -> usize {
    let id = format!(" as {id} ");
    broker.logged().lines().filter(|line| line.contains("New client connected") && line.contains(&id)).count()
}

#[test]
fn a_source_that_did_not_change_is_undisturbed_while_others_do_under_load() {
    need!(Mosquitto, Kafka);
    const RELOADS: u64 = 6;
    let (steady, changing) = (Mosquitto::start(), Mosquitto::with_default_in_flight());
    let kafka = Kafka::start();
    let scratch = Scratch::new("gateway");
    let port = scratch.join("meter");
    let mut meter = Pty::plug(&port);
    let plug = scratch.join("added");
    let mut added = Pty::plug(&plug);
    let config = |of_changing: &str| {
        Config::new(&kafka.address())
            .mqtt("steady", steady.port, "client_id = \"steady\"")
            .mqtt("changing", changing.port, &format!("client_id = \"changing\"\n{of_changing}"))
            .serial("meter", &port, "")
    };
    let mut gateway = Gateway::in_scratch(scratch, &config(""));
    gateway.restart();
    gateway.wait_subscribed();
    // Two publishers that send until told to stop; each has numbers of its own.
    let stop = Arc::new(AtomicBool::new(false));
    let publishers = [(steady.port, 0), (changing.port, 1)].map(|(port, offset)| {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut publisher = LinePublisher::start(port, "sensors/a", 1);
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                publisher.send(&payload(3 * count + offset));
                count += 1;
                if count % 20 == 0 {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            publisher.finish(seconds(120));
            count
        })
    });
    let mut lines = 0;
    for reload in 1..=RELOADS {
        std::thread::sleep(Duration::from_millis(300));
        // The file says something else of one source each time; every other time there is one more.
        let mut next = config(&format!("in_flight_max = {}", 20 + reload));
        if reload % 2 == 1 {
            next = next.serial("added", &plug, "");
        }
        gateway.configure(&next);
        if reload == 2 {
            gateway.process().signal(Signal::HUP);
        } else {
            assert!(gateway.reload().status.success(), "{}", gateway.logged());
        }
        let applied = format!("{reload} reloads");
        let status = gateway.wait_status(seconds(30), &applied, |status| {
            status.count("config_reloads_total", "applied") == reload && status.link("mqtt.changing") == "up"
        });
        assert_eq!(status.link("serial.added"), if reload % 2 == 1 { "up" } else { "" }, "{:#}", status.0);
        for _ in 0..5 {
            let device = if reload % 2 == 1 { &mut added } else { &mut meter };
            assert!(device.send(format!("{}\n", payload(3 * lines + 2)).as_bytes(), seconds(5)));
            lines += 1;
        }
        gateway.wait_status(seconds(30), "the lines of the serial ports", |status| {
            status.count("readings_total", "serial.meter") + status.count("readings_total", "serial.added") == lines
        });
    }
    stop.store(true, Ordering::Relaxed);
    let [of_steady, of_changing] = publishers.map(|publisher| publisher.join().unwrap());
    let total = of_steady + of_changing + lines + RELOADS;
    let status = gateway.wait_delivered(total, seconds(90));
    assert_eq!(status.count("connects_total", "mqtt.steady"), 1, "{:#}", status.0);
    assert_eq!(status.count("connects_total", "serial.meter"), 1, "{:#}", status.0);
    assert_eq!(status.count("connects_total", "mqtt.changing"), RELOADS + 1, "{:#}", status.0);
    assert_eq!(connections(&steady, "steady"), 1, "{}", steady.logged());
    assert_eq!(connections(&changing, "changing"), RELOADS as usize + 1, "{}", changing.logged());
    assert!(!changing.logged().contains("already connected"), "two at once: {}", changing.logged());

    let records = consume(&kafka, &[READINGS], total as usize, seconds(60));
    let sent = (0..of_steady).map(|n| 3 * n).chain((0..of_changing).map(|n| 3 * n + 1));
    let sent: std::collections::BTreeSet<u64> = sent.chain((0..lines).map(|n| 3 * n + 2)).collect();
    let found = records.numbers();
    assert_eq!(sent.difference(&found).take(9).collect::<Vec<_>>(), Vec::<&u64>::new(), "lost");
    assert_eq!(found.len(), sent.len());
    records.assert_stored_once();
    records.assert_no_gaps();
    assert_eq!(
        records.of_kind("event").iter().filter(|e| e.value["event"] == "config-reloaded").count() as u64,
        RELOADS
    );
    gateway.stop(seconds(30));
}

#[test]
fn a_bad_one_is_refused_in_the_words_of_check_and_the_old_goes_on() {
    need!(Mosquitto, Kafka);
    let (broker, kafka) = (Mosquitto::start(), Kafka::start());
    let config = |lines: &str| {
        Config::new(&kafka.address()).mqtt("home", broker.port, &format!("client_id = \"home\"\n{lines}"))
    };
    let mut gateway = Gateway::start(&config(""));
    gateway.wait_subscribed();
    publish_one(broker.port, "sensors/a", 1, &payload(0), &[]);
    std::fs::create_dir(gateway.scratch().join("profiles")).unwrap();
    let cases = [
        (config("colour = 1"), "mqtt.home.colour: unknown key"),
        (config("user = \"u\"\npassword = { file = \"not-there\" }"), "not-there does not exist"),
        (config("profiles = [\"tasmoto\"]"), "did you mean `tasmota`?"),
        (config("qos = "), "not TOML"),
        (
            config("").gateway("id = \"other\""),
            "gateway.id: expected what it was at the start: this key needs a restart",
        ),
        (config("").outbox("persist = \"when-behind\""), "outbox.persist: expected what it was at the start"),
    ];
    let refused = cases.len() as u64;
    for (bad, why) in cases {
        gateway.configure(&bad);
        let checked = support::gateway::tidegate(&["check", "--config", gateway.config_path().to_str().unwrap()]);
        let reloaded = gateway.reload();
        assert_eq!(reloaded.status.code(), Some(2));
        let told = String::from_utf8(reloaded.stderr).unwrap();
        assert!(told.contains(why), "{told}");
        if !checked.status.success() {
            let checked = String::from_utf8(checked.stderr).unwrap();
            assert!(told.starts_with(&checked), "check says:\n{checked}\nreload says:\n{told}");
        }
        let status = gateway.status();
        assert!(status.0["configuration"]["refusal"]["reasons"].as_str().unwrap().contains(why), "{:#}", status.0);
        assert!(gateway.logged().contains(why), "{}", gateway.logged());
    }
    // A person sees it too, although the file is not fit to run just now.
    gateway.configure(&config("colour = 1"));
    let shown = support::gateway::tidegate(&["status", "--config", gateway.config_path().to_str().unwrap()]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&format!("reloads: 0 applied, {refused} refused")), "{shown}");
    assert!(shown.contains("the last reload was refused at"), "{shown}");

    publish_one(broker.port, "sensors/a", 1, &payload(1), &[]);
    let told = gateway.reload_with(&config(""));
    assert_eq!(told, "reloaded: nothing has changed\n");
    let status = gateway.wait_delivered(2 + refused + 1, seconds(30));
    assert!(status.0["configuration"]["refusal"].is_null(), "{:#}", status.0);
    assert_eq!(status.count("config_reloads_total", "refused"), refused);
    assert_eq!(connections(&broker, "home"), 1, "{}", broker.logged());
    let records = consume(&kafka, &[READINGS], 2 + refused as usize + 1, seconds(30));
    records.assert_all(2);
    records.assert_no_gaps();
    let events: Vec<_> = records.of_kind("event").iter().map(|event| event.value["event"].as_str().unwrap()).collect();
    assert_eq!(events, [vec!["config-refused"; refused as usize], vec!["config-reloaded"]].concat());
    gateway.stop(seconds(30));
}

#[test]
fn rules_change_with_windows_open_and_a_kill_right_after_counts_each_value_once() {
    need!(Mosquitto, Kafka);
    const AGGREGATES: &str = "iot.aggregates";
    let (broker, kafka) = (Mosquitto::start(), Kafka::start());
    let window = |name: &str| {
        format!(
            "[[window]]\nname = \"{name}\"\nmeasurement = \"n\"\nevery = \"1m\"\nlateness = \"10s\"\nforward_raw = false\n"
        )
    };
    let config = |rules: &str| {
        let topics = format!("topics = {{ reading = \"{READINGS}\", aggregate = \"{AGGREGATES}\" }}");
        let kafka = format!("brokers = [\"{}\"]\n{topics}", kafka.address());
        Config::new("").mqtt("home", broker.port, "").section(rules).kafka_section(&kafka)
    };
    // A run that begins without rules; the first of them come while it runs.
    let mut gateway = Gateway::start(&config(""));
    gateway.wait_subscribed();
    let mut second = 0;
    let mut publish = |count: u64| {
        let lines = (second..second + count)
            .map(|s| format!("{{\"n\":{s},\"time\":\"2026-05-04T12:{:02}:{:02}Z\"}}", s / 60, s % 60));
        publish_lines(broker.port, "sensors/a", 1, lines.collect::<Vec<_>>());
        second += count;
        second
    };
    let taken = |gateway: &mut Gateway, count: u64| {
        gateway.wait_status(seconds(30), "all that was published", |s| s.count("readings_total", "mqtt.home") == count);
    };
    taken(&mut gateway, publish(10));
    gateway.reload_with(&config(&window("kept")));
    taken(&mut gateway, publish(10));
    // The windows that are open stay; another rule begins; and the process is killed as soon as it has said so.
    gateway.reload_with(&config(&(window("new") + &window("kept"))));
    gateway.kill();
    gateway.restart();
    gateway.wait_subscribed();
    publish(10);
    taken(&mut gateway, 10);
    gateway.reload_with(&config(&window("kept")));
    gateway.kill();
    gateway.restart();
    gateway.wait_subscribed();
    // Three minutes more close the windows of the first two, and three of them are of the last run.
    publish(200);
    taken(&mut gateway, 200);
    gateway.wait_status(seconds(30), "all of it delivered", |status| status.backlog() == 0);
    let records = consume(&kafka, &[AGGREGATES, READINGS], 10 + 2 + 3, seconds(60));
    let told = |record: &&support::records::KafkaRecord| {
        let (window, start) = (record.value["window"].as_str().unwrap(), record.value["start"].as_str().unwrap());
        (window.to_owned(), start[11..16].to_owned(), record.value["count"].as_u64().unwrap())
    };
    let mut found: Vec<_> = records.of_kind("aggregate").iter().map(told).collect();
    found.sort();
    // What a kill left unsaid is delivered twice, each time under the same number.
    found.dedup();
    // The first minute lacks what came before there was a rule, and has all since; of the rule that has gone nothing is left.
    let expected = [("12:00", 50), ("12:01", 60), ("12:02", 60)];
    let expected = expected.map(|(start, count)| ("kept".to_owned(), start.to_owned(), count));
    assert_eq!(found, expected);
    // Those from before there was a rule.
    records.assert_all(10);
    records.assert_stored_once();
    records.assert_no_gaps();
    gateway.stop(seconds(30));
}

#[test]
fn another_way_to_kafka_takes_the_backlog_along() {
    need!(Mosquitto, Kafka);
    let (broker, kafka) = (Mosquitto::start(), Kafka::start());
    let config = |address: &str, topic: &str, labels: &str| {
        let topics = format!("topics = {{ reading = \"{topic}\", dead_letter = \"{DEAD_LETTERS}\" }}");
        let kafka = format!("brokers = [\"{address}\"]\n{topics}\n[kafka.advanced]\nin_flight_max = 100");
        Config::new("").mqtt("home", broker.port, "").gateway(labels).kafka_section(&kafka)
    };
    // A backlog for a cluster that never answers.
    let mut gateway = Gateway::start(&config(NOWHERE, READINGS, ""));
    gateway.wait_subscribed();
    publish_lines(broker.port, "sensors/a", 1, (0..20_000).map(payload));
    gateway
        .wait_status(seconds(30), "a backlog", |status| status.backlog() == 20_000 && status.link("kafka") == "down");
    let told = gateway.reload_with(&config(&kafka.address(), READINGS, ""));
    assert_eq!(told, "reloaded: the way to Kafka changed\n");
    // In the midst of it everything goes to another topic, under other labels.
    gateway.wait_status(seconds(30), "a part to be delivered", |status| status.sum("delivered_total") > 100);
    gateway.reload_with(&config(&kafka.address(), "other.readings", "labels = { moved = \"yes\" }"));
    publish_lines(broker.port, "sensors/a", 1, (20_000..21_000).map(payload));
    gateway.wait_delivered(21_002, seconds(60));
    let records = consume(&kafka, &[READINGS, "other.readings"], 21_002, seconds(60));
    records.assert_all(21_000);
    records.assert_stored_once();
    records.assert_no_gaps();
    let moved = records.0.iter().filter(|record| record.topic == "other.readings");
    assert!(moved.clone().count() > 1_000);
    assert!(moved.clone().all(|record| record.value["labels"]["moved"] == "yes"));
    assert_eq!(gateway.status().count("connects_total", "mqtt.home"), 1);
    gateway.stop(seconds(30));
}

#[test]
fn a_new_password_and_a_profile_that_is_gone_concern_their_source_alone() {
    need!(Mosquitto);
    let scratch = Scratch::new("mosquitto");
    scratch.write("passwords", "");
    let passwords = scratch.join("passwords");
    let made = std::process::Command::new("mosquitto_passwd")
        .args(["-b", passwords.to_str().unwrap(), "edge", "the-right-one"])
        .status()
        .unwrap();
    assert!(made.success());
    let locked = Mosquitto::in_scratch(scratch, "allow_anonymous false\npassword_file {dir}/passwords\n");
    let open = Mosquitto::start();
    let profile = |id: &str, topic: &str| {
        let text = include_str!("../firmware-profiles/generic/json.toml");
        text.replace("id = \"generic/json\"", &format!("id = \"{id}\"")).replace("sensors", topic)
    };
    let config = |profiles: &str| {
        let user = "client_id = \"locked\"\nuser = \"edge\"\npassword = { file = \"mqtt-password\" }";
        Config::new(NOWHERE).mqtt("locked", locked.port, user).mqtt(
            "open",
            open.port,
            &format!("client_id = \"open\"\nprofiles = [{profiles}]"),
        )
    };
    let gateway = Gateway::stopped(&config("\"a\", \"b\""));
    std::fs::create_dir(gateway.scratch().join("profiles")).unwrap();
    gateway.scratch().write("profiles/a.toml", &profile("a", "one"));
    gateway.scratch().write("profiles/b.toml", &profile("b", "two"));
    gateway.scratch().write("mqtt-password", "a-wrong-one\n");
    let mut gateway = gateway;
    gateway.restart();
    gateway.wait_status(seconds(20), "one link down, one up", |status| {
        status.link("mqtt.locked") == "down" && status.link("mqtt.open") == "up"
    });
    gateway.scratch().write("mqtt-password", "the-right-one\n");
    assert_eq!(gateway.reload_with(&config("\"a\", \"b\"")), "reloaded: mqtt.locked changed\n");
    gateway.wait_status(seconds(20), "the right password", |status| status.link("mqtt.locked") == "up");
    assert_eq!(connections(&open, "open"), 1, "{}", open.logged());

    // The session goes on with the topics that are left: what is not wanted any more is no dead letter.
    assert_eq!(gateway.reload_with(&config("\"a\"")), "reloaded: mqtt.open changed\n");
    gateway.wait_subscribed();
    publish_one(open.port, "two/x", 1, &payload(0), &[]);
    publish_one(open.port, "one/x", 1, &payload(1), &[]);
    let status =
        gateway.wait_status(seconds(20), "a reading", |status| status.count("readings_total", "mqtt.open") == 1);
    assert_eq!(status.count("frames_received_total", "mqtt.open"), 1, "{:#}", status.0);
    // The profile's file alone.
    gateway.scratch().write("profiles/a.toml", &profile("a", "three"));
    assert_eq!(gateway.reload_with(&config("\"a\"")), "reloaded: mqtt.open changed\n");
    gateway.wait_subscribed();
    publish_one(open.port, "one/x", 1, &payload(2), &[]);
    publish_one(open.port, "three/x", 1, &payload(3), &[]);
    let status =
        gateway.wait_status(seconds(20), "a reading", |status| status.count("readings_total", "mqtt.open") == 2);
    assert_eq!(status.sum("rejected_total"), 0, "{:#}", status.0);
    assert_eq!(status.count("connects_total", "mqtt.locked"), 1);
    // Who is no longer there leaves a session, and the log says where.
    gateway.reload_with(&Config::new(NOWHERE).mqtt("open", open.port, "client_id = \"open\"\nprofiles = [\"a\"]"));
    assert!(gateway.logged().contains("mqtt.locked: the broker at 127.0.0.1"), "{}", gateway.logged());
    assert_eq!(gateway.status().link("mqtt.locked"), "");
    gateway.stop(seconds(30));
}

#[test]
fn a_start_with_a_bad_one_runs_on_the_last_that_ran_and_strict_refuses() {
    need!(Mosquitto, Kafka);
    let (broker, kafka) = (Mosquitto::start(), Kafka::start());
    let config = |lines: &str| Config::new(&kafka.address()).mqtt("home", broker.port, lines);
    let mut gateway = Gateway::start(&config(""));
    gateway.wait_subscribed();
    gateway.stop(seconds(30));
    let good = config("");
    gateway.configure(&config("colour = 1"));
    let path = gateway.config_path().to_str().unwrap().to_owned();
    let strict = support::gateway::tidegate(&["run", "--strict", "--config", &path]);
    let told = String::from_utf8(strict.stderr).unwrap();
    assert_eq!(strict.status.code(), Some(2), "{told}");
    assert!(told.contains("mqtt.home.colour: unknown key"), "{told}");

    gateway.restart();
    gateway.wait_subscribed();
    publish_one(broker.port, "sensors/a", 1, &payload(0), &[]);
    let status = gateway.wait_delivered(2, seconds(30));
    let why = status.0["configuration"]["fallback"].as_str().unwrap().to_owned();
    assert!(why.contains("mqtt.home.colour: unknown key"), "{why}");
    assert!(
        gateway.logged().contains("is not fit to run, so the configuration that ran last is used"),
        "{}",
        gateway.logged()
    );
    let shown = support::gateway::tidegate(&["status", "--config", &path]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("THE ONE THAT RAN LAST") && shown.contains("unknown key"), "{shown}");
    // Still bad, then good.
    assert_eq!(gateway.reload().status.code(), Some(2));
    assert!(!gateway.status().0["configuration"]["fallback"].is_null());
    gateway.reload_with(&good);
    assert!(gateway.status().0["configuration"]["fallback"].is_null());
    gateway.wait_delivered(4, seconds(30));
    let records = consume(&kafka, &[READINGS], 4, seconds(30));
    let events: Vec<_> = records.of_kind("event").iter().map(|event| event.value["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["config-fallback", "config-refused", "config-reloaded"]);
    records.assert_no_gaps();
    gateway.stop(seconds(30));

    // Without one that ran before a bad one is an error, as ever.
    let fresh = Gateway::stopped(&config("colour = 1"));
    let run = support::gateway::tidegate(&["run", "--config", fresh.config_path().to_str().unwrap()]);
    assert_eq!(run.status.code(), Some(2));
    assert!(!fresh.data_dir().exists());
}
