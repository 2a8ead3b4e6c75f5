//! Going over to other settings while it runs: a new producer, and everything from the oldest record on that is not delivered.
//!
//! Invariants: nothing is lost or skipped, since the outbox is read again from there and what is in flight stays ours;
//! what the old producer had is given time to be reported on, so that little of it is sent twice.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{error, info};

use super::Drain;
use crate::uplink::Settings;
use crate::uplink::encode::Encoder;
use crate::uplink::flight::State;
use crate::uplink::parking::Parking;
use crate::uplink::sink::Connect;
use crate::uplink::source::Source;
use crate::uplink::topic::Topics;

/// What is on its way has so long to be reported on before it is sent again by another producer.
const CALM_MAX: Duration = Duration::from_secs(5);

/// The settings, and those that are to replace them.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) incoming: watch::Receiver<Settings>,
    /// The newest ones, and until when what is in flight is waited for.
    next: Option<(Settings, Instant)>,
}

impl Change {
    pub(super) fn new(incoming: watch::Receiver<Settings>) -> Self {
        Self { incoming, next: None }
    }

    /// Notes that other settings have come.
    pub(super) fn note(&mut self, now: Instant) {
        let settings = self.incoming.borrow_and_update().clone();
        let until = self.next.take().map_or(now + CALM_MAX, |(_, until)| until);
        self.next = Some((settings, until));
    }

    /// When they are taken at the latest; until then nothing new is sent.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next.as_ref().map(|(_, until)| *until)
    }
}

impl<S: Source, C: Connect> Drain<S, C> {
    /// Goes over to the settings that have come, if what is in flight allows it now.
    pub(super) fn go_over(&mut self, now: Instant) {
        let Some(until) = self.change.due() else { return };
        let is_calm = self.flight.sent() == 0 || self.sink.is_none() || self.health.up_since().is_none();
        if !is_calm && now < until {
            return;
        }
        let Some((settings, _)) = self.change.next.take() else { return };
        let Settings { kafka, gateway } = &settings;
        self.topics = match Topics::new(&gateway.id, &kafka.topics, kafka.layout, &self.counters) {
            Ok(topics) => topics,
            // The configuration was checked when it was loaded, so this is a defect; nothing is lost by it.
            Err(reason) => return error!("the uplink goes on as it was: {reason}"),
        };
        info!("the way to Kafka has changed: going on with the oldest record that is not delivered");
        let relaid = self.encoder.layout != kafka.layout;
        self.encoder = Encoder::new(gateway, kafka);
        self.connect.change(&settings);
        self.flight.resize(kafka.in_flight_max, kafka.in_flight_bytes_max);
        self.parking = Parking::new(self.tuning.park_min, self.tuning.park_max);
        self.parking.changed = true;
        let ours = self.flight.tickets(State::Ours);
        for ticket in self.flight.tickets(State::Sent).into_iter().chain(ours) {
            if let Some(slot) = self.flight.get(ticket) {
                // No topic is parked any more that it could be trying.
                slot.probe_of = None;
                // In another layout it is perhaps several messages: a report about the one that it was is none about these.
                if slot.state == State::Sent && relaid {
                    slot.parts = slot.parts.max(2);
                }
            }
        }
        self.renew(now);
        self.connect_at = Some(now);
        self.topic = None;
        self.health.begin_anew(now, self.tuning.probe_max.min(kafka.reconnect_max));
        self.rewind = true;
    }
}
