//! An outbox in memory, and an uplink that runs on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use tidegate::config::{Compression, Format, Gateway, Kafka, Layout, Timestamp, Topics};
use tidegate::counters::{Count, Counters};
use tidegate::outbox::{Backlog, Lane, ReadError};
use tidegate::reading::{
    Batch, DeadLetter, Field, Measurement, MeasurementKind, Reading, Record, Stamp, TimeQuality, Value,
};
use tidegate::status::{LinkInfo, Links};
use tidegate::uplink::sink::Connect;
use tidegate::uplink::source::{Chunk, Source};
use tidegate::uplink::{Settings, Tuning, drain};
use tokio::sync::{Notify, watch};

#[derive(Debug)]
struct Inner {
    records: Vec<Batch>,
    read: usize,
    delivered: BTreeSet<u64>,
    twice: Vec<u64>,
    rewinds: usize,
    calls: usize,
    alarms: Vec<Batch>,
    alarms_read: usize,
    alarms_delivered: Vec<u64>,
}

/// Records in memory: numbered from 1, in chunks of `chunk`.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    inner: Arc<Mutex<Inner>>,
    wake: Arc<Notify>,
    durable: watch::Sender<u64>,
    chunk: usize,
}

impl Memory {
    pub(crate) fn new(chunk: usize) -> Self {
        let inner = Inner {
            records: Vec::new(),
            read: 0,
            delivered: BTreeSet::new(),
            twice: Vec::new(),
            rewinds: 0,
            calls: 0,
            alarms: Vec::new(),
            alarms_read: 0,
            alarms_delivered: Vec::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)), wake: Arc::default(), durable: watch::channel(0).0, chunk }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn push(&self, record: Record, fields: Vec<Field>) {
        self.lock().records.push(Batch { records: vec![record], fields });
        self.wake.notify_one();
    }

    pub(crate) fn reading(&self, device: &str, number: f64) {
        self.reading_at(device, number, 1_777_896_000_123);
    }

    pub(crate) fn reading_at(&self, device: &str, number: f64, time_ms: i64) {
        self.push(reading(device, time_ms, 1), vec![field("temperature", Value::Number(number))]);
    }

    pub(crate) fn text(&self, device: &str, text: &str) {
        self.push(reading(device, 1_777_896_000_123, 1), vec![field("state", Value::Text(text.into()))]);
    }

    pub(crate) fn alarm(&self, device: &str, number: f64) {
        let (records, fields) =
            (vec![reading(device, 1_777_896_000_123, 1)], vec![field("temperature", Value::Number(number))]);
        self.lock().alarms.push(Batch { records, fields });
        self.wake.notify_one();
    }

    /// Numbers of the alarms that were delivered, in that order.
    pub(crate) fn alarms_delivered(&self) -> Vec<u64> {
        self.lock().alarms_delivered.clone()
    }

    fn take_alarm(&self) -> Option<Chunk> {
        let mut inner = self.lock();
        let batch = inner.alarms.get(inner.alarms_read)?.clone();
        inner.alarms_read += 1;
        Some(Chunk {
            segment: 7,
            lane: Lane::Alarm,
            stream: "9f3c1.alarm".into(),
            first_seq: inner.alarms_read as u64,
            batch: Arc::new(batch),
            delivered: vec![inner.alarms_delivered.contains(&(inner.alarms_read as u64))],
            replayed: Vec::new(),
            pin: None,
        })
    }

    pub(crate) fn delivered(&self) -> usize {
        self.lock().delivered.len()
    }

    pub(crate) fn is_delivered(&self, seq: u64) -> bool {
        self.lock().delivered.contains(&seq)
    }

    /// Records that were reported as delivered more than once.
    pub(crate) fn twice(&self) -> Vec<u64> {
        self.lock().twice.clone()
    }

    pub(crate) fn rewinds(&self) -> usize {
        self.lock().rewinds
    }

    pub(crate) fn calls(&self) -> usize {
        self.lock().calls
    }

    pub(crate) fn letters(&self) -> Vec<DeadLetter> {
        let inner = self.lock();
        let records = inner.records.iter().flat_map(|batch| &batch.records);
        records
            .filter_map(|record| if let Record::DeadLetter(letter) = record { Some((**letter).clone()) } else { None })
            .collect()
    }
}

