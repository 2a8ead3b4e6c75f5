//! Whether the parts of the gateway make progress. Each of them that matters comes around a loop, with something to do or
//! without, and makes a *beat* there; one whose last beat is older than [`LIMIT`] hangs: a lock that nobody gives back, a
//! disk that does not answer, a future that nobody wakes.
//!
//! Invariants:
//! - Waiting is no hang: nothing to do, a broker or Kafka that is away, a disk that is full. Whoever waits without a limit
//!   comes around every [`INTERVAL`] all the same, which costs three wake-ups a minute. So a part that has missed what should
//!   have woken it goes on too.
//! - A part is watched from its first beat until its last handle is dropped: one that was stopped does not hang.
//! - A beat is one store to memory. Nothing here waits, so whoever looks cannot hang with the part that does.
//!
//! What follows from a hang is in [`service`](crate::service).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::clock;
use crate::reading::Name;

/// A part that has nothing to do makes a beat this often.
pub const INTERVAL: Duration = Duration::from_secs(20);
/// A part without a beat for this long hangs. Nothing that a part does between two beats may take as long: a commit on a
/// card that is busy with itself takes seconds, connecting to a broker 15 s, waiting for the next attempt a minute.
pub const LIMIT: Duration = Duration::from_secs(120);

/// What one part beats with. Cloning gives another handle of the same.
#[derive(Clone, Debug, Default)]
pub struct Beat(Arc<AtomicU64>);

impl Beat {
    /// The part has come around.
    pub fn beat(&self) {
        self.at(clock::monotonic());
    }

    /// The same at a moment of [`clock::monotonic`].
    pub fn at(&self, now: Duration) {
        self.0.store(millis(now), Ordering::Relaxed);
    }
}

/// The parts that are watched. Cloning gives another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct Beats(Arc<Mutex<Vec<Part>>>);

/// A part, as long as it is there: its name and the time of its last beat.
type Part = (Name, Weak<AtomicU64>);

/// A part that hangs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hung {
    /// Its name.
    pub part: Name,
    /// How long ago its last beat is.
    pub silent: Duration,
}

impl Beats {
    /// Watches a part from its first beat on.
    pub fn watch(&self, name: &str, beat: &Beat) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|(_, last)| last.strong_count() > 0);
        parts.push((Arc::from(name), Arc::downgrade(&beat.0)));
    }

    /// A new part, watched from its first beat on.
    #[must_use]
    pub fn part(&self, name: &str) -> Beat {
        let beat = Beat::default();
        self.watch(name, &beat);
        beat
    }

    /// The parts that hang at `now`. Silence counts from `since` at the earliest: what was silent because nothing ran at all
    /// does not hang.
    #[must_use]
    pub fn hung(&self, now: Duration, since: Duration) -> Vec<Hung> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hung = |(name, last): &Part| {
            let last = last.upgrade()?.load(Ordering::Relaxed);
            // Has not begun.
            if last == 0 {
                return None;
            }
            let silent = now.saturating_sub(Duration::from_millis(last).max(since));
            (silent > LIMIT).then(|| Hung { part: Arc::clone(name), silent })
        };
        parts.iter().filter_map(hung).collect()
    }
}

/// Never 0, which stands for no beat yet.
fn millis(now: Duration) -> u64 {
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_part_hangs_when_its_beat_is_too_old_and_is_named() {
        let beats = Beats::default();
        let (outbox, uplink) = (beats.part("outbox"), beats.part("kafka"));
        outbox.at(s(10));
        uplink.at(s(10));
        assert_eq!(beats.hung(s(130), s(0)), [], "at the limit, not beyond");
        uplink.at(s(100));
        assert_eq!(beats.hung(s(131), s(0)), [Hung { part: "outbox".into(), silent: s(121) }]);
        outbox.at(s(132));
        assert_eq!(beats.hung(s(133), s(0)), [], "it goes on");
    }

    #[test]
    fn what_has_not_begun_or_has_ended_does_not_hang() {
        let beats = Beats::default();
        let _serial = beats.part("serial.meter");
        let mqtt = beats.part("mqtt.home");
        mqtt.at(s(1));
        let handle = mqtt.clone();
        drop(mqtt);
        assert_eq!(beats.hung(s(500), s(0)).len(), 1, "somebody still holds it");
        drop(handle);
        assert_eq!(beats.hung(s(500), s(0)), []);
    }

    #[test]
    fn silence_counts_from_when_anything_ran() {
        let beats = Beats::default();
        let part = beats.part("outbox");
        part.at(s(10));
        assert_eq!(beats.hung(s(5_000), s(4_990)), [], "the board slept for an hour");
        assert_eq!(beats.hung(s(5_111), s(4_990)).len(), 1, "and now it has had its time");
    }
}
