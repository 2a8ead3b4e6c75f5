//! What becomes of numbers in windows, line by line of what is promised.

use super::*;

fn bed(windows: &[Window]) -> Bed {
    Bed::new(settings(&[], windows))
}

#[test]
fn a_window_closes_when_the_watermark_has_passed_it_by_the_lateness() {
    let mut bed = bed(&[window("w", 60, 10)]);
    assert_eq!(bed.send(5.0, 1.5), "");
    assert_eq!(bed.send(59.999, 3.0), "");
    assert_eq!(bed.send(60.0, 100.0), "");
    assert_eq!(bed.send(1.0, 2.0), "");
    assert_eq!(bed.send(69.999, 100.0), "");
    assert_eq!(bed.made(), Vec::<String>::new());
    assert_eq!(bed.send(70.0, 100.0), "");
    assert_eq!(bed.made(), ["w d/v 0+60 r1 n3 sum 6.5 1.5..3 2->3"]);
    assert_eq!(bed.count(Count::Aggregates, "w"), 1);
    assert_eq!(bed.count(Count::ValuesAggregated, "w"), 6);
    assert_eq!(bed.send(200.0, 7.0), "");
    assert_eq!(bed.made(), ["w d/v 60+60 r1 n3 sum 300 100..100 100->100"]);
}

#[test]
fn windows_that_close_at_once_come_oldest_first() {
    let mut bed = bed(&[window("w", 60, 600)]);
    for time in [130.0, 10.0, 70.0] {
        bed.send(time, time);
    }
    bed.send(1000.0, 1.0);
    let starts: Vec<String> = bed.made().iter().map(|made| made.split(' ').nth(2).unwrap().to_owned()).collect();
    assert_eq!(starts, ["0+60", "60+60", "120+60"]);
}

#[test]
fn late_values_go_raw_and_marked_whatever_forward_raw_says() {
    let mut bed = bed(&[window("w", 60, 10)]);
    bed.send(30.0, 1.0);
    bed.send(75.0, 1.0);
    assert_eq!(bed.send(31.0, 2.0), "v=2 late");
    assert_eq!(bed.count(Count::ValuesLate, "w"), 1);
    assert_eq!(bed.send(61.0, 2.0), "", "its window is open");
    assert_eq!(bed.made().len(), 1);
    // A window that never was is late all the same.
    assert_eq!(bed.send(-600.0, 2.0), "v=2 late");
    assert_eq!(bed.made(), Vec::<String>::new());
}

#[test]
fn a_watermark_is_that_of_a_device_and_of_all_its_series() {
    let mut bed = bed(&[window("w", 60, 0)]);
    bed.values("a", 10.0, &[("v", Value::Number(1.0))]);
    bed.values("b", 10.0, &[("v", Value::Number(1.0))]);
    bed.values("a", 60.0, &[("other", Value::Number(1.0))]);
    assert_eq!(bed.made(), ["w a/v 0+60 r1 n1 sum 1 1..1 1->1"]);
    assert_eq!(bed.values("b", 59.0, &[("v", Value::Number(2.0))]), "");
    assert_eq!(bed.values("a", 59.0, &[("v", Value::Number(2.0))]), "v=2 late");
}

#[test]
fn values_of_one_reading_may_be_late_and_in_time() {
    let mut minute = window("minute", 60, 0);
    minute.select = select(&[], &["m"]);
    let mut hour = window("hour", 3600, 0);
    hour.select = select(&[], &["h", "m"]);
    let mut bed = bed(&[minute, hour]);
    let both = |n: f64| [("h", Value::Number(n)), ("m", Value::Number(n)), ("text", Value::Text("on".into()))];
    assert_eq!(bed.values("d", 100.0, &both(1.0)), "text=on");
    assert_eq!(bed.values("d", 10.0, &both(2.0)), "m=2 text=on late");
    assert_eq!((bed.count(Count::ValuesLate, "minute"), bed.count(Count::ValuesLate, "hour")), (1, 0));
    assert_eq!(bed.count(Count::ValuesAggregated, "hour"), 2, "h twice");
    assert_eq!(bed.count(Count::ValuesAggregated, "minute"), 1, "m once, under the first");
    bed.values("d", 3600.0, &both(3.0));
    assert_eq!(
        bed.made(),
        [
            "hour d/h 0+3600 r1 n2 sum 3 1..2 2->1",
            "minute d/m 60+60 r1 n1 sum 1 1..1 1->1",
            "hour d/m 0+3600 r1 n2 sum 3 1..2 2->1"
        ]
    );
}

