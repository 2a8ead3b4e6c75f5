//! Who else has a serial port open: a person should not have to find that out.

use std::fs;
use std::path::Path;

/// Processes that are looked at.
const PROCESSES_MAX: usize = 4_096;
/// Open files of each of them.
const FILES_MAX: usize = 1_024;

/// Another process that has the port open, by name and number. Only those of the same user are seen, unless by root.
pub(super) fn of(port: &Path) -> Option<String> {
    let port = fs::canonicalize(port).ok()?;
    let own = std::process::id().to_string();
    let processes = fs::read_dir("/proc").ok()?.flatten().filter(|entry| {
        let name = entry.file_name();
        name.as_encoded_bytes().iter().all(u8::is_ascii_digit) && *name != *own
    });
    for process in processes.take(PROCESSES_MAX) {
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        if files.flatten().take(FILES_MAX).any(|file| fs::read_link(file.path()).is_ok_and(|target| target == port)) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {})", name.trim(), process.file_name().display()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::clock;

    #[tokio::test]
    async fn the_process_that_has_a_port_open_is_named() {
        use std::os::fd::AsRawFd;
        let (_device, port) = crate::source::port::Port::pair().unwrap();
        let path = fs::read_link(format!("/proc/self/fd/{}", port.as_raw_fd())).unwrap();
        assert_eq!(of(&path), None, "this process does not count");
        let mut child =
            Command::new("sleep").arg("60").stdin(Stdio::from(fs::File::open(&path).unwrap())).spawn().unwrap();
        let begun = clock::instant();
        let expected = Some(format!("sleep (process {})", child.id()));
        // Until it has become what it is.
        while of(&path) != expected && begun.elapsed() < std::time::Duration::from_secs(10) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let found = of(&path);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, expected);
        assert_eq!(of(Path::new("/dev/not-there")), None);
    }
}
