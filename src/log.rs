//! How the gateway logs: human on a terminal, with fields where standard error is systemd's journal, plain otherwise; never a
//! line per message.

mod journal;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// A part of a filter that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no level (off, error, warn, info, debug or trace) and no TARGET=LEVEL")]
pub struct FilterError(String);

/// Starts logging. `filter` is a level (`info`) or a list of targets with levels (`info,tidegate::uplink=debug`).
///
/// # Errors
/// When the filter cannot be read.
pub fn start(filter: &str) -> Result<(), FilterError> {
    let filter = read(filter)?;
    if journal::is_stderr() {
        // It adds the time itself.
        tracing_subscriber::registry().with(filter).with(journal::Journal::new()).init();
    } else {
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines = lines.with_target(false).with_ansi(std::io::stderr().is_terminal());
        tracing_subscriber::registry().with(filter).with(lines).init();
    }
    Ok(())
}

/// Nothing at all means errors only, and a target without a level all that it says, as with other programs that use tracing. Patterns
/// of spans and fields, which some of them know, are refused: they would take an engine for regular expressions.
fn read(filter: &str) -> Result<Targets, FilterError> {
    let mut parts = filter.split(',').map(str::trim).filter(|part| !part.is_empty()).peekable();
    if parts.peek().is_none() {
        return Ok(Targets::new().with_default(LevelFilter::ERROR));
    }
    parts.try_fold(Targets::new(), |targets, part| {
        let (target, level) = match part.split_once('=') {
            Some((target, level)) => (Some(target), parse_level(level)),
            None => parse_level(part).map_or((Some(part), Some(LevelFilter::TRACE)), |level| (None, Some(level))),
        };
        match (target, level) {
            (None, Some(level)) => Ok(targets.with_default(level)),
            (Some(target), Some(level)) if is_target(target) => Ok(targets.with_target(target, level)),
            _ => Err(FilterError(part.to_owned())),
        }
    })
}

/// A word, or a number from 0 to 5.
fn parse_level(text: &str) -> Option<LevelFilter> {
    // The parser takes nothing at all for a level.
    text.parse().ok().filter(|_| !text.is_empty())
}

/// The path of a module.
fn is_target(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "_-:".contains(c))
}

/// Lets one line through per interval, and tells the next one how many were held back.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    last: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    /// One line per `interval`.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { interval, last: None, suppressed: 0 }
    }

    /// Whether a line may go out now; if so, how many were held back since the last one.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_filter_says_which_part_logs_what() {
        const UPLINK: &str = "tidegate::uplink::drain";
        // What is the most that it lets through: of the uplink, of the outbox, of another crate.
        let cases = [
            ("info", [Some(Level::INFO); 3]),
            ("INFO", [Some(Level::INFO); 3]),
            ("4", [Some(Level::DEBUG); 3]),
            ("off", [None; 3]),
            ("", [Some(Level::ERROR); 3]),
            (" info, tidegate::uplink=debug ,", [Some(Level::DEBUG), Some(Level::INFO), Some(Level::INFO)]),
            ("tidegate::uplink=debug,info", [Some(Level::DEBUG), Some(Level::INFO), Some(Level::INFO)]),
            ("tidegate=warn,tidegate::uplink=error", [Some(Level::ERROR), Some(Level::WARN), None]),
            ("info,tidegate::uplink", [Some(Level::TRACE), Some(Level::INFO), Some(Level::INFO)]),
            ("warn,sled=off", [Some(Level::WARN), Some(Level::WARN), None]),
        ];
        for (text, most) in cases {
            let filter = read(text).unwrap();
            for (target, most) in [UPLINK, "tidegate::outbox", "sled"].into_iter().zip(most) {
                for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
                    assert_eq!(
                        filter.would_enable(target, &level),
                        most.is_some_and(|most| level <= most),
                        "{text}: {target} {level}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused_by_its_part() {
        for part in [
            "tidegate=loud",
            "=info",
            "tidegate=",
            "tidegate=info=debug",
            "[span]=info",
            "tidegate[{field}]=info",
            "a=6",
            "a b",
        ] {
            assert_eq!(read(&format!("info,{part}")), Err(FilterError(part.to_owned())));
        }
    }
}
