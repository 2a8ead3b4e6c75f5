//! From frames to the pipeline in one pass. Pure but for the append; each source owns one and calls it with all the frames
//! of a read.

use std::sync::Arc;

use crate::counters::{Count, Counter, Counters};
use crate::decode::{Decoder, Outcome, Rejection, Request};
use crate::outbox::KnownReceipts;
use crate::pipeline::Pipeline;
use crate::print::Printer;
use crate::reading::{Batch, DeadLetter, DeviceState, Frame, Frames, Name, Reason, Receipt, Record, Stage, Stamp};

/// Dead letters that one source may append for one reason before the rest is only counted: this many at once …
const DEAD_LETTER_BURST: u32 = 20;
/// … and one more for every so many milliseconds.
const DEAD_LETTER_REFILL_MS: u64 = 1_000;

/// Where records go.
#[derive(Clone, Debug)]
pub enum Sink {
    /// Through the rules to the outbox, and on to Kafka.
    Pipeline(Pipeline),
    /// To the person at the terminal, who wants to see what would be stored.
    Print(Printer),
}

/// What a source hands its frames to.
#[derive(Debug)]
pub struct Intake {
    source: Name,
    session: Option<Name>,
    decoder: Decoder,
    sink: Sink,
    counters: Counters,
    counts: SourceCounts,
    limits: Vec<Bucket>,
    batch: Batch,
}

#[derive(Debug)]
struct SourceCounts {
    frames: Counter,
    bytes: Counter,
    readings: Counter,
    states: Counter,
    ignored: Counter,
    retained_without_time: Counter,
    suppressed: Counter,
    rebirths: Counter,
}

impl Intake {
    /// An intake for the source of that name; `session` is its MQTT session, if it has one.
    #[must_use]
    pub fn new(source: &str, session: Option<&str>, decoder: Decoder, sink: Sink, counters: &Counters) -> Self {
        let counter = |count| counters.counter(count, source);
        // Of sources that never ask it would only be in the way.
        let rebirths = if decoder.asks() { counter(Count::RebirthsRequested) } else { Counter::default() };
        Self {
            source: Arc::from(source),
            session: session.map(Arc::from),
            decoder,
            sink,
            counts: SourceCounts {
                frames: counter(Count::FramesReceived),
                bytes: counter(Count::BytesReceived),
                readings: counter(Count::Readings),
                states: counter(Count::DeviceStates),
                ignored: counter(Count::FramesIgnored),
                retained_without_time: counter(Count::RetainedWithoutTime),
                suppressed: counter(Count::DeadLettersSuppressed),
                rebirths,
            },
            counters: counters.clone(),
            limits: Vec::new(),
            batch: Batch::default(),
        }
    }

    /// Takes all frames of one read. `receipts` are those of the QoS 1 messages among them. Gives the number that
    /// [`Intake::durable`] must reach until everything that these frames led to is safe.
    pub fn accept(&mut self, frames: &Frames, receipts: &[Receipt]) -> u64 {
        self.counts.frames.add(frames.len() as u64);
        self.counts.bytes.add(frames.bytes() as u64);
        let (mut readings, mut states, mut ignored, mut without_time) = (0, 0, 0, 0);
        for message in frames.iter() {
            for frame in self.decoder.pieces(message) {
                let before = self.batch.len();
                let outcome = self.decoder.decode(&frame, frames.received, &mut self.batch);
                // What one frame leads to is readings, states, or, of a birth message, both.
                let records = (self.batch.len() - before) as u64;
                match outcome {
                    Outcome::Readings(count) => {
                        readings += count as u64;
                        states += records.saturating_sub(count as u64);
                    }
                    Outcome::State => states += records,
                    Outcome::Ignored => ignored += 1,
                    Outcome::RetainedWithoutTime => without_time += 1,
                    Outcome::Rejected(rejection) => self.reject(&frame, frames.received, rejection),
                }
            }
        }
        for (frame, mismatch) in frames.damaged() {
            let (stage, reason) = (Stage::Source, Reason::BadChecksum);
            let rejection = Rejection { profile: None, stage, reason, detail: mismatch.to_string() };
            self.reject(&frame, frames.received, rejection);
        }
        if !frames.received.trusted && readings + states > 0 {
            self.counters.add(Count::ReceivedUntrusted, crate::clock::doubt().as_str(), readings + states);
        }
        self.counts.readings.add(readings);
        self.counts.states.add(states);
        self.counts.ignored.add(ignored);
        self.counts.retained_without_time.add(without_time);
        match &self.sink {
            Sink::Pipeline(pipeline) => pipeline.append(&mut self.batch, self.session.as_ref(), receipts),
            Sink::Print(printer) => printer.print(frames, &mut self.batch),
        }
    }

