//! Decoding: a profile turns a frame into readings.
//!
//! Pure: no clock and no I/O, the same frames give the same records. No input panics. What a topic leads to, the names of
//! devices and of measurements are worked out once and remembered, in bounds; a good frame of numbers allocates nothing.
//!
//! A value that is wrong inside of a frame that is otherwise good costs only itself: it is counted, the others are kept.

mod doc;
mod extract;
mod route;
mod time;

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use jiff::tz::TimeZone;

pub use extract::{FIELDS_MAX, TEXT_BYTES_MAX};
pub use time::TimeFormat;

use crate::config::{Mqtt, Serial};
use crate::counters::{Count, Counter, Counters};
use crate::profile::{Delimited, Format, PatternError, ProfileSet, TimeRule, Transport, UnknownProfile};
use crate::reading::{Batch, DeviceState, Frame, Mark, Name, Reading, Reason, Record, Stage, Stamp, TimeQuality};
use doc::{Doc, Kind};
use extract::{Extractor, quoted};
use route::{Route, Routes};
use time::Parsed;

/// Device names that are remembered.
const DEVICES_MAX: usize = 10_000;
/// The longest name of a device in bytes.
const DEVICE_BYTES_MAX: usize = 256;

/// Decodes the frames of one source.
#[derive(Debug)]
pub struct Decoder {
    extractors: Vec<Extractor>,
    routes: Routes,
    zone: Option<TimeZone>,
    doc: Doc,
    devices: HashMap<Box<str>, Name>,
    device: String,
    rejected: Vec<Reason>,
    counters: HashMap<Reason, Counter>,
}

/// What became of a frame.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// That many readings were pushed.
    Readings(usize),
    /// A device state was pushed.
    State,
    /// The profile knows this frame and asks to ignore it.
    Ignored,
    /// A retained message without a time of its own: nothing says when it was measured.
    RetainedWithoutTime,
    /// It could not be read.
    Rejected(Rejection),
}

/// Why a frame could not be read.
#[derive(Debug, PartialEq)]
pub struct Rejection {
    /// The profile that tried.
    pub profile: Option<Name>,
    /// Where.
    pub stage: Stage,
    /// Why, as a code.
    pub reason: Reason,
    /// Why, for a person: what was expected and what was found.
    pub detail: String,
}

/// Why no decoder can be made of a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecoderError {
    /// No profile has that id.
    #[error("{origin}: {error}")]
    Unknown {
        /// The source.
        origin: String,
        /// The profile, with the nearest known one.
        error: UnknownProfile,
    },
    /// The profile is for the other kind of source.
    #[error("{origin}: the profile `{profile}` is for {expected} sources; use it there, or choose another one")]
    WrongTransport {
        /// The source.
        origin: String,
        /// The profile.
        profile: Name,
        /// What the profile is for.
        expected: &'static str,
    },
    /// A prefix is given for a profile that has none.
    #[error("{origin}: the profile `{profile}` has no prefix that `prefix` could replace; remove it")]
    NoPrefix {
        /// The source.
        origin: String,
        /// The profile.
        profile: Name,
    },
    /// A topic filter or the result of replacing a prefix is no topic filter.
    #[error("{origin}: profile `{profile}`: {error}")]
    Topic {
        /// The source.
        origin: String,
        /// The profile.
        profile: Name,
        /// What is wrong with it.
        error: PatternError,
    },
    /// The time zone is not known.
    #[error("{origin}: time_zone `{zone}` is not known; expected a name such as `Europe/Amsterdam`")]
    TimeZone {
        /// The source.
        origin: String,
        /// What was found.
        zone: String,
    },
}

/// A result that is decided before the last step: a plain `?` ends the decoding of a frame.
type Step<T> = Result<T, Outcome>;

