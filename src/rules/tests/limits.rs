//! What happens where there is no room.

use super::*;
use crate::config::Deadband;

fn number(device: &str, bed: &mut Bed, time: f64) -> String {
    bed.values(device, time, &[("v", Value::Number(1.0))])
}

#[test]
fn the_newest_series_is_refused() {
    let mut bed = Bed::new(config::Rules { series_max: 2, ..settings(&[], &[window("w", 60, 0)]) });
    let sent: Vec<String> = ["a", "b", "c", "a", "c"].iter().map(|device| number(device, &mut bed, 0.0)).collect();
    assert_eq!(sent, ["", "", "v=1", "", "v=1"]);
    assert_eq!(bed.count(Count::StateRefused, "series"), 2);
    assert_eq!(bed.rules.usage().0, 2);
    // There is room again when others are forgotten.
    bed.pass(100_000);
    assert_eq!(number("c", &mut bed, 0.0), "");
    assert_eq!(bed.count(Count::StateRefused, "series"), 2);
}

#[test]
fn a_deadband_without_room_passes() {
    let deadband = Deadband { absolute: Some(1.0), percent: None, at_least_every: None };
    let rule = Filter { deadband: Some(deadband), ..filter("f", Select::default()) };
    let mut bed = Bed::new(config::Rules { series_max: 1, ..settings(&[rule], &[]) });
    let sent: Vec<String> = ["a", "a", "b", "b"].iter().map(|device| number(device, &mut bed, 0.0)).collect();
    assert_eq!(sent, ["v=1", "", "v=1", "v=1"]);
    assert_eq!(bed.count(Count::StateRefused, "series"), 2);
}

#[test]
fn the_newest_window_is_refused_and_stays_so_after_a_restart() {
    let (minute, hour) = (window("minute", 60, 0), window("hour", 3600, 0));
    let mut bed = Bed::new(config::Rules { open_windows_max: 3, ..settings(&[], &[minute, hour]) });
    assert_eq!(number("a", &mut bed, 0.0), "");
    assert_eq!(number("b", &mut bed, 0.0), "v=1", "an hour did not fit");
    assert_eq!(bed.count(Count::StateRefused, "open_windows"), 1);
    assert_eq!(number("c", &mut bed, 1.0), "v=1", "neither did");
    // The minute's place is free before the next minute is opened.
    assert_eq!(number("a", &mut bed, 60.0), "");
    assert_eq!(number("c", &mut bed, 2.0), "v=1");
    let before = bed.rules.usage().1;
    for saved in [false, true] {
        if saved {
            bed.save();
        }
        bed.settings.open_windows_max = 100;
        bed.restart();
        assert_eq!(bed.rules.usage().1, before, "what was refused was not let in by the restart");
    }
    for device in ["a", "b"] {
        number(device, &mut bed, 3601.0);
    }
    assert_eq!(
        bed.made(),
        [
            "minute a/v 0+60 r1 n1 sum 1 1..1 1->1",
            "minute a/v 60+60 r1 n1 sum 1 1..1 1->1",
            "hour a/v 0+3600 r1 n2 sum 2 1..1 1->1",
            "minute b/v 0+60 r1 n1 sum 1 1..1 1->1"
        ]
    );
}

#[test]
fn bytes_are_limited_and_rules_go_on_without_state() {
    let drop = Filter { action: FilterAction::Drop, ..filter("drop", select(&["*-odd"], &[])) };
    let mut bed = Bed::new(config::Rules { state_bytes_max: 4096, ..settings(&[drop], &[window("w", 60, 0)]) });
    let mut raw = 0;
    for n in 0..1000 {
        let (device, odd) = (format!("d{n}{}", if n % 2 == 1 { "-odd" } else { "" }), n % 2 == 1);
        let sent = number(&device, &mut bed, 0.0);
        assert!(!odd || sent.is_empty());
        raw += u64::from(!sent.is_empty());
        assert!(bed.rules.usage().2 <= 4096);
    }
    assert_eq!(bed.count(Count::ValuesFiltered, "drop"), 500);
    assert_eq!(bed.count(Count::StateRefused, "state"), raw);
    assert_eq!(bed.count(Count::ValuesAggregated, "w") + raw, 500);
    assert!(bed.count(Count::ValuesAggregated, "w") >= 2);
}

#[test]
fn what_a_limit_refused_may_have_moved_the_watermark() {
    let mut rule = window("w", 60, 30);
    rule.select = select(&["a", "b"], &[]);
    let mut bed = Bed::new(config::Rules { open_windows_max: 1, ..settings(&[], &[rule]) });
    number("a", &mut bed, 10.0);
    assert_eq!(number("a", &mut bed, 70.0), "v=1");
    assert_eq!(number("a", &mut bed, 90.0), "", "now that the first has closed");
    assert_eq!(bed.made(), ["w a/v 0+60 r1 n1 sum 1 1..1 1->1"]);
    bed.restart();
    number("a", &mut bed, 150.0);
    assert_eq!(bed.made(), ["w a/v 60+60 r1 n1 sum 1 1..1 1->1"]);
}
