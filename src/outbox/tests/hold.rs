//! Records that wait in memory for Kafka: what is acknowledged is delivered or on the disk, at every moment.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::config::Persist;

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.settings.persist = Persist::WhenBehind;
    rig
}

/// What would differ if anything had been written: of each file its inode, length and times.
fn prints(path: &Path) -> BTreeMap<PathBuf, (u64, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        let print = (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        found.insert(entry.path(), print);
        if metadata.is_dir() {
            found.extend(prints(&entry.path()));
        }
    }
    found
}

/// What Kafka has: the value of `n` by stream and number.
type Taken = BTreeMap<(String, u64), i64>;

/// Takes note of all readings that are not skipped, as Kafka would.
fn take(taken: &mut Taken, stored: &Stored) -> u64 {
    let mut twice = 0;
    for (at, record) in stored.batch.records.iter().enumerate().filter(|(at, _)| !stored.is_delivered(*at)) {
        let Record::Reading(reading) = record else { continue };
        let Value::Number(n) = stored.batch.fields_of(reading)[0].value else { panic!("a number") };
        let before = taken.insert((stored.stream.to_string(), stored.first_seq + at as u64), n as i64);
        twice += u64::from(before.is_some());
        assert!(before.is_none_or(|before| before == n as i64), "a number was used twice");
    }
    twice
}

fn seqs(stored: &Stored) -> Vec<u64> {
    (0..stored.batch.len() as u64).map(|at| stored.first_seq + at).collect()
}

/// Delivers all that comes, until nothing comes for a while.
async fn deliver_all(outbox: &Outbox, reader: &mut Reader, taken: &mut Taken) -> u64 {
    let mut twice = 0;
    while let Some(stored) = next(reader).await {
        twice += take(taken, &stored);
        outbox.delivered(stored.segment, stored.lane, &seqs(&stored));
    }
    twice
}

#[tokio::test]
async fn an_hour_online_leaves_the_directory_untouched() {
    let mut rig = rig();
    rig.settings.hold = Duration::from_secs(10);
    rig.settings.commit_bytes = 1 << 20;
    let (outbox, closer) = rig.open();
    let session: Name = "s".into();
    let handle = outbox.clone();
    let mut uplink = outbox.reader();
    let uplink = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let Ok(stored) = tokio::time::timeout(Duration::from_millis(1), uplink.next()).await else {
                // In any order, and not all at once.
                fastrand::shuffle(&mut held);
                for (segment, lane, seq) in held.drain(..) {
                    handle.delivered(segment, lane, &[seq]);
                }
                continue;
            };
            let stored = stored.unwrap();
            held.extend(seqs(&stored).into_iter().map(|seq| (stored.segment, stored.lane, seq)));
        }
    });
    const READINGS: u64 = 360_000;
    let mut before = None;
    let mut sent: u64 = 0;
    while sent < READINGS {
        let mut last = 0;
        for _ in 0..60 {
            let mut batch = rig.readings(20);
            let receipts: Vec<_> =
                (0..20).map(|n| Receipt { packet_id: ((sent + n) % 65_535 + 1) as u16, hash: sent + n }).collect();
            last = outbox.append(Lane::Raw, &mut batch, Some(&session), &receipts);
            sent += 20;
        }
        durable(&outbox, last).await;
        before.get_or_insert_with(|| prints(rig.dir.path()));
    }
    assert_eq!(Some(prints(rig.dir.path())), before);
    assert_eq!((rig.count(Count::Unwritten, ""), rig.count(Count::Commits, "")), (sent, 0));
    assert_eq!(outbox.backlog().records, 0);
    uplink.abort();
    let _ = uplink.await;
    drop(outbox);
    closer.close().unwrap();
    // The next run knows nothing of it, and has nothing to declare.
    let (outbox, closer) = rig.open();
    assert!(next(&mut outbox.reader()).await.is_none());
    closer.close().unwrap();
}