impl Decoder {
    /// A decoder for the messages of an MQTT broker.
    pub fn for_mqtt(settings: &Mqtt, profiles: &ProfileSet) -> Result<Self, DecoderError> {
        let mut extractors = Vec::new();
        let mut routes = Routes::default();
        for used in &settings.profiles {
            let profile = find(profiles, &used.id, &settings.name)?;
            let Transport::Mqtt(topics) = &profile.transport else {
                let origin = settings.name.clone();
                return Err(DecoderError::WrongTransport {
                    origin,
                    profile: Arc::clone(&profile.id),
                    expected: "serial",
                });
            };
            routes.add(&settings.name, &profile.id, topics, used)?;
            extractors.push(Extractor::new(profile));
        }
        Self::new(extractors, routes, settings.time_zone.as_deref(), &settings.name)
    }

    /// A decoder for the lines of a serial port.
    pub fn for_serial(settings: &Serial, profiles: &ProfileSet) -> Result<Self, DecoderError> {
        let profile = find(profiles, &settings.profile, &settings.name)?;
        let Transport::Serial(_) = &profile.transport else {
            let origin = settings.name.clone();
            return Err(DecoderError::WrongTransport { origin, profile: Arc::clone(&profile.id), expected: "MQTT" });
        };
        let routes = Routes::one_device(Arc::from(settings.device.as_str()));
        Self::new(vec![Extractor::new(profile)], routes, settings.time_zone.as_deref(), &settings.name)
    }

    fn new(extractors: Vec<Extractor>, routes: Routes, zone: Option<&str>, origin: &str) -> Result<Self, DecoderError> {
        let unknown = |zone: &str| DecoderError::TimeZone { origin: origin.to_owned(), zone: zone.to_owned() };
        let zone = zone.map(|zone| TimeZone::get(zone).map_err(|_| unknown(zone))).transpose()?;
        Ok(Self {
            extractors,
            routes,
            zone,
            doc: Doc::default(),
            devices: HashMap::new(),
            device: String::new(),
            rejected: Vec::new(),
            counters: HashMap::new(),
        })
    }

    /// Counts single values that are left out of a reading ([`Count::ValuesRejected`]) with these counters.
    #[must_use]
    pub fn counting(mut self, counters: &Counters) -> Self {
        let counter = |reason: &Reason| (*reason, counters.counter(Count::ValuesRejected, reason.as_str()));
        self.counters = Reason::ALL.iter().map(counter).collect();
        self
    }

