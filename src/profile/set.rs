//! All profiles that a gateway knows: the built-in ones, and the files of a directory.

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use super::framing::{Framing, FramingKind};
use super::{BUILTIN_FILES, BusSettings, Poll, Profile, Transport};
use crate::config::{Bus, BusAddress, Serial};

/// A profile file that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {message}", file.display())]
pub struct ProfileError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// What was expected, what was found, what to do.
    pub message: String,
}

/// There is no profile of that id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no profile `{id}`{}", suggestion.as_ref().map(|id| format!("; did you mean `{id}`?")).unwrap_or_default())]
pub struct UnknownProfile {
    /// What was asked for.
    pub id: String,
    /// What is nearest to it.
    pub suggestion: Option<Arc<str>>,
}

/// All profiles that a gateway knows.
#[derive(Clone, Debug, Default)]
pub struct ProfileSet {
    profiles: BTreeMap<Arc<str>, Arc<Profile>>,
    /// The files of those that are not built in: to tell whether one has changed, and to keep it.
    texts: BTreeMap<Arc<str>, Arc<str>>,
}

/// The most files that are looked at in a profile directory.
const FILES_MAX: usize = 10_000;
/// How deep directories are looked into.
const DEPTH_MAX: usize = 4;

impl ProfileSet {
    /// The built-in profiles.
    #[must_use]
    pub fn builtin() -> Self {
        let mut set = Self::default();
        for (path, text) in BUILTIN_FILES {
            // A test proves that each of them parses.
            if let Ok(profile) = Profile::parse(FilePath::new(path), text) {
                set.insert(profile);
            }
        }
        set
    }

