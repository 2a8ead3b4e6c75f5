//! The checkpoint: the rules' state as it was at one moment, in one file that is replaced atomically (write beside it,
//! sync, rename, sync the directory). What the state took in since then is the journal, which goes with the commits.
//!
//! ```text
//! "TGCP" | version u8 | segment u64 | length u64 | crc u32 | zstd data …
//! ```
//!
//! `segment` is the first segment that can hold journal which the checkpoint does not include, `length` that of the data
//! before compression, `crc` the CRC-32C of everything else. Numbers are little endian.
//!
//! Invariants: it is written only after the commit of all that it includes, so it never knows more than the records do;
//! no segment from `segment` on is deleted before a newer checkpoint is durable, so checkpoint and journal together are
//! always the state as of the last commit.

use std::fs;
use std::io;
use std::path::Path;

use super::manifest::{RESERVE_BYTES_MIN, replace, use_reserve};

const NAME: &str = "CHECKPOINT";
const MAGIC: &[u8; 4] = b"TGCP";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 25;
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
    #[error("it has version {0}, this program knows up to {VERSION}: install the release that wrote it")]
    Version(u8),
}

/// Replaces it, durably; gives the bytes that it takes.
pub(crate) fn write(directory: &Path, segment: u64, bytes: &[u8]) -> io::Result<u64> {
    let mut file = Vec::with_capacity(HEADER_BYTES + bytes.len() / 4);
    file.extend(MAGIC);
    file.push(VERSION);
    file.extend(segment.to_le_bytes());
    file.extend((bytes.len() as u64).to_le_bytes());
    let data = zstd::bulk::compress(bytes, 1)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&file), &data);
    file.extend(crc.to_le_bytes());
    file.extend(data);
    // What is larger than the reserve would only use it up.
    let helps = file.len() as u64 <= RESERVE_BYTES_MIN / 2;
    match replace(directory, NAME, &file) {
        Err(error) if helps && use_reserve(directory, &error) => replace(directory, NAME, &file),
        done => done,
    }
    .map(|()| file.len() as u64)
}

/// Reads it; `None` if there is none.
pub(crate) fn read(directory: &Path) -> Result<Option<Checkpoint>, CheckpointError> {
    match fs::read(directory.join(NAME)) {
        Ok(file) => parse(&file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn parse(file: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let (header, data) = file.split_first_chunk::<HEADER_BYTES>().ok_or(CheckpointError::Damaged("it is cut off"))?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let crc = u32::from_le_bytes([header[21], header[22], header[23], header[24]]);
    if &header[..4] != MAGIC {
        return Err(CheckpointError::Damaged("it does not begin as a checkpoint does"));
    }
    if crc32c::crc32c_append(crc32c::crc32c(&header[..21]), data) != crc {
        return Err(CheckpointError::Damaged("its checksum is wrong"));
    }
    if header[4] > VERSION {
        return Err(CheckpointError::Version(header[4]));
    }
    let length = usize::try_from(word(13)).ok().filter(|length| *length as u64 <= LENGTH_MAX);
    let length = length.ok_or(CheckpointError::Damaged("it claims to be larger than one can be"))?;
    let bytes = zstd::bulk::decompress(data, length).map_err(|_| CheckpointError::Damaged("it does not decompress"))?;
    Ok(Checkpoint { segment: word(5), bytes })
}

/// Sets a damaged one aside.
pub(crate) fn set_aside(directory: &Path) -> io::Result<()> {
    fs::rename(directory.join(NAME), directory.join("CHECKPOINT.damaged"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_each_flipped_bit_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(read(directory.path()), Ok(None)));
        let bytes: Vec<u8> = (0..2_000_u32).flat_map(|n| (n % 91).to_le_bytes()).collect();
        write(directory.path(), 42, &bytes).unwrap();
        assert_eq!(read(directory.path()).unwrap().unwrap(), Checkpoint { segment: 42, bytes });
        let file = fs::read(directory.path().join(NAME)).unwrap();
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(parse(&damaged).is_err(), "byte {at}");
            assert!(parse(&file[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn one_of_a_later_release_is_not_damage() {
        let mut file = [MAGIC.as_slice(), &[VERSION + 1], &[0; 16]].concat();
        let crc = crc32c::crc32c(&file);
        file.extend(crc.to_le_bytes());
        assert!(matches!(parse(&file), Err(CheckpointError::Version(found)) if found == VERSION + 1));
    }
}
