//! Text that is neither JSON nor a telegram: columns, pairs, a single value, a regular expression, NMEA 0183.

use super::{Refusal, fits, malformed};
use crate::decode::doc::{Doc, Leaf};
use crate::decode::value::quoted;
use crate::profile::{Delimited, Pairs, TextPattern};
use crate::reading::Reason;

/// The payload is one value.
pub(in crate::decode) fn plain(text: &str, doc: &mut Doc) {
    doc.begin(true);
    doc.put("value", Leaf::Text(text.trim()));
    doc.end(0);
}

/// Text in columns.
pub(in crate::decode) fn delimited(text: &str, rules: &Delimited, doc: &mut Doc) -> Result<(), Refusal> {
    let text = text.trim_end_matches(['\r', '\n']);
    if rules.comment.as_ref().is_some_and(|comment| text.starts_with(&**comment)) {
        return Err(Refusal::Ignored);
    }
    let text = if rules.runs { text.trim() } else { text };
    let columns = || text.split(&*rules.separator).map(str::trim).filter(|column| !(rules.runs && column.is_empty()));
    if rules.header && columns().map(Some).eq(rules.columns.iter().map(|name| Some(&**name))) {
        return Err(Refusal::Ignored);
    }
    let (expected, found) = (rules.columns.len(), columns().count());
    let least = expected.saturating_sub(rules.optional);
    if expected > 0 && !(least..=expected).contains(&found) {
        let least = if least < expected { format!("{least} to ") } else { String::new() };
        let detail = format!("expected {least}{expected} columns, found {found}");
        return Err(Refusal::Wrong(Reason::WrongColumns, detail));
    }
    doc.begin(true);
    for (index, column) in columns().enumerate() {
        match rules.columns.get(index) {
            Some(name) => doc.put(name, Leaf::Text(column)),
            None => doc.put(&(index + 1).to_string(), Leaf::Text(column)),
        }
    }
    doc.end(0);
    fits(doc)
}

/// Names and values. Of a name that is there twice the last counts, as in JSON.
pub(in crate::decode) fn pairs(bytes: &[u8], rules: &Pairs, doc: &mut Doc) -> Result<(), Refusal> {
    doc.begin(true);
    let mut found = false;
    for pair in split(bytes, rules.separator.as_bytes()) {
        let Some(at) = find(pair, rules.equals.as_bytes()) else { continue };
        let (name, value) = (&pair[..at], &pair[at + rules.equals.len()..]);
        let Ok(name) = std::str::from_utf8(name).map(str::trim) else {
            return Err(Refusal::Wrong(Reason::NotUtf8, "a name is no text".to_owned()));
        };
        if rules.ignore.iter().any(|ignored| **ignored == *name) {
            found = true;
            continue;
        }
        let Ok(value) = std::str::from_utf8(value) else {
            return Err(Refusal::Wrong(Reason::NotUtf8, format!("the value of {} is no text", quoted(name))));
        };
        found = true;
        doc.put(name, Leaf::Text(value.trim()));
    }
    doc.end(0);
    fits(doc)?;
    if found { Ok(()) } else { malformed(format!("expected names and values with {:?} between them", rules.equals)) }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len().max(1)).position(|window| window == wanted)
}

fn split<'a>(bytes: &'a [u8], separator: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        match find(bytes, separator) {
            Some(at) => {
                rest = Some(&bytes[at + separator.len()..]);
                Some(&bytes[..at])
            }
            None => {
                rest = None;
                Some(bytes)
            }
        }
    })
}

/// What the named groups of a regular expression match.
pub(in crate::decode) fn regex(text: &str, pattern: &TextPattern, doc: &mut Doc) -> Result<(), Refusal> {
    let TextPattern(regex) = pattern;
    let Some(captures) = regex.captures(text) else {
        return malformed(format!("expected text as the profile's pattern, found {}", quoted(text)));
    };
    doc.begin(true);
    for name in regex.capture_names().flatten() {
        if let Some(group) = captures.name(name) {
            doc.put(name, Leaf::Text(group.as_str()));
        }
    }
    doc.end(0);
    fits(doc)
}

/// A sentence, whose checksum was looked at before: the address, then the fields by number. What is empty says nothing.
pub(in crate::decode) fn nmea(text: &str, doc: &mut Doc) -> Result<(), Refusal> {
    let text = text.trim();
    let body = text.strip_prefix(['$', '!']).unwrap_or(text);
    let body = body.split_once('*').map_or(body, |(body, _)| body);
    let mut words = body.split(',');
    let address = words.next().unwrap_or_default();
    // A sum of eight bits lets one damaged sentence in 256 pass; what is no text was never sent.
    if text.contains(|c: char| c.is_control() || !c.is_ascii()) {
        return malformed("expected printable ASCII");
    }
    if !text.starts_with(['$', '!']) || address.len() < 3 || !address.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return malformed(format!("expected a sentence such as `$GPGGA,…`, found {}", quoted(text)));
    }
    // A proprietary address is `P` and the maker's code; the others are a talker and three letters.
    let (talker, sentence) = match address.strip_prefix('P') {
        Some(sentence) => ("P", sentence),
        None => address.split_at(address.len().saturating_sub(3)),
    };
    doc.begin(true);
    doc.put("talker", Leaf::Text(talker));
    doc.put("sentence", Leaf::Text(sentence));
    for (index, word) in words.enumerate() {
        doc.put(&(index + 1).to_string(), Leaf::Text(word.trim()));
    }
    doc.end(0);
    fits(doc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(doc: &Doc, name: &str) -> Option<String> {
        doc.find(&[name.into()]).and_then(|node| doc.word(node))
    }

    #[test]
    fn pairs_are_taken_apart_and_a_checksum_need_not_be_text() {
        let rules = Pairs { separator: "\r\n".into(), equals: "\t".into(), ignore: vec!["Checksum".into()] };
        let mut doc = Doc::default();
        pairs(b"\r\nPID\t0x203\r\nV\t12065\r\nI\t-7625\r\nChecksum\t\xe4", &rules, &mut doc).unwrap();
        assert_eq!(key(&doc, "I").as_deref(), Some("-7625"));
        assert_eq!(key(&doc, "Checksum"), None);
        assert!(matches!(pairs(b"V\t\xff", &rules, &mut doc), Err(Refusal::Wrong(Reason::NotUtf8, _))));
        assert!(matches!(pairs(b"nothing", &rules, &mut doc), Err(Refusal::Wrong(Reason::Malformed, _))));
    }

    #[test]
    fn sentences_are_taken_apart() {
        let mut doc = Doc::default();
        nmea("$GNRMC,1,A,,N*00", &mut doc).unwrap();
        assert_eq!(key(&doc, "talker").as_deref(), Some("GN"));
        assert_eq!(key(&doc, "sentence").as_deref(), Some("RMC"));
        assert_eq!((key(&doc, "2").as_deref(), key(&doc, "3").as_deref()), (Some("A"), Some("")));
        nmea("$PGRME,15.0,M\r\n", &mut doc).unwrap();
        assert_eq!((key(&doc, "talker").as_deref(), key(&doc, "sentence").as_deref()), (Some("P"), Some("GRME")));
        for wrong in ["", "$", "$,1", "GPGGA,1", "$é,1", "$$$$,", "$GPRMC,1\u{e},A"] {
            assert!(nmea(wrong, &mut doc).is_err(), "{wrong}");
        }
    }
}
