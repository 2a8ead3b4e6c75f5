//! The way out: the gateway's own uplink drains the outbox to a broker, and what arrived inside is compared.

use std::path::Path;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::sync::watch;

use super::report::{Check, Measured};
use super::store::{Readings, open};
use crate::clock::{self, Boots};
use crate::config::Config;
use crate::counters::{Count, Counters};
use crate::outbox::Backlog;
use crate::reading::Value;
use crate::status::Links;
use crate::uplink::{self, mock::MockKafka};

/// The uplink has this long to connect and deliver.
const DELIVERY_MAX: Duration = Duration::from_secs(20);
const READ_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether all is delivered.
const LOOK: Duration = Duration::from_millis(5);

pub(super) async fn deliver(directory: &Path, config: &Config, is_real: bool, measured: &mut Measured) -> Check {
    let mut kafka = config.kafka.clone();
    let mock = match (!is_real).then(|| MockKafka::start(&kafka.topics.reading)).transpose() {
        Ok(mock) => mock,
        Err(error) => {
            return Check::failed("uplink", error, Some("is the loopback interface up (`ip addr`)?".to_owned()));
        }
    };
    kafka.brokers.extend(mock.as_ref().map(MockKafka::address));
    let (counters, links) = (Counters::default(), Links::default());
    let (outbox, closer) = match open(directory, config, &counters) {
        Ok(opened) => opened,
        Err(check) => return check,
    };
    let before = outbox.backlog().records;
    let started = clock::instant();
    let (stop, stopped) = watch::channel(None);
    let settings = uplink::Settings { kafka: kafka.clone(), gateway: config.gateway.clone() };
    // Both are held to the end: settings and a stop that nobody can change any more would mean something else.
    let (change, settings) = watch::channel(settings);
    let boots = Boots::default();
    // An uplink that is told to stop from the start would not wait for a disk that takes long to read.
    let delivered = async {
        while outbox.backlog().records > 0 && started.elapsed() < DELIVERY_MAX {
            tokio::time::sleep(LOOK).await;
        }
        let elapsed = started.elapsed();
        stop.send_replace(Some(clock::instant()));
        elapsed
    };
    let running = uplink::run(settings, outbox.clone(), boots, links.link("kafka"), counters.clone(), stopped);
    let ((), elapsed) = tokio::join!(running, delivered);
    drop((change, stop));
    let after = outbox.backlog();
    drop(outbox);
    if let Err(error) = closer.close() {
        return Check::failed("uplink", error.to_string(), None);
    }
    let delivered = before - after.records.min(before);
    (measured.delivered, measured.delivery_ms) = (Some(delivered), Some(elapsed.as_secs_f64() * 1000.0));
    if after.records > 0 {
        return undelivered(&kafka.brokers, &kafka.topics.reading, before, &after, &links, &counters);
    }
    let took = format!("{before} records in {:.1} s", elapsed.as_secs_f64());
    match mock {
        None => Check::ok(
            "uplink",
            format!("{took} to {}, topic {}: acknowledged", kafka.brokers.join(", "), kafka.topics.reading),
        ),
        Some(mock) => match compare(&mock, before) {
            Ok(()) => Check::ok("uplink", format!("{took} to a Kafka inside of the program, all of them read back")),
            Err(found) => {
                let help = "this build is broken: do not use it, and report it with this output";
                Check::failed("uplink", found, Some(help.to_owned()))
            }
        },
    }
}

fn undelivered(
    brokers: &[String],
    topic: &str,
    before: u64,
    after: &Backlog,
    links: &Links,
    counters: &Counters,
) -> Check {
    let errors = counters.snapshot().into_iter().filter(|(count, _, _)| *count == Count::DeliveryErrors);
    let errors: Vec<String> = errors.map(|(_, error, number)| format!("{number} times {error}")).collect();
    let links = links.snapshot();
    let link = links.values().next().map_or("", |link| link.detail.as_str());
    let brokers = brokers.join(", ");
    let why = [link.to_owned(), errors.join(", ")].into_iter().filter(|why| !why.is_empty()).collect::<Vec<_>>();
    let why = if why.is_empty() { "no answer".to_owned() } else { why.join("; ") };
    let found =
        format!("{brokers}: {} of {before} records not delivered within {DELIVERY_MAX:?}: {why}", after.records);
    let help = if errors.iter().any(|error| error.contains("Topic")) {
        format!("make the topic {topic} and let this client write to it, or name another one: --topic NAME")
    } else {
        format!(
            "does a Kafka listen there without TLS or a password? Its advertised.listeners must be reachable from here too; \
             `nc -vz {}` shows whether the port is",
            brokers.split(", ").next().unwrap_or_default().replace(':', " ")
        )
    };
    Check::failed("uplink", found, Some(help))
}

/// Whether all readings came out of Kafka as they went into the outbox.
fn compare(mock: &MockKafka, count: u64) -> Result<(), String> {
    let values = mock.read(usize::try_from(count).unwrap_or(usize::MAX), READ_MAX)?;
    if values.len() as u64 != count {
        return Err(format!("only {} of {count} records could be read back from the broker", values.len()));
    }
    let readings = Readings::new(clock::stamp());
    for (value, n) in values.iter().zip(1..) {
        let record: Json = serde_json::from_slice(value).map_err(|error| format!("record {n} is no JSON: {error}"))?;
        let same = readings.named(n).all(|(name, value)| match value {
            Value::Number(number) => record["values"][name].as_f64() == Some(number),
            Value::Text(text) => record["texts"][name].as_str() == Some(&*text),
            Value::Flag(flag) => record["flags"][name].as_bool() == Some(flag),
        });
        if !same || record["device"] != "selftest" {
            return Err(format!("record {n} of {count} came out changed: {record}"));
        }
    }
    Ok(())
}
