//! A segment: one small sled database, written by one run of the gateway. The only file that names sled.
//!
//! A commit is durable only after `flush` *and* `sync_data` on the database's own file: sled's `flush` is a
//! `sync_file_range` on Linux, which does not survive a power cut. A new segment's `conf` file, its directory and the
//! directory above are synced before the first commit into it counts.
//!
//! **Trees.** sled rewrites a leaf of its tree whole once ten changes hang on it, and splits it at seventeen values:
//! with one long tree each byte is written four times and the file holds two bytes for each stored. So a tree takes at most
//! [`TREE_VALUES_MAX`] values, then the next one is begun (measured with 6 KB values: 1.02 bytes written by sled for each
//! stored instead of 3.72, and 1.02 held instead of 2.23). A commit of one value is a plain insert, because a batch
//! costs a write of its own.
//!
//! After any error sled's background thread has ended and the error sticks: the segment is given up and another begun;
//! a sync is never tried again on the same descriptor.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use super::Lane;
use super::manifest::use_reserve;

/// Values that one tree takes: below ten changes sled never rewrites the leaf.
pub(crate) const TREE_VALUES_MAX: usize = 8;
/// A database this small needs no cache to speak of; sled's default is 1 GiB.
const CACHE_BYTES: u64 = 1 << 20;
/// sled extends its file in steps of this many bytes, and fills the last one when it is closed. A leaf of all the values of a
/// tree stays below a quarter of it, so that it never becomes a blob.
pub(crate) const DISK_STEP_BYTES: u64 = 512 * 1024;
const HEADER_TREE: &str = "header";
const RUN_KEY: &[u8] = b"run";
const FORMAT_KEY: &[u8] = b"format";
const FORMAT: &[u8] = b"1";

/// A segment of a few MiB opens in milliseconds; one that takes this long never will.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How many segments are being loaded.
static LOADING: AtomicUsize = AtomicUsize::new(0);

/// The key's first byte for values that hold no records.
const NOTES: u8 = 0xFE;

/// Where a value stands: lane, number of the first record, part. Notes carry extras alone and stand under their commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// `None` for notes.
    pub(crate) lane: Option<Lane>,
    pub(crate) number: u64,
    pub(crate) part: u8,
}

impl Key {
    fn bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[0] = self.lane.map_or(NOTES, Lane::index_byte);
        bytes[1..9].copy_from_slice(&self.number.to_be_bytes());
        bytes[9] = self.part;
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 10] = bytes.try_into().ok()?;
        let lane = match bytes[0] {
            NOTES => None,
            byte => Some(Lane::from_byte(byte)?),
        };
        let number =
            u64::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7], bytes[8]]);
        Some(Self { lane, number, part: bytes[9] })
    }
}

/// Why a segment cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// Another process, or another handle of this one, has it open. Not damage.
    #[error("segment {path} is in use by another process")]
    Locked {
        /// Its directory.
        path: PathBuf,
    },
    /// The operating system refused: no space, read-only, no permission. Not damage.
    #[error("segment {path}: {source}")]
    Io {
        /// Its directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database is damaged.
    #[error("segment {path} is damaged: {reason}")]
    Damaged {
        /// Its directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Written by a later release.
    #[error("segment {path} has format {found}, this program knows {FORMAT:?}: install the release that wrote it")]
    Format {
        /// Its directory.
        path: PathBuf,
        /// The format it claims.
        found: String,
    },
}

/// The segment that is written.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    database: sled::Db,
    file: File,
    tree: sled::Tree,
    trees: u64,
    in_tree: usize,
}

fn config(path: &Path) -> sled::Config {
    sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None).mode(sled::Mode::HighThroughput)
}

fn tree_name(number: u64) -> String {
    format!("{number:08x}")
}

impl Segment {
    /// Begins a new segment in `path`, which does not exist, and makes it durable.
    pub(crate) fn create(path: &Path, run: &str) -> Result<Self, SegmentError> {
        let error = |error| classify(path, error);
        let io = |source| SegmentError::Io { path: path.to_owned(), source };
        let database = config(path).open().map_err(error)?;
        let header = database.open_tree(HEADER_TREE).map_err(error)?;
        header.insert(FORMAT_KEY, FORMAT).map_err(error)?;
        header.insert(RUN_KEY, run.as_bytes()).map_err(error)?;
        let tree = database.open_tree(tree_name(0)).map_err(error)?;
        let file = File::open(path.join("db")).map_err(io)?;
        let segment = Self { path: path.to_owned(), database, file, tree, trees: 1, in_tree: 0 };
        segment.sync()?;
        File::open(path.join("conf")).and_then(|conf| conf.sync_all()).map_err(io)?;
        sync_directory(path).map_err(io)?;
        if let Some(parent) = path.parent() {
            sync_directory(parent).map_err(io)?;
        }
        Ok(segment)
    }

