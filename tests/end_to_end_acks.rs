//! When a message is acknowledged, seen from outside: with strace on the system calls, and by how fast a broker that
//! sends only 20 unacknowledged messages gets rid of them.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::path::Path;
use std::time::Duration;

use support::publish::{LinePublisher, publish_lines};
use support::{Config, Gateway, Kafka, Mosquitto, need, seconds};

fn payload(n: u64) -> String {
    format!("{{\"n\":{n},\"temperature\":21.5}}")
}

#[test]
fn one_sync_for_each_commit_and_no_ack_before_it() {
    need!(Mosquitto, Kafka, Strace);
    const COUNT: u64 = 30;
    let broker = Mosquitto::start();
    let kafka = Kafka::stopped();
    let config = Config::new(&kafka.address()).mqtt("home", broker.port, "version = \"3.1.1\"");
    let mut gateway = Gateway::stopped(&config);
    let trace = gateway.scratch().join("trace");
    let config_path = gateway.config_path();
    // -D makes the tracer a grandchild: the gateway keeps its process number. -yy shows what each descriptor is.
    gateway.restart_as(
        Path::new("strace"),
        &[
            "-D",
            "-f",
            "-yy",
            "-ttt",
            "-s",
            "96",
            "-o",
            trace.to_str().unwrap(),
            "-e",
            "trace=fsync,fdatasync,read,recvfrom,readv,write,writev,sendto,sendmsg,recvmsg",
            support::gateway::TIDEGATE,
            "run",
            "--config",
            config_path.to_str().unwrap(),
        ],
    );
    gateway.wait_subscribed();
    // The first commit makes files, and syncs them too: it is not among those that are counted.
    publish_lines(broker.port, "sensors/a", 1, [payload(0)]);
    let before = gateway.wait_status(seconds(30), "the first commit", |status| status.backlog() == 1);
    std::thread::sleep(Duration::from_millis(500));
    let before = gateway.try_status().unwrap_or(before);
    let trace_before = std::fs::read_to_string(&trace).unwrap().lines().count();

    let mut publisher = LinePublisher::start(broker.port, "sensors/a", 1);
    for n in 1..=COUNT {
        publisher.send(&payload(n));
        // Longer than the commit interval: most of them get a commit of their own.
        std::thread::sleep(Duration::from_millis(150));
    }
    publisher.finish(seconds(30));
    let after = gateway.wait_status(seconds(30), "all commits", |status| status.backlog() == COUNT + 1);
    let commits = after.sum("outbox_commits_total") - before.sum("outbox_commits_total");
    gateway.stop(seconds(60));

    let text = std::fs::read_to_string(&trace).unwrap();
    let lines: Vec<&str> = text.lines().skip(trace_before).collect();
    // The clean stop commits and syncs once more; only what happened up to the last ack counts.
    let last_ack = lines.iter().rposition(|line| is_ack(line, broker.port)).expect("an ack in the trace");
    let calls = calls(&lines[..=last_ack]);
    let syncs = calls.iter().filter(|call| call.is_sync()).count() as u64;
    let acks = calls.iter().filter(|call| is_ack(&call.text, broker.port)).count();
    assert!(acks as u64 <= COUNT && acks > 0, "{acks} writes with acks for {COUNT} messages");
    assert!(commits >= COUNT / 2, "most messages have a commit of their own: {commits} for {COUNT}");
    assert!(
        syncs >= commits.saturating_sub(1) && syncs <= commits + 2,
        "one sync for each commit: {syncs} syncs, {commits} commits:\n{}",
        lines.iter().filter(|line| line.contains("sync")).copied().collect::<Vec<_>>().join("\n")
    );
    // Between what brought the last message and each ack lies a sync that had ended before the ack began.
    let mut unsynced: Option<&Call> = None;
    let mut reads = 0;
    for call in &calls {
        if call.is_sync() {
            unsynced = None;
        } else if call.text.contains("\\\"n\\\":") && call.text.contains(&format!("->127.0.0.1:{}", broker.port)) {
            unsynced = Some(call);
            reads += 1;
        } else if is_ack(&call.text, broker.port)
            && let Some(message) = unsynced
        {
            panic!("acknowledged before it was synced:\n{}\n{}", message.text, call.text);
        }
    }
    assert!(reads >= COUNT / 2, "only {reads} reads with messages were found in the trace");
}

