//! `tidegate outbox`: looks into the buffer on disk, and changes what a person may change in it.
//!
//! Exit codes: 0 all is well; 1 something is damaged, or was left out; 2 it could not be done. Results go to stdout,
//! remarks and progress to stderr.

mod change;
mod progress;
pub(super) mod records;
pub(super) mod status;
mod time;
mod verify;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use self::progress::Progress;
use super::{CONFIG, fail, interrupt};
use crate::config::{self, Loaded, Purpose};
use crate::glob::Glob;
use crate::outbox::Lane;
use crate::outbox::cipher::Keys;
use crate::outbox::edit::{EditError, Filter};
use crate::outbox::inspect::{InspectError, Inspection, remove_all};

/// What was found is damaged, or not all of it could be done.
const INCOMPLETE: u8 = 1;

/// Which outbox.
#[derive(Debug, Args)]
pub struct Place {
    /// The configuration
    #[arg(long, short, env = "TIDEGATE_CONFIG", default_value = CONFIG, value_name = "FILE", global = true)]
    config: PathBuf,
    /// The data directory, instead of looking it up in the configuration
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// Where copies of segments are made, one at a time, and removed; where temporary files go unless set
    #[arg(long, value_name = "DIR", global = true)]
    work_dir: Option<PathBuf>,
    /// As JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
}

/// What to do with it.
#[derive(Debug, Subcommand)]
// What is flattened has its documentation where it is.
#[allow(missing_docs)]
pub enum Action {
    /// What is in it, what waits, and whether all is well with it
    Status,
    /// Its segments
    List,
    /// The records of a segment, of a lane of it, or one record
    Show {
        /// Such as 42, 42:raw or 42:raw:1234
        #[arg(value_name = "SEGMENT[:LANE[:NUMBER]]", value_parser = records::Which::parse)]
        which: records::Which,
    },
    /// Read everything and name what is damaged: 0 if nothing is, 1 if something is, 2 if it cannot be read
    Verify {
        /// What was set aside as damaged too
        #[arg(long)]
        quarantine: bool,
    },
    /// Write the records that wait to stdout, as Kafka would get them
    Export {
        #[command(flatten)]
        select: Select,
        /// How
        #[arg(long, value_enum, default_value_t = Format::Ndjson)]
        format: Format,
        /// Those that are delivered and still there too
        #[arg(long)]
        all: bool,
        /// The gateway's id in the records, where no configuration says it
        #[arg(long, value_name = "ID")]
        gateway: Option<String>,
    },
    /// Deliver again what was delivered and is still there (outbox.keep_delivered), at the next start
    Replay {
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        consent: Consent,
    },
    /// Make a lost or damaged manifest anew from the segments
    Repair {
        #[command(flatten)]
        consent: Consent,
    },
    /// Give up records that wait; the stream then declares them as a gap. All that --lane, --device, --from and --to agree on
    Purge {
        #[command(flatten)]
        select: Select,
        /// All that waits, and what is kept after its delivery
        #[arg(long)]
        all: bool,
        /// Delete what was set aside as damaged
        #[arg(long)]
        quarantine: bool,
        #[command(flatten)]
        consent: Consent,
    },
}

/// Which records.
#[derive(Debug, Args)]
pub struct Select {
    /// Of this lane; may be given several times
    #[arg(long, value_enum)]
    lane: Vec<LaneName>,
    /// Of the devices that this pattern matches
    #[arg(long, value_name = "GLOB")]
    device: Option<Glob>,
    /// Received at or after: 2026-05-04T12:00:00Z, 2026-05-04 (UTC), or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    from: Option<i64>,
    /// Received before
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    to: Option<i64>,
}

impl Select {
    fn is_empty(&self) -> bool {
        self.lane.is_empty() && self.device.is_none() && self.from.is_none() && self.to.is_none()
    }

    fn filter(&self) -> Filter {
        Filter {
            lanes: self.lane.iter().map(|lane| lane.lane()).collect(),
            device: self.device.clone(),
            from_ms: self.from,
            to_ms: self.to,
        }
    }
}

/// Whether to do it.
#[derive(Clone, Copy, Debug, Args)]
pub struct Consent {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LaneName {
    Alarm,
    Aggregate,
    Raw,
}

impl LaneName {
    fn lane(self) -> Lane {
        match self {
            Self::Alarm => Lane::Alarm,
            Self::Aggregate => Lane::Aggregate,
            Self::Raw => Lane::Raw,
        }
    }
}

/// How records are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// One record a line
    Ndjson,
    /// A CBOR sequence (RFC 8742)
    CborSeq,
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}\n(with --data-dir no configuration is needed)")]
    Config(#[from] config::Errors),
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error("{0}")]
    Refused(String),
    #[error("the output cannot be written: {0}")]
    Output(io::Error),
    /// Whoever read the output has gone, which is no failure.
    #[error("nobody reads the output")]
    Closed,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Output(error) }
    }
}

/// Does it.
#[must_use]
pub fn run(place: &Place, action: Action) -> ExitCode {
    // A damaged database may panic on its way to being found damaged: what comes of that is reported.
    std::panic::set_hook(Box::new(|panic| {
        if !crate::outbox::is_loading() {
            fail(&format!("a defect of tidegate, please report it: {panic}"));
        }
    }));
    interrupt::clean_up(remove_all);
    let done = match action {
        Action::Status => status::status(place),
        Action::List => status::list(place),
        Action::Show { which } => records::show(place, which),
        Action::Verify { quarantine } => verify::verify(place, quarantine),
        Action::Export { select, format, all, gateway } => {
            records::export(place, &select.filter(), &records::Export { format, all, gateway })
        }
        Action::Replay { select, consent } => change::replay(place, &select, consent),
        Action::Repair { consent } => change::repair(place, consent),
        Action::Purge { select, all, quarantine, consent } => {
            change::purge(place, &select, change::Purge { all, quarantine }, consent)
        }
    };
    match done {
        Ok(code) => code,
        Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

impl Place {
    fn data_dir(&self) -> Result<PathBuf, Failure> {
        match &self.data_dir {
            Some(data_dir) => Ok(data_dir.clone()),
            None => Ok(Loaded::load(&self.config, Purpose::Outbox)?.config.gateway.data_dir),
        }
    }

    /// The keys that the configuration names. With a data directory there need not be one: then what is encrypted cannot be
    /// read, and that is said where it is met.
    fn keys(&self) -> Result<Keys, Failure> {
        match Loaded::load(&self.config, Purpose::Outbox) {
            Ok(loaded) => Ok(Keys::new(&loaded.config.outbox.encryption)),
            Err(_) if self.data_dir.is_some() => Ok(Keys::default()),
            Err(errors) => Err(errors.into()),
        }
    }

    /// Looks at the outbox, read only.
    fn inspect(&self) -> Result<Inspection, Failure> {
        let data_dir = self.data_dir()?;
        let _waiting = Progress::waiting("reading");
        Ok(Inspection::open(&data_dir, &self.keys()?, self.work_dir.as_deref())?)
    }
}

/// Writes a result.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    Ok(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())?)
}

/// Writes a result as JSON.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Output(io::Error::other(error)))?;
    print(&(text + "\n"))
}

/// A remark for a person.
fn remark(text: &str) {
    // Nobody is left to tell when this fails.
    let _ = writeln!(io::stderr(), "{text}");
}
