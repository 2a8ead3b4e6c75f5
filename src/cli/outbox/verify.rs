//! `tidegate outbox verify`: every chunk of every segment, and which of them are damaged.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::progress::Progress;
use super::{Failure, INCOMPLETE, Place, print_json};
use crate::outbox::Lane;
use crate::outbox::inspect::{Damaged, ManifestState, Piece, pieces};
use crate::outbox::manifest::{Entry, Range};
use crate::outbox::record::Names;
use crate::outbox::segment::{Contents, SegmentError};

/// The code where something could not be read for a reason that is not damage.
const UNREADABLE: u8 = 2;

/// The answer of `tidegate outbox verify --json`. Fields are only ever added.
#[derive(Debug, Default, Serialize)]
struct Verified {
    segments: u64,
    chunks: u64,
    records: u64,
    /// Segments that a running gateway delivered or rewrote meanwhile.
    gone: u64,
    /// Records that a running gateway stored meanwhile.
    not_yet_read: u64,
    manifest_damage: Option<String>,
    checkpoint_damage: Option<String>,
    damaged: Vec<DamagedRow>,
    unreadable: Vec<Unreadable>,
}

#[derive(Debug, Serialize)]
struct DamagedRow {
    segment: String,
    /// Null for what a commit carries along without records.
    lane: Option<&'static str>,
    from: u64,
    to: u64,
    records: u64,
    why: String,
}

#[derive(Debug, Serialize)]
struct Unreadable {
    segment: String,
    why: String,
}

/// A damaged chunk for a person.
pub(super) fn describe(segment: u64, damaged: &Damaged) -> String {
    let Range { first, last } = damaged.range;
    match damaged.lane {
        Some(lane) => format!(
            "segment {segment}, {} {first} to {last} ({} records): {}",
            lane.as_str(),
            damaged.range.count(),
            damaged.why
        ),
        None => format!("segment {segment}, note {first:x} (receipts, cursor or journal): {}", damaged.why),
    }
}

/// `tidegate outbox verify`.
pub(super) fn verify(place: &Place, quarantine: bool) -> Result<ExitCode, Failure> {
    let mut inspection = place.inspect()?;
    let numbers: Vec<u64> = inspection.segments.keys().copied().collect();
    let aside = if quarantine { inspection.quarantine() } else { Vec::new() };
    let mut verifier = Verifier {
        verified: Verified::default(),
        names: Names::default(),
        progress: Progress::new(numbers.len() + aside.len(), false),
        json: place.json,
    };
    verifier.verified.not_yet_read = inspection.not_yet_read;
    if let ManifestState::Rebuilt { why, found } = &inspection.manifest {
        verifier.line(&format!("the manifest is damaged: {why}; `tidegate outbox repair` makes it anew"))?;
        verifier.verified.manifest_damage = Some(why.clone());
        for ((number, _), why) in &found.damaged {
            verifier.damaged(number.to_string(), None, Range { first: 0, last: 0 }, why)?;
        }
    }
    verifier.verified.checkpoint_damage = inspection.checkpoint_damage();
    if let Some(why) = verifier.verified.checkpoint_damage.clone() {
        verifier.line(&format!("the checkpoint of the windows' state: {why}"))?;
    }
    for number in numbers {
        match inspection.load(number) {
            None => verifier.verified.gone += 1,
            Some(loaded) => {
                if let Some(segment) = inspection.segments.get(&number) {
                    verifier.segment(&segment.entry, loaded)?;
                }
            }
        }
        verifier.progress.advance();
    }
    for (path, _) in aside {
        verifier.quarantined(&path, inspection.load_quarantined(&path))?;
        verifier.progress.advance();
    }
    verifier.end()
}

struct Verifier {
    verified: Verified,
    names: Names,
    progress: Progress,
    json: bool,
}

impl Verifier {
    fn segment(&mut self, entry: &Entry, loaded: Result<Contents, SegmentError>) -> Result<(), Failure> {
        self.verified.segments += 1;
        let contents = match loaded {
            Ok(contents) => contents,
            Err(SegmentError::Damaged { reason, .. }) => {
                for lane in Lane::ALL {
                    if let Some(range) = entry.lanes[lane.index()] {
                        self.damaged(entry.number.to_string(), Some(lane), range, &reason)?;
                    }
                }
                if entry.lanes == [None; 3] {
                    self.damaged(entry.number.to_string(), None, Range { first: 0, last: 0 }, &reason)?;
                }
                return Ok(());
            }
            Err(error) => return self.unreadable(entry.number.to_string(), &error),
        };
        let mut names = std::mem::take(&mut self.names);
        for piece in pieces(entry, &contents, &mut names) {
            match piece {
                Piece::Records { batch, .. } => {
                    self.verified.chunks += 1;
                    self.verified.records += batch.len() as u64;
                }
                Piece::Damaged(Damaged { lane, range, why }) => {
                    self.damaged(entry.number.to_string(), lane, range, &why)?;
                }
            }
        }
        self.names = names;
        Ok(())
    }

