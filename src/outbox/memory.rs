//! The memory tail: the newest records, so that an online gateway does not read back what it just wrote.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::Lane;
use super::pending::{boxed_bytes, text_bytes};
use super::segment_state::SegmentState;
use crate::reading::{Batch, Field, Record};

/// Chunks of the newest records, up to so many bytes.
#[derive(Debug, Default)]
pub(crate) struct MemoryTail {
    chunks: VecDeque<MemoryChunk>,
    bytes: usize,
}

#[derive(Debug)]
struct MemoryChunk {
    segment: u64,
    lane: Lane,
    first: u64,
    batch: Arc<Batch>,
    bytes: usize,
}

impl MemoryTail {
    pub(crate) fn push(&mut self, segment: u64, lane: Lane, first: u64, batch: Arc<Batch>, bytes_max: usize) {
        let bytes = memory_bytes(&batch);
        self.bytes += bytes;
        self.chunks.push_back(MemoryChunk { segment, lane, first, batch, bytes });
        while self.bytes > bytes_max
            && let Some(oldest) = self.chunks.pop_front()
        {
            self.bytes -= oldest.bytes;
        }
    }

    /// The records that hold `number`.
    pub(crate) fn find(&self, segment: u64, lane: Lane, number: u64) -> Option<(u64, Arc<Batch>)> {
        let holds = |chunk: &&MemoryChunk| {
            chunk.segment == segment
                && chunk.lane == lane
                && (chunk.first..chunk.first + chunk.batch.len() as u64).contains(&number)
        };
        self.chunks.iter().find(holds).map(|chunk| (chunk.first, Arc::clone(&chunk.batch)))
    }

    /// Forgets what those segments hold: they are not what they were.
    pub(crate) fn drop_segments(&mut self, numbers: &[u64]) {
        self.chunks.retain(|chunk| !numbers.contains(&chunk.segment));
        self.bytes = self.chunks.iter().map(|chunk| chunk.bytes).sum();
    }

    /// Forgets what is delivered: whole chunks from the oldest on.
    pub(crate) fn forget(&mut self, segments: &BTreeMap<u64, SegmentState>) {
        while let Some(chunk) = self.chunks.front() {
            let last = chunk.first + chunk.batch.len() as u64 - 1;
            let waits = segments.get(&chunk.segment).is_some_and(|segment| {
                segment.progress[chunk.lane.index()].as_ref().is_none_or(|progress| progress.next() <= last)
            });
            if waits {
                break;
            }
            self.bytes -= chunk.bytes;
            self.chunks.pop_front();
        }
    }
}

/// What records take in memory, about.
fn memory_bytes(batch: &Batch) -> usize {
    let texts: usize = batch.fields.iter().map(|field| text_bytes(&field.value)).sum();
    let boxed: usize = batch.records.iter().map(boxed_bytes).sum();
    batch.records.capacity() * size_of::<Record>() + batch.fields.capacity() * size_of::<Field>() + texts + boxed
}
