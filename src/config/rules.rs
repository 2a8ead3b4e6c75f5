//! `[[filter]]`, `[[window]]` and `[limits]`: their keys, defaults and bounds.
//!
//! A rule that names itself nothing is called after what it says, never after its place: the state of a window is kept
//! under its name, and a rule put above another is to change nothing for that one. Where two would be called the same,
//! the author has to decide.

use std::time::Duration;

use super::field::Field;
use super::section::Section;
use super::{
    AggregateField, Alarm, Deadband, Filter, FilterAction, Outbox, Rules, Select, ValueRange, Window, WindowAlarm,
    units, values,
};
use crate::reading::Value;

/// Filters, and windows, that a file may have.
const RULES_MAX: usize = 256;
/// Patterns that one key of one rule may have.
const PATTERNS_MAX: usize = 64;
/// Patterns of a rule that stand in the name made of it; of more only their number does.
const PATTERNS_NAMED_MAX: usize = 3;
const NUMBER: &str = "a finite number";
/// The state takes at most this part of the outbox.
const STATE_SHARE: u64 = 4;
const DAY: Duration = secs(86_400);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// All rules of the file.
pub(super) fn rules(root: &Section<'_>) -> Rules {
    let filters: Vec<_> = tables(root, "filter").into_iter().map(|at| (filter(&at), at)).collect();
    let windows: Vec<_> = tables(root, "window").into_iter().map(|at| (window(&at), at)).collect();
    let names = filters.iter().map(|(filter, at)| (&filter.name, at));
    unique(names.chain(windows.iter().map(|(window, at)| (&window.name, at))));
    let limits = root.section("limits");
    let rules = Rules {
        filters: filters.into_iter().map(|(filter, _)| filter).collect(),
        windows: windows.into_iter().map(|(window, _)| window).collect(),
        series_max: limits.integer("series", 1..=1_000_000_u32).map_or(10_000, |max| max as usize),
        open_windows_max: limits.integer("open_windows", 1..=5_000_000_u32).map_or(50_000, |max| max as usize),
        state_bytes_max: limits.size_in_memory("state", 64 << 10..=1 << 30).unwrap_or(16 << 20),
        future_max: limits.duration("future", secs(1)..=DAY).unwrap_or(secs(300)),
    };
    limits.finish();
    rules
}

/// The state is kept on disk as well, within what the outbox may take.
pub(super) fn fit(rules: &mut Rules, outbox: &Outbox, root: &Section<'_>) {
    let most = usize::try_from(outbox.size_max / STATE_SHARE).unwrap_or(usize::MAX);
    if rules.state_bytes_max <= most {
        return;
    }
    if root.section("limits").has("state") {
        let message =
            format!("expected at most a quarter of outbox.max_size, which is {}", units::format_size(most as u64));
        root.section("limits").problem_with("state", message);
    }
    rules.state_bytes_max = most;
}

fn tables<'a>(root: &Section<'a>, key: &'static str) -> Vec<Section<'a>> {
    let tables = root.tables(key);
    if tables.len() > RULES_MAX {
        root.problem_with(key, format!("expected at most {RULES_MAX} tables [[{key}]]; there are {}", tables.len()));
    }
    tables
}

/// What is wrong between rules: two of one name. An empty name is one that could not be made out.
fn unique<'a, 'b: 'a>(rules: impl Iterator<Item = (&'a String, &'a Section<'b>)>) {
    let mut taken: Vec<(&String, usize)> = Vec::new();
    for (name, at) in rules.filter(|(name, _)| !name.is_empty()) {
        match taken.iter().find(|(other, _)| *other == name) {
            Some((_, line)) if at.has("name") => {
                let message =
                    format!("`{name}` is the name of the rule on line {line} already; each has one of its own");
                at.problem_with("name", message);
            }
            Some((_, line)) => {
                let message = format!(
                    "missing: `{name}`, made of what this rule says, is the name of the one on line {line} already"
                );
                at.problem_at("name", message, Some("give it a `name` of its own".to_owned()));
            }
            None => taken.push((name, at.line())),
        }
    }
}

