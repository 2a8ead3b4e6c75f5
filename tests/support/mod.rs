//! The rig of the end-to-end tests: real mosquitto, real Apache Kafka, pseudo-terminals and the built binary.
//!
//! Invariants: everything listens on loopback, on ports that were free; every process that a test starts ends with it
//! (its group is killed when its handle is dropped, and the kernel kills it should the test process die first); every
//! wait is bounded, and a wait that fails shows what it waited for and the end of every log involved.
//!
//! A part that cannot be had on this machine (`need!`) makes a test end early as *skipped*: it is written to the file
//! that `tests/run` counts, and with `CI=true` it fails.

// Each test file compiles the whole rig and uses a part of it.
#![allow(dead_code, unused_macros, unused_imports)]
// These are tests, although clippy knows only functions marked `#[test]` as such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

pub(crate) mod authority;
pub(crate) mod bus;
pub(crate) mod day;
pub(crate) mod gateway;
pub(crate) mod kafka;
pub(crate) mod mosquitto;
pub(crate) mod parts;
pub(crate) mod process;
pub(crate) mod publish;
pub(crate) mod records;
pub(crate) mod scratch;
pub(crate) mod serial;
pub(crate) mod wait;

pub(crate) use gateway::{Config, Gateway, Status};
pub(crate) use kafka::Kafka;
pub(crate) use mosquitto::Mosquitto;
pub(crate) use parts::{Part, need};
pub(crate) use process::Process;
pub(crate) use records::{KafkaRecord, Records, consume};
pub(crate) use scratch::Scratch;
pub(crate) use serial::Pty;
pub(crate) use wait::{free_port, seconds, wait_until};
