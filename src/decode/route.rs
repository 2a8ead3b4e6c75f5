//! Which profile reads a topic, and which device the topic names: worked out once for each topic and remembered.

use std::sync::Arc;

use foldhash::HashMap;

use super::{DEVICE_BYTES_MAX, DecoderError};
use crate::config::ProfileUse;
use crate::profile::{PatternError, TopicPattern, Topics, covers};
use crate::reading::Name;

/// Topics that are remembered; when there are more, all are forgotten.
const TOPICS_MAX: usize = 10_000;

/// What a topic says besides the device, by name.
pub(super) type Captures = Arc<[(Box<str>, Box<str>)]>;

/// Where a frame goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Route {
    /// A profile asks not to take it, and none does.
    Ignored,
    /// A profile reads it.
    Readings { profile: usize, device: Name, captures: Captures },
    /// It is a state, by that rule of the profile.
    State { profile: usize, rule: usize, device: Name },
}

/// The topics of one profile as a source uses it.
#[derive(Debug)]
struct Patterns {
    states: Vec<(TopicPattern, Option<Name>)>,
    readings: Vec<TopicPattern>,
    ignore: Vec<TopicPattern>,
    exclude: Vec<TopicPattern>,
}

/// All routes of one source.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Whether messages of some profile hold several payloads.
    splits: bool,
    profiles: Vec<Patterns>,
    known: HashMap<Box<str>, Route>,
    /// A serial port: whatever comes is for its one profile.
    only: Option<Route>,
}

impl Routes {
    pub(super) fn one_device(device: Name) -> Self {
        Self { only: Some(Route::Readings { profile: 0, device, captures: Arc::default() }), ..Self::default() }
    }

    /// Frames of devices that are known beforehand: the origin of each, its profile and its name.
    pub(super) fn devices(devices: impl IntoIterator<Item = (String, usize, Name)>) -> Self {
        let route = |(origin, profile, device): (String, usize, Name)| {
            (origin.into_boxed_str(), Route::Readings { profile, device, captures: Captures::default() })
        };
        // Nothing is worked out without patterns, so these are never forgotten.
        Self { known: devices.into_iter().map(route).collect(), ..Self::default() }
    }

    pub(super) fn is_serial(&self) -> bool {
        self.only.is_some()
    }

    /// Adds the topics of a profile; the first one added has the first say.
    pub(super) fn add(
        &mut self,
        origin: &str,
        id: &Name,
        topics: &Topics,
        used: &ProfileUse,
    ) -> Result<(), DecoderError> {
        let refuse =
            |error: PatternError| DecoderError::Topic { origin: origin.to_owned(), profile: Arc::clone(id), error };
        if used.prefix.is_some() && topics.prefix.is_none() {
            return Err(DecoderError::NoPrefix { origin: origin.to_owned(), profile: Arc::clone(id) });
        }
        let prefixed = |topic: &String| match (&topics.prefix, &used.prefix) {
            (Some(from), Some(to)) => {
                TopicPattern::with_prefix(topic, from, to.trim_end_matches('/')).unwrap_or_else(|| topic.clone())
            }
            _ => topic.clone(),
        };
        let parse = |topic: &String| TopicPattern::parse(&prefixed(topic)).map_err(refuse);
        let state = |rule: &crate::profile::StateRule| {
            let device = rule.device.as_deref().map(Arc::from);
            parse(&rule.topic).map(|pattern| (pattern, device))
        };
        self.splits |= topics.delimiter.is_some();
        self.profiles.push(Patterns {
            states: topics.states.iter().map(state).collect::<Result<_, _>>()?,
            readings: topics.readings.iter().map(parse).collect::<Result<_, _>>()?,
            ignore: topics.ignore.iter().map(parse).collect::<Result<_, _>>()?,
            exclude: used
                .exclude
                .iter()
                .map(|filter| TopicPattern::parse(filter).map_err(refuse))
                .collect::<Result<_, _>>()?,
        });
        Ok(())
    }

    /// The profile that reads a topic, if there is one whose messages hold several payloads.
    pub(super) fn splitting(&mut self, topic: &str) -> Option<usize> {
        match self.splits.then(|| self.find(topic))?? {
            Route::Readings { profile, .. } => Some(profile),
            Route::Ignored | Route::State { .. } => None,
        }
    }

    /// The route of a topic.
    pub(super) fn find(&mut self, topic: &str) -> Option<Route> {
        if let Some(only) = &self.only {
            return Some(only.clone());
        }
        if let Some(route) = self.known.get(topic) {
            return Some(route.clone());
        }
        let route = self.work_out(topic)?;
        if self.known.len() >= TOPICS_MAX {
            self.known.clear();
        }
        self.known.insert(topic.into(), route.clone());
        Some(route)
    }

    fn work_out(&self, topic: &str) -> Option<Route> {
        let mut ignored = None;
        for (profile, patterns) in self.profiles.iter().enumerate() {
            if patterns.exclude.iter().any(|pattern| pattern.matches(topic).is_some()) {
                ignored = Some(Route::Ignored);
                continue;
            }
            for (rule, (pattern, device)) in patterns.states.iter().enumerate() {
                let captured = pattern.matches(topic).and_then(name);
                if pattern.matches(topic).is_some()
                    && let Some(device) = device.clone().or(captured)
                {
                    return Some(Route::State { profile, rule, device });
                }
            }
            if patterns.ignore.iter().any(|pattern| pattern.matches(topic).is_some()) {
                ignored = Some(Route::Ignored);
                continue;
            }
            for pattern in &patterns.readings {
                let mut captures = Vec::new();
                let capture = |name: &str, word: &str| captures.push((format!("@{name}").into(), word.into()));
                if let Some(captured) = pattern.matches_with(topic, capture) {
                    // Without a capture the topic is the name: the payload usually has a better one.
                    let device = if pattern.has_device() { name(captured) } else { name(topic) };
                    if let Some(device) = device {
                        return Some(Route::Readings { profile, device, captures: captures.into() });
                    }
                }
            }
        }
        ignored
    }

    /// The filters that bring all topics of all profiles, without those that another one covers: a broker may send a
    /// message once for each filter that it meets.
    pub(super) fn subscriptions(&self) -> Vec<String> {
        let mut filters: Vec<String> = Vec::new();
        for patterns in &self.profiles {
            let states = patterns.states.iter().map(|(pattern, _)| pattern);
            for filter in states.chain(&patterns.readings).flat_map(TopicPattern::filters) {
                if !filters.iter().any(|known| covers(known, &filter)) {
                    filters.retain(|known| !covers(&filter, known));
                    filters.push(filter);
                }
            }
        }
        filters.sort();
        filters
    }
}

fn name(text: &str) -> Option<Name> {
    (!text.is_empty() && text.len() <= DEVICE_BYTES_MAX).then(|| Arc::from(text))
}
