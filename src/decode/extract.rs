//! Values out of a payload that was taken apart, by the rules of a profile.
//!
//! Which rules a path meets is worked out once and remembered with the measurements' interned names; after that a value
//! costs one look-up. What is remembered is bounded, and forgotten as a whole when the bound is reached.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::doc::{Doc, Kind, Node};
use crate::profile::{Condition, Convert, FieldRule, Profile, ValueType};
use crate::reading::{Batch, Field, Measurement, Reason, Value};

/// Paths remembered for one profile.
const PATHS_MAX: usize = 4_096;
/// Measurement names interned for one profile.
const MEASUREMENTS_MAX: usize = 4_096;
/// The most values of one reading; the rest is rejected and counted.
pub const FIELDS_MAX: usize = 256;
/// The longest text that is a value; a longer one is rejected and counted.
pub const TEXT_BYTES_MAX: usize = 1_024;
/// Stands before each of the keys of a remembered path. It may occur in a key of a hostile payload, which then shares the rules
/// of another path: harmless, since rules only choose names.
const BEFORE_KEY: char = '\u{1f}';

/// A rule that matches a path, with the name that the path gives.
#[derive(Debug)]
struct Candidate {
    rule: usize,
    measurement: Arc<Measurement>,
}

/// The values of one profile's payloads.
#[derive(Debug)]
pub(crate) struct Extractor {
    profile: Arc<Profile>,
    paths: HashMap<Box<str>, Box<[Candidate]>>,
    measurements: HashMap<(Box<str>, usize), Arc<Measurement>>,
    path: String,
}

/// What came of one payload's values.
#[derive(Debug, Default)]
pub(crate) struct Extracted {
    /// Values pushed.
    pub(crate) values: usize,
    /// Fields that are there and say that there is no reading.
    pub(crate) without_reading: usize,
    /// Values rejected, by reason.
    pub(crate) rejected: Vec<Reason>,
    /// The first of these, for a person.
    pub(crate) first: Option<String>,
}

/// What a rule makes of a value.
enum Outcome {
    Value(Value),
    /// It says that there is no reading.
    Nothing,
    /// It is not for this rule.
    Pass,
    Wrong(Reason, String),
}

impl Extractor {
    pub(crate) fn new(profile: Arc<Profile>) -> Self {
        Self { profile, paths: HashMap::new(), measurements: HashMap::new(), path: String::new() }
    }

    pub(crate) fn profile(&self) -> &Arc<Profile> {
        &self.profile
    }

    /// Appends all values of `doc` to the fields of `out`.
    pub(crate) fn extract(&mut self, doc: &Doc, out: &mut Batch) -> Extracted {
        let mut extracted = Extracted::default();
        let mark = out.mark() as usize;
        self.path.clear();
        if let Some((index, _)) = doc.root() {
            self.walk(doc, index, mark, out, &mut extracted);
        }
        extracted
    }

    fn walk(&mut self, doc: &Doc, parent: usize, mark: usize, out: &mut Batch, extracted: &mut Extracted) {
        let in_list = doc.kind(parent) == Some(Kind::List);
        let length = self.path.len();
        for (position, (index, node)) in doc.children(parent).enumerate() {
            self.path.push(BEFORE_KEY);
            if in_list {
                use std::fmt::Write as _;
                // Writing to a String cannot fail.
                let _ = write!(self.path, "{position}");
            } else {
                self.path.push_str(doc.key(node));
            }
            self.take(doc, node, mark, out, extracted);
            if matches!(node.kind, Kind::Object | Kind::List) {
                self.walk(doc, index, mark, out, extracted);
            }
            self.path.truncate(length);
        }
    }

    fn take(&mut self, doc: &Doc, node: &Node, mark: usize, out: &mut Batch, extracted: &mut Extracted) {
        if !self.paths.contains_key(self.path.as_str()) {
            self.remember();
        }
        let Some(candidates) = self.paths.get(self.path.as_str()) else { return };
        for candidate in candidates {
            let rule = &self.profile.fields[candidate.rule];
            match apply(rule, doc, node) {
                Outcome::Pass => continue,
                Outcome::Nothing => extracted.without_reading += 1,
                Outcome::Value(value) => match free(out, mark, candidate, &mut self.measurements) {
                    Some(measurement) => {
                        out.fields.push(Field { measurement, value });
                        extracted.values += 1;
                    }
                    None => extracted.rejected.push(Reason::TooLarge),
                },
                Outcome::Wrong(reason, detail) => {
                    extracted.rejected.push(reason);
                    extracted.first.get_or_insert_with(|| {
                        let at = self.path.trim_start_matches(BEFORE_KEY).replace(BEFORE_KEY, ".");
                        format!("{at}: {detail}")
                    });
                }
            }
            return;
        }
    }

    /// Works out which rules the path meets.
    fn remember(&mut self) {
        let keys: Vec<&str> = self.path.split(BEFORE_KEY).skip(1).collect();
        let mut candidates = Vec::new();
        if !self.profile.skip.iter().any(|path| path.matches(&keys).is_some()) {
            for (index, rule) in self.profile.fields.iter().enumerate() {
                if let Some(captures) = rule.path.matches(&keys) {
                    let name = rule.name.name(&captures);
                    let measurement = intern(&mut self.measurements, &name, index, || Measurement {
                        name: name.as_str().into(),
                        unit: rule.unit.clone(),
                        kind: rule.kind,
                    });
                    candidates.push(Candidate { rule: index, measurement });
                }
            }
        }
        if self.paths.len() >= PATHS_MAX {
            self.paths.clear();
        }
        self.paths.insert(self.path.as_str().into(), candidates.into_boxed_slice());
    }
}

