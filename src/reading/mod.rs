//! What flows through the gateway: frames as they arrive, and the records that they become.
//!
//! Invariants: this module knows nothing but `std`; it does no I/O and reads no clock. Everything comes in batches,
//! laid out flat: one pass over a batch allocates for the batch, not for each reading. Names of devices and
//! measurements are interned (`Arc<str>`, `Arc<Measurement>`), so that cloning one costs a counter.

mod dead_letter;
mod frames;
mod notice;
mod value;

use std::ops::Range;
use std::sync::Arc;

pub use dead_letter::{DeadLetter, Reason, Stage};
pub use frames::{ChecksumMismatch, Frame, Frames};
pub use notice::{Event, EventKind, Gap, StreamEnd};
pub use value::{Field, Mark, Measurement, MeasurementKind, TimeQuality, Value};

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
