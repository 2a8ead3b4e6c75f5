//! Board profiles: what a gateway board can bear, as data, and what of a configuration does not fit. Files like those of
//! devices, in the folder `boards`.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::builtin::BOARD_FILES;
use crate::config::{ClockTrust, Config, Persist, parse_duration, parse_size};
use crate::glob::Glob;

/// What a gateway takes besides what is configured: measured with one broker and one port.
const MEMORY_BASE: u64 = 32 << 20;
/// Bytes that a commit writes though hardly anything is in it: pages of sled, and what the file system adds.
const COMMIT_BYTES: u64 = 6 << 10;

/// What a board can bear.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// `vendor-model`.
    pub id: String,
    /// For a person who looks for a board.
    pub description: String,
    /// Where its data is from.
    pub source: String,
    /// Bytes of memory of the smallest model.
    #[serde(deserialize_with = "size")]
    pub memory: u64,
    /// Bytes of it that the gateway may take.
    #[serde(deserialize_with = "size")]
    pub memory_max: u64,
    /// Its disk.
    pub disk: Disk,
    /// Its clock.
    pub clock: Clock,
    /// Its serial ports, without those that are plugged in.
    #[serde(default)]
    pub serial: Vec<Port>,
}

/// A board's disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Bytes that the outbox may take.
    #[serde(deserialize_with = "size")]
    pub outbox_max: u64,
    /// Bytes that may be written each day.
    #[serde(deserialize_with = "size")]
    pub written_a_day_max: u64,
    /// Commits should be no closer than this.
    #[serde(deserialize_with = "duration")]
    pub commit_interval_min: Duration,
}

/// A board's clock.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// It keeps the time without power.
    pub chip: bool,
}

/// A serial port that a board has.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// A pattern of device files.
    pub port: String,
    /// Whether it is RS-485.
    #[serde(default)]
    pub rs485: bool,
    /// What to know about it.
    pub note: Option<String>,
}

fn size<'de, D: Deserializer<'de>>(reader: D) -> Result<u64, D::Error> {
    let text = String::deserialize(reader)?;
    parse_size(&text).ok_or_else(|| de::Error::custom(format!("`{text}`: expected a size such as \"512 MiB\"")))
}

fn duration<'de, D: Deserializer<'de>>(reader: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(reader)?;
    parse_duration(&text).ok_or_else(|| de::Error::custom(format!("`{text}`: expected a duration such as \"250ms\"")))
}

impl Board {
    /// Parses a board's file.
    ///
    /// # Errors
    /// What was expected, with the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// All boards that are built in.
    #[must_use]
    pub fn builtin() -> Vec<Self> {
        // A test proves that each of them parses.
        BOARD_FILES.iter().filter_map(|(_, text)| Self::parse(text).ok()).collect()
    }

    /// The board of an id, or of a file.
    ///
    /// # Errors
    /// When there is none, with those that there are.
    pub fn find(name: &str) -> Result<Self, String> {
        let path = Path::new(name);
        if name.ends_with(".toml") {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
            return Self::parse(&text).map_err(|error| format!("{name}: {error}"));
        }
        let boards = Self::builtin();
        let ids: Vec<String> = boards.iter().map(|board| board.id.clone()).collect();
        let found = boards.into_iter().find(|board| board.id == name);
        found.ok_or_else(|| format!("there is no board `{name}`; expected one of {}, or a .toml file", ids.join(", ")))
    }

    /// What of a configuration does not fit the board, and what would: a line each.
    #[must_use]
    pub fn misfits(&self, config: &Config) -> Vec<String> {
        let mut lines = Vec::new();
        self.check_memory(config, &mut lines);
        self.check_disk(config, &mut lines);
        if !self.clock.chip && config.gateway.clock == ClockTrust::Always {
            lines.push(
                "gateway.clock = \"always\": this board's clock begins anew with each power cut, so readings would get wrong \
                 times; leave it out, and they are marked until the time is known"
                    .to_owned(),
            );
        }
        for serial in &config.serial {
            self.check_port(&serial.name, &serial.port, &mut lines);
        }
        lines
    }

    fn check_memory(&self, config: &Config, lines: &mut Vec<String>) {
        let sources: u64 = config.mqtt.iter().map(|mqtt| mqtt.memory_bytes_max as u64).sum();
        let queues = (config.outbox.memory_tail_bytes + config.kafka.in_flight_bytes_max) as u64;
        let rules = if config.rules.filters.is_empty() && config.rules.windows.is_empty() {
            0
        } else {
            config.rules.state_bytes_max as u64
        };
        let all = MEMORY_BASE + sources + queues + rules;
        if all > self.memory_max {
            lines.push(format!(
                "memory: up to {} MiB ({} for itself, {} for brokers, {} for queues, {} for rules), and this board has {} for \
                 it; lower mqtt.*.advanced.memory_max, rules.advanced.state_max or kafka.advanced.in_flight_bytes",
                mib(all),
                mib(MEMORY_BASE),
                mib(sources),
                mib(queues),
                mib(rules),
                mib(self.memory_max)
            ));
        }
    }

