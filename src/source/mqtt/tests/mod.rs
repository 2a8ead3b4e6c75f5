//! The source against real mosquitto, with commits that the test controls.

mod broker;
mod delivery;
mod trouble;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::connection::Source;
use super::outage::Outage;
use super::session::Session;
use super::{Sink, start};
use crate::clock;
use crate::config::{self, MqttVersion, Retained};
use crate::counters::{Count, Counters};
use crate::reading::{Frames, Receipt};
use crate::status::{LinkInfo, LinkState, Links};

/// No wait in these tests is longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Settings for a broker on loopback.
pub(super) fn settings(version: MqttVersion, port: u16) -> config::Mqtt {
    config::Mqtt {
        name: "mqtt.test".to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        tls: None,
        version,
        client_id: None,
        user: None,
        password: None,
        profiles: Vec::new(),
        qos: 1,
        keep_alive: Duration::from_secs(30),
        session_expiry: Duration::from_secs(3600),
        in_flight_max: 20,
        packet_bytes_max: 1024 * 1024,
        retained: Retained::First,
        time_zone: None,
        names: Default::default(),
        read_interval: Duration::from_millis(1),
        memory_bytes_max: 8 * 1024 * 1024,
        drop_qos0: false,
        rebirth: false,
    }
}

/// What a frame was: topic, length, its first bytes, oversize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) topic: String,
    pub(super) text: String,
    pub(super) oversize: Option<u64>,
}

/// When what was appended becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commits {
    /// When the test says so.
    Never,
    /// At once.
    Always,
    /// Only when the source asks for haste.
    OnHurry,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) appends: u64,
    pub(super) taken: Vec<Taken>,
    pub(super) frames: u64,
    pub(super) receipts: Vec<Receipt>,
    pub(super) hurries: u64,
    /// What is to be published next.
    pub(super) requests: Vec<crate::decode::Request>,
    commits: Commits,
}

/// Stands for the intake.
#[derive(Clone, Debug)]
pub(super) struct Store {
    state: Arc<Mutex<State>>,
    durable: watch::Sender<u64>,
}

impl Sink for Store {
    fn accept(&mut self, frames: &Frames, receipts: &[Receipt]) -> u64 {
        let mut state = self.state();
        state.appends += 1;
        state.frames += frames.len() as u64;
        state.receipts.extend(receipts);
        for frame in frames.iter().take(10_000) {
            let text = String::from_utf8_lossy(&frame.payload[..frame.payload.len().min(32)]).into_owned();
            state.taken.push(Taken { topic: frame.origin.to_owned(), text, oversize: frame.oversize });
        }
        if state.commits == Commits::Always {
            self.durable.send_replace(state.appends);
        }
        state.appends
    }

    fn take_requests(&mut self) -> Vec<crate::decode::Request> {
        std::mem::take(&mut self.state().requests)
    }

    fn hurry(&mut self) {
        let mut state = self.state();
        state.hurries += 1;
        if state.commits != Commits::Never {
            self.durable.send_replace(state.appends);
        }
    }
}

impl Store {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on it commits like that; what waits is committed now unless it is `Never`.
    pub(super) fn commit(&self, commits: Commits) {
        let mut state = self.state();
        state.commits = commits;
        if commits != Commits::Never {
            self.durable.send_replace(state.appends);
        }
    }

    /// Everything up to that append is durable.
    pub(super) fn announce(&self, number: u64) {
        self.durable.send_replace(number);
    }

    pub(super) fn texts(&self) -> Vec<String> {
        self.state().taken.iter().map(|taken| taken.text.clone()).collect()
    }
}

/// A running source.
pub(super) struct Rig {
    pub(super) store: Store,
    pub(super) counters: Counters,
    links: Links,
    stop: watch::Sender<bool>,
    finished: tokio::sync::oneshot::Receiver<std::io::Result<()>>,
}

impl Rig {
    /// A source with that client id, subscribed to `filters`.
    pub(super) fn start(settings: config::Mqtt, client_id: &str, commits: Commits, filters: &[&str]) -> Self {
        Self::start_knowing(settings, client_id, commits, filters, &[], 0)
    }

    /// The same after a restart: these receipts are stored. That the session was lost is durable with the append `void_at`.
    pub(super) fn start_knowing(
        settings: config::Mqtt,
        client_id: &str,
        commits: Commits,
        filters: &[&str],
        known: &[Receipt],
        void_at: u64,
    ) -> Self {
        let known: Vec<_> = known.iter().map(|receipt| (*receipt, 0)).collect();
        let (taken, receipts, requests) = (Vec::new(), Vec::new(), Vec::new());
        let state = State { appends: 0, taken, frames: 0, receipts, hurries: 0, requests, commits };
        let (durable, watched) = watch::channel(0);
        let store = Store { state: Arc::new(Mutex::new(state)), durable };
        let (counters, links) = (Counters::default(), Links::default());
        let (stop, stopped) = watch::channel(false);
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        let finished = start(Source {
            session: Session::new(&settings, &known, filters),
            outage: Outage::new(&settings.name, links.link(&settings.name), &counters),
            settings,
            client_id: client_id.to_owned(),
            obsolete: Vec::new(),
            sink: store.clone(),
            durable: watched,
            void_at,
            stop: stopped,
        })
        .unwrap();
        Self { store, counters, links, stop, finished }
    }

    pub(super) fn link(&self) -> LinkInfo {
        self.links.snapshot()["mqtt.test"].clone()
    }

    pub(super) fn count(&self, count: Count) -> u64 {
        self.counters.counter(count, "mqtt.test").get()
    }

    pub(super) fn wait_up(&self) {
        wait_for("the link to come up", || self.link().state == LinkState::Up);
    }

    /// Waits until the link is down for a reason that holds `text`.
    pub(super) fn wait_down(&self, text: &str) {
        wait_for(&format!("the link to go down: {text} (is {:?})", self.link()), || {
            let link = self.link();
            link.state == LinkState::Down && link.detail.contains(text)
        });
    }

    pub(super) fn wait_frames(&self, count: u64) {
        wait_for(&format!("{count} frames"), || self.store.state().frames >= count);
    }

    /// Stops it and waits for its end.
    pub(super) fn stop(self) -> Store {
        let begun = clock::instant();
        self.stop.send_replace(true);
        self.finished.blocking_recv().expect("the thread must not panic").expect("a runtime");
        assert!(begun.elapsed() < Duration::from_secs(11), "a stop is bounded");
        self.store
    }
}

pub(super) fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begun = clock::instant();
    while !condition() {
        assert!(elapsed(begun) < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn elapsed(begun: Instant) -> Duration {
    clock::instant().saturating_duration_since(begun)
}
