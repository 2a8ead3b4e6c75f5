//! What a power cut leaves on the disk of a virtual machine, made from QEMU's log of what the machine wrote and flushed.
//!
//! The log is that of Linux' dm-log-writes: sectors of 512 bytes; the first one says so; then, for each write or flush, a
//! sector with its place, length and kind, followed by the data of a write.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SECTOR: u64 = 512;
/// What a disk writes as one.
const BLOCK: u64 = 4096;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FORCE: u64 = 2;

/// What stays of that which was not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stays {
    /// Nothing.
    Nothing,
    /// Any blocks of it.
    Any,
    /// All.
    All,
}

/// What a life had written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) flushes: u64,
    /// Blocks that were flushed, and those that were not and stayed, or did not.
    pub(crate) flushed: u64,
    pub(crate) stayed: u64,
    pub(crate) lost: u64,
}

impl Written {
    pub(crate) fn add(&mut self, more: Self) {
        self.flushes += more.flushes;
        self.flushed += more.flushed;
        self.stayed += more.stayed;
        self.lost += more.lost;
    }
}

/// An entry of the log: a write's place on the disk and that of its data in the log, and whether all so far was flushed.
#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: u64,
    length: u64,
    data: u64,
    flushes: bool,
    /// Where the next one begins.
    end: u64,
}

/// Carries over to `disk` what a cut leaves of `log`: one after any of its entries, the first `from` bytes of it being
/// there in any case.
pub(crate) fn cut(disk: &Path, log: &Path, from: u64, stays: Stays, random: &mut fastrand::Rng) -> io::Result<Written> {
    let (disk, log) = (File::options().write(true).open(disk)?, File::open(log)?);
    let mut entries = read(&log)?;
    let first = entries.partition_point(|entry| entry.end <= from);
    entries.truncate(random.usize(first..=entries.len()));
    let flushed = entries.iter().rposition(|entry| entry.flushes).map_or(0, |at| at + 1);
    let flushes = entries.iter().filter(|entry| entry.flushes).count() as u64;
    let mut written = Written { flushes, ..Written::default() };
    for (at, entry) in entries.iter().enumerate() {
        let mut done = 0;
        while done < entry.length {
            let length = (BLOCK - (entry.offset + done) % BLOCK).min(entry.length - done);
            let is_flushed = at < flushed;
            let stays = match stays {
                _ if is_flushed => true,
                Stays::Nothing => false,
                Stays::Any => random.bool(),
                Stays::All => true,
            };
            if stays {
                let mut block = vec![0; usize::try_from(length).unwrap_or_default()];
                log.read_exact_at(&mut block, entry.data + done)?;
                disk.write_all_at(&block, entry.offset + done)?;
            }
            let count = match (is_flushed, stays) {
                (true, _) => &mut written.flushed,
                (false, true) => &mut written.stayed,
                (false, false) => &mut written.lost,
            };
            *count += 1;
            done += length;
        }
    }
    Ok(written)
}

/// All of it in its order.
fn read(log: &File) -> io::Result<Vec<Entry>> {
    let length = log.metadata()?.len();
    let word = |offset: u64| -> io::Result<u64> {
        let mut word = [0; 8];
        log.read_exact_at(&mut word, offset)?;
        Ok(u64::from_le_bytes(word))
    };
    let mut entries = Vec::new();
    let mut at = SECTOR;
    while at + SECTOR <= length {
        let [sector, sectors, flags, _] = [word(at)?, word(at + 8)?, word(at + 16)?, word(at + 24)?];
        // Anything else, such as a discard, this disk was not told to understand; a hole would be a write that never ended.
        if flags & !(FLUSH | FORCE) > 0 || (sectors, flags) == (0, 0) {
            let what = format!("an entry of {sectors} sectors with flags {flags} at {at} of {length}");
            return Err(io::Error::other(what));
        }
        let (data, length) = (at + SECTOR, sectors * SECTOR);
        at = data + length;
        entries.push(Entry { offset: sector * SECTOR, length, data, flushes: flags > 0, end: at });
    }
    if entries.iter().any(|entry| entry.flushes) && word(0)? != MAGIC {
        return Err(io::Error::other("it is no log of writes"));
    }
    Ok(entries)
}
