//! Room on the disk: beginning a segment, replacing some by what stands for them, releasing those that are delivered.

use super::*;

impl Writer {
    /// Sees to it that there is a segment with room.
    pub(super) fn make_room_for_commit(
        &mut self,
        shared: &Arc<Shared>,
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
        let limit = shared.settings().segment_bytes;
        let full =
            |segment: &Segment| self.payload_bytes >= limit || segment.disk_bytes() >= 2 * limit.max(DISK_STEP_BYTES);
        self.segment.as_ref().is_none_or(full)
    }

    /// Begins a segment whose lanes start with these numbers.
    pub(super) fn roll(&mut self, shared: &Arc<Shared>, starts: [u64; 3]) -> Result<(), CommitError> {
        self.make_room(shared)?;
        self.manifest.reserve(&shared.directory).map_err(CommitError::Reserve)?;
        let number = self.manifest.next;
        let path = recovery::segment_path(&shared.directory, number, 0);
        // Left by an attempt that failed half way; no manifest names it.
        if path.exists() {
            fs::remove_dir_all(&path).map_err(CommitError::Manifest)?;
        }
        let segment = match Segment::create(&path, &self.run, &shared.keys) {
            Ok(segment) => segment,
            Err(error) => {
                // Half a segment that no manifest names; its number is used again.
                let _ = fs::remove_dir_all(&path);
                return Err(error.into());
            }
        };
        let entry = Entry {
            number,
            run: self.run.to_string(),
            starts,
            bytes: segment.disk_bytes(),
            key: segment.key_id(),
            ..Entry::default()
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
        let empty = newer.filter(|(_, segment)| segment.entry.lanes == [None; 3] && !segment.entry.damaged);
        empty.map(|(number, _)| *number).collect()
    }

    /// The manifest as it should be now.
    pub(super) fn current_manifest(&self, state: &State) -> Manifest {
        let segments = state.segments.values().map(|segment| segment.entry.clone()).collect();
        Manifest { segments, ..self.manifest.clone() }
    }

    /// Takes segments out of the manifest, with what is to be declared about them and what stands for them, and deletes
    /// them. They are `leaving` already, so that nothing of them is given while the manifest is replaced.
    pub(super) fn replace(
        &mut self,
        shared: &Shared,
        numbers: &[u64],
        entry: Option<Entry>,
        gaps: &[Declared],
    ) -> Result<(), CommitError> {
        let state = shared.lock();
        let leaving = numbers.iter().filter_map(|number| state.segments.get(number));
        let old: Vec<_> = leaving.map(|segment| (segment.id(), segment.entry.damaged)).collect();
        let mut manifest = self.current_manifest(&state);
        drop(state);
        manifest.segments.retain(|entry| !numbers.contains(&entry.number));
        let at = entry.as_ref().map_or(0, |new| manifest.segments.partition_point(|entry| entry.number < new.number));
        manifest.segments.splice(at..at, entry.clone());
        for gap in gaps {
            declare(&mut manifest.declared, gap.clone());
        }
        let written = manifest.write(&shared.directory);
        let mut state = shared.lock();
        if written.is_ok() {
            state.segments.retain(|number, _| !numbers.contains(number));
            state.memory.drop_segments(numbers);
            if let Some(entry) = entry {
                state.rewritten = Some(state.rewritten.map_or(entry.number, |other| other.min(entry.number)));
                state.segments.insert(entry.number, SegmentState::new(entry));
            }
        } else {
            state.each(numbers.iter().copied(), |segment| segment.leaving = false);
        }
        drop(state);
        shared.readable.notify_one();
        written.map_err(CommitError::Manifest)?;
        self.manifest = manifest;
        if !gaps.is_empty() {
            self.declare_later(shared, gaps);
        }
        for (segment, damaged) in old {
            self.delete(shared, segment, damaged);
        }
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

    /// Deletes the closed segments of which nothing is left to deliver, all with one new manifest, but for those that are
    /// kept; gives how many.
    pub(super) fn release(&mut self, shared: &Shared) -> Result<usize, CommitError> {
        // The cursor is never only in what goes: each segment's first commit carries it, and the newest stays.
        let done = self.to_release(shared);
        if !done.is_empty() {
            self.replace(shared, &done, None, &[])?;
        }
        self.keep_delivered(shared)?;
        Ok(done.len())
    }
}

pub(super) fn stored_bytes(state: &State) -> u64 {
    state.segments.values().map(|segment| segment.entry.bytes).sum()
}

/// Whether one more segment fits below the bounds. Asks the file system, so it takes the lock itself.
pub(super) fn has_room(shared: &Shared) -> bool {
    let leaves_enough = leaves_enough(shared, one_more(shared));
    let state = shared.lock();
    let within = stored_bytes(&state) + beside_segments(&state, shared) <= shared.settings().size_max;
    (within && leaves_enough) || state.segments.is_empty()
}

/// What one more segment takes at most.
fn one_more(shared: &Shared) -> u64 {
    let limit = shared.settings().segment_bytes + shared.settings().segment_bytes / 16;
    (limit + SEGMENT_OVERHEAD_BYTES).next_multiple_of(DISK_STEP_BYTES)
}

/// What must be free beside the segments that there are.
pub(super) fn beside_segments(state: &State, shared: &Shared) -> u64 {
    // While a checkpoint is replaced there are two.
    one_more(shared) + reserve_bytes(state.segments.len() + 1) + 2 * state.checkpoint_bytes
}

/// Whether the file system keeps enough for others when `more` bytes are taken.
fn leaves_enough(shared: &Shared, more: u64) -> bool {
    let Ok(system) = rustix::fs::statvfs(&shared.directory) else { return true };
    let (free, all) = (system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize);
    let min_free = shared.settings().ladder.min_free.unwrap_or((all / 16).min(MIN_FREE_DEFAULT));
    min_free == 0 || free >= min_free + more
}

/// Adds a gap to those that wait to be declared; gaps of one stream that touch become one.
pub(super) fn declare(declared: &mut Vec<Declared>, gap: Declared) {
    if let Some((at, joined)) = declared.iter().enumerate().find_map(|(at, last)| Some((at, last.joined(&gap)?))) {
        declared[at] = joined;
    } else if declared.len() < DECLARED_MAX {
        declared.push(gap);
    }
}
