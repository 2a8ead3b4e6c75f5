//! Reads what waits, for the uplink: lane by lane in priority, oldest first.
//!
//! What was just written comes from the memory tail. What is older comes from its segment: a closed one is loaded whole
//! (a few MiB), checked against the manifest, and closed again; of the one that is being written single values are read.
//! Damage is settled when it is found: what can be read is given, the rest is declared lost, and the segment goes to
//! quarantine instead of being deleted.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{error, warn};

use super::chunk;
use super::cipher::Keys;
use super::hold::Held;
use super::holes;
use super::manifest::Range;
use super::record::Names;
use super::segment::{self, Contents, Key, SegmentError, SharedSegment};
use super::segment_state::SegmentState;
use super::state::{ChunkAt, Shared, State};
use super::{Append, Lane, Stored, recovery};
use crate::clock;
use crate::reading::{Batch, Gap, Record};

/// A segment that its writer is still closing is asked again so many times …
const LOCKED_ATTEMPTS: u32 = 200;
/// … this long apart.
const LOCKED_PAUSE: Duration = Duration::from_millis(25);

/// Why the outbox could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused, or another process holds the segment. It is worth trying again.
    #[error("reading the outbox: {0}")]
    Segment(#[from] SegmentError),
    /// The thread that read ended early.
    #[error("reading the outbox was interrupted")]
    Interrupted,
}

/// Reads what waits, lane by lane in priority, oldest first. Durable records only.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    /// By lane: from where on nothing was given yet.
    at: [At; 3],
    head: Option<Head>,
    loading: Option<((u64, u32), Loading)>,
    names: Names,
}

/// A place in a lane.
#[derive(Clone, Copy, Debug, Default)]
struct At {
    segment: u64,
    generation: u32,
    number: u64,
    /// The number holds for all later segments, and for what is not stored yet: they go on in the same stream.
    of_this_run: bool,
}

impl At {
    /// The first number of that segment that was not given yet.
    fn number_in(&self, segment: u64, info: &SegmentState) -> u64 {
        // What was rewritten has other records: all that is left of it was not given in this form.
        let same = (segment, info.entry.generation) == (self.segment, self.generation);
        let goes_on = self.of_this_run && info.is_of_this_run() && segment >= self.segment;
        if same || goes_on { self.number } else { 0 }
    }

    /// The place behind records of that segment.
    fn behind(segment: u64, info: &SegmentState, number: u64) -> Self {
        Self { segment, generation: info.entry.generation, number, of_this_run: info.is_of_this_run() }
    }
}

type Loading = JoinHandle<Result<Head, SegmentError>>;

/// A closed segment in memory.
#[derive(Debug)]
struct Head {
    segment: (u64, u32),
    values: Vec<(Key, Vec<u8>)>,
    /// Keys and numbers of records of the values that are whole.
    whole: Vec<(Key, usize)>,
    /// Numbers that were never stored.
    holes: Vec<(Lane, Range)>,
    damage: Option<String>,
}

