//! Counters by cause, in one place: whatever is received, refused, dropped or delivered is counted here, and
//! `tidegate status` reads them from the running gateway. The names are Prometheus names, without the prefix.
//!
//! A [`Counter`] is fetched once and kept by who counts; adding to one is a relaxed atomic add.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

macro_rules! counts {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $label:literal;)+) => {
        /// What is counted. Each has one label, named by [`Count::label`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Count { $($(#[doc = $doc])+ $variant,)+ }

        impl Count {
            /// The metric's name.
            #[must_use]
            pub fn name(self) -> &'static str { match self { $(Self::$variant => $name,)+ } }

            /// What its label says: `source`, `reason` and so on; empty for a count without a label.
            #[must_use]
            pub fn label(self) -> &'static str { match self { $(Self::$variant => $label,)+ } }

            /// What it means, for a person.
            #[must_use]
            pub fn help(self) -> &'static str { match self { $(Self::$variant => concat!($($doc),+),)+ } }
        }
    };
}

counts! {
    /// Frames (MQTT messages, serial lines) received.
    FramesReceived = "frames_received_total", "source";
    /// Bytes of frames received.
    BytesReceived = "bytes_received_total", "source";
    /// Readings decoded.
    Readings = "readings_total", "source";
    /// Readings and device states that arrived while the clock was not trusted, by cause.
    ReceivedUntrusted = "received_untrusted_total", "cause";
    /// Device states (availability, last will) decoded.
    DeviceStates = "device_states_total", "source";
    /// Frames that a profile knows and asks to ignore.
    FramesIgnored = "frames_ignored_total", "source";
    /// Retained messages dropped by the `retained` setting.
    RetainedDropped = "retained_dropped_total", "source";
    /// Retained messages dropped because nothing says when they were measured.
    RetainedWithoutTime = "retained_without_time_total", "source";
    /// Redelivered messages that had been stored already: acknowledged, not stored again.
    RedeliveredKnown = "redelivered_known_total", "source";
    /// Messages of QoS 0 dropped because the source's memory budget was used up.
    Qos0Dropped = "qos0_dropped_total", "source";
    /// Connections (MQTT) or opens (serial) that succeeded.
    Connects = "connects_total", "source";
    /// Connections or opens that failed, and connections lost.
    ConnectionErrors = "connection_errors_total", "source";
    /// Subscriptions that the broker refused.
    SubscriptionsRefused = "subscriptions_refused_total", "source";
    /// Bytes of noise skipped on a serial line.
    NoiseBytes = "noise_bytes_total", "source";
    /// Serial frames dropped because the outbox had no room for what was read before them.
    FramesDropped = "frames_dropped_total", "source";
    /// Serial frames dropped because they were longer than the limit.
    FramesTooLong = "frames_too_long_total", "source";
    /// Serial frames dropped because their checksum was wrong.
    ChecksumErrors = "checksum_errors_total", "source";
    /// Requests that a polled device did not answer in time, by source and address.
    UnitTimeouts = "unit_timeouts_total", "unit";
    /// Requests after which a polled device was heard, but no whole answer with a right checksum came, by source and address.
    UnitDamaged = "unit_damaged_total", "unit";
    /// Requests that a polled device refused (Modbus exceptions), by source and address.
    UnitExceptions = "unit_exceptions_total", "unit";
    /// Inputs that could not become a reading, by reason.
    Rejected = "rejected_total", "reason";
    /// Rejected inputs that were only counted: their source had sent too many dead letters for that reason.
    DeadLettersSuppressed = "dead_letters_suppressed_total", "source";
    /// Single values left out of a reading that was kept, by reason.
    ValuesRejected = "values_rejected_total", "reason";
    /// Gaps in the numbers that nodes of Sparkplug B give their messages: at least one message of that node did not arrive.
    SequenceGaps = "sequence_gaps_total", "source";
    /// Nodes of Sparkplug B that were asked for their birth message.
    RebirthsRequested = "rebirths_requested_total", "source";
    /// Values dropped by a filter, by its name.
    ValuesFiltered = "values_filtered_total", "filter";
    /// Values and aggregates that are alarms, by the rule's name.
    Alarms = "alarms_total", "rule";
    /// Values that were counted into a window and not forwarded themselves, by the window's name.
    ValuesAggregated = "values_aggregated_total", "window";
    /// Aggregates made, late updates included, by the window's name.
    Aggregates = "aggregates_total", "window";
    /// Values that came after their window had closed, by the window's name.
    ValuesLate = "values_late_total", "window";
    /// Values whose time is further ahead of a trusted clock than is believed, by the window's name.
    ValuesFuture = "values_future_total", "window";
    /// Values that stay out of windows because the clock was not trusted when they arrived, by the window's name.
    ValuesUnsynced = "values_unsynced_total", "window";
    /// Values for which a rule could keep no state because a limit was reached, by the limit.
    StateRefused = "state_refused_total", "limit";
    /// Values in open windows that were given up, by cause.
    StateDiscarded = "state_discarded_total", "cause";
    /// Records appended to the outbox, by lane.
    Appended = "outbox_appended_total", "lane";
    /// Records made durable, by lane.
    Committed = "outbox_committed_total", "lane";
    /// Records that Kafka had acknowledged before they had to be written.
    Unwritten = "outbox_unwritten_total", "";
    /// Commits (one fsync each).
    Commits = "outbox_commits_total", "";
    /// Commits that failed and were tried again in a new segment.
    CommitErrors = "outbox_commit_errors_total", "";
    /// Bytes of chunks committed.
    CommittedBytes = "outbox_committed_bytes_total", "";
    /// Bytes of the windows' journal that went into commits.
    JournalBytes = "outbox_journal_bytes_total", "";
    /// Bytes of checkpoints of the windows' state.
    CheckpointBytes = "outbox_checkpoint_bytes_total", "";
    /// Records given up because the outbox was full, by lane.
    Evicted = "outbox_evicted_total", "lane";
    /// Records given up because they were older than wanted, by lane.
    Expired = "outbox_expired_total", "lane";
    /// Readings that coarse aggregates stand for since the disk was filling up.
    Thinned = "outbox_thinned_total", "";
    /// Records lost to damage, by lane.
    Damaged = "outbox_damaged_total", "lane";
    /// Segments set aside because they were damaged.
    Quarantined = "outbox_quarantined_total", "";
    /// Records that Kafka acknowledged, by topic.
    Delivered = "delivered_total", "topic";
    /// Bytes of the messages that Kafka acknowledged: keys, values and headers, before compression.
    DeliveredBytes = "delivered_bytes_total", "";
    /// Records that were not delivered at the first try and stay stored, by error.
    DeliveryErrors = "delivery_errors_total", "error";
    /// Times that the link to Kafka went down.
    LinkDown = "link_down_total", "";
    /// Times that the Kafka producer was built anew.
    ProducerRebuilds = "producer_rebuilds_total", "";
    /// Reloads of the configuration, by outcome: applied or refused.
    ConfigReloads = "config_reloads_total", "outcome";
}

/// A count that one part of the gateway adds to.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What it stands at.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counters of one gateway. Cloning gives another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Mutex<ByLabel>>);

type ByLabel = BTreeMap<(Count, Arc<str>), Counter>;

impl Counters {
    /// The counter of `count` with this label value, made at the first call. Fetch it once and keep it.
    #[must_use]
    pub fn counter(&self, count: Count, label: &str) -> Counter {
        // A poisoned lock holds a map that is whole: nothing in here panics half way through a change.
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.entry((count, Arc::from(label))).or_default().clone()
    }

    /// Adds to a counter that is rarely used; on a hot path keep the [`Counter`].
    pub fn add(&self, count: Count, label: &str, n: u64) {
        self.counter(count, label).add(n);
    }

    /// All that was ever counted: what, label value, number.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(Count, Arc<str>, u64)> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.iter().map(|((count, label), counter)| (*count, Arc::clone(label), counter.get())).collect()
    }
}
