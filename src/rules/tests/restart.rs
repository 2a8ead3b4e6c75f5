//! What a restart finds again, and what it says where it does not.

use super::*;

fn bed() -> Bed {
    let mut updated = window("updated", 60, 10);
    updated.update_within = Some(Duration::from_secs(600));
    updated.select = select(&[], &["u"]);
    let mut plain = window("plain", 60, 10);
    plain.select = select(&[], &["v", "w"]);
    Bed::new(settings(&[], &[plain, updated]))
}

fn fields(n: f64) -> [(&'static str, Value); 3] {
    [("v", Value::Number(n)), ("w", Value::Number(0.1)), ("u", Value::Number(-n))]
}

const MADE: [&str; 3] = [
    "plain d/v 0+60 r1 n2 sum 3 1..2 1->2",
    "plain d/w 0+60 r1 n2 sum 0.2 0.1..0.1 0.1->0.1",
    "updated d/u 0+60 r1 n2 sum -3 -2..-1 -1->-2",
];

#[test]
fn open_windows_outlive_a_restart() {
    for saves in 0..4 {
        let mut bed = bed();
        bed.values("d", 1.0, &fields(1.0));
        if saves & 1 == 1 {
            bed.save();
        }
        bed.restart();
        bed.values("d", 2.0, &fields(2.0));
        if saves & 2 == 2 {
            bed.save();
        }
        bed.restart();
        bed.values("d", 70.0, &fields(3.0));
        assert_eq!(bed.made(), MADE, "{saves}");
        bed.restart();
        assert_eq!(bed.values("d", 59.0, &fields(4.0)), "v=4 w=0.1 late");
        assert_eq!(bed.made(), ["updated d/u 0+60 r2 n3 sum -7 -4..-1 -1->-4"], "{saves}");
        assert!(bed.journal.iter().map(|piece| piece.number).eq(1..=bed.journal.len() as u64), "no gap");
    }
}

#[test]
fn pieces_that_a_checkpoint_includes_count_once() {
    let mut bed = bed();
    let mut batch = Batch::default();
    bed.reading(&mut batch, "d", 1.0, &fields(1.0));
    bed.rules.apply(&mut batch, &mut bed.made);
    // Nobody has taken the piece yet.
    bed.checkpoint = Some(bed.rules.checkpoint());
    bed.values("d", 2.0, &fields(2.0));
    assert_eq!(bed.journal.len(), 2, "the one that the checkpoint has closed, and the one since");
    assert!(bed.rules.journal_bytes() > 0 && bed.rules.journal_bytes() < 40);
    bed.restart();
    bed.values("d", 70.0, &fields(3.0));
    assert_eq!(bed.made(), MADE);
}

#[test]
fn a_checkpoint_alone_is_enough() {
    let mut bed = bed();
    bed.values("d", 1.0, &fields(1.0));
    bed.values("d", 2.0, &fields(2.0));
    bed.save();
    let last = bed.journal.last().unwrap().number;
    bed.journal.clear();
    bed.restart();
    assert_eq!(bed.rules.journal_bytes(), 0);
    bed.values("d", 70.0, &fields(3.0));
    assert_eq!(bed.made(), MADE);
    assert_eq!(bed.journal[0].number, last + 1);
}

#[test]
fn what_silence_closed_stays_closed_and_silence_begins_anew() {
    let mut bed = bed();
    bed.values("d", 1.0, &fields(1.0));
    bed.pass(70);
    assert_eq!(bed.made().len(), 3);
    bed.values("e", 1.0, &fields(1.0));
    bed.pass(60);
    bed.restart();
    assert_eq!(bed.values("d", 2.0, &fields(1.0)), "v=1 w=0.1 late");
    assert_eq!(bed.made(), ["updated d/u 0+60 r2 n2 sum -2 -1..-1 -1->-1"]);
    bed.pass(69);
    assert_eq!(bed.made().len(), 0);
    bed.pass(1);
    assert_eq!(bed.made().len(), 3, "those of the other device");
}

#[test]
fn a_changed_rule_gives_up_its_windows_and_no_others() {
    type Change = fn(&mut config::Rules);
    let cases: [(&str, Change, &[usize], u64); 9] = [
        ("nothing", |_| {}, &[0, 1, 2], 0),
        ("order", |settings| settings.windows.reverse(), &[0, 1, 2], 0),
        ("forwarding", |settings| settings.windows[0].forward_raw = true, &[0, 1, 2], 0),
        ("lateness", |settings| settings.windows[0].lateness = Duration::from_secs(9), &[0, 1, 2], 0),
        ("a new filter", |settings| settings.filters.push(filter("f", Select::default())), &[0, 1, 2], 0),
        ("length", |settings| settings.windows[0].every = Duration::from_secs(30), &[2], 4),
        ("name", |settings| settings.windows[0].name = "other".to_owned(), &[2], 4),
        ("selection", |settings| settings.windows[0].select.measurements.truncate(1), &[0, 2], 2),
        ("gone", |settings| drop(settings.windows.remove(1)), &[0, 1], 2),
    ];
    for (what, change, kept, discarded) in cases {
        for (saved, running) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut bed = bed();
            bed.values("d", 1.0, &fields(1.0));
            bed.values("d", 2.0, &fields(2.0));
            if saved {
                bed.save();
            }
            let mut changed = bed.settings.clone();
            change(&mut changed);
            // A reload and a restart come to the same.
            if running {
                bed.reload_with(changed);
            } else {
                bed.restart_with(changed);
            }
            assert_eq!(bed.count(Count::StateDiscarded, "rule_changed"), discarded, "{what}");
            // Without a checkpoint since, the next run finds the change in the journal, and counts nothing twice.
            bed.restart();
            assert_eq!(bed.count(Count::StateDiscarded, "rule_changed"), discarded, "{what}");
            bed.values("d", 100.0, &fields(3.0));
            let mut made = bed.made();
            made.sort();
            let expected: Vec<&str> = kept.iter().map(|index| MADE[*index]).collect();
            made.retain(|made| made.contains(" 0+60 "));
            assert_eq!(made, expected, "{what}");
        }
    }
}

