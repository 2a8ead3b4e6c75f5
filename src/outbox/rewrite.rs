//! Rewriting: some closed segments of one run become one new segment that holds less. It is how the outbox gives up a
//! lane of a segment and keeps the others, and how it thins.
//!
//! Nothing here changes what counts: a new directory is made and synced, and until a manifest names it, it is one that the
//! next start removes. The caller replaces the manifest and deletes the old directories, in this order.
//!
//! Invariants:
//! - What is kept keeps its stream and its numbers; what is delivered of it stays so.
//! - What is given up is in the gaps that the manifest declares from the moment on at which it names the new segment.
//! - What stands for thinned readings is a stream of its own, numbered from 1, named after the segment and its generation:
//!   no number ever means two different things, whatever a lost report had let through to Kafka before. What was thinned
//!   before and goes along into another segment gets a number in that one's stream.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::chunk::{self, Cutter};
use super::cipher::Keys;
use super::manifest::{Declared, Entry, Range};
use super::progress::Progress;
use super::reader::{load, whole};
use super::record::Names;
use super::segment::{self, Contents, Key, Segment, SegmentError};
use super::segment_state::{SegmentState, thinned_stream};
use super::thin::Thinner;
use super::{Lane, holes, recovery};
use crate::reading::Stamp;

/// What stays of readings takes at least so many times less on the disk than in memory.
const COMPRESSES: u64 = 8;

/// A segment that goes into a rewriting, as it was when that was decided.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) entry: Entry,
    pub(crate) progress: [Option<Progress>; 3],
    streams: [String; 3],
}

impl Source {
    pub(crate) fn of(segment: &SegmentState) -> Self {
        let streams = segment.streams.each_ref().map(|stream| stream.to_string());
        Self { entry: segment.entry.clone(), progress: segment.progress.clone(), streams }
    }

    /// Number and generation.
    pub(crate) fn id(&self) -> (u64, u32) {
        (self.entry.number, self.entry.generation)
    }

    fn range(&self, lane: Lane) -> Option<Range> {
        self.entry.lanes[lane.index()]
    }

    fn is_delivered(&self, lane: Lane, number: u64) -> bool {
        self.progress[lane.index()].as_ref().is_some_and(|progress| progress.is_delivered(number))
    }

    fn missing(&self, lane: Lane) -> u64 {
        let progress = self.progress[lane.index()].as_ref();
        self.range(lane).map_or(0, |range| progress.map_or(range.count(), |progress| progress.missing(range)))
    }