#[tokio::test]
async fn the_run_is_known_before_its_first_record_leaves_and_its_end_is_declared() {
    let mut rig = rig();
    let (outbox, closer) = rig.open();
    let run = outbox.run().to_owned();
    let mut reader = outbox.reader();
    let mut batch = rig.readings(3);
    let number = outbox.append(Lane::Raw, &mut batch, None, &[]);
    let stored = next(&mut reader).await.unwrap();
    let manifest = std::fs::read_to_string(rig.dir.path().join("outbox/MANIFEST")).unwrap();
    assert!(manifest.contains(&run), "{manifest}");
    outbox.delivered(stored.segment, stored.lane, &seqs(&stored));
    durable(&outbox, number).await;
    crash(&mut rig, outbox, closer);
    for _ in 0..2 {
        let (outbox, closer) = rig.open();
        let (readings, others, _) = drain(&mut outbox.reader()).await;
        assert!(readings.is_empty());
        let ends: Vec<_> = others
            .iter()
            .filter_map(|record| if let Record::StreamEnd(end) = record { Some(end) } else { None })
            .map(|end| (end.stream.to_string(), end.last))
            .collect();
        assert!(ends.contains(&(format!("{run}.raw"), 0)), "{ends:?}");
        crash(&mut rig, outbox, closer);
    }
}

#[tokio::test]
async fn what_is_not_delivered_in_time_is_written_and_what_is_by_then_is_not_sent_again() {
    let mut rig = rig();
    let (outbox, closer) = rig.open();
    let mut reader = outbox.reader();
    let mut taken = Taken::new();
    // Released, so that there is a hole before what is written.
    let mut batch = rig.readings(50);
    let number = outbox.append(Lane::Raw, &mut batch, None, &[]);
    let stored = next(&mut reader).await.unwrap();
    take(&mut taken, &stored);
    outbox.delivered(stored.segment, stored.lane, &seqs(&stored));
    durable(&outbox, number).await;
    for round in 0..3 {
        let mut batch = rig.readings(50);
        let number = outbox.append(Lane::Raw, &mut batch, None, &[]);
        let stored = next(&mut reader).await.unwrap();
        let some: Vec<u64> = seqs(&stored).into_iter().filter(|seq| seq % 3 == round).collect();
        outbox.delivered(stored.segment, stored.lane, &some);
        // Reported while it is being written, or after.
        durable(&outbox, number).await;
        outbox.delivered(stored.segment, stored.lane, &[some[0], some[0] + 1]);
    }
    assert!(rig.count(Count::Commits, "") > 0);
    assert_eq!(outbox.backlog().records, 150 - 50 - 3);
    // Nothing that was given is given again, though by now it stands in a segment.
    assert!(next(&mut reader).await.is_none());
    let handle = outbox.clone();
    crash(&mut rig, outbox, closer);
    drop(handle);
    let (outbox, closer) = rig.open();
    assert_eq!(rig.count(Count::Damaged, "raw"), 0, "a hole is no damage");
    let (readings, others, _) = drain(&mut outbox.reader()).await;
    assert!(others.iter().all(|record| matches!(record, Record::StreamEnd(_))), "{others:?}");
    let known = readings.len();
    // The last reports may have come after the last commit.
    assert!((97..=103).contains(&known), "{known}");
    assert!(readings.iter().all(|(_, seq, n)| *seq == *n as u64 && *n > 50), "{readings:?}");
    closer.close().unwrap();
}

#[tokio::test]
async fn a_rewind_gives_held_records_again_less_those_that_are_delivered() {
    let mut rig = rig();
    rig.settings.hold = Duration::from_secs(10);
    let (outbox, closer) = rig.open();
    let mut reader = outbox.reader();
    for _ in 0..3 {
        let mut batch = rig.readings(10);
        outbox.append(Lane::Raw, &mut batch, None, &[]);
        let stored = next(&mut reader).await.unwrap();
        outbox.delivered(stored.segment, stored.lane, &[stored.first_seq + 4]);
    }
    reader.rewind();
    let (readings, ..) = drain(&mut reader).await;
    let expected: Vec<u64> = (1..=30).filter(|seq| seq % 10 != 5).collect();
    assert_eq!(readings.iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>(), expected);
    // A clean stop stores them, and the next run gives just these.
    drop(outbox);
    closer.close().unwrap();
    let (outbox, closer) = rig.open();
    let (readings, others, _) = drain(&mut outbox.reader()).await;
    assert_eq!(readings.iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>(), expected);
    assert!(others.is_empty(), "{others:?}");
    closer.close().unwrap();
}

