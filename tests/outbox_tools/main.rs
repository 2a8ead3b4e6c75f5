//! `tidegate outbox`: the built binary on real outboxes, stopped, running, damaged, cloned.

// Clippy takes only functions marked `#[test]` for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod keys;
mod owner;
mod rig;
mod writing;

use std::process::{Command, Stdio};

use rig::{Rig, deliver, drain, run, undelivered, wait_backlog, wait_durable};
use tidegate::outbox::Lane;
use tidegate::reading::Record;

#[test]
fn a_stopped_outbox_is_shown_listed_and_exported_and_stays_as_it_is() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 3_000);
    let mut aggregates = rig.aggregates(50);
    wait_durable(&outbox, outbox.append(Lane::Aggregate, &mut aggregates, None, &[]));
    closer.close().unwrap();
    let before = rig.fingerprint();

    let status = rig.json(&["status"]);
    assert_eq!(status["waiting"]["total"], 3_050, "{status:#}");
    assert_eq!((&status["waiting"]["raw"], &status["waiting"]["aggregate"]), (&3_000.into(), &50.into()));
    assert_eq!((&status["running"], &status["manifest_damage"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    assert_eq!((&status["clean"], &status["oldest_waiting"]), (&true.into(), &"2026-05-04T12:00:00.000Z".into()));
    let text = rig.tool(&["status"]);
    assert!(text.out.contains("3050 records") && text.out.contains("stopped in good order"), "{text:?}");

    let list = rig.json(&["list"]);
    let segments = list.as_array().unwrap();
    assert!(segments.len() > 3, "{list:#}");
    assert_eq!(segments.iter().map(|row| row["waiting"].as_u64().unwrap()).sum::<u64>(), 3_050);
    let table = rig.tool(&["list"]);
    assert!(table.out.lines().count() > segments.len() && table.out.contains("raw"), "{}", table.out);

    let all = rig.export(&[]);
    assert_eq!(all.len(), 3_050);
    let n: Vec<i64> = all.iter().filter_map(|record| record["values"]["n"].as_f64()).map(|n| n as i64).collect();
    assert_eq!(n, (0..3_000).collect::<Vec<_>>());
    assert_eq!((&all[0]["gateway"], &all[0]["schema"], &all[0]["seq"]), (&"g".into(), &1.into(), &1.into()));
    assert_eq!(rig.export(&["--lane", "aggregate"]).len(), 50);
    assert_eq!(rig.export(&["--device", "d[12]", "--lane", "raw"]).len(), 1_500);
    let span = ["--from", "2026-05-04T12:10:00Z", "--to", "2026-05-04T12:20", "--lane", "raw"];
    assert_eq!(rig.export(&span).len(), 600);
    assert_eq!(rig.export(&["--lane", "alarm"]).len(), 0);

    let first = segments[0]["segment"].as_u64().unwrap();
    let shown = rig.tool(&["show", &first.to_string()]);
    assert!(shown.code == 0 && shown.out.contains("n=0  noise=") && shown.out.contains("waits"), "{shown:?}");
    let one = rig.json(&["show", &format!("{first}:raw:7")]);
    assert_eq!((&one["number"], &one["record"]["values"]["n"]), (&7.into(), &6.0.into()), "{one:#}");
    assert_eq!(rig.tool(&["show", "4711"]).code, 2);

    let verified = rig.json(&["verify"]);
    assert_eq!((&verified["records"], &verified["damaged"]), (&3_050.into(), &serde_json::json!([])), "{verified:#}");
    assert_eq!(rig.tool(&["verify"]).code, 0);
    assert_eq!(rig.fingerprint(), before, "nothing of it was touched");
}

#[test]
fn an_exported_cbor_sequence_holds_the_same_records() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 500);
    closer.close().unwrap();
    let work = rig.beside("work");
    std::fs::create_dir(&work).unwrap();
    let data_dir = rig.data_dir();
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["outbox", "export", "--format", "cbor-seq", "--gateway", "g", "--data-dir"])
        .arg(&data_dir)
        .arg("--work-dir")
        .arg(&work)
        .output()
        .unwrap();
    assert!(output.status.success());
    let records: Result<Vec<serde_json::Value>, _> =
        serde_cbor::Deserializer::from_slice(&output.stdout).into_iter().collect();
    let records = records.unwrap();
    let json = rig.export(&[]);
    assert_eq!(records.len(), 500);
    for (cbor, json) in records.iter().zip(&json) {
        assert_eq!((&cbor["seq"], &cbor["texts"]), (&json["seq"], &json["texts"]));
    }
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0, "copies do not stay behind");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 3_000);
    closer.close().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["outbox", "export", "--gateway", "g", "--data-dir"])
        .arg(rig.data_dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn beside_a_running_gateway_it_reads_and_refuses_to_write() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 2_000);
    let status = rig.json(&["status"]);
    assert_eq!(status["running"], std::process::id().to_string(), "{status:#}");
    assert_eq!(status["waiting"]["total"], 2_000, "{status:#}");
    assert_eq!(rig.tool(&["verify"]).code, 0);

    // It goes on while it is read.
    std::thread::scope(|scope| {
        let data_dir = rig.data_dir();
        let exporter = scope.spawn(move || {
            (0..5)
                .map(|_| {
                    let answer = run(&["outbox", "export", "--gateway", "g", "--data-dir", data_dir.to_str().unwrap()]);
                    assert_eq!(answer.code, 0, "{answer:?}");
                    answer.out.lines().count()
                })
                .collect::<Vec<_>>()
        });
        for _ in 0..20 {
            rig.store(&outbox, 100);
        }
        let counts = exporter.join().unwrap();
        assert!(counts.iter().all(|count| (2_000..=4_000).contains(count)), "{counts:?}");
        assert!(counts.is_sorted(), "{counts:?}");
    });
    assert_eq!(rig.export(&[]).len(), 4_000);
    for action in [&["replay", "--from", "1d", "--yes"][..], &["purge", "--all", "--yes"], &["repair", "--yes"]] {
        let answer = rig.tool(action);
        assert!(answer.code == 2 && answer.err.contains("stop it first"), "{action:?}: {answer:?}");
    }
    // What goes while it is read is no damage.
    let mut reader = outbox.reader();
    let all = drain(&mut reader);
    deliver(&outbox, &all);
    drop(all);
    assert_eq!(rig.tool(&["verify"]).code, 0);
    wait_backlog(&outbox, 0);
    closer.close().unwrap();
}

