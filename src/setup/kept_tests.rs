use std::os::unix::fs::PermissionsExt;

use super::*;

const PROFILE: &str = include_str!("../../firmware-profiles/generic/json.toml");

/// A directory with a configuration, its secret, its profiles and its data directory.
struct Bed(tempfile::TempDir);

impl Bed {
    fn new() -> Self {
        let bed = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(bed.path("data")).unwrap();
        std::fs::create_dir(bed.path("profiles")).unwrap();
        bed.write("secret", "hush");
        bed.write("profiles/own.toml", &PROFILE.replace("id = \"generic/json\"", "id = \"own/model\""));
        bed.configure("data_dir = \"data\"", "user = \"u\"");
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn configure(&self, gateway: &str, mqtt: &str) {
        self.write(
            "gateway.toml",
            &format!(
                "[gateway]\nid = \"g\"\nprofiles_dir = \"profiles\"\n{gateway}\n[mqtt.home]\nurl = \"mqtt://127.0.0.1\"\n\
                 profiles = [\"own/model\", \"tasmota\"]\npassword = {{ file = \"secret\" }}\n{mqtt}\n\
                 [kafka]\nbrokers = [\"127.0.0.1:9\"]\ntopics = {{ reading = \"r\" }}\n"
            ),
        );
    }

    fn check(&self) -> Result<Setup, Errors> {
        Setup::check(&self.path("gateway.toml"))
    }

    fn keep(&self) {
        keep(&self.check().unwrap_or_else(|errors| panic!("{errors}"))).unwrap();
    }

    fn fallback(&self) -> Result<Fallback, FallbackError> {
        fallback(&self.path("gateway.toml"))
    }
}

#[test]
fn what_ran_is_there_again_whatever_has_become_of_its_files() {
    let bed = Bed::new();
    bed.keep();
    let file = bed.path("data/CONFIG");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("hush"), "a secret is kept");
    let breakages: [(&str, &dyn Fn()); 4] = [
        ("a key", &|| bed.configure("data_dir = \"data\"", "usr = \"u\"")),
        ("no TOML", &|| bed.configure("data_dir = \"data\"", "user = ")),
        ("a profile", &|| bed.write("profiles/own.toml", "id = ")),
        ("all profiles", &|| std::fs::remove_file(bed.path("profiles/own.toml")).unwrap()),
    ];
    for (what, damage) in breakages {
        damage();
        assert!(bed.check().is_err(), "{what}");
        let found = bed.fallback().unwrap_or_else(|error| panic!("{what}: {error}"));
        let mqtt = &found.setup.config().mqtt[0];
        assert_eq!(
            (mqtt.user.as_deref(), mqtt.password.as_ref().map(|p| p.reveal())),
            (Some("u"), Some("hush")),
            "{what}"
        );
        assert!(found.setup.profiles.get("own/model").is_ok());
        assert_eq!(found.file, file);
    }
    // A secret is looked for when it is needed.
    std::fs::remove_file(bed.path("secret")).unwrap();
    let error = bed.fallback().unwrap_err().to_string();
    assert!(error.contains("cannot be used either") && error.contains("secret"), "{error}");
}

#[test]
fn only_the_file_that_it_was_kept_of_gets_it() {
    let bed = Bed::new();
    assert!(matches!(bed.fallback(), Err(FallbackError::Nothing { looked }) if looked[0].ends_with("data/CONFIG")));
    bed.keep();
    assert!(matches!(fallback(&bed.path("other.toml")), Err(FallbackError::Nothing { .. })));
    // A data directory that was copied for another gateway.
    std::fs::create_dir(bed.path("copy")).unwrap();
    std::fs::copy(bed.path("data/CONFIG"), bed.path("copy/CONFIG")).unwrap();
    bed.configure("data_dir = \"copy\"", "usr = \"u\"");
    assert!(matches!(bed.fallback(), Err(FallbackError::Nothing { .. })));
    bed.configure("data_dir = \"data\"", "usr = \"u\"");
    assert!(bed.fallback().is_ok());
    // Half of one is none.
    let text = std::fs::read_to_string(bed.path("data/CONFIG")).unwrap();
    bed.write("data/CONFIG", &text[..text.len() / 2]);
    assert!(matches!(bed.fallback(), Err(FallbackError::Nothing { .. })));
}

#[test]
fn it_is_written_only_when_it_has_changed() {
    let bed = Bed::new();
    bed.keep();
    let written =
        || std::fs::metadata(bed.path("data/CONFIG")).map(|found| std::os::unix::fs::MetadataExt::ino(&found)).unwrap();
    let before = written();
    bed.keep();
    assert_eq!(written(), before);
    bed.configure("data_dir = \"data\"", "user = \"v\"");
    bed.keep();
    assert_ne!(written(), before);
    assert_eq!(bed.fallback().unwrap().setup.config().mqtt[0].user.as_deref(), Some("v"));
}
