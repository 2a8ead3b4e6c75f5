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

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of these: where on the disk, what, and whether everything is flushed; and where its entries end.
    fn log(path: &Path, entries: &[(u64, &[u8], bool)]) -> Vec<u64> {
        let mut log = vec![0; SECTOR as usize];
        log[..8].copy_from_slice(&MAGIC.to_le_bytes());
        let mut ends = Vec::new();
        for (offset, data, flushes) in entries {
            let words =
                [offset / SECTOR, data.len() as u64 / SECTOR, if *flushes { FLUSH } else { 0 }, data.len() as u64];
            let header: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            log.extend(header);
            log.resize(log.len().next_multiple_of(SECTOR as usize), 0);
            log.extend(*data);
            ends.push(log.len() as u64);
        }
        std::fs::write(path, log).unwrap();
        ends
    }

    #[test]
    fn what_was_flushed_stays_and_of_the_rest_what_is_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let (disk_path, log_path) = (directory.path().join("disk"), directory.path().join("log"));
        let (one, two, three) = ([1; 8192], [2; 4096], [3; 8192]);
        let ends = log(&log_path, &[(0, &one, false), (0, &[], true), (4096, &two, false), (4096, &three, false)]);
        let random = &mut fastrand::Rng::with_seed(1);
        let mut after = |from: u64, stays: Stays| {
            std::fs::write(&disk_path, [0; 12288]).unwrap();
            cut(&disk_path, &log_path, from, stays, random).unwrap();
            let disk = std::fs::read(&disk_path).unwrap();
            // Blocks are old or new as a whole.
            disk.chunks(BLOCK as usize).for_each(|block| assert!(block.iter().all(|byte| *byte == block[0])));
            [disk[0], disk[4096], disk[8192]]
        };
        assert_eq!(after(ends[3], Stays::Nothing), [1, 1, 0]);
        assert_eq!(after(ends[3], Stays::All), [1, 3, 3]);
        let torn: std::collections::BTreeSet<_> = (0..200).map(|_| after(ends[3], Stays::Any)).collect();
        assert_eq!(torn.into_iter().collect::<Vec<_>>(), [1, 2, 3].map(|at| [[1, at, 0], [1, at, 3]]).concat());
        // What is known to be there is there; what follows may never have come.
        let cuts: std::collections::BTreeSet<_> = (0..200).map(|_| after(ends[1], Stays::All)).collect();
        assert_eq!(cuts.into_iter().collect::<Vec<_>>(), [[1, 1, 0], [1, 2, 0], [1, 3, 3]]);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, path) = (directory.path().join("disk"), directory.path().join("log"));
        std::fs::write(&disk, [0; 4096]).unwrap();
        std::fs::write(&path, [0; 2048]).unwrap();
        let refused = cut(&disk, &path, 0, Stays::All, &mut fastrand::Rng::with_seed(1)).unwrap_err();
        assert!(refused.to_string().contains("an entry of 0 sectors"), "{refused}");
    }
}
