//! Random operations against a model that fits on a page: what was announced durable is delivered, still there, or declared.
//!
//! Each record carries a number of its own, so the model needs to know nothing of segments: only which numbers were
//! appended, announced, given and delivered, in which run and lane. To add an operation, add it to [`Op`], to
//! [`operation`], and to [`run::Run::apply`]; what must hold at any time is in [`run::Run::apply`], what must hold at the end in
//! [`oracle::Model::check`].
//!
//! It goes on for half a minute, with `TIDEGATE_HEAVY=1` for ten. A failure is made small and printed with its seed, and
//! `TIDEGATE_SEED=N` runs that again.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::super::segment::SegmentError;
use super::*;
use crate::config::{Encryption, EncryptionKey, Persist};

macro_rules! hold {
    ($($it:tt)*) => { prop_assert!($($it)*) };
}

mod oracle;
mod run;

type Checked<T = ()> = Result<T, TestCaseError>;

const SECONDS: u64 = 30;
const SECONDS_HEAVY: u64 = 600;
/// Cases between two looks at the clock.
const CASES: u32 = 4;
/// A disk that is full is tried again in 5 s at the latest.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
enum Op {
    /// Alarms, readings and aggregates in one append; with a piece of journal or without.
    Append {
        alarms: usize,
        raw: usize,
        aggregates: usize,
        journal: bool,
    },
    /// Waits until all that was appended is durable, if it can be.
    Commit,
    /// Takes so many batches from the reader.
    Read(usize),
    /// Of what is held, delivers about so many of sixteen, in any order, some of them twice.
    Deliver(u32, u64),
    /// Gives back all that is held, delivered or not.
    Forget,
    Rewind,
    /// Stops in good order and starts again, with the key of this number.
    Restart(u8),
    /// Starts again from what is on the disk at this moment.
    Crash(u8),
}

/// Often none.
fn few(most: usize) -> impl Strategy<Value = usize> {
    prop_oneof![Just(0_usize), 0..most]
}

fn operation() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (few(20), 0..600_usize, few(40), any::<bool>())
            .prop_map(|(alarms, raw, aggregates, journal)| Op::Append { alarms, raw, aggregates, journal }),
        6 => Just(Op::Commit),
        4 => (1..6_usize).prop_map(Op::Read),
        4 => (1..=16_u32, any::<u64>()).prop_map(|(share, seed)| Op::Deliver(share, seed)),
        1 => Just(Op::Forget),
        1 => Just(Op::Rewind),
        1 => (0..3_u8).prop_map(Op::Restart),
        1 => (0..3_u8).prop_map(Op::Crash),
    ]
}

#[derive(Clone, Debug)]
struct Case {
    size_max: u64,
    segment_bytes: u64,
    commit_ms: u64,
    when_full: WhenFull,
    thin_at_percent: u8,
    expires: bool,
    /// `persist = "when-behind"`.
    holds: bool,
    /// `keep_delivered`.
    keeps: bool,
    operations: Vec<Op>,
}

fn case() -> impl Strategy<Value = Case> {
    let when_full = prop_oneof![2 => Just(WhenFull::DropOldest), 1 => Just(WhenFull::Block), 2 => Just(WhenFull::Thin)];
    let operations = proptest::collection::vec(operation(), 10..80);
    let commit_ms = prop_oneof![Just(1_u64), Just(50)];
    let often = proptest::bool::weighted;
    let varieties = (when_full, 10..96_u8, often(0.2), often(0.5), often(0.2));
    // The configuration asks for four MiB at least: with less, what a start needs may be all that there is.
    (4..7_u64, 4..64_u64, commit_ms, varieties, operations).prop_map(
        |(size, segment, commit_ms, (when_full, thin_at_percent, expires, holds, keeps), operations)| Case {
            size_max: size << 20,
            segment_bytes: segment * 1024,
            commit_ms,
            when_full,
            thin_at_percent,
            expires,
            holds,
            keeps,
            operations,
        },
    )
}

fn run(case: &Case) -> Checked {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut run = run::Run::start(case)?;
        for op in &case.operations {
            run.apply(op).await?;
        }
        run.finish().await
    })
}

#[test]
fn whatever_happens_what_was_announced_is_delivered_stored_or_declared() {
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let heavy = std::env::var_os("TIDEGATE_HEAVY").is_some_and(|value| value == "1");
    let limit = Duration::from_secs(if heavy { SECONDS_HEAVY } else { SECONDS });
    let start = clock::instant();
    let mut cases = 0;
    while start.elapsed() < limit {
        let this: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&this.to_le_bytes());
        let settings =
            ProptestConfig { cases: CASES, max_shrink_iters: 40, failure_persistence: None, ..Default::default() };
        let mut runner = TestRunner::new_with_rng(settings, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        match runner.run(&case(), |case| run(&case)) {
            Ok(()) => cases += CASES,
            Err(TestError::Fail(why, case)) => panic!("TIDEGATE_SEED={this}: {why}\n{case:#?}"),
            Err(error) => panic!("TIDEGATE_SEED={this}: {error}"),
        }
        if seed.is_some() {
            break;
        }
    }
    assert!(cases > 0);
}
