//! What happens to readings on the device.

use std::time::Duration;

use crate::reading::Value;

/// `[[filter]]`, `[[window]]` and `[limits]`
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The filters, in the order of the file.
    pub filters: Vec<Filter>,
    /// The windows, in the order of the file. Names are unique over filters and windows.
    pub windows: Vec<Window>,
    /// Pairs of a device and a measurement that rules with a state (a deadband, an interval, a window) may keep one for.
    pub series_max: usize,
    /// Windows that may be open at the same time, over all series.
    pub open_windows_max: usize,
    /// Bytes of memory that the state of all rules may take, roughly.
    pub state_bytes_max: usize,
    /// A time further ahead of a trusted clock than this is not believed.
    pub future_max: Duration,
}

/// Which values a rule is for. A pattern is a glob (`*`, `?`, `[a-z]`); one that begins with `!` takes away what those
/// before it have selected. Without a pattern all are selected; where the first pattern takes away, it does so from all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    /// Patterns of device names.
    pub devices: Vec<String>,
    /// Patterns of measurement names.
    pub measurements: Vec<String>,
}

/// What a filter does with the values that it selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterAction {
    /// Drops those that fail its range, its deadband or its interval.
    Test,
    /// Keeps them, and drops all others.
    Keep,
    /// Drops them.
    Drop,
}

/// `[[filter]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// What it dropped is counted under this.
    pub name: String,
    /// Which values it is for.
    pub select: Select,
    /// What it does with them.
    pub action: FilterAction,
    /// With [`FilterAction::Test`] what passes, else a part of the selection. Texts and flags are in every range.
    pub range: Option<ValueRange>,
    /// Drops values that have hardly changed since the last one that passed.
    pub deadband: Option<Deadband>,
    /// Drops values that come sooner than this after the last one that passed.
    pub min_interval: Option<Duration>,
    /// Which of the values are alarms; then it does nothing else.
    pub alarm: Option<Alarm>,
}

/// Which values of a filter's selection are alarms: those that meet one of the conditions, or all if there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alarm {
    /// Numbers less than this.
    pub below: Option<f64>,
    /// Numbers greater than this.
    pub above: Option<f64>,
    /// Values equal to one of these.
    pub equals: Vec<Value>,
    /// Of one series at most one in this time of event time; others go the way of all values.
    pub at_most_every: Option<Duration>,
}

/// What an aggregate says of its window's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateField {
    /// How many there are.
    Count,
    /// Their sum.
    Sum,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// The arithmetic mean.
    Mean,
    /// The earliest.
    First,
    /// The latest.
    Last,
}

impl AggregateField {
    /// All of them, in the order in which a record has them.
    pub const ALL: [Self; 7] = [Self::Count, Self::Sum, Self::Min, Self::Max, Self::Mean, Self::First, Self::Last];

    /// The word that stands in a record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Min => "min",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::First => "first",
            Self::Last => "last",
        }
    }
}

/// Which aggregates of a window are alarms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WindowAlarm {
    /// All of them.
    All,
    /// Those of which this field is less than `below` or greater than `above`.
    Field {
        /// Which field.
        field: AggregateField,
        /// Less than this, if there is one.
        below: Option<f64>,
        /// Greater than this, if there is one.
        above: Option<f64>,
    },
}

/// The numbers from `min` to `max`, both included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueRange {
    /// The least, if there is one.
    pub min: Option<f64>,
    /// The greatest, if there is one.
    pub max: Option<f64>,
}

/// When a value has changed enough to pass. Texts and flags pass when they differ from the last one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deadband {
    /// By more than this, in the measurement's unit.
    pub absolute: Option<f64>,
    /// By more than so many per cent of the last value that passed. With both, either is enough.
    pub percent: Option<f64>,
    /// However little it changed, a value passes when this has gone by.
    pub at_least_every: Option<Duration>,
}

/// `[[window]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Stands in its aggregates.
    pub name: String,
    /// Which numbers it aggregates.
    pub select: Select,
    /// How long a window is.
    pub every: Duration,
    /// With days only: the IANA time zone whose midnights part them; UTC unless set.
    pub time_zone: Option<String>,
    /// How long, in event time, a window waits for readings that are out of order.
    pub lateness: Duration,
    /// How long after that a late reading still amends the aggregate, which is then sent again with a higher revision.
    pub update_within: Option<Duration>,
    /// Whether the readings themselves are forwarded as well.
    pub forward_raw: bool,
    /// Which of the aggregates are alarms.
    pub alarm: Option<WindowAlarm>,
}
