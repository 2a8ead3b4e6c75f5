//! Device profiles: how a device's firmware speaks, as data.
//!
//! A profile is a TOML file: topics or line settings, where in a payload which measurement is, in which unit, and sample
//! frames with the readings that they must give. Adding a device is adding a file. The built-in ones are compiled in;
//! files of a directory add to them, and one with the same id replaces.
//!
//! Invariants: a profile that is in a [`ProfileSet`] is valid, its patterns parsed; a file that is not is reported with
//! file and line and stops nothing else. Nothing here does I/O but [`ProfileSet::load`].

mod binary;
mod board;
mod builtin;
mod field;
mod file;
mod format;
pub mod framing;
mod path;
mod registers;
mod sample;
mod set;
mod telegram;
mod topic;
mod trial;

use std::sync::Arc;
use std::time::Duration;

use framing::Framing;

pub use binary::{Binary, BinaryKind, BinaryValue, Item, ItemKind, ItemValue, Items, Optional};
pub use board::{Board, Disk, Port};
pub use builtin::{BOARD_FILES, FILES as BUILTIN_FILES};
pub use format::{Coding, Delimited, Format, Held, Inside, Pairs, TextPattern};
pub use path::{NAME_BYTES_MAX, NamePattern, Path, PatternError, sanitise};
pub use registers::{
    BITS_MAX, BusSettings, REGISTERS_MAX, RegisterBlock, RegisterOrder, RegisterTable, RegisterValue, Registers,
    exception_text,
};
pub use sample::{Expected, Sample, SampleReading, unhex};
pub use set::{LineConflict, ProfileError, ProfileSet, UnknownProfile};
pub use telegram::{Telegram, checksum};
pub use topic::{LEVELS_MAX, TopicPattern, covers};
pub use trial::{Heard, Mismatch, decoder, hear, run_samples};

use jiff::tz::TimeZone;

use crate::config::{BusProtocol, Parity};
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
    /// What stands between the payloads that one message holds; `None` if it holds one.
    pub delimiter: Option<Arc<str>>,
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

/// What has a device on a serial port say something: `[poll]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// What is sent before the first round after the port was opened, and before each while the device is silent.
    pub start: Vec<Vec<u8>>,
    /// What is sent in each round, one after the other.
    pub requests: Vec<Vec<u8>>,
    /// How often.
    pub every: Duration,
    /// How long a frame may take to come of one of them; of all together at most as long as `every`.
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
    /// What the highest of these bits says, if they have a sign.
    pub sign: Option<Sign>,
    /// The base of the digits of a text, if it is not ten.
    pub base: Option<u32>,
    /// The number is degrees and minutes as NMEA 0183 writes them: `5222.3198` is 52 degrees and 22.3198 minutes.
    pub degrees: bool,
    /// What of a text is the value: the group `value`.
    pub pattern: Option<TextPattern>,
    /// What stands in a text where the decimals begin, if it is no point.
    pub decimal: Option<char>,
    /// Numbers of the payload that it is multiplied by.
    pub times: Vec<KeyPath>,
    /// Numbers of the payload that are added after the conversion, with the scale of each.
    pub plus: Vec<(KeyPath, f64)>,
    /// Where the payload says the power of ten that it is multiplied by.
    pub exponent: Option<KeyPath>,
    /// The number is negative where this holds: `S` beside a latitude, a bit of another byte.
    pub negative: Option<Condition>,
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

impl FieldRule {
    /// Whether its numbers are computed with, so that more digits than a double has are of no use.
    pub(crate) fn computes(&self) -> bool {
        self.convert.is_some()
            || self.exponent.is_some()
            || self.negative.is_some()
            || !self.times.is_empty()
            || !self.plus.is_empty()
    }
}

/// How some bits of a number say that it is negative, all by the highest of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// In two's complement.
    Complement,
    /// The others are its magnitude.
    Magnitude,
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
    /// A number is between these, and neither of them.
    Between {
        /// Where it is; the field's own if nothing is said.
        path: Option<KeyPath>,
        /// It is greater than this.
        above: f64,
        /// It is less than this.
        below: f64,
    },
}
