//! Wiring: channels, tasks, and the order of stopping. What a reading is and what becomes of it is known elsewhere.
//!
//! The order of stopping is the way of a reading: sources stop and what they had taken is committed and acknowledged; the
//! uplink drains what is durable until its deadline; the outbox notes how far it came and closes.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{error, info, warn};

use crate::clock;
use crate::config::{self, Config};
use crate::counters::Counters;
use crate::decode::{Decoder, DecoderError};
use crate::intake::{Intake, Sink};
use crate::log::Throttle;
use crate::outbox::{CloseError, Closer, Left, OpenError, Options, Outbox};
use crate::pipeline::Pipeline;
use crate::profile::ProfileSet;
use crate::reading::Receipt;
use crate::rules::Rules;
use crate::source::{mqtt, serial};
use crate::status::report::Reporter;
use crate::status::socket::Socket;
use crate::status::{Link, Links};
use crate::uplink;

/// What is handed to Kafka and not delivered when the gateway is told to stop has this much of the time at least.
const DRAIN_MIN: Duration = Duration::from_secs(1);
/// A commit that takes longer means that the disk, or sled, hangs: only a restart helps.
const COMMIT_AGE_MAX: Duration = Duration::from_secs(120);
const WATCH_INTERVAL: Duration = Duration::from_secs(20);
/// At most this part of the outbox is in flight.
const IN_FLIGHT_SHARE: u64 = 16;
/// Devices that fell silent are looked for this often.
const TICK: Duration = Duration::from_secs(1);
/// A disk that refuses the rules' first checkpoint is asked again after this.
const JOURNAL_RETRY: Duration = Duration::from_secs(2);
/// For processes that a hanging disk had to end (EX_IOERR).
const EXIT_DISK_HANGS: i32 = 74;

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

/// Runs a gateway until `shutdown` is ready, then stops it in good order.
///
/// # Errors
/// When it cannot start. Whatever is unreachable is no error: it starts and tries again.
pub async fn run(config: Config, profiles: &ProfileSet, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let counters = Counters::default();
    let links = Links::default();
    let boots = clock::begin(&config.gateway.clock, &config.gateway.data_dir);
    let (outbox, closer, left) = open_outbox(&config, &counters).await?;
    let runs = outbox.runs();
    clock::join(outbox.run(), |run| runs.contains(run));
    let backlog = outbox.backlog();
    info!(
        gateway = config.gateway.id,
        run = outbox.run(),
        waiting = backlog.records,
        bytes = backlog.bytes,
        "tidegate {} has its outbox open",
        env!("CARGO_PKG_VERSION"),
    );

    let has_left = left.checkpoint.is_some() || !left.journal.is_empty();
    let mut rules = Rules::restore(&config.rules, left.into(), clock::stamp(), &counters);
    let (stop_uplink, uplink_stop) = watch::channel(None);
    let mut uplink = tokio::spawn(uplink::run(
        kafka_within(&config),
        config.gateway.clone(),
        outbox.clone(),
        boots,
        links.link("kafka"),
        counters.clone(),
        uplink_stop,
    ));
    let reporter = Reporter::new(&config.gateway.id, outbox.clone(), links.clone(), counters.clone());
    let status = serve_status(&config.gateway.data_dir, reporter);
    let watchdog = tokio::spawn(watch_disk(outbox.clone()));
    let clock_watch = tokio::spawn(watch_clock());

    tokio::pin!(shutdown);
    let begun = tokio::select! {
        () = &mut shutdown => false,
        () = begin_journal(&outbox, &mut rules, has_left) => true,
    };
    let (stop_sources, sources_stop) = watch::channel(!begun);
    let pipeline = Pipeline::new(outbox.clone(), rules);
    let sink = Sink::Pipeline(pipeline.clone());
    let mut sources = start_sources(&config, profiles, &sink, &links, &counters, &sources_stop)?;
    drop(sink);
    let ticks = begun.then(|| tokio::spawn(pass_time(pipeline.clone())));
    let ended = if begun { run_until(shutdown, &mut uplink, &mut sources).await } else { None };

    let deadline = clock::instant() + config.gateway.stop_timeout;
    info!("stopping: sources first, then at most {:?} to deliver what waits", config.gateway.stop_timeout);
    stop_sources.send_replace(true);
    finish(sources).await;
    if let Some(ticks) = ticks {
        ticks.abort();
        let _ = ticks.await;
        // Without a beginning there is nothing new to keep.
        pipeline.finish();
    }
    drop(pipeline);
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
    watchdog.abort();
    clock_watch.abort();
    let _ = tokio::task::spawn_blocking(clock::leave).await;
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

/// Waits for the shutdown, or gives what has ended by itself that must not.
async fn run_until(
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
    uplink: &mut JoinHandle<()>,
    sources: &mut JoinSet<()>,
) -> Option<String> {
    loop {
        tokio::select! {
            () = &mut shutdown => return None,
            ended = &mut *uplink => return Some(format!("the uplink: {ended:?}")),
            // The others go on: one that ends at every start must not keep them from it.
            Some(ended) = sources.join_next() => {
                error!("a source has ended before the gateway, which is a defect: {ended:?}");
            }
        }
    }
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
async fn begin_journal(outbox: &Outbox, rules: &mut Rules, has_left: bool) {
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
                if let Some(suppressed) = trouble.pass(clock::instant()) {
                    error!(suppressed, "nothing is collected until the windows' state can be written: {error}");
                }
            }
            Err(error) => error!("the windows' state could not be written, which is a defect: {error}"),
        }
        tokio::time::sleep(JOURNAL_RETRY).await;
    }
    // Pieces that the checkpoint includes need not be stored.
    while rules.take_journal().is_some() {}
}

