//! RFC 3339 in UTC with milliseconds, written without allocating: two of these stand in every record.
//!
//! The calendar arithmetic is Howard Hinnant's `civil_from_days` (<https://howardhinnant.github.io/date_algorithms.html>),
//! which is exact over the whole range; a test compares it with jiff.

/// How long a time is as text, in bytes.
pub(crate) const TIME_LEN: usize = 24;

/// 0000-01-01T00:00:00.000Z: RFC 3339 has no earlier year, so earlier times are written as this one …
const MIN_MS: i64 = -62_167_219_200_000;
/// … and 9999-12-31T23:59:59.999Z: what is later is written as this one.
const MAX_MS: i64 = 253_402_300_799_999;

const DAY_MS: i64 = 86_400_000;

/// `ms` milliseconds since 1970 as `2026-05-04T12:00:00.123Z`.
pub(crate) fn rfc3339(ms: i64) -> [u8; TIME_LEN] {
    let ms = ms.clamp(MIN_MS, MAX_MS);
    let days = ms.div_euclid(DAY_MS);
    let rest = ms.rem_euclid(DAY_MS) as u32;

    // Days since 0000-03-01, in eras of 400 years.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
    let year = (year_of_era + era * 400 + i64::from(month <= 2)) as u32;

    let mut text = *b"0000-00-00T00:00:00.000Z";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], rest / 3_600_000);
    digits(&mut text[14..16], rest / 60_000 % 60);
    digits(&mut text[17..19], rest / 1_000 % 60);
    digits(&mut text[20..23], rest % 1_000);
    text
}

fn digits(into: &mut [u8], mut number: u32) {
    for digit in into.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(ms: i64) -> String {
        String::from_utf8(rfc3339(ms).to_vec()).unwrap()
    }

    #[test]
    fn edges() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(text(1_709_164_800_000), "2024-02-29T00:00:00.000Z");
        assert_eq!(text(i64::MIN), "0000-01-01T00:00:00.000Z");
        assert_eq!(text(i64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(text(MIN_MS - 1), text(MIN_MS));
    }

    proptest! {
        #[test]
        fn agrees_with_jiff(ms in MIN_MS..=253_402_207_200_000_i64) {
            let timestamp = jiff::Timestamp::from_millisecond(ms).unwrap();
            prop_assert_eq!(text(ms), format!("{timestamp:.3}"));
        }
    }
}
