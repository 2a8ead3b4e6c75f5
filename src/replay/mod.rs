//! A recording through the rules of a configuration: what a gateway would have sent, and what was dropped by which rule.
//! The way to try rules before they go to 400 boards.
//!
//! Invariants: no clock and no I/O. Time is that of the recording: it passes with the `received` of its records, and the
//! rules hear of it as often as in a running gateway. What comes out is encoded by the code that encodes for Kafka. What
//! would have been sent without rules is encoded too, so that the two can be compared.
//!
//! `line` reads a line of a recording, `passing` makes the board's clock of it, `summary` says what came of it all.

mod line;
mod passing;
mod summary;

use std::time::Duration;

use crate::config::Config;
use crate::counters::Counters;
use crate::outbox::Lane;
use crate::print::Columns;
use crate::reading::{Batch, Record, Stamp};
use crate::rules::{Left, Made, Rules};
use crate::uplink::lines::Lines;

pub use line::{LINE_BYTES_MAX, Parsed, Parser};
pub use passing::Passing;
pub use summary::{Sent, Summary};

/// How often a gateway tells its rules what time it is, in milliseconds.
const TICK_MS: u64 = 1_000;
/// A silence in the recording is gone through in so many ticks, more or less, however long it is.
const TICKS_MAX: u64 = 1_000;
/// Records that one read of a source gives at most.
const BATCH_RECORDS_MAX: usize = 1_000;

/// The rules, what they are fed with, and what has come of it.
#[derive(Debug)]
pub struct Replay {
    rules: Rules,
    counters: Counters,
    /// What was received in one moment and not yet applied, and that moment.
    pending: Batch,
    pending_at: Stamp,
    made: Made,
    /// The latest moment that the recording told of.
    last: Stamp,
    /// When, by the monotonic clock, the rules were told the time.
    ticked_ms: Option<u64>,
    /// How long the slowest window waits before it closes in silence.
    silence_ms: u64,
    /// What would be sent without rules, what is sent in each of the three lanes.
    plain: Lines,
    raw: Lines,
    aggregate: Lines,
    alarm: Lines,
    columns: Option<Columns>,
    scratch: Vec<u8>,
    out: Vec<u8>,
    summary: Summary,
}

