//! What filters do with values, line by line of what is promised.

use super::*;
use crate::config::{Deadband, ValueRange};

fn deadband(absolute: Option<f64>, percent: Option<f64>, at_least_every: Option<u64>) -> Filter {
    let at_least_every = at_least_every.map(Duration::from_secs);
    Filter { deadband: Some(Deadband { absolute, percent, at_least_every }), ..filter("deadband", Select::default()) }
}

fn interval(seconds: u64) -> Filter {
    Filter { min_interval: Some(Duration::from_secs(seconds)), ..filter("interval", Select::default()) }
}

fn range(name: &str, action: FilterAction, min: Option<f64>, max: Option<f64>) -> Filter {
    Filter { action, range: Some(ValueRange { min, max }), ..filter(name, Select::default()) }
}

/// Which of these values, a second apart, are forwarded.
fn passing(filters: &[Filter], values: &[f64]) -> Vec<f64> {
    timed(filters, &values.iter().enumerate().map(|(time, value)| (time as f64, *value)).collect::<Vec<_>>())
}

fn timed(filters: &[Filter], values: &[(f64, f64)]) -> Vec<f64> {
    let mut bed = Bed::new(settings(filters, &[]));
    values.iter().filter(|(time, value)| !bed.send(*time, *value).is_empty()).map(|(_, value)| *value).collect()
}

#[test]
fn a_deadband_passes_what_has_changed_by_more() {
    let values = [20.0, 20.5, 19.5, 20.51, 20.0, 21.02, 21.01];
    assert_eq!(passing(&[deadband(Some(0.5), None, None)], &values), [20.0, 20.51, 20.0, 21.02][..].to_vec());
    assert_eq!(passing(&[deadband(Some(0.0), None, None)], &[1.0, 1.0, 1.5, 1.5, 1.0]), [1.0, 1.5, 1.0]);
    assert_eq!(passing(&[deadband(None, Some(10.0), None)], &[100.0, 110.0, 111.0, 99.9, 99.8]), [100.0, 111.0, 99.8]);
    assert_eq!(passing(&[deadband(None, Some(10.0), None)], &[0.0, 0.0, 0.1, 0.0]), [0.0, 0.1, 0.0]);
    assert_eq!(passing(&[deadband(None, Some(10.0), None)], &[-100.0, -110.0, -111.0]), [-100.0, -111.0]);
    // Either is enough.
    assert_eq!(
        passing(&[deadband(Some(5.0), Some(10.0), None)], &[10.0, 11.5, 100.0, 106.0]),
        [10.0, 11.5, 100.0, 106.0]
    );
}

#[test]
fn a_deadband_passes_something_at_least_so_often() {
    let band = deadband(Some(1.0), None, Some(60));
    let values = [(0.0, 5.0), (59.9, 5.1), (60.0, 5.2), (119.0, 5.3), (120.0, 5.4)];
    assert_eq!(timed(std::slice::from_ref(&band), &values), [5.0, 5.2, 5.4]);
    // A clock that was set back by as much passes too.
    assert_eq!(timed(&[band], &[(0.0, 5.0), (-59.0, 5.1), (-60.0, 5.2)]), [5.0, 5.2]);
}

#[test]
fn texts_and_flags_pass_a_deadband_when_they_differ() {
    let mut bed = Bed::new(settings(&[deadband(Some(1.0), None, Some(60))], &[]));
    let cases = [
        (0.0, Value::Text("on".into()), true),
        (1.0, Value::Text("on".into()), false),
        (2.0, Value::Text("off".into()), true),
        (3.0, Value::Flag(false), true),
        (4.0, Value::Flag(false), false),
        (5.0, Value::Flag(true), true),
        (6.0, Value::Number(1.0), true),
        (7.0, Value::Number(1.5), false),
        (8.0, Value::Text("1".into()), true),
        (68.0, Value::Text("1".into()), true),
    ];
    for (time, value, passes) in cases {
        assert_eq!(!bed.values("d", time, &[("v", value.clone())]).is_empty(), passes, "{time} {value:?}");
    }
    assert_eq!(bed.count(Count::ValuesFiltered, "deadband"), 3);
}

#[test]
fn an_interval_passes_the_first_and_recovers_when_the_clock_is_set_back() {
    let times = [(0.0, 0.0), (5.0, 1.0), (9.999, 2.0), (10.0, 3.0), (12.0, 4.0), (-5.0, 5.0), (-2.0, 6.0)];
    assert_eq!(timed(&[interval(10)], &times), [0.0, 3.0, 5.0]);
}

#[test]
fn a_filter_with_two_tests_keeps_its_state_until_both_pass() {
    let both = Filter { min_interval: Some(Duration::from_secs(10)), ..deadband(Some(1.0), None, None) };
    // The jump comes too soon; what counts is still the first.
    assert_eq!(timed(&[both], &[(0.0, 0.0), (5.0, 9.0), (11.0, 9.0), (30.0, 9.5), (31.0, 20.0)]), [0.0, 9.0, 20.0]);
}

#[test]
fn states_are_those_of_a_device_and_a_measurement() {
    let mut bed = Bed::new(settings(&[deadband(Some(1.0), None, None)], &[]));
    for device in ["a", "b"] {
        let fields = [("v", Value::Number(1.0)), ("w", Value::Number(1.0))];
        assert_eq!(bed.values(device, 0.0, &fields), "v=1 w=1");
        assert_eq!(bed.values(device, 1.0, &[("w", Value::Number(3.0)), ("v", Value::Number(1.0))]), "w=3");
    }
    assert_eq!(bed.rules.usage().0, 4);
}

