//! Appends before they are committed: blocks, each of which becomes one commit.

use std::time::Instant;

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
    pub(crate) bytes: usize,
}

/// What the rules' state took in with a block: pieces in the order of their numbers, each behind its length.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) pieces: Vec<u8>,
}

impl Journal {
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
        _ => 100,
    }
}
