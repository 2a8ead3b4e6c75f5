//! Whether Kafka can be reached, and what a person is told of it: being offline is a normal state, so there is one
//! line when the link goes down and one when it is back.
//!
//! Up means that a broker has answered: it acknowledged a record, or a probe. A single sign of trouble only raises a
//! doubt, which a probe settles: brokers close idle connections, and that is not an outage.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::clock;
use crate::counters::{Count, Counter, Counters};
use crate::outbox::Backlog;
use crate::status::Link;

/// What OpenSSL says of a certificate that is not valid yet, and of others that it does not take: librdkafka tells no more.
const REFUSED_CERTIFICATE: &str = "certificate verify failed";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Up,
    Doubted,
    Down,
}

/// The state of the link.
#[derive(Debug)]
pub(crate) struct Health {
    link: Link,
    downs: Counter,
    state: State,
    since: Instant,
    hint: Option<String>,
    /// Only the time is missing: a certificate was refused while the clock was not trusted.
    waits_for_time: bool,
    shown: String,
    probe_at: Option<Instant>,
    probe_delay: Duration,
    probe_min: Duration,
    probe_max: Duration,
}

impl Health {
    /// Connecting; the first probe is due at once, later ones after `probe_min`, up to `probe_max`.
    pub(crate) fn new(link: Link, counters: &Counters, probe_min: Duration, probe_max: Duration, now: Instant) -> Self {
        Self {
            link,
            downs: counters.counter(Count::LinkDown, ""),
            state: State::Connecting,
            since: now,
            hint: None,
            waits_for_time: false,
            shown: String::new(),
            probe_at: Some(now),
            probe_delay: probe_min,
            probe_min,
            probe_max: probe_max.max(probe_min),
        }
    }

    /// Since when a broker is known to answer; `None` while none does.
    pub(crate) fn up_since(&self) -> Option<Instant> {
        matches!(self.state, State::Up | State::Doubted).then_some(self.since)
    }

    /// A broker answered.
    pub(crate) fn reachable(&mut self, now: Instant, detail: &str, backlog: impl FnOnce() -> Backlog) {
        self.hint = None;
        if std::mem::take(&mut self.waits_for_time) {
            // Its certificate is valid now, so the clock was set: nothing is to be encoded by what was known before.
            clock::glance();
        }
        self.probe_at = None;
        self.probe_delay = self.probe_min;
        match self.state {
            State::Up => return,
            State::Doubted => {
                self.state = State::Up;
                return;
            }
            State::Connecting => {
                info!("connected to Kafka; {}", waiting(backlog()));
            }
            State::Down => {
                let down_for = Duration::from_secs(now.saturating_duration_since(self.since).as_secs());
                info!("the link to Kafka is back after {down_for:?}; {}", waiting(backlog()));
            }
        }
        self.state = State::Up;
        self.since = now;
        self.link.up(detail);
        detail.clone_into(&mut self.shown);
    }

    /// The uplink has come around its loop.
    pub(crate) fn beat(&self) {
        self.link.beat();
    }

    /// Connecting anew, with other settings.
    pub(crate) fn begin_anew(&mut self, now: Instant, probe_max: Duration) {
        self.link.connecting();
        self.shown.clear();
        (self.state, self.since, self.hint) = (State::Connecting, now, None);
        self.waits_for_time = false;
        (self.probe_at, self.probe_delay) = (Some(now), self.probe_min);
        self.probe_max = probe_max.max(self.probe_min);
    }

    /// Something may be wrong: ask.
    pub(crate) fn doubt(&mut self, now: Instant) {
        if self.state == State::Up {
            self.state = State::Doubted;
            self.probe_at = Some(now);
        }
    }

    /// Why connections fail; it stands in the line that says that the link is down.
    pub(crate) fn hint(&mut self, mut reason: String) {
        // How long the client's own state machine took tells a person nothing.
        if let Some(at) = reason.find(" (after ") {
            reason.truncate(at);
        }
        let waited = self.waits_for_time;
        let waiting = if reason.contains(REFUSED_CERTIFICATE) {
            clock::waiting_for_time("the broker's certificate cannot be verified")
        } else {
            None
        };
        self.waits_for_time = waiting.is_some();
        reason = waiting.unwrap_or(reason);
        if self.state == State::Down {
            if self.waits_for_time && !waited {
                warn!("the link to Kafka is down: {reason}");
            }
            self.show_down(&reason);
        }
        self.hint = Some(reason);
    }

    /// Whether there is no link, and nothing but the time is missing.
    pub(crate) fn waits_for_time(&self) -> bool {
        self.waits_for_time && self.up_since().is_none()
    }

    /// The time is known now: why connections failed may be so no more.
    pub(crate) fn time_is_known(&mut self, now: Instant) {
        self.hint = None;
        self.probe_delay = self.probe_min;
        self.probe_at = Some(now + self.probe_min);
    }

    /// No broker can be reached.
    pub(crate) fn unreachable(&mut self, now: Instant, probed: bool, reason: &str, backlog: impl FnOnce() -> Backlog) {
        match self.state {
            State::Up => self.doubt(now),
            // Only the answer to a probe settles a doubt: the client says everything twice.
            State::Doubted if !probed => {}
            _ => self.down(now, reason, backlog),
        }
    }

    /// It is down, without a doubt.
    pub(crate) fn down(&mut self, now: Instant, reason: &str, backlog: impl FnOnce() -> Backlog) {
        let reason = self.hint.clone().unwrap_or_else(|| reason.to_owned());
        if self.state != State::Down {
            warn!("the link to Kafka is down: {reason}; {}", waiting(backlog()));
            self.downs.add(1);
            self.state = State::Down;
            self.since = now;
            self.shown.clear();
            self.probe_at.get_or_insert(now + self.probe_delay);
        }
        self.show_down(&reason);
    }

    fn show_down(&mut self, reason: &str) {
        if self.shown != reason {
            if self.waits_for_time {
                self.link.waiting_for_time(reason);
            } else {
                self.link.down(reason);
            }
            reason.clone_into(&mut self.shown);
        }
    }

    /// What is not as it should be though the link is up.
    pub(crate) fn show(&mut self, detail: &str) {
        if self.up_since().is_some() && self.shown != detail {
            self.link.up(detail);
            detail.clone_into(&mut self.shown);
        }
    }

    /// Whether to send a probe now.
    pub(crate) fn probe_due(&mut self, now: Instant) -> bool {
        let due = self.probe_at.is_some_and(|at| at <= now);
        if due {
            self.probe_at = Some(now + self.probe_delay);
            self.probe_delay = (self.probe_delay * 2).min(self.probe_max);
        }
        due
    }

    /// When the next probe is due.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.probe_at
    }
}

fn waiting(backlog: Backlog) -> String {
    match backlog.records {
        0 => "nothing is waiting".to_owned(),
        records => {
            let oldest = backlog.oldest_ms.filter(|ms| clock::is_plausible(*ms)).map_or_else(String::new, |ms| {
                let text = super::time::rfc3339(ms);
                format!(", the oldest since {}", String::from_utf8_lossy(&text))
            });
            format!("{records} records are waiting{oldest}")
        }
    }
}
