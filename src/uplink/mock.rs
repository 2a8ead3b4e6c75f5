//! A Kafka inside of this process, on a port of loopback: librdkafka's mock cluster, for `tidegate selftest`. The client
//! talks to it over TCP as to any other; it keeps records in memory and is gone when it is dropped.

use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::clock;

/// How long one look for a message takes at most.
const POLL: Duration = Duration::from_millis(100);

/// The cluster: one broker, one topic of one partition, so that records come back in the order in which they went.
pub struct MockKafka {
    /// It runs as long as the client that it was made for. A cluster by itself would have rdkafka's own context, and with that
    /// a parser of librdkafka's statistics in the binary, which nobody asks for.
    _client: BaseConsumer<Quiet>,
    address: String,
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
            let mut config = ClientConfig::new();
            config.set("test.mock.num.brokers", "1").set("group.id", "selftest");
            let client: BaseConsumer<Quiet> = config.create_with_context(Quiet)?;
            let address = {
                let cluster = client.client().mock_cluster().ok_or(KafkaError::Canceled)?;
                cluster.create_topic(topic, 1, 1)?;
                cluster.bootstrap_servers()
            };
            Ok((client, address))
        };
        let (client, address) =
            started().map_err(|error: KafkaError| format!("no broker can be started in here: {error}"))?;
        Ok(Self { _client: client, address, topic: topic.to_owned() })
    }

    /// `host:port`
    #[must_use]
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// The values of its first records, as a consumer gets them: unpacked, their checksums compared. Fewer than `count` if
    /// no more come within `limit`.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(&self, count: usize, limit: Duration) -> Result<Vec<Vec<u8>>, String> {
        let says = |error: KafkaError| format!("what was delivered cannot be read back: {error}");
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address).set("group.id", "selftest");
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

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for Quiet {}
