//! Devices on a line that only answer, asked in turn: one round of one device is one frame.
//!
//! `line` has one exchange and the silence around it, `ask` an exchange that is tried again, `schedule` who is asked next;
//! `modbus` and `mbus` what is asked for in a round, and how that is written.
//!
//! Invariants: the task never ends but by `stop`; only one request is under way; a device that does not answer is told to be
//! offline after [`FAILURES_OFFLINE`](schedule) rounds, and online with its next answer, once in each run at least, since nobody
//! else knows; what one device does delays another by the time of one request at most, once it is known not to answer. Every
//! request that was not answered well is counted by device and cause.

mod ask;
mod line;
mod mbus;
mod modbus;
mod schedule;

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use super::port::{self, Line, Port};
use super::serial::{BACKOFF_FIRST, BACKOFF_MAX, PENDING_BYTES_MAX, Pending, STOP_MAX, stopped};
use crate::clock;
use crate::config::{self, BusAddress, BusProtocol, Parity};
use crate::counters::{Count, Counter, Counters};
use crate::intake::Intake;
use crate::log::Throttle;
use crate::profile::{Format, Profile, ProfileSet};
use crate::reading::{Frames, Name};
use crate::status::Link;
use ask::{Asking, Known};
use line::{Bus, Patience};
use schedule::Turn;

/// Asks until `stop` says so (or its sender is gone), and returns when what was read is durable. `settings` are those of the
/// configuration, completed by the profiles (`ProfileSet::resolve_bus`).
pub async fn run(
    settings: config::Bus,
    profiles: ProfileSet,
    intake: Intake,
    link: Link,
    counters: Counters,
    mut stop: watch::Receiver<bool>,
) {
    let mut source = Source::new(settings, &profiles, intake, link, &counters);
    drop(profiles);
    let connects = counters.counter(Count::Connects, &source.settings.name);
    let errors = counters.counter(Count::ConnectionErrors, &source.settings.name);
    let port = source.settings.port.display().to_string();
    let mut backoff = BACKOFF_FIRST;
    let mut down_told = false;
    while !*stop.borrow() {
        source.link.beat();
        let why = match source.open() {
            Ok(mut bus) => {
                connects.add(1);
                let told = if down_told { "is back" } else { "is open" };
                tracing::info!(source = source.settings.name, "{port} {told}");
                down_told = false;
                source.hurry();
                let ended = tokio::select! {
                    biased;
                    () = stopped(&mut stop) => None,
                    error = source.ask_all(&mut bus) => Some(error),
                };
                source.noise.add(bus.take_noise());
                match ended {
                    None => break,
                    Some(error) => {
                        backoff = BACKOFF_FIRST;
                        error.to_string()
                    }
                }
            }
            Err(error) => error,
        };
        errors.add(1);
        source.link.down(why.as_str());
        if !down_told {
            tracing::warn!(source = source.settings.name, "{port}: {why}; it is opened again when it is there");
            down_told = true;
        }
        source.nobody_answers();
        let wait = backoff.mul_f64(0.75 + fastrand::f64() * 0.5);
        backoff = (backoff * 2).min(BACKOFF_MAX);
        if timeout(wait, stopped(&mut stop)).await.is_ok() {
            break;
        }
    }
    let Source { settings, intake, pending, .. } = source;
    intake.hurry();
    if !pending.settle(STOP_MAX).await {
        tracing::warn!(source = settings.name, "stopped before all that was read from {port} was durable");
    }
}

/// A device on the line.
#[derive(Debug)]
struct Unit {
    device: Name,
    profile: Name,
    origin: String,
    turn: Turn,
    asked: Asked,
    known: Known,
}

/// How it is asked.
#[derive(Debug)]
enum Asked {
    Modbus(modbus::Device),
    Mbus(mbus::Device),
}

