//! What raises an alarm, and what other rules make of one.

use super::*;
use crate::config::{AggregateField, Alarm, Deadband, ValueRange, WindowAlarm};

fn outside(below: Option<f64>, above: Option<f64>) -> Alarm {
    Alarm { below, above, ..Alarm::default() }
}

fn alarm(name: &str, alarm: Alarm) -> Filter {
    Filter { alarm: Some(alarm), ..filter(name, Select::default()) }
}

fn deadband(absolute: f64) -> Filter {
    let deadband = Deadband { absolute: Some(absolute), percent: None, at_least_every: None };
    Filter { deadband: Some(deadband), ..filter("deadband", Select::default()) }
}

fn valid(min: f64, max: f64) -> Filter {
    Filter { range: Some(ValueRange { min: Some(min), max: Some(max) }), ..filter("valid", Select::default()) }
}

/// Sends these values a second apart; what goes raw, and what as an alarm.
fn split(filters: &[Filter], values: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut bed = Bed::new(settings(filters, &[]));
    let (mut raw, mut alarms) = (Vec::new(), Vec::new());
    for (time, value) in values.iter().enumerate() {
        let forwarded = !bed.send(time as f64, *value).is_empty();
        let alarmed = !bed.alarms().is_empty();
        assert!(!(forwarded && alarmed), "{value} went twice");
        raw.extend(forwarded.then_some(*value));
        alarms.extend(alarmed.then_some(*value));
    }
    (raw, alarms)
}

#[test]
fn values_outside_of_the_limits_are_alarms_and_the_limits_themselves_are_not() {
    let values = [-0.1, 0.0, 40.0, 80.0, 80.1];
    let cases = [
        (outside(Some(0.0), Some(80.0)), &[0.0, 40.0, 80.0][..], &[-0.1, 80.1][..]),
        (outside(None, Some(80.0)), &[-0.1, 0.0, 40.0, 80.0], &[80.1]),
        (outside(Some(0.0), None), &[0.0, 40.0, 80.0, 80.1], &[-0.1]),
        (Alarm::default(), &[], &values),
        (Alarm { equals: vec![Value::Number(40.0)], ..outside(Some(0.0), None) }, &[0.0, 80.0, 80.1], &[-0.1, 40.0]),
    ];
    for (when, raw, alarms) in cases {
        assert_eq!(split(&[alarm("a", when.clone())], &values), (raw.to_vec(), alarms.to_vec()), "{when:?}");
    }
}

#[test]
fn flags_and_texts_are_alarms_when_they_equal() {
    let when = Alarm { equals: vec![Value::Flag(true), Value::Text("FAULT".into())], ..outside(Some(0.0), Some(1.0)) };
    let mut bed = Bed::new(settings(&[alarm("a", when)], &[]));
    let cases = [
        (Value::Flag(true), true),
        (Value::Flag(false), false),
        (Value::Text("FAULT".into()), true),
        (Value::Text("fault".into()), false),
        (Value::Text("true".into()), false),
        (Value::Number(1.0), false),
    ];
    for (value, is) in cases {
        let forwarded = bed.values("d", 0.0, &[("v", value.clone())]);
        assert_eq!((forwarded.is_empty(), bed.alarms().len()), (is, usize::from(is)), "{value:?}");
    }
    assert_eq!((bed.count(Count::Alarms, "a"), bed.count(Count::ValuesFiltered, "a")), (2, 0));
}

#[test]
fn a_reading_goes_whole_and_is_named_after_the_first_rule() {
    let second = Filter { select: select(&[], &["p"]), ..alarm("second", outside(None, Some(5.0))) };
    let first = Filter { select: select(&["store-*"], &["t"]), ..alarm("first", outside(None, Some(80.0))) };
    let drop = Filter { action: FilterAction::Drop, ..filter("drop", select(&[], &["rssi"])) };
    let mut bed = Bed::new(settings(&[drop, first, second], &[]));
    let fields = [("rssi", 1.0), ("p", 9.0), ("t", 99.0), ("n", 3.0)].map(|(name, n)| (name, Value::Number(n)));
    assert_eq!(bed.values("store-1", 0.0, &fields), "");
    assert_eq!(bed.alarms(), ["store-1: p=9 t=99 n=3 by first"]);
    assert_eq!(bed.values("x", 0.0, &fields), "");
    assert_eq!(bed.alarms(), ["x: p=9 t=99 n=3 by second"]);
    let calm = [("p", Value::Number(1.0)), ("t", Value::Number(99.0))];
    assert_eq!(bed.values("x", 0.0, &calm), "p=1 t=99");
    assert_eq!(["first", "second"].map(|rule| bed.count(Count::Alarms, rule)), [1, 2], "each value by its rule");
}

