//! What could not become a reading, and why.

use super::{Name, Stamp};

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
