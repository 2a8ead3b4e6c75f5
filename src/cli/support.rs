//! `tidegate support`: one archive for a ticket, with what somebody needs who cannot see the board.
//!
//! Invariants:
//! - No secret is in it: the configuration is printed without them, and every text goes through the second line of defence
//!   ([`Glance`]) before it is written.
//! - No reading, payload or dead letter is in it unless `--with-payloads` asks for them.
//! - A part that cannot be had says why, in its place in the archive, and stops no other: the archive is wanted most when
//!   something is broken.
//! - It only looks. Nothing is changed, and a running gateway is asked through its socket and read from beside.

mod archive;
mod parts;
mod system;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use self::parts::Parts;
use super::{CONFIG, fail, interrupt};
use crate::clock;
use crate::config::{Glance, Loaded, Purpose};
use crate::outbox;
use crate::outbox::inspect::remove_all;

/// Where credentials of a unit are while it runs (systemd.exec(5)).
const CREDENTIALS: &str = "/run/credentials";
/// Longer configurations are refused everywhere, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What to gather.
#[derive(Debug, Args)]
pub struct Support {
    /// The configuration
    #[arg(long, short, env = "TIDEGATE_CONFIG", default_value = CONFIG, value_name = "FILE")]
    config: PathBuf,
    /// The data directory, instead of looking it up in the configuration
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The archive to write, which must not be there yet; tidegate-support-<gateway>-<time>.tar.gz in this directory unless set
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The systemd unit that the gateway runs as, for its log
    #[arg(long, value_name = "UNIT", default_value = "tidegate")]
    unit: String,
    /// Add the readings and dead letters that wait, up to 16 MiB of them
    #[arg(long)]
    with_payloads: bool,
}

/// One file of the archive.
#[derive(Debug)]
struct Part {
    name: &'static str,
    /// What it is, for whoever opens the archive.
    about: &'static str,
    /// Its text, or why there is none.
    text: Result<String, String>,
}

/// Writes the archive. 0 if it is there, whatever could not be had for it; 2 if it could not be written.
#[must_use]
pub fn run(support: &Support) -> ExitCode {
    // A damaged database may panic on its way to being found damaged: that is a finding, not the end.
    std::panic::set_hook(Box::new(|panic| {
        if !outbox::is_loading() {
            fail(&format!("a defect of tidegate, please report it: {panic}"));
        }
    }));
    let unit = support.unit.strip_suffix(".service").unwrap_or(&support.unit);
    let credentials = Path::new(CREDENTIALS).join(format!("{unit}.service"));
    let env = |name: &str| match std::env::var(name) {
        Ok(value) => Some(value),
        // The service has its credentials there, and whoever asks has another environment than the service.
        Err(_) if name == "CREDENTIALS_DIRECTORY" => credentials.is_dir().then(|| credentials.display().to_string()),
        Err(_) => None,
    };
    let glance = match archive::read(&support.config, CONFIG_BYTES_MAX) {
        Ok(text) => Glance::at(&text, &support.config, &env),
        Err(_) => Glance::default(),
    };
    // Neither secrets nor certificates are looked for: they may be where only the service can read them.
    let loaded = Loaded::load_in(&support.config, Purpose::Replay, &env).ok();
    let gateway = loaded.as_ref().map_or("unknown", |loaded| loaded.config.gateway.id.as_str());
    let now = clock::wall_ms();
    let time = jiff::Timestamp::from_millisecond(now).map(|time| time.strftime("%Y%m%dT%H%M%SZ").to_string());
    let stem = format!("tidegate-support-{gateway}-{}", time.unwrap_or_default());
    let output = support.output.clone().unwrap_or_else(|| PathBuf::from(format!("{stem}.tar.gz")));
    let partial = output.clone();
    // Before anything is gathered: a place that takes no file is said at once.
    let file = match archive::create(&output) {
        Ok(file) => file,
        Err(error) => return fail(&error),
    };
    interrupt::clean_up(move || {
        remove_all();
        let _ = std::fs::remove_file(partial);
    });
    let parts = Parts { support, unit, loaded: loaded.as_ref(), env: &env }.gather();
    let readme = readme(&parts, support.with_payloads);
    let said = summary(&output, &parts, support.with_payloads);
    let texts = parts.into_iter().map(|part| {
        let text = part.text.unwrap_or_else(|why| format!("not there: {why}\n"));
        (part.name, text)
    });
    let files = std::iter::once(("README.txt", readme)).chain(texts);
    let files: Vec<_> = files.map(|(name, text)| (name, glance.without_secrets(text))).collect();
    match archive::write(file, &stem, &files, now) {
        Ok(bytes) => {
            let said = format!("{} ({})\n\n{said}", output.display(), super::status::size(bytes));
            // A closed pipe has seen enough.
            let _ = std::io::stdout().lock().write_all(glance.without_secrets(said).as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = std::fs::remove_file(&output);
            fail(&format!("{}: {error}; --output names another place", output.display()))
        }
    }
}

/// What is in it, for whoever opens it.
fn readme(parts: &[Part], with_payloads: bool) -> String {
    let mut text = format!("What `tidegate support` of version {} gathered.\n\n", env!("CARGO_PKG_VERSION"));
    list(parts, &mut text);
    text.push_str(if with_payloads { WITH } else { WITHOUT });
    text
}

const WITHOUT: &str = "\nNo password, key, reading, payload or dead letter is in it. It does name hosts, users, topics, labels, paths and \
                       serial ports.\n";
const WITH: &str = "\nNo password or key is in it, but READINGS AND DEAD LETTERS are, in records.ndjson, as --with-payloads asked for. It \
                    names hosts, users, topics, labels, paths, serial ports and devices.\n";

fn list(parts: &[Part], text: &mut String) {
    for part in parts {
        // Writing to a string cannot fail.
        let _ = match &part.text {
            Ok(_) => writeln!(text, "{:<16}{}", part.name, part.about),
            Err(why) => {
                let why = why.lines().next().unwrap_or_default();
                writeln!(text, "{:<16}NOT THERE: {why}", part.name)
            }
        };
    }
}

fn summary(output: &Path, parts: &[Part], with_payloads: bool) -> String {
    let mut text = String::new();
    list(parts, &mut text);
    text.push_str(if with_payloads { WITH } else { WITHOUT });
    let _ = writeln!(text, "Look through it before you send it: tar -xzf {}", output.display());
    text
}
