//! The uplink against a real Apache Kafka; against librdkafka's mock cluster, which speaks the protocol over TCP, for
//! what is quick or cannot be made to happen otherwise; and against a sink that fails on purpose for what neither does.

// These are tests, although clippy knows only functions marked `#[test]` as such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod faults;
mod memory;
mod mock;
mod real;
#[path = "../support/mod.rs"]
mod support;
