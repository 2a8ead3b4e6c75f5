//! The checkpoint: the rules' state as it was at one moment, in one file that is replaced atomically (write beside it,
//! sync, rename, sync the directory). What the state took in since then is the journal, which goes with the commits.
//!
//! ```text
//! "TGCP" | version u8 | segment u64 | length u64 | crc u32 | zstd data …
//! "TGCP" | 2          | segment u64 | length u64 | crc u32 | key id (16 characters) | salt (32 bytes) | sealed zstd data …
//! ```
//!
//! `segment` is the first segment that can hold journal which the checkpoint does not include, `length` that of the data
//! before compression, `crc` the CRC-32C of everything else. Numbers are little endian. Version 2 is the encrypted one: all
//! that stands before the sealed data, but for the CRC, is sealed with it.
//!
//! Invariants: it is written only after the commit of all that it includes, so it never knows more than the records do;
//! no segment from `segment` on is deleted before a newer checkpoint is durable, so checkpoint and journal together are
//! always the state as of the last commit.

use std::fs;
use std::io;
use std::path::Path;

use super::cipher::{ID_CHARS, Keys, SALT_BYTES};
use super::manifest::{RESERVE_BYTES_MIN, replace, use_reserve};

const NAME: &str = "CHECKPOINT";
const MAGIC: &[u8; 4] = b"TGCP";
const VERSION_PLAIN: u8 = 1;
const VERSION_SEALED: u8 = 2;
const HEADER_BYTES: usize = 25;
/// Of the header, what stands before the CRC.
const HEAD_BYTES: usize = 21;
/// Parts its key from those of segments.
const CONTEXT: &[u8] = b"\0checkpoint";
/// A checkpoint that claims to be longer is damaged.
const LENGTH_MAX: u64 = 1 << 30;

/// A checkpoint as it was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The first segment whose journal it may not include.
    pub(crate) segment: u64,
    /// What [`write()`] was given.
    pub(crate) bytes: Vec<u8>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error("it has version {0}, this program knows up to {VERSION_SEALED}: install the release that wrote it")]
    Version(u8),
    #[error("it is encrypted with key {0}, which is none of the keys in [outbox.encryption]: add it there")]
    Key(String),
}

/// Replaces it, durably; gives the bytes that it takes.
pub(crate) fn write(directory: &Path, segment: u64, bytes: &[u8], keys: &Keys) -> io::Result<u64> {
    let sealer = keys.sealer(CONTEXT)?;
    let mut head = Vec::with_capacity(HEAD_BYTES);
    head.extend(MAGIC);
    head.push(if sealer.is_some() { VERSION_SEALED } else { VERSION_PLAIN });
    head.extend(segment.to_le_bytes());
    head.extend((bytes.len() as u64).to_le_bytes());
    let mut data = zstd::bulk::compress(bytes, 1)?;
    if let Some(mut sealer) = sealer {
        let sealed = sealer.seal(&head, &data)?;
        data = [sealer.id().as_bytes(), sealer.salt(), &sealed].concat();
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head), &data);
    let file = [head.as_slice(), &crc.to_le_bytes(), &data].concat();
    // What is larger than the reserve would only use it up.
    let helps = file.len() as u64 <= RESERVE_BYTES_MIN / 2;
    match replace(directory, NAME, &file) {
        Err(error) if helps && use_reserve(directory, &error) => replace(directory, NAME, &file),
        done => done,
    }
    .map(|()| file.len() as u64)
}

