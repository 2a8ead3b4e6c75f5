//! Who can say that the wall clock is right: the kernel, systemd-timesyncd, a clock chip, the kind of machine, the operator.
//! Each is asked by reading a few bytes; nothing here waits.

use std::fs;
use std::path::Path;

use super::trust::Voucher;
use crate::config::ClockTrust;

/// systemd-timesyncd makes it once it has set the clock in this boot.
const TIMESYNCD: &str = "/run/systemd/timesync/synchronized";
const CHIPS: &str = "/sys/class/rtc";
/// Only boards describe themselves so; PCs, servers and virtual machines have a clock chip or their host's time.
const BOARD: [&str; 2] = ["/sys/firmware/devicetree/base", "/proc/device-tree"];
/// A chip may keep local time, and no zone is further from UTC.
const CHIP_APART_MS_MAX: u64 = 15 * 3_600_000;

/// Who vouches for the clock, which shows `wall_ms`. `floor_ms` is the last known time: a chip that shows an earlier one has
/// lost its battery.
pub(super) fn voucher(setting: &ClockTrust, wall_ms: i64, floor_ms: i64) -> Option<Voucher> {
    match setting {
        ClockTrust::Always => Some(Voucher::Operator),
        ClockTrust::File(path) => path.exists().then_some(Voucher::File),
        ClockTrust::Ntp => synchronised(),
        ClockTrust::Auto => synchronised().or_else(|| {
            // A link to what a container may not see is there all the same.
            let is_board = BOARD.iter().any(|path| Path::new(path).symlink_metadata().is_ok());
            if is_board { chip(Path::new(CHIPS), wall_ms, floor_ms) } else { Some(Voucher::Machine) }
        }),
    }
}

/// NTP, whoever speaks it. The kernel is asked first: it takes its word back when somebody sets the clock, timesyncd does not.
fn synchronised() -> Option<Voucher> {
    match kernel_synchronised() {
        Some(yes) => yes.then_some(Voucher::Kernel),
        None => Path::new(TIMESYNCD).exists().then_some(Voucher::Timesyncd),
    }
}

/// Nothing where a sandbox forbids the question.
#[cfg(target_pointer_width = "64")]
fn kernel_synchronised() -> Option<bool> {
    /// adjtimex(2): "the system clock is not synchronized to a reliable server".
    const TIME_ERROR: i32 = 5;
    let state = rtime_clock::adjtime::adjtimex(&mut rtime_clock::adjtime::Timex::new()).ok()?;
    Some(state != TIME_ERROR)
}

/// No crate asks the kernel of a 32-bit system without `unsafe`.
#[cfg(not(target_pointer_width = "64"))]
const fn kernel_synchronised() -> Option<bool> {
    None
}

/// A chip that keeps a time that can be, and that the wall clock agrees with.
fn chip(chips: &Path, wall_ms: i64, floor_ms: i64) -> Option<Voucher> {
    let agrees = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("since_epoch")).ok()?;
        let chip_ms = text.trim().parse::<i64>().ok()?.checked_mul(1000)?;
        let plausible = chip_ms.saturating_add_unsigned(CHIP_APART_MS_MAX) >= floor_ms;
        (plausible && chip_ms.abs_diff(wall_ms) <= CHIP_APART_MS_MAX).then_some(Voucher::Chip)
    };
    fs::read_dir(chips).ok()?.flatten().find_map(agrees)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chip_counts_if_it_keeps_a_time_that_can_be_and_that_the_clock_agrees_with() {
        let directory = tempfile::tempdir().unwrap();
        let (now_ms, floor_ms) = (1_777_896_000_000, 1_777_000_000_000);
        assert_eq!(chip(&directory.path().join("nothing"), now_ms, floor_ms), None);
        fs::create_dir(directory.path().join("rtc0")).unwrap();
        let at = |seconds: i64| {
            fs::write(directory.path().join("rtc0/since_epoch"), format!("{seconds}\n")).unwrap();
            chip(directory.path(), now_ms, floor_ms)
        };
        assert_eq!(at(1_777_896_002), Some(Voucher::Chip));
        assert_eq!(at(1_777_896_000 + 14 * 3_600), Some(Voucher::Chip), "it keeps the time of the Line Islands");
        assert_eq!(at(12), None, "its battery is empty");
        assert_eq!(at(1_777_896_000 - 86_400), None, "the clock was set since");
    }

    #[test]
    fn a_file_vouches_while_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let setting = ClockTrust::File(directory.path().join("synchronised"));
        assert_eq!(voucher(&setting, 0, 0), None);
        fs::write(directory.path().join("synchronised"), "").unwrap();
        assert_eq!(voucher(&setting, 0, 0), Some(Voucher::File));
    }
}
