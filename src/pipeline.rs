//! Rules and outbox in step: what a batch changes in the rules' state, the records that it leaves, the alarms that it raises
//! and the aggregates that it closes are one append, hence in one commit.
//!
//! Invariant: the state is only changed under the lock under which its change is appended, so the order of the journal is
//! the order of the changes, and a checkpoint is the state as of an append.

use std::sync::{Arc, Mutex, MutexGuard};

use tracing::error;

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
    /// `None` without rules: then sources do not wait for each other.
    state: Option<Arc<Mutex<State>>>,
}

#[derive(Debug)]
struct State {
    rules: Rules,
    made: Made,
    checkpoint_bytes: usize,
}

impl Pipeline {
    /// Hands readings through `rules` to `outbox`, which must have begun the rules' journal.
    #[must_use]
    pub fn new(outbox: Outbox, rules: Rules) -> Self {
        let state = State { rules, made: Made::default(), checkpoint_bytes: 0 };
        let state = (!state.rules.is_empty()).then(|| Arc::new(Mutex::new(state)));
        Self { outbox, state }
    }

    /// Takes all records out of `batch` and gives the number that [`Outbox::durable`] must reach until all that they led
    /// to is safe.
    pub fn append(&self, batch: &mut Batch, session: Option<&Name>, receipts: &[Receipt]) -> u64 {
        let Some(state) = &self.state else { return self.outbox.append(Lane::Raw, batch, session, receipts) };
        let mut state = lock(state);
        let State { rules, made, .. } = &mut *state;
        rules.apply(batch, made);
        let number = self.store(&mut state, batch, session, receipts);
        self.keep(&mut state, false);
        number
    }

    /// Lets time pass: windows of silent devices close.
    pub fn tick(&self, now: Stamp) {
        let Some(state) = &self.state else { return };
        let mut state = lock(state);
        let State { rules, made, .. } = &mut *state;
        rules.tick(now, made);
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
    state.lock().unwrap_or_else(|_| {
        // Half a batch is in the state, without its receipts. A restart begins with the last commit, which is whole.
        error!("the rules have panicked, which is a defect: the gateway ends so that it can be restarted");
        std::process::abort()
    })
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