    /// What is to be declared about the lanes that are given up, and how many records of each lane that are. Declarations
    /// that nobody has seen yet are made again, so they are not among what is given up.
    pub(crate) fn give_up(
        &self,
        lanes: [bool; 3],
        cause: &str,
        replaced_by: Option<&str>,
    ) -> (Vec<Declared>, [u64; 3]) {
        let mut gaps = Vec::new();
        // All declarations are in the raw lane. What stands for thinned readings takes them along.
        if lanes[Lane::Raw.index()] && replaced_by.is_none() {
            let unseen = self.entry.declares.iter().filter(|(seq, _)| !self.is_delivered(Lane::Raw, *seq));
            gaps.extend(unseen.map(|(_, declared)| declared.clone()));
        }
        let mut repeated = gaps.len() as u64;
        let mut counts = [0; 3];
        for lane in Lane::ALL.into_iter().rev().filter(|lane| lanes[lane.index()]) {
            let missing = self.missing(lane);
            let count = missing - std::mem::take(&mut repeated).min(missing);
            counts[lane.index()] = count;
            let Some(range) = self.range(lane).filter(|_| missing > 0) else { continue };
            let from = (range.first..=range.last).find(|number| !self.is_delivered(lane, *number));
            gaps.push(Declared::Gap {
                stream: self.streams[lane.index()].clone(),
                from: from.unwrap_or(range.first),
                to: range.last,
                count,
                cause: cause.to_owned(),
                replaced_by: replaced_by.map(str::to_owned),
            });
        }
        (gaps, counts)
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Segments of one run that follow each other.
    pub(crate) group: Vec<Source>,
    /// By lane: whether what waits in it is given up.
    pub(crate) drop: [bool; 3],
    /// Why.
    pub(crate) cause: &'static str,
    /// Coarse aggregates of this length take the place of the raw readings.
    pub(crate) thin: Option<Duration>,
    /// What would be larger is not worth making.
    pub(crate) kept_bytes_max: u64,
    pub(crate) at: Stamp,
}

/// What was made, and what has to be said about it.
#[derive(Debug)]
pub(crate) struct Rewritten {
    /// The new segment; `None` if nothing is left.
    pub(crate) entry: Option<Entry>,
    pub(crate) gaps: Vec<Declared>,
    /// Records given up, by lane.
    pub(crate) given_up: [u64; 3],
    /// Readings that aggregates stand for.
    pub(crate) thinned: u64,
    pub(crate) aggregates: u64,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RewriteError {
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A segment holds less than was stored.
    #[error("it holds less than was stored")]
    Short { segment: (u64, u32), lost: Vec<(Lane, Range)> },
    /// A segment cannot be read.
    #[error("it cannot be read: {reason}")]
    Unreadable { segment: (u64, u32), reason: String },
    /// A chunk with a right checksum cannot be decoded, or a record does not fit.
    #[error("what it holds cannot be thinned: {0}")]
    Content(String),
}

/// Makes the new segment of `plan` below `directory`, encrypted as what is new is.
pub(crate) fn rewrite(
    directory: &Path,
    keys: &Keys,
    plan: &Plan,
    cutter: &mut Cutter,
) -> Result<Rewritten, RewriteError> {
    let Some(first) = plan.group.first() else {
        return Err(RewriteError::Content("there is nothing to rewrite".to_owned()));
    };
    let mut entry = Entry {
        number: first.entry.number,
        generation: first.entry.generation + 1,
        run: first.entry.run.clone(),
        sealed: true,
        oldest_ms: plan.group.iter().filter_map(|source| source.entry.oldest_ms).min(),
        ..Entry::default()
    };
    let stream = thinned_stream(&entry, entry.generation);
    let mut drop = plan.drop;
    drop[Lane::Raw.index()] |= plan.thin.is_some();
    let mut thinner = plan.thin.map(|step| Thinner::new(step, plan.at));
    let (mut gaps, mut given_up) = (Vec::new(), [0; 3]);
    let mut kept = BTreeMap::new();
    let mut names = Names::default();
    for source in &plan.group {
        let (number, generation) = source.id();
        let contents = load(&recovery::segment_path(directory, number, generation), keys);
        let contents = contents.map_err(|error| match error {
            SegmentError::Damaged { reason, .. } => RewriteError::Unreadable { segment: source.id(), reason },
            error => error.into(),
        })?;
        let whole = whole(&contents);
        let lost = source.lost(&whole, &holes::of_segment(&contents));
        if !lost.is_empty() {
            return Err(RewriteError::Short { segment: source.id(), lost });
        }
        for lane in Lane::ALL {
            if !drop[lane.index()] {
                entry.sizes[lane.index()] += keep(&contents, &whole, source, lane, &mut kept);
            }
        }
        if let Some(thinner) = &mut thinner {
            thin(&contents, &whole, source, thinner, &mut names)?;
        }
        let kept_bytes = entry.sizes.iter().sum::<u64>() + thinner.as_ref().map_or(0, Thinner::bytes) / COMPRESSES;
        if kept_bytes > plan.kept_bytes_max {
            return Err(RewriteError::Content(format!("{kept_bytes} bytes of it would stay")));
        }
        // An alarm that is thinned would be one that nobody hears of: thinning is for the raw lane alone.
        let replaced_by = plan.thin.map(|_| stream.as_str());
        let raw_only = [false, false, true];
        let (more, counts) = source.give_up(if plan.thin.is_some() { raw_only } else { drop }, plan.cause, replaced_by);
        gaps.extend(more);
        if plan.thin.is_none() {
            (0..3).for_each(|lane| given_up[lane] += counts[lane]);
        }
    }
    for lane in Lane::ALL {
        // What nobody knows the age of never becomes too old.
        let waits = || plan.group.iter().filter(|source| source.missing(lane) > 0);
        let known = waits().all(|source| source.entry.newest[lane.index()].is_some());
        let newest = waits().filter_map(|source| source.entry.newest[lane.index()]).max();
        entry.newest[lane.index()] = newest.filter(|_| known);
    }
    if !drop[Lane::Raw.index()] {
        // A raw lane that stays keeps its stream, also that of what was thinned before.
        entry.thinned = first.entry.thinned;
        entry.declares = plan.group.iter().flat_map(|source| source.entry.declares.clone()).collect();
        if plan.group.iter().any(|source| source.entry.thinned.is_some()) && plan.group.len() > 1 {
            return Err(RewriteError::Content("what was thinned has numbers of its own".to_owned()));
        }
    }
    for lane in Lane::ALL.into_iter().filter(|lane| !drop[lane.index()]) {
        let Some((range, progress)) = joined(&plan.group, lane) else { continue };
        entry.lanes[lane.index()] = Some(range);
        entry.cursor.push(progress.entry(entry.number, entry.generation, lane.index_byte()));
    }
    let (mut thinned, mut aggregates) = (0, 0);
    if let Some(thinner) = thinner {
        let made = thinner.finish();
        (thinned, aggregates) = (made.readings, made.aggregates);
        if !made.batch.is_empty() {
            let fits = |too_large: chunk::TooLarge| RewriteError::Content(format!("{} bytes in one", too_large.bytes));
            let chunks = cutter.cut(&made.batch).map_err(fits)?;
            let records = made.batch.records.iter().zip(1..);
            entry.declares = records.filter_map(|(record, seq)| Some((seq, Declared::of(record)?))).collect();
            entry.lanes[Lane::Raw.index()] = Some(Range { first: 1, last: made.batch.len() as u64 });
            entry.thinned = Some(entry.generation);
            for chunk in &chunks {
                let key = Key { lane: Some(Lane::Raw), number: 1 + chunk.first as u64, part: chunk.part };
                let value = chunk.seal(&[]);
                entry.sizes[Lane::Raw.index()] += value.len() as u64;
                kept.insert(key, value);
            }
        }
    }
    if entry.lanes == [None; 3] {
        return Ok(Rewritten { entry: None, gaps, given_up, thinned, aggregates });
    }
    let path = recovery::segment_path(directory, entry.number, entry.generation);
    match store(&path, &entry.run, keys, &kept.into_iter().collect::<Vec<_>>()) {
        Ok(key) => entry.key = key,
        Err(error) => {
            // Half a segment that no manifest names.
            let _ = std::fs::remove_dir_all(&path);
            return Err(error.into());
        }
    }
    entry.bytes = segment::disk_bytes(&path);
    Ok(Rewritten { entry: Some(entry), gaps, given_up, thinned, aggregates })
}

/// Gives the id of the key that it is encrypted with.
fn store(path: &Path, run: &str, keys: &Keys, values: &[(Key, Vec<u8>)]) -> Result<Option<String>, SegmentError> {
    // Left by an attempt that a crash cut off, or another that came to nothing.
    if path.exists() {
        std::fs::remove_dir_all(path).map_err(|source| SegmentError::Io { path: path.to_owned(), source })?;
    }
    let mut segment = Segment::create(path, run, keys)?;
    segment.fill(values)?;
    Ok(segment.key_id())
}

impl Source {
    /// The whole chunks of a lane. What a failed commit left behind lies beyond the range: its records are elsewhere.
    fn own<'a>(&self, whole: &'a [(Key, usize)], lane: Lane) -> impl Iterator<Item = (Key, usize)> + use<'a> {
        let range = self.range(lane);
        let is_own = move |key: &Key| range.is_some_and(|range| (range.first..=range.last).contains(&key.number));
        whole.iter().copied().filter(move |(key, _)| key.lane == Some(lane) && is_own(key))
    }

