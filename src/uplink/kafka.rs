//! Kafka's client: the only file that names rdkafka, but for `mock.rs`.
//!
//! An idempotent producer with `acks=all` that keeps a message until the broker has it or refuses it
//! (`message.timeout.ms=0`). Its callbacks run on one thread of ours, which also drops it: a drop may take a while, and
//! nothing waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use tracing::{debug, warn};

use super::Settings;
use super::encode::{content_type, event_source};
use super::sink::{Connect, Failure, Message, Remedy, Report, Reports, SendError, Sink};
use crate::clock;
use crate::config::{Compression, Gateway, Kafka, Timestamp};
use crate::log::Throttle;

/// The largest message in bytes that is offered to a broker; Apache Kafka's own default allows 1,048,588.
const MESSAGE_BYTES_MAX: usize = 1_000_000;
/// The largest batch in bytes: half of what a broker takes by default, so that a message does not fail for its company.
const BATCH_BYTES_MAX: usize = 500_000;
/// How long the thread of the callbacks sleeps at most before it looks whether the sink was dropped.
const POLL: Duration = Duration::from_millis(500);
/// How long a broker may take to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a topic that does not exist may take to be created before its messages fail.
const UNKNOWN_TOPIC_MS: u64 = 10_000;
/// Remarks of the client that are worth a line are let through once in this time.
const REMARK_INTERVAL: Duration = Duration::from_secs(60);

/// Makes producers of one configuration.
#[derive(Debug)]
pub struct KafkaConnect {
    settings: Kafka,
    gateway: String,
}

impl KafkaConnect {
    /// Producers for this gateway.
    #[must_use]
    pub fn new(settings: Kafka, gateway: &Gateway) -> Self {
        Self { settings, gateway: gateway.id.clone() }
    }

    /// OpenSSL does not say which file it could not read.
    fn check_files(&self) -> Result<(), String> {
        let Some(tls) = &self.settings.tls else { return Ok(()) };
        let files = [("ca", &tls.ca), ("certificate", &tls.certificate), ("key", &tls.key)];
        for (key, path) in files.into_iter().filter_map(|(key, path)| path.as_ref().map(|path| (key, path))) {
            std::fs::File::open(path)
                .map_err(|error| format!("kafka.tls.{key}: {} cannot be read: {error}", path.display()))?;
        }
        Ok(())
    }

    fn client_config(&self) -> ClientConfig {
        let settings = &self.settings;
        let mut config = ClientConfig::new();
        let ms = |duration: Duration| duration.as_millis().to_string();
        config
            .set("bootstrap.servers", settings.brokers.join(","))
            .set("client.id", format!("tidegate-{}", self.gateway))
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", "0")
            .set("message.max.bytes", MESSAGE_BYTES_MAX.to_string())
            .set("batch.size", BATCH_BYTES_MAX.to_string())
            .set("linger.ms", ms(settings.linger))
            .set(
                "compression.type",
                match settings.compression {
                    Compression::None => "none",
                    Compression::Gzip => "gzip",
                    Compression::Lz4 => "lz4",
                    Compression::Zstd => "zstd",
                },
            )
            // On records of this kind gzip's higher levels gain a quarter and cost twice the CPU.
            .set("compression.level", if settings.compression == Compression::Gzip { "1" } else { "-1" })
            // Ours are smaller, so that a full queue would be a defect of ours; in the narrow layout one record more
            // than the limit may be on its way.
            .set("queue.buffering.max.messages", (settings.in_flight_max.saturating_mul(2) + 10_000).to_string())
            .set("queue.buffering.max.kbytes", (settings.in_flight_bytes_max / 1024 * 2 + 4_096).to_string())
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.ms", "1000")
            .set("reconnect.backoff.max.ms", ms(settings.reconnect_max.max(Duration::from_secs(1))))
            .set("topic.metadata.propagation.max.ms", UNKNOWN_TOPIC_MS.to_string())
            .set("statistics.interval.ms", "0")
            .set("log.connection.close", "false");
        let protocol = match (&settings.tls, &settings.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = &settings.tls {
            // OpenSSL is linked in and does not know where this system keeps its authorities.
            config.set("ssl.ca.location", tls.ca.as_ref().map_or("probe".into(), |path| path.to_string_lossy()));
            if let Some(certificate) = &tls.certificate {
                config.set("ssl.certificate.location", certificate.to_string_lossy());
            }
            if let Some(key) = &tls.key {
                config.set("ssl.key.location", key.to_string_lossy());
            }
        }
        if let Some(sasl) = &settings.sasl {
            config
                .set("sasl.mechanism", sasl.mechanism.as_str())
                .set("sasl.username", &sasl.user)
                .set("sasl.password", sasl.password.reveal());
        }
        config.set_log_level(RDKafkaLogLevel::Warning);
        config
    }
}

impl Connect for KafkaConnect {
    type Sink = KafkaSink;