#[tokio::test]
async fn what_has_a_journal_is_stored_first_and_so_is_what_comes_behind_it() {
    let mut rig = rig();
    rig.settings.hold = Duration::from_secs(10);
    rig.settings.commit_interval = Duration::from_millis(200);
    rig.settings.commit_interval_max = Duration::from_millis(200);
    let (outbox, closer) = rig.open();
    outbox.begin_journal(b"state").unwrap();
    let mut reader = outbox.reader();
    let mut first = rig.readings(5);
    outbox.append(Lane::Raw, &mut first, None, &[]);
    let held = next(&mut reader).await.unwrap();
    assert_eq!(held.segment, crate::outbox::hold::OF_THIS_RUN);
    let mut second = rig.readings(5);
    let journal = [(1, b"piece".to_vec())];
    let number = outbox.append_all(Append { raw: Some(&mut second), journal: &journal, ..Append::default() });
    let mut third = rig.readings(5);
    outbox.append(Lane::Raw, &mut third, None, &[]);
    let early = tokio::time::timeout(Duration::from_millis(100), reader.next()).await;
    assert!(early.is_err(), "given before it was stored: {early:?}");
    durable(&outbox, number).await;
    let (readings, ..) = drain(&mut reader).await;
    assert_eq!(readings.iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>(), (6..=15).collect::<Vec<_>>());
    closer.close().unwrap();
}

/// Found by a kill: the cursor that went with the second commit said that the first was delivered.
#[tokio::test]
async fn what_is_delivered_of_a_commit_says_nothing_of_the_one_before() {
    let mut rig = rig();
    let (outbox, closer) = rig.open();
    outbox.begin_journal(b"state").unwrap();
    let mut reader = outbox.reader();
    let mut first = rig.readings(5);
    let journal = [(1, b"piece".to_vec())];
    let number = outbox.append_all(Append { raw: Some(&mut first), journal: &journal, ..Append::default() });
    durable(&outbox, number).await;
    let stored = next(&mut reader).await.unwrap();
    assert_eq!(stored.first_seq, 1);
    let mut second = rig.readings(5);
    let number = outbox.append(Lane::Raw, &mut second, None, &[]);
    let held = next(&mut reader).await.unwrap();
    outbox.delivered(held.segment, held.lane, &[6, 7, 8, 10]);
    durable(&outbox, number).await;
    crash(&mut rig, outbox, closer);
    let (outbox, closer) = rig.open();
    let (readings, ..) = drain(&mut outbox.reader()).await;
    assert_eq!(readings.iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 9]);
    closer.close().unwrap();
}

#[tokio::test]
async fn a_source_short_of_acknowledgements_does_not_wait_for_the_hold() {
    let mut rig = rig();
    rig.settings.hold = Duration::from_secs(10);
    let (outbox, closer) = rig.open();
    let start = clock::instant();
    for _ in 0..30 {
        let mut batch = rig.readings(15);
        let number = outbox.append(Lane::Raw, &mut batch, None, &[]);
        outbox.hurry();
        durable(&outbox, number).await;
    }
    let took = start.elapsed();
    // The first few wait a little for Kafka, which does not answer here; then that is no longer waited for.
    assert!(took < Duration::from_secs(5), "{took:?} for 30 windows");
    assert!(rig.count(Count::Commits, "") >= 20);
    closer.close().unwrap();
}