/// `[[filter]]`
fn filter(section: &Section<'_>) -> Filter {
    let name = section.checked("name", values::rule_name);
    let select = select(section);
    let choices = [("keep", FilterAction::Keep), ("drop", FilterAction::Drop)];
    let action = section.choice("action", &choices).unwrap_or(FilterAction::Test);
    let range = section.get("range").and_then(|field| range(&field));
    let min_interval = section.duration("min_interval", Duration::from_millis(1)..=7 * DAY);
    let deadband = section.get("deadband").and_then(|field| deadband(&field.section(), min_interval));
    let alarm = section.get("alarm").and_then(|field| alarm(&field));
    if section.has("alarm") {
        for key in ["action", "range", "deadband", "min_interval"] {
            if section.has(key) {
                let message =
                    format!("expected `{key}` only without `alarm`: one filter keeps, drops, tests or raises alarms");
                section.problem_key(key, message, Some("write two filters".to_owned()));
            }
        }
    } else if section.has("action") {
        for key in ["deadband", "min_interval"] {
            if section.has(key) {
                let message = format!("expected `{key}` only without `action`: one filter keeps, drops or tests");
                section.problem_key(key, message, Some("write two filters".to_owned()));
            }
        }
        if !["device", "measurement", "range"].iter().any(|key| section.has(key)) {
            let message = "expected `device`, `measurement` or `range` with it: this is about every value".to_owned();
            section.problem_key("action", message, None);
        }
    } else if !["range", "deadband", "min_interval"].iter().any(|key| section.has(key)) {
        let message =
            "expected what it is to do: `action`, `range`, `deadband`, `min_interval` or `alarm`, found none of them";
        section.problem_here(message.to_owned());
    }
    section.finish();
    let does = match action {
        FilterAction::Keep => "keep".to_owned(),
        FilterAction::Drop => "drop".to_owned(),
        FilterAction::Test if alarm.is_some() => "alarm".to_owned(),
        FilterAction::Test => {
            let interval = min_interval.map(|interval| format!("every-{}", units::format_duration(interval)));
            let tests = [range.map(|_| "range".to_owned()), deadband.map(|_| "deadband".to_owned()), interval];
            tests.into_iter().flatten().collect::<Vec<_>>().join("-")
        }
    };
    Filter { name: name_or_made(section, name, &select, &does), select, action, range, deadband, min_interval, alarm }
}

/// Which values are alarms: `true` for all, or conditions.
fn alarm(field: &Field<'_>) -> Option<Alarm> {
    if !field.is_table() {
        return all(field, "{ below = 0, above = 80 }").then(Alarm::default);
    }
    let section = field.section();
    let (below, above) = limits(&section);
    let alarm = Alarm {
        below,
        above,
        equals: section.get("equals").map(|field| equals(&field)).unwrap_or_default(),
        at_most_every: section.duration("at_most_every", Duration::from_millis(1)..=7 * DAY),
    };
    section.finish();
    if !["below", "above", "equals", "at_most_every"].iter().any(|key| section.has(key)) {
        let message = "expected `below`, `above` or `equals`, found none of them".to_owned();
        field.problem(message, Some("alarm = true makes an alarm of every value that the rule selects".to_owned()));
    }
    Some(alarm)
}

/// Whether it is `true`, which is all that it may be besides a table.
fn all(field: &Field<'_>, example: &str) -> bool {
    let is = field.is_true();
    if !is {
        field.unexpected(&format!("true, or a table such as {example}"), None);
    }
    is
}

/// `below` and `above`: a value that is neither is in order.
fn limits(section: &Section<'_>) -> (Option<f64>, Option<f64>) {
    let number = |key| section.get(key).and_then(|field| field.number(f64::MIN..=f64::MAX, NUMBER));
    let (below, above) = (number("below"), number("above"));
    if let (Some(low), Some(high)) = (below, above)
        && low > high
    {
        let message = format!("expected at most `above`, which is {high:?}: else every number is an alarm");
        section.problem_with("below", message);
    }
    (below, above)
}

/// One value, or an array of them.
fn equals(field: &Field<'_>) -> Vec<Value> {
    const EXPECTED: &str = "a value such as true, \"FAULT\" or 3, or an array of values";
    let value = |field: &Field<'_>| {
        if field.is_text() {
            return field.checked(|text| Ok(Value::Text(text.into())));
        }
        if field.is_boolean() {
            field.boolean().map(Value::Flag)
        } else {
            Some(Value::Number(field.number(f64::MIN..=f64::MAX, EXPECTED)?))
        }
    };
    if !field.is_array() {
        return value(field).into_iter().collect();
    }
    let items = field.array(EXPECTED).unwrap_or_default();
    if items.is_empty() {
        field.problem("expected at least one value, found none".to_owned(), None);
    } else if items.len() > PATTERNS_MAX {
        field.problem(format!("expected at most {PATTERNS_MAX} values, found {}", items.len()), None);
    }
    items.iter().filter_map(value).collect()
}

/// Which aggregates are alarms: `true` for all, or a condition.
fn window_alarm(field: &Field<'_>) -> Option<WindowAlarm> {
    const EXPECTED: &str = "which of the aggregate's fields, such as \"max\"";
    if !field.is_table() {
        return all(field, "{ field = \"max\", above = 5 }").then_some(WindowAlarm::All);
    }
    let section = field.section();
    let words = AggregateField::ALL.map(|field| (field.as_str(), field));
    let of = section.require("field", EXPECTED).and_then(|field| field.choice(&words));
    let (below, above) = limits(&section);
    section.finish();
    if !section.has("below") && !section.has("above") {
        field.problem("expected `below`, `above` or both, found neither".to_owned(), None);
    }
    of.map(|field| WindowAlarm::Field { field, below, above })
}

fn range(field: &Field<'_>) -> Option<ValueRange> {
    let section = field.section();
    let number = |key| section.get(key).and_then(|field| field.number(f64::MIN..=f64::MAX, NUMBER));
    let range = ValueRange { min: number("min"), max: number("max") };
    section.finish();
    if field.is_table() && !section.has("min") && !section.has("max") {
        field.problem("expected `min`, `max` or both, found neither".to_owned(), None);
    }
    if let ValueRange { min: Some(min), max: Some(max) } = range
        && min > max
    {
        section.problem_with("min", format!("expected at most `max`, which is {max:?}"));
    }
    (range.min.is_some() || range.max.is_some()).then_some(range)
}

