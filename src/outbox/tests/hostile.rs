//! What an enemy would try: deliveries that never pause, stops at odd moments, commits without records.

use std::process::{Command, Stdio};

use super::*;

#[tokio::test]
async fn deliveries_without_a_pause_hold_up_neither_commits_nor_releases() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    for _ in 0..60 {
        rig.store(&outbox, 50).await;
    }
    let (_, _, all) = drain(&mut outbox.reader()).await;
    let places: Vec<(u64, u64)> =
        all.iter().flat_map(|s| (0..s.batch.len() as u64).map(|at| (s.segment, s.first_seq + at))).collect();
    drop(all);
    rig.store(&outbox, 1).await;
    let before = rig.count(Count::Commits, "");
    let handle = outbox.clone();
    let deliveries = std::thread::spawn(move || {
        for (segment, seq) in places {
            handle.delivered(segment, Lane::Raw, &[seq]);
            std::thread::sleep(Duration::from_micros(50));
        }
    });
    deliveries.join().unwrap();
    closer.close().unwrap();
    let commits = rig.count(Count::Commits, "") - before;
    assert!(commits < 10, "{commits} commits for nothing but cursors");
}

#[tokio::test]
async fn what_a_run_without_records_delivered_is_not_given_again() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    for _ in 0..12 {
        rig.store(&outbox, 50).await;
    }
    closer.close().unwrap();
    for _ in 0..2 {
        let (outbox, closer) = rig.open();
        let (_, _, all) = drain(&mut outbox.reader()).await;
        deliver(&outbox, &all[..all.len() / 2]);
        drop(all);
        let left = outbox.backlog().records;
        closer.close().unwrap();
        let (outbox, closer) = rig.open();
        assert_eq!(outbox.backlog().records, left);
        closer.close().unwrap();
    }
    let (outbox, closer) = rig.open();
    let (_, others, all) = drain(&mut outbox.reader()).await;
    assert!(others.is_empty(), "{others:?}");
    deliver(&outbox, &all);
    closer.close().unwrap();
    let (outbox, closer) = rig.open();
    assert_eq!(outbox.backlog().records, 0);
    assert!(next(&mut outbox.reader()).await.is_none());
    closer.close().unwrap();
}

#[tokio::test]
async fn receipts_survive_a_run_without_records() {
    let mut rig = Rig::new();
    let session: Name = "s".into();
    let receipts: Vec<_> = (1..=20).map(|n| Receipt { packet_id: n, hash: u64::from(n) << 40 }).collect();
    let (outbox, closer) = rig.open();
    let mut batch = rig.readings(50);
    let number = outbox.append(Lane::Raw, &mut batch, Some(&session), &receipts);
    durable(&outbox, number).await;
    closer.close().unwrap();
    let (outbox, closer) = rig.open();
    let stored = next(&mut outbox.reader()).await.unwrap();
    outbox.delivered(stored.segment, stored.lane, &[1, 2, 3]);
    drop(stored);
    crash(&mut rig, outbox, closer);
    for _ in 0..2 {
        let (outbox, closer) = rig.open();
        assert_eq!(known_to(&outbox, "s"), receipts);
        closer.close().unwrap();
    }
}

#[tokio::test]
async fn a_segment_that_begins_without_records_is_not_taken_for_damaged() {
    for more in [0, 10] {
        let mut rig = Rig::new();
        let (outbox, closer) = rig.open();
        rig.store(&outbox, 1000).await;
        let (_, _, all) = drain(&mut outbox.reader()).await;
        deliver(&outbox, &all);
        drop(all);
        // The segment is over its limit: this goes to a new one, and the old one is released.
        let receipt = Receipt { packet_id: 1, hash: 1 };
        let number = outbox.append(Lane::Raw, &mut Batch::default(), Some(&"s".into()), &[receipt]);
        durable(&outbox, number).await;
        for _ in 0..200 {
            if directories(&rig) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(directories(&rig), 1);
        if more > 0 {
            rig.store(&outbox, more).await;
        }
        crash(&mut rig, outbox, closer);
        let (outbox, closer) = rig.open();
        let (readings, others, _) = drain(&mut outbox.reader()).await;
        assert_eq!(rig.count(Count::Damaged, "raw"), 0, "with {more} more");
        assert_eq!(readings.len(), more);
        assert!(others.iter().all(|record| matches!(record, Record::StreamEnd(_))), "{others:?}");
        closer.close().unwrap();
    }
}

/// A small file system of its own for the rig; `None` where that is not allowed.
pub(super) struct Small(PathBuf);

impl Small {
    pub(super) fn mount(rig: &Rig) -> Option<Self> {
        let path = rig.dir.path().to_owned();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "none"]).arg(&path).stderr(Stdio::null());
        let mounted = mount.status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(path));
        }
        assert!(std::env::var("CI").as_deref() != Ok("true"), "with CI=true nothing is skipped: this needs root");
        eprintln!("skipped: a file system that fills up needs the right to mount one");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_disk_that_fills_up_stops_commits_and_freeing_it_resumes_them() {
    let mut rig = Rig::new();
    rig.settings.segment_bytes = 64 * 1024;
    let Some(_small) = Small::mount(&rig) else { return };
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 300).await;
    // Another program fills the disk.
    let ballast = rig.dir.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    let mut last = 0;
    for _ in 0..30 {
        let mut batch = rig.readings(200);
        last = outbox.append(Lane::Raw, &mut batch, None, &[]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(*outbox.durable().borrow() < last, "the disk is full");
    assert!(directories(&rig) <= 4, "{} segments that hold nothing", directories(&rig));
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    durable(&outbox, last).await;
    let (readings, others, all) = drain(&mut outbox.reader()).await;
    assert!(others.is_empty(), "{others:?}");
    let expected: Vec<_> = (1..=6300).map(|n| (format!("{}.raw", outbox.run()), n as u64, n)).collect();
    assert_eq!(readings, expected);
    deliver(&outbox, &all);
    drop(all);
    closer.close().unwrap();
    let (outbox, closer) = rig.open();
    assert_eq!(outbox.backlog().records, 0);
    closer.close().unwrap();
}

#[tokio::test]
async fn an_outbox_that_fills_its_disk_drains_and_takes_more() {
    let mut rig = Rig::new();
    rig.settings.segment_bytes = 64 * 1024;
    let Some(_small) = Small::mount(&rig) else { return };
    let (outbox, closer) = rig.open();
    let mut last = 0;
    let mut appended = 0;
    while outbox.backlog().bytes < 6 << 20 || *outbox.durable().borrow() == last {
        let mut batch = rig.readings(400);
        appended += 400;
        last = outbox.append(Lane::Raw, &mut batch, None, &[]);
        tokio::time::sleep(Duration::from_millis(40)).await;
        assert!(appended < 200_000, "it never fills");
    }
    let mut reader = outbox.reader();
    let (mut seen, mut errors) = (0, 0);
    while seen < appended {
        let given = tokio::time::timeout(Duration::from_secs(60), reader.next()).await.expect("it hangs");
        let Ok(stored) = given else {
            // As the uplink does; what was delivered makes room meanwhile.
            errors += 1;
            assert!(errors < 100, "{given:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        seen += stored.batch.len();
        deliver(&outbox, &[stored]);
    }
    assert_eq!(seen, appended);
    durable(&outbox, last).await;
    assert_eq!(rig.count(Count::Evicted, "raw") + rig.count(Count::Damaged, "raw"), 0);
    drop(reader);
    closer.close().unwrap();
    let (outbox, closer) = rig.open();
    assert_eq!(outbox.backlog().records, 0);
    closer.close().unwrap();
}
