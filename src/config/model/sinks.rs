//! `[outbox]` and `[kafka]`: where readings go.

use std::time::Duration;

use crate::config::{Encryption, Secret, Tls};

/// What to do when the outbox is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Give up the oldest records of the lowest lane, counted and declared.
    DropOldest,
    /// Before that, put coarse aggregates in the place of old raw readings.
    Thin,
    /// Withhold acknowledgements until there is room.
    Block,
}

/// What happens on the way to a full disk: keys of `[outbox]` and `[outbox.advanced]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ladder {
    /// Bytes of the file system that are left to others; a sixteenth of it, and at most 64 MiB, unless set.
    pub min_free: Option<u64>,
    /// By lane (alarm, aggregate, raw): what was received longer ago than this is given up.
    pub max_age: [Option<Duration>; 3],
    /// Thinning begins when so many per cent of `max_size` are taken.
    pub thin_at_percent: u8,
    /// The length of the aggregates that stand for what was thinned.
    pub thin_step: Duration,
}

impl Default for Ladder {
    fn default() -> Self {
        Self { min_free: None, max_age: [None; 3], thin_at_percent: 80, thin_step: Duration::from_secs(300) }
    }
}

/// `[outbox]` and `[outbox.advanced]`
#[derive(Clone, Debug, PartialEq)]
pub struct Outbox {
    /// Bytes on disk that it may take.
    pub size_max: u64,
    /// What to do when they are taken.
    pub when_full: WhenFull,
    /// The finer steps of that.
    pub ladder: Ladder,
    /// Delivered segments are kept for so long, as far as there is room, so that they can be delivered again.
    pub keep_delivered: Duration,
    /// Which records are written.
    pub persist: Persist,
    /// Raw records wait so long in memory for Kafka's report before they are written, with [`Persist::WhenBehind`].
    pub hold: Duration,
    /// A commit starts at least this long after the first record that waits for it, unless it is asked for …
    pub commit_interval: Duration,
    /// … and at most this long, while records keep coming.
    pub commit_interval_max: Duration,
    /// A commit starts early when this many bytes of encoded records wait.
    pub commit_bytes: usize,
    /// Payload bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes of the newest records that are kept in memory, so that an online gateway does not read back what it wrote.
    pub memory_tail_bytes: usize,
    /// The keys of what is stored; none unless set.
    pub encryption: Encryption,
}

/// Which raw records are written to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persist {
    /// All of them, before they are sent.
    Always,
    /// Those that Kafka has not acknowledged in time.
    WhenBehind,
}

/// SASL mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslMechanism {
    /// PLAIN
    Plain,
    /// SCRAM-SHA-256
    ScramSha256,
    /// SCRAM-SHA-512
    ScramSha512,
}

impl SaslMechanism {
    /// The protocol's name for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// `[kafka] sasl = { … }`
#[derive(Clone, Debug, PartialEq)]
pub struct Sasl {
    /// Mechanism.
    pub mechanism: SaslMechanism,
    /// User.
    pub user: String,
    /// Password.
    pub password: Secret,
}

/// How a reading is laid out in Kafka records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One record a reading, values in a map.
    Wide,
    /// One record a value.
    Narrow,
    /// One record a reading, values at the top level, our own fields prefixed with `_`.
    Flat,
}

/// How a Kafka record's value is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON (RFC 8259).
    Json,
    /// CBOR (RFC 8949), the same fields.
    Cbor,
}

/// What Kafka's own timestamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timestamp {
    /// The time of sending, so that a topic's retention counts from there.
    Send,
    /// The event time.
    Event,
}

/// Kafka topics; each may hold `{gateway}`, `{profile}`, `{device}`, `{kind}` and, in the narrow layout, `{measurement}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// For readings and device states, and for what declares gaps and ends of streams.
    pub reading: String,
    /// For aggregates.
    pub aggregate: String,
    /// For readings and aggregates that are alarms.
    pub alarm: String,
    /// For dead letters.
    pub dead_letter: String,
}

/// How batches are compressed on their way to Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Readable by every client.
    Gzip,
    /// lz4
    Lz4,
    /// zstd
    Zstd,
}

/// `[kafka]`
#[derive(Clone, Debug, PartialEq)]
pub struct Kafka {
    /// `host:port` of some brokers of the cluster.
    pub brokers: Vec<String>,
    /// TLS, where set.
    pub tls: Option<Tls>,
    /// SASL, where set.
    pub sasl: Option<Sasl>,
    /// Where records go.
    pub topics: Topics,
    /// How readings are laid out.
    pub layout: Layout,
    /// How records are encoded.
    pub format: Format,
    /// What Kafka's timestamp says.
    pub timestamp: Timestamp,
    /// How batches are compressed.
    pub compression: Compression,
    /// How long a record may wait for others to share a request with.
    pub linger: Duration,
    /// Records handed to Kafka's client and not yet reported on, at most.
    pub in_flight_max: usize,
    /// Their bytes, at most.
    pub in_flight_bytes_max: usize,
    /// The longest wait between two attempts to reconnect.
    pub reconnect_max: Duration,
}
