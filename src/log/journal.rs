//! Lines for systemd's journal, with their fields: what stands in the text as `source="mqtt.home"` is the field
//! `TIDEGATE_SOURCE` besides, so that `journalctl -u tidegate TIDEGATE_SOURCE=mqtt.home` finds it.
//!
//! This is the journal's own protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): a datagram of names and values. It is
//! so little that it is done here; the crate for it leaves the fields out of the text, where a person looks for them.
//! What cannot be sent so, because it is too long or the socket is gone, goes to standard error with its priority
//! (sd-daemon(3)), which the journal reads too.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

const SOCKET: &str = "/run/systemd/journal/socket";
/// The journal takes no longer names.
const NAME_CHARS_MAX: usize = 64;

/// Whether standard error is the journal: `JOURNAL_STREAM` names the device and the inode of what systemd connected, and
/// another program may have put something else there since (systemd.exec(5)).
pub(super) fn is_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(std::io::stderr().as_fd()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Sends each event to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: Option<UnixDatagram>,
}

impl Journal {
    /// The journal of this machine.
    pub(super) fn new() -> Self {
        Self::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> Self {
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            std::io::Result::Ok(socket)
        };
        Self { socket: connect().ok() }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let priority = match *metadata.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let mut entry = Entry::default();
        event.record(&mut entry);
        let text = entry.text + &entry.fields;
        let mut bytes = entry.bytes;
        put(&mut bytes, "MESSAGE", &text);
        put(&mut bytes, "PRIORITY", &priority.to_string());
        put(&mut bytes, "SYSLOG_IDENTIFIER", "tidegate");
        put(&mut bytes, "TIDEGATE_TARGET", metadata.target());
        if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
            put(&mut bytes, "CODE_FILE", file);
            put(&mut bytes, "CODE_LINE", &line.to_string());
        }
        if self.socket.as_ref().is_none_or(|socket| socket.send(&bytes).is_err()) {
            // Nobody is left to tell when this fails too.
            let _ = writeln!(std::io::stderr(), "<{priority}>{text}");
        }
    }
}

/// What an event says: as text, and as the journal's fields.
#[derive(Debug, Default)]
struct Entry {
    text: String,
    fields: String,
    bytes: Vec<u8>,
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field.name(), value, format_args!("{value:?}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field.name(), &format!("{value:?}"), format_args!("{value:?}"));
    }
}

impl Entry {
    fn take(&mut self, name: &str, value: &str, shown: fmt::Arguments<'_>) {
        if name == "message" {
            value.clone_into(&mut self.text);
        } else {
            let _ = write!(self.fields, " {name}={shown}");
            put(&mut self.bytes, &field_name(name), value);
        }
    }
}

/// A name of a field that the journal takes: capitals, digits and underscores.
fn field_name(name: &str) -> String {
    let letters = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    "TIDEGATE_".chars().chain(letters).take(NAME_CHARS_MAX).collect()
}

/// One field, with the length of its value before it, so that the value may hold line breaks.
fn put(bytes: &mut Vec<u8>, name: &str, value: &str) {
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(b'\n');
    bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    /// The fields of a datagram, by the protocol's description.
    fn fields(mut bytes: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let name = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = u64::from_le_bytes(bytes[end + 1..end + 9].try_into().unwrap()) as usize;
            let value = String::from_utf8(bytes[end + 9..end + 9 + length].to_vec()).unwrap();
            bytes = &bytes[end + 9 + length + 1..];
            fields.push((name, value));
        }
        fields
    }

    #[test]
    fn an_event_is_text_with_its_fields_and_fields_besides() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_nonblocking(true).unwrap();
        let subscriber = tracing_subscriber::registry().with(Journal::at(&path));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(source = "mqtt.home", down_s = 7, "not connected:\nPRIORITY=0");
        });
        let mut buffer = [0; 4096];
        let length = journal.recv(&mut buffer).unwrap();
        let fields = fields(&buffer[..length]);
        let value = |name: &str| fields.iter().find(|field| field.0 == name).map(|field| field.1.as_str());
        assert_eq!(value("MESSAGE"), Some("not connected:\nPRIORITY=0 source=\"mqtt.home\" down_s=7"));
        assert_eq!(value("PRIORITY"), Some("4"), "{fields:?}");
        assert_eq!((value("TIDEGATE_SOURCE"), value("TIDEGATE_DOWN_S")), (Some("mqtt.home"), Some("7")));
        assert_eq!(value("TIDEGATE_TARGET"), Some("tidegate::log::journal::tests"));
        assert!(value("CODE_FILE").unwrap().ends_with("journal.rs"));
    }

    #[test]
    fn names_are_what_the_journal_takes() {
        assert_eq!(field_name("down_s"), "TIDEGATE_DOWN_S");
        assert_eq!(field_name("otel.name"), "TIDEGATE_OTEL_NAME");
        assert_eq!(field_name(&"x".repeat(100)).len(), NAME_CHARS_MAX);
    }
}
