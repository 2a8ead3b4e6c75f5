//! Room on the disk: beginning a segment, releasing those that are delivered, giving up the oldest.

use super::*;

impl Writer {
    /// Sees to it that there is a segment with room.
    pub(super) fn make_room_for_commit(
        &mut self,
        shared: &Shared,
        chunks: &[(Lane, Vec<Chunk>)],
        first: [u64; 3],
    ) -> Result<(), CommitError> {
        let mut starts = self.next;
        chunks.iter().for_each(|(lane, _)| starts[lane.index()] = first[lane.index()]);
        let wide = starts.iter().zip(self.next).any(|(start, next)| start - next > HOLE_MAX);
        if self.must_roll(shared) || wide { self.roll(shared, starts) } else { Ok(()) }
    }

    /// Whether there is no segment, or a full one.
    pub(super) fn must_roll(&self, shared: &Shared) -> bool {
        let limit = shared.settings.segment_bytes;
        let full =
            |segment: &Segment| self.payload_bytes >= limit || segment.disk_bytes() >= 2 * limit.max(DISK_STEP_BYTES);
        self.segment.as_ref().is_none_or(full)
    }

    /// Begins a segment whose lanes start with these numbers.
    pub(super) fn roll(&mut self, shared: &Shared, starts: [u64; 3]) -> Result<(), CommitError> {
        self.keep_within_bound(shared)?;
        self.manifest.reserve(&shared.directory).map_err(CommitError::Reserve)?;
        let number = self.manifest.next;
        let path = recovery::segment_path(&shared.directory, number, 0);
        // Left by an attempt that failed half way; no manifest names it.
        if path.exists() {
            fs::remove_dir_all(&path).map_err(CommitError::Manifest)?;
        }
        let segment = match Segment::create(&path, &self.run) {
            Ok(segment) => segment,
            Err(error) => {
                // Half a segment that no manifest names; its number is used again.
                let _ = fs::remove_dir_all(&path);
                return Err(error.into());
            }
        };
        let entry = Entry {
            number,
            generation: 0,
            run: self.run.to_string(),
            lanes: [None; 3],
            starts,
            oldest_ms: None,
            bytes: segment.disk_bytes(),
            sealed: false,
            commits: None,
            declares: Vec::new(),
        };
        // Without this a disk that refuses first commits would fill up with segments that hold nothing.
        let abandoned;
        {
            let mut state = shared.lock();
            self.close_newest(&mut state);
            abandoned = self.without_commit(&state);
            let mut manifest = self.current_manifest(&state);
            manifest.segments.retain(|entry| !abandoned.contains(&entry.number));
            manifest.segments.iter_mut().for_each(|entry| entry.sealed = true);
            manifest.segments.push(entry.clone());
            manifest.next = number + 1;
            manifest.run = self.run.to_string();
            manifest.clean = false;
            manifest.holds = state.hold.enabled;
            drop(state);
            if let Err(error) = manifest.write(&shared.directory) {
                drop(segment);
                let _ = fs::remove_dir_all(&path);
                return Err(CommitError::Manifest(error));
            }
            self.manifest = manifest;
            state = shared.lock();
            state.segments.retain(|number, _| !abandoned.contains(number));
            state.segments.values_mut().for_each(|segment| segment.entry.sealed = true);
            state.release |= state.segments.values().any(|segment| segment.missing() == 0);
            let of_this_run = state.hold.enabled;
            state.segments.insert(number, SegmentState { of_this_run, ..SegmentState::new(entry) });
            state.hold.begun = true;
            state.tail = Some(Tail { number, segment: segment.shared(), index: Vec::new() });
            state.checkpoint_wanted = self.journal_from.map(|_| clock::instant());
        }
        (self.payload_bytes, self.commits, self.next) = (0, 0, starts);
        // Closing the old one takes a moment; nobody else waits for it.
        drop(self.segment.replace(segment));
        abandoned.into_iter().for_each(|number| self.delete(shared, (number, 0), false));
        Ok(())
    }

