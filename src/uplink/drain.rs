//! The loop that takes records from the outbox to Kafka and reports from Kafka to the outbox.
//!
//! Invariants:
//! - A record leaves this loop in one of three ways: Kafka acknowledged it; its dead letter is durable; or it was
//!   skipped because its topic is parked, and stays stored. Nothing else ever counts as delivered.
//! - All control is here, in one task: [`Flight`], [`Parking`] and [`Health`] only keep state. Nothing in a turn waits.
//! - What is in flight, or about to be, is bounded by `in_flight_max` records and `in_flight_bytes_max` bytes, and a little
//!   more for alarms.
//! - An alarm waits for no record of another lane, not even for those that are being sent when it comes: in an outage it is
//!   handed to Kafka's client at once.

mod change;
mod reports;
mod send;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

use self::change::Change;
use super::encode::Encoder;
use super::flight::{Flight, Place, State};
use super::health::Health;
use super::parking::Parking;
use super::sink::{Connect, Report, Reports, Sink};
use super::source::{Chunk, Source};
use super::topic::Topics;
use super::trial::Trials;
use crate::beats;
use crate::clock;
use crate::counters::{Count, Counter, Counters};
use crate::log::Throttle;
use crate::outbox::Lane;

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
            park_min: Duration::from_secs(1),
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
/// Without anything to do it sleeps this long, and comes around to say that it is there.
const IDLE: Duration = beats::INTERVAL;
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
    learnt: watch::Receiver<u64>,
    topics: Topics,
    flight: Flight,
    parking: Parking,
    health: Health,
    trials: Trials,
    tuning: Tuning,
    counters: Counters,
    delivered_bytes: Counter,
    /// What is being sent: a chunk, and the index of its next record.
    current: Option<(Arc<Chunk>, usize)>,
    /// The same of alarms that have come since: they overtake it.
    urgent: Option<(Arc<Chunk>, usize)>,
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
    change: Change,
    refusals: Throttle,
    hitches: Throttle,
}

/// The next records, or the next alarms.
async fn next<S: Source>(source: &mut S, all: bool) -> Result<Chunk, crate::outbox::ReadError> {
    if all { source.next().await } else { source.next_alarms().await }
}

/// What a drain is made of.
pub(crate) struct Parts<S, C> {
    pub(crate) source: S,
    pub(crate) connect: C,
    pub(crate) encoder: Encoder,
    /// Changes when the time of this boot comes to be known, and when the clock was set back.
    pub(crate) learnt: watch::Receiver<u64>,
    pub(crate) topics: Topics,
    pub(crate) flight: Flight,
    pub(crate) link: crate::status::Link,
    pub(crate) counters: Counters,
    pub(crate) tuning: Tuning,
    pub(crate) settings: watch::Receiver<super::Settings>,
}

impl<S: Source, C: Connect> Drain<S, C> {
    /// A loop that has sent nothing yet.
    pub(crate) fn new(parts: Parts<S, C>) -> Self {
        let Parts { source, connect, encoder, learnt, topics, flight, link, counters, tuning, settings } = parts;
        let now = clock::instant();
        let probe_max = tuning.probe_max.min(settings.borrow().kafka.reconnect_max);
        Self {
            durable: source.durable(),
            source,
            connect,
            sink: None,
            generation: 0,
            reports: Arc::default(),
            inbox: Vec::new(),
            encoder,
            learnt,
            topics,
            flight,
            parking: Parking::new(tuning.park_min, tuning.park_max),
            health: Health::new(link, &counters, tuning.probe_min, probe_max, now),
            trials: Trials::default(),
            current: None,
            urgent: None,
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
            change: Change::new(settings),
            refusals: Throttle::new(Duration::from_secs(60)),
            hitches: Throttle::new(Duration::from_secs(60)),
            delivered_bytes: counters.counter(Count::DeliveredBytes, ""),
            counters,
            tuning,
        }
    }

