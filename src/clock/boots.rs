//! What is kept of the clock on disk: the last known time, and for each boot of the board which runs of the gateway were in
//! it, and how far the wall clock was ahead of the monotonic one. With that, whoever sends a stored record knows when it
//! really was, though the record only knows how long the board had been up: chunks are never rewritten for it.
//!
//! `<data_dir>/CLOCK` is one line of JSON and one with its CRC-32C, replaced whole. It is written when the gateway starts,
//! when the clock comes to be trusted, and once an hour: nothing depends on it but how well times are known, so a
//! file that is lost or damaged costs that, and is begun anew.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::outbox::manifest::replace;
use crate::reading::Stamp;

pub(super) const NAME: &str = "CLOCK";
const VERSION: u32 = 1;
/// Runs without records are forgotten at each start; this many of the others are kept, the newest.
const RUNS_MAX: usize = 2_000;

/// What stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Book {
    version: u32,
    /// No time before this is believed (wall clock, ms).
    pub(super) last_known_ms: i64,
    /// In their order.
    boots: Vec<Boot>,
}

/// One boot of the board.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Boot {
    /// The kernel's id for it.
    id: Arc<str>,
    /// How far the wall clock was ahead of the time since the boot, once that was known.
    #[serde(default)]
    offset_ms: Option<i64>,
    /// The runs of the gateway in it.
    runs: Vec<String>,
}

/// A moment that the wall clock was not trusted to know.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moment {
    /// The boot that it was in.
    pub(crate) boot: Arc<str>,
    /// When it was, if that is known by now.
    pub(crate) wall_ms: Option<i64>,
}

impl Book {
    /// Reads the file. `Err` says what is wrong with it.
    pub(super) fn read(data_dir: &Path) -> Result<Self, String> {
        let text = match fs::read_to_string(data_dir.join(NAME)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error.to_string()),
        };
        let (json, crc) = text.trim_end().split_once('\n').ok_or("it is cut off")?;
        if format!("{:08x}", crc32c::crc32c(json.as_bytes())) != crc {
            return Err("its checksum is wrong".to_owned());
        }
        let book: Self = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if book.version > VERSION { Err(format!("it has version {}", book.version)) } else { Ok(book) }
    }

    /// Replaces the file, durably.
    pub(super) fn write(&self, data_dir: &Path) -> io::Result<()> {
        let json = serde_json::to_string(&Self { version: VERSION, ..self.clone() }).map_err(io::Error::other)?;
        replace(data_dir, NAME, format!("{json}\n{:08x}\n", crc32c::crc32c(json.as_bytes())).as_bytes())
    }

    /// Notes that `run` is in boot `id`; of the other runs only those are kept that `wanted` asks for.
    pub(super) fn join(&mut self, id: &str, run: &str, wanted: impl Fn(&str) -> bool) {
        for boot in &mut self.boots {
            boot.runs.retain(|known| known != run && wanted(known));
        }
        self.boots.retain(|boot| !boot.runs.is_empty() || &*boot.id == id);
        let mut runs: usize = self.boots.iter().map(|boot| boot.runs.len()).sum();
        while runs >= RUNS_MAX && self.boots.len() > 1 && &*self.boots[0].id != id {
            runs -= self.boots.remove(0).runs.len();
        }
        match self.boots.iter_mut().find(|boot| &*boot.id == id) {
            Some(boot) => boot.runs.push(run.to_owned()),
            None => self.boots.push(Boot { id: id.into(), offset_ms: None, runs: vec![run.to_owned()] }),
        }
    }

    /// How far the wall clock was ahead in that boot, if an earlier run knew.
    pub(super) fn offset_of(&self, id: &str) -> Option<i64> {
        self.boots.iter().find(|boot| &*boot.id == id)?.offset_ms
    }

    /// Notes how far it is ahead. Whether that is news: less than a second would make no record better.
    pub(super) fn learn(&mut self, id: &str, offset_ms: i64) -> bool {
        let Some(boot) = self.boots.iter_mut().find(|boot| &*boot.id == id) else { return false };
        let news = boot.offset_ms.is_none_or(|known| known.abs_diff(offset_ms) >= 1_000);
        if news {
            boot.offset_ms = Some(offset_ms);
        }
        news
    }

    /// What is known of a moment in a run whose clock was not trusted.
    fn moment(&self, run: &str, monotonic_ms: u64) -> Option<Moment> {
        let boot = self.boots.iter().rfind(|boot| boot.runs.iter().any(|known| known == run))?;
        let wall_ms = boot.offset_ms.map(|offset| offset.saturating_add_unsigned(monotonic_ms));
        Some(Moment { boot: Arc::clone(&boot.id), wall_ms })
    }
}