impl Asked {
    /// The decoder has found the profile, and that it is of this kind.
    fn new(address: BusAddress, profile: &Profile) -> Option<Self> {
        match (&profile.format, address) {
            (Format::Registers(registers), BusAddress::Number(address)) => {
                Some(Self::Modbus(modbus::Device::new(address, registers)))
            }
            (Format::Mbus, address) => Some(Self::Mbus(mbus::Device::new(address))),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Source {
    settings: config::Bus,
    units: Vec<Unit>,
    intake: Intake,
    link: Link,
    pending: Pending,
    frames: Frames,
    noise: Counter,
    dropped: Counter,
    log: Throttle,
}

impl Source {
    fn new(settings: config::Bus, profiles: &ProfileSet, intake: Intake, link: Link, counters: &Counters) -> Self {
        let now = clock::monotonic();
        let line = LineSettings::of(&settings);
        let unit = |unit: &config::BusUnit| {
            let profile = profiles.get(&unit.profile).ok()?;
            let label = format!("{}#{}", settings.name, unit.address);
            Some(Unit {
                device: Arc::from(unit.device.as_str()),
                profile: Arc::clone(&profile.id),
                origin: unit.origin(&settings.port),
                turn: Turn::new(unit.every.unwrap_or(line.every), now),
                asked: Asked::new(unit.address, profile)?,
                known: Known {
                    name: format!("unit {} ({})", unit.address, unit.device),
                    patience: Patience { first: unit.timeout.unwrap_or(line.timeout), more: line.more },
                    trouble: String::new(),
                    timeouts: counters.counter(Count::UnitTimeouts, &label),
                    damaged: counters.counter(Count::UnitDamaged, &label),
                    exceptions: counters.counter(Count::UnitExceptions, &label),
                    log: Throttle::new(Duration::from_secs(600)),
                },
            })
        };
        Self {
            units: settings.units.iter().filter_map(unit).collect(),
            pending: Pending::new(intake.durable()),
            intake,
            link,
            frames: Frames::default(),
            noise: counters.counter(Count::NoiseBytes, &settings.name),
            dropped: counters.counter(Count::FramesDropped, &settings.name),
            log: Throttle::new(Duration::from_secs(60)),
            settings,
        }
    }

    fn open(&self) -> Result<Bus<Port>, String> {
        let config::Bus { port, stop_bits, rs485, pause, .. } = &self.settings;
        let LineSettings { baud, parity, .. } = LineSettings::of(&self.settings);
        let line = Line { baud: Some(baud), data_bits: Some(8), parity: Some(parity), stop_bits: *stop_bits };
        let stream = if *rs485 { port::open_rs485(port, line)? } else { port::open(port, line)? };
        port::warn_if_shared(&self.settings.name, port);
        let character_bits = 1 + 8 + u32::from(parity != Parity::None) + u32::from(stop_bits.unwrap_or(1));
        self.link.up(self.trouble());
        Ok(Bus::new(stream, baud, character_bits, *pause))
    }

    /// All are due: the line is there again.
    fn hurry(&mut self) {
        let now = clock::monotonic();
        self.units.iter_mut().for_each(|unit| unit.turn.hurry(now));
    }

    /// Without a line nobody answers.
    fn nobody_answers(&mut self) {
        let now = clock::monotonic();
        while let Ok(index) = schedule::next(self.units.iter().map(|unit| &unit.turn), now) {
            self.failed(index);
        }
    }

    /// Asks one unit after the other until the port is gone, and gives why.
    async fn ask_all<S: AsyncRead + AsyncWrite + Unpin>(&mut self, bus: &mut Bus<S>) -> io::Error {
        loop {
            self.link.beat();
            match schedule::next(self.units.iter().map(|unit| &unit.turn), clock::monotonic()) {
                Ok(index) => {
                    let round = self.round(index, bus).await;
                    self.noise.add(bus.take_noise());
                    if let Err(error) = round {
                        return error;
                    }
                    self.link.up(self.trouble());
                }
                Err(wait) => {
                    if let Err(error) = bus.idle(wait.min(crate::beats::INTERVAL)).await {
                        return error;
                    }
                }
            }
        }
    }

    /// Asks a unit for all that is wanted of it.
    async fn round<S: AsyncRead + AsyncWrite + Unpin>(&mut self, index: usize, bus: &mut Bus<S>) -> io::Result<()> {
        let mut frame = Vec::new();
        let unit = &mut self.units[index];
        unit.known.trouble.clear();
        let asking = Asking {
            known: &mut unit.known,
            bus,
            link: &self.link,
            source: &self.settings.name,
            retries: self.settings.retries,
            failures: unit.turn.failures() as usize,
        };
        let answered = match &mut unit.asked {
            Asked::Modbus(device) => device.round(asking, &mut frame).await?,
            Asked::Mbus(device) => device.round(asking, &mut frame).await?,
        };
        if answered {
            self.answered(index, &frame);
        } else {
            self.failed(index);
        }
        Ok(())
    }

    fn answered(&mut self, index: usize, frame: &[u8]) {
        let stamp = clock::stamp();
        let unit = &mut self.units[index];
        if unit.turn.answered(clock::monotonic()) {
            tracing::info!(source = self.settings.name, "{} answers", unit.known.name);
            let number = self.intake.state(&unit.device, &unit.profile, true, stamp);
            self.pending.add(number, 0);
        }
        self.pending.settled();
        if self.pending.bytes > PENDING_BYTES_MAX {
            self.dropped.add(1);
            if let Some(suppressed) = self.log.pass(clock::instant()) {
                let name = &self.settings.name;
                tracing::warn!(source = name, suppressed, "what was read is dropped until the outbox has room");
            }
            return;
        }
        self.frames.reset(stamp);
        self.frames.push(&unit.origin, frame, false);
        let number = self.intake.accept(&self.frames, &[]);
        self.pending.add(number, self.frames.bytes());
    }

    fn failed(&mut self, index: usize) {
        let unit = &mut self.units[index];
        if unit.turn.failed(clock::monotonic()) {
            tracing::warn!(source = self.settings.name, "{} does not answer and is asked seldom", unit.known.name);
            let number = self.intake.state(&unit.device, &unit.profile, false, clock::stamp());
            self.pending.add(number, 0);
        }
    }

    /// What is not as it should be, for a person.
    fn trouble(&self) -> String {
        let mut text = String::new();
        for unit in &self.units {
            let trouble = if unit.turn.is_offline() { "does not answer" } else { unit.known.trouble.as_str() };
            if !trouble.is_empty() {
                let gap = if text.is_empty() { "" } else { "; " };
                // Writing to a String cannot fail.
                let _ = write!(text, "{gap}{} {trouble}", unit.known.name);
            }
        }
        text
    }
}

/// How a line is set, and what holds for all on it: where neither configuration nor profile says anything, as the protocol
/// has it.
#[derive(Clone, Copy, Debug)]
struct LineSettings {
    baud: u32,
    parity: Parity,
    every: Duration,
    timeout: Duration,
    /// Characters that an answer which has begun may take.
    more: u32,
}

impl LineSettings {
    fn of(settings: &config::Bus) -> Self {
        match settings.protocol {
            BusProtocol::Modbus => Self {
                baud: settings.baud.unwrap_or(port::BAUD),
                parity: settings.parity.unwrap_or(Parity::None),
                every: modbus::EVERY,
                timeout: modbus::TIMEOUT,
                more: 0,
            },
            BusProtocol::Mbus => {
                let baud = settings.baud.unwrap_or(mbus::BAUD);
                Self {
                    baud,
                    parity: settings.parity.unwrap_or(Parity::Even),
                    every: mbus::EVERY,
                    timeout: mbus::timeout(baud),
                    more: mbus::TELEGRAM_CHARACTERS,
                }
            }
        }
    }
}