    /// The MQTT topic filters to subscribe to.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<String> {
        self.routes.subscriptions()
    }

    /// The single values that the last frame lost, by reason.
    #[must_use]
    pub fn values_rejected(&self) -> &[Reason] {
        &self.rejected
    }

    /// Decodes one frame onto the end of `out`.
    pub fn decode(&mut self, frame: &Frame<'_>, received: Stamp, out: &mut Batch) -> Outcome {
        self.rejected.clear();
        let Some(route) = self.routes.find(frame.origin) else {
            return Outcome::Rejected(Rejection {
                profile: None,
                stage: Stage::Decode,
                reason: Reason::NoProfile,
                detail: format!("no profile of this source knows the topic {}", quoted(frame.origin)),
            });
        };
        let mark = out.mark();
        let outcome = match route {
            Route::Ignored => Err(Outcome::Ignored),
            Route::Readings { profile, device } => self.readings(frame, received, out, profile, &device),
            Route::State { profile, rule, device } => self.state(frame, received, out, profile, rule, device),
        };
        for reason in &self.rejected {
            if let Some(counter) = self.counters.get(reason) {
                counter.add(1);
            }
        }
        outcome.unwrap_or_else(|outcome| {
            out.truncate_fields(mark);
            outcome
        })
    }

    fn reject<T>(&self, profile: usize, reason: Reason, detail: impl Into<String>) -> Step<T> {
        let profile = self.extractors.get(profile).map(|extractor| Arc::clone(&extractor.profile().id));
        Err(Outcome::Rejected(Rejection { profile, stage: Stage::Decode, reason, detail: detail.into() }))
    }

    /// The payload as text, if there is a whole one.
    fn text<'f>(&self, frame: &Frame<'f>, profile: usize) -> Step<&'f str> {
        if let Some(length) = frame.oversize {
            let detail = format!("{length} bytes, more than the source's limit");
            return self.reject(profile, Reason::TooLarge, detail);
        }
        match std::str::from_utf8(frame.payload) {
            Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
            Err(error) => {
                let at = error.valid_up_to();
                let byte = frame.payload.get(at).copied().unwrap_or_default();
                self.reject(profile, Reason::NotUtf8, format!("byte {at}: expected UTF-8, found 0x{byte:02x}"))
            }
        }
    }

    fn readings(
        &mut self,
        frame: &Frame<'_>,
        received: Stamp,
        out: &mut Batch,
        profile: usize,
        device_of_route: &Name,
    ) -> Step<Outcome> {
        let text = self.text(frame, profile)?;
        if text.trim_ascii().is_empty() {
            // An empty retained message clears its topic, and an empty line says nothing.
            if frame.retained || self.routes.is_serial() {
                return Err(Outcome::Ignored);
            }
            return self.reject(profile, Reason::Empty, "the payload has no bytes");
        }
        let rules = Arc::clone(self.extractors[profile].profile());
        match &rules.format {
            Format::Json => self.read_json(text, profile)?,
            Format::Delimited(columns) => self.read_columns(text, columns, profile)?,
        }
        let mark = out.mark();
        let extracted = self.extractors[profile].extract(&self.doc, out);
        if extracted.values == 0 {
            return match extracted.rejected.first() {
                Some(reason) => self.reject(profile, *reason, extracted.first.unwrap_or_default()),
                None if extracted.without_reading > 0 => Err(Outcome::Ignored),
                None => self.reject(profile, Reason::NoValue, "none of the fields that the profile knows is there"),
            };
        }
        self.rejected.extend(extracted.rejected);
        let at = rules.time.as_ref().and_then(|rule| self.event_time(rule));
        if frame.retained && at.is_none() {
            return Err(Outcome::RetainedWithoutTime);
        }
        let device = if rules.device.is_empty() { None } else { self.device_of_payload(&rules.device) };
        let arrival = if received.trusted { TimeQuality::Arrival } else { TimeQuality::Unsynced };
        let (time_ms, time_quality) = at.map_or((received.wall_ms, arrival), |ms| (ms, TimeQuality::Device));
        out.records.push(Record::Reading(Reading {
            device: device.unwrap_or_else(|| Arc::clone(device_of_route)),
            profile: Arc::clone(&rules.id),
            time_ms,
            time_quality,
            received,
            mark: Mark::None,
            alarm: None,
            fields: mark..out.mark(),
        }));
        Ok(Outcome::Readings(1))
    }

    fn read_json(&mut self, text: &str, profile: usize) -> Step<()> {
        match self.doc.read_json(text) {
            Ok(()) if self.doc.root().is_some_and(|(_, node)| matches!(node.kind, Kind::Object | Kind::List)) => Ok(()),
            Ok(()) => {
                self.reject(profile, Reason::WrongType, format!("expected a JSON object, found {}", quoted(text)))
            }
            Err(error) if error.too_large => self.reject(profile, Reason::TooLarge, error.detail),
            Err(error) => self.reject(profile, Reason::NotJson, error.detail),
        }
    }

    fn read_columns(&mut self, text: &str, rules: &Delimited, profile: usize) -> Step<()> {
        let text = text.trim_end_matches(['\r', '\n']);
        if rules.comment.as_ref().is_some_and(|comment| text.starts_with(&**comment)) {
            return Err(Outcome::Ignored);
        }
        let columns = || text.split(&*rules.separator).map(str::trim);
        if rules.header && columns().map(Some).eq(rules.columns.iter().map(|name| Some(&**name))) {
            return Err(Outcome::Ignored);
        }
        let (expected, found) = (rules.columns.len(), columns().count());
        if expected > 0 && expected != found {
            return self.reject(profile, Reason::WrongColumns, format!("expected {expected} columns, found {found}"));
        }
        self.doc.begin_flat();
        for (index, column) in columns().enumerate() {
            let fits = match rules.columns.get(index) {
                Some(name) => self.doc.push_flat(name, column),
                None => self.doc.push_flat(&(index + 1).to_string(), column),
            };
            if !fits {
                return self.reject(profile, Reason::TooLarge, format!("{found} columns are too many"));
            }
        }
        Ok(())
    }

    /// When the payload says that it was measured; a time that is wrong is counted, and the arrival counts instead.
    fn event_time(&mut self, rule: &TimeRule) -> Option<i64> {
        let node = self.doc.find(&rule.path)?;
        let zone = self.zone.as_ref();
        let read = |format: &TimeFormat| match node.kind {
            Kind::Number(number) => time::number(number, format),
            Kind::Text(text) | Kind::Digits(text) => time::text(self.doc.text(text), format, zone),
            _ => Parsed::Wrong,
        };
        if node.kind == Kind::Null {
            return None;
        }
        match rule.formats.iter().map(read).find(|parsed| *parsed != Parsed::Wrong) {
            // A clock that was never set says so by an old time; that is no error.
            Some(Parsed::At(ms)) => rule.not_before_ms.is_none_or(|limit| ms >= limit).then_some(ms),
            Some(Parsed::NoZone) => None,
            Some(Parsed::Wrong) | None => {
                self.rejected.push(Reason::BadTime);
                None
            }
        }
    }

    /// The device that the payload names.
    fn device_of_payload(&mut self, paths: &[Vec<Box<str>>]) -> Option<Name> {
        use std::fmt::Write as _;
        self.device.clear();
        for path in paths {
            let Some(node) = self.doc.find(path) else { continue };
            if matches!(node.kind, Kind::Text(_) | Kind::Digits(_) | Kind::Number(_)) && !self.device.is_empty() {
                self.device.push('-');
            }
            match node.kind {
                Kind::Text(text) | Kind::Digits(text) => self.device.push_str(self.doc.text(text).trim()),
                // Writing to a String cannot fail.
                Kind::Number(number) => drop(write!(self.device, "{number}")),
                _ => {}
            }
        }
        if self.device.is_empty() || self.device.len() > DEVICE_BYTES_MAX {
            return None;
        }
        if let Some(name) = self.devices.get(self.device.as_str()) {
            return Some(Arc::clone(name));
        }
        if self.devices.len() >= DEVICES_MAX {
            self.devices.clear();
        }
        let name: Name = Arc::from(self.device.as_str());
        self.devices.insert(self.device.as_str().into(), Arc::clone(&name));
        Some(name)
    }

    fn state(
        &mut self,
        frame: &Frame<'_>,
        received: Stamp,
        out: &mut Batch,
        profile: usize,
        rule: usize,
        device: Name,
    ) -> Step<Outcome> {
        let text = self.text(frame, profile)?.trim();
        if text.is_empty() {
            return Err(Outcome::Ignored);
        }
        let rules = Arc::clone(self.extractors[profile].profile());
        let Transport::Mqtt(topics) = &rules.transport else { return Err(Outcome::Ignored) };
        let Some(rule) = topics.states.get(rule) else { return Err(Outcome::Ignored) };
        let mut word = text;
        if let Some(path) = &rule.path
            && text.starts_with('{')
        {
            self.read_json(text, profile)?;
            match self.doc.find(path).map(|node| node.kind) {
                Some(Kind::Text(text)) => word = self.doc.text(text),
                _ => {
                    let detail = format!("expected a text at `{}`", path.join("."));
                    return self.reject(profile, Reason::MissingField, detail);
                }
            }
        }
        let is = |words: &[String]| words.iter().any(|known| known == word);
        let online = match (is(&rule.online), is(&rule.offline)) {
            (true, _) => true,
            (_, true) => false,
            _ => {
                let known =
                    rule.online.iter().chain(&rule.offline).map(String::as_str).collect::<Vec<_>>().join("`, `");
                let detail = format!("expected one of `{known}`, found {}", quoted(word));
                return self.reject(profile, Reason::WrongType, detail);
            }
        };
        let profile = Arc::clone(&rules.id);
        out.records.push(Record::State(Box::new(DeviceState { device, profile, online, received })));
        Ok(Outcome::State)
    }
}

fn find(profiles: &ProfileSet, id: &str, origin: &str) -> Result<Arc<crate::profile::Profile>, DecoderError> {
    profiles.get(id).cloned().map_err(|error| DecoderError::Unknown { origin: origin.to_owned(), error })
}

#[cfg(test)]
mod tests;
