//! Rules and outbox in step: what a batch changes in the rules' state, the records that it leaves, and the aggregates that
//! it closes are one append, hence in one commit.
//!
//! Invariant: the state is only changed under the lock under which its change is appended, so the order of the journal is
//! the order of the changes, and a checkpoint is the state as of an append.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::outbox::{Append, Lane, Outbox};
use crate::reading::{Batch, Name, Receipt, Stamp};
use crate::rules::Rules;

/// A restart reads the journal since the last checkpoint: at this many bytes a new checkpoint is made …
const JOURNAL_BYTES: usize = 1 << 20;
/// … if that is so many times what a checkpoint takes, so that most of what is written is journal.
const JOURNAL_PER_CHECKPOINT: usize = 2;

/// Where the readings of all sources meet. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Pipeline {
    outbox: Outbox,
    /// `None` without rules: then sources do not wait for each other.
    state: Option<Arc<Mutex<State>>>,
}

#[derive(Debug)]
struct State {
    rules: Rules,
    aggregates: Batch,
    checkpoint_bytes: usize,
}

impl Pipeline {
    /// Hands readings through `rules` to `outbox`, which must have begun the rules' journal.
    #[must_use]
    pub fn new(outbox: Outbox, rules: Rules) -> Self {
        let state = State { rules, aggregates: Batch::default(), checkpoint_bytes: 0 };
        let state = (!state.rules.is_empty()).then(|| Arc::new(Mutex::new(state)));
        Self { outbox, state }
    }

    /// Takes all records out of `batch` and gives the number that [`Outbox::durable`] must reach until all that they led
    /// to is safe.
    pub fn append(&self, batch: &mut Batch, session: Option<&Name>, receipts: &[Receipt]) -> u64 {
        let Some(state) = &self.state else { return self.outbox.append(Lane::Raw, batch, session, receipts) };
        let mut state = lock(state);
        let State { rules, aggregates, .. } = &mut *state;
        rules.apply(batch, aggregates);
        let number = self.store(&mut state, batch, session, receipts);
        self.keep(&mut state, false);
        number
    }

    /// Lets time pass: windows of silent devices close.
    pub fn tick(&self, now: Stamp) {
        let Some(state) = &self.state else { return };
        let mut state = lock(state);
        let State { rules, aggregates, .. } = &mut *state;
        rules.tick(now, aggregates);
        self.store(&mut state, &mut Batch::default(), None, &[]);
        self.keep(&mut state, false);
    }

    /// Keeps the state for the next start, which then has no journal to read. Sources must have stopped.
    pub fn finish(&self) {
        if let Some(state) = &self.state {
            self.keep(&mut lock(state), true);
        }
    }

