//! No trust in the clock: a board that starts in 1970, in an outage, with kills and steps, puts its records right once the
//! time is known, and counts nothing into a window of 1970.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use support::authority::certificates;
use support::gateway::{READINGS, Status, TIDEGATE};
use support::kafka::KafkaOptions;
use support::publish::publish_lines;
use support::{Config, Gateway, Kafka, KafkaRecord, Mosquitto, Scratch, consume, need, seconds};

const AGGREGATES: &str = "iot.aggregates";
/// What the configuration takes for the word of whoever sets the clock.
const TRUST: &str = "clock = { file = \"synchronised\" }";

fn now_s() -> i64 {
    tidegate::clock::wall_ms() / 1000
}

/// A gateway that sees another time than everybody else.
struct Board {
    gateway: Gateway,
}

impl Board {
    /// One whose clock shows that it is so many seconds after 1970-01-01T00:00:00Z.
    fn at(gateway: Gateway, time_s: i64) -> Self {
        let mut board = Self { gateway };
        board.set(time_s - now_s());
        board.start();
        board
    }

    /// Sets its clock: so many seconds from the right time.
    fn set(&self, offset_s: i64) {
        let beside = self.gateway.scratch().write("clock.new", &format!("{offset_s:+}\n"));
        std::fs::rename(beside, self.gateway.scratch().join("clock")).unwrap();
        // The gateway looks at its clock once a second, and is to see each step.
        std::thread::sleep(std::time::Duration::from_millis(1_500));
    }

    fn start(&mut self) {
        let environment = [
            format!("LD_PRELOAD={}", support::parts::faketime().unwrap().display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.gateway.scratch().join("clock").display()),
            "FAKETIME_NO_CACHE=1".into(),
            "DONT_FAKE_MONOTONIC=1".into(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
        ];
        let configuration = self.gateway.config_path();
        let mut arguments: Vec<&str> = environment.iter().map(String::as_str).collect();
        arguments.extend([TIDEGATE, "run", "--config", configuration.to_str().unwrap()]);
        self.gateway.restart_as(&PathBuf::from("/usr/bin/env"), &arguments);
        self.gateway.wait_started();
    }

    fn vouch(&self) {
        self.gateway.scratch().write("synchronised", "");
    }

    fn retract(&self) {
        std::fs::remove_file(self.gateway.scratch().join("synchronised")).unwrap();
    }

    /// Waits until its clock is trusted (`""`), or not trusted for that reason.
    #[track_caller]
    fn wait_clock(&mut self, doubt: &str) -> Status {
        self.gateway.wait_status(seconds(20), &format!("a clock with the doubt {doubt:?}"), |status| {
            status.0["clock"]["doubt"].as_str().unwrap_or("") == doubt
        })
    }

    /// Publishes readings of that device and waits until they are stored, so that they came before what is done next.
    #[track_caller]
    fn publish(&mut self, port: u16, device: &str, lines: impl Iterator<Item = String>) {
        let before = self.gateway.status().sum("readings_total");
        let lines: Vec<String> = lines.collect();
        let count = lines.len() as u64;
        publish_lines(port, &format!("sensors/{device}"), 1, lines);
        self.gateway.wait_status(seconds(30), "all readings", |status| status.sum("readings_total") >= before + count);
    }
}

fn text<'a>(record: &'a KafkaRecord, name: &str) -> &'a str {
    record.value[name].as_str().unwrap_or("")
}

fn ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{text:?}: {error}")).as_millisecond()
}

