//! What the machine says: the board, the disk, systemd's unit and its journal. Other programs are asked with a limit on
//! their time and their output.

use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cli::board;
use crate::cli::status::{duration, size};
use crate::clock;
use crate::config::ClockTrust;

/// The newest lines of the log.
const LOG_LINES: &str = "2000";
const OUTPUT_BYTES_MAX: u64 = 8 << 20;
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// The machine, its clock as a gateway with that setting judges it, and the disk that holds `data_dir`.
pub(super) fn machine(data_dir: Option<&Path>, trust: &ClockTrust) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: Option<String>| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<14}{}", value.unwrap_or_else(|| "not known".to_owned()));
    };
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    line("tidegate", Some(format!("{} for {}, {build} build", env!("CARGO_PKG_VERSION"), env!("TIDEGATE_TARGET"))));
    let program = std::env::current_exe().ok().and_then(|path| Some((std::fs::metadata(&path).ok()?.len(), path)));
    line("program", program.map(|(bytes, path)| format!("{} ({})", path.display(), size(bytes))));
    line("board", board::model());
    line("processor", Some(board::processor()));
    line("memory", board::memory().map(|(all, free)| format!("{}, {} available", size(all), size(free))));
    line("system", board::distribution());
    line("kernel", Some(board::kernel()));
    line("up", Some(duration(clock::since_boot().as_secs())));
    let now = jiff::Timestamp::from_millisecond(clock::wall_ms()).map(|time| time.to_string()).unwrap_or_default();
    line(
        "clock",
        Some(match clock::judge(trust, data_dir) {
            Ok(voucher) => format!("{now}, trusted by {}", voucher.as_str()),
            Err(why) => format!("{now}, NOT TRUSTED: {why}; what arrives is marked until it is"),
        }),
    );
    line(
        "time server",
        run("timedatectl", &["show", "--property=NTP,NTPSynchronized,Timezone"])
            .ok()
            .map(|answer| answer.trim().replace('\n', ", "))
            .filter(|answer| !answer.is_empty()),
    );
    match data_dir {
        None => line("data", Some("its directory is not known: see check.txt".to_owned())),
        Some(data_dir) => {
            line("data", Some(data_dir.display().to_string()));
            line("", Some(if data_dir.is_dir() { "is there" } else { "IS NOT THERE" }.to_owned()));
            let mount = board::mount_of(data_dir);
            line(
                "",
                mount.map(|mount| {
                    format!(
                        "on {} ({}), mounted at {}: {}",
                        mount.source,
                        mount.file_system,
                        mount.point.display(),
                        mount.options
                    )
                }),
            );
            let space = board::space_of(data_dir).ok();
            line("", space.map(|space| format!("{} free of {}", size(space.free), size(space.total))));
        }
    }
    let ports = board::serial_ports();
    line("serial ports", Some(if ports.is_empty() { "none" } else { "" }.to_owned()));
    for port in ports {
        let refused = if port.allowed { "" } else { " (not for the user who asked)" };
        line("", Some(format!("{}{refused}", port.path.display())));
    }
    text
}

/// systemd's unit as it is installed, with its drop-ins and its state.
pub(super) fn unit(unit: &str) -> Result<String, String> {
    let text = run("systemctl", &["cat", "--no-pager", unit])?;
    const STATE: &str = "--property=ActiveState,SubState,Result,NRestarts,ExecMainStartTimestamp,ExecMainCode,ExecMainStatus,StatusText,\
                         MemoryCurrent,CPUUsageNSec,FragmentPath,DropInPaths,UnitFileState";
    let state =
        run("systemctl", &["show", unit, STATE]).unwrap_or_else(|why| format!("its state is not known: {why}\n"));
    Ok(format!("{}\n# its state\n{state}", without_values(&text)))
}

/// A unit's text without the values that may be secrets: what is set in the environment, and credentials.
fn without_values(text: &str) -> String {
    let mut out = String::new();
    let mut hidden = false;
    for line in text.lines() {
        let goes_on = line.trim_end().ends_with('\\');
        if !hidden {
            let key = line.split_once('=').map(|(key, _)| key.trim());
            match key {
                Some(key @ ("Environment" | "SetCredential" | "SetCredentialEncrypted")) => {
                    out.push_str(key);
                    out.push_str("=(not shown)\n");
                    hidden = true;
                }
                _ => {
                    out.push_str(line);
                    out.push('\n');
                }
            }
        }
        hidden &= goes_on;
    }
    out
}

/// The newest lines of the unit's log.
pub(super) fn log(unit: &str) -> Result<String, String> {
    let add = format!(
        "if the log is kept elsewhere, send its last lines too, such as: journalctl -u {unit} -n {LOG_LINES} > log.txt"
    );
    let arguments = ["--unit", unit, "--lines", LOG_LINES, "--no-pager", "--quiet", "--output", "short-iso"];
    let text = run("journalctl", &arguments).map_err(|why| format!("{why}; {add}"))?;
    if text.trim().is_empty() || text.starts_with("-- No entries") {
        return Err(format!("the journal has nothing of the unit {unit} (is it readable without sudo?); {add}"));
    }
    Ok(text)
}

/// What a program prints, or why it does not.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Its words are part of what is compared, and of what a stranger reads.
    command.env("LC_ALL", "C").env("SYSTEMD_COLORS", "0");
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("{program} is not installed here"),
        _ => format!("{program}: {error}"),
    })?;
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read until an error is worth having.
            let _ = pipe.map(|pipe| pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let errors = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let started = clock::instant();
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.success(),
            Ok(None) if started.elapsed() < ANSWER_MAX => std::thread::sleep(Duration::from_millis(10)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{program} gave no answer within {ANSWER_MAX:?}"));
            }
        }
    };
    let (out, errors) = (out.join().unwrap_or_default(), errors.join().unwrap_or_default());
    if ended { Ok(out) } else { Err(format!("{program}: {}", errors.trim().lines().next().unwrap_or("it failed"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_environment_and_credentials_are_not_shown() {
        let text = "[Service]\nEnvironment=\"KAFKA_PASSWORD=hunter2\" \\\n  OTHER=hunter3\nExecStart=/usr/bin/tidegate run\n\
                    SetCredential=key:hunter4\nEnvironmentFile=/etc/default/tidegate\n";
        let shown = without_values(text);
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.contains("ExecStart=/usr/bin/tidegate run\n") && shown.contains("EnvironmentFile=/etc/default"));
    }

    #[test]
    fn a_program_that_fails_or_is_not_there_says_so() {
        assert_eq!(run("tidegate-no-such-program", &[]).unwrap_err(), "tidegate-no-such-program is not installed here");
        assert_eq!(run("sh", &["-c", "echo no >&2; exit 3"]).unwrap_err(), "sh: no");
        assert_eq!(run("sh", &["-c", "echo yes"]).unwrap(), "yes\n");
    }
}