    /// Stores the values, all or none, and returns once they are durable. Gives the number of the tree that holds them.
    /// After an error the segment must not be written again.
    pub(crate) fn commit(&mut self, values: &[(Key, Vec<u8>)]) -> Result<u64, SegmentError> {
        self.put(values)?;
        self.sync()?;
        Ok(self.trees - 1)
    }

    fn put(&mut self, values: &[(Key, Vec<u8>)]) -> Result<(), SegmentError> {
        if self.in_tree + values.len() > TREE_VALUES_MAX && self.in_tree > 0 {
            self.tree = self.database.open_tree(tree_name(self.trees)).map_err(|error| classify(&self.path, error))?;
            self.trees += 1;
            self.in_tree = 0;
        }
        self.in_tree += values.len();
        let stored = if let [(key, value)] = values {
            self.tree.insert(key.bytes(), value.as_slice()).map(drop)
        } else {
            let mut batch = sled::Batch::default();
            for (key, value) in values {
                batch.insert(&key.bytes(), value.as_slice());
            }
            self.tree.apply_batch(batch)
        };
        stored.map_err(|error| classify(&self.path, error))
    }

    /// Stores the values in a new segment and returns once they are durable: one sync for all of them.
    pub(crate) fn fill(&mut self, values: &[(Key, Vec<u8>)]) -> Result<(), SegmentError> {
        for values in values.chunks(TREE_VALUES_MAX) {
            self.put(values)?;
        }
        self.sync()
    }

    fn sync(&self) -> Result<(), SegmentError> {
        self.database.flush().map_err(|error| classify(&self.path, error))?;
        self.file.sync_data().map_err(|source| SegmentError::Io { path: self.path.clone(), source })
    }

    /// A handle that reads single values while the segment is written.
    pub(crate) fn shared(&self) -> SharedSegment {
        SharedSegment { path: self.path.clone(), database: self.database.clone() }
    }

    /// Bytes that the database's file takes on disk, the step that it has begun included.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len().next_multiple_of(DISK_STEP_BYTES))
    }
}

/// Reads single values of the segment that is being written.
#[derive(Clone, Debug)]
pub(crate) struct SharedSegment {
    path: PathBuf,
    database: sled::Db,
}

impl SharedSegment {
    /// The segment's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The value under `key` in the tree that [`Segment::commit`] named.
    pub(crate) fn get(&self, tree: u64, key: Key) -> Result<Option<Vec<u8>>, SegmentError> {
        let error = |error| classify(&self.path, error);
        let tree = self.database.open_tree(tree_name(tree)).map_err(error)?;
        Ok(tree.get(key.bytes()).map_err(error)?.map(|value| value.to_vec()))
    }
}

/// All that a closed segment holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// The run that wrote it; `None` if that cannot be read.
    pub(crate) run: Option<String>,
    /// Its values, in the order of their keys.
    pub(crate) values: Vec<(Key, Vec<u8>)>,
    /// What could not be read, for the log. The rest is there.
    pub(crate) damage: Option<String>,
}

/// Reads a closed segment whole and closes it again. A segment is a few MiB, so this bounds memory, keeps no second
/// database open, and finds damage before anything is made of it.
///
/// # Errors
/// When nothing of it can be read; [`SegmentError::Damaged`] alone means damage. A panic of the database is damage.
pub(crate) fn load(path: &Path) -> Result<Contents, SegmentError> {
    let file = path.join("db");
    let length = fs::metadata(&file).map(|metadata| metadata.len());
    let mut loaded = load_once(path);
    if let Err(SegmentError::Io { source, .. }) = &loaded
        && path.parent().is_some_and(|directory| use_reserve(directory, source))
    {
        loaded = load_once(path);
    }
    if let (Err(SegmentError::Io { source, .. }), Ok(length)) = (&loaded, length)
        && source.kind() == io::ErrorKind::StorageFull
    {
        // sled fills the last step with zeros when it opens. Half of that helps nobody, and takes the room that
        // releasing what is delivered needs.
        let _ = fs::OpenOptions::new().write(true).open(&file).and_then(|file| file.set_len(length));
    }
    loaded
}

