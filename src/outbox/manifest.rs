//! The manifest: which segments exist, and what is in those that are closed. A segment exists if and only if the
//! manifest names it, so beginning, releasing and giving up a segment are each one replacement of this small file:
//! write beside it, sync, rename, sync the directory. After a power cut either the old or the new one is there.
//!
//! The file is one line of JSON and one line with its CRC-32C, so that a person can read it and damage is noticed.
//! The witness is a second file, written in place and not synced after each commit: it says after a crash how far the
//! open segment had come, so that a database which opens cleanly but short is recognised.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Lane;
use super::chunk::CursorEntry;
use super::segment::{DISK_STEP_BYTES, sync_directory};
use super::settled::Settled;
use crate::reading::{Batch, Gap, Record, Stamp, StreamEnd};

const VERSION: u32 = 1;
const NAME: &str = "MANIFEST";
pub(super) const WITNESS: &str = "WITNESS";
/// Room for a drain on a disk that is full.
const RESERVE: &str = "RESERVE";
/// sled fills a segment's last step when it opens one that could not be closed in good order.
pub(crate) const RESERVE_BYTES_MIN: u64 = DISK_STEP_BYTES + 64 * 1024;
/// A segment takes about half of this in the manifest.
const RESERVE_SEGMENT_BYTES: u64 = 400;

/// What one lane of a segment holds: numbers `first..=last` of its run's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Range {
    pub(crate) fn count(self) -> u64 {
        self.last - self.first + 1
    }
}

/// A segment as the manifest knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Its place in the order; never used again.
    pub(crate) number: u64,
    /// How often it was rewritten. With the number it names its directory.
    #[serde(default)]
    pub(crate) generation: u32,
    /// The run that wrote it.
    pub(crate) run: String,
    /// By lane; `None` where a lane has nothing. Not yet known for the segment that is written.
    pub(crate) lanes: [Option<Range>; 3],
    /// The number that each lane's first record has or would have; 0 where that is not known.
    #[serde(default)]
    pub(crate) starts: [u64; 3],
    /// When its first record was received (wall clock, ms).
    pub(crate) oldest_ms: Option<i64>,
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// Bytes of its values, by lane; 0 where that is not known.
    #[serde(default)]
    pub(crate) sizes: [u64; 3],
    /// By lane, when its last record was received (wall clock, ms), if the clock was trusted for all of them.
    #[serde(default)]
    pub(crate) newest: [Option<i64>; 3],
    /// Whether it is closed: what is above is final.
    pub(crate) sealed: bool,
    /// How many commits were announced. A further one failed: what it left does not count, its records are elsewhere.
    #[serde(default)]
    pub(crate) commits: Option<u64>,
    /// In place of the raw lane it holds what stands for thinned readings: the generation in which that was made, which
    /// names its stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) thinned: Option<u32>,
    /// Something of it was lost: it goes to quarantine when it is released.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) damaged: bool,
    /// How far it was delivered when it was rewritten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) cursor: Vec<CursorEntry>,
    /// The declarations among its raw records, by number: if the segment is given up they are made again.
    #[serde(default)]
    pub(crate) declares: Vec<(u64, Declared)>,
    /// When it was found to be delivered whole (wall clock, ms); it is kept so that it can be delivered again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delivered: Option<i64>,
    /// How far it counts as delivered by an operator's order, until a later cursor says more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) settled: Option<Settled>,
    /// The id of the key that it is encrypted with, so that a start knows without opening it whether it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
}

impl Entry {
    /// Notes when the records were received that a lane has got; `fresh` if they are its first.
    pub(crate) fn stored(&mut self, lane: Lane, batch: &Batch, fresh: bool) {
        let times = || batch.records.iter().map(Record::received);
        self.oldest_ms = self.oldest_ms.or_else(|| times().next().map(|received| received.wall_ms));
        let newest = &mut self.newest[lane.index()];
        let known = fresh || newest.is_some();
        let latest = times().map(|received| received.wall_ms).max();
        *newest = (*newest).max(latest).filter(|_| known && times().all(|received| received.trusted));
    }
}

/// What consumers are to be told about a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Declared {
    /// Numbers that will not come.
    Gap {
        stream: String,
        from: u64,
        to: u64,
        count: u64,
        cause: String,
        /// The stream that stands for what was thinned.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaced_by: Option<String>,
    },
    /// A stream that ended without a clean stop.
    End { stream: String, last: u64 },
}

