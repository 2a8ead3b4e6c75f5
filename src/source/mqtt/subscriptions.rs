//! Which topic filters the session is subscribed to, and what the broker said to each.
//!
//! When they are sent: all of them with the first connection of this process, and whenever the broker lost the session;
//! after that only those that were refused, with each new connection. Subscribing again is harmless, but in 3.1.1 it
//! brings all retained messages again, so it is not done without need. In MQTT 5 the first connection of a
//! process that finds its session brings none again (retain handling 1: only with a new subscription).

use std::ops::Range;

/// Filters in one SUBSCRIBE or UNSUBSCRIBE: some brokers (AWS IoT Core) take no more. A SUBSCRIBE has a packet identifier from 1 on, an
/// UNSUBSCRIBE one from the other end.
pub(super) const FILTERS_PER_PACKET: usize = 8;

/// Refused filters that are named in a text; the rest is only counted.
const NAMED_MAX: usize = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Unknown,
    Granted,
    /// Granted, but only with that QoS.
    Lowered,
    Refused(String),
}

/// A SUBSCRIBE to send: its packet identifier and filters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) id: u16,
    pub(super) filters: Vec<String>,
}

/// The filters of one source.
#[derive(Debug)]
pub(super) struct Subscriptions {
    qos: u8,
    filters: Vec<(String, Standing)>,
    /// Which filters (indexes into `sent`) each SUBACK that is still to come is about.
    awaited: Vec<(u16, Range<usize>)>,
    sent: Vec<usize>,
}

impl Subscriptions {
    pub(super) fn new(filters: Vec<String>, qos: u8) -> Self {
        let filters = filters.into_iter().map(|filter| (filter, Standing::Unknown)).collect();
        Self { qos, filters, awaited: Vec::new(), sent: Vec::new() }
    }

    /// A connection begins: what is to be subscribed.
    pub(super) fn connected(&mut self, resumed: bool) -> Vec<Request> {
        self.awaited.clear();
        if !resumed {
            self.filters.iter_mut().for_each(|(_, standing)| *standing = Standing::Unknown);
        }
        self.sent = (0..self.filters.len())
            .filter(|&index| matches!(self.filters[index].1, Standing::Unknown | Standing::Refused(_)))
            .collect();
        let mut requests = Vec::new();
        for (number, indexes) in self.sent.chunks(FILTERS_PER_PACKET).enumerate() {
            // More than 65,535 requests would be half a million filters; their identifiers would only repeat.
            let id = (number % 65_535) as u16 + 1;
            let start = number * FILTERS_PER_PACKET;
            self.awaited.push((id, start..start + indexes.len()));
            let filters = indexes.iter().map(|&index| self.filters[index].0.clone()).collect();
            requests.push(Request { id, filters });
        }
        requests
    }

    /// A SUBACK came. Gives how many of its filters were refused, or `None` for one that answers nothing.
    pub(super) fn granted(&mut self, id: u16, granted: &[Result<u8, String>]) -> Option<u64> {
        let position = self.awaited.iter().position(|(awaited, _)| *awaited == id)?;
        let (_, range) = self.awaited.swap_remove(position);
        let indexes = &self.sent[range];
        if indexes.len() != granted.len() {
            return None;
        }
        let mut refused = 0;
        for (&index, granted) in indexes.iter().zip(granted) {
            self.filters[index].1 = match granted {
                Ok(qos) if *qos < self.qos => Standing::Lowered,
                Ok(_) => Standing::Granted,
                Err(why) => {
                    refused += 1;
                    Standing::Refused(why.clone())
                }
            };
        }
        Some(refused)
    }

    /// Whether a SUBACK is still to come.
    pub(super) fn waits(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// What is not as it should be, for a person; empty if all is well.
    pub(super) fn trouble(&self) -> String {
        let mut parts = Vec::new();
        for (filter, standing) in &self.filters {
            match standing {
                Standing::Refused(why) => parts.push(format!("{filter} ({why})")),
                Standing::Lowered => parts.push(format!("{filter} (only QoS 0 granted)")),
                Standing::Unknown | Standing::Granted => {}
            }
        }
        if parts.is_empty() {
            return String::new();
        }
        let more = parts.len().saturating_sub(NAMED_MAX);
        parts.truncate(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("subscriptions refused: {}{more}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscriptions(count: usize) -> Subscriptions {
        Subscriptions::new((0..count).map(|n| format!("t{n}/#")).collect(), 1)
    }

    #[test]
    fn all_with_the_first_connection_and_only_the_refused_ones_after_that() {
        let mut subscriptions = subscriptions(10);
        let requests = subscriptions.connected(true);
        assert_eq!(requests.iter().map(|request| request.filters.len()).collect::<Vec<_>>(), [8, 2]);
        assert!(subscriptions.waits());
        let mut granted = vec![Ok(1); 8];
        granted[3] = Err("not authorized".to_owned());
        assert_eq!(subscriptions.granted(1, &granted), Some(1));
        assert_eq!(subscriptions.granted(2, &[Ok(1), Ok(0)]), Some(0));
        assert!(!subscriptions.waits());
        let trouble = subscriptions.trouble();
        assert!(trouble.contains("t3/# (not authorized)") && trouble.contains("t9/# (only QoS 0"), "{trouble}");

        let requests = subscriptions.connected(true);
        assert_eq!(requests, [Request { id: 1, filters: vec!["t3/#".to_owned()] }]);
        assert_eq!(subscriptions.granted(1, &[Ok(1)]), Some(0));
        assert!(subscriptions.connected(true).is_empty());
        assert_eq!(subscriptions.connected(false).len(), 2, "the session was lost");
    }

    #[test]
    fn an_answer_to_nothing_and_one_of_the_wrong_length_are_refused() {
        let mut subscriptions = subscriptions(1);
        subscriptions.connected(false);
        assert_eq!(subscriptions.granted(9, &[Ok(1)]), None);
        assert_eq!(subscriptions.granted(1, &[Ok(1), Ok(1)]), None);
    }

    #[test]
    fn a_long_list_is_cut() {
        let mut subscriptions = subscriptions(8);
        subscriptions.connected(false);
        subscriptions.granted(1, &vec![Err("no".to_owned()); 8]);
        assert!(subscriptions.trouble().ends_with("and 3 more"));
    }
}