    fn check_disk(&self, config: &Config, lines: &mut Vec<String>) {
        let outbox = &config.outbox;
        if outbox.size_max > self.disk.outbox_max {
            lines.push(format!(
                "outbox.max_size: {} MiB, and this board has room for {}",
                mib(outbox.size_max),
                mib(self.disk.outbox_max)
            ));
        }
        let interval = outbox.commit_interval.max(Duration::from_millis(1));
        let written = Duration::from_secs(86_400).as_millis() as u64 / interval.as_millis() as u64 * COMMIT_BYTES;
        let seldom = outbox.persist == Persist::WhenBehind;
        if !seldom && (interval < self.disk.commit_interval_min || written > self.disk.written_a_day_max) {
            let least = self.disk.commit_interval_min.max(self.interval_for(self.disk.written_a_day_max));
            lines.push(format!(
                "outbox.advanced.commit_interval: {} ms, so up to {} MiB a day are written where readings come all the time, and \
                 this board's flash should get {}; expected {} ms or more, or outbox.persist = \"when-behind\"",
                interval.as_millis(),
                mib(written),
                mib(self.disk.written_a_day_max),
                least.as_millis()
            ));
        }
    }

    /// How far commits must be apart so that no more than this is written each day.
    fn interval_for(&self, written_a_day: u64) -> Duration {
        let commits = (written_a_day / COMMIT_BYTES).max(1);
        Duration::from_millis((86_400_000_u64).div_ceil(commits).next_multiple_of(10))
    }

    fn check_port(&self, source: &str, port: &Path, lines: &mut Vec<String>) {
        let text = port.display().to_string();
        if text.starts_with("/dev/ttyUSB") || text.starts_with("/dev/ttyACM") {
            lines.push(format!(
                "{source}.port: {text} may be another adapter after the next start; expected its name below /dev/serial/by-id"
            ));
            return;
        }
        let fits = |own: &Port| own.port.parse::<Glob>().is_ok_and(|glob| glob.is_match(&text));
        let is_own = text.starts_with("/dev/tty") || text.starts_with("/dev/serial") && !text.contains("/by-");
        if is_own && !self.serial.iter().any(fits) {
            let own: Vec<&str> = self.serial.iter().map(|port| port.port.as_str()).collect();
            lines.push(format!("{source}.port: {text} is no port of this board; expected {}", own.join(" or ")));
        }
        for note in self.serial.iter().filter(|own| fits(own)).filter_map(|own| own.note.as_ref()) {
            lines.push(format!("{source}.port: {text}: {note}"));
        }
    }
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Loaded, Purpose};

    fn misfits(board: &str, more: &str) -> Vec<String> {
        let text = format!(
            "[gateway]\nid = \"g\"\n{more}\n[mqtt.a]\nhost = \"h\"\nprofiles = [\"tasmota\"]\n[kafka]\nbrokers = [\"k:9092\"]\n"
        );
        let config = Loaded::parse(&text, Path::new("t.toml"), Purpose::Run, &|_| None).unwrap().config;
        Board::find(board).unwrap().misfits(&config)
    }

    #[test]
    fn every_board_parses_and_is_named_as_its_file() {
        for (path, text) in BOARD_FILES {
            let board = Board::parse(text).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(*path, format!("boards/{}.toml", board.id));
            assert!(board.memory_max < board.memory && !board.source.is_empty(), "{path}");
        }
        assert!(Board::builtin().len() >= 8);
        assert!(Board::find("raspberry").unwrap_err().contains("raspberry-pi-5"));
    }

    #[test]
    fn what_does_not_fit_is_said_with_what_would() {
        let has = |lines: &[String], words: &str| lines.iter().any(|line| line.contains(words));
        let fits =
            misfits("raspberry-pi-5", "[outbox]\nmax_size = \"1GiB\"\n[outbox.advanced]\ncommit_interval = \"500ms\"");
        assert!(fits.is_empty(), "{fits:?}");
        let small = misfits(
            "armv7-256m",
            "clock = \"always\"\n[outbox]\nmax_size = \"4GiB\"\n[serial.m]\nport = \"/dev/ttyAMA0\"\nprofile = \"generic/json-line\"",
        );
        assert!(has(&small, "outbox.max_size: 4096 MiB, and this board has room for 512"), "{small:?}");
        assert!(has(&small, "expected 500 ms or more, or outbox.persist"), "{small:?}");
        assert!(
            has(&small, "serial.m.port: /dev/ttyAMA0 is no port of this board; expected /dev/ttymxc* or /dev/ttyS*"),
            "{small:?}"
        );
        let usb = misfits(
            "raspberry-pi-4",
            "clock = \"always\"\n[serial.m]\nport = \"/dev/ttyUSB0\"\nprofile = \"generic/json-line\"",
        );
        assert!(has(&usb, "/dev/serial/by-id"), "{usb:?}");
        assert!(has(&usb, "gateway.clock"), "{usb:?}");
    }
}
