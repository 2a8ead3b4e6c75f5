//! Power cuts: whatever the moment, and again during the recovery, everything that was announced is there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidegate::clock;

use crate::disk::{Disk, Loss};
use crate::faults::{Cut, Deaf, Plan};
use crate::modes::Mode;
use crate::orders::Task;
use crate::rig::Rig;
use crate::support::need;
use crate::{heavy, seed};

/// Changes of a disk within which a cut comes: some five segments are begun.
const CHANGES_MAX: u64 = 800;
/// Changes that a start makes, about.
const CHANGES_OF_A_START: u64 = 60;
/// Rounds on one disk: a cut, cuts again in the recovery, a check.
const ROUNDS: u64 = 5;
/// So many times the time has a test on a machine that is too busy.
pub(crate) const BUSY: u32 = 5;
const STEPS: u64 = 100_000;
/// About six segments: then some are given up.
const SMALL: u64 = 5 << 20;
const LARGE: u64 = 64 << 20;

/// Chooses how the outbox of a disk is set up.
pub(crate) type Modes = fn(&mut fastrand::Rng) -> Mode;

/// What a series of cuts came to.
#[derive(Debug, Default)]
struct Tally {
    cuts: u64,
    kills: u64,
    announcements: u64,
    /// Alarms that were read, readings that were thinned, records that were delivered without being written.
    alarms: u64,
    thinned: u64,
    unwritten: u64,
    /// Cuts, by mode.
    modes: BTreeMap<String, u64>,
    /// The seed of the first disk with problems, and these.
    found: Option<(u64, Vec<String>)>,
}

impl Tally {
    fn has_cuts(&self) -> bool {
        self.cuts > 3 && self.announcements > 0
    }
}

/// One disk through several rounds. Ends with the first problem.
fn one_disk(seed: u64, losses: &[Loss], deaf: Deaf, modes: Modes, until: Instant, tally: &mut Tally) {
    let random = &mut fastrand::Rng::with_seed(seed);
    let mode = modes(random);
    let mut rig = Rig::new(if mode.thins || random.bool() { SMALL } else { LARGE }, mode);
    // Records wait in memory only for somebody who takes them.
    let deliver = match random.bool() {
        _ if mode.holds => random.u8(20..60),
        true => random.u8(1..50),
        false => 0,
    };
    let mut disk = Disk::new();
    let plan = |at: u64, random: &mut fastrand::Rng| {
        let loss = losses[random.usize(0..losses.len())];
        Plan { cut: Some(Cut { at, loss, seed: random.u64(..) }), deaf, ..Plan::NONE }
    };
    for _ in 0..ROUNDS {
        for recovery in 0..random.u64(1..4) {
            let at = random.u64(1..if recovery == 0 { CHANGES_MAX } else { CHANGES_OF_A_START });
            // Sometimes the process dies first, and the power is cut when the next one runs.
            let kill = (random.u8(0..6) == 0).then(|| Duration::from_millis(random.u64(20..300)));
            let task = Task::Write { steps: STEPS, deliver };
            let outcome = rig.live(disk, plan(at, random), task, random.u64(..), kill);
            tally.cuts += u64::from(outcome.is_cut);
            *tally.modes.entry(mode.to_string()).or_default() += u64::from(outcome.is_cut);
            tally.kills += u64::from(!outcome.is_cut);
            // What a program meets once the power is gone is no matter.
            let is_cut = outcome.is_cut;
            rig.ledger
                .forgive(|problem| is_cut && (problem.starts_with("a panic") || problem.starts_with("it did not")));
            disk = outcome.disk;
        }
        disk = rig.check(disk, random.u64(..));
        if !rig.ledger.problems().is_empty() || clock::instant() > until {
            break;
        }
    }
    tally.announcements += rig.ledger.announcements;
    tally.alarms += rig.ledger.alarms();
    tally.thinned += rig.ledger.thinned();
    tally.unwritten += rig.ledger.unwritten;
    if !rig.ledger.problems().is_empty() && deaf == Deaf::Not {
        rig.save(&format!("{seed}"));
    }
    if !rig.ledger.problems().is_empty() && tally.found.is_none() {
        tally.found = Some((seed, rig.ledger.problems().to_vec()));
    }
}

/// Disk after disk, until the time is over and it is `enough`, or something is found. A machine that is too busy for that
/// gets so many times the time.
fn many_disks(time: Duration, losses: &[Loss], deaf: Deaf, modes: Modes, enough: fn(&Tally) -> bool) -> Tally {
    let time = if heavy() { time * 20 } else { time };
    let (start, first) = (clock::instant(), seed());
    let (until, until_most) = (start + time, start + time * BUSY);
    let mut tally = Tally::default();
    for seed in first.. {
        one_disk(seed, losses, deaf, modes, until, &mut tally);
        let is_over = clock::instant() > if enough(&tally) { until } else { until_most };
        if tally.found.is_some() || is_over {
            break;
        }
    }
    println!("seeds from {first} on, {losses:?}, {deaf:?}: {tally:?}");
    tally
}

