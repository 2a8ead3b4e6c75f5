//! Replay and purge: what they change, seen through the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidegate::reading::{Record, Value};

use super::rig::{Rig, deliver, drain, undelivered, wait_backlog, wait_durable};
use tidegate::outbox::Lane;

#[test]
fn what_was_delivered_and_kept_is_delivered_again_from_a_time_on() {
    let mut rig = Rig::new();
    rig.settings.keep_delivered = Duration::from_secs(3_600);
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 3_000);
    let all = drain(&mut outbox.reader());
    deliver(&outbox, &all);
    drop(all);
    wait_backlog(&outbox, 0);
    closer.close().unwrap();
    let status = rig.json(&["status"]);
    assert_eq!(status["waiting"]["total"], 0, "{status:#}");
    assert!(status["kept_segments"].as_u64().unwrap() > 3, "{status:#}");
    assert_eq!(rig.export(&[]).len(), 0);
    assert_eq!(rig.export(&["--all"]).len(), 3_000);

    // A start knows them as delivered.
    let (outbox, closer) = rig.open();
    assert!(undelivered(&drain(&mut outbox.reader())).0.is_empty());
    assert_eq!(outbox.backlog().records, 0);
    closer.close().unwrap();

    let nothing = rig.tool(&["replay", "--from", "2027-01-01", "--yes"]);
    assert!(nothing.code == 0 && nothing.out.contains("no delivered record"), "{nothing:?}");
    // Record 1,200 was received at 12:20.
    let from = ["replay", "--from", "2026-05-04T12:20:00Z", "--device", "d*"];
    let tried = rig.tool(&[&from[..], &["--dry-run"]].concat());
    assert!(tried.out.contains("1800 delivered records (1800 raw)"), "{tried:?}");
    assert_eq!(rig.export(&[]).len(), 0, "only tried");
    let done = rig.tool(&[&from[..], &["--yes"]].concat());
    assert!(done.code == 0 && done.out.contains("1800 records will be delivered again"), "{done:?}");
    assert_eq!(rig.json(&["status"])["waiting"]["total"], 1_800);

    let (outbox, closer) = rig.open();
    let all = drain(&mut outbox.reader());
    let (numbers, _) = undelivered(&all);
    assert_eq!(numbers, (1_200..3_000).collect::<Vec<_>>());
    assert!(
        all.iter().all(|stored| (0..stored.batch.len()).all(|at| stored.is_replayed(at) || stored.is_delivered(at)))
    );
    // A half of it, then a power cut: the rest comes at the next start, marked too.
    deliver(&outbox, &all[..all.len() / 2]);
    let left: usize = all[all.len() / 2..]
        .iter()
        .map(|stored| (0..stored.batch.len()).filter(|at| !stored.is_delivered(*at)).count())
        .sum();
    let mut fresh = rig.readings(10);
    wait_durable(&outbox, outbox.append(Lane::Raw, &mut fresh, None, &[]));
    let fresh = drain(&mut outbox.reader());
    assert!(fresh.iter().any(|stored| !stored.is_replayed(0) && !stored.is_delivered(0)));
    drop((all, fresh));
    closer.close().unwrap();
    assert_eq!(rig.json(&["status"])["waiting"]["total"], left as u64 + 10);
    let (outbox, closer) = rig.open();
    let all = drain(&mut outbox.reader());
    assert_eq!(undelivered(&all).0.len(), left + 10);
    deliver(&outbox, &all);
    drop(all);
    wait_backlog(&outbox, 0);
    closer.close().unwrap();
    let (outbox, closer) = rig.open();
    assert_eq!(undelivered(&drain(&mut outbox.reader())).0.len(), 0, "once more, not for ever");
    closer.close().unwrap();
}

#[test]
fn without_keeping_there_is_little_to_replay() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 1_000);
    let all = drain(&mut outbox.reader());
    deliver(&outbox, &all);
    drop(all);
    wait_backlog(&outbox, 0);
    closer.close().unwrap();
    // The newest segment stays for its cursor and receipts.
    let answer = rig.tool(&["replay", "--from", "2026-05-04", "--dry-run"]);
    assert!(answer.code == 0 && answer.out.contains("the oldest that is still there"), "{answer:?}");
}

