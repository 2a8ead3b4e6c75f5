//! Where the uplink takes its records from: the outbox, or a list in a test.
//!
//! Invariant: a [`Chunk`] that came from the outbox holds the outbox's own [`Stored`], and a segment is not evicted
//! while one is held. So a chunk lives exactly as long as records of it are in flight or about to be.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;

use crate::outbox::{Backlog, Lane, Outbox, ReadError, Reader, Stored};
use crate::reading::{Batch, DeadLetter, Name, Record};

/// Durable records of one lane of one run, numbered without a gap.
#[derive(Debug)]
pub struct Chunk {
    /// The outbox's segment that holds them.
    pub segment: u64,
    /// Their lane.
    pub lane: Lane,
    /// The stream that their numbers belong to.
    pub stream: Name,
    /// The first record's number.
    pub first_seq: u64,
    /// The records.
    pub batch: Arc<Batch>,
    /// Those that had been delivered before, by index.
    pub delivered: Vec<bool>,
    /// Keeps the segment from being evicted.
    pub pin: Option<Arc<Stored>>,
}

impl Chunk {
    /// The number of the record at `index`.
    #[must_use]
    pub fn seq(&self, index: usize) -> u64 {
        self.first_seq.saturating_add(index as u64)
    }

    /// Whether the record at `index` had been delivered before.
    #[must_use]
    pub fn is_delivered(&self, index: usize) -> bool {
        self.delivered.get(index).copied().unwrap_or(false)
    }

    /// A copy of one record that holds nothing else: neither the other records nor the segment.
    #[must_use]
    pub fn single(&self, index: usize) -> Option<Self> {
        let mut record = self.batch.records.get(index)?.clone();
        let mut fields = Vec::new();
        if let Record::Reading(reading) = &mut record {
            fields.extend_from_slice(self.batch.fields_of(reading));
            reading.fields = 0..fields.len() as u32;
        }
        Some(Self {
            segment: self.segment,
            lane: self.lane,
            stream: Arc::clone(&self.stream),
            first_seq: self.seq(index),
            batch: Arc::new(Batch { records: vec![record], fields }),
            delivered: Vec::new(),
            pin: None,
        })
    }
}

/// What the uplink needs of the outbox.
pub trait Source: Send {
    /// The next records, or waits until there are some. Cancel-safe. What it gave is not given again until
    /// [`Source::rewind`].
    fn next(&mut self) -> impl Future<Output = Result<Chunk, ReadError>> + Send;

    /// Begins again with the oldest record that is not delivered.
    fn rewind(&mut self);

    /// Whether records that it has passed by have become others, so that only [`Source::rewind`] brings them.
    fn is_stale(&self) -> bool {
        false
    }

    /// These records are safe elsewhere: nobody asks for them again.
    fn delivered(&mut self, segment: u64, lane: Lane, seqs: &[u64]);

    /// Stores a dead letter. It is durable once [`Source::durable`] has reached the number that this gives.
    fn bury(&mut self, letter: DeadLetter) -> u64;

    /// The highest append number that is safe.
    fn durable(&self) -> watch::Receiver<u64>;

    /// What waits.
    fn backlog(&self) -> Backlog;
}

/// The outbox as a source.
#[derive(Debug)]
pub struct OutboxSource {
    outbox: Outbox,
    reader: Reader,
}

impl OutboxSource {
    /// Takes the outbox's one reader.
    #[must_use]
    pub fn new(outbox: Outbox) -> Self {
        let reader = outbox.reader();
        Self { outbox, reader }
    }
}

impl Source for OutboxSource {
    async fn next(&mut self) -> Result<Chunk, ReadError> {
        let stored = self.reader.next().await?;
        let mut delivered: Vec<bool> = (0..stored.batch.len()).map(|index| stored.is_delivered(index)).collect();
        if !delivered.contains(&true) {
            delivered = Vec::new();
        }
        Ok(Chunk {
            segment: stored.segment,
            lane: stored.lane,
            stream: Arc::clone(&stored.stream),
            first_seq: stored.first_seq,
            batch: Arc::clone(&stored.batch),
            delivered,
            pin: Some(stored),
        })
    }

    fn rewind(&mut self) {
        self.reader.rewind();
    }

    fn is_stale(&self) -> bool {
        self.reader.is_stale()
    }

    fn delivered(&mut self, segment: u64, lane: Lane, seqs: &[u64]) {
        self.outbox.delivered(segment, lane, seqs);
    }

    fn bury(&mut self, letter: DeadLetter) -> u64 {
        let mut batch = Batch { records: vec![Record::DeadLetter(Box::new(letter))], fields: Vec::new() };
        self.outbox.append(Lane::Raw, &mut batch, None, &[])
    }

    fn durable(&self) -> watch::Receiver<u64> {
        self.outbox.durable()
    }

    fn backlog(&self) -> Backlog {
        self.outbox.backlog()
    }
}
