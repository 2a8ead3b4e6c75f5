//! The only place where a clock is read (clippy's `disallowed-methods` keeps it so). Everything else is handed the time.
//!
//! And the place that knows whether the wall clock can be believed: boards without a battery start in the past.
//! - `trust`: the verdict, from what the clock shows and who vouches for it. Pure.
//! - `vouch`: who can vouch for it, and how they are asked.
//! - `boots`: what is kept of it on disk, and the right time of what arrived before it was known.
//!
//! A process has one clock, so what is known of it is kept once for the process: [`begin`] sets it up, [`look`] is called
//! once a second. Where nobody began, as in tools and tests, the clock is believed if it can be right at all; a tool that tells of it asks
//! [`judge`].

mod boots;
mod trust;
mod vouch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{info, warn};

pub use self::boots::Boots;
use self::boots::{Book, NAME};
pub use self::trust::{Doubt, Voucher};
use self::trust::{STEP_MAX_MS, Seen, Trust};
use crate::config::ClockTrust;
use crate::reading::Stamp;

/// No clock that shows an earlier time is right: 2026-01-01T00:00:00Z, before the first release.
const PLAUSIBLE_SINCE_MS: i64 = 1_767_225_600_000;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Where a sandbox hides that file, its unit can say it: `Environment=TIDEGATE_BOOT_ID=%b`.
const BOOT_ID_VARIABLE: &str = "TIDEGATE_BOOT_ID";
/// A clock that was set back by more than this is told to who waits by it.
const SET_BACK_MS: i64 = 5_000;
/// The last known time is written this often. Flash is precious, and a bound that is an hour old still tells 1970.
const WRITE_EVERY_MS: u64 = 3_600_000;
/// After a write that failed.
const WRITE_AGAIN_MS: u64 = 60_000;

/// Milliseconds since 1970-01-01T00:00:00Z by the wall clock; 0 for a clock before that.
#[must_use]
pub fn wall_ms() -> i64 {
    #[allow(clippy::disallowed_methods)]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Now, for measuring how long something takes.
#[must_use]
pub fn instant() -> Instant {
    #[allow(clippy::disallowed_methods)]
    Instant::now()
}

/// The kernel's monotonic clock, by which systemd measures too: since the board booted, without the time that it was suspended.
#[must_use]
pub fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Time since the board booted, suspended time included; it never steps.
#[must_use]
pub fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn monotonic_ms() -> u64 {
    u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX)
}

/// This moment, by all the clocks that a record keeps.
#[must_use]
pub fn stamp() -> Stamp {
    let (wall_ms, monotonic_ms) = (wall_ms(), monotonic_ms());
    match &*kept() {
        Some(kept) => kept.trust.stamp(wall_ms, monotonic_ms),
        None => Stamp { wall_ms, monotonic_ms, trusted: is_plausible(wall_ms) },
    }
}

/// Whether that can be a time at which this program runs.
#[must_use]
pub fn is_plausible(wall_ms: i64) -> bool {
    wall_ms >= PLAUSIBLE_SINCE_MS
}

/// What the process knows of its clock.
#[derive(Debug)]
struct Kept {
    setting: ClockTrust,
    data_dir: PathBuf,
    boots: Boots,
    boot: Arc<str>,
    trust: Trust,
    /// By how much the wall clock was ahead of the monotonic one at the last look, trusted or not.
    seen_offset_ms: i64,
    /// When the file is to be written again, by the monotonic clock. Nobody writes before [`join`].
    write_at_ms: Option<u64>,
    is_failing: bool,
}

static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

fn kept() -> MutexGuard<'static, Option<Kept>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to judge the clock by this setting, with what earlier runs on this data directory found out. Writes nothing.
#[must_use]
pub fn begin(setting: &ClockTrust, data_dir: &Path) -> Boots {
    let book = read(data_dir);
    let boot = boot_id();
    let trust = trust_from(&book, &boot);
    let boots = Boots::new(book);
    let mut begun = Kept {
        setting: setting.clone(),
        data_dir: data_dir.to_owned(),
        boots: boots.clone(),
        boot: boot.into(),
        trust,
        seen_offset_ms: i64::MIN,
        write_at_ms: None,
        is_failing: false,
    };
    if let Err(doubt) = begun.look() {
        warn!("{}; what arrives is marked until it is", begun.why_not(doubt));
    }
    *kept() = Some(begun);
    boots
}

/// Judges the clock once, as a gateway with this setting on this data directory would at its start: who vouches for it, or
/// why it is not believed. For tools beside a gateway: nothing is written, logged or kept, and what cannot be read of
/// earlier times is not known.
///
/// # Errors
/// Why it is not believed, for a person.
pub fn judge(setting: &ClockTrust, data_dir: Option<&Path>) -> Result<Voucher, String> {
    let book = data_dir.and_then(|data_dir| Book::read(data_dir).ok()).unwrap_or_default();
    let mut trust = trust_from(&book, &boot_id());
    let (wall_ms, monotonic_ms) = (wall_ms(), monotonic_ms());
    trust.look(wall_ms, monotonic_ms, vouch::voucher(setting, wall_ms, trust.floor_ms));
    trust.verdict.map_err(|doubt| why_not(doubt, wall_ms, setting, trust.floor_ms, data_dir.unwrap_or(Path::new(""))))
}