fn survives(seconds: u64, losses: &[Loss], modes: Modes, enough: fn(&Tally) -> bool) {
    let tally = many_disks(Duration::from_secs(seconds), losses, Deaf::Not, modes, enough);
    assert!(tally.found.is_none(), "TIDEGATE_SEED={}: {tally:#?}", tally.found.as_ref().unwrap().0);
    assert!(enough(&tally), "too little happened: {tally:#?}");
}

#[test]
fn killed_again_and_again_nothing_announced_is_lost() {
    need!(Fuse);
    let (first, kills) = (seed(), if heavy() { 500 } else { 25 });
    let random = &mut fastrand::Rng::with_seed(first);
    let mode = Mode::any(random);
    let (mut rig, mut disk) = (Rig::new(SMALL, mode), Disk::new());
    for life in 0..kills {
        let kill = Some(Duration::from_millis(random.u64(20..700)));
        let task = Task::Write { steps: STEPS, deliver: random.u8(0..50) };
        disk = rig.live(disk, Plan::NONE, task, random.u64(..), kill).disk;
        if life % 5 == 4 {
            disk = rig.check(disk, random.u64(..));
        }
        assert!(rig.ledger.problems().is_empty(), "TIDEGATE_SEED={first}: {:#?}", rig.ledger.problems());
    }
    println!("{kills} kills, {mode}, {} announcements", rig.ledger.announcements);
}

/// That the tests above can fail: without this sync they do.
fn is_found(losses: &[Loss], deaf: Deaf, modes: Modes) {
    let tally = many_disks(Duration::from_secs(60), losses, deaf, modes, |_| true);
    assert!(tally.found.is_some(), "{deaf:?} was not noticed: {tally:?}");
}

#[test]
fn nothing_announced_is_lost_when_a_cut_takes_all_that_was_not_synced() {
    need!(Fuse);
    survives(20, &[Loss::Strict], Mode::any, Tally::has_cuts);
}

#[test]
fn nothing_announced_is_lost_when_a_cut_takes_any_part_of_what_was_not_synced() {
    need!(Fuse);
    survives(30, &[Loss::Torn], Mode::any, Tally::has_cuts);
}

#[test]
fn a_witness_that_knows_more_or_less_than_the_disk_is_no_damage() {
    need!(Fuse);
    survives(15, &[Loss::AllBut("WITNESS"), Loss::Only("WITNESS")], Mode::any, Tally::has_cuts);
}

#[test]
fn nothing_announced_is_lost_where_old_readings_are_thinned() {
    need!(Fuse);
    let modes: Modes = |random| Mode { thins: true, ..Mode::any(random) };
    survives(20, &[Loss::Strict, Loss::Torn], modes, |tally| tally.has_cuts() && tally.thinned > 0);
}

#[test]
fn nothing_announced_is_lost_where_records_wait_in_memory_for_kafka() {
    need!(Fuse);
    let modes: Modes = |random| Mode { holds: true, ..Mode::any(random) };
    survives(20, &[Loss::Strict, Loss::Torn], modes, |tally| tally.has_cuts() && tally.unwritten > 0);
}

#[test]
fn nothing_announced_is_lost_where_all_is_encrypted() {
    need!(Fuse);
    let modes: Modes = |random| Mode { seals: true, ..Mode::any(random) };
    survives(15, &[Loss::Strict, Loss::Torn], modes, Tally::has_cuts);
}

#[test]
fn without_the_sync_of_the_database_loss_is_found() {
    need!(Fuse);
    is_found(&[Loss::Strict], Deaf::File("db"), |_| Mode::PLAIN);
}

#[test]
fn without_the_sync_of_the_database_loss_is_found_in_torn_images() {
    need!(Fuse);
    is_found(&[Loss::Torn], Deaf::File("db"), |_| Mode::PLAIN);
}

#[test]
fn without_the_sync_of_the_database_loss_is_found_where_records_wait_in_memory() {
    need!(Fuse);
    is_found(&[Loss::Strict], Deaf::File("db"), |_| Mode { holds: true, ..Mode::PLAIN });
}

#[test]
fn without_the_sync_of_what_was_rewritten_loss_is_found() {
    need!(Fuse);
    is_found(&[Loss::Strict], Deaf::Rewritten, |_| Mode { thins: true, ..Mode::PLAIN });
}

#[test]
fn without_the_sync_of_directories_loss_is_found() {
    need!(Fuse);
    is_found(&[Loss::Strict], Deaf::Directories, |_| Mode::PLAIN);
}

#[test]
fn without_the_sync_of_the_manifest_loss_is_found() {
    need!(Fuse);
    is_found(&[Loss::Strict], Deaf::File("MANIFEST.new"), |_| Mode::PLAIN);
}

#[test]
fn without_the_sync_of_the_checkpoint_loss_is_found() {
    need!(Fuse);
    is_found(&[Loss::Strict], Deaf::File("CHECKPOINT.new"), |_| Mode::PLAIN);
}
