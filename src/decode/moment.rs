//! Of which device a payload is, and when it was measured: what a profile says about where that stands.

use jiff::tz::TimeZone;

use super::doc::Kind;
use super::place::Place;
use super::time::{self, Parsed, TimeFormat};
use crate::profile::{KeyPath, TimeRule};

/// The device that the payload names: what is there of several paths, joined.
pub(super) fn device_of(paths: &[KeyPath], place: Place<'_>, device: &mut String) -> Option<()> {
    device.clear();
    for path in paths {
        let Some(word) = place.word(path) else { continue };
        if !device.is_empty() {
            device.push('-');
        }
        device.push_str(word.trim());
    }
    (!device.is_empty()).then_some(())
}

/// When something was measured, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Since 1970-01-01T00:00:00Z.
    At(i64),
    /// After the arrival; below 0 before it.
    FromArrival(i64),
}

/// When the payload says that it was measured; the arrival counts instead of a time that is wrong, or not to be believed.
pub(super) fn event_time(rule: &TimeRule, place: Place<'_>, zone: Option<&TimeZone>) -> Result<Option<Moment>, ()> {
    if !place.holds(&rule.when) {
        return Ok(None);
    }
    let zone = rule.zone.as_ref().or(zone);
    let joined;
    let value = match rule.paths.as_slice() {
        [path] => match place.find(path).map(|node| node.kind) {
            None | Some(Kind::Null) => return Ok(None),
            Some(Kind::Number(number)) => Ok(number),
            Some(Kind::Text(text) | Kind::Digits(text)) => Err(place.doc.text(text)),
            Some(_) => return Err(()),
        },
        paths => {
            let words: Option<Vec<String>> = paths.iter().map(|path| place.word(path)).collect();
            let Some(words) = words else { return Ok(None) };
            joined = words.join(" ");
            Err(joined.as_str())
        }
    };
    // A device that has no time says nothing, with or without commas.
    if value.is_err_and(|text| text.trim().is_empty()) {
        return Ok(None);
    }
    let read = |format: &TimeFormat| match value {
        // Digits of year, month and day that somebody wrote as one number.
        Ok(number) if format.is_text() => time::text(&number.to_string(), format, zone),
        Ok(number) => time::number(number, format),
        Err(text) => time::text(text, format, zone),
    };
    match rule.formats.iter().map(read).find(|parsed| *parsed != Parsed::Wrong) {
        // A clock that was never set says so by an old time; that is no error.
        Some(Parsed::At(ms)) => {
            let plus = match rule.plus_ns.as_ref().and_then(|path| place.find(path)).map(|node| node.kind) {
                Some(Kind::Number(ns)) => (ns / 1e6).round() as i64,
                _ => 0,
            };
            let ms = ms.saturating_add(plus);
            Ok(rule.not_before_ms.is_none_or(|limit| ms >= limit).then_some(Moment::At(ms)))
        }
        Some(Parsed::FromArrival(ms)) => Ok(Some(Moment::FromArrival(ms))),
        Some(Parsed::NoZone) => Ok(None),
        Some(Parsed::Wrong) | None => Err(()),
    }
}