/// One finished system call. Those that were interrupted by others in the trace stand where they ended, those that send
/// where they began.
struct Call {
    text: String,
}

impl Call {
    fn is_sync(&self) -> bool {
        self.text.contains("fdatasync(") || self.text.contains("fsync(")
    }
}

fn calls(lines: &[&str]) -> Vec<Call> {
    let mut unfinished: Vec<(&str, String)> = Vec::new();
    let mut calls = Vec::new();
    for line in lines {
        let thread = line.split_whitespace().next().unwrap_or("");
        if let Some(begin) = line.strip_suffix("<unfinished ...>") {
            if is_write(line) {
                calls.push(Call { text: begin.to_owned() });
            } else {
                unfinished.push((thread, begin.to_owned()));
            }
        } else if line.contains(" resumed>") {
            if let Some(index) = unfinished.iter().position(|(of, _)| *of == thread) {
                let (_, begin) = unfinished.remove(index);
                calls.push(Call { text: begin + line });
            }
        } else {
            calls.push(Call { text: (*line).to_owned() });
        }
    }
    calls
}

fn is_write(line: &str) -> bool {
    ["write(", "writev(", "sendto(", "sendmsg("].iter().any(|name| line.contains(name))
}

/// A write to the broker that begins with a PUBACK: 0x40 (`@`), length 2.
fn is_ack(line: &str, port: u16) -> bool {
    is_write(line) && line.contains(&format!("->127.0.0.1:{port}]")) && line.contains("\"@\\2")
}

#[test]
fn with_20_in_flight_the_acks_do_not_wait_for_a_timer() {
    need!(Mosquitto, Kafka);
    const COUNT: u64 = 5_000;
    let broker = Mosquitto::with_default_in_flight();
    let kafka = Kafka::stopped();
    // 5 is told by the client's Receive Maximum, which is larger; mosquitto goes by the smaller of the two.
    let config = Config::new(&kafka.address()).mqtt("home", broker.port, "version = \"3.1.1\"");
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();
    let start = tidegate::clock::instant();
    publish_lines(broker.port, "sensors/a", 1, (0..COUNT).map(payload));
    gateway.wait_status(seconds(60), "all of them in the outbox", |status| status.backlog() == COUNT);
    let rate = COUNT as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0} messages a second with 20 in flight");
    assert!(rate >= 1_000.0, "{rate:.0} messages a second");
}

#[test]
fn a_hundred_messages_a_second_cost_about_ten_commits_a_second() {
    need!(Mosquitto, Kafka);
    const SECONDS: u64 = 10;
    let broker = Mosquitto::with_default_in_flight();
    let kafka = Kafka::stopped();
    let config = Config::new(&kafka.address()).mqtt("home", broker.port, "version = \"3.1.1\"");
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();
    let before = gateway.status().sum("outbox_commits_total");
    let start = tidegate::clock::instant();
    let mut publisher = LinePublisher::start(broker.port, "sensors/a", 1);
    for n in 0..100 * SECONDS {
        publisher.send(&payload(n));
        std::thread::sleep(Duration::from_millis(10 * (n + 1)).saturating_sub(start.elapsed()));
    }
    publisher.finish(seconds(30));
    let elapsed = start.elapsed().as_secs_f64();
    let status = gateway.wait_status(seconds(30), "all of them", |status| status.backlog() == 100 * SECONDS);
    let commits = (status.sum("outbox_commits_total") - before) as f64 / elapsed;
    println!("{commits:.1} commits a second");
    assert!((5.0..=15.0).contains(&commits), "{commits:.1} commits a second");
}
