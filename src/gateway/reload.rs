//! A reload: the configuration is loaded anew and checked whole before anything stops. What has not changed goes on
//! undisturbed; what has is swapped in an order in which nothing is lost or counted twice.
//!
//! The order: sources that change stop, and what they had taken is committed and acknowledged; the outbox and the rules change
//! between two batches of the sources that go on; the uplink begins anew with the oldest record that is not delivered; then
//! the new sources start. From the first step on nothing can fail: all that can comes before.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::sources::Sources;
use super::{kafka_within, receipts_max, rules_of};
use crate::clock;
use crate::config::{Changes, Config};
use crate::counters::{Count, Counters};
use crate::outbox::{Lane, Outbox};
use crate::pipeline::Pipeline;
use crate::reading::{Batch, Event, EventKind, Record};
use crate::service::Notifier;
use crate::setup::{Setup, kept};
use crate::status::Links;
use crate::status::configuration::{Configuration, Outcome};
use crate::uplink;

/// New rules are waited for so long to be safe. A disk that refuses does not hold up the answer: a kill leaves the old ones.
const DURABLE_MAX: Duration = Duration::from_secs(10);
/// What the service manager is told as long as it is so.
pub(super) const FALLBACK: &str = "the configuration is not fit to run, it runs on the one that ran last";
/// Before the service manager's line of status, until a configuration is taken. `tidegate status` has the reasons.
const REFUSED: &str = "the new configuration is refused, the one before goes on";

/// What a reload has its hands on.
#[derive(Debug)]
pub(super) struct Parts {
    /// What runs.
    pub(super) setup: Setup,
    pub(super) sources: Sources,
    pub(super) pipeline: Pipeline,
    pub(super) uplink: watch::Sender<uplink::Settings>,
    pub(super) links: Links,
    pub(super) counters: Counters,
    pub(super) configuration: Configuration,
    pub(super) notifier: Notifier,
}

impl Parts {
    /// Loads the configuration anew and goes over to it, or goes on with the one before and says why. All that a reload is
    /// happens in here.
    pub(super) async fn reload(&mut self) -> Outcome {
        let path = self.setup.loaded.path().to_owned();
        info!(config = %path.display(), "loading the configuration anew");
        self.notifier.reloading();
        let checked = tokio::task::spawn_blocking(move || Setup::check(&path)).await;
        let changes = match checked {
            Ok(Ok(next)) => self.go_over(next).await,
            Ok(Err(errors)) => Err(errors.to_string()),
            Err(error) => Err(format!("it could not be read, which is a defect: {error}")),
        };
        let outcome = match changes {
            Ok(changes) => Outcome { applied: true, detail: changes.to_string() },
            Err(detail) => Outcome { applied: false, detail },
        };
        self.configuration.reloaded(&outcome);
        let (event, label) = match outcome.applied {
            true => (EventKind::ConfigReloaded, "applied"),
            false => (EventKind::ConfigRefused, "refused"),
        };
        self.counters.add(Count::ConfigReloads, label, 1);
        if outcome.applied {
            info!("the new configuration is in use: {}", outcome.detail);
        } else {
            error!("the new configuration is refused, and the one before goes on:");
            outcome.detail.lines().for_each(|line| error!("{line}"));
        }
        tell(self.pipeline.outbox(), event, &outcome.detail);
        self.notifier.set_remark(if outcome.applied { "" } else { REFUSED });
        self.notifier.reloaded();
        outcome
    }

    async fn go_over(&mut self, next: Setup) -> Result<Changes, String> {
        let differs = |id: &str| self.setup.profiles.text(id) != next.profiles.text(id);
        let changes = Changes::between(self.setup.config(), next.config(), &differs);
        if !changes.restart.is_empty() {
            return Err(needs_restart(&next, &changes));
        }
        let starting = |name: &str| changes.starting().any(|starting| starting == name);
        let prepared =
            self.sources.prepare(next.config(), &next.profiles, starting).map_err(|error| error.to_string())?;
        if changes.rules && rules_of(next.config()) {
            let pipeline = self.pipeline.clone();
            let begun = tokio::task::spawn_blocking(move || pipeline.begin()).await;
            let begun = begun.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            begun
                .map_err(|error| format!("the state of the windows cannot be written: {error}; nothing has changed"))?;
        }
        // From here on nothing fails.
        let stopped = self.sources.stop(changes.stopping()).await;
        changes.removed.iter().for_each(|name| self.links.remove(name));
        let config = next.config();
        if changes.outbox {
            self.pipeline.outbox().change(&config.outbox, receipts_max(config));
        }
        let rules_at = changes.rules.then(|| self.pipeline.change(&config.rules, &self.counters));
        if changes.uplink {
            self.uplink.send_replace(uplink_settings(config));
        }
        self.sources.start(prepared, &stopped);
        for (name, client_id, broker) in stopped.left_behind(&self.sources) {
            info!(
                "{name}: the broker at {broker} keeps the session of client id {client_id:?} and what it is sent meanwhile, \
                 until the session expires; to end it, connect once with that id and a clean session"
            );
        }
        if let Some(number) = rules_at {
            self.wait_durable(number).await;
        }
        self.setup = next;
        self.keep().await;
        Ok(changes)
    }

    async fn wait_durable(&self, number: u64) {
        let outbox = self.pipeline.outbox();
        let mut durable = outbox.durable();
        outbox.hurry();
        if timeout(DURABLE_MAX, durable.wait_for(|durable| *durable >= number)).await.is_err() {
            warn!(
                "the new rules are in use and not on the disk yet: a crash before they are goes back to the old state"
            );
        }
    }

    /// Keeps the configuration for a start with a file that is not fit to run.
    pub(super) async fn keep(&self) {
        let setup = self.setup.clone();
        let kept = tokio::task::spawn_blocking(move || kept::keep(&setup)).await;
        if let Err(error) = kept.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            warn!("the configuration could not be kept for a start with a bad one: {error}");
        }
    }
}

/// What the uplink is configured by.
pub(super) fn uplink_settings(config: &Config) -> uplink::Settings {
    uplink::Settings { kafka: kafka_within(config), gateway: config.gateway.clone() }
}

/// Stores an event for the consumers of the records.
pub(super) fn tell(outbox: &Outbox, event: EventKind, detail: &str) {
    let event = Event::new(event, detail, clock::stamp());
    let mut batch = Batch { records: vec![Record::Event(Box::new(event))], fields: Vec::new() };
    outbox.append(Lane::Raw, &mut batch, None, &[]);
}

fn needs_restart(next: &Setup, changes: &Changes) -> String {
    let problem = |key: &&'static str| {
        let help = "restart the gateway for this, or take it back; nothing has changed".to_owned();
        next.loaded.problem(key, "expected what it was at the start: this key needs a restart", Some(help))
    };
    next.loaded.errors(changes.restart.iter().map(problem).collect()).to_string()
}
