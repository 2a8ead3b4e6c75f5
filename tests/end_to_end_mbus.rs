//! Meters on an M-Bus: a script answers on a pseudo-terminal, over a wire that is good or bad, what pyMeterBus reads as it is
//! meant.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use serde_json::{Value, json};
use support::bus::{Bus, assert_values, of, printed, values};
use support::{Config, Gateway, Kafka, consume, need, seconds, wait_until};

/// `[mbus.line]` with these meters, each named by its address or its number.
fn section(bus: &Bus, lines: &str, meters: &[&str]) -> String {
    let mut text = format!("[mbus.line]\nport = \"{}\"\n{lines}\n", bus.port().display());
    for meter in meters {
        text += &format!("[[mbus.line.unit]]\n{meter}\nprofile = \"mbus/meter\"\n");
    }
    text
}

const HEAT: &str = "address = 5";
const WATER: &str = "address = 7";
const ELECTRICITY: &str = "address = 8";
const WITHOUT_RESET: &str = "address = 9";
const GAS: &str = "id = \"19550001\"";

/// What `mbus.py` has its meters say.
fn known(device: &str) -> Value {
    match device {
        "line-5" => json!({
            "status": 0.0, "heat": 44.442, "volume": 6789.12, "power": 5700.0, "volume_flow": 0.42, "flow_temperature": 68.25,
            "return_temperature": 41.2, "temperature_difference": -0.18, "heat_storage_1": 39.6,
        }),
        "line-7" => json!({ "status": 0.0, "water": 123.456, "volume_flow": -0.012 }),
        "line-8" => json!({
            "status": 0.0, "energy": 987_654.3, "energy_tariff_1": 600_000.0, "power": -1500.0, "voltage": 230.3, "current": 2.2,
        }),
        "line-9" => json!({ "status": 0.0, "water": 7.0 }),
        "line-19550001" => json!({ "status": 0.0, "gas": 12_345.67 }),
        other => panic!("{other}"),
    }
}

#[test]
fn meters_of_all_kinds_on_one_line_with_two_that_are_dead() {
    need!(Pymeterbus);
    let bus = Bus::new("mbus.py");
    let meters = [HEAT, "address = 33", WATER, ELECTRICITY, WITHOUT_RESET, GAS, "id = \"99999999\""];
    let config = Config::new("127.0.0.1:1").section(&section(&bus, "retries = 0\nevery = \"1s\"", &meters));
    let mut printing = bus.print(&config);
    for dead in ["line-33", "line-99999999"] {
        wait_until(seconds(40), &format!("{dead} to be offline"), || {
            of(&printed(&printing), "state", dead).iter().any(|state| state["state"] == "offline").then_some(())
        });
    }
    let before = printed(&printing).len();
    wait_until(seconds(60), "five more readings of each that is there", || {
        let records = printed(&printing);
        let more = |device: &str| of(&records[before..], "reading", device).len() >= 5;
        ["line-5", "line-7", "line-8", "line-9", "line-19550001"].into_iter().all(more).then_some(())
    });
    let records = printed(&printing);
    for device in ["line-5", "line-7", "line-8", "line-9", "line-19550001"] {
        of(&records, "reading", device).iter().for_each(|reading| assert_values(reading, &known(device)));
        let states = of(&records, "state", device);
        assert!(matches!(states.as_slice(), [state] if state["state"] == "online"), "{device}: {states:?}");
    }
    for dead in ["line-33", "line-99999999"] {
        assert!(of(&records, "reading", dead).is_empty());
        assert_eq!(of(&records, "state", dead).len(), 1);
    }
    assert!(printing.terminate(seconds(10)).success());
}

#[test]
fn noise_losses_and_damage_cost_time_and_never_a_wrong_value() {
    need!(Pymeterbus, Kafka);
    let kafka = Kafka::shared();
    let bus = Bus::new("mbus.py");
    let topics = "topics = { reading = \"mbus\", dead_letter = \"mbus.dead\" }";
    let config = Config::new("")
        .kafka_section(&format!("brokers = [\"{}\"]\n{topics}", kafka.address()))
        .section(&section(&bus, "every = \"200ms\"", &[HEAT, ELECTRICITY, GAS]));
    let mut gateway = Gateway::start(&config);
    gateway.wait_status(seconds(30), "readings", |status| status.count("readings_total", "mbus.line") >= 6);
    for fault in ["noise", "drop", "cut", "corrupt", "any"] {
        bus.faults(fault);
        std::thread::sleep(seconds(4));
        bus.faults("clean");
        let read = gateway.status().count("readings_total", "mbus.line");
        gateway.wait_status(seconds(60), &format!("readings after {fault}"), |status| {
            status.count("readings_total", "mbus.line") >= read + 6 && status.link_detail("mbus.line").is_empty()
        });
    }
    let status = gateway.status();
    for unit in ["mbus.line#5", "mbus.line#8", "mbus.line#19550001"] {
        assert!(status.count("unit_timeouts_total", unit) > 0, "{:#}", status.0);
        assert!(status.count("unit_damaged_total", unit) > 0, "{:#}", status.0);
    }
    assert!(status.count("noise_bytes_total", "mbus.line") > 100, "{:#}", status.0);
    assert_eq!(status.sum("rejected_total"), 0, "{:#}", status.0);

    // All the while nothing was read that is not so; a round of which a telegram was lost gives those before it.
    let total = status.count("readings_total", "mbus.line");
    gateway.wait_delivered(total, seconds(30));
    let records = consume(kafka, &["mbus"], total as usize, seconds(60));
    let (mut whole, mut parts) = (0, 0);
    for record in records.of_kind("reading") {
        let mut expected = known(record.value["device"].as_str().unwrap());
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
    println!("{whole} whole readings, {parts} of which a telegram was lost");
    assert!(whole >= 20, "{whole}");
}

#[test]
fn two_meters_with_one_address_are_told_and_a_line_that_is_pulled_tells_it_by_states() {
    need!(Pymeterbus);
    let mut bus = Bus::new("mbus.py");
    let config = Config::new("127.0.0.1:1").section(&section(&bus, "retries = 1\nevery = \"200ms\"", &[HEAT, WATER]));
    let mut gateway = Gateway::start(&config);
    let states = |status: &support::Status| status.count("device_states_total", "mbus.line");
    gateway.wait_status(seconds(30), "both online", |status| states(status) == 2);
    bus.faults("collide");
    let status = gateway.wait_status(seconds(30), "the collision to be told", |status| {
        status
            .link_detail("mbus.line")
            .contains("unit 5 (line-5) did not answer for its data: what was heard is damaged")
    });
    assert!(status.link_detail("mbus.line").contains("a second device with its address"), "{:#}", status.0);
    bus.faults("clean");
    gateway.wait_status(seconds(90), "no trouble", |status| status.link_detail("mbus.line").is_empty());

    bus.pull();
    let before = states(&gateway.status());
    gateway.wait_status(seconds(30), "the port to be down, and both offline", |status| {
        status.link("mbus.line") == "down" && states(status) >= before + 2
    });
    bus.plug();
    gateway.wait_status(seconds(60), "both online when it is back", |status| {
        status.link("mbus.line") == "up" && states(status) >= before + 4
    });
}
