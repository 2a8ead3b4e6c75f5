//! One commit: what goes into it, and what is said once it is durable.

use super::*;

impl Writer {
    pub(super) fn try_commit(
        &mut self,
        shared: &Arc<Shared>,
        block: &mut Block,
        cursor_must: bool,
    ) -> Result<(), CommitError> {
        let chunks = self.cut(block);
        let first = block.first.unwrap_or(self.next);
        self.make_room_for_commit(shared, &chunks, first)?;
        let first_of_segment = self.commits == 0;
        let receipts = self.receipts(shared, block, first_of_segment);
        let skipped = self.skipped(&chunks, first);
        let cursor = self.cursor(shared, first_of_segment || cursor_must, &skipped, block.number);
        let has_cursor = cursor.is_some();
        let journal = self.journal(block).map_err(CommitError::Journal)?;
        let has_journal = !journal.is_empty();
        let mut extras = Extras { commit: self.commits, receipts, cursor, journal, skipped };
        let values = self.seal(&chunks, first, &mut extras);
        let tree = match self.store(shared, &values) {
            Ok(tree) => tree,
            Err(error) => {
                shared.lock().cursor_changed |= has_cursor;
                return Err(error);
            }
        };
        self.commits += 1;
        self.counts.commits.add(1);
        shared.lock().hold.receipts_stored(&extras.receipts, first_of_segment);
        self.announce(shared, block, &chunks, (first, &extras.skipped), tree);
        if has_journal {
            self.journal_from.get_or_insert(self.keep_from);
        }
        if has_cursor {
            self.cursor_stored = Some(clock::instant());
        }
        Ok(())
    }

    /// The numbers that lie between the last record of a lane in this segment and the first of this commit: they were
    /// delivered without being stored.
    fn skipped(&self, chunks: &[(Lane, Vec<Chunk>)], first: [u64; 3]) -> Vec<(u8, u64, u64)> {
        let lanes = chunks.iter().map(|(lane, _)| *lane);
        lanes
            .filter(|lane| first[lane.index()] > self.next[lane.index()])
            .map(|lane| (lane.index_byte(), self.next[lane.index()], first[lane.index()] - 1))
            .collect()
    }

    /// What the rules' state took in with this block.
    fn journal(&mut self, block: &Block) -> std::io::Result<Vec<JournalPart>> {
        if block.journal.pieces.is_empty() {
            return Ok(Vec::new());
        }
        let parts = self.cutter.journal(block.journal.first, block.journal.last, &block.journal.pieces)?;
        self.counters.add(Count::JournalBytes, "", parts.iter().map(|part| part.data.len() as u64).sum());
        Ok(parts)
    }

    /// Cuts the block's records into chunks, by lane. A record that no chunk can hold becomes a dead letter.
    pub(super) fn cut(&mut self, block: &mut Block) -> Vec<(Lane, Vec<Chunk>)> {
        let mut cut = Vec::new();
        for lane in Lane::ALL {
            let batch = &mut block.batches[lane.index()];
            while !batch.is_empty() {
                match self.cutter.cut(batch) {
                    Ok(chunks) => {
                        cut.push((lane, chunks));
                        break;
                    }
                    Err(TooLarge { index, bytes }) => {
                        self.counters.add(Count::Rejected, Reason::TooLarge.as_str(), 1);
                        batch.records[index] = too_large(&batch.records[index], bytes);
                    }
                }
            }
        }
        cut
    }

