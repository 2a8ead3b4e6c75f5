//! Sending: new records in the order of the outbox, those that came back in the order in which they were sent first,
//! suspects apart from all others.

use std::sync::Arc;
use std::time::Instant;

use super::{Drain, FULL};
use crate::counters::Count;
use crate::reading::Record;
use crate::uplink::encode::event_type;
use crate::uplink::flight::{Flight, State};
use crate::uplink::sink::{Connect, Failure, Message, Remedy, SendError, Sink};
use crate::uplink::source::{Chunk, Source};

impl<S: Source, C: Connect> Drain<S, C> {
    pub(super) fn send_again(&mut self, now: Instant) {
        if self.sink.is_none() {
            return;
        }
        if self.trials.is_on() {
            let calm = self.flight.sent() == 0;
            let flight = &mut self.flight;
            let group = self.trials.next_group(calm, |ticket| flight.get(ticket).map(|slot| slot.order));
            for ticket in group {
                let Some(slot) = self.flight.get(ticket) else {
                    self.trials.left(true);
                    continue;
                };
                slot.on_trial = true;
                self.send(ticket, now);
            }
            return;
        }
        if self.again_at.is_some_and(|at| at > now) {
            return;
        }
        self.again_at = None;
        while self.full_until.is_none()
            && let Some((_, ticket)) = self.again.pop_first()
        {
            if self.flight.get(ticket).is_some_and(|slot| slot.state == State::Ours) {
                self.send(ticket, now);
            }
        }
    }

    /// Sends new records while there is room: alarms first.
    pub(super) fn feed(&mut self, now: Instant) {
        if let Some(urgent) = self.urgent.take() {
            self.urgent = self.feed_chunk(urgent, Flight::has_room_for_alarm, now);
        }
        if let Some(current) = self.current.take() {
            self.current = self.feed_chunk(current, Flight::has_room, now);
        }
    }

    /// Sends records of a chunk from an index on, and gives what is left of it.
    fn feed_chunk(
        &mut self,
        (chunk, first): (Arc<Chunk>, usize),
        has_room: fn(&Flight) -> bool,
        now: Instant,
    ) -> Option<(Arc<Chunk>, usize)> {
        for (index, record) in chunk.batch.records.iter().enumerate().skip(first) {
            if self.held() || !has_room(&self.flight) {
                return Some((Arc::clone(&chunk), index));
            }
            if !self.is_skipped(&chunk, index, record) {
                let ticket = self.flight.enter(&chunk, index);
                self.send(ticket, now);
            }
        }
        None
    }

    pub(super) fn is_skipped(&mut self, chunk: &Arc<Chunk>, index: usize, record: &Record) -> bool {
        if chunk.is_delivered(index) {
            return true;
        }
        if !self.skip.is_empty() && self.skip.remove(&(chunk.segment, chunk.lane, chunk.seq(index))) {
            return true;
        }
        if self.parking.is_empty() {
            return false;
        }
        for part in 0..self.encoder.parts(record) {
            let field = self.encoder.field(chunk, index, part);
            let topic = self.topics.resolve(chunk.lane, record, field.map(|field| &*field.measurement.name));
            if self.parking.has(&topic.name) {
                self.parking.skip(&topic.name);
                return true;
            }
        }
        false
    }

    /// Hands a record that is ours to Kafka's client.
    pub(super) fn send(&mut self, ticket: u32, now: Instant) {
        let Some((chunk, index)) = self.flight.record(ticket) else { return };
        let record = &chunk.batch.records[index];
        let parts = self.encoder.parts(record);
        self.flight.send(ticket, self.generation, parts, now);
        for part in 0..parts {
            let field = self.encoder.field(&chunk, index, part);
            let topic = self.topics.resolve(chunk.lane, record, field.map(|field| &*field.measurement.name));
            if let Err(error) = self.encoder.encode(&chunk, index, record, part) {
                let (detail, topic) = (error.to_string(), topic.name.to_string());
                let failure = Failure { remedy: Remedy::Reject, code: "Encode".to_owned(), detail, topic };
                self.part_failed(ticket, failure, now);
                continue;
            }
            let message = Message {
                topic: &topic.name,
                key: self.encoder.key.as_bytes(),
                value: &self.encoder.value,
                event_type: event_type(record),
                id: self.encoder.id.as_bytes(),
                time: &self.encoder.time,
                timestamp_ms: self.encoder.timestamp_ms,
                replayed: chunk.is_replayed(index),
                ticket,
            };
            self.flight.weigh(ticket, message.bytes());
            let sent = match &mut self.sink {
                Some(sink) => sink.send(&message),
                None => Err(SendError::Full),
            };
            match sent {
                Ok(()) => {
                    if self.topic.as_deref() != Some(&*topic.name) {
                        self.topic = Some(Arc::from(&*topic.name));
                    }
                    if let Some(slot) = self.flight.get(ticket) {
                        slot.topic = Some(topic);
                    }
                }
                Err(SendError::Full) => {
                    self.full_until = Some(now + FULL);
                    self.hold_back(ticket);
                    return;
                }
                Err(SendError::Refused(failure)) => {
                    self.counters.add(Count::DeliveryErrors, &failure.code, 1);
                    self.part_failed(ticket, failure, now);
                }
            }
        }
    }

    /// The client took no more: the record goes first when it does again.
    pub(super) fn hold_back(&mut self, ticket: u32) {
        let ticket = self.flight.take_back(ticket);
        let Some(slot) = self.flight.get(ticket) else { return };
        let on_trial = std::mem::take(&mut slot.on_trial);
        let order = slot.order;
        self.trials.left(on_trial);
        if on_trial {
            self.trials.suspect(ticket, false);
        } else {
            self.again.insert(order, ticket);
        }
    }
}