#[tokio::test]
async fn stored_receipts_are_void_before_a_message_with_their_identifier_is_acknowledged() {
    let session: Name = "s".into();
    let receipt = |packet_id: u16| Receipt { packet_id, hash: 7 };
    let mut rig = rig();
    rig.settings.persist = Persist::Always;
    let (outbox, closer) = rig.open();
    let mut batch = rig.readings(1);
    let number = outbox.append(Lane::Raw, &mut batch, Some(&session), &[receipt(1), receipt(2)]);
    durable(&outbox, number).await;
    let (.., all) = drain(&mut outbox.reader()).await;
    deliver(&outbox, &all);
    drop(all);
    crash(&mut rig, outbox, closer);
    rig.settings.persist = Persist::WhenBehind;
    rig.settings.hold = Duration::from_secs(10);
    // After identifier 2 came a start sees that the broker uses identifiers again, and trusts none of them.
    let again = Receipt { packet_id: 2, hash: 0 };
    for (packet_id, known) in [(3, vec![receipt(1), receipt(2)]), (2, vec![again; 2])] {
        let (outbox, closer) = rig.open();
        assert_eq!(known_to(&outbox, "s").len(), 2);
        let mut reader = outbox.reader();
        let (.., all) = drain(&mut reader).await;
        deliver(&outbox, &all);
        drop(all);
        let mut batch = rig.readings(1);
        let number = outbox.append(Lane::Raw, &mut batch, Some(&session), &[receipt(packet_id)]);
        let mut taken = Taken::new();
        deliver_all(&outbox, &mut reader, &mut taken).await;
        durable(&outbox, number).await;
        assert_eq!(taken.len(), 1);
        crash(&mut rig, outbox, closer);
        let (outbox, closer) = rig.open();
        assert_eq!(known_to(&outbox, "s"), known, "after identifier {packet_id} came");
        crash(&mut rig, outbox, closer);
    }
    // Nor are those trusted that are stored from then on, and nothing is to be made void for them any more.
    let (outbox, closer) = rig.open();
    let mut reader = outbox.reader();
    let (.., all) = drain(&mut reader).await;
    deliver(&outbox, &all);
    drop(all);
    let mut batch = rig.readings(1);
    let number = outbox.append(Lane::Raw, &mut batch, Some(&session), &[receipt(1)]);
    outbox.hurry();
    durable(&outbox, number).await;
    let commits = rig.count(Count::Commits, "");
    let mut batch = rig.readings(1);
    let number = outbox.append(Lane::Raw, &mut batch, Some(&session), &[receipt(1)]);
    deliver_all_briefly(&outbox, &mut reader, &mut Taken::new()).await;
    durable(&outbox, number).await;
    assert_eq!((rig.count(Count::Commits, ""), rig.count(Count::Unwritten, "")), (commits, 3));
    crash(&mut rig, outbox, closer);
    let (outbox, closer) = rig.open();
    assert_eq!(known_to(&outbox, "s"), [again, again, receipt(1)]);
    closer.close().unwrap();
}

/// A commit of something else said nothing of Kafka, and yet the next record was measured from it on: a gateway with a
/// reading every ten seconds, whose cursor is stored in between, never came to write nothing again.
#[tokio::test]
async fn a_commit_without_raw_records_is_no_trial_of_kafka() {
    let mut rig = rig();
    let (outbox, closer) = rig.open();
    let mut reader = outbox.reader();
    let mut batch = rig.readings(1);
    let number = outbox.append(Lane::Raw, &mut batch, None, &[]);
    durable(&outbox, number).await;
    tokio::time::sleep(rig.settings.hold).await;
    deliver_all_briefly(&outbox, &mut reader, &mut Taken::new()).await;
    assert_eq!(rig.count(Count::Unwritten, ""), 0);
    for _ in 0..3 {
        // Kafka takes these at once; what comes between them is long ago by then.
        let mut batch = rig.readings(1);
        let number = outbox.append(Lane::Alarm, &mut batch, None, &[]);
        durable(&outbox, number).await;
        tokio::time::sleep(rig.settings.hold).await;
        let mut batch = rig.readings(1);
        let number = outbox.append(Lane::Raw, &mut batch, None, &[]);
        deliver_all_briefly(&outbox, &mut reader, &mut Taken::new()).await;
        durable(&outbox, number).await;
    }
    assert!(rig.count(Count::Unwritten, "") > 0, "Kafka is quick, and everything is written");
    closer.close().unwrap();
}