impl Declared {
    /// What a record declares, if it does.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        match record {
            Record::Gap(gap) => Some(Self::Gap {
                stream: gap.stream.to_string(),
                from: gap.from,
                to: gap.to,
                count: gap.count,
                cause: gap.cause.to_string(),
                replaced_by: gap.replaced_by.as_deref().map(str::to_owned),
            }),
            Record::StreamEnd(end) => Some(Self::End { stream: end.stream.to_string(), last: end.last }),
            _ => None,
        }
    }

    /// The record that declares it.
    pub(crate) fn record(&self, at: Stamp) -> Record {
        match self {
            Self::Gap { stream, from, to, count, cause, replaced_by } => Record::Gap(Box::new(Gap {
                stream: stream.as_str().into(),
                from: *from,
                to: *to,
                count: *count,
                cause: cause.as_str().into(),
                replaced_by: replaced_by.as_deref().map(Into::into),
                at,
            })),
            Self::End { stream, last } => {
                Record::StreamEnd(Box::new(StreamEnd { stream: stream.as_str().into(), last: *last, at }))
            }
        }
    }

    /// Makes this one and `next` one, if both are gaps of a stream with one cause that touch.
    pub(crate) fn joined(&self, next: &Self) -> Option<Self> {
        match (self, next) {
            (
                Self::Gap { stream, from, to, count, cause, replaced_by },
                Self::Gap {
                    stream: other,
                    from: next_from,
                    to: next_to,
                    count: more,
                    cause: other_cause,
                    replaced_by: other_replaced_by,
                },
            ) if (stream, cause, replaced_by) == (other, other_cause, other_replaced_by) && to + 1 == *next_from => {
                Some(Self::Gap {
                    stream: stream.clone(),
                    from: *from,
                    to: *next_to,
                    count: count + more,
                    cause: cause.clone(),
                    replaced_by: replaced_by.clone(),
                })
            }
            _ => None,
        }
    }
}

/// The manifest's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    /// Identifies the machine, so that a cloned card is noticed.
    pub(crate) machine: String,
    /// Made with the data directory: part of the MQTT client id, so that two installations never share a session.
    pub(crate) installation: String,
    /// The run that is or was going.
    pub(crate) run: String,
    /// Whether that run has ended in good order.
    pub(crate) clean: bool,
    /// Whether records of that run may have been delivered without being stored.
    #[serde(default)]
    pub(crate) holds: bool,
    /// The next segment's number.
    pub(crate) next: u64,
    pub(crate) segments: Vec<Entry>,
    /// What no record says yet.
    pub(crate) declared: Vec<Declared>,
    /// Where the directory was before, if it has found itself on another machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) moved: Option<Moved>,
}

/// A data directory was cloned, or put back from a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moved {
    /// The machine before.
    pub(crate) from: String,
    /// When that was noticed (wall clock, ms).
    pub(crate) at_ms: i64,
}

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("{path} has version {found}, this program knows up to {VERSION}: install the release that wrote it")]
    Version { path: PathBuf, found: u32 },
}

impl Manifest {
    /// The manifest of a new outbox.
    pub(crate) fn new(machine: String, installation: String) -> Self {
        let run = String::new();
        Self {
            version: VERSION,
            machine,
            installation,
            run,
            clean: true,
            holds: false,
            next: 1,
            segments: Vec::new(),
            declared: Vec::new(),
            moved: None,
        }
    }