/// Where the next records are.
enum Next {
    Ready(Arc<Stored>),
    /// In the segment that is written.
    Tail(SharedSegment, ChunkAt),
    /// In a closed segment (number, generation), at this lane and number.
    Closed((u64, u32), Lane, u64),
    /// In memory, in a moment.
    Soon(Duration),
    Nothing,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, at: [At::default(); 3], head: None, loading: None, names: Names::default() }
    }

    /// Begins again with the oldest record that is not delivered.
    pub fn rewind(&mut self) {
        self.at = [At::default(); 3];
        self.shared.lock().rewritten = None;
    }

    /// Whether it has passed by a segment that was rewritten since, so that only [`Reader::rewind`] brings what is in it.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let rewritten = self.shared.lock().rewritten;
        rewritten.is_some_and(|number| self.at.iter().any(|at| at.segment > number))
    }

    /// The next records, or waits until there are some. What it gave is not given again until [`Reader::rewind`]. The
    /// segment of a [`Stored`] that is still held somewhere is not evicted. Cancel-safe.
    ///
    /// # Errors
    /// When a segment cannot be read now; damage is no error.
    pub async fn next(&mut self) -> Result<Arc<Stored>, ReadError> {
        self.next_of(&Lane::ALL).await
    }

    /// The same, of the alarm lane only: for whoever still holds records of another lane. Cancel-safe.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub async fn next_alarms(&mut self) -> Result<Arc<Stored>, ReadError> {
        self.next_of(&[Lane::Alarm]).await
    }

    async fn next_of(&mut self, lanes: &[Lane]) -> Result<Arc<Stored>, ReadError> {
        let shared = Arc::clone(&self.shared);
        loop {
            let notified = shared.readable.notified();
            match self.find(lanes) {
                Next::Ready(stored) => return Ok(stored),
                Next::Tail(segment, at) => {
                    if let Some(stored) = self.read_tail(&segment, at) {
                        return Ok(stored);
                    }
                }
                Next::Closed(segment, lane, seq) => {
                    if self.head.as_ref().is_none_or(|head| head.segment != segment) {
                        self.load(segment).await?;
                    }
                    if let Some(stored) = self.read_head(lane, seq) {
                        return Ok(stored);
                    }
                }
                Next::Soon(left) => {
                    self.head = None;
                    // Whatever else comes meanwhile finds its permit.
                    tokio::time::sleep(left).await;
                }
                Next::Nothing => {
                    if lanes.contains(&Lane::Raw) {
                        self.head = None;
                    }
                    notified.await;
                }
            }
        }
    }

    fn find(&mut self, lanes: &[Lane]) -> Next {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let mut is_leaving = false;
        for &lane in lanes {
            let from = self.at[lane.index()];
            let mut left_out = false;
            for (&segment, info) in state.segments.range(from.segment..) {
                let number = from.number_in(segment, info);
                let Some(seq) = info.first_missing(lane, number) else { continue };
                if info.leaving {
                    // In a moment it is gone, or given after all: its writer says which.
                    left_out = true;
                    break;
                }
                if let Some((first, batch)) = state.memory.find(segment, lane, seq) {
                    let next = first + batch.len() as u64;
                    self.at[lane.index()] = At::behind(segment, info, next);
                    return Next::Ready(Arc::new(info.stored(lane, first, batch, number)));
                }
                let tail = state.tail.as_ref().filter(|tail| tail.number == segment);
                let Some(tail) = tail else { return Next::Closed((segment, info.entry.generation), lane, seq) };
                let found = tail.index.iter().find(|at| at.lane == lane && (at.first..=at.last).contains(&seq));
                match found {
                    Some(at) => return Next::Tail(tail.segment.clone(), *at),
                    // The index covers all that the entry's range covers.
                    None => continue,
                }
            }
            // All segments have nothing more of this lane: the next search begins with the newest.
            if let Some((&newest, info)) = state.segments.last_key_value().filter(|(newest, _)| **newest > from.segment)
                && !left_out
            {
                self.at[lane.index()] = At::behind(newest, info, from.number_in(newest, info));
            }
            is_leaving |= left_out;
        }
        if is_leaving || !lanes.contains(&Lane::Raw) { Next::Nothing } else { self.find_held(&mut state) }
    }

    /// Records that are not stored yet, behind all that are.
    fn find_held(&mut self, state: &mut State) -> Next {
        let at = &mut self.at[Lane::Raw.index()];
        let from = if at.of_this_run { at.number } else { 0 };
        match state.give(from, clock::instant()) {
            Held::Ready { first, batch, delivered, pin } => {
                let newest = state.segments.keys().next_back().copied().unwrap_or_default();
                let segment = newest.max(self.shared.first_segment);
                *at = At { segment, generation: 0, number: first + batch.len() as u64, of_this_run: true };
                Next::Ready(Arc::new(Stored::held(&self.shared.run, first, batch, (&delivered, from), pin)))
            }
            Held::Begin => {
                self.shared.wake_writer();
                Next::Nothing
            }
            Held::Soon(left) => Next::Soon(left),
            Held::Nothing => Next::Nothing,
        }
    }

    /// Reads a chunk of the segment that is being written.
    fn read_tail(&mut self, segment: &SharedSegment, at: ChunkAt) -> Option<Arc<Stored>> {
        let range = Range { first: at.first, last: at.last };
        let number = self.tail_number(segment);
        let mut parts = Vec::new();
        for part in 0..at.parts {
            match segment.get(at.tree, Key { lane: Some(at.lane), number: at.first, part }) {
                Ok(Some(value)) => parts.push(value),
                Ok(None) => return self.lose_tail(number, at.lane, range, "a value is missing"),
                Err(error) => return self.lose_tail(number, at.lane, range, &error.to_string()),
            }
        }
        match decode(&parts, &mut self.names) {
            Ok(batch) => self.give((number, 0), at.lane, at.first, batch),
            Err(error) => self.lose_tail(number, at.lane, range, &error.to_string()),
        }
    }

    fn tail_number(&self, segment: &SharedSegment) -> u64 {
        segment.path().file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or_default()
    }

    fn lose_tail(&mut self, number: u64, lane: Lane, range: Range, why: &str) -> Option<Arc<Stored>> {
        error!(segment = number, first = range.first, last = range.last, "records cannot be read back: {why}");
        lose(&self.shared, (number, 0), &[(lane, range)]);
        None
    }

    /// Makes records ready to be given, if their segment is still there.
    fn give(&mut self, segment: (u64, u32), lane: Lane, first: u64, batch: Batch) -> Option<Arc<Stored>> {
        let (number, generation) = segment;
        let state = self.shared.lock();
        let info = state.segments.get(&number).filter(|info| !info.leaving && info.entry.generation == generation)?;
        let from = self.at[lane.index()].number_in(number, info);
        self.at[lane.index()] = At::behind(number, info, first + batch.len() as u64);
        Some(Arc::new(info.stored(lane, first, Arc::new(batch), from)))
    }

    /// Loads a closed segment, and settles what of it is damaged.
    async fn load(&mut self, segment: (u64, u32)) -> Result<(), ReadError> {
        let (number, generation) = segment;
        self.head = None;
        if self.loading.as_ref().is_none_or(|(loading, _)| *loading != segment) {
            let path = recovery::segment_path(&self.shared.directory, number, generation);
            let keys = self.shared.keys.clone();
            self.loading = Some((segment, tokio::task::spawn_blocking(move || load_head(segment, &path, &keys))));
        }
        let Some((_, loading)) = &mut self.loading else { return Ok(()) };
        let loaded = loading.await;
        self.loading = None;
        let head = match loaded {
            Ok(Ok(head)) => head,
            Ok(Err(SegmentError::Damaged { reason, .. })) => {
                Head { segment, values: Vec::new(), whole: Vec::new(), holes: Vec::new(), damage: Some(reason) }
            }
            // The keys that the manifest names were all there at the start: this one's header says something else.
            Ok(Err(error @ (SegmentError::Format { .. } | SegmentError::Key { .. }))) => Head {
                segment,
                values: Vec::new(),
                whole: Vec::new(),
                holes: Vec::new(),
                damage: Some(error.to_string()),
            },
            Ok(Err(error)) => {
                // Evicted, released or rewritten in the meantime: nothing is wrong.
                if !self.shared.lock().holds(segment) {
                    return Ok(());
                }
                return Err(error.into());
            }
            Err(_) => return Err(ReadError::Interrupted),
        };
        self.settle_damage(&head);
        self.head = Some(head);
        Ok(())
    }

    /// Compares what was read with what the manifest promises.
    fn settle_damage(&self, head: &Head) {
        let mut lost = Vec::new();
        let (number, generation) = head.segment;
        let of_head = |info: &&mut SegmentState| info.entry.generation == generation;
        if let Some(info) = self.shared.lock().segments.get_mut(&number).filter(of_head) {
            // The cursor has them too, unless it had to be cut.
            head.holes.iter().for_each(|(lane, hole)| info.settle_hole(*lane, *hole));
            for lane in Lane::ALL {
                if let Some(range) = info.entry.lanes[lane.index()] {
                    let progress = info.progress[lane.index()].as_ref();
                    let missing = holes::lost_in(&head.whole, &head.holes, (lane, range), progress);
                    lost.extend(missing.into_iter().map(|range| (lane, range)));
                }
            }
        }
        if lost.is_empty() {
            return;
        }
        let why = head.damage.as_deref().unwrap_or("it holds less than was stored");
        let records: u64 = lost.iter().map(|(_, range)| range.count()).sum();
        error!(segment = number, records, "a segment of the outbox is damaged and goes to quarantine: {why}");
        lose(&self.shared, head.segment, &lost);
    }

    /// The records at `seq` of the loaded segment.
    fn read_head(&mut self, lane: Lane, seq: u64) -> Option<Arc<Stored>> {
        let head = self.head.as_ref()?;
        let segment @ (number, _) = head.segment;
        let key = Key { lane: Some(lane), number: seq, part: u8::MAX };
        let after = head.values.partition_point(|(at, _)| *at <= key);
        let first = head.values[..after].last().filter(|(at, _)| at.lane == Some(lane)).map(|(at, _)| at.number);
        let parts: Vec<&[u8]> = head.values[..after]
            .iter()
            .rev()
            .take_while(|(at, _)| at.lane == Some(lane) && Some(at.number) == first)
            .map(|(_, value)| value.as_slice())
            .collect();
        let parts: Vec<&[u8]> = parts.into_iter().rev().collect();
        let batch = decode(&parts, &mut self.names).ok();
        match (first, batch) {
            (Some(first), Some(batch)) if first + batch.len() as u64 > seq => self.give(segment, lane, first, batch),
            _ => {
                // The checksums were right when it was loaded, so this is a chunk that its writer wrote wrong.
                error!(segment = number, seq, "a record of the outbox cannot be decoded");
                lose(&self.shared, segment, &[(lane, Range { first: seq, last: seq })]);
                None
            }
        }
    }
}

