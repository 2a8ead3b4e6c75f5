//! What flows through the gateway: frames as they arrive, and the records that they become.
//!
//! Invariants: this module knows nothing but `std`; it does no I/O and reads no clock. Everything comes in batches,
//! laid out flat: one pass over a batch allocates for the batch, not for each reading. Names of devices and
//! measurements are interned (`Arc<str>`, `Arc<Measurement>`), so that cloning one costs a counter.

use std::ops::Range;
use std::sync::Arc;

/// An interned name: of a device, a profile, a source.
pub type Name = Arc<str>;

/// A moment as this board saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Wall clock, milliseconds since 1970-01-01T00:00:00Z. Only as good as [`Stamp::trusted`] says.
    pub wall_ms: i64,
    /// Milliseconds since the board booted; never steps.
    pub monotonic_ms: u64,
    /// Whether the wall clock was believed to be right at that moment.
    pub trusted: bool,
}

/// What an MQTT message needs so that its redelivery after a crash is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The packet identifier that the broker gave it.
    pub packet_id: u16,
    /// A 64-bit hash of topic and payload.
    pub hash: u64,
}

impl Receipt {
    /// How many are kept for each session at least. A 3.1.1 broker may have far more unacknowledged than we are told; each
    /// of these costs 16 bytes of memory, and 10 once in a segment.
    pub const KEPT_MIN: u16 = 4096;

    /// Says that the broker has lost the session: receipts before this one are void, and their identifiers are given out
    /// anew. No message has the identifier 0.
    pub const SESSION_LOST: Self = Self { packet_id: 0, hash: 0 };
}

/// Where in [`Frames`] one frame lies, and what is known about it.
#[derive(Clone, Debug)]
struct FrameMeta {
    origin: Range<u32>,
    payload: Range<u32>,
    retained: bool,
    oversize: Option<u64>,
    bad_checksum: Option<ChecksumMismatch>,
}

/// Why a frame is not whole: what its checksum says, and what its bytes give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumMismatch {
    /// What stands in the frame; nothing where there is no checksum to be read.
    pub found: Option<u32>,
    /// What the checksum of its bytes is; nothing where it has not the bytes that it covers.
    pub computed: Option<u32>,
}

impl std::fmt::Display for ChecksumMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.found, self.computed) {
            (Some(found), Some(computed)) => {
                write!(f, "the checksum is 0x{found:02x}, its bytes give 0x{computed:02x}")
            }
            (None, Some(computed)) => write!(f, "there is no checksum; its bytes give 0x{computed:02x}"),
            (_, None) => write!(f, "it is too short for its checksum, or its end was lost"),
        }
    }
}

/// All the frames that one read of a source gave, in the order of arrival.
#[derive(Debug, Default)]
pub struct Frames {
    /// When the read happened.
    pub received: Stamp,
    data: Vec<u8>,
    frames: Vec<FrameMeta>,
}

/// Bytes as one unit from a wire.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The topic or the port that it came from.
    pub origin: &'a str,
    /// The bytes; for a frame that is over the limit only its beginning.
    pub payload: &'a [u8],
    /// Whether the broker had kept it for new subscribers.
    pub retained: bool,
    /// Its full length in bytes where it was too long to be kept whole.
    pub oversize: Option<u64>,
}

impl Frames {
    /// An empty batch for frames that were read at `received`.
    #[must_use]
    pub fn new(received: Stamp) -> Self {
        Self { received, ..Self::default() }
    }

    /// Empties the batch and keeps its memory, for the next read.
    pub fn reset(&mut self, received: Stamp) {
        self.received = received;
        self.data.clear();
        self.frames.clear();
    }

    /// Adds a frame. A batch holds less than 4 GiB, which every source's read limit guarantees.
    pub fn push(&mut self, origin: &str, payload: &[u8], retained: bool) {
        self.push_part(origin, payload, retained, None, None);
    }

    /// Adds the beginning of a frame that was over the limit; `length` is what it would have had in bytes.
    pub fn push_oversize(&mut self, origin: &str, beginning: &[u8], retained: bool, length: u64) {
        self.push_part(origin, beginning, retained, Some(length), None);
    }

    /// Adds a frame whose checksum is wrong: [`Frames::iter`] passes it over, [`Frames::damaged`] gives it.
    pub fn push_damaged(&mut self, origin: &str, frame: &[u8], mismatch: ChecksumMismatch) {
        self.push_part(origin, frame, false, None, Some(mismatch));
    }