#[tokio::test]
async fn what_came_while_kafka_was_slow_is_given_as_soon_as_it_is_quick_again() {
    let mut rig = rig();
    rig.settings.hold = Duration::from_secs(20);
    rig.settings.commit_interval = Duration::from_secs(20);
    rig.settings.commit_interval_max = Duration::from_secs(20);
    let (outbox, closer) = rig.open();
    let mut reader = outbox.reader();
    // So many at once are written.
    let mut batch = rig.readings(1_000);
    let number = outbox.append(Lane::Raw, &mut batch, None, &[]);
    durable(&outbox, number).await;
    let (.., stored) = drain(&mut reader).await;
    let mut batch = rig.readings(5);
    outbox.append(Lane::Raw, &mut batch, None, &[]);
    let waiting = tokio::spawn(async move { (reader.next().await.unwrap().batch.len(), reader) });
    tokio::time::sleep(Duration::from_millis(50)).await;
    deliver(&outbox, &stored);
    // Sooner than the cursor is stored, which has the reader look too.
    let given = tokio::time::timeout(Duration::from_secs(3), waiting).await.expect("before it is written").unwrap();
    assert_eq!(given.0, 5);
    closer.close().unwrap();
}

#[tokio::test]
async fn receipts_of_released_messages_go_with_the_next_commit() {
    let session: Name = "s".into();
    let receipt = |packet_id: u16| Receipt { packet_id, hash: u64::from(packet_id) };
    let mut rig = rig();
    let (outbox, closer) = rig.open();
    let mut reader = outbox.reader();
    let mut taken = Taken::new();
    for id in 1..=10 {
        let mut batch = rig.readings(1);
        outbox.append(Lane::Raw, &mut batch, Some(&session), &[receipt(id)]);
        deliver_all_briefly(&outbox, &mut reader, &mut taken).await;
    }
    assert_eq!(rig.count(Count::Unwritten, ""), 10);
    // Nobody delivers this one.
    let mut batch = rig.readings(1);
    let number = outbox.append(Lane::Raw, &mut batch, Some(&session), &[receipt(11)]);
    durable(&outbox, number).await;
    crash(&mut rig, outbox, closer);
    let (outbox, closer) = rig.open();
    assert_eq!(known_to(&outbox, "s"), (1..=11).map(receipt).collect::<Vec<_>>());
    closer.close().unwrap();
}

/// Delivers what comes soon.
async fn deliver_all_briefly(outbox: &Outbox, reader: &mut Reader, taken: &mut Taken) {
    while let Ok(stored) = tokio::time::timeout(Duration::from_millis(30), reader.next()).await {
        let stored = stored.unwrap();
        take(taken, &stored);
        outbox.delivered(stored.segment, stored.lane, &seqs(&stored));
    }
}

