//! Topics that take nothing at present: not authorised, not there. Their records stay stored and are skipped, the
//! others go on. Pure: the time comes in as an argument.
//!
//! Invariant: of a parked topic one record is kept in memory, a copy that tries the topic again; it does not hold its
//! segment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::source::Chunk;

/// Topics that are tried one by one. More than these are tried all together, by reading the outbox again.
const PARKED_MAX: usize = 256;
/// Topics that a status line names.
const NAMED_MAX: usize = 5;

#[derive(Debug)]
struct Parked {
    reason: String,
    /// Records skipped since the outbox was last read from its beginning.
    waiting: u64,
    /// Tries that were refused.
    refusals: u32,
    delay: Duration,
    /// When to try again; while a try is in flight there is no copy.
    retry_at: Instant,
    copy: Option<Arc<Chunk>>,
}

/// The parked topics.
#[derive(Debug)]
pub(crate) struct Parking {
    topics: BTreeMap<Box<str>, Parked>,
    delay_min: Duration,
    delay_max: Duration,
    /// When to read the outbox again for topics that found no room here.
    overflow_at: Option<Instant>,
    /// Whether what a person is told has changed.
    pub(crate) changed: bool,
}

impl Parking {
    /// Nothing parked; a topic is tried again after `delay_min`, then after twice that and so on up to `delay_max`.
    pub(crate) fn new(delay_min: Duration, delay_max: Duration) -> Self {
        Self { topics: BTreeMap::new(), delay_min, delay_max, overflow_at: None, changed: false }
    }

    /// Whether no topic is parked.
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.overflow_at.is_none()
    }

    /// Whether this topic is parked.
    pub(crate) fn has(&self, topic: &str) -> bool {
        !self.topics.is_empty() && self.topics.contains_key(topic)
    }

    /// Counts a record that is skipped.
    pub(crate) fn skip(&mut self, topic: &str) {
        if let Some(parked) = self.topics.get_mut(topic) {
            parked.waiting += 1;
            self.changed = true;
        }
    }

    /// Parks a topic, or counts another of its records; `copy` gives the record that shall try it again. Gives true if
    /// the topic was not parked before.
    pub(crate) fn park(
        &mut self,
        topic: &str,
        reason: &str,
        now: Instant,
        copy: impl FnOnce() -> Option<Chunk>,
    ) -> bool {
        self.changed = true;
        if let Some(parked) = self.topics.get_mut(topic) {
            parked.waiting += 1;
            return false;
        }
        let copy = copy();
        if self.topics.len() >= PARKED_MAX || copy.is_none() {
            self.overflow_at.get_or_insert(now + self.delay_max);
            return false;
        }
        self.topics.insert(
            topic.into(),
            Parked {
                reason: reason.to_owned(),
                waiting: 1,
                refusals: 0,
                delay: self.delay_min,
                retry_at: now + self.delay_min,
                copy: copy.map(Arc::new),
            },
        );
        true
    }

    /// A try was refused like the ones before: `copy` shall be the next one, after twice the time. Gives how many were.
    pub(crate) fn refused(&mut self, topic: &str, reason: &str, now: Instant, copy: Arc<Chunk>) -> u32 {
        let Some(parked) = self.topics.get_mut(topic) else { return 0 };
        parked.refusals = parked.refusals.saturating_add(1);
        reason.clone_into(&mut parked.reason);
        parked.delay = (parked.delay * 2).min(self.delay_max);
        parked.retry_at = now + parked.delay;
        parked.copy = Some(copy);
        self.changed = true;
        parked.refusals
    }

    /// The topic takes records again. Gives how many were skipped, if it was parked.
    pub(crate) fn release(&mut self, topic: &str) -> Option<u64> {
        self.changed = true;
        self.topics.remove(topic).map(|parked| parked.waiting)
    }

    /// The records that shall try their topics now.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<(Box<str>, Arc<Chunk>)> {
        self.topics
            .iter_mut()
            .filter(|(_, parked)| parked.retry_at <= now)
            .filter_map(|(topic, parked)| parked.copy.take().map(|copy| (topic.clone(), copy)))
            .collect()
    }

    /// Whether the outbox is to be read again for topics that found no room here.
    pub(crate) fn overflow_due(&mut self, now: Instant) -> bool {
        let due = self.overflow_at.is_some_and(|at| at <= now);
        if due {
            self.overflow_at = None;
        }
        due
    }

    /// When something is due next.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        let topics = self.topics.values().filter(|parked| parked.copy.is_some()).map(|parked| parked.retry_at);
        topics.chain(self.overflow_at).min()
    }

    /// The outbox is read from its beginning: all that is skipped will be counted again.
    pub(crate) fn recount(&mut self) {
        for parked in self.topics.values_mut() {
            parked.waiting = 0;
        }
        self.changed = true;
    }

    /// What a person should know; empty if nothing is parked.
    pub(crate) fn detail(&self) -> String {
        let mut parts: Vec<String> = self
            .topics
            .iter()
            .take(NAMED_MAX)
            .map(|(topic, parked)| {
                format!("parked: topic {topic} ({}), {} records waiting", parked.reason, parked.waiting)
            })
            .collect();
        let more = self.topics.len().saturating_sub(NAMED_MAX);
        if more > 0 || self.overflow_at.is_some() {
            let over = if self.overflow_at.is_some() { " at least" } else { "" };
            parts.push(format!("and{over} {} more topics", more.max(1)));
        }
        parts.join("; ")
    }
}
