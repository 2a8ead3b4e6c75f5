//! A Kafka inside of this process, on a port of loopback: librdkafka's mock cluster, for `tidegate selftest`. The client
//! talks to it over TCP as to any other; it keeps records in memory and is gone when it is dropped.

use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::clock;

/// How long one look for a message takes at most.
const POLL: Duration = Duration::from_millis(100);

/// The cluster: one broker, one topic of one partition, so that records come back in the order in which they went.
pub struct MockKafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
    topic: String,
}

impl std::fmt::Debug for MockKafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MockKafka").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl MockKafka {
    /// Starts it.
    ///
    /// # Errors
    /// When the system has no port or thread for it.
    pub fn start(topic: &str) -> Result<Self, String> {
        let started = || {
            let cluster = MockCluster::new(1)?;
            cluster.create_topic(topic, 1, 1)?;
            Ok(cluster)
        };
        let cluster = started().map_err(|error: KafkaError| format!("no broker can be started in here: {error}"))?;
        Ok(Self { cluster, topic: topic.to_owned() })
    }

    /// `host:port`
    #[must_use]
    pub fn address(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// The values of its first records, as a consumer gets them: unpacked, their checksums compared. Fewer than `count` if
    /// no more come within `limit`.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(&self, count: usize, limit: Duration) -> Result<Vec<Vec<u8>>, String> {
        let says = |error: KafkaError| format!("what was delivered cannot be read back: {error}");
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address()).set("group.id", "selftest");
        config.set("enable.auto.commit", "false").set("check.crcs", "true");
        let consumer: BaseConsumer<Quiet> = config.create_with_context(Quiet).map_err(says)?;
        let mut partition = TopicPartitionList::new();
        partition.add_partition_offset(&self.topic, 0, Offset::Beginning).map_err(says)?;
        consumer.assign(&partition).map_err(says)?;
        let deadline = clock::instant() + limit;
        let mut values = Vec::new();
        while values.len() < count && clock::instant() < deadline {
            if let Some(message) = consumer.poll(POLL) {
                values.push(message.map_err(says)?.payload().unwrap_or_default().to_vec());
            }
        }
        Ok(values)
    }
}

/// A consumer that writes no log of its own: what is wrong is in what it returns.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Quiet {}
