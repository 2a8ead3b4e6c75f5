//! Wiring: channels, tasks, and the order of stopping. What a reading is and what becomes of it is known elsewhere. `sources`
//! starts and stops sources one by one, `reload` goes over to another configuration.
//!
//! The order of stopping is the way of a reading: sources stop and what they had taken is committed and acknowledged; the
//! uplink drains what is durable until its deadline; the outbox notes how far it came and closes.

mod reload;
mod sources;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use self::reload::Parts;
pub(crate) use self::sources::{Sources, Stopped};
use crate::beats::Beat;
use crate::clock;
use crate::config::{self, Config};
use crate::counters::Counters;
use crate::decode::DecoderError;
use crate::intake::Sink;
use crate::log::Throttle;
use crate::outbox::{CloseError, Closer, Left, OpenError, Options, Outbox};
use crate::pipeline::Pipeline;
use crate::reading::{EventKind, Receipt};
use crate::rules::Rules;
use crate::service::{self, Notifier};
use crate::setup::Setup;
use crate::status::Links;
use crate::status::configuration::Configuration;
use crate::status::report::Reporter;
use crate::status::socket::{ReloadRequest, Socket};
use crate::uplink;

/// What is handed to Kafka and not delivered when the gateway is told to stop has this much of the time at least.
const DRAIN_MIN: Duration = Duration::from_secs(1);
/// At most this part of the outbox is in flight.
const IN_FLIGHT_SHARE: u64 = 16;
/// Devices that fell silent are looked for this often.
const TICK: Duration = Duration::from_secs(1);
/// A disk that refuses the rules' first checkpoint is asked again after this.
const JOURNAL_RETRY: Duration = Duration::from_secs(2);
/// What the end takes beyond the time that is left to deliver: sources take leave, the last commit is made.
const STOP_MORE: Duration = Duration::from_secs(40);
/// Reloads that may wait for the one that is going on.
const RELOADS_MAX: usize = 4;

/// Why the gateway could not run, or not end in good order.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The outbox cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A source's profile cannot be used.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    /// What was pending at the end could not be stored.
    #[error(transparent)]
    Close(#[from] CloseError),
    /// A part of the gateway ended by itself.
    #[error("a task of the gateway has ended, which is a defect: {0}")]
    Task(String),
}

/// What a gateway is started with.
#[derive(Debug)]
pub struct Start {
    /// What it runs with.
    pub setup: Setup,
    /// Why that is not what its file says: the file is not fit to run, and this is what ran before.
    pub fallback: Option<String>,
    /// Each asks for a reload, as SIGHUP does.
    pub hangups: mpsc::Receiver<()>,
}

