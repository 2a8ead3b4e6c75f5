//! `tidegate replay`, as a person runs it: twenty recorded lines through a deadband and a window, and recordings that are
//! broken, empty, endless or somebody else's.

#![allow(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::clock;

const RECORDED: &str = include_str!("replay/recorded.ndjson");

const RULES: &str = r#"
[gateway]
id = "home-01"
[mqtt.home]
url = "mqtt://broker"
profiles = ["tasmota"]
[[filter]]
measurement = "temperature"
deadband = { absolute = 0.2, at_least_every = "15m" }
[[filter]]
device = "attic"
action = "drop"
[[window]]
measurement = "power"
every = "1m"
lateness = "10s"
forward_raw = false
"#;

const NO_RULES: &str = "[gateway]\nid = \"home-01\"\n[mqtt.home]\nurl = \"mqtt://broker\"\nprofiles = [\"tasmota\"]\n";

#[derive(Debug)]
struct Replayed {
    code: i32,
    out: String,
    err: String,
}

impl Replayed {
    /// The records on stdout.
    fn records(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The records of one kind.
    fn of(&self, kind: &str) -> Vec<Value> {
        self.records().into_iter().filter(|record| record["kind"] == kind).collect()
    }

    /// Panics unless the summary has this line.
    #[track_caller]
    fn says(&self, number: u64, what: &str) {
        let line = format!("{number:>12}  {what}");
        assert!(self.err.lines().any(|said| said == line), "no line {line:?} in\n{}", self.err);
    }
}

/// Replays `recording` from a file.
fn replay(rules: &str, recording: &[u8], arguments: &[&str]) -> Replayed {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("day.ndjson");
    std::fs::write(&file, recording).unwrap();
    let mut replayed = run(rules, file.to_str().unwrap(), &[], arguments);
    replayed.err = replayed.err.replace(file.to_str().unwrap(), "day.ndjson");
    replayed
}

/// Replays `file` with `input` on stdin.
fn run(rules: &str, file: &str, input: &[u8], arguments: &[&str]) -> Replayed {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("gateway.toml");
    std::fs::write(&config, rules).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["replay", file, "--config", config.to_str().unwrap()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A child that ends early does not read it all.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    Replayed {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn twenty_recorded_lines_become_what_would_have_been_sent() {
    let replayed = replay(RULES, RECORDED.as_bytes(), &[]);
    assert_eq!(replayed.code, 0, "{}", replayed.err);
    let readings: Vec<Value> = replayed.of("reading");
    let sent: Vec<Value> = readings
        .iter()
        .map(|reading| json!([reading["device"], reading["time"], reading["values"], reading["mark"]]))
        .collect();
    let expected = [
        json!(["kitchen", "2026-05-04T12:00:05.000Z", { "temperature": 21.0 }, null]),
        json!(["kitchen", "2026-05-04T12:01:35.000Z", { "temperature": 21.3 }, null]),
        json!(["desk", "2026-05-04T12:00:50.000Z", { "power": 999.0 }, "late"]),
        json!(["kitchen", "2026-05-04T12:02:35.000Z", { "temperature": 20.9 }, null]),
        json!(["kitchen", "2026-05-04T12:02:55.000Z", { "humidity": 40.0 }, null]),
        json!(["desk", "2026-05-04T12:30:00.000Z", { "power": 888.0 }, "future"]),
    ];
    assert_eq!(sent, expected);
    let aggregates: Vec<Value> = replayed
        .of("aggregate")
        .iter()
        .map(|of| {
            json!([
                of["id"],
                of["revision"],
                of["count"],
                of["sum"],
                of["min"],
                of["max"],
                of["mean"],
                of["first"],
                of["last"]
            ])
        })
        .collect();
    let expected = [
        json!(["home-01/desk/power/power-1m/2026-05-04T12:00:00.000Z", 1, 3, 156.0, 50.0, 54.0, 52.0, 50.0, 54.0]),
        json!([
            "home-01/desk/power/power-1m/2026-05-04T12:01:00.000Z",
            1,
            3,
            183.5,
            60.0,
            62.5,
            183.5 / 3.0,
            60.0,
            62.5
        ]),
    ];
    assert_eq!(aggregates, expected);
    assert_eq!(replayed.of("state").len(), 1);
    for (number, what) in [
        (18, "readings in, 18 values"),
        (1, "dead-letter records left out: rules have nothing to do with them"),
        (3, "values filtered: temperature-deadband"),
        (0, "values filtered: attic-drop"),
        (9, "values only in aggregates: power-1m"),
        (2, "aggregates: power-1m"),
        (1, "values late: power-1m"),
        (1, "values from the future: power-1m"),
        (1, "windows open at the end, 3 values in them: --close closes them"),
        (6, "readings out, 6 values"),
        (1, "device states out"),
        (9, "records out of 19: 47.4 %"),
    ] {
        replayed.says(number, what);
    }
    let bytes: u64 = replayed.out.len() as u64;
    assert!(replayed.err.contains(&format!("{bytes:>12}  bytes of JSON out of ")), "{}", replayed.err);
}

#[test]
fn what_is_open_at_the_end_is_closed_when_asked() {
    let replayed = replay(RULES, RECORDED.as_bytes(), &["--close"]);
    let last = replayed.of("aggregate").pop().unwrap();
    assert_eq!((&last["start"], &last["sum"]), (&json!("2026-05-04T12:02:00.000Z"), &json!(213.0)));
    replayed.says(1, "windows open at the end, 3 values in them: closed now");
    replayed.says(3, "aggregates: power-1m");
}

#[test]
fn a_device_that_fell_silent_closes_its_windows_as_received_time_passes() {
    let later = RECORDED.lines().find(|line| line.contains("humidity")).unwrap().replace("T12:02:55", "T12:20:00");
    let replayed = replay(RULES, format!("{RECORDED}{later}\n").as_bytes(), &[]);
    let last = replayed.of("aggregate").pop().unwrap();
    assert_eq!((&last["start"], &last["count"]), (&json!("2026-05-04T12:02:00.000Z"), &json!(3)));
    // The last counted reading was received at 12:02:40.400, and window and lateness are 70 s.
    let closed = last["received"].as_str().unwrap();
    assert!(("2026-05-04T12:03:50.400Z"..="2026-05-04T12:03:52.000Z").contains(&closed), "{closed}");
    assert!(!replayed.err.contains("open at the end"), "{}", replayed.err);
}

#[test]
fn without_rules_everything_goes_through_as_it_was() {
    let replayed = replay(NO_RULES, RECORDED.as_bytes(), &[]);
    assert_eq!(replayed.code, 0);
    assert!(replayed.err.contains("no [[filter]] and no [[window]]: nothing will change"), "{}", replayed.err);
    let mut expected: Vec<Value> = RECORDED.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    expected.retain(|record: &Value| record["kind"] != "dead-letter");
    for (number, record) in expected.iter_mut().enumerate() {
        (record["stream"], record["seq"]) = ("replay.raw".into(), (number + 1).into());
    }
    // A number such as 50 is written as the double that it is.
    assert_eq!(replayed.records().len(), expected.len());
    for (found, expected) in replayed.records().iter().zip(&expected) {
        for key in ["kind", "device", "profile", "time", "received", "time_quality", "seq", "stream", "units", "state"]
        {
            assert_eq!(found[key], expected[key], "{key} of {found}");
        }
        for (name, value) in expected["values"].as_object().into_iter().flatten() {
            assert_eq!(found["values"][name].as_f64(), value.as_f64(), "{found}");
        }
    }
    replayed.says(19, "records out of 19: 100.0 %");
}

#[test]
fn what_was_replayed_can_be_replayed_again() {
    let once = replay(NO_RULES, RECORDED.as_bytes(), &[]);
    let twice = replay(NO_RULES, once.out.as_bytes(), &[]);
    assert_eq!(once.out, twice.out);
}

#[test]
fn a_line_that_is_no_record_is_told_and_the_rest_goes_on() {
    let mut recording: Vec<u8> = b"\n   \nhello\n".to_vec();
    recording.extend_from_slice(RECORDED.as_bytes());
    recording.extend_from_slice(b"{\"kind\":\"reading\",\"device\":7}\n\xff\xfe\n{\"kind\":\"reading\"");
    let replayed = replay(NO_RULES, &recording, &[]);
    assert_eq!(replayed.code, 1);
    for line in [
        "day.ndjson:3: not JSON: expected value at byte 1",
        "day.ndjson:24: expected a string as `device`, found the number 7",
        "day.ndjson:25: not JSON: expected value at byte 1",
        "day.ndjson:26: not JSON: EOF while parsing an object at byte 17",
    ] {
        assert!(replayed.err.lines().any(|said| said == line), "no line {line:?} in\n{}", replayed.err);
    }
    replayed.says(4, "lines left out: they are no records, see above");
    replayed.says(18, "readings in, 18 values");
}

#[test]
fn a_file_of_something_else_is_answered_in_bounded_length() {
    let replayed = replay(NO_RULES, "time;value\n".repeat(10_000).as_bytes(), &[]);
    assert_eq!(replayed.code, 1);
    assert!(replayed.err.lines().count() < 40, "{}", replayed.err);
    assert!(replayed.err.contains("day.ndjson: the rest is only counted"));
    replayed.says(10_000, "lines left out: they are no records, see above");
}

#[test]
fn a_line_without_an_end_costs_no_more_than_its_limit() {
    let mut recording = vec![b'x'; 9 << 20];
    recording.push(b'\n');
    recording.extend_from_slice(RECORDED.as_bytes());
    let replayed = replay(NO_RULES, &recording, &[]);
    assert_eq!(replayed.code, 1);
    let found = (9 << 20) + 1;
    let line = format!("day.ndjson:1: expected a line of at most 4194304 bytes, found {found}");
    assert!(replayed.err.lines().any(|said| said == line), "{}", replayed.err);
    replayed.says(18, "readings in, 18 values");
}

#[test]
fn a_recording_can_come_through_a_pipe() {
    let (piped, read) = (run(RULES, "-", RECORDED.as_bytes(), &[]), replay(RULES, RECORDED.as_bytes(), &[]));
    assert_eq!((piped.code, &piped.out, &piped.err), (0, &read.out, &read.err));
    assert_eq!(run(RULES, "-", b"", &[]).code, 0);
}

#[test]
fn a_table_is_for_a_person() {
    let replayed = replay(RULES, RECORDED.as_bytes(), &["--format", "table"]);
    assert!(replayed.out.contains("2026-05-04 12:00:05Z  kitchen        temperature=21 Cel\n"), "{}", replayed.out);
    assert!(replayed.out.contains("desk           power=999 W  (late)\n"), "{}", replayed.out);
    assert!(
        replayed.out.contains("[power-1m] power W  count=3  mean=52  min=50  max=54  first=50  last=54\n"),
        "{}",
        replayed.out
    );
    // What it would be in Kafka is what is weighed, however it is shown.
    let ndjson = replay(RULES, RECORDED.as_bytes(), &[]);
    assert_eq!(replayed.err, ndjson.err);
}

#[test]
fn lines_in_another_order_than_they_were_received_are_told() {
    let reversed: String = RECORDED.lines().rev().map(|line| format!("{line}\n")).collect();
    let replayed = replay(NO_RULES, reversed.as_bytes(), &[]);
    replayed.says(18, "received before one above them: time stood still there; sort the file by `received`");
}

#[test]
fn records_of_two_gateways_are_told() {
    let other = RECORDED.replace("home-01", "home-02");
    let replayed = replay(NO_RULES, format!("{RECORDED}{other}").as_bytes(), &[]);
    replayed.says(19, "records of another gateway than the first: devices of one name were taken for one device");
}

#[test]
fn rules_alone_are_a_configuration_to_replay_with() {
    let rules = "[[filter]]\nmeasurement = \"power\"\naction = \"drop\"";
    assert_eq!(replay(rules, RECORDED.as_bytes(), &[]).code, 0);
    let secrets = format!("{NO_RULES}user = \"u\"\npassword = {{ file = \"not-here\" }}\n{rules}");
    assert_eq!(replay(&secrets, RECORDED.as_bytes(), &[]).code, 0);
}

#[test]
fn a_silence_of_years_is_over_in_a_moment() {
    let later = RECORDED.lines().last().unwrap().replace("\"received\":\"2026", "\"received\":\"2126");
    let began = clock::instant();
    let replayed = replay(RULES, format!("{RECORDED}{later}\n").as_bytes(), &["--close"]);
    assert_eq!(replayed.code, 0);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn it_goes_at_the_speed_that_it_is_told() {
    let began = clock::instant();
    let replayed = replay(RULES, RECORDED.as_bytes(), &["--speed", "400"]);
    // 175.6 s at 400 times their speed.
    assert!(began.elapsed() >= Duration::from_millis(430), "{:?}", began.elapsed());
    assert_eq!(replayed.out, replay(RULES, RECORDED.as_bytes(), &[]).out);
    for wrong in ["0", "-1", "fast", "inf", "nan"] {
        let refused = replay(RULES, RECORDED.as_bytes(), &[&format!("--speed={wrong}")]);
        assert!(refused.code == 2 && refused.err.contains("expected a number of at least 0.001"), "{}", refused.err);
    }
}

#[test]
fn what_cannot_be_read_is_said_before_anything_is_done() {
    for (file, words) in [
        ("/nonexistent.ndjson", "expected a readable recording: No such file or directory"),
        ("/", "expected a readable recording: is a directory"),
    ] {
        let refused = run(RULES, file, b"", &[]);
        assert!(refused.code == 2 && refused.err.contains(words), "{}", refused.err);
    }
    let refused = run("[gatway]", "-", b"", &[]);
    assert!(refused.code == 2 && refused.err.contains("did you mean `gateway`?"), "{}", refused.err);
}

#[test]
fn alarms_are_shown_as_such_and_told_of() {
    let rules = format!(
        "{NO_RULES}[[filter]]\nname = \"cold\"\nmeasurement = \"temperature\"\nalarm = {{ below = 21 }}\n\
         [[filter]]\nname = \"never\"\nmeasurement = \"smoke\"\nalarm = {{ equals = true }}\n\
         [[window]]\nname = \"load\"\nmeasurement = \"power\"\nevery = \"1m\"\nlateness = \"10s\"\n\
         alarm = {{ field = \"max\", above = 60 }}\n"
    );
    let replayed = replay(&rules, RECORDED.as_bytes(), &["--format", "ndjson"]);
    assert_eq!(replayed.code, 0, "{}", replayed.err);
    let alarms: Vec<Value> = replayed.records().into_iter().filter(|record| record["lane"] == "alarm").collect();
    let below: Vec<&Value> = alarms.iter().filter(|alarm| alarm["kind"] == "reading").collect();
    assert!(!below.is_empty() && below.iter().all(|alarm| alarm["alarm"] == "cold"), "{alarms:?}");
    assert!(below.iter().all(|alarm| alarm["values"]["temperature"].as_f64().unwrap() < 21.0), "{alarms:?}");
    let loads: Vec<&Value> = alarms.iter().filter(|alarm| alarm["kind"] == "aggregate").collect();
    assert!(!loads.is_empty() && loads.iter().all(|alarm| alarm["alarm"] == "load"), "{alarms:?}");
    assert!(loads.iter().all(|alarm| alarm["max"].as_f64().unwrap() > 60.0), "{alarms:?}");
    // A stream of their own, and nothing twice.
    for (alarm, seq) in alarms.iter().zip(1..) {
        assert_eq!((&alarm["stream"], &alarm["seq"]), (&json!("replay.alarm"), &json!(seq)));
    }
    replayed.says(below.len() as u64, "alarms: cold");
    replayed.says(0, "alarms: never");
    replayed.says(loads.len() as u64, "alarms: load");
    replayed.says(alarms.len() as u64, "readings and aggregates of these as alarms, ahead of all others");
    let plain = replay(NO_RULES, RECORDED.as_bytes(), &["--format", "ndjson"]);
    assert_eq!(replayed.of("reading").len(), plain.of("reading").len());
    let table = replay(&rules, RECORDED.as_bytes(), &["--format", "table"]).out;
    let told = |rule: &str| table.lines().filter(|line| line.ends_with(&format!("  (ALARM {rule})"))).count();
    assert_eq!((told("cold"), told("load")), (below.len(), loads.len()), "{table}");
}
