//! Which receipts of a session a start would find on the disk, while messages are acknowledged that leave none there.
//!
//! Invariant: it counts what a start takes notice of, the newest so many of each session, and goes by packet identifiers as
//! a start does: where one is there more than once, none is recognised.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::reading::{Name, Receipt};

/// Packet identifiers are 16 bits and most brokers give them out in turn: after half of them stored receipts are void.
const RELEASED_MAX: usize = 30_000;

/// What of a session's receipts is on the disk, as far as a start takes notice of it.
#[derive(Debug, Default)]
pub(crate) struct OnDisk {
    newest: VecDeque<u16>,
    /// How often each is among them.
    ids: HashMap<u16, u16>,
    /// How many are among them more than once: with any, a start recognises none.
    repeated: usize,
    /// Messages acknowledged since then without being stored.
    released: usize,
}

impl OnDisk {
    /// One more is there.
    pub(crate) fn push(&mut self, id: u16, kept_max: usize) {
        self.newest.push_back(id);
        let count = self.ids.entry(id).or_default();
        *count += 1;
        self.repeated += usize::from(*count == 2);
        if self.newest.len() > kept_max
            && let Some(oldest) = self.newest.pop_front()
            && let Some(count) = self.ids.get_mut(&oldest)
        {
            *count -= 1;
            self.repeated -= usize::from(*count == 1);
            if *count == 0 {
                self.ids.remove(&oldest);
            }
        }
        self.released = 0;
    }

    /// A message was acknowledged that leaves none.
    pub(crate) fn released(&mut self) {
        self.released += 1;
    }

    /// What they are to be replaced by before one with that identifier is acknowledged, together with `more`: `None` where
    /// they may stay.
    pub(crate) fn stale(&self, session: &Name, id: u16, more: usize) -> Option<Voided> {
        let again = self.ids.contains_key(&id).then_some(id);
        let stale = self.repeated == 0 && (again.is_some() || self.released + more > RELEASED_MAX);
        stale.then(|| Voided { session: Arc::clone(session), again })
    }

    /// The same, whatever message comes next.
    pub(crate) fn void(&self, session: &Name) -> Option<Voided> {
        (self.repeated == 0).then(|| Voided { session: Arc::clone(session), again: None })
    }
}

/// A session whose stored receipts are to be made void.
#[derive(Clone, Debug)]
pub(crate) struct Voided {
    session: Name,
    /// A packet identifier that the broker used again while it was among them.
    again: Option<u16>,
}

impl Voided {
    pub(crate) fn is_of(&self, session: &Name) -> bool {
        *self.session == **session
    }

    /// What is stored in place of the receipts.
    pub(crate) fn receipts(&self) -> impl Iterator<Item = (Name, Receipt)> {
        let twice = self.again.map(|packet_id| [Receipt { packet_id, hash: 0 }; 2]);
        let receipts = std::iter::once(Receipt::SESSION_LOST).chain(twice.into_iter().flatten());
        receipts.map(|receipt| (Arc::clone(&self.session), receipt))
    }
}
