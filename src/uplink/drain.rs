//! The loop that takes records from the outbox to Kafka and reports from Kafka to the outbox.
//!
//! Invariants:
//! - A record leaves this loop in one of three ways: Kafka acknowledged it; its dead letter is durable; or it was
//!   skipped because its topic is parked, and stays stored. Nothing else ever counts as delivered.
//! - All control is here, in one task: [`Flight`], [`Parking`] and [`Health`] only keep state. Nothing in a turn waits.
//! - What is in flight, or about to be, is bounded by `in_flight_max` records and `in_flight_bytes_max` bytes.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

use super::encode::{Encoder, dead_letter, event_type};
use super::flight::{Flight, Place, State};
use super::health::Health;
use super::parking::Parking;
use super::sink::{Connect, Failure, Message, Remedy, Report, Reports, SendError, Sink};
use super::source::{Chunk, Source};
use super::topic::Topics;
use super::trial::Trials;
use crate::clock;
use crate::counters::{Count, Counters};
use crate::log::Throttle;
use crate::outbox::Lane;
use crate::reading::Record;

/// How long things take: shorter in tests.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Reports gather this long after the first one: a wake-up for each would cost more than the records.
    pub gather: Duration,
    /// Before a record that came back is sent again; it doubles up to `again_max`.
    pub again_min: Duration,
    /// See `again_min`.
    pub again_max: Duration,
    /// Before a parked topic is tried; it doubles up to `park_max`.
    pub park_min: Duration,
    /// See `park_min`.
    pub park_max: Duration,
    /// Before a broker that did not answer is asked again; it doubles up to `probe_max`.
    pub probe_min: Duration,
    /// See `probe_min`.
    pub probe_max: Duration,
    /// Before a producer is built anew; it doubles up to a minute.
    pub rebuild_min: Duration,
    /// A record without a report for this long, with a broker that answers, has the producer built anew; it doubles.
    pub stall: Duration,
    /// A stop ends when nothing is in flight and the outbox gave nothing for this long.
    pub quiet: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            gather: Duration::from_millis(5),
            again_min: Duration::from_millis(100),
            again_max: Duration::from_secs(5),
            park_min: Duration::from_secs(5),
            park_max: Duration::from_secs(300),
            probe_min: Duration::from_secs(2),
            probe_max: Duration::from_secs(30),
            rebuild_min: Duration::from_secs(1),
            stall: Duration::from_secs(120),
            quiet: Duration::from_millis(500),
        }
    }
}

const REBUILD_MAX: Duration = Duration::from_secs(60);
const STALL_MAX: Duration = Duration::from_secs(1_800);
/// A record without a report for this long raises a doubt about the link.
const DOUBT: Duration = Duration::from_secs(10);
/// After so many failures that nobody can name, a topic is parked like one that refuses.
const ATTEMPTS_MAX: u8 = 5;
/// While records wait for their reports, the loop looks after them this often.
const TICK: Duration = Duration::from_secs(1);
/// Without anything to do it sleeps this long.
const IDLE: Duration = Duration::from_secs(3_600);
/// After the client's queue was full.
const FULL: Duration = Duration::from_millis(20);

/// The loop and all that it keeps.
#[derive(Debug)]
pub(crate) struct Drain<S, C: Connect> {
    source: S,
    connect: C,
    sink: Option<C::Sink>,
    generation: u32,
    reports: Arc<Reports>,
    inbox: Vec<Report>,
    encoder: Encoder,
    topics: Topics,
    flight: Flight,
    parking: Parking,
    health: Health,
    trials: Trials,
    tuning: Tuning,
    counters: Counters,
    /// What is being sent: a chunk, and the index of its next record.
    current: Option<(Arc<Chunk>, usize)>,
    /// After a rewind: what was in flight then, and is not to be sent a second time.
    skip: HashSet<Place>,
    /// Came back and are sent again, by their order.
    again: BTreeMap<u64, u32>,
    again_at: Option<Instant>,
    again_delay: Duration,
    full_until: Option<Instant>,
    /// Dead letters on their way to the disk: the append number, and the ticket of the record that each is about.
    burials: VecDeque<(u64, u32)>,
    durable: watch::Receiver<u64>,
    /// Safe elsewhere since the outbox was last told.
    done: Vec<Place>,
    rewind: bool,
    connect_at: Option<Instant>,
    connect_delay: Duration,
    stall: Duration,
    read_at: Option<Instant>,
    topic: Option<Arc<str>>,
    detail_at: Option<Instant>,
    doubted_at: Option<Instant>,
    refusals: Throttle,
    hitches: Throttle,
}

/// What a drain is made of.
pub(crate) struct Parts<S, C> {
    pub(crate) source: S,
    pub(crate) connect: C,
    pub(crate) encoder: Encoder,
    pub(crate) topics: Topics,
    pub(crate) flight: Flight,
    pub(crate) link: crate::status::Link,
    pub(crate) counters: Counters,
    pub(crate) tuning: Tuning,
}