/// Tells the rules once a second how late it is.
async fn pass_time(pipeline: Pipeline) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        pipeline.tick(clock::stamp());
    }
}

/// Looks at the clock once a second.
async fn watch_clock() {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let _ = tokio::task::spawn_blocking(clock::look).await;
    }
}

/// Identifies this machine (machine-id(5)); empty where it has no such id.
pub(crate) fn machine_id() -> String {
    std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned()
}

async fn open_outbox(config: &Config, counters: &Counters) -> Result<(Outbox, Closer, Left), RunError> {
    let options = Options {
        data_dir: config.gateway.data_dir.clone(),
        receipts_max: config.mqtt.iter().map(|mqtt| mqtt.in_flight_max).fold(Receipt::KEPT_MIN, u16::max).into(),
        machine: machine_id(),
    };
    let (settings, counters) = (config.outbox.clone(), counters.clone());
    let opened = tokio::task::spawn_blocking(move || Outbox::open(&settings, &options, &counters)).await;
    Ok(opened.map_err(|error| RunError::Task(error.to_string()))??)
}

/// Starts all sources of a configuration on `sink`.
///
/// # Errors
/// When a profile cannot be used; no source is started then.
pub(crate) fn start_sources(
    config: &Config,
    profiles: &ProfileSet,
    sink: &Sink,
    links: &Links,
    counters: &Counters,
    stop: &watch::Receiver<bool>,
) -> Result<JoinSet<()>, DecoderError> {
    // All decoders first: a profile that does not fit is to stop the start before anything runs.
    let mqtt = config.mqtt.iter().map(|settings| Ok((settings, Decoder::for_mqtt(settings, profiles)?)));
    let mqtt = mqtt.collect::<Result<Vec<_>, DecoderError>>()?;
    let serial = config.serial.iter().map(|settings| Ok((settings, Decoder::for_serial(settings, profiles)?)));
    let serial = serial.collect::<Result<Vec<_>, DecoderError>>()?;
    let mut sources = JoinSet::new();
    for (settings, decoder) in mqtt {
        let client_id = client_id(config, settings, sink);
        let session = format!("{}/{client_id}", settings.name);
        let decoder = decoder.counting(counters);
        let intake = Intake::new(&settings.name, Some(&session), decoder, sink.clone(), counters);
        let link = links.link(&settings.name);
        sources.spawn(mqtt::run(settings.clone(), client_id, intake, link, counters.clone(), stop.clone()));
    }
    for (settings, decoder) in serial {
        let intake = Intake::new(&settings.name, None, decoder.counting(counters), sink.clone(), counters);
        let link: Link = links.link(&settings.name);
        let Ok(settings) = profiles.resolve(settings) else { continue };
        let (counters, stop) = (counters.clone(), stop.clone());
        sources.spawn(async move { serial::run(settings, intake, link, &counters, stop).await });
    }
    Ok(sources)
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

async fn finish(mut sources: JoinSet<()>) {
    while let Some(ended) = sources.join_next().await {
        if let Err(error) = ended {
            error!("a source did not end in good order: {error}");
        }
    }
}

fn serve_status(data_dir: &Path, reporter: Reporter) -> JoinHandle<()> {
    match Socket::bind(data_dir) {
        Ok(socket) => tokio::spawn(socket.serve(reporter)),
        Err(error) => {
            warn!("`tidegate status` will not work, its socket in {} cannot be made: {error}", data_dir.display());
            tokio::spawn(std::future::ready(()))
        }
    }
}

/// Ends the process when a commit hangs: sled waits for its own threads without a limit, and what is not durable is not
/// acknowledged, so a restart loses nothing.
async fn watch_disk(outbox: Outbox) {
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        let now: Instant = clock::instant();
        if let Some(age) = outbox.commit_age(now).filter(|age| *age > COMMIT_AGE_MAX) {
            error!(
                "a commit has been going on for {age:?}: the disk hangs; the gateway ends so that it can be restarted"
            );
            std::process::exit(EXIT_DISK_HANGS);
        }
    }
}
