//! Windows of event time: where they begin and end.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The times that can be told apart in days of every zone: the years -9998 to 9998. Whatever is outside of them belongs to no window.
pub(super) const TIME_MIN_MS: i64 = -377_000_000_000_000;
/// See [`TIME_MIN_MS`].
pub(super) const TIME_MAX_MS: i64 = 253_000_000_000_000;
/// No length of time in a rule is longer (3,000 years), so that none of the additions can overflow.
pub(super) const SPAN_MAX_MS: i64 = 100_000_000_000_000;

/// A length of time in milliseconds, at most [`SPAN_MAX_MS`].
pub(super) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(SPAN_MAX_MS).min(SPAN_MAX_MS)
}

/// Parts time into windows.
#[derive(Debug)]
pub(super) enum Windows {
    /// All of this length, from 1970-01-01T00:00:00Z on.
    Every(i64),
    /// From midnight to midnight, with the last day that was asked for: working one out costs a microsecond.
    Days { zone: TimeZone, last: (i64, i64) },
}

impl Windows {
    /// Windows of `every_ms`, which is at least 1, or the days of a zone.
    pub(super) fn new(every_ms: i64, time_zone: Option<&str>) -> Self {
        match time_zone.map(TimeZone::get) {
            Some(Ok(zone)) => Self::Days { zone, last: (0, 0) },
            Some(Err(error)) => {
                // The configuration was checked when it was read: this is a checkpoint from a machine that knew more zones.
                tracing::error!("expected a known time zone for a window: {error}; its days are those of UTC");
                Self::Every(every_ms.max(1))
            }
            None => Self::Every(every_ms.max(1)),
        }
    }

    /// The window that `time_ms` is in: its first moment, and the first after it.
    pub(super) fn around(&mut self, time_ms: i64) -> (i64, i64) {
        match self {
            Self::Every(every) => {
                let start = time_ms.div_euclid(*every) * *every;
                (start, start + *every)
            }
            Self::Days { zone, last } => {
                if !(last.0..last.1).contains(&time_ms) {
                    // Between TIME_MIN_MS and TIME_MAX_MS there is no error; the day of UTC is a window like another.
                    let start = time_ms.div_euclid(DAY_MS) * DAY_MS;
                    *last = day(zone, time_ms).unwrap_or((start, start + DAY_MS));
                }
                *last
            }
        }
    }
}

const DAY_MS: i64 = 86_400_000;

fn day(zone: &TimeZone, time_ms: i64) -> Result<(i64, i64), jiff::Error> {
    let start = Timestamp::from_millisecond(time_ms)?.to_zoned(zone.clone()).start_of_day()?;
    let end = start.tomorrow()?.start_of_day()?;
    Ok((start.timestamp().as_millisecond(), end.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> i64 {
        time.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn windows_are_aligned_to_1970() {
        let mut windows = Windows::new(60_000, None);
        for (time, start) in
            [(0, 0), (59_999, 0), (60_000, 60_000), (-1, -60_000), (-60_000, -60_000), (-60_001, -120_000)]
        {
            assert_eq!(windows.around(time), (start, start + 60_000), "{time}");
        }
        let mut weeks = Windows::new(7 * DAY_MS, None);
        assert_eq!(weeks.around(at("1970-01-08T00:00:00Z")).0, at("1970-01-08T00:00:00Z"));
    }

    #[test]
    fn days_of_a_zone_have_the_hours_that_they_have() {
        let mut days = Windows::new(DAY_MS, Some("Europe/Berlin"));
        let cases = [
            ("2026-03-28T22:59:59.999Z", "2026-03-27T23:00:00Z", 24),
            ("2026-03-28T23:00:00Z", "2026-03-28T23:00:00Z", 23),
            ("2026-03-29T21:59:59Z", "2026-03-28T23:00:00Z", 23),
            ("2026-03-29T22:00:00Z", "2026-03-29T22:00:00Z", 24),
            ("2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", 25),
            ("2026-10-25T23:00:00Z", "2026-10-25T23:00:00Z", 24),
            ("1900-06-01T00:00:00Z", "1900-05-31T23:00:00Z", 24),
        ];
        for (time, start, hours) in cases {
            assert_eq!(days.around(at(time)), (at(start), at(start) + hours * 3_600_000), "{time}");
        }
        // Midnight itself does not occur on this day.
        let mut days = Windows::new(DAY_MS, Some("America/Sao_Paulo"));
        assert_eq!(days.around(at("2018-11-04T12:00:00Z")), (at("2018-11-04T03:00:00Z"), at("2018-11-05T02:00:00Z")));
        assert_eq!(days.around(at("2018-11-04T02:59:59Z")).1, at("2018-11-04T03:00:00Z"));
    }

    #[test]
    fn the_first_and_the_last_time_are_in_a_window() {
        for zone in [None, Some("Pacific/Kiritimati"), Some("Pacific/Niue"), Some("Etc/GMT+12"), Some("nowhere")] {
            let mut windows = Windows::new(DAY_MS, zone);
            for time in [TIME_MIN_MS, TIME_MAX_MS] {
                let (start, end) = windows.around(time);
                assert!((start..end).contains(&time), "{zone:?} {time}");
            }
        }
        let mut windows = Windows::new(SPAN_MAX_MS, None);
        assert!(windows.around(TIME_MIN_MS).0 < TIME_MIN_MS && windows.around(TIME_MAX_MS).1 > TIME_MAX_MS);
    }
}