fn decode<V: AsRef<[u8]>>(parts: &[V], names: &mut Names) -> Result<Batch, chunk::ChunkError> {
    let parts = parts.iter().map(|part| chunk::open(part.as_ref())).collect::<Result<Vec<_>, _>>()?;
    chunk::decode(&parts, names)
}

/// Reads a closed segment whole, once whoever has it open has closed it.
pub(crate) fn load(path: &Path, keys: &Keys) -> Result<Contents, SegmentError> {
    let mut attempts = 0;
    loop {
        match segment::load(path, keys) {
            Err(SegmentError::Locked { .. }) if attempts < LOCKED_ATTEMPTS => {
                attempts += 1;
                std::thread::sleep(LOCKED_PAUSE);
            }
            other => return other,
        }
    }
}

fn load_head(segment: (u64, u32), path: &Path, keys: &Keys) -> Result<Head, SegmentError> {
    let contents = load(path, keys)?;
    let whole = whole(&contents);
    let holes = holes::of_segment(&contents);
    Ok(Head { segment, values: contents.values, whole, holes, damage: contents.damage })
}

/// The keys of the chunks that are all there and undamaged, with their numbers of records.
pub(crate) fn whole(contents: &Contents) -> Vec<(Key, usize)> {
    let mut whole = Vec::new();
    let mut values = contents.values.iter().peekable();
    while let Some((key, value)) = values.next() {
        let opened = match chunk::open(value) {
            Ok(opened) => opened,
            Err(error) => {
                warn!(?key, "a chunk of the outbox is damaged: {error}");
                continue;
            }
        };
        let mut good = key.part == 0;
        for part in 1..opened.parts {
            let next =
                values.next_if(|(next, _)| next.lane == key.lane && next.number == key.number && next.part == part);
            good &= next.is_some_and(|(_, value)| chunk::open(value).is_ok());
        }
        if good {
            whole.push((*key, opened.count));
        }
    }
    whole
}

