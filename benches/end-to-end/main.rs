//! The end-to-end benchmark: a paced publisher, a real mosquitto, with or without its in-flight limit, the release binary, a
//! real Kafka, near or far. For each scenario it prints what the gateway cost: CPU for each message, peak memory, bytes written, fsyncs.
//!
//! Everything runs on this machine, so at full speed broker, Kafka, publisher and gateway share its cores: the CPU time
//! of a message says more than the rate.

// A benchmark is run by hand: an error is shown, and that is all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod cost;
mod link;
mod publisher;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use cost::Cost;
use link::SlowLink;
use publisher::Publisher;
use support::kafka::KafkaOptions;
use support::parts::have;
use support::{Config, Gateway, Kafka, Mosquitto, Part, Process, Scratch, wait_until};

/// Messages of a scenario without a pace.
const UNPACED_MESSAGES: u64 = 400_000;
/// The same with a broker that has few in flight.
const UNPACED_MESSAGES_FEW: u64 = 20_000;
/// Messages that go ahead, so that everything has been used once.
const WARM_UP_MESSAGES: u64 = 200;
const IDLE: Duration = Duration::from_secs(10);

struct Arguments {
    seconds: u64,
    rates: Vec<Option<u64>>,
    qos: Vec<u8>,
    compression: Option<String>,
    persist: Vec<String>,
    /// How much later Kafka's answers come.
    kafka_ms: Option<u64>,
    /// Whether the broker has 20 messages in flight, as it is shipped, instead of as many as there are.
    few_in_flight: bool,
    rules: Option<String>,
    peer: Option<String>,
}

fn arguments() -> Arguments {
    let mut result = Arguments {
        seconds: 20,
        rates: vec![Some(100), Some(1_000), Some(5_000), None],
        qos: vec![0, 1],
        compression: None,
        persist: vec!["always".into(), "when-behind".into()],
        kafka_ms: None,
        few_in_flight: false,
        rules: None,
        peer: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        // cargo bench adds it.
        if name == "--bench" {
            continue;
        }
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--seconds" => result.seconds = value.parse().expect("--seconds takes a number"),
            "--rates" => result.rates = value.split(',').map(|rate| rate.parse().ok()).collect(),
            "--qos" => result.qos = value.split(',').map(|qos| qos.parse().expect("--qos takes 0,1")).collect(),
            "--compression" => result.compression = Some(value),
            "--persist" => result.persist = value.split(',').map(Into::into).collect(),
            "--kafka-ms" => result.kafka_ms = Some(value.parse().expect("--kafka-ms takes a number")),
            "--in-flight" => result.few_in_flight = value.parse::<u32>().expect("--in-flight takes 0 or 20") == 20,
            "--rules" => result.rules = Some(std::fs::read_to_string(&value).expect("--rules takes a file")),
            "--peer" => result.peer = Some(value),
            _ => panic!(
                "unknown argument {name}; known: --seconds, --rates, --qos, --compression, --persist, --kafka-ms, \
                 --in-flight, --rules, --peer"
            ),
        }
    }
    result
}

fn main() {
    let arguments = arguments();
    if !have(&[Part::Mosquitto, Part::Kafka]) {
        std::process::exit(1);
    }
    let kafka = start_kafka(arguments.kafka_ms);
    println!("{}", machine());
    println!(
        "{:<11} {:>9} {:>3} {:>10} {:>9} {:>12} {:>9} {:>12} {:>9} {:>7}",
        "who", "rate", "QoS", "messages", "per s", "CPU us/msg", "RSS MB", "written/msg", "fsyncs", "idle %"
    );
    let mut number = 0;
    for &rate in &arguments.rates {
        for &qos in &arguments.qos {
            let unpaced = if arguments.few_in_flight { UNPACED_MESSAGES_FEW } else { UNPACED_MESSAGES };
            let count = rate.map_or(unpaced, |rate| rate * arguments.seconds);
            let scenario = |persist| Scenario {
                rate,
                qos,
                count,
                compression: arguments.compression.as_deref(),
                persist,
                few_in_flight: arguments.few_in_flight,
                rules: arguments.rules.as_deref().unwrap_or_default(),
            };
            let settings = arguments.persist.iter().map(|persist| (persist.as_str(), None));
            for (persist, peer) in settings.chain(arguments.peer.as_deref().map(|peer| ("peer", Some(peer)))) {
                let scenario = scenario(persist);
                number += 1;
                let topic = format!("bench-{number}");
                kafka.admin(&["create-topic", &topic, "1"]);
                let few = arguments.few_in_flight;
                let broker = if few { Mosquitto::with_default_in_flight() } else { Mosquitto::start() };
                let outcome = match peer {
                    None => measure_tidegate(&kafka, &broker, &topic, &scenario),
                    Some(command) => measure_peer(command, &kafka, &broker, &topic, &scenario),
                };
                print_row(persist, &scenario, &outcome);
                print_state(&outcome);
            }
        }
    }
}

