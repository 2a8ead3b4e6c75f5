//! Encryption at rest: nothing readable on the disk, keys that change, and keys that are missing or wrong.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use super::super::cipher::Keys;
use super::super::manifest::Manifest;
use super::super::segment::SegmentError;
use super::*;
use crate::config::{Encryption, EncryptionKey};

fn key(number: u8) -> EncryptionKey {
    EncryptionKey::new(std::array::from_fn(|at| number.wrapping_add(at as u8)))
}

/// The first of them encrypts what is new.
fn keys(numbers: &[u8]) -> Encryption {
    let mut keys = numbers.iter().map(|number| key(*number));
    Encryption { key: keys.next(), previous_keys: keys.collect() }
}

fn id(number: u8) -> String {
    Keys::new(&keys(&[number])).ids()[0].to_owned()
}

fn sealed_rig(numbers: &[u8]) -> Rig {
    let mut rig = Rig::new();
    rig.settings.encryption = keys(numbers);
    rig
}

/// Every file below, with its bytes and when it was changed; but for the lock, which names who looked last.
fn everything(below: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(below).unwrap().flatten() {
        let about = entry.metadata().unwrap();
        if about.is_dir() {
            all.insert(entry.path(), (Vec::new(), about.modified().unwrap()));
            all.extend(everything(&entry.path()));
        } else if entry.file_name() != ".lock" {
            all.insert(entry.path(), (std::fs::read(entry.path()).unwrap(), about.modified().unwrap()));
        }
    }
    all
}

fn numbers(readings: &[(String, u64, i64)]) -> Vec<i64> {
    readings.iter().map(|(.., n)| *n).collect()
}

#[tokio::test]
async fn what_is_encrypted_is_read_again_after_restarts_and_crashes() {
    let mut rig = sealed_rig(&[1]);
    for round in 1..=4 {
        let (outbox, closer) = rig.open();
        for _ in 0..6 {
            rig.store(&outbox, 50).await;
        }
        let (readings, ..) = drain(&mut outbox.reader()).await;
        assert_eq!(numbers(&readings), (1..=round * 300).collect::<Vec<_>>());
        if round % 2 == 0 { crash(&mut rig, outbox, closer) } else { closer.close().unwrap() }
    }
    assert_eq!(rig.count(Count::Damaged, "raw"), 0);
}

#[tokio::test]
async fn nothing_readable_is_on_the_disk() {
    for encryption in [keys(&[1]), Encryption::default()] {
        let is_plain = encryption.key.is_none();
        let mut rig = Rig::new();
        rig.settings.encryption = encryption;
        // Random, so that compression leaves it as it is, and unlike anything else.
        let marker: Vec<u8> = (0..32).map(|_| fastrand::u8(..)).collect();
        let noise = || (0..3000).map(|_| fastrand::u8(..)).chain(marker.iter().copied()).collect::<Vec<u8>>();
        let (outbox, closer) = rig.open();
        outbox.begin_journal(&noise()).unwrap();
        let letter = Record::DeadLetter(Box::new(DeadLetter {
            source: "s".into(),
            origin: "t".into(),
            profile: None,
            received: Stamp::default(),
            stage: Stage::Decode,
            reason: Reason::NotJson,
            detail: "d".into(),
            length: 3032,
            payload: noise().into(),
        }));
        let mut raw = Batch { records: vec![letter], fields: Vec::new() };
        let append = Append { raw: Some(&mut raw), journal: &[(1, noise())], ..Append::default() };
        let number = outbox.append_all(append);
        durable(&outbox, number).await;
        crash(&mut rig, outbox, closer);
        let all = everything(rig.dir.path());
        let holds = |name: &str| {
            let of_name = all.iter().filter(|(path, _)| path.ends_with(name));
            of_name.map(|(_, (bytes, _))| bytes.windows(32).filter(|window| *window == marker).count()).sum::<usize>()
        };
        assert_eq!((holds("db"), holds("CHECKPOINT")), if is_plain { (2, 1) } else { (0, 0) });
        if !is_plain {
            let found = all.values().any(|(bytes, _)| bytes.windows(32).any(|window| window == marker));
            assert!(!found, "in a file that is neither");
        }
        let options = Options { data_dir: rig.dir.path().to_owned(), receipts_max: 20, machine: "m".to_owned() };
        let (outbox, closer, left) = Outbox::open(&rig.settings, &options, &rig.counters).unwrap();
        assert!(left.checkpoint.unwrap().ends_with(&marker) && left.journal[0].1.ends_with(&marker));
        let (_, others, _) = drain(&mut outbox.reader()).await;
        assert!(matches!(&others[0], Record::DeadLetter(letter) if letter.payload.ends_with(&marker)));
        closer.close().unwrap();
    }
}

