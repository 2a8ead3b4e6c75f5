//! How far a lane of a segment is delivered: everything below a number, and single records above it.
//!
//! Kafka reports deliveries in any order, and a parked topic leaves holes for as long as it is parked, so what is above
//! the cursor is a compressed bitmap: at the worst one bit for each record of a segment.

use roaring::RoaringBitmap;

use super::chunk::CursorEntry;
use super::manifest::Range;

/// Delivered numbers of one lane of one segment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Progress {
    first: u64,
    /// All numbers below are delivered.
    next: u64,
    /// Delivered numbers from `next` on, less `first`.
    above: RoaringBitmap,
}

impl Progress {
    /// Nothing of a lane that begins with `first` is delivered.
    pub(crate) fn new(first: u64) -> Self {
        Self { first, next: first, above: RoaringBitmap::new() }
    }

    /// Marks `number` as delivered; whether that is news.
    pub(crate) fn deliver(&mut self, number: u64) -> bool {
        if number < self.next {
            return false;
        }
        if number > self.next {
            // A segment never holds 2^32 records of a lane: it is a few MiB.
            return u32::try_from(number - self.first).is_ok_and(|offset| self.above.insert(offset));
        }
        self.next += 1;
        while let Ok(offset) = u32::try_from(self.next - self.first)
            && self.above.remove(offset)
        {
            self.next += 1;
        }
        true
    }

    pub(crate) fn is_delivered(&self, number: u64) -> bool {
        number < self.next || u32::try_from(number - self.first).is_ok_and(|offset| self.above.contains(offset))
    }

    /// The first number that is not delivered.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// How many numbers are delivered.
    pub(crate) fn count(&self) -> u64 {
        self.next - self.first + self.above.len()
    }

    /// How many numbers of `range` are not delivered.
    pub(crate) fn missing(&self, range: Range) -> u64 {
        range.count().saturating_sub(self.count())
    }

    /// As it is stored.
    pub(crate) fn entry(&self, segment: u64, generation: u32, lane: u8) -> CursorEntry {
        let mut above = Vec::new();
        if !self.above.is_empty() {
            // Writing to memory does not fail; if it did, records would be sent twice, none would be lost.
            if self.above.serialize_into(&mut above).is_err() {
                above.clear();
            }
        }
        CursorEntry { segment, generation, lane, next: self.next, above }
    }

    /// As it was stored, for a lane that begins with `first`. What cannot be read counts as not delivered.
    pub(crate) fn from_entry(first: u64, entry: &CursorEntry) -> Self {
        let above = match entry.above.as_slice() {
            [] => RoaringBitmap::new(),
            bytes => RoaringBitmap::deserialize_from(bytes).unwrap_or_default(),
        };
        Self { first, next: entry.next.max(first), above }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_remembered_and_closed() {
        let mut progress = Progress::new(10);
        assert!(progress.deliver(12));
        assert!(progress.deliver(11));
        assert_eq!((progress.next(), progress.count()), (10, 2));
        assert!(!progress.is_delivered(10) && progress.is_delivered(11) && !progress.is_delivered(13));
        let kept = Progress::from_entry(10, &progress.entry(1, 0, 2));
        assert_eq!(kept, progress);
        assert!(progress.deliver(10));
        assert!(!progress.deliver(11), "a second report is no news");
        assert_eq!((progress.next(), progress.count()), (13, 3));
        assert_eq!(progress.missing(Range { first: 10, last: 14 }), 2);
    }
}
