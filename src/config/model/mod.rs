//! A configuration as data: what the rest of the gateway sees of it.

mod rules;
mod sinks;
mod sources;

pub use rules::{
    AggregateField, Alarm, Deadband, Filter, FilterAction, Rules, Select, ValueRange, Window, WindowAlarm,
};
pub use sinks::{
    Compression, Format, Kafka, Ladder, Layout, Outbox, Persist, Sasl, SaslMechanism, Timestamp, Topics, WhenFull,
};
pub use sources::{
    Bus, BusAddress, BusProtocol, BusUnit, ClockTrust, Gateway, Mqtt, MqttVersion, Parity, ProfileUse, Retained,
    Secret, Serial, Tls,
};
