//! A recorded day of many meters, and what pandas makes of it (`day.py`).

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::parts::{python, script};

/// Which day: the same arguments give the same day.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Day {
    pub(crate) seed: u64,
    pub(crate) devices: u32,
    /// Seconds between two readings of a device.
    pub(crate) step: u32,
}

/// A window's numbers, in the order of their names here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Numbers {
    pub(crate) count: u64,
    pub(crate) sum: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
    pub(crate) first: f64,
    pub(crate) last: f64,
}

/// By device and start of the window (RFC 3339, as in a record).
pub(crate) type Aggregates = BTreeMap<(String, String), Numbers>;

/// What pandas says.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) aggregates: Aggregates,
    pub(crate) late: u64,
    pub(crate) ahead: u64,
    /// Readings in windows that are not over.
    pub(crate) open: u64,
}

impl Day {
    /// Payloads for `sensors/day`, in the order of arrival.
    pub(crate) fn messages(self) -> String {
        self.run("messages")
    }

    /// The same as `tidegate run --print` would have recorded them.
    pub(crate) fn recorded(self) -> String {
        self.run("recorded")
    }

    fn run(self, command: &str) -> String {
        let arguments = [self.seed.to_string(), self.devices.to_string(), self.step.to_string()];
        run(command, &arguments, "")
    }
}

/// What pandas makes of these lines. Times in seconds; `future` is how far ahead of its arrival a reading may be.
pub(crate) fn expect(lines: &str, window: u32, lateness: u32, future: Option<u32>) -> Expected {
    let arguments: Vec<String> = [Some(window), Some(lateness), future].iter().flatten().map(u32::to_string).collect();
    let found: Value = serde_json::from_str(&run("expect", &arguments, lines)).unwrap();
    let count = |name: &str| found[name].as_u64().unwrap();
    let entry = |aggregate: &Value| {
        let start = aggregate["start"].as_i64().unwrap();
        let start = format!("{:.3}", jiff::Timestamp::from_millisecond(start).unwrap());
        ((aggregate["device"].as_str().unwrap().to_owned(), start), numbers(aggregate))
    };
    Expected {
        aggregates: found["aggregates"].as_array().unwrap().iter().map(entry).collect(),
        late: count("late"),
        ahead: count("ahead"),
        open: count("open"),
    }
}

/// The numbers of an aggregate, ours or that of pandas.
pub(crate) fn numbers(aggregate: &Value) -> Numbers {
    let number = |name: &str| aggregate[name].as_f64().unwrap_or_else(|| panic!("no {name} in {aggregate}"));
    Numbers {
        count: aggregate["count"].as_u64().unwrap(),
        sum: number("sum"),
        min: number("min"),
        max: number("max"),
        mean: number("mean"),
        first: number("first"),
        last: number("last"),
    }
}

/// Panics unless both have the same windows with the same numbers. Sums and means may differ by what the oracle's
/// additions round; all else is equal.
#[track_caller]
pub(crate) fn assert_same(found: &Aggregates, expected: &Aggregates) {
    let missing: Vec<_> = expected.keys().filter(|key| !found.contains_key(*key)).take(5).collect();
    let surplus: Vec<_> = found.keys().filter(|key| !expected.contains_key(*key)).take(5).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "windows missing: {missing:?}; surplus: {surplus:?}");
    for (key, expected) in expected {
        let found = found[key];
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs().max(1.0);
        assert!(close(found.sum, expected.sum) && close(found.mean, expected.mean), "{key:?}: {found:?}, {expected:?}");
        assert_eq!(Numbers { sum: 0.0, mean: 0.0, ..found }, Numbers { sum: 0.0, mean: 0.0, ..*expected }, "{key:?}");
    }
}

fn run(command: &str, arguments: &[String], input: &str) -> String {
    let mut child = Command::new(python())
        .arg(script("day.py"))
        .arg(command)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut stdin, input.as_bytes()));
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "day.py {command} failed");
    String::from_utf8(output.stdout).unwrap()
}
