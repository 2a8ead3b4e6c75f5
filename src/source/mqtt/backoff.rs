//! How long to wait before the next attempt to connect.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// A connection that lasted this long begins the row anew.
const LASTED: Duration = Duration::from_secs(20);

/// The waits between attempts: half a second, doubled up to half a minute, each shortened at random by up to a half so that
/// a fleet does not come back in step.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The wait after a connection that lasted for `lasted`; `random` is from 0 to 1. After `long`, something that will
    /// not pass quickly, the wait is the longest at once.
    pub(super) fn next(&mut self, lasted: Duration, long: bool, random: f32) -> Duration {
        if long {
            return LONGEST.mul_f32(1.0 + random.clamp(0.0, 1.0));
        }
        if lasted >= LASTED {
            self.attempts = 0;
        }
        let wait = FIRST.saturating_mul(1 << self.attempts.min(16)).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        wait.mul_f32(1.0 - random.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_half_a_minute_and_begins_anew_after_a_connection_that_lasted() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..8).map(|_| backoff.next(Duration::ZERO, false, 0.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        assert_eq!(backoff.next(Duration::from_secs(20), false, 0.0).as_millis(), 500);
        assert_eq!(backoff.next(Duration::ZERO, false, 1.0).as_millis(), 500, "half of a second");
    }

    #[test]
    fn waits_long_at_once_where_haste_does_harm() {
        assert!(Backoff::default().next(Duration::ZERO, true, 0.5) >= LONGEST);
    }
}
