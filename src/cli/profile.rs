//! `tidegate profile`: which devices are known, what a profile makes of a message, and the way to one's own.
//!
//! Exit codes: 0 all is well; 1 a sample fails, a message was refused, or a file of the profile directory was; 2 it could not
//! be done. Results go to stdout, remarks to stderr.

mod attempt;
mod watch;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value as Json, json};

use self::attempt::{Message, attempt};
use super::fail;
use crate::profile::{self, BUILTIN_FILES, Profile, ProfileSet, Transport, run_samples};

/// Where profiles are looked for besides the built-in ones.
const DIRECTORY: &str = "/etc/tidegate/profiles";
/// A sample fails, or a message gives nothing.
const WRONG: u8 = 1;

/// Which profiles.
#[derive(Debug, Args)]
pub struct Place {
    /// A directory of profiles that add to the built-in ones; one with the same id replaces
    #[arg(long, value_name = "DIR", default_value = DIRECTORY, global = true)]
    profiles: PathBuf,
    /// As JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
}

/// What to do with them.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// All profiles that are known: id, transport, what they measure
    List {
        /// Only those whose id or description has this in it
        text: Option<String>,
    },
    /// The file of a profile, with its samples and where the format is documented
    Show {
        /// Its id
        id: String,
    },
    /// Run the samples of a profile, or of all
    Test {
        /// An id, or a file that is not in the profile directory yet; all profiles unless named
        #[arg(value_name = "ID|FILE")]
        which: Vec<String>,
    },
    /// What a profile would make of a message
    Try {
        /// An id or a file
        #[arg(value_name = "ID|FILE")]
        which: String,
        /// The MQTT topic; of several messages each its own, or one for all
        #[arg(long)]
        topic: Vec<String>,
        /// The payload as text; `-` reads it from the pipe. Given several times, the messages come one after the other
        #[arg(long, conflicts_with = "hex")]
        payload: Vec<String>,
        /// The bytes as hexadecimal digits; of a serial device as they are on the wire
        #[arg(long)]
        hex: Vec<String>,
        /// The broker had kept it for new subscribers
        #[arg(long)]
        retained: bool,
        /// The zone of times without one
        #[arg(long, value_name = "NAME")]
        time_zone: Option<String>,
    },
    /// What a port or a broker says, as it comes, and what each profile would make of it
    Watch(watch::Watch),
    /// Write a commented profile to begin with, to stdout or into a file
    New {
        /// Its id: vendor/model
        id: String,
        /// How its frames arrive
        #[arg(long, value_enum, default_value = "mqtt")]
        transport: Kind,
        /// The file; it must not exist
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// How frames arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// As messages of a broker
    Mqtt,
    /// Over a serial port
    Serial,
}

/// Does what is asked for.
#[must_use]
pub fn run(place: &Place, action: Action) -> ExitCode {
    let (set, errors) = ProfileSet::load(&place.profiles);
    for error in &errors {
        remark(&error.to_string());
    }
    let done = match action {
        Action::List { text } => list(&set, text.as_deref(), place.json).map(|()| true),
        Action::Show { id } => show(&set, &id).map(|()| true),
        Action::Test { which } => test(&set, &which, place.json),
        Action::Try { which, topic, payload, hex, retained, time_zone } => {
            let message = Message { topic, payload, hex, retained, time_zone };
            attempt(&set, &which, &message, place.json)
        }
        Action::Watch(watch) => watch::run(&set, &watch, place.json),
        Action::New { id, transport, output } => create(&id, transport, output.as_deref()).map(|()| true),
    };
    match done {
        Ok(true) if errors.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(WRONG),
        Err(error) => fail(&error),
    }
}

fn remark(text: &str) {
    // Nobody is left to tell when this fails.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Who has read enough need not be told.
fn print(text: &str) -> Result<(), String> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("stdout: {error}")),
        _ => Ok(()),
    }
}

/// The profile of an id, or of a file.
fn find(set: &ProfileSet, which: &str) -> Result<Arc<Profile>, String> {
    let path = Path::new(which);
    if which.ends_with(".toml") || path.is_file() {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{which}: {error}"))?;
        return Profile::parse(path, &text).map(Arc::new).map_err(|error| error.to_string());
    }
    set.get(which).cloned().map_err(|error| format!("{error}; `tidegate profile list` shows them all"))
}

