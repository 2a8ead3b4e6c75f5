//! What a refusal of the system means for a service in a sandbox: "operation not permitted" sends people to the permissions
//! of the file, which are right, while it is the unit that refuses.

use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

/// Whether a service manager started this process, so that there may be a sandbox around it (systemd.exec(5)).
fn is_service() -> bool {
    std::env::var_os("INVOCATION_ID").is_some()
}

/// What to do about a serial port that may not be opened. Opening asks the permissions of its file and, for a service, the
/// devices that its unit allows; both say no in nearly the same words, so the file is asked alone.
#[must_use]
pub fn port_refused(port: &Path) -> &'static str {
    let by_file = access(port, Access::READ_OK | Access::WRITE_OK).is_err();
    port_hint(by_file, is_service())
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