    /// Notes in the newest segment how many of its commits were announced. After a failed one it holds more.
    pub(super) fn close_newest(&self, state: &mut State) {
        if let Some((_, newest)) = state.segments.iter_mut().next_back().filter(|(_, newest)| !newest.entry.sealed) {
            newest.entry.commits = Some(self.commits);
        }
    }

    /// The oldest segment that a start needs whether or not something in it waits: the newest with a commit holds the
    /// cursor and the receipts, and those since the checkpoint hold the journal.
    pub(super) fn needed_from(&self, state: &State) -> u64 {
        [self.journal_from, state.left_from].into_iter().flatten().fold(self.keep_from, u64::min)
    }

    /// Segments whose first commit failed: nothing of them was ever announced.
    pub(super) fn without_commit(&self, state: &State) -> Vec<u64> {
        let newer = state.segments.range(self.keep_from + 1..);
        let empty = newer.filter(|(_, segment)| segment.entry.lanes == [None; 3] && !segment.damaged);
        empty.map(|(number, _)| *number).collect()
    }

    /// The manifest as it should be now.
    pub(super) fn current_manifest(&self, state: &State) -> Manifest {
        let segments = state.segments.values().map(|segment| segment.entry.clone()).collect();
        Manifest { segments, ..self.manifest.clone() }
    }

    /// Gives up the oldest segments until one more fits below the bound.
    pub(super) fn keep_within_bound(&mut self, shared: &Shared) -> Result<(), CommitError> {
        let max = shared.settings.size_max;
        loop {
            let state = shared.lock();
            if has_room(&state, shared) {
                return Ok(());
            }
            let old = || state.segments.range(..self.needed_from(&state));
            let done = old().find(|(_, segment)| segment.missing() == 0).map(|(number, _)| *number);
            if let Some(number) = done {
                self.remove(shared, state, number, &[])?;
                continue;
            }
            let victim = old().find(|(_, segment)| !segment.is_pinned()).map(|(number, _)| *number);
            match victim {
                Some(number) if shared.settings.when_full == crate::config::WhenFull::DropOldest => {
                    self.evict(shared, state, number)?;
                }
                _ => return Err(CommitError::Full { bytes: stored_bytes(&state), max }),
            }
        }
    }

    pub(super) fn evict(
        &mut self,
        shared: &Shared,
        state: MutexGuard<'_, State>,
        number: u64,
    ) -> Result<(), CommitError> {
        let Some(segment) = state.segments.get(&number) else { return Ok(()) };
        // Declarations that nobody has seen yet are made again, so they are not among what is given up.
        let raw = segment.progress[Lane::Raw.index()].as_ref();
        let unseen = segment.entry.declares.iter().filter(|(seq, _)| !raw.is_some_and(|raw| raw.is_delivered(*seq)));
        let mut gaps: Vec<Declared> = unseen.map(|(_, declared)| declared.clone()).collect();
        let mut repeated = gaps.len() as u64;
        let mut counts = [0; 3];
        for lane in Lane::ALL.into_iter().rev() {
            let missing = segment.missing_of(lane);
            // All declarations are in the raw lane.
            let count = missing - std::mem::take(&mut repeated).min(missing);
            counts[lane.index()] = count;
            if let (true, Some(range)) = (missing > 0, segment.entry.lanes[lane.index()]) {
                let from = segment.first_missing(lane, range.first).unwrap_or(range.first);
                let stream = segment.streams[lane.index()].to_string();
                let gap = Declared::Gap {
                    stream,
                    from,
                    to: range.last,
                    count,
                    cause: "evicted".to_owned(),
                    replaced_by: None,
                };
                declare(&mut gaps, gap);
            }
        }
        if let Some(suppressed) = self.trouble.pass(clock::instant()) {
            let records = segment.missing();
            warn!(segment = number, records, suppressed, "the outbox is full: the oldest records are given up");
        }
        self.remove(shared, state, number, &gaps)?;
        // Counted once it is done: an attempt that the disk refuses is made again.
        self.counts.evicted.iter().zip(counts).for_each(|(counter, count)| counter.add(count));
        Ok(())
    }

