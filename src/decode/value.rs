//! What a rule of a profile makes of one value.

use std::borrow::Cow;

use super::doc::{Kind, Node};
use super::place::{Place, fits};
use crate::profile::{Convert, FieldRule, KeyPath, Sign, ValueType};
use crate::reading::{Reason, Value};

/// The longest text that is a value; a longer one is rejected and counted.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// The largest power of ten that a payload may say; more is no measurement.
const POWER_MAX: f64 = 18.0;

/// What a rule makes of a value.
pub(super) enum Outcome {
    Value(Value),
    /// It says that there is no reading.
    Nothing,
    /// It is not for this rule.
    Pass,
    Wrong(Reason, String),
}

pub(super) fn apply(rule: &FieldRule, place: Place<'_>, node: &Node) -> Outcome {
    if !rule.when.iter().all(|condition| place.holds_for(condition, Some(node))) {
        return Outcome::Pass;
    }
    take(rule, place, node)
}

fn take(rule: &FieldRule, place: Place<'_>, node: &Node) -> Outcome {
    let doc = place.doc;
    match node.kind {
        Kind::Null => Outcome::Nothing,
        Kind::List if rule.list => Outcome::Pass,
        Kind::List | Kind::Object if rule.open => Outcome::Pass,
        Kind::List => wrong(rule, "a list"),
        Kind::Object => wrong(rule, "an object"),
        Kind::Flag(flag) => match rule.value_type {
            ValueType::Flag | ValueType::Any => Outcome::Value(Value::Flag(flag)),
            ValueType::Number | ValueType::Text => wrong(rule, if flag { "true" } else { "false" }),
        },
        Kind::Number(number) => match rule.value_type {
            ValueType::Number | ValueType::Any => take_number(rule, place, number),
            ValueType::Flag => match rule.bits.map_or(number, |bits| bits_of(number, bits)) {
                0.0 => Outcome::Value(Value::Flag(false)),
                1.0 => Outcome::Value(Value::Flag(true)),
                _ => flag_word(rule, &number.to_string()),
            },
            ValueType::Text if rule.no_reading.contains(&number) => Outcome::Nothing,
            ValueType::Text => take_text(rule, &number.to_string()),
        },
        Kind::Digits(digits) if is_no_reading(rule, doc.text(digits)) => Outcome::Nothing,
        Kind::Digits(digits) => match rule.value_type {
            ValueType::Number if out_of(rule.range.filter(|_| !rule.computes()), doc.text(digits)) => {
                out_of_range(rule, doc.text(digits))
            }
            // A conversion makes a double of it anyway.
            ValueType::Number if rule.computes() => match doc.text(digits).parse() {
                Ok(number) => take_number(rule, place, number),
                Err(_) => wrong(rule, "too many digits"),
            },
            ValueType::Number | ValueType::Any | ValueType::Text => {
                Outcome::Value(Value::Text(doc.text(digits).into()))
            }
            ValueType::Flag => wrong(rule, "a large number"),
        },
        Kind::Text(text) => from_text(rule, place, doc.text(text)),
    }
}

fn from_text(rule: &FieldRule, place: Place<'_>, text: &str) -> Outcome {
    let (untyped, trimmed) = (place.doc.untyped, text.trim());
    if (untyped && trimmed.is_empty()) || rule.no_reading_texts.iter().any(|word| **word == *trimmed) {
        return Outcome::Nothing;
    }
    let (text, trimmed) = match &rule.pattern {
        None => (text, trimmed),
        Some(pattern) => match pattern.0.captures(trimmed).and_then(|found| found.name("value")) {
            Some(value) => (value.as_str(), value.as_str().trim()),
            None if rule.open => return Outcome::Pass,
            None => {
                let detail = format!("expected a text like `{}`, found {}", pattern.0.as_str(), quoted(text));
                return Outcome::Wrong(Reason::WrongType, detail);
            }
        },
    };
    let untyped = untyped || rule.pattern.is_some();
    match rule.value_type {
        ValueType::Text => take_text(rule, text),
        ValueType::Any if !untyped => take_text(rule, text),
        ValueType::Any => match parse_number(trimmed) {
            Some(Kind::Number(number)) => take_number(rule, place, number),
            _ => take_text(rule, trimmed),
        },
        ValueType::Flag => match (rule.bits, parse_number(trimmed)) {
            (Some(bits), Some(Kind::Number(number))) => Outcome::Value(Value::Flag(bits_of(number, bits) != 0.0)),
            _ => flag_word(rule, trimmed),
        },
        // A text in JSON under a key that nobody listed is an identifier more often than a number.
        ValueType::Number if rule.open && !untyped => Outcome::Pass,
        ValueType::Number => {
            match with_point(&without_gap(trimmed), rule.decimal, |text| parse_in_base(text, rule.base)) {
                Some(Kind::Number(number)) => take_number(rule, place, number),
                Some(_) if is_no_reading(rule, trimmed) => Outcome::Nothing,
                Some(_) if !rule.computes() && out_of(rule.range, trimmed) => out_of_range(rule, trimmed),
                Some(_) if !rule.computes() => take_text(rule, trimmed),
                Some(_) => trimmed
                    .parse()
                    .map_or_else(|_| wrong(rule, "too many digits"), |number| take_number(rule, place, number)),
                None => wrong(rule, &quoted(text)),
            }
        }
    }
}