    fn push_part(
        &mut self,
        origin: &str,
        payload: &[u8],
        retained: bool,
        oversize: Option<u64>,
        bad_checksum: Option<ChecksumMismatch>,
    ) {
        let origin = self.extend(origin.as_bytes());
        let payload = self.extend(payload);
        self.frames.push(FrameMeta { origin, payload, retained, oversize, bad_checksum });
    }

    fn extend(&mut self, bytes: &[u8]) -> Range<u32> {
        let start = self.data.len() as u32;
        self.data.extend_from_slice(bytes);
        start..self.data.len() as u32
    }

    /// The frames that may be whole, in the order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = Frame<'_>> {
        self.frames.iter().filter(|meta| meta.bad_checksum.is_none()).map(|meta| self.frame(meta))
    }

    /// The frames whose checksum is wrong, in the order of arrival.
    pub fn damaged(&self) -> impl Iterator<Item = (Frame<'_>, ChecksumMismatch)> {
        self.frames.iter().filter_map(|meta| Some((self.frame(meta), meta.bad_checksum?)))
    }

    fn frame(&self, meta: &FrameMeta) -> Frame<'_> {
        Frame {
            // The range was made from a `&str`, so the bytes are UTF-8.
            origin: std::str::from_utf8(slice(&self.data, &meta.origin)).unwrap_or_default(),
            payload: slice(&self.data, &meta.payload),
            retained: meta.retained,
            oversize: meta.oversize,
        }
    }

    /// How many frames there are, damaged ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes of all origins and payloads together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data.len()
    }
}

fn slice<'a>(data: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    data.get(range.start as usize..range.end as usize).unwrap_or_default()
}

/// Whether a measurement goes up and down or only counts up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MeasurementKind {
    /// A quantity that goes up and down: a temperature.
    Gauge,
    /// A total that only rises, but for resets: an energy meter's register.
    Counter,
}

/// A quantity that devices report, with the one unit that it always has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Measurement {
    /// `[a-z0-9_]+`, the same over all profiles.
    pub name: Box<str>,
    /// The UCUM code, for numbers that have a unit.
    pub unit: Option<Box<str>>,
    /// Gauge or counter.
    pub kind: MeasurementKind,
}

/// One value of a reading.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A finite number. NaN and infinity never get here.
    Number(f64),
    /// A text, or a whole number beyond 2^53 that a double would falsify.
    Text(Box<str>),
    /// A truth value.
    Flag(bool),
}

/// A measurement and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// What was measured.
    pub measurement: Arc<Measurement>,
    /// What it was.
    pub value: Value,
}

/// How an event time is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeQuality {
    /// The device said so.
    Device,
    /// The time of arrival, by a trusted clock.
    Arrival,
    /// The time of arrival, by a clock that was not trusted.
    Unsynced,
    /// The time of arrival, corrected once the clock was right.
    Corrected,
}

impl TimeQuality {
    /// The word that stands in a record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Arrival => "arrival",
            Self::Unsynced => "unsynced",
            Self::Corrected => "corrected",
        }
    }
}

/// Why values of a reading did not get into the window that their time belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// Nothing stood in the way.
    #[default]
    None,
    /// The window had closed.
    Late,
    /// The time is further ahead of a trusted clock than is believed.
    Future,
}

impl Mark {
    /// The word that stands in a record, if there is one.
    #[must_use]
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Late => Some("late"),
            Self::Future => Some("future"),
        }
    }
}

/// What one device reported at one event time. Its values are in the [`Batch`] that holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The device's name.
    pub device: Name,
    /// The id of the profile that decoded it.
    pub profile: Name,
    /// Event time in milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: i64,
    /// How that time is known.
    pub time_quality: TimeQuality,
    /// When the gateway received it.
    pub received: Stamp,
    /// Whether it came too late, or too early, for a window.
    pub mark: Mark,
    /// The rule by which a value of it is an alarm, if one is; of several rules the first in the configuration.
    pub alarm: Option<Name>,
    /// Which of the batch's fields are its values.
    pub fields: Range<u32>,
}

/// What an aggregate was made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A rule asked for it.
    #[default]
    Window,
    /// It stands for readings that were stored, because the disk was filling up.
    Thinned,
}

impl Origin {
    /// The word that stands in a record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Thinned => "thinned",
        }
    }
}

