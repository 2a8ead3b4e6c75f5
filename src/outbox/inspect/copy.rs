//! Copies of segments in a private directory, one at a time.
//!
//! sled writes when it opens a database, and locks it. A copy costs a few MiB of reading and writing for each segment, and
//! keeps the original as it was, whatever the state it is in. The database's own file is copied last: what sled's
//! snapshots beside it say is then in it too. Beside a running gateway a copy that looks damaged is made again.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::super::cipher::Keys;
use super::super::recovery;
use super::super::segment::{self, Contents, SegmentError};
use super::InspectError;

/// Beside a running gateway: so many copies are made …
const LIVE_ATTEMPTS: u32 = 4;
/// … this long apart.
const LIVE_PAUSE: Duration = Duration::from_millis(150);
/// Directories of a database below which there is nothing of ours.
const DEPTH_MAX: u32 = 4;

/// What is to be removed if the process is told to end.
static MADE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes all copies: the process is about to end.
pub(crate) fn remove_all() {
    for work in MADE.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = fs::remove_dir_all(work);
    }
}

/// Reads segments by way of copies. The directory that they are made in goes with it.
#[derive(Debug)]
pub(crate) struct Copies {
    outbox: PathBuf,
    work: PathBuf,
    keys: Keys,
    live: bool,
}

impl Copies {
    /// Copies below `work_dir`, or where temporary files go.
    pub(super) fn new(outbox: &Path, keys: &Keys, work_dir: Option<&Path>, live: bool) -> Result<Self, InspectError> {
        let below = work_dir.map_or_else(std::env::temp_dir, Path::to_owned);
        let error = |source| InspectError::WorkDir { path: below.clone(), source };
        let name = recovery::random_name().map_err(|error_| error(io::Error::other(error_.to_string())))?;
        let work = below.join(format!("tidegate-outbox-{name}"));
        DirBuilder::new().mode(0o700).create(&work).map_err(error)?;
        MADE.lock().unwrap_or_else(PoisonError::into_inner).push(work.clone());
        Ok(Self { outbox: outbox.to_owned(), work, keys: keys.clone(), live })
    }

    /// What encrypted segments are read with.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Reads the segment of that number and generation.
    pub(crate) fn load(&self, (number, generation): (u64, u32)) -> Result<Contents, SegmentError> {
        self.load_path(&recovery::segment_path(&self.outbox, number, generation))
    }

    /// Reads the segment in that directory. The only place of the tools that opens one.
    pub(super) fn load_path(&self, path: &Path) -> Result<Contents, SegmentError> {
        let mut loaded = self.load_once(path);
        for _ in 1..LIVE_ATTEMPTS {
            let doubtful = match &loaded {
                Ok(contents) => contents.damage.is_some(),
                Err(SegmentError::Damaged { .. }) => true,
                // A file of sled's that comes and goes, unless all of it is gone.
                Err(SegmentError::Io { source, .. }) => source.kind() == io::ErrorKind::NotFound && path.exists(),
                Err(_) => false,
            };
            if !self.live || !doubtful {
                break;
            }
            std::thread::sleep(LIVE_PAUSE);
            loaded = self.load_once(path);
        }
        loaded
    }

    fn load_once(&self, path: &Path) -> Result<Contents, SegmentError> {
        let copy = self.work.join("segment");
        let io = |source| SegmentError::Io { path: path.to_owned(), source };
        if !self.live && !path.exists() {
            return Err(SegmentError::Damaged { path: path.to_owned(), reason: "its directory is missing".to_owned() });
        }
        remove(&copy).map_err(io)?;
        copy_directory(path, &copy, DEPTH_MAX).map_err(io)?;
        let loaded = segment::load(&copy, &self.keys);
        let _ = remove(&copy);
        // A person knows the original.
        loaded.map_err(|error| match error {
            SegmentError::Locked { .. } => SegmentError::Locked { path: path.to_owned() },
            SegmentError::Io { source, .. } => io(source),
            SegmentError::Damaged { reason, .. } => SegmentError::Damaged { path: path.to_owned(), reason },
            SegmentError::Key { id, .. } => SegmentError::Key { path: path.to_owned(), id },
            SegmentError::Format { found, .. } => SegmentError::Format { path: path.to_owned(), found },
        })
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.work);
        MADE.lock().unwrap_or_else(PoisonError::into_inner).retain(|made| *made != self.work);
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn copy_directory(from: &Path, to: &Path, depth: u32) -> io::Result<()> {
    let mut entries = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(|entry| entry.file_name() == "db");
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in entries {
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() && depth > 0 {
            copy_directory(&entry.path(), &target, depth - 1)?;
        } else if kind.is_file() {
            // Not `fs::copy`: the original may be readable only, sled wants to write.
            let mut original = fs::File::open(entry.path())?;
            io::copy(&mut original, &mut fs::File::create(target)?)?;
        }
    }
    Ok(())
}

/// Bytes of all files below a directory.
pub(super) fn bytes_of(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| bytes_of(&entry.path())).sum()
}
