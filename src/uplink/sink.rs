//! Where records go: one seam, so that faults can be injected at every step. Kafka's client is behind it in production.
//!
//! A sink takes messages and gives back reports, in any order, from any thread, through [`Reports`]. It never waits:
//! its callbacks only note what happened and wake the task that acts on it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::Settings;

/// One message for Kafka.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Key, which also chooses the partition.
    pub key: &'a [u8],
    /// The encoded record.
    pub value: &'a [u8],
    /// CloudEvents' `type`.
    pub event_type: &'static str,
    /// CloudEvents' `id`.
    pub id: &'a [u8],
    /// CloudEvents' `time`, where the event has one.
    pub time: &'a [u8],
    /// Kafka's timestamp in milliseconds; the moment of sending unless given.
    pub timestamp_ms: Option<i64>,
    /// Whether it had been delivered before, and is sent again because an operator asked for it.
    pub replayed: bool,
    /// Comes back in the report.
    pub ticket: u32,
}

impl Message<'_> {
    /// What it takes in the client's memory and on the wire, roughly, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        /// Constant headers, and what the client keeps for each message.
        const OVERHEAD: usize = 300;
        self.key.len() + self.value.len() + self.id.len() + self.time.len() + OVERHEAD
    }
}

/// What is to be done about a message that was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Send it again.
    Again,
    /// This message, or one that shared its batch, will never be taken: find out which.
    Suspect,
    /// This message will never be taken; Kafka's client itself said so of this very one.
    Reject,
    /// Its topic does not take anything at present.
    Park,
}

/// Why a message was not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What to do about it.
    pub remedy: Remedy,
    /// The error's name, for a counter.
    pub code: String,
    /// The error for a person.
    pub detail: String,
    /// The topic that the message was for.
    pub topic: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// Why a message was not even queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The client's queue is full.
    Full,
    /// It was refused at once.
    Refused(Failure),
}

/// What a sink has to say. `generation` is that of the sink which says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Kafka has acknowledged a message.
    Delivered {
        /// The message's ticket.
        ticket: u32,
        /// Who sent it.
        generation: u32,
    },
    /// A message was not delivered.
    Failed {
        /// The message's ticket.
        ticket: u32,
        /// Who sent it.
        generation: u32,
        /// Why.
        failure: Box<Failure>,
    },
    /// A broker answered.
    Reachable {
        /// Who says so.
        generation: u32,
    },
    /// No broker can be reached, or none lets us in.
    Unreachable {
        /// Who says so.
        generation: u32,
        /// Whether that is the answer to a probe; else it is only a sign.
        probed: bool,
        /// Why, for a person.
        reason: String,
    },
    /// A hint why connections fail, for the line that says that the link is down.
    Hint {
        /// Who says so.
        generation: u32,
        /// What was wrong.
        reason: String,
    },
    /// This sink will never deliver anything again.
    Fatal {
        /// Who says so.
        generation: u32,
        /// Why, for a person.
        reason: String,
    },
}

/// The way of reports from a sink's threads to the uplink's task. It holds at most one report for each message in
/// flight, and a handful about connections between two readings of it.
#[derive(Debug, Default)]
pub struct Reports {
    list: Mutex<Vec<Report>>,
    pending: AtomicBool,
    wake: Notify,
}

/// Remarks about connections are dropped beyond this many reports: something must be read first.
const REMARKS_MAX: usize = 1 << 17;

impl Reports {
    /// Adds a report. Wakes the task only if it was not woken since it last took the reports.
    pub fn push(&self, report: Report) {
        {
            // A poisoned lock holds a vector that is whole.
            let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            if list.len() >= REMARKS_MAX && matches!(report, Report::Hint { .. } | Report::Reachable { .. }) {
                return;
            }
            list.push(report);
        }
        if !self.pending.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Takes all reports; `into` must be empty and lends its memory to the next ones.
    pub fn take(&self, into: &mut Vec<Report>) {
        self.pending.store(false, Ordering::Release);
        std::mem::swap(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner), into);
    }

    /// Waits until there are reports. Cancel-safe.
    pub async fn ready(&self) {
        while !self.pending.load(Ordering::Acquire) {
            self.wake.notified().await;
        }
    }
}

/// A client of Kafka, of one generation. Dropping it must not block, and must not lose a report of success that is on
/// its way.
pub trait Sink: Send {
    /// Queues a message; its report comes through the [`Reports`] that the sink was made with.
    fn send(&mut self, message: &Message<'_>) -> Result<(), SendError>;

    /// Asks, without waiting, whether a broker answers; the answer is [`Report::Reachable`] or
    /// [`Report::Unreachable`]. `topic` is one that we write to, if there has been one.
    fn probe(&mut self, topic: Option<&str>);
}

/// Makes sinks: the first one, and another whenever one has come to its end.
pub trait Connect: Send {
    /// What it makes.
    type Sink: Sink;

    /// Makes a sink that reports as `generation`. It does not wait for a connection; an error says what is wrong with
    /// the configuration or its files.
    fn connect(&mut self, generation: u32, reports: &Arc<Reports>) -> Result<Self::Sink, String>;

    /// Sinks that are made from now on are of these settings.
    fn change(&mut self, settings: &Settings);
}
