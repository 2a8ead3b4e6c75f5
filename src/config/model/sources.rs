//! `[gateway]`, and where readings come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

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

/// What is spoken on a line of devices that are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusProtocol {
    /// Modbus RTU.
    Modbus,
    /// Wired M-Bus (EN 13757-2).
    Mbus,
}

impl BusProtocol {
    /// The word for it in a configuration and in a profile.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Modbus => "modbus",
            Self::Mbus => "mbus",
        }
    }
}

/// `[modbus.NAME]` or `[mbus.NAME]`. What is `None` comes from the profiles, and from the protocol's defaults where they are
/// silent too: 9600 8N1, every 10 s, 500 ms; of M-Bus 2400 8E1, every 15 min, what its standard allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Bus {
    /// `modbus.NAME` or `mbus.NAME`, as it stands in counters and dead letters.
    pub name: String,
    /// What is spoken.
    pub protocol: BusProtocol,
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
    /// How long an answer may take after the request is on the wire; of M-Bus until it begins.
    pub timeout: Option<Duration>,
    /// How often a request is sent again that was not answered.
    pub retries: u8,
    /// How long the line is silent before each request; never shorter than three and a half characters.
    pub pause: Duration,
    /// The devices on it.
    pub units: Vec<BusUnit>,
}

/// `[[modbus.NAME.unit]]` or `[[mbus.NAME.unit]]`
#[derive(Clone, Debug, PartialEq)]
pub struct BusUnit {
    /// How it is called on the line.
    pub address: BusAddress,
    /// Its profile.
    pub profile: String,
    /// The device's name in readings; `NAME-ADDRESS` unless set.
    pub device: String,
    /// How often it is asked.
    pub every: Option<Duration>,
    /// How long its answers may take.
    pub timeout: Option<Duration>,
}

/// How a device is called on its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusAddress {
    /// Of Modbus 1 to 247, or one of the reserved ones up to 254 to which some devices answer whoever they are; of M-Bus a primary
    /// address of 0 to 250, or 254, to which every meter answers.
    Number(u8),
    /// A secondary address of M-Bus, as it is on the wire: number, manufacturer, version, medium. `ff` stands for any.
    Meter([u8; 8]),
}

impl std::fmt::Display for BusAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Meter([a, b, c, d, rest @ ..]) => {
                write!(f, "{d:02x}{c:02x}{b:02x}{a:02x}")?;
                match rest {
                    [0xff, 0xff, 0xff, 0xff] => Ok(()),
                    rest => rest.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
                }
            }
        }
    }
}

impl BusUnit {
    /// What its frames come from: the port and its address.
    #[must_use]
    pub fn origin(&self, port: &Path) -> String {
        format!("{}#{}", port.display(), self.address)
    }
}