/// What earlier runs found out, before a look at the clock.
fn trust_from(book: &Book, boot: &str) -> Trust {
    Trust::new(book.last_known_ms.max(PLAUSIBLE_SINCE_MS), book.offset_of(boot), monotonic_ms())
}

fn read(data_dir: &Path) -> Book {
    Book::read(data_dir).unwrap_or_else(|reason| {
        let path = data_dir.join(NAME);
        warn!(
            "{}: {reason}; what it said of earlier times is not known any more, and it is begun anew",
            path.display()
        );
        Book::default()
    })
}

/// What gateways on that data directory have found out of the times of its records.
#[must_use]
pub fn boots_in(data_dir: &Path) -> Boots {
    Boots::new(read(data_dir))
}

/// The kernel's id of this boot, as 32 hexadecimal digits. Where it cannot be known, one of this run.
fn boot_id() -> String {
    let text = std::fs::read_to_string(BOOT_ID).or_else(|_| std::env::var(BOOT_ID_VARIABLE)).unwrap_or_default();
    let id: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    if id.len() == 32 { id } else { format!("unknown-{:016x}", fastrand::u64(..)) }
}

/// Notes that this run of the gateway is in this boot, durably before anything of it is stored. `wanted` says which of the
/// earlier runs still have records. A disk that refuses is no reason not to start.
pub fn join(run: &str, wanted: impl Fn(&str) -> bool) {
    write(|kept| {
        let offset_ms = kept.trust.verdict.ok().and(kept.trust.offset_ms);
        let mut book = kept.boots.book();
        book.join(&kept.boot, run, wanted);
        offset_ms.map(|offset| book.learn(&kept.boot, offset));
        true
    });
}

/// Judges the clock anew, says what has changed, and writes what is to be kept. To be called once a second, where a write
/// may take its time.
pub fn look() {
    write(|kept| {
        kept.judge();
        kept.write_at_ms.is_some_and(|at| at <= monotonic_ms())
    });
}

/// The same without writing, for who has a sign that the clock was set and cannot wait for the second to pass.
pub fn glance() {
    if let Some(kept) = &mut *kept() {
        kept.judge();
    }
}

/// Writes the last known time a last time.
pub fn leave() {
    write(|kept| kept.write_at_ms.is_some() && kept.trust.verdict.is_ok());
}

/// Writes the file if `due` says so. While it is written nobody waits for the time.
fn write(due: impl FnOnce(&mut Kept) -> bool) {
    static WRITING: Mutex<()> = Mutex::new(());
    let _one = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let page = match &mut *kept() {
        Some(kept) => due(kept).then(|| kept.page()),
        None => None,
    };
    if let Some((book, data_dir)) = page {
        let written = book.write(&data_dir);
        if let Some(kept) = &mut *kept() {
            kept.written(written);
        }
    }
}

/// Whether the clock is believed to be right.
#[must_use]
pub fn is_trusted() -> bool {
    stamp().trusted
}

/// Why the clock is not believed now; if it is, why it was not a moment ago.
#[must_use]
pub fn doubt() -> Doubt {
    kept().as_ref().and_then(|kept| kept.trust.verdict.err()).unwrap_or(Doubt::Stepped)
}

/// What there is to say of the clock.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Now, and whether that is believed.
    pub now: Stamp,
    /// Who vouches for it, or why it is not believed.
    pub verdict: Result<Voucher, Doubt>,
    /// For how long the verdict has been that.
    pub for_ms: u64,
    /// The kernel's id for this boot.
    pub boot: Arc<str>,
    /// No time before this is believed (wall clock, ms).
    pub floor_ms: i64,
}

/// How the clock stands; `None` where nobody began to judge it.
#[must_use]
pub fn standing() -> Option<Standing> {
    let now = stamp();
    kept().as_ref().map(|kept| Standing {
        now,
        verdict: kept.trust.verdict,
        for_ms: now.monotonic_ms.saturating_sub(kept.trust.since_ms),
        boot: Arc::clone(&kept.boot),
        floor_ms: kept.trust.floor_ms,
    })
}

/// What a person is to be told of a broker whose certificate is refused while the clock is not trusted: that only the time is
/// missing. `None` if the clock is trusted, so that something else is wrong.
#[must_use]
pub fn waiting_for_time(consequence: &str) -> Option<String> {
    let now = stamp();
    let text = crate::uplink::time::rfc3339(now.wall_ms);
    let shown = String::from_utf8_lossy(&text);
    (!now.trusted).then(|| format!("waiting for the time: the clock says {shown}, so {consequence}"))
}

