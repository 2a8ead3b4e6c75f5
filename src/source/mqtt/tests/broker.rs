//! A mosquitto of the test's own: on a free loopback port, in a directory of its own, ended with the test.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::wait_for;

pub(super) struct Broker {
    child: Child,
    config: PathBuf,
    pub(super) dir: tempfile::TempDir,
    pub(super) port: u16,
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

impl Broker {
    /// Starts one; `lines` gives more configuration, to which it is told the directory.
    pub(super) fn start(lines: impl FnOnce(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut config = format!("listener {port} 127.0.0.1\npersistence true\nautosave_interval 0\n");
        writeln!(config, "persistence_location {}/\nuser root\nlog_dest none", dir.path().display()).unwrap();
        let lines = lines(dir.path());
        if !lines.contains("allow_anonymous") {
            config.push_str("allow_anonymous true\n");
        }
        config.push_str(&lines);
        let path = dir.path().join("mosquitto.conf");
        std::fs::write(&path, config).unwrap();
        let child = spawn(&path, port);
        Self { child, config: path, dir, port }
    }

    pub(super) fn plain() -> Self {
        Self::start(|_| String::new())
    }

    /// Ends it; it saves its sessions.
    pub(super) fn stop(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap();
    }

    /// Starts it again on the same port, with the sessions that it saved.
    pub(super) fn restart(&mut self) {
        self.child = spawn(&self.config, self.port);
    }

    /// Runs it for a moment on another port, where none of its clients comes; it was stopped before, and is afterwards.
    pub(super) fn aside(&mut self, act: impl FnOnce(&Self)) {
        let (config, port) = (self.config.clone(), self.port);
        let text = std::fs::read_to_string(&config).unwrap();
        (self.config, self.port) = (config.with_extension("aside"), free_port());
        let own = |port: u16| format!("listener {port} ");
        std::fs::write(&self.config, text.replace(&own(port), &own(self.port))).unwrap();
        self.restart();
        act(self);
        self.stop();
        (self.config, self.port) = (config, port);
    }

    /// Publishes each line of `lines` with an independent client.
    pub(super) fn publish(&self, args: &[&str], topic: &str, qos: u8, lines: &str) {
        let mut child = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-t", topic, "-q", &qos.to_string(), "-l"])
            .args(args)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "mosquitto_pub failed");
    }
}

fn spawn(config: &Path, port: u16) -> Child {
    let child = Command::new("mosquitto")
        .arg("-c")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto is needed: apt-get install mosquitto");
    wait_for("mosquitto to listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    std::thread::sleep(Duration::from_millis(20));
    child
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Numbers from `from` to `to`, one a line.
pub(super) fn numbers(from: u32, to: u32) -> String {
    (from..=to).map(|number| format!("{number}\n")).collect()
}
