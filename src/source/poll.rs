//! Asking a serial device that does not talk by itself: its requests in their rhythm, and whether frames come of them. Pure:
//! time is an argument.
//!
//! A round sends the requests one after the other: the next one when a frame has come of the last, or none in time. The first
//! round after the port was opened, and each while the device is silent, begins with what starts it.

use std::time::Duration;

use crate::profile::Poll;

/// After so many requests in a row without a frame a device is told not to answer.
const MISSES_TOLD: u32 = 3;
/// Between an answer and the next request: who has answered lets go of the line first.
const REST: Duration = Duration::from_millis(50);

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
    /// The next round begins then.
    due: Duration,
    /// What is left of this round: those of `start`, then the requests.
    left: std::ops::Range<usize>,
    /// Which of them was sent last.
    asked: usize,
    /// The next one of this round is not sent before.
    ready: Duration,
    /// A frame is awaited until then.
    awaited: Option<Duration>,
    misses: u32,
    /// It has been started, and was not silent since.
    started: bool,
}

impl Asker {
    /// It is asked at once.
    pub(super) fn new(poll: Poll, now: Duration) -> Self {
        Self { poll, due: now, left: 0..0, asked: 0, ready: now, awaited: None, misses: 0, started: false }
    }

    pub(super) fn request(&self) -> &[u8] {
        let Poll { start, requests, .. } = &self.poll;
        start.iter().chain(requests).nth(self.asked).map_or(&[], Vec::as_slice)
    }

    /// How long nothing is to be done.
    pub(super) fn wait(&self, now: Duration) -> Duration {
        let next = if self.left.is_empty() { self.due } else { self.ready };
        self.awaited.unwrap_or(next).saturating_sub(now)
    }

    /// What is to be done now, if anything.
    pub(super) fn turn(&mut self, now: Duration) -> Option<Turn> {
        if self.awaited.is_some_and(|until| until > now) {
            return None;
        }
        // Not all that starts a device is answered.
        if self.awaited.take().is_some() && self.asked >= self.poll.start.len() {
            self.misses = self.misses.saturating_add(1);
            self.started &= self.misses < MISSES_TOLD;
            return Some(Turn::Missed { tell: self.misses == MISSES_TOLD });
        }
        if self.left.is_empty() {
            if self.due > now {
                return None;
            }
            self.due += self.poll.every;
            if self.due <= now {
                // It is late by a whole round: those that were missed are left out.
                self.due = now + self.poll.every;
            }
            let first = if self.started { self.poll.start.len() } else { 0 };
            self.started = true;
            self.left = first..self.poll.start.len() + self.poll.requests.len();
        } else if self.ready > now {
            return None;
        }
        self.asked = self.left.next()?;
        self.awaited = Some(now + self.poll.timeout);
        Some(Turn::Ask)
    }

    /// A frame has come. Whether it had been told that none does.
    pub(super) fn heard(&mut self, now: Duration) -> bool {
        if self.awaited.take().is_some() {
            self.ready = now + REST;
        }
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
        let poll = Poll { start: Vec::new(), requests: vec![b"?".to_vec()], every: ms(1_000), timeout: ms(200) };
        let mut asker = Asker::new(poll, ms(5_000));
        assert_eq!(asker.turn(ms(5_000)), Some(Turn::Ask));
        assert_eq!((asker.wait(ms(5_000)), asker.turn(ms(5_100))), (ms(200), None));
        assert!(!asker.heard(ms(5_150)));
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
        assert!(asker.heard(ms(10_900)) && !asker.heard(ms(10_900)));
        // A machine that slept asks once, not for all that it missed.
        assert_eq!(asker.turn(ms(60_000)), Some(Turn::Ask));
        assert_eq!(asker.turn(ms(60_001)), None);
    }

    #[test]
    fn several_requests_follow_each_other_and_what_starts_it_comes_first_again_when_it_was_silent() {
        let bytes = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        let poll = Poll { start: bytes(&["start"]), requests: bytes(&["a", "b"]), every: ms(1_000), timeout: ms(200) };
        let mut asker = Asker::new(poll, ms(0));
        let mut said = Vec::new();
        // It answers "a" and "b" at once until 2.5 s and from 5.5 s on, and never the start.
        let mut now = ms(0);
        while now < ms(7_000) {
            now += asker.wait(now);
            match asker.turn(now) {
                Some(Turn::Ask) => {
                    let request = String::from_utf8(asker.request().to_vec()).unwrap();
                    let there = now < ms(2_500) || now >= ms(5_500);
                    if request != "start" && there {
                        asker.heard(now + ms(10));
                    }
                    said.push(format!("{} {request}", now.as_millis()));
                }
                Some(Turn::Missed { tell }) => {
                    said.push(format!("{} missed{}", now.as_millis(), if tell { "!" } else { "" }));
                }
                None => {}
            }
        }
        let expected = "0 start, 200 a, 260 b, 1000 a, 1060 b, 2000 a, 2060 b, \
                        3000 a, 3200 missed, 3200 b, 3400 missed, 4000 a, 4200 missed!, 4200 b, 4400 missed, \
                        5000 start, 5200 a, 5400 missed, 5400 b, 5600 missed, 6000 start, 6200 a, 6260 b, 7000 a";
        assert_eq!(said.join(", "), expected);
    }
}
