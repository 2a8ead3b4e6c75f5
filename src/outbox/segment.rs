//! A segment: one small sled database, written by one run of the gateway. This file and `load.rs` below it are the only ones that name sled.
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
//! **Encryption**, where it is on: each value is sealed under a key of this segment's own, whose salt stands with the id of
//! the configured key in the header. A database that cannot be read without a key has format 2, so that a release that
//! knows nothing of it does not take it for damaged. The run in the header is part of the key, and a value's key in the
//! database is sealed with it, so that neither can be exchanged. What does not open is damage of that value alone.
//!
//! After any error sled's background thread has ended and the error sticks: the segment is given up and another begun;
//! a sync is never tried again on the same descriptor.

mod load;

use std::borrow::Cow;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use load::CHANGED;
pub(crate) use load::{Contents, is_loading, load};

use super::Lane;
use super::cipher::{Keys, Opener, Sealer};

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
const FORMAT_SEALED: &[u8] = b"2";
const KEY_KEY: &[u8] = b"key";
const SALT_KEY: &[u8] = b"salt";

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
    #[error("segment {path} has format {found}, this program knows 1 and 2: install the release that wrote it")]
    Format {
        /// Its directory.
        path: PathBuf,
        /// The format it claims.
        found: String,
    },
    /// Encrypted with a key that is not configured. Not damage.
    #[error(
        "segment {path} is encrypted with key {id}, which is none of the keys in [outbox.encryption]: add it there"
    )]
    Key {
        /// Its directory.
        path: PathBuf,
        /// The id of its key.
        id: String,
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
    sealer: Option<Sealer>,
}

fn config(path: &Path) -> sled::Config {
    sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None).mode(sled::Mode::HighThroughput)
}

fn tree_name(number: u64) -> String {
    format!("{number:08x}")
}

impl Segment {
    /// Begins a new segment in `path`, which does not exist, and makes it durable. It is encrypted if there is a key for that.
    pub(crate) fn create(path: &Path, run: &str, keys: &Keys) -> Result<Self, SegmentError> {
        let error = |error| classify(path, error);
        let io = |source| SegmentError::Io { path: path.to_owned(), source };
        let database = config(path).open().map_err(error)?;
        let header = database.open_tree(HEADER_TREE).map_err(error)?;
        let sealer = keys.sealer(run.as_bytes()).map_err(io)?;
        header.insert(FORMAT_KEY, if sealer.is_some() { FORMAT_SEALED } else { FORMAT }).map_err(error)?;
        if let Some(sealer) = &sealer {
            header.insert(KEY_KEY, sealer.id()).map_err(error)?;
            header.insert(SALT_KEY, sealer.salt()).map_err(error)?;
        }
        header.insert(RUN_KEY, run.as_bytes()).map_err(error)?;
        let tree = database.open_tree(tree_name(0)).map_err(error)?;
        let file = File::open(path.join("db")).map_err(io)?;
        let segment = Self { path: path.to_owned(), database, file, tree, trees: 1, in_tree: 0, sealer };
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
        let io = |source| SegmentError::Io { path: self.path.clone(), source };
        let stored = if let [(key, value)] = values {
            let value = sealed(&mut self.sealer, *key, value).map_err(io)?;
            self.tree.insert(key.bytes(), &*value).map(drop)
        } else {
            let mut batch = sled::Batch::default();
            for (key, value) in values {
                batch.insert(&key.bytes(), &*sealed(&mut self.sealer, *key, value).map_err(io)?);
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

    /// The id of the key that it is encrypted with.
    pub(crate) fn key_id(&self) -> Option<String> {
        self.sealer.as_ref().map(|sealer| sealer.id().to_owned())
    }

    fn sync(&self) -> Result<(), SegmentError> {
        self.database.flush().map_err(|error| classify(&self.path, error))?;
        self.file.sync_data().map_err(|source| SegmentError::Io { path: self.path.clone(), source })
    }

    /// A handle that reads single values while the segment is written.
    pub(crate) fn shared(&self) -> SharedSegment {
        let opener = self.sealer.as_ref().map(Sealer::opener);
        SharedSegment { path: self.path.clone(), database: self.database.clone(), opener }
    }

    /// Bytes that the database's file takes on disk, the step that it has begun included.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len().next_multiple_of(DISK_STEP_BYTES))
    }
}

/// The value as it is stored.
fn sealed<'a>(sealer: &mut Option<Sealer>, key: Key, value: &'a [u8]) -> io::Result<Cow<'a, [u8]>> {
    match sealer {
        Some(sealer) => sealer.seal(&key.bytes(), value).map(Cow::Owned),
        None => Ok(Cow::Borrowed(value)),
    }
}

