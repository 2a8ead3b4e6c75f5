//! The k-th storage operation fails, for every k: once, or it and all after it. Then the process may go on or end; on a
//! healthy disk everything that was announced is there, whether or not the power was cut meanwhile.
//!
//! The operations are those of a whole life: a start on what an unclean end left, commits, rolls, deliveries, releases,
//! checkpoints, evictions, the close. Which of them is the k-th differs a little from run to run, as threads do.

use std::sync::Mutex;
use std::time::Duration;

use tidegate::clock;

use crate::disk::{Disk, Loss};
use crate::faults::{Fault, Kind, Plan};
use crate::modes::Mode;
use crate::orders::Task;
use crate::rig::Rig;
use crate::support::need;
use crate::{heavy, seed};

/// How long the tests of one kind go on, unless all cases are wanted.
const TIME: Duration = Duration::from_secs(20);
/// Cases at a time: most of what they do is wait.
const WORKERS: usize = 4;
const TASK: Task = Task::Write { steps: 90, deliver: 25 };
/// About five segments.
const SIZE_MAX: u64 = 4 << 20;
/// How long a child waits for a disk that fails: longer than until the first attempt after that.
const PATIENCE: Duration = Duration::from_millis(900);

/// A disk with a backlog, left by a process that was killed, and what is known about it.
fn begin(seed: u64) -> (Rig, Disk) {
    let mut rig = Rig::new(SIZE_MAX, Mode::PLAIN);
    let task = Task::Write { steps: 70, deliver: 10 };
    let disk = rig.live(Disk::new(), Plan::NONE, task, seed, None).disk;
    let kill = Some(Duration::from_millis(250));
    let task = Task::Write { steps: 1_000_000, deliver: 10 };
    let disk = rig.live(disk, Plan::NONE, task, seed + 1, kill).disk;
    assert!(rig.ledger.problems().is_empty(), "{:?}", rig.ledger.problems());
    rig.patience = PATIENCE;
    (rig, disk)
}

/// Runs one case; gives what was wrong.
fn case(mut rig: Rig, disk: Disk, fault: Fault, seed: u64) -> Option<String> {
    let outcome = rig.live(disk, Plan::fault(fault), TASK, seed, None);
    // A start may be refused, and a process may end: the next start must put all right.
    rig.ledger.forgive(|problem| problem.starts_with("a panic") || problem.starts_with("it did not start"));
    // Where a disk can never be read again, what is on it is damaged.
    let unreadable = fault.kind == Kind::Io && fault.for_ever;
    rig.ledger.forgive(|problem| unreadable && problem.starts_with("damage where there is none: counts"));
    let mut disk = outcome.disk;
    let is_cut = fault.at.is_multiple_of(2);
    if is_cut {
        disk = disk.cut(Loss::Strict, &mut fastrand::Rng::with_seed(seed));
    }
    rig.patience = Duration::from_secs(30);
    let after = rig.check(disk, seed);
    let problems = rig.ledger.problems().to_vec();
    (!problems.is_empty()).then(|| {
        drop(after);
        rig.save(&format!("{:?}-{}-{}", fault.kind, fault.at, fault.for_ever));
        let struck = outcome.struck;
        format!("{fault:?} at {struck:?}, then a cut: {is_cut}: {problems:#?}")
    })
}

fn every(kind: Kind) {
    let seed = seed();
    let (rig, disk) = begin(seed);
    let counted = rig.fork().live(disk.clone(), Plan::NONE, TASK, seed, None);
    let at = Kind::ALL.iter().position(|other| *other == kind).unwrap();
    let operations = counted.concerned[at];
    assert!(counted.said.closed && operations > 20, "{operations} operations");
    let mut cases: Vec<Fault> =
        (1..=operations).flat_map(|at| [false, true].map(|for_ever| Fault { kind, at, for_ever })).collect();
    let all = cases.len();
    fastrand::Rng::with_seed(seed).shuffle(&mut cases);
    let until = clock::instant() + TIME;
    let (cases, found) = (Mutex::new(cases), Mutex::new(Vec::new()));
    let rig = Mutex::new(rig);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while heavy() || clock::instant() < until {
                    let Some(fault) = cases.lock().unwrap().pop() else { return };
                    let rig = rig.lock().unwrap().fork();
                    if let Some(problem) = case(rig, disk.clone(), fault, seed) {
                        found.lock().unwrap().push(problem);
                    }
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    let done = all - cases.into_inner().unwrap().len();
    println!("TIDEGATE_SEED={seed}, {kind:?}: {operations} operations, {done} of {all} cases, {} bad", found.len());
    assert!(found.is_empty(), "TIDEGATE_SEED={seed}: {} of {done}: {}", found.len(), found.join("\n"));
}

#[test]
fn an_error_of_any_operation_loses_nothing() {
    need!(Fuse);
    every(Kind::Io);
}

#[test]
fn a_full_disk_at_any_operation_loses_nothing() {
    need!(Fuse);
    every(Kind::NoSpace);
}

#[test]
fn a_short_write_at_any_operation_loses_nothing() {
    need!(Fuse);
    every(Kind::Short);
}

#[test]
fn a_failed_sync_at_any_operation_loses_nothing() {
    need!(Fuse);
    every(Kind::Sync);
}
