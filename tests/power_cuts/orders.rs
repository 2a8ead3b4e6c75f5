//! What the child is told to do, in one environment variable.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::modes::Mode;

const VARIABLE: &str = "TIDEGATE_POWER_CUTS_CHILD";
const CHILD: &str = "writer::the_child_that_writes";

/// What it does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task {
    /// Appends, delivers and so on.
    Write {
        /// So many times; then it ends in good order.
        steps: u64,
        /// Percent of the steps that deliver.
        deliver: u8,
    },
    /// Reads all and acknowledges nothing.
    Drain,
}

/// All that it needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    /// The data directory.
    pub(crate) path: PathBuf,
    /// What it does.
    pub(crate) task: Task,
    /// For everything that it chooses.
    pub(crate) seed: u64,
    /// Makes its readings differ from those of other children.
    pub(crate) life: u64,
    /// The outbox's bound.
    pub(crate) size_max: u64,
    /// What its outbox does besides the usual.
    pub(crate) mode: Mode,
    /// How long it waits until something is durable.
    pub(crate) patience: Duration,
}

impl Orders {
    /// This program, told to be the child.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", CHILD, "--nocapture", "--test-threads=1"]).env(VARIABLE, self.to_text());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// As text.
    pub(crate) fn to_text(&self) -> String {
        let (steps, deliver) = match self.task {
            Task::Write { steps, deliver } => (steps, deliver),
            Task::Drain => (0, 0),
        };
        let patience_ms = self.patience.as_millis();
        let Self { path, seed, life, size_max, mode, .. } = self;
        let mode = mode.to_number();
        format!("{steps} {deliver} {seed} {life} {size_max} {mode} {patience_ms} {}", path.display())
    }

    /// From the environment, in the child.
    pub(crate) fn of_this_process() -> Option<Self> {
        let text = std::env::var(VARIABLE).ok()?;
        let mut words = text.splitn(8, ' ');
        let mut number = || words.next().unwrap().parse::<u64>().unwrap();
        let (steps, deliver, seed, life) = (number(), number() as u8, number(), number());
        let (size_max, mode, patience) = (number(), Mode::of_number(number()), number());
        let task = if steps == 0 { Task::Drain } else { Task::Write { steps, deliver } };
        let patience = Duration::from_millis(patience);
        Some(Self { path: words.next().unwrap().into(), task, seed, life, size_max, mode, patience })
    }
}
