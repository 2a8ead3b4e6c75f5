//! Whether the wall clock is believed, decided from what it shows and from who says that it is right. Pure: whoever has
//! the clocks calls [`Trust::look`] about once a second, and [`Trust::stamp`] for each batch.
//!
//! - A clock before the last known time is never believed, whoever vouches for it.
//! - Once believed, it is believed for as long as it keeps step with the clock that never steps: that NTP is away for a
//!   day makes a clock wrong by seconds, not by hours. So trust outlives its reason, and a restart within one boot.
//! - A step of more than [`STEP_MAX_MS`] ends that, unless somebody vouches for the new time.

use crate::reading::Stamp;

/// A wall clock that moves against the clock that never steps by more than this was set to another time: an hour.
pub(crate) const STEP_MAX_MS: u64 = 3_600_000;

/// Who says that the clock is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voucher {
    /// The kernel: an NTP or PTP client disciplines it.
    Kernel,
    /// systemd-timesyncd, where the kernel cannot be asked.
    Timesyncd,
    /// A clock chip that agrees with it.
    Chip,
    /// The kind of machine: one that is no board has its time from a chip or from its host.
    Machine,
    /// The configuration: `clock = "always"`.
    Operator,
    /// The file that the configuration names is there.
    File,
    /// An earlier run of the same boot knew the time, and the clock has kept step since.
    Earlier,
}

impl Voucher {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Timesyncd => "timesyncd",
            Self::Chip => "clock-chip",
            Self::Machine => "machine",
            Self::Operator => "configuration",
            Self::File => "file",
            Self::Earlier => "earlier-run",
        }
    }
}

/// Why the clock is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Nobody has said yet that it is right.
    Unsynced,
    /// It shows a time that has been before.
    BeforeLastKnown,
    /// It was set to another time, and nobody vouches for that.
    Stepped,
}

impl Doubt {
    /// The word that stands in a counter and in the status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unsynced => "unsynced",
            Self::BeforeLastKnown => "before-last-known",
            Self::Stepped => "stepped",
        }
    }
}

/// What is known of the clock.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    /// No time before this is believed.
    pub(crate) floor_ms: i64,
    /// By how much the wall clock was ahead of the monotonic one when it was last believed.
    pub(crate) offset_ms: Option<i64>,
    pub(crate) verdict: Result<Voucher, Doubt>,
    /// When the verdict became what it is, by the monotonic clock.
    pub(crate) since_ms: u64,
}

/// What a look at the clock found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing new.
    Same,
    /// It is believed from now on; `stepped_ms` is what it was set by since it was believed last.
    Trusted { stepped_ms: Option<i64> },
    /// It is not believed any more.
    Doubted(Doubt),
}

impl Trust {
    /// A clock that nobody has looked at; `offset_ms` is what an earlier run of this boot found.
    pub(crate) fn new(floor_ms: i64, offset_ms: Option<i64>, monotonic_ms: u64) -> Self {
        Self { floor_ms, offset_ms, verdict: Err(Doubt::Unsynced), since_ms: monotonic_ms }
    }

    /// Judges the clock anew; `vouched` is who says now that it is right.
    pub(crate) fn look(&mut self, wall_ms: i64, monotonic_ms: u64, vouched: Option<Voucher>) -> Seen {
        let offset_ms = offset(wall_ms, monotonic_ms);
        let moved_ms = self.offset_ms.map(|known| offset_ms.saturating_sub(known));
        let keeps_step = moved_ms.is_some_and(|moved| moved.unsigned_abs() <= STEP_MAX_MS);
        let verdict = if wall_ms < self.floor_ms {
            Err(Doubt::BeforeLastKnown)
        } else if let Some(voucher) = vouched {
            Ok(voucher)
        } else if keeps_step {
            Ok(self.verdict.unwrap_or(Voucher::Earlier))
        } else if moved_ms.is_some() {
            Err(Doubt::Stepped)
        } else {
            Err(Doubt::Unsynced)
        };
        let before = std::mem::replace(&mut self.verdict, verdict);
        if verdict.is_ok() != before.is_ok() || verdict.err() != before.err() {
            self.since_ms = monotonic_ms;
        }
        match verdict {
            Ok(_) => {
                self.offset_ms = Some(offset_ms);
                let stepped_ms = moved_ms.filter(|_| !keeps_step);
                if before.is_err() || stepped_ms.is_some() { Seen::Trusted { stepped_ms } } else { Seen::Same }
            }
            Err(doubt) if before == Err(doubt) => Seen::Same,
            Err(doubt) => Seen::Doubted(doubt),
        }
    }

