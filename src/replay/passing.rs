//! The board's clocks, as far as a recording tells of them: a record says what the wall clock showed, and only of a clock
//! that was not trusted also how long the board had been up.

use crate::reading::Stamp;

/// Makes moments of what stands in records, in the order of the recording.
///
/// Invariant: the monotonic clock never goes back. It goes on with the latest trusted wall time, so a recording whose
/// clock was set back, or whose lines are out of order, stands still until that time is reached again.
#[derive(Debug, Default)]
pub struct Passing {
    monotonic_ms: u64,
    /// The latest trusted wall time.
    wall_ms: Option<i64>,
    /// The last time since boot of an untrusted clock.
    boot_ms: Option<u64>,
    /// Moments that lay before one that the recording had told of.
    back: u64,
}

impl Passing {
    /// The moment of a record. `boot_ms`, the time since boot, stands in the records of a clock that was not trusted.
    pub fn stamp(&mut self, wall_ms: i64, trusted: bool, boot_ms: Option<u64>) -> Stamp {
        let passed_ms = if trusted {
            self.boot_ms = None;
            let latest = self.wall_ms.map_or(wall_ms, |latest| latest.max(wall_ms));
            let passed = self.wall_ms.replace(latest).map_or(0, |before| latest.abs_diff(before));
            self.back += u64::from(latest > wall_ms);
            passed
        } else {
            let before = std::mem::replace(&mut self.boot_ms, boot_ms);
            boot_ms.zip(before).map_or(0, |(now, before)| now.saturating_sub(before))
        };
        self.monotonic_ms = self.monotonic_ms.saturating_add(passed_ms);
        Stamp { wall_ms, monotonic_ms: self.monotonic_ms, trusted }
    }

    /// How many moments lay before one that the recording had told of.
    #[must_use]
    pub fn back(&self) -> u64 {
        self.back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_with_the_trusted_clock_and_never_back() {
        let mut passing = Passing::default();
        let mut at = |wall_ms, trusted, boot_ms| passing.stamp(wall_ms, trusted, boot_ms).monotonic_ms;
        assert_eq!(at(0, false, Some(5_000)), 0);
        assert_eq!(at(2_000, false, Some(7_000)), 2_000);
        // After a reboot the time since boot begins anew, and nothing says how long it was off.
        assert_eq!(at(0, false, Some(1_000)), 2_000);
        // The first trusted time is 56 years later on the wall, and no time has passed.
        assert_eq!(at(1_777_896_000_000, true, None), 2_000);
        assert_eq!(at(1_777_896_001_000, true, None), 3_000);
        assert_eq!(at(1_777_895_000_000, true, None), 3_000);
        assert_eq!(at(1_777_896_000_500, true, None), 3_000);
        assert_eq!(at(1_777_896_003_000, true, None), 5_000);
        assert_eq!(passing.back(), 2);
        assert_eq!(passing.stamp(i64::MAX, true, None).monotonic_ms, 5_000 + (i64::MAX - 1_777_896_003_000) as u64);
        assert_eq!(passing.stamp(i64::MIN, true, None).wall_ms, i64::MIN);
    }
}
