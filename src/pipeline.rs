//! Rules and outbox in step: what a batch changes in the rules' state, the records that it leaves, the alarms that it raises
//! and the aggregates that it closes are one append, hence in one commit.
//!
//! Invariant: the state is only changed under the lock under which its change is appended, so the order of the journal is
//! the order of the changes, and a checkpoint is the state as of an append.

use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tracing::error;

use crate::config;
use crate::counters::Counters;
use crate::outbox::{self, Append, Lane, Outbox};
use crate::reading::{Batch, Name, Receipt, Stamp};
use crate::rules::{self, Made, Piece, Rules};

/// A restart reads the journal since the last checkpoint: at this many bytes a new checkpoint is made …
const JOURNAL_BYTES: usize = 1 << 20;
/// … if that is so many times what a checkpoint takes, so that most of what is written is journal.
const JOURNAL_PER_CHECKPOINT: usize = 2;

/// Where the readings of all sources meet. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Pipeline {
    outbox: Outbox,
    /// Sources share it; a reload has it alone, which is between two batches of any of them.
    stage: Arc<RwLock<Stage>>,
}

#[derive(Debug)]
struct Stage {
    /// Without rules sources do not wait for each other.
    has_rules: bool,
    /// The outbox has a checkpoint that the journal goes on from.
    begun: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rules: Rules,
    made: Made,
    checkpoint_bytes: usize,
}

impl Pipeline {
    /// Hands readings through `rules` to `outbox`; `begun` says whether that has begun the rules' journal, which it must have
    /// if there are rules.
    #[must_use]
    pub fn new(outbox: Outbox, rules: Rules, begun: bool) -> Self {
        let has_rules = !rules.is_empty();
        let state = Mutex::new(State { rules, made: Made::default(), checkpoint_bytes: 0 });
        Self { outbox, stage: Arc::new(RwLock::new(Stage { has_rules, begun, state })) }
    }

    /// Takes all records out of `batch` and gives the number that [`Outbox::durable`] must reach until all that they led
    /// to is safe.
    pub fn append(&self, batch: &mut Batch, session: Option<&Name>, receipts: &[Receipt]) -> u64 {
        let stage = self.stage();
        if !stage.has_rules {
            return self.outbox.append(Lane::Raw, batch, session, receipts);
        }
        let mut state = lock(&stage.state);
        let State { rules, made, .. } = &mut *state;
        rules.apply(batch, made);
        let number = self.store(&mut state, batch, session, receipts);
        self.keep(&mut state, false);
        number
    }

    /// Lets time pass: windows of silent devices close.
    pub fn tick(&self, now: Stamp) {
        let stage = self.stage();
        if !stage.has_rules {
            // What was journalled while there were rules keeps its segments until a checkpoint follows it.
            if stage.begun {
                self.keep(&mut lock(&stage.state), false);
            }
            return;
        }
        let mut state = lock(&stage.state);
        let State { rules, made, .. } = &mut *state;
        rules.tick(now, made);
        self.store(&mut state, &mut Batch::default(), None, &[]);
        self.keep(&mut state, false);
    }

    /// Keeps the state for the next start, which then has no journal to read. Sources must have stopped.
    pub fn finish(&self) {
        let stage = self.stage();
        if stage.begun {
            self.keep(&mut lock(&stage.state), true);
        }
    }

    /// Has the outbox begin the journal of rules if it has none yet, as it must before [`Pipeline::change`] brings the first
    /// rules of this run. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin(&self) -> std::io::Result<()> {
        let checkpoint = {
            let stage = self.stage();
            if stage.begun {
                return Ok(());
            }
            // There are no rules, so the state that it is of does not change meanwhile.
            lock(&stage.state).rules.checkpoint()
        };
        self.outbox.begin_journal(&checkpoint)?;
        self.stage_alone().begun = true;
        Ok(())
    }

    /// Goes over to other rules between two batches. What that does to the state goes into the journal, in the same order;
    /// so a kill at any moment leaves the state of the old rules, or of the new ones, as of the last commit. Gives the
    /// number that [`Outbox::durable`] must reach until the change is safe.
    pub fn change(&self, settings: &config::Rules, counters: &Counters) -> u64 {
        let mut stage = self.stage_alone();
        let mut state = lock(&stage.state);
        state.rules.change(settings, counters);
        let has_rules = !state.rules.is_empty();
        let number = self.store(&mut state, &mut Batch::default(), None, &[]);
        self.keep(&mut state, true);
        drop(state);
        stage.has_rules = has_rules;
        number
    }

    /// The outbox behind it.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    fn stage(&self) -> RwLockReadGuard<'_, Stage> {
        self.stage.read().unwrap_or_else(|_| end())
    }

    fn stage_alone(&self) -> RwLockWriteGuard<'_, Stage> {
        self.stage.write().unwrap_or_else(|_| end())
    }

    fn store(&self, state: &mut State, raw: &mut Batch, session: Option<&Name>, receipts: &[Receipt]) -> u64 {
        let pieces: Vec<_> =
            std::iter::from_fn(|| state.rules.take_journal()).map(|piece| (piece.number, piece.bytes)).collect();
        self.outbox.append_all(Append {
            raw: Some(raw),
            aggregates: Some(&mut state.made.aggregates),
            alarms: Some(&mut state.made.alarms),
            session,
            receipts,
            journal: &pieces,
        })
    }

    fn keep(&self, state: &mut State, must: bool) {
        let journal = state.rules.journal_bytes();
        let due = journal >= JOURNAL_BYTES.max(JOURNAL_PER_CHECKPOINT * state.checkpoint_bytes);
        // The outbox asks when segments begin: those that hold journal stay until then, whether or not more of it came.
        if must || due || self.outbox.wants_checkpoint() {
            let checkpoint = state.rules.checkpoint();
            state.checkpoint_bytes = checkpoint.len();
            self.outbox.checkpoint(checkpoint);
        }
    }
}

/// What the outbox kept is what the rules gave it.
impl From<outbox::Left> for rules::Left {
    fn from(left: outbox::Left) -> Self {
        let piece = |(number, bytes)| Piece { number, bytes };
        Self { checkpoint: left.checkpoint, journal: left.journal.into_iter().map(piece).collect() }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|_| end())
}

/// Half a batch is in the state, without its receipts. A restart begins with the last commit, which is whole.
fn end() -> ! {
    error!("the rules have panicked, which is a defect: the gateway ends so that it can be restarted");
    std::process::abort()
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