fn deadband(section: &Section<'_>, min_interval: Option<Duration>) -> Option<Deadband> {
    let number = |key| section.get(key).and_then(|field| field.number(0.0..=f64::MAX, "a finite number of 0 or more"));
    let (absolute, percent) = (number("absolute"), number("percent"));
    let at_least_every = section.duration("at_least_every", secs(1)..=30 * DAY);
    if section.exists() && !section.has("absolute") && !section.has("percent") {
        let message = "expected `absolute`, `percent` or both: how much is a change".to_owned();
        section.problem_own(message, Some("absolute = 0 passes every change".to_owned()));
    }
    if let (Some(at_least), Some(interval)) = (at_least_every, min_interval)
        && at_least <= interval
    {
        let interval = units::format_duration(interval);
        let message = format!("expected more than min_interval, which is {interval}: else the deadband drops nothing");
        section.problem_with("at_least_every", message);
    }
    section.finish();
    Some(Deadband { absolute, percent, at_least_every })
}

/// `[[window]]`
fn window(section: &Section<'_>) -> Window {
    const EXPECTED: &str = "how long a window is, such as \"1m\"";
    let name = section.checked("name", values::rule_name);
    let select = select(section);
    let every_field = section.require("every", EXPECTED);
    let every = every_field.as_ref().and_then(|field| field.duration(secs(1)..=DAY));
    if let (Some(field), Some(every)) = (&every_field, every)
        && every.subsec_nanos() != 0
    {
        field.unexpected_after("expected whole seconds".to_owned());
    }
    let time_zone = section.checked("time_zone", values::time_zone);
    if let Some(every) = every
        && every != DAY
        && section.has("time_zone")
    {
        let message = "expected `time_zone` only with every = \"1d\": shorter windows are the same in every zone";
        section.problem_key("time_zone", message.to_owned(), None);
    }
    let window = Window {
        name: String::new(),
        every: every.unwrap_or(secs(60)),
        time_zone,
        lateness: section.duration("lateness", secs(0)..=7 * DAY).unwrap_or(secs(30)),
        update_within: section.duration("update_within", secs(1)..=7 * DAY),
        forward_raw: section.boolean("forward_raw").unwrap_or(true),
        alarm: section.get("alarm").and_then(|field| window_alarm(&field)),
        select,
    };
    section.finish();
    // Where `every` is missing or wrong there is a problem already, and no name that could meet another.
    let name = match every {
        Some(every) => name_or_made(section, name, &window.select, &units::format_duration(every)),
        None => name.unwrap_or_default(),
    };
    Window { name, ..window }
}

fn select(section: &Section<'_>) -> Select {
    Select { devices: patterns(section, "device"), measurements: patterns(section, "measurement") }
}

/// One pattern, or an array of them.
fn patterns(section: &Section<'_>, key: &'static str) -> Vec<String> {
    let Some(field) = section.get(key) else { return Vec::new() };
    if field.is_text() {
        return field.checked(values::pattern).into_iter().collect();
    }
    let Some(items) = field.array("a pattern such as \"power*\", or an array of patterns") else { return Vec::new() };
    if items.is_empty() {
        field.problem("expected at least one pattern, found none".to_owned(), None);
    } else if items.len() > PATTERNS_MAX {
        field.problem(format!("expected at most {PATTERNS_MAX} patterns, found {}", items.len()), None);
    }
    items.iter().filter_map(|item| item.checked(values::pattern)).collect()
}

/// The name that the rule was given, or one made of what it says.
fn name_or_made(section: &Section<'_>, given: Option<String>, select: &Select, does: &str) -> String {
    if section.has("name") {
        return given.unwrap_or_default();
    }
    let selected: Vec<String> = [&select.devices, &select.measurements]
        .into_iter()
        .filter(|patterns| !patterns.is_empty())
        .map(|patterns| joined(patterns))
        .collect();
    let made = match (selected.is_empty(), does) {
        (true, does) => format!("all-{does}"),
        // What it does could not be made out, and that is a problem of its own.
        (false, "") => return String::new(),
        (false, does) => format!("{}-{does}", selected.join("-")),
    };
    if values::rule_name(&made).is_err() {
        let message =
            "missing: expected a name, because one made of what it selects would be longer than 64 characters";
        section.problem_at("name", message.to_owned(), None);
    }
    made
}

/// Patterns as a part of a name.
fn joined(patterns: &[String]) -> String {
    let shown = if patterns.len() > PATTERNS_NAMED_MAX { 1 } else { patterns.len() };
    let mut parts: Vec<String> = patterns[..shown].iter().map(|pattern| values::in_rule_name(pattern)).collect();
    if patterns.len() > shown {
        parts.push((patterns.len() - shown).to_string());
    }
    parts.join("+")
}