impl<S: Source, C: Connect> Drain<S, C> {
    /// A loop that has sent nothing yet.
    pub(crate) fn new(parts: Parts<S, C>) -> Self {
        let Parts { source, connect, encoder, topics, flight, link, counters, tuning } = parts;
        let now = clock::instant();
        Self {
            durable: source.durable(),
            source,
            connect,
            sink: None,
            generation: 0,
            reports: Arc::default(),
            inbox: Vec::new(),
            encoder,
            topics,
            flight,
            parking: Parking::new(tuning.park_min, tuning.park_max),
            health: Health::new(link, &counters, tuning.probe_min, tuning.probe_max, now),
            trials: Trials::default(),
            current: None,
            skip: HashSet::new(),
            again: BTreeMap::new(),
            again_at: None,
            again_delay: tuning.again_min,
            full_until: None,
            burials: VecDeque::new(),
            done: Vec::new(),
            rewind: false,
            connect_at: Some(now),
            connect_delay: tuning.rebuild_min,
            stall: tuning.stall,
            read_at: None,
            topic: None,
            detail_at: None,
            doubted_at: None,
            refusals: Throttle::new(Duration::from_secs(60)),
            hitches: Throttle::new(Duration::from_secs(60)),
            counters,
            tuning,
        }
    }

