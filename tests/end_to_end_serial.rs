//! Serial devices on pseudo-terminals: pulled out, noisy, endless.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::collections::BTreeSet;

use support::{Config, Gateway, Kafka, Pty, Scratch, consume, need, seconds};

fn line(n: u64) -> String {
    format!("{{\"n\":{n},\"temperature\":21.5}}\n")
}

/// A topic for each test, since they share one Kafka.
fn config(kafka: &Kafka, topic: &str) -> Config {
    Config::new("").kafka_section(&format!(
        "brokers = [\"{}\"]\ntopics = {{ reading = \"{topic}\", dead_letter = \"{topic}.dead\" }}",
        kafka.address()
    ))
}

fn send(device: &mut Pty, lines: impl Iterator<Item = u64>) {
    for n in lines {
        assert!(device.send(line(n).as_bytes(), seconds(10)), "the gateway reads no more at line {n}");
    }
}

#[test]
fn absent_at_start_then_pulled_out_and_replugged() {
    need!(Kafka);
    let kafka = Kafka::shared();
    let scratch = Scratch::new("serial");
    let port = scratch.join("usb-FTDI_FT232R_A1-if00-port0");
    let mut gateway = Gateway::start(&config(kafka, "replugged").serial("meter", &port, ""));
    gateway.wait_status(seconds(20), "the absent port to be down", |status| status.link("serial.meter") == "down");

    for round in 0..3 {
        let mut device = Pty::plug(&port);
        gateway.wait_status(seconds(30), "the port to be open", |status| status.link("serial.meter") == "up");
        // Half a line from before is what a device that was just plugged in begins with.
        assert!(device.send(b"3,\"temperature\":20}\n", seconds(10)));
        send(&mut device, round * 100..(round + 1) * 100);
        gateway.wait_status(seconds(20), "this round's lines", |status| {
            status.count("readings_total", "serial.meter") == (round + 1) * 100
        });
        // The last line is cut off in the middle.
        assert!(device.send(b"{\"n\":9999,\"temp", seconds(10)));
        drop(device);
        gateway.wait_status(seconds(20), "the port to be down", |status| status.link("serial.meter") == "down");
    }

    gateway.wait_delivered(300, seconds(30));
    let records = consume(kafka, &["replugged"], 300, seconds(30));
    records.assert_all(300);
    assert!(records.0.iter().all(|record| record.value["device"] == "meter"), "the device has the source's name");
}

#[test]
fn two_identical_adapters_are_told_apart_by_their_sockets_whichever_comes_back_first() {
    need!(Kafka);
    let kafka = Kafka::shared();
    let scratch = Scratch::new("serial");
    // Names below /dev/serial/by-path: adapters without a serial number have the same name below by-id.
    let sockets = [1, 2].map(|socket| scratch.join(&format!("pci-0000:00:14.0-usb-0:{socket}:1.0-port0")));
    let sources = config(kafka, "identical").serial("left", &sockets[0], "").serial("right", &sockets[1], "");
    let mut gateway = Gateway::start(&sources);
    for round in 0..4_u64 {
        // The kernel numbers them as they come: each is now the one, now the other.
        let mut order = [0, 1];
        order.rotate_left((round % 2) as usize);
        let mut devices = order.map(|index| (index as u64, Pty::plug(&sockets[index])));
        gateway.wait_status(seconds(30), "both to be open", |status| status.links("serial.") == ["up", "up"]);
        for (index, device) in &mut devices {
            assert!(device.send(b"half a line of before\n", seconds(10)));
            send(device, round * 20 + *index * 10..round * 20 + *index * 10 + 10);
        }
        gateway
            .wait_status(seconds(20), "this round's lines", |status| status.sum("readings_total") == (round + 1) * 20);
        drop(devices);
        gateway.wait_status(seconds(20), "both to be down", |status| status.links("serial.") == ["down", "down"]);
    }
    gateway.wait_delivered(80, seconds(30));
    let records = consume(kafka, &["identical"], 80, seconds(30));
    records.assert_all(80);
    for record in records.of_kind("reading") {
        let n = record.value["values"]["n"].as_f64().unwrap() as u64;
        let whose = if (n / 10).is_multiple_of(2) { "left" } else { "right" };
        assert_eq!(record.value["device"], whose, "{record:?}");
    }
}

#[test]
fn a_tenth_of_the_bytes_corrupted() {
    need!(Kafka);
    let kafka = Kafka::shared();
    let scratch = Scratch::new("serial");
    let port = scratch.join("noisy");
    let mut device = Pty::plug(&port);
    let mut gateway = Gateway::start(&config(kafka, "noisy").serial("meter", &port, ""));
    gateway.wait_status(seconds(20), "the port to be open", |status| status.link("serial.meter") == "up");

    const LINES: u64 = 3_000;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let clean: Vec<String> = (0..LINES).map(line).collect();
    let mut bytes = clean.concat().into_bytes();
    for byte in &mut bytes {
        if random.f64() < 0.1 {
            *byte = random.u8(..);
        }
    }
    // What noise has spared must arrive; what it has changed may be anything.
    let spared: BTreeSet<u64> = bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|found| {
            let n = clean.iter().position(|line| line.trim_end().as_bytes() == found)?;
            Some(n as u64)
        })
        .collect();
    assert!(device.send(&bytes, seconds(20)), "the gateway reads no more");
    // The first of these may be glued to the end of the noise.
    assert!(device.send(b"\n", seconds(10)));
    send(&mut device, LINES..LINES + 200);

    let wanted: BTreeSet<u64> = spared.into_iter().chain(LINES..LINES + 200).collect();
    let status = gateway.wait_status(seconds(30), "the clean lines at the end", |status| {
        status.count("readings_total", "serial.meter") >= wanted.len() as u64 && status.backlog() == 0
    });
    let records = consume(kafka, &["noisy"], wanted.len(), seconds(30));
    let arrived = records.numbers();
    let missing: Vec<_> = wanted.difference(&arrived).collect();
    assert!(missing.is_empty(), "clean lines that did not arrive: {missing:?}");
    let outcomes = ["rejected_total", "frames_ignored_total", "frames_too_long_total", "noise_bytes_total"];
    assert!(outcomes.iter().any(|name| status.sum(name) > 0), "noise is counted: {:#}", status.0);
    assert_eq!(status.link("serial.meter"), "up");
}

