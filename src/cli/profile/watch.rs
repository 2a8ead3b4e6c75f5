//! `tidegate profile watch`: what a port or a broker says, as it comes, and what each profile would make of it. How a person finds
//! out what a device says, and which profile it is for.
//!
//! It only listens, but for a device on a port that says nothing unless asked: that one is asked as its profile says, if it was
//! named. Nothing is stored, and no session stays at the broker.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::attempt::said;
use super::find;
use crate::config::{Mqtt, Parity, Secret, Serial, Tls};
use crate::outbox::Lane;
use crate::print::Columns;
use crate::profile::{Heard, Profile, ProfileSet, Transport};
use crate::source::{listen, mqtt};

mod broker;
mod port;

/// A secret's file is not larger than this, in bytes.
const PASSWORD_BYTES_MAX: u64 = 64 << 10;

/// Whom to listen to.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("from").required(true).args(["port", "broker"])))]
pub struct Watch {
    /// A serial port, such as /dev/ttyUSB0
    #[arg(long, value_name = "FILE")]
    port: Option<PathBuf>,
    /// Bits a second; those of the profile if one is named, else 9600
    #[arg(long, requires = "port", value_parser = clap::value_parser!(u32).range(50..=4_000_000))]
    baud: Option<u32>,
    /// 5 to 8
    #[arg(long, requires = "port", value_parser = clap::value_parser!(u8).range(5..=8))]
    data_bits: Option<u8>,
    /// Parity
    #[arg(long, requires = "port", value_enum)]
    parity: Option<LineParity>,
    /// 1 or 2
    #[arg(long, requires = "port", value_parser = clap::value_parser!(u8).range(1..=2))]
    stop_bits: Option<u8>,
    /// A broker: mqtt://HOST[:PORT] or mqtts://HOST[:PORT]
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// The topics; all of them unless set
    #[arg(long, requires = "broker", value_name = "FILTER", default_value = "#")]
    topic: Vec<String>,
    /// The broker's user
    #[arg(long, requires = "broker")]
    user: Option<String>,
    /// A file with the user's password
    #[arg(long, requires = "broker", value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Who may sign the broker's certificate (PEM); the system's authorities unless set
    #[arg(long, requires = "broker", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Only what this profile makes of it; a device that says nothing unless asked is asked as it says
    #[arg(long, value_name = "ID|FILE")]
    profile: Vec<String>,
    /// End after so many messages, or pieces between two silences
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// How a line checks its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LineParity {
    /// Not at all
    None,
    /// An odd number of ones
    Odd,
    /// An even number of ones
    Even,
}

impl From<LineParity> for Parity {
    fn from(parity: LineParity) -> Self {
        match parity {
            LineParity::None => Self::None,
            LineParity::Odd => Self::Odd,
            LineParity::Even => Self::Even,
        }
    }
}

/// Listens until it is stopped, nobody reads the output any more, or enough has come.
pub(super) fn run(set: &ProfileSet, watch: &Watch, json: bool) -> Result<bool, String> {
    let named: Vec<_> = watch.profile.iter().map(|which| find(set, which)).collect::<Result<_, _>>()?;
    let profiles = if named.is_empty() { set.iter().cloned().collect() } else { named.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the runtime cannot be started: {error}"))?;
    let (stop, stopped) = watch::channel(false);
    let ending = stop.clone();
    let count = watch.count.unwrap_or(u64::MAX);
    runtime.block_on(async {
        tokio::spawn(async move {
            if asked_to_end().await.is_ok() {
                ending.send_replace(true);
            }
        });
        match (&watch.port, &watch.broker) {
            (Some(port), _) => {
                let settings = line(port, watch, named.first().map(|profile| &**profile));
                let poll = named.iter().find_map(|profile| match &profile.transport {
                    Transport::Serial(line) => line.poll.clone(),
                    _ => None,
                });
                let mut shown = port::Shown::new(&profiles, &settings, json)?;
                let told = |why: String| format!("{}: {why}", port.display());
                let listener = listen::open(&settings).map_err(told)?;
                shown.begin(&settings);
                let mut left = count;
                let hear = |piece: listen::Piece<'_>| {
                    left -= 1;
                    if shown.piece(piece).is_err() || left == 0 {
                        stop.send_replace(true);
                    }
                };
                let ended = listen::listen(listener, poll, hear, stopped).await;
                shown.summary();
                ended.map_err(told).map(|()| true)
            }
            (None, Some(url)) => {
                let settings = subscriber(url, watch)?;
                let mut shown = broker::Shown::new(&profiles, json)?;
                let mut left = count;
                let hear = move |frames: &crate::reading::Frames| {
                    for frame in frames.iter() {
                        if *stop.borrow() {
                            return;
                        }
                        left -= 1;
                        if shown.message(&frame, frames.received).is_err() || left == 0 {
                            stop.send_replace(true);
                        }
                    }
                };
                mqtt::listen(settings, watch.topic.clone(), hear, stopped).await.map(|()| true)
            }
            (None, None) => Err("expected --port or --broker".to_owned()),
        }
    })
}

