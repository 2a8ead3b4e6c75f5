//! The only place where a clock is read (clippy's `disallowed-methods` keeps it so). Everything else is handed the time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::reading::Stamp;

/// A wall clock earlier than this is a board that has not heard the time yet: 2026-01-01T00:00:00Z, before the first release.
const PLAUSIBLE_SINCE_MS: i64 = 1_767_225_600_000;

/// Milliseconds since 1970-01-01T00:00:00Z by the wall clock; 0 for a clock before that.
#[must_use]
pub fn wall_ms() -> i64 {
    #[allow(clippy::disallowed_methods)]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Now, for measuring how long something takes.
#[must_use]
pub fn instant() -> Instant {
    #[allow(clippy::disallowed_methods)]
    Instant::now()
}

/// The kernel's monotonic clock, by which systemd measures too: since the board booted, without the time that it was suspended.
#[must_use]
pub fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Time since the board booted, suspended time included; it never steps.
#[must_use]
pub fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// This moment, by all the clocks that a record keeps.
#[must_use]
pub fn stamp() -> Stamp {
    let wall_ms = wall_ms();
    Stamp {
        wall_ms,
        monotonic_ms: u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX),
        trusted: wall_ms >= PLAUSIBLE_SINCE_MS,
    }
}
