//! Windows against an oracle that nobody here wrote: the same recorded day, aggregated by pandas.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;

use serde_json::Value;
use support::day::{Aggregates, Day, assert_same, expect, numbers};
use support::gateway::tidegate;
use support::{Scratch, need};

const DAY: Day = Day { seed: 20_260_504, devices: 100, step: 60 };

#[test]
fn a_day_aggregated_by_pandas_has_the_same_numbers() {
    need!(Pandas);
    let scratch = Scratch::new("windows");
    let recorded = DAY.recorded();
    let expected = expect(&recorded, 900, 300, Some(300));
    let total = recorded.lines().count() as u64;
    // The day is as the test wants it: enough of everything.
    assert!(total > 140_000 && expected.late > 1_000 && expected.ahead > 1_000, "{total} {expected:?}");
    scratch.write("day.ndjson", &recorded);
    scratch.write(
        "rules.toml",
        "[gateway]\nid = \"test\"\n[mqtt.a]\nurl = \"mqtt://localhost\"\nprofiles = [\"generic/json\"]\n\
         [limits]\nfuture = \"5m\"\n\
         [[window]]\nname = \"quarter\"\nmeasurement = \"power\"\nevery = \"15m\"\nlateness = \"5m\"\nforward_raw = false\n",
    );
    let (day, rules) = (scratch.join("day.ndjson"), scratch.join("rules.toml"));
    let arguments = ["replay", day.to_str().unwrap(), "--config", rules.to_str().unwrap(), "--format", "ndjson"];
    let output = tidegate(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut found, mut marks) = (Aggregates::new(), BTreeMap::<String, u64>::new());
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if record["kind"] == "aggregate" {
            let key = (record["device"].as_str().unwrap().to_owned(), record["start"].as_str().unwrap().to_owned());
            assert_eq!(record["revision"], 1);
            let again = found.insert(key, numbers(&record));
            assert!(again.is_none(), "a window came twice: {record}");
        } else {
            *marks.entry(record["mark"].as_str().unwrap_or("none").to_owned()).or_default() += 1;
        }
    }
    assert_same(&found, &expected.aggregates);
    assert_eq!(marks, BTreeMap::from([("late".into(), expected.late), ("future".into(), expected.ahead)]));
    // No reading is anywhere else.
    let counted: u64 = found.values().map(|numbers| numbers.count).sum();
    assert_eq!(counted + expected.late + expected.ahead + expected.open, total);
}
