//! The uplink against a Kafka that speaks the protocol over TCP: librdkafka's mock cluster for what is quick or cannot
//! be made to happen otherwise, and a sink that fails on purpose for what neither does.

// These are tests, although clippy knows only functions marked `#[test]` as such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod faults;
mod memory;
mod mock;