/// Reads it; `None` if there is none.
pub(crate) fn read(directory: &Path, keys: &Keys) -> Result<Option<Checkpoint>, CheckpointError> {
    match fs::read(directory.join(NAME)) {
        Ok(file) => parse(&file, keys).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn parse(file: &[u8], keys: &Keys) -> Result<Checkpoint, CheckpointError> {
    let (header, data) = file.split_first_chunk::<HEADER_BYTES>().ok_or(CheckpointError::Damaged("it is cut off"))?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let (head, crc) = header.split_at(HEAD_BYTES);
    if &head[..4] != MAGIC {
        return Err(CheckpointError::Damaged("it does not begin as a checkpoint does"));
    }
    if crc32c::crc32c_append(crc32c::crc32c(head), data).to_le_bytes() != crc {
        return Err(CheckpointError::Damaged("its checksum is wrong"));
    }
    let opened;
    let data = match head[4] {
        VERSION_SEALED => {
            opened = open(head, data, keys)?;
            &opened
        }
        0 | VERSION_PLAIN => data,
        later => return Err(CheckpointError::Version(later)),
    };
    let length = usize::try_from(word(13)).ok().filter(|length| *length as u64 <= LENGTH_MAX);
    let length = length.ok_or(CheckpointError::Damaged("it claims to be larger than one can be"))?;
    let bytes = zstd::bulk::decompress(data, length).map_err(|_| CheckpointError::Damaged("it does not decompress"))?;
    Ok(Checkpoint { segment: word(5), bytes })
}

fn open(head: &[u8], data: &[u8], keys: &Keys) -> Result<Vec<u8>, CheckpointError> {
    let (id, rest) = data.split_at_checked(ID_CHARS).ok_or(CheckpointError::Damaged("it is cut off"))?;
    let (salt, sealed) = rest.split_at_checked(SALT_BYTES).ok_or(CheckpointError::Damaged("it is cut off"))?;
    let id = String::from_utf8_lossy(id).into_owned();
    let opener = keys.opener(&id, salt, CONTEXT).ok_or(CheckpointError::Key(id))?;
    opener.open(head, sealed).ok_or(CheckpointError::Damaged("it was changed after it was encrypted"))
}

/// Sets a damaged one aside.
pub(crate) fn set_aside(directory: &Path) -> io::Result<()> {
    fs::rename(directory.join(NAME), directory.join("CHECKPOINT.damaged"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Encryption, EncryptionKey};

    #[test]
    fn what_was_written_is_read_and_each_flipped_bit_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(read(directory.path(), &keys()), Ok(None)));
        let bytes: Vec<u8> = (0..2_000_u32).flat_map(|n| (n % 91).to_le_bytes()).collect();
        for keys in [Keys::default(), keys()] {
            write(directory.path(), 42, &bytes, &keys).unwrap();
            let expected = Checkpoint { segment: 42, bytes: bytes.clone() };
            assert_eq!(read(directory.path(), &keys).unwrap().unwrap(), expected);
            let file = fs::read(directory.path().join(NAME)).unwrap();
            for at in 0..file.len() {
                let mut damaged = file.clone();
                damaged[at] ^= 1 << (at % 8);
                assert!(parse(&damaged, &keys).is_err(), "byte {at}");
                assert!(parse(&file[..at], &keys).is_err(), "cut at {at}");
            }
        }
    }

    fn keys() -> Keys {
        let key = EncryptionKey::new(*b"a key of the tests, of 32 bytes.");
        Keys::new(&Encryption { key: Some(key), previous_keys: Vec::new() })
    }

    #[test]
    fn without_its_key_an_encrypted_one_is_not_damaged_and_a_plain_one_is_read() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), 1, b"state", &keys()).unwrap();
        let error = read(directory.path(), &Keys::default()).unwrap_err();
        assert!(matches!(&error, CheckpointError::Key(id) if keys().has(id)), "{error}");
        write(directory.path(), 1, b"state", &Keys::default()).unwrap();
        assert_eq!(read(directory.path(), &keys()).unwrap().unwrap().bytes, b"state");
    }

    #[test]
    fn each_changed_byte_is_noticed_also_where_its_checksum_was_made_right_again() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), 42, b"state", &keys()).unwrap();
        let file = fs::read(directory.path().join(NAME)).unwrap();
        for at in (0..HEAD_BYTES).chain(HEADER_BYTES..file.len()) {
            let mut changed = file.clone();
            changed[at] ^= 1;
            let crc = crc32c::crc32c_append(crc32c::crc32c(&changed[..HEAD_BYTES]), &changed[HEADER_BYTES..]);
            changed[HEAD_BYTES..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
            assert!(parse(&changed, &keys()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn one_of_a_later_release_is_not_damage() {
        let mut file = [MAGIC.as_slice(), &[VERSION_SEALED + 1], &[0; 16]].concat();
        let crc = crc32c::crc32c(&file);
        file.extend(crc.to_le_bytes());
        assert!(matches!(parse(&file, &keys()), Err(CheckpointError::Version(found)) if found == VERSION_SEALED + 1));
    }
}
