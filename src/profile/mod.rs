//! Device profiles: how a device's firmware speaks, as data.
//!
//! A profile is a TOML file: topics or line settings, where in a payload which measurement is, in which unit, and sample
//! frames with the readings that they must give. Adding a device is adding a file. The built-in ones are compiled in;
//! files of a directory add to them, and one with the same id replaces.
//!
//! Invariants: a profile that is in a [`ProfileSet`] is valid, its patterns parsed; a file that is not is reported with
//! file and line and stops nothing else. Nothing here does I/O but [`ProfileSet::load`].

mod board;
mod builtin;
mod file;
mod format;
pub mod framing;
mod path;
mod registers;
mod sample;
mod telegram;
mod topic;

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use framing::{Framing, FramingKind};

pub use board::{Board, Disk, Port};
pub use builtin::{BOARD_FILES, FILES as BUILTIN_FILES};
pub use format::{Binary, BinaryKind, BinaryValue, Coding, Delimited, Format, Inside, Pairs, TextPattern};
pub use path::{NAME_BYTES_MAX, NamePattern, Path, PatternError, sanitise};
pub use registers::{
    BITS_MAX, BusSettings, REGISTERS_MAX, RegisterBlock, RegisterOrder, RegisterTable, RegisterValue, Registers,
    exception_text,
};
pub use sample::{Expected, Heard, Mismatch, Sample, SampleReading, decoder, hear, run_samples, unhex};
pub use telegram::{Telegram, checksum};
pub use topic::{LEVELS_MAX, TopicPattern, covers};

use jiff::tz::TimeZone;

use crate::config::{Bus, BusAddress, BusProtocol, Parity, Serial};
use crate::decode::TimeFormat;
use crate::reading::MeasurementKind;

/// How one device's firmware speaks.
#[derive(Clone, Debug)]
pub struct Profile {
    /// `vendor/model`, or the vendor alone where one profile is enough.
    pub id: Arc<str>,
    /// For a person who looks for a device.
    pub description: String,
    /// Where the format is documented.
    pub source: String,
    /// How its frames arrive.
    pub transport: Transport,
    /// How a frame is written.
    pub format: Format,
    /// Texts of a frame that hold bytes.
    pub inside: Vec<Inside>,
    /// Whether a frame in which nothing is found is passed over, and no error: the device says other things too.
    pub ignore_without_value: bool,
    /// What is in a frame: each of them gives readings of its own.
    pub parts: Vec<Part>,
    /// The profile's own test.
    pub samples: Vec<Sample>,
}

impl Profile {
    /// The rules of all its parts.
    pub fn fields(&self) -> impl Iterator<Item = &FieldRule> {
        self.parts.iter().flat_map(|part| &part.fields)
    }
}

/// What gives one reading for each place that it is at: most frames are one such part, and its place is the whole frame.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Where it is, as often as that matches; the whole frame if nothing is said. Paths of the part begin there, and what is
    /// not found there is looked for in what is around it.
    pub each: Option<Path>,
    /// Where the payload names the device; several are joined with `-`. The topic or the port names it otherwise.
    pub device: Vec<KeyPath>,
    /// Where the payload says when it was measured.
    pub time: Option<TimeRule>,
    /// All must hold, or it gives nothing.
    pub when: Vec<Condition>,
    /// What is in it, in the order of the file: of several rules that match a path the first that applies counts.
    pub fields: Vec<FieldRule>,
    /// Paths that are never taken.
    pub skip: Vec<Path>,
}

/// A path of plain keys: it names at most one value. `@key` is the key or position of the place where the part begins, and
/// `@NAME` what `{NAME}` took from the topic; a topic's `{key}` stands for the key that the whole payload does not have.
/// `@root` before other keys looks for them in the whole payload alone.
pub type KeyPath = Vec<Box<str>>;

/// How frames arrive.
#[derive(Clone, Debug)]
pub enum Transport {
    /// As messages of an MQTT broker.
    Mqtt(Topics),
    /// As lines of a serial port.
    Serial(LineSettings),
    /// As what a device answers that is asked: registers of Modbus, telegrams of M-Bus.
    Bus(BusProtocol, BusSettings),
}

impl Transport {
    /// Of a device that is asked on a bus: what is spoken there, and how the bus is set.
    #[must_use]
    pub fn bus(&self) -> Option<(BusProtocol, &BusSettings)> {
        match self {
            Self::Bus(protocol, settings) => Some((*protocol, settings)),
            Self::Mqtt(_) | Self::Serial(_) => None,
        }
    }
}

/// The topics of a profile, as written in the file: they are parsed when the prefix is known.
#[derive(Clone, Debug)]
pub struct Topics {
    /// The beginning of all its topics that a configuration can replace.
    pub prefix: Option<String>,
    /// Topics of readings.
    pub readings: Vec<String>,
    /// Topics of device states.
    pub states: Vec<StateRule>,
    /// Topics that the subscription brings and nobody wants.
    pub ignore: Vec<String>,
}

