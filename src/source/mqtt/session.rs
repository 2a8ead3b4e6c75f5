//! What the source knows of its MQTT session, without any I/O: packets go in, and out come a batch of frames for the
//! intake and the acknowledgements that are due.
//!
//! Invariants:
//! - A message is acknowledged only once the append number of its batch is durable, and acknowledgements leave in the
//!   order of arrival, those of messages that led to nothing included (MQTT-4.6.0-2).
//! - An acknowledgement never outlives its connection: packet identifiers are used again, so [`Session::connected`]
//!   drops what is queued, and the broker sends those messages again.
//! - What was accepted and is not durable yet is bounded: at the budget the socket is not read ([`Session::is_full`]).

use std::collections::VecDeque;

use tracing::info;

use crate::config;
use crate::reading::{Frames, Receipt, Stamp};

use super::Sink;
use super::receipts::{Receipts, hash};
use super::retained::RetainedFilter;
use super::subscriptions::{Request, Subscriptions};
use super::wire::{Ack, Publish};

/// What a message costs in the queues besides its bytes, so that empty messages fill the budget too.
const MESSAGE_BYTES: usize = 64;

/// With QoS 0 being dropped at the budget, QoS 1 messages may take this many budgets before the socket is not read.
const HARD_BUDGETS: usize = 2;

/// What became of messages without a frame, since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) retained_dropped: u64,
    pub(super) redelivered_known: u64,
    pub(super) qos0_dropped: u64,
}

/// A message of the batch being read that the broker waits to hear of.
#[derive(Debug)]
struct Arrival {
    ack: Ack,
    receipt: Option<Receipt>,
    /// Its append number, if it was taken in an earlier connection.
    known: Option<u64>,
}

/// The state of one session.
#[derive(Debug)]
pub(super) struct Session {
    name: String,
    memory_bytes_max: usize,
    drop_qos0: bool,
    hurry_at: usize,
    retained: RetainedFilter,
    receipts: Receipts,
    pub(super) subscriptions: Subscriptions,
    tally: Tally,
    /// The batch being read.
    frames: Frames,
    arrivals: Vec<Arrival>,
    new_receipts: Vec<Receipt>,
    /// Acknowledgements in the order of arrival, each with the append number that must be durable first.
    unacked: VecDeque<(u64, Ack)>,
    /// Bytes accepted with each append number that is not durable yet.
    waiting: VecDeque<(u64, usize)>,
    waiting_bytes: usize,
    last_append: u64,
    durable: u64,
    hurried: u64,
}

impl Session {
    /// `known` are the receipts of earlier runs and sources, `filters` what to subscribe to.
    pub(super) fn new(settings: &config::Mqtt, known: &[(Receipt, u64)], filters: Vec<String>) -> Self {
        Self {
            name: settings.name.clone(),
            memory_bytes_max: settings.memory_bytes_max,
            drop_qos0: settings.drop_qos0,
            // Three quarters: late enough to leave slow traffic to the timer, early enough that the broker, which
            // goes on sending during the commit, does not come to its limit.
            hurry_at: (usize::from(settings.in_flight_max) * 3 / 4).max(1),
            retained: RetainedFilter::new(settings.retained),
            receipts: Receipts::new(settings.in_flight_max.max(Receipt::KEPT_MIN), known),
            subscriptions: Subscriptions::new(filters, settings.qos),
            tally: Tally::default(),
            frames: Frames::default(),
            arrivals: Vec::new(),
            new_receipts: Vec::new(),
            unacked: VecDeque::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            last_append: 0,
            durable: 0,
            hurried: 0,
        }
    }

    /// Whether redelivered messages could be recognised.
    pub(super) fn has_receipts(&self) -> bool {
        !self.receipts.is_empty()
    }

    /// A connection begins; `resumed` says whether the broker still had the session. Gives what is to be subscribed.
    pub(super) fn connected(&mut self, resumed: bool) -> Vec<Request> {
        self.unacked.clear();
        self.arrivals.clear();
        self.new_receipts.clear();
        if !self.receipts.connected(resumed) {
            info!(
                source = %self.name,
                "this broker uses packet identifiers again at once: what it sends again after a crash is stored again"
            );
        }
        self.subscriptions.connected(resumed)
    }

    /// The messages that follow were read at `received`.
    pub(super) fn begin(&mut self, received: Stamp) {
        self.frames.reset(received);
    }

