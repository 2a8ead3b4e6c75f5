//! One life of a child on one mounted disk.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use tidegate::clock;

use crate::disk::Disk;
use crate::faults::Plan;
use crate::ledger::{Ledger, Said};
use crate::mount::Mounted;
use crate::orders::{Orders, Task};

/// A child that is not done by then hangs.
const LIFE_MAX: Duration = Duration::from_secs(60);

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
    pub(crate) size_max: u64,
    pub(crate) patience: Duration,
    lives: u64,
}

impl Rig {
    pub(crate) fn new(size_max: u64) -> Self {
        let mountpoint = tempfile::tempdir().unwrap();
        let patience = Duration::from_secs(30);
        Self { ledger: Ledger::default(), mountpoint, size_max, patience, lives: 0 }
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
        let mounted = Mounted::new(disk, path, plan).unwrap();
        let (size_max, patience) = (self.size_max, self.patience);
        let orders = Orders { path: path.to_owned(), task, seed, life: self.lives, size_max, patience };
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
        for line in lines.join().unwrap() {
            // The last line of one that was killed may be cut off: it ends without a newline, and lines() cannot tell.
            if let Some(line) = line.strip_prefix("@ ") {
                self.ledger.take(line, &mut said);
            }
        }
        assert!(!hung, "a child hangs");
        let unmounted = mounted.unmount();
        let (is_cut, struck, concerned) = (unmounted.is_cut, unmounted.struck, unmounted.concerned);
        Outcome { disk: unmounted.disk, said, is_cut, struck, concerned }
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