    /// Takes a state of a device that the source itself found out. Gives a number as [`Intake::accept`].
    pub fn state(&mut self, device: &Name, profile: &Name, online: bool, received: Stamp) -> u64 {
        let state = DeviceState { device: Arc::clone(device), profile: Arc::clone(profile), online, received };
        self.batch.records.push(Record::State(Box::new(state)));
        if !received.trusted {
            self.counters.add(Count::ReceivedUntrusted, crate::clock::doubt().as_str(), 1);
        }
        self.counts.states.add(1);
        match &self.sink {
            Sink::Pipeline(pipeline) => pipeline.append(&mut self.batch, self.session.as_ref(), &[]),
            Sink::Print(printer) => printer.print(&Frames::new(received), &mut self.batch),
        }
    }

    fn reject(&mut self, frame: &Frame<'_>, received: Stamp, rejection: Rejection) {
        let Rejection { profile, stage, reason, detail } = rejection;
        self.counters.add(Count::Rejected, reason.as_str(), 1);
        let index = reason as usize;
        if self.limits.len() <= index {
            self.limits.resize_with(index + 1, Bucket::full);
        }
        if !self.limits[index].take(received.monotonic_ms) {
            self.counts.suppressed.add(1);
            return;
        }
        let kept = &frame.payload[..frame.payload.len().min(DeadLetter::PAYLOAD_BYTES_MAX)];
        self.batch.records.push(Record::DeadLetter(Box::new(DeadLetter {
            source: Arc::clone(&self.source),
            origin: frame.origin.into(),
            profile,
            received,
            stage,
            reason,
            detail: detail.into_boxed_str(),
            length: frame.oversize.unwrap_or(frame.payload.len() as u64),
            payload: kept.into(),
        })));
    }

    /// What the devices are to be asked because of the frames that were accepted. Who only prints asks nobody.
    pub fn take_requests(&mut self) -> Vec<Request> {
        let requests = self.decoder.take_requests();
        if matches!(self.sink, Sink::Print(_)) {
            return Vec::new();
        }
        self.counts.rebirths.add(requests.len() as u64);
        requests
    }

    /// The MQTT topic filters to subscribe to.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<String> {
        self.decoder.subscriptions()
    }

    /// The highest append number that is safe.
    #[must_use]
    pub fn durable(&self) -> tokio::sync::watch::Receiver<u64> {
        match &self.sink {
            Sink::Pipeline(pipeline) => pipeline.outbox().durable(),
            Sink::Print(printer) => printer.printed(),
        }
    }

    /// Asks for a commit now.
    pub fn hurry(&self) {
        if let Sink::Pipeline(pipeline) = &self.sink {
            pipeline.outbox().hurry();
        }
    }

    /// Receipts of this source's session: of earlier runs, and of a source before it.
    #[must_use]
    pub fn known_receipts(&self) -> KnownReceipts {
        match (&self.sink, &self.session) {
            (Sink::Pipeline(pipeline), Some(session)) => pipeline.outbox().known_receipts(session),
            _ => KnownReceipts::default(),
        }
    }
}

/// A token bucket on the monotonic stamp of the frames.
#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled_ms: u64,
}

impl Bucket {
    fn full() -> Self {
        Self { tokens: DEAD_LETTER_BURST, refilled_ms: 0 }
    }

    fn take(&mut self, now_ms: u64) -> bool {
        let due = now_ms.saturating_sub(self.refilled_ms) / DEAD_LETTER_REFILL_MS;
        if due > 0 {
            self.tokens = DEAD_LETTER_BURST.min(self.tokens.saturating_add(u32::try_from(due).unwrap_or(u32::MAX)));
            self.refilled_ms = now_ms;
        }
        let allowed = self.tokens > 0;
        self.tokens -= u32::from(allowed);
        allowed
    }
}
