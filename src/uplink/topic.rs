//! Names of topics: `iot.{profile}.{kind}` and the like, filled in per record.
//!
//! Invariant: what comes out is always a name that Kafka takes: 1 to 249 of `[a-zA-Z0-9._-]`, neither `.` nor `..`
//! (`org.apache.kafka.common.internals.Topic`). Other characters of a value become `_`; a name that is too long is cut
//! and gets a hash of the whole, so that two devices do not end up in one topic by their common beginning.

use std::fmt::Write as _;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use crate::config;
use crate::counters::{Count, Counter, Counters};
use crate::outbox::Lane;
use crate::reading::{Name, Record};

/// The longest name that Kafka takes, in bytes.
const NAME_BYTES_MAX: usize = 249;
/// Names that are remembered; a gateway with more device topics than this looks some of them up anew.
const CACHE_MAX: usize = 8_192;
/// Stands for the device, the profile or the measurement of a record that has none.
const NONE: &str = "none";

/// Why a template is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A placeholder that does not exist.
    #[error(
        "topic {template:?}: {{{found}}} is not a placeholder; expected {{gateway}}, {{profile}}, {{device}}, {{kind}} or {{measurement}}"
    )]
    Unknown {
        /// The whole template.
        template: String,
        /// What stands between the braces.
        found: String,
    },
    /// A brace without its other half.
    #[error("topic {template:?}: a brace has no partner; placeholders are written {{device}}")]
    Brace {
        /// The whole template.
        template: String,
    },
    /// A character that no topic may have.
    #[error(
        "topic {template:?}: {found:?} cannot stand in a topic's name; Kafka allows a-z, A-Z, 0-9, '.', '_' and '-'"
    )]
    Character {
        /// The whole template.
        template: String,
        /// The character.
        found: char,
    },
    /// A measurement is asked for where a record has several.
    #[error("topic {template:?}: {{measurement}} needs layout = \"narrow\", where a record holds one value")]
    Measurement {
        /// The whole template.
        template: String,
    },
    /// Nothing at all.
    #[error("a topic's name is empty; expected something like \"iot.readings\"")]
    Empty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Gateway,
    Profile,
    Device,
    Kind,
    Measurement,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Slot(Slot),
}

/// A topic's name with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

impl Template {
    /// Reads a template; `narrow` says whether a record holds one measurement only.
    pub fn parse(template: &str, narrow: bool) -> Result<Self, TemplateError> {
        if template.is_empty() {
            return Err(TemplateError::Empty);
        }
        let whole = || template.to_owned();
        let mut parts = Vec::new();
        let mut rest = template;
        while !rest.is_empty() {
            let Some((literal, after)) = rest.split_once('{') else {
                parts.push(literal_part(rest, template)?);
                break;
            };
            if !literal.is_empty() {
                parts.push(literal_part(literal, template)?);
            }
            let (name, after) = after.split_once('}').ok_or_else(|| TemplateError::Brace { template: whole() })?;
            parts.push(Part::Slot(match name {
                "gateway" => Slot::Gateway,
                "profile" => Slot::Profile,
                "device" => Slot::Device,
                "kind" => Slot::Kind,
                "measurement" if narrow => Slot::Measurement,
                "measurement" => return Err(TemplateError::Measurement { template: whole() }),
                _ => return Err(TemplateError::Unknown { template: whole(), found: name.to_owned() }),
            }));
            rest = after;
        }
        Ok(Self(parts))
    }

    fn has(&self, slot: Slot) -> bool {
        self.0.contains(&Part::Slot(slot))
    }

