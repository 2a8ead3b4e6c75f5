//! Event times as devices write them. Pure: a zone comes in as an argument.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;

/// How a payload writes its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimeFormat {
    /// RFC 3339, with `Z` or an offset.
    Rfc3339,
    /// The same without either: the time of the device's own zone.
    Local,
    /// Seconds since 1970-01-01T00:00:00Z; may have a fraction.
    Epoch,
    /// Milliseconds since then.
    EpochMs,
    /// Microseconds since then.
    EpochUs,
    /// Nanoseconds since then.
    EpochNs,
    /// Seconds as SenML (RFC 8428) counts them: from 2^28 on since 1970, below that from now on, and now is the arrival.
    Senml,
    /// `YYMMDDhhmmss` with `S` for summer and `W` for winter time of Central Europe, as P1 ports say it; without either
    /// letter it is the time of the zone.
    Dsmr,
    /// A pattern of `strptime`, such as `%d.%m.%Y %H:%M:%S`.
    Pattern(Box<str>),
}

impl TimeFormat {
    /// Parses the word that stands in a profile.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "rfc3339" => Self::Rfc3339,
            "local" => Self::Local,
            "epoch" => Self::Epoch,
            "epoch_ms" => Self::EpochMs,
            "epoch_us" => Self::EpochUs,
            "epoch_ns" => Self::EpochNs,
            "senml" => Self::Senml,
            "dsmr" => Self::Dsmr,
            // Formatting nothing checks the pattern's words.
            _ if word.contains('%') && !word.contains('\0') => Self::Pattern(word.into()),
            _ => return None,
        })
    }
}

impl TimeFormat {
    /// Whether it is one of digits at their places, and no number.
    pub(super) fn is_text(&self) -> bool {
        !matches!(self, Self::Epoch | Self::EpochMs | Self::EpochUs | Self::EpochNs | Self::Senml)
    }
}

/// What a payload's time turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    At(i64),
    /// Milliseconds after the arrival; below 0 before it.
    FromArrival(i64),
    /// A time without a zone, and no zone is configured: it cannot be placed.
    NoZone,
    /// Not a time in this format.
    Wrong,
}

/// The last moment that an RFC 3339 text can name: year 9999.
const LAST_MS: i64 = 253_402_300_799_999;

/// Seconds below this are relative to SenML.
const SENML_RELATIVE: f64 = 268_435_456.0;

/// A time given as a number.
#[must_use]
pub(super) fn number(value: f64, format: &TimeFormat) -> Parsed {
    let ms = match format {
        TimeFormat::Senml if value.abs() < SENML_RELATIVE => {
            return Parsed::FromArrival((value * 1000.0).round() as i64);
        }
        TimeFormat::Senml => value * 1000.0,
        TimeFormat::Epoch => value * 1000.0,
        TimeFormat::EpochMs => value,
        TimeFormat::EpochUs => value / 1e3,
        TimeFormat::EpochNs => value / 1e6,
        _ => return Parsed::Wrong,
    };
    if ms.is_finite() && (0.0..=LAST_MS as f64).contains(&ms) { Parsed::At(ms.round() as i64) } else { Parsed::Wrong }
}

/// A time given as a text.
#[must_use]
pub(super) fn text(text: &str, format: &TimeFormat, zone: Option<&TimeZone>) -> Parsed {
    let text = text.trim();
    let parsed = match format {
        TimeFormat::Rfc3339 => text.parse::<Timestamp>().ok(),
        TimeFormat::Epoch | TimeFormat::EpochMs | TimeFormat::EpochUs | TimeFormat::EpochNs | TimeFormat::Senml => {
            return text.parse().map_or(Parsed::Wrong, |value| number(value, format));
        }
        TimeFormat::Dsmr => return dsmr(text, zone),
        TimeFormat::Local => match text.parse::<DateTime>() {
            Ok(time) => return local(time, zone),
            Err(_) => None,
        },
        TimeFormat::Pattern(pattern) => match BrokenDownTime::parse(&**pattern, text) {
            Ok(parts) => match parts.to_timestamp() {
                Ok(time) => Some(time),
                Err(_) => return parts.to_datetime().map_or(Parsed::Wrong, |time| local(time, zone)),
            },
            Err(_) => None,
        },
    };
    parsed.map_or(Parsed::Wrong, |time| in_range(time.as_millisecond()))
}

