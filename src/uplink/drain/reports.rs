//! What the reports mean: which records are safe, which come back, which will never be taken, which wait.

use std::time::Instant;

use tracing::{info, warn};

use super::{ATTEMPTS_MAX, Drain};
use crate::clock;
use crate::counters::Count;
use crate::reading::{Reason, Record};
use crate::uplink::encode::dead_letter;
use crate::uplink::flight::{Landed, State};
use crate::uplink::sink::{Connect, Failure, Remedy, Report};
use crate::uplink::source::Source;

impl<S: Source, C: Connect> Drain<S, C> {
    pub(super) fn take_reports(&mut self, now: Instant) {
        let mut inbox = std::mem::take(&mut self.inbox);
        self.reports.take(&mut inbox);
        let mut answered = false;
        for report in inbox.drain(..) {
            match report {
                Report::Delivered { ticket, generation } => {
                    answered |= generation == self.generation;
                    self.delivered(ticket, now);
                }
                // A sink that is gone fails all it had, and that says nothing about the records.
                Report::Failed { ticket, generation, failure } if generation == self.generation => {
                    self.counters.add(Count::DeliveryErrors, &failure.code, 1);
                    self.part_failed(ticket, *failure, now);
                }
                Report::Reachable { generation } => answered |= generation == self.generation,
                Report::Unreachable { generation, probed, reason } if generation == self.generation => {
                    self.health.unreachable(now, probed, &reason, || self.source.backlog());
                }
                Report::Hint { generation, reason } if generation == self.generation => {
                    self.health.hint(reason);
                    if self.health.waits_for_time() {
                        // No probe has to find that out.
                        self.health.down(now, "the time is not known", || self.source.backlog());
                    }
                }
                Report::Fatal { generation, reason } if generation == self.generation => {
                    self.health.hint(reason.clone());
                    self.rebuild(&reason, now);
                }
                _ => {}
            }
        }
        self.inbox = inbox;
        if answered {
            self.health.reachable(now, &self.parking.detail(), || self.source.backlog());
        }
    }

    pub(super) fn delivered(&mut self, ticket: u32, now: Instant) {
        let Some(slot) = self.flight.get(ticket) else { return };
        if slot.state == State::Ours && slot.parts == 1 {
            // An earlier sink's success, after we had taken the record back.
            self.confirm(ticket);
        } else if self.flight.reported(ticket, None) {
            self.resolve(ticket, now);
        }
    }

    pub(super) fn part_failed(&mut self, ticket: u32, failure: Failure, now: Instant) {
        if self.flight.reported(ticket, Some(failure)) {
            self.resolve(ticket, now);
        }
    }

    /// All messages of a record have been reported on.
    pub(super) fn resolve(&mut self, ticket: u32, now: Instant) {
        let Some(slot) = self.flight.get(ticket) else { return };
        let Some(mut failure) = slot.failure.take() else {
            self.again_delay = self.tuning.again_min;
            self.connect_delay = self.tuning.rebuild_min;
            self.stall = self.tuning.stall;
            return self.confirm(ticket);
        };
        if failure.remedy == Remedy::Again {
            slot.attempts += 1;
            if slot.attempts >= ATTEMPTS_MAX {
                failure.remedy = Remedy::Park;
            }
        }
        let on_trial = std::mem::take(&mut slot.on_trial);
        match failure.remedy {
            Remedy::Reject => {
                self.trials.left(on_trial);
                self.bury(ticket, &failure);
            }
            Remedy::Suspect if on_trial && self.trials.is_alone() => {
                self.trials.left(on_trial);
                self.bury(ticket, &failure);
            }
            Remedy::Suspect => {
                let ticket = self.flight.take_back(ticket);
                self.trials.left(on_trial);
                self.trials.suspect(ticket, on_trial);
            }
            Remedy::Again => {
                self.trials.left(on_trial);
                self.take_back(ticket, now);
            }
            Remedy::Park => {
                self.trials.left(on_trial);
                self.park(ticket, &failure, now);
            }
        }
    }

