//! The thread that looks after the beats of the parts. While all of them make progress it feeds the service manager's
//! watchdog. When one hangs it says which, and then the process has to end, because only a restart helps, and a restart
//! loses nothing: what is not durable is not acknowledged.
//!
//! Who ends it: a hanging disk ends it here, with [`EXIT_DISK_HANGS`], since a process that waits for a disk cannot be
//! aborted anyway. For any other part the watchdog goes hungry, and the manager aborts the process, says why in its own words,
//! and starts it again. Where nobody watches it ends itself, with [`EXIT_HANGS`].
//!
//! A thread of its own, because the others may be what hangs; it takes no lock but that of the list of parts.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::{error, warn};

use super::notify::Notifier;
use crate::beats::{self, Beats, Hung};
use crate::clock;

/// The part that commits.
pub(crate) const OUTBOX: &str = "outbox";
/// For processes that a hanging disk had to end (EX_IOERR).
const EXIT_DISK_HANGS: i32 = 74;
/// For processes of which another part hung, and nobody watched (EX_SOFTWARE).
const EXIT_HANGS: i32 = 70;
/// The parts are looked after this often at least.
const LOOK_INTERVAL: Duration = Duration::from_secs(20);
/// A watchdog is fed this many times before its time is up: one that is late by a moment is no reason to restart.
const FEEDS: u32 = 3;
/// What a start that makes progress gets is enough until it is looked at again, and for a hang to show.
const MORE_TIME: Duration = beats::LIMIT;

/// What is to be done after a look at the beats.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Alive,
    /// These parts hang; those that did not at the look before come first, so many.
    Hung(Vec<Hung>, usize),
}

/// What one look leaves for the next one.
#[derive(Debug)]
struct Watcher {
    beats: Beats,
    interval: Duration,
    last: Duration,
    /// Silence counts from here.
    since: Duration,
    told: Vec<Hung>,
}

impl Watcher {
    fn new(beats: Beats, interval: Duration, now: Duration) -> Self {
        Self { beats, interval, last: now, since: now, told: Vec::new() }
    }

    fn look(&mut self, now: Duration) -> Verdict {
        // Whoever looks came late himself: the process was stopped, or the machine. The parts get their time anew.
        if now.saturating_sub(self.last) > self.interval + beats::LIMIT / 4 {
            self.since = now;
        }
        self.last = now;
        let mut hung = self.beats.hung(now, self.since);
        if hung.is_empty() {
            self.told.clear();
            return Verdict::Alive;
        }
        let known = |part: &Hung| self.told.iter().any(|told| told.part == part.part);
        hung.sort_by_key(known);
        let news = hung.iter().filter(|part| !known(part)).count();
        self.told.clone_from(&hung);
        Verdict::Hung(hung, news)
    }
}

/// Ends the watching when it is dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Begins to look after `beats`, until what is given is dropped.
#[must_use]
pub fn watch(notifier: Notifier, beats: Beats) -> Watch {
    let interval = notifier.watchdog().map_or(LOOK_INTERVAL, |watchdog| (watchdog / FEEDS).min(LOOK_INTERVAL));
    let mut watcher = Watcher::new(beats, interval, clock::monotonic());
    let (stop, stopped) = mpsc::channel();
    let run = move || {
        loop {
            match watcher.look(clock::monotonic()) {
                Verdict::Alive => notifier.alive(MORE_TIME),
                Verdict::Hung(parts, news) => end(&notifier, &parts, news),
            }
            if stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                break;
            }
        }
    };
    let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(run);
    if let Err(error) = &thread {
        // A watchdog that is never fed restarts the gateway, which is right where no thread can be had.
        warn!("nobody looks after the gateway's parts, the thread for it cannot be started: {error}");
    }
    Watch { stop: Some(stop), thread: thread.ok() }
}

/// Says which parts hang, once, and ends the process unless the manager does.
fn end(notifier: &Notifier, parts: &[Hung], news: usize) {
    for Hung { part, silent } in &parts[..news.min(parts.len())] {
        error!(
            part = &**part,
            "{part} has hung for {} s: {}; the gateway is to be restarted, which loses nothing",
            silent.as_secs(),
            if &**part == OUTBOX { "the disk does not answer" } else { "this is a defect, please report it" },
        );
    }
    if parts.iter().any(|hung| &*hung.part == OUTBOX) {
        std::process::exit(EXIT_DISK_HANGS);
    }
    if notifier.watchdog().is_none() {
        error!("no watchdog is set, so the gateway ends by itself");
        std::process::exit(EXIT_HANGS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Looks every ten seconds until `until`, and gives the last verdict.
    fn look_until(watcher: &mut Watcher, until: u64) -> Verdict {
        let mut now = watcher.last;
        while now < s(until) {
            now += s(10);
            let verdict = watcher.look(now);
            if now >= s(until) {
                return verdict;
            }
        }
        Verdict::Alive
    }

    #[test]
    fn a_hung_part_stops_the_feeding_whatever_the_others_do() {
        let beats = Beats::default();
        let (outbox, uplink) = (beats.part(OUTBOX), beats.part("kafka"));
        let mut watcher = Watcher::new(beats, s(10), s(1_000));
        outbox.at(s(1_000));
        uplink.at(s(1_000));
        assert_eq!(look_until(&mut watcher, 1_100), Verdict::Alive);
        outbox.at(s(1_100));
        let hung = |silent| vec![Hung { part: "kafka".into(), silent: s(silent) }];
        assert_eq!(look_until(&mut watcher, 1_130), Verdict::Hung(hung(130), 1));
        outbox.at(s(1_130));
        assert_eq!(watcher.look(s(1_140)), Verdict::Hung(hung(140), 0), "told once");
        uplink.at(s(1_150));
        assert_eq!(watcher.look(s(1_150)), Verdict::Alive, "and fed again when it goes on");
    }

    #[test]
    fn a_process_that_was_stopped_does_not_take_its_parts_for_hung() {
        let beats = Beats::default();
        let outbox = beats.part(OUTBOX);
        outbox.at(s(1_000));
        let mut watcher = Watcher::new(beats, s(10), s(1_000));
        assert_eq!(watcher.look(s(1_010)), Verdict::Alive);
        assert_eq!(watcher.look(s(5_000)), Verdict::Alive, "nothing ran in between");
        assert_eq!(look_until(&mut watcher, 5_120), Verdict::Alive);
        assert_ne!(look_until(&mut watcher, 5_130), Verdict::Alive, "but this one hangs");
    }
}
