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

    /// Marks `from..=to` as delivered, however many they are.
    pub(crate) fn deliver_range(&mut self, from: u64, to: u64) {
        if to < from || to < self.next {
            return;
        }
        if from > self.next {
            let offset = |number: u64| u32::try_from(number - self.first);
            if let (Ok(from), Ok(to)) = (offset(from), offset(to)) {
                self.above.insert_range(from..=to);
            }
            return;
        }
        self.next = self.first_missing(to + 1);
        if let Ok(offset) = u32::try_from(self.next - self.first) {
            self.above.remove_range(..offset);
        }
    }

    /// Marks all that `other` has.
    pub(crate) fn merge(&mut self, other: &Self) {
        if other.next > other.first {
            self.deliver_range(other.first, other.next - 1);
        }
        for offset in &other.above {
            self.deliver(other.first + u64::from(offset));
        }
    }

    /// The first number from `from` on that is not delivered, in steps that double: what was never stored can be millions.
    pub(crate) fn first_missing(&self, from: u64) -> u64 {
        let mut number = from.max(self.next);
        let mut step = 1;
        while self.is_delivered(number) {
            let end = number.saturating_add(step);
            let whole = match (u32::try_from(number - self.first), u32::try_from(end - self.first)) {
                (Ok(start), Ok(end)) => self.above.contains_range(start..end),
                _ => false,
            };
            (number, step) = match (whole, step) {
                (true, _) => (end, step * 2),
                (false, 1) => (number + 1, 1),
                (false, _) => (number, step / 2),
            };
        }
        number
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
    fn ranges_are_what_their_numbers_are() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..300 {
            let (mut by_range, mut by_number, mut other) = (Progress::new(5), Progress::new(5), Progress::new(9));
            for _ in 0..random.u32(1..12) {
                let from = random.u64(9..400);
                let to = from + random.u64(..60);
                if random.bool() {
                    by_range.deliver_range(from, to);
                } else {
                    other.deliver_range(from, to);
                }
                for number in from..=to {
                    by_number.deliver(number);
                }
            }
            if random.bool() {
                by_range.deliver_range(5, 8);
                for number in 5..=8 {
                    by_number.deliver(number);
                }
            }
            by_range.merge(&other);
            assert_eq!(by_range, by_number);
            for from in 0..480 {
                let plain = (from.max(5)..).find(|&number| !by_number.is_delivered(number)).unwrap();
                assert_eq!(by_range.first_missing(from), plain, "from {from} in {by_range:?}");
            }
        }
    }

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