    /// Numbers that should be there, are not delivered, and cannot be read.
    fn lost(&self, whole: &[(Key, usize)], holes: &[(Lane, Range)]) -> Vec<(Lane, Range)> {
        let mut lost = Vec::new();
        for lane in Lane::ALL {
            let Some(range) = self.range(lane) else { continue };
            let progress = self.progress[lane.index()].as_ref();
            lost.extend(holes::lost_in(whole, holes, (lane, range), progress).into_iter().map(|range| (lane, range)));
        }
        lost
    }
}

/// Takes over the values of a lane in which something waits; gives their bytes.
fn keep(
    contents: &Contents,
    whole: &[(Key, usize)],
    source: &Source,
    lane: Lane,
    kept: &mut BTreeMap<Key, Vec<u8>>,
) -> u64 {
    let mut bytes = 0;
    for (key, count) in source.own(whole, lane) {
        if (key.number..key.number + count as u64).all(|number| source.is_delivered(lane, number)) {
            continue;
        }
        for (key, value) in parts(contents, key) {
            bytes += value.len() as u64;
            kept.insert(*key, value.clone());
        }
    }
    bytes
}

/// Hands the raw records that wait to the thinner.
fn thin(
    contents: &Contents,
    whole: &[(Key, usize)],
    source: &Source,
    thinner: &mut Thinner,
    names: &mut Names,
) -> Result<(), RewriteError> {
    let content = |error: chunk::ChunkError| RewriteError::Content(error.to_string());
    let last = source.range(Lane::Raw).map_or(0, |range| range.last);
    for (key, _) in source.own(whole, Lane::Raw) {
        let parts = parts(contents, key).iter().map(|(_, value)| chunk::open(value)).collect::<Result<Vec<_>, _>>();
        let batch = chunk::decode(&parts.map_err(content)?, names).map_err(content)?;
        for (index, number) in (0..batch.len()).zip(key.number..) {
            if number <= last && !source.is_delivered(Lane::Raw, number) {
                thinner.add(&batch, index);
            }
        }
    }
    Ok(())
}

