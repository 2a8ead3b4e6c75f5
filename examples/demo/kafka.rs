//! The Kafka cluster: librdkafka's mock, a broker on a real TCP port with its records in memory, whose link can be cut.
//! And a consumer of it, which sees what any consumer sees and knows nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use tidegate::clock;

const READINGS: &str = "iot.readings";
const DEAD_LETTERS: &str = "iot.dead-letters";
const PARTITIONS: i32 = 3;
/// As over a mobile network.
const ROUND_TRIP: Duration = Duration::from_millis(100);

/// The cluster; it is gone when this is dropped.
pub(crate) struct Cluster(MockCluster<'static, DefaultProducerContext>);

impl Cluster {
    /// Starts a cluster of one broker.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let cluster = MockCluster::new(1).context("librdkafka's mock cluster cannot be started")?;
        cluster.create_topic(READINGS, PARTITIONS, 1)?;
        cluster.create_topic(DEAD_LETTERS, 1, 1)?;
        cluster.broker_round_trip_time(1, ROUND_TRIP)?;
        Ok(Self(cluster))
    }

    /// `host:port`
    pub(crate) fn address(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// Cuts the link: connections break, and new ones are refused.
    pub(crate) fn cut(&self) -> anyhow::Result<()> {
        Ok(self.0.broker_down(1)?)
    }

    /// Mends it.
    pub(crate) fn mend(&self) -> anyhow::Result<()> {
        Ok(self.0.broker_up(1)?)
    }
}

/// The consumer says nothing of the outage: the log is the gateway's.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Quiet {}

/// What the consumer has read.
#[derive(Debug)]
pub(crate) struct Found {
    /// Readings by the sensor's own word: its name, and the number that it gave the reading.
    pub(crate) readings: BTreeMap<String, BTreeSet<u64>>,
    /// Records by the gateway's word: stream and sequence number.
    records: BTreeMap<String, BTreeSet<u64>>,
    /// Readings that came again under another sequence number: stored twice.
    pub(crate) stored_twice: u64,
    /// Records that came again with the same stream and sequence number: sent twice.
    pub(crate) sent_twice: u64,
    /// Whatever else came: dead letters, gaps, what is no reading of the demo. The last one of them.
    pub(crate) strange: u64,
    pub(crate) last_strange: String,
    /// When the last record came.
    pub(crate) last_at: Instant,
    /// Every reading as it stands in Kafka, behind the time at which the gateway received it.
    recording: Vec<(String, String)>,
}

impl Found {
    /// Different readings.
    pub(crate) fn delivered(&self) -> u64 {
        self.readings.values().map(|numbers| numbers.len() as u64).sum()
    }

    /// The highest sequence number of a stream: so many records were stored in it at least.
    pub(crate) fn highest(&self, stream: &str) -> u64 {
        self.records.get(stream).and_then(BTreeSet::last).copied().unwrap_or(0)
    }

    /// What came, in the order in which the gateway received it: a line of JSON a reading.
    pub(crate) fn recording(&self) -> Vec<&str> {
        let mut lines: Vec<_> = self.recording.iter().collect();
        lines.sort();
        lines.into_iter().map(|(_, line)| line.as_str()).collect()
    }

    /// Sequence numbers that are missing below the highest of their stream.
    pub(crate) fn gaps(&self) -> u64 {
        self.records.values().map(|numbers| numbers.last().copied().unwrap_or(0) - numbers.len() as u64).sum()
    }

    fn take(&mut self, payload: &[u8]) {
        self.last_at = clock::instant();
        let record: Value = serde_json::from_slice(payload).unwrap_or_default();
        let (Some(stream), Some(seq)) = (record["stream"].as_str(), record["seq"].as_u64()) else {
            return self.wonder(payload);
        };
        if !self.records.entry(stream.to_owned()).or_default().insert(seq) {
            self.sent_twice += 1;
            return;
        }
        // Numbers come back as floating point: that is what Kafka consumers read them as.
        let number = record["values"]["n"].as_f64();
        let (Some(device), Some(number), Some("reading")) =
            (record["device"].as_str(), number, record["kind"].as_str())
        else {
            return self.wonder(payload);
        };
        if !self.readings.entry(device.to_owned()).or_default().insert(number as u64) {
            self.stored_twice += 1;
            return;
        }
        let received = record["received"].as_str().unwrap_or_default().to_owned();
        self.recording.push((received, String::from_utf8_lossy(payload).into_owned()));
    }

    fn wonder(&mut self, payload: &[u8]) {
        self.strange += 1;
        self.last_strange = String::from_utf8_lossy(payload).into_owned();
    }
}

/// The consumer, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Consumer {
    found: Arc<Mutex<Found>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Consumer {
    /// Reads both topics from their beginning.
    pub(crate) fn start(brokers: &str) -> anyhow::Result<Self> {
        let consumer: BaseConsumer<Quiet> = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "demo")
            .set("enable.auto.commit", "false")
            .set("reconnect.backoff.max.ms", "500")
            .create_with_context(Quiet)
            .context("the consumer cannot be made")?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(DEAD_LETTERS, 0, Offset::Beginning)?;
        for partition in 0..PARTITIONS {
            list.add_partition_offset(READINGS, partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let found = Arc::new(Mutex::new(Found {
            readings: BTreeMap::new(),
            records: BTreeMap::new(),
            stored_twice: 0,
            sent_twice: 0,
            strange: 0,
            last_strange: String::new(),
            last_at: clock::instant(),
            recording: Vec::new(),
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (to_fill, stopped) = (Arc::clone(&found), Arc::clone(&stop));
        let read = move || {
            while !stopped.load(Ordering::SeqCst) {
                // Errors are the outage; the client reconnects by itself.
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                    lock(&to_fill).take(message.payload().unwrap_or_default());
                }
            }
        };
        let thread = std::thread::Builder::new().name("consumer".to_owned()).spawn(read)?;
        Ok(Self { found, stop, thread: Some(thread) })
    }

    /// What it has read so far.
    pub(crate) fn found(&self) -> MutexGuard<'_, Found> {
        lock(&self.found)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}