#[tokio::test]
async fn keys_may_change_from_run_to_run_and_encryption_may_begin_and_end() {
    let mut rig = Rig::new();
    // Plain, then three keys, then plain again.
    let runs: [&[u8]; 5] = [&[], &[1], &[2, 1], &[3, 2, 1], &[]];
    let mut expected = 0;
    for (run, known) in runs.into_iter().enumerate() {
        rig.settings.encryption = match known {
            [] => Encryption {
                key: None,
                previous_keys: if run == 0 { Vec::new() } else { vec![key(1), key(2), key(3)] },
            },
            known => keys(known),
        };
        let (outbox, closer) = rig.open();
        for _ in 0..5 {
            rig.store(&outbox, 50).await;
        }
        expected += 250;
        closer.close().unwrap();
    }
    let manifest = Manifest::read(&rig.dir.path().join("outbox")).unwrap().unwrap();
    let ids: std::collections::BTreeSet<_> = manifest.segments.iter().map(|entry| entry.key.clone()).collect();
    assert_eq!(ids, [None, Some(id(1)), Some(id(2)), Some(id(3))].into());
    let (outbox, closer) = rig.open();
    let (readings, others, all) = drain(&mut outbox.reader()).await;
    assert_eq!(numbers(&readings), (1..=expected).collect::<Vec<_>>());
    assert!(others.is_empty(), "{others:?}");
    deliver(&outbox, &all);
    drop(all);
    closer.close().unwrap();
    // What is delivered needs no key any more: the newest segment is plain.
    rig.settings.encryption = Encryption::default();
    let (outbox, closer) = rig.open();
    assert_eq!(outbox.backlog().records, 0);
    closer.close().unwrap();
}

#[tokio::test]
async fn a_missing_or_wrong_key_is_told_and_nothing_is_touched() {
    for after_crash in [false, true] {
        let mut rig = sealed_rig(&[1]);
        let (outbox, closer) = rig.open();
        outbox.begin_journal(b"state").unwrap();
        for _ in 0..8 {
            rig.store(&outbox, 50).await;
        }
        // What no manifest names would be removed by a start.
        if after_crash {
            crash(&mut rig, outbox, closer);
        } else {
            closer.close().unwrap();
        }
        std::fs::create_dir(rig.dir.path().join("outbox/0000000000009999")).unwrap();
        let before = everything(rig.dir.path());
        let previous = Encryption { key: None, previous_keys: vec![key(2)] };
        for (wrong, configured) in [
            (Encryption::default(), "there are none".to_owned()),
            (keys(&[2]), id(2)),
            (keys(&[2, 3]), format!("{}, {}", id(2), id(3))),
            (previous, id(2)),
        ] {
            rig.settings.encryption = wrong;
            let error = rig.try_open().map(drop).unwrap_err();
            assert!(matches!(&error, OpenError::Key { id: found, .. } if *found == id(1)), "{error}");
            let text = error.to_string();
            assert!(
                text.contains(&id(1)) && text.contains(&configured) && text.contains("nothing was changed"),
                "{text}"
            );
            assert_eq!(everything(rig.dir.path()), before, "{text}");
        }
        rig.settings.encryption = keys(&[2, 1]);
        let (outbox, closer) = rig.open();
        let (readings, ..) = drain(&mut outbox.reader()).await;
        assert_eq!(numbers(&readings), (1..=400).collect::<Vec<_>>());
        assert_eq!(rig.count(Count::Damaged, "raw"), 0);
        closer.close().unwrap();
    }
}

