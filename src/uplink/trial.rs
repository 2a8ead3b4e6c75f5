//! Finding the one record of a batch that Kafka refuses, where Kafka does not say which: the suspects are sent apart
//! from all others, in halves, until each one that fails is alone. Pure; knows tickets only.

use std::collections::VecDeque;

/// The suspects, and the group of them that is being tried.
#[derive(Debug, Default)]
pub(crate) struct Trials {
    /// Under suspicion and not grouped yet.
    suspects: Vec<u32>,
    groups: VecDeque<Vec<u32>>,
    /// Failed in the group that is being tried.
    failed: Vec<u32>,
    /// Size of the group that is being tried, and how many of it are not reported on.
    size: usize,
    open: usize,
}

impl Trials {
    /// Whether anything is under suspicion: all other sending waits.
    pub(crate) fn is_on(&self) -> bool {
        self.open > 0 || !self.suspects.is_empty() || !self.groups.is_empty() || !self.failed.is_empty()
    }

    /// Whether the group that is being tried is a single record.
    pub(crate) fn is_alone(&self) -> bool {
        self.size == 1
    }

    /// A record has failed with the batch that it was in; `tried` if that was a trial.
    pub(crate) fn suspect(&mut self, ticket: u32, tried: bool) {
        if tried { &mut self.failed } else { &mut self.suspects }.push(ticket);
    }

    /// A record has been reported on; `on_trial` if it was in the group that is being tried.
    pub(crate) fn left(&mut self, on_trial: bool) {
        self.open -= usize::from(on_trial && self.open > 0);
    }

    /// The trial is over without a result: the sink is gone. What was being tried is sent again like anything else.
    pub(crate) fn abandon(&mut self) {
        self.open = 0;
        self.size = 0;
        self.suspects.append(&mut self.failed);
    }

    /// The next group to send: empty while one is being tried, or while others are in flight (`calm` says that none
    /// is). `order` gives a record's place in the order of sending, or nothing if it has been settled meanwhile.
    pub(crate) fn next_group(&mut self, calm: bool, mut order: impl FnMut(u32) -> Option<u64>) -> Vec<u32> {
        if self.open > 0 || !calm {
            return Vec::new();
        }
        let failed = std::mem::take(&mut self.failed);
        self.split(failed);
        let mut suspects: Vec<(u64, u32)> =
            self.suspects.drain(..).filter_map(|ticket| order(ticket).map(|order| (order, ticket))).collect();
        suspects.sort_unstable();
        if self.groups.is_empty() {
            self.split(suspects.into_iter().map(|(_, ticket)| ticket).collect());
        } else {
            self.suspects.extend(suspects.into_iter().map(|(_, ticket)| ticket));
        }
        let group = self.groups.pop_front().unwrap_or_default();
        self.size = group.len();
        self.open = group.len();
        group
    }

    fn split(&mut self, mut group: Vec<u32>) {
        if group.len() > 1 {
            let second = group.split_off(group.len() / 2);
            self.groups.push_front(second);
        }
        if !group.is_empty() {
            self.groups.push_front(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_culprits_are_found_and_nobody_else() {
        for (count, culprits) in [(1, vec![0]), (2, vec![1]), (100, vec![17]), (1000, vec![0, 1, 500, 999])] {
            let mut trials = Trials::default();
            (0..count).for_each(|ticket| trials.suspect(ticket, false));
            let (mut found, mut rounds) = (Vec::new(), 0);
            while trials.is_on() {
                let group = trials.next_group(true, |ticket| Some(u64::from(ticket)));
                rounds += 1;
                let fails = group.iter().any(|ticket| culprits.contains(ticket));
                for ticket in group {
                    if fails && trials.is_alone() {
                        found.push(ticket);
                        trials.left(true);
                    } else {
                        trials.left(true);
                        if fails {
                            trials.suspect(ticket, true);
                        }
                    }
                }
            }
            found.sort_unstable();
            assert_eq!(found, culprits);
            assert!(rounds <= 24 * culprits.len(), "{rounds} rounds for {count}");
        }
    }
}