#[test]
fn an_outbox_that_was_cut_off_is_read_to_its_last_commit() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 1_500);
    let image = rig.image("image");
    let answer = run(&["outbox", "status", "--json", "--data-dir", image.to_str().unwrap()]);
    let status: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!((&status["waiting"]["total"], &status["clean"]), (&1_500.into(), &false.into()), "{status:#}");
    assert_eq!(status["running"], serde_json::Value::Null);
    closer.close().unwrap();
}

#[test]
fn a_flipped_bit_is_named_and_the_rest_is_exported() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 4_000);
    closer.close().unwrap();
    let list = rig.json(&["list"]);
    let victim = list[1]["segment"].as_u64().unwrap();
    let file = rig.outbox_dir().join(format!("{victim:016}")).join("db");
    let whole = std::fs::read(&file).unwrap();
    let mut named = 0;
    for part in 2..8 {
        let at = whole.len() * part / 9;
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&file, &damaged).unwrap();
        let answer = rig.tool(&["verify", "--json"]);
        let verified: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
        let rows = verified["damaged"].as_array().unwrap();
        assert_eq!(answer.code, i32::from(!rows.is_empty()), "{verified:#}");
        let lost: u64 = rows.iter().map(|row| row["records"].as_u64().unwrap()).sum();
        assert_eq!(verified["records"].as_u64().unwrap() + lost, 4_000, "at {at}: {verified:#}");
        let exported = rig.tool(&["export", "--gateway", "g"]);
        assert_eq!(exported.out.lines().count() as u64 + lost, 4_000, "at {at}");
        if !rows.is_empty() {
            named += 1;
            assert_eq!(rows[0]["segment"], victim.to_string(), "{verified:#}");
            assert!(rows[0]["from"].as_u64() < rows[0]["to"].as_u64(), "{verified:#}");
            let told = rig.tool(&["verify"]);
            assert!(told.out.contains(&format!("segment {victim}, raw ")), "{told:?}");
            assert!(exported.code == 1 && exported.err.contains("left out"), "{exported:?}");
        }
    }
    assert!(named >= 2, "{named} of 6 flipped bits hit a chunk");
    std::fs::write(&file, &whole).unwrap();
    std::fs::remove_dir_all(rig.outbox_dir().join(format!("{victim:016}"))).unwrap();
    let answer = rig.tool(&["verify"]);
    assert!(answer.code == 1 && answer.out.contains("its directory is missing"), "{answer:?}");
}