    fn fill(&self, gateway: &str, subject: &Subject<'_>) -> String {
        let mut name = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(literal) => name.push_str(literal),
                Part::Slot(slot) => push_sanitised(
                    &mut name,
                    match slot {
                        Slot::Gateway => gateway,
                        Slot::Profile => subject.profile,
                        Slot::Device => subject.device,
                        Slot::Kind => subject.kind,
                        Slot::Measurement => subject.measurement,
                    },
                ),
            }
        }
        if name == "." || name == ".." {
            return "_".repeat(name.len());
        }
        if name.len() > NAME_BYTES_MAX {
            let hash = xxhash_rust::xxh3::xxh3_64(name.as_bytes());
            // All of it is ASCII, so any place is a character's border.
            name.truncate(NAME_BYTES_MAX - 17);
            let _ = write!(name, "-{hash:016x}");
        }
        name
    }
}

fn literal_part(literal: &str, template: &str) -> Result<Part, TemplateError> {
    match literal.chars().find(|c| !is_legal(*c)) {
        None => Ok(Part::Literal(literal.to_owned())),
        Some('}') => Err(TemplateError::Brace { template: template.to_owned() }),
        Some(found) => Err(TemplateError::Character { template: template.to_owned(), found }),
    }
}

fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

fn push_sanitised(name: &mut String, value: &str) {
    if value.is_empty() {
        name.push('_');
    }
    name.extend(value.chars().map(|c| if is_legal(c) { c } else { '_' }));
}

/// What of a record can stand in a topic's name.
#[derive(Clone, Copy, Debug)]
struct Subject<'a> {
    profile: &'a str,
    device: &'a str,
    kind: &'static str,
    measurement: &'a str,
}

impl<'a> Subject<'a> {
    fn of(record: &'a Record, measurement: Option<&'a str>) -> Self {
        let kind = record.kind();
        let (profile, device): (&str, &str) = match record {
            Record::Reading(reading) => (&reading.profile, &reading.device),
            Record::Aggregate(aggregate) => (&aggregate.profile, &aggregate.device),
            Record::State(state) => (&state.profile, &state.device),
            Record::DeadLetter(letter) => (letter.profile.as_deref().unwrap_or(NONE), &letter.source),
            Record::Gap(_) | Record::StreamEnd(_) | Record::Event(_) => (NONE, NONE),
        };
        Self { profile, device, kind, measurement: measurement.unwrap_or(kind) }
    }
}

/// A topic that we write to.
#[derive(Debug)]
pub struct Topic {
    /// Its name.
    pub name: Box<str>,
    /// Records delivered to it.
    pub delivered: Counter,
}

/// The topics of one gateway, by what is in a record.
#[derive(Debug)]
pub struct Topics {
    gateway: String,
    reading: Route,
    aggregate: Route,
    alarm: Route,
    dead_letter: Route,
    counters: Counters,
}

#[derive(Debug)]
struct Route {
    template: Template,
    /// The one topic of a template that depends on no record.
    only: Option<Arc<Topic>>,
    /// Which parts of a record make a difference.
    profile: bool,
    device: bool,
    cached: HashMap<Key, Arc<Topic>>,
}

