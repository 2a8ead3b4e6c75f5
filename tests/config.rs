//! Configurations that are right, wrong, and hostile. The wrong ones stand with the exact text of their errors in
//! `config/bad.txt`; `UPDATE=1 cargo test --test config` writes the texts anew, for review.

#![allow(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use tidegate::cli::check;
use tidegate::config::{Compression, Config, Errors, Loaded, MqttVersion, Purpose, Retained, WhenFull};

#[path = "config/rules.rs"]
mod rules;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const SECRET: &str = "hunter2";
const KEY: &str = "6b1f0c2d3e4a59687786a5b4c3d2e1f0112233445566778899aabbccddeeff01";

/// The environment of the tests.
fn env(name: &str) -> Option<String> {
    match name {
        "SITE" => Some("home".to_owned()),
        "QOS" => Some("0".to_owned()),
        "EMPTY" => Some(String::new()),
        "PASSWORD" => Some(SECRET.to_owned()),
        _ => None,
    }
}

fn load(text: &str, base: &Path) -> Result<Loaded, Errors> {
    Loaded::parse(text, &base.join("gateway.toml"), Purpose::Run, &env)
}

/// A directory with secrets and certificates.
fn files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["mqtt-password", "kafka-password", "ca.pem", "client.pem", "client.key"] {
        std::fs::write(dir.path().join(name), format!("{SECRET}\n")).unwrap();
    }
    for name in ["outbox-key", "old-outbox-key"] {
        std::fs::write(dir.path().join(name), format!("{KEY}\n")).unwrap();
    }
    std::fs::write(dir.path().join("empty"), "\n").unwrap();
    std::fs::write(dir.path().join("two-lines"), "hunter2\nhunter3\n").unwrap();
    std::fs::write(dir.path().join("binary"), b"\xff\xfe").unwrap();
    dir
}

const MINIMAL: &str = r#"
[gateway]
id = "g"
[mqtt.home]
url = "mqtt://broker"
profiles = ["tasmota"]
[kafka]
brokers = ["kafka"]
"#;

/// The text of the errors; the directory of the test, which is another each time, is shown as `DIR`.
fn errors_of(text: &str, dir: &Path) -> String {
    match load(text, dir) {
        Ok(_) => "no error".to_owned(),
        Err(errors) => errors
            .to_string()
            .replace(&format!("{}/", dir.display()), "DIR/")
            .replace("DIR/gateway.toml", "gateway.toml"),
    }
}