/// Returns at the first SIGINT or SIGTERM. Where there is no handler for one, that signal itself ends the process, which is as well.
async fn asked_to_end() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    Ok(())
}

/// The line as the arguments say, then as the first profile does that was named.
fn line(port: &std::path::Path, watch: &Watch, named: Option<&Profile>) -> Serial {
    let line = match named.map(|profile| &profile.transport) {
        Some(Transport::Serial(line)) => line.clone(),
        _ => Default::default(),
    };
    Serial {
        name: "watch".to_owned(),
        port: port.to_owned(),
        device: "watch".to_owned(),
        baud: watch.baud.or(line.baud),
        data_bits: watch.data_bits.or(line.data_bits),
        parity: watch.parity.map(Into::into).or(line.parity),
        stop_bits: watch.stop_bits.or(line.stop_bits),
        ..Serial::default()
    }
}

fn subscriber(url: &str, watch: &Watch) -> Result<Mqtt, String> {
    let mut settings =
        Mqtt::listener("watch", url).map_err(|expected| format!("--broker {url}: expected {expected}"))?;
    settings.user.clone_from(&watch.user);
    if let Some(file) = &watch.password_file {
        settings.password = Some(password(file)?);
    }
    match (&watch.ca, &mut settings.tls) {
        (Some(ca), Some(tls)) => *tls = Tls { ca: Some(ca.clone()), ..Tls::default() },
        (Some(_), None) => return Err("--ca: expected only with a broker of mqtts://".to_owned()),
        (None, _) => {}
    }
    Ok(settings)
}

fn password(file: &std::path::Path) -> Result<Secret, String> {
    use std::io::Read;
    let told = |error: std::io::Error| format!("--password-file {}: {error}", file.display());
    let mut text = String::new();
    std::fs::File::open(file).map_err(told)?.take(PASSWORD_BYTES_MAX).read_to_string(&mut text).map_err(told)?;
    Ok(Secret::new(text.trim_end_matches(['\n', '\r']).to_owned()))
}

/// When something came, for a person.
fn time_of_day(wall_ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(wall_ms).unwrap_or_default();
    time.strftime("%H:%M:%S%.3fZ").to_string()
}

/// The bytes as text, if that is what they are.
fn text(bytes: &[u8]) -> Option<&str> {
    let is_odd = |c: char| c.is_control() && !matches!(c, '\t' | '\r' | '\n');
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains(is_odd))
}

/// Fails when nobody reads the output any more.
fn print_line(line: &str) -> Result<(), String> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| error.to_string())
}

/// What a profile made of it, each record on a line of its own.
fn what_came(heard: &Heard, out: &mut String) {
    let mut lines = Vec::new();
    Columns::default().write(&heard.batch, Lane::Raw, &mut lines);
    let lines = String::from_utf8_lossy(&lines);
    let mut lines: Vec<String> = lines.lines().map(str::to_owned).collect();
    lines.extend(heard.outcomes.iter().filter_map(said));
    if !heard.rejected.is_empty() {
        let reasons: Vec<&str> = heard.rejected.iter().map(|reason| reason.as_str()).collect();
        lines.push(format!("{} of the values left out: {}", reasons.len(), reasons.join(", ")));
    }
    for line in lines {
        let _ = write!(out, "\n    {line}");
    }
}