    /// Runs until `stop` holds a deadline, then until everything is delivered or the deadline has passed.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<Option<Instant>>) {
        let reports = Arc::clone(&self.reports);
        let mut durable = self.durable.clone();
        let mut learnt = self.learnt.clone();
        let mut deadline = *stop.borrow_and_update();
        let mut signalled = true;
        let mut incoming = self.change.incoming.clone();
        let mut may_change = true;
        let mut quiet_since = clock::instant();
        loop {
            let now = clock::instant();
            self.health.beat();
            self.turn(now);
            if let Some(deadline) = deadline {
                let quiet_at = quiet_since + self.tuning.quiet;
                let settled =
                    self.flight.is_empty() && self.current.is_none() && self.urgent.is_none() && self.done.is_empty();
                if now >= deadline || settled && (self.source.backlog().records == 0 || now >= quiet_at) {
                    break;
                }
                if !settled {
                    quiet_since = now;
                }
            }
            let ready = self.urgent.is_none() && !self.held() && self.read_at.is_none_or(|at| at <= now);
            let wants = ready && self.current.is_none() && self.flight.has_room();
            let wants_alarms = ready && self.flight.has_room_for_alarm();
            let wait = self.wait(now, deadline.map(|deadline| deadline.min(quiet_since + self.tuning.quiet)));
            tokio::select! {
                biased;
                changed = stop.changed(), if signalled => {
                    // Whoever could say stop is gone: that is a stop at once.
                    signalled = changed.is_ok();
                    deadline = if signalled { *stop.borrow_and_update() } else { Some(deadline.unwrap_or(now)) };
                    quiet_since = clock::instant();
                }
                changed = incoming.changed(), if may_change => {
                    may_change = changed.is_ok();
                    if may_change {
                        self.change.note(clock::instant());
                    }
                }
                next = next(&mut self.source, wants), if wants || wants_alarms => {
                    match next {
                        Ok(chunk) => {
                            quiet_since = clock::instant();
                            self.read_at = None;
                            let place = if wants { &mut self.current } else { &mut self.urgent };
                            *place = Some((Arc::new(chunk), 0));
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
                // Whoever could learn more of the time is gone in tests only.
                Ok(()) = learnt.changed() => self.time_is_known(clock::instant()),
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
        // At once: with the last record in flight of a segment goes what keeps it as it is.
        self.tell_source();
        self.go_over(now);
        self.look_after_sink(now);
        self.try_parked(now);
        self.tell_source();
        if std::mem::take(&mut self.rewind) || self.source.is_stale() {
            self.source.rewind();
            (self.current, self.urgent) = (None, None);
            self.skip = self.flight.places();
            self.parking.recount();
        }
        if self.full_until.is_some_and(|until| until > now) || self.change.due().is_some() {
            return;
        }
        self.full_until = None;
        if self.health.waits_for_time() {
            return;
        }
        self.send_again(now);
        self.feed(now);
        self.show(now);
    }

    /// Whether new records have to wait for old ones.
    fn held(&self) -> bool {
        self.sink.is_none()
            || self.trials.is_on()
            || self.full_until.is_some()
            || self.change.due().is_some()
            // No broker takes anything before the time is known, and then all of it is to have the right one.
            || self.health.waits_for_time()
            // For the sake of order; but not for ever.
            || (!self.again.is_empty() && self.again_delay < self.tuning.again_max)
    }

    fn try_parked(&mut self, now: Instant) {
        if self.change.due().is_some() {
            return;
        }
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
        if self.sink.is_none() {
            return;
        }
        if let Some(suppressed) = self.hitches.pass(now) {
            warn!(suppressed, "the Kafka producer is built anew: {why}");
        }
        self.renew(now);
    }

    /// Lets go of the producer, if there is one.
    fn renew(&mut self, now: Instant) {
        if self.sink.take().is_none() {
            return;
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

    /// What waits in the producer was encoded without the time; the producer itself may wait for a broker whose certificate
    /// was not valid yet, or until a clock that was set back is where it was: while no broker answers, a new one begins.
    fn time_is_known(&mut self, now: Instant) {
        if self.health.up_since().is_none() {
            self.health.time_is_known(now);
            self.connect_delay = self.tuning.rebuild_min;
            self.rebuild("the clock was set, or is trusted now", now);
        }
    }

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
        let sends = self.sink.is_some() && !self.trials.is_on() && !self.health.waits_for_time();
        let again = (sends && !self.again.is_empty()).then(|| self.again_at.unwrap_or(now));
        let probe = self.health.next_at().filter(|_| self.sink.is_some());
        let parked = self.parking.next_at().filter(|_| sends && self.health.up_since().is_some());
        let read = self.read_at.filter(|at| *at > now);
        [until, tick, again, connect, self.full_until, read, probe, parked, self.change.due()]
            .into_iter()
            .flatten()
            .min()
            .map_or(IDLE, |at| at.saturating_duration_since(now).clamp(Duration::from_millis(1), IDLE))
    }
}