/// How a device says that it came or went.
#[derive(Clone, Debug)]
pub struct StateRule {
    /// The topic.
    pub topic: String,
    /// The device's name where the topic has no `{device}`.
    pub device: Option<String>,
    /// Where the word is if the payload is JSON.
    pub path: Option<KeyPath>,
    /// Words for a device that came.
    pub online: Vec<String>,
    /// Words for a device that went.
    pub offline: Vec<String>,
}

/// Settings of a serial line; what is `None` is not the profile's business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineSettings {
    /// Bits a second.
    pub baud: Option<u32>,
    /// 5 to 8.
    pub data_bits: Option<u8>,
    /// Parity.
    pub parity: Option<Parity>,
    /// 1 or 2.
    pub stop_bits: Option<u8>,
    /// What ends a line.
    pub delimiter: Option<Vec<u8>>,
    /// The longest frame in bytes, with all that belongs to its framing.
    pub frame_bytes_max: Option<usize>,
    /// How frames lie in the stream.
    pub framing: Box<Framing>,
    /// What a device is asked that does not talk by itself.
    pub poll: Option<Poll>,
}

/// A request that has a device on a serial port say something: `[poll]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// The bytes that are sent.
    pub request: Vec<u8>,
    /// How often.
    pub every: Duration,
    /// How long a frame may take to come of it; at most as long as `every`.
    pub timeout: Duration,
}

/// Where a payload says when it was measured.
#[derive(Clone, Debug)]
pub struct TimeRule {
    /// Where; several are joined with spaces.
    pub paths: Vec<KeyPath>,
    /// How it may be written; the first that fits counts.
    pub formats: Vec<TimeFormat>,
    /// The zone of times without one, where the device knows better than the configuration.
    pub zone: Option<TimeZone>,
    /// All must hold, or the payload's time is not to be believed: a clock that says that it was not set.
    pub when: Vec<Condition>,
    /// A time before this is that of a clock which was never set: the arrival counts.
    pub not_before_ms: Option<i64>,
    /// Where nanoseconds are that are added; they may be below 0.
    pub plus_ns: Option<KeyPath>,
}

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// A number.
    Number,
    /// A text.
    Text,
    /// A truth value.
    Flag,
    /// Whatever it is.
    Any,
}

/// One kind of value in a frame, and what becomes of it.
#[derive(Clone, Debug)]
pub struct FieldRule {
    /// Where it is.
    pub path: Path,
    /// The measurement's name.
    pub name: NamePattern,
    /// UCUM code.
    pub unit: Option<UnitRule>,
    /// Gauge or counter.
    pub kind: MeasurementKind,
    /// What it must be.
    pub value_type: ValueType,
    /// Result = number * scale + offset; `None` for a number that is taken as it is.
    pub convert: Option<Convert>,
    /// The bits of a whole number that count: the lowest of them, and how many.
    pub bits: Option<(u8, u8)>,
    /// The number is degrees and minutes as NMEA 0183 writes them: `5222.3198` is 52 degrees and 22.3198 minutes.
    pub degrees: bool,
    /// The number is negative where there is one of these texts: `S` for a latitude.
    pub negative: Option<(KeyPath, Vec<Box<str>>)>,
    /// What a number or a word stands for.
    pub words: Vec<(Box<str>, Box<str>)>,
    /// What is possible, after the conversion.
    pub range: Option<(f64, f64)>,
    /// Numbers that mean "no reading", before the conversion.
    pub no_reading: Vec<f64>,
    /// Texts that mean it.
    pub no_reading_texts: Vec<Box<str>>,
    /// Texts that mean true.
    pub on: Vec<Box<str>>,
    /// Texts that mean false.
    pub off: Vec<Box<str>>,
    /// All must hold, or the rule does not apply.
    pub when: Vec<Condition>,
    /// Whether a list at the path gives one value for each of its elements.
    pub list: bool,
    /// Whether it is for keys that nobody listed: values that do not fit are passed over, not counted.
    pub open: bool,
}

/// Where a unit comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitRule {
    /// It is always the same.
    Fixed(Box<str>),
    /// The payload says it, in words of its own: those that are listed stand for a UCUM code, others are taken as they are.
    Found(KeyPath, Vec<(Box<str>, Box<str>)>),
}

impl UnitRule {
    /// The code, where it is always the same.
    #[must_use]
    pub fn fixed(&self) -> Option<&str> {
        match self {
            Self::Fixed(code) => Some(code),
            Self::Found(..) => None,
        }
    }
}

/// A linear conversion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Convert {
    /// The factor.
    pub scale: f64,
    /// What is added afterwards.
    pub offset: f64,
}

/// When a rule applies.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// There is a value, not null, at that path.
    Present(KeyPath),
    /// There is none, or it is null.
    Absent(KeyPath),
    /// The value at that path is one of these texts; a `*` in one stands for any text.
    Is(KeyPath, Vec<Box<str>>),
    /// There is no value at that path, or it is none of these texts.
    Not(KeyPath, Vec<Box<str>>),
    /// This bit of the whole number at that path is set, or is not; where there is no number it is not.
    Bit {
        /// Where the number is.
        path: KeyPath,
        /// From 0, the lowest.
        bit: u8,
        /// What is wanted of it.
        set: bool,
    },
    /// The number itself is greater than this.
    Above(f64),
}

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
        poll.timeout = poll.timeout.min(poll.every);
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
