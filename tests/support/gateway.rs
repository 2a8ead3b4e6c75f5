//! The built binary, its configuration file, and what it says of itself.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::process::{Process, tail};
use super::scratch::Scratch;
use super::wait::{seconds, wait_until};

/// The binary under test.
pub(crate) const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");

/// The topic that readings go to unless a test says otherwise.
pub(crate) const READINGS: &str = "iot.readings";
/// The same for dead letters.
pub(crate) const DEAD_LETTERS: &str = "iot.dead-letters";

/// A configuration in the making: sections of TOML.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    gateway: String,
    sources: String,
    outbox: String,
    kafka: String,
}

impl Config {
    /// A gateway `test` without sources that delivers to this Kafka address.
    pub(crate) fn new(kafka: &str) -> Self {
        Self {
            gateway: String::new(),
            sources: String::new(),
            outbox: String::new(),
            kafka: format!(
                "[kafka]\nbrokers = [\"{kafka}\"]\n\
                 topics = {{ reading = \"{READINGS}\", dead_letter = \"{DEAD_LETTERS}\" }}\n"
            ),
        }
    }

    /// Adds lines to `[gateway]`.
    pub(crate) fn gateway(mut self, lines: &str) -> Self {
        self.gateway += &format!("{lines}\n");
        self
    }

    /// Adds `[mqtt.NAME]` with the profile generic/json; `lines` are further settings.
    pub(crate) fn mqtt(mut self, name: &str, port: u16, lines: &str) -> Self {
        let profiles = if lines.contains("profiles =") { "" } else { "profiles = [\"generic/json\"]\n" };
        self.sources += &format!("[mqtt.{name}]\nurl = \"mqtt://127.0.0.1:{port}\"\n{profiles}{lines}\n");
        self
    }

    /// Adds a section as it is.
    pub(crate) fn section(mut self, lines: &str) -> Self {
        self.sources += &format!("{lines}\n");
        self
    }

    /// Adds `[serial.NAME]` with the profile generic/json-line.
    pub(crate) fn serial(mut self, name: &str, port: &Path, lines: &str) -> Self {
        self.sources +=
            &format!("[serial.{name}]\nport = \"{}\"\nprofile = \"generic/json-line\"\n{lines}\n", port.display());
        self
    }

    /// `[outbox]` and what belongs to it.
    pub(crate) fn outbox(mut self, lines: &str) -> Self {
        self.outbox = format!("[outbox]\n{lines}\n");
        self
    }

    /// Adds lines to `[kafka]`.
    pub(crate) fn kafka(mut self, lines: &str) -> Self {
        self.kafka += &format!("{lines}\n");
        self
    }

    /// Replaces `[kafka]`.
    pub(crate) fn kafka_section(mut self, lines: &str) -> Self {
        self.kafka = format!("[kafka]\n{lines}\n");
        self
    }

    /// The whole file.
    pub(crate) fn text(&self, directory: &Path) -> String {
        let Self { gateway, sources, outbox, kafka } = self;
        let id = if gateway.contains("id =") { "" } else { "id = \"test\"\n" };
        let data_dir = if gateway.contains("data_dir =") {
            String::new()
        } else {
            format!("data_dir = \"{}/data\"\n", directory.display())
        };
        let profiles_dir = if gateway.contains("profiles_dir =") {
            String::new()
        } else {
            format!("profiles_dir = \"{}/profiles\"\n", directory.display())
        };
        format!("[gateway]\n{id}{data_dir}{profiles_dir}{gateway}\n{sources}\n{outbox}\n{kafka}\n")
    }
}

/// A gateway that runs, or can be started again with the same data.
#[derive(Debug)]
pub(crate) struct Gateway {
    process: Option<Process>,
    scratch: Scratch,
}

impl Gateway {
    /// Started, and ready to be asked for its status.
    #[track_caller]
    pub(crate) fn start(config: &Config) -> Self {
        let mut gateway = Self::stopped(config);
        gateway.restart();
        gateway
    }

