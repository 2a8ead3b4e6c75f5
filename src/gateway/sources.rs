//! The sources that run: each has a switch of its own, so that one can be stopped while the others go on undisturbed.
//!
//! Invariant: of one name, and so of one client id, at most one runs: a source is started only after the one before it has
//! ended, with what it had taken committed and acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tracing::error;

use crate::config::{self, Config};
use crate::counters::Counters;
use crate::decode::{Decoder, DecoderError};
use crate::intake::{Intake, Sink};
use crate::profile::framing::Framing;
use crate::profile::{Poll, ProfileSet};
use crate::source::{modbus, mqtt, serial};
use crate::status::Links;

/// All sources of a gateway.
#[derive(Debug)]
pub(crate) struct Sources {
    sink: Sink,
    links: Links,
    counters: Counters,
    tasks: JoinSet<()>,
    running: BTreeMap<String, Running>,
}

#[derive(Debug)]
struct Running {
    stop: watch::Sender<bool>,
    task: Id,
    /// What it subscribes to, and in which session of which broker.
    subscribed: Option<Subscribed>,
}

#[derive(Debug)]
struct Subscribed {
    broker: (String, u16),
    client_id: String,
    filters: Vec<String>,
}

/// Sources that can be started: nothing can fail any more.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    mqtt: Vec<(config::Mqtt, String, Decoder)>,
    serial: Vec<(config::Serial, Framing, Option<Poll>, Decoder)>,
    modbus: Vec<(config::Modbus, ProfileSet, Decoder)>,
}

impl Sources {
    /// None yet; those that come hand their frames to `sink`.
    pub(crate) fn new(sink: Sink, links: Links, counters: Counters) -> Self {
        Self { sink, links, counters, tasks: JoinSet::new(), running: BTreeMap::new() }
    }

    /// Makes ready to start those sources of a configuration that are wanted and do not run.
    ///
    /// # Errors
    /// When a profile cannot be used.
    pub(crate) fn prepare(
        &self,
        config: &Config,
        profiles: &ProfileSet,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Prepared, DecoderError> {
        let mut prepared = Prepared::default();
        for settings in config.mqtt.iter().filter(|settings| wanted(&settings.name)) {
            let client_id = client_id(config, settings, &self.sink);
            prepared.mqtt.push((settings.clone(), client_id, Decoder::for_mqtt(settings, profiles)?));
        }
        for settings in config.serial.iter().filter(|settings| wanted(&settings.name)) {
            let decoder = Decoder::for_serial(settings, profiles)?;
            // The decoder has found the profile.
            let resolved = profiles.resolve(settings).unwrap_or_else(|_| settings.clone());
            let framing = profiles.framing(settings).unwrap_or_default();
            prepared.serial.push((resolved, framing, profiles.poll(settings), decoder));
        }
        for settings in config.modbus.iter().filter(|settings| wanted(&settings.name)) {
            let decoder = Decoder::for_modbus(settings, profiles)?;
            // A setup that is fit to run has no conflict.
            let resolved = profiles.resolve_modbus(settings).unwrap_or_else(|_| settings.clone());
            prepared.modbus.push((resolved, profiles.clone(), decoder));
        }
        Ok(prepared)
    }

    /// Starts them. `before` is what [`Sources::stop`] gave of those that ran under their names.
    pub(crate) fn start(&mut self, prepared: Prepared, before: &Stopped) {
        let Prepared { mqtt, serial, modbus } = prepared;
        for (settings, client_id, decoder) in mqtt {
            let session = format!("{}/{client_id}", settings.name);
            let decoder = decoder.counting(&self.counters);
            let intake = Intake::new(&settings.name, Some(&session), decoder, self.sink.clone(), &self.counters);
            let link = self.links.link(&settings.name);
            let broker = (settings.host.clone(), settings.port);
            let filters = intake.subscriptions();
            let subscribed = Subscribed { broker, client_id: client_id.clone(), filters };
            let obsolete = before.obsolete(&settings.name, &subscribed);
            let (stop, stopped) = watch::channel(false);
            let name = settings.name.clone();
            let source = mqtt::run(settings, client_id, obsolete, intake, link, self.counters.clone(), stopped);
            let task = self.tasks.spawn(source).id();
            self.running.insert(name, Running { stop, task, subscribed: Some(subscribed) });
        }
        for (settings, framing, poll, decoder) in serial {
            let decoder = decoder.counting(&self.counters);
            let intake = Intake::new(&settings.name, None, decoder, self.sink.clone(), &self.counters);
            let link = self.links.link(&settings.name);
            let (stop, stopped) = watch::channel(false);
            let (name, counters) = (settings.name.clone(), self.counters.clone());
            let source = async move { serial::run(settings, framing, poll, intake, link, &counters, stopped).await };
            let task = self.tasks.spawn(source).id();
            self.running.insert(name, Running { stop, task, subscribed: None });
        }
        for (settings, profiles, decoder) in modbus {
            let decoder = decoder.counting(&self.counters);
            let intake = Intake::new(&settings.name, None, decoder, self.sink.clone(), &self.counters);
            let link = self.links.link(&settings.name);
            let (stop, stopped) = watch::channel(false);
            let name = settings.name.clone();
            let source = modbus::run(settings, profiles, intake, link, self.counters.clone(), stopped);
            let task = self.tasks.spawn(source).id();
            self.running.insert(name, Running { stop, task, subscribed: None });
        }
    }

    /// Stops those of these names that run, and returns when they have ended.
    pub(crate) async fn stop(&mut self, names: impl Iterator<Item = &String>) -> Stopped {
        let mut stopped = Stopped::default();
        let mut waiting = BTreeSet::new();
        for (name, source) in names.filter_map(|name| self.running.remove_entry(name)) {
            source.stop.send_replace(true);
            waiting.insert(source.task);
            stopped.0.extend(source.subscribed.map(|subscribed| (name, subscribed)));
        }
        while !waiting.is_empty() {
            let Some(ended) = self.tasks.join_next_with_id().await else { break };
            let (id, error) = outcome(&ended);
            if !waiting.remove(&id) {
                self.note_end(id, error);
            } else if let Some(error) = error {
                error!("a source did not end in good order: {error}");
            }
        }
        stopped
    }

    /// Stops all of them.
    pub(crate) async fn stop_all(&mut self) {
        let names: Vec<String> = self.running.keys().cloned().collect();
        self.stop(names.iter()).await;
    }

    /// Returns when one has ended that nobody had stopped, which is a defect. The others go on: one that ends at every start
    /// must not keep them from it. Never returns while there is none. Cancel-safe.
    pub(crate) async fn ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(ended) => {
                let (id, error) = outcome(&ended);
                self.note_end(id, error);
            }
            None => std::future::pending().await,
        }
    }

    fn note_end(&mut self, id: Id, error: Option<&JoinError>) {
        let name = self.running.iter().find(|(_, source)| source.task == id).map(|(name, _)| name.clone());
        let why = error.map_or_else(String::new, |error| format!(": {error}"));
        let told = name.as_deref().unwrap_or("a source");
        error!("{told} has ended before the gateway, which is a defect{why}");
        // A reload that has something else for it, or a restart, brings it back.
        self.running.retain(|_, source| source.task != id);
    }
}

