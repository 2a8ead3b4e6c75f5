//! What the source tells the world about its connection: the link's state, the counters, and one line in the log when
//! it goes down and one when it is back, however often it was tried in between.

use std::time::{Duration, Instant};

use crate::counters::{Count, Counter, Counters};
use crate::log::Throttle;
use crate::status::Link;

use super::session::Tally;

/// While a broker stays away for ever changing reasons, the log hears of it this often.
const LOG_INTERVAL: Duration = Duration::from_secs(600);

/// The outside view of one source.
#[derive(Debug)]
pub(super) struct Outage {
    name: String,
    link: Link,
    connects: Counter,
    errors: Counter,
    refused: Counter,
    retained_dropped: Counter,
    redelivered_known: Counter,
    qos0_dropped: Counter,
    /// Since when it is down, and what was said about it.
    down: Option<(Instant, String)>,
    throttle: Throttle,
    resumed: bool,
    waits_for_time: bool,
    /// The trouble with subscriptions that the log has heard of.
    trouble: String,
}

impl Outage {
    pub(super) fn new(name: &str, link: Link, counters: &Counters) -> Self {
        let counter = |count| counters.counter(count, name);
        Self {
            name: name.to_owned(),
            link,
            connects: counter(Count::Connects),
            errors: counter(Count::ConnectionErrors),
            refused: counter(Count::SubscriptionsRefused),
            retained_dropped: counter(Count::RetainedDropped),
            redelivered_known: counter(Count::RedeliveredKnown),
            qos0_dropped: counter(Count::Qos0Dropped),
            down: None,
            throttle: Throttle::new(LOG_INTERVAL),
            resumed: false,
            waits_for_time: false,
            trouble: String::new(),
        }
    }

    /// The source has come around its loop.
    pub(super) fn beat(&self) {
        self.link.beat();
    }

    /// The broker has accepted the connection.
    pub(super) fn connected(&mut self, resumed: bool) {
        self.connects.add(1);
        self.resumed = resumed;
    }

    /// The subscriptions are settled; `trouble` says what is not as it should be.
    pub(super) fn up(&mut self, now: Instant, trouble: String) {
        self.waits_for_time = false;
        let session = if self.resumed { "resumed" } else { "new" };
        match self.down.take() {
            Some((since, _)) => tracing::info!(
                source = self.name,
                session,
                down_s = now.saturating_duration_since(since).as_secs(),
                "connected again"
            ),
            None => tracing::info!(source = self.name, session, "connected"),
        }
        if trouble != self.trouble && !trouble.is_empty() {
            tracing::warn!(source = self.name, "{trouble}; tried again with the next connection");
        }
        self.trouble.clone_from(&trouble);
        self.link.up(trouble);
    }

    /// The connection is down, or did not come to be.
    pub(super) fn down(&mut self, now: Instant, why: String) {
        self.errors.add(1);
        self.waits_for_time = false;
        let (since, said) = self.down.get_or_insert_with(|| (now, String::new()));
        if *since == now {
            // The first error of an outage is always told; the throttle counts from here.
            self.throttle = Throttle::new(LOG_INTERVAL);
        }
        if *said != why && self.throttle.pass(now).is_some() {
            tracing::warn!(source = self.name, "not connected: {why}; trying again");
            said.clone_from(&why);
        }
        self.link.down(why);
    }

    /// There is no connection because the time is not known: nothing is wrong, and the log hears of it once.
    pub(super) fn waiting_for_time(&mut self, now: Instant, why: String) {
        if !std::mem::replace(&mut self.waits_for_time, true) {
            tracing::warn!(source = self.name, "not connected: {why}");
        }
        self.down.get_or_insert((now, why.clone()));
        self.link.waiting_for_time(why);
    }

    /// The source has stopped for good.
    pub(super) fn stopped(&self, why: &str) {
        self.link.down(why);
    }

    /// That many subscriptions were refused.
    pub(super) fn refused(&self, count: u64) {
        if count > 0 {
            self.refused.add(count);
        }
    }

    /// Counts what became of messages without a frame.
    pub(super) fn count(&self, tally: Tally) {
        let counts = [
            (&self.retained_dropped, tally.retained_dropped),
            (&self.redelivered_known, tally.redelivered_known),
            (&self.qos0_dropped, tally.qos0_dropped),
        ];
        for (counter, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            counter.add(count);
        }
    }
}
