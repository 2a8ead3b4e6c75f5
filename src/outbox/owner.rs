//! Whose the data directory is. What root writes into the directory of a service's user, that user cannot open: a manifest
//! replaced by `sudo tidegate outbox purge` would keep the service from starting. So root does not write there.
//!
//! Only root is asked: another user is refused by the system. And only about an owner that means something here: one
//! that a user namespace or a server of files does not map is shown as nobody, and then what root makes is nobody's too.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::recovery::OpenError;

const USERS: &str = "/etc/passwd";
/// The kernel's number for an owner that is not mapped.
const NOBODY: &str = "/proc/sys/fs/overflowuid";
const NOBODY_UNLESS_SAID: u32 = 65_534;

/// Refuses if files that this process made in `data_dir` would lock out the user whom it belongs to. One that is not there
/// yet belongs to whoever makes it.
pub(super) fn check(data_dir: &Path) -> Result<(), OpenError> {
    let owner = match fs::metadata(data_dir) {
        Ok(metadata) => metadata.uid(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(OpenError::Directory { path: data_dir.to_owned(), source }),
    };
    let nobody = fs::read_to_string(NOBODY).ok().and_then(|text| text.trim().parse().ok());
    if locks_out(rustix::process::geteuid().as_raw(), owner, nobody.unwrap_or(NOBODY_UNLESS_SAID)) {
        let users = fs::read_to_string(USERS).unwrap_or_default();
        // What sudo takes for a user without a name, as a shell leaves it.
        let user = name_of(&users, owner).map_or_else(|| format!("'#{owner}'"), str::to_owned);
        return Err(OpenError::Owner { path: data_dir.to_owned(), user });
    }
    Ok(())
}

fn locks_out(euid: u32, owner: u32, nobody: u32) -> bool {
    euid == 0 && owner != 0 && owner != nobody
}

/// A user's name in the text of passwd(5). A user of another directory service has none here.
fn name_of(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_can_lock_another_user_out() {
        const NOBODY: u32 = 65_534;
        assert!(locks_out(0, 998, NOBODY));
        assert!(!locks_out(0, 0, NOBODY), "its own");
        assert!(!locks_out(998, 998, NOBODY), "the service");
        assert!(!locks_out(1000, 998, NOBODY), "the system refuses that itself");
        assert!(!locks_out(0, NOBODY, NOBODY), "an owner that is not mapped here");
    }

    #[test]
    fn a_user_has_the_name_that_the_system_has_for_it() {
        let users =
            "root:x:0:0:root:/root:/bin/bash\nbroken\n\ntidegate:x:998:997::/var/lib/tidegate:/usr/sbin/nologin\n";
        assert_eq!(name_of(users, 998), Some("tidegate"));
        assert_eq!(name_of(users, 0), Some("root"));
        assert_eq!(name_of(users, 997), None, "that is a group");
    }
}