#[test]
fn a_line_that_never_ends() {
    need!(Kafka);
    let kafka = Kafka::shared();
    let scratch = Scratch::new("serial");
    let (endless_port, other_port) = (scratch.join("endless"), scratch.join("other"));
    let mut endless = Pty::plug(&endless_port);
    let mut other = Pty::plug(&other_port);
    let config = config(kafka, "endless").serial("endless", &endless_port, "").serial("other", &other_port, "");
    let mut gateway = Gateway::start(&config);
    gateway.wait_status(seconds(20), "both ports to be open", |status| status.links("serial.") == ["up", "up"]);

    // What a first message takes has been taken: buffers, a segment, the connection to Kafka.
    send(&mut other, 0..10);
    gateway.wait_delivered(10, seconds(30));
    let before_kb = gateway.process().memory_kb("VmHWM");
    let chunk = vec![b'x'; 64 * 1024];
    for n in 0..256 {
        assert!(endless.send(&chunk, seconds(20)), "the gateway reads no more after {n} chunks of 64 KiB");
        if n % 16 == 0 {
            send(&mut other, 10 + n / 16..11 + n / 16);
        }
    }
    let grown_kb = gateway.process().memory_kb("VmHWM").saturating_sub(before_kb);
    assert!(grown_kb < 8 * 1024, "16 MiB without a line end made it grow by {grown_kb} kB");
    assert!(endless.send(b"\n", seconds(10)));
    send(&mut endless, 26..28);
    // After a first good line it is no longer noise from before, but a line that is too long.
    assert!(endless.send(&chunk, seconds(20)) && endless.send(b"\n", seconds(10)));
    send(&mut endless, 28..30);

    let status = gateway.wait_delivered(30, seconds(30));
    consume(kafka, &["endless"], 30, seconds(30)).assert_all(30);
    assert!(status.count("noise_bytes_total", "serial.endless") >= 256 * 64 * 1024, "{:#}", status.0);
    assert!(status.count("frames_too_long_total", "serial.endless") > 0, "{:#}", status.0);
}

/// Frames between two marks, their exclusive or in two digits before the end.
const FRAMED: &str = r#"
id = "test/framed"
description = "Columns between two marks"
source = "this test"
transport = "serial"
format = "delimited"

[framing]
kind = "markers"
start = [0x02]
end = [0x03]
payload = [1, -3]

[checksum]
kind = "xor8"
encoding = "hex"
at = -3

[serial]
frame_bytes_max = 64

[[field]]
path = "1"
name = "n"

[[field]]
path = "2"
name = "temperature"
"#;

fn framed(n: u64) -> Vec<u8> {
    let text = format!("\u{2}{n},21.5");
    let check = text.bytes().fold(0, |all, byte| all ^ byte);
    format!("{text}{check:02X}\u{3}").into_bytes()
}

#[test]
fn frames_with_a_wrong_checksum_are_dead_lettered_and_hide_no_good_one() {
    need!(Kafka);
    let kafka = Kafka::shared();
    let scratch = Scratch::new("serial");
    let (port, profiles) = (scratch.join("framed"), scratch.join("profiles"));
    std::fs::create_dir(&profiles).unwrap();
    std::fs::write(profiles.join("framed.toml"), FRAMED).unwrap();
    let mut device = Pty::plug(&port);
    let section = format!("[serial.meter]\nport = {port:?}\nprofile = \"test/framed\"");
    let config = config(kafka, "framed").gateway(&format!("profiles_dir = {profiles:?}")).section(&section);
    let mut gateway = Gateway::start(&config);
    gateway.wait_status(seconds(20), "the port to be open", |status| status.link("serial.meter") == "up");
    std::thread::sleep(seconds(1));

    let mut damaged = framed(7);
    damaged[1] ^= 1;
    for n in 0..100 {
        // The start of a frame that never came, a damaged one, and a good one.
        let more: &[u8] = if n % 20 == 0 { &damaged } else { &[] };
        let bytes = [&[0x02][..], &framed(n), b"~~", more].concat();
        assert!(device.send(&bytes, seconds(10)), "the gateway reads no more at frame {n}");
    }
    gateway.wait_status(seconds(20), "all frames", |status| status.count("readings_total", "serial.meter") == 100);
    let status = gateway.wait_delivered(100, seconds(30));
    // Each start alone makes a damaged frame together with what follows.
    assert_eq!(status.count("checksum_errors_total", "serial.meter"), 105, "{:#}", status.0);
    assert!(status.count("rejected_total", "bad_checksum") == 105, "{:#}", status.0);
    consume(kafka, &["framed"], 100, seconds(30)).assert_all(100);
    let letters = consume(kafka, &["framed.dead"], 20, seconds(30));
    for letter in &letters.0 {
        assert_eq!((&letter.value["reason_code"], &letter.value["stage"]), (&"bad_checksum".into(), &"source".into()));
    }
}
