//! One life of a child on one mounted disk.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use tidegate::clock;

use crate::disk::{Disk, ROOT};
use crate::faults::Plan;
use crate::ledger::{Ledger, Said};
use crate::modes::Mode;
use crate::mount::Mounted;
use crate::orders::{Orders, Task};

/// A child that is not done by then hangs. It may wait a minute itself: so long the outbox waits for sled to open a segment
/// before it calls that one damaged.
const LIFE_MAX: Duration = Duration::from_secs(100);

/// How many lives are remembered.
const HISTORY: usize = 5;

/// What a life left.
pub(crate) struct Outcome {
    pub(crate) disk: Disk,
    pub(crate) said: Said,
    pub(crate) is_cut: bool,
    pub(crate) struck: Option<String>,
    pub(crate) concerned: [u64; 4],
}

/// A series of lives on one disk.
pub(crate) struct Rig {
    pub(crate) ledger: Ledger,
    mountpoint: tempfile::TempDir,
    size_max: u64,
    mode: Mode,
    pub(crate) patience: Duration,
    lives: u64,
    /// The disks with which the last lives began, and what each life said last and how it ended.
    history: VecDeque<(Disk, Vec<String>)>,
}

impl Rig {
    pub(crate) fn new(size_max: u64, mode: Mode) -> Self {
        let mountpoint = tempfile::tempdir().unwrap();
        let patience = Duration::from_secs(30);
        let ledger = Ledger::new(mode);
        Self { ledger, mountpoint, size_max, mode, patience, lives: 0, history: VecDeque::new() }
    }

    /// Another rig that knows what this one knows.
    pub(crate) fn fork(&self) -> Self {
        Self {
            ledger: self.ledger.clone(),
            patience: self.patience,
            lives: self.lives,
            ..Self::new(self.size_max, self.mode)
        }
    }

    /// Lets a child live on `disk` until it ends, the power is cut, or `kill_after` has passed.
    pub(crate) fn live(
        &mut self,
        disk: Disk,
        plan: Plan,
        task: Task,
        seed: u64,
        kill_after: Option<Duration>,
    ) -> Outcome {
        self.lives += 1;
        self.ledger.begin();
        let path: &Path = self.mountpoint.path();
        self.history.push_back((disk.clone(), Vec::new()));
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        let (planned, told) = (format!("{plan:?}"), format!("{task:?}"));
        let mounted = Mounted::new(disk, path, plan).unwrap();
        // What a check reads must not be given up meanwhile.
        let size_max = if matches!(task, Task::Drain) { u64::MAX / 4 } else { self.size_max };
        let (mode, patience) = (self.mode, self.patience);
        let orders = Orders { path: path.to_owned(), task, seed, life: self.lives, size_max, mode, patience };
        let mut child = orders.command().spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = std::thread::spawn(move || output.lines().map_while(Result::ok).collect::<Vec<_>>());
        let start = clock::instant();
        let mut hung = false;
        loop {
            let is_cut = mounted.is_cut(Duration::from_millis(2));
            if child.try_wait().unwrap().is_some() {
                break;
            }
            let killed = kill_after.is_some_and(|after| start.elapsed() > after);
            hung = start.elapsed() > LIFE_MAX;
            if is_cut || killed || hung {
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
        }
        let mut said = Said::default();
        let lines = lines.join().unwrap();
        for line in &lines {
            // The last line of one that was killed may be cut off: it ends without a newline, and lines() cannot tell.
            if let Some(line) = line.strip_prefix("@ ") {
                self.ledger.take(line, &mut said);
            }
        }
        let last = &lines[lines.len().saturating_sub(20)..];
        assert!(!hung, "a child hangs: {planned}, seed {seed}, told to {told}; its last words: {last:#?}");
        let unmounted = mounted.unmount();
        if let Some((_, last)) = self.history.back_mut() {
            last.extend(lines.iter().skip(lines.len().saturating_sub(400)).cloned());
            last.extend(unmounted.cut_at);
        }
        // A replacement is old or new, and whole, whatever happened.
        let outbox = unmounted.disk.lookup(ROOT, "outbox");
        for name in ["MANIFEST.damaged", "CHECKPOINT.damaged"] {
            if outbox.is_ok_and(|outbox| unmounted.disk.lookup(outbox, name).is_ok()) {
                self.ledger.complain(format!("there was a {name}"));
            }
        }
        let (is_cut, struck, concerned) = (unmounted.is_cut, unmounted.struck, unmounted.concerned);
        Outcome { disk: unmounted.disk, said, is_cut, struck, concerned }
    }

    /// Keeps the disks of the last lives for a look at them.
    pub(crate) fn save(&self, name: &str) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("power-cuts").join(name);
        let _ = std::fs::remove_dir_all(&path);
        for (at, (disk, lines)) in self.history.iter().enumerate() {
            disk.save(&path.join(at.to_string())).unwrap();
            std::fs::write(path.join(format!("{at}.txt")), lines.join("\n")).unwrap();
        }
        println!("kept for a look: {}", path.display());
    }

    /// Reads all that is on a disk and settles what must be there.
    pub(crate) fn check(&mut self, disk: Disk, seed: u64) -> Disk {
        let outcome = self.live(disk, Plan::NONE, Task::Drain, seed, None);
        if outcome.said.drained {
            self.ledger.settle();
        }
        outcome.disk
    }
}
