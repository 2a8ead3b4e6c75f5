//! Modbus devices: pymodbus answers on a pseudo-terminal, over a wire that is good or bad.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::gateway::TIDEGATE;
use support::parts::{python, script};
use support::{Config, Gateway, Kafka, Process, Scratch, consume, need, seconds};

/// Devices of `modbus.py` and the wire to them.
struct Bus {
    process: Option<Process>,
    scratch: Scratch,
}

impl Bus {
    fn new() -> Self {
        let mut bus = Self { process: None, scratch: Scratch::new("modbus") };
        bus.faults("clean");
        bus.plug();
        bus
    }

    fn port(&self) -> PathBuf {
        self.scratch.join("usb-1a86_USB_Serial-if00-port0")
    }

    fn faults(&self, fault: &str) {
        // Renamed into place: the wire never reads half a word.
        let new = self.scratch.write("new", fault);
        std::fs::rename(new, self.scratch.join("faults")).unwrap();
    }

    fn plug(&mut self) {
        let seed = fastrand::u32(..).to_string();
        println!("seed {seed}");
        let (port, faults) = (self.port(), self.scratch.join("faults"));
        let script = script("modbus.py");
        let arguments = [script.to_str().unwrap(), port.to_str().unwrap(), faults.to_str().unwrap(), &seed];
        let mut process = Process::spawn("modbus.py", &python(), arguments, &[], &self.scratch.join("log"));
        process.wait_for_output("ready", seconds(30));
        self.process = Some(process);
    }

    fn pull(&mut self) {
        self.process = None;
        std::fs::remove_file(self.port()).unwrap();
    }

    /// `[modbus.line]` with these devices.
    fn section(&self, lines: &str, units: &[(u8, &str)]) -> String {
        let mut text = format!(
            "[modbus.line]\nport = \"{}\"\nbaud = 9600\nevery = \"200ms\"\ntimeout = \"200ms\"\n{lines}\n",
            self.port().display()
        );
        for (address, profile) in units {
            text += &format!("[[modbus.line.unit]]\naddress = {address}\nprofile = \"{profile}\"\n");
        }
        text
    }
}

const SDM120: (u8, &str) = (1, "eastron/sdm120");
const PZEM: (u8, &str) = (2, "peacefair/pzem-004t-v3");

fn sdm120() -> Value {
    json!({
        "voltage": 230.2, "current": 1.5, "power": -345.25, "apparent_power": 352.3, "reactive_power": 12.25,
        "power_factor": -0.98, "frequency": 50.02, "energy": 1234.567, "returned_energy": 4.75, "energy_absolute": 1247.0,
        "reactive_energy": 61.5, "returned_reactive_energy": 0.25, "reactive_energy_absolute": 61.75,
    })
}

fn pzem() -> Value {
    json!({
        "voltage": 230.2, "current": 8.69, "power": 2000.5, "energy": 1.234, "frequency": 50.0, "power_factor": 1.0,
        "alarm": false,
    })
}

fn print(scratch: &Scratch, config: &Config) -> Process {
    let path = scratch.write("gateway.toml", &config.text(scratch.path()));
    let arguments = ["run", "--print", "--config", path.to_str().unwrap()];
    Process::spawn("tidegate run --print", Path::new(TIDEGATE), arguments, &[], &scratch.join("print.log"))
}

fn records(printing: &Process) -> Vec<Value> {
    printing.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn of<'a>(records: &'a [Value], kind: &str, device: &str) -> Vec<&'a Value> {
    records.iter().filter(|record| record["kind"] == kind && record["device"] == device).collect()
}

