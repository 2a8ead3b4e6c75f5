//! What happens to files: bits flip, ends are cut off, files vanish, others hold them, later releases wrote them. Only what
//! is damaged is lost, it is counted and declared, and it stays to be looked at.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;

use super::*;

/// The directories of the segments, oldest first.
fn segments(rig: &Rig) -> Vec<PathBuf> {
    let entries = fs::read_dir(rig.dir.path().join("outbox")).unwrap().flatten().map(|entry| entry.path());
    let is_segment = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.len() == 16);
    let mut found: Vec<PathBuf> = entries.filter(is_segment).collect();
    found.sort();
    found
}

fn in_quarantine(rig: &Rig) -> usize {
    fs::read_dir(rig.dir.path().join("outbox/quarantine")).map_or(0, Iterator::count)
}

/// Stores 1,200 readings in several segments.
async fn filled() -> Rig {
    let mut rig = Rig::new();
    rig.settings.segment_bytes = 8 * 1024;
    let (outbox, closer) = rig.open();
    for _ in 0..24 {
        rig.store(&outbox, 50).await;
    }
    closer.close().unwrap();
    assert!(segments(&rig).len() >= 4);
    rig
}

/// Opens the outbox, delivers all that is there twice over (for what is declared meanwhile), and gives what was read and
/// how many numbers the gaps declare.
async fn deliver_all(rig: &Rig) -> (HashSet<i64>, u64) {
    let (outbox, closer) = rig.open();
    let (mut seen, mut declared) = (HashSet::new(), 0);
    for _ in 0..3 {
        let (readings, others, all) = drain(&mut outbox.reader()).await;
        seen.extend(readings.into_iter().map(|(.., n)| n));
        for record in &others {
            declared += if let Record::Gap(gap) = record { gap.count } else { 0 };
        }
        deliver(&outbox, &all);
    }
    closer.close().unwrap();
    (seen, declared)
}

/// What was done to a segment costs nothing of the others, and what it cost is counted and declared.
async fn costs_only_itself(what: &str, rig: &Rig, records_max: u64) -> u64 {
    let (seen, declared) = deliver_all(rig).await;
    let lost = rig.count(Count::Damaged, "raw");
    assert_eq!(seen.len() as u64 + lost, 1200, "{what}");
    assert_eq!(declared, lost, "{what}");
    assert!(lost <= records_max, "{what}: {lost} lost");
    let (outbox, closer) = rig.open();
    assert_eq!(outbox.backlog().records, 0, "{what}");
    closer.close().unwrap();
    lost
}

fn flip(file: &Path, random: &mut fastrand::Rng) {
    let mut bytes = fs::read(file).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
    bytes[random.usize(0..used)] ^= 1 << random.u8(0..8);
    fs::write(file, bytes).unwrap();
}

fn cut_off(file: &Path, random: &mut fastrand::Rng) {
    let length = fs::metadata(file).unwrap().len();
    OpenOptions::new().write(true).open(file).unwrap().set_len(random.u64(0..length.min(20_000))).unwrap();
}