type Key = (Option<Name>, Option<Name>, &'static str, Option<Box<str>>);

impl Topics {
    /// The topics of the gateway with this id.
    pub fn new(
        gateway: &str,
        topics: &config::Topics,
        layout: config::Layout,
        counters: &Counters,
    ) -> Result<Self, TemplateError> {
        let narrow = layout == config::Layout::Narrow;
        Ok(Self {
            gateway: gateway.to_owned(),
            reading: Route::new(Template::parse(&topics.reading, narrow)?),
            aggregate: Route::new(Template::parse(&topics.aggregate, true)?),
            alarm: Route::new(Template::parse(&topics.alarm, narrow)?),
            dead_letter: Route::new(Template::parse(&topics.dead_letter, narrow)?),
            counters: counters.clone(),
        })
    }

    /// Where a record of that lane goes, or, in the narrow layout, the value of that measurement.
    pub fn resolve(&mut self, lane: Lane, record: &Record, measurement: Option<&str>) -> Arc<Topic> {
        let measurement = match record {
            Record::Aggregate(aggregate) => Some(&*aggregate.measurement.name),
            _ => measurement,
        };
        let route = match record {
            Record::DeadLetter(_) => &mut self.dead_letter,
            Record::Reading(_) | Record::Aggregate(_) if lane == Lane::Alarm => &mut self.alarm,
            Record::Aggregate(_) => &mut self.aggregate,
            _ => &mut self.reading,
        };
        if let Some(topic) = &route.only {
            return Arc::clone(topic);
        }
        let (profile, device) = match record {
            Record::Reading(reading) => (Some(&reading.profile), Some(&reading.device)),
            Record::Aggregate(aggregate) => (Some(&aggregate.profile), Some(&aggregate.device)),
            Record::State(state) => (Some(&state.profile), Some(&state.device)),
            Record::DeadLetter(letter) => (letter.profile.as_ref(), Some(&letter.source)),
            Record::Gap(_) | Record::StreamEnd(_) | Record::Event(_) => (None, None),
        };
        let key: Key = (
            profile.filter(|_| route.profile).cloned(),
            device.filter(|_| route.device).cloned(),
            record.kind(),
            measurement.filter(|_| route.template.has(Slot::Measurement)).map(Into::into),
        );
        if let Some(topic) = route.cached.get(&key) {
            return Arc::clone(topic);
        }
        let name = route.template.fill(&self.gateway, &Subject::of(record, measurement)).into_boxed_str();
        let topic = Arc::new(Topic { delivered: self.counters.counter(Count::Delivered, &name), name });
        if route.cached.len() >= CACHE_MAX {
            route.cached.clear();
        }
        // A template without anything that varies has one topic for ever.
        if ![Slot::Profile, Slot::Device, Slot::Kind, Slot::Measurement].iter().any(|slot| route.template.has(*slot)) {
            route.only = Some(Arc::clone(&topic));
        }
        route.cached.insert(key, Arc::clone(&topic));
        topic
    }
}

impl Route {
    fn new(template: Template) -> Self {
        Self {
            profile: template.has(Slot::Profile),
            device: template.has(Slot::Device),
            only: None,
            cached: HashMap::new(),
            template,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str, profile: &str, device: &str) -> String {
        let subject = Subject { profile, device, kind: "reading", measurement: "temperature" };
        Template::parse(template, true).unwrap().fill("home-01", &subject)
    }

    #[test]
    fn placeholders_are_filled_in_and_made_legal() {
        let cases = [
            ("iot.readings", "p", "d", "iot.readings"),
            ("iot.{gateway}.{profile}.{kind}", "dsmr/5", "d", "iot.home-01.dsmr_5.reading"),
            ("{device}", "p", "Küche/oben 1", "K_che_oben_1"),
            ("{device}", "p", "..", "__"),
            ("{device}", "p", "", "_"),
            ("x{measurement}", "p", "d", "xtemperature"),
        ];
        for (template, profile, device, expected) in cases {
            assert_eq!(fill(template, profile, device), expected, "{template} {device}");
        }
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let (first, second) = (format!("{}a", "x".repeat(300)), format!("{}b", "x".repeat(300)));
        let (first, second) = (fill("t.{device}", "p", &first), fill("t.{device}", "p", &second));
        assert_eq!(first.len(), NAME_BYTES_MAX);
        assert_ne!(first, second);
    }

    #[test]
    fn templates_are_refused_with_a_reason() {
        let cases = [
            ("", "empty"),
            ("iot.{devise}", "{devise} is not a placeholder"),
            ("iot.{device", "no partner"),
            ("iot.device}", "no partner"),
            ("iot readings", "' '"),
            ("iot.{measurement}", "narrow"),
        ];
        for (template, expected) in cases {
            let error = Template::parse(template, false).unwrap_err().to_string();
            assert!(error.contains(expected), "{template}: {error}");
        }
    }
}