/// Runs a gateway until `shutdown` is ready, then stops it in good order.
///
/// # Errors
/// When it cannot start. Whatever is unreachable is no error: it starts and tries again.
pub async fn run(start: Start, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let Start { setup, fallback, hangups } = start;
    let config = setup.config().clone();
    let notifier = Notifier::from_environment();
    notifier.status("opening the outbox");
    let counters = Counters::default();
    let links = Links::default();
    let (outbox, closer, left) = open_outbox(&config, &counters).await?;
    links.beats().watch(service::OUTBOX, &outbox.beat());
    let watch = service::watch(notifier.clone(), links.beats().clone());
    let backlog = outbox.backlog();
    info!(
        gateway = config.gateway.id,
        run = outbox.run(),
        waiting = backlog.records,
        bytes = backlog.bytes,
        "tidegate {} has its outbox open",
        env!("CARGO_PKG_VERSION"),
    );
    if let Some(why) = &fallback {
        reload::tell(&outbox, EventKind::ConfigFallback, why);
        notifier.set_remark("the configuration is not fit to run, it runs on the one that ran last");
    }

    let has_left = left.checkpoint.is_some() || !left.journal.is_empty();
    let mut rules = Rules::restore(&config.rules, left.into(), clock::stamp(), &counters);
    let (stop_uplink, uplink_stop) = watch::channel(None);
    let (settings, uplink_settings) = watch::channel(reload::uplink_settings(&config));
    let link = links.link("kafka");
    let mut uplink = tokio::spawn(uplink::run(uplink_settings, outbox.clone(), link, counters.clone(), uplink_stop));
    let configuration = Configuration::new(setup.loaded.path(), fallback.clone());
    let reporter =
        Reporter::new(&config.gateway.id, outbox.clone(), links.clone(), counters.clone(), configuration.clone());
    let (reloads, requests) = mpsc::channel(RELOADS_MAX);
    let status = serve_status(&config.gateway.data_dir, reporter, reloads);
    let teller = tokio::spawn(service::tell(notifier.clone(), outbox.clone(), links.clone()));

    tokio::pin!(shutdown);
    let has_journal = has_left || !rules.is_empty();
    let begun = tokio::select! {
        () = &mut shutdown => false,
        () = begin_journal(&outbox, &mut rules, has_left, &notifier) => true,
    };
    let pipeline = Pipeline::new(outbox.clone(), rules, has_journal && begun);
    let sources = Sources::new(Sink::Pipeline(pipeline.clone()), links.clone(), counters.clone());
    let mut parts = Parts { setup, sources, pipeline, uplink: settings, links, counters, configuration, notifier };
    let mut ended = None;
    let mut ticks = None;
    if begun {
        let prepared = parts.sources.prepare(&config, &parts.setup.profiles, |_| true)?;
        parts.sources.start(prepared, &Stopped::default());
        let beat = parts.links.beats().part("rules");
        ticks = Some(tokio::spawn(pass_time(parts.pipeline.clone(), beat)));
        if fallback.is_none() {
            parts.keep().await;
        }
        parts.notifier.ready();
        ended = run_until(shutdown, &mut uplink, &mut parts, hangups, requests).await;
    }

    let stop_timeout = parts.setup.config().gateway.stop_timeout;
    let deadline = clock::instant() + stop_timeout;
    teller.abort();
    parts.notifier.stopping(stop_timeout + STOP_MORE);
    info!("stopping: sources first, then at most {stop_timeout:?} to deliver what waits");
    parts.sources.stop_all().await;
    if let Some(ticks) = ticks {
        ticks.abort();
        let _ = ticks.await;
        // Without a beginning there is nothing new to keep.
        parts.pipeline.finish();
    }
    drop(parts);
    stop_uplink.send_replace(Some(deadline.max(clock::instant() + DRAIN_MIN)));
    if ended.is_none()
        && let Err(error) = uplink.await
    {
        error!("the uplink did not end in good order: {error}");
    }
    let waiting = outbox.backlog().records;
    drop(outbox);
    status.abort();
    // Aborted tasks are dropped at the runtime's leisure; the socket's file is to be gone when the process is.
    let _ = status.await;
    let closed = tokio::task::spawn_blocking(move || closer.close()).await;
    drop(watch);
    match (closed, ended) {
        (Err(error), _) => Err(RunError::Task(error.to_string())),
        (Ok(Err(error)), _) => Err(error.into()),
        (Ok(Ok(())), Some(ended)) => Err(RunError::Task(ended)),
        (Ok(Ok(())), None) => {
            info!(waiting, "stopped in good order");
            Ok(())
        }
    }
}

/// Reloads when asked to and waits for the shutdown, or gives what has ended by itself that must not. A shutdown that comes
/// during a reload waits for its end, which comes soon: nothing in it waits without a limit.
async fn run_until(
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
    uplink: &mut JoinHandle<()>,
    parts: &mut Parts,
    mut hangups: mpsc::Receiver<()>,
    mut requests: mpsc::Receiver<ReloadRequest>,
) -> Option<String> {
    loop {
        tokio::select! {
            () = &mut shutdown => return None,
            ended = &mut *uplink => return Some(format!("the uplink: {ended:?}")),
            () = parts.sources.ended() => {}
            Some(()) = hangups.recv() => {
                parts.reload().await;
            }
            Some(request) = requests.recv() => {
                // Who has asked may be gone.
                let _ = request.send(parts.reload().await);
            }
        }
    }
}

