//! Every profile in the folder is compiled in, valid, and gives what its samples say; and the names of measurements mean
//! the same in all of them.

#![allow(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tidegate::profile::{BUILTIN_FILES, FieldRule, Profile, ProfileSet, Transport, ValueType, run_samples};
use tidegate::reading::MeasurementKind;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("firmware-profiles")
}

fn files(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("boards") {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            found.insert(path.strip_prefix(folder()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn every_file_is_compiled_in() {
    let mut found = BTreeSet::new();
    files(&folder(), &mut found);
    let listed: BTreeSet<_> = BUILTIN_FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(listed, found, "src/profile/builtin.rs lists the left, the folder holds the right");
}

#[test]
fn every_profile_is_valid_and_gives_what_its_samples_say() {
    let mut failures = String::new();
    for (path, text) in BUILTIN_FILES {
        let profile = Profile::parse(Path::new(path), text).unwrap_or_else(|error| panic!("{error}"));
        assert!(profile.samples.len() >= 2, "{path}: expected at least two samples");
        assert!(!profile.source.is_empty(), "{path}: say where the format is documented");
        let last = profile.id.rsplit('/').next().unwrap();
        assert!(
            path.ends_with(&format!("/{last}.toml")),
            "{path}: expected the file to be named as its id `{}`",
            profile.id
        );
        for mismatch in run_samples(&profile) {
            failures += &format!("{path}: {mismatch}\n");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn a_wrong_sample_fails_and_the_difference_is_shown() {
    let text = BUILTIN_FILES.iter().find(|(path, _)| *path == "generic/json.toml").unwrap().1;
    for (right, wrong, expected) in [
        ("temperature = 21.4", "temperature = 21.5", "- reading 0: temperature = 21.5"),
        ("humidity = 55, ", "", "+ reading 0: humidity = 55"),
        ("device = \"tank\"", "device = \"pond\"", "- reading 0: device \"pond\""),
        (
            "time = \"2026-05-04T12:00:00Z\"",
            "time = \"2026-05-04T12:00:01Z\"",
            "- reading 0: time 2026-05-04T12:00:01Z",
        ),
        ("expect_error = \"not_json\"", "expect_error = \"not_utf8\"", "+ error not_json"),
        ("values_rejected = 1", "", "+ 1 values rejected (wrong_type)"),
    ] {
        assert!(text.contains(right), "{right}");
        let profile = Profile::parse(Path::new("x.toml"), &text.replace(right, wrong)).unwrap();
        let mismatches = run_samples(&profile);
        let lines: Vec<_> = mismatches.iter().flat_map(|mismatch| &mismatch.diff).collect();
        assert!(lines.iter().any(|line| line.as_str() == expected), "{wrong}: {lines:?}");
    }
}

#[test]
fn a_profile_that_cannot_be_meant_is_refused_with_its_line() {
    let good = "id = \"a/b\"\ndescription = \"d\"\nsource = \"s\"\ntransport = \"mqtt\"\nformat = \"json\"\n\
                mqtt = { topics = [\"t/{device}\"] }\n";
    let field = "[[field]]\npath = \"a\"\nname = \"a\"\n";
    let inside = |inside: &str| format!("{good}{field}[[inside]]\npath = \"a\"\n{inside}\n");
    let values = "values = { x = \"0 u8\" }";
    for (text, line, expected) in [
        (good.to_owned(), 1, "expected at least one [[field]]"),
        (format!("{good}[[part]]\neach = \"a.*\"\n"), 7, "expected at least one [[part.field]]"),
        (format!("{good}{field}[[part]]\neach = [\"a.*\", \"**\"]\n"), 11, "path `**`: `**` may not stand in it"),
        (format!("{good}no_value = \"skip\"\n{field}"), 7, "no_value `skip`: expected `error` or `ignore`"),
        (
            format!("{good}{field}when = [{{ path = \"b\", is = \"x\", absent = true }}]\n"),
            7,
            "when: expected { path }",
        ),
        (inside(&format!("text = \"octal\"\n{values}")), 12, "text `octal`: expected `hex`, `base64` or `json`"),
        (
            inside("text = \"hex\"\noptional = { flags = \"0 u8\", from = 1, bits = { 8 = \"a u8\" } }"),
            10,
            "optional: expected bits from 0 to 7, found `8`",
        ),
        (
            inside("text = \"hex\"\noptional = { flags = \"0 i8\", from = 1, bits = { 0 = \"a u8\" } }"),
            10,
            "optional: expected whole numbers without a sign",
        ),
        (format!("{good}device = 5\n{field}"), 7, "expected a text, or several of them in an array"),
        (inside(&format!("text = \"json\"\n{values}")), 10, "what JSON holds is below its path"),
        (format!("{good}{field}sign = \"complement\"\n"), 7, "sign: expected `bits`"),
        (format!("{good}{field}bits = [0, 12]\nsign = \"twos\"\n"), 7, "sign `twos`: expected `complement`"),
        (format!("{good}{field}base = 1\n"), 7, "base: expected 2 to 36, found 1"),
        (format!("{good}{field}negative = {{ above = 5 }}\n"), 7, "negative: expected { path, is } or { path, bit }"),
        (good.replace("] }", "], delimiter = \"\" }") + field, 6, "delimiter: expected what stands between"),
        (inside(&format!("text = \"hex\"\nstarts = \"1\"\n{values}")), 10, "starts: expected pairs"),
        (inside("text = \"hex\"\nvalues = { x = \"0 u7\" }"), 10, "binary value `x`: expected a place and a kind"),
    ] {
        let error = Profile::parse(Path::new("x.toml"), &text).unwrap_err();
        assert!(error.message.contains(expected), "{}", error.message);
        assert_eq!(error.line, line, "{text}{error}");
    }
}

/// One vocabulary: a name has the same unit and kind everywhere.
#[test]
fn a_measurement_means_the_same_in_all_profiles() {
    let mut known = BTreeMap::new();
    for profile in ProfileSet::builtin().iter() {
        for field in profile.fields() {
            // A name that only the device knows has no unit to disagree about.
            let Some(unit) = field.unit.as_ref().and_then(|unit| unit.fixed()).map(str::to_owned) else { continue };
            for name in names(field) {
                let meaning = (unit.clone(), field.kind);
                let (first, by) = known.entry(name.clone()).or_insert((meaning.clone(), profile.id.clone()));
                assert_eq!(*first, meaning, "`{name}` in {} and in {by}", profile.id);
            }
        }
    }
    for (name, unit) in
        [("temperature", "Cel"), ("power", "W"), ("energy", "kW.h"), ("voltage", "V"), ("humidity", "%")]
    {
        assert_eq!(&*known[name].0.0, unit);
    }
}

/// What a rule calls its measurements, as far as the profile says it.
fn names(field: &FieldRule) -> Vec<String> {
    match (field.path.choices(), field.name.fixed()) {
        (Some(choices), _) if field.name.is_one_capture() => choices,
        (_, Some(name)) => vec![name.to_owned()],
        _ => Vec::new(),
    }
}

/// The rows of a table of measurements, in order.
fn rows(table: &str) -> Vec<&str> {
    table.lines().filter(|line| line.starts_with("| `")).collect()
}

/// docs/measurements.md has a row for each measurement that a profile names, and no other.
#[test]
fn every_measurement_is_described() {
    let mut expected = BTreeSet::new();
    for profile in ProfileSet::builtin().iter() {
        for field in profile.fields() {
            let kind = match (field.value_type, field.kind) {
                (ValueType::Flag, _) => "flag",
                (ValueType::Text, _) => "text",
                // The device decides what it is, and gives the name too.
                (ValueType::Any, _) => continue,
                (ValueType::Number, MeasurementKind::Gauge) => "gauge",
                (ValueType::Number, MeasurementKind::Counter) => "counter",
            };
            // A unit that the payload says is not the measurement's.
            let unit = match &field.unit {
                Some(unit) => unit.fixed().map(|unit| format!("`{unit}`")),
                None => Some(String::new()),
            };
            let Some(unit) = unit else { continue };
            expected.extend(
                names(field).iter().map(|name| format!("| `{name}` | {unit} | {kind} |").replace("|  |", "| |")),
            );
        }
    }
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/measurements.md")).unwrap();
    let found = rows(&text);
    assert!(found.iter().is_sorted_by_key(|row| row.split('`').nth(1)), "the rows are sorted by name");
    let start = |row: &str| row.rsplitn(3, '|').nth(2).map(|row| format!("{row}|"));
    let described: BTreeSet<String> = found.iter().filter_map(|row| start(row)).collect();
    let missing: Vec<_> = expected.difference(&described).collect();
    let surplus: Vec<_> = described.difference(&expected).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing: {missing:#?}\nnot in any profile: {surplus:#?}");
    assert_eq!(found.len(), described.len(), "a row is there twice");
    for row in found {
        assert!(row.split('|').nth(4).is_some_and(|meaning| !meaning.trim().is_empty()), "what is it? {row}");
    }
}

#[test]
fn generic_profiles_know_the_same_names() {
    let set = ProfileSet::builtin();
    let fields = |id: &str| format!("{:?}", set.get(id).unwrap().fields().collect::<Vec<_>>());
    assert_eq!(fields("generic/json"), fields("generic/json-line"));
}

#[test]
fn an_nmea_sentence_with_any_one_bit_wrong_gives_no_reading() {
    for (path, sentence) in [
        ("nmea/gps.toml", "$GPGGA,235959.500,3354.0000,S,07038.4000,W,2,09,0.9,-12.4,M,28.1,M,,0000*4C\r\n"),
        ("nmea/gps.toml", "$GNRMC,101530.00,A,5342.1200,N,01008.4560,E,12.00,271.5,040526,,,A*4C\r\n"),
        ("nmea/weather.toml", "$WIMWV,214.8,R,10.0,N,A*1D\r\n"),
    ] {
        let text = BUILTIN_FILES.iter().find(|(name, _)| *name == path).unwrap().1;
        let mut profile = text.split("[[sample]]").next().unwrap().to_owned();
        // All that the sum covers, the sum, and the mark before it; the other marks are framing's.
        for (at, bit) in (1..sentence.len() - 2).flat_map(|at| (0..7).map(move |bit| (at, bit))) {
            let mut bytes = sentence.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            // A mark in the middle begins a frame anew, and hexadecimal digits may be small.
            if matches!(bytes[at], b'$' | b'!' | b'\r' | b'\n')
                || bytes.eq_ignore_ascii_case(sentence.as_bytes()) && at > sentence.len() - 5
            {
                continue;
            }
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            profile += &format!(
                "[[sample]]\nname = \"bit {bit} of {at}\"\nhex = \"{hex}\"\nexpect_error = \"bad_checksum\"\n"
            );
        }
        let profile = Profile::parse(Path::new(path), &profile).unwrap();
        assert!(profile.samples.len() > 100);
        let mismatches: Vec<_> = run_samples(&profile).iter().map(ToString::to_string).collect();
        assert!(mismatches.is_empty(), "{path}: {mismatches:#?}");
    }
}

/// A code means the same in all versions of the standard: a version has some of them.
#[test]
fn what_a_meter_of_one_version_says_is_read_alike_by_the_profile_for_all() {
    let set = ProfileSet::builtin();
    let fields =
        |id: &str| -> Vec<String> { set.get(id).unwrap().fields().map(|field| format!("{field:?}")).collect() };
    let all = fields("dsmr");
    for id in ["dsmr/2", "dsmr/4", "dsmr/5"] {
        let of_one = fields(id);
        let missing: Vec<_> = of_one.iter().filter(|field| !all.contains(field)).collect();
        assert!(missing.is_empty(), "{id}: {missing:#?}");
    }
    assert_eq!(fields("dsmr/5").len(), all.len());
}

#[test]
fn profiles_of_a_directory_add_and_replace_and_a_bad_one_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let own = "id = \"acme/meter\"\ndescription = \"A meter\"\nsource = \"x\"\ntransport = \"serial\"\nformat = \"json\"\n\n\
               [[field]]\npath = \"t\"\nname = \"t\"\n";
    write("acme/meter.toml", own);
    write("mine.toml", &own.replace("acme/meter", "tasmota"));
    write("typo.toml", &own.replace("acme/meter", "acme/typo").replace("name = ", "nmae = "));
    write("path.toml", &own.replace("acme/meter", "acme/path").replace("path = \"t\"", "path = \"t..x\""));
    write("again.toml", own);
    std::fs::write(dir.path().join("latin.toml"), b"id = \"\xff\"").unwrap();
    let (set, errors) = ProfileSet::load(dir.path());
    assert!(set.get("acme/meter").is_ok() && set.get("zigbee2mqtt").is_ok());
    assert!(matches!(set.get("tasmota").unwrap().transport, Transport::Serial(_)));
    let mut lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    lines.sort();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    let named = |file: &str| lines.iter().find(|line| line.contains(file)).unwrap();
    assert!(named("typo.toml").contains("typo.toml:9: unknown field `nmae`"), "{}", named("typo.toml"));
    assert!(named("path.toml").contains("path.toml:7: path `t..x`: a key is empty"), "{}", named("path.toml"));
    assert!(lines.iter().any(|line| line.contains("the id `acme/meter` is taken by")));
    let (set, errors) = ProfileSet::load(&dir.path().join("not-there"));
    assert!(errors.is_empty() && set.get("tasmota").is_ok());
}

#[test]
fn a_misspelt_id_gets_a_suggestion() {
    let set = ProfileSet::builtin();
    let message = |id: &str| set.get(id).unwrap_err().to_string();
    assert_eq!(message("tasmotta"), "there is no profile `tasmotta`; did you mean `tasmota`?");
    assert_eq!(message("zigbe2mqtt"), "there is no profile `zigbe2mqtt`; did you mean `zigbee2mqtt`?");
    assert_eq!(message("json-line"), "there is no profile `json-line`; did you mean `generic/json-line`?");
    assert_eq!(message("qqq"), "there is no profile `qqq`");
}

/// A thermometer that speaks in frames with a checksum: what its samples may say.
#[test]
fn a_serial_sample_goes_through_framing_and_checksum() {
    let head = r#"
id = "acme/framed"
description = "Lines between two marks"
source = "x"
transport = "serial"
format = "delimited"
[framing]
kind = "markers"
start = [0x02]
end = [0x03]
payload = [1, -1]
[checksum]
kind = "xor8"
at = -2
encoding = "binary"
[[field]]
path = "1"
name = "temperature"
"#;
    // The xor of 02, "21" and 2c is the byte before the end; it belongs to the payload and is a column of its own.
    let good = "02 32 31 2c 2d 03";
    let reading = "[[sample.reading]]\nvalues = { temperature = 21 }\n";
    for (sample, expect) in [
        (format!("hex = \"{good}\""), reading.to_owned()),
        (format!("hex = \"ff 0d {good} 0d\""), reading.to_owned()),
        ("hex = [\"02 32\", \"31 2c\", \"2d 03\"]".to_owned(), reading.to_owned()),
        (format!("hex = \"{good} {good}\""), format!("{reading}{reading}")),
        ("hex = \"02 32 30 2c 2d 03\"".to_owned(), "expect_error = \"bad_checksum\"".to_owned()),
        (format!("hex = \"02 32 30 2c 2d 03 {good}\""), format!("expect_error = \"bad_checksum\"\n{reading}")),
        ("hex = \"02 32 30 2c\"".to_owned(), "expect = \"noise\"".to_owned()),
        ("payload = \"\\u000221,-\\u0003\"".to_owned(), reading.to_owned()),
    ] {
        let text = format!("{head}[[sample]]\nname = \"s\"\n{sample}\n{expect}\n");
        let profile = Profile::parse(Path::new("x.toml"), &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(run_samples(&profile), [], "{sample}");
    }
    let text = format!("{head}[[sample]]\nname = \"s\"\nhex = \"02 32 30 2c 2d 03\"\n{reading}");
    let mismatch = run_samples(&Profile::parse(Path::new("x.toml"), &text).unwrap()).remove(0);
    let shown = ["+ error bad_checksum", "+ (the checksum is 0x2d, its bytes give 0x2c)"];
    assert!(shown.iter().all(|line| mismatch.diff.iter().any(|found| found == line)), "{mismatch}");
}

/// Recorded messages of real devices, where a folder of them is at hand: `TIDEGATE_FRAMES=folder cargo test --test
/// profiles`. Its files hold `cases` with topic, payload and what a person reads in them.
#[test]
fn recorded_messages_decode_to_what_a_person_reads_in_them() {
    let Some(folder) = std::env::var_os("TIDEGATE_FRAMES").map(PathBuf::from) else { return };
    let mut failures = String::new();
    let mut passed = 0;
    for (file, id) in [("tasmota-sensor", "tasmota"), ("zigbee2mqtt", "zigbee2mqtt")] {
        let text = std::fs::read_to_string(folder.join(file).with_extension("json")).unwrap();
        let recorded: serde_json::Value = serde_json::from_str(&text).unwrap();
        for case in recorded["cases"].as_array().unwrap() {
            match recorded_case(id, case) {
                Ok(()) => passed += 1,
                Err(error) => failures += &format!("{id}: {}: {error}\n", case["name"]),
            }
        }
    }
    assert!(failures.is_empty(), "{passed} passed, but\n{failures}");
}

fn recorded_case(id: &str, case: &serde_json::Value) -> Result<(), String> {
    let mut sample = SAMPLE.replace("TOPIC", case["topic"].as_str().unwrap());
    sample = sample.replace("ID", id);
    let text = BUILTIN_FILES.iter().find(|(path, _)| path.ends_with(&format!("/{id}.toml"))).unwrap().1;
    let mut profile = Profile::parse(Path::new(id), &format!("{text}\n{sample}")).unwrap();
    profile.samples.drain(..profile.samples.len() - 1);
    profile.samples[0].payload = case["payload"].as_str().unwrap().as_bytes().to_vec();
    // The sample expects an error that never is: so its difference is all that came out.
    let lines = run_samples(&profile).remove(0).diff;
    let found: BTreeMap<String, String> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("+ reading 0: ")?.split_once(" = "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let has = |line: &str| lines.iter().any(|found| found.starts_with(line));
    if let Some(state) = case["state"].as_str() {
        return if has(&format!("+ state {state}")) { Ok(()) } else { Err(format!("no state: {lines:?}")) };
    }
    let expected = case["expect"].as_array().unwrap();
    if expected.is_empty() {
        let wanted = if case["expect_error"].is_null() { "+ ignored" } else { "+ error not_json" };
        return if has(wanted) && found.is_empty() { Ok(()) } else { Err(format!("{lines:?}")) };
    }
    for wanted in expected {
        if !has(&format!("+ reading 0: device {:?}", wanted["device"].as_str().unwrap())) {
            return Err(format!("another device: {lines:?}"));
        }
        let name = tidegate::profile::sanitise(wanted["measurement"].as_str().unwrap());
        let name = name.trim_start_matches("energy_");
        let value = match &wanted["value"] {
            serde_json::Value::Number(number) if wanted["unit"] == "mV" => {
                (number.as_f64().unwrap() / 1000.0).to_string()
            }
            serde_json::Value::Number(number) => number.as_f64().unwrap().to_string(),
            other => other.to_string(),
        };
        // Names are natural, not demanded: the value must be there under a name that shares a word with it.
        let shares = |found: &str| name.split('_').any(|word| found.contains(word)) || name == "total";
        if !found.iter().any(|(found, found_value)| *found_value == value && shares(found)) {
            return Err(format!("{name} = {value} is missing: {found:?}"));
        }
    }
    Ok(())
}

const SAMPLE: &str =
    "[[sample]]\nname = \"recorded\"\ntopic = \"TOPIC\"\npayload = \"\"\nexpect_error = \"bad_checksum\"\n";

/// docs/profiles.md ends with a profile of the reader's own: its pieces, put together, parse and pass.
#[test]
fn the_tutorial_is_true() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/profiles.md")).unwrap();
    let blocks = |mark: &str, text: &str| -> Vec<String> {
        text.split(mark).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
    };
    let mut profiles = blocks("<!-- a whole profile -->\n```toml\n", &text);
    assert_eq!(profiles.len(), 5);
    // The others are the pieces of one.
    profiles.push(blocks("\n\n```toml\n", &text).join("\n"));
    for text in profiles {
        let profile =
            Profile::parse(Path::new("docs/profiles.md"), &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert!(profile.samples.len() >= 2);
        let mismatches = run_samples(&profile);
        assert!(mismatches.is_empty(), "{}: {mismatches:?}", profile.id);
    }
}

/// The reference names each key that a profile may have: what the parser says that it knows is looked for there.
#[test]
fn every_key_is_documented() {
    const MQTT: &str = "id = \"a/b\"\ndescription = \"d\"\nsource = \"s\"\ntransport = \"mqtt\"\nformat = \"json\"\n";
    const SERIAL: &str =
        "id = \"a/b\"\ndescription = \"d\"\nsource = \"s\"\ntransport = \"serial\"\nformat = \"binary\"\n";
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let text =
        ["profiles.md", "framings.md", "devices.md"].map(|name| std::fs::read_to_string(root.join(name)).unwrap());
    // What stands in code: in blocks, or within a line.
    let text = text.join("\n");
    let indented = text.lines().filter(|line| line.starts_with("    "));
    let code = text.split('`').skip(1).step_by(2).chain(indented).collect::<Vec<_>>().join(" ");
    let documented: BTreeSet<&str> = code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    let mut keys = 0;
    for (part, text) in [
        ("a profile", format!("nokey = 1\n{MQTT}")),
        ("[mqtt]", format!("{MQTT}[mqtt]\nnokey = 1\n")),
        ("[[mqtt.state]]", format!("{MQTT}[mqtt]\ntopics = [\"a\"]\n[[mqtt.state]]\nnokey = 1\n")),
        ("[serial]", format!("{SERIAL}[serial]\nnokey = 1\n")),
        ("[poll]", format!("{SERIAL}[poll]\nnokey = 1\n")),
        ("[framing]", format!("{SERIAL}[framing]\nnokey = 1\n")),
        (
            "framing.length",
            format!(
                "{SERIAL}[[field]]\npath = \"a\"\nname = \"a\"\n[binary]\nvalues = {{ a = \"0 u8\" }}\n\
                 [framing]\nkind = \"length\"\nlength = {{ nokey = 1 }}\n"
            ),
        ),
        ("framing.escape", format!("{SERIAL}[framing]\nkind = \"markers\"\nescape = {{ nokey = 1 }}\n")),
        ("framing.omit", format!("{SERIAL}[framing]\nkind = \"markers\"\nomit = {{ nokey = 1 }}\n")),
        ("[checksum]", format!("{SERIAL}[checksum]\nnokey = 1\n")),
        ("[delimited]", format!("{MQTT}[delimited]\nnokey = 1\n")),
        ("[pairs]", format!("{MQTT}[pairs]\nnokey = 1\n")),
        ("[regex]", format!("{MQTT}[regex]\nnokey = 1\n")),
        ("[binary]", format!("{MQTT}[binary]\nnokey = 1\n")),
        ("[binary.items]", format!("{MQTT}[binary.items]\nnokey = 1\n")),
        ("[binary.optional]", format!("{MQTT}[binary.optional]\nnokey = 1\n")),
        ("[registers]", format!("{MQTT}[registers]\nnokey = 1\n")),
        ("[modbus]", format!("{MQTT}[modbus]\nnokey = 1\n")),
        ("[mbus]", format!("{MQTT}[mbus]\nnokey = 1\n")),
        ("[[inside]]", format!("{MQTT}[[inside]]\nnokey = 1\n")),
        ("[time]", format!("{MQTT}[time]\nnokey = 1\n")),
        ("[[field]]", format!("{MQTT}[[field]]\nnokey = 1\n")),
        ("when", format!("{MQTT}[[field]]\npath = \"a\"\nname = \"a\"\nwhen = [{{ nokey = 1 }}]\n")),
        ("[[part]]", format!("{MQTT}[[part]]\nnokey = 1\n")),
        ("[[sample]]", format!("{MQTT}[[sample]]\nnokey = 1\n")),
        ("[[sample.before]]", format!("{MQTT}[[sample]]\nname = \"a\"\n[[sample.before]]\nnokey = 1\n")),
        ("[[sample.reading]]", format!("{MQTT}[[sample]]\nname = \"a\"\n[[sample.reading]]\nnokey = 1\n")),
    ] {
        let error = Profile::parse(Path::new("x.toml"), &text).unwrap_err().to_string();
        let (_, known) =
            error.split_once("unknown field `nokey`, expected ").unwrap_or_else(|| panic!("{part}: {error}"));
        for key in known.split('`').skip(1).step_by(2) {
            assert!(documented.contains(key), "docs: `{key}` of {part} is not explained");
            keys += 1;
        }
    }
    assert!(keys > 100, "{keys}");
}

/// Nine digits are enough for what a conversion gives, and too few for a meter that counts watt-hours.
#[test]
fn a_sample_notices_the_last_digit_of_a_large_counter() {
    let text = |value: &str| {
        format!(
            "id = \"a/b\"\ndescription = \"d\"\nsource = \"s\"\ntransport = \"mqtt\"\nformat = \"json\"\n\
             [mqtt]\ntopics = [\"t/{{device}}\"]\n[[field]]\npath = \"e\"\nname = \"energy\"\n\
             [[sample]]\nname = \"n\"\ntopic = \"t/x\"\npayload = '{{\"e\":123456789.4}}'\n\
             [[sample.reading]]\nvalues = {{ energy = {value} }}\n"
        )
    };
    for (value, right) in [("123456789.4", true), ("123456789.3", false), ("123456789", false)] {
        let profile = Profile::parse(Path::new("x.toml"), &text(value)).unwrap();
        assert_eq!(run_samples(&profile).is_empty(), right, "{value}");
    }
}

/// What passes as a sample must pass on the wire: a pattern that wants the end of the line would never match there.
#[test]
fn a_sample_with_its_line_end_goes_through_the_framing() {
    let text = |pattern: &str| {
        format!(
            "id = \"a/b\"\ndescription = \"d\"\nsource = \"s\"\ntransport = \"serial\"\nformat = \"regex\"\n\
             [serial]\ndelimiter = \"\\r\\n\"\n[regex]\npattern = '{pattern}'\n[[field]]\npath = \"t\"\nname = \"t\"\n\
             [[sample]]\nname = \"n\"\npayload = \"T=21.5\\r\\n\"\n[[sample.reading]]\nvalues = {{ t = 21.5 }}\n"
        )
    };
    for (pattern, right) in [(r"^T=(?<t>[0-9.]+)$", true), (r"^T=(?<t>[0-9.]+)\r\n$", false)] {
        let profile = Profile::parse(Path::new("x.toml"), &text(pattern)).unwrap();
        assert_eq!(run_samples(&profile).is_empty(), right, "{pattern}");
    }
}