/// The boots that records may be of. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub struct Boots {
    book: Arc<Mutex<Book>>,
    learnt: Arc<watch::Sender<u64>>,
}

impl Default for Boots {
    fn default() -> Self {
        Self { book: Arc::default(), learnt: Arc::new(watch::Sender::new(0)) }
    }
}

impl Boots {
    pub(super) fn new(book: Book) -> Self {
        Self { book: Arc::new(Mutex::new(book)), ..Self::default() }
    }

    /// What is known of one run.
    #[cfg(test)]
    pub(crate) fn knowing(run: &str, boot: &str, offset_ms: Option<i64>) -> Self {
        let runs = vec![run.to_owned()];
        Self::new(Book { boots: vec![Boot { id: boot.into(), offset_ms, runs }], ..Book::default() })
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that more is known of the boot at hand, or that the clock was set back.
    pub(super) fn announce(&self) {
        self.learnt.send_modify(|times| *times = times.wrapping_add(1));
    }

    /// Changes when the time of the boot at hand comes to be known, and when the clock was set back.
    pub(crate) fn learnt(&self) -> watch::Receiver<u64> {
        self.learnt.subscribe()
    }

    /// What is known of a moment whose time was not trusted, in a record of this stream (`RUN.LANE`).
    pub(crate) fn moment(&self, stream: &str, at: Stamp) -> Option<Moment> {
        let run = stream.split('.').next().unwrap_or(stream);
        self.book().moment(run, at.monotonic_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Stamp = Stamp { wall_ms: 5_000, monotonic_ms: 5_000, trusted: false };

    fn known(boots: &Boots, stream: &str) -> Option<(String, Option<i64>)> {
        boots.moment(stream, AT).map(|moment| (moment.boot.to_string(), moment.wall_ms))
    }

    #[test]
    fn each_run_is_corrected_by_its_own_boot() {
        let mut book = Book::default();
        book.join("boot-1", "a", |_| true);
        book.join("boot-1", "b", |_| true);
        assert!(book.learn("boot-1", 1_000_000));
        assert!(!book.learn("boot-1", 1_000_999), "drift is no news");
        book.join("boot-2", "c", |_| true);
        book.join("boot-3", "d", |_| true);
        assert!(book.learn("boot-3", 7_000_000) && !book.learn("boot-9", 1));
        let boots = Boots::new(book.clone());
        let of = |boot: &str, wall| Some((boot.to_owned(), wall));
        assert_eq!(known(&boots, "a.raw"), of("boot-1", Some(1_005_000)));
        assert_eq!(known(&boots, "b.thinned.4.1"), of("boot-1", Some(1_005_000)));
        assert_eq!(known(&boots, "c.alarm"), of("boot-2", None), "that boot never had time");
        assert_eq!(known(&boots, "d.raw"), of("boot-3", Some(7_005_000)));
        assert_eq!(known(&boots, "ab.raw"), None);
        // What has no records any more is forgotten, the boot at hand never.
        book.join("boot-3", "e", |run| run == "c");
        let runs: Vec<_> = book.boots.iter().map(|boot| (&*boot.id, boot.runs.join(","))).collect();
        assert_eq!(runs, [("boot-2", "c".to_owned()), ("boot-3", "e".to_owned())]);
        assert_eq!(book.offset_of("boot-3"), Some(7_000_000));
    }

    #[test]
    fn the_file_comes_back_whole_or_is_known_to_be_damaged() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Book::read(directory.path()), Ok(Book::default()));
        let mut book = Book { version: VERSION, last_known_ms: 1_777_896_000_000, boots: Vec::new() };
        book.join("boot-1", "a", |_| true);
        book.learn("boot-1", 17);
        book.write(directory.path()).unwrap();
        assert_eq!(Book::read(directory.path()), Ok(book));
        let path = directory.path().join(NAME);
        let text = fs::read_to_string(&path).unwrap();
        for damaged in [text.replace("17", "18"), text[..text.len() / 2].to_owned(), String::new()] {
            fs::write(&path, damaged).unwrap();
            assert!(Book::read(directory.path()).is_err());
        }
    }

    #[test]
    fn a_board_that_reboots_for_ever_keeps_the_newest_runs() {
        let mut book = Book::default();
        for n in 0..RUNS_MAX + 5 {
            book.join(&format!("boot-{n}"), &format!("run-{n}"), |_| true);
        }
        assert_eq!(book.boots.len(), RUNS_MAX);
        assert_eq!(&*book.boots[0].id, "boot-5");
    }
}
