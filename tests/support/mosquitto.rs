//! A real mosquitto with a configuration of the test's own.

use std::net::TcpStream;
use std::path::PathBuf;

use super::parts::which;
use super::process::{Process, tail};
use super::scratch::Scratch;
use super::wait::{free_port, seconds, wait_until};

/// A broker that can be stopped and started again with what it had stored.
#[derive(Debug)]
pub(crate) struct Mosquitto {
    pub(crate) port: u16,
    process: Option<Process>,
    scratch: Scratch,
}

impl Mosquitto {
    /// Anonymous, without limits on what is in flight or queued: what a test loses, the broker did not drop.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::with("max_inflight_messages 0\nmax_queued_messages 0\nallow_anonymous true\n")
    }

    /// As Debian ships it, with 20 messages in flight, but with a queue that takes all.
    #[track_caller]
    pub(crate) fn with_default_in_flight() -> Self {
        Self::with("max_queued_messages 0\nallow_anonymous true\n")
    }

    /// With these lines in its configuration, besides listener and persistence; `{dir}` is its directory.
    #[track_caller]
    pub(crate) fn with(lines: &str) -> Self {
        Self::in_scratch(Scratch::new("mosquitto"), lines)
    }

    /// The same in a directory where the test has put files already.
    #[track_caller]
    pub(crate) fn in_scratch(scratch: Scratch, lines: &str) -> Self {
        let port = free_port();
        // With privileges dropped the kernel would forget that it is to end with the test.
        let user = if rustix::process::geteuid().is_root() { "user root\n" } else { "" };
        let directory = scratch.path().to_str().unwrap().to_owned();
        let lines = lines.replace("{dir}", &directory);
        // Saved after each change of state: what it has acknowledged survives even a SIGKILL.
        scratch.write(
            "mosquitto.conf",
            &format!(
                "{user}listener {port} 127.0.0.1\npersistence true\npersistence_location {directory}/\n\
                 log_type error\nlog_type warning\nlog_type notice\n{lines}"
            ),
        );
        let mut broker = Self { port, process: None, scratch };
        broker.restart();
        broker
    }

    /// What it has logged.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.scratch.join("mosquitto.log")
    }

    /// Starts it again (it must be stopped) with the same port and what it had stored.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        assert!(self.process.is_none(), "mosquitto runs already");
        let program = which("mosquitto").expect("need!(Mosquitto) comes first");
        let configuration = self.scratch.join("mosquitto.conf");
        let arguments = ["-c", configuration.to_str().unwrap()];
        let mut process = Process::spawn("mosquitto", &program, arguments, &[], &self.log());
        let port = self.port;
        wait_until(seconds(10), "mosquitto to listen", || {
            process.assert_running("it to listen");
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        self.process = Some(process);
    }

    /// SIGTERM: it saves its queues and sessions.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().expect("mosquitto runs");
        let status = process.terminate(seconds(20));
        assert!(status.success(), "mosquitto ended with {status}:\n{}", tail(&self.log()));
    }

    /// Its directory.
    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Its process, for a look at its memory.
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("mosquitto runs")
    }
}
