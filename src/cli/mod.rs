//! The `tidegate` command: what it takes, and which part answers it.

mod board;
pub mod check;
mod interrupt;
pub mod outbox;
pub mod profile;
pub mod reload;
pub mod replay;
pub mod run;
pub mod selftest;
pub mod status;
pub mod support;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::setup;

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
        /// End if the configuration is not fit to run, instead of using the one that ran last
        #[arg(long, conflicts_with = "print")]
        strict: bool,
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
        /// Say what of it does not fit this board, such as raspberry-pi-4, or a board's file
        #[arg(long, value_name = "NAME|FILE")]
        board: Option<String>,
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
    /// Have the running gateway load its configuration anew; what has not changed goes on undisturbed
    Reload {
        #[command(flatten)]
        config: ConfigFile,
        /// The data directory, instead of looking it up in the configuration
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Device profiles: which there are, what they make of a message, whether their samples pass, a template for a new one
    Profile {
        #[command(flatten)]
        place: profile::Place,
        #[command(subcommand)]
        action: profile::Action,
    },
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
        return fail(&format!("--log {log}: {error}; expected such as info, or info,tidegate::uplink=debug"));
    }
    match command {
        Command::Run { config, print: false, strict, .. } => run::gateway(&config.config, strict),
        Command::Run { config, print: true, format, .. } => run::print(&config.config, format.map(Into::into)),
        Command::Check { config, print, board } => check::run(&config.config, print, board.as_deref()),
        Command::Replay { file, config, format, speed, close } => {
            replay::run(&file, &config.config, &replay::Options { format: format.map(Into::into), speed, close })
        }
        Command::Selftest(test) => selftest::run(&test),
        Command::Support(support) => support::run(&support),
        Command::Profile { place, action } => profile::run(&place, action),
        Command::Outbox { place, action } => outbox::run(&place, action),
        Command::Reload { config, data_dir } => reload::run(&config.config, data_dir),
        Command::Status { config, data_dir, json } => status::run(&config.config, data_dir, json),
    }
}

/// Where the running gateway of a configuration has its data, whether or not that is fit to run now. `None` if there is no
/// such file.
fn data_dir(config: &Path, given: Option<PathBuf>) -> Option<PathBuf> {
    given.or_else(|| config.exists().then(|| setup::data_dirs(config).into_iter().next()).flatten())
}

/// Tells a person what is wrong, and gives the code for a command that could not be carried out.
fn fail(message: &str) -> ExitCode {
    use std::io::Write;
    // Nobody is left to tell when this fails.
    let _ = writeln!(std::io::stderr(), "error: {message}");
    ExitCode::from(2)
}
