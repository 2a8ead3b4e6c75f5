//! The archive's file: tar and gzip, which every system and every ticket system opens, for its owner's eyes only.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Makes the file. One that is there is not touched: it may be somebody's, or a link to something of somebody's.
pub(super) fn create(path: &Path) -> Result<File, String> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!("{} is there already: remove it, or name another file with --output", path.display())
        }
        _ => format!("{} cannot be made: {error}; --output names another place", path.display()),
    })
}

/// Writes the files below a directory `stem`, and gives the archive's size in bytes once it is on the disk.
pub(super) fn write(file: File, stem: &str, files: &[(&str, String)], now_ms: i64) -> io::Result<u64> {
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now_ms / 1000).unwrap_or(0));
        archive.append_data(&mut header, format!("{stem}/{name}"), text.as_bytes())?;
    }
    let file = archive.into_inner()?.finish()?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// A text file of at most so many bytes.
pub(super) fn read(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
