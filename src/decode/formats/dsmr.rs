//! DSMR P1 telegrams (Netbeheer Nederland, P1 Companion Standard): lines of an OBIS code and values in brackets.
//!
//! What comes out: each code with its value as a key, a list where there are several; `identification` of the first line;
//! `version` of the standard as the meter reports it, and `meter`, its own number, which countries put under different codes;
//! and `mbus`, by channel: `type`, `id`, `time`, `value`, `unit` of the meter that is on it. A meter's clock begins in 1970:
//! a value of then was never read from the meter on that channel.
//!
//! A meter that reports its version (DSMR 4 and later) ends with a checksum. The framing compares it, where there is one; a profile
//! for older meters too may leave it out, so it is here that a telegram is refused which says its version and has lost it.

use super::{Refusal, fits, malformed};
use crate::decode::doc::{Doc, Leaf};
use crate::decode::value::quoted;
use crate::reading::Reason;

/// The first two digits of the year in which nothing was read yet.
const NEVER: &str = "70";
/// M-Bus channels that a meter has.
const CHANNELS: u8 = 4;
/// Where a meter says its version: 42, 50; in Belgium 50217, which is 50 and their own. Before DSMR 4 none does.
const VERSION: [&str; 2] = ["1-3:0.2.8", "0-0:96.1.4"];
/// Where its number is: in the Netherlands and Belgium, in Luxembourg, in Hungary.
const METER: [&str; 3] = ["0-0:96.1.1", "0-0:42.0.0", "0-0:96.1.0"];

/// A line: its code, and what is in its brackets.
struct Line<'a> {
    code: &'a str,
    groups: Vec<&'a str>,
}

pub(in crate::decode) fn dsmr(text: &str, doc: &mut Doc) -> Result<(), Refusal> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| line.is_empty());
    let Some(identification) = lines.next().and_then(|line| line.strip_prefix('/')) else {
        return malformed(format!("expected a telegram that begins with `/`, found {}", quoted(text)));
    };
    let mut found: Vec<Line<'_>> = Vec::new();
    let mut has_checksum = false;
    for line in lines.filter(|line| !line.is_empty()) {
        if let Some(checksum) = line.strip_prefix('!') {
            has_checksum = !checksum.trim().is_empty();
            break;
        }
        let (code, rest) = line.split_at(line.find('(').unwrap_or(line.len()));
        let groups = rest.split('(').skip(1).map(|group| group.split(')').next().unwrap_or_default());
        match found.last_mut() {
            // DSMR 2.2 and 3 put the value of a gas meter on a line of its own.
            Some(before) if code.is_empty() => before.groups.extend(groups),
            _ => found.push(Line { code, groups: groups.collect() }),
        }
    }
    if let (Some(version), false) = (first_of(&VERSION, &found), has_checksum) {
        let detail = format!("expected a checksum behind `!`, since the meter reports version {}", quoted(version));
        return Err(Refusal::Wrong(Reason::BadChecksum, detail));
    }
    doc.begin(true);
    doc.put("identification", Leaf::Text(identification));
    for (key, codes) in [("version", &VERSION[..]), ("meter", &METER[..])] {
        if let Some(value) = first_of(codes, &found) {
            doc.put(key, Leaf::Text(value));
        }
    }
    for line in &found {
        match line.groups.as_slice() {
            [] => {}
            [value] => doc.put(line.code, Leaf::Text(number(value))),
            values => {
                let list = doc.begin_list(line.code);
                values.iter().for_each(|value| doc.put("", Leaf::Text(number(value))));
                doc.end(list);
            }
        }
    }
    let channels = doc.begin_object("mbus");
    for channel in 1..=CHANNELS {
        put_channel(channel, &found, doc);
    }
    doc.end(channels);
    doc.end(0);
    fits(doc)
}

/// The value of the first of these codes that has one.
fn first_of<'a>(codes: &[&str], lines: &[Line<'a>]) -> Option<&'a str> {
    codes.iter().find_map(|code| only_value(code, lines))
}

/// The value of a code that has just one; an empty one is none.
fn only_value<'a>(code: &str, lines: &[Line<'a>]) -> Option<&'a str> {
    let line = lines.iter().find(|line| line.code == code)?;
    match line.groups.as_slice() {
        [value] if !value.is_empty() => Some(value),
        _ => None,
    }
}

/// What stands before the unit.
fn number(value: &str) -> &str {
    value.split('*').next().unwrap_or_default()
}