/// The values of the chunk that begins with `key`.
fn parts(contents: &Contents, key: Key) -> &[(Key, Vec<u8>)] {
    let first = contents.values.partition_point(|(at, _)| *at < key);
    let same = |at: &Key| (at.lane, at.number) == (key.lane, key.number);
    let count = contents.values[first..].iter().take_while(|(at, _)| same(at)).count();
    &contents.values[first..first + count]
}

/// From the first to the last number of a lane over all of the group, and what of that is delivered; `None` if all of it
/// is. What lies between two segments was in one that is gone, so it is delivered.
fn joined(group: &[Source], lane: Lane) -> Option<(Range, Progress)> {
    let ranges = || group.iter().filter_map(|source| source.range(lane));
    let range =
        Range { first: ranges().map(|range| range.first).min()?, last: ranges().map(|range| range.last).max()? };
    let mut progress = Progress::new(range.first);
    let mut next = range.first;
    for source in group {
        let Some(own) = source.range(lane) else { continue };
        (next..own.first).for_each(|number| {
            progress.deliver(number);
        });
        next = own.last + 1;
        (own.first..=own.last).filter(|number| source.is_delivered(lane, *number)).for_each(|number| {
            progress.deliver(number);
        });
    }
    (progress.missing(range) > 0).then_some((range, progress))
}
