//! The outbox under pressure: its bound, and what a large backlog costs in memory and at start-up.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use support::gateway::{DEAD_LETTERS, READINGS};
use support::publish::publish_lines;
use support::{Config, Gateway, Kafka, Mosquitto, consume, need, seconds};

/// A message of about a kilobyte that no compression makes much smaller.
fn bulky(n: u64, random: &mut fastrand::Rng) -> String {
    let text: String = (0..1_000).map(|_| random.alphanumeric()).collect();
    format!("{{\"n\":{n},\"text\":\"{text}\"}}")
}

#[test]
fn at_its_bound_the_oldest_go_and_every_one_is_counted() {
    need!(Mosquitto, Kafka);
    const COUNT: u64 = 15_000;
    let broker = Mosquitto::start();
    let mut kafka = Kafka::stopped();
    let config = Config::new(&kafka.address()).mqtt("home", broker.port, "").outbox("max_size = \"8MiB\"");
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();

    let mut random = fastrand::Rng::with_seed(7);
    publish_lines(broker.port, "sensors/a", 1, (0..COUNT).map(|n| bulky(n, &mut random)));
    let status = gateway.wait_status(seconds(120), "all of them committed", |status| {
        status.sum("readings_total") == COUNT && status.sum("outbox_committed_total") >= COUNT
    });
    let evicted = status.count("outbox_evicted_total", "raw");
    assert!(evicted > 0 && evicted < COUNT, "{evicted} of {COUNT} evicted: {:#}", status.0);
    let disk = gateway.disk_bytes();
    assert!(disk <= (8 << 20) + (64 << 10), "8 MiB allowed, {disk} bytes taken");

    kafka.restart();
    gateway.wait_status(seconds(90), "an empty outbox", |status| status.backlog() == 0 && status.link("kafka") == "up");
    let status = gateway.status();
    let dropped = status.count("outbox_evicted_total", "raw");
    let records = consume(&kafka, &[READINGS, DEAD_LETTERS], (COUNT - dropped) as usize, seconds(60));
    let kept = records.numbers();
    assert_eq!(kept.len() as u64 + dropped, COUNT, "kept + dropped = produced");
    // The oldest went, but for those that Kafka's client had in hand: what was given up is one block before the newest.
    let in_hand = kept.iter().zip(0..).take_while(|(number, n)| **number == *n).count() as u64;
    let newest: Vec<u64> = (in_hand + dropped..COUNT).collect();
    let kept: Vec<u64> = kept.into_iter().skip(in_hand as usize).collect();
    assert_eq!(kept, newest, "{in_hand} in hand and {dropped} given up, then all the others");
    assert!(in_hand < COUNT / 8, "{in_hand} in hand");
    let declared: u64 = records.of_kind("gap").iter().map(|gap| gap.value["count"].as_u64().unwrap()).sum();
    assert_eq!(declared, dropped, "what was given up is declared by gap records");
    assert_gaps_declared(&records);
}

/// Each number of each stream is there, or lies in a declared gap.
fn assert_gaps_declared(records: &support::Records) {
    let gaps: Vec<(String, u64, u64)> = records
        .of_kind("gap")
        .iter()
        .map(|gap| {
            let number = |name: &str| gap.value[name].as_u64().unwrap();
            (gap.value["of_stream"].as_str().unwrap().to_owned(), number("from"), number("to"))
        })
        .collect();
    for (stream, numbers) in records.streams() {
        let undeclared = (1..=*numbers.last().unwrap())
            .filter(|seq| !numbers.contains(seq))
            .find(|seq| !gaps.iter().any(|(of, from, to)| *of == stream && (from..=to).contains(&seq)));
        assert_eq!(undeclared, None, "a number of stream {stream} that is neither there nor declared; gaps: {gaps:?}");
    }
}

