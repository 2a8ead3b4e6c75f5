//! Tidegate: an IoT edge gateway with offline buffering.
//!
//! A tide gate lets water out while the tide is low and holds it back while it is high. Tidegate does that for sensor data: it
//! collects readings from MQTT brokers and serial devices, filters and aggregates them, keeps them in an embedded log while
//! the network is down, and forwards them to a Kafka cluster.
//!
//! The way of a reading, and of this library, in the order of its modules:
//!
//! 1. A [`source`] reads all bytes that are there and cuts them into frames ([`reading::Frames`]).
//! 2. Its [`intake`] hands them to the [`decode`]r, which turns each into readings as the device's [`profile`] says. What
//!    cannot be read becomes a dead letter, with the reason. All of this is pure: time comes in as an argument.
//! 3. The [`rules`] drop what is not wanted and make aggregates of windows; the [`pipeline`] keeps their state and what
//!    it led to in one commit.
//! 4. The [`outbox`] gathers what came in the last moment, makes it durable in one commit, and only then are the messages
//!    acknowledged to their broker.
//! 5. The [`uplink`] reads what is durable, sends it to Kafka, and tells the outbox which records Kafka has.
//!
//! [`gateway`] wires these together and stops them in order; [`config`] says how, [`setup`] has it fit to run as a whole,
//! [`glob`] matches names, [`counters`] and [`status`] say how it is going, [`clock`] is the only module that knows the time, and [`cli`] is what a
//! person types. The parts say by their [`beats`] that they make progress, and [`service`] tells systemd, as long as it is so.

pub mod beats;
pub mod cli;
pub mod clock;
pub mod config;
pub mod counters;
pub mod decode;
pub mod gateway;
pub mod glob;
pub mod intake;
pub mod log;
pub mod outbox;
pub mod pipeline;
pub mod print;
pub mod profile;
pub mod reading;
pub mod replay;
pub mod rules;
pub mod service;
pub mod setup;
pub mod source;
pub mod status;
mod sum;
pub mod uplink;