    /// Reads it; `None` if there is none.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>, ManifestError> {
        let path = directory.join(NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(ManifestError::Damaged { path, reason: "it is not text".to_owned() });
            }
            Err(source) => return Err(ManifestError::Io { path, source }),
        };
        let damaged = |reason: String| ManifestError::Damaged { path: path.clone(), reason };
        let (json, crc) = text.trim_end().split_once('\n').ok_or_else(|| damaged("it is cut off".to_owned()))?;
        if format!("{:08x}", crc32c::crc32c(json.as_bytes())) != crc {
            return Err(damaged("its checksum is wrong".to_owned()));
        }
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_str(json).map_err(|error| damaged(error.to_string()))?;
        if version > VERSION {
            return Err(ManifestError::Version { path, found: version });
        }
        let manifest: Self = serde_json::from_str(json).map_err(|error| damaged(error.to_string()))?;
        // This program writes it in its own form from now on, which an older one must not take for its own.
        Ok(Some(Self { version: VERSION, ..manifest }))
    }

    /// Replaces it, durably. On a full disk the reserve makes room: releasing what is delivered needs a new manifest.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        let json = serde_json::to_string(self).map_err(io::Error::other)?;
        let text = format!("{json}\n{:08x}\n", crc32c::crc32c(json.as_bytes()));
        match replace(directory, NAME, text.as_bytes()) {
            Err(error) if use_reserve(directory, &error) => replace(directory, NAME, text.as_bytes()),
            done => done,
        }
    }

    /// Keeps room on the disk for what a drain needs: reading a closed segment back, and the next manifest.
    ///
    /// # Errors
    /// When the disk has no such room: then nothing more is to be stored, or what is there could not be drained.
    pub(crate) fn reserve(&self, directory: &Path) -> io::Result<()> {
        let path = directory.join(RESERVE);
        let wanted = wanted_bytes(self.segments.len());
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() >= wanted) {
            return Ok(());
        }
        let bytes = vec![0x52; usize::try_from(reserve_bytes(self.segments.len())).map_err(io::Error::other)?];
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(&bytes)?;
            file.sync_data()
        };
        let written = write();
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        written
    }

    /// Whether it names that segment (number, generation).
    pub(crate) fn names(&self, (number, generation): (u64, u32)) -> bool {
        self.segments.iter().any(|entry| (entry.number, entry.generation) == (number, generation))
    }

    /// Sets a damaged one aside.
    pub(crate) fn set_aside(directory: &Path) -> io::Result<()> {
        fs::rename(directory.join(NAME), directory.join("MANIFEST.damaged"))
    }
}

/// Replaces a small file, durably: after a power cut either the old or the new one is there.
pub(crate) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = directory.join(format!("{name}.new"));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    if let Err(error) = write() {
        // Half of one would only take room.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    fs::rename(&beside, directory.join(name))?;
    sync_directory(directory)
}

/// What the reserve of that many segments must hold at least.
fn wanted_bytes(segments: usize) -> u64 {
    RESERVE_BYTES_MIN + segments as u64 * RESERVE_SEGMENT_BYTES
}

/// What it takes at most: it is made a quarter larger than it must be, so that it is not made anew for each segment.
pub(crate) fn reserve_bytes(segments: usize) -> u64 {
    wanted_bytes(segments) / 4 * 5
}

/// Gives up the reserve if the disk is full; whether there is room now.
pub(crate) fn use_reserve(directory: &Path, error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        && fs::remove_file(directory.join(RESERVE)).is_ok()
}

/// How far the open segment had come: its number and the last number of each lane (0 for none).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Witnessed {
    pub(crate) segment: u64,
    pub(crate) last: [u64; 3],
}

/// The witness file.
#[derive(Debug)]
pub(crate) struct Witness(File);

impl Witness {
    /// Opens it for writing.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join(WITNESS);
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(Self)
    }

    /// Notes a commit. Not synced: it is a witness for crashes, and after a power cut an older one only knows less.
    pub(crate) fn write(&self, witnessed: Witnessed) -> io::Result<()> {
        let mut bytes = [0; 36];
        for (at, number) in [witnessed.segment].iter().chain(&witnessed.last).enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..32]);
        bytes[32..].copy_from_slice(&crc.to_le_bytes());
        self.0.write_all_at(&bytes, 0)
    }

    /// What it says; `None` if it says nothing that can be relied on.
    pub(crate) fn read(directory: &Path) -> Option<Witnessed> {
        let bytes: [u8; 36] = fs::read(directory.join(WITNESS)).ok()?.try_into().ok()?;
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let crc = u32::from_le_bytes([bytes[32], bytes[33], bytes[34], bytes[35]]);
        (crc32c::crc32c(&bytes[..32]) == crc)
            .then(|| Witnessed { segment: number(0), last: [number(8), number(16), number(24)] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_release_s_is_written_in_this_one_s_form_and_a_newer_one_s_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let written = |version| {
            let manifest = Manifest::new("machine".to_owned(), "installation".to_owned());
            Manifest { version, ..manifest }.write(directory.path()).unwrap();
            Manifest::read(directory.path())
        };
        assert_eq!(written(0).unwrap().unwrap().version, VERSION);
        let newer = written(VERSION + 1);
        assert!(matches!(newer, Err(ManifestError::Version { found, .. }) if found == VERSION + 1), "{newer:?}");
    }
}
