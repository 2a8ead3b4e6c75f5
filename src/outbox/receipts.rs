//! Receipts of QoS 1 messages, by session: those that are durable, and behind them those of what is appended only. A source
//! that takes over from another, after a reload, must know both: what waits for a full disk comes again on its connection.

use std::collections::{HashMap, VecDeque};

use crate::reading::{Name, Receipt};

/// Receipts of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownReceipts {
    /// In the order of arrival, each with the append that it is durable with: 0 if it is.
    pub receipts: Vec<(Receipt, u64)>,
    /// The broker has lost the session before these: that is durable with this append. 0 if nothing is to be waited for.
    pub void_at: u64,
}

/// Receipts of all sessions.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    durable: HashMap<Name, VecDeque<Receipt>>,
    /// In the order of the appends.
    pending: VecDeque<(Name, Receipt, u64)>,
}

impl Receipts {
    /// Those that earlier runs left.
    pub(crate) fn new(durable: HashMap<Name, VecDeque<Receipt>>) -> Self {
        Self { durable, pending: VecDeque::new() }
    }

    pub(crate) fn durable(&self) -> &HashMap<Name, VecDeque<Receipt>> {
        &self.durable
    }

    /// They were appended, and are not durable yet.
    pub(crate) fn append(&mut self, session: &Name, receipts: &[Receipt], number: u64) {
        self.pending.extend(receipts.iter().map(|receipt| (Name::clone(session), *receipt, number)));
    }

    /// These are durable, and so is everything up to that append. At most `kept_max` of each session are kept.
    pub(crate) fn settle(&mut self, receipts: Vec<(Name, Receipt)>, kept_max: usize, number: u64) {
        while self.pending.pop_front_if(|(.., append)| *append <= number).is_some() {}
        for (session, receipt) in receipts {
            let known = self.durable.entry(session).or_default();
            if receipt == Receipt::SESSION_LOST {
                known.clear();
                continue;
            }
            known.push_back(receipt);
            while known.len() > kept_max {
                known.pop_front();
            }
        }
    }

    /// Those that are durable are to be forgotten.
    pub(crate) fn forget(&mut self, is_void: impl Fn(&Name) -> bool) {
        self.durable.retain(|session, _| !is_void(session));
    }

    pub(crate) fn known(&self, session: &str) -> KnownReceipts {
        let durable = self.durable.get(session).into_iter().flatten().map(|receipt| (*receipt, 0));
        let mut known = KnownReceipts { receipts: durable.collect(), void_at: 0 };
        for (_, receipt, number) in self.pending.iter().filter(|(name, ..)| **name == *session) {
            if *receipt == Receipt::SESSION_LOST {
                known = KnownReceipts { receipts: Vec::new(), void_at: *number };
            } else {
                known.receipts.push((*receipt, *number));
            }
        }
        known
    }
}
