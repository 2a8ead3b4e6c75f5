//! The directory that the self-test works in, and the disk below it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::report::{Check, Measured};
use super::room_text;
use crate::cli::board;
use crate::config;

/// An outbox takes about this much before it has delivered anything, in bytes: a segment, its reserve, a manifest.
const PROBE_BYTES: usize = 8 << 20;

/// A private directory that goes with its handle.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

impl Directory {
    /// Makes one on the disk that holds `below`, and proves that the disk takes as much as an outbox needs.
    pub(super) fn make(below: &Path) -> Result<Self, Check> {
        let parent = board::existing(below);
        let path = parent.join(format!(".tidegate-selftest-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&path).map(|()| Self(path.clone()));
        made.and_then(|directory| probe(&directory.0).map(|()| directory))
            .map_err(|error| Check::failed("disk", format!("{}: {error}", parent.display()), help(&error, &parent)))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Left behind it is small, hidden, and nobody's.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn probe(directory: &Path) -> io::Result<()> {
    let path = directory.join("probe");
    let mut file = File::create_new(&path)?;
    let block = vec![0x5a; 64 << 10];
    let mut left = PROBE_BYTES;
    while left > 0 {
        let now = left.min(block.len());
        file.write_all(&block[..now])?;
        left -= now;
    }
    file.sync_all()?;
    fs::remove_file(&path)
}

/// What to do about a disk that refuses.
pub(super) fn help(error: &io::Error, path: &Path) -> Option<String> {
    let mount = board::mount_of(path).map_or_else(|| "/".to_owned(), |mount| mount.point.display().to_string());
    Some(match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("make room on {mount} (`df {mount}`), or put the data directory on another disk: --data-dir DIR")
        }
        io::ErrorKind::ReadOnlyFilesystem => format!(
            "{mount} is mounted read-only: sudo mount -o remount,rw {mount}; a card that became so by itself is \
             failing (`dmesg` says why): replace it"
        ),
        io::ErrorKind::PermissionDenied => {
            "run it with sudo, or name a directory that this user may write to: --data-dir DIR".to_owned()
        }
        _ => format!("is the disk below {mount} sound? `dmesg` may say more"),
    })
}

/// What disk that is and how much is free.
pub(super) fn room(path: &Path, named: bool, outbox: &config::Outbox, measured: &mut Measured) -> Check {
    let space = match board::space_of(path) {
        Ok(space) => space,
        Err(error) => return Check::failed("disk", format!("{}: {error}", path.display()), help(&error, path)),
    };
    (measured.free_bytes, measured.total_bytes) = (Some(space.free), Some(space.total));
    let mount = board::mount_of(path);
    let on = mount.as_ref().map_or_else(String::new, |mount| format!("{} ({})", mount.source, mount.file_system));
    let parent = path.parent().unwrap_or(path).display();
    let found = format!("{parent} on {on}, {}", room_text(space));
    if !named && mount.is_some_and(|mount| mount.is_memory()) {
        let help = "that is memory: to test a card or a disk, name the data directory: --data-dir /var/lib/tidegate";
        return Check::note("disk", found, help);
    }
    if space.free < outbox.size_max {
        let (max, fit) = (super::size(outbox.size_max), super::size(space.free / 10 * 9));
        let help = format!("outbox.max_size is {max} unless set: set it to what there is room for, such as {fit}");
        return Check::note("disk", found, help);
    }
    Check::ok("disk", found)
}
