use std::path::Path;

use super::*;

const BASE: &str = r#"
[gateway]
id = "g"
data_dir = "/data"
labels = { site = "home" }
[mqtt.home]
url = "mqtt://127.0.0.1"
profiles = ["tasmota", "generic/json"]
user = "u"
password = { env = "PASSWORD" }
[serial.meter]
port = "/dev/ttyUSB0"
profile = "generic/json-line"
[modbus.line]
port = "/dev/ttyUSB7"
[[modbus.line.unit]]
address = 1
profile = "eastron/sdm120"
[[window]]
every = "1m"
[outbox]
max_size = "1GiB"
[kafka]
brokers = ["k:9092"]
topics = { reading = "r" }
"#;

fn config(text: &str, password: &str) -> Config {
    let env = |name: &str| (name == "PASSWORD").then(|| password.to_owned());
    Config::parse(text, Path::new("/etc/tidegate/gateway.toml"), &env).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn check(from: &str, to: &str, told: &str) {
    assert!(BASE.contains(from), "{from}");
    let (old, new) = (config(BASE, "p"), config(&BASE.replacen(from, to, 1), "p"));
    let changes = Changes::between(&old, &new, &|_| false);
    let restart = if changes.restart.is_empty() { String::new() } else { format!(" !{}", changes.restart.join(" !")) };
    assert_eq!(format!("{changes}{restart}"), told, "{from} -> {to}");
    assert!(!changes.is_empty());
}

#[test]
fn each_change_is_found_and_nothing_else() {
    check("[outbox]", "[[filter]]\nmeasurement = \"x\"\naction = \"drop\"\n[outbox]", "rules changed");
    check("every = \"1m\"", "every = \"2m\"", "rules changed");
    check("[outbox]", "[limits]\nseries = 7\n[outbox]", "rules changed");
    check("mqtt://127.0.0.1", "mqtt://127.0.0.2", "mqtt.home changed");
    check("\"tasmota\", ", "", "mqtt.home changed");
    check("[mqtt.home]", "[mqtt.house]", "mqtt.house added, mqtt.home removed");
    check("ttyUSB0", "ttyUSB1", "serial.meter changed");
    check("[[window]]", "[serial.b]\nport = \"/dev/b\"\nprofile = \"generic/json-line\"\n[[window]]", "serial.b added");
    check("address = 1", "address = 2", "modbus.line changed");
    check("[serial.meter]\nport = \"/dev/ttyUSB0\"\nprofile = \"generic/json-line\"\n", "", "serial.meter removed");
    check("k:9092", "l:9092", "the way to Kafka changed");
    check("reading = \"r\"", "reading = \"s\"", "the way to Kafka changed");
    check("site = \"home\"", "site = \"away\"", "the way to Kafka changed");
    // A part of it may be in flight.
    check("1GiB", "2GiB", "[outbox] changed, the way to Kafka changed");
    check("max_size", "when_full = \"block\"\nmax_size", "[outbox] changed");
    check("user = \"u\"", "user = \"u\"\nin_flight_max = 9000", "mqtt.home changed, [outbox] changed");
    check("labels", "stop_timeout = \"1s\"\nlabels", "[gateway] changed");
    check("id = \"g\"", "id = \"h\"", "nothing has changed !gateway.id");
    check("/data", "/other", "nothing has changed !gateway.data_dir");
    check("labels", "clock = \"ntp\"\nlabels", "nothing has changed !gateway.clock");
    check("max_size", "persist = \"when-behind\"\nmax_size", "[outbox] changed !outbox.persist");
}

#[test]
fn the_order_of_sources_and_comments_change_nothing() {
    let sources = BASE.find("[mqtt.home]").unwrap();
    let (serial, rest) = (BASE.find("[serial.meter]").unwrap(), BASE.find("[[window]]").unwrap());
    let turned =
        [&BASE[..sources], "# A comment.\n", &BASE[serial..rest], &BASE[sources..serial], &BASE[rest..]].concat();
    let changes = Changes::between(&config(BASE, "p"), &config(&turned, "p"), &|_| false);
    assert!(changes.is_empty(), "{changes}");
    assert_eq!(changes.to_string(), "nothing has changed");
}

#[test]
fn a_secret_and_a_profile_concern_those_who_use_them() {
    let old = config(BASE, "p");
    assert_eq!(Changes::between(&old, &config(BASE, "q"), &|_| false).to_string(), "mqtt.home changed");
    let changed = |changed: &'static str| Changes::between(&old, &old, &|id| id == changed).to_string();
    assert_eq!(changed("tasmota"), "mqtt.home changed");
    assert_eq!(changed("generic/json-line"), "serial.meter changed");
    assert_eq!(changed("eastron/sdm120"), "modbus.line changed");
    assert_eq!(changed("zigbee2mqtt"), "nothing has changed");
}

#[test]
fn a_renewed_certificate_is_a_change() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    let text = BASE.replacen("brokers", &format!("tls = {{ ca = {:?} }}\nbrokers", ca.display()), 1);
    std::fs::write(&ca, "old").unwrap();
    let old = config(&text, "p");
    assert!(Changes::between(&old, &config(&text, "p"), &|_| false).is_empty());
    std::fs::write(&ca, "new").unwrap();
    assert_eq!(Changes::between(&old, &config(&text, "p"), &|_| false).to_string(), "the way to Kafka changed");
}
