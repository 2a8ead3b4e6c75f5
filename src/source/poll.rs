//! Asking a serial device that does not talk by itself: the same request in its rhythm, and whether frames come of it. Pure:
//! time is an argument.

use std::time::Duration;

use crate::profile::Poll;

/// After so many requests in a row without a frame a device is told not to answer.
const MISSES_TOLD: u32 = 3;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Send the request.
    Ask,
    /// Nothing has come of the last one in time; `tell` says that this is worth telling.
    Missed { tell: bool },
}

/// When a device is asked, by a clock that never steps.
#[derive(Debug)]
pub(super) struct Asker {
    poll: Poll,
    due: Duration,
    /// A frame is awaited until then.
    awaited: Option<Duration>,
    misses: u32,
}

impl Asker {
    /// It is asked at once.
    pub(super) fn new(poll: Poll, now: Duration) -> Self {
        Self { poll, due: now, awaited: None, misses: 0 }
    }

    pub(super) fn request(&self) -> &[u8] {
        &self.poll.request
    }

    /// How long nothing is to be done.
    pub(super) fn wait(&self, now: Duration) -> Duration {
        self.awaited.unwrap_or(self.due).min(self.due).saturating_sub(now)
    }

    /// What is to be done now, if anything.
    pub(super) fn turn(&mut self, now: Duration) -> Option<Turn> {
        if self.awaited.take_if(|until| *until <= now).is_some() {
            self.misses = self.misses.saturating_add(1);
            return Some(Turn::Missed { tell: self.misses == MISSES_TOLD });
        }
        if self.due > now {
            return None;
        }
        self.due += self.poll.every;
        if self.due <= now {
            // It is late by a whole round: those that were missed are left out.
            self.due = now + self.poll.every;
        }
        self.awaited = Some(now + self.poll.timeout);
        Some(Turn::Ask)
    }

    /// A frame has come. Whether it had been told that none does.
    pub(super) fn heard(&mut self) -> bool {
        self.awaited = None;
        std::mem::take(&mut self.misses) >= MISSES_TOLD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn it_is_asked_in_its_rhythm_and_misses_are_told_once() {
        let poll = Poll { request: b"?".to_vec(), every: ms(1_000), timeout: ms(200) };
        let mut asker = Asker::new(poll, ms(5_000));
        assert_eq!(asker.turn(ms(5_000)), Some(Turn::Ask));
        assert_eq!((asker.wait(ms(5_000)), asker.turn(ms(5_100))), (ms(200), None));
        assert!(!asker.heard());
        assert_eq!(asker.wait(ms(5_150)), ms(850));
        let mut told = Vec::new();
        for round in 1..6 {
            let now = ms(5_000 + round * 1_000);
            assert_eq!(asker.turn(now), Some(Turn::Ask));
            match asker.turn(now + ms(200)) {
                Some(Turn::Missed { tell }) => told.push(tell),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, [false, false, true, false, false]);
        assert!(asker.heard() && !asker.heard());
        // A machine that slept asks once, not for all that it missed.
        assert_eq!(asker.turn(ms(60_000)), Some(Turn::Ask));
        assert_eq!(asker.turn(ms(60_001)), None);
    }
}
