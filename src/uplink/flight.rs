//! What Kafka's client has and has not reported on: a ring of slots of a fixed number.
//!
//! A message carries a ticket of 32 bits: its slot's index and the slot's version, which rises with every use. So a
//! report about an earlier use of the slot is recognised, and tickets fit the client's opaque pointer on 32-bit boards.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::sink::{Failure, Remedy};
use super::source::Chunk;
use super::topic::Topic;
use crate::outbox::Lane;

/// Alarms may exceed the limits by this part of them, and by at most so many records, so that a backlog of other records
/// that is in flight does not hold them up.
const ALARM_PART: usize = 8;
const ALARMS_MAX: usize = 512;
/// In the order of records that are no alarms: they come after those that are.
const NO_ALARM: u64 = 1 << 63;

/// A record's place: segment, lane, number.
pub(crate) type Place = (u64, Lane, u64);

/// The most records there can be: 16 bits of a ticket name the slot, 16 its version; some slots are left for
/// alarms, and for records that try a parked topic: they enter beyond the limit.
pub(crate) const RECORDS_MAX: usize = (1 << 16) - 1_024;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The slot holds no record.
    Free,
    /// Ours: to be sent, or to be sent again.
    Ours,
    /// Kafka's client has it.
    Sent,
    /// Its dead letter is on its way to the disk.
    Buried,
}

/// One record in flight.
#[derive(Debug)]
pub(crate) struct Slot {
    version: u16,
    pub(crate) state: State,
    chunk: Option<Arc<Chunk>>,
    pub(crate) index: usize,
    /// Rises with every record that enters, so that records are sent again in their order, alarms before all others.
    pub(crate) order: u64,
    pub(crate) generation: u32,
    /// Messages that it became, and those not reported on.
    pub(crate) parts: usize,
    pub(crate) open: usize,
    bytes: usize,
    pub(crate) sent_at: Option<Instant>,
    /// Why some part of it failed.
    pub(crate) failure: Option<Failure>,
    /// How often it came back without a reason that we know.
    pub(crate) attempts: u8,
    /// It is being sent apart from others, to find out which record of a batch is refused.
    pub(crate) on_trial: bool,
    /// The parked topic that it tries.
    pub(crate) probe_of: Option<Box<str>>,
    pub(crate) topic: Option<Arc<Topic>>,
}

/// What a slot held.
#[derive(Debug)]
pub(crate) struct Landed {
    pub(crate) chunk: Arc<Chunk>,
    pub(crate) index: usize,
    pub(crate) parts: usize,
    /// Bytes of its messages.
    pub(crate) bytes: usize,
    pub(crate) probe_of: Option<Box<str>>,
    pub(crate) topic: Option<Arc<Topic>>,
}

impl Landed {
    /// The record's place in the outbox.
    pub(crate) fn place(&self) -> Place {
        (self.chunk.segment, self.chunk.lane, self.chunk.seq(self.index))
    }
}

/// All records in flight, bounded in number and in bytes.
#[derive(Debug)]
pub(crate) struct Flight {
    slots: Vec<Slot>,
    free: Vec<u16>,
    records_max: usize,
    bytes_max: usize,
    bytes: usize,
    sent: usize,
    order: u64,
}