/// What one measurement of one device was over one window of event time.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// The device's name.
    pub device: Name,
    /// The id of the profile that decoded its readings.
    pub profile: Name,
    /// What was measured.
    pub measurement: Arc<Measurement>,
    /// What it was made for.
    pub origin: Origin,
    /// The name of the rule that asked for it; `thinned` where none did.
    pub window: Name,
    /// The window's first moment, in milliseconds since 1970-01-01T00:00:00Z.
    pub start_ms: i64,
    /// The first moment after it.
    pub end_ms: i64,
    /// 1 when the window closes; one more for each late reading that was let in afterwards.
    pub revision: u32,
    /// How many values.
    pub count: u64,
    /// Their sum, exact but for the last rounding; `None` if it is beyond the doubles.
    pub sum: Option<f64>,
    /// The least value.
    pub min: f64,
    /// The greatest value.
    pub max: f64,
    /// The value with the earliest time.
    pub first: f64,
    /// The value with the latest time.
    pub last: f64,
    /// When the gateway made it.
    pub at: Stamp,
}

impl Aggregate {
    /// The arithmetic mean, if the sum is known.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        self.sum.filter(|_| self.count > 0).map(|sum| sum / self.count as f64)
    }
}

/// A device came or went: its availability topic or last will said so.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceState {
    /// The device's name.
    pub device: Name,
    /// The id of the profile that knew the text.
    pub profile: Name,
    /// Whether the device can be reached.
    pub online: bool,
    /// When the gateway heard of it.
    pub received: Stamp,
}

/// Where on the way of a reading an input was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// While it was read from the wire.
    Source,
    /// While a profile decoded it.
    Decode,
    /// While it was stored.
    Outbox,
    /// While it was sent.
    Uplink,
}

impl Stage {
    /// The word that stands in a record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Decode => "decode",
            Self::Outbox => "outbox",
            Self::Uplink => "uplink",
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal,)+) => {
        /// Why an input could not become a reading: a closed list, so that a consumer can switch on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
            /// All of them.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// The code that stands in a dead letter and in a counter.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$variant => $code,)+ }
            }

            /// The reason that has this code.
            #[must_use]
            pub fn from_code(code: &str) -> Option<Self> {
                match code { $($code => Some(Reason::$variant),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// No profile of the source knows the topic.
    NoProfile = "no_profile",
    /// The payload has no bytes.
    Empty = "empty",
    /// The payload is longer than the source's limit.
    TooLarge = "too_large",
    /// Text was expected and the bytes are not UTF-8.
    NotUtf8 = "not_utf8",
    /// JSON was expected and does not parse.
    NotJson = "not_json",
    /// The frame is not in the profile's format.
    Malformed = "malformed",
    /// A field is there and has the wrong type.
    WrongType = "wrong_type",
    /// A field that must be there is not.
    MissingField = "missing_field",
    /// None of the fields that the profile knows is there.
    NoValue = "no_value",
    /// A number is outside of what the profile calls possible, or is not finite.
    OutOfRange = "out_of_range",
    /// The payload's time does not parse.
    BadTime = "bad_time",
    /// A line has another number of columns than the profile says.
    WrongColumns = "wrong_columns",
    /// The checksum is wrong.
    BadChecksum = "bad_checksum",
    /// What it is a value of was said in an earlier message, which has not been heard.
    UnknownAlias = "unknown_alias",
    /// Kafka refused the record for good.
    KafkaRejected = "kafka_rejected",
}

/// An input that could not become a reading, with the reason and its beginning.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The source's name in the configuration, such as `mqtt.home`.
    pub source: Name,
    /// The MQTT topic or the serial port.
    pub origin: Box<str>,
    /// The profile that tried, where one did.
    pub profile: Option<Name>,
    /// When it arrived.
    pub received: Stamp,
    /// Where it was refused.
    pub stage: Stage,
    /// Why, as a code.
    pub reason: Reason,
    /// Why, for a person: what was expected, what was found, and where.
    pub detail: Box<str>,
    /// Its full length in bytes.
    pub length: u64,
    /// Its first bytes, at most [`DeadLetter::PAYLOAD_BYTES_MAX`].
    pub payload: Box<[u8]>,
}

impl DeadLetter {
    /// How much of a payload a dead letter keeps.
    pub const PAYLOAD_BYTES_MAX: usize = 4096;
}

/// Numbers of a stream that will not come: what was given up is declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Gap {
    /// The stream that the numbers belong to.
    pub stream: Name,
    /// The first number that will not come.
    pub from: u64,
    /// The last number that will not come.
    pub to: u64,
    /// How many records that are (numbers in between may have been delivered).
    pub count: u64,
    /// Why: `evicted`, `expired`, `thinned` or `damaged`.
    pub cause: Name,
    /// The stream that stands for what was thinned.
    pub replaced_by: Option<Name>,
    /// When it was decided.
    pub at: Stamp,
}