/// With a delay, behind a link that makes it.
fn start_kafka(delay_ms: Option<u64>) -> Kafka {
    let Some(delay_ms) = delay_ms else { return Kafka::start() };
    let link = SlowLink::new();
    let behind = Some(link.port());
    let options = KafkaOptions { edge_protocol: Some("PLAINTEXT"), edge_behind: behind, ..KafkaOptions::default() };
    let kafka = Kafka::with(Scratch::new("kafka"), &options);
    // Kafka itself sends gateways there from then on.
    LINK.set(link.port()).expect("one Kafka");
    link.carry_to(kafka.edge_port.expect("asked for"), Duration::from_millis(delay_ms));
    kafka
}

/// Where the link is, if there is one.
static LINK: OnceLock<u16> = OnceLock::new();

/// Where a gateway finds Kafka.
fn address(kafka: &Kafka) -> String {
    LINK.get().map_or_else(|| kafka.address(), |port| format!("127.0.0.1:{port}"))
}

struct Scenario<'a> {
    /// Messages a second; `None` for as many as go.
    rate: Option<u64>,
    qos: u8,
    count: u64,
    /// `kafka.compression`, if not the default.
    compression: Option<&'a str>,
    /// `outbox.persist`.
    persist: &'a str,
    /// See [`Arguments`].
    few_in_flight: bool,
    /// Filters and windows, as in a configuration.
    rules: &'a str,
}

struct Outcome {
    idle_percent: f64,
    cost: Cost,
    fsyncs: Option<u64>,
    /// Bytes of journal and of checkpoints, with rules.
    state: Option<(u64, u64)>,
    delivered: u64,
    took: Duration,
}

fn measure_tidegate(kafka: &Kafka, broker: &Mosquitto, topic: &str, scenario: &Scenario<'_>) -> Outcome {
    let compression = scenario.compression.map_or(String::new(), |name| format!("compression = \"{name}\""));
    let version = if scenario.few_in_flight { "\nversion = \"3.1.1\"" } else { "" };
    let sources = Config::new("").mqtt("bench", broker.port, &format!("qos = {}{version}", scenario.qos));
    let config = sources.section(scenario.rules).kafka_section(&format!(
        "brokers = [\"{}\"]\ntopics = {{ reading = \"{topic}\" }}\n{compression}",
        address(kafka)
    ));
    let mut gateway = Gateway::start(&config.outbox(&format!("persist = \"{}\"", scenario.persist)));
    gateway.wait_subscribed();
    let process = gateway.process().id();
    let counts = |gateway: &mut Gateway| {
        let status = gateway.status();
        ["outbox_commits_total", "outbox_journal_bytes_total", "outbox_checkpoint_bytes_total"]
            .map(|name| status.sum(name))
    };
    let mut before = [0; 3];
    let mut outcome = measure(process, kafka, broker, topic, scenario, || before = counts(&mut gateway));
    let [commits, journal, checkpoints] = counts(&mut gateway);
    outcome.fsyncs = Some(commits - before[0]);
    outcome.state = (!scenario.rules.is_empty()).then_some((journal - before[1], checkpoints - before[2]));
    outcome
}

