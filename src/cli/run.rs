//! `tidegate run`: the gateway, or with `--print` what it would store.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::fail;
use crate::config::{Errors, Purpose};
use crate::counters::Counters;
use crate::decode::Decoder;
use crate::gateway::{self, Sources, Stopped};
use crate::intake::Sink;
use crate::outbox;
use crate::print::{self, Format, Printer};
use crate::profile::ProfileError;
use crate::service::sandbox;
use crate::setup::{Setup, kept};
use crate::status::Links;

/// After this long without a message a person wonders.
const SILENCE: Duration = Duration::from_secs(30);
/// Exit codes: a configuration that is wrong, and what went wrong while running.
const WRONG_CONFIG: u8 = 2;
const FAILED: u8 = 1;
/// A second signal ends the process at once, with the code of a process that SIGINT killed.
const INTERRUPTED: i32 = 130;

/// Runs the gateway until a signal. With `strict` only with what the file says, else with the configuration that ran last if the
/// file is not fit to run.
#[must_use]
pub fn gateway(path: &Path, strict: bool) -> ExitCode {
    let (setup, fallback) = match Setup::load(path, Purpose::Run) {
        Ok((setup, left_out)) => {
            say_left_out(&left_out);
            (setup, None)
        }
        Err(errors) if strict => return wrong(&errors),
        Err(errors) => match kept::fallback(path) {
            Ok(fallback) => {
                error!("{} is not fit to run, so the configuration that ran last is used:", path.display());
                errors.to_string().lines().for_each(|line| error!("{line}"));
                (fallback.setup, Some(errors.to_string()))
            }
            Err(nothing) => {
                let code = wrong(&errors);
                if matches!(nothing, kept::FallbackError::Unfit { .. }) {
                    fail(&nothing.to_string());
                }
                return code;
            }
        },
    };
    watch_panics();
    info!(config = %path.display(), "starting");
    finish(runtime().and_then(|runtime| {
        runtime.block_on(async {
            let start = gateway::Start { setup, fallback, hangups: hangups()? };
            Ok(gateway::run(start, shutdown()?).await?)
        })
    }))
}

/// Shows what the gateway would store until a signal, or until nobody reads it any more.
#[must_use]
pub fn print(path: &Path, format: Option<Format>) -> ExitCode {
    let setup = match Setup::load(path, Purpose::Show) {
        Ok((setup, left_out)) => {
            say_left_out(&left_out);
            setup
        }
        Err(errors) => return wrong(&errors),
    };
    let terminal = std::io::stdout().is_terminal();
    let format = format.unwrap_or(if terminal { Format::Table } else { Format::Ndjson });
    finish(runtime().and_then(|runtime| runtime.block_on(show(setup, format))))
}

async fn show(setup: Setup, format: Format) -> anyhow::Result<()> {
    let Setup { loaded, profiles } = setup;
    let config = print::without_traces(loaded.config);
    let mut expected = Vec::new();
    for mqtt in &config.mqtt {
        let filters = Decoder::for_mqtt(mqtt, &profiles)?.subscriptions();
        expected.extend(filters.into_iter().map(|filter| (mqtt.name.clone(), filter)));
    }
    for serial in &config.serial {
        expected.push((serial.name.clone(), serial.port.to_string_lossy().into_owned()));
    }
    for bus in &config.buses {
        expected.extend(bus.units.iter().map(|unit| (bus.name.clone(), unit.origin(&bus.port))));
    }
    let printer = Printer::new(&config, format, expected);
    let mut sources = Sources::new(Sink::Print(printer.clone()), Links::default(), Counters::default());
    let prepared = sources.prepare(&config, &profiles, |_| true)?;
    sources.start(prepared, &Stopped::default());
    let mut closed = printer.closed();
    let silence = async {
        tokio::time::sleep(SILENCE).await;
        for line in print::silence(&printer.silent()) {
            warn!("{line}; is the topic right, and does the device send?");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = shutdown()? => {}
        _ = closed.wait_for(|closed| *closed) => {}
        () = silence => {}
    }
    sources.stop_all().await;
    Ok(())
}

fn wrong(errors: &Errors) -> ExitCode {
    use std::io::Write;
    // Nobody is left to tell when this fails.
    let _ = writeln!(std::io::stderr(), "{errors}");
    ExitCode::from(WRONG_CONFIG)
}

fn say_left_out(errors: &[ProfileError]) {
    errors.iter().for_each(|error| warn!("a profile is left out: {error}"));
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime cannot be started")
}

fn finish(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let refused = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
            let hint = refused.map(sandbox::file_refused).filter(|hint| !hint.is_empty());
            fail(&hint.map_or_else(|| format!("{error:#}"), |hint| format!("{error:#}; {hint}")));
            ExitCode::from(FAILED)
        }
    }
}

/// Ready at the first SIGTERM or SIGINT. The second one ends the process at once: what is not durable is not acknowledged,
/// so nothing is lost.
fn shutdown() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let (first, caught) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        let _ = first.send(());
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        warn!("a second signal: ending at once; what was acknowledged is stored");
        std::process::exit(INTERRUPTED);
    });
    Ok(async move {
        // The sender goes only after sending.
        let _ = caught.await;
    })
}

/// One for each SIGHUP. Those that come while one waits already mean the same.
fn hangups() -> anyhow::Result<mpsc::Receiver<()>> {
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be caught")?;
    let (sender, hangups) = mpsc::channel(1);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let _ = sender.try_send(());
        }
    });
    Ok(hangups)
}

/// A panic is a line in the log, and one of sled's own threads ends the process: nobody would be woken that waits for it.
fn watch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        error!("a panic on thread {name}: {panic}");
        if name.starts_with("sled") && !outbox::is_loading() {
            std::process::abort();
        }
    }));
}