#[test]
fn a_large_backlog_costs_neither_memory_nor_start_up_time() {
    need!(Mosquitto, Kafka);
    // The whole gigabyte takes minutes; its shape shows with a part of it.
    let heavy = std::env::var_os("TIDEGATE_HEAVY").is_some_and(|value| value == "1");
    let wanted_bytes: u64 = if heavy { 1 << 30 } else { 96 << 20 };
    // The pages of a debug binary take 30 MB more than those of the release binary, so what is measured here is the rest.
    // ARCHITECTURE.md has the figures of the release binary, its pages included.
    const ANONYMOUS_MAX_KB: u64 = 80 * 1024;
    /// What is in a segment; records that do not compress take as much on the disk.
    const SEGMENT_BYTES: u64 = 4 << 20;

    let broker = Mosquitto::start();
    let mut kafka = Kafka::stopped();
    let config = Config::new(&kafka.address()).mqtt("home", broker.port, "").outbox("max_size = \"4GiB\"");
    let mut gateway = Gateway::start(&config);
    gateway.wait_subscribed();
    gateway.stop(seconds(30));
    let empty = start_up_bytes(&mut gateway);

    let mut random = fastrand::Rng::with_seed(7);
    let mut sent = 0;
    let mut filled_kb = 0;
    while gateway.disk_bytes() < wanted_bytes {
        publish_lines(broker.port, "sensors/a", 1, (sent..sent + 10_000).map(|n| bulky(n, &mut random)));
        sent += 10_000;
        gateway.wait_status(seconds(120), "them in the outbox", |status| status.backlog() >= sent);
        filled_kb = filled_kb.max(gateway.process().memory_kb("RssAnon"));
        assert!(sent < 2_000_000, "{sent} kilobytes sent and only {} on disk", gateway.disk_bytes());
    }
    assert!(filled_kb < ANONYMOUS_MAX_KB, "{filled_kb} kB resident while filling {} bytes", gateway.disk_bytes());
    let disk = gateway.disk_bytes();
    gateway.stop(seconds(30));
    let full = start_up_bytes(&mut gateway);
    println!(
        "{sent} records, {disk} bytes on disk; bytes read at a start: {empty} empty, {full} full; {filled_kb} kB of memory"
    );
    // Times on a busy machine say nothing: what a start reads does. That is the newest segment, several times over after a kill, and
    // the oldest for the uplink: half of what there is at least stays unread, however much there is.
    assert!(
        full < empty + 12 * SEGMENT_BYTES && full < disk / 2,
        "a start reads {empty} bytes with nothing, {full} with {disk} bytes"
    );

    kafka.restart();
    let limit = seconds(if heavy { 900 } else { 180 });
    let drained_kb = std::cell::Cell::new(0);
    let process = gateway.process().id();
    gateway.wait_status(limit, "an empty outbox", |status| {
        let now_kb = support::process::memory_kb(process, "RssAnon").unwrap_or(0);
        drained_kb.set(drained_kb.get().max(now_kb));
        status.backlog() == 0 && status.link("kafka") == "up"
    });
    let drained_kb = drained_kb.get();
    println!("memory while draining: {drained_kb} kB");
    assert!(drained_kb < ANONYMOUS_MAX_KB, "{drained_kb} kB resident while draining");
    let status = gateway.status();
    // What was sent while the last clean stop ran out of time counts in that run.
    assert!(status.sum("delivered_total") <= sent, "{:#}", status.0);
    assert!(gateway.disk_bytes() < 64 << 20, "space comes back: {} bytes are left", gateway.disk_bytes());
}

/// What it reads until its first answer, in bytes; the least of three, since a thread may be ahead. Leaves it running.
fn start_up_bytes(gateway: &mut Gateway) -> u64 {
    let mut least = u64::MAX;
    for round in 0..3 {
        gateway.restart();
        let io = std::fs::read_to_string(format!("/proc/{}/io", gateway.process().id())).unwrap();
        let read = io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
        least = least.min(read.parse().unwrap());
        if round < 2 {
            gateway.wait_subscribed();
            gateway.kill();
        }
    }
    gateway.wait_subscribed();
    least
}
