//! The outbox for a person: what `tidegate outbox status`, `list`, `show`, `verify` and `export` read.
//!
//! Invariants: nothing in the data directory is written, locked for longer than a moment, or opened by sled, which has no
//! read-only open: a segment is read from a copy of its directory (see [`copy`]). So it works on read-only media, on a
//! damaged outbox, and beside a running gateway; there the answer is that of one moment, and may lack the newest commits.
//! One segment at a time is in memory, whatever the outbox holds.
//!
//! Where the manifest is lost or damaged, one is made from the segments, in memory only (see [`super::rebuild`]).

mod copy;
mod walk;

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use self::copy::Copies;
pub(crate) use self::copy::remove_all;
pub(crate) use self::walk::{Damaged, Piece, pieces};
use super::cipher::Keys;
use super::manifest::{Entry, Manifest, ManifestError, Range};
use super::rebuild::{Rebuilt, rebuild};
use super::recovery::{self, Found, OpenError};
use super::segment::{Contents, SegmentError};
use super::segment_state::SegmentState;
use super::{Lane, checkpoint};

/// Why an outbox cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    #[error("{path}: there is no outbox here: expected the data directory of a gateway that has run")]
    NoOutbox { path: PathBuf },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("no directory for copies of segments can be made in {path}: {source}; --work-dir names another place")]
    WorkDir { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// How the manifest was found.
#[derive(Debug)]
pub(crate) enum ManifestState {
    /// As it should be.
    Good,
    /// Lost or damaged: it was made from the segments, in memory.
    Rebuilt { why: String, found: Box<Rebuilt> },
}

/// An outbox as it was at one moment.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// The outbox's directory.
    pub(crate) directory: PathBuf,
    /// The manifest as it is on disk, or as it was rebuilt.
    pub(crate) stored: Manifest,
    pub(crate) manifest: ManifestState,
    /// The segments, the newest one completed from what it holds, with what of them is delivered.
    pub(crate) segments: BTreeMap<u64, SegmentState>,
    /// The newest segment that has a commit, and all after it, are needed at a start; so are those with journal.
    pub(crate) needed_from: u64,
    /// What the newest segment should hold and does not.
    pub(crate) lost: Vec<(u64, Lane, Range)>,
    /// Committed records that the copy of a running gateway's newest segment did not have yet.
    pub(crate) not_yet_read: u64,
    /// The process of the gateway that runs on it.
    pub(crate) running: Option<String>,
    copies: Copies,
}

impl Inspection {
    /// Looks at the outbox of `data_dir`, with copies of segments below `work_dir`.
    pub(crate) fn open(data_dir: &Path, keys: &Keys, work_dir: Option<&Path>) -> Result<Self, InspectError> {
        let running = running(data_dir)?;
        Self::open_as(data_dir, keys, work_dir, running.as_deref())
    }