/// Whether a configuration has rules, and so state.
fn rules_of(config: &Config) -> bool {
    !config.rules.filters.is_empty() || !config.rules.windows.is_empty()
}

/// How many receipts of each MQTT session are kept.
fn receipts_max(config: &Config) -> usize {
    config.mqtt.iter().map(|mqtt| mqtt.in_flight_max).fold(Receipt::KEPT_MIN, u16::max).into()
}

/// What is in flight keeps its segments from being given up, so it is to be little beside the outbox: while Kafka is away
/// the oldest segments must be free to go.
fn kafka_within(config: &Config) -> config::Kafka {
    let share = usize::try_from(config.outbox.size_max / IN_FLIGHT_SHARE).unwrap_or(usize::MAX);
    let in_flight_bytes_max = config.kafka.in_flight_bytes_max.min(share);
    config::Kafka { in_flight_bytes_max, ..config.kafka.clone() }
}

/// Makes the state that the rules begin with durable: the journal of this run goes on from there, so no source may start
/// before. A disk that refuses is asked again while the uplink drains it.
async fn begin_journal(outbox: &Outbox, rules: &mut Rules, has_left: bool, notifier: &Notifier) {
    if rules.is_empty() && !has_left {
        return;
    }
    let checkpoint = Arc::new(rules.checkpoint());
    let mut trouble = Throttle::new(Duration::from_secs(60));
    loop {
        let (outbox, checkpoint) = (outbox.clone(), Arc::clone(&checkpoint));
        let begun = tokio::task::spawn_blocking(move || outbox.begin_journal(&checkpoint)).await;
        match begun {
            Ok(Ok(())) => break,
            Ok(Err(error)) => {
                notifier.set_remark("nothing is collected until the windows' state can be written");
                if let Some(suppressed) = trouble.pass(clock::instant()) {
                    error!(suppressed, "nothing is collected until the windows' state can be written: {error}");
                }
            }
            Err(error) => error!("the windows' state could not be written, which is a defect: {error}"),
        }
        tokio::time::sleep(JOURNAL_RETRY).await;
    }
    notifier.set_remark("");
    // Pieces that the checkpoint includes need not be stored.
    while rules.take_journal().is_some() {}
}

/// Tells the rules once a second how late it is.
async fn pass_time(pipeline: Pipeline, beat: Beat) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        pipeline.tick(clock::stamp());
        beat.beat();
    }
}

/// Identifies this machine (machine-id(5)); empty where it has no such id.
pub(crate) fn machine_id() -> String {
    std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned()
}

async fn open_outbox(config: &Config, counters: &Counters) -> Result<(Outbox, Closer, Left), RunError> {
    let options = Options {
        data_dir: config.gateway.data_dir.clone(),
        receipts_max: receipts_max(config),
        machine: machine_id(),
    };
    let (settings, counters) = (config.outbox.clone(), counters.clone());
    let opened = tokio::task::spawn_blocking(move || Outbox::open(&settings, &options, &counters)).await;
    Ok(opened.map_err(|error| RunError::Task(error.to_string()))??)
}

fn serve_status(data_dir: &Path, reporter: Reporter, reloads: mpsc::Sender<ReloadRequest>) -> JoinHandle<()> {
    match Socket::bind(data_dir) {
        Ok(socket) => tokio::spawn(socket.serve(reporter, reloads)),
        Err(error) => {
            warn!("`tidegate status` will not work, its socket in {} cannot be made: {error}", data_dir.display());
            tokio::spawn(std::future::ready(()))
        }
    }
}
