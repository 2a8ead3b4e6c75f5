//! A process that ends with the test: in a process group of its own, with its output in a file.

use std::ffi::OsStr;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tidegate::clock;

use super::wait::wait_until;

/// How much of a log a failure shows.
const TAIL_BYTES: u64 = 6_000;

/// A running (or ended) process.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where in the log this process began: an earlier one may have written to the same file.
    log_start: u64,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `program`, its output appended to the file `log`.
    #[track_caller]
    pub(crate) fn spawn<S: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
        environment: &[(&str, &str)],
        log: &Path,
    ) -> Self {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let log_start = file.metadata().unwrap().len();
        // setpriv keeps the process number; the kernel kills what it started when the thread that spawned it ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.envs(environment.iter().copied()).stdin(Stdio::null()).process_group(0);
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let child = spawn_from_lasting_thread(command)
            .unwrap_or_else(|error| panic!("starting {name} ({}): {error}", program.display()));
        Self { name: name.into(), child, log: log.into(), log_start, status: None }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it has printed so far.
    pub(crate) fn output(&self) -> String {
        read_from(&self.log, self.log_start)
    }

    /// Waits for a line that holds `text` and gives it.
    #[track_caller]
    pub(crate) fn wait_for_output(&mut self, text: &str, limit: Duration) -> String {
        let what = format!("\"{text}\" in the output of {}", self.name);
        wait_until(limit, &what, || {
            let found = self.output().lines().find(|line| line.contains(text)).map(str::to_owned);
            if found.is_none() {
                self.assert_running(&what);
            }
            found
        })
    }

    /// Panics if it has ended.
    #[track_caller]
    pub(crate) fn assert_running(&mut self, why: &str) {
        if let Some(status) = self.ended() {
            panic!("{} ended with {status} while waiting for: {why}\n{}", self.name, tail(&self.log));
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
        }
        self.status
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_until(limit, &what, || self.ended())
    }

    /// Sends it, and only it, a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended by itself: whoever waits for it sees how.
        let _ = kill_process(self.pid(), signal);
    }

    /// SIGTERM, then waits for its end.
    #[track_caller]
    pub(crate) fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    /// SIGKILL to its whole group, then waits for its end.
    pub(crate) fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            self.status = self.child.wait().ok();
        }
    }

    /// The line of /proc/PID/status that begins with `field`, in kilobytes: `VmRSS`, `VmHWM`.
    #[track_caller]
    pub(crate) fn memory_kb(&self, field: &str) -> u64 {
        memory_kb(self.id(), field)
            .unwrap_or_else(|| panic!("{} has no {field}: has it ended?\n{}", self.name, tail(&self.log)))
    }
}

/// The line of /proc/PID/status that begins with `field`, in kilobytes, if the process is there.
pub(crate) fn memory_kb(process: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse().ok())
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.ended();
        // Also what it may have left behind in its group.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        if self.status.is_none() {
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let state = ended.map_or("was running".into(), |status| match status.signal() {
                Some(signal) => format!("had been ended by signal {signal}"),
                None => format!("had ended, {status}"),
            });
            eprintln!("--- {} ({state}), end of its output:\n{}", self.name, tail(&self.log));
        }
    }
}

/// The end of a file.
pub(crate) fn tail(path: &Path) -> String {
    let length = path.metadata().map_or(0, |metadata| metadata.len());
    read_from(path, length.saturating_sub(TAIL_BYTES))
}

fn read_from(path: &Path, offset: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = std::fs::File::open(path)
        && file.seek(SeekFrom::Start(offset)).is_ok()
    {
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

type Request = (Command, Sender<std::io::Result<Child>>);

/// Spawns from one thread that lasts as long as the test process, for the kernel's "parent" is a thread: a process that
/// several tests share must not end with the test that happened to start it.
fn spawn_from_lasting_thread(command: Command) -> std::io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (sender, receiver) = channel();
    spawner.lock().unwrap().send((command, sender)).unwrap();
    receiver.recv().unwrap()
}

/// Runs a short command to its end and gives what it printed; panics if it fails or takes too long.
#[track_caller]
pub(crate) fn run_to_end<S: AsRef<OsStr>>(
    name: &str,
    program: &Path,
    arguments: impl IntoIterator<Item = S>,
    limit: Duration,
    log: &Path,
) -> String {
    let mut process = Process::spawn(name, program, arguments, &[], log);
    let start = clock::instant();
    let status = process.wait(limit);
    assert!(status.success(), "{name} failed with {status} after {:?}:\n{}", start.elapsed(), tail(log));
    process.output()
}
