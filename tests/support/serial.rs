//! A serial device: the master side of a pseudo-terminal, and a symbolic link that stands for its name below
//! /dev/serial/by-id.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tidegate::clock;

/// A plugged-in device; dropping it pulls it out.
#[derive(Debug)]
pub(crate) struct Pty {
    master: File,
    link: PathBuf,
}

impl Pty {
    /// Plugs a device in: from now on it can be opened by the name `link`.
    pub(crate) fn plug(link: &Path) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        // A device does not echo, nor edit lines, before the gateway has opened it either.
        let mut settings = tcgetattr(&master).unwrap();
        settings.make_raw();
        tcsetattr(&master, OptionalActions::Now, &settings).unwrap();
        fcntl_setfl(&master, OFlags::NONBLOCK).unwrap();
        symlink(name.to_str().unwrap(), link).unwrap();
        Self { master: File::from(master), link: link.into() }
    }

    /// Sends bytes as fast as the other side takes them; false if it took nothing for `patience`.
    pub(crate) fn send(&mut self, mut bytes: &[u8], patience: Duration) -> bool {
        let mut last = clock::instant();
        while !bytes.is_empty() {
            match self.master.write(bytes) {
                Ok(0) => return false,
                Ok(count) => {
                    bytes = &bytes[count..];
                    last = clock::instant();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if last.elapsed() > patience {
                        return false;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("writing to the pseudo-terminal: {error}"),
            }
        }
        true
    }

    /// What the other side has written, which a sensor would read.
    pub(crate) fn received(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        match self.master.read(&mut bytes) {
            Ok(count) => bytes.truncate(count),
            Err(_) => bytes.clear(),
        }
        bytes
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.link);
    }
}
