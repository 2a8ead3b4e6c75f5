//! What was read from a port and is not durable yet.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// What was handed on and is not durable yet.
#[derive(Debug)]
pub(in crate::source) struct Pending {
    durable: watch::Receiver<u64>,
    waiting: VecDeque<(u64, usize)>,
    pub(in crate::source) bytes: usize,
}

impl Pending {
    pub(in crate::source) fn new(durable: watch::Receiver<u64>) -> Self {
        Self { durable, waiting: VecDeque::new(), bytes: 0 }
    }

    pub(in crate::source) fn add(&mut self, number: u64, bytes: usize) {
        match self.waiting.back_mut() {
            Some((last, sum)) if *last == number => *sum += bytes,
            _ => self.waiting.push_back((number, bytes)),
        }
        self.bytes += bytes;
        self.settled();
    }

    /// Forgets what has become durable.
    pub(in crate::source) fn settled(&mut self) {
        let durable = *self.durable.borrow_and_update();
        while let Some((_, bytes)) = self.waiting.pop_front_if(|(number, _)| *number <= durable) {
            self.bytes -= bytes;
        }
    }

    /// Waits until all is durable, `limit` at most. Whether it is.
    pub(in crate::source) async fn settle(mut self, limit: Duration) -> bool {
        let Some((last, _)) = self.waiting.back().copied() else { return true };
        matches!(timeout(limit, self.durable.wait_for(|durable| *durable >= last)).await, Ok(Ok(_)))
    }
}