#[test]
fn a_board_that_starts_in_1970_puts_its_records_right_once_the_time_is_known() {
    need!(Mosquitto, Kafka, Faketime);
    let (broker, mut kafka) = (Mosquitto::start(), Kafka::stopped());
    let rule = "[[window]]\nname = \"minute\"\nmeasurement = \"power\"\nevery = \"1m\"\nforward_raw = false";
    let config = Config::new("").gateway(TRUST).mqtt("home", broker.port, "").section(rule).kafka_section(&format!(
        "brokers = [\"{}\"]\ntopics = {{ reading = \"{READINGS}\", aggregate = \"{AGGREGATES}\" }}",
        kafka.address()
    ));
    let start_ms = tidegate::clock::wall_ms();
    let mut board = Board::at(Gateway::stopped(&config), 86_400);
    board.gateway.wait_subscribed();
    let plain = |range: std::ops::Range<u64>| range.map(|n| format!("{{\"n\":{n}}}"));

    // 1970, no Kafka. Device `m` has a right clock, `w` has none, so that its power is in no window.
    let status = board.wait_clock("before-last-known");
    assert_eq!(status.0["clock"]["trusted"], false, "{:#}", status.0);
    board.publish(broker.port, "a", plain(0..300));
    let first_s = (now_s() - 3_600) / 60 * 60;
    let metered = (0..600).map(|n| format!("{{\"time\":{},\"power\":{}}}", first_s + n, n % 10));
    board.publish(broker.port, "m", metered);
    board.publish(broker.port, "w", (0..10).map(|_| "{\"power\":1}".to_owned()));
    assert_eq!(board.gateway.status().count("received_untrusted_total", "before-last-known"), 910);
    board.gateway.kill();
    board.start();
    board.gateway.wait_subscribed();
    board.publish(broker.port, "a", plain(300..600));

    // The time comes with a step, and somebody vouches for it.
    board.set(0);
    board.wait_clock("unsynced");
    board.publish(broker.port, "a", plain(600..700));
    board.vouch();
    assert_eq!(board.wait_clock("").0["clock"]["by"], "file");
    board.publish(broker.port, "a", plain(700..800));
    // A restart in the same boot knows what was found out, though nobody vouches any more.
    board.retract();
    board.gateway.kill();
    board.start();
    assert_eq!(board.wait_clock("").0["clock"]["by"], "earlier-run");
    board.gateway.wait_subscribed();
    board.publish(broker.port, "a", plain(800..900));
    // Steps that nobody vouches for, in both directions, and back.
    for (offset_s, doubt, first) in [(7_200, "stepped", 900), (-3 * 3_600, "before-last-known", 1_100)] {
        board.set(offset_s);
        board.wait_clock(doubt);
        board.publish(broker.port, "a", plain(first..first + 100));
        board.set(0);
        board.wait_clock("");
        board.publish(broker.port, "a", plain(first + 100..first + 200));
    }

    kafka.restart();
    board.gateway.wait_status(seconds(90), "an empty outbox", |status| status.backlog() == 0);
    let end_ms = tidegate::clock::wall_ms() + 1_000;
    let records = consume(&kafka, &[READINGS], 1_310 + 2, seconds(60));
    records.assert_all(1_300);
    records.assert_no_gaps();
    let mut by_number = BTreeMap::new();
    for record in records.of_kind("reading") {
        assert!((start_ms..end_ms).contains(&ms(text(record, "time"))), "{}", record.value);
        assert_eq!(text(record, "time"), text(record, "received"));
        let known = text(record, "time_quality") == "arrival";
        assert_eq!(record.value["boot"].is_null() && record.value["monotonic_ms"].is_null(), known, "{}", record.value);
        match record.n() {
            Some(n) => drop(by_number.insert(n, record)),
            None => assert_eq!((text(record, "device"), text(record, "time_quality")), ("w", "corrected")),
        }
    }
    let times: Vec<i64> = by_number.values().map(|record| ms(text(record, "time"))).collect();
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1] + 50), "out of order: {times:?}");
    for (n, record) in &by_number {
        let corrected = *n < 700 || (900..1_000).contains(n) || (1_100..1_200).contains(n);
        assert_eq!(text(record, "time_quality"), if corrected { "corrected" } else { "arrival" }, "{n}");
    }
    for record in records.of_kind("stream-end") {
        assert!((start_ms..end_ms).contains(&ms(text(record, "time"))), "{}", record.value);
    }

    // The last minute of `m` is open, or closed by its silence.
    let made = consume(&kafka, &[AGGREGATES], 9, seconds(60));
    let counts: BTreeMap<i64, u64> = made
        .of_kind("aggregate")
        .iter()
        .map(|record| {
            assert_eq!(text(record, "device"), "m", "{}", record.value);
            assert!((start_ms..end_ms).contains(&ms(text(record, "received"))), "{}", record.value);
            (ms(text(record, "start")) / 1000, record.value["count"].as_u64().unwrap())
        })
        .collect();
    let expected: BTreeMap<i64, u64> = (0..10).map(|minute| (first_s + 60 * minute, 60)).collect();
    assert!(counts.iter().all(|(start, count)| expected.get(start) == Some(count)), "{counts:?}");
    assert!(counts.len() >= 9, "{counts:?}");
    board.gateway.stop(seconds(30));
}