fn measure_peer(command: &str, kafka: &Kafka, broker: &Mosquitto, topic: &str, scenario: &Scenario<'_>) -> Outcome {
    let scratch = Scratch::new("peer");
    let command = command
        .replace("{mqtt_port}", &broker.port.to_string())
        .replace("{kafka}", &address(kafka))
        .replace("{topic}", topic)
        .replace("{dir}", scratch.path().to_str().unwrap());
    let arguments = ["-c", &format!("exec {command}")];
    let peer = Process::spawn("the peer", Path::new("sh"), arguments, &[], &scratch.join("peer.log"));
    // Nobody says when it has subscribed.
    std::thread::sleep(Duration::from_secs(5));
    measure(peer.id(), kafka, broker, topic, scenario, || ())
}

/// Idle, then warm, then the messages, until all are in Kafka or no more come.
fn measure(
    process: u32,
    kafka: &Kafka,
    broker: &Mosquitto,
    topic: &str,
    scenario: &Scenario<'_>,
    about_to_start: impl FnOnce(),
) -> Outcome {
    let idle_before = Cost::of(process);
    std::thread::sleep(IDLE);
    let idle = Cost::of(process).since(&idle_before);

    let mut publisher = Publisher::connect(broker.port, scenario.qos);
    publisher.publish(WARM_UP_MESSAGES, scenario.rate.map(|rate| rate.max(200)));
    wait_for_records(kafka, topic, WARM_UP_MESSAGES);
    about_to_start();
    let before = Cost::of(process);
    let start = now();
    publisher.publish(scenario.count, scenario.rate);
    publisher.finish();
    let records = wait_for_records(kafka, topic, WARM_UP_MESSAGES + scenario.count);
    let took = start.elapsed();
    Outcome {
        idle_percent: idle.cpu.as_secs_f64() / IDLE.as_secs_f64() * 100.0,
        cost: Cost::of(process).since(&before),
        fsyncs: None,
        state: None,
        delivered: records.saturating_sub(WARM_UP_MESSAGES),
        took,
    }
}

/// Until the topic has so many records, or has had the same number for ten seconds.
fn wait_for_records(kafka: &Kafka, topic: &str, wanted: u64) -> u64 {
    let (mut last, mut since) = (0, now());
    wait_until(Duration::from_secs(600), "the records in Kafka", || {
        let output = kafka.admin(&["count", topic]);
        let count: u64 = output.trim().parse().unwrap_or_else(|_| panic!("no number: {output}"));
        if count != last {
            (last, since) = (count, now());
        }
        (count >= wanted || since.elapsed() > Duration::from_secs(10)).then_some(count)
    })
}

fn print_row(who: &str, scenario: &Scenario<'_>, outcome: &Outcome) {
    let messages = scenario.count as f64;
    println!(
        "{who:<11} {:>9} {:>3} {:>10} {:>9.0} {:>12.2} {:>9.1} {:>12.1} {:>9} {:>7.2}{}",
        scenario.rate.map_or("max".into(), |rate| rate.to_string()),
        scenario.qos,
        scenario.count,
        messages / outcome.took.as_secs_f64(),
        outcome.cost.cpu.as_secs_f64() * 1e6 / messages,
        outcome.cost.peak_rss_bytes as f64 / 1e6,
        outcome.cost.written_bytes as f64 / messages,
        outcome.fsyncs.map_or("-".into(), |count| count.to_string()),
        outcome.idle_percent,
        if outcome.delivered < scenario.count {
            format!("  ONLY {} DELIVERED", outcome.delivered)
        } else {
            String::new()
        },
    );
}

/// What the windows' state costs the disk.
fn print_state(outcome: &Outcome) {
    let Some((journal, checkpoints)) = outcome.state else { return };
    let per_second = |bytes: u64| bytes as f64 / outcome.took.as_secs_f64();
    println!("{:<11} journal {:.0} B/s, checkpoints {:.0} B/s", "", per_second(journal), per_second(checkpoints));
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()))
        .unwrap_or_else(|| "unknown CPU".into());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("Linux {}, {cpu}, {cores} cores", read("/proc/sys/kernel/osrelease").trim())
}

fn now() -> Instant {
    tidegate::clock::instant()
}