#[tokio::test]
async fn the_state_of_the_windows_alone_needs_its_key_too() {
    let mut rig = sealed_rig(&[1]);
    let (outbox, closer) = rig.open();
    outbox.begin_journal(b"state").unwrap();
    closer.close().unwrap();
    let before = everything(rig.dir.path());
    rig.settings.encryption = keys(&[2]);
    let error = rig.try_open().map(drop).unwrap_err().to_string();
    assert!(error.contains("the state of the windows is encrypted with key"), "{error}");
    assert_eq!(everything(rig.dir.path()), before);
}

#[tokio::test]
async fn a_lost_manifest_is_made_anew_from_encrypted_segments_if_their_keys_are_there() {
    let mut rig = sealed_rig(&[1]);
    for run in [[1].as_slice(), [2, 1].as_slice()] {
        rig.settings.encryption = keys(run);
        let (outbox, closer) = rig.open();
        for _ in 0..20 {
            rig.store(&outbox, 50).await;
        }
        closer.close().unwrap();
    }
    let outbox = rig.dir.path().join("outbox");
    std::fs::write(outbox.join("MANIFEST"), "damaged").unwrap();
    // The first one is damaged as well: it must not be moved while the key of a later one is missing.
    std::fs::write(outbox.join("0000000000000001/db"), vec![0x5a; 300_000]).unwrap();
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(&outbox).unwrap().flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    rig.settings.encryption = keys(&[1]);
    let error = rig.try_open().map(drop).unwrap_err();
    assert!(matches!(&error, OpenError::Segment(SegmentError::Key { id: found, .. }) if *found == id(2)), "{error}");
    assert_eq!(names(), before);
    assert_eq!(std::fs::read(outbox.join("MANIFEST")).unwrap(), b"damaged");
    rig.settings.encryption = keys(&[2, 1]);
    let (handle, closer) = rig.open();
    let (readings, ..) = drain(&mut handle.reader()).await;
    let kept = numbers(&readings);
    assert_eq!(kept, (kept[0]..=2000).collect::<Vec<_>>());
    assert!(kept[0] > 1 && kept[0] <= 1000, "only the damaged one is missing: {}", kept[0]);
    closer.close().unwrap();
    assert!(outbox.join("quarantine/0000000000000001").is_dir());
}

#[tokio::test]
async fn a_segment_that_names_another_key_than_the_manifest_goes_to_quarantine_and_the_rest_is_read() {
    let mut rig = sealed_rig(&[1]);
    let (outbox, closer) = rig.open();
    for _ in 0..20 {
        rig.store(&outbox, 50).await;
    }
    closer.close().unwrap();
    let mut other = sealed_rig(&[2]);
    let (outbox, closer) = other.open();
    for _ in 0..20 {
        other.store(&outbox, 50).await;
    }
    closer.close().unwrap();
    let (here, there) =
        (rig.dir.path().join("outbox/0000000000000001"), other.dir.path().join("outbox/0000000000000001"));
    std::fs::remove_dir_all(&here).unwrap();
    std::fs::rename(there, &here).unwrap();
    let (outbox, closer) = rig.open();
    let (readings, _, all) = drain(&mut outbox.reader()).await;
    let lost = rig.count(Count::Damaged, "raw");
    assert!(lost > 0 && lost < 500, "{lost}");
    assert_eq!(readings.len() as u64 + lost, 1000);
    deliver(&outbox, &all);
    drop(all);
    closer.close().unwrap();
}

#[tokio::test]
async fn no_encrypted_segment_ever_has_a_blob() {
    store_without_blobs(sealed_rig(&[1])).await;
}
