//! `tidegate run`: the gateway, or with `--print` what it would store.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::{fail, profiles};
use crate::config::{Loaded, Purpose};
use crate::counters::Counters;
use crate::decode::Decoder;
use crate::gateway;
use crate::intake::Sink;
use crate::outbox;
use crate::print::{self, Format, Printer};
use crate::profile::ProfileSet;
use crate::service::sandbox;
use crate::status::Links;

/// After this long without a message a person wonders.
const SILENCE: Duration = Duration::from_secs(30);
/// Exit codes: a configuration that is wrong, and what went wrong while running.
const WRONG_CONFIG: u8 = 2;
const FAILED: u8 = 1;
/// A second signal ends the process at once, with the code of a process that SIGINT killed.
const INTERRUPTED: i32 = 130;

/// Runs the gateway until a signal.
#[must_use]
pub fn gateway(path: &Path) -> ExitCode {
    let (loaded, set) = match load(path, Purpose::Run) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    watch_panics();
    info!(config = %path.display(), "starting");
    finish(
        runtime()
            .and_then(|runtime| runtime.block_on(async { Ok(gateway::run(loaded.config, &set, shutdown()?).await?) })),
    )
}

/// Shows what the gateway would store until a signal, or until nobody reads it any more.
#[must_use]
pub fn print(path: &Path, format: Option<Format>) -> ExitCode {
    let (loaded, set) = match load(path, Purpose::Show) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let terminal = std::io::stdout().is_terminal();
    let format = format.unwrap_or(if terminal { Format::Table } else { Format::Ndjson });
    finish(runtime().and_then(|runtime| runtime.block_on(show(loaded, &set, format))))
}

async fn show(loaded: Loaded, profiles: &ProfileSet, format: Format) -> anyhow::Result<()> {
    let config = print::without_traces(loaded.config);
    let mut expected = Vec::new();
    for mqtt in &config.mqtt {
        let filters = Decoder::for_mqtt(mqtt, profiles)?.subscriptions();
        expected.extend(filters.into_iter().map(|filter| (mqtt.name.clone(), filter)));
    }
    for serial in &config.serial {
        expected.push((serial.name.clone(), serial.port.to_string_lossy().into_owned()));
    }
    let printer = Printer::new(&config, format, expected);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let sink = Sink::Print(printer.clone());
    let links = Links::default();
    let mut sources = gateway::start_sources(&config, profiles, &sink, &links, &Counters::default(), &stopped)?;
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
    stop.send_replace(true);
    while sources.join_next().await.is_some() {}
    Ok(())
}

fn load(path: &Path, purpose: Purpose) -> Result<(Loaded, ProfileSet), ExitCode> {
    let wrong = |errors: &crate::config::Errors| {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{errors}");
        ExitCode::from(WRONG_CONFIG)
    };
    let loaded = Loaded::load(path, purpose).map_err(|errors| wrong(&errors))?;
    let (set, problems, left_out) = profiles(&loaded);
    for error in &left_out {
        warn!("a profile is left out: {error}");
    }
    if problems.is_empty() { Ok((loaded, set)) } else { Err(wrong(&loaded.errors(problems))) }
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
