//! The serial sensor: it prints a line of JSON now and then on a pseudo-terminal, which stands for a USB adapter.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use serde_json::json;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// The device's name in readings.
pub(crate) const NAME: &str = "meter";
const INTERVAL: Duration = Duration::from_millis(50);

/// The sensor; it is unplugged when this is dropped.
#[derive(Debug)]
pub(crate) struct Meter {
    lines: Arc<AtomicU64>,
    /// Held while a line is printed, and by who wants silence.
    wire: Arc<Mutex<()>>,
    task: JoinHandle<()>,
}

impl Meter {
    /// Plugs the sensor in under the name `link`, as udev would below /dev/serial/by-id. It is silent until what
    /// is given with it is dropped.
    pub(crate) async fn plug(link: &Path) -> anyhow::Result<(Self, OwnedMutexGuard<()>)> {
        let master = pseudo_terminal(link).context("no pseudo-terminal can be made")?;
        let (lines, wire) = (Arc::default(), Arc::new(Mutex::new(())));
        let silence = Arc::clone(&wire).lock_owned().await;
        let task = tokio::spawn(print(master, Arc::clone(&lines), Arc::clone(&wire)));
        Ok((Self { lines, wire, task }, silence))
    }

    /// Lines that were printed whole, numbered from 1.
    pub(crate) fn lines(&self) -> u64 {
        self.lines.load(Ordering::SeqCst)
    }

    /// Silence, from the end of the line that is being printed until the guard is dropped.
    pub(crate) async fn silence(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.wire).lock_owned().await
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn pseudo_terminal(link: &Path) -> anyhow::Result<File> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    // A device neither echoes nor edits lines, not even before the gateway has opened it.
    let mut settings = tcgetattr(&master)?;
    settings.make_raw();
    tcsetattr(&master, OptionalActions::Now, &settings)?;
    fcntl_setfl(&master, OFlags::NONBLOCK)?;
    symlink(name.to_str()?, link)?;
    Ok(File::from(master))
}

async fn print(mut master: File, lines: Arc<AtomicU64>, wire: Arc<Mutex<()>>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut energy = 4_211.0;
    loop {
        ticks.tick().await;
        let _printing = wire.lock().await;
        let number = lines.load(Ordering::SeqCst) + 1;
        let power = 300 + fastrand::u32(0..200);
        energy += f64::from(power) * INTERVAL.as_secs_f64() / 3_600_000.0;
        let line = json!({ "device": NAME, "n": number, "power": power, "energy": (energy * 1e6).round() / 1e6 });
        if write_all(&mut master, format!("{line}\n").as_bytes()).await.is_err() {
            return;
        }
        lines.store(number, Ordering::SeqCst);
    }
}

/// Writes as the other side reads; a wire that is full is waited for.
async fn write_all(master: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match master.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