    /// Takes a segment out of the manifest, with what is to be declared about it, and deletes it.
    pub(super) fn remove(
        &mut self,
        shared: &Shared,
        mut state: MutexGuard<'_, State>,
        number: u64,
        gaps: &[Declared],
    ) -> Result<(), CommitError> {
        // It stays where it is until the manifest is replaced, so that a reader does not pass it by if that fails.
        let Some(segment) = state.segments.get_mut(&number) else { return Ok(()) };
        segment.leaving = true;
        let (damaged, generation) = (segment.damaged, segment.entry.generation);
        let mut manifest = self.current_manifest(&state);
        manifest.segments.retain(|entry| entry.number != number);
        for gap in gaps {
            declare(&mut manifest.declared, gap.clone());
        }
        drop(state);
        let written = manifest.write(&shared.directory);
        let mut state = shared.lock();
        if written.is_ok() {
            state.segments.remove(&number);
        } else if let Some(segment) = state.segments.get_mut(&number) {
            segment.leaving = false;
        }
        drop(state);
        shared.readable.notify_one();
        written.map_err(CommitError::Manifest)?;
        self.manifest = manifest;
        if !gaps.is_empty() {
            self.declare_later(shared, gaps);
        }
        self.delete(shared, (number, generation), damaged);
        // What was used of the reserve comes back with the first room; if not yet, the next segment asks for it.
        let _ = self.manifest.reserve(&shared.directory);
        Ok(())
    }

    /// The records that declare `gaps`, among those to be committed next.
    pub(super) fn declare_later(&mut self, shared: &Shared, gaps: &[Declared]) {
        let at = clock::stamp();
        let records = gaps.iter().map(|gap| gap.record(at)).collect();
        let mut batch = Batch { records, fields: Vec::new() };
        self.declared_at = shared.append(Append { raw: Some(&mut batch), ..Append::default() });
    }

    pub(super) fn delete(&mut self, shared: &Shared, (number, generation): (u64, u32), damaged: bool) {
        let path = recovery::segment_path(&shared.directory, number, generation);
        let done = if damaged {
            self.counts.quarantined.add(1);
            recovery::quarantine(&shared.directory, number, generation)
        } else {
            fs::remove_dir_all(&path)
        };
        if let Err(error) = done {
            // No manifest names it: the next start tries again.
            warn!("{} could not be removed: {error}", path.display());
        }
    }

    /// Deletes the closed segments of which nothing is left to deliver.
    pub(super) fn release(&mut self, shared: &Shared) -> Result<(), CommitError> {
        loop {
            let state = shared.lock();
            let mut old = state.segments.range(..self.needed_from(&state));
            let Some(number) = old.find(|(_, segment)| segment.missing() == 0).map(|(number, _)| *number) else {
                return Ok(());
            };
            // The cursor is never only in what goes: each segment's first commit carries it, and the newest stays.
            self.remove(shared, state, number, &[])?;
        }
    }
}

pub(super) fn stored_bytes(state: &State) -> u64 {
    state.segments.values().map(|segment| segment.entry.bytes).sum()
}

/// Whether one more segment fits below the bound.
pub(super) fn has_room(state: &State, shared: &Shared) -> bool {
    let limit = shared.settings.segment_bytes + shared.settings.segment_bytes / 16;
    let one_more = (limit + SEGMENT_OVERHEAD_BYTES).next_multiple_of(DISK_STEP_BYTES);
    let reserve = reserve_bytes(state.segments.len() + 1);
    // While a checkpoint is replaced there are two.
    let checkpoints = 2 * state.checkpoint_bytes;
    stored_bytes(state) + one_more + reserve + checkpoints <= shared.settings.size_max || state.segments.is_empty()
}

/// Adds a gap to those that wait to be declared; gaps of one stream that touch become one.
pub(super) fn declare(declared: &mut Vec<Declared>, gap: Declared) {
    if let Some((at, joined)) = declared.iter().enumerate().find_map(|(at, last)| Some((at, last.joined(&gap)?))) {
        declared[at] = joined;
    } else if declared.len() < DECLARED_MAX {
        declared.push(gap);
    }
}
