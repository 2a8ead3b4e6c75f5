//! Decoding: a profile turns a frame into readings.
//!
//! Pure: no clock and no I/O, the same frames give the same records. No input panics. What a topic leads to, the names of
//! devices and of measurements are worked out once and remembered, in bounds; a good frame of numbers allocates nothing.
//!
//! A value that is wrong inside of a frame that is otherwise good costs only itself: it is counted, the others are kept.

mod devices;
mod doc;
mod error;
mod extract;
mod formats;
mod json;
mod moment;
mod payload;
mod pieces;
mod place;
mod route;
mod state;
mod time;
mod value;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use jiff::tz::TimeZone;

pub use error::DecoderError;
pub use extract::FIELDS_MAX;
pub(crate) use formats::mbus::more_telegrams_follow;
pub use pieces::Pieces;
pub use time::TimeFormat;
pub use value::TEXT_BYTES_MAX;

use crate::config::{Bus, BusProtocol, Mqtt, Serial};
use crate::counters::{Count, Counter, Counters};
use crate::profile::{Format, Profile, ProfileSet, Transport};
use crate::reading::{
    Batch, DeviceState, Field, Frame, Mark, Name, Reading, Reason, Record, Stage, Stamp, TimeQuality,
};
use devices::Devices;
use doc::Doc;
use extract::Extractor;
use formats::sparkplug;
pub use formats::sparkplug::Request;
use moment::{Moment, device_of, event_time};
use place::Place;
use route::{Captures, Route, Routes};
use value::quoted;

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
    /// What was found in a text of the payload, and what a format reads a payload into before it is resolved.
    inner: Doc,
    devices: Devices,
    device: String,
    /// What nodes of Sparkplug B said in their births.
    births: sparkplug::Nodes,
    /// Who is to be asked for one, if anyone may be.
    rebirths: Option<sparkplug::Rebirths>,
    origin: Box<str>,
    gaps: Counter,
    /// Where the parts of the payload are, and where the one at hand is.
    places: VecDeque<Vec<usize>>,
    nodes: Vec<usize>,
    rejected: Vec<Reason>,
    counters: HashMap<Reason, Counter>,
}

