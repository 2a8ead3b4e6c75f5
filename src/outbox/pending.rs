//! Appends before they are committed: blocks, each of which becomes one commit.

use std::sync::Arc;
use std::time::Instant;

use super::Lane;
use super::progress::Progress;
use crate::reading::{Batch, Name, Receipt, Record, Value};

/// Appends are gathered into blocks of about this many bytes; a block is committed as one.
pub(super) const BLOCK_BYTES: usize = 192 * 1024;

/// Appends that will be committed together.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub(crate) batches: [Batch; 3],
    pub(crate) receipts: Vec<(Name, Receipt)>,
    pub(crate) journal: Journal,
    /// The append number that is durable with it.
    pub(crate) number: u64,
    pub(crate) since: Option<Instant>,
    /// When the last append came.
    pub(crate) last: Option<Instant>,
    pub(crate) bytes: usize,
    /// Holds more than raw readings: it is to be stored before anything of it is sent.
    pub(crate) must: bool,
    /// The number of each lane's first record. With it the block is frozen: nothing more is appended.
    pub(crate) first: Option<[u64; 3]>,
    /// Raw records that were given to the reader before they were stored; then they are no longer in `batches`.
    pub(crate) given: Option<Arc<Batch>>,
    /// Raw records delivered before they were stored.
    pub(crate) progress: Option<Progress>,
    /// Held by whoever got records before they were stored.
    pub(crate) pins: Vec<Arc<()>>,
}

impl Block {
    /// How many raw records.
    pub(crate) fn raw_len(&self) -> usize {
        self.given.as_ref().map_or_else(|| self.batches[Lane::Raw.index()].len(), |given| given.len())
    }

    /// The numbers of its raw records, once they have some: the first, and the one after the last.
    pub(crate) fn raw_numbers(&self) -> Option<(u64, u64)> {
        let first = self.first?[Lane::Raw.index()];
        Some((first, first + self.raw_len() as u64))
    }

    /// Puts the raw records back among the others: they are to be stored after all.
    pub(crate) fn reclaim(&mut self) {
        if let Some(given) = self.given.take() {
            self.batches[Lane::Raw.index()] = Arc::unwrap_or_clone(given);
        }
    }

    /// Appends what `next`, the block behind it, holds. Both are frozen.
    pub(crate) fn join(&mut self, mut next: Self) {
        self.reclaim();
        next.reclaim();
        for (batch, more) in self.batches.iter_mut().zip(&mut next.batches) {
            batch.append(more);
        }
        self.receipts.append(&mut next.receipts);
        self.journal.join(next.journal);
        (self.number, self.last) = (next.number, next.last);
        self.bytes += next.bytes;
        self.must |= next.must;
        match (&mut self.progress, next.progress) {
            (Some(progress), Some(next)) => progress.merge(&next),
            // Its numbers lie above all of this block's.
            (progress @ None, Some(next)) => {
                let first = self.first.map_or(0, |first| first[Lane::Raw.index()]);
                progress.insert(Progress::new(first)).merge(&next);
            }
            (_, None) => {}
        }
        self.pins.append(&mut next.pins);
    }
}

/// What the rules' state took in with a block: pieces in the order of their numbers, each behind its length.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) pieces: Vec<u8>,
}

impl Journal {
    fn join(&mut self, next: Self) {
        if self.pieces.is_empty() {
            *self = next;
        } else if !next.pieces.is_empty() {
            self.last = next.last;
            self.pieces.extend(next.pieces);
        }
    }

    pub(super) fn push(&mut self, number: u64, piece: &[u8]) {
        if self.pieces.is_empty() {
            self.first = number;
        }
        self.last = number;
        // A piece is made of one read of a source: far below 4 GiB.
        self.pieces.extend((piece.len() as u32).to_le_bytes());
        self.pieces.extend(piece);
    }
}

/// What one append brings: all of it becomes durable in one commit, or none of it.
#[derive(Debug, Default)]
pub struct Append<'a> {
    /// Records of the alarm lane; they are taken out, and have the commit start at once.
    pub alarms: Option<&'a mut Batch>,
    /// Records of the raw lane; they are taken out.
    pub raw: Option<&'a mut Batch>,
    /// Records of the aggregate lane; they are taken out.
    pub aggregates: Option<&'a mut Batch>,
    /// Whose receipts.
    pub session: Option<&'a Name>,
    /// Receipts of the QoS 1 messages that led to it.
    pub receipts: &'a [Receipt],
    /// What the rules' state took in: pieces and their numbers, which follow each other without a gap.
    pub journal: &'a [(u64, Vec<u8>)],
}

/// What records take when they are encoded, about.
pub(super) fn encoded_bytes(batch: &Batch) -> usize {
    let fields: usize = batch.fields.iter().map(|field| 10 + text_bytes(&field.value)).sum();
    let records: usize = batch.records.iter().map(|record| 24 + boxed_bytes(record)).sum();
    fields + records
}

pub(super) fn text_bytes(value: &Value) -> usize {
    if let Value::Text(text) = value { text.len() } else { 0 }
}

pub(super) fn boxed_bytes(record: &Record) -> usize {
    match record {
        Record::Reading(_) => 0,
        Record::DeadLetter(letter) => 200 + letter.payload.len() + letter.detail.len() + letter.origin.len(),
        Record::Event(event) => 100 + event.detail.len(),
        _ => 100,
    }
}
