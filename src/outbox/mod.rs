//! The outbox: the on-disk log between the sources and the uplink.
//!
//! ```text
//! append → (wait for others) → commit: chunks into a segment, fsync → durable: acknowledgements may leave
//!                                        ↓
//!                              reader → uplink → delivered → a segment with nothing left is deleted
//! ```
//!
//! - [`pending`]: appends that wait for a commit. [`record`]: records by column, as CBOR. [`chunk`]: compressed, with a CRC, at most 6 KiB.
//! - [`segment`]: one small sled database. [`cipher`]: encryption of its values, by choice. [`manifest`]: which segments exist.
//! - [`checkpoint`]: the rules' state, which the commits' journal carries on.
//! - [`recovery`]: what was left by the run before. [`writer`]: the thread that commits, rolls, releases and evicts.
//! - [`rebuild`]: a manifest from the segments. [`settled`]: what counts as delivered by an operator's order.
//! - [`inspect`]: the same directory for a person, read only. [`edit`]: what a person may change in it.
//! - [`owner`]: whose the data directory is, so that root locks no service out of it.
//! - [`reader`]: what waits, in order, for the uplink. [`progress`]: what of it is delivered.
//!
//! Invariants:
//! - What [`Outbox::durable`] announces survives a power cut: it was fsynced in a segment that the manifest names.
//! - Numbers of a stream begin at 1, have no gaps, and are never used twice: a stream is one lane of one run, and a run's
//!   name is in the manifest before its first record is durable.
//! - A record leaves the disk only after its delivery, or when it is given up, counted and declared by a gap record.
//! - Memory is bounded by the pending appends (which the sources bound), the memory tail, and one loaded segment.

mod checkpoint;
mod chunk;
pub(crate) mod cipher;
pub(crate) mod edit;
mod hold;
mod holes;
pub(crate) mod inspect;
pub(crate) mod manifest;
mod memory;
mod on_disk;
mod owner;
mod pending;
mod progress;
mod reader;
mod rebuild;
mod receipts;
pub(crate) mod record;
mod recovery;
mod rewrite;
pub(crate) mod segment;
pub(crate) mod segment_state;
mod settled;
pub(crate) mod state;
#[cfg(test)]
mod tests;
mod thin;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use roaring::RoaringBitmap;
use tokio::sync::watch;

pub(crate) use self::manifest::replace;
pub use self::pending::Append;
pub use self::reader::{ReadError, Reader};
pub use self::receipts::KnownReceipts;
pub(crate) use self::record::from_cbor;
pub use self::record::to_cbor;
pub use self::recovery::OpenError;
use self::state::Shared;
use crate::beats::Beat;
use crate::clock;
use crate::config;
use crate::counters::Counters;
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

    /// Its place in [`Lane::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// Its byte in keys and cursors. The order of the bytes is that of the priorities.
    pub(crate) fn index_byte(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// Records as the uplink gets them: durable, numbered, of one lane of one run, in order.
#[derive(Debug)]
pub struct Stored {
    /// Names the segment that holds them, for [`Outbox::delivered`]: opaque outside of the outbox.
    pub segment: u64,
    /// Lane.
    pub lane: Lane,
    /// Stream id: the run and the lane, e.g. `9f3c1d20a4b7.raw`.
    pub stream: Name,
    /// The first record's number; the others follow without a gap.
    pub first_seq: u64,
    /// The records.
    pub batch: Arc<Batch>,
    /// Indexes of the records that are delivered already.
    delivered: RoaringBitmap,
    /// Indexes of the records that had been delivered before somebody asked for them again.
    replayed: RoaringBitmap,
    /// Keeps the segment from being evicted while records of it are in flight.
    _pin: Option<Arc<()>>,
}

impl Stored {
    /// Records of a stream, none of them delivered, that no segment holds: for trying out what comes after the outbox.
    #[must_use]
    pub fn detached(segment: u64, lane: Lane, stream: Name, first_seq: u64, batch: Arc<Batch>) -> Self {
        Self {
            segment,
            lane,
            stream,
            first_seq,
            batch,
            delivered: RoaringBitmap::new(),
            replayed: RoaringBitmap::new(),
            _pin: None,
        }
    }

    /// Whether the record at `index` had been delivered once, and is delivered again because somebody asked for it.
    #[must_use]
    pub fn is_replayed(&self, index: usize) -> bool {
        !self.replayed.is_empty() && u32::try_from(index).is_ok_and(|index| self.replayed.contains(index))
    }

    /// Whether the record at `index` had been delivered before (after a rewind or a restart): it is to be skipped.
    #[must_use]
    pub fn is_delivered(&self, index: usize) -> bool {
        !self.delivered.is_empty() && u32::try_from(index).is_ok_and(|index| self.delivered.contains(index))
    }
}

/// What waits in the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Records stored or about to be, and not delivered.
    pub records: u64,
    /// The same by lane, in the order of [`Lane::ALL`].
    pub lanes: [u64; 3],
    /// Bytes on disk.
    pub bytes: u64,
    /// Segments on disk.
    pub segments: u64,
    /// When the oldest was received, by the wall clock of then (ms).
    pub oldest_ms: Option<i64>,
}

/// What [`Outbox::open`] needs besides the configuration.
#[derive(Debug)]
pub struct Options {
    /// The gateway's data directory; the outbox is `outbox` in it.
    pub data_dir: PathBuf,
    /// Receipts to keep for each MQTT session: the largest in-flight limit of any source.
    pub receipts_max: usize,
    /// Identifies the machine; empty if unknown.
    pub machine: String,
}