#[test]
fn rules_that_change_while_values_come_are_the_same_after_a_restart() {
    for restart in 0..4 {
        let mut bed = bed();
        let plain = bed.settings.clone();
        let mut more = plain.clone();
        let all = window("all", 60, 10);
        more.windows.insert(0, all);
        let mut fewer = plain.clone();
        fewer.windows.remove(1);
        bed.values("d", 1.0, &fields(1.0));
        for (at, settings) in [more, fewer, settings(&[], &[]), plain].into_iter().enumerate() {
            bed.reload_with(settings);
            if restart == at {
                bed.restart();
            }
            bed.values("d", 2.0 + at as f64, &fields(2.0));
            bed.values(&format!("d{at}"), 1.0, &fields(2.0));
        }
        bed.restart();
        assert_eq!(bed.values("d", 6.0, &fields(3.0)), "");
        bed.values("d", 70.0, &fields(4.0));
        // With no rules all begins anew: the values that came since, of the device and of the one that came with them.
        let expected = ["plain d/v 0+60 r1 n2 sum 5 2..3 2->3", "plain d/w 0+60 r1 n2 sum 0.2 0.1..0.1 0.1->0.1"];
        assert_eq!(bed.made()[..2], expected, "{restart}");
        assert_eq!(bed.count(Count::StateDiscarded, "damaged"), 0);
        bed.pass(3_600);
        assert_eq!(bed.made().iter().filter(|made| made.starts_with("plain d3/v 0+60 r1 n1 ")).count(), 1);
    }
}

#[test]
fn a_rule_that_comes_back_begins_anew() {
    let mut bed = bed();
    let (with, without) = (bed.settings.clone(), settings(&[], &[]));
    bed.values("d", 1.0, &fields(1.0));
    bed.restart_with(without);
    assert!(bed.rules.is_empty());
    assert_eq!(bed.rules.usage(), (0, 0, 0));
    bed.restart_with(with);
    bed.values("d", 2.0, &fields(2.0));
    bed.values("d", 70.0, &fields(2.0));
    assert_eq!(bed.made()[0], "plain d/v 0+60 r1 n1 sum 2 2..2 2->2");
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_said_and_counted() {
    let mut left = bed();
    left.values("d", 1.0, &fields(1.0));
    left.save();
    let good = left.checkpoint.clone().unwrap();
    let cut = good[..good.len() - 1].to_vec();
    for bad in [vec![], vec![2], vec![1], vec![1, 0xa0], cut, [good, vec![0]].concat()] {
        let mut bed = bed();
        bed.journal.clone_from(&left.journal);
        bed.checkpoint = Some(bad);
        let last = bed.journal.last().unwrap().number;
        bed.restart();
        assert_eq!(bed.count(Count::StateDiscarded, "damaged"), 1);
        assert_eq!(bed.journal.last().unwrap().number, last + 1, "numbers go on, and the rules are told again");
        bed.values("d", 2.0, &fields(2.0));
        bed.save();
        bed.restart();
        bed.values("d", 70.0, &fields(2.0));
        assert_eq!(bed.made()[0], "plain d/v 0+60 r1 n1 sum 2 2..2 2->2");
    }
}

#[test]
fn missing_and_damaged_pieces_are_said_and_counted() {
    let mut bed = bed();
    for n in 0..10 {
        bed.values(if n < 5 { "d" } else { "e" }, f64::from(n), &fields(1.0));
    }
    // One value of `d` twice: a piece that is missing; half a piece; the piece that names `e`.
    bed.journal.remove(2);
    bed.journal[2].bytes.truncate(4);
    bed.journal.retain(|piece| piece.number != 6);
    bed.restart();
    assert_eq!(bed.count(Count::StateDiscarded, "damaged"), 1 + 1 + 1 + 4 * 3);
    bed.values("d", 70.0, &fields(2.0));
    assert_eq!(bed.made()[0], "plain d/v 0+60 r1 n3 sum 3 1..1 1->1");
    bed.values("e", 10.0, &fields(1.0));
    bed.values("e", 70.0, &fields(1.0));
    assert_eq!(bed.made()[0], "plain e/v 0+60 r1 n1 sum 1 1..1 1->1");
}

#[test]
fn a_filter_that_comes_later_takes_nothing_out_of_windows() {
    let mut bed = bed();
    let plain = bed.settings.clone();
    bed.values("d", 1.0, &fields(1.0));
    bed.values("d", 2.0, &fields(2.0));
    let mut filtered = plain.clone();
    filtered.filters.push(Filter { action: FilterAction::Drop, ..filter("none", select(&[], &["u", "w"])) });
    bed.restart_with(filtered);
    // A new measurement gets a number in the journal that no other has.
    let mut more = fields(3.0).to_vec();
    more.push(("w2", Value::Number(5.0)));
    assert_eq!(bed.values("d", 3.0, &more), "w2=5");
    bed.restart_with(plain);
    bed.values("d", 70.0, &fields(4.0));
    assert_eq!(bed.made(), [MADE[0].replace("n2 sum 3 1..2 1->2", "n3 sum 6 1..3 1->3").as_str(), MADE[1], MADE[2]]);
}