impl Flight {
    /// Room for so many records and bytes, but never for less than one record.
    pub(crate) fn new(records_max: usize, bytes_max: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            records_max: records_max.clamp(1, RECORDS_MAX),
            bytes_max,
            bytes: 0,
            sent: 0,
            order: 0,
        }
    }

    /// Other limits from now on; what is beyond them leaves as it is reported on.
    pub(crate) fn resize(&mut self, records_max: usize, bytes_max: usize) {
        (self.records_max, self.bytes_max) = (records_max.clamp(1, RECORDS_MAX), bytes_max);
    }

    /// Whether another record may enter.
    pub(crate) fn has_room(&self) -> bool {
        let used = self.slots.len() - self.free.len();
        used == 0 || (used < self.records_max && self.bytes < self.bytes_max)
    }

    /// Whether another alarm may enter.
    pub(crate) fn has_room_for_alarm(&self) -> bool {
        let used = self.slots.len() - self.free.len();
        let more = (self.records_max / ALARM_PART).clamp(1, ALARMS_MAX);
        used == 0
            || (used < self.records_max + more
                && self.bytes < self.bytes_max.saturating_add(self.bytes_max / ALARM_PART))
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// How many records Kafka's client has.
    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    /// Takes a record in; gives its ticket.
    pub(crate) fn enter(&mut self, chunk: &Arc<Chunk>, index: usize) -> u32 {
        self.order += 1;
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                version: 0,
                state: State::Free,
                chunk: None,
                index: 0,
                order: 0,
                generation: 0,
                parts: 1,
                open: 0,
                bytes: 0,
                sent_at: None,
                failure: None,
                attempts: 0,
                on_trial: false,
                probe_of: None,
                topic: None,
            });
            // Within 16 bits: see `RECORDS_MAX`.
            (self.slots.len() - 1) as u16
        });
        let slot = &mut self.slots[usize::from(at)];
        slot.state = State::Ours;
        slot.chunk = Some(Arc::clone(chunk));
        slot.index = index;
        slot.order = if chunk.lane == Lane::Alarm { self.order } else { self.order | NO_ALARM };
        ticket(at, slot.version)
    }

    /// The slot of a ticket, unless the slot has been used anew.
    pub(crate) fn get(&mut self, ticket: u32) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(index_of(ticket))?;
        (slot.version == version_of(ticket) && slot.state != State::Free).then_some(slot)
    }

    /// A record by its ticket.
    pub(crate) fn record(&self, ticket: u32) -> Option<(Arc<Chunk>, usize)> {
        let slot = self.slots.get(index_of(ticket))?;
        if slot.version != version_of(ticket) {
            return None;
        }
        slot.chunk.as_ref().map(|chunk| (Arc::clone(chunk), slot.index))
    }

    /// Notes that all of a record's messages are being handed over.
    pub(crate) fn send(&mut self, ticket: u32, generation: u32, parts: usize, now: Instant) {
        let Some(slot) = self.get(ticket) else { return };
        slot.state = State::Sent;
        slot.generation = generation;
        slot.parts = parts;
        slot.open = parts;
        slot.failure = None;
        slot.sent_at = Some(now);
        self.sent += 1;
    }

    /// Counts a message's bytes.
    pub(crate) fn weigh(&mut self, ticket: u32, bytes: usize) {
        let Some(slot) = self.get(ticket) else { return };
        slot.bytes += bytes;
        self.bytes += bytes;
    }

    /// Notes that one of a record's messages was reported on, and with what. Gives true with the last one.
    pub(crate) fn reported(&mut self, ticket: u32, failure: Option<Failure>) -> bool {
        let Some(slot) = self.get(ticket) else { return false };
        if slot.state != State::Sent {
            return false;
        }
        slot.open = slot.open.saturating_sub(1);
        if let Some(failure) = failure
            && slot.failure.as_ref().is_none_or(|known| severity(known.remedy) < severity(failure.remedy))
        {
            slot.failure = Some(failure);
        }
        slot.open == 0
    }

    /// Takes a record back from Kafka's client: it is ours again. Gives its ticket, which is a new one if reports of
    /// the messages that it had become could no longer be told apart from those that it will become.
    pub(crate) fn take_back(&mut self, old: u32) -> u32 {
        let Some(slot) = self.get(old) else { return old };
        let was_sent = slot.state == State::Sent;
        slot.state = State::Ours;
        if slot.parts > 1 {
            slot.version = slot.version.wrapping_add(1);
        }
        let bytes = std::mem::take(&mut slot.bytes);
        let new = ticket(index_of(old) as u16, slot.version);
        self.bytes -= bytes;
        self.sent -= usize::from(was_sent);
        new
    }

    /// Empties a slot.
    pub(crate) fn land(&mut self, old: u32) -> Option<Landed> {
        let slot = self.get(old)?;
        let was_sent = slot.state == State::Sent;
        slot.state = State::Free;
        slot.version = slot.version.wrapping_add(1);
        slot.failure = None;
        slot.attempts = 0;
        slot.on_trial = false;
        slot.sent_at = None;
        let bytes = std::mem::take(&mut slot.bytes);
        let landed = slot.chunk.take().map(|chunk| Landed {
            chunk,
            index: slot.index,
            parts: slot.parts,
            bytes,
            probe_of: slot.probe_of.take(),
            topic: slot.topic.take(),
        });
        self.bytes -= bytes;
        self.sent -= usize::from(was_sent);
        self.free.push(index_of(old) as u16);
        landed
    }

    /// All tickets in that state, oldest record first.
    pub(crate) fn tickets(&self, state: State) -> Vec<u32> {
        let mut found: Vec<(u64, u32)> = (0_u16..=u16::MAX)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.state == state)
            .map(|(at, slot)| (slot.order, ticket(at, slot.version)))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, ticket)| ticket).collect()
    }

    /// When the message was sent that has waited longest for its report.
    pub(crate) fn oldest_sent(&self) -> Option<Instant> {
        self.slots.iter().filter(|slot| slot.state == State::Sent).filter_map(|slot| slot.sent_at).min()
    }

    /// The places of all records in flight.
    pub(crate) fn places(&self) -> HashSet<Place> {
        self.slots
            .iter()
            .filter_map(|slot| slot.chunk.as_ref().map(|chunk| (chunk.segment, chunk.lane, chunk.seq(slot.index))))
            .collect()
    }
}

/// When several messages of one record fail, the reason that asks for most wins.
fn severity(remedy: Remedy) -> u8 {
    match remedy {
        Remedy::Again => 0,
        Remedy::Park => 1,
        Remedy::Suspect => 2,
        Remedy::Reject => 3,
    }
}

fn ticket(at: u16, version: u16) -> u32 {
    u32::from(at) | (u32::from(version) << 16)
}

fn index_of(ticket: u32) -> usize {
    (ticket & 0xffff) as usize
}

fn version_of(ticket: u32) -> u16 {
    (ticket >> 16) as u16
}