/// A number without the spaces that scales write between its sign and its digits.
fn without_gap(text: &str) -> Cow<'_, str> {
    match text.strip_prefix(['+', '-']) {
        Some(digits) if digits.starts_with(' ') => Cow::Owned(format!("{}{}", &text[..1], digits.trim_start())),
        _ => Cow::Borrowed(text),
    }
}

/// Reads a number whose decimals begin behind another mark than a point; a point is then none of its digits.
fn with_point<T>(text: &str, decimal: Option<char>, read: impl Fn(&str) -> Option<T>) -> Option<T> {
    match decimal {
        None => read(text),
        Some(mark) if mark != '.' && text.contains('.') => None,
        Some(mark) => read(&text.replacen(mark, ".", 1)),
    }
}

fn flag_word(rule: &FieldRule, word: &str) -> Outcome {
    let is = |words: &[Box<str>]| words.iter().any(|own| **own == *word);
    // A word that is written out counts before one with a `*`.
    let may_be = |words: &[Box<str>]| words.iter().any(|own| fits(own, word));
    let flag = match word {
        _ if is(&rule.on) => Some(true),
        _ if is(&rule.off) => Some(false),
        _ if may_be(&rule.on) => Some(true),
        _ if may_be(&rule.off) => Some(false),
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    };
    flag.map_or_else(|| wrong(rule, &quoted(word)), |flag| Outcome::Value(Value::Flag(flag)))
}

/// Some bits of a whole number; those of a negative one are in two's complement.
pub(super) fn bits_of(number: f64, (lowest, count): (u8, u8)) -> f64 {
    let whole = (number as i64) >> lowest;
    (whole & ((1 << count) - 1)) as f64
}

/// A number of that many bits, of which the highest is its sign.
fn signed(number: f64, bits: u8, sign: Sign) -> f64 {
    let half = 2_f64.powi(i32::from(bits) - 1);
    match sign {
        _ if number < half => number,
        Sign::Complement => number - 2.0 * half,
        Sign::Magnitude => half - number,
    }
}

/// Digits to another base than ten, if one is said.
fn parse_in_base(text: &str, base: Option<u32>) -> Option<Kind> {
    let Some(base) = base else { return parse_number(text) };
    let number = i64::from_str_radix(text, base).ok().filter(|number| number.unsigned_abs() <= 1 << 53)?;
    Some(Kind::Number(number as f64))
}

/// A number as devices write it: a sign, digits, one point, an exponent; nothing of `inf` and `nan`. `Kind::Text` stands
/// for a whole number that a double would falsify.
pub(super) fn parse_number(text: &str) -> Option<Kind> {
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let number = u64::from_str_radix(digits, 16).ok().filter(|number| *number <= 1 << 53)?;
        return Some(Kind::Number(number as f64));
    }
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !body.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let number: f64 = text.parse().ok()?;
    let whole = body.bytes().all(|byte| byte.is_ascii_digit());
    if whole && number.abs() > 9_007_199_254_740_992.0 {
        return Some(Kind::Text(super::doc::Span::default()));
    }
    Some(Kind::Number(number))
}

fn take_text(rule: &FieldRule, text: &str) -> Outcome {
    if text.len() > TEXT_BYTES_MAX {
        let length = text.len();
        return Outcome::Wrong(Reason::TooLarge, format!("expected at most {TEXT_BYTES_MAX} bytes, found {length}"));
    }
    if rule.no_reading_texts.iter().any(|word| **word == *text) {
        return Outcome::Nothing;
    }
    let meaning = rule.words.iter().find(|(word, _)| **word == *text).map(|(_, meaning)| &**meaning);
    Outcome::Value(Value::Text(meaning.unwrap_or(text).into()))
}