#[test]
fn what_is_forwarded_when_rules_differ() {
    // forward_raw of the rules that match; whether a value in time is forwarded.
    for (raw, forwarded) in [
        (vec![], true),
        (vec![true], true),
        (vec![false], false),
        (vec![false, true], true),
        (vec![false, false], false),
    ] {
        let rules =
            raw.iter().enumerate().map(|(n, raw)| Window { forward_raw: *raw, ..window(&format!("w{n}"), 60, 0) });
        let mut bed = bed(&rules.collect::<Vec<_>>());
        assert_eq!(bed.send(1.0, 4.0), if forwarded { "v=4" } else { "" }, "{raw:?}");
        let counted = bed.count(Count::ValuesAggregated, "w0");
        assert_eq!(counted, u64::from(!forwarded), "{raw:?}");
    }
}

#[test]
fn times_from_the_future_stay_out() {
    let mut bed = bed(&[window("w", 60, 0)]);
    bed.now.wall_ms = NOON;
    bed.send(10.0, 1.0);
    assert_eq!(bed.send(300.001, 2.0), "v=2 future");
    assert_eq!(bed.send(86_400.0, 2.0), "v=2 future");
    assert_eq!(bed.count(Count::ValuesFuture, "w"), 2);
    assert_eq!(bed.made(), Vec::<String>::new(), "the watermark has not moved");
    assert_eq!(bed.send(300.0, 3.0), "");
    // The clock is set back: what was believable stays so.
    bed.now.wall_ms -= 3_600_000;
    bed.now.monotonic_ms += 10_000;
    assert_eq!(bed.send(310.0, 4.0), "");
    // What was known of the time stays known while the clock is not trusted.
    bed.now.trusted = false;
    assert_eq!(bed.send(86_400.0, 5.0), "v=5 future");
    assert_eq!(bed.made().len(), 1);
    assert_eq!(bed.send(1e15, 5.0), "v=5 future", "no calendar has such a day");
    assert_eq!(bed.send(-1e15, 5.0), "v=5 late");
}

#[test]
fn a_watermark_that_ran_ahead_while_nobody_knew_the_time_goes_back_when_it_is_known() {
    for restarts in [false, true] {
        let mut bed = bed(&[window("w", 60, 0)]);
        let wait = |bed: &mut Bed| {
            if restarts {
                bed.restart();
            }
        };
        bed.now = Stamp { wall_ms: 5_000, monotonic_ms: 5_000, trusted: false };
        assert_eq!(bed.send(10.0, 1.0), "");
        // The device's clock is a year ahead for a moment, twice.
        assert_eq!(bed.send(31_536_000.0, 8.0) + &bed.send(31_536_060.0, 9.0), "");
        assert_eq!(bed.made().len(), 2);
        assert_eq!(bed.send(20.0, 2.0), "v=2 late");
        wait(&mut bed);
        bed.now = Stamp { wall_ms: NOON + 80_000, monotonic_ms: 85_000, trusted: true };
        bed.pass(1);
        assert_eq!(bed.made(), ["w d/v 31536060+60 r1 n1 sum 9 9..9 9->9"], "nothing that was taken is lost");
        wait(&mut bed);
        // The window of now may have been made already; it is not made again.
        assert_eq!(bed.send(85.0, 3.0), "v=3 late");
        assert_eq!(bed.send(125.0, 4.0) + &bed.send(130.0, 5.0), "");
        wait(&mut bed);
        assert_eq!(bed.send(181.0, 6.0), "");
        assert_eq!(bed.made(), ["w d/v 120+60 r1 n2 sum 9 4..5 4->5"]);
        assert_eq!(bed.send(31_536_000.0, 8.0), "v=8 future");
    }
}

#[test]
fn times_by_an_untrusted_clock_stay_out_unmarked() {
    let mut bed = bed(&[window("w", 60, 0)]);
    bed.quality = TimeQuality::Unsynced;
    assert_eq!(bed.send(10.0, 1.0), "v=1");
    assert_eq!(bed.count(Count::ValuesUnsynced, "w"), 1);
    assert!(bed.journal.len() == 1, "the rules, and nothing else");
    for quality in [TimeQuality::Corrected, TimeQuality::Arrival] {
        bed.quality = quality;
        assert_eq!(bed.send(10.0, 1.0), "");
    }
}