impl Kept {
    /// Judges the clock anew, and says what has changed.
    fn judge(&mut self) {
        let before = self.trust.verdict;
        if let Err(doubt) = self.look()
            && before != Err(doubt)
        {
            warn!("{}; what arrives is marked until it is", self.why_not(doubt));
        }
    }

    /// Judges the clock anew, and takes over what follows from that.
    fn look(&mut self) -> Result<(), Doubt> {
        let (wall_ms, monotonic_ms) = (wall_ms(), monotonic_ms());
        let offset_ms = trust::offset(wall_ms, monotonic_ms);
        // librdkafka waits by the wall clock: a thread of it that waits for a second would wait for hours.
        if self.seen_offset_ms.saturating_sub(offset_ms) > SET_BACK_MS {
            self.boots.announce();
        }
        self.seen_offset_ms = offset_ms;
        let vouched = vouch::voucher(&self.setting, wall_ms, self.trust.floor_ms);
        match self.trust.look(wall_ms, monotonic_ms, vouched) {
            Seen::Same => {}
            Seen::Doubted(doubt) => return Err(doubt),
            Seen::Trusted { stepped_ms } => {
                let by = self.trust.verdict.map_or("", Voucher::as_str);
                match stepped_ms {
                    Some(ms) => info!(by, "the clock was set by {} s, and is trusted", ms / 1000),
                    None => info!(by, "the clock is trusted"),
                }
                let news = self.trust.offset_ms.is_some_and(|offset| self.boots.book().learn(&self.boot, offset));
                if news {
                    self.boots.announce();
                    self.write_at_ms = self.write_at_ms.map(|_| monotonic_ms);
                }
            }
        }
        self.trust.verdict.map(|_| ())
    }

    /// What is to be written, with the last known time if somebody vouches for it who can tell.
    fn page(&mut self) -> (Book, PathBuf) {
        let mut book = self.boots.book();
        if let Ok(Voucher::Kernel | Voucher::Timesyncd | Voucher::Operator | Voucher::File) = self.trust.verdict {
            // What is set back by less than a step is a correction.
            let floor_ms = wall_ms().saturating_sub_unsigned(STEP_MAX_MS).max(self.trust.floor_ms);
            self.trust.floor_ms = floor_ms;
            book.last_known_ms = floor_ms;
        }
        (book.clone(), self.data_dir.clone())
    }

    fn written(&mut self, written: io::Result<()>) {
        let was_failing = std::mem::replace(&mut self.is_failing, written.is_err());
        if let Err(error) = written
            && !was_failing
        {
            let path = self.data_dir.join(NAME);
            warn!("{} cannot be written: {error}; after a restart less is known of times until it can", path.display());
        }
        let pause_ms = if self.is_failing { WRITE_AGAIN_MS } else { WRITE_EVERY_MS };
        self.write_at_ms = Some(monotonic_ms().saturating_add(pause_ms));
    }

    fn why_not(&self, doubt: Doubt) -> String {
        why_not(doubt, wall_ms(), &self.setting, self.trust.floor_ms, &self.data_dir)
    }
}

/// Why a clock that shows `wall_ms` is not believed.
fn why_not(doubt: Doubt, wall_ms: i64, setting: &ClockTrust, floor_ms: i64, data_dir: &Path) -> String {
    let text = |ms| String::from_utf8_lossy(&crate::uplink::time::rfc3339(ms)).into_owned();
    let shown = text(wall_ms);
    match doubt {
        Doubt::Unsynced => format!(
            "the clock says {shown} and is not trusted yet: {}",
            match setting {
                ClockTrust::File(path) => format!("{} is not there", path.display()),
                _ => "it is not synchronised".to_owned(),
            }
        ),
        Doubt::Stepped => {
            format!("the clock was set to {shown} and is not trusted any more: it is not known to be synchronised")
        }
        Doubt::BeforeLastKnown if floor_ms == PLAUSIBLE_SINCE_MS => {
            format!("the clock says {shown} and is not trusted: that time has been before")
        }
        Doubt::BeforeLastKnown => format!(
            "the clock says {shown} and is not trusted: it was {} already (if that was wrong, stop the gateway and remove {})",
            text(floor_ms),
            data_dir.join(NAME).display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_judges_the_clock_by_who_vouches_for_it_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("synchronised");
        let setting = ClockTrust::File(file.clone());
        let why = judge(&setting, Some(directory.path())).unwrap_err();
        assert!(why.contains("synchronised is not there"), "{why}");
        std::fs::write(&file, "").unwrap();
        assert_eq!(judge(&setting, Some(directory.path())), Ok(Voucher::File));
        assert_eq!(judge(&ClockTrust::Always, None), Ok(Voucher::Operator));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "it wrote something");
        // What a gateway knew counts against every voucher.
        let mut book = Book::default();
        book.last_known_ms = wall_ms() + 3_600_000;
        book.write(directory.path()).unwrap();
        let why = judge(&ClockTrust::Always, Some(directory.path())).unwrap_err();
        assert!(why.contains("already") && why.contains("remove"), "{why}");
    }
}