fn take_number(rule: &FieldRule, place: Place<'_>, raw: f64) -> Outcome {
    // What a float of a register or of CBOR says where there is nothing to say.
    if raw.is_nan() {
        return Outcome::Nothing;
    }
    let number = match (rule.bits, rule.sign) {
        (None, _) => raw,
        (Some(bits), None) => bits_of(raw, bits),
        (Some(bits), Some(sign)) => signed(bits_of(raw, bits), bits.1, sign),
    };
    if rule.no_reading.contains(&number) {
        return Outcome::Nothing;
    }
    let number = if rule.degrees { degrees(number) } else { number };
    let number = match multiplied(rule, place, number) {
        Ok(number) => number,
        Err(detail) => return Outcome::Wrong(Reason::MissingField, detail),
    };
    let mut number = rule.convert.map_or(number, |convert| convert.apply(number));
    for (path, scale) in &rule.plus {
        let Some(more) = place.number(path) else {
            let detail = format!("expected a number at `{}`, which is added", path.join("."));
            return Outcome::Wrong(Reason::MissingField, detail);
        };
        // The sum of decimals, without the noise of binary fractions.
        number = Convert { scale: 1.0, offset: number }.apply(Convert { scale: *scale, offset: 0.0 }.apply(more));
    }
    if rule.negative.as_ref().is_some_and(|condition| place.holds_for(condition, None)) {
        number = -number;
    }
    if !number.is_finite() {
        return Outcome::Wrong(Reason::OutOfRange, format!("expected a finite number, found {number}"));
    }
    match rule.range {
        Some((min, max)) if !(min..=max).contains(&number) => out_of_range(rule, &number.to_string()),
        _ => Outcome::Value(Value::Number(number)),
    }
}

fn out_of_range(rule: &FieldRule, found: &str) -> Outcome {
    let (min, max) = rule.range.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
    Outcome::Wrong(Reason::OutOfRange, format!("expected {min} to {max}, found {found}"))
}

/// Whether a whole number with more digits than a double has is outside of a range. The range is one of doubles anyway.
fn out_of(range: Option<(f64, f64)>, digits: &str) -> bool {
    range.zip(digits.parse::<f64>().ok()).is_some_and(|((min, max), number)| !(min..=max).contains(&number))
}

/// Whether such a number means "no reading": by its digits, or as the nearest double.
fn is_no_reading(rule: &FieldRule, digits: &str) -> bool {
    rule.no_reading_texts.iter().any(|word| **word == *digits)
        || digits.parse().is_ok_and(|number: f64| rule.no_reading.contains(&number))
}

/// By what the payload says: a number without its factor would be off by orders of magnitude, so it is none.
fn multiplied(rule: &FieldRule, place: Place<'_>, number: f64) -> Result<f64, String> {
    let expected =
        |what: &str, path: &KeyPath| format!("expected {what} at `{}`, by which it is multiplied", path.join("."));
    let mut product = number;
    for path in &rule.times {
        product *= place.number(path).ok_or_else(|| expected("a number", path))?;
    }
    let Some(path) = &rule.exponent else { return Ok(product) };
    let power = place.number(path).filter(|power| power.fract() == 0.0 && power.abs() <= POWER_MAX);
    let power = power.ok_or_else(|| expected(&format!("a power of ten from -{POWER_MAX} to {POWER_MAX}"), path))?;
    // As a scale that a profile says: 2301 by -1 is 230.1, without the noise of binary fractions.
    Ok(Convert { scale: 10_f64.powi(power as i32), offset: 0.0 }.apply(product))
}

/// Degrees of `dddmm.mmmm`.
fn degrees(number: f64) -> f64 {
    let whole = (number / 100.0).trunc();
    let degrees = whole + (number - whole * 100.0) / 60.0;
    // A hundredth of a millimetre: the rest is noise of the division.
    (degrees * 1e10).round() / 1e10
}

fn wrong(rule: &FieldRule, found: &str) -> Outcome {
    if rule.open {
        return Outcome::Pass;
    }
    let expected = match rule.value_type {
        ValueType::Number => "a number",
        ValueType::Text => "a text",
        ValueType::Flag => "a truth value",
        ValueType::Any => "a number, a text or a truth value",
    };
    Outcome::Wrong(Reason::WrongType, format!("expected {expected}, found {found}"))
}

/// The beginning of a text, for a message.
pub(crate) fn quoted(text: &str) -> String {
    let cut = text.char_indices().nth(40).map_or(text.len(), |(at, _)| at);
    format!("{:?}{}", &text[..cut], if cut < text.len() { " …" } else { "" })
}

impl Convert {
    /// Result = number * scale + offset, without the noise of binary fractions: 2101 * 0.01 is 21.01.
    #[must_use]
    pub fn apply(self, number: f64) -> f64 {
        let inverse = (1.0 / self.scale).round();
        let scaled = if inverse.abs() >= 2.0 && (inverse * self.scale - 1.0).abs() < 1e-12 {
            number / inverse
        } else {
            number * self.scale
        };
        let result = scaled + self.offset;
        // Ten decimals are more than any sensor has; larger numbers would lose digits by it.
        if result.abs() < 100_000.0 { (result * 1e10).round() / 1e10 } else { result }
    }
}