    /// Configured, not started.
    pub(crate) fn stopped(config: &Config) -> Self {
        Self::in_scratch(Scratch::new("gateway"), config)
    }

    /// The same in a directory where the test has put files already.
    pub(crate) fn in_scratch(scratch: Scratch, config: &Config) -> Self {
        let gateway = Self { process: None, scratch };
        gateway.configure(config);
        gateway
    }

    /// Writes another configuration, for the next start.
    pub(crate) fn configure(&self, config: &Config) {
        self.scratch.write("gateway.toml", &config.text(self.scratch.path()));
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.scratch.join("gateway.toml")
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.scratch.join("data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.scratch.join("gateway.log")
    }

    /// Starts it and waits until it answers for its status.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.restart_without_waiting();
        self.wait_started();
    }

    /// Starts it and returns at once.
    #[track_caller]
    pub(crate) fn restart_without_waiting(&mut self) {
        let config = self.config_path();
        self.restart_as(Path::new(TIDEGATE), &["run", "--config", config.to_str().unwrap()]);
    }

    /// Starts it below another program, such as a tracer that leaves it its process number.
    #[track_caller]
    pub(crate) fn restart_as(&mut self, program: &Path, arguments: &[&str]) {
        assert!(self.process.is_none(), "the gateway runs already");
        let environment = [("RUST_BACKTRACE", "1")];
        self.process = Some(Process::spawn("tidegate", program, arguments, &environment, &self.log()));
    }

    /// Waits until it answers for its status.
    #[track_caller]
    pub(crate) fn wait_started(&mut self) {
        self.wait_status(seconds(20), "an answer to `tidegate status`", |_| true);
    }

