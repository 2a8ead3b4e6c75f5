//! Times on the command line and in tables.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::cli::status::duration;
use crate::clock;
use crate::config::parse_duration;

/// A moment: RFC 3339, a date or a time of UTC, or how long ago. In milliseconds since 1970.
pub(super) fn parse(text: &str) -> Result<i64, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_millisecond());
    }
    if let Ok(time) = text.parse::<DateTime>() {
        return time.to_zoned(TimeZone::UTC).map(|time| time.timestamp().as_millisecond()).map_err(|e| e.to_string());
    }
    let ago = parse_duration(text).and_then(|ago| i64::try_from(ago.as_millis()).ok());
    ago.map(|ago| clock::wall_ms().saturating_sub(ago)).ok_or_else(|| {
        "expected a time such as 2026-05-04T12:00:00Z, a date such as 2026-05-04, or 2h for two hours ago".to_owned()
    })
}

/// A moment for a person.
pub(super) fn text(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| ms.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// A moment for a script.
pub(super) fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| ms.to_string(), |time| time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string())
}

/// A moment, and how long ago that was.
pub(super) fn text_and_age(ms: i64) -> String {
    let age = clock::wall_ms().saturating_sub(ms) / 1000;
    match u64::try_from(age) {
        Ok(age) => format!("{} ({} ago)", text(ms), duration(age)),
        Err(_) => format!("{} (ahead of this machine's clock)", text(ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_all_their_forms() {
        let noon = 1_777_896_000_000;
        for text in ["2026-05-04T12:00:00Z", "2026-05-04T14:00:00+02:00", "2026-05-04T12:00", "2026-05-04 12:00:00"] {
            assert_eq!(parse(text), Ok(noon), "{text}");
        }
        assert_eq!(parse("2026-05-04"), Ok(noon - 12 * 3_600_000));
        let ago = clock::wall_ms() - parse("1h30m").unwrap();
        assert!((5_399_000..5_460_000).contains(&ago), "{ago}");
        assert!(parse("yesterday").is_err());
        assert_eq!(rfc3339(noon), "2026-05-04T12:00:00.000Z");
    }
}
