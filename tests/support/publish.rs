//! MQTT clients that are not the gateway's own: mosquitto_pub, and Paho where a test must know which messages the
//! broker has acknowledged.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::parts::{python, script, which};
use super::process::{Process, tail};
use super::scratch::Scratch;
use super::wait::wait_until;

/// Publishes each payload to `topic` with mosquitto_pub and waits until the broker has acknowledged them (QoS 1) or
/// taken them (QoS 0). Payloads hold no line ends.
#[track_caller]
pub(crate) fn publish_lines(port: u16, topic: &str, qos: u8, payloads: impl IntoIterator<Item = String>) {
    let mut publisher = LinePublisher::start(port, topic, qos);
    for payload in payloads {
        publisher.send(&payload);
    }
    publisher.finish(Duration::from_secs(120));
}

/// Publishes the content of a file as one message.
#[track_caller]
pub(crate) fn publish_file(port: u16, topic: &str, qos: u8, file: &Path, arguments: &[&str]) {
    let mut command = mosquitto_pub(port, topic, qos);
    command.arg("-f").arg(file).args(arguments);
    run(command);
}

/// Publishes one message; `arguments` are further ones of mosquitto_pub, such as `-r`.
#[track_caller]
pub(crate) fn publish_one(port: u16, topic: &str, qos: u8, payload: &str, arguments: &[&str]) {
    let mut command = mosquitto_pub(port, topic, qos);
    command.args(["-m", payload]).args(arguments);
    run(command);
}

fn mosquitto_pub(port: u16, topic: &str, qos: u8) -> Command {
    let mut command = Command::new(which("mosquitto_pub").expect("need!(Mosquitto) comes first"));
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", &qos.to_string(), "-t", topic]);
    command.stdin(Stdio::null());
    command
}

#[track_caller]
fn run(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "mosquitto_pub failed: {}", String::from_utf8_lossy(&output.stderr));
}

/// A mosquitto_pub that sends what is given to it line by line.
#[derive(Debug)]
pub(crate) struct LinePublisher {
    child: Child,
}

impl LinePublisher {
    #[track_caller]
    pub(crate) fn start(port: u16, topic: &str, qos: u8) -> Self {
        let mut command = mosquitto_pub(port, topic, qos);
        command.arg("-l").stdin(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap() }
    }

    /// Gives it one payload; blocks while the pipe is full.
    #[track_caller]
    pub(crate) fn send(&mut self, payload: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(format!("{payload}\n").as_bytes()).expect("mosquitto_pub takes lines");
    }

    /// Closes its input and waits until it has sent all, and with QoS 1 until the broker has acknowledged all.
    #[track_caller]
    pub(crate) fn finish(mut self, limit: Duration) {
        drop(self.child.stdin.take());
        let status = wait_until(limit, "mosquitto_pub to finish", || self.child.try_wait().unwrap());
        assert!(status.success(), "mosquitto_pub ended with {status}");
    }
}

impl Drop for LinePublisher {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A Paho client that publishes `{"n":0,…}`, `{"n":1,…}` … at QoS 1, reconnects by itself, and notes what the broker has
/// acknowledged.
#[derive(Debug)]
pub(crate) struct PahoPublisher {
    process: Process,
    scratch: Scratch,
}

impl PahoPublisher {
    /// `count` messages at `rate` a second.
    #[track_caller]
    pub(crate) fn start(port: u16, topic: &str, count: u64, rate: u64) -> Self {
        let scratch = Scratch::new("paho");
        let acknowledged = scratch.join("acknowledged");
        let arguments = [
            script("publish.py").to_str().unwrap().to_owned(),
            port.to_string(),
            topic.to_owned(),
            count.to_string(),
            rate.to_string(),
            acknowledged.to_str().unwrap().to_owned(),
        ];
        let process = Process::spawn("publish.py", &python(), &arguments, &[], &scratch.join("log"));
        Self { process, scratch }
    }

    /// The numbers that the broker has acknowledged so far.
    pub(crate) fn acknowledged(&self) -> Vec<u64> {
        let text = std::fs::read_to_string(self.scratch.join("acknowledged")).unwrap_or_default();
        // The last line may be half written.
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.parse().ok()).collect()
    }

    /// Waits until all is published and acknowledged.
    #[track_caller]
    pub(crate) fn finish(&mut self, limit: Duration) {
        let status = self.process.wait(limit);
        assert!(status.success(), "publish.py ended with {status}:\n{}", tail(&self.scratch.join("log")));
    }
}
