//! Values out of a payload that was taken apart, by the rules of a profile.
//!
//! Which rules a path meets is worked out once and remembered with the measurements' interned names; after that a value
//! costs one look-up. What is remembered is bounded, and forgotten as a whole when the bound is reached.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::doc::{Doc, Kind, Node};
use crate::profile::{Condition, Convert, FieldRule, Part, Profile, UnitRule, ValueType};
use crate::reading::{Batch, Field, Measurement, MeasurementKind, Reason, Value};

/// Paths remembered for one profile.
const PATHS_MAX: usize = 4_096;
/// Measurement names interned for one profile.
const MEASUREMENTS_MAX: usize = 4_096;
/// The longest unit that a payload may name.
const UNIT_BYTES_MAX: usize = 32;
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
    /// What it captures.
    captures: Box<[String]>,
    /// `None` if the payload says a part of its name, or its unit.
    measurement: Option<Arc<Measurement>>,
}

/// Which rules of one part a path meets.
type Known = HashMap<Box<str>, Box<[Candidate]>>;

/// Measurements by name, rule and unit.
#[derive(Debug, Default)]
struct Measurements {
    known: HashMap<(Box<str>, usize, Box<str>), Arc<Measurement>>,
}

/// The values of one profile's payloads.
#[derive(Debug)]
pub(crate) struct Extractor {
    profile: Arc<Profile>,
    known: Vec<Known>,
    measurements: Measurements,
    path: String,
}

/// What came of one place's values.
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

/// Where a part is: the nodes from the root down to it, and what the topic says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) doc: &'a Doc,
    /// The innermost one is the last.
    pub(crate) nodes: &'a [usize],
    /// How many of them lead down to where the part begins.
    pub(crate) depth: usize,
    pub(crate) captures: &'a [(Box<str>, Box<str>)],
}

impl<'a> Place<'a> {
    /// The value at a path of plain keys, from here; where it is not, from what is around it.
    pub(crate) fn find(&self, path: &[Box<str>]) -> Option<&'a Node> {
        match path {
            [first, rest @ ..] if **first == *"@root" => self.doc.find(rest),
            _ => self.nodes.iter().rev().find_map(|node| self.doc.find_below(*node, path)),
        }
    }

    /// The same as a text, which the topic or the place itself may say too.
    pub(crate) fn word(&self, path: &[Box<str>]) -> Option<String> {
        if let [name] = path
            && name.starts_with('@')
        {
            let captured = || self.captures.iter().find(|(own, _)| own == name).map(|(_, word)| word.to_string());
            return match &**name {
                "@key" => self.key().or_else(captured),
                _ => captured(),
            };
        }
        self.doc.word(self.find(path)?)
    }

    /// The key or position of the place where the part begins; the whole payload has none.
    fn key(&self) -> Option<String> {
        let (node, around) = match self.nodes.get(..self.depth)? {
            [.., around, node] => (*node, *around),
            _ => return None,
        };
        if self.doc.kind(around) == Some(Kind::List) {
            return self.doc.children(around).position(|(index, _)| index == node).map(|position| position.to_string());
        }
        self.doc.key_at(node).map(str::to_owned)
    }

    /// Whether all conditions hold that are about other values than the one at hand.
    pub(crate) fn holds(&self, conditions: &[Condition]) -> bool {
        conditions.iter().all(|condition| self.holds_for(condition, None))
    }

    fn holds_for(&self, condition: &Condition, node: Option<&Node>) -> bool {
        match condition {
            Condition::Present(path) => self.has(path),
            Condition::Absent(path) => !self.has(path),
            Condition::Is(path, words) => self.is(path, words),
            Condition::Not(path, words) => !self.is(path, words),
            Condition::Bit { path, bit, set } => *set == self.has_bit(path, *bit),
            Condition::Above(limit) => match node.map(|node| node.kind) {
                Some(Kind::Number(number)) => number > *limit,
                Some(Kind::Text(text)) if self.doc.untyped => {
                    self.doc.text(text).trim().parse::<f64>().is_ok_and(|number| number > *limit)
                }
                _ => false,
            },
        }
    }

    fn has_bit(&self, path: &[Box<str>], bit: u8) -> bool {
        let number = match self.find(path).map(|node| node.kind) {
            Some(Kind::Text(text)) => parse_number(self.doc.text(text).trim()),
            found => found,
        };
        matches!(number, Some(Kind::Number(number)) if bits_of(number, (bit, 1)) == 1.0)
    }

    fn has(&self, path: &[Box<str>]) -> bool {
        match path {
            [key] if key.starts_with('@') => self.word(path).is_some(),
            _ => self.find(path).is_some_and(|node| node.kind != Kind::Null),
        }
    }

    /// Whether the value at a path is one of these words; numbers are compared as numbers, and a `*` in a word stands for
    /// any text.
    fn is(&self, path: &[Box<str>], words: &[Box<str>]) -> bool {
        match self.find(path).map(|node| node.kind) {
            Some(Kind::Text(text)) => words.iter().any(|word| fits(word, self.doc.text(text))),
            Some(Kind::Number(number)) => words.iter().any(|word| word.parse() == Ok(number)),
            Some(Kind::Flag(flag)) => words.iter().any(|word| word.parse() == Ok(flag)),
            _ => self.word(path).is_some_and(|found| words.iter().any(|word| fits(word, &found))),
        }
    }
}

