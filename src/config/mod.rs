//! What the gateway is to do, validated and resolved: the file's own shape, defaults, secrets and error messages are
//! the business of the modules below. Whoever holds a [`Config`] needs to check nothing again.
//!
//! Loading reads the configuration, the files of secrets, and the time zone database; it looks whether certificates are
//! there. It touches no port, no network and nothing in the data directory, so that `tidegate check` may run anywhere.
//!
//! `loaded` goes through the file, `sources` and `sinks` read its sections, `section` reads one table and notes what
//! nobody asked for, `field` one value, `values`, `units` and `secret` read single values, `errors` words what is wrong, `print` writes the
//! outcome as a file again, `changes` says what differs between two.

mod changes;
mod encryption;
mod errors;
mod field;
mod glance;
mod loaded;
mod print;
mod rules;
mod secret;
mod section;
mod sinks;
mod sources;
mod units;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use changes::Changes;
pub use encryption::{Encryption, EncryptionKey, KEY_BYTES};

use crate::reading::Value;
pub use errors::{Errors, Place, Problem, nearest};
pub(crate) use glance::Glance;
pub use loaded::{Loaded, Purpose};
pub(crate) use units::{parse_duration, parse_size};
pub(crate) use values::{broker as parse_broker, plain_topic as parse_topic};

/// The data directory unless the configuration, or systemd, names another.
pub(crate) const DATA_DIR: &str = "/var/lib/tidegate";

/// A whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The gateway itself.
    pub gateway: Gateway,
    /// The MQTT brokers, by name.
    pub mqtt: Vec<Mqtt>,
    /// The serial ports, by name.
    pub serial: Vec<Serial>,
    /// The Modbus lines, by name.
    pub modbus: Vec<Modbus>,
    /// What happens to readings on the device.
    pub rules: Rules,
    /// The buffer on disk.
    pub outbox: Outbox,
    /// The Kafka cluster.
    pub kafka: Kafka,
}

/// `[gateway]`
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// Stands in every record; the host's name unless set.
    pub id: String,
    /// Copied into every record.
    pub labels: BTreeMap<String, String>,
    /// Where the outbox, the lock and the status socket live.
    pub data_dir: PathBuf,
    /// Where profiles are looked for besides the built-in ones; need not exist.
    pub profiles_dir: PathBuf,
    /// How long a stop may take to deliver what is waiting.
    pub stop_timeout: Duration,
    /// When the wall clock is believed.
    pub clock: ClockTrust,
}

/// When the wall clock is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClockTrust {
    /// Once it is synchronised, or a clock chip agrees with it, or the machine is of a kind that has its time.
    #[default]
    Auto,
    /// Once it is synchronised.
    Ntp,
    /// From the start.
    Always,
    /// While this file is there.
    File(PathBuf),
}

/// A password, a token: never printed. Equality is for telling whether it has changed since it was last read; what
/// somebody else sent is never compared with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    #[must_use]
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself, for the one call that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// Certificates and keys of a TLS connection. Files are read when the connection is made, so that a renewed
/// certificate is picked up by the next connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    /// Who may sign the server's certificate (PEM); the system's authorities unless set.
    pub ca: Option<PathBuf>,
    /// The client's certificate chain (PEM).
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM).
    pub key: Option<PathBuf>,
    /// Of what was in these files when the configuration was read: tells whether a renewed certificate has come.
    pub fingerprint: u64,
}

/// The MQTT version to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MqttVersion {
    /// 3.1.1
    V4,
    /// 5
    V5,
}

/// What to do with messages that the broker had retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retained {
    /// Drop all of them.
    Drop,
    /// Take the first of each topic in this run of the gateway, drop those that a reconnection brings again.
    First,
    /// Take all of them.
    Keep,
}

