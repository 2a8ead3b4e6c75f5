//! What becomes of messages that the broker had retained: old values, which must not be taken for news again with each
//! reconnection.
//!
//! Invariant: what is remembered is bounded; past the bound a retained message is rather taken twice than not at all.

use std::collections::HashSet;

use xxhash_rust::xxh3::xxh3_64;

use crate::config::Retained;

/// Topics whose retained message is remembered as taken (8 bytes each).
const TOPICS_MAX: usize = 100_000;

/// Decides about retained messages.
#[derive(Debug)]
pub(super) struct RetainedFilter {
    setting: Retained,
    taken: HashSet<u64>,
}

impl RetainedFilter {
    pub(super) fn new(setting: Retained) -> Self {
        Self { setting, taken: HashSet::new() }
    }

    /// Whether this retained message is to be taken.
    pub(super) fn take(&mut self, topic: &str) -> bool {
        match self.setting {
            Retained::Drop => false,
            Retained::Keep => true,
            Retained::First => {
                let topic = xxh3_64(topic.as_bytes());
                if self.taken.len() >= TOPICS_MAX { !self.taken.contains(&topic) } else { self.taken.insert(topic) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_takes_each_topic_once() {
        let mut filter = RetainedFilter::new(Retained::First);
        assert!(filter.take("a"));
        assert!(filter.take("b"));
        assert!(!filter.take("a"));
    }

    #[test]
    fn drop_takes_none_and_keep_takes_all() {
        assert!(!RetainedFilter::new(Retained::Drop).take("a"));
        let mut keep = RetainedFilter::new(Retained::Keep);
        assert!(keep.take("a") && keep.take("a"));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_nothing_new_is_lost() {
        let mut filter = RetainedFilter::new(Retained::First);
        for topic in 0..TOPICS_MAX + 10 {
            assert!(filter.take(&topic.to_string()));
        }
        assert_eq!(filter.taken.len(), TOPICS_MAX);
        assert!(!filter.take("0"));
    }
}