/// Numbers, flags and texts of a reading.
fn values(record: &Value) -> serde_json::Map<String, Value> {
    let parts = ["values", "flags", "texts"].into_iter().filter_map(|key| record[key].as_object());
    parts.flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Values as equal as what a person writes down.
#[track_caller]
fn assert_values(record: &Value, expected: &Value) {
    let found = values(record);
    let expected = expected.as_object().unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{record}");
    for (name, value) in expected {
        let same = match (value.as_f64(), found[name].as_f64()) {
            (Some(expected), Some(found)) => (expected - found).abs() <= expected.abs() * 1e-9,
            _ => *value == found[name],
        };
        assert!(same, "{name}: expected {value}, found {} in {record}", found[name]);
    }
}

/// A profile with a value of every kind, as unit 3 has them.
const EVERY_KIND: &str = r#"
id = "test/every-kind"
description = "x"
source = "x"
transport = "modbus"
format = "registers"
[registers]
values.u16 = "holding 0 u16"
values.i16 = "holding 1 i16"
values.u32 = "holding 2 u32"
values.i32 = "holding 4 i32 little"
values.u64 = "holding 0x0006 u64"
values.i64 = "holding 10 i64 little"
values.f32 = "holding 14 f32 little"
values.f64 = "holding 16 f64"
values.text = "holding 20 text8"
values.bcd = "holding 24 bcd4"
values.swapped = "holding 24 u16 swapped"
values.coil_3 = "coil 3"
values.coil_19 = "coil 19"
values.discrete_7 = "discrete 7"
[[field]]
path = "*"
name = "{1}"
type = "any"
"#;

#[test]
fn every_kind_of_value_on_one_line_with_a_device_that_is_dead() {
    need!(Pymodbus);
    let bus = Bus::new();
    bus.scratch.write("profiles/every-kind.toml", EVERY_KIND);
    let units = [SDM120, PZEM, (3, "test/every-kind"), (9, "eastron/sdm630"), (254, "senseair/s8")];
    let config = Config::new("127.0.0.1:1").section(&bus.section("", &units));
    let mut printing = print(&bus.scratch, &config);
    printing.wait_for_output("\"state\":\"offline\"", seconds(30));
    let before = records(&printing).len();
    std::thread::sleep(seconds(4));
    let records = records(&printing);
    for (device, expected) in [
        ("line-1", sdm120()),
        ("line-2", pzem()),
        (
            "line-3",
            json!({
                "u16": 65535.0, "i16": -2.0, "u32": 4e9, "i32": -70_000.0, "u64": "9007199254740993", "i64": -5.0,
                "f32": 3.25, "f64": -1.5e-9, "text": "AB-12345", "bcd": 12_345_678.0, "swapped": 13_330.0,
                "coil_3": true, "coil_19": false, "discrete_7": true,
            }),
        ),
        ("line-254", json!({ "co2": 400.0, "error": 0.0 })),
    ] {
        let readings = of(&records, "reading", device);
        readings.iter().for_each(|reading| assert_values(reading, &expected));
        let states = of(&records, "state", device);
        assert!(matches!(states.as_slice(), [state] if state["state"] == "online"), "{device}: {states:?}");
        // The dead one takes a timeout of 200 ms a round at first and ever less: nobody waits for it for long.
        let after = of(&records[before..], "reading", device).len();
        assert!(after >= 6, "{device}: {after} readings in 4 s");
    }
    assert!(of(&records, "reading", "line-9").is_empty());
    let states = of(&records, "state", "line-9");
    assert!(matches!(states.as_slice(), [state] if state["state"] == "offline"), "{states:?}");
    assert!(printing.terminate(seconds(10)).success());
}

#[test]
fn noise_losses_and_damage_cost_time_and_never_a_wrong_value() {
    need!(Pymodbus, Kafka);
    let kafka = Kafka::shared();
    let bus = Bus::new();
    let topics = "topics = { reading = \"modbus\", dead_letter = \"modbus.dead\" }";
    let config = Config::new("")
        .kafka_section(&format!("brokers = [\"{}\"]\n{topics}", kafka.address()))
        .section(&bus.section("", &[SDM120, PZEM]));
    let mut gateway = Gateway::start(&config);
    gateway.wait_status(seconds(30), "readings", |status| status.count("readings_total", "modbus.line") >= 4);
    for fault in ["noise", "drop", "cut", "corrupt", "any"] {
        bus.faults(fault);
        std::thread::sleep(seconds(4));
        bus.faults("clean");
        let read = gateway.status().count("readings_total", "modbus.line");
        gateway.wait_status(seconds(30), &format!("readings after {fault}"), |status| {
            status.count("readings_total", "modbus.line") >= read + 4 && status.link_detail("modbus.line").is_empty()
        });
    }
    let status = gateway.status();
    for unit in ["modbus.line#1", "modbus.line#2"] {
        assert!(status.count("unit_timeouts_total", unit) > 0, "{:#}", status.0);
        assert!(status.count("unit_damaged_total", unit) > 0, "{:#}", status.0);
    }
    assert!(status.count("noise_bytes_total", "modbus.line") > 100, "{:#}", status.0);
    assert_eq!(status.sum("rejected_total"), 0, "{:#}", status.0);

    // All the while nothing was read that is not so; a round of which a part was lost gives the rest.
    let total = status.count("readings_total", "modbus.line");
    gateway.wait_delivered(total, seconds(30));
    let records = consume(kafka, &["modbus"], total as usize, seconds(60));
    let (mut whole, mut parts) = (0, 0);
    for record in records.of_kind("reading") {
        let mut expected = if record.value["device"] == "line-1" { sdm120() } else { pzem() };
        let found = values(&record.value);
        let known = expected.as_object_mut().unwrap();
        if found.len() == known.len() {
            whole += 1;
        } else {
            parts += 1;
        }
        known.retain(|name, _| found.contains_key(name));
        assert_values(&record.value, &expected);
    }
    println!("{whole} whole readings, {parts} of which a part was lost");
    assert!(whole >= 20, "{whole}");
}

#[test]
fn a_meter_of_three_phases_is_asked_for_no_more_than_it_gives_at_once() {
    need!(Pymodbus, Kafka);
    let kafka = Kafka::shared();
    let bus = Bus::new();
    let config = Config::new("")
        .kafka_section(&format!("brokers = [\"{}\"]\ntopics = {{ reading = \"three-phases\" }}", kafka.address()))
        .section(&bus.section("", &[(5, "eastron/sdm630")]));
    let mut gateway = Gateway::start(&config);
    let status = gateway.wait_delivered(3, seconds(30));
    assert_eq!(status.sum("unit_exceptions_total"), 0, "{:#}", status.0);
    let records = consume(kafka, &["three-phases"], 3, seconds(30));
    let readings = records.of_kind("reading");
    assert!(readings.len() >= 2);
    for reading in readings {
        let found = values(&reading.value);
        assert_eq!(found.len(), 47, "{found:?}");
        // What stands where, as the protocol's table has it.
        for (name, address) in [
            ("voltage_l1", 0x00),
            ("current_l3", 0x0a),
            ("power_factor_l2", 0x20),
            ("power", 0x34),
            ("frequency", 0x46),
            ("energy", 0x48),
            ("power_demand_max", 0x56),
            ("voltage_l3_l1", 0xcc),
            ("current_n", 0xe0),
            ("voltage_thd_l3", 0xee),
            ("current_thd_l1", 0xf0),
            ("energy_absolute", 0x156),
            ("energy_l1", 0x15a),
            ("returned_energy_l3", 0x164),
        ] {
            assert_eq!(found[name], f64::from(address) + 0.5, "{name}");
        }
    }
}

#[test]
fn a_line_that_falls_silent_and_one_that_is_pulled_tell_it_by_states() {
    need!(Pymodbus);
    let mut bus = Bus::new();
    let config = Config::new("127.0.0.1:1").section(&bus.section("retries = 0", &[SDM120, PZEM, (4, "senseair/s8")]));
    let mut gateway = Gateway::start(&config);
    let states = |status: &support::Status| status.count("device_states_total", "modbus.line");
    // The one that refuses everything is there all the same; what it refused is a dead letter.
    let status = gateway.wait_status(seconds(30), "all three online", |status| {
        states(status) == 3 && status.count("rejected_total", "malformed") > 0
    });
    assert!(status.count("unit_exceptions_total", "modbus.line#4") > 0, "{:#}", status.0);
    gateway.wait_status(seconds(10), "the refusal to be told", |status| {
        status.link_detail("modbus.line").contains("unit 4 (line-4) refuses 1 of input from")
            && status.link_detail("modbus.line").contains("exception 2 (illegal data address)")
    });

    bus.faults("mute");
    gateway.wait_status(seconds(30), "all three offline", |status| states(status) == 6);
    let status = gateway.status();
    assert_eq!(status.link("modbus.line"), "up", "the port is there");
    assert!(status.link_detail("modbus.line").contains("unit 1 (line-1) does not answer"), "{:#}", status.0);
    bus.faults("clean");
    gateway.wait_status(seconds(60), "all three online again", |status| states(status) == 9);

    bus.pull();
    gateway.wait_status(seconds(30), "the port to be down, and all offline", |status| {
        status.link("modbus.line") == "down" && states(status) == 12
    });
    bus.plug();
    gateway.wait_status(seconds(60), "all online at once when it is back", |status| {
        status.link("modbus.line") == "up" && states(status) == 15
    });
}

#[test]
fn a_driver_that_cannot_switch_a_transceiver_is_named() {
    need!(Pymodbus);
    let bus = Bus::new();
    let config = Config::new("127.0.0.1:1").section(&bus.section("rs485 = true", &[SDM120]));
    let mut gateway = Gateway::start(&config);
    let status =
        gateway.wait_status(seconds(20), "the port to be refused", |status| status.link("modbus.line") == "down");
    let detail = status.link_detail("modbus.line");
    assert!(detail.contains("its driver does not switch an RS-485 transceiver"), "{detail}");
    // And without it the same line works, after a reload.
    let without = Config::new("127.0.0.1:1").section(&bus.section("", &[SDM120]));
    assert!(gateway.reload_with(&without).contains("modbus.line changed"));
    gateway.wait_status(seconds(20), "readings", |status| status.count("readings_total", "modbus.line") > 0);
}