    /// The same where it is known whether a gateway runs.
    pub(super) fn open_as(
        data_dir: &Path,
        keys: &Keys,
        work_dir: Option<&Path>,
        running: Option<&str>,
    ) -> Result<Self, InspectError> {
        let directory = data_dir.join("outbox");
        match fs::metadata(&directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(InspectError::NoOutbox { path: data_dir.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(InspectError::NoOutbox { path: data_dir.to_owned() });
            }
            Err(source) => return Err(InspectError::Io { path: directory, source }),
        }
        let mut live = running.is_some();
        loop {
            let copies = Copies::new(&directory, keys, work_dir, running.is_some())?;
            match quietly(|| Self::read(directory.clone(), copies, running.map(str::to_owned))) {
                // The newest segment has changed its name between the manifest and the copy.
                Err(InspectError::Open(OpenError::Segment(SegmentError::Io { source, .. })))
                    if live && source.kind() == io::ErrorKind::NotFound =>
                {
                    live = false;
                }
                done => return done,
            }
        }
    }

    fn read(directory: PathBuf, copies: Copies, running: Option<String>) -> Result<Self, InspectError> {
        // A missing key is no damage, and what is not readable must not be taken for what is not there.
        let checkpoint = checkpoint::read(&directory, copies.keys());
        recovery::check_keys(&directory, copies.keys(), checkpoint.as_ref().err())?;
        let (stored, manifest) = match Manifest::read(&directory) {
            Ok(Some(manifest)) => (manifest, ManifestState::Good),
            Ok(None) => rebuilt(&directory, &copies, "it is missing".to_owned())?,
            Err(ManifestError::Damaged { reason, .. }) => rebuilt(&directory, &copies, reason)?,
            Err(error) => return Err(OpenError::Manifest(error.to_string()).into()),
        };
        let mut completed = stored.clone();
        let mut found = Found::default();
        // The journal is of no interest, but what a start needs of it is kept.
        found.read(&directory, &mut completed, None, &mut |name| copies.load(name))?;
        let mut not_yet_read = 0;
        if running.is_some() {
            // Not damage: the gateway went on while the copy was made.
            for (number, lane, lost) in std::mem::take(&mut found.lost) {
                let entry = completed.segments.iter_mut().find(|entry| entry.number == number);
                let range = entry.and_then(|entry| entry.lanes[lane.index()].as_mut());
                match range.filter(|range| range.last == lost.last) {
                    Some(range) if lost.first > range.first => {
                        (not_yet_read, range.last) = (not_yet_read + lost.count(), lost.first - 1);
                    }
                    _ => found.lost.push((number, lane, lost)),
                }
            }
        }
        let mut segments: BTreeMap<u64, SegmentState> =
            completed.segments.iter().map(|entry| (entry.number, SegmentState::new(entry.clone()))).collect();
        recovery::apply_cursor(&mut segments, &found);
        let holds_loss = found.damaged.iter().copied().chain(found.lost.iter().map(|(number, ..)| *number));
        for number in holds_loss {
            if let Some(segment) = segments.get_mut(&number) {
                segment.entry.damaged = true;
            }
        }
        let journal_from = checkpoint.ok().flatten().map(|checkpoint| checkpoint.segment);
        let needed_from = journal_from.into_iter().fold(found.newest.unwrap_or(0), u64::min);
        let lost = found.lost;
        Ok(Self { directory, stored, manifest, segments, needed_from, lost, not_yet_read, running, copies })
    }

    /// Records that wait, by lane.
    pub(crate) fn waiting(&self) -> [u64; 3] {
        Lane::ALL.map(|lane| self.segments.values().map(|segment| segment.missing_of(lane)).sum())
    }

    /// Reads the segment of that number. `None` if it has gone meanwhile: a running gateway delivered or rewrote it.
    pub(crate) fn load(&mut self, number: u64) -> Option<Result<Contents, SegmentError>> {
        // What is rewritten while it is read is there again under another name.
        for _ in 0..3 {
            let entry = &self.segments.get(&number)?.entry;
            let name = (entry.number, entry.generation);
            let loaded = self.copies.load(name);
            let vanished = matches!(&loaded, Err(SegmentError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound && !recovery::segment_path(&self.directory, name.0, name.1).exists());
            if !vanished || self.running.is_none() {
                return Some(loaded);
            }
            let now = Manifest::read(&self.directory).ok().flatten()?;
            let entry = now.segments.into_iter().find(|entry| entry.number == number)?;
            self.segments.get_mut(&number)?.entry = entry;
        }
        None
    }

    /// Reads a segment that was set aside.
    pub(crate) fn load_quarantined(&self, path: &Path) -> Result<Contents, SegmentError> {
        self.copies.load_path(path)
    }

    /// What was set aside: directories and their bytes.
    pub(crate) fn quarantine(&self) -> Vec<(PathBuf, u64)> {
        let entries = fs::read_dir(self.directory.join(recovery::QUARANTINE)).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries.map(|entry| (entry.path(), copy::bytes_of(&entry.path()))).collect();
        found.sort();
        found
    }

    /// Bytes of all files of the outbox.
    pub(crate) fn disk_bytes(&self) -> u64 {
        copy::bytes_of(&self.directory)
    }

    /// What encrypted parts of it are read with.
    pub(crate) fn keys(&self) -> &Keys {
        self.copies.keys()
    }

    /// What is wrong with the state of the windows, if anything is.
    pub(crate) fn checkpoint_damage(&self) -> Option<String> {
        checkpoint::read(&self.directory, self.copies.keys()).err().map(|error| error.to_string())
    }
}

fn rebuilt(directory: &Path, copies: &Copies, why: String) -> Result<(Manifest, ManifestState), InspectError> {
    let found = recovery::segments_in(directory)?;
    let manifest = Manifest::new(String::new(), String::new());
    let rebuilt = rebuild(directory, &found, manifest, copies.keys(), &mut |name| copies.load(name))?;
    Ok((rebuilt.manifest.clone(), ManifestState::Rebuilt { why, found: Box::new(rebuilt) }))
}

/// The process of the gateway that holds the data directory, if one does.
pub(crate) fn running(data_dir: &Path) -> Result<Option<String>, InspectError> {
    let path = data_dir.join(recovery::LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(InspectError::Io { path, source }),
    };
    // A lock for a moment: a gateway that starts just now tries more than once.
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Ok(Some(fs::read_to_string(&path).unwrap_or_default().trim().to_owned())),
        // Where the file system knows no locks, no gateway could have taken one.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// What a segment that no manifest knows should hold, by its own account.
pub(crate) fn entry_of(contents: &Contents) -> Entry {
    super::rebuild::entry_of(contents, &quietly(|| super::reader::whole(contents)))
}

/// Does something whose remarks are for the log of a gateway, not for whoever looks.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), work)
}