    fn change(&mut self, settings: &Settings) {
        *self = Self::new(settings.kafka.clone(), &settings.gateway);
    }

    fn connect(&mut self, generation: u32, reports: &Arc<Reports>) -> Result<KafkaSink, String> {
        self.check_files()?;
        let context = Context {
            generation,
            reports: Arc::clone(reports),
            remarks: Mutex::new(Throttle::new(REMARK_INTERVAL)),
            timestamp: self.settings.timestamp,
        };
        let producer = BaseProducer::from_config_and_context(&self.client_config(), context)
            .map_err(|error| format!("Kafka's client refused its configuration: {error}"))?;
        let producer = Arc::new(producer);
        let polled = Arc::clone(&producer);
        std::thread::Builder::new()
            .name("kafka-reports".into())
            .spawn(move || {
                // This thread is the last to hold the producer, so a drop, which waits, happens here.
                while Arc::strong_count(&polled) > 1 {
                    polled.poll(POLL);
                }
            })
            .map_err(|error| format!("no thread for Kafka's client could be started: {error}"))?;
        Ok(KafkaSink {
            producer,
            source: event_source(&self.gateway),
            content_type: content_type(self.settings.format),
            headers: Vec::new(),
            probing: Arc::new(Mutex::new(())),
        })
    }
}

/// One producer.
pub struct KafkaSink {
    producer: Arc<BaseProducer<Context>>,
    source: String,
    content_type: &'static str,
    /// The headers that all records of a type share: copying them is cheaper than making them.
    headers: Vec<(&'static str, OwnedHeaders)>,
    /// Held by the thread of a probe.
    probing: Arc<Mutex<()>>,
}

impl std::fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSink").field("source", &self.source).finish_non_exhaustive()
    }
}

impl KafkaSink {
    fn headers(&mut self, event_type: &'static str) -> OwnedHeaders {
        if let Some((_, headers)) = self.headers.iter().find(|(of, _)| *of == event_type) {
            return headers.clone();
        }
        let headers = OwnedHeaders::new_with_capacity(7)
            .insert(Header { key: "ce_specversion", value: Some("1.0") })
            .insert(Header { key: "ce_type", value: Some(event_type) })
            .insert(Header { key: "ce_source", value: Some(&self.source) })
            .insert(Header { key: "content-type", value: Some(self.content_type) });
        self.headers.push((event_type, headers.clone()));
        headers
    }
}

impl Sink for KafkaSink {
    fn send(&mut self, message: &Message<'_>) -> Result<(), SendError> {
        let mut headers = self
            .headers(message.event_type)
            .insert(Header { key: "ce_id", value: Some(message.id) })
            .insert(Header { key: "ce_time", value: Some(message.time) });
        if message.replayed {
            headers = headers.insert(Header { key: "ce_replayed", value: Some("true") });
        }
        let mut record = BaseRecord::with_opaque_to(message.topic, message.ticket as usize)
            .key(message.key)
            .payload(message.value)
            .headers(headers);
        record.timestamp = message.timestamp_ms;
        self.producer.send(record).map_err(|(error, _)| match error.rdkafka_error_code() {
            Some(Code::QueueFull) => SendError::Full,
            // Said by the client itself, before any batch was made: it is this very message.
            Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
                SendError::Refused(failure(&error, message.topic, Some(Remedy::Reject)))
            }
            _ => SendError::Refused(failure(&error, message.topic, None)),
        })
    }

    fn probe(&mut self, topic: Option<&str>) {
        let (producer, probing, topic) =
            (Arc::clone(&self.producer), Arc::clone(&self.probing), topic.map(str::to_owned));
        let started = std::thread::Builder::new().name("kafka-probe".into()).spawn(move || {
            // One at a time: another one would only wait for the same brokers.
            let Ok(_one) = probing.try_lock() else { return };
            let context = producer.context();
            let generation = context.generation;
            context.reports.push(match producer.client().fetch_metadata(topic.as_deref(), PROBE_TIMEOUT) {
                Ok(_) => Report::Reachable { generation },
                Err(error) => Report::Unreachable { generation, probed: true, reason: describe(&error) },
            });
        });
        if let Err(error) = started {
            debug!(%error, "no thread for a probe of Kafka could be started");
        }
    }
}

