//! Power cuts of a virtual machine: a real kernel, ext4, and a page cache that goes with it.
//!
//! `tests/power_cuts/vm` makes what this needs and runs it; without that it does nothing. Each life reads all that is there,
//! which is compared with what earlier lives said over the serial console, and then writes on until the power is cut: what
//! was not flushed is lost, or any part of it stays, or all.
//!
//! The cut comes after any entry of the log of writes, so that it often falls between a write and its flush.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate::clock;

use crate::ledger::{Ledger, Said};
use crate::machine::{DISK, LOG, Machine};
use crate::modes::Mode;
use crate::orders::{Orders, Task};
use crate::power::{self, Stays, Written};
use crate::seed;

/// A life has to come to writing by then: without acceleration, on a busy machine.
const WAIT: Duration = Duration::from_secs(240);
/// Within this time after that the power is cut.
const WRITE_MS_MAX: u64 = 4_000;
/// The cut comes at any of the writes of so long.
const LATE_MS_MAX: u64 = 300;
/// What counts of that which is said in that time: what was tried, and what must never happen.
const KNOWN_ANYWAY: [&str; 5] = ["@ append", "@ panic", "@ trouble", "@ refused", "@ counts"];
const SIZE_MAX: u64 = 6 << 20;
/// Cuts of one disk; the next one begins empty, with another mode.
const CUTS: u64 = 8;
/// Where the guest has its disk.
const GUEST_PATH: &str = "/d/data";

/// A life's part in what is known.
struct Lives<'a> {
    directory: &'a Path,
    ledger: Ledger,
    mode: Mode,
    preload: &'static str,
    life: u64,
    /// All that the lives said.
    console: Vec<String>,
}

impl Lives<'_> {
    fn orders(&self, path: &str, task: Task, life: u64, seed: u64) -> String {
        let size_max = if matches!(task, Task::Drain) { u64::MAX / 4 } else { SIZE_MAX };
        let (mode, patience) = (self.mode, Duration::from_secs(60));
        Orders { path: path.into(), task, seed, life, size_max, mode, patience }.to_text()
    }

    /// One life, ended by a cut.
    fn live(&mut self, random: &mut fastrand::Rng) -> Written {
        self.life += 1;
        self.ledger.begin();
        let deliver = if self.mode.holds { 40 } else { 15 };
        let drain = self.orders(GUEST_PATH, Task::Drain, 2 * self.life, random.u64(..));
        let task = Task::Write { steps: 1_000_000, deliver };
        let write = self.orders(GUEST_PATH, task, 2 * self.life + 1, random.u64(..));
        // Most often while it writes, sometimes at once.
        let after = if random.u8(0..5) == 0 { 0 } else { random.u64(0..WRITE_MS_MAX) };
        let stays = [Stays::Nothing, Stays::Any, Stays::Any, Stays::All][random.usize(0..4)];
        // Memory that is resumed knows neither the time nor new random numbers.
        let time = (clock::wall_ms() / 1_000).to_string();
        let numbers: String = (0..64).map(|_| random.alphanumeric()).collect();
        self.console.push(format!("life {}, cut {after} ms after it began to write, {stays:?} stays", self.life));
        let mut machine = Machine::resume(self.directory);
        machine.tell(&[&time, &numbers, &drain, &write, self.preload]);
        let (mut said, mut until) = (Said::default(), clock::instant() + WAIT);
        while let Ok(line) = machine.line(until) {
            let is_writing = said.begun;
            self.take(&line, &mut said);
            if !self.ledger.problems().is_empty() {
                break;
            }
            if said.begun && !is_writing {
                until = clock::instant() + Duration::from_millis(after);
            }
        }
        if !said.begun && self.ledger.problems().is_empty() {
            machine.give_up("come to writing");
        }
        // What was announced is in the log by now. The cut comes after any of the writes that follow; what is said
        // meanwhile may be of a time that never came.
        let log = self.directory.join(LOG);
        let from = std::fs::metadata(&log).unwrap().len();
        std::thread::sleep(Duration::from_millis(random.u64(0..LATE_MS_MAX)));
        let late = machine.cut();
        let is_lasting = |line: &&String| KNOWN_ANYWAY.iter().any(|word| line.starts_with(word));
        late.iter().filter(is_lasting).for_each(|line| self.take(line, &mut said));
        power::cut(&self.directory.join(DISK), &log, from, stays, random).unwrap()
    }

    fn take(&mut self, line: &str, said: &mut Said) {
        let was_drained = said.drained;
        self.console.push(line.to_owned());
        match line.strip_prefix("@ ") {
            Some(line) => self.ledger.take(line, said),
            None if line.contains("cannot be mounted") || line.contains("EXT4-fs error") => {
                self.ledger.complain(line.to_owned());
            }
            None => {}
        }
        if said.drained && !was_drained {
            self.ledger.settle();
        }
    }
}

#[test]
fn a_machine_that_is_killed_loses_nothing_announced() {
    let Some(directory) = std::env::var_os("TIDEGATE_VM").map(PathBuf::from) else { return };
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (cuts, seconds) = (number("TIDEGATE_VM_CUTS", 1_000), number("TIDEGATE_VM_SECONDS", 300));
    let without_sync = std::env::var_os("TIDEGATE_VM_WITHOUT_SYNC").is_some();
    let preload = if without_sync { "/nosync.so" } else { "" };
    let seed = seed();
    let random = &mut fastrand::Rng::with_seed(seed);
    let renew = || std::fs::copy(directory.join("empty.img"), directory.join(DISK)).unwrap();
    renew();
    let new =
        |mode| Lives { directory: &directory, ledger: Ledger::new(mode), mode, preload, life: 0, console: Vec::new() };
    let warm = new(Mode::PLAIN).orders("/tmp/warm", Task::Write { steps: 20, deliver: 20 }, 1, 1);
    Machine::prepare(&directory, &warm);
    let (start, mut done, mut said) = (clock::instant(), 0, 0);
    let mut modes: BTreeMap<String, (u64, Written)> = BTreeMap::new();
    let mut problems = Vec::new();
    while done < cuts && start.elapsed() < Duration::from_secs(seconds) && problems.is_empty() {
        renew();
        let mut lives = new(if without_sync { Mode::PLAIN } else { Mode::any(random) });
        let (of_mode, all) = modes.entry(lives.mode.to_string()).or_default();
        for _ in 0..CUTS.min(cuts - done) {
            let written = lives.live(random);
            done += 1;
            *of_mode += 1;
            all.flushes += written.flushes;
            all.flushed += written.flushed;
            all.stayed += written.stayed;
            all.lost += written.lost;
            if !lives.ledger.problems().is_empty() || start.elapsed() > Duration::from_secs(seconds) {
                break;
            }
        }
        said += lives.ledger.announcements;
        problems = lives.ledger.problems().to_vec();
        std::fs::write(directory.join("console"), lives.console.join("\n")).unwrap();
    }
    let first = problems.first().map_or("", String::as_str);
    let (took, count) = (start.elapsed(), problems.len());
    println!("TIDEGATE_SEED={seed}: {done} cuts in {took:?}, {said} announcements, {count} problems {first}");
    modes.iter().for_each(|(mode, (cuts, written))| println!("{mode}: {cuts} cuts, {written:?}"));
    assert_eq!(!problems.is_empty(), without_sync, "{problems:#?}");
}