    /// What was set aside: no manifest says what it should hold, so it is compared with itself.
    fn quarantined(&mut self, path: &Path, loaded: Result<Contents, SegmentError>) -> Result<(), Failure> {
        let name = format!("quarantine/{}", path.file_name().unwrap_or_default().to_string_lossy());
        self.verified.segments += 1;
        match loaded {
            Ok(contents) if contents.run.is_none() && contents.values.is_empty() => {
                self.damaged(name, None, Range { first: 0, last: 0 }, "nothing can be read of it")
            }
            Ok(contents) => {
                let (mut names, mut damaged) = (Names::default(), Vec::new());
                let entry = crate::outbox::inspect::entry_of(&contents);
                for piece in pieces(&entry, &contents, &mut names) {
                    match piece {
                        Piece::Records { batch, .. } => {
                            self.verified.chunks += 1;
                            self.verified.records += batch.len() as u64;
                        }
                        Piece::Damaged(found) => damaged.push(found),
                    }
                }
                damaged
                    .into_iter()
                    .try_for_each(|Damaged { lane, range, why }| self.damaged(name.clone(), lane, range, &why))
            }
            Err(SegmentError::Damaged { reason, .. }) => self.damaged(name, None, Range { first: 0, last: 0 }, &reason),
            Err(error) => self.unreadable(name, &error),
        }
    }

    fn damaged(&mut self, segment: String, lane: Option<Lane>, range: Range, why: &str) -> Result<(), Failure> {
        let records = if lane.is_some() { range.count() } else { 0 };
        let line = match lane {
            Some(lane) => format!(
                "segment {segment}, {} {} to {} ({records} records): {why}",
                lane.as_str(),
                range.first,
                range.last
            ),
            None if range.last > 0 => {
                format!("segment {segment}, note {:x} (receipts, cursor or journal): {why}", range.first)
            }
            None => format!("segment {segment}: {why}"),
        };
        self.line(&line)?;
        let row = DamagedRow {
            segment,
            lane: lane.map(Lane::as_str),
            from: range.first,
            to: range.last,
            records,
            why: why.to_owned(),
        };
        self.verified.damaged.push(row);
        Ok(())
    }

    fn unreadable(&mut self, segment: String, error: &SegmentError) -> Result<(), Failure> {
        self.line(&format!("cannot be read: {error}"))?;
        self.verified.unreadable.push(Unreadable { segment, why: error.to_string() });
        Ok(())
    }

    fn line(&self, line: &str) -> Result<(), Failure> {
        if self.json { Ok(()) } else { Ok(self.progress.line(line)?) }
    }

    fn end(self) -> Result<ExitCode, Failure> {
        let Self { verified, progress, json, .. } = self;
        drop(progress);
        if json {
            print_json(&verified)?;
        } else {
            let Verified { segments, chunks, records, gone, not_yet_read, .. } = &verified;
            let mut text = format!("{records} records in {chunks} chunks of {segments} segments are whole");
            if *gone > 0 {
                text += &format!("; {gone} segments went while this ran");
            }
            if *not_yet_read > 0 {
                text += &format!("; {not_yet_read} records were stored while this ran and are not among them");
            }
            let damaged: u64 = verified.damaged.iter().map(|row| row.records).sum();
            if !verified.damaged.is_empty() {
                text += &format!("; {damaged} records in {} places are damaged", verified.damaged.len());
            }
            super::print(&(text + "\n"))?;
        }
        let is_damaged =
            !verified.damaged.is_empty() || verified.manifest_damage.is_some() || verified.checkpoint_damage.is_some();
        Ok(match (verified.unreadable.is_empty(), is_damaged) {
            (false, _) => ExitCode::from(UNREADABLE),
            (true, true) => ExitCode::from(INCOMPLETE),
            (true, false) => ExitCode::SUCCESS,
        })
    }
}