    #[track_caller]
    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the gateway runs")
    }

    /// What `tidegate status --json` says now, if it answers.
    pub(crate) fn try_status(&self) -> Option<Status> {
        let output = tidegate(&["status", "--json", "--config", self.config_path().to_str().unwrap()]);
        output.status.success().then(|| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Status(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in the status: {text}")))
        })
    }

    /// What `tidegate status --json` says now.
    #[track_caller]
    pub(crate) fn status(&mut self) -> Status {
        self.wait_status(seconds(10), "an answer to `tidegate status`", |_| true)
    }

    /// Asks for the status until it is as wanted, and gives it; if it never is, shows the last one.
    #[track_caller]
    pub(crate) fn wait_status(&mut self, limit: Duration, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut last = None;
        let start = tidegate::clock::instant();
        loop {
            self.process().assert_running(what);
            if let Some(status) = self.try_status() {
                if wanted(&status) {
                    return status;
                }
                last = Some(status);
            }
            if start.elapsed() > limit {
                let last = last.map_or("it never answered".into(), |status| format!("{:#}", status.0));
                panic!("waited {limit:?} in vain for: {what}\nlast status: {last}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until all its MQTT links are up and subscribed, so that nothing published from now on is missed.
    #[track_caller]
    pub(crate) fn wait_subscribed(&mut self) {
        self.wait_status(seconds(20), "all MQTT links to be up", |status| {
            let links = status.links("mqtt.");
            !links.is_empty() && links.iter().all(|state| state == "up")
        });
    }

    /// Waits until nothing is left in the outbox and at least `delivered` records were delivered in this run.
    #[track_caller]
    pub(crate) fn wait_delivered(&mut self, delivered: u64, limit: Duration) -> Status {
        self.wait_status(limit, &format!("an empty outbox and {delivered} records delivered"), |status| {
            status.backlog() == 0 && status.sum("delivered_total") >= delivered
        })
    }

    /// SIGTERM; panics unless it exits with 0 within `limit`.
    #[track_caller]
    pub(crate) fn stop(&mut self, limit: Duration) {
        let status = self.terminate(limit);
        assert!(status.success(), "the gateway ended with {status}:\n{}", tail(&self.log()));
    }

    /// SIGTERM; gives how it ended.
    #[track_caller]
    pub(crate) fn terminate(&mut self, limit: Duration) -> ExitStatus {
        let mut process = self.process.take().expect("the gateway runs");
        process.terminate(limit)
    }

    /// SIGKILL.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("the gateway runs").kill();
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub(crate) fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let mut process = self.process.take().expect("the gateway runs");
        process.wait(limit)
    }

    /// Writes another configuration and has it loaded by `tidegate reload`, which must say that it is in use.
    #[track_caller]
    pub(crate) fn reload_with(&self, config: &Config) -> String {
        self.configure(config);
        let output = self.reload();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {out}{err}\n{}", output.status, tail(&self.log()));
        out.into_owned()
    }

    /// `tidegate reload`.
    #[track_caller]
    pub(crate) fn reload(&self) -> Output {
        tidegate(&["reload", "--config", self.config_path().to_str().unwrap()])
    }

    /// SIGSTOP: it does nothing more until [`Gateway::thaw`].
    #[track_caller]
    pub(crate) fn freeze(&mut self) {
        self.process().signal(Signal::STOP);
    }

    /// SIGCONT.
    #[track_caller]
    pub(crate) fn thaw(&mut self) {
        self.process().signal(Signal::CONT);
    }

    /// All it has logged, in all its runs.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Bytes that its data directory takes on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        disk_bytes(&self.data_dir())
    }
}

fn disk_bytes(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    let own = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    let below = std::fs::read_dir(path).into_iter().flatten().flatten();
    own + below.map(|entry| disk_bytes(&entry.path())).sum::<u64>()
}

/// Runs the binary to its end (it must end by itself within a minute) with these arguments.
#[track_caller]
pub(crate) fn tidegate(arguments: &[&str]) -> Output {
    let mut command = Command::new(TIDEGATE);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Both pipes are read on threads, so that neither fills up.
    let read = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
            bytes
        })
    };
    let out = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let err = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let start = tidegate::clock::instant();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > seconds(60) {
            let _ = child.kill();
            let _ = child.wait();
            panic!("tidegate {arguments:?} did not end within a minute");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

/// An answer of `tidegate status --json`.
#[derive(Clone, Debug)]
pub(crate) struct Status(pub(crate) Value);

impl Status {
    /// Records that wait in the outbox.
    pub(crate) fn backlog(&self) -> u64 {
        self.0["backlog"]["records"].as_u64().unwrap_or_else(|| panic!("no backlog.records in {:#}", self.0))
    }

    /// The counter of that name and label value; 0 if nothing was counted yet.
    pub(crate) fn count(&self, name: &str, value: &str) -> u64 {
        self.counters(name).filter(|(label, _)| label == value).map(|(_, count)| count).sum()
    }

    /// The counter of that name over all labels.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        self.counters(name).map(|(_, count)| count).sum()
    }

    fn counters(&self, name: &str) -> impl Iterator<Item = (String, u64)> {
        self.0["counters"].as_array().into_iter().flatten().filter(move |entry| entry["name"] == name).map(|entry| {
            (entry["value"].as_str().unwrap_or("").to_owned(), entry["count"].as_u64().expect("a count is a number"))
        })
    }

    /// The state of a link: connecting, up or down.
    pub(crate) fn link(&self, name: &str) -> &str {
        self.0["links"][name]["state"].as_str().unwrap_or("")
    }

    /// What a person should know of a link.
    pub(crate) fn link_detail(&self, name: &str) -> &str {
        self.0["links"][name]["detail"].as_str().unwrap_or("")
    }

    /// The states of all links whose names begin so.
    pub(crate) fn links(&self, prefix: &str) -> Vec<String> {
        let links = self.0["links"].as_object().into_iter().flatten();
        links
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(_, link)| link["state"].as_str().unwrap_or("").to_owned())
            .collect()
    }
}