#[test]
fn ranges_keep_and_drop() {
    let values = [-1.0, 0.0, 50.0, 100.0, 101.0];
    let test = |action, min, max| passing(&[range("r", action, min, max)], &values);
    assert_eq!(test(FilterAction::Test, Some(0.0), Some(100.0)), [0.0, 50.0, 100.0]);
    assert_eq!(test(FilterAction::Test, Some(0.0), None), [0.0, 50.0, 100.0, 101.0]);
    assert_eq!(test(FilterAction::Keep, None, Some(50.0)), [-1.0, 0.0, 50.0]);
    assert_eq!(test(FilterAction::Drop, Some(0.0), Some(100.0)), [-1.0, 101.0]);
    for (action, passes) in [(FilterAction::Test, "a=on"), (FilterAction::Keep, "a=on"), (FilterAction::Drop, "")] {
        let mut bed = Bed::new(settings(&[range("r", action, Some(0.0), None)], &[]));
        assert_eq!(bed.values("d", 0.0, &[("a", Value::Text("on".into()))]), passes, "texts are in every range");
    }
}

#[test]
fn keep_and_drop_by_name() {
    let by = |action, select| Filter { action, ..filter("f", select) };
    let fields = [("power", Value::Number(1.0)), ("voltage", Value::Number(2.0))];
    let cases = [
        (by(FilterAction::Keep, select(&["meter-*"], &[])), "power=1 voltage=2", ""),
        (by(FilterAction::Keep, select(&["meter-*"], &["power"])), "power=1", ""),
        (by(FilterAction::Drop, select(&["meter-*"], &["power"])), "voltage=2", "power=1 voltage=2"),
        (by(FilterAction::Drop, select(&[], &["!power"])), "power=1", "power=1"),
    ];
    for (rule, meter, pump) in cases {
        let mut bed = Bed::new(settings(std::slice::from_ref(&rule), &[]));
        for _ in 0..2 {
            assert_eq!(bed.values("meter-1", 0.0, &fields), meter, "{rule:?}");
            assert_eq!(bed.values("pump", 0.0, &fields), pump, "{rule:?}");
        }
        let left = [meter, pump].iter().map(|text| text.matches('=').count()).sum::<usize>();
        assert_eq!(bed.count(Count::ValuesFiltered, "f"), 2 * (4 - left as u64), "{rule:?}");
        assert_eq!(bed.rules.usage().0, 0, "no state");
    }
}

#[test]
fn a_value_is_counted_once_under_the_first_rule_that_dropped_it() {
    let filters = [interval(10), range("range", FilterAction::Test, None, Some(5.0))];
    let mut bed = Bed::new(settings(&filters, &[]));
    for (time, value) in [(0.0, 1.0), (1.0, 9.0), (20.0, 9.0), (31.0, 1.0)] {
        bed.send(time, value);
    }
    let counts = ["interval", "range"].map(|name| bed.count(Count::ValuesFiltered, name));
    // The third passed the interval, and was there for it, before the range dropped it.
    assert_eq!(counts, [1, 1]);
}

#[test]
fn windows_see_what_is_thinned_and_not_what_is_gone() {
    let gone = range("gone", FilterAction::Drop, Some(100.0), None);
    let raw = Window { forward_raw: true, ..window("w", 60, 0) };
    let mut bed = Bed::new(settings(&[deadband(Some(5.0), None, None), gone], &[raw]));
    let sent: Vec<String> = [1.0, 2.0, 3.0, 500.0, 10.0].iter().map(|value| bed.send(1.0, *value)).collect();
    assert_eq!(sent, ["v=1", "", "", "", "v=10"]);
    bed.send(60.0, 0.0);
    assert_eq!(bed.made(), ["w d/v 0+60 r1 n4 sum 16 1..10 1->10"]);
    let counts = ["deadband", "gone"].map(|name| bed.count(Count::ValuesFiltered, name));
    assert_eq!((counts, bed.count(Count::ValuesAggregated, "w")), ([2, 1], 0));
}

#[test]
fn what_is_thinned_is_not_forwarded_for_being_late() {
    let mut bed = Bed::new(settings(&[deadband(Some(5.0), None, None)], &[window("w", 60, 0)]));
    bed.send(0.0, 1.0);
    bed.send(60.0, 1.0);
    assert_eq!(bed.send(1.0, 2.0), "");
    assert_eq!(bed.send(1.0, 20.0), "v=20 late");
    assert_eq!(bed.count(Count::ValuesLate, "w"), 2);
    assert_eq!(bed.count(Count::ValuesFiltered, "deadband"), 2);
}

#[test]
fn a_restarted_deadband_sends_one_reading_more() {
    let mut bed = Bed::new(settings(&[deadband(Some(5.0), None, None)], &[]));
    assert_eq!((bed.send(0.0, 1.0), bed.send(1.0, 1.0)), ("v=1".to_owned(), String::new()));
    bed.save();
    bed.restart();
    assert_eq!((bed.send(2.0, 1.0), bed.send(3.0, 1.0)), ("v=1".to_owned(), String::new()));
    assert!(bed.journal.is_empty(), "nothing of it is durable");
}
