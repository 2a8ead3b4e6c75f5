//! A virtual machine in QEMU: booted once, kept as its memory was before it touched its disk, and resumed from there as
//! often as wanted.
//!
//! What it writes goes to `now.img`, which nobody reads again, and into a log of writes and flushes in their order
//! (QEMU's `blklogwrites`), from which [`crate::power`] makes what a power cut leaves on `disk.img`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate::clock;

/// Without acceleration, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
const PAUSE: Duration = Duration::from_millis(10);
/// The last lines of its console are shown when it does not do what it should.
const TAIL: usize = 30;

/// What QEMU is given and leaves, in one directory.
pub(crate) const DISK: &str = "disk.img";
pub(crate) const LOG: &str = "log.img";
const NOW: &str = "now.img";
const MEMORY: &str = "memory";
const SOCKET: &str = "qmp";

/// A machine that runs. Ends with it.
pub(crate) struct Machine {
    child: Child,
    console: ChildStdin,
    lines: Receiver<String>,
    control: Control,
    /// What it said last.
    log: Vec<String>,
}

impl Machine {
    /// Boots one, lets it come to where it is ready, and keeps its memory. `warm` are the orders of a child that it runs
    /// before that.
    pub(crate) fn prepare(directory: &Path, warm: &str) {
        let mut machine = Self::start(directory, false);
        machine.wait_for("awake");
        machine.tell(&[warm]);
        machine.wait_for("ready");
        machine.control.execute("stop", &json!({}));
        let memory = directory.join(MEMORY).display().to_string();
        machine.control.execute("migrate", &json!({ "uri": format!("exec:cat > '{memory}'") }));
        machine.control.wait_for("query-migrate", &["completed"]);
    }

    /// Goes on where [`Machine::prepare`] kept it.
    pub(crate) fn resume(directory: &Path) -> Self {
        let mut machine = Self::start(directory, true);
        machine.control.wait_for("query-status", &["paused", "running"]);
        machine.control.execute("cont", &json!({}));
        machine
    }

    fn start(directory: &Path, resumes: bool) -> Self {
        let path = |name: &str| directory.join(name).display().to_string();
        let _ = std::fs::remove_file(directory.join(SOCKET));
        std::fs::File::create(directory.join(LOG)).unwrap();
        let copy = Command::new("cp").args(["--sparse=always", &path(DISK), &path(NOW)]).status().unwrap();
        assert!(copy.success(), "{} cannot be copied", path(DISK));
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-M", "q35", "-cpu", "max", "-m", "384", "-smp", "1", "-nodefaults", "-no-reboot"]);
        qemu.args(["-display", "none", "-serial", "stdio", "-kernel", &path("vmlinuz"), "-initrd", &path("initramfs")]);
        // On a machine that is very busy the kernel would take its timer for broken.
        qemu.args(["-append", "console=ttyS0 quiet panic=1 random.trust_cpu=on mitigations=off no_timer_check"]);
        qemu.args(["-qmp", &format!("unix:{},server=on,wait=off", path(SOCKET))]);
        // The host's page cache outlives QEMU, and the log says what was flushed: the host need not sync anything.
        let file = |node: &str, name: &str, more: &str| {
            format!("driver=file,node-name={node},filename={},cache.no-flush=on{more}", path(name))
        };
        qemu.args(["-blockdev", &file("program", "program.img", ",read-only=on")]);
        qemu.args(["-device", "virtio-blk-pci,drive=program"]);
        qemu.args(["-blockdev", &file("now", NOW, ""), "-blockdev", &file("log", LOG, "")]);
        qemu.args(["-blockdev", "driver=blklogwrites,node-name=disk,file=now,log=log"]);
        qemu.args(["-device", "virtio-blk-pci,drive=disk,write-cache=on"]);
        if resumes {
            qemu.args(["-incoming", &format!("exec:cat '{}'", path(MEMORY))]);
        }
        qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = qemu.spawn().expect("qemu-system-x86_64 starts");
        let console = child.stdin.take().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let control = Control::connect(&directory.join(SOCKET), &mut child);
        Self { child, console, lines, control, log: Vec::new() }
    }

    fn wait_for(&mut self, word: &str) {
        let until = clock::instant() + PATIENCE;
        loop {
            match self.line(until) {
                Ok(line) if line == word => return,
                Ok(_) => {}
                Err(_) => self.give_up(&format!("say \"{word}\"")),
            }
        }
    }

    /// Types lines at its console.
    pub(crate) fn tell(&mut self, lines: &[&str]) {
        for line in lines {
            self.console.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
        self.console.flush().unwrap();
    }

    /// The next line of its console.
    pub(crate) fn line(&mut self, until: Instant) -> Result<String, RecvTimeoutError> {
        let line = self.lines.recv_timeout(until.saturating_duration_since(clock::instant()))?;
        self.log.push(line.clone());
        Ok(line)
    }

    /// Stops it at this moment for good; gives what it had said until then. What it had handed to its disk by then is in
    /// the log, flushed or not.
    pub(crate) fn cut(mut self) -> Vec<String> {
        // One that has ended by itself has no more to say.
        if self.child.try_wait().unwrap().is_none() {
            self.control.execute("stop", &json!({}));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.lines.iter().collect()
    }

    /// Says what it said last.
    pub(crate) fn give_up(&mut self, what: &str) -> ! {
        let tail = self.log.split_off(self.log.len().saturating_sub(TAIL)).join("\n");
        panic!("the machine did not {what}; it said last:\n{tail}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(output: std::process::ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    let mut output = BufReader::new(output);
    std::thread::spawn(move || {
        let mut line = Vec::new();
        // A line that was cut off has no end: it is the last one, and nobody asks for it.
        while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) && line.ends_with(b"\r\n") {
            let _ = sender.send(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned());
            line.clear();
        }
    });
    lines
}

/// The machine's monitor.
struct Control(BufReader<UnixStream>);

impl Control {
    fn connect(socket: &Path, child: &mut Child) -> Self {
        let until = clock::instant() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(clock::instant() < until, "QEMU's monitor: {error}"),
            }
            if child.try_wait().unwrap().is_some() {
                let mut said = String::new();
                let stderr =
                    child.stderr.take().map(|mut stderr| std::io::Read::read_to_string(&mut stderr, &mut said));
                panic!("QEMU ended: {stderr:?} {said}");
            }
            std::thread::sleep(PAUSE);
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut control = Self(BufReader::new(stream));
        control.answer("QMP");
        control.execute("qmp_capabilities", &json!({}));
        control
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        self.0.get_mut().write_all(format!("{text}\n").as_bytes()).unwrap();
        self.answer("return")
    }

    /// The next answer; events pass by.
    fn answer(&mut self, word: &str) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "QEMU's monitor ended");
            let mut answer: Value = serde_json::from_str(&line).unwrap();
            assert!(answer.get("error").is_none(), "QEMU's monitor said {line}");
            if let Some(value) = answer.get_mut(word) {
                return value.take();
            }
        }
    }

    fn wait_for(&mut self, command: &str, wanted: &[&str]) {
        let until = clock::instant() + PATIENCE;
        loop {
            let answer = self.execute(command, &json!({}));
            let status = answer["status"].as_str().unwrap_or_default();
            if wanted.contains(&status) {
                return;
            }
            assert!(status != "failed" && clock::instant() < until, "{command} says {answer}");
            std::thread::sleep(PAUSE);
        }
    }
}
