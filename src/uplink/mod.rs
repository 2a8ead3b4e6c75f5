//! The uplink: takes durable records from the outbox, sends them to Kafka, and tells the outbox which of them Kafka
//! has. Every failed delivery keeps the record: it is still ours.
//!
//! | file | what it is |
//! |---|---|
//! | `drain.rs` | the loop, in which all control is; `drain/reports.rs`, `drain/send.rs` are its two directions, `drain/change.rs` other settings |
//! | `source.rs`, `sink.rs` | its two seams: the outbox before it, Kafka's client behind it |
//! | `kafka.rs` | Kafka's client: with `mock.rs` the only file that names rdkafka |
//! | `mock.rs` | a Kafka inside of the process, for `tidegate selftest` |
//! | `encode.rs`, `time.rs`, `topic.rs` | what a record looks like, and where it goes |
//! | `lines.rs` | the same records as lines, for `run --print` |
//! | `flight.rs` | records handed over and not reported on |
//! | `trial.rs` | which record of a batch Kafka refuses |
//! | `parking.rs` | topics that take nothing at present |
//! | `health.rs` | whether Kafka can be reached, and the one line that says so |

mod drain;
mod encode;
mod flight;
mod health;
pub mod kafka;
pub mod lines;
pub mod mock;
mod parking;
pub mod sink;
pub mod source;
pub(crate) mod time;
pub mod topic;
mod trial;

use std::time::Instant;

use tokio::sync::watch;
use tracing::error;

pub use drain::Tuning;

use crate::clock::Boots;
use crate::config;
use crate::counters::Counters;
use crate::outbox::Outbox;
use crate::status::Link;

/// What the uplink is configured by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The way to Kafka.
    pub kafka: config::Kafka,
    /// What stands in every record.
    pub gateway: config::Gateway,
}

/// Runs the uplink of a gateway. When `settings` change it goes on with a new producer from the oldest record that is not
/// delivered.
///
/// `stop` holds `None` while the gateway runs. Once it holds a moment, the uplink goes on with what is durable until
/// everything is delivered, only records of parked topics are left, or that moment has passed; then it returns.
pub async fn run(
    settings: watch::Receiver<Settings>,
    outbox: Outbox,
    boots: Boots,
    link: Link,
    counters: Counters,
    stop: watch::Receiver<Option<Instant>>,
) {
    let connect = {
        let Settings { kafka, gateway } = &*settings.borrow();
        kafka::KafkaConnect::new(kafka.clone(), gateway)
    };
    let source = source::OutboxSource::new(outbox);
    drain(settings, source, boots, connect, link, counters, Tuning::default(), stop).await;
}

/// [`run`] between any source and any sink.
#[allow(clippy::too_many_arguments, reason = "each is one seam of the uplink, and there are two callers")]
pub async fn drain<S: source::Source, C: sink::Connect>(
    settings: watch::Receiver<Settings>,
    source: S,
    boots: Boots,
    connect: C,
    link: Link,
    counters: Counters,
    tuning: Tuning,
    stop: watch::Receiver<Option<Instant>>,
) {
    let Settings { kafka, gateway } = settings.borrow().clone();
    let topics = match topic::Topics::new(&gateway.id, &kafka.topics, kafka.layout, &counters) {
        Ok(topics) => topics,
        // The configuration was checked when it was loaded, so this is a defect; nothing is lost by it.
        Err(reason) => {
            error!("the uplink cannot start: {reason}");
            link.down(reason.to_string());
            return;
        }
    };
    let parts = drain::Parts {
        source,
        connect,
        learnt: boots.learnt(),
        encoder: encode::Encoder::new(&gateway, &kafka).knowing(boots),
        topics,
        flight: flight::Flight::new(kafka.in_flight_max, kafka.in_flight_bytes_max),
        link,
        counters,
        tuning,
        settings,
    };
    drain::Drain::new(parts).run(stop).await;
}
