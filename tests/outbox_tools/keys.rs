//! An encrypted outbox, with its key and without: a key that is missing is no damage.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use tidegate::config::{Encryption, EncryptionKey};

use crate::rig::{Answer, Rig, run};

const KEY: [u8; 32] = *b"a key of the tests, of 32 bytes.";

/// An encrypted outbox with so many readings and the windows' state.
fn sealed(count: usize) -> Rig {
    let mut rig = Rig::new();
    rig.settings.encryption = Encryption { key: Some(EncryptionKey::new(KEY)), previous_keys: Vec::new() };
    let (outbox, closer) = rig.open();
    outbox.begin_journal(b"the windows' state").unwrap();
    rig.store(&outbox, count);
    closer.close().unwrap();
    rig
}

/// The binary on this outbox, with a configuration that has the key.
fn with_key(rig: &Rig, arguments: &[&str]) -> Answer {
    let (config, key) = (rig.beside("gateway.toml"), rig.beside("outbox-key"));
    std::fs::write(&key, KEY.map(|byte| format!("{byte:02x}")).concat()).unwrap();
    let text = format!(
        "[gateway]\nid = \"g\"\ndata_dir = \"{}\"\n[kafka]\nbrokers = [\"x:1\"]\n[serial.a]\nport = \"/dev/x\"\n\
         profile = \"generic/json-line\"\n[outbox.encryption]\nkey = {{ file = \"{}\" }}\n",
        rig.data_dir().display(),
        key.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut all = vec!["outbox", arguments[0], "--config", config.to_str().unwrap()];
    all.extend(&arguments[1..]);
    run(&all)
}

/// All files but for the lock, which names who had it last.
fn files(rig: &Rig) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut files = rig.fingerprint();
    files.retain(|path, _| !path.ends_with(".lock"));
    files
}

fn assert_all_refuse(rig: &Rig) {
    let before = files(rig);
    let actions: [&[&str]; 8] = [
        &["status"],
        &["list"],
        &["show", "1"],
        &["verify"],
        &["export", "--gateway", "g"],
        &["repair", "--yes"],
        &["purge", "--all", "--yes"],
        &["replay", "--from", "1d", "--yes"],
    ];
    for action in actions {
        let answer = rig.tool(action);
        assert!(answer.code == 2 && answer.err.contains("encrypted with key"), "{action:?}: {answer:?}");
        assert_eq!(answer.out, "", "{action:?}");
    }
    assert!(files(rig) == before, "something was changed or set aside");
}

#[test]
fn an_encrypted_outbox_is_read_with_its_key() {
    let rig = sealed(1_000);
    let status = with_key(&rig, &["status"]);
    assert!(status.code == 0 && status.out.contains("1000 records"), "{status:?}");
    let verified = with_key(&rig, &["verify"]);
    assert!(verified.code == 0 && verified.out.contains("1000 records"), "{verified:?}");
    let exported = with_key(&rig, &["export"]);
    assert_eq!((exported.code, exported.out.lines().count()), (0, 1_000), "{}", exported.err);
}

#[test]
fn without_its_key_nothing_is_taken_for_damage_nor_set_aside() {
    let rig = sealed(1_000);
    assert_all_refuse(&rig);
    // The manifest names the keys; without it the segments do.
    std::fs::remove_file(rig.outbox_dir().join("MANIFEST")).unwrap();
    assert_all_refuse(&rig);
    let repaired = with_key(&rig, &["repair", "--yes"]);
    assert_eq!(repaired.code, 0, "{repaired:?}");
    let exported = with_key(&rig, &["export"]);
    assert_eq!((exported.code, exported.out.lines().count()), (0, 1_000), "{}", exported.err);
}

#[test]
fn where_only_the_windows_state_is_encrypted_its_key_is_asked_for_too() {
    let other = sealed(0);
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 100);
    closer.close().unwrap();
    std::fs::copy(other.outbox_dir().join("CHECKPOINT"), rig.outbox_dir().join("CHECKPOINT")).unwrap();
    assert_all_refuse(&rig);
    let verified = with_key(&rig, &["verify"]);
    assert!(verified.code == 0 && verified.out.contains("100 records"), "{verified:?}");
}