/// What the callbacks need. They only note what happened: one that waited would stop the only thread of reports.
pub struct Context {
    generation: u32,
    reports: Arc<Reports>,
    remarks: Mutex<Throttle>,
    timestamp: Timestamp,
}

impl ClientContext for Context {
    /// None are asked for, and what would parse them stays out of the binary.
    fn stats_raw(&self, _: &[u8]) {}

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What concerns connections comes again through `error`, and being offline is a normal state.
        let connection =
            matches!(facility, "FAIL" | "ERROR" | "BRKMAIN" | "CONNECT" | "REQTMOUT" | "CLUSTERID" | "SASL" | "GETPID");
        let important = (level as i32) <= RDKafkaLogLevel::Warning as i32 && !connection;
        let now = clock::instant();
        let pass = important.then(|| self.remarks.lock().unwrap_or_else(PoisonError::into_inner).pass(now)).flatten();
        match pass {
            Some(suppressed) => warn!(facility, suppressed, "Kafka's client: {message}"),
            None => debug!(facility, "Kafka's client: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let generation = self.generation;
        let report = match error.rdkafka_error_code() {
            Some(Code::Fatal) => Report::Fatal { generation, reason: reason.to_owned() },
            Some(Code::AllBrokersDown) => Report::Unreachable { generation, probed: false, reason: reason.to_owned() },
            Some(
                Code::Resolve
                | Code::BrokerTransportFailure
                | Code::Authentication
                | Code::SSL
                | Code::OperationTimedOut
                | Code::SaslAuthenticationFailed
                | Code::UnsupportedSASLMechanism
                | Code::ClusterAuthorizationFailed,
            ) => Report::Hint { generation, reason: reason.to_owned() },
            _ => {
                debug!(%error, "Kafka's client: {reason}");
                return;
            }
        };
        self.reports.push(report);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let generation = self.generation;
        // It went in as a u32.
        let ticket = ticket as u32;
        self.reports.push(match result {
            Ok(_) => Report::Delivered { ticket, generation },
            Err((error, message)) => {
                // The time of sending is refused where a clock is wrong, ours or the broker's: no fault of the record.
                let clock = self.timestamp == Timestamp::Send
                    && matches!(error.rdkafka_error_code(), Some(Code::InvalidTimestamp));
                let failure = Box::new(failure(error, message.topic(), clock.then_some(Remedy::Park)));
                Report::Failed { ticket, generation, failure }
            }
        });
    }
}

fn failure(error: &KafkaError, topic: &str, remedy: Option<Remedy>) -> Failure {
    let code = error.rdkafka_error_code();
    Failure {
        remedy: remedy.unwrap_or_else(|| code.map_or(Remedy::Again, remedy_for)),
        code: code.map_or_else(|| "Unknown".to_owned(), |code| format!("{code:?}")),
        detail: describe(error),
        topic: topic.to_owned(),
    }
}

/// What to do about an error. Whatever is not known to be for good keeps the record and sends it again.
fn remedy_for(code: Code) -> Remedy {
    match code {
        // A broker's verdict on a batch: the client names the culprit where the broker did, but an older broker names
        // nobody, and then all of the batch carry the same error.
        Code::MessageSizeTooLarge
        | Code::InvalidMessageSize
        | Code::MessageBatchTooLarge
        | Code::InvalidTimestamp
        | Code::InvalidRecord => Remedy::Suspect,
        Code::TopicAuthorizationFailed
        | Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownPartition
        | Code::UnknownTopicId
        | Code::InvalidTopic
        | Code::PolicyViolation
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType => Remedy::Park,
        _ => Remedy::Again,
    }
}

fn describe(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(code @ Code::InvalidTimestamp) => {
            format!(
                "{code}: the record's time, or the clock of this machine or of the broker, is too far from the truth"
            )
        }
        Some(code) => code.to_string(),
        None => error.to_string(),
    }
}
