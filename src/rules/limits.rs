//! How much state there may be. At a limit the newest is refused, counted, and named in the log once.

use super::window::Window;
use crate::config;
use crate::counters::{Count, Counter, Counters};

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit {
    Series,
    OpenWindows,
    State,
}

/// What a window takes.
pub(super) const WINDOW: [(Limit, usize); 2] = [(Limit::OpenWindows, 1), (Limit::State, size_of::<Window>())];

impl Limit {
    const ALL: [(Limit, &str); 3] =
        [(Self::Series, "series"), (Self::OpenWindows, "open_windows"), (Self::State, "state")];
}

/// The limits, and what is in use.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// The most of each.
    max: [usize; 3],
    used: [usize; 3],
    said: [bool; 3],
    refused: Option<[Counter; 3]>,
}

impl Limits {
    pub(super) fn new(settings: &config::Rules, counters: &Counters) -> Self {
        Self {
            max: [settings.series_max, settings.open_windows_max, settings.state_bytes_max],
            refused: Some(Limit::ALL.map(|(_, name)| counters.counter(Count::StateRefused, name))),
            ..Self::none()
        }
    }

    /// No limits: what an earlier run let in stays in.
    pub(super) fn none() -> Self {
        Self { max: [usize::MAX; 3], ..Self::default() }
    }

    pub(super) fn used(&self, limit: Limit) -> usize {
        self.used[limit as usize]
    }

    /// The limit that stands in the way of so much more.
    pub(super) fn in_the_way(&self, wanted: &[(Limit, usize)]) -> Option<Limit> {
        let over = |(limit, n): &&(Limit, usize)| self.used(*limit).saturating_add(*n) > self.max[*limit as usize];
        wanted.iter().find(over).map(|(limit, _)| *limit)
    }

    /// Whether less than half of the bytes is in use: what is only kept to be faster takes no more.
    pub(super) fn at_ease(&self) -> bool {
        self.used(Limit::State) < self.max[Limit::State as usize] / 2
    }

    /// Counts what was let in.
    pub(super) fn take(&mut self, limit: Limit, n: usize) {
        self.used[limit as usize] += n;
    }

    /// Counts a window that was let in.
    pub(super) fn take_window(&mut self) {
        WINDOW.iter().for_each(|(limit, n)| self.take(*limit, *n));
    }

    /// Counts a window that has gone.
    pub(super) fn give_back_window(&mut self) {
        WINDOW.iter().for_each(|(limit, n)| self.give_back(*limit, *n));
    }

    /// Counts what has gone.
    pub(super) fn give_back(&mut self, limit: Limit, n: usize) {
        let (index, max) = (limit as usize, self.max[limit as usize]);
        self.used[index] = self.used[index].saturating_sub(n);
        // A tenth below, so that a gateway at its limit does not say so with every window that closes.
        if self.said[index] && self.used[index] < max - max / 10 {
            self.said[index] = false;
        }
    }

    /// Counts a value for which there is no room, and says whose it is if this is news.
    pub(super) fn refuse(&mut self, limit: Limit, device: &str, measurement: &str) {
        if let Some(counters) = &self.refused {
            counters[limit as usize].add(1);
        }
        if !std::mem::replace(&mut self.said[limit as usize], true) {
            let (name, max) = (Limit::ALL[limit as usize].1, self.max[limit as usize]);
            tracing::warn!(
                "rules: limits.{name} = {max} is reached: what is new is forwarded as it is, beginning with `{measurement}` of \
                 `{device}`; raise the limit or let rules select less"
            );
        }
    }
}
