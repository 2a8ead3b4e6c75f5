//! What happens to readings on the device: filters and windows, in one pass over a batch. Pure: no clock, no I/O, no
//! async; time comes in as an argument, and what has to be durable goes out as bytes.

use crate::config;
use crate::counters::Counters;
use crate::reading::{Batch, Stamp};

/// What the state took in since the last piece: to be stored in the same commit as the records that it led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Pieces are numbered from 1 without a gap, over all runs.
    pub number: u64,
    /// Opaque; [`Rules::restore`] reads it.
    pub bytes: Vec<u8>,
}

/// The state as a run left it.
#[derive(Debug, Default)]
pub struct Left {
    /// The newest checkpoint ([`Rules::checkpoint`]).
    pub checkpoint: Option<Vec<u8>>,
    /// The pieces since then, in order; older ones may be among them.
    pub journal: Vec<Piece>,
}

/// All rules of a configuration and their state.
#[derive(Debug)]
pub struct Rules {}

impl Rules {
    /// The rules of a configuration with the state that an earlier run left.
    #[must_use]
    pub fn restore(settings: &config::Rules, left: Left, now: Stamp, counters: &Counters) -> Self {
        let _ = (settings, left, now, counters);
        Self {}
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Takes out of `batch` what the rules drop, and adds to `aggregates` those of the windows that have closed.
    pub fn apply(&mut self, batch: &mut Batch, aggregates: &mut Batch) {
        let _ = (batch, aggregates);
    }

    /// Closes the windows of devices that have been silent for long enough.
    pub fn tick(&mut self, now: Stamp, aggregates: &mut Batch) {
        let _ = (now, aggregates);
    }

    /// What the state took in since the last call, if it did.
    pub fn take_journal(&mut self) -> Option<Piece> {
        None
    }

    /// Bytes of journal since the last checkpoint: what a restart would have to read.
    #[must_use]
    pub fn journal_bytes(&self) -> usize {
        0
    }

    /// The whole state, and the pieces that it includes.
    #[must_use]
    pub fn checkpoint(&mut self) -> Vec<u8> {
        Vec::new()
    }
}

impl From<crate::outbox::Left> for Left {
    fn from(left: crate::outbox::Left) -> Self {
        let piece = |(number, bytes)| Piece { number, bytes };
        Self { checkpoint: left.checkpoint, journal: left.journal.into_iter().map(piece).collect() }
    }
}