#[test]
fn kept_segments_go_when_their_time_has_come_and_first_when_room_is_needed() {
    let mut rig = Rig::new();
    rig.settings.keep_delivered = Duration::from_secs(2);
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 2_000);
    let all = drain(&mut outbox.reader());
    deliver(&outbox, &all);
    drop(all);
    let segments = outbox.backlog().segments;
    assert!(segments > 3, "{segments}");
    let deadline = tidegate::clock::instant() + Duration::from_secs(20);
    while outbox.backlog().segments > 1 {
        assert!(tidegate::clock::instant() < deadline, "{:?}", outbox.backlog());
        std::thread::sleep(Duration::from_millis(50));
    }
    closer.close().unwrap();

    let mut rig = Rig::new();
    rig.settings.keep_delivered = Duration::from_secs(86_400);
    rig.settings.size_max = 6 << 20;
    let (outbox, closer) = rig.open();
    for _ in 0..6 {
        rig.store(&outbox, 1_000);
        let all = drain(&mut outbox.reader());
        deliver(&outbox, &all);
        drop(all);
        wait_backlog(&outbox, 0);
        assert!(outbox.backlog().bytes <= 6 << 20, "{:?}", outbox.backlog());
    }
    let evicted = rig.counters.counter(tidegate::counters::Count::Evicted, "raw").get();
    assert_eq!(evicted, 0, "what is delivered goes without a gap");
    assert!(outbox.backlog().segments > 2, "{:?}", outbox.backlog());
    closer.close().unwrap();
}

#[test]
fn what_is_purged_is_declared_and_the_rest_is_delivered() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 3_000);
    let mut aggregates = rig.aggregates(20);
    wait_durable(&outbox, outbox.append(Lane::Aggregate, &mut aggregates, None, &[]));
    closer.close().unwrap();
    let segments = rig.json(&["list"]).as_array().unwrap().len();

    let unclear = rig.tool(&["purge", "--yes"]);
    assert!(unclear.code == 2 && unclear.err.contains("--all"), "{unclear:?}");
    let tried = rig.json(&["purge", "--to", "2026-05-04T12:25:00Z", "--lane", "raw", "--dry-run"]);
    assert_eq!((&tried["raw"], &tried["done"]), (&1_500.into(), &false.into()), "{tried:#}");
    let done = rig.json(&["purge", "--to", "2026-05-04T12:25:00Z", "--lane", "raw", "--yes"]);
    assert_eq!((&done["raw"], &done["aggregate"], &done["done"]), (&1_500.into(), &0.into(), &true.into()), "{done:#}");
    let removed = done["segments_removed"].as_u64().unwrap() as usize;
    assert!(removed > 1, "{done:#}");
    assert_eq!(rig.json(&["list"]).as_array().unwrap().len(), segments - removed);
    let by_device = rig.json(&["purge", "--device", "d3", "--yes"]);
    assert_eq!(by_device["raw"], 375, "{by_device:#}");
    assert_eq!(rig.json(&["status"])["waiting"]["total"], 1_520 - 375);

    let (outbox, closer) = rig.open();
    let all = drain(&mut outbox.reader());
    let (numbers, others) = undelivered(&all);
    assert_eq!(numbers, (1_500..3_000).filter(|n| n % 4 != 3).collect::<Vec<_>>());
    let gaps: Vec<_> =
        others.iter().filter_map(|record| if let Record::Gap(gap) = record { Some(gap) } else { None }).collect();
    assert!(gaps.iter().all(|gap| &*gap.cause == "purged"), "{gaps:?}");
    assert_eq!(gaps.iter().map(|gap| gap.count).sum::<u64>(), 1_500 + 375, "{gaps:?}");
    assert_eq!(others.iter().filter(|record| matches!(record, Record::Aggregate(_))).count(), 20);
    deliver(&outbox, &all);
    let again = drain(&mut outbox.reader());
    deliver(&outbox, &again);
    drop((all, again));
    wait_backlog(&outbox, 0);
    closer.close().unwrap();
    let (outbox, closer) = rig.open();
    let (numbers, others) = undelivered(&drain(&mut outbox.reader()));
    assert_eq!((numbers.len(), others.len()), (0, 0), "{others:?}");
    closer.close().unwrap();
}

#[test]
fn all_of_it_can_be_given_up_and_what_was_set_aside_too() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 2_000);
    closer.close().unwrap();
    let aside = rig.outbox_dir().join("quarantine/0000000000000099");
    std::fs::create_dir_all(&aside).unwrap();
    std::fs::write(aside.join("db"), vec![7; 1_000]).unwrap();
    let status = rig.json(&["status"]);
    assert_eq!(status["quarantine"][0]["bytes"], 1_000, "{status:#}");
    assert_eq!(rig.tool(&["verify"]).code, 0);
    assert_eq!(rig.tool(&["verify", "--quarantine"]).code, 1);
    let done = rig.json(&["purge", "--all", "--quarantine", "--yes"]);
    assert_eq!((&done["raw"], &done["quarantine_deleted"]), (&2_000.into(), &1.into()), "{done:#}");
    assert!(!aside.exists());
    assert_eq!(rig.json(&["status"])["waiting"]["total"], 0);
    assert_eq!(rig.json(&["list"]).as_array().unwrap().len(), 1, "the newest stays for its cursor and receipts");
    let (outbox, closer) = rig.open();
    let (numbers, others) = undelivered(&drain(&mut outbox.reader()));
    assert!(numbers.is_empty(), "{numbers:?}");
    let counts: Vec<u64> =
        others.iter().filter_map(|record| if let Record::Gap(gap) = record { Some(gap.count) } else { None }).collect();
    assert_eq!(counts, [2_000], "one gap: {others:?}");
    closer.close().unwrap();
}