fn put_channel(channel: u8, lines: &[Line<'_>], doc: &mut Doc) {
    let prefix = format!("0-{channel}:");
    let of_channel =
        || lines.iter().filter_map(|line| Some((line.code.strip_prefix(&prefix)?, line.groups.as_slice())));
    let first = |code: &str| of_channel().find(|(own, _)| *own == code).and_then(|(_, groups)| groups.first().copied());
    let Some(kind) = first("24.1.0") else { return };
    let object = doc.begin_object(&channel.to_string());
    // 3, 03 and 003 are the same.
    doc.put("type", kind.parse::<u8>().map_or(Leaf::Text(kind), |kind| Leaf::Whole(kind.into())));
    if let Some(id) = first("96.1.0").or_else(|| first("96.1.1")).filter(|id| !id.is_empty()) {
        doc.put("id", Leaf::Text(id));
    }
    let reading = of_channel().find_map(|(code, groups)| match (code, groups) {
        (_, [time, value]) if code.starts_with("24.2.") => {
            let (value, unit) = value.split_once('*').unwrap_or((value, ""));
            Some((*time, value, unit))
        }
        // (time)(..)(..)(number of values)(code)(unit)(value)
        ("24.3.0", [time, .., unit, value]) => Some((*time, *value, *unit)),
        _ => None,
    });
    if let Some((time, value, unit)) = reading {
        let is_read = !time.starts_with(NEVER);
        doc.put("time", if is_read { Leaf::Text(time) } else { Leaf::Null });
        doc.put("value", if is_read { Leaf::Text(value) } else { Leaf::Null });
        doc.put("unit", Leaf::Text(unit));
    }
    doc.end(object);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(doc: &Doc, path: &[&str]) -> Option<String> {
        let path: Vec<Box<str>> = path.iter().map(|&key| key.into()).collect();
        doc.find(&path).and_then(|node| doc.word(node))
    }

    #[test]
    fn a_telegram_is_taken_apart_with_its_channels() {
        let text = "/XYZ5\\2EXAMPLE\r\n\r\n1-0:1.8.1(000123.456*kWh)\r\n0-0:96.13.0()\r\n1-0:99.97.0(1)(0-0:96.7.19)(2*s)\r\n\
                    0-1:24.1.0(003)\r\n0-1:96.1.0(4142)\r\n0-1:24.2.1(210203040506W)(00012.345*m3)\r\n\
                    0-2:24.1.0(007)\r\n0-2:24.2.1(700101000000W)(00000000)\r\n!0000\r\n";
        let mut doc = Doc::default();
        dsmr(text, &mut doc).unwrap();
        assert_eq!(word(&doc, &["1-0:1.8.1"]).as_deref(), Some("000123.456"));
        assert_eq!(word(&doc, &["1-0:99.97.0", "2"]).as_deref(), Some("2"));
        assert_eq!(word(&doc, &["mbus", "1", "value"]).as_deref(), Some("00012.345"));
        assert_eq!(word(&doc, &["mbus", "1", "unit"]).as_deref(), Some("m3"));
        assert_eq!(word(&doc, &["mbus", "2", "value"]), None, "it was never read");
        assert_eq!(word(&doc, &["mbus", "2", "type"]).as_deref(), Some("7"));
    }

    #[test]
    fn the_value_of_an_old_gas_meter_is_on_the_next_line() {
        let text = "/XYZ\n0-1:24.1.0(3)\n0-1:24.3.0(161107190000)(00)(60)(1)(0-1:24.2.1)(m3)\n(00001.001)\n!\n";
        let mut doc = Doc::default();
        dsmr(text, &mut doc).unwrap();
        assert_eq!(word(&doc, &["mbus", "1", "value"]).as_deref(), Some("00001.001"));
        assert_eq!(word(&doc, &["mbus", "1", "unit"]).as_deref(), Some("m3"));
    }

    #[test]
    fn version_and_number_of_a_meter_are_found_under_the_codes_of_its_country() {
        for (lines, version, meter) in [
            ("1-3:0.2.8(42)\n0-0:96.1.1(4530)\n", Some("42"), Some("4530")),
            ("0-0:96.1.4(50217)\n0-0:96.1.1(3153)\n", Some("50217"), Some("3153")),
            ("1-3:0.2.8(50)\n0-0:42.0.0(5341)\n", Some("50"), Some("5341")),
            ("0-0:96.1.1()\n0-0:96.1.0(3839)\n", None, Some("3839")),
            ("1-0:1.7.0(0001.19*kW)\n", None, None),
        ] {
            let mut doc = Doc::default();
            dsmr(&format!("/XYZ\n{lines}!1234\n"), &mut doc).unwrap();
            let lost = dsmr(&format!("/XYZ\n{lines}!\n"), &mut Doc::default());
            assert_eq!(lost.is_err(), version.is_some(), "a meter that has a version has a checksum: {lines}");
            assert_eq!(word(&doc, &["version"]).as_deref(), version, "{lines}");
            assert_eq!(word(&doc, &["meter"]).as_deref(), meter, "{lines}");
        }
    }

    #[test]
    fn what_is_no_telegram_is_refused_and_nothing_panics() {
        let mut doc = Doc::default();
        assert!(dsmr("1-0:1.8.1(1)", &mut doc).is_err());
        for text in ["/", "/\n(", "/\n()\n)(", "/\n0-1:24.1.0(\n0-1:24.2.1()", "/\n\u{e9}(\u{e9}*\u{e9})"] {
            let _ = dsmr(text, &mut doc);
        }
    }
}