fn fits(word: &str, text: &str) -> bool {
    match word.split_once('*') {
        None => *word == *text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| rest.ends_with(after)),
    }
}

impl Extractor {
    pub(crate) fn new(profile: Arc<Profile>) -> Self {
        let known = profile.parts.iter().map(|_| HashMap::new()).collect();
        Self { profile, known, measurements: Measurements::default(), path: String::new() }
    }

    pub(crate) fn profile(&self) -> &Arc<Profile> {
        &self.profile
    }

    /// Appends all values at a place to the fields of `out`, by the rules of a part.
    pub(crate) fn extract(
        &mut self,
        part: usize,
        doc: &Doc,
        nodes: &mut Vec<usize>,
        captures: &[(Box<str>, Box<str>)],
        out: &mut Batch,
    ) -> Extracted {
        let mark = out.mark() as usize;
        let mut walk = Walk {
            rules: &self.profile.parts[part],
            known: &mut self.known[part],
            measurements: &mut self.measurements,
            path: &mut self.path,
            doc,
            depth: nodes.len(),
            captures,
            mark,
            out,
            found: Extracted::default(),
        };
        walk.path.clear();
        walk.below(nodes);
        walk.found
    }
}

/// All values at one place.
struct Walk<'a> {
    rules: &'a Part,
    known: &'a mut Known,
    measurements: &'a mut Measurements,
    path: &'a mut String,
    doc: &'a Doc,
    depth: usize,
    captures: &'a [(Box<str>, Box<str>)],
    /// The first field of this reading.
    mark: usize,
    out: &'a mut Batch,
    found: Extracted,
}