#[test]
fn each_bad_file_gives_exactly_the_errors_expected() {
    let path = PathBuf::from(ROOT).join("tests/config/bad.txt");
    let cases = std::fs::read_to_string(&path).unwrap();
    let dir = files();
    let (mut rewritten, mut wrong) = (String::new(), Vec::new());
    for case in cases.split("=== ").skip(1) {
        let (name, rest) = case.split_once('\n').unwrap();
        let (text, expected) = rest.split_once("---\n").unwrap();
        let found = errors_of(text, dir.path());
        assert!(!found.contains(SECRET) && !found.contains(&KEY[..32]), "{name}: the error shows a secret:\n{found}");
        if found != expected.trim_end() {
            wrong.push(format!("{name}: expected\n{expected}\nfound\n{found}\n"));
        }
        rewritten.push_str(&format!("=== {name}\n{text}---\n{found}\n\n"));
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, rewritten).unwrap();
    } else {
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn the_least_configuration_has_the_documented_defaults() {
    let Config { gateway, mqtt, serial, modbus, rules, outbox, kafka } =
        load(MINIMAL, Path::new("/etc/tidegate")).unwrap().config;
    assert_eq!(gateway.data_dir, Path::new("/var/lib/tidegate"));
    assert_eq!(gateway.stop_timeout, Duration::from_secs(20));
    let mqtt = &mqtt[0];
    assert_eq!((mqtt.name.as_str(), mqtt.host.as_str(), mqtt.port), ("mqtt.home", "broker", 1883));
    assert_eq!((mqtt.version, mqtt.qos, mqtt.in_flight_max), (MqttVersion::V5, 1, 4096));
    assert_eq!((mqtt.retained, mqtt.drop_qos0), (Retained::First, false));
    assert!(mqtt.tls.is_none() && mqtt.password.is_none() && serial.is_empty() && modbus.is_empty());
    assert_eq!((outbox.size_max, outbox.when_full, outbox.segment_bytes), (1 << 30, WhenFull::DropOldest, 4 << 20));
    assert!(rules.filters.is_empty() && rules.windows.is_empty());
    assert_eq!((rules.series_max, rules.open_windows_max, rules.state_bytes_max), (10_000, 50_000, 16 << 20));
    assert_eq!(rules.future_max, Duration::from_secs(300));
    assert_eq!(kafka.brokers, ["kafka:9092"]);
    assert_eq!(kafka.topics.reading, "iot.readings");
    assert_eq!(kafka.compression, Compression::Gzip);
}

#[test]
fn the_id_is_the_hosts_name_unless_set_and_the_data_directory_is_systemds() {
    let text = MINIMAL.replace("id = \"g\"", "");
    let with_state = |name: &str| (name == "STATE_DIRECTORY").then(|| "/srv/state:/srv/other".to_owned());
    let config = Config::parse(&text, Path::new("gateway.toml"), &with_state).unwrap();
    assert!(!config.gateway.id.is_empty());
    assert_eq!(config.gateway.data_dir, Path::new("/srv/state"));
}

#[test]
fn variables_are_replaced_in_strings_and_may_stand_for_numbers() {
    let text = MINIMAL
        .replace("id = \"g\"", "id = \"${SITE}-${UNSET:-01}\"\nlabels = { a = \"$${x} $5\", b = \"${EMPTY:-filled}\" }")
        .replace("[kafka]", "qos = \"${QOS}\"\ndrop_qos0 = \"${UNSET:-true}\"\n[kafka]");
    let config = load(&text, Path::new("")).unwrap().config;
    assert_eq!(config.gateway.id, "home-01");
    assert_eq!(config.gateway.labels["a"], "${x} $5");
    assert_eq!(config.gateway.labels["b"], "filled");
    assert_eq!((config.mqtt[0].qos, config.mqtt[0].drop_qos0), (0, true));
}

#[test]
fn secrets_come_from_systemd_first_then_from_beside_the_file_or_from_the_environment() {
    let (dir, credentials) = (files(), tempfile::tempdir().unwrap());
    std::fs::write(credentials.path().join("mqtt-password"), "from systemd\r\n").unwrap();
    let found = |secret: &str, with_credentials: bool| {
        let text = MINIMAL.replace("[kafka]", &format!("user = \"u\"\npassword = {secret}\n[kafka]"));
        let env = |name: &str| match name {
            "CREDENTIALS_DIRECTORY" if with_credentials => Some(credentials.path().display().to_string()),
            name => env(name),
        };
        let config = Config::parse(&text, &dir.path().join("gateway.toml"), &env).unwrap();
        config.mqtt[0].password.as_ref().unwrap().reveal().to_owned()
    };
    assert_eq!(found(r#"{ file = "mqtt-password" }"#, true), "from systemd");
    assert_eq!(found(r#"{ file = "mqtt-password" }"#, false), SECRET);
    assert_eq!(found(r#"{ file = "./mqtt-password" }"#, true), SECRET);
    assert_eq!(found(r#"{ file = "kafka-password" }"#, true), SECRET);
    assert_eq!(found(r#"{ env = "PASSWORD" }"#, true), SECRET);
}

#[test]
fn a_small_outbox_has_small_segments() {
    let with = |size: &str| {
        load(&MINIMAL.replace("[kafka]", &format!("[outbox]\nmax_size = \"{size}\"\n[kafka]")), Path::new("")).unwrap()
    };
    assert_eq!(with("4MiB").config.outbox.segment_bytes, 512 << 10);
    assert_eq!(with("8MiB").config.outbox.segment_bytes, 1 << 20);
    assert_eq!(with("2GiB").config.outbox.segment_bytes, 4 << 20);
}

#[test]
fn only_showing_readings_needs_no_kafka() {
    let text = MINIMAL.split("[kafka]").next().unwrap();
    let path = Path::new("gateway.toml");
    assert!(Loaded::parse(text, path, Purpose::Run, &env).is_err());
    let shown = Loaded::parse(text, path, Purpose::Show, &env).unwrap();
    assert!(shown.config.kafka.brokers.is_empty());
    assert!(!shown.print().contains("[kafka]"));
}

#[test]
fn replaying_needs_neither_sources_nor_secrets_nor_certificates() {
    let path = Path::new("/nowhere/gateway.toml");
    let only_rules = "[[filter]]\ndevice = \"x\"\naction = \"drop\"";
    assert_eq!(Loaded::parse(only_rules, path, Purpose::Replay, &env).unwrap().config.rules.filters.len(), 1);
    assert!(Loaded::parse(only_rules, path, Purpose::Show, &env).is_err());
    let whole = whole_example().replace("{ file = \"kafka-password\" }", "{ env = \"UNSET\" }");
    assert!(Loaded::parse(&whole, path, Purpose::Show, &env).is_err());
    Loaded::parse(&whole, path, Purpose::Replay, &env).unwrap();
    // What is wrong with them is wrong all the same.
    let secret = MINIMAL.replace("[kafka]", "password = \"hunter2\"\n[kafka]");
    assert!(Loaded::parse(&secret, path, Purpose::Replay, &env).is_err());
}

/// The example file with every setting that it leaves out taken in.
fn whole_example() -> String {
    let example = std::fs::read_to_string(Path::new(ROOT).join("gateway.example.toml")).unwrap();
    let setting = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let lines: Vec<&str> = example.lines().map(|line| if setting(line) { &line[1..] } else { line }).collect();
    lines.join("\n").replace("mqtt://192.168.1.10:1883", "mqtts://192.168.1.10:8883")
}

#[test]
fn the_example_is_valid_as_it_is() {
    Loaded::load(&Path::new(ROOT).join("gateway.example.toml"), Purpose::Run).unwrap();
}

#[test]
fn the_example_documents_every_key() {
    let dir = files();
    let text = whole_example();
    let loaded = load(&text, dir.path()).unwrap_or_else(|errors| panic!("{errors}"));
    let example: toml::Table = text.parse().unwrap();
    let documented = documented(&example, "");
    for key in loaded.vocabulary() {
        // Of a secret the example shows one of the two ways, and its head describes both.
        let secret = key.ends_with("password.env") || (key.starts_with("outbox.encryption.") && key.ends_with(".env"));
        assert!(secret || documented.contains(key), "`{key}` is not in gateway.example.toml");
    }
}

/// All key paths of a table, with `*` for names of the user's.
fn documented(table: &toml::Table, path: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (name, value) in table {
        let name = if ["mqtt", "serial", "modbus", "gateway.labels"].contains(&path) { "*" } else { name };
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let tables: Vec<&toml::Table> = match value {
            toml::Value::Table(table) => vec![table],
            toml::Value::Array(items) => items.iter().filter_map(toml::Value::as_table).collect(),
            _ => Vec::new(),
        };
        for table in tables {
            keys.extend(documented(table, &path));
        }
        keys.insert(path);
    }
    keys
}

#[test]
fn the_defaults_that_the_example_shows_are_the_defaults() {
    // What has no default, or one that depends on something else.
    const NO_DEFAULT: &[&str] = &[
        "client_id =",
        "user =",
        "password =",
        "tls =",
        "time_zone =",
        "names =",
        "labels =",
        "baud =",
        "data_bits =",
        "parity =",
        "stop_bits =",
        "delimiter =",
        "frame_max =",
        "sasl =",
        "url =",
        "device =",
        "range =",
        "min_interval =",
        "update_within =",
        "[outbox.encryption]",
        "key =",
        "previous_keys =",
        "min_free =",
        "max_age_",
        "alarm =",
        "every =",
        "timeout =",
    ];
    let dir = files();
    let example = std::fs::read_to_string(Path::new(ROOT).join("gateway.example.toml")).unwrap();
    let lines = |text: &str| -> Vec<String> {
        let printed = load(text, dir.path()).unwrap().print();
        printed
            .lines()
            .filter(|line| !line.is_empty() && !NO_DEFAULT.iter().any(|key| line.starts_with(key)))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(lines(&example), lines(&whole_example()));
}

#[test]
fn what_is_printed_can_be_loaded_and_gives_the_same_without_secrets() {
    let dir = files();
    let loaded = load(&whole_example(), dir.path()).unwrap();
    let printed = loaded.print();
    assert_eq!(load(&printed, dir.path()).unwrap().print(), printed);
    assert!(printed.contains(r#"password = { file = "mqtt-password" }"#));
    assert!(printed.contains(r#"key = { file = "outbox-key" }"#), "{printed}");
    assert!(printed.contains(r#"previous_keys = [{ file = "old-outbox-key" }]"#), "{printed}");
    assert!(!printed.contains(SECRET) && !printed.contains(KEY));
    assert_eq!(loaded.config.outbox.encryption.key.as_ref().unwrap().reveal()[..3], [0x6b, 0x1f, 0x0c]);
    let debug = format!("{loaded:?} {:?}", loaded.config);
    assert!(!debug.contains(SECRET) && !debug.contains("107, 31, 12"), "{debug}");
    assert_eq!(loaded.config.kafka.sasl.as_ref().unwrap().password.reveal(), SECRET);
}

#[test]
fn a_key_can_be_located_for_other_modules() {
    let loaded = load(MINIMAL, Path::new("")).unwrap();
    let at = |key: &str| loaded.locate(key).map(|place| (place.line, place.column));
    assert_eq!(at("mqtt.home.profiles"), Some((6, 1)));
    assert_eq!(at("mqtt.home.profiles[0]"), Some((6, 13)));
    assert_eq!(at("mqtt.home.profiles[7]"), Some((6, 1)));
    assert_eq!(at("mqtt.home.qos"), Some((4, 7)));
    assert_eq!(at("serial.meter"), None);
    let problem =
        loaded.problem("mqtt.home.profiles[0]", "there is no profile \"tasmota\"", Some("did you mean `x`?".into()));
    assert_eq!(
        loaded.errors(vec![problem]).to_string(),
        "gateway.toml:6:13: mqtt.home.profiles[0]: there is no profile \"tasmota\"\n  \
         6 | profiles = [\"tasmota\"]\n    |             ^^^^^^^^^ did you mean `x`?"
    );
}

#[test]
fn check_ends_with_0_or_2_and_leaves_the_data_directory_alone() {
    let dir = files();
    let path = dir.path().join("gateway.toml");
    let run = |text: &str, print: bool| {
        std::fs::write(&path, text).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check::report(&path, print, |path| Loaded::load(path, Purpose::Run), &mut out, &mut err);
        (format!("{code:?}"), String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    let text = MINIMAL.replace("id = \"g\"", "id = \"g\"\ndata_dir = \"data\"");
    let (code, out, err) = run(&text, true);
    assert_eq!((code, err.as_str()), (format!("{:?}", std::process::ExitCode::SUCCESS), ""));
    assert!(out.starts_with("[gateway]\nid = \"g\"\n"), "{out}");
    assert!(!dir.path().join("data").exists());
    let (code, out, err) = run("[gatway]", false);
    assert_eq!((code, out.as_str()), (format!("{:?}", std::process::ExitCode::from(2)), ""));
    assert!(err.contains("gatway"), "{err}");
    let missing = Loaded::load(&dir.path().join("absent.toml"), Purpose::Run).unwrap_err().to_string();
    assert!(
        missing.contains(
            "absent.toml: no configuration yet: write one to this path; gateway.example.toml explains every key"
        ),
        "{missing}"
    );
    assert_eq!(missing.lines().count(), 1, "{missing}");
    std::fs::write(&path, b"[gateway]\nid = \"\xff\"").unwrap();
    assert!(
        Loaded::load(&path, Purpose::Run)
            .unwrap_err()
            .to_string()
            .ends_with("expected UTF-8, found other bytes on line 2")
    );
    std::fs::write(&path, "#".repeat((1 << 20) + 1)).unwrap();
    assert!(Loaded::load(&path, Purpose::Run).unwrap_err().to_string().ends_with("at most 1 MiB"));
    assert!(Loaded::load(dir.path(), Purpose::Run).is_err());
}

#[test]
fn a_file_full_of_errors_is_answered_in_bounded_length() {
    let many: String = (0..10_000).map(|number| format!("key{number} = 1\n")).collect();
    let text = load(&many, Path::new("")).unwrap_err().to_string();
    assert!(text.lines().count() < 100 && text.contains(" more"), "{text}");
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    for text in [
        "a = ".to_owned() + &"[".repeat(100_000),
        "a = ".to_owned() + &"{a=".repeat(100_000),
        "[".to_owned() + &"a.".repeat(100_000) + "a]",
    ] {
        assert!(load(&text, Path::new("")).is_err());
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,400}") {
        let _ = load(&text, Path::new("")).map_err(|errors| errors.to_string());
    }

    /// Lines of the example in any order, with pieces missing and others put in.
    #[test]
    fn no_damaged_example_panics_or_shows_a_secret(
        cuts in proptest::collection::vec((0_usize..14_000, 0_usize..30, "[\\[\\]{}=\"'.#a-z0-9$ \n\\\\é-]{0,6}"), 1..6),
    ) {
        let dir = files();
        let mut text: Vec<char> = whole_example().replace("{ file = \"mqtt-password\" }", "\"hunter2\"").chars().collect();
        for (at, length, piece) in cuts {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            // The word `password` itself stays: without it nothing says that this is one.
            let cut: String = text[at.saturating_sub(30)..(end + 30).min(text.len())].iter().collect();
            if !cut.contains("hunter2") {
                text.splice(at..end, piece.chars());
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = load(&text, dir.path()) {
            let shown = errors.to_string();
            prop_assert!(!shown.contains(SECRET), "{}", shown);
        }
    }

    #[test]
    fn no_value_of_any_key_panics(key in 0_usize..110, value in "\\PC{0,20}|\"\\PC{0,20}\"|-?[0-9]{1,20}|\"[0-9]{1,12}(ms|s|KiB|GiB)\"") {
        let dir = files();
        let mut lines: Vec<String> = whole_example().lines().filter(|line| line.contains(" = ") && !line.starts_with('#') || line.starts_with('[')).map(str::to_owned).collect();
        let index = key.min(lines.len() - 1);
        if let Some((name, _)) = lines[index].clone().split_once(" = ") {
            lines[index] = format!("{name} = {value}");
        }
        match load(&lines.join("\n"), dir.path()) {
            Ok(loaded) => {
                let printed = loaded.print();
                let again = load(&printed, dir.path());
                prop_assert!(again.is_ok(), "{}\n{}", printed, again.unwrap_err());
                prop_assert_eq!(again.unwrap().print(), printed);
            }
            Err(errors) => prop_assert!(!errors.to_string().is_empty()),
        }
    }
}