    /// Remembers the block's receipts, and gives those that belong into this commit: all that are remembered where the
    /// commit is a segment's first, because only the newest segment is read at a start.
    pub(super) fn receipts(&self, shared: &Shared, block: &Block, all: bool) -> Vec<(String, Vec<u16>, Vec<u64>)> {
        let mut by_session: Vec<(String, Vec<u16>, Vec<u64>)> = Vec::new();
        let mut add = |session: &Name, receipt: &Receipt| {
            let at = by_session.iter().position(|(name, ..)| **name == **session).unwrap_or_else(|| {
                by_session.push((session.to_string(), Vec::new(), Vec::new()));
                by_session.len() - 1
            });
            by_session[at].1.push(receipt.packet_id);
            by_session[at].2.push(receipt.hash);
        };
        let state = shared.lock();
        if all {
            for (session, receipts) in state.receipts.durable() {
                receipts.iter().for_each(|receipt| add(session, receipt));
            }
        }
        // Messages that were released since the last commit come before those of this one.
        let unstored: &[(Name, Receipt)] = if all { &[] } else { &state.hold.unstored };
        // The broker has at most so many unacknowledged: older ones are acknowledged, or it would not have sent these.
        let mut counts: Vec<(&Name, usize)> = Vec::new();
        let newest: Vec<_> = unstored
            .iter()
            .chain(&block.receipts)
            .rev()
            .filter(|(session, _)| {
                let at = counts.iter().position(|(name, _)| *name == session).unwrap_or_else(|| {
                    counts.push((session, 0));
                    counts.len() - 1
                });
                counts[at].1 += 1;
                counts[at].1 <= shared.receipts_max()
            })
            .collect();
        newest.into_iter().rev().for_each(|(session, receipt)| add(session, receipt));
        by_session
    }

    /// The cursor, if it has changed and belongs into this commit.
    pub(super) fn cursor(
        &self,
        shared: &Shared,
        must: bool,
        skipped: &[(u8, u64, u64)],
        number: u64,
    ) -> Option<Vec<CursorEntry>> {
        let mut state = shared.lock();
        let committing = state.hold.committing.as_ref().and_then(|committing| committing.progress.as_ref());
        let must = must || committing.is_some() || !skipped.is_empty();
        if !state.cursor_changed && !must {
            return None;
        }
        let mut entries = cursor_entries(&state, number);
        if let Some((number, tail)) = state.segments.iter().next_back().filter(|_| committing.is_some()) {
            // What of this commit is delivered already, and what it skips, counts with it.
            let raw = Lane::Raw.index();
            let first = tail.entry.lanes[raw].map_or(self.next[raw], |range| range.first);
            let mut progress = tail.progress[raw].clone().unwrap_or_else(|| Progress::new(first));
            skipped.iter().for_each(|(_, from, to)| progress.deliver_range(*from, *to));
            committing.into_iter().for_each(|delivered| progress.merge(delivered));
            entries.retain(|entry| (entry.segment, entry.lane) != (*number, Lane::Raw.index_byte()));
            entries.push(cursor_entry(&progress, (*number, tail.entry.generation), Lane::Raw));
        }
        let bytes: usize = entries.iter().map(|entry| 16 + entry.above.len()).sum();
        let due = remaining(self.cursor_stored, CURSOR_INTERVAL, clock::instant()).is_zero();
        (must || due || bytes <= CURSOR_BYTES_SMALL).then(|| {
            state.cursor_changed = false;
            entries
        })
    }

    /// Numbers the chunks and puts the extras with the last of them, or beside it where they do not fit.
    pub(super) fn seal(
        &self,
        chunks: &[(Lane, Vec<Chunk>)],
        first: [u64; 3],
        extras: &mut Extras,
    ) -> Vec<(Key, Vec<u8>)> {
        let mut values = Vec::new();
        let mut notes = Vec::new();
        let wanted = !extras.receipts.is_empty()
            || extras.cursor.is_some()
            || !extras.journal.is_empty()
            || !extras.skipped.is_empty();
        let last = chunks.last().and_then(|(_, chunks)| chunks.last());
        let mut encoded = encode_extras(extras);
        if wanted && !last.is_some_and(|chunk| chunk.has_room(encoded.len())) {
            notes = split_extras(extras);
            encoded = Vec::new();
        }
        for (lane, chunks) in chunks {
            for (at, chunk) in chunks.iter().enumerate() {
                let number = first[lane.index()] + chunk.first as u64;
                let is_last = at + 1 == chunks.len() && last.is_some_and(|last| std::ptr::eq(last, chunk));
                let extras: &[u8] = if is_last && wanted { &encoded } else { &[] };
                values.push((Key { lane: Some(*lane), number, part: chunk.part }, chunk.seal(extras)));
            }
        }
        for (piece, note) in (0_u64..).zip(&notes) {
            // A cursor over thousands of segments, or the receipts of many sessions, take more pieces than a key has parts.
            let key = Key { lane: None, number: (self.commits << NOTE_PIECE_BITS) + piece, part: 0 };
            values.push((key, Chunk::empty().seal(&encode_extras(note))));
        }
        values
    }