/// The last number of a stream that ended without a clean stop.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamEnd {
    /// The stream.
    pub stream: Name,
    /// The last number that is known to be durable; 0 if none.
    pub last: u64,
    /// When it was found.
    pub at: Stamp,
}

/// What a gateway tells of itself: a closed list, so that a consumer can switch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It started with the configuration that it had kept, because the one that it was given is not fit to run.
    ConfigFallback,
    /// It goes on with a configuration that was loaded while it ran.
    ConfigReloaded,
    /// A configuration that was loaded while it ran was refused: the one before it goes on.
    ConfigRefused,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ConfigFallback, Self::ConfigReloaded, Self::ConfigRefused];

    /// The word that stands in a record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigFallback => "config-fallback",
            Self::ConfigReloaded => "config-reloaded",
            Self::ConfigRefused => "config-refused",
        }
    }

    /// The event of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Something happened to the gateway itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What.
    pub event: EventKind,
    /// More about it, for a person; at most [`Event::DETAIL_BYTES_MAX`].
    pub detail: Box<str>,
    /// When.
    pub at: Stamp,
}

impl Event {
    /// A detail is cut to this many bytes.
    pub const DETAIL_BYTES_MAX: usize = 2048;

    /// An event whose detail is cut where it is too long.
    #[must_use]
    pub fn new(event: EventKind, detail: &str, at: Stamp) -> Self {
        let detail = detail.get(..detail.floor_char_boundary(Self::DETAIL_BYTES_MAX)).unwrap_or_default();
        Self { event, detail: detail.into(), at }
    }
}

/// One thing to keep and to deliver: it has one number in its stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A reading; its values are in the batch.
    Reading(Reading),
    /// A window's aggregate.
    Aggregate(Box<Aggregate>),
    /// A device came or went.
    State(Box<DeviceState>),
    /// An input that could not be read.
    DeadLetter(Box<DeadLetter>),
    /// Numbers that will not come.
    Gap(Box<Gap>),
    /// A stream that ended without a clean stop.
    StreamEnd(Box<StreamEnd>),
    /// Something happened to the gateway itself.
    Event(Box<Event>),
}

impl Record {
    /// The word for its kind, as in a record's `kind`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Reading(_) => "reading",
            Self::Aggregate(_) => "aggregate",
            Self::State(_) => "state",
            Self::DeadLetter(_) => "dead-letter",
            Self::Gap(_) => "gap",
            Self::StreamEnd(_) => "stream-end",
            Self::Event(_) => "event",
        }
    }

    /// When the gateway received or made it.
    #[must_use]
    pub fn received(&self) -> Stamp {
        match self {
            Self::Reading(reading) => reading.received,
            Self::Aggregate(aggregate) => aggregate.at,
            Self::State(state) => state.received,
            Self::DeadLetter(letter) => letter.received,
            Self::Gap(gap) => gap.at,
            Self::StreamEnd(end) => end.at,
            Self::Event(event) => event.at,
        }
    }
}

/// Records in the order of their numbers, with the values of all readings side by side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The records.
    pub records: Vec<Record>,
    /// The values of the readings; each reading names its range.
    pub fields: Vec<Field>,
}

impl Batch {
    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.records.clear();
        self.fields.clear();
    }

    /// Whether it holds no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many records it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Where the next reading's fields begin.
    #[must_use]
    pub fn mark(&self) -> u32 {
        self.fields.len() as u32
    }

    /// Takes back the fields that were pushed since [`Batch::mark`] gave `mark`: that reading came to nothing.
    pub fn truncate_fields(&mut self, mark: u32) {
        self.fields.truncate(mark as usize);
    }

    /// The values of one of this batch's readings.
    #[must_use]
    pub fn fields_of(&self, reading: &Reading) -> &[Field] {
        self.fields.get(reading.fields.start as usize..reading.fields.end as usize).unwrap_or_default()
    }

    /// Moves all of `other` to the end of this batch.
    pub fn append(&mut self, other: &mut Batch) {
        let shift = self.mark();
        self.fields.append(&mut other.fields);
        self.records.extend(other.records.drain(..).map(|mut record| {
            if let Record::Reading(reading) = &mut record {
                reading.fields = reading.fields.start + shift..reading.fields.end + shift;
            }
            record
        }));
    }
}