/// Settles numbers that cannot be read any more: counted, declared, and the segment marked.
pub(crate) fn lose(shared: &Shared, (number, generation): (u64, u32), lost: &[(Lane, Range)]) {
    let mut batch = Batch::default();
    {
        let mut guard = shared.lock();
        let state: &mut State = &mut guard;
        // What is being given up is counted as that.
        let there = |segment: &&mut SegmentState| !segment.leaving && segment.entry.generation == generation;
        let Some(segment) = state.segments.get_mut(&number).filter(there) else { return };
        for &(lane, range) in lost {
            let news = (range.first..=range.last).filter(|&seq| segment.settle(lane, seq)).count() as u64;
            if news == 0 {
                continue;
            }
            segment.entry.damaged = true;
            shared.damaged[lane.index()].add(news);
            batch.records.push(Record::Gap(Box::new(Gap {
                stream: Arc::clone(&segment.streams[lane.index()]),
                from: range.first,
                to: range.last,
                count: news,
                cause: "damaged".into(),
                replaced_by: None,
                at: clock::stamp(),
            })));
        }
        state.cursor_changed = true;
        state.release = true;
        if batch.is_empty() {
            return;
        }
        // Until that is durable the segment stays, and no cursor says that they are settled.
        let declared = shared.append_to(state, Append { raw: Some(&mut batch), ..Append::default() });
        if let Some(segment) = state.segments.get_mut(&number) {
            segment.gap_at = declared;
        }
    }
}