/// `[mqtt.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Mqtt {
    /// `mqtt.NAME`, as it stands in counters and dead letters.
    pub name: String,
    /// Host to connect to.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
    /// Set for `mqtts://`.
    pub tls: Option<Tls>,
    /// Protocol version.
    pub version: MqttVersion,
    /// The client id; the gateway makes a stable one (`tidegate-<id>-<name>`) unless set.
    pub client_id: Option<String>,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// The profiles of its devices; they bring their topics.
    pub profiles: Vec<ProfileUse>,
    /// Maximum QoS to subscribe with: 0 or 1.
    pub qos: u8,
    /// Keep-alive.
    pub keep_alive: Duration,
    /// How long the broker is to keep the session while the gateway is away (MQTT 5 only; 3.1.1 keeps it as the broker likes).
    pub session_expiry: Duration,
    /// MQTT 5: our Receive Maximum. 3.1.1: how many unacknowledged messages the broker sends at most (mosquitto: 20).
    pub in_flight_max: u16,
    /// A packet larger than this is dead-lettered, not read.
    pub packet_bytes_max: usize,
    /// What to do with retained messages.
    pub retained: Retained,
    /// The IANA time zone of payload times that have none.
    pub time_zone: Option<String>,
    /// What devices are called in records, by the names that they give themselves.
    pub names: BTreeMap<String, String>,
    /// The shortest time between two reads of the socket: longer costs latency, shorter costs CPU.
    pub read_interval: Duration,
    /// Bytes of messages that may wait for a commit before the socket is no longer read.
    pub memory_bytes_max: usize,
    /// Whether QoS 0 messages are dropped (and counted) instead of holding the broker back when the budget is used up.
    pub drop_qos0: bool,
    /// Whether nodes of Sparkplug B are asked for a birth message that was missed.
    pub rebirth: bool,
}

/// A profile as a source uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileUse {
    /// The profile's id.
    pub id: String,
    /// Replaces the first level or levels of the profile's topics (its own `prefix`).
    pub prefix: Option<String>,
    /// Topic filters that are not taken, besides the profile's own exclusions.
    pub exclude: Vec<String>,
}

/// Parity of a serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// None.
    None,
    /// Odd.
    Odd,
    /// Even.
    Even,
}

/// `[serial.NAME]`. What is `None` comes from the profile, and from the defaults (9600 8N1, lines of at most 4 KiB ended
/// by `\n`) where the profile is silent too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Serial {
    /// `serial.NAME`, as it stands in counters and dead letters.
    pub name: String,
    /// The device file, best one below `/dev/serial/by-id`.
    pub port: PathBuf,
    /// The profile of the device behind it.
    pub profile: String,
    /// The device's name in readings where the payload gives none; the source's NAME unless set.
    pub device: String,
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
    /// How often a device is asked that does not talk by itself.
    pub every: Option<Duration>,
    /// The longest line in bytes, delimiter included.
    pub frame_bytes_max: Option<usize>,
    /// The IANA time zone of payload times that have none.
    pub time_zone: Option<String>,
    /// What devices are called in records, by the names that they give themselves.
    pub names: BTreeMap<String, String>,
}

/// `[modbus.NAME]`. What is `None` comes from the profiles, and from the defaults (9600 8N1, every 10 s, 500 ms) where they
/// are silent too.
#[derive(Clone, Debug, PartialEq)]
pub struct Modbus {
    /// `modbus.NAME`, as it stands in counters and dead letters.
    pub name: String,
    /// The device file, best one below `/dev/serial/by-id`.
    pub port: PathBuf,
    /// Bits a second.
    pub baud: Option<u32>,
    /// Parity.
    pub parity: Option<Parity>,
    /// 1 or 2.
    pub stop_bits: Option<u8>,
    /// Whether the kernel is asked to switch the direction of an RS-485 transceiver.
    pub rs485: bool,
    /// How often each unit is asked.
    pub every: Option<Duration>,
    /// How long an answer may take after the request is on the wire.
    pub timeout: Option<Duration>,
    /// How often a request is sent again that was not answered.
    pub retries: u8,
    /// How long the line is silent before each request; never shorter than three and a half characters.
    pub pause: Duration,
    /// The devices on it.
    pub units: Vec<ModbusUnit>,
}

/// `[[modbus.NAME.unit]]`
#[derive(Clone, Debug, PartialEq)]
pub struct ModbusUnit {
    /// Its address on the line: 1 to 247, or one of the reserved ones up to 254 to which some devices answer whoever they are.
    pub address: u8,
    /// Its profile.
    pub profile: String,
    /// The device's name in readings; `NAME-ADDRESS` unless set.
    pub device: String,
    /// How often it is asked.
    pub every: Option<Duration>,
    /// How long its answers may take.
    pub timeout: Option<Duration>,
}

impl ModbusUnit {
    /// What its frames come from: the port and its address.
    #[must_use]
    pub fn origin(&self, port: &Path) -> String {
        format!("{}#{}", port.display(), self.address)
    }
}

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