impl Source for Memory {
    async fn next(&mut self) -> Result<Chunk, ReadError> {
        loop {
            let notified = self.wake.notified();
            if let Some(chunk) = self.take_alarm() {
                return Ok(chunk);
            }
            {
                let mut inner = self.lock();
                let (from, to) = (inner.read, inner.records.len().min(inner.read + self.chunk));
                if from < to {
                    let mut batch = Batch::default();
                    for one in &inner.records[from..to] {
                        batch.append(&mut one.clone());
                    }
                    let delivered = (from..to).map(|at| inner.delivered.contains(&(at as u64 + 1))).collect();
                    inner.read = to;
                    return Ok(Chunk {
                        segment: 7,
                        lane: Lane::Raw,
                        stream: "9f3c1.raw".into(),
                        first_seq: from as u64 + 1,
                        batch: Arc::new(batch),
                        delivered,
                        replayed: Vec::new(),
                        pin: None,
                    });
                }
            }
            notified.await;
        }
    }

    async fn next_alarms(&mut self) -> Result<Chunk, ReadError> {
        loop {
            let notified = self.wake.notified();
            if let Some(chunk) = self.take_alarm() {
                return Ok(chunk);
            }
            notified.await;
        }
    }

    fn rewind(&mut self) {
        let mut inner = self.lock();
        (inner.read, inner.alarms_read) = (0, 0);
        inner.rewinds += 1;
        self.wake.notify_one();
    }

    fn delivered(&mut self, segment: u64, lane: Lane, seqs: &[u64]) {
        let mut inner = self.lock();
        if lane == Lane::Alarm {
            inner.alarms_delivered.extend(seqs);
            return;
        }
        assert_eq!((segment, lane), (7, Lane::Raw));
        inner.calls += 1;
        for seq in seqs {
            if !inner.delivered.insert(*seq) {
                inner.twice.push(*seq);
            }
        }
    }

    fn bury(&mut self, letter: DeadLetter) -> u64 {
        self.push(Record::DeadLetter(Box::new(letter)), Vec::new());
        let number = self.lock().records.len() as u64;
        self.durable.send_replace(number);
        number
    }

    fn durable(&self) -> watch::Receiver<u64> {
        self.durable.subscribe()
    }

    fn backlog(&self) -> Backlog {
        let inner = self.lock();
        Backlog { records: (inner.records.len() - inner.delivered.len()) as u64, ..Backlog::default() }
    }
}

pub(crate) fn reading(device: &str, time_ms: i64, fields: u32) -> Record {
    Record::Reading(Reading {
        device: device.into(),
        profile: "zigbee2mqtt".into(),
        time_ms,
        time_quality: TimeQuality::Device,
        received: Stamp { wall_ms: 1_777_896_000_410, monotonic_ms: 1, trusted: true },
        mark: tidegate::reading::Mark::None,
        alarm: None,
        fields: 0..fields,
    })
}

pub(crate) fn field(name: &str, value: Value) -> Field {
    Field { measurement: Arc::new(Measurement { name: name.into(), unit: None, kind: MeasurementKind::Gauge }), value }
}

pub(crate) fn gateway() -> Gateway {
    Gateway {
        id: "home-01".into(),
        labels: BTreeMap::new(),
        data_dir: PathBuf::new(),
        profiles_dir: PathBuf::new(),
        stop_timeout: Duration::from_secs(5),
    }
}