    /// Makes the values durable. After an error the segment is given up; the manifest will seal it where it stood.
    pub(super) fn store(&mut self, shared: &Shared, values: &[(Key, Vec<u8>)]) -> Result<u64, CommitError> {
        let Some(segment) = &mut self.segment else {
            return Err(CommitError::Manifest(std::io::ErrorKind::NotFound.into()));
        };
        let stored = segment.commit(values);
        if stored.is_err() {
            self.segment = None;
            shared.lock().tail = None;
        }
        let bytes: usize = values.iter().map(|(_, value)| value.len()).sum();
        self.payload_bytes += bytes as u64;
        self.counts.bytes.add(bytes as u64);
        Ok(stored?)
    }

    /// Everything in the block is durable: says so to who waits for it.
    pub(super) fn announce(
        &mut self,
        shared: &Shared,
        block: &mut Block,
        chunks: &[(Lane, Vec<Chunk>)],
        (numbers, skipped): ([u64; 3], &[(u8, u64, u64)]),
        tree: u64,
    ) {
        let mut guard = shared.lock();
        let state = &mut *guard;
        let number = state.tail.as_ref().map_or(0, |tail| tail.number);
        for (lane, chunks) in chunks {
            let lane = *lane;
            let batch = Arc::new(std::mem::take(&mut block.batches[lane.index()]));
            let first = numbers[lane.index()];
            let count = batch.len() as u64;
            let Some(segment) = state.segments.get_mut(&number) else { continue };
            let fresh = segment.entry.lanes[lane.index()].is_none();
            // The range begins where the segment does, whether or not what it begins with was skipped.
            let start = self.next[lane.index()];
            segment.entry.lanes[lane.index()].get_or_insert(Range { first: start, last: start }).last =
                first + count - 1;
            let declares =
                batch.records.iter().zip(first..).filter_map(|(record, seq)| Some((seq, Declared::of(record)?)));
            segment.entry.declares.extend(declares);
            segment.entry.stored(lane, &batch, fresh);
            segment.entry.sizes[lane.index()] += chunks.iter().map(|chunk| chunk.bytes() as u64).sum::<u64>();
            if let Some(tail) = &mut state.tail {
                tail.index.extend(chunks.iter().filter(|chunk| chunk.part == 0).map(|chunk| ChunkAt {
                    lane,
                    first: first + chunk.first as u64,
                    last: first + (chunk.first + chunk.count) as u64 - 1,
                    parts: chunk.parts(),
                    tree,
                }));
            }
            state.pending_records -= count;
            state.pending_lanes[lane.index()] -= count;
            self.next[lane.index()] = first + count;
            self.counts.committed[lane.index()].add(count);
            state.memory.push(number, lane, first, batch, shared.settings().memory_tail_bytes);
        }
        if let Some(segment) = state.segments.get_mut(&number) {
            for &(lane, first, last) in skipped {
                let lane = Lane::from_byte(lane).unwrap_or(Lane::Raw);
                segment.settle_hole(lane, Range { first, last });
            }
            if let Some(committing) = state.hold.committing.take() {
                let raw = Lane::Raw.index();
                if let (Some(delivered), Some(range)) = (committing.progress, segment.entry.lanes[raw]) {
                    segment.progress[raw].get_or_insert_with(|| Progress::new(range.first)).merge(&delivered);
                }
                segment.pins.retain(|pin| Arc::strong_count(pin) > 1);
                segment.pins.extend(committing.pins);
            }
        }
        if chunks.iter().any(|(lane, _)| *lane == Lane::Raw) {
            state.hold.committed(numbers[Lane::Raw.index()], clock::instant());
        }
        state.receipts.settle(std::mem::take(&mut block.receipts), shared.receipts_max(), block.number);
        if let (Some(segment), Some(open)) = (state.segments.get_mut(&number), &self.segment) {
            segment.entry.bytes = open.disk_bytes();
        }
        state.release |= state.gaps;
        // Before anybody reads them: what is given is announced.
        shared.announce(block.number);
        drop(guard);
        self.keep_from = number;
        if block.number >= self.declared_at {
            self.manifest.declared.clear();
        }
        self.write_witness(shared, number);
        // Kept as a permit if nobody waits just now.
        shared.readable.notify_one();
    }