fn dsmr(text: &str, zone: Option<&TimeZone>) -> Parsed {
    let (digits, offset) = match text.strip_suffix('W') {
        Some(digits) => (digits, Some(1)),
        None => text.strip_suffix('S').map_or((text, None), |digits| (digits, Some(2))),
    };
    if digits.len() != 12 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Parsed::Wrong;
    }
    let two = |at: usize| digits[at..at + 2].parse::<i8>().unwrap_or_default();
    match DateTime::new(2000 + i16::from(two(0)), two(2), two(4), two(6), two(8), two(10), 0) {
        Err(_) => Parsed::Wrong,
        Ok(time) => match offset {
            Some(hours) => local(time, Some(&TimeZone::fixed(jiff::tz::offset(hours)))),
            None => local(time, zone),
        },
    }
}

/// A wall-clock time that occurs twice, when clocks are set back, is taken as the first.
fn local(time: DateTime, zone: Option<&TimeZone>) -> Parsed {
    let Some(zone) = zone else { return Parsed::NoZone };
    match zone.to_ambiguous_timestamp(time).compatible() {
        Ok(time) => in_range(time.as_millisecond()),
        Err(_) => Parsed::Wrong,
    }
}

fn in_range(ms: i64) -> Parsed {
    if (0..=LAST_MS).contains(&ms) { Parsed::At(ms) } else { Parsed::Wrong }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_placed() {
        let amsterdam = TimeZone::get("Europe/Amsterdam").unwrap();
        let cases = [
            ("2026-05-04T12:00:00.123Z", "rfc3339", false, Parsed::At(1_777_896_000_123)),
            ("2026-05-04T14:00:00.123+02:00", "rfc3339", false, Parsed::At(1_777_896_000_123)),
            ("2026-05-04T14:00:00", "rfc3339", true, Parsed::Wrong),
            ("2026-05-04T14:00:00", "local", true, Parsed::At(1_777_896_000_000)),
            ("2026-05-04 14:00:00", "local", true, Parsed::At(1_777_896_000_000)),
            ("2026-05-04T14:00:00", "local", false, Parsed::NoZone),
            ("04.05.2026 14:00:00", "%d.%m.%Y %H:%M:%S", true, Parsed::At(1_777_896_000_000)),
            ("2026-05-04T14:00:00+0200", "%Y-%m-%dT%H:%M:%S%z", false, Parsed::At(1_777_896_000_000)),
            // Set back at three: two is there twice, the first counts. Set forward at two: half past two never was.
            ("2026-10-25T02:30:00", "local", true, Parsed::At(1_792_888_200_000)),
            ("2026-03-29T02:30:00", "local", true, Parsed::At(1_774_747_800_000)),
            ("1777896000.5", "epoch", false, Parsed::At(1_777_896_000_500)),
            ("1777896000500", "epoch_ms", false, Parsed::At(1_777_896_000_500)),
            ("1777896000500000", "epoch_us", false, Parsed::At(1_777_896_000_500)),
            ("1777896000500000000", "epoch_ns", false, Parsed::At(1_777_896_000_500)),
            ("1777896000.5", "senml", false, Parsed::At(1_777_896_000_500)),
            ("268435456", "senml", false, Parsed::At(268_435_456_000)),
            ("268435455.5", "senml", false, Parsed::FromArrival(268_435_455_500)),
            ("-5.25", "senml", false, Parsed::FromArrival(-5_250)),
            ("-268435456", "senml", false, Parsed::Wrong),
            ("NaN", "senml", false, Parsed::Wrong),
            ("260504140000S", "dsmr", false, Parsed::At(1_777_896_000_000)),
            ("260504130000W", "dsmr", false, Parsed::At(1_777_896_000_000)),
            ("260504140000", "dsmr", true, Parsed::At(1_777_896_000_000)),
            ("260504140000", "dsmr", false, Parsed::NoZone),
            ("261304140000S", "dsmr", false, Parsed::Wrong),
            ("2605041400é", "dsmr", false, Parsed::Wrong),
            ("-1", "epoch", false, Parsed::Wrong),
            ("NaN", "epoch", false, Parsed::Wrong),
            ("1e300", "epoch", false, Parsed::Wrong),
            ("yesterday", "local", true, Parsed::Wrong),
            ("-009999-01-01T00:00:00Z", "rfc3339", false, Parsed::Wrong),
        ];
        for (time, format, zoned, expected) in cases {
            let format = TimeFormat::parse(format).unwrap();
            assert_eq!(text(time, &format, zoned.then_some(&amsterdam)), expected, "{time}");
        }
        assert_eq!(TimeFormat::parse("iso"), None);
    }
}
