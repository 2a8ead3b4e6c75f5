//! Which QoS 1 messages of the session were taken already, so that one that the broker sends again is not counted twice:
//! after a crash between commit and PUBACK, and after any lost connection.
//!
//! Invariants: never more receipts than the in-flight limit, since the broker can send no more than that again; of two
//! messages with the same packet identifier only the later counts; only a publish with DUP in a resumed session, and
//! only its first appearance in that connection, can be a known one. Where the broker uses an identifier again within the
//! messages remembered, none is recognised: a message that was never read could have the identifier, and by chance the
//! payload, of one that is stored. Stored twice is better than lost.

use std::collections::VecDeque;

use foldhash::{HashMap, HashMapExt};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::reading::Receipt;

/// A 64-bit hash of topic and payload. It is stored on disk: changing it makes one redelivery unrecognised.
pub(super) fn hash(topic: &str, payload: &[u8]) -> u64 {
    xxh3_64_with_seed(payload, xxh3_64(topic.as_bytes()))
}

#[derive(Clone, Copy, Debug)]
struct Known {
    receipt: Receipt,
    append: u64,
}

/// The receipts of one session.
#[derive(Debug)]
pub(super) struct Receipts {
    count_max: usize,
    /// The last messages in the order of arrival.
    taken: VecDeque<Known>,
    /// Those that the broker may send again in this connection, by packet identifier; empty in a new session.
    resumed: HashMap<u16, Known>,
    /// An identifier came twice among those of earlier runs or sources.
    reused: bool,
}

impl Receipts {
    /// `known` are those of earlier runs and sources, each with the append that it is durable with.
    pub(super) fn new(count_max: u16, known: &[(Receipt, u64)]) -> Self {
        let count_max = usize::from(count_max.max(1));
        let taken: VecDeque<Known> = known.iter().map(|&(receipt, append)| Known { receipt, append }).collect();
        let mut seen = foldhash::HashSet::default();
        let reused = taken.iter().any(|known| !seen.insert(known.receipt.packet_id));
        Self { count_max, taken, resumed: HashMap::new(), reused }
    }

    /// Whether there is anything to recognise a message by.
    pub(super) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// A connection begins; `resumed` says whether the broker still had the session. Gives whether messages that come
    /// again can be recognised.
    pub(super) fn connected(&mut self, resumed: bool) -> bool {
        self.resumed.clear();
        if !resumed {
            self.taken.clear();
            self.reused = false;
            return true;
        }
        for known in &self.taken {
            // One that was recognised is remembered a second time.
            let other = |before: &Known| (before.receipt, before.append) != (known.receipt, known.append);
            self.reused |= self.resumed.insert(known.receipt.packet_id, *known).is_some_and(|before| other(&before));
        }
        if self.reused {
            self.resumed.clear();
        }
        !self.reused
    }

    /// The append number of the message, if it was taken before; it is remembered for the next connection either way.
    pub(super) fn recognise(&mut self, receipt: Receipt, dup: bool) -> Option<u64> {
        if self.resumed.is_empty() {
            return None;
        }
        let known = self.resumed.remove(&receipt.packet_id).filter(|known| dup && known.receipt == receipt)?;
        self.remember(receipt, known.append);
        Some(known.append)
    }

    /// The message was handed over with that append number.
    pub(super) fn remember(&mut self, receipt: Receipt, append: u64) {
        if self.taken.len() >= self.count_max {
            self.taken.pop_front();
        }
        self.taken.push_back(Known { receipt, append });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(packet_id: u16, text: &str) -> Receipt {
        Receipt { packet_id, hash: hash("t", text.as_bytes()) }
    }

    #[test]
    fn a_stored_receipt_is_recognised_once_and_only_in_a_resumed_session_with_dup() {
        let stored = [receipt(1, "a"), receipt(2, "b")];
        let mut receipts = Receipts::new(20, &stored.map(|receipt| (receipt, 0)));
        assert_eq!(receipts.recognise(stored[0], true), None, "not connected");
        receipts.connected(true);
        assert_eq!(receipts.recognise(stored[0], true), Some(0));
        assert_eq!(receipts.recognise(stored[0], true), None, "a second time it is a new message");
        assert_eq!(receipts.recognise(stored[1], false), None, "without DUP it is a new message");
        assert_eq!(receipts.recognise(stored[1], true), None, "its identifier has been used again");
        receipts.connected(false);
        receipts.connected(true);
        assert_eq!(receipts.recognise(stored[0], true), None, "the session was lost in between");
    }

    #[test]
    fn another_payload_under_the_same_identifier_is_new() {
        let mut receipts = Receipts::new(20, &[(receipt(1, "a"), 0)]);
        receipts.connected(true);
        assert_eq!(receipts.recognise(receipt(1, "b"), true), None);
    }

    #[test]
    fn one_is_recognised_again_after_the_next_lost_connection() {
        let mut receipts = Receipts::new(20, &[(receipt(1, "a"), 0)]);
        receipts.connected(true);
        receipts.remember(receipt(7, "b"), 2);
        for _ in 0..3 {
            assert!(receipts.connected(true));
            assert_eq!(receipts.recognise(receipt(7, "b"), true), Some(2));
            assert_eq!(receipts.recognise(receipt(1, "a"), true), Some(0));
        }
    }

    #[test]
    fn where_identifiers_come_again_at_once_a_message_is_rather_stored_twice_than_lost() {
        // One that was never read may have the identifier and the payload of one that is stored.
        let mut receipts = Receipts::new(20, &[]);
        receipts.connected(false);
        receipts.remember(receipt(1, "ON"), 1);
        receipts.remember(receipt(1, "ON"), 2);
        assert!(!receipts.connected(true));
        assert_eq!(receipts.recognise(receipt(1, "ON"), true), None);
        let mut receipts = Receipts::new(20, &[1, 2, 1].map(|id| (receipt(id, "ON"), 0)));
        assert!(!receipts.connected(true));
        assert_eq!(receipts.recognise(receipt(2, "ON"), true), None);
        // A new session begins anew.
        assert!(receipts.connected(false));
        receipts.remember(receipt(1, "ON"), 1);
        assert!(receipts.connected(true));
        assert_eq!(receipts.recognise(receipt(1, "ON"), true), Some(1));
    }

    #[test]
    fn never_more_than_the_in_flight_limit() {
        let mut receipts = Receipts::new(3, &[]);
        for id in 1..=10 {
            receipts.remember(receipt(id, "a"), u64::from(id));
        }
        receipts.connected(true);
        assert_eq!(receipts.recognise(receipt(7, "a"), true), None);
        assert_eq!(receipts.recognise(receipt(8, "a"), true), Some(8));
    }

    #[test]
    fn where_the_topic_ends_matters() {
        assert_ne!(hash("ab", b"c"), hash("a", b"bc"));
    }
}