#[test]
fn a_directory_that_cannot_be_written_is_read() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 500);
    closer.close().unwrap();
    let mounted = rig.beside("mounted");
    std::fs::create_dir(&mounted).unwrap();
    // In a mount namespace of its own, so nothing stays behind.
    let script =
        "mount --bind \"$1\" \"$2\" && mount -o remount,bind,ro \"$2\" && ! touch \"$2/x\" 2>/dev/null || exit 77
        for action in status list verify export; do \"$3\" outbox $action --data-dir \"$2\" || exit 1; done";
    let data_dir = rig.data_dir();
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
        .args([data_dir.as_os_str(), mounted.as_os_str()])
        .arg(env!("CARGO_BIN_EXE_tidegate"))
        .output();
    let Ok(output) = output else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(77) || String::from_utf8_lossy(&output.stderr).contains("unshare:") {
        println!("skipped: no read-only mount can be made here");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said.lines().filter(|line| line.starts_with('{')).count(), 500, "{said}");
    assert!(said.contains("500 records in"), "{said}");
}

#[test]
fn what_was_thinned_and_rewritten_is_whole_to_the_tools_too() {
    let mut rig = Rig::new();
    rig.settings.when_full = tidegate::config::WhenFull::Thin;
    rig.settings.size_max = 8 << 20;
    rig.settings.segment_bytes = 16 << 10;
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 2_000);
    let mut aggregates = rig.aggregates(50);
    wait_durable(&outbox, outbox.append(Lane::Aggregate, &mut aggregates, None, &[]));
    rig.store(&outbox, 10_000);
    let backlog = outbox.backlog().records;
    closer.close().unwrap();
    let list = rig.json(&["list"]);
    assert!(list.as_array().unwrap().iter().any(|row| row["generation"].as_u64() > Some(0)), "{list:#}");
    assert_eq!(rig.tool(&["verify"]).code, 0, "{:?}", rig.tool(&["verify"]));
    // The gaps that declare it may have been stored at the close.
    let waiting = rig.json(&["status"])["waiting"]["total"].as_u64().unwrap();
    assert!((backlog..backlog + 50).contains(&waiting), "{backlog} and {waiting}");
    assert_eq!(rig.export(&[]).len() as u64, waiting);
    std::fs::remove_file(rig.outbox_dir().join("MANIFEST")).unwrap();
    assert_eq!(rig.tool(&["repair", "--yes"]).code, 0);
    assert_eq!(rig.export(&[]).len() as u64, waiting);
    let (outbox, closer) = rig.open();
    let all = drain(&mut outbox.reader());
    let damaged = |record: &&Record| matches!(record, Record::Gap(gap) if &*gap.cause == "damaged");
    assert_eq!(all.iter().flat_map(|stored| &stored.batch.records).filter(damaged).count(), 0);
    drop(all);
    closer.close().unwrap();
}

#[test]
fn where_there_is_no_outbox_it_says_so() {
    let nowhere = tempfile::tempdir().unwrap();
    let answer = run(&["outbox", "status", "--data-dir", nowhere.path().to_str().unwrap()]);
    assert!(answer.code == 2 && answer.err.contains("there is no outbox here"), "{answer:?}");
    let answer = run(&["outbox", "purge", "--all", "--yes", "--data-dir", nowhere.path().to_str().unwrap()]);
    assert!(answer.code == 2 && answer.err.contains("there is no outbox here"), "{answer:?}");
    assert_eq!(std::fs::read_dir(nowhere.path()).unwrap().count(), 0, "and makes none");
}

