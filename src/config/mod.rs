//! What the gateway is to do, validated and resolved: the file's own shape, defaults, secrets and error messages are
//! the business of the modules below. Whoever holds a [`Config`] needs to check nothing again.
//!
//! Loading reads the configuration, the files of secrets, and the time zone database; it looks whether certificates are
//! there. It touches no port, no network and nothing in the data directory, so that `tidegate check` may run anywhere.
//!
//! `model` is what the rest of the gateway sees. `loaded` goes through the file, `sources`, `rules` and `sinks` read its
//! sections, `section` reads one table and notes what nobody asked for, `field` one value, `values`, `units` and `secret`
//! read single values, `errors` words what is wrong, `print` writes the outcome as a file again, `changes` says what
//! differs between two.

mod changes;
mod encryption;
mod errors;
mod field;
mod glance;
mod loaded;
mod model;
mod print;
mod rules;
mod secret;
mod section;
mod sinks;
mod sources;
mod units;
mod values;

pub use changes::Changes;
pub use encryption::{Encryption, EncryptionKey, KEY_BYTES};
pub use errors::{Errors, Place, Problem, nearest};
pub(crate) use glance::Glance;
pub use loaded::{Loaded, Purpose};
pub use model::{
    AggregateField, Alarm, Bus, BusAddress, BusProtocol, BusUnit, ClockTrust, Compression, Deadband, Filter,
    FilterAction, Format, Gateway, Kafka, Ladder, Layout, Mqtt, MqttVersion, Outbox, Parity, Persist, ProfileUse,
    Retained, Rules, Sasl, SaslMechanism, Secret, Select, Serial, Timestamp, Tls, Topics, ValueRange, WhenFull, Window,
    WindowAlarm,
};
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
    /// The lines of devices that are asked: those of Modbus by name, then those of M-Bus.
    pub buses: Vec<Bus>,
    /// What happens to readings on the device.
    pub rules: Rules,
    /// The buffer on disk.
    pub outbox: Outbox,
    /// The Kafka cluster.
    pub kafka: Kafka,
}