fn transport(profile: &Profile) -> &'static str {
    match profile.transport {
        Transport::Mqtt(_) => "mqtt",
        Transport::Serial(_) => "serial",
        Transport::Modbus(_) => "modbus",
    }
}

/// Names of what it measures, each once, in the order of the file.
fn measurements(profile: &Profile) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for field in profile.fields() {
        let name = field.name.fixed().filter(|name| !name.is_empty()).unwrap_or("…").to_owned();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn list(set: &ProfileSet, text: Option<&str>, json: bool) -> Result<(), String> {
    let text = text.map(str::to_lowercase);
    let wanted = |profile: &&Arc<Profile>| {
        text.as_ref().is_none_or(|text| {
            profile.id.contains(text.as_str()) || profile.description.to_lowercase().contains(text.as_str())
        })
    };
    let profiles: Vec<_> = set.iter().filter(wanted).collect();
    if json {
        let one = |profile: &&Arc<Profile>| {
            json!({
                "id": &*profile.id, "transport": transport(profile), "description": profile.description,
                "source": profile.source, "measurements": measurements(profile), "samples": profile.samples.len(),
                "built_in": set.text(&profile.id).is_none(),
            })
        };
        return print(&format!("{}\n", Json::from(profiles.iter().map(one).collect::<Vec<_>>())));
    }
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["id", "transport", "measurements"]);
    for profile in profiles {
        let mut names = measurements(profile);
        let more = names.len().saturating_sub(8);
        names.truncate(8);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        table.add_row([profile.id.to_string(), transport(profile).to_owned(), format!("{}{more}", names.join(", "))]);
    }
    print(&format!("{table}\n"))
}

fn show(set: &ProfileSet, id: &str) -> Result<(), String> {
    let profile = find(set, id)?;
    if let Some(text) = set.text(&profile.id) {
        return print(text);
    }
    let is_it = |text: &str| Profile::parse(Path::new(""), text).is_ok_and(|other| other.id == profile.id);
    match BUILTIN_FILES.iter().find(|(_, text)| is_it(text)) {
        Some((_, text)) => print(text),
        None => Err(format!("{id} is a file: read it there")),
    }
}

fn test(set: &ProfileSet, which: &[String], json: bool) -> Result<bool, String> {
    let profiles: Vec<Arc<Profile>> = if which.is_empty() {
        set.iter().cloned().collect()
    } else {
        which.iter().map(|which| find(set, which)).collect::<Result<_, _>>()?
    };
    let (mut samples, mut failed) = (0, 0);
    let mut lines = Vec::new();
    for profile in &profiles {
        let mismatches = run_samples(profile);
        samples += profile.samples.len();
        failed += mismatches.len();
        if json {
            let one = |mismatch: &profile::Mismatch| json!({ "sample": mismatch.sample, "diff": mismatch.diff });
            lines.push(json!({
                "id": &*profile.id, "samples": profile.samples.len(),
                "failed": mismatches.iter().map(one).collect::<Vec<_>>(),
            }));
        } else {
            for mismatch in &mismatches {
                print(&format!("{}: {mismatch}\n", profile.id))?;
            }
            if profile.samples.is_empty() {
                remark(&format!("{}: has no samples; a [[sample]] is a profile's own test", profile.id));
            }
        }
    }
    if json {
        print(&format!("{}\n", Json::from(lines)))?;
    } else {
        let (of, plural) = (profiles.len(), if profiles.len() == 1 { "" } else { "s" });
        print(&format!("{of} profile{plural}, {samples} samples, {failed} failed\n"))?;
    }
    Ok(failed == 0)
}

fn create(id: &str, transport: Kind, output: Option<&Path>) -> Result<(), String> {
    let template = match transport {
        Kind::Mqtt => include_str!("profile/mqtt.toml"),
        Kind::Serial => include_str!("profile/serial.toml"),
    };
    let text = template.replace("vendor/model", id);
    Profile::parse(Path::new(id), &text).map_err(|error| error.message)?;
    let Some(path) = output else { return print(&text) };
    let mut file = std::fs::File::create_new(path).map_err(|error| format!("{}: {error}", path.display()))?;
    file.write_all(text.as_bytes()).map_err(|error| format!("{}: {error}", path.display()))?;
    remark(&format!("wrote {0}; `tidegate profile test {0}` runs its samples", path.display()));
    Ok(())
}