    pub(super) fn write_witness(&mut self, shared: &Shared, segment: u64) {
        if self.witness.is_none() {
            self.witness = Witness::open(&shared.directory).ok();
        }
        let last = self.next.map(|next| next - 1);
        let written = self.witness.as_ref().map(|witness| witness.write(Witnessed { segment, last }));
        if let Some(Err(error)) = written
            && let Some(suppressed) = self.trouble.pass(clock::instant())
        {
            warn!(suppressed, "damage of the newest segment may go unnoticed, its witness cannot be written: {error}");
        }
    }
}

/// How far all segments are delivered that are partly delivered, for the commit of the appends up to `upto`: what was lost
/// is not settled before what declares it.
pub(super) fn cursor_entries(state: &State, upto: u64) -> Vec<CursorEntry> {
    let mut entries = Vec::new();
    // That a kept segment is delivered stands in the manifest.
    let told = |segment: &SegmentState| segment.entry.delivered.is_none() && segment.gap_at <= upto;
    for (number, segment) in state.segments.iter().filter(|(_, segment)| told(segment)) {
        for lane in Lane::ALL {
            let Some(progress) = segment.progress[lane.index()].as_ref().filter(|progress| progress.count() > 0) else {
                continue;
            };
            entries.push(cursor_entry(progress, (*number, segment.entry.generation), lane));
        }
    }
    entries
}

fn cursor_entry(progress: &Progress, (segment, generation): (u64, u32), lane: Lane) -> CursorEntry {
    let mut entry = progress.entry(segment, generation, lane.index_byte());
    if entry.above.len() > CURSOR_ABOVE_BYTES_MAX {
        entry.above = Vec::new();
    }
    entry
}

pub(super) fn encode_extras(extras: &Extras) -> Vec<u8> {
    // Encoding into memory does not fail for maps and sequences of known length.
    record::to_cbor(extras).unwrap_or_default()
}

/// Cuts extras into pieces that each fit into a value.
pub(super) fn split_extras(extras: &mut Extras) -> Vec<Extras> {
    /// A receipt takes at most 12 bytes, so this many and a session's name fit into 6 KiB.
    const RECEIPTS: usize = 400;
    let mut pieces = Vec::new();
    let commit = extras.commit;
    let piece = || Extras { commit, ..Extras::default() };
    for part in extras.journal.drain(..) {
        pieces.push(Extras { journal: vec![part], ..piece() });
    }
    if !extras.skipped.is_empty() {
        pieces.push(Extras { skipped: extras.skipped.clone(), ..piece() });
    }
    for (session, ids, hashes) in &extras.receipts {
        for (ids, hashes) in ids.chunks(RECEIPTS).zip(hashes.chunks(RECEIPTS)) {
            pieces.push(Extras { receipts: vec![(session.clone(), ids.to_vec(), hashes.to_vec())], ..piece() });
        }
    }
    if let Some(cursor) = extras.cursor.take() {
        // A piece whose cursor is there supersedes older cursors; the further pieces of it add to it.
        let mut current: Vec<CursorEntry> = Vec::new();
        let mut bytes = 0;
        for entry in cursor {
            let size = 80 + entry.above.len();
            if bytes + size > 5 * 1024 {
                pieces.push(Extras { cursor: Some(std::mem::take(&mut current)), ..piece() });
                bytes = 0;
            }
            bytes += size;
            current.push(entry);
        }
        pieces.push(Extras { cursor: Some(current), ..piece() });
    }
    pieces
}

/// What stands for a record that is too large to be stored.
pub(super) fn too_large(record: &Record, bytes: usize) -> Record {
    let (source, profile): (Name, Option<Name>) = match record {
        Record::Reading(reading) => (Arc::clone(&reading.device), Some(Arc::clone(&reading.profile))),
        _ => ("tidegate".into(), None),
    };
    Record::DeadLetter(Box::new(DeadLetter {
        source,
        origin: "".into(),
        profile,
        received: record.received(),
        stage: Stage::Outbox,
        reason: Reason::TooLarge,
        detail: format!("the record takes {bytes} bytes after compression, more than the outbox stores").into(),
        length: bytes as u64,
        payload: Box::default(),
    }))
}
