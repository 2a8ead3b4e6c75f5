//! What a refusal of the system means for a service in a sandbox: "operation not permitted" sends people to the permissions
//! of the file, which are right, while it is the unit that refuses.

use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Whether a service manager started this process, so that there may be a sandbox around it (systemd.exec(5)).
fn is_service() -> bool {
    std::env::var_os("INVOCATION_ID").is_some()
}

/// What to do about a serial port that could not be opened, if that is a question of who may. The port is asked once more,
/// because a serial library does not tell all that the system said: EACCES is the permissions of its file, and EPERM whoever
/// allows devices.
#[must_use]
pub fn port_refused(port: &Path) -> Option<&'static str> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::open(port, flags, Mode::empty()) {
        Err(Errno::ACCESS) => Some(port_hint(true, is_service())),
        Err(Errno::PERM) => Some(port_hint(false, is_service())),
        _ => None,
    }
}

fn port_hint(by_file: bool, is_service: bool) -> &'static str {
    match (by_file, is_service) {
        (true, false) => "the user that the gateway runs as must be in the group of this device (ls -l)",
        (true, true) => {
            "the service must be in the group of this device (ls -l): `systemctl edit` its unit, SupplementaryGroups=GROUP"
        }
        (false, true) => {
            "the sandbox of the service refuses it, since it is of no driver for serial ports that its unit names: \
             `systemctl edit` it, DeviceAllow=DEVICE rw"
        }
        (false, false) => {
            "something beyond its permissions refuses it, such as a container that was not given this device"
        }
    }
}

/// What to do about a file or directory that could not be read or written; empty where a sandbox cannot be the cause.
#[must_use]
pub fn file_refused(error: &io::Error) -> &'static str {
    file_hint(error.kind(), is_service())
}

fn file_hint(kind: io::ErrorKind, is_service: bool) -> &'static str {
    match kind {
        io::ErrorKind::ReadOnlyFilesystem if is_service => {
            "the sandbox of the service lets it write below /var/lib/tidegate only: `systemctl edit` its unit, \
             ReadWritePaths=DIRECTORY, and give that directory to its user"
        }
        io::ErrorKind::PermissionDenied if is_service => {
            "the service runs as a user of its own (User= in its unit): that one needs the permission"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_names_who_refuses() {
        assert!(port_hint(true, true).contains("SupplementaryGroups="));
        assert!(port_hint(false, true).contains("DeviceAllow="));
        assert!(port_hint(true, false).contains("group"));
        assert!(file_hint(io::ErrorKind::ReadOnlyFilesystem, true).contains("ReadWritePaths="));
        assert_eq!(file_hint(io::ErrorKind::ReadOnlyFilesystem, false), "");
        assert_eq!(file_hint(io::ErrorKind::NotFound, true), "");
    }
}