#[test]
fn a_clone_says_so_before_and_after_its_first_start() {
    let mut rig = Rig::new();
    rig.machine = "0badc0de0badc0de0badc0de0badc0de".to_owned();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 10);
    let installation = outbox.installation().to_owned();
    let streams = outbox.run().to_owned();
    closer.close().unwrap();
    let here = std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned();
    if !here.is_empty() {
        let status = rig.tool(&["status"]);
        assert!(status.out.contains("0badc0de…, NOT THIS ONE"), "{status:?}");
    }
    rig.machine = "feedfacefeedfacefeedfacefeedface".to_owned();
    let (outbox, closer) = rig.open();
    assert_ne!(outbox.installation(), installation, "a new MQTT client id");
    assert_ne!(outbox.run(), streams, "new streams");
    let (numbers, _) = undelivered(&drain(&mut outbox.reader()));
    assert_eq!(numbers.len(), 10, "what waited is delivered all the same");
    closer.close().unwrap();
    let status = rig.json(&["status"]);
    assert_eq!(status["machine"]["moved_from"], "0badc0de", "{status:#}");
    assert!(rig.tool(&["status"]).out.contains("from machine 0badc0de…"));
}

#[test]
fn a_lost_manifest_is_repaired_and_everything_is_delivered() {
    for damage in ["deleted", "damaged"] {
        let mut rig = Rig::new();
        let (outbox, closer) = rig.open();
        let installation = outbox.installation().to_owned();
        rig.store_with_receipt(&outbox, &format!("mqtt.home/tidegate-g-home-{installation}"));
        rig.store(&outbox, 2_999);
        closer.close().unwrap();
        let manifest = rig.outbox_dir().join("MANIFEST");
        match damage {
            "deleted" => std::fs::remove_file(&manifest).unwrap(),
            _ => std::fs::write(&manifest, "{\"version\":1\n00000000\n").unwrap(),
        }
        let before = rig.fingerprint();
        let status = rig.tool(&["status"]);
        assert!(status.code == 0 && status.out.contains("tidegate outbox repair"), "{status:?}");
        assert!(status.out.contains("3000 records"), "{status:?}");
        assert_eq!(rig.tool(&["verify"]).code, 1);
        assert_eq!(rig.export(&[]).len(), 3_000);
        let refused = rig.tool(&["purge", "--all", "--yes"]);
        assert!(refused.code == 2 && refused.err.contains("repair"), "{refused:?}");
        let asked = rig.tool(&["repair"]);
        assert!(asked.code == 2 && asked.err.contains("--yes"), "{asked:?}");
        let tried = rig.tool(&["repair", "--dry-run"]);
        assert!(tried.code == 0 && tried.out.contains("3000 records"), "{tried:?}");
        let (mut before, mut after) = (before, rig.fingerprint());
        // The lock's file notes who has it.
        for found in [&mut before, &mut after] {
            found.retain(|path, _| !path.ends_with(".lock") && !path.is_dir());
        }
        assert_eq!(after, before, "nothing was changed yet");
        let repaired = rig.tool(&["repair", "--yes"]);
        assert!(repaired.code == 0 && repaired.out.contains("repaired"), "{repaired:?}");
        assert_eq!(rig.tool(&["verify"]).code, 0);
        let again = rig.tool(&["repair", "--yes"]);
        assert!(again.out.contains("nothing to repair"), "{again:?}");
        let (outbox, closer) = rig.open();
        assert_eq!(outbox.installation(), installation, "the broker's queue is found again");
        let (numbers, others) = undelivered(&drain(&mut outbox.reader()));
        assert_eq!(numbers, (0..3_000).collect::<Vec<_>>());
        assert!(others.iter().all(|record| !matches!(record, Record::Gap(_))), "{others:?}");
        closer.close().unwrap();
    }
}
