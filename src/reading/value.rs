//! What was measured, and what is known about when.

use std::sync::Arc;

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