fn outcome(ended: &Result<(Id, ()), JoinError>) -> (Id, Option<&JoinError>) {
    match ended {
        Ok((id, ())) => (*id, None),
        Err(error) => (error.id(), Some(error)),
    }
}

/// What sources had subscribed to that were stopped.
#[derive(Debug, Default)]
pub(crate) struct Stopped(BTreeMap<String, Subscribed>);

impl Stopped {
    /// What the broker still has in the session that a source goes on with, and that nobody wants any more.
    fn obsolete(&self, name: &str, now: &Subscribed) -> Vec<String> {
        let before =
            self.0.get(name).filter(|before| (&before.broker, &before.client_id) == (&now.broker, &now.client_id));
        let filters = before.into_iter().flat_map(|before| &before.filters);
        filters.filter(|filter| !now.filters.contains(filter)).cloned().collect()
    }

    /// Client ids and brokers of those that ran under a name and whose session the broker goes on keeping for nobody.
    pub(crate) fn left_behind(&self, running: &Sources) -> Vec<(String, String, String)> {
        let is_left = |(name, before): &(&String, &Subscribed)| {
            let now = running.running.get(*name).and_then(|now| now.subscribed.as_ref());
            now.is_none_or(|now| (&now.broker, &now.client_id) != (&before.broker, &before.client_id))
        };
        let told = |(name, before): (&String, &Subscribed)| {
            (name.clone(), before.client_id.clone(), format!("{}:{}", before.broker.0, before.broker.1))
        };
        self.0.iter().filter(is_left).map(told).collect()
    }
}

/// The client id that a source connects with: its own, or one that is stable for this installation.
fn client_id(config: &Config, settings: &config::Mqtt, sink: &Sink) -> String {
    match (&settings.client_id, sink) {
        (_, Sink::Print(_)) => format!("tidegate-print-{:08x}", fastrand::u32(..)),
        (Some(id), _) => id.clone(),
        (None, Sink::Pipeline(pipeline)) => {
            let name = settings.name.rsplit('.').next().unwrap_or_default();
            format!("tidegate-{}-{name}-{}", config.gateway.id, pipeline.outbox().installation())
        }
    }
}
