//! Why no decoder can be made of a configuration.

use crate::profile::{PatternError, UnknownProfile};
use crate::reading::Name;

/// Why no decoder can be made of a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecoderError {
    /// No profile has that id.
    #[error("{origin}: {error}")]
    Unknown {
        /// The source.
        origin: String,
        /// The profile, with the nearest known one.
        error: UnknownProfile,
    },
    /// The profile is for another kind of source.
    #[error("{origin}: the profile `{profile}` is for {expected} sources; use it there, or choose another one")]
    WrongTransport {
        /// The source.
        origin: String,
        /// The profile.
        profile: Name,
        /// What the profile is for.
        expected: &'static str,
    },
    /// A prefix is given for a profile that has none.
    #[error("{origin}: the profile `{profile}` has no prefix that `prefix` could replace; remove it")]
    NoPrefix {
        /// The source.
        origin: String,
        /// The profile.
        profile: Name,
    },
    /// A rhythm is given for a profile that asks nothing.
    #[error("{origin}: the profile `{profile}` asks its device nothing, so `every` says nothing; remove it")]
    NothingAsked {
        /// The source.
        origin: String,
        /// The profile.
        profile: Name,
    },
    /// A topic filter or the result of replacing a prefix is no topic filter.
    #[error("{origin}: profile `{profile}`: {error}")]
    Topic {
        /// The source.
        origin: String,
        /// The profile.
        profile: Name,
        /// What is wrong with it.
        error: PatternError,
    },
    /// The time zone is not known.
    #[error("{origin}: time_zone `{zone}` is not known; expected a name such as `Europe/Amsterdam`")]
    TimeZone {
        /// The source.
        origin: String,
        /// What was found.
        zone: String,
    },
}
