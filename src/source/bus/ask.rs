//! Asking a device for one thing, as often as it is worth it. What did not come is counted, and told to who looks.

use std::io;
use std::ops::Range;

use tokio::io::{AsyncRead, AsyncWrite};

use super::line::{Bus, Outcome, Patience};
use crate::clock;
use crate::counters::Counter;
use crate::log::Throttle;
use crate::status::Link;

/// What is known of a device beside how it is asked.
#[derive(Debug)]
pub(super) struct Known {
    /// `unit 5 (heat-meter)`, for a person.
    pub(super) name: String,
    pub(super) patience: Patience,
    /// What it refuses, or that its answers are damaged; empty if all is well.
    pub(super) trouble: String,
    pub(super) timeouts: Counter,
    pub(super) damaged: Counter,
    pub(super) exceptions: Counter,
    pub(super) log: Throttle,
}

/// A device whose turn it is.
#[derive(Debug)]
pub(super) struct Asking<'a, S> {
    pub(super) known: &'a mut Known,
    pub(super) bus: &'a mut Bus<S>,
    pub(super) link: &'a Link,
    /// The line, as it stands in logs.
    pub(super) source: &'a str,
    /// How often a request is sent again.
    pub(super) retries: u8,
    /// Rounds before this one without an answer.
    pub(super) failures: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Asking<'_, S> {
    /// Sends a request up to so many times. Nothing if there was no answer; `what` is what was asked for.
    pub(super) async fn ask<T>(
        &mut self,
        request: &[u8],
        tries: u8,
        what: impl FnOnce() -> String,
        find: impl Fn(&[u8]) -> Option<(T, Range<usize>)>,
    ) -> io::Result<Option<T>> {
        let mut damaged = false;
        for attempt in 0..tries {
            // With the longest timeout and the most retries a whole round is longer than a part may be silent.
            self.link.beat();
            match self.bus.exchange(request, self.known.patience, &find).await? {
                Outcome::Answer(answer) => {
                    if attempt > 0 {
                        self.bus.unsettle();
                    }
                    return Ok(Some(answer));
                }
                Outcome::Silent => self.known.timeouts.add(1),
                Outcome::Damaged => {
                    damaged = true;
                    self.known.damaged.add(1);
                }
            }
        }
        self.known.trouble = format!("did not answer for {}", what());
        if damaged {
            self.known.trouble += ": what was heard is damaged, by noise or by a second device with its address";
            self.warn();
        }
        Ok(None)
    }

    /// Warns of the trouble that it has, now and then.
    pub(super) fn warn(&mut self) {
        let Known { log, name, trouble, .. } = &mut *self.known;
        if let Some(suppressed) = log.pass(clock::instant()) {
            tracing::warn!(source = self.source, suppressed, "{name} {trouble}");
        }
    }
}
