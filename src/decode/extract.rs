//! Values out of a payload that was taken apart, by the rules of a profile.
//!
//! Which rules a path meets is worked out once and remembered with the measurements' interned names; after that a value
//! costs one look-up. What is remembered is bounded, and forgotten as a whole when the bound is reached.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::doc::{Doc, Kind, Node};
use super::place::Place;
use super::value::{Outcome, apply};
use crate::profile::{FieldRule, Part, Profile, UnitRule};
use crate::reading::{Batch, Field, Measurement, MeasurementKind, Reason};

/// Paths remembered for one profile.
const PATHS_MAX: usize = 4_096;
/// Measurement names interned for one profile.
const MEASUREMENTS_MAX: usize = 4_096;
/// The longest unit that a payload may name.
const UNIT_BYTES_MAX: usize = 32;
/// The most values of one reading; the rest is rejected and counted.
pub const FIELDS_MAX: usize = 256;
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
            self.take((index, node), nodes);
            if matches!(node.kind, Kind::Object | Kind::List) {
                nodes.push(index);
                self.below(nodes);
                nodes.pop();
            }
            self.path.truncate(length);
        }
    }

    fn take(&mut self, (index, node): (usize, &Node), nodes: &[usize]) {
        if !self.known.contains_key(self.path.as_str()) {
            self.remember();
        }
        let Some(candidates) = self.known.get(self.path.as_str()) else { return };
        let place = Place { doc: self.doc, nodes, depth: self.depth, captures: self.captures };
        for candidate in candidates {
            let rule = &self.rules.fields[candidate.rule];
            let outcome = match apply(rule, place, node) {
                // An empty list where a value would be: a sensor that is not there.
                Outcome::Wrong(..) if self.doc.is_empty_list(index) => Outcome::Nothing,
                outcome => outcome,
            };
            match outcome {
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
        let name = rule.name.name_with(&candidate.captures, |path| place.word(path))?;
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
