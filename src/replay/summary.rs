//! What came of a recording, for a person: what went in, what was dropped by which rule, what goes out, and the ratio.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::config;
use crate::counters::{Count, Counters};
use crate::outbox::Lane;
use crate::reading::{Batch, Record};

/// What rules count, in the order in which it is told, with the word for it.
const RULE_COUNTS: [(Count, &str); 9] = [
    (Count::Alarms, "alarms"),
    (Count::ValuesFiltered, "values filtered"),
    (Count::ValuesAggregated, "values only in aggregates"),
    (Count::Aggregates, "aggregates"),
    (Count::ValuesLate, "values late"),
    (Count::ValuesFuture, "values from the future"),
    (Count::ValuesUnsynced, "values without a trusted time"),
    (Count::StateRefused, "values beyond a limit"),
    (Count::StateDiscarded, "values of windows given up"),
];

/// Records and their encoded size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Readings.
    pub readings: u64,
    /// Their values.
    pub values: u64,
    /// Aggregates, of any revision.
    pub aggregates: u64,
    /// Device states.
    pub states: u64,
    /// Those of the readings and aggregates that are alarms.
    pub alarms: u64,
    /// Bytes as wide JSON, line ends included.
    pub bytes: u64,
}

impl Sent {
    /// Adds a batch's records, which go to that lane.
    pub(super) fn add(&mut self, batch: &Batch, lane: Lane) {
        self.alarms += if lane == Lane::Alarm { batch.len() as u64 } else { 0 };
        for record in &batch.records {
            match record {
                Record::Reading(reading) => {
                    self.readings += 1;
                    self.values += batch.fields_of(reading).len() as u64;
                }
                Record::Aggregate(_) => self.aggregates += 1,
                _ => self.states += 1,
            }
        }
    }

    /// All records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.readings + self.aggregates + self.states
    }
}

/// What came of a recording.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Lines that are no record, or none that could be read.
    pub refused: u64,
    /// Records that rules have nothing to do with, by kind.
    pub others: BTreeMap<&'static str, u64>,
    /// Records that were received before one that stands above them.
    pub out_of_order: u64,
    /// Records of another gateway than the first record's.
    pub of_other_gateways: u64,
    /// What would have been sent without rules.
    pub without_rules: Sent,
    /// What was sent.
    pub sent: Sent,
    /// Windows that were open at the end of the recording.
    pub open_windows: u64,
    /// The values in them.
    pub open_values: u64,
    /// Whether they were closed then.
    pub closed: bool,
    /// What the rules counted: what, by which rule or limit, how many. A rule that did nothing is there with 0.
    pub counts: BTreeMap<(Count, Arc<str>), u64>,
}

impl Summary {
    /// A summary for these rules.
    pub(super) fn new(rules: &config::Rules) -> Self {
        let count = |filter: &config::Filter| filter.alarm.as_ref().map_or(Count::ValuesFiltered, |_| Count::Alarms);
        let filters = rules.filters.iter().map(|filter| (count(filter), &filter.name));
        let alarms = rules.windows.iter().filter(|window| window.alarm.is_some());
        let filters = filters.chain(alarms.map(|window| (Count::Alarms, &window.name)));
        let windows = rules.windows.iter().map(|window| (Count::Aggregates, &window.name));
        let counts = filters.chain(windows).map(|(count, name)| ((count, Arc::from(&**name)), 0)).collect();
        Self { counts, ..Self::default() }
    }

    pub(super) fn take_counters(&mut self, counters: &Counters) {
        for (count, label, number) in counters.snapshot() {
            let is_known = RULE_COUNTS.iter().any(|(known, _)| *known == count);
            // What a rule is there for is told with 0 too.
            if is_known && (number > 0 || self.counts.contains_key(&(count, Arc::clone(&label)))) {
                self.counts.insert((count, label), number);
            }
        }
    }
}

/// A line's number, by which columns are aligned.
fn line(f: &mut fmt::Formatter<'_>, number: u64, what: fmt::Arguments<'_>) -> fmt::Result {
    writeln!(f, "{number:>12}  {what}")
}

/// A part of a whole, in per cent.
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = (&self.without_rules, &self.sent);
        line(f, before.readings, format_args!("readings in, {} values", before.values))?;
        for (kind, number) in &self.others {
            line(f, *number, format_args!("{kind} records left out: rules have nothing to do with them"))?;
        }
        if self.refused > 0 {
            line(f, self.refused, format_args!("lines left out: they are no records, see above"))?;
        }
        if self.out_of_order > 0 {
            let why = "received before one above them: time stood still there; sort the file by `received`";
            line(f, self.out_of_order, format_args!("{why}"))?;
        }
        if self.of_other_gateways > 0 {
            let why = "records of another gateway than the first: devices of one name were taken for one device";
            line(f, self.of_other_gateways, format_args!("{why}"))?;
        }
        for (count, words) in RULE_COUNTS {
            for ((_, label), number) in self.counts.iter().filter(|((found, _), _)| *found == count) {
                line(f, *number, format_args!("{words}: {label}"))?;
            }
        }
        if self.open_windows > 0 {
            let (values, then) = (self.open_values, if self.closed { "closed now" } else { "--close closes them" });
            line(f, self.open_windows, format_args!("windows open at the end, {values} values in them: {then}"))?;
        }
        line(f, after.readings, format_args!("readings out, {} values", after.values))?;
        if after.alarms > 0 {
            line(f, after.alarms, format_args!("readings and aggregates of these as alarms, ahead of all others"))?;
        }
        if before.states > 0 {
            line(f, after.states, format_args!("device states out"))?;
        }
        let (records, bytes) = (percent(after.records(), before.records()), percent(after.bytes, before.bytes));
        line(f, after.records(), format_args!("records out of {}: {records}", before.records()))?;
        line(f, after.bytes, format_args!("bytes of JSON out of {}: {bytes}", before.bytes))
    }
}
