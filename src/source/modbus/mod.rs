//! Devices on a Modbus line (RTU): each is asked for its registers in turn, and one round of one device is one frame.
//!
//! `wire` has requests and answers as bytes, `line` one exchange and the silence around it, `plan` which requests bring a
//! profile's registers, `schedule` who is asked next; the frame's layout is in `profile::registers`.
//!
//! Invariants: the task never ends but by `stop`; only one request is under way; a device that does not answer is told to be
//! offline after [`FAILURES_OFFLINE`](schedule) rounds, and online with its next answer, once in each run at least, since nobody
//! else knows; what one device does delays another by the time of one request at most, once it is known not to answer. Every
//! request that was not answered well is counted by device and cause.

mod line;
mod plan;
mod schedule;
mod wire;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::port::{self, BAUD, Line, Port};
use super::serial::{BACKOFF_FIRST, BACKOFF_MAX, PENDING_BYTES_MAX, Pending, STOP_MAX, stopped};
use crate::clock;
use crate::config::{Modbus, Parity};
use crate::counters::{Count, Counter, Counters};
use crate::intake::Intake;
use crate::log::Throttle;
use crate::profile::{Format, ProfileSet, RegisterBlock, exception_text};
use crate::reading::{Frames, Name};
use crate::status::Link;
use line::{Bus, Outcome};
use plan::Read;
use schedule::Turn;
use wire::Answer;

/// What holds where neither configuration nor profile says anything.
const EVERY: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_millis(500);
/// Requests of one round without an answer, none before them having had one, after which the round is given up.
const SILENT_MAX: usize = 2;
/// "Illegal data address" and "illegal data value": perhaps only a part of what was asked for is not there.
const PARTS_MAY_BE_THERE: [u8; 2] = [2, 3];

/// Asks until `stop` says so (or its sender is gone), and returns when what was read is durable. `settings` are those of the
/// configuration, completed by the profiles (`ProfileSet::resolve_modbus`).
pub async fn run(
    settings: Modbus,
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
    address: u8,
    device: Name,
    profile: Name,
    origin: String,
    patience: Duration,
    reads: Vec<Read>,
    turn: Turn,
    /// What it refuses, or that its answers are damaged; empty if all is well.
    trouble: String,
    timeouts: Counter,
    damaged: Counter,
    exceptions: Counter,
    log: Throttle,
}