/// Reads single values of the segment that is being written.
#[derive(Clone, Debug)]
pub(crate) struct SharedSegment {
    path: PathBuf,
    database: sled::Db,
    opener: Option<Opener>,
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
        let Some(value) = tree.get(key.bytes()).map_err(error)? else { return Ok(None) };
        match &self.opener {
            None => Ok(Some(value.to_vec())),
            Some(opener) => match opener.open(&key.bytes(), &value) {
                Some(value) => Ok(Some(value)),
                None => Err(SegmentError::Damaged { path: self.path.clone(), reason: CHANGED.to_owned() }),
            },
        }
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Encryption, EncryptionKey};

    const KEYS: [Key; 2] =
        [Key { lane: Some(Lane::Raw), number: 1, part: 0 }, Key { lane: Some(Lane::Raw), number: 2, part: 0 }];

    fn keys() -> Keys {
        let key = EncryptionKey::new(std::array::from_fn(|at| at as u8));
        Keys::new(&Encryption { key: Some(key), previous_keys: Vec::new() })
    }

    /// An encrypted segment of two values, and its database open again.
    fn stored(path: &Path) -> sled::Db {
        let mut segment = Segment::create(path, "run", &keys()).unwrap();
        segment.commit(&KEYS.map(|key| (key, vec![key.number as u8; 100]))).unwrap();
        drop(segment);
        when_unlocked(|| config(path).open().map_err(|error| classify(path, error))).unwrap()
    }

    /// sled lets its lock go a moment after it was closed.
    fn when_unlocked<T>(open: impl Fn() -> Result<T, SegmentError>) -> Result<T, SegmentError> {
        for _ in 0..500 {
            match open() {
                Err(SegmentError::Locked { .. }) => std::thread::sleep(Duration::from_millis(20)),
                opened => return opened,
            }
        }
        open()
    }

    /// What is left of it after `change`: the numbers of the values, and the damage.
    fn after(change: impl FnOnce(&sled::Db)) -> Result<(Vec<u64>, Option<String>), SegmentError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1");
        let database = stored(&path);
        change(&database);
        database.flush().unwrap();
        drop(database);
        let contents = when_unlocked(|| load(&path, &keys()))?;
        for (key, value) in &contents.values {
            assert_eq!(value, &vec![key.number as u8; 100]);
        }
        Ok((contents.values.into_iter().map(|(key, _)| key.number).collect(), contents.damage))
    }

    fn change(database: &sled::Db, tree: &str, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
        let tree = database.open_tree(tree).unwrap();
        let mut value = tree.get(key).unwrap().unwrap().to_vec();
        change(&mut value);
        tree.insert(key, value).unwrap();
    }

    #[test]
    fn a_changed_bit_of_a_value_costs_that_value() {
        assert_eq!(after(|_| ()).unwrap(), (vec![1, 2], None));
        // Counter, ciphertext, tag.
        for at in [0, 7, 8, 60, 107, 108, 123] {
            let flipped = |database: &sled::Db| change(database, "00000000", &KEYS[0].bytes(), |value| value[at] ^= 1);
            assert_eq!(after(flipped).unwrap(), (vec![2], Some(CHANGED.to_owned())), "byte {at}");
        }
        let cut = |database: &sled::Db| change(database, "00000000", &KEYS[1].bytes(), |value| value.truncate(20));
        assert_eq!(after(cut).unwrap(), (vec![1], Some(CHANGED.to_owned())));
    }

    #[test]
    fn values_that_changed_places_are_not_believed() {
        let swapped = |database: &sled::Db| {
            let tree = database.open_tree("00000000").unwrap();
            let [one, two] = KEYS.map(|key| tree.get(key.bytes()).unwrap().unwrap());
            tree.insert(KEYS[0].bytes(), two).unwrap();
            tree.insert(KEYS[1].bytes(), one).unwrap();
        };
        assert_eq!(after(swapped).unwrap(), (vec![], Some(CHANGED.to_owned())));
        let repeated = |database: &sled::Db| {
            let tree = database.open_tree("00000000").unwrap();
            let value = tree.get(KEYS[0].bytes()).unwrap().unwrap();
            tree.insert(Key { number: 3, ..KEYS[0] }.bytes(), value).unwrap();
        };
        assert_eq!(after(repeated).unwrap(), (vec![1, 2], Some(CHANGED.to_owned())));
    }

    #[test]
    fn a_changed_header_is_never_taken_for_another_key_or_another_run() {
        for key in [SALT_KEY, RUN_KEY] {
            let flipped = |database: &sled::Db| change(database, HEADER_TREE, key, |value| value[0] ^= 1);
            assert_eq!(after(flipped).unwrap(), (vec![], Some(CHANGED.to_owned())));
        }
        let other_key = |database: &sled::Db| change(database, HEADER_TREE, KEY_KEY, |value| value[0] ^= 1);
        assert!(matches!(after(other_key), Err(SegmentError::Key { .. })));
        let no_salt = |database: &sled::Db| drop(database.open_tree(HEADER_TREE).unwrap().remove(SALT_KEY).unwrap());
        assert!(matches!(after(no_salt), Err(SegmentError::Damaged { .. })));
        let later = |database: &sled::Db| change(database, HEADER_TREE, FORMAT_KEY, |value| value[0] = b'3');
        assert!(matches!(after(later), Err(SegmentError::Format { .. })));
    }

    #[test]
    fn the_longest_value_stays_in_the_database_when_it_is_encrypted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1");
        let mut segment = Segment::create(&path, "run", &keys()).unwrap();
        let value = vec![7; super::super::chunk::VALUE_BYTES_MAX - super::super::cipher::SEALED_BYTES];
        for number in 0..100 {
            segment.commit(&[(Key { number, ..KEYS[0] }, value.clone())]).unwrap();
        }
        drop(segment);
        assert_eq!(fs::read_dir(path.join("blobs")).unwrap().count(), 0);
        assert_eq!(when_unlocked(|| load(&path, &keys())).unwrap().values.len(), 100);
    }
}