#[test]
fn a_batch_is_parted_and_each_part_keeps_its_order() {
    let mut bed = Bed::new(settings(&[alarm("a", outside(None, Some(5.0)))], &[]));
    let mut batch = Batch::default();
    for n in 0..6 {
        let value = if n % 2 == 0 { 1.0 } else { 9.0 };
        let fields = [("v", Value::Number(value)), ("n", Value::Number(f64::from(n)))];
        bed.reading(&mut batch, ["x", "y", "z"][n as usize / 2], f64::from(n), &fields);
    }
    bed.rules.apply(&mut batch, &mut bed.made);
    assert_eq!(shown(&batch), "v=1 n=0 v=1 n=2 v=1 n=4");
    assert_eq!(batch.fields.len(), 6);
    assert_eq!(bed.alarms(), ["x: v=9 n=1 by a", "y: v=9 n=3 by a", "z: v=9 n=5 by a"]);
}

#[test]
fn an_alarm_is_never_thinned_out() {
    let interval = Filter { min_interval: Some(Duration::from_secs(3600)), ..filter("interval", Select::default()) };
    let limit = || alarm("a", outside(None, Some(80.0)));
    let values = [20.0, 90.0, 90.0, 90.1];
    for filters in
        [[deadband(5.0), limit()], [limit(), deadband(5.0)], [interval.clone(), limit()], [limit(), interval]]
    {
        assert_eq!(split(&filters, &values), (vec![20.0], vec![90.0, 90.0, 90.1]), "{filters:?}");
    }
}

#[test]
fn the_first_value_in_order_again_gets_through_a_deadband() {
    // Whoever has seen the alarm has to see that it is over: the deadband compares with the alarm, not with what was before.
    for filters in
        [[deadband(5.0), alarm("a", outside(None, Some(80.0)))], [alarm("a", outside(None, Some(80.0))), deadband(5.0)]]
    {
        let values = [20.0, 90.0, 20.5, 21.0];
        assert_eq!(split(&filters, &values), (vec![20.0, 20.5], vec![90.0]), "{filters:?}");
    }
}

#[test]
fn what_is_gone_before_it_is_no_alarm_and_what_comes_after_it_takes_nothing_away() {
    let limit = || alarm("a", outside(None, Some(80.0)));
    let values = [20.0, 90.0, 999.0];
    // A broken sensor's 999 is to be sorted out first.
    assert_eq!(split(&[valid(-40.0, 120.0), limit()], &values), (vec![20.0], vec![90.0]));
    assert_eq!(split(&[limit(), valid(-40.0, 120.0)], &values), (vec![20.0], vec![90.0, 999.0]));
    let drop = Filter { action: FilterAction::Drop, ..filter("drop", Select::default()) };
    assert_eq!(split(&[drop.clone(), limit()], &values), (vec![], vec![]));
    assert_eq!(split(&[limit(), drop], &values), (vec![], vec![90.0, 999.0]), "alarms only");
}

#[test]
fn at_most_every_leaves_the_rest_to_the_other_filters() {
    let limited =
        |seconds| alarm("a", Alarm { at_most_every: Some(Duration::from_secs(seconds)), ..outside(None, Some(80.0)) });
    // It flaps: one alarm in three seconds, and all values are there.
    let values = [90.0, 20.0, 90.0, 20.0, 90.0, 90.0, 90.0];
    let (raw, alarms) = split(&[limited(3)], &values);
    assert_eq!((raw, alarms), (vec![20.0, 90.0, 20.0, 90.0, 90.0], vec![90.0, 90.0]));
    // As ordinary values they are thinned out as such.
    let (raw, alarms) = split(&[limited(3600), deadband(5.0)], &[90.0, 91.0, 92.0, 99.0, 20.0]);
    assert_eq!((raw, alarms), (vec![99.0, 20.0], vec![90.0]));
    // A further rule may have them.
    let (raw, alarms) = split(&[limited(3600), alarm("b", outside(None, Some(95.0)))], &[96.0, 90.0, 97.0]);
    assert_eq!((raw, alarms), (vec![90.0], vec![96.0, 97.0]));
}

#[test]
fn at_most_every_is_of_each_device_and_measurement_and_a_restart_costs_an_alarm_more() {
    let when = Alarm { at_most_every: Some(Duration::from_secs(3600)), ..outside(None, Some(80.0)) };
    let mut bed = Bed::new(settings(&[alarm("a", when)], &[]));
    for device in ["x", "y"] {
        for time in 0..3 {
            bed.values(device, f64::from(time), &[("v", Value::Number(90.0)), ("w", Value::Number(1.0))]);
        }
    }
    assert_eq!(bed.alarms().len(), 2);
    bed.save();
    bed.restart();
    bed.values("x", 3.0, &[("v", Value::Number(90.0))]);
    assert_eq!(bed.alarms().len(), 1);
    assert!(bed.journal.is_empty(), "nothing of it is durable");
}

#[test]
fn without_room_for_state_every_alarm_is_one() {
    let when = Alarm { at_most_every: Some(Duration::from_secs(3600)), ..outside(None, Some(80.0)) };
    let mut settings = settings(&[alarm("a", when)], &[]);
    settings.series_max = 1;
    let mut bed = Bed::new(settings);
    for device in ["x", "y"] {
        for time in 0..3 {
            bed.values(device, f64::from(time), &[("v", Value::Number(90.0))]);
        }
    }
    assert_eq!(bed.alarms().len(), 1 + 3);
}

