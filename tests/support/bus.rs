//! A line of devices that a script of this directory plays, and what is read from it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::gateway::TIDEGATE;
use super::parts::{python, script};
use super::{Config, Process, Scratch, seconds};

/// Devices and the wire to them.
pub(crate) struct Bus {
    script: &'static str,
    process: Option<Process>,
    pub(crate) scratch: Scratch,
}

impl Bus {
    /// Those of a script such as `modbus.py`, on a wire that is good.
    pub(crate) fn new(script: &'static str) -> Self {
        let mut bus = Self { script, process: None, scratch: Scratch::new(script.trim_end_matches(".py")) };
        bus.faults("clean");
        bus.plug();
        bus
    }

    pub(crate) fn port(&self) -> PathBuf {
        self.scratch.join("usb-1a86_USB_Serial-if00-port0")
    }

    pub(crate) fn faults(&self, fault: &str) {
        // Renamed into place: the wire never reads half a word.
        let new = self.scratch.write("new", fault);
        std::fs::rename(new, self.scratch.join("faults")).unwrap();
    }

    pub(crate) fn plug(&mut self) {
        let seed = fastrand::u32(..).to_string();
        println!("seed {seed}");
        let (port, faults) = (self.port(), self.scratch.join("faults"));
        let path = script(self.script);
        let arguments = [path.to_str().unwrap(), port.to_str().unwrap(), faults.to_str().unwrap(), &seed];
        let mut process = Process::spawn(self.script, &python(), arguments, &[], &self.scratch.join("log"));
        process.wait_for_output("ready", seconds(30));
        self.process = Some(process);
    }

    pub(crate) fn pull(&mut self) {
        self.process = None;
        std::fs::remove_file(self.port()).unwrap();
    }

    /// `tidegate run --print` of a configuration.
    pub(crate) fn print(&self, config: &Config) -> Process {
        let path = self.scratch.write("gateway.toml", &config.text(self.scratch.path()));
        let arguments = ["run", "--print", "--config", path.to_str().unwrap()];
        Process::spawn("tidegate run --print", Path::new(TIDEGATE), arguments, &[], &self.scratch.join("print.log"))
    }
}

/// What it has printed.
pub(crate) fn printed(printing: &Process) -> Vec<Value> {
    printing.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

pub(crate) fn of<'a>(records: &'a [Value], kind: &str, device: &str) -> Vec<&'a Value> {
    records.iter().filter(|record| record["kind"] == kind && record["device"] == device).collect()
}

/// Numbers, flags and texts of a reading.
pub(crate) fn values(record: &Value) -> serde_json::Map<String, Value> {
    let parts = ["values", "flags", "texts"].into_iter().filter_map(|key| record[key].as_object());
    parts.flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Values as equal as what a person writes down.
#[track_caller]
pub(crate) fn assert_values(record: &Value, expected: &Value) {
    let found = values(record);
    let expected = expected.as_object().unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{record}");
    for (name, value) in expected {
        let same = match (value.as_f64(), found[name].as_f64()) {
            (Some(expected), Some(found)) => (expected - found).abs() <= expected.abs() * 1e-9,
            _ => *value == found[name],
        };
        assert!(same, "{name}: expected {value}, found {} in {record}", found[name]);
    }
}