    /// The outbox behind it.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    fn store(&self, state: &mut State, raw: &mut Batch, session: Option<&Name>, receipts: &[Receipt]) -> u64 {
        let pieces: Vec<_> =
            std::iter::from_fn(|| state.rules.take_journal()).map(|piece| (piece.number, piece.bytes)).collect();
        self.outbox.append_all(Append {
            raw: Some(raw),
            aggregates: Some(&mut state.aggregates),
            session,
            receipts,
            journal: &pieces,
        })
    }

    fn keep(&self, state: &mut State, must: bool) {
        let journal = state.rules.journal_bytes();
        let due = journal >= JOURNAL_BYTES.max(JOURNAL_PER_CHECKPOINT * state.checkpoint_bytes);
        if must || due || (journal > 0 && self.outbox.wants_checkpoint()) {
            let checkpoint = state.rules.checkpoint();
            state.checkpoint_bytes = checkpoint.len();
            self.outbox.checkpoint(checkpoint);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A panic in the rules has ended the source whose batch caused it; the other sources go on.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config;
    use crate::counters::Counters;
    use crate::outbox::{Closer, Options};
    use crate::reading::{Field, Measurement, MeasurementKind, Reading, Record, TimeQuality, Value};

    fn rules() -> config::Rules {
        let window = config::Window {
            name: "minute".into(),
            select: config::Select::default(),
            every: Duration::from_secs(60),
            time_zone: None,
            lateness: Duration::from_secs(10),
            update_within: None,
            forward_raw: false,
        };
        config::Rules {
            filters: Vec::new(),
            windows: vec![window],
            series_max: 100,
            open_windows_max: 100,
            state_bytes_max: 1 << 20,
            future_max: Duration::from_secs(3_600),
        }
    }

    const NOW: Stamp = Stamp { wall_ms: 1_777_896_000_000, monotonic_ms: 1_000, trusted: true };

    /// As the gateway opens them.
    fn open(data_dir: &Path) -> (Pipeline, Closer) {
        let settings = config::Outbox {
            size_max: 64 << 20,
            when_full: config::WhenFull::DropOldest,
            commit_interval: Duration::from_millis(1),
            commit_bytes: 64 * 1024,
            segment_bytes: 16 * 1024,
            memory_tail_bytes: 16 * 1024,
        };
        let counters = Counters::default();
        let options = Options { data_dir: data_dir.to_owned(), receipts_max: 20, machine: "m".to_owned() };
        let (outbox, closer, left) = Outbox::open(&settings, &options, &counters).unwrap();
        let mut rules = Rules::restore(&rules(), left.into(), NOW, &counters);
        outbox.begin_journal(&rules.checkpoint()).unwrap();
        (Pipeline::new(outbox, rules), closer)
    }

    /// A value of 1 at that second, durable.
    fn store(pipeline: &Pipeline, second: i64) {
        let measurement = Arc::new(Measurement { name: "n".into(), unit: None, kind: MeasurementKind::Gauge });
        let reading = Reading {
            device: "d".into(),
            profile: "p".into(),
            time_ms: NOW.wall_ms + second * 1_000,
            time_quality: TimeQuality::Device,
            received: NOW,
            mark: crate::reading::Mark::None,
            fields: 0..1,
        };
        let fields = vec![Field { measurement, value: Value::Number(1.0) }];
        let mut batch = Batch { records: vec![Record::Reading(reading)], fields };
        let number = pipeline.append(&mut batch, None, &[]);
        let mut durable = pipeline.outbox().durable();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let reached = durable.wait_for(|durable| *durable >= number);
            tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap().unwrap();
        });
    }

    #[test]
    fn a_crash_after_any_commit_leaves_every_value_in_one_window() {
        let mut directory = tempfile::tempdir().unwrap();
        let mut stored = 0;
        for round in 0..12_i64 {
            let (pipeline, closer) = open(directory.path());
            // From one commit to many, the first of the very first run among them.
            for _ in 0..=round {
                store(&pipeline, stored * 5);
                stored += 1;
            }
            let image = tempfile::tempdir().unwrap();
            let mut copy = std::process::Command::new("cp");
            copy.arg("-a").arg(directory.path().join(".")).arg(image.path());
            assert!(copy.status().unwrap().success());
            drop(pipeline);
            closer.close().unwrap();
            directory = image;
        }
        let (pipeline, closer) = open(directory.path());
        let silent = Stamp { monotonic_ms: NOW.monotonic_ms + 3_600_000, ..NOW };
        pipeline.tick(silent);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut counts = Vec::new();
        runtime.block_on(async {
            let mut reader = pipeline.outbox().reader();
            while let Ok(Ok(found)) = tokio::time::timeout(Duration::from_secs(1), reader.next()).await {
                counts.extend(found.batch.records.iter().filter_map(|record| match record {
                    Record::Aggregate(aggregate) => Some((aggregate.start_ms, aggregate.count)),
                    _ => None,
                }));
            }
        });
        counts.sort_unstable();
        let windows = (stored * 5 - 5) / 60 + 1;
        let expected: Vec<_> =
            (0..windows).map(|window| (NOW.wall_ms + window * 60_000, (stored - window * 12).min(12) as u64)).collect();
        assert_eq!(counts, expected);
        closer.close().unwrap();
    }
}