    /// Kafka has the record.
    pub(super) fn confirm(&mut self, ticket: u32) {
        if let Some(slot) = self.flight.get(ticket) {
            self.again.remove(&slot.order);
            self.trials.left(std::mem::take(&mut slot.on_trial));
        }
        let Some(landed) = self.flight.land(ticket) else { return };
        self.delivered_bytes.add(landed.bytes as u64);
        match &landed.topic {
            Some(topic) if landed.parts == 1 => topic.delivered.add(1),
            _ => {
                let record = &landed.chunk.batch.records[landed.index];
                for part in 0..landed.parts {
                    let field = self.encoder.field(&landed.chunk, landed.index, part);
                    let measurement = field.map(|field| &*field.measurement.name);
                    self.topics.resolve(landed.chunk.lane, record, measurement).delivered.add(1);
                }
            }
        }
        self.finished(&landed);
    }

    /// The record need not be sent any more.
    pub(super) fn finished(&mut self, landed: &Landed) {
        self.done.push(landed.place());
        if let Some(topic) = &landed.probe_of {
            let waiting = self.parking.release(topic).unwrap_or(0);
            info!("topic {topic} takes records again; {waiting} are sent now");
            self.rewind = true;
        }
    }

    pub(super) fn take_back(&mut self, ticket: u32, now: Instant) {
        let ticket = self.flight.take_back(ticket);
        let Some(slot) = self.flight.get(ticket) else { return };
        self.again.insert(slot.order, ticket);
        if self.again_at.is_none() {
            self.again_at = Some(now + self.again_delay);
            self.again_delay = (self.again_delay * 2).min(self.tuning.again_max);
        }
    }

    /// Kafka will never take it: a dead letter takes its place.
    pub(super) fn bury(&mut self, ticket: u32, failure: &Failure) {
        let ticket = self.flight.take_back(ticket);
        let Some((chunk, index)) = self.flight.record(ticket) else { return };
        let record = &chunk.batch.records[index];
        if let Some(suppressed) = self.refusals.pass(clock::instant()) {
            warn!(suppressed, "Kafka refused a record for topic {} for good: {failure}", failure.topic);
        }
        self.counters.add(Count::Rejected, Reason::KafkaRejected.as_str(), 1);
        if matches!(record, Record::DeadLetter(_)) {
            // A dead letter about a dead letter would go the same way.
            if let Some(landed) = self.flight.land(ticket) {
                self.finished(&landed);
            }
            return;
        }
        // What cannot be encoded leaves an empty payload, and the reason says so.
        if self.encoder.encode(&chunk, index, record, 0).is_err() {
            self.encoder.value.clear();
        }
        let letter = dead_letter(&self.encoder, record, &failure.topic, &failure.detail, clock::stamp());
        let number = self.source.bury(letter);
        if let Some(slot) = self.flight.get(ticket) {
            slot.state = State::Buried;
        }
        self.burials.push_back((number, ticket));
    }

    pub(super) fn settle_burials(&mut self) {
        let durable = *self.durable.borrow();
        while let Some(&(number, ticket)) = self.burials.front()
            && number <= durable
        {
            self.burials.pop_front();
            if let Some(landed) = self.flight.land(ticket) {
                self.finished(&landed);
            }
        }
    }

    pub(super) fn park(&mut self, ticket: u32, failure: &Failure, now: Instant) {
        let Some(landed) = self.flight.land(ticket) else { return };
        if let Some(topic) = &landed.probe_of {
            // A new topic is often there a second later, because the cluster makes it when it is first written to.
            if self.parking.refused(topic, &failure.detail, now, landed.chunk) == 1 {
                warn!("topic {topic} takes no records ({}): they stay stored, the others go on", failure.detail);
            }
        } else if self.parking.park(&failure.topic, &failure.detail, now, || landed.chunk.single(landed.index)) {
            info!("topic {} does not take records yet; it is tried again in {:?}", failure.topic, self.tuning.park_min);
        }
    }
}
