//! Filters and windows: what they are called, and that they are read as they are written.

use std::path::Path;
use std::time::Duration;

use tidegate::config::{
    AggregateField, Alarm, Deadband, Filter, FilterAction, Loaded, Rules, Select, ValueRange, Window, WindowAlarm,
};
use tidegate::reading::Value;

use super::{MINIMAL, ROOT, load};

/// The rules of a file, each by the name that it has or that was made for it.
fn rule_names(rules: &str) -> Vec<String> {
    let loaded = load(&MINIMAL.replace("[kafka]", &format!("{rules}\n[kafka]")), Path::new(""));
    let rules = loaded.unwrap_or_else(|errors| panic!("{errors}")).config.rules;
    let filters = rules.filters.into_iter().map(|filter| filter.name);
    filters.chain(rules.windows.into_iter().map(|window| window.name)).collect()
}

#[test]
fn a_rule_without_a_name_is_called_after_what_it_says() {
    for (rule, name) in [
        ("[[window]]\nmeasurement = [\"power\", \"power_returned\"]\nevery = \"60s\"", "power+power_returned-1m"),
        ("[[window]]\nevery = \"1h30m\"", "all-1h30m"),
        (
            "[[window]]\ndevice = \"lab/*\"\nmeasurement = [\"*\", \"!energy\"]\nevery = \"1d\"",
            "lab__-all+not_energy-1d",
        ),
        ("[[window]]\nmeasurement = [\"a\", \"b\", \"c\", \"d\"]\nevery = \"1m\"", "a+3-1m"),
        ("[[filter]]\nmeasurement = \"t\"\nrange = { min = 1 }\ndeadband = { percent = 1 }", "t-range-deadband"),
        ("[[filter]]\nmin_interval = \"10s\"", "all-every-10s"),
        ("[[filter]]\nmeasurement = \"smoke\"\nalarm = { equals = true }", "smoke-alarm"),
        ("[[window]]\nmeasurement = \"p\"\nevery = \"1m\"\nalarm = true", "p-1m"),
        ("[[filter]]\ndevice = \"test-?\"\naction = \"drop\"", "test-_-drop"),
        ("[[filter]]\nname = \"Mine.1\"\ndevice = \"x\"\naction = \"keep\"", "Mine.1"),
    ] {
        assert_eq!(rule_names(rule), [name], "{rule}");
    }
}

