//! MQTT: a subscriber of one broker that acknowledges a message only after what it led to is durable.
//!
//! A connection loop of our own over rumqttc's codec, because its event loop can neither coalesce reads, nor stop
//! reading while pings and acknowledgements go on, nor read past a packet that is too large.
//!
//! - `decoder`, `wire`: bytes to packets and back, for both versions; only `wire` names rumqttc;
//! - `session`, with `receipts`, `subscriptions` and `retained`: what follows from a packet, without I/O;
//! - `stream`, `tls`: the socket; `connection`: the driver; `backoff`, `outage`: between connections.
//!
//! Invariants: nothing here awaits the disk; whatever the broker does, the source tries again and says so once; memory is
//! bounded by the budget of the source and the limit for one packet.

use std::io;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::clock;
use crate::config;
use crate::counters::Counters;
use crate::decode::Request;
use crate::intake::Intake;
use crate::reading::{Frames, Receipt};
use crate::status::Link;

pub use self::listen::listen;

use self::backoff::Backoff;
use self::connection::{ConnectionError, Source};
use self::outage::Outage;
use self::session::Session;
use self::tls::TlsError;

mod backoff;
mod connection;
mod decoder;
mod listen;
mod outage;
mod receipts;
mod retained;
mod session;
mod stream;
mod subscriptions;
mod tls;
mod wire;

/// Where frames go: the intake, and in tests a stand-in whose commits the test controls.
trait Sink {
    /// Takes all frames of one read; gives the number that must be durable until they are safe.
    fn accept(&mut self, frames: &Frames, receipts: &[Receipt]) -> u64;
    /// Starts the commit now.
    fn hurry(&mut self);
    /// What is to be published because of what was accepted.
    fn take_requests(&mut self) -> Vec<Request>;
}

impl Sink for Intake {
    fn accept(&mut self, frames: &Frames, receipts: &[Receipt]) -> u64 {
        Intake::accept(self, frames, receipts)
    }

    fn hurry(&mut self) {
        Intake::hurry(self);
    }

    fn take_requests(&mut self) -> Vec<Request> {
        Intake::take_requests(self)
    }
}

/// Subscribes to a broker, and takes the subscriptions `obsolete` out of a session that still has them. Hands its messages to `intake` until `stop` says so (or is dropped); then it acknowledges
/// what becomes durable within five seconds and takes leave. Errors are retried for ever and shown in `link`.
///
/// The source has a thread of its own, because it sleeps between reads to let messages gather; the future only
/// waits for that thread.
pub async fn run(
    settings: config::Mqtt,
    client_id: String,
    obsolete: Vec<String>,
    intake: Intake,
    link: Link,
    counters: Counters,
    stop: watch::Receiver<bool>,
) {
    let (known, filters, durable) = (intake.known_receipts(), intake.subscriptions(), intake.durable());
    let name = settings.name.clone();
    let source = Source {
        session: Session::new(&settings, &known.receipts, filters),
        outage: Outage::new(&settings.name, link.clone(), &counters),
        settings,
        client_id,
        obsolete,
        sink: intake,
        durable,
        void_at: known.void_at,
        stop,
    };
    let failed = match start(source) {
        Err(error) => format!("its thread cannot be started: {error}"),
        Ok(finished) => match finished.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("its runtime cannot be started: {error}"),
            Err(_) => "its thread panicked, which is a defect: please report it".to_owned(),
        },
    };
    tracing::error!(source = name, "the source has ended: {failed}");
    link.down(failed);
}

/// Starts the source's thread; what is given tells when it has ended.
fn start<S: Sink + Send + 'static>(source: Source<S>) -> io::Result<oneshot::Receiver<io::Result<()>>> {
    let (done, finished) = oneshot::channel();
    std::thread::Builder::new().name(source.settings.name.clone()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let ended = runtime.map(|runtime| {
            runtime.block_on(stay_connected(source));
            // Without it the end would wait for a name that is still being resolved, which takes minutes without a network.
            runtime.shutdown_background();
        });
        let _ = done.send(ended);
    })?;
    Ok(finished)
}

/// Connects again and again until the gateway stops.
async fn stay_connected<S: Sink>(mut source: Source<S>) {
    let mut backoff = Backoff::default();
    let mut short_lived = 0;
    loop {
        source.outage.beat();
        let begun = clock::instant();
        let Err(error) = connection::serve(&mut source).await else { break };
        let now = clock::instant();
        let lasted = now.saturating_duration_since(begun);
        if *source.stop.borrow() {
            tracing::warn!(source = source.settings.name, "while stopping: {error}");
            break;
        }
        let taken_over = matches!(error, ConnectionError::TakenOver(_));
        let closed = matches!(error, ConnectionError::Closed | ConnectionError::Io(_));
        short_lived = if closed && lasted < SHORT_LIVED { short_lived + 1 } else { 0 };
        let mut why = error.to_string();
        if matches!(error, ConnectionError::Tls(TlsError::NotValidYet))
            && let Some(waiting) = clock::waiting_for_time(&why)
        {
            source.outage.waiting_for_time(now, waiting);
            tokio::select! {
                () = connection::stopped(&mut source.stop) => break,
                () = time_is_known() => backoff = Backoff::default(),
            }
            continue;
        }
        if short_lived >= 3 {
            // 3.1.1 never tells, and mosquitto 2.0 does not with 5 either.
            why.push_str(&format!(
                ", {short_lived} times in a row, and does not say why: does another client use the client id {:?}?",
                source.client_id
            ));
        }
        source.outage.down(now, why);
        source.outage.beat();
        let wait = backoff.next(lasted, taken_over, fastrand::f32());
        tokio::select! {
            () = connection::stopped(&mut source.stop) => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    source.outage.stopped("stopped");
}

/// Waits until the clock is trusted, for half a minute at most: a broker's certificate may also be replaced.
async fn time_is_known() {
    for _ in 0..30 {
        if clock::is_trusted() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A connection that the broker closes sooner than that may have been closed for another client with the same id.
const SHORT_LIVED: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests;
