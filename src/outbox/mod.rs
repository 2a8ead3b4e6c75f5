//! The outbox: the on-disk log. (API first; see the items.)
pub mod record;

use std::sync::Arc;

use crate::reading::{Batch, Name, Receipt};

/// Lanes, in falling priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Alarms.
    Alarm,
    /// Aggregates.
    Aggregate,
    /// Raw readings, and all else.
    Raw,
}

impl Lane {
    /// All lanes, in falling priority.
    pub const ALL: [Lane; 3] = [Lane::Alarm, Lane::Aggregate, Lane::Raw];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Aggregate => "aggregate",
            Self::Raw => "raw",
        }
    }
}

/// Records as the uplink gets them: durable, numbered, of one lane of one run, in order.
#[derive(Debug)]
pub struct Stored {
    /// Number of the segment (directory) that holds them.
    pub segment: u64,
    /// Lane.
    pub lane: Lane,
    /// Stream id: the run and the lane, e.g. `9f3c1d20a4b7.raw`.
    pub stream: Name,
    /// The first record's number; the others follow without a gap.
    pub first_seq: u64,
    /// The records.
    pub batch: Arc<Batch>,
}

impl Stored {
    /// Whether the record at `index` had been delivered before (after a rewind or a restart): it is to be skipped.
    #[must_use]
    pub fn is_delivered(&self, _index: usize) -> bool {
        unimplemented!()
    }
}

/// The outbox of a running gateway. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Outbox {}

/// Why the outbox could not be read.
#[derive(Debug, thiserror::Error)]
#[error("reading the outbox: {0}")]
pub struct ReadError(pub String);

impl Outbox {
    /// Takes all records out of `batch` and gives the number that [`Outbox::durable`] must reach until everything
    /// appended so far is safe. Never blocks on the disk. An empty batch is allowed (its receipts are kept all the same).
    pub fn append(&self, _lane: Lane, _batch: &mut Batch, _session: Option<&Name>, _receipts: &[Receipt]) -> u64 {
        unimplemented!()
    }

    /// The highest append number that is safe.
    #[must_use]
    pub fn durable(&self) -> tokio::sync::watch::Receiver<u64> {
        unimplemented!()
    }

    /// Starts a commit now: many messages wait for their acknowledgement, or the gateway is stopping.
    pub fn hurry(&self) {
        unimplemented!()
    }

    /// Receipts of that session which earlier runs had stored and whose acknowledgement the broker may not have seen.
    #[must_use]
    pub fn known_receipts(&self, _session: &str) -> Vec<Receipt> {
        unimplemented!()
    }

    /// The one reader, for the uplink.
    #[must_use]
    pub fn reader(&self) -> Reader {
        unimplemented!()
    }

    /// Kafka has acknowledged these records of a segment: numbers in the lane's stream.
    pub fn delivered(&self, _segment: u64, _lane: Lane, _seqs: &[u64]) {
        unimplemented!()
    }

    /// Records stored and not delivered.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        unimplemented!()
    }
}

/// What waits in the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Records.
    pub records: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// When the oldest was received, by the wall clock of then.
    pub oldest_ms: Option<i64>,
}

/// Reads what waits, lane by lane in priority, oldest first. Durable records only.
#[derive(Debug)]
pub struct Reader {}

impl Reader {
    /// The next records, or waits until there are some. Blocks its caller's task only, never the thread for long. What
    /// it gave is not given again until [`Reader::rewind`]. The segment of a [`Stored`] that is still held somewhere is
    /// not evicted. Cancel-safe.
    pub async fn next(&mut self) -> Result<Arc<Stored>, ReadError> {
        unimplemented!()
    }

    /// Begins again with the oldest record that is not delivered.
    pub fn rewind(&mut self) {
        unimplemented!()
    }
}