impl Walk<'_> {
    fn below(&mut self, nodes: &mut Vec<usize>) {
        let Some(&parent) = nodes.last() else { return };
        let doc = self.doc;
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
            self.take(node, nodes);
            if matches!(node.kind, Kind::Object | Kind::List) {
                nodes.push(index);
                self.below(nodes);
                nodes.pop();
            }
            self.path.truncate(length);
        }
    }

    fn take(&mut self, node: &Node, nodes: &[usize]) {
        if !self.known.contains_key(self.path.as_str()) {
            self.remember();
        }
        let Some(candidates) = self.known.get(self.path.as_str()) else { return };
        let place = Place { doc: self.doc, nodes, depth: self.depth, captures: self.captures };
        for candidate in candidates {
            let rule = &self.rules.fields[candidate.rule];
            match apply(rule, place, node) {
                Outcome::Pass => continue,
                Outcome::Nothing => self.found.without_reading += 1,
                Outcome::Value(value) => {
                    let measurement = match &candidate.measurement {
                        Some(measurement) => Some(Arc::clone(measurement)),
                        None => self.measurements.found(rule, candidate, place),
                    };
                    let used = &self.out.fields[self.mark..];
                    let measurement = match measurement {
                        Some(measurement) => self.measurements.free(used, measurement, candidate.rule),
                        None => {
                            self.found.rejected.push(Reason::MissingField);
                            return;
                        }
                    };
                    match measurement {
                        Some(measurement) => {
                            self.out.fields.push(Field { measurement, value });
                            self.found.values += 1;
                        }
                        None => self.found.rejected.push(Reason::TooLarge),
                    }
                }
                Outcome::Wrong(reason, detail) => {
                    self.found.rejected.push(reason);
                    let path = &*self.path;
                    self.found.first.get_or_insert_with(|| {
                        let at = path.trim_start_matches(BEFORE_KEY).replace(BEFORE_KEY, ".");
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
        if !self.rules.skip.iter().any(|path| path.matches(&keys).is_some()) {
            for (index, rule) in self.rules.fields.iter().enumerate() {
                let Some(captures) = rule.path.matches(&keys) else { continue };
                let unit = rule.unit.as_ref().map(UnitRule::fixed);
                let is_known = !rule.name.is_found() && unit != Some(None);
                let measurement = is_known.then(|| {
                    let name = rule.name.name(&captures);
                    self.measurements.intern(&name, index, unit.flatten(), rule.kind)
                });
                candidates.push(Candidate { rule: index, captures: captures.into(), measurement });
            }
        }
        if self.known.len() >= PATHS_MAX {
            self.known.clear();
        }
        self.known.insert(self.path.as_str().into(), candidates.into_boxed_slice());
    }
}

impl Measurements {
    fn intern(&mut self, name: &str, rule: usize, unit: Option<&str>, kind: MeasurementKind) -> Arc<Measurement> {
        if self.known.len() >= MEASUREMENTS_MAX {
            self.known.clear();
        }
        let key = (name.into(), rule, unit.unwrap_or_default().into());
        let make = || Arc::new(Measurement { name: name.into(), unit: unit.map(Into::into), kind });
        Arc::clone(self.known.entry(key).or_insert_with(make))
    }

    /// The measurement of a rule whose name or unit the payload says.
    fn found(&mut self, rule: &FieldRule, candidate: &Candidate, place: Place<'_>) -> Option<Arc<Measurement>> {
        let name = rule.name.name_with(&candidate.captures, |path| place.word(path).filter(|word| !word.is_empty()))?;
        let found;
        let unit = match &rule.unit {
            None => None,
            Some(UnitRule::Fixed(unit)) => Some(&**unit),
            Some(UnitRule::Found(path, words)) => {
                found = place.word(path).unwrap_or_default();
                let known = words.iter().find(|(word, _)| **word == *found).map(|(_, code)| &**code);
                known.or_else(|| is_unit(&found).then_some(&*found)).filter(|unit| !unit.is_empty())
            }
        };
        Some(self.intern(&name, candidate.rule, unit, rule.kind))
    }

    /// The measurement under a name that this reading does not use yet: two paths may give the same name, and neither value
    /// is to be lost. `None` when the reading is full.
    fn free(&mut self, fields: &[Field], plain: Arc<Measurement>, rule: usize) -> Option<Arc<Measurement>> {
        if fields.len() >= FIELDS_MAX {
            return None;
        }
        let used = |name: &str| fields.iter().any(|field| *field.measurement.name == *name);
        if !used(&plain.name) {
            return Some(plain);
        }
        let name = (2..=FIELDS_MAX + 1).map(|number| format!("{}_{number}", plain.name)).find(|name| !used(name))?;
        Some(self.intern(&name, rule, plain.unit.as_deref(), plain.kind))
    }
}

/// Whether a word of a payload can be a UCUM code: printable ASCII without spaces.
fn is_unit(word: &str) -> bool {
    word.len() <= UNIT_BYTES_MAX && word.bytes().all(|byte| byte.is_ascii_graphic())
}

fn apply(rule: &FieldRule, place: Place<'_>, node: &Node) -> Outcome {
    if !rule.when.iter().all(|condition| place.holds_for(condition, Some(node))) {
        return Outcome::Pass;
    }
    match take(rule, place.doc, node) {
        Outcome::Value(Value::Number(number)) => match &rule.negative {
            Some((path, words)) if place.is(path, words) => Outcome::Value(Value::Number(-number)),
            _ => Outcome::Value(Value::Number(number)),
        },
        outcome => outcome,
    }
}

fn take(rule: &FieldRule, doc: &Doc, node: &Node) -> Outcome {
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
            ValueType::Flag => match rule.bits.map_or(number, |bits| bits_of(number, bits)) {
                0.0 => Outcome::Value(Value::Flag(false)),
                1.0 => Outcome::Value(Value::Flag(true)),
                _ => flag_word(rule, &number.to_string()),
            },
            ValueType::Text if rule.no_reading.contains(&number) => Outcome::Nothing,
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
        ValueType::Flag => match (rule.bits, parse_number(trimmed)) {
            (Some(bits), Some(Kind::Number(number))) => Outcome::Value(Value::Flag(bits_of(number, bits) != 0.0)),
            _ => flag_word(rule, trimmed),
        },
        // A text in JSON under a key that nobody listed is an identifier more often than a number.
        ValueType::Number if rule.open && !untyped => Outcome::Pass,
        ValueType::Number => match parse_number(trimmed) {
            Some(Kind::Number(number)) => take_number(rule, number),
            Some(_) if rule.convert.is_none() => take_text(rule, trimmed),
            _ => wrong(rule, &quoted(text)),
        },
    }
}

fn flag_word(rule: &FieldRule, word: &str) -> Outcome {
    let is = |words: &[Box<str>]| words.iter().any(|own| **own == *word);
    match (is(&rule.on), is(&rule.off)) {
        (true, _) => Outcome::Value(Value::Flag(true)),
        (_, true) => Outcome::Value(Value::Flag(false)),
        _ => match word {
            "true" | "1" => Outcome::Value(Value::Flag(true)),
            "false" | "0" => Outcome::Value(Value::Flag(false)),
            _ => wrong(rule, &quoted(word)),
        },
    }
}

/// Some bits of a whole number; those of a negative one are in two's complement.
fn bits_of(number: f64, (lowest, count): (u8, u8)) -> f64 {
    let whole = (number as i64) >> lowest;
    (whole & ((1 << count) - 1)) as f64
}

/// A number as devices write it: a sign, digits, one point, an exponent; nothing of `inf` and `nan`. `Kind::Text` stands
/// for a whole number that a double would falsify.
fn parse_number(text: &str) -> Option<Kind> {
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

fn take_number(rule: &FieldRule, raw: f64) -> Outcome {
    let number = rule.bits.map_or(raw, |bits| bits_of(raw, bits));
    if rule.no_reading.contains(&number) {
        return Outcome::Nothing;
    }
    let number = if rule.degrees { degrees(number) } else { number };
    let number = rule.convert.map_or(number, |convert| convert.apply(number));
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
