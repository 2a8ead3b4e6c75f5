//! Durations, sizes and `${NAME}` as they stand in the file: parsed and written. Pure; every function answers any input
//! with a value or with what was expected.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 7] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
    ("w", 604_800_000_000),
];
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// `"15m"`, `"100ms"`, `"1h30m"`: numbers with units, added up. Units: us, ms, s, m, h, d, w.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum_us: u64 = 0;
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest)?;
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let (_, unit_us) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        sum_us = sum_us.checked_add(number.checked_mul(*unit_us)?)?;
        rest = after.trim_start();
    }
    Some(Duration::from_micros(sum_us))
}

/// `"2GiB"`, `"512KiB"`, `"1000"`: bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text.trim())?;
    match unit.trim() {
        "" => Some(number),
        unit => {
            let (_, unit_bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
            number.checked_mul(*unit_bytes)
        }
    }
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    Some((number.parse().ok()?, rest))
}

/// What [`parse_duration`] reads back to the same.
pub(super) fn format_duration(duration: Duration) -> String {
    let mut rest_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (name, unit_us) in DURATION_UNITS.iter().rev() {
        // A week is a unit to read, seven days are easier to compare with other settings.
        if rest_us >= *unit_us && *name != "w" {
            text.push_str(&format!("{}{name}", rest_us / unit_us));
            rest_us %= unit_us;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// What [`parse_size`] reads back to the same.
pub(super) fn format_size(bytes: u64) -> String {
    for (name, unit_bytes) in SIZE_UNITS[1..5].iter().rev() {
        if bytes >= *unit_bytes && bytes.is_multiple_of(*unit_bytes) {
            return format!("{}{name}", bytes / unit_bytes);
        }
    }
    format!("{bytes}B")
}

/// The text with `${NAME}` and `${NAME:-default}` replaced, and whether there was any; `$${` stands for `${`. An empty
/// variable counts as unset for the default, as in a shell.
pub(super) fn substitute(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<(String, bool), String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut substituted = false;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$${") {
            out.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let end = after.find('}').ok_or("expected `}` after `${NAME`; a literal `${` is written `$${`")?;
            let (name, default) = match after[..end].split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (&after[..end], None),
            };
            if !is_variable_name(name) {
                return Err(format!(
                    "expected the name of an environment variable in `${{…}}`, found `{}`",
                    clip(name)
                ));
            }
            let value = match (env(name), default) {
                (Some(value), Some(default)) if value.is_empty() => default.to_owned(),
                (Some(value), _) => value,
                (None, Some(default)) => default.to_owned(),
                (None, None) => {
                    return Err(format!(
                        "the environment variable `{name}` is not set; `${{{name}:-default}}` gives it a default"
                    ));
                }
            };
            out.push_str(&value);
            substituted = true;
            rest = &after[end + 1..];
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Ok((out, substituted))
}

/// Whether an environment variable can have this name.
pub(super) fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A delimiter's bytes: `\r`, `\n`, `\t`, `\0`, `\\` and `\xHH` are read, whatever TOML itself has left of them.
pub(super) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match chars.next() {
            Some('r') => bytes.push(b'\r'),
            Some('n') => bytes.push(b'\n'),
            Some('t') => bytes.push(b'\t'),
            Some('0') => bytes.push(0),
            Some('\\') => bytes.push(b'\\'),
            Some('x') => {
                let digits: String = chars.by_ref().take(2).collect();
                let valid = digits.len() == 2 && digits.chars().all(|c| c.is_ascii_hexdigit());
                match u8::from_str_radix(&digits, 16) {
                    Ok(byte) if valid => bytes.push(byte),
                    _ => return Err("two hexadecimal digits after each `\\x`".to_owned()),
                }
            }
            Some(_) | None => return Err("`\\r`, `\\n`, `\\t`, `\\0`, `\\\\` or `\\xHH` for each `\\`".to_owned()),
        }
    }
    Ok(bytes)
}

/// What [`unescape`] reads back to the same.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\\' => text.push_str("\\\\"),
            0x20..=0x7e => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    text
}

/// A value as it may stand in a message: short and printable.
pub(super) fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(48).flat_map(char::escape_debug).collect();
    if text.chars().nth(48).is_some() {
        clipped.push('…');
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        for (text, us) in [
            ("0", 0),
            ("0s", 0),
            ("100ms", 100_000),
            ("1h30m", 5_400_000_000),
            ("1h 30m", 5_400_000_000),
            ("7d", 604_800_000_000),
            ("1w", 604_800_000_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_micros(us)), "{text}");
        }
        for text in ["", " ", "5", "s", "-5s", "1.5s", "5 minutes", "5S", "99999999999w", "1h30"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("17B", 17), ("512KiB", 512 << 10), ("2 GiB", 2 << 30), ("1MB", 1_000_000)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "GiB", "2G", "2gib", "-1", "1.5GiB", "99999999TiB", "1GiB1"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(us in 0..u64::MAX / 2, bytes in 0..u64::MAX, line in proptest::collection::vec(any::<u8>(), 0..20)) {
            let duration = Duration::from_micros(us);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
            prop_assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
            prop_assert_eq!(unescape(&escape(&line)), Ok(line));
        }
    }
}
