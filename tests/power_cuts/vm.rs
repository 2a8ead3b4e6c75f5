//! A virtual machine that is killed: a real kernel, ext4, and a page cache that goes with it.
//!
//! `tests/power_cuts/vm` makes what this needs and runs it; without that it does nothing. Each boot reads all that is there,
//! which is compared with what earlier boots said over the serial console, and then writes on until QEMU is killed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use tidegate::clock;

use crate::ledger::{Ledger, Said};
use crate::modes::Mode;
use crate::orders::{Orders, Task};
use crate::seed;

/// A boot without acceleration, on a busy machine.
const BOOT_MAX: Duration = Duration::from_secs(240);
/// Within this time after the first append the machine is killed.
const WRITE_MS_MAX: u64 = 12_000;
const SIZE_MAX: u64 = 6 << 20;
/// Where the guest has its disk.
const GUEST_PATH: &str = "/d/data";

struct Machine {
    child: Child,
    lines: Receiver<String>,
}

impl Machine {
    fn boot(directory: &Path) -> Self {
        let drive =
            |name: &str| format!("file={},format=raw,if=virtio,cache=writeback", directory.join(name).display());
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-M", "q35", "-cpu", "max", "-m", "384", "-smp", "1", "-nodefaults", "-no-reboot"]);
        qemu.args(["-display", "none", "-serial", "stdio", "-kernel"]).arg(directory.join("vmlinuz"));
        qemu.arg("-initrd").arg(directory.join("initramfs"));
        qemu.args(["-append", "console=ttyS0 quiet panic=1 random.trust_cpu=on mitigations=off"]);
        for name in ["program.img", "disk.img", "orders"] {
            qemu.args(["-drive", &drive(name)]);
        }
        let mut child = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                // A line that was cut off has no end: it is the last one, and nobody asks for it.
                if line.last() == Some(&b'\r') {
                    let _ = sender.send(String::from_utf8_lossy(&line[..line.len() - 1]).into_owned());
                }
            }
        });
        Self { child, lines }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One boot, ended by a kill. Whether it came to writing.
fn boot(directory: &Path, ledger: &mut Ledger, life: u64, preload: &str, random: &mut fastrand::Rng) -> bool {
    let orders = |task, life| Orders {
        path: PathBuf::from(GUEST_PATH),
        task,
        seed: random.clone().u64(..),
        life,
        size_max: if matches!(task, Task::Drain) { u64::MAX / 4 } else { SIZE_MAX },
        mode: Mode::PLAIN,
        patience: Duration::from_secs(60),
    };
    let drain = orders(Task::Drain, 2 * life).to_text();
    let write = orders(Task::Write { steps: 1_000_000, deliver: 15 }, 2 * life + 1).to_text();
    let mut text = format!("{drain}\n{write}\n{preload}\n").into_bytes();
    text.resize(4096, b'\n');
    std::fs::write(directory.join("orders"), text).unwrap();
    ledger.begin();
    let machine = Machine::boot(directory);
    let (mut said, start) = (Said::default(), clock::instant());
    let mut kill_at = start + BOOT_MAX;
    let mut wrote = false;
    let mut log = Vec::new();
    loop {
        let left = kill_at.saturating_duration_since(clock::instant());
        match machine.lines.recv_timeout(left) {
            Ok(line) => {
                let was_drained = said.drained;
                if let Some(line) = line.strip_prefix("@ ") {
                    ledger.take(line, &mut said);
                }
                if said.drained && !was_drained {
                    ledger.settle();
                }
                if said.begun && !wrote {
                    wrote = true;
                    // Most often while it writes, sometimes at once.
                    let after = if random.u8(0..5) == 0 { 0 } else { random.u64(0..WRITE_MS_MAX) };
                    kill_at = clock::instant() + Duration::from_millis(after);
                }
                log.push(line);
            }
            Err(RecvTimeoutError::Timeout) if wrote => break,
            Err(error) => {
                let tail = log.split_off(log.len().saturating_sub(30)).join("\n");
                panic!("the machine did not come to writing: {error}\n{tail}");
            }
        }
        if !ledger.problems().is_empty() {
            break;
        }
    }
    drop(machine);
    wrote
}

#[test]
fn a_machine_that_is_killed_loses_nothing_announced() {
    let Some(directory) = std::env::var_os("TIDEGATE_VM").map(PathBuf::from) else { return };
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (cuts, seconds) = (number("TIDEGATE_VM_CUTS", 1_000), number("TIDEGATE_VM_SECONDS", 300));
    let without_sync = std::env::var_os("TIDEGATE_VM_WITHOUT_SYNC").is_some();
    let preload = if without_sync { "/nosync.so" } else { "" };
    let (seed, start) = (seed(), clock::instant());
    let random = &mut fastrand::Rng::with_seed(seed);
    let mut ledger = Ledger::default();
    let mut done = 0;
    while done < cuts && start.elapsed() < Duration::from_secs(seconds) && ledger.problems().is_empty() {
        boot(&directory, &mut ledger, done + 1, preload, random);
        done += 1;
    }
    let (said, problems) = (ledger.announcements, ledger.problems());
    println!(
        "TIDEGATE_SEED={seed}: {done} cuts in {:?}, {said} announcements, {} problems {}",
        start.elapsed(),
        problems.len(),
        problems.first().map_or("", String::as_str),
    );
    assert_eq!(!problems.is_empty(), without_sync, "{problems:#?}");
}
