//! The service manager's socket, as sd_notify(3) describes it: a datagram of `NAME=value` lines. It is so little that it
//! is done here, without a crate.
//!
//! `NOTIFY_SOCKET` is read once and left in the environment: the gateway starts no other program that could take it for
//! its own. `WATCHDOG_USEC` holds for the process that `WATCHDOG_PID` names.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::{debug, warn};

use crate::clock;

/// A manager that does not read is not waited for: what it is told is told again, or was only a line for people.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Tells the service manager how the gateway is. Cloning gives another handle; without a manager nothing is sent.
#[derive(Clone, Debug, Default)]
pub struct Notifier(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    manager: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    is_ready: AtomicBool,
    /// Stands before every line of status.
    remark: Mutex<String>,
}

impl Notifier {
    /// The manager that started this process, if one did and wants to hear of it.
    #[must_use]
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let manager = variable("NOTIFY_SOCKET").and_then(|name| match connect(&name) {
            Ok(manager) => Some(manager),
            Err(error) => {
                warn!("the service manager cannot be told anything, its socket {}: {error}", name.display());
                None
            }
        });
        let text = |name| variable(name).and_then(|value| value.into_string().ok());
        let watchdog = manager.as_ref().and_then(|_| watchdog(text("WATCHDOG_USEC"), text("WATCHDOG_PID")));
        Self(Arc::new(Inner { manager, watchdog, ..Inner::default() }))
    }

    /// Whether there is a manager to tell anything.
    #[must_use]
    pub fn has_manager(&self) -> bool {
        self.0.manager.is_some()
    }

    /// After how long without food the manager ends the process; `None` where it does not watch.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.0.watchdog
    }

    /// The outbox is open and the sources are trying.
    pub fn ready(&self) {
        self.0.is_ready.store(true, Ordering::Relaxed);
        self.send("READY=1");
    }

    /// A new configuration is about to be tried; [`Notifier::reloaded`] must follow.
    pub fn reloading(&self) {
        // In the kernel's monotonic clock, which tells the manager's `reload` of this moment from an older one.
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic().as_micros()));
    }

    /// It runs, or was refused and the old one runs on.
    pub fn reloaded(&self) {
        self.send("READY=1");
    }

    /// The gateway stops by itself or was told to, and takes `within` at most. The manager's own time for a stop may be shorter.
    pub fn stopping(&self, within: Duration) {
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}\nSTATUS=stopping", within.as_micros()));
    }

    /// What a person should see in the manager's status.
    pub fn status(&self, line: &str) {
        self.send(&format!("STATUS={}", one_line(line)));
    }

    /// Something that is to stand before every line of status from now on, such as a configuration that was refused; empty
    /// for nothing.
    pub fn set_remark(&self, remark: &str) {
        remark.clone_into(&mut self.0.remark.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn remark(&self) -> String {
        self.0.remark.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All parts make progress. Before it is ready, that earns the start more time: one that waits for a full disk is to
    /// wait, and to drain meanwhile.
    pub(super) fn alive(&self, more: Duration) {
        if !self.0.is_ready.load(Ordering::Relaxed) {
            self.send(&format!("EXTEND_TIMEOUT_USEC={}", more.as_micros()));
        } else if self.0.watchdog.is_some() {
            self.send("WATCHDOG=1");
        }
    }

    fn send(&self, message: &str) {
        let Some((socket, manager)) = &self.0.manager else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), manager) {
            debug!("the service manager could not be told {message:?}: {error}");
        }
    }
}

fn connect(name: &OsString) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "expected a path or an abstract name (@...)")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok((socket, address))
}

/// `WATCHDOG_USEC`, if it is meant for this process.
fn watchdog(usec: Option<String>, pid: Option<String>) -> Option<Duration> {
    if pid.is_some_and(|pid| pid != std::process::id().to_string()) {
        return None;
    }
    usec?.parse().ok().filter(|usec| *usec > 0).map(Duration::from_micros)
}

/// A line break would begin another message.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixDatagram, Notifier, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let inner = Inner {
            manager: Some(connect(&path.into()).unwrap()),
            watchdog: Some(Duration::from_secs(1)),
            ..Inner::default()
        };
        (manager, Notifier(Arc::new(inner)), directory)
    }

    fn heard(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let length = manager.recv(&mut buffer).unwrap_or(0);
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn before_it_is_ready_progress_earns_time_and_after_that_feeds_the_watchdog() {
        let (manager, notifier, _directory) = pair();
        notifier.alive(Duration::from_secs(60));
        assert_eq!(heard(&manager), "EXTEND_TIMEOUT_USEC=60000000");
        notifier.ready();
        assert_eq!(heard(&manager), "READY=1");
        notifier.alive(Duration::from_secs(60));
        assert_eq!(heard(&manager), "WATCHDOG=1");
    }

    #[test]
    fn what_stands_in_an_error_is_no_message_of_its_own() {
        let (manager, notifier, _directory) = pair();
        notifier.status("kafka down: strange\nREADY=1\tx");
        assert_eq!(heard(&manager), "STATUS=kafka down: strange READY=1 x");
    }

    #[test]
    fn a_manager_that_is_gone_disturbs_nobody() {
        let (manager, notifier, directory) = pair();
        drop((manager, directory));
        notifier.ready();
    }

    #[test]
    fn an_abstract_socket_is_one_too() {
        let name = format!("@tidegate-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let inner = Inner { manager: Some(connect(&name.into()).unwrap()), ..Inner::default() };
        Notifier(Arc::new(inner)).reloading();
        let message = heard(&manager);
        assert!(message.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{message}");
        assert!(connect(&"vsock:2:1234".into()).is_err());
    }

    #[test]
    fn the_watchdog_is_heeded_if_it_is_meant_for_this_process() {
        let own = Some(std::process::id().to_string());
        let usec = || Some("30000000".to_owned());
        assert_eq!(watchdog(usec(), own), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(usec(), None), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(usec(), Some("1".to_owned())), None);
        assert_eq!(watchdog(Some("0".to_owned()), None), None);
        assert_eq!(watchdog(None, None), None);
    }
}