    /// A moment; a step that [`Trust::look`] has not seen yet is seen here.
    pub(crate) fn stamp(&self, wall_ms: i64, monotonic_ms: u64) -> Stamp {
        let moved_ms = self.offset_ms.map(|known| offset(wall_ms, monotonic_ms).saturating_sub(known));
        let keeps_step = moved_ms.is_some_and(|moved| moved.unsigned_abs() <= STEP_MAX_MS);
        let trusted = self.verdict.is_ok() && wall_ms >= self.floor_ms && keeps_step;
        Stamp { wall_ms, monotonic_ms, trusted }
    }
}

/// By how much the wall clock is ahead of the monotonic one.
pub(crate) fn offset(wall_ms: i64, monotonic_ms: u64) -> i64 {
    wall_ms.saturating_sub_unsigned(monotonic_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: i64 = 1_777_000_000_000;
    const NOW: i64 = 1_777_896_000_000;
    const HOUR: i64 = 3_600_000;

    fn trusted(trust: &Trust, wall_ms: i64, monotonic_ms: u64) -> bool {
        trust.stamp(wall_ms, monotonic_ms).trusted
    }

    #[test]
    fn a_board_in_1970_is_believed_when_ntp_arrives_after_an_hour() {
        let mut trust = Trust::new(FLOOR, None, 0);
        assert_eq!(trust.look(5_000, 5_000, None), Seen::Doubted(Doubt::BeforeLastKnown));
        assert_eq!(trust.look(5_000, 5_000, Some(Voucher::Operator)), Seen::Same, "1970 is never right");
        assert!(!trusted(&trust, 6_000, 6_000));
        // The step comes a moment before anybody vouches for it.
        assert_eq!(trust.look(NOW, 3_600_000, None), Seen::Doubted(Doubt::Unsynced));
        assert!(!trusted(&trust, NOW, 3_600_000));
        assert_eq!(trust.look(NOW + 1_000, 3_601_000, Some(Voucher::Kernel)), Seen::Trusted { stepped_ms: None });
        assert!(trusted(&trust, NOW + 1_000, 3_601_000));
        assert_eq!(trust.offset_ms, Some(NOW - 3_600_000));
        // NTP goes away; the clock runs on.
        assert_eq!(trust.look(NOW + 50 * HOUR, 3_600_000 + 50 * HOUR as u64, None), Seen::Same);
        assert_eq!((trust.verdict, trust.since_ms), (Ok(Voucher::Kernel), 3_601_000));
    }

    #[test]
    fn a_step_that_nobody_vouches_for_ends_trust_at_once_and_setting_it_back_brings_it_again() {
        for step in [HOUR + 1, -HOUR - 1, 10 * 365 * 24 * HOUR] {
            let mut trust = Trust::new(FLOOR, None, 0);
            trust.look(NOW, 1_000, Some(Voucher::Kernel));
            assert!(trusted(&trust, NOW + HOUR, 1_000), "a correction is no step");
            assert!(!trusted(&trust, NOW + step, 1_000), "before anybody looked");
            assert_eq!(trust.look(NOW + step, 1_000, None), Seen::Doubted(Doubt::Stepped));
            assert_eq!(trust.look(NOW + step, 1_000, None), Seen::Same);
            assert_eq!(trust.look(NOW + 5, 1_005, None), Seen::Trusted { stepped_ms: None });
            // Vouched for, the other time is the right one.
            let seen = trust.look(NOW + step, 1_000, Some(Voucher::Kernel));
            assert_eq!(seen, Seen::Trusted { stepped_ms: Some(step) }, "{step}");
            assert!(trusted(&trust, NOW + step, 1_000) && !trusted(&trust, NOW, 1_000));
        }
    }

    #[test]
    fn a_restart_in_the_same_boot_goes_on_with_what_was_known() {
        let mut trust = Trust::new(FLOOR, Some(NOW), 500_000);
        assert_eq!(trust.look(NOW + 500_100, 500_000, None), Seen::Trusted { stepped_ms: None });
        assert_eq!(trust.verdict, Ok(Voucher::Earlier));
        let mut stepped = Trust::new(FLOOR, Some(NOW), 500_000);
        assert_eq!(stepped.look(NOW + 2 * HOUR, 500_000, None), Seen::Doubted(Doubt::Stepped));
        let mut before = Trust::new(NOW + HOUR, Some(NOW), 500_000);
        assert_eq!(before.look(NOW + 500_000, 500_000, Some(Voucher::Kernel)), Seen::Doubted(Doubt::BeforeLastKnown));
    }
}
