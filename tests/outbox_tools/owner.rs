//! A data directory of a service's user, and root who comes along with `sudo tidegate`.

use rustix::fs::chown;
use rustix::process::{Uid, geteuid};

use crate::rig::{Rig, run};

/// A user that no system has.
const SERVICE: u32 = 424_242;

#[test]
fn root_does_not_lock_a_services_user_out_of_its_data_directory() {
    if !geteuid().is_root() {
        println!("only root can give a directory to another user: not tried");
        return;
    }
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    rig.store(&outbox, 1_000);
    closer.close().unwrap();
    let config = rig.beside("gateway.toml");
    let text = format!(
        "[gateway]\nid = \"g\"\ndata_dir = \"{}\"\n[kafka]\nbrokers = [\"127.0.0.1:1\"]\n[serial.a]\nport = \"/dev/x\"\n\
         profile = \"generic/json-line\"\n",
        rig.data_dir().display()
    );
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let own = |uid| chown(rig.data_dir(), Some(Uid::from_raw(uid)), None).unwrap();

    own(SERVICE);
    // A manifest that is lost too: repair gets as far as the question whose the directory is, and so does a start.
    for lost in [false, true] {
        if lost {
            std::fs::remove_file(rig.outbox_dir().join("MANIFEST")).unwrap();
        }
        let before = rig.fingerprint();
        let writers: [&[&str]; 5] = [
            &["outbox", "purge", "--all", "--yes", "--config", config],
            &["outbox", "purge", "--all", "--dry-run", "--config", config],
            &["outbox", "replay", "--from", "1d", "--yes", "--config", config],
            &["outbox", "repair", "--yes", "--config", config],
            &["run", "--config", config],
        ];
        for writer in writers {
            let answer = run(writer);
            let said = format!("{} belongs to the user '#{SERVICE}'", rig.data_dir().display());
            assert!(answer.code != 0 && answer.err.contains(&said), "{writer:?}: {answer:?}");
            assert!(answer.err.contains(&format!("`sudo -u '#{SERVICE}' tidegate ...`")), "{answer:?}");
        }
        // Who only looks does no harm.
        for reader in ["status", "list", "export"] {
            assert_eq!(run(&["outbox", reader, "--config", config]).code, 0, "{reader}");
        }
        assert!(rig.fingerprint() == before, "something was touched");
    }
    own(0);
    let repaired = rig.tool(&["repair", "--yes"]);
    assert_eq!(repaired.code, 0, "{repaired:?}");
    assert!(rig.outbox_dir().join("MANIFEST").exists());
}