/// What an earlier run left of the rules' state.
#[derive(Debug, Default)]
pub struct Left {
    /// The newest checkpoint, if there is one that can be read.
    pub checkpoint: Option<Vec<u8>>,
    /// The journal's pieces with their numbers, in order; some of them may be older than the checkpoint.
    pub journal: Vec<(u64, Vec<u8>)>,
}

/// The outbox of a running gateway. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
}

/// Ends the outbox: commits what is pending and says that the stop was clean.
#[derive(Debug)]
pub struct Closer {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Outbox {
    /// Opens or makes the outbox below `options.data_dir` and starts its thread. Opens the newest segment only, so it
    /// takes as long for 100 GB as for 1 MB.
    ///
    /// # Errors
    /// When another gateway uses the directory, when it cannot be read or written, or when a later release wrote it.
    /// Damage is no error: it is quarantined and counted.
    pub fn open(
        settings: &config::Outbox,
        options: &Options,
        counters: &Counters,
    ) -> Result<(Self, Closer, Left), OpenError> {
        let (shared, writer, left) = recovery::open(settings, options, counters)?;
        let shared = Arc::new(shared);
        let thread = writer.start(Arc::clone(&shared)).map_err(OpenError::Thread)?;
        Ok((Self { shared: Arc::clone(&shared) }, Closer { shared, thread }, left))
    }

    /// Takes all records out of `batch` and gives the number that [`Outbox::durable`] must reach until everything
    /// appended so far is safe. Never blocks on the disk. An empty batch is allowed (its receipts are kept all the same).
    pub fn append(&self, lane: Lane, batch: &mut Batch, session: Option<&Name>, receipts: &[Receipt]) -> u64 {
        let append = Append { session, receipts, ..Append::default() };
        self.append_all(match lane {
            Lane::Alarm => Append { alarms: Some(batch), ..append },
            Lane::Aggregate => Append { aggregates: Some(batch), ..append },
            Lane::Raw => Append { raw: Some(batch), ..append },
        })
    }

    /// The same for records of several lanes, and for what the rules' state took in: all of it in one commit.
    pub fn append_all(&self, append: Append<'_>) -> u64 {
        self.shared.append(append)
    }

    /// Keeps the rules' state as it is after all that was appended so far, once that is durable. A newer one replaces one
    /// that still waits.
    pub fn checkpoint(&self, bytes: Vec<u8>) {
        self.shared.checkpoint(bytes);
    }

    /// Writes the rules' state as this run begins with it, and returns when it is durable. To be called before the first
    /// [`Append::journal`] of a run, which goes on from there. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk refuses: then nothing with a journal must be appended.
    pub fn begin_journal(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.shared.begin_journal(bytes)
    }

    /// Whether the rules' state should be kept soon: what it took in since the last time holds segments back.
    #[must_use]
    pub fn wants_checkpoint(&self) -> bool {
        self.shared.lock().checkpoint_wanted.is_some_and(|from| from <= clock::instant())
    }

    /// The highest append number that is safe.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.shared.durable.subscribe()
    }

    /// Goes on with other settings: all but `persist` and the encryption, which stay as they were opened with. A session
    /// keeps at least so many receipts from now on.
    pub fn change(&self, settings: &config::Outbox, receipts_max: usize) {
        let (persist, encryption) = {
            let now = self.shared.settings();
            (now.persist, now.encryption.clone())
        };
        self.shared.change(config::Outbox { persist, encryption, ..settings.clone() }, receipts_max);
    }

    /// Starts a commit now: many messages wait for their acknowledgement, or the gateway is stopping.
    pub fn hurry(&self) {
        self.shared.hurry();
    }

    /// Receipts of that session whose acknowledgement the broker may not have seen: of earlier runs, and of this one.
    #[must_use]
    pub fn known_receipts(&self, session: &str) -> KnownReceipts {
        self.shared.lock().receipts.known(session)
    }

    /// The one reader, for the uplink.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }

    /// Kafka has acknowledged these records of a segment: numbers in the lane's stream.
    pub fn delivered(&self, segment: u64, lane: Lane, seqs: &[u64]) {
        self.shared.delivered(segment, lane, seqs);
    }

    /// What waits.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        self.shared.backlog()
    }

    /// The run's name; streams are named after it.
    #[must_use]
    pub fn run(&self) -> &str {
        &self.shared.run
    }

    /// The runs that have records here, this one apart.
    #[must_use]
    pub fn runs(&self) -> std::collections::BTreeSet<String> {
        self.shared.lock().segments.values().map(|segment| segment.entry.run.clone()).collect()
    }

    /// Made with the data directory and renewed when it finds itself on another machine: so that no two installations
    /// share an MQTT session.
    #[must_use]
    pub fn installation(&self) -> &str {
        &self.shared.installation
    }

    /// What the thread that commits beats with: a disk that hangs shows here and nowhere else.
    #[must_use]
    pub fn beat(&self) -> Beat {
        self.shared.beat.clone()
    }
}

impl Closer {
    /// Commits what is pending, notes how far the uplink came, and ends the outbox's thread. Blocks on the disk.
    ///
    /// # Errors
    /// When the last commit could not be made: what was not durable stays unacknowledged at the broker.
    pub fn close(self) -> Result<(), CloseError> {
        self.shared.close();
        // The thread's own panics end the process, so joining cannot fail.
        let _ = self.thread.join();
        self.shared.unlock();
        if self.shared.lock().pending_is_empty() { Ok(()) } else { Err(CloseError) }
    }
}

/// Whether a closed segment is being read just now: a panic of sled's threads then is damage of that segment.
#[must_use]
pub fn is_loading() -> bool {
    segment::is_loading()
}

/// The last records could not be made durable.
#[derive(Debug, thiserror::Error)]
#[error("the last records could not be stored; they were not acknowledged, so the brokers will send them again")]
pub struct CloseError;