impl Replay {
    /// A gateway of that configuration, without a state. What it sends is shown in columns for a person, or as NDJSON.
    #[must_use]
    pub fn new(config: &Config, for_a_person: bool) -> Self {
        let counters = Counters::default();
        let lines = |lane: Lane| Lines::new(&config.gateway, &config.kafka, lane, &format!("replay.{}", lane.as_str()));
        let slowest = config.rules.windows.iter().map(|window| window.every + window.lateness).max();
        let silence = slowest.unwrap_or(Duration::ZERO);
        Self {
            rules: Rules::restore(&config.rules, Left::default(), Stamp::default(), &counters),
            counters,
            pending: Batch::default(),
            pending_at: Stamp::default(),
            made: Made::default(),
            last: Stamp::default(),
            ticked_ms: None,
            silence_ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX).saturating_add(TICK_MS),
            plain: lines(Lane::Raw),
            raw: lines(Lane::Raw),
            aggregate: lines(Lane::Aggregate),
            alarm: lines(Lane::Alarm),
            columns: for_a_person.then(Columns::default),
            scratch: Vec::new(),
            out: Vec::new(),
            summary: Summary::new(&config.rules),
        }
    }

    /// Whether a record that was received at `at` has to wait until what was received before it is [applied](Self::apply).
    #[must_use]
    pub fn is_due(&self, at: Stamp) -> bool {
        !self.pending.is_empty() && (at != self.pending_at || self.pending.len() >= BATCH_RECORDS_MAX)
    }

    /// Takes the one record that is in `batch`, and leaves that empty.
    pub fn push(&mut self, at: Stamp, batch: &mut Batch) {
        self.pending_at = at;
        self.pending.append(batch);
    }

    /// When what is pending was received; the rules have to be [told](Self::tick) of the time until then first.
    #[must_use]
    pub fn pending(&self) -> Option<Stamp> {
        (!self.pending.is_empty()).then_some(self.pending_at)
    }

    /// The next moment before `until` at which the rules are to be told the time.
    #[must_use]
    pub fn next_tick(&self, until: Stamp) -> Option<Stamp> {
        let ticked_ms = self.ticked_ms?;
        let left_ms = until.monotonic_ms.saturating_sub(ticked_ms);
        let step_ms = (left_ms / TICKS_MAX).max(TICK_MS);
        (left_ms > TICK_MS).then(|| self.moment(ticked_ms.saturating_add(step_ms)))
    }

    /// What the clocks show at `monotonic_ms` if nothing but time has passed since the last record.
    fn moment(&self, monotonic_ms: u64) -> Stamp {
        let passed = i64::try_from(monotonic_ms.saturating_sub(self.last.monotonic_ms)).unwrap_or(i64::MAX);
        Stamp { wall_ms: self.last.wall_ms.saturating_add(passed), monotonic_ms, trusted: self.last.trusted }
    }

    /// Tells the rules the time.
    pub fn tick(&mut self, now: Stamp) {
        self.rules.tick(now, &mut self.made);
        self.ticked_ms = Some(now.monotonic_ms);
        self.write_made();
    }

    /// Applies the rules to what is pending.
    pub fn apply(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.last = self.pending_at;
        self.ticked_ms.get_or_insert(self.last.monotonic_ms);
        let mut plain = self.pending.clone();
        self.summary.without_rules.add(&plain, Lane::Raw);
        self.plain.write(&mut plain, &mut self.scratch);
        self.summary.without_rules.bytes += self.scratch.len() as u64;
        self.scratch.clear();
        self.rules.apply(&mut self.pending, &mut self.made);
        let mut batch = std::mem::take(&mut self.pending);
        self.write(&mut batch, Lane::Raw);
        self.write_made();
    }

    fn write_made(&mut self) {
        // Nothing is kept of a recording, so nothing is made durable; what is not fetched would grow.
        let _ = self.rules.take_journal();
        let mut made = std::mem::take(&mut self.made);
        self.write(&mut made.alarms, Lane::Alarm);
        self.write(&mut made.aggregates, Lane::Aggregate);
        made.clear();
        self.made = made;
    }

    fn write(&mut self, batch: &mut Batch, lane: Lane) {
        if batch.is_empty() {
            return;
        }
        self.summary.sent.add(batch, lane);
        if let Some(columns) = &mut self.columns {
            columns.write(batch, lane, &mut self.out);
        }
        let mut encoded = std::mem::take(&mut self.scratch);
        let lines = match lane {
            Lane::Alarm => &mut self.alarm,
            Lane::Aggregate => &mut self.aggregate,
            Lane::Raw => &mut self.raw,
        };
        lines.write(batch, &mut encoded);
        self.summary.sent.bytes += encoded.len() as u64;
        if self.columns.is_none() {
            self.out.extend_from_slice(&encoded);
        }
        encoded.clear();
        self.scratch = encoded;
    }

    /// What is to be shown since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Notes what was read and not replayed.
    pub fn summary_mut(&mut self) -> &mut Summary {
        &mut self.summary
    }

    /// Ends it, and says what came of it. With `close` time goes on without a record until the last window has closed, and what
    /// that gives is sent too, and is the output; without, it is only counted.
    #[must_use]
    pub fn finish(mut self, close: bool) -> (Summary, Vec<u8>) {
        self.apply();
        if !close {
            self.summary.take_counters(&self.counters);
        }
        let sent = self.summary.sent;
        if self.ticked_ms.is_some() {
            let end = self.moment(self.last.monotonic_ms.saturating_add(self.silence_ms));
            while let Some(now) = self.next_tick(end) {
                self.rules.tick(now, &mut self.made);
                self.ticked_ms = Some(now.monotonic_ms);
            }
            self.rules.tick(end, &mut self.made);
        }
        let values = |record: &Record| if let Record::Aggregate(aggregate) = record { aggregate.count } else { 0 };
        let batches = [&self.made.aggregates, &self.made.alarms];
        self.summary.open_windows = batches.iter().map(|batch| batch.len() as u64).sum();
        self.summary.open_values = batches.iter().flat_map(|batch| &batch.records).map(values).sum();
        self.summary.closed = close;
        self.write_made();
        if close {
            self.summary.take_counters(&self.counters);
        } else {
            self.summary.sent = sent;
            self.out.clear();
        }
        (self.summary, self.out)
    }
}
