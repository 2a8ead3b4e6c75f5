//! What this machine is, for `tidegate selftest` and `tidegate support`: read from /proc, /sys and /etc, where a part that
//! is not there is `None`. No device is opened: opening a serial port resets some boards behind it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// Files of /proc and /sys are not longer than this, in bytes.
const FILE_BYTES_MAX: usize = 256 * 1024;

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) point: PathBuf,
    pub(super) file_system: String,
    pub(super) source: String,
    pub(super) options: String,
}

impl Mount {
    /// Whether what is written there is gone with the power.
    pub(super) fn is_memory(&self) -> bool {
        matches!(self.file_system.as_str(), "tmpfs" | "ramfs")
    }
}

/// Room on a file system, in bytes, as it is for this user.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    pub(super) free: u64,
    pub(super) total: u64,
}

/// A serial port.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// The name that stays when it is plugged in elsewhere, if there is one.
    pub(super) path: PathBuf,
    /// Whether this user may read and write it.
    pub(super) allowed: bool,
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(FILE_BYTES_MAX)]).into_owned();
    // The device tree ends its texts with a zero byte.
    let text = text.trim_matches(['\0', '\n', ' ']).to_owned();
    (!text.is_empty()).then_some(text)
}

/// The value of the first line that begins with `key`, in files such as /proc/cpuinfo and os-release.
fn value(text: &str, key: &str, separator: char) -> Option<String> {
    let values = text.lines().filter_map(|line| line.split_once(separator));
    let found = values.into_iter().find(|(name, _)| name.trim() == key)?.1.trim().trim_matches('"').to_owned();
    (!found.is_empty()).then_some(found)
}

/// What board it is: the device tree's model on ARM, the product's name on a PC.
pub(super) fn model() -> Option<String> {
    read("/proc/device-tree/model").or_else(|| read("/sys/class/dmi/id/product_name"))
}

/// The processor's name, as far as the kernel tells it, and how many cores there are.
pub(super) fn processor() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = read("/proc/cpuinfo").unwrap_or_default();
    let name = ["model name", "Model", "Hardware"].into_iter().find_map(|key| value(&info, key, ':'));
    format!("{}, {cores} cores", name.unwrap_or_else(|| std::env::consts::ARCH.to_owned()))
}

/// Memory in bytes: all of it, and what is available.
pub(super) fn memory() -> Option<(u64, u64)> {
    let info = read("/proc/meminfo")?;
    let bytes = |key| Some(value(&info, key, ':')?.trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024);
    Some((bytes("MemTotal")?, bytes("MemAvailable")?))
}

/// The kernel: name, release, version, machine.
pub(super) fn kernel() -> String {
    let name = rustix::system::uname();
    let parts = [name.sysname(), name.release(), name.version(), name.machine()];
    parts.map(|part| part.to_string_lossy().into_owned()).join(" ")
}

/// The distribution by its own name.
pub(super) fn distribution() -> Option<String> {
    value(&read("/etc/os-release")?, "PRETTY_NAME", '=')
}

/// The file system that holds `path`, which need not exist.
pub(super) fn mount_of(path: &Path) -> Option<Mount> {
    let path = existing(path);
    let path = path.canonicalize().unwrap_or(path);
    mount_in(&read("/proc/self/mountinfo")?, &path)
}

/// Of `mountinfo` (proc_pid_mountinfo(5)) the mount with the longest path; of several on one path the last one counts.
fn mount_in(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (own, of_system) = line.split_once(" - ")?;
        let mut own = own.split(' ').skip(4).map(unescape);
        let mut of_system = of_system.split(' ').map(unescape);
        let (point, options) = (own.next()?.into(), own.next()?);
        Some(Mount { point, options, file_system: of_system.next()?, source: of_system.next()? })
    });
    mounts.filter(|mount| path.starts_with(&mount.point)).max_by_key(|mount| mount.point.as_os_str().len())
}

/// Blanks and the like stand there as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                out.push_str(&part[3..]);
            }
            None => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    out
}

/// `path`, or what of it exists.
pub(super) fn existing(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// Room on the file system that holds `path`.
pub(super) fn space_of(path: &Path) -> io::Result<Space> {
    let system = rustix::fs::statvfs(existing(path))?;
    Ok(Space { free: system.f_bavail * system.f_frsize, total: system.f_blocks * system.f_frsize })
}

/// The serial ports that have a device behind them, by name.
pub(super) fn serial_ports() -> Vec<Port> {
    let by_id = fs::read_dir("/dev/serial/by-id").into_iter().flatten().flatten().map(|entry| entry.path());
    let by_id: Vec<(PathBuf, PathBuf)> = by_id.filter_map(|path| Some((path.canonicalize().ok()?, path))).collect();
    let names = fs::read_dir("/sys/class/tty").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut ports: Vec<Port> = names
        .filter(|class| class.join("device/driver").exists())
        // A PC's driver makes more of them than there are.
        .filter(|class| read(class.join("type")).is_none_or(|kind| kind != "0"))
        .filter_map(|class| {
            let device = Path::new("/dev").join(class.file_name()?);
            let path = by_id.iter().find(|(target, _)| *target == device).map_or(device, |(_, path)| path.clone());
            let allowed = rustix::fs::access(&path, Access::READ_OK | Access::WRITE_OK).is_ok();
            path.exists().then_some(Port { path, allowed })
        })
        .collect();
    ports.sort_by(|a, b| a.path.cmp(&b.path));
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_a_path_is_the_nearest_one() {
        let table = "22 1 179:2 / / rw,noatime shared:1 - ext4 /dev/root rw\n\
                     40 22 8:1 / /mnt/a\\040disk rw,nosuid - ext4 /dev/sda1 rw,errors=remount-ro\n\
                     41 22 0:30 / /tmp rw - tmpfs tmpfs rw,size=1024k\n";
        let source = |path: &str| mount_in(table, Path::new(path)).map(|mount| mount.source);
        assert_eq!(source("/mnt/a disk/data").as_deref(), Some("/dev/sda1"));
        assert_eq!(source("/mnt/a diskette").as_deref(), Some("/dev/root"));
        assert_eq!(source("/var/lib").as_deref(), Some("/dev/root"));
        assert!(mount_in(table, Path::new("/tmp/x")).is_some_and(|mount| mount.is_memory()));
    }

    #[test]
    fn values_of_the_kernels_lists() {
        let text = "processor\t: 0\nmodel name\t: ARMv7 Processor rev 4 (v7l)\n\nModel\t\t: Raspberry Pi 3\n";
        assert_eq!(value(text, "model name", ':').as_deref(), Some("ARMv7 Processor rev 4 (v7l)"));
        assert_eq!(value(text, "Model", ':').as_deref(), Some("Raspberry Pi 3"));
        assert_eq!(
            value("NAME=\"x\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n", "PRETTY_NAME", '=').unwrap(),
            "Debian GNU/Linux 12"
        );
        assert_eq!(value(text, "Hardware", ':'), None);
    }
}
