//! Who is asked next. Pure: time is an argument.
//!
//! Invariants: a unit that answers is asked every so often, and the one that has waited longest comes first; one that does not
//! answer is asked again a few times soon, then ever more seldom, and lets the others go first, so that it takes hardly any
//! time from them. But it is asked, however busy the line is.

use std::time::Duration;

/// After so many rounds without an answer a device is told to be offline, and asked more seldom.
pub(super) const FAILURES_OFFLINE: u32 = 3;
/// Until then it is asked again this soon, or in its own rhythm if that is shorter: a meter is read once in an hour, and noise
/// at the wrong moment should not cost a whole one.
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// It is asked this often at least, or in its own rhythm if that is longer.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Once one that does not answer is late by its pause, or by this much, it is asked as if it did: noise costs a unit on a busy
/// line little time.
const PATIENCE: Duration = Duration::from_secs(60);

/// When a unit is asked, by a clock that never steps.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    every: Duration,
    due: Duration,
    failures: u32,
    /// What was told of it: online or not; nothing yet.
    told: Option<bool>,
}

impl Turn {
    pub(super) fn new(every: Duration, now: Duration) -> Self {
        Self { every, due: now, failures: 0, told: None }
    }

    /// Rounds without an answer since the last one with.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn is_offline(&self) -> bool {
        self.told == Some(false)
    }

    /// It has answered. Whether that must be told.
    pub(super) fn answered(&mut self, now: Duration) -> bool {
        self.failures = 0;
        // Rounds that could not be held are left out.
        self.due = (self.due + self.every).max(now);
        self.told.replace(true) != Some(true)
    }

    /// It has not. Whether it must be told that it is offline.
    pub(super) fn failed(&mut self, now: Duration) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.due = now + self.pause();
        self.failures >= FAILURES_OFFLINE && self.told.replace(false) != Some(false)
    }

    /// From one round without an answer to the next.
    fn pause(&self) -> Duration {
        match self.failures.saturating_sub(FAILURES_OFFLINE - 1).min(20) {
            0 => self.every.min(AGAIN_MAX),
            doublings => self.every.saturating_mul(1 << doublings).min(BACKOFF_MAX.max(self.every)),
        }
    }

    /// It is due at once: the line is there again.
    pub(super) fn hurry(&mut self, now: Duration) {
        self.due = self.due.min(now);
    }
}

/// Who is asked now, or else how long to wait until somebody is due.
pub(super) fn next<'a>(turns: impl Iterator<Item = &'a Turn> + Clone, now: Duration) -> Result<usize, Duration> {
    let due = |turn: &Turn| turn.due <= now;
    let rank = |turn: &Turn| {
        let silent = turn.failures > 0 && now < turn.due + turn.pause().min(PATIENCE);
        (silent, turn.due)
    };
    let first = turns.clone().enumerate().filter(|(_, turn)| due(turn)).min_by_key(|(_, turn)| rank(turn));
    match first {
        Some((index, _)) => Ok(index),
        None => Err(turns.map(|turn| turn.due.saturating_sub(now)).min().unwrap_or(Duration::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_unit_is_asked_in_its_rhythm_and_rounds_that_were_missed_are_left_out() {
        let mut turn = Turn::new(secs(10), secs(100));
        assert!(turn.answered(secs(101)), "the first answer is told");
        assert_eq!(next([turn.clone()].iter(), secs(105)), Err(secs(5)));
        assert_eq!(next([turn.clone()].iter(), secs(110)), Ok(0));
        assert!(!turn.answered(secs(135)));
        assert_eq!(turn.due, secs(135));
    }

    #[test]
    fn one_that_does_not_answer_is_told_once_and_asked_ever_more_seldom() {
        let mut turn = Turn::new(secs(10), secs(0));
        let mut now = secs(0);
        let mut waits = Vec::new();
        let mut told = Vec::new();
        for round in 0..10 {
            if turn.failed(now) {
                told.push(round);
            }
            waits.push((turn.due - now).as_secs());
            now = turn.due;
        }
        assert_eq!(waits, [10, 10, 20, 40, 80, 160, 300, 300, 300, 300]);
        assert_eq!(told, [2]);
        assert!(turn.answered(now) && !turn.failed(now), "told that it is back, and not at once that it is gone");
        let mut slow = Turn::new(secs(3_600), secs(0));
        let _ = slow.failed(secs(0));
        assert_eq!(slow.due, secs(60), "an hour is not lost at once");
        (0..9).for_each(|_| _ = slow.failed(secs(0)));
        assert_eq!(slow.due, secs(3_600));
    }

    #[test]
    fn the_silent_ones_wait_for_the_others_but_not_for_ever() {
        let mut silent = Turn::new(secs(1), secs(0));
        let _ = silent.failed(secs(0));
        let mut busy = Turn::new(secs(1), secs(0));
        let mut now = secs(10);
        let mut asked = [0, 0];
        // A line so slow that the one that answers is always due.
        for _ in 0..40 {
            let turns = [silent.clone(), busy.clone()];
            let index = next(turns.iter(), now).unwrap();
            asked[index] += 1;
            now += secs(5);
            if index == 0 {
                let _ = silent.failed(now);
            } else {
                let _ = busy.answered(now);
            }
        }
        assert_eq!(asked, [7, 33], "ever more seldom, in 200 s");
    }

    #[test]
    fn noise_costs_a_unit_on_a_line_that_is_always_busy_one_turn_and_no_minute() {
        let mut heard_badly = Turn::new(secs(1), secs(0));
        let _ = heard_badly.failed(secs(0));
        let mut busy = Turn::new(secs(1), secs(0));
        assert_eq!(next([heard_badly.clone(), busy.clone()].iter(), secs(5)), Ok(1));
        let _ = busy.answered(secs(10));
        assert_eq!(next([heard_badly, busy].iter(), secs(10)), Ok(0));
    }
}