    /// Runs until `stop` holds a deadline, then until everything is delivered or the deadline has passed.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<Option<Instant>>) {
        let reports = Arc::clone(&self.reports);
        let mut durable = self.durable.clone();
        let mut deadline = *stop.borrow_and_update();
        let mut signalled = true;
        let mut quiet_since = clock::instant();
        loop {
            let now = clock::instant();
            self.turn(now);
            if let Some(deadline) = deadline {
                let quiet_at = quiet_since + self.tuning.quiet;
                let settled = self.flight.is_empty() && self.current.is_none() && self.done.is_empty();
                if now >= deadline || settled && (self.source.backlog().records == 0 || now >= quiet_at) {
                    break;
                }
                if !settled {
                    quiet_since = now;
                }
            }
            let wants = self.current.is_none()
                && self.flight.has_room()
                && !self.held()
                && self.read_at.is_none_or(|at| at <= now);
            let wait = self.wait(now, deadline.map(|deadline| deadline.min(quiet_since + self.tuning.quiet)));
            tokio::select! {
                biased;
                changed = stop.changed(), if signalled => {
                    // Whoever could say stop is gone: that is a stop at once.
                    signalled = changed.is_ok();
                    deadline = if signalled { *stop.borrow_and_update() } else { Some(deadline.unwrap_or(now)) };
                    quiet_since = clock::instant();
                }
                next = self.source.next(), if wants => {
                    match next {
                        Ok(chunk) => {
                            quiet_since = clock::instant();
                            self.read_at = None;
                            self.current = Some((Arc::new(chunk), 0));
                            // A source that always has more must not keep the runtime for itself.
                            tokio::task::yield_now().await;
                        }
                        Err(error) => {
                            warn!("{error}; it is tried again in {TICK:?}");
                            self.read_at = Some(clock::instant() + TICK);
                        }
                    }
                }
                () = reports.ready() => {
                    quiet_since = clock::instant();
                    tokio::time::sleep(self.tuning.gather).await;
                }
                changed = durable.changed(), if !self.burials.is_empty() => {
                    if changed.is_err() {
                        tokio::time::sleep(TICK.min(self.tuning.quiet)).await;
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
        // What was reported until now still counts.
        let now = clock::instant();
        self.take_reports(now);
        self.tell_source();
        let waiting = self.source.backlog().records;
        if waiting > 0 {
            info!("{waiting} records stay in the outbox for the next start");
        }
    }

    /// One pass over everything that there is to do; it never waits.
    fn turn(&mut self, now: Instant) {
        self.take_reports(now);
        self.settle_burials();
        self.look_after_sink(now);
        self.try_parked(now);
        self.tell_source();
        if std::mem::take(&mut self.rewind) {
            self.source.rewind();
            self.current = None;
            self.skip = self.flight.places();
            self.parking.recount();
        }
        if self.full_until.is_some_and(|until| until > now) {
            return;
        }
        self.full_until = None;
        self.send_again(now);
        self.feed(now);
        self.show(now);
    }

    /// Whether new records have to wait for old ones.
    fn held(&self) -> bool {
        self.sink.is_none()
            || self.trials.is_on()
            || self.full_until.is_some()
            // For the sake of order; but not for ever.
            || (!self.again.is_empty() && self.again_delay < self.tuning.again_max)
    }

    // ---- reports ----

    fn take_reports(&mut self, now: Instant) {
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
                Report::Hint { generation, reason } if generation == self.generation => self.health.hint(reason),
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

    fn delivered(&mut self, ticket: u32, now: Instant) {
        let Some(slot) = self.flight.get(ticket) else { return };
        if slot.state == State::Ours && slot.parts == 1 {
            // An earlier sink's success, after we had taken the record back.
            self.confirm(ticket);
        } else if self.flight.reported(ticket, None) {
            self.resolve(ticket, now);
        }
    }

    fn part_failed(&mut self, ticket: u32, failure: Failure, now: Instant) {
        if self.flight.reported(ticket, Some(failure)) {
            self.resolve(ticket, now);
        }
    }

    /// All messages of a record have been reported on.
    fn resolve(&mut self, ticket: u32, now: Instant) {
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
    fn confirm(&mut self, ticket: u32) {
        if let Some(slot) = self.flight.get(ticket) {
            self.again.remove(&slot.order);
            self.trials.left(std::mem::take(&mut slot.on_trial));
        }
        let Some(landed) = self.flight.land(ticket) else { return };
        match &landed.topic {
            Some(topic) if landed.parts == 1 => topic.delivered.add(1),
            _ => {
                let record = &landed.chunk.batch.records[landed.index];
                for part in 0..landed.parts {
                    let field = self.encoder.field(&landed.chunk, landed.index, part);
                    self.topics.resolve(record, field.map(|field| &*field.measurement.name)).delivered.add(1);
                }
            }
        }
        self.finished(&landed);
    }

    /// The record need not be sent any more.
    fn finished(&mut self, landed: &super::flight::Landed) {
        self.done.push(landed.place());
        if let Some(topic) = &landed.probe_of {
            let waiting = self.parking.release(topic).unwrap_or(0);
            info!("topic {topic} takes records again; {waiting} are sent now");
            self.rewind = true;
        }
    }

    fn take_back(&mut self, ticket: u32, now: Instant) {
        let ticket = self.flight.take_back(ticket);
        let Some(slot) = self.flight.get(ticket) else { return };
        self.again.insert(slot.order, ticket);
        if self.again_at.is_none() {
            self.again_at = Some(now + self.again_delay);
            self.again_delay = (self.again_delay * 2).min(self.tuning.again_max);
        }
    }

    /// Kafka will never take it: a dead letter takes its place.
    fn bury(&mut self, ticket: u32, failure: &Failure) {
        let ticket = self.flight.take_back(ticket);
        let Some((chunk, index)) = self.flight.record(ticket) else { return };
        let record = &chunk.batch.records[index];
        if let Some(suppressed) = self.refusals.pass(clock::instant()) {
            warn!(suppressed, "Kafka refused a record for topic {} for good: {failure}", failure.topic);
        }
        self.counters.add(Count::Rejected, crate::reading::Reason::KafkaRejected.as_str(), 1);
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

    fn settle_burials(&mut self) {
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

    // ---- parking ----

    fn park(&mut self, ticket: u32, failure: &Failure, now: Instant) {
        let Some(landed) = self.flight.land(ticket) else { return };
        if let Some(topic) = &landed.probe_of {
            self.parking.refused(topic, &failure.detail, now, landed.chunk);
        } else if self.parking.park(&failure.topic, &failure.detail, now, || landed.chunk.single(landed.index)) {
            warn!(
                "topic {} takes no records ({}): they stay stored, the others go on; it is tried again in {:?}",
                failure.topic, failure.detail, self.tuning.park_min
            );
        }
    }

    fn try_parked(&mut self, now: Instant) {
        if self.parking.is_empty() || self.sink.is_none() || self.trials.is_on() || self.health.up_since().is_none() {
            return;
        }
        if self.parking.overflow_due(now) {
            self.rewind = true;
        }
        for (topic, copy) in self.parking.due(now) {
            let ticket = self.flight.enter(&copy, 0);
            if let Some(slot) = self.flight.get(ticket) {
                slot.probe_of = Some(topic);
            }
            self.send(ticket, now);
        }
    }

    // ---- the sink ----

    fn look_after_sink(&mut self, now: Instant) {
        if self.sink.is_none() && self.connect_at.is_none_or(|at| at <= now) {
            self.connect_at = None;
            match self.connect.connect(self.generation, &self.reports) {
                Ok(sink) => self.sink = Some(sink),
                Err(reason) => {
                    self.health.hint(reason.clone());
                    self.health.down(now, &reason, || self.source.backlog());
                    self.connect_later(now);
                }
            }
        }
        if let Some(oldest) = self.flight.oldest_sent().filter(|_| self.flight.sent() > 0) {
            let waited = |since: Instant| now.saturating_duration_since(oldest.max(since));
            if self.health.up_since().is_some_and(|since| waited(since) > self.stall) {
                self.stall = (self.stall * 2).min(STALL_MAX);
                self.rebuild("no report for a long time though a broker answers", now);
            } else if self.health.up_since().is_some_and(|since| waited(since) > DOUBT)
                && self.doubted_at.is_none_or(|at| now.saturating_duration_since(at) > DOUBT)
            {
                self.doubted_at = Some(now);
                self.health.doubt(now);
            }
        }
        if self.sink.is_some() && self.health.probe_due(now) {
            let topic = self.topic.clone();
            if let Some(sink) = &mut self.sink {
                sink.probe(topic.as_deref());
            }
        }
    }

    fn connect_later(&mut self, now: Instant) {
        self.connect_at = Some(now + self.connect_delay);
        self.connect_delay = (self.connect_delay * 2).min(REBUILD_MAX);
    }

    /// Gives up the producer; all that it had is ours again, and goes to the next one in the old order.
    fn rebuild(&mut self, why: &str, now: Instant) {
        if self.sink.take().is_none() {
            return;
        }
        if let Some(suppressed) = self.hitches.pass(now) {
            warn!(suppressed, "the Kafka producer is built anew: {why}");
        }
        self.counters.add(Count::ProducerRebuilds, "", 1);
        self.generation = self.generation.wrapping_add(1);
        for ticket in self.flight.tickets(State::Sent) {
            let ticket = self.flight.take_back(ticket);
            if let Some(slot) = self.flight.get(ticket) {
                slot.on_trial = false;
                self.again.insert(slot.order, ticket);
            }
        }
        self.trials.abandon();
        self.again_at = None;
        self.connect_later(now);
    }

    // ---- sending ----

    fn send_again(&mut self, now: Instant) {
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

    fn feed(&mut self, now: Instant) {
        while let Some((chunk, index)) = self.current.take() {
            let Some(record) = chunk.batch.records.get(index) else { return };
            if self.held() || !self.flight.has_room() {
                self.current = Some((chunk, index));
                return;
            }
            if !self.is_skipped(&chunk, index, record) {
                let ticket = self.flight.enter(&chunk, index);
                self.send(ticket, now);
            }
            self.current = Some((chunk, index + 1));
        }
    }

    fn is_skipped(&mut self, chunk: &Arc<Chunk>, index: usize, record: &Record) -> bool {
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
            let topic = self.topics.resolve(record, field.map(|field| &*field.measurement.name));
            if self.parking.has(&topic.name) {
                self.parking.skip(&topic.name);
                return true;
            }
        }
        false
    }

    /// Hands a record that is ours to Kafka's client.
    fn send(&mut self, ticket: u32, now: Instant) {
        let Some((chunk, index)) = self.flight.record(ticket) else { return };
        let record = &chunk.batch.records[index];
        let parts = self.encoder.parts(record);
        self.flight.send(ticket, self.generation, parts, now);
        for part in 0..parts {
            let field = self.encoder.field(&chunk, index, part);
            let topic = self.topics.resolve(record, field.map(|field| &*field.measurement.name));
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
    fn hold_back(&mut self, ticket: u32) {
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

    // ---- the outbox and the person ----

    /// Tells the outbox what is safe: one call for each segment and lane.
    fn tell_source(&mut self) {
        if self.done.is_empty() {
            return;
        }
        self.done.sort_unstable();
        let mut seqs = Vec::with_capacity(self.done.len());
        for group in self.done.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (segment, lane, _): (u64, Lane, u64) = group[0];
            seqs.clear();
            seqs.extend(group.iter().map(|place| place.2));
            self.source.delivered(segment, lane, &seqs);
        }
        self.done.clear();
    }

    fn show(&mut self, now: Instant) {
        if self.parking.changed && self.detail_at.is_none_or(|at| at <= now) {
            self.parking.changed = false;
            self.detail_at = Some(now + TICK);
            self.health.show(&self.parking.detail());
        }
    }

    /// How long there is nothing to do unless something happens.
    fn wait(&self, now: Instant, until: Option<Instant>) -> Duration {
        let tick = (self.flight.sent() > 0 || self.parking.changed || self.trials.is_on()).then(|| now + TICK);
        let connect = if self.sink.is_none() { Some(self.connect_at.unwrap_or(now)) } else { None };
        let sends = self.sink.is_some() && !self.trials.is_on();
        let again = (sends && !self.again.is_empty()).then(|| self.again_at.unwrap_or(now));
        let probe = self.health.next_at().filter(|_| self.sink.is_some());
        let parked = self.parking.next_at().filter(|_| sends && self.health.up_since().is_some());
        let read = self.read_at.filter(|at| *at > now);
        [until, tick, again, connect, self.full_until, read, probe, parked]
            .into_iter()
            .flatten()
            .min()
            .map_or(IDLE, |at| at.saturating_duration_since(now).clamp(Duration::from_millis(1), IDLE))
    }
}