    /// A message arrived.
    pub(super) fn publish(&mut self, publish: &Publish) {
        let topic = publish.topic();
        if publish.qos == 0 {
            if self.drop_qos0 && self.bytes() >= self.memory_bytes_max {
                self.tally.qos0_dropped += 1;
                return;
            }
            if self.is_wanted(publish) {
                self.push(publish, topic);
            }
            return;
        }
        // QoS 2 is never asked for; a session that someone else had subscribed with it may bring it all the same.
        let ack = if publish.qos == 1 { Ack::Taken(publish.id) } else { Ack::Received(publish.id) };
        let receipt = Receipt { packet_id: publish.id, hash: hash(topic, &publish.payload) };
        let known = self.receipts.recognise(receipt, publish.dup);
        let mut new_receipt = None;
        if known.is_some() {
            self.tally.redelivered_known += 1;
        } else if self.is_wanted(publish) {
            self.push(publish, topic);
            self.new_receipts.push(receipt);
            new_receipt = Some(receipt);
        }
        self.arrivals.push(Arrival { ack, receipt: new_receipt, known });
    }

    fn is_wanted(&mut self, publish: &Publish) -> bool {
        let wanted = !publish.retain || self.retained.take(publish.topic());
        self.tally.retained_dropped += u64::from(!wanted);
        wanted
    }

    fn push(&mut self, publish: &Publish, topic: &str) {
        match publish.oversize {
            None => self.frames.push(topic, &publish.payload, publish.retain),
            Some(length) => self.frames.push_oversize(topic, &publish.payload, publish.retain, length),
        }
    }

    /// All messages of this read are in: hands them over. Does nothing if there were none.
    pub(super) fn end(&mut self, sink: &mut impl Sink) {
        if !self.frames.is_empty() {
            self.last_append = sink.accept(&self.frames, &self.new_receipts);
            let bytes = self.batch_bytes();
            self.waiting.push_back((self.last_append, bytes));
            self.waiting_bytes += bytes;
            self.new_receipts.clear();
            self.frames.reset(Stamp::default());
        }
        for arrival in self.arrivals.drain(..) {
            if let Some(receipt) = arrival.receipt {
                self.receipts.remember(receipt, self.last_append);
            }
            self.unacked.push_back((arrival.known.unwrap_or(self.last_append), arrival.ack));
        }
        self.hurry_if_near_the_limit(sink);
    }

    /// Everything up to `durable` is safe. What is due now is to be taken with [`Session::take_due`].
    pub(super) fn durable(&mut self, durable: u64) {
        self.durable = self.durable.max(durable);
        while let Some(&(append, bytes)) = self.waiting.front()
            && append <= self.durable
        {
            self.waiting.pop_front();
            self.waiting_bytes -= bytes;
        }
    }

    /// The next acknowledgement that is due.
    pub(super) fn take_due(&mut self) -> Option<Ack> {
        let &(append, ack) = self.unacked.front()?;
        if append > self.durable {
            return None;
        }
        self.unacked.pop_front();
        Some(ack)
    }

    /// Starts the commit now if the broker would soon hold messages back, or if the budget is used up, unless the last
    /// commit that was asked for is still under way.
    pub(super) fn hurry_if_near_the_limit(&mut self, sink: &mut impl Sink) {
        let near = self.unacked.len() >= self.hurry_at || self.waiting_bytes >= self.memory_bytes_max;
        if near && self.last_append > self.durable && self.hurried <= self.durable {
            self.hurried = self.last_append;
            sink.hurry();
        }
    }

    /// Whether the budget is used up, so that the socket is not to be read.
    pub(super) fn is_full(&self) -> bool {
        let budgets = if self.drop_qos0 { HARD_BUDGETS } else { 1 };
        self.bytes() >= self.memory_bytes_max.saturating_mul(budgets)
    }

    /// Whether something waits to become durable.
    pub(super) fn waits(&self) -> bool {
        !self.unacked.is_empty() || !self.waiting.is_empty()
    }

    /// The number that must be durable until everything accepted is safe.
    pub(super) fn last_append(&self) -> u64 {
        self.last_append
    }

    /// What became of messages without a frame since the last call.
    pub(super) fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    fn bytes(&self) -> usize {
        self.waiting_bytes + self.batch_bytes()
    }

    fn batch_bytes(&self) -> usize {
        self.frames.bytes() + self.frames.len() * MESSAGE_BYTES
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