/// Everything at random, and a crash: what was announced is in Kafka or comes after the restart, each number once.
#[tokio::test]
async fn at_any_moment_what_is_acknowledged_is_delivered_or_on_the_disk() {
    let rounds = std::env::var("TIDEGATE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(8);
    let given: Option<u64> = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    for _ in 0..rounds {
        let seed = given.unwrap_or_else(|| fastrand::u64(..));
        println!("seed {seed}");
        random_life(seed).await;
    }
}

fn note(there: &mut BTreeSet<(String, u64)>, ends: &mut BTreeMap<String, u64>, stored: &Stored) {
    for (at, record) in stored.batch.records.iter().enumerate().filter(|(at, _)| !stored.is_delivered(*at)) {
        there.insert((stored.stream.to_string(), stored.first_seq + at as u64));
        if let Record::StreamEnd(end) = record {
            ends.insert(end.stream.to_string(), end.last);
        }
    }
}

async fn random_life(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rig = rig();
    rig.settings.hold = Duration::from_millis(60);
    let session: Name = "s".into();
    let mut taken = Taken::new();
    // Everything that Kafka has, readings or not, by stream and number.
    let mut there: BTreeSet<(String, u64)> = BTreeSet::new();
    let mut acknowledged: BTreeSet<i64> = BTreeSet::new();
    let mut ends = BTreeMap::new();
    let mut gaps = Vec::new();
    for _ in 0..3 {
        let (outbox, closer) = rig.open();
        outbox.begin_journal(b"state").unwrap();
        let mut piece = 0;
        let mut reader = outbox.reader();
        let mut in_flight: Vec<(u64, Lane, u64)> = Vec::new();
        let mut appended: Vec<(u64, i64)> = Vec::new();
        let mut kafka_up = true;
        for _ in 0..random.usize(40..160) {
            match random.u32(..100) {
                0..45 => {
                    let from = rig.next + 1;
                    let mut batch = rig.readings(random.usize(1..12));
                    let receipt = Receipt { packet_id: random.u16(1..), hash: 1 };
                    let mut journal = Vec::new();
                    if random.u32(..10) == 0 {
                        piece += 1;
                        journal.push((piece, vec![7; 10]));
                    }
                    let number = outbox.append_all(Append {
                        raw: Some(&mut batch),
                        session: Some(&session),
                        receipts: &[receipt],
                        journal: &journal,
                        ..Append::default()
                    });
                    appended.extend((from..=rig.next).map(|n| (number, n)));
                }
                45..80 if kafka_up => {
                    if let Ok(stored) = tokio::time::timeout(Duration::from_millis(15), reader.next()).await {
                        let stored = stored.unwrap();
                        gaps.extend(stored.batch.records.iter().filter(|r| matches!(r, Record::Gap(_))).cloned());
                        take(&mut taken, &stored);
                        note(&mut there, &mut ends, &stored);
                        let skipped = |seq: &u64| stored.is_delivered((seq - stored.first_seq) as usize);
                        let sent = seqs(&stored).into_iter().filter(|seq| !skipped(seq));
                        in_flight.extend(sent.map(|seq| (stored.segment, stored.lane, seq)));
                    }
                }
                80..93 if kafka_up => {
                    random.shuffle(&mut in_flight);
                    let part = in_flight.len() / random.usize(1..3);
                    for (segment, lane, seq) in in_flight.drain(..part) {
                        outbox.delivered(segment, lane, &[seq]);
                    }
                }
                93..95 => kafka_up = !kafka_up,
                95..97 => outbox.hurry(),
                97 => {
                    reader.rewind();
                    in_flight.clear();
                }
                _ => tokio::time::sleep(Duration::from_millis(random.u64(..90))).await,
            }
        }
        let durable = *outbox.durable().borrow();
        acknowledged.extend(appended.iter().filter(|(number, _)| *number <= durable).map(|(_, n)| *n));
        if random.u32(..4) == 0 {
            drop(outbox);
            closer.close().unwrap();
            acknowledged.extend(appended.iter().map(|(_, n)| *n));
        } else {
            crash(&mut rig, outbox, closer);
        }
    }
    let (outbox, closer) = rig.open();
    let mut reader = outbox.reader();
    loop {
        // Where something waits it is given, however busy the machine is; else there may still be declarations to come.
        let waits = outbox.backlog().records > 0;
        let patience = Duration::from_secs(if waits { 60 } else { 1 });
        let Ok(stored) = tokio::time::timeout(patience, reader.next()).await else {
            assert!(!waits, "it does not drain: {:?}, seed {seed}", outbox.backlog());
            break;
        };
        let stored = stored.unwrap();
        take(&mut taken, &stored);
        note(&mut there, &mut ends, &stored);
        gaps.extend(stored.batch.records.iter().filter(|r| matches!(r, Record::Gap(_))).cloned());
        outbox.delivered(stored.segment, stored.lane, &seqs(&stored));
    }
    assert!(gaps.is_empty(), "{gaps:?}, seed {seed}");
    assert_eq!(rig.count(Count::Damaged, "raw"), 0, "seed {seed}");
    for (stream, last) in ends {
        let lacks: Vec<u64> = (1..=last).filter(|seq| !there.contains(&(stream.clone(), *seq))).collect();
        assert!(lacks.is_empty(), "stream {stream} ends with {last} and lacks {lacks:?}, seed {seed}");
    }
    let readings: BTreeSet<i64> = taken.values().copied().collect();
    let lost: Vec<_> = acknowledged.difference(&readings).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}, seed {seed}");
    assert_eq!(outbox.backlog().records, 0, "seed {seed}");
    closer.close().unwrap();
}
