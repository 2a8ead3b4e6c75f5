//! Numbers that are none in JSON, as firmware writes them that makes its messages with `printf`: `nan` of a sensor that is not
//! there, `+21.5`, `.5`, `007`. They would cost all other values of the message.

use super::doc::Kind;
use super::value::parse_number;

/// What `printf` and the languages of scripts write for what is no number.
const NOT_A_NUMBER: [&str; 4] = ["nan", "inf", "infinity", "none"];

/// The same text with such numbers as JSON writes them, and with `null` where there is none. `None` if there was none to mend.
pub(super) fn mended(json: &str) -> Option<String> {
    if !json.trim_ascii_start().starts_with(['{', '[']) {
        return None;
    }
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    let mut found = false;
    while let Some(first) = rest.chars().next() {
        let (piece, is_word) = match first {
            '"' => (string(rest), false),
            '{' | '}' | '[' | ']' | ',' | ':' => (first.len_utf8(), false),
            _ if first.is_whitespace() => (first.len_utf8(), false),
            _ => (rest.find(['{', '}', '[', ']', ',', ':', '"', ' ', '\t', '\r', '\n']).unwrap_or(rest.len()), true),
        };
        let (piece, behind) = rest.split_at(piece);
        let meant = if is_word { word(piece) } else { None };
        found |= meant.is_some();
        out.push_str(meant.as_deref().unwrap_or(piece));
        rest = behind;
    }
    found.then_some(out)
}

/// How many bytes the string at the beginning has, its quotation marks included.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// What is meant by a word that is not JSON.
fn word(word: &str) -> Option<String> {
    if serde_json::from_str::<serde::de::IgnoredAny>(word).is_ok() {
        return None;
    }
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    if NOT_A_NUMBER.iter().any(|none| unsigned.eq_ignore_ascii_case(none)) {
        return Some("null".to_owned());
    }
    match parse_number(word) {
        Some(Kind::Number(number)) if number.is_finite() => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_that_are_none_in_json() {
        for (json, meant) in [
            (r#"{"t":NaN,"h":50}"#, r#"{"t":null,"h":50}"#),
            (r#"{"t": nan , "h":[-nan,-Infinity]}"#, r#"{"t": null , "h":[null,null]}"#),
            (r#"{"t":+21.5,"a":.5,"b":-.5,"c":5.,"d":007}"#, r#"{"t":21.5,"a":0.5,"b":-0.5,"c":5,"d":7}"#),
            (r#"{"nan \" nan":"nan","t":None}"#, r#"{"nan \" nan":"nan","t":null}"#),
        ] {
            assert_eq!(mended(json).as_deref(), Some(meant));
        }
        for json in ["", "{\"t\":1e3}", "{\"t\":true}", "{t:1}", "nan", "[\"nan", "[\"nan\\", "{\"t\":12°C}", "[é"] {
            assert_eq!(mended(json), None, "{json}");
        }
    }

    proptest! {
        #[test]
        fn what_was_json_stays_as_it_is(
            json in prop::collection::hash_map(".*", (any::<Option<f64>>(), any::<i64>(), any::<bool>(), ".*"), 0..9),
        ) {
            prop_assert_eq!(mended(&serde_json::to_string(&json).unwrap()), None);
        }

        #[test]
        fn any_text_is_read_to_its_end(text in ".*") {
            let _ = mended(&text);
        }
    }
}