#[test]
fn a_certificate_that_is_not_valid_yet_waits_for_the_time_and_then_connects() {
    need!(Mosquitto, Kafka, Openssl, Faketime);
    let authority = Scratch::new("authority");
    certificates(&authority);
    let copy = |to: &Scratch, names: &[&str]| {
        for name in names {
            std::fs::copy(authority.join(name), to.join(name)).unwrap();
        }
    };
    let server_files = ["ca.pem", "server.pem", "server.key"];
    let scratch = Scratch::new("mosquitto");
    copy(&scratch, &server_files);
    let port = support::free_port();
    let listener = format!(
        "allow_anonymous true\nlistener {port} 127.0.0.1\ncafile {{dir}}/ca.pem\ncertfile {{dir}}/server.pem\n\
         keyfile {{dir}}/server.key\n"
    );
    let broker = Mosquitto::in_scratch(scratch, &listener);
    let scratch = Scratch::new("kafka");
    copy(&scratch, &server_files);
    let chain = |name: &str| std::fs::read_to_string(scratch.join(name)).unwrap();
    scratch.write("server-chain.pem", &(chain("server.key") + &chain("server.pem")));
    let options = KafkaOptions {
        properties: "ssl.keystore.type=PEM\nssl.keystore.location={dir}/server-chain.pem".into(),
        edge_protocol: Some("SSL"),
        ..KafkaOptions::default()
    };
    let kafka = Kafka::with(scratch, &options);

    let scratch = Scratch::new("gateway");
    copy(&scratch, &["ca.pem"]);
    let tls = "tls = { ca = \"ca.pem\" }";
    let config = Config::new("")
        .gateway(TRUST)
        .mqtt("plain", broker.port, "")
        .section(&format!("[mqtt.home]\nurl = \"mqtts://localhost:{port}\"\nprofiles = [\"generic/json\"]\n{tls}"))
        .kafka_section(&format!(
            "brokers = [\"localhost:{}\"]\ntopics = {{ reading = \"{READINGS}\" }}\n{tls}",
            kafka.edge_port.unwrap()
        ));
    let mut board = Board::at(Gateway::in_scratch(scratch, &config), 600);
    let links = ["mqtt.home", "kafka"];
    let status = board.gateway.wait_status(seconds(120), "both links to wait for the time", |status| {
        links.iter().all(|link| status.link(link) == "waiting-for-time") && status.link("mqtt.plain") == "up"
    });
    for link in links {
        let detail = status.link_detail(link);
        assert!(detail.starts_with("waiting for the time: the clock says 1970-01-01T00:1"), "{detail}");
    }
    // These go to Kafka's client before the time is known.
    board.publish(broker.port, "a", (0..100).map(|n| format!("{{\"n\":{n}}}")));

    // Kafka's client connects in the moment in which the clock is set.
    board.vouch();
    board.set(0);
    board.wait_clock("");
    let both = |status: &Status| links.iter().all(|link| status.link(link) == "up");
    board.gateway.wait_status(seconds(30), "both links to be up", both);
    board.gateway.wait_delivered(100, seconds(60));
    let records = consume(&kafka, &[READINGS], 100, seconds(30));
    records.assert_all(100);
    for record in records.of_kind("reading") {
        assert_eq!(text(record, "time_quality"), "corrected", "{}", record.value);
        assert!(now_s() - ms(text(record, "time")) / 1000 < 600, "{}", record.value);
    }
    let logged = board.gateway.logged();
    assert_eq!(logged.matches("waiting for the time").count(), 2, "one line for each link:\n{logged}");
    let errors = board.gateway.status().count("connection_errors_total", "mqtt.home");
    assert_eq!(errors, 0, "nothing was wrong but the clock");
    assert!(Path::new(&board.gateway.data_dir()).join("CLOCK").is_file());
    board.gateway.stop(seconds(30));
}
