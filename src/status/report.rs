//! The report that `tidegate status` shows: one JSON object. Fields are only ever added.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Links;
use super::configuration::{self, Configuration};
use crate::clock;
use crate::counters::{Count, Counters};
use crate::outbox::{Lane, Outbox};

/// A running gateway at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The gateway's id.
    pub gateway: String,
    /// The program's version.
    pub version: String,
    /// The run's name, after which its streams are named.
    pub run: String,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// What waits.
    pub backlog: Backlog,
    /// By name.
    pub links: BTreeMap<String, Link>,
    /// All counters.
    pub counters: Vec<Counted>,
    /// What the process takes.
    pub process: Process,
    /// What the flash bears for what is delivered.
    #[serde(default)]
    pub flash: Flash,
    /// What it runs with.
    #[serde(default)]
    pub configuration: configuration::Report,
}

/// Bytes written to disk for what was delivered since the start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Flash {
    /// Bytes that the process caused to be written to disk.
    pub written_bytes: u64,
    /// Bytes of the messages that Kafka acknowledged, before compression.
    pub delivered_bytes: u64,
    /// The one for each of the other; nothing until something is delivered.
    pub write_amplification: Option<f64>,
}

/// What waits in the outbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backlog {
    /// Records that are not delivered.
    pub records: u64,
    /// The same by lane: `alarm`, `aggregate`, `raw`.
    #[serde(default)]
    pub lanes: BTreeMap<String, u64>,
    /// Bytes on disk.
    pub bytes: u64,
    /// Segments on disk.
    pub segments: u64,
    /// When the oldest record was received (RFC 3339).
    pub oldest: Option<String>,
}

/// A link to something outside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Link {
    /// `connecting`, `up` or `down`.
    pub state: String,
    /// Since when (RFC 3339).
    pub since: String,
    /// What a person should know; empty if nothing.
    pub detail: String,
}

/// One counter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Counted {
    /// The metric's name.
    pub name: String,
    /// The label's name, empty if it has none.
    pub label: String,
    /// The label's value.
    pub value: String,
    /// The number.
    pub count: u64,
}

/// What the process takes, as the kernel says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub id: u32,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// The most that it ever was.
    pub rss_peak_bytes: u64,
    /// Bytes that it caused to be written to disk.
    pub disk_written_bytes: u64,
}

/// What reports are made from.
#[derive(Clone, Debug)]
pub struct Reporter {
    gateway: String,
    outbox: Outbox,
    links: Links,
    counters: Counters,
    configuration: Configuration,
    started: std::time::Instant,
}

impl Reporter {
    /// A reporter for the gateway that starts now.
    #[must_use]
    pub fn new(gateway: &str, outbox: Outbox, links: Links, counters: Counters, configuration: Configuration) -> Self {
        Self { gateway: gateway.to_owned(), outbox, links, counters, configuration, started: clock::instant() }
    }

    /// How things are.
    #[must_use]
    pub fn report(&self) -> Report {
        let backlog = self.outbox.backlog();
        let links = self.links.snapshot().into_iter().map(|(name, info)| {
            let link =
                Link { state: info.state.as_str().to_owned(), since: rfc3339(info.since_ms), detail: info.detail };
            (name.to_string(), link)
        });
        let process = process();
        let delivered_bytes = self.counters.counter(Count::DeliveredBytes, "").get();
        let written_bytes = process.disk_written_bytes;
        let amplification = (delivered_bytes > 0).then(|| written_bytes as f64 / delivered_bytes as f64);
        let flash = Flash { written_bytes, delivered_bytes, write_amplification: amplification };
        let counters = self.counters.snapshot().into_iter().map(|(count, value, number)| Counted {
            name: count.name().to_owned(),
            label: Count::label(count).to_owned(),
            value: value.to_string(),
            count: number,
        });
        Report {
            gateway: self.gateway.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            run: self.outbox.run().to_owned(),
            uptime_s: clock::instant().saturating_duration_since(self.started).as_secs(),
            backlog: Backlog {
                records: backlog.records,
                lanes: Lane::ALL.into_iter().map(|lane| lane.as_str().to_owned()).zip(backlog.lanes).collect(),
                bytes: backlog.bytes,
                segments: backlog.segments,
                oldest: backlog.oldest_ms.map(rfc3339),
            },
            links: links.collect(),
            counters: counters.collect(),
            process,
            flash,
            configuration: self.configuration.report(),
        }
    }
}

/// A time of the wall clock, for the report.
pub(super) fn rfc3339(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map(|time| format!("{time:.3}")).unwrap_or_default()
}

fn process() -> Process {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let number = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Process {
        id: std::process::id(),
        rss_bytes: number(&status, "VmRSS:").unwrap_or(0) * 1024,
        rss_peak_bytes: number(&status, "VmHWM:").unwrap_or(0) * 1024,
        disk_written_bytes: number(&io, "write_bytes:").unwrap_or(0),
    }
}
