//! What a megabyte a second of serial input costs: two pseudo-terminals, each fed with half of it, the release binary, and
//! no Kafka that could be reached, so all of it goes from the port to the outbox on the disk. `cargo bench --bench serial`.
//!
//!     cargo bench --bench serial -- [--seconds N] [--bytes-per-second N] [--binary FILE]
//!
//! One port has lines of JSON, the other the frames of a particulate sensor, several values each. Prints the CPU of the
//! process a second and a frame, in all and by thread: tokio's workers read, frame and decode. FILE is another build.

// A benchmark is run by hand: an error is shown, and that is all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../end-to-end/cost.rs"]
mod cost;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cost::Cost;
use support::gateway::TIDEGATE;
use support::{Config, Gateway, Pty, Scratch};
use tidegate::clock;

/// Each port is fed this often, as its device's UART gives its bytes to an adapter.
const STEP: Duration = Duration::from_millis(5);
/// Until everything has been used once.
const WARM_UP: Duration = Duration::from_secs(3);
/// A gateway that takes nothing for so long does not work.
const PATIENCE: Duration = Duration::from_secs(10);

struct Arguments {
    seconds: u64,
    /// Of both ports.
    bytes_per_second: usize,
    binary: PathBuf,
}

fn main() {
    let mut arguments = Arguments { seconds: 20, bytes_per_second: 1_000_000, binary: TIDEGATE.into() };
    let mut given = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = given.next() {
        // `cargo test --benches` wants no measurement.
        if name == "--test" {
            return;
        }
        let value = given.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--seconds" => arguments.seconds = value.parse().expect("--seconds takes a number"),
            "--bytes-per-second" => arguments.bytes_per_second = value.parse().expect("it takes a number"),
            "--binary" => arguments.binary = value.into(),
            _ => panic!("unknown argument {name}; known: --seconds, --bytes-per-second, --binary"),
        }
    }
    let each = arguments.bytes_per_second / 2;
    let (json, dust) = (("json", "generic/json-line", line as Make), ("dust", "plantower/pms5003", particles as Make));
    println!(
        "{each} B/s on each port for {} s: lines of JSON of about {} bytes, frames of {} bytes with a checksum",
        arguments.seconds,
        line(0).len(),
        particles(0).len()
    );
    println!("{:<24} {:>10} {:>10} {:>10} {:>12}", "", "frames/s", "bytes/s", "% of core", "ns a frame");
    run("both", &arguments, &[json, dust], each);
    run("lines of JSON", &arguments, &[json], each);
    run("binary frames", &arguments, &[dust], each);
}

/// Makes the nth frame of a device.
type Make = fn(u64) -> Vec<u8>;

/// Four values, three of which change at different paces.
fn line(number: u64) -> Vec<u8> {
    format!(
        "{{\"device\":\"bench\",\"temperature\":{}.{},\"humidity\":{}.2,\"pressure\":1013.{}}}\n",
        20 + number / 50 % 9,
        10 + number * 7 % 89,
        50 + number / 9 % 9,
        10 + number / 3 % 89
    )
    .into_bytes()
}

/// A frame of 32 bytes with thirteen numbers.
fn particles(number: u64) -> Vec<u8> {
    let mut bytes = vec![0x42, 0x4d, 0, 28];
    bytes.extend((0..13_u64).flat_map(|at| ((number * (at + 3) / 5 % 97 + at) as u16).to_be_bytes()));
    let sum: u16 = bytes.iter().map(|byte| u16::from(*byte)).sum();
    bytes.extend(sum.to_be_bytes());
    bytes
}

fn run(what: &str, arguments: &Arguments, ports: &[(&str, &str, Make)], bytes_per_second: usize) {
    let scratch = Scratch::new("serial");
    // Nobody listens there.
    let mut config = Config::new("127.0.0.1:9");
    let mut devices = Vec::new();
    for (name, profile, make) in ports {
        let link = scratch.path().join(name);
        devices.push(Device { port: Pty::plug(&link), make: *make, sent: 0, made: 0 });
        config = config.section(&format!("[serial.{name}]\nport = \"{}\"\nprofile = \"{profile}\"\n", link.display()));
    }
    let mut gateway = Gateway::stopped(&config);
    gateway.restart_as(&arguments.binary, &["run", "--config", gateway.config_path().to_str().unwrap()]);
    gateway.wait_started();
    feed(&mut devices, bytes_per_second, WARM_UP);
    let process = gateway.process().id();
    let frames_before = gateway.status().sum("frames_received_total");
    let (before, threads_before) = (Cost::of(process), threads(process));
    let start = clock::instant();
    let bytes = feed(&mut devices, bytes_per_second, Duration::from_secs(arguments.seconds));
    let took = start.elapsed();
    let (cost, threads_after) = (Cost::of(process).since(&before), threads(process));
    let status = gateway.status();
    let frames = status.sum("frames_received_total") - frames_before;
    // What is thrown away costs little.
    let lost = ["frames_dropped_total", "rejected_total", "frames_too_long_total"].map(|name| status.sum(name));
    assert_eq!(lost, [0; 3], "frames were dropped, refused, or too long");

    let percent = |cpu: Duration| cpu.as_secs_f64() / took.as_secs_f64() * 100.0;
    let each = |cpu: Duration| cpu.as_nanos() as f64 / frames as f64;
    println!(
        "{what:<24} {:>10.0} {:>10.0} {:>10.1} {:>12.0}   {:.1} bytes written a frame",
        frames as f64 / took.as_secs_f64(),
        bytes as f64 / took.as_secs_f64(),
        percent(cost.cpu),
        each(cost.cpu),
        cost.written_bytes as f64 / frames as f64,
    );
    for (name, cpu) in threads_after {
        let cpu = cpu.saturating_sub(threads_before.get(&name).copied().unwrap_or_default());
        if percent(cpu) >= 0.05 {
            println!("  {name:<44} {:>10.1} {:>12.0}", percent(cpu), each(cpu));
        }
    }
}

struct Device {
    port: Pty,
    make: Make,
    sent: usize,
    made: u64,
}

/// Sends so many bytes a second to each device, whole frames; how many in all.
fn feed(devices: &mut [Device], bytes_per_second: usize, time: Duration) -> usize {
    let start = clock::instant();
    devices.iter_mut().for_each(|device| device.sent = 0);
    let mut bytes = Vec::new();
    while start.elapsed() < time {
        let due = (start.elapsed().as_secs_f64() * bytes_per_second as f64) as usize;
        for device in &mut *devices {
            bytes.clear();
            while device.sent + bytes.len() < due {
                bytes.extend((device.make)(device.made));
                device.made += 1;
            }
            assert!(device.port.send(&bytes, PATIENCE), "the gateway takes nothing");
            device.sent += bytes.len();
        }
        std::thread::sleep(STEP);
    }
    devices.iter().map(|device| device.sent).sum()
}

/// The CPU time of each thread, those of the same name together.
fn threads(process: u32) -> BTreeMap<String, Duration> {
    let mut all: BTreeMap<String, Duration> = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let nanos = read("schedstat").split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0);
        *all.entry(read("comm").trim().to_owned()).or_default() += Duration::from_nanos(nanos);
    }
    all
}
