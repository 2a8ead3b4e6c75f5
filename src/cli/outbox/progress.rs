//! How far it has come, for whoever waits at a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const TICK: Duration = Duration::from_millis(200);

/// A bar over segments, or a spinner. Gone when it is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A bar for so many segments. Not where the records themselves go to the terminal.
    pub(super) fn new(segments: usize, records_on_stdout: bool) -> Self {
        let template = "{bar:40} {pos} of {len} segments, {eta} left";
        Self::with(ProgressBar::new(segments as u64), template, !(records_on_stdout && io::stdout().is_terminal()))
    }

    /// A spinner, where it is not known how much there is to do.
    pub(super) fn waiting(what: &'static str) -> Self {
        let progress = Self::with(ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}", true);
        progress.0.set_message(what);
        if !progress.0.is_hidden() {
            progress.0.enable_steady_tick(TICK);
        }
        progress
    }

    fn with(bar: ProgressBar, template: &str, wanted: bool) -> Self {
        if !wanted || !io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self(match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        })
    }

    /// One segment more.
    pub(super) fn advance(&self) {
        self.0.inc(1);
    }

    /// A line on stderr, above the bar if there is one.
    pub(super) fn remark(&self, line: &str) {
        self.0.suspend(|| drop(writeln!(io::stderr(), "{line}")));
    }

    /// A line on stdout, above the bar if there is one.
    pub(super) fn line(&self, line: &str) -> io::Result<()> {
        self.0.suspend(|| writeln!(io::stdout(), "{line}"))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