/// Stores, delivers, stops, replays and purges at random: each record is delivered, or given up and declared, and what
/// was ordered again comes again.
#[test]
fn whatever_is_ordered_no_record_is_forgotten() {
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(fastrand::u64(..));
    println!("seed: TIDEGATE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rig = Rig::new();
    rig.settings.keep_delivered = Duration::from_secs(3_600);
    let mut stored = 0_i64;
    let mut delivered: BTreeMap<i64, u32> = BTreeMap::new();
    let mut wanted: BTreeMap<i64, u32> = BTreeMap::new();
    let mut purged: BTreeSet<i64> = BTreeSet::new();
    let mut declared = 0;
    for round in 0..12 {
        let (outbox, closer) = rig.open();
        let count = random.usize(50..800);
        rig.store(&outbox, count);
        wanted.extend((stored..stored + count as i64).map(|n| (n, 1)));
        stored += count as i64;
        // The last round delivers all.
        let share = if round == 11 { 100 } else { random.usize(0..=100) };
        let all = drain(&mut outbox.reader());
        for chunk in &all {
            let mut seqs = Vec::new();
            for (at, record) in chunk.batch.records.iter().enumerate() {
                if chunk.is_delivered(at) || random.usize(0..100) >= share {
                    continue;
                }
                seqs.push(chunk.first_seq + at as u64);
                match record {
                    Record::Reading(reading) => {
                        let Value::Number(n) = chunk.batch.fields_of(reading)[0].value else { panic!("a number") };
                        let times = delivered.entry(n as i64).or_default();
                        assert_eq!(chunk.is_replayed(at), *times > 0, "record {n} in round {round}");
                        *times += 1;
                    }
                    Record::Gap(gap) => declared += gap.count,
                    _ => {}
                }
            }
            outbox.delivered(chunk.segment, chunk.lane, &seqs);
        }
        drop(all);
        closer.close().unwrap();
        if round == 11 {
            break;
        }
        // Record n was received n seconds after noon.
        let time = |n: i64| {
            let at = 12 * 3_600 + n;
            format!("2026-05-04T{:02}:{:02}:{:02}Z", at / 3_600, at / 60 % 60, at % 60)
        };
        let (from, device) = (random.i64(0..stored), random.i64(0..4));
        let pattern = format!("d{device}");
        if random.bool() {
            let answer = rig.json(&["replay", "--from", &time(from), "--device", &pattern, "--yes"]);
            let again: Vec<i64> =
                (from..stored).filter(|n| n % 4 == device && delivered.get(n) == wanted.get(n)).collect();
            let again: Vec<i64> =
                again.into_iter().filter(|n| delivered.contains_key(n) && !purged.contains(n)).collect();
            assert_eq!(answer["raw"], again.len(), "round {round}: {answer:#}");
            again.iter().for_each(|n| *wanted.get_mut(n).unwrap() += 1);
        } else if random.bool() {
            let to = (from + 200).min(stored);
            let (start, end) = (time(from), time(to));
            let answer = rig.json(&["purge", "--from", &start, "--to", &end, "--device", &pattern, "--yes"]);
            let gone: Vec<i64> = (from..to).filter(|n| n % 4 == device && delivered.get(n) != wanted.get(n)).collect();
            assert_eq!(answer["raw"], gone.len(), "round {round}: {answer:#}");
            for n in gone {
                purged.insert(n);
                let times = delivered.get(&n).copied().unwrap_or(0);
                wanted.insert(n, times);
                if times == 0 {
                    wanted.remove(&n);
                }
            }
        }
    }
    assert_eq!(delivered, wanted);
    // Gaps that were stored in the last round wait.
    let (outbox, closer) = rig.open();
    let (numbers, others) = undelivered(&drain(&mut outbox.reader()));
    assert_eq!(numbers, [0; 0]);
    declared += others.iter().map(|record| if let Record::Gap(gap) = record { gap.count } else { 0 }).sum::<u64>();
    assert!(declared >= purged.len() as u64, "{declared} declared, {} purged", purged.len());
    closer.close().unwrap();
}
