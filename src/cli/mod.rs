//! The `tidegate` command: what it takes, and which part answers it.

mod board;
pub mod check;
mod interrupt;
pub mod outbox;
pub mod replay;
pub mod run;
pub mod selftest;
pub mod status;
pub mod support;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Loaded, Problem};
use crate::profile::{ProfileError, ProfileSet};

/// Where a configuration is looked for unless one is named.
const CONFIG: &str = "/etc/tidegate/gateway.toml";

/// An IoT edge gateway with offline buffering: MQTT and serial in, Kafka out, nothing acknowledged is ever lost.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log: error, warn, info, debug, trace, or a list such as info,tidegate::uplink=debug; info unless set, and
    /// warn for commands that only look
    #[arg(long, global = true, env = "TIDEGATE_LOG", value_name = "LEVEL")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Run {
        #[command(flatten)]
        config: ConfigFile,
        /// Show readings instead of storing and sending them: no Kafka, no data directory, no session left at the broker
        #[arg(long)]
        print: bool,
        /// How --print shows them; a table on a terminal and NDJSON elsewhere unless set
        #[arg(long, requires = "print")]
        format: Option<PrintFormat>,
    },
    /// Say whether a configuration is fit to run, without touching a port, the network or the data directory
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Show the configuration as it will be used, without its secrets
        #[arg(long)]
        print: bool,
    },
    /// Show what the rules of a configuration would make of recorded readings
    Replay {
        /// The recording, as `tidegate run --print --format ndjson` writes it, or records of the wide layout from Kafka; `-` reads it from the pipe
        file: PathBuf,
        #[command(flatten)]
        config: ConfigFile,
        /// How to show it; a table on a terminal and NDJSON elsewhere unless set
        #[arg(long)]
        format: Option<PrintFormat>,
        /// How fast: 1 is as fast as it was recorded, 60 a minute each second; as fast as it goes unless set
        #[arg(long, value_name = "FACTOR", value_parser = replay::speed)]
        speed: Option<f64>,
        /// Close the windows that are open at the end, as if the devices fell silent, and show their aggregates too
        #[arg(long)]
        close: bool,
    },
    /// Show links, backlog and counters of the running gateway
    Status {
        #[command(flatten)]
        config: ConfigFile,
        /// The data directory, instead of looking it up in the configuration
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say whether this build works on this board and what its disk is worth; needs no configuration and no network
    Selftest(selftest::Selftest),
    /// Write one archive for a ticket: configuration without secrets, status, log, what the machine is; no readings
    Support(support::Support),
    /// Look into the buffer on disk, deliver again, repair, give up: of a stopped gateway, and read only of a running one
    Outbox {
        #[command(flatten)]
        place: outbox::Place,
        #[command(subcommand)]
        action: outbox::Action,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration
    #[arg(long, short, env = "TIDEGATE_CONFIG", default_value = CONFIG, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PrintFormat {
    /// Columns for a person
    Table,
    /// One record a line
    Ndjson,
}

impl From<PrintFormat> for crate::print::Format {
    fn from(format: PrintFormat) -> Self {
        match format {
            PrintFormat::Table => Self::Table,
            PrintFormat::Ndjson => Self::Ndjson,
        }
    }
}

/// Does what the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { command, log } = Cli::parse();
    let looks = matches!(command, Command::Selftest(_) | Command::Support(_));
    let log = log.unwrap_or_else(|| if looks { "warn" } else { "info" }.to_owned());
    if let Err(error) = crate::log::start(&log) {
        return fail(&format!("--log {log}: {error}; expected a level such as info, or info,tidegate::uplink=debug"));
    }
    match command {
        Command::Run { config, print: false, .. } => run::gateway(&config.config),
        Command::Run { config, print: true, format } => run::print(&config.config, format.map(Into::into)),
        Command::Check { config, print } => check::run(&config.config, print, further),
        Command::Replay { file, config, format, speed, close } => {
            replay::run(&file, &config.config, &replay::Options { format: format.map(Into::into), speed, close })
        }
        Command::Selftest(test) => selftest::run(&test),
        Command::Support(support) => support::run(&support),
        Command::Outbox { place, action } => outbox::run(&place, action),
        Command::Status { config, data_dir, json } => status::run(&config.config, data_dir, json),
    }
}

/// What of a configuration can only be checked with the profiles at hand.
fn further(loaded: &Loaded) -> Vec<Problem> {
    let (_, problems, errors) = profiles(loaded);
    let broken = errors.iter().map(|error| {
        let help = "the gateway runs without this profile; mend it or take it out of profiles_dir".to_owned();
        loaded.problem("gateway.profiles_dir", error.to_string(), Some(help))
    });
    broken.chain(problems).collect()
}

/// The profiles that a configuration can use, what is wrong with those that it does use, and what is left out.
pub(crate) fn profiles(loaded: &Loaded) -> (ProfileSet, Vec<Problem>, Vec<ProfileError>) {
    use crate::decode::Decoder;

    let (set, errors) = ProfileSet::load(&loaded.config.gateway.profiles_dir);
    let mut problems = Vec::new();
    for mqtt in &loaded.config.mqtt {
        if let Err(error) = Decoder::for_mqtt(mqtt, &set) {
            problems.push(loaded.problem(&format!("{}.profiles", mqtt.name), error.to_string(), None));
        }
    }
    for serial in &loaded.config.serial {
        if let Err(error) = Decoder::for_serial(serial, &set) {
            problems.push(loaded.problem(&format!("{}.profile", serial.name), error.to_string(), None));
        }
    }
    (set, problems, errors)
}

/// Tells a person what is wrong, and gives the code for a command that could not be carried out.
fn fail(message: &str) -> ExitCode {
    use std::io::Write;
    // Nobody is left to tell when this fails.
    let _ = writeln!(std::io::stderr(), "error: {message}");
    ExitCode::from(2)
}