#[test]
fn texts_and_flags_go_raw() {
    let mut bed = bed(&[window("w", 60, 0)]);
    let fields = [("a", Value::Text("on".into())), ("b", Value::Number(1.0)), ("c", Value::Flag(true))];
    assert_eq!(bed.values("d", 0.0, &fields), "a=on c=true");
    assert_eq!(bed.rules.usage().0, 1, "only the number needs a series");
    assert_eq!(bed.values("d", 0.0, &[("b", Value::Text("12345678901234567890".into()))]), "b=12345678901234567890");
}

#[test]
fn a_silent_device_closes_its_windows() {
    let mut bed = bed(&[window("minute", 60, 10), window("hour", 3600, 0)]);
    bed.send(30.0, 1.0);
    bed.pass(69);
    assert_eq!(bed.made(), Vec::<String>::new());
    bed.pass(1);
    assert_eq!(bed.made(), ["minute d/v 0+60 r1 n1 sum 1 1..1 1->1"]);
    // It has closed, although the watermark has not come by; the other has not.
    assert_eq!(bed.send(45.0, 2.0), "v=2 late");
    bed.pass(3599);
    assert_eq!(bed.made(), Vec::<String>::new());
    bed.pass(1);
    assert_eq!(bed.made(), ["hour d/v 0+3600 r1 n2 sum 3 1..2 1->2"]);
    bed.pass(100_000);
    assert_eq!(bed.made(), Vec::<String>::new());
}

#[test]
fn late_and_future_values_do_not_break_a_silence() {
    let mut bed = bed(&[window("w", 60, 0)]);
    bed.send(30.0, 1.0);
    bed.send(61.0, 1.0);
    bed.made();
    bed.pass(40);
    bed.send(31.0, 1.0);
    bed.send(1e9, 1.0);
    bed.pass(20);
    assert_eq!(bed.made(), ["w d/v 60+60 r1 n1 sum 1 1..1 1->1"]);
}

#[test]
fn all_open_windows_of_a_silent_device_close_and_time_between_them_is_late() {
    let mut bed = bed(&[window("w", 60, 300)]);
    bed.send(10.0, 1.0);
    bed.send(130.0, 2.0);
    bed.pass(360);
    assert_eq!(bed.made(), ["w d/v 0+60 r1 n1 sum 1 1..1 1->1", "w d/v 120+60 r1 n1 sum 2 2..2 2->2"]);
    assert_eq!(bed.send(70.0, 3.0), "v=3 late");
    assert_eq!(bed.send(140.0, 3.0), "v=3 late", "newer than the watermark, and its window has closed");
    assert_eq!(bed.send(180.0, 4.0), "");
}

#[test]
fn late_updates_raise_the_revision() {
    let mut rule = window("w", 60, 10);
    rule.update_within = Some(Duration::from_secs(100));
    let mut bed = bed(&[rule]);
    bed.send(10.0, 1.0);
    bed.send(70.0, 1.0);
    assert_eq!(bed.made(), ["w d/v 0+60 r1 n1 sum 1 1..1 1->1"]);
    assert_eq!(bed.send(20.0, 5.0), "", "no mark, and raw as the rule says");
    assert_eq!(bed.made(), ["w d/v 0+60 r2 n2 sum 6 1..5 1->5"]);
    // A window that never was.
    assert_eq!(bed.send(-30.0, 7.0), "");
    assert_eq!(bed.made(), ["w d/v -60+60 r1 n1 sum 7 7..7 7->7"]);
    assert_eq!(bed.send(-20.0, 8.0), "");
    assert_eq!(bed.made(), ["w d/v -60+60 r2 n2 sum 15 7..8 7->8"]);
    assert_eq!(bed.send(-100.0, 8.0), "v=8 late", "its end, the lateness and the update time have passed");
    bed.send(169.0, 1.0);
    bed.made();
    assert_eq!(bed.send(21.0, 6.0), "");
    assert_eq!(bed.made(), ["w d/v 0+60 r3 n3 sum 12 1..6 1->6"]);
    bed.send(170.0, 1.0);
    assert_eq!(bed.send(22.0, 6.0), "v=6 late");
    assert_eq!(bed.made(), Vec::<String>::new());
    assert_eq!(bed.rules.usage().1, 2, "one open, one kept");
}

#[test]
fn windows_closed_by_silence_are_amended_too() {
    let mut rule = window("w", 60, 0);
    rule.update_within = Some(Duration::from_secs(100));
    let mut bed = bed(&[rule]);
    bed.send(10.0, 1.0);
    bed.pass(60);
    assert_eq!(bed.send(20.0, 2.0), "");
    assert_eq!(bed.made(), ["w d/v 0+60 r1 n1 sum 1 1..1 1->1", "w d/v 0+60 r2 n2 sum 3 1..2 1->2"]);
}