/// What became of a frame.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// That many readings were pushed, and of a birth message the state that it tells.
    Readings(usize),
    /// A device state was pushed, or one for each device that went together with others.
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
                return Err(wrong_transport(&settings.name, &profile));
            };
            routes.add(&settings.name, &profile.id, topics, used)?;
            extractors.push(Extractor::new(profile));
        }
        let mut decoder = Self::new(extractors, routes, settings.time_zone.as_deref(), &settings.name)?;
        if settings.rebirth {
            decoder.rebirths = Some(sparkplug::Rebirths::default());
        }
        Ok(decoder.calling(&settings.names))
    }

    /// A decoder for the lines of a serial port.
    pub fn for_serial(settings: &Serial, profiles: &ProfileSet) -> Result<Self, DecoderError> {
        let profile = find(profiles, &settings.profile, &settings.name)?;
        let Transport::Serial(line) = &profile.transport else {
            return Err(wrong_transport(&settings.name, &profile));
        };
        if settings.every.is_some() && line.poll.is_none() {
            let (origin, profile) = (settings.name.clone(), Arc::clone(&profile.id));
            return Err(DecoderError::NothingAsked { origin, profile });
        }
        let routes = Routes::one_device(Arc::from(settings.device.as_str()));
        let extractors = vec![Extractor::new(profile)];
        let decoder = Self::new(extractors, routes, settings.time_zone.as_deref(), &settings.name)?;
        Ok(decoder.calling(&settings.names))
    }

    /// A decoder for the devices of a bus: a frame's origin is the [`BusUnit::origin`](crate::config::BusUnit::origin) of the
    /// device that it came from.
    pub fn for_bus(settings: &Bus, profiles: &ProfileSet) -> Result<Self, DecoderError> {
        let mut extractors: Vec<Extractor> = Vec::new();
        let mut units = Vec::new();
        for unit in &settings.units {
            let profile = find(profiles, &unit.profile, &settings.name)?;
            if profile.transport.bus().is_none_or(|(protocol, _)| protocol != settings.protocol) {
                return Err(wrong_transport(&settings.name, &profile));
            }
            let known = extractors.iter().position(|extractor| extractor.profile().id == profile.id);
            let index = known.unwrap_or_else(|| {
                extractors.push(Extractor::new(profile));
                extractors.len() - 1
            });
            units.push((unit.origin(&settings.port), index, Arc::from(unit.device.as_str())));
        }
        Self::new(extractors, Routes::devices(units), None, &settings.name)
    }

    fn new(extractors: Vec<Extractor>, routes: Routes, zone: Option<&str>, origin: &str) -> Result<Self, DecoderError> {
        let unknown = |zone: &str| DecoderError::TimeZone { origin: origin.to_owned(), zone: zone.to_owned() };
        let zone = zone.map(|zone| TimeZone::get(zone).map_err(|_| unknown(zone))).transpose()?;
        Ok(Self {
            extractors,
            routes,
            zone,
            doc: Doc::default(),
            inner: Doc::default(),
            devices: Devices::default(),
            device: String::new(),
            births: sparkplug::Nodes::default(),
            rebirths: None,
            origin: origin.into(),
            gaps: Counter::default(),
            places: VecDeque::new(),
            nodes: Vec::new(),
            rejected: Vec::new(),
            counters: HashMap::new(),
        })
    }

    /// With these names instead of those that devices give themselves.
    fn calling(mut self, names: &BTreeMap<String, String>) -> Self {
        self.devices = Devices::new(names);
        self
    }

    /// Counts single values that are left out of a reading ([`Count::ValuesRejected`]) and messages that did not arrive
    /// ([`Count::SequenceGaps`]) with these counters.
    #[must_use]
    pub fn counting(mut self, counters: &Counters) -> Self {
        let counter = |reason: &Reason| (*reason, counters.counter(Count::ValuesRejected, reason.as_str()));
        self.counters = Reason::ALL.iter().map(counter).collect();
        if self.is_sparkplug() {
            self.gaps = counters.counter(Count::SequenceGaps, &self.origin);
        }
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

    /// Whether [`Decoder::take_requests`] may ever give something.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.rebirths.is_some() && self.is_sparkplug()
    }

    fn is_sparkplug(&self) -> bool {
        self.extractors.iter().any(|extractor| matches!(extractor.profile().format, Format::Sparkplug))
    }

    /// What the devices are to be asked because of what was decoded; the caller sends it, or nobody does.
    pub fn take_requests(&mut self) -> Vec<Request> {
        self.rebirths.as_mut().map(sparkplug::Rebirths::take).unwrap_or_default()
    }

    /// The payloads of a message, each of which is a frame to be decoded by itself: mostly one.
    pub fn pieces<'f>(&mut self, frame: Frame<'f>) -> Pieces<'f> {
        let profile = self.routes.splitting(frame.origin).filter(|_| frame.oversize.is_none());
        let transport = profile.and_then(|profile| self.extractors.get(profile)).map(|one| &one.profile().transport);
        let delimiter = match transport {
            Some(Transport::Mqtt(topics)) => topics.delimiter.clone(),
            _ => None,
        };
        Pieces::new(frame, delimiter)
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
            Route::Readings { profile, device, captures } => {
                self.readings(frame, received, out, profile, (&device, &captures))
            }
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

    fn readings(
        &mut self,
        frame: &Frame<'_>,
        received: Stamp,
        out: &mut Batch,
        profile: usize,
        (device_of_route, captures): (&Name, &Captures),
    ) -> Step<Outcome> {
        let rules = Arc::clone(self.extractors[profile].profile());
        let heard = self.take_apart(frame, received, &rules, profile, (device_of_route, captures))?;
        let unread = self.look_inside(&rules, profile)?;
        let first = heard.first.or(unread);
        let mut tried = Tried { without_reading: heard.nothing, first, ..Tried::default() };
        self.gaps.add(heard.gap.into());
        self.rejected.extend(std::iter::repeat_n(Reason::UnknownAlias, heard.unknown));
        self.rejected.extend(std::iter::repeat_n(Reason::TooLarge, heard.too_many));
        self.rejected.extend(std::iter::repeat_n(Reason::Malformed, heard.unreadable));
        for (device, online) in &heard.states {
            let device = self.devices.name(device).unwrap_or_else(|| Arc::clone(device_of_route));
            let device = self.devices.called(device);
            let profile = Arc::clone(&rules.id);
            out.records.push(Record::State(Box::new(DeviceState { device, profile, online: *online, received })));
        }
        let of = (device_of_route, captures);
        for (part, rule) in rules.parts.iter().enumerate() {
            match &rule.each {
                // The place of nearly all frames, and nothing is allocated for it.
                None if self.doc.root().is_some() => {
                    self.nodes.clear();
                    self.nodes.push(0);
                    self.reading(frame, received, out, (profile, part), of, &mut tried);
                }
                None => {}
                Some(each) => {
                    self.places.clear();
                    self.doc.places(each, &mut self.places);
                    while let Some(nodes) = self.places.pop_front() {
                        self.nodes = nodes;
                        self.reading(frame, received, out, (profile, part), of, &mut tried);
                    }
                }
            }
        }
        if tried.readings > 0 {
            return Ok(Outcome::Readings(tried.readings));
        }
        if !heard.states.is_empty() {
            return Ok(Outcome::State);
        }
        if tried.without_time {
            return Err(Outcome::RetainedWithoutTime);
        }
        match self.rejected.first() {
            Some(reason) => {
                let reason = *reason;
                self.rejected.clear();
                self.reject(profile, reason, tried.first.unwrap_or_default())
            }
            // A sentence, an answer or a state of the device that no part of the profile is for.
            None if tried.without_reading || !tried.applied || rules.ignore_without_value => Err(Outcome::Ignored),
            None => self.reject(profile, Reason::NoValue, "none of the fields that the profile knows is there"),
        }
    }

    /// What a part of the profile finds at one place, [`Decoder::nodes`].
    fn reading(
        &mut self,
        frame: &Frame<'_>,
        received: Stamp,
        out: &mut Batch,
        (profile, part): (usize, usize),
        (device_of_route, captures): (&Name, &Captures),
        tried: &mut Tried,
    ) {
        let extractor = &mut self.extractors[profile];
        let profile = Arc::clone(extractor.profile());
        let rules = &profile.parts[part];
        let place = Place { doc: &self.doc, nodes: &self.nodes, depth: self.nodes.len(), captures };
        if !place.holds(&rules.when) {
            return;
        }
        tried.applied = true;
        let mark = out.mark();
        let found = extractor.extract(part, &self.doc, &mut self.nodes, captures, out);
        tried.without_reading |= found.without_reading > 0;
        tried.first = tried.first.take().or(found.first);
        self.rejected.extend(found.rejected);
        if found.values == 0 {
            return;
        }
        let place = Place { doc: &self.doc, nodes: &self.nodes, depth: self.nodes.len(), captures };
        let (at, time_is_wrong) = match rules.time.as_ref().map(|rule| event_time(rule, place, self.zone.as_ref())) {
            Some(Ok(at)) => (at, false),
            Some(Err(())) => (None, true),
            None => (None, false),
        };
        // A retained message may have arrived at any time before us.
        if frame.retained && !matches!(at, Some(Moment::At(_))) {
            out.truncate_fields(mark);
            tried.without_time = true;
            return;
        }
        let device = if rules.device.is_empty() { None } else { device_of(&rules.device, place, &mut self.device) };
        let device = device.and_then(|()| self.devices.name(&self.device));
        let device = self.devices.called(device.unwrap_or_else(|| Arc::clone(device_of_route)));
        if time_is_wrong {
            self.rejected.push(Reason::BadTime);
        }
        let arrival = if received.trusted { TimeQuality::Arrival } else { TimeQuality::Unsynced };
        let (time_ms, time_quality) = match at {
            Some(Moment::At(ms)) => (ms, TimeQuality::Device),
            Some(Moment::FromArrival(ms)) => (received.wall_ms.saturating_add(ms), arrival),
            None => (received.wall_ms, arrival),
        };
        // What follows of the same device and time is the same reading, unless it says the same again.
        if tried.readings > 0
            && rules.each.is_some()
            && let [.., Record::Reading(before)] = out.records.as_mut_slice()
            && (&before.device, before.time_ms, before.time_quality) == (&device, time_ms, time_quality)
            && before.fields.end == mark
        {
            let (old, new) = out.fields[before.fields.start as usize..].split_at((mark - before.fields.start) as usize);
            let is_new = |field: &Field| old.iter().all(|other| other.measurement.name != field.measurement.name);
            if old.len() + new.len() <= FIELDS_MAX && new.iter().all(is_new) {
                before.fields.end = out.fields.len() as u32;
                return;
            }
        }
        out.records.push(Record::Reading(Reading {
            device,
            profile: Arc::clone(&profile.id),
            time_ms,
            time_quality,
            received,
            mark: Mark::None,
            alarm: None,
            fields: mark..out.mark(),
        }));
        tried.readings += 1;
    }
}

/// What came of a frame so far.
#[derive(Debug, Default)]
struct Tried {
    readings: usize,
    /// The conditions of a part hold.
    applied: bool,
    /// Fields are there that say that there is no reading.
    without_reading: bool,
    /// Something was retained and has no time.
    without_time: bool,
    /// The first value that was rejected, for a person.
    first: Option<String>,
}

fn wrong_transport(origin: &str, profile: &Profile) -> DecoderError {
    let expected = match profile.transport {
        Transport::Mqtt(_) => "MQTT",
        Transport::Serial(_) => "serial",
        Transport::Bus(BusProtocol::Modbus, _) => "Modbus",
        Transport::Bus(BusProtocol::Mbus, _) => "M-Bus",
    };
    DecoderError::WrongTransport { origin: origin.to_owned(), profile: Arc::clone(&profile.id), expected }
}

fn find(profiles: &ProfileSet, id: &str, origin: &str) -> Result<Arc<Profile>, DecoderError> {
    profiles.get(id).cloned().map_err(|error| DecoderError::Unknown { origin: origin.to_owned(), error })
}

#[cfg(test)]
mod tests;
