//! What the gateway has to say about its own streams and about itself.

use super::{Name, Stamp};

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