fn load_once(path: &Path) -> Result<Contents, SegmentError> {
    let damaged = |reason: String| SegmentError::Damaged { path: path.to_owned(), reason };
    if !path.join("db").exists() {
        return Err(damaged("its file `db` is missing".to_owned()));
    }
    let (done, loaded) = mpsc::sync_channel(1);
    LOADING.fetch_add(1, Ordering::SeqCst);
    let outcome = start_loading(Job { path: path.to_owned(), done }).map(|()| loaded.recv_timeout(LOAD_TIMEOUT));
    LOADING.fetch_sub(1, Ordering::SeqCst);
    let outcome = outcome.map_err(|source| SegmentError::Io { path: path.to_owned(), source })?;
    if outcome.is_err() {
        // The thread hangs in sled: it is left to itself, and the next load gets another.
        *LOADER.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
    match outcome {
        Ok(Ok(contents)) => contents,
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(damaged(text.unwrap_or("the database panicked").to_owned()))
        }
        Err(_) => Err(damaged(format!("it did not open within {LOAD_TIMEOUT:?}"))),
    }
}

/// A segment to read, and who waits for it.
struct Job {
    path: PathBuf,
    done: mpsc::SyncSender<std::thread::Result<Result<Contents, SegmentError>>>,
}

/// The thread that loads. It is not the caller's, because where a damaged database makes one of sled's threads panic, the
/// caller of sled waits for ever; and it is one, because memory that was freed on many threads is kept many times.
static LOADER: Mutex<Option<mpsc::Sender<Job>>> = Mutex::new(None);

fn start_loading(job: Job) -> io::Result<()> {
    let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
    let job = match loader.as_ref() {
        Some(jobs) => match jobs.send(job) {
            Ok(()) => return Ok(()),
            Err(mpsc::SendError(job)) => job,
        },
        None => job,
    };
    let (jobs, queue) = mpsc::channel::<Job>();
    std::thread::Builder::new().name("outbox-load".to_owned()).spawn(move || {
        for Job { path, done } in queue {
            let _ = done.send(catch_unwind(AssertUnwindSafe(|| read_all(&path))));
        }
    })?;
    // The thread has just begun to listen.
    let _ = jobs.send(job);
    *loader = Some(jobs);
    Ok(())
}

/// Whether a closed segment is being read: a panic of sled's threads then is damage of that segment, not of the gateway.
pub(crate) fn is_loading() -> bool {
    LOADING.load(Ordering::SeqCst) > 0
}

fn read_all(path: &Path) -> Result<Contents, SegmentError> {
    let error = |error| classify(path, error);
    let database = config(path).open().map_err(error)?;
    let mut contents = Contents::default();
    let header = database.open_tree(HEADER_TREE).map_err(error)?;
    if let Ok(Some(format)) = header.get(FORMAT_KEY)
        && format != FORMAT
    {
        let found = String::from_utf8_lossy(&format).into_owned();
        return Err(SegmentError::Format { path: path.to_owned(), found });
    }
    if let Ok(Some(run)) = header.get(RUN_KEY) {
        contents.run = std::str::from_utf8(&run).ok().map(str::to_owned);
    }
    for name in database.tree_names() {
        if name == HEADER_TREE.as_bytes() || name == b"__sled__default" {
            continue;
        }
        let tree = match database.open_tree(&name) {
            Ok(tree) => tree,
            Err(error) => {
                contents.damage = Some(error.to_string());
                continue;
            }
        };
        for entry in tree.iter() {
            match entry {
                Ok((key, value)) => match Key::parse(&key) {
                    Some(key) => contents.values.push((key, value.to_vec())),
                    None => contents.damage = Some(format!("a key of {} bytes that is none of ours", key.len())),
                },
                Err(error) => {
                    contents.damage = Some(error.to_string());
                    break;
                }
            }
        }
    }
    contents.values.sort_by_key(|(key, _)| *key);
    Ok(contents)
}

/// sled reports a lock as an I/O error in words.
fn classify(path: &Path, error: sled::Error) -> SegmentError {
    let path = path.to_owned();
    match error {
        sled::Error::Io(source) if source.to_string().contains("could not acquire lock") => {
            SegmentError::Locked { path }
        }
        sled::Error::Io(source) if source.kind() != io::ErrorKind::UnexpectedEof => SegmentError::Io { path, source },
        other => SegmentError::Damaged { path, reason: other.to_string() },
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Bytes that a closed segment takes on disk.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    fs::metadata(path.join("db")).map_or(0, |metadata| metadata.len().next_multiple_of(DISK_STEP_BYTES))
}
