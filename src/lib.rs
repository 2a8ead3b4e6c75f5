//! Tidegate: an IoT edge gateway with offline buffering.

pub mod cli;
pub mod clock;
pub mod config;
pub mod counters;
pub mod decode;
pub mod intake;
pub mod log;
pub mod outbox;
pub mod profile;
pub mod reading;
pub mod source;
pub mod status;
pub mod uplink;
