//! The real parts that tests need, where they are, and what happens when one is not there.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Something real that `tests/run` installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The broker and its command-line clients.
    Mosquitto,
    /// Java and the server's jars; the Python clients too, since the tests read back with one of them.
    Kafka,
    /// The MQTT client of the Eclipse project, in the same virtual environment.
    Paho,
    /// The system call tracer, and the right to use it.
    Strace,
    /// For certificates.
    Openssl,
    /// The oracle for windows, in the same virtual environment.
    Pandas,
    /// Devices on a Modbus line, in the same virtual environment.
    Pymodbus,
    /// The Sparkplug payloads of the Eclipse project, in the same virtual environment.
    Tahu,
    /// A library that makes a program see another time.
    Faketime,
    /// The right to mount a small file system, as root or in a user namespace.
    Mount,
    /// A file system in user space, mounted by root.
    Fuse,
    /// A virtual machine, a kernel for it, and what makes its disks.
    Vm,
}

impl Part {
    fn missing(self) -> Option<String> {
        match self {
            Self::Mosquitto => ["mosquitto", "mosquitto_pub"]
                .iter()
                .find(|name| which(name).is_none())
                .map(|name| format!("{name} is not installed")),
            Self::Kafka => {
                if which("java").is_none() {
                    return Some("java is not installed".into());
                }
                let lib = kafka_lib();
                if !lib.is_dir() {
                    return Some(format!("no Kafka server jars in {}", lib.display()));
                }
                no_python_module("kafka")
            }
            Self::Paho => no_python_module("paho.mqtt.client"),
            Self::Pandas => no_python_module("pandas"),
            Self::Pymodbus => no_python_module("pymodbus.server, serial"),
            Self::Tahu => no_python_module("tahutils.tahu.sparkplug_b"),
            Self::Faketime => faketime().is_none().then(|| "libfaketime is not installed".into()),
            Self::Strace => {
                (!succeeds("strace", &["-qq", "-o", "/dev/null", "true"])).then(|| "strace cannot trace here".into())
            }
            Self::Openssl => which("openssl").is_none().then(|| "openssl is not installed".into()),
            Self::Fuse => {
                let root = rustix::process::geteuid().is_root();
                let opens = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
                match (root, opens()) {
                    (true, Ok(_)) => None,
                    (true, Err(error)) => Some(format!("/dev/fuse: {error}")),
                    (false, _) => Some("mounting a FUSE file system needs root".into()),
                }
            }
            Self::Vm => {
                let programs = ["qemu-system-x86_64", "busybox", "cpio", "mkfs.ext4", "cc", "strip"];
                let missing = programs.iter().find(|name| which(name).is_none());
                let not_fetched = || (!vm().join("complete").exists()).then(|| "no kernel was fetched".into());
                missing.map(|name| format!("{name} is not installed")).or_else(not_fetched)
            }
            Self::Mount => {
                let mut arguments = unshare_arguments();
                arguments.extend(["sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"].map(String::from));
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                (!succeeds("unshare", &arguments)).then(|| "no file system can be mounted in a namespace here".into())
            }
        }
    }
}

/// What `unshare` needs for a mount namespace: as root nothing more, else a user namespace too.
pub(crate) fn unshare_arguments() -> Vec<String> {
    let root = rustix::process::geteuid().is_root();
    let flags: &[&str] = if root { &["--mount"] } else { &["--mount", "--user", "--map-root-user"] };
    flags.iter().map(ToString::to_string).collect()
}

fn no_python_module(module: &str) -> Option<String> {
    let python = python();
    (!succeeds(python.to_str()?, &["-c", &format!("import {module}")]))
        .then(|| format!("{} has no module {module}", python.display()))
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A program in the path, or where Debian keeps daemons.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Debian's library that makes a program see another time.
pub(crate) fn faketime() -> Option<PathBuf> {
    let below = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    below.map(|directory| directory.join("faketime/libfaketimeMT.so.1")).find(|library| library.is_file())
}

/// cargo's target directory: `tests/run` puts there what it fetches.
fn target() -> &'static Path {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    TARGET.get_or_init(|| Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_path_buf())
}

pub(crate) fn kafka_lib() -> PathBuf {
    target().join("kafka").join("lib")
}

/// Where `tests/power_cuts/vm` puts what a virtual machine boots.
pub(crate) fn vm() -> PathBuf {
    std::env::var_os("TIDEGATE_VM").map_or_else(|| target().join("vm"), PathBuf::from)
}

pub(crate) fn python() -> PathBuf {
    target().join("venv").join("bin").join("python")
}

/// A script of this directory.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join("support").join(name)
}

/// Whether all of these parts are there; if not, notes the test as skipped. With `CI=true` a missing part is a failure.
#[track_caller]
pub(crate) fn have(parts: &[Part]) -> bool {
    let missing: Vec<String> = parts.iter().filter_map(|part| part.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    let reason = missing.join("; ");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} cannot be skipped with CI=true: {reason}");
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(path) = std::env::var_os("TIDEGATE_TESTS_SKIPPED") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        // One write, so that lines of tests that run side by side do not mix.
        file.write_all(format!("SKIPPED {test}: {reason}\n").as_bytes()).unwrap();
    }
    false
}

/// Ends the test as skipped unless all these parts are there: `need!(Mosquitto, Kafka)`.
macro_rules! need {
    ($($part:ident),+ $(,)?) => {
        if !$crate::support::parts::have(&[$($crate::support::parts::Part::$part),+]) {
            return;
        }
    };
}
pub(crate) use need;