#[test]
fn days_of_a_time_zone_have_23_and_25_hours() {
    let mut day = window("day", 86_400, 0);
    day.time_zone = Some("Europe/Berlin".to_owned());
    let mut bed = bed(&[day]);
    let at = |text: &str| (text.parse::<jiff::Timestamp>().unwrap().as_millisecond() - NOON) as f64 / 1000.0;
    for time in ["2026-03-28T23:00:00Z", "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z"] {
        bed.send(at(time), 1.0);
    }
    assert_eq!(bed.made(), [format!("day d/v {}+82800 r1 n2 sum 2 1..1 1->1", at("2026-03-28T23:00:00Z"))]);
    let mut bed = Bed::new(bed.settings);
    bed.now.trusted = false;
    for time in ["2026-10-24T22:00:00Z", "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z"] {
        bed.send(at(time), 1.0);
    }
    assert_eq!(bed.made(), [format!("day d/v {}+90000 r1 n2 sum 2 1..1 1->1", at("2026-10-24T22:00:00Z"))]);
}

#[test]
fn rules_select_devices_and_measurements() {
    let mut rule = window("w", 60, 0);
    rule.select = select(&["meter-*", "!meter-9"], &["power"]);
    let mut bed = bed(&[rule]);
    let power = [("power", Value::Number(1.0)), ("voltage", Value::Number(230.0))];
    assert_eq!(bed.values("meter-1", 0.0, &power), "voltage=230");
    assert_eq!(bed.values("meter-9", 0.0, &power), "power=1 voltage=230");
    assert_eq!(bed.values("pump", 0.0, &power), "power=1 voltage=230");
    assert_eq!(bed.rules.usage().0, 1);
}

#[test]
fn equal_times_are_told_apart_by_value() {
    for order in [[1.0, -3.0, 2.0], [2.0, 1.0, -3.0], [-3.0, 2.0, 1.0]] {
        let mut bed = bed(&[window("w", 60, 0)]);
        order.iter().for_each(|value| assert_eq!(bed.send(10.0, *value), ""));
        bed.send(60.0, 0.0);
        assert_eq!(bed.made(), ["w d/v 0+60 r1 n3 sum 0 -3..2 -3->2"]);
    }
}

#[test]
fn a_device_that_is_silent_for_a_day_is_forgotten() {
    let mut bed = bed(&[window("w", 60, 0)]);
    bed.send(10.0, 1.0);
    assert!(bed.rules.usage().2 > 0);
    bed.pass(86_000);
    assert_eq!(bed.rules.usage().0, 1);
    bed.pass(1000);
    assert_eq!(bed.rules.usage(), (0, 0, 0));
    assert_eq!(bed.made().len(), 1);
    // It may come back, and be somebody else.
    bed.values("e", 10.0, &[("v", Value::Number(1.0))]);
    assert_eq!(bed.send(20.0, 1.0), "");
    bed.restart();
    bed.send(61.0, 1.0);
    assert_eq!(bed.made(), ["w d/v 0+60 r1 n1 sum 1 1..1 1->1"]);
}

#[test]
fn what_is_no_reading_passes_in_its_place() {
    let mut bed = bed(&[window("w", 60, 0)]);
    let mut batch = Batch::default();
    let gap =
        || Record::StreamEnd(Box::new(crate::reading::StreamEnd { stream: "s".into(), last: 1, at: Stamp::default() }));
    bed.reading(&mut batch, "d", 0.0, &[("v", Value::Number(1.0)), ("t", Value::Text("a".into()))]);
    batch.records.push(gap());
    bed.reading(&mut batch, "d", 1.0, &[("v", Value::Number(2.0))]);
    bed.reading(&mut batch, "d", 2.0, &[]);
    bed.reading(&mut batch, "d", 3.0, &[("t", Value::Text("b".into())), ("v", Value::Number(2.0))]);
    let (records, fields) = (batch.records.as_ptr(), batch.fields.as_ptr());
    bed.rules.apply(&mut batch, &mut bed.made);
    assert_eq!(shown(&batch), "t=astream-end t=b");
    assert_eq!((batch.records.len(), batch.fields.len()), (4, 2), "the empty one was not dropped");
    assert_eq!((batch.records.as_ptr(), batch.fields.as_ptr()), (records, fields));
}