    /// The built-in profiles, and those of all `.toml` files below `dir`, which need not exist.
    #[must_use]
    pub fn load(dir: &FilePath) -> (Self, Vec<ProfileError>) {
        let mut set = Self::builtin();
        let mut errors = Vec::new();
        let mut files = Vec::new();
        collect(dir, 0, &mut files, &mut errors);
        files.sort();
        let mut seen: BTreeMap<Arc<str>, PathBuf> = BTreeMap::new();
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(|error| ProfileError {
                file: file.clone(),
                line: 0,
                message: format!("cannot be read: {error}"),
            });
            match text.and_then(|text| Ok((Profile::parse(&file, &text)?, text))) {
                Ok((profile, text)) => match seen.get(&profile.id) {
                    Some(first) => errors.push(ProfileError {
                        message: format!(
                            "the id `{}` is taken by {}; give this one another",
                            profile.id,
                            first.display()
                        ),
                        line: 1,
                        file,
                    }),
                    None => {
                        seen.insert(Arc::clone(&profile.id), file);
                        set.texts.insert(Arc::clone(&profile.id), text.into());
                        set.insert(profile);
                    }
                },
                Err(error) => errors.push(error),
            }
        }
        (set, errors)
    }

    /// Adds the profile of a file's text, as [`ProfileSet::text`] gave it.
    ///
    /// # Errors
    /// When it is not a profile to this program.
    pub fn insert_text(&mut self, file: &FilePath, text: &str) -> Result<(), ProfileError> {
        let profile = Profile::parse(file, text)?;
        self.texts.insert(Arc::clone(&profile.id), text.into());
        self.insert(profile);
        Ok(())
    }

    /// The file that a profile was read from; none for those that are built in.
    #[must_use]
    pub fn text(&self, id: &str) -> Option<&Arc<str>> {
        self.texts.get(id)
    }

    /// Adds a profile; one with the same id is replaced.
    pub fn insert(&mut self, profile: Profile) {
        self.profiles.insert(Arc::clone(&profile.id), Arc::new(profile));
    }

    /// The profile of that id.
    pub fn get(&self, id: &str) -> Result<&Arc<Profile>, UnknownProfile> {
        self.profiles.get(id).ok_or_else(|| UnknownProfile { id: id.to_owned(), suggestion: self.nearest(id) })
    }

    fn nearest(&self, id: &str) -> Option<Arc<str>> {
        let last = |id: &str| id.rsplit('/').next().unwrap_or_default().to_owned();
        let score = |known: &str| strsim::jaro_winkler(id, known).max(strsim::jaro_winkler(&last(id), &last(known)));
        let best = self.profiles.keys().max_by(|a, b| score(a).total_cmp(&score(b)))?;
        (score(best) > 0.8).then(|| Arc::clone(best))
    }

    /// All profiles, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Profile>> {
        self.profiles.values()
    }

    /// The settings of a serial port, completed by what its profile says.
    pub fn resolve(&self, serial: &Serial) -> Result<Serial, UnknownProfile> {
        let mut resolved = serial.clone();
        if let Transport::Serial(line) = &self.get(&serial.profile)?.transport {
            resolved.baud = resolved.baud.or(line.baud);
            resolved.data_bits = resolved.data_bits.or(line.data_bits);
            resolved.parity = resolved.parity.or(line.parity);
            resolved.stop_bits = resolved.stop_bits.or(line.stop_bits);
            resolved.delimiter = resolved.delimiter.or_else(|| line.delimiter.clone());
            resolved.frame_bytes_max = resolved.frame_bytes_max.or(line.frame_bytes_max);
        }
        Ok(resolved)
    }

    /// How frames lie in the stream of a serial port: as its profile says, unless its settings say otherwise.
    pub fn framing(&self, serial: &Serial) -> Result<Framing, UnknownProfile> {
        let mut framing = match &self.get(&serial.profile)?.transport {
            Transport::Serial(line) => Framing::clone(&line.framing),
            Transport::Mqtt(_) | Transport::Bus(..) => Framing::default(),
        };
        if let Some(delimiter) = &serial.delimiter {
            framing.kind = FramingKind::Delimiter(delimiter.clone());
        }
        framing.bytes_max = serial.frame_bytes_max.unwrap_or(framing.bytes_max);
        Ok(framing)
    }

    /// What the device on a serial port is asked, if it has to be: as its profile says, in the rhythm of its settings.
    #[must_use]
    pub fn poll(&self, serial: &Serial) -> Option<Poll> {
        let Transport::Serial(line) = &self.profiles.get(serial.profile.as_str())?.transport else { return None };
        let mut poll = line.poll.clone()?;
        poll.every = serial.every.unwrap_or(poll.every);
        poll.timeout = poll.timeout.min(poll.every / (poll.start.len() + poll.requests.len()).max(1) as u32);
        Some(poll)
    }

    /// The settings of a bus, completed by what the profiles of its devices say.
    ///
    /// # Errors
    /// When two devices are shipped with other settings of the line, and the configuration leaves it to them.
    pub fn resolve_bus(&self, bus: &Bus) -> Result<Bus, LineConflict> {
        let mut resolved = bus.clone();
        let said: Vec<(BusAddress, &BusSettings)> = bus
            .units
            .iter()
            .filter_map(|unit| Some((unit.address, self.profiles.get(unit.profile.as_str())?.transport.bus()?.1)))
            .collect();
        fn agree<T: Copy + PartialEq>(
            own: Option<T>,
            key: &'static str,
            of: impl Iterator<Item = (BusAddress, Option<T>)>,
        ) -> Result<Option<T>, LineConflict> {
            if own.is_some() {
                return Ok(own);
            }
            let mut said = of.filter_map(|(unit, value)| Some((unit, value?)));
            let Some((first, value)) = said.next() else { return Ok(None) };
            match said.find(|(_, other)| *other != value) {
                Some((second, _)) => Err(LineConflict { key, first, second }),
                None => Ok(Some(value)),
            }
        }
        let of = || said.iter().copied();
        resolved.baud = agree(bus.baud, "baud", of().map(|(unit, line)| (unit, line.baud)))?;
        resolved.parity = agree(bus.parity, "parity", of().map(|(unit, line)| (unit, line.parity)))?;
        resolved.stop_bits = agree(bus.stop_bits, "stop_bits", of().map(|(unit, line)| (unit, line.stop_bits)))?;
        for unit in &mut resolved.units {
            let line = said.iter().find(|(address, _)| *address == unit.address).map(|(_, line)| *line);
            unit.every = unit.every.or(bus.every).or(line.and_then(|line| line.every));
            unit.timeout = unit.timeout.or(bus.timeout).or(line.and_then(|line| line.timeout));
        }
        Ok(resolved)
    }
}

/// The profiles of two devices on one line know it with other settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "missing: the profiles of the units {first} and {second} know it otherwise, so that one of them was set to the line: say it here"
)]
pub struct LineConflict {
    /// The key that must be said.
    pub key: &'static str,
    /// The address of one of them.
    pub first: BusAddress,
    /// The address of another one.
    pub second: BusAddress,
}

fn collect(dir: &FilePath, depth: usize, files: &mut Vec<PathBuf>, errors: &mut Vec<ProfileError>) {
    let mut refuse = |message: String| errors.push(ProfileError { file: dir.to_owned(), line: 0, message });
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if depth == 0 && error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => return refuse(format!("cannot be read: {error}")),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            // Boards have profiles of another kind there.
            if depth < DEPTH_MAX && entry.file_name() != "boards" {
                collect(&path, depth + 1, files, errors);
            }
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            if files.len() >= FILES_MAX {
                errors.push(ProfileError { file: path, line: 0, message: format!("more than {FILES_MAX} profiles") });
                return;
            }
            files.push(path);
        }
    }
}