#[test]
fn the_rules_of_the_readme_are_short_and_right() {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let block =
        readme.split("<!-- rules that a test loads -->\n```toml\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(block.lines().count() <= 20, "{block}");
    assert_eq!(
        rule_names(block),
        ["temperature-deadband", "test-_-drop", "cold-store-_-temperature-alarm", "power+power_returned-1m"]
    );
}

#[test]
fn the_order_of_rules_changes_no_name() {
    let one = "[[window]]\nmeasurement = \"a\"\nevery = \"1m\"\n";
    let two = "[[window]]\nmeasurement = \"a\"\nevery = \"1h\"\n";
    let (mut forth, back) = (rule_names(&format!("{one}{two}")), rule_names(&format!("{two}{one}")));
    forth.reverse();
    assert_eq!(forth, back);
}

#[test]
fn rules_are_read_as_they_are_written() {
    let text = r#"
[[filter]]
device = "!test-*"
measurement = ["temperature", "humidity"]
range = { min = -40, max = 1_000.5 }
deadband = { absolute = 0.2, percent = 1e1, at_least_every = "15m" }
min_interval = "10s"
[[filter]]
measurement = "lux"
range = { max = "${QOS}" }
action = "keep"
[[window]]
name = "days"
measurement = "energy*"
every = "24h"
time_zone = "Europe/Amsterdam"
lateness = "0s"
update_within = "1h"
forward_raw = false
[limits]
series = 7
open_windows = 8
state = "1MiB"
future = "1m"
"#;
    let rules = load(&MINIMAL.replace("[kafka]", &format!("{text}[kafka]")), Path::new("")).unwrap().config.rules;
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let first = Filter {
        name: "not_test-_-temperature+humidity-range-deadband-every-10s".to_owned(),
        select: Select { devices: texts(&["!test-*"]), measurements: texts(&["temperature", "humidity"]) },
        action: FilterAction::Test,
        range: Some(ValueRange { min: Some(-40.0), max: Some(1000.5) }),
        deadband: Some(Deadband {
            absolute: Some(0.2),
            percent: Some(10.0),
            at_least_every: Some(Duration::from_secs(900)),
        }),
        min_interval: Some(Duration::from_secs(10)),
        alarm: None,
    };
    let second = Filter {
        name: "lux-keep".to_owned(),
        select: Select { devices: Vec::new(), measurements: texts(&["lux"]) },
        action: FilterAction::Keep,
        range: Some(ValueRange { min: None, max: Some(0.0) }),
        deadband: None,
        min_interval: None,
        alarm: None,
    };
    assert_eq!(rules.filters, [first, second]);
    let window = Window {
        name: "days".to_owned(),
        select: Select { devices: Vec::new(), measurements: texts(&["energy*"]) },
        every: Duration::from_secs(86_400),
        time_zone: Some("Europe/Amsterdam".to_owned()),
        lateness: Duration::ZERO,
        update_within: Some(Duration::from_secs(3_600)),
        forward_raw: false,
        alarm: None,
    };
    assert_eq!(rules.windows, [window]);
    assert_eq!((rules.series_max, rules.open_windows_max, rules.state_bytes_max), (7, 8, 1 << 20));
    assert_eq!(rules.future_max, Duration::from_secs(60));
}

#[test]
fn alarms_are_read_as_they_are_written_and_printed_so_that_they_can_be_read_again() {
    let number = |number: f64| Value::Number(number);
    let filters = [
        ("true", Alarm::default()),
        ("{ below = 0, above = 80 }", Alarm { below: Some(0.0), above: Some(80.0), ..Alarm::default() }),
        ("{ equals = true }", Alarm { equals: vec![Value::Flag(true)], ..Alarm::default() }),
        (
            "{ equals = [\"FAULT\", false, 3, -0.5], at_most_every = \"1m\" }",
            Alarm {
                equals: vec![Value::Text("FAULT".into()), Value::Flag(false), number(3.0), number(-0.5)],
                at_most_every: Some(Duration::from_secs(60)),
                ..Alarm::default()
            },
        ),
    ];
    let load = |rules: &str| load(&MINIMAL.replace("[kafka]", &format!("{rules}\n[kafka]")), Path::new(""));
    for (text, alarm) in filters {
        let loaded = load(&format!("[[filter]]\nalarm = {text}")).unwrap_or_else(|errors| panic!("{text}: {errors}"));
        assert_eq!(loaded.config.rules.filters[0].alarm, Some(alarm), "{text}");
        assert_eq!(printed_again(&loaded).filters, loaded.config.rules.filters, "{text}");
    }
    let field = |field, below, above| WindowAlarm::Field { field, below, above };
    let windows = [
        ("true", WindowAlarm::All),
        ("{ field = \"max\", above = 5 }", field(AggregateField::Max, None, Some(5.0))),
        ("{ field = \"count\", below = 50.5, above = 1e300 }", field(AggregateField::Count, Some(50.5), Some(1e300))),
    ];
    for (text, alarm) in windows {
        let rule = format!("[[window]]\nevery = \"1m\"\nalarm = {text}");
        let loaded = load(&rule).unwrap_or_else(|errors| panic!("{text}: {errors}"));
        assert_eq!(loaded.config.rules.windows[0].alarm, Some(alarm), "{text}");
        assert_eq!(printed_again(&loaded).windows, loaded.config.rules.windows, "{text}");
    }
}

fn printed_again(loaded: &Loaded) -> Rules {
    let text = loaded.print();
    load(&text, Path::new("")).unwrap_or_else(|errors| panic!("{errors}\n{text}")).config.rules
}