fn intern(
    known: &mut HashMap<(Box<str>, usize), Arc<Measurement>>,
    name: &str,
    rule: usize,
    make: impl FnOnce() -> Measurement,
) -> Arc<Measurement> {
    if known.len() >= MEASUREMENTS_MAX {
        known.clear();
    }
    Arc::clone(known.entry((name.into(), rule)).or_insert_with(|| Arc::new(make())))
}

/// The measurement under a name that this reading does not use yet: two paths may give the same name, and neither value
/// is to be lost. `None` when the reading is full.
fn free(
    out: &Batch,
    mark: usize,
    candidate: &Candidate,
    known: &mut HashMap<(Box<str>, usize), Arc<Measurement>>,
) -> Option<Arc<Measurement>> {
    let fields = &out.fields[mark..];
    if fields.len() >= FIELDS_MAX {
        return None;
    }
    let used = |name: &str| fields.iter().any(|field| *field.measurement.name == *name);
    let plain = &candidate.measurement;
    if !used(&plain.name) {
        return Some(Arc::clone(plain));
    }
    let name = (2..=FIELDS_MAX + 1).map(|number| format!("{}_{number}", plain.name)).find(|name| !used(name))?;
    Some(intern(known, &name, candidate.rule, || Measurement { name: name.as_str().into(), ..(**plain).clone() }))
}

/// Whether there is a value, not null, and what it is as a text.
fn holds(condition: &Condition, doc: &Doc, node: &Node) -> bool {
    match condition {
        Condition::Present(path) => doc.find(path).is_some_and(|node| node.kind != Kind::Null),
        Condition::Is(path, wanted) => match doc.find(path).map(|node| node.kind) {
            Some(Kind::Text(text)) => doc.text(text) == &**wanted,
            Some(Kind::Number(number)) => wanted.parse() == Ok(number),
            Some(Kind::Flag(flag)) => wanted.parse() == Ok(flag),
            _ => false,
        },
        Condition::Above(limit) => match node.kind {
            Kind::Number(number) => number > *limit,
            Kind::Text(text) if doc.untyped => doc.text(text).trim().parse::<f64>().is_ok_and(|number| number > *limit),
            _ => false,
        },
    }
}

fn apply(rule: &FieldRule, doc: &Doc, node: &Node) -> Outcome {
    if !rule.when.iter().all(|condition| holds(condition, doc, node)) {
        return Outcome::Pass;
    }
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
            ValueType::Number | ValueType::Any => take_number(rule, number),
            ValueType::Flag if number == 0.0 || number == 1.0 => Outcome::Value(Value::Flag(number == 1.0)),
            ValueType::Flag => wrong(rule, &format!("the number {number}")),
            ValueType::Text => take_text(rule, &number.to_string()),
        },
        Kind::Digits(digits) => match rule.value_type {
            // A conversion makes a double of it anyway.
            ValueType::Number if rule.convert.is_some() => match doc.text(digits).parse() {
                Ok(number) => take_number(rule, number),
                Err(_) => wrong(rule, "too many digits"),
            },
            ValueType::Number | ValueType::Any | ValueType::Text => {
                Outcome::Value(Value::Text(doc.text(digits).into()))
            }
            ValueType::Flag => wrong(rule, "a large number"),
        },
        Kind::Text(text) => from_text(rule, doc.text(text), doc.untyped),
    }
}

fn from_text(rule: &FieldRule, text: &str, untyped: bool) -> Outcome {
    let trimmed = text.trim();
    if (untyped && trimmed.is_empty()) || rule.no_reading_texts.iter().any(|word| **word == *trimmed) {
        return Outcome::Nothing;
    }
    match rule.value_type {
        ValueType::Text => take_text(rule, text),
        ValueType::Any if !untyped => take_text(rule, text),
        ValueType::Any => match parse_number(trimmed) {
            Some(Kind::Number(number)) => take_number(rule, number),
            _ => take_text(rule, trimmed),
        },
        ValueType::Flag => {
            let is = |words: &[Box<str>]| words.iter().any(|word| **word == *trimmed);
            match (is(&rule.on), is(&rule.off)) {
                (true, _) => Outcome::Value(Value::Flag(true)),
                (_, true) => Outcome::Value(Value::Flag(false)),
                _ => match trimmed {
                    "true" | "1" => Outcome::Value(Value::Flag(true)),
                    "false" | "0" => Outcome::Value(Value::Flag(false)),
                    _ => wrong(rule, &quoted(text)),
                },
            }
        }
        // A text in JSON under a key that nobody listed is an identifier more often than a number.
        ValueType::Number if rule.open && !untyped => Outcome::Pass,
        ValueType::Number => match parse_number(trimmed) {
            Some(Kind::Number(number)) => take_number(rule, number),
            Some(_) if rule.convert.is_none() => take_text(rule, trimmed),
            _ => wrong(rule, &quoted(text)),
        },
    }
}

/// A number as devices write it: a sign, digits, one point, an exponent; nothing of `inf` and `nan`. `Kind::Text` stands
/// for a whole number that a double would falsify.
fn parse_number(text: &str) -> Option<Kind> {
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
    Outcome::Value(Value::Text(text.into()))
}

fn take_number(rule: &FieldRule, raw: f64) -> Outcome {
    if rule.no_reading.contains(&raw) {
        return Outcome::Nothing;
    }
    let number = rule.convert.map_or(raw, |convert| convert.apply(raw));
    if !number.is_finite() {
        return Outcome::Wrong(Reason::OutOfRange, format!("expected a finite number, found {number}"));
    }
    match rule.range {
        Some((min, max)) if !(min..=max).contains(&number) => {
            Outcome::Wrong(Reason::OutOfRange, format!("expected {min} to {max}, found {number}"))
        }
        _ => Outcome::Value(Value::Number(number)),
    }
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