#[test]
fn windows_see_an_alarm_and_do_not_swallow_it() {
    let limit = || alarm("a", outside(None, Some(80.0)));
    let drop = Filter { action: FilterAction::Drop, ..filter("drop", Select::default()) };
    let mut bed = Bed::new(settings(&[limit()], &[window("w", 60, 0)]));
    assert_eq!((bed.send(0.0, 20.0), bed.send(1.0, 90.0)), (String::new(), String::new()));
    assert_eq!(bed.alarms(), ["d: v=90 by a"]);
    bed.send(60.0, 1.0);
    assert_eq!(bed.made(), ["w d/v 0+60 r1 n2 sum 110 20..90 20->90"]);
    assert_eq!(bed.count(Count::ValuesAggregated, "w"), 2, "the alarm is not only in an aggregate");
    // It is late as any value is.
    bed.send(2.0, 95.0);
    assert_eq!(bed.alarms(), ["d: v=95 late by a"]);
    // Where only alarms are let through, a window has only these.
    let mut bed = Bed::new(settings(&[limit(), drop], &[window("w", 60, 0)]));
    for (time, value) in [(0.0, 20.0), (1.0, 90.0), (60.0, 91.0)] {
        bed.send(time, value);
    }
    assert_eq!(bed.made(), ["w d/v 0+60 r1 n1 sum 90 90..90 90->90"]);
    assert_eq!(bed.alarms().len(), 2);
}

#[test]
fn aggregates_are_alarms_by_their_fields() {
    // Values 1, 6, 2: count 3, sum 9, min 1, max 6, mean 3, first 1, last 2.
    let cases = [
        (AggregateField::Count, 3.0),
        (AggregateField::Sum, 9.0),
        (AggregateField::Min, 1.0),
        (AggregateField::Max, 6.0),
        (AggregateField::Mean, 3.0),
        (AggregateField::First, 1.0),
        (AggregateField::Last, 2.0),
    ];
    for (field, value) in cases {
        for (below, above, is) in [
            (None, Some(value), false),
            (None, Some(value - 0.1), true),
            (Some(value), None, false),
            (Some(value + 0.1), Some(100.0), true),
        ] {
            let alarm = Some(WindowAlarm::Field { field, below, above });
            let mut bed = Bed::new(settings(&[], &[Window { alarm, ..window("w", 60, 0) }]));
            for (time, value) in [(0.0, 1.0), (1.0, 6.0), (2.0, 2.0), (60.0, 0.0)] {
                bed.send(time, value);
            }
            let told = ["w d/v 0+60 r1 n3 sum 9 1..6 1->2"];
            let (alarms, made) = if is { (&told[..], &[][..]) } else { (&[][..], &told[..]) };
            assert_eq!(
                (bed.alarms().as_slice(), bed.made().as_slice()),
                (&texts(alarms)[..], &texts(made)[..]),
                "{alarm:?}"
            );
            assert_eq!(bed.count(Count::Alarms, "w"), u64::from(is));
            assert_eq!(bed.count(Count::Aggregates, "w"), 1);
        }
    }
}

#[test]
fn each_revision_of_an_aggregate_goes_by_its_own_values() {
    let alarm = Some(WindowAlarm::Field { field: AggregateField::Max, below: None, above: Some(5.0) });
    let rule = Window { alarm, update_within: Some(Duration::from_secs(3600)), ..window("w", 60, 0) };
    let mut bed = Bed::new(settings(&[], &[rule]));
    bed.send(0.0, 1.0);
    bed.send(60.0, 1.0);
    assert_eq!((bed.alarms().len(), bed.made().len()), (0, 1));
    bed.send(1.0, 9.0);
    assert_eq!((bed.alarms(), bed.made().len()), (texts(&["w d/v 0+60 r2 n2 sum 10 1..9 1->9"]), 0));
}

#[test]
fn all_aggregates_of_a_window_may_be_alarms_also_those_that_silence_closes() {
    let mut bed = Bed::new(settings(&[], &[Window { alarm: Some(WindowAlarm::All), ..window("w", 60, 0) }]));
    bed.send(0.0, 1.0);
    bed.pass(120);
    assert_eq!((bed.alarms().len(), bed.made().len()), (1, 0));
}

#[test]
fn a_restart_between_the_values_of_a_window_changes_no_alarm() {
    let alarm = Some(WindowAlarm::Field { field: AggregateField::Sum, below: None, above: Some(5.0) });
    let mut bed = Bed::new(settings(&[], &[Window { alarm, ..window("w", 60, 0) }]));
    bed.send(0.0, 3.0);
    bed.restart();
    bed.send(1.0, 3.0);
    bed.restart();
    bed.send(60.0, 0.0);
    assert_eq!(bed.alarms(), ["w d/v 0+60 r1 n2 sum 6 3..3 3->3"]);
}