pub(crate) fn settings(brokers: &str) -> Kafka {
    Kafka {
        brokers: brokers.split(',').map(str::to_owned).collect(),
        tls: None,
        sasl: None,
        topics: Topics {
            reading: "iot.{profile}".into(),
            aggregate: "iot.aggregates".into(),
            alarm: "iot.alarms".into(),
            dead_letter: "iot.dead".into(),
        },
        layout: Layout::Wide,
        format: Format::Json,
        timestamp: Timestamp::Send,
        compression: Compression::None,
        linger: Duration::from_millis(5),
        in_flight_max: 1_000,
        in_flight_bytes_max: 4 << 20,
        reconnect_max: Duration::from_secs(2),
    }
}

/// Everything quick, so that a test need not wait.
pub(crate) fn tuning() -> Tuning {
    Tuning {
        park_min: Duration::from_millis(300),
        park_max: Duration::from_millis(600),
        probe_min: Duration::from_millis(200),
        probe_max: Duration::from_secs(1),
        rebuild_min: Duration::from_millis(50),
        quiet: Duration::from_millis(200),
        ..Tuning::default()
    }
}

/// A running uplink.
pub(crate) struct Uplink {
    pub(crate) memory: Memory,
    pub(crate) counters: Counters,
    links: Links,
    pub(crate) change: watch::Sender<Settings>,
    stop: watch::Sender<Option<Instant>>,
    task: tokio::task::JoinHandle<()>,
}

impl Uplink {
    pub(crate) fn start<C: Connect + Send + 'static>(
        memory: &Memory,
        settings: Kafka,
        connect: C,
        tuning: Tuning,
    ) -> Self
    where
        C::Sink: 'static,
    {
        let (links, counters) = (Links::default(), Counters::default());
        let (stop, stopped) = watch::channel(None);
        let (link, source, counted) = (links.link("kafka"), memory.clone(), counters.clone());
        let (change, changes) = watch::channel(Settings { kafka: settings, gateway: gateway() });
        let task = tokio::spawn(async move {
            drain(changes, source, connect, link, counted, tuning, stopped).await;
        });
        Self { memory: memory.clone(), counters, links, change, stop, task }
    }

    pub(crate) fn link(&self) -> LinkInfo {
        self.links.snapshot()["kafka"].clone()
    }

    pub(crate) fn count(&self, count: Count, label: &str) -> u64 {
        self.counters.counter(count, label).get()
    }

    /// Waits until that is so; fails with the state of things after half a minute.
    pub(crate) async fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        for _ in 0..1_500 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!(
            "not within 30 s: {what}; delivered {}, link {:?}, counters {:?}",
            self.memory.delivered(),
            self.link(),
            self.counters.snapshot()
        );
    }

    pub(crate) async fn until_delivered(&self, count: usize) {
        self.until(&format!("{count} delivered"), |uplink| uplink.memory.delivered() >= count).await;
    }

    /// Stops it; it may take so long to drain. Gives how long it took.
    pub(crate) async fn stop(self, within: Duration) -> Duration {
        let begin = tidegate::clock::instant();
        self.stop.send_replace(Some(begin + within));
        tokio::time::timeout(within + Duration::from_secs(5), self.task).await.expect("returns in time").unwrap();
        begin.elapsed()
    }
}

/// A record as it stands in Kafka.
#[derive(Debug)]
pub(crate) struct Consumed {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) partition: i32,
}

impl Consumed {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.value).unwrap()
    }
}

/// Reads `count` records of a topic from its beginning.
pub(crate) fn consume(brokers: &str, topic: &str, partitions: i32, count: usize) -> Vec<Consumed> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", "test").create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let deadline = tidegate::clock::instant() + Duration::from_secs(20);
    let mut found = Vec::new();
    while found.len() < count && tidegate::clock::instant() < deadline {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let headers = message.headers().map_or_else(BTreeMap::new, |headers| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(text).unwrap_or_default())).collect()
        });
        found.push(Consumed {
            key: String::from_utf8(message.key().unwrap_or_default().to_vec()).unwrap(),
            value: message.payload().unwrap_or_default().to_vec(),
            headers,
            partition: message.partition(),
        });
    }
    assert_eq!(found.len(), count, "records of {topic}");
    found
}