#[derive(Debug)]
struct Source {
    settings: Modbus,
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
    fn new(settings: Modbus, profiles: &ProfileSet, intake: Intake, link: Link, counters: &Counters) -> Self {
        let now = clock::monotonic();
        let unit = |unit: &crate::config::ModbusUnit| {
            // The decoder has found it, and that it is of this kind.
            let profile = profiles.get(&unit.profile).ok()?;
            let Format::Registers(registers) = &profile.format else { return None };
            let label = format!("{}#{}", settings.name, unit.address);
            Some(Unit {
                address: unit.address,
                device: Arc::from(unit.device.as_str()),
                profile: Arc::clone(&profile.id),
                origin: unit.origin(&settings.port),
                patience: unit.timeout.unwrap_or(TIMEOUT),
                reads: plan::reads(registers),
                turn: Turn::new(unit.every.unwrap_or(EVERY), now),
                trouble: String::new(),
                timeouts: counters.counter(Count::UnitTimeouts, &label),
                damaged: counters.counter(Count::UnitDamaged, &label),
                exceptions: counters.counter(Count::UnitExceptions, &label),
                log: Throttle::new(Duration::from_secs(600)),
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
        let Modbus { port, baud, parity, stop_bits, rs485, pause, .. } = &self.settings;
        let line = Line { baud: *baud, data_bits: Some(8), parity: *parity, stop_bits: *stop_bits };
        let stream = if *rs485 { port::open_rs485(port, line)? } else { port::open(port, line)? };
        port::warn_if_shared(&self.settings.name, port);
        let has_parity = !matches!(parity, None | Some(Parity::None));
        let character_bits = 1 + 8 + u32::from(has_parity) + u32::from(stop_bits.unwrap_or(1));
        self.link.up(self.trouble());
        Ok(Bus::new(stream, baud.unwrap_or(BAUD), character_bits, *pause))
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
    async fn ask_all<S>(&mut self, bus: &mut Bus<S>) -> io::Error
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
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

    /// Asks a unit for all that its profile wants.
    async fn round<S>(&mut self, index: usize, bus: &mut Bus<S>) -> io::Result<()>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let mut frame = Vec::new();
        let (mut answered, mut silent) = (false, 0);
        let unit = &mut self.units[index];
        unit.trouble.clear();
        let failures = unit.turn.failures() as usize;
        // One that does not answer is asked for something else each time: there are devices that are silent about what they lack.
        let first = failures % unit.reads.len().max(1);
        unit.reads.rotate_left(first);
        let mut left: VecDeque<Read> = std::mem::take(&mut unit.reads).into();
        let mut gone = None;
        while let Some(read) = left.pop_front() {
            let tries = if failures == 0 && silent == 0 { 1 + self.settings.retries } else { 1 };
            match unit.ask(&read, tries, bus, &self.link).await {
                Ok(Some(Answer::Data(data))) => {
                    answered = true;
                    block(&read, Ok(&data)).write(&mut frame);
                }
                Ok(Some(Answer::Exception(code))) => {
                    answered = true;
                    if PARTS_MAY_BE_THERE.contains(&code)
                        && let Some(parts) = read.split()
                    {
                        unit.exceptions.add(1);
                        // From now on: what it lacks does not come to be.
                        parts.into_iter().rev().for_each(|part| left.push_front(part));
                        continue;
                    }
                    unit.refused(&read, code, &self.settings.name);
                    block(&read, Err(code)).write(&mut frame);
                }
                Ok(None) => silent += 1,
                Err(error) => gone = Some(error),
            }
            unit.reads.push(read);
            if gone.is_some() || (!answered && (failures > 0 || silent >= SILENT_MAX)) {
                break;
            }
        }
        unit.reads.extend(left);
        if let Some(error) = gone {
            return Err(error);
        }
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
            tracing::info!(source = self.settings.name, "unit {} ({}) answers", unit.address, unit.device);
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
            let (address, device) = (unit.address, &unit.device);
            tracing::warn!(
                source = self.settings.name,
                "unit {address} ({device}) does not answer and is asked seldom"
            );
            let number = self.intake.state(&unit.device, &unit.profile, false, clock::stamp());
            self.pending.add(number, 0);
        }
    }

    /// What is not as it should be, for a person.
    fn trouble(&self) -> String {
        let mut text = String::new();
        for unit in &self.units {
            let trouble = if unit.turn.is_offline() { "does not answer" } else { unit.trouble.as_str() };
            if !trouble.is_empty() {
                let gap = if text.is_empty() { "" } else { "; " };
                // Writing to a String cannot fail.
                let _ = write!(text, "{gap}unit {} ({}) {trouble}", unit.address, unit.device);
            }
        }
        text
    }
}

impl Unit {
    /// Sends a request up to so many times. Nothing if there was no answer.
    async fn ask<S>(&mut self, read: &Read, tries: u8, bus: &mut Bus<S>, link: &Link) -> io::Result<Option<Answer>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        for attempt in 0..tries {
            // With the longest timeout and the most retries a whole round is longer than a part may be silent.
            link.beat();
            match bus.exchange(self.address, read, self.patience).await? {
                Outcome::Answer(answer) => {
                    if attempt > 0 {
                        bus.unsettle();
                    }
                    return Ok(Some(answer));
                }
                Outcome::Silent => self.timeouts.add(1),
                Outcome::Damaged => self.damaged.add(1),
            }
        }
        self.trouble = format!("did not answer for {}", describe(read));
        Ok(None)
    }

    fn refused(&mut self, read: &Read, code: u8, source: &str) {
        self.exceptions.add(1);
        self.trouble = format!("refuses {}: exception {code} ({})", describe(read), exception_text(code));
        if let Some(suppressed) = self.log.pass(clock::instant()) {
            tracing::warn!(source, suppressed, "unit {} ({}) {}", self.address, self.device, self.trouble);
        }
    }
}

fn describe(read: &Read) -> String {
    format!("{} of {} from {}", read.count, read.table.as_str(), read.address)
}

fn block<'a>(read: &Read, data: Result<&'a [u8], u8>) -> RegisterBlock<'a> {
    RegisterBlock { table: read.table, address: read.address, count: read.count, data }
}
