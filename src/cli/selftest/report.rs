//! What the self-test found: for a person and, with the same words, for a script.

use std::fmt::Write as _;
use std::io::Write as _;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

use crate::cli::board;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// As it should be.
    Ok,
    /// It works, and somebody should know something.
    Note,
    /// It does not work.
    Failed,
    /// It could not be tried, because of what failed before.
    Skipped,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

/// One check.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    check: &'static str,
    outcome: Outcome,
    found: String,
    /// What to do.
    help: Option<String>,
}

impl Check {
    pub(super) fn ok(check: &'static str, found: String) -> Self {
        Self { check, outcome: Outcome::Ok, found, help: None }
    }

    pub(super) fn note(check: &'static str, found: String, help: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Note, found, help: Some(help.into()) }
    }

    pub(super) fn failed(check: &'static str, found: String, help: Option<String>) -> Self {
        Self { check, outcome: Outcome::Failed, found, help }
    }
}

/// What was measured; null where it could not be. Fields are only ever added.
#[derive(Debug, Default, Serialize)]
pub(super) struct Measured {
    /// Bytes free on the disk that was tested, and all of it.
    pub(super) free_bytes: Option<u64>,
    pub(super) total_bytes: Option<u64>,
    /// Commits with fsync, and how long they took.
    pub(super) commits: Option<usize>,
    pub(super) commit_median_ms: Option<f64>,
    pub(super) commit_max_ms: Option<f64>,
    /// Bytes that these commits caused to be written to the disk, as the kernel counts them.
    pub(super) written_bytes: Option<u64>,
    /// Bytes that the outbox took.
    pub(super) stored_bytes: Option<u64>,
    /// Records that went through the uplink, and how long that took with the connection.
    pub(super) delivered: Option<u64>,
    pub(super) delivery_ms: Option<f64>,
}

/// All that was found. Fields are only ever added.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: &'static str,
    /// What it was built for.
    target: &'static str,
    /// `release`, or `debug`: a slow one.
    build: &'static str,
    board: Option<String>,
    system: Option<String>,
    kernel: String,
    memory_bytes: Option<u64>,
    passed: bool,
    pub(super) checks: Vec<Check>,
    pub(super) measured: Measured,
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            target: env!("TIDEGATE_TARGET"),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            board: board::model(),
            system: board::distribution(),
            kernel: board::kernel(),
            memory_bytes: board::memory().map(|(total, _)| total),
            passed: true,
            checks: Vec::new(),
            measured: Measured::default(),
        }
    }

    /// Says of these checks that they could not be tried.
    pub(super) fn skip(&mut self, checks: &[&'static str], why: &str) {
        let skipped = |check: &&'static str| Check {
            check,
            outcome: Outcome::Skipped,
            found: format!("not tried: {why}"),
            help: None,
        };
        self.checks.extend(checks.iter().map(skipped));
    }

    pub(super) fn passed(&self) -> bool {
        !self.checks.iter().any(|check| matches!(check.outcome, Outcome::Failed | Outcome::Skipped))
    }

    pub(super) fn print(&mut self, json: bool) {
        self.passed = self.passed();
        let text = if json { serde_json::to_string_pretty(self).unwrap_or_default() + "\n" } else { self.table() };
        // A closed pipe has seen enough.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
    }

    fn table(&self) -> String {
        let mut text = format!("tidegate {} for {}, {} build\n", self.version, self.target, self.build);
        let memory = self.memory_bytes.map(|bytes| format!("{} of memory", super::size(bytes)));
        let machine = [self.board.clone(), self.system.clone(), memory];
        // Writing to a string cannot fail.
        let _ = writeln!(text, "on {}\n", machine.into_iter().flatten().collect::<Vec<_>>().join(", "));
        let mut table = Table::new();
        table.load_preset(NOTHING);
        for check in &self.checks {
            table.add_row([check.check, check.outcome.as_str(), &check.found]);
            if let Some(help) = &check.help {
                table.add_row(["", "", &format!("-> {help}")]);
            }
        }
        for line in table.lines() {
            let _ = writeln!(text, "{}", line.trim_end().strip_prefix(' ').unwrap_or_default());
        }
        let verdict = if self.passed { "all is well" } else { "something is wrong, see above" };
        let _ = writeln!(text, "\n{verdict}");
        text
    }
}