fn zero_a_block(file: &Path, random: &mut fastrand::Rng) {
    let mut bytes = fs::read(file).unwrap();
    let blocks: Vec<&mut [u8]> = bytes.chunks_mut(4096).take(4).collect();
    let at = random.usize(0..blocks.len());
    blocks.into_iter().nth(at).unwrap().fill(0);
    fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_cut_ends_and_zeroed_blocks_cost_only_their_segment() {
    let first = fastrand::u64(0..1 << 40);
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(first);
    println!("TIDEGATE_SEED={seed}");
    let random = &mut fastrand::Rng::with_seed(seed);
    type Damage = fn(&Path, &mut fastrand::Rng);
    let kinds: [(&str, Damage); 3] = [("flip", flip), ("cut off", cut_off), ("zero", zero_a_block)];
    for (name, damage) in kinds {
        for newest in [false, true, false] {
            let rig = filled().await;
            let all = segments(&rig);
            let at = if newest { all.len() - 1 } else { random.usize(0..all.len() - 1) };
            damage(&all[at].join("db"), random);
            costs_only_itself(&format!("TIDEGATE_SEED={seed}: {name} {at}"), &rig, 600).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_files_and_directories_cost_only_their_segment() {
    for newest in [false, true] {
        for whole in [false, true] {
            let rig = filled().await;
            let all = segments(&rig);
            let path = &all[if newest { all.len() - 1 } else { 1 }];
            if whole {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path.join("db")).unwrap();
            }
            let what = format!("newest: {newest}, whole: {whole}");
            assert!(costs_only_itself(&what, &rig, 600).await > 0, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_opens_without_an_error_and_holds_too_little_is_noticed() {
    // A closed one: an empty database in its place.
    let rig = filled().await;
    let path = segments(&rig)[1].clone();
    fs::remove_dir_all(&path).unwrap();
    drop(segment::Segment::create(&path, "another", &cipher::Keys::default()).unwrap());
    assert!(costs_only_itself("an empty database", &rig, 600).await > 0);
    assert_eq!(in_quarantine(&rig), 1);
    // The one that was written when the process died: as it was some commits before.
    let mut rig = Rig::new();
    rig.settings.segment_bytes = 1 << 20;
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 300).await;
    let path = segments(&rig)[0].clone();
    let earlier = fs::read(path.join("db")).unwrap();
    rig.store(&outbox, 900).await;
    crash(&mut rig, outbox, closer);
    fs::write(segments(&rig)[0].join("db"), earlier).unwrap();
    assert_eq!(costs_only_itself("an earlier database", &rig, 900).await, 900);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_another_process_holds_is_not_damaged() {
    let rig = filled().await;
    let all = segments(&rig);
    let hold = |path: &Path| {
        let file = OpenOptions::new().read(true).write(true).open(path.join("db")).unwrap();
        file.try_lock().unwrap();
        file
    };
    let held = hold(all.last().unwrap());
    let error = rig.try_open().map(drop).unwrap_err().to_string();
    assert!(error.contains("in use by another process"), "{error}");
    drop(held);
    let held = hold(&all[0]);
    let (outbox, closer) = rig.open();
    let mut reader = outbox.reader();
    let refused = tokio::time::timeout(Duration::from_secs(60), reader.next()).await.unwrap();
    assert!(refused.is_err(), "{refused:?}");
    drop(held);
    let (readings, others, _) = drain(&mut reader).await;
    assert_eq!((readings.len(), others.len()), (1200, 0));
    drop(reader);
    closer.close().unwrap();
    assert_eq!((rig.count(Count::Damaged, "raw"), in_quarantine(&rig)), (0, 0));
}

/// Says of a segment that a later release wrote it.
fn from_the_future(path: &Path) {
    let database = sled::open(path).unwrap();
    database.open_tree("header").unwrap().insert(b"format", b"3").unwrap();
    database.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_of_a_later_release_goes_to_quarantine_whole_and_the_rest_goes_on() {
    let rig = filled().await;
    let path = segments(&rig)[1].clone();
    from_the_future(&path);
    assert!(costs_only_itself("a later format", &rig, 600).await > 0);
    let aside = rig.dir.path().join("outbox/quarantine").join(path.file_name().unwrap());
    let values = sled::open(aside).unwrap();
    let records: usize = values.tree_names().iter().map(|name| values.open_tree(name).unwrap().len()).sum();
    assert!(records > 2, "it holds what it held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newest_segment_of_a_later_release_is_refused_and_left_alone() {
    let rig = filled().await;
    let all = segments(&rig);
    from_the_future(all.last().unwrap());
    let error = rig.try_open().map(drop).unwrap_err().to_string();
    assert!(error.contains("install the release that wrote it"), "{error}");
    assert_eq!((segments(&rig), in_quarantine(&rig)), (all, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_manifest_and_a_damaged_segment_at_once_cost_only_that_segment() {
    let rig = filled().await;
    let path = segments(&rig)[1].clone();
    fs::remove_file(rig.dir.path().join("outbox/MANIFEST")).unwrap();
    fs::write(path.join("db"), vec![0x5a; 300_000]).unwrap();
    let (seen, _) = deliver_all(&rig).await;
    assert!((600..1200).contains(&seen.len()), "{}", seen.len());
    assert!(rig.dir.path().join("outbox/quarantine").join(path.file_name().unwrap()).is_dir());
    assert_eq!(rig.count(Count::Quarantined, ""), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_file_system_is_refused_and_nothing_on_it_is_lost() {
    let mut rig = Rig::new();
    let Some(_small) = hostile::Small::mount(&rig) else { return };
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 1200).await;
    closer.close().unwrap();
    let remount = |options: &str| {
        let mut mount = Command::new("mount");
        assert!(mount.args(["-o", options]).arg(rig.dir.path()).status().unwrap().success());
    };
    remount("remount,ro");
    let error = rig.try_open().map(drop).unwrap_err().to_string();
    assert!(error.contains("Read-only file system") && error.contains("data directory"), "{error}");
    remount("remount,rw");
    let (seen, declared) = deliver_all(&rig).await;
    assert_eq!((seen.len(), declared, in_quarantine(&rig)), (1200, 0, 0));
}
