//! Power cuts of a virtual machine: a real kernel, ext4, and a page cache that goes with it.
//!
//! `tests/power_cuts/vm` gets what this needs, and runs more of it. Each life reads all that is there,
//! which is compared with what earlier lives said over the serial console, and then writes on until the power is cut: what
//! was not flushed is lost, or any part of it stays, or all.
//!
//! The cut comes after any entry of the log of writes, so that it often falls between a write and its flush.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use tidegate::clock;

use crate::cuts::{BUSY, Modes};
use crate::ledger::{Ledger, Said};
use crate::machine::{DISK, LOG, Machine};
use crate::modes::Mode;
use crate::orders::{Orders, Task};
use crate::power::{self, Stays, Written};
use crate::seed;
use crate::support::{need, parts};

/// A life has to come to writing by then: without acceleration, on a busy machine.
const WAIT: Duration = Duration::from_secs(240);
/// The power is cut after so many lines of what it says then, whatever time that takes …
const LINES_MAX: u64 = 800;
/// … but for one that waits.
const WRITE_MAX: Duration = Duration::from_secs(15);
/// The cut comes at any of the writes of so long.
const LATE_MS_MAX: u64 = 300;
const SIZE_MAX: u64 = 6 << 20;
/// How long a series of cuts goes on unless it is told.
const TIME: Duration = Duration::from_secs(40);
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

impl<'a> Lives<'a> {
    /// Begins with an empty disk.
    fn new(directory: &'a Path, mode: Mode, preload: &'static str) -> Self {
        std::fs::copy(directory.join("empty.img"), directory.join(DISK)).unwrap();
        Self { directory, ledger: Ledger::new(mode), mode, preload, life: 0, console: Vec::new() }
    }

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
        let mut lines = if random.u8(0..5) == 0 { 0 } else { random.u64(0..LINES_MAX) };
        let stays = [Stays::Nothing, Stays::Any, Stays::Any, Stays::All][random.usize(0..4)];
        // Memory that is resumed knows neither the time nor new random numbers.
        let time = (clock::wall_ms() / 1_000).to_string();
        let numbers: String = (0..64).map(|_| random.alphanumeric()).collect();
        self.console.push(format!("life {}, cut after {lines} lines, {stays:?} stays", self.life));
        let mut machine = Machine::resume(self.directory);
        machine.tell(&[&time, &numbers, &drain, &write, self.preload]);
        let (mut said, mut until) = (Said::default(), clock::instant() + WAIT);
        while !(said.begun && lines == 0) && self.ledger.problems().is_empty() {
            let Ok(line) = machine.line(until) else { break };
            let is_writing = said.begun;
            self.take(&line, &mut said);
            if is_writing {
                lines -= 1;
            } else if said.begun {
                until = clock::instant() + WRITE_MAX;
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
        for line in machine.cut() {
            if let Some(line) = line.strip_prefix("@ ") {
                self.ledger.take_late(line, &mut said);
            }
            self.console.push(format!("late: {line}"));
        }
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

/// Where the machine is, ready to be resumed. One test at a time has it.
fn machine() -> MutexGuard<'static, PathBuf> {
    static MACHINE: OnceLock<Mutex<PathBuf>> = OnceLock::new();
    let prepare = || {
        let directory = parts::vm();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power_cuts/vm");
        let mut images = Command::new(script);
        images.arg("--images").arg(std::env::current_exe().unwrap()).env("TIDEGATE_VM", &directory);
        assert!(images.status().unwrap().success(), "the machine's images cannot be made");
        let lives = Lives::new(&directory, Mode::PLAIN, "");
        let warm = lives.orders("/tmp/warm", Task::Write { steps: 20, deliver: 20 }, 1, 1);
        Machine::prepare(&directory, &warm);
        Mutex::new(directory)
    };
    MACHINE.get_or_init(prepare).lock().unwrap()
}

/// What a series of cuts came to.
#[derive(Debug, Default)]
struct Tally {
    cuts: u64,
    announcements: u64,
    /// By mode, how many cuts, and what was written before them.
    modes: BTreeMap<String, (u64, Written)>,
    problems: Vec<String>,
}

/// So many cuts, or as many as fit, until there is a problem.
fn many_cuts(directory: &Path, (cuts, time): (u64, Duration), preload: &'static str, modes: Modes) -> Tally {
    let seed = seed();
    let random = &mut fastrand::Rng::with_seed(seed);
    let start = clock::instant();
    // A machine that is too busy for anything to be announced gets more time.
    let most = |tally: &Tally| if tally.announcements > 0 { time } else { time * BUSY };
    let is_over = |tally: &Tally| tally.cuts >= cuts || start.elapsed() > most(tally) || !tally.problems.is_empty();
    let mut tally = Tally::default();
    while !is_over(&tally) {
        let mut lives = Lives::new(directory, modes(random), preload);
        let (mut of_disk, before) = (0, tally.announcements);
        while of_disk < CUTS && !is_over(&tally) {
            let written = lives.live(random);
            let (cuts, all) = tally.modes.entry(lives.mode.to_string()).or_default();
            *cuts += 1;
            all.add(written);
            of_disk += 1;
            tally.cuts += 1;
            tally.announcements = before + lives.ledger.announcements;
            tally.problems = lives.ledger.problems().to_vec();
        }
        println!("{} cuts after {:?}", tally.cuts, start.elapsed());
        std::fs::write(directory.join("console"), lives.console.join("\n")).unwrap();
    }
    println!("TIDEGATE_SEED={seed}: in {:?} {tally:#?}", start.elapsed());
    tally
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_machine_whose_power_is_cut_loses_nothing_announced() {
    need!(Vm);
    let cuts = from_environment("TIDEGATE_VM_CUTS").unwrap_or(u64::MAX);
    let time = from_environment("TIDEGATE_VM_SECONDS").map_or(TIME, Duration::from_secs);
    let tally = many_cuts(&machine(), (cuts, time), "", Mode::any);
    assert!(tally.problems.is_empty(), "{tally:#?}");
    assert!(tally.announcements > 0, "{tally:#?}");
}

/// That the test above can fail.
#[test]
fn a_machine_that_never_syncs_is_found_to_lose() {
    need!(Vm);
    let tally = many_cuts(&machine(), (u64::MAX, TIME * BUSY), "/nosync.so", |_| Mode::PLAIN);
    assert!(!tally.problems.is_empty(), "{tally:#?}");
}
