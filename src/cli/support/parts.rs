//! What goes into the archive. Each part is a text, or the reason why it cannot be had.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{Part, Support, archive, system};
use crate::cli::outbox::{records, status as outbox_status};
use crate::cli::status;
use crate::config::{ClockTrust, Format, Loaded, Purpose};
use crate::outbox::cipher::Keys;
use crate::outbox::edit::Filter;
use crate::outbox::inspect::Inspection;
use crate::setup::{self, Setup};
use crate::status::socket;
use crate::uplink::lines::Exporter;

/// A manifest of thousands of segments is smaller, in bytes.
const MANIFEST_BYTES_MAX: u64 = 8 << 20;
/// The oldest records that wait, up to so many bytes.
const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// Shorter values of variables stand for themselves: they are part of too many words.
const VARIABLE_CHARS_MIN: usize = 3;
/// Enough of a machine id to tell two apart; all of it is nobody's business (machine-id(5)).
const MACHINE_ID_CHARS: usize = 8;

pub(super) struct Parts<'a> {
    pub(super) support: &'a Support,
    pub(super) unit: &'a str,
    /// The configuration, if it can be read at all.
    pub(super) loaded: Option<&'a Loaded>,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
}

impl Parts<'_> {
    pub(super) fn gather(&self) -> Vec<Part> {
        let data_dir = self.data_dir();
        let trust = self.loaded.map_or(ClockTrust::Auto, |loaded| loaded.config.gateway.clock.clone());
        let (status_text, status_json) = running(&data_dir);
        let mut inspection = self.inspect(&data_dir);
        let (outbox_text, outbox_json) = match &inspection {
            Ok(inspection) => {
                let (text, json) = outbox_status::both(inspection);
                (Ok(text), Ok(json))
            }
            Err(why) => (Err(why.clone()), Err(why.clone())),
        };
        let part = |name, about, text| Part { name, about, text };
        let mut parts = vec![
            part(
                "machine.txt",
                "version, board, system, clock, disk, serial ports",
                Ok(system::machine(Some(&data_dir), &trust)),
            ),
            part("config.toml", "the configuration as it is used, without its secrets", self.config()),
            part("check.txt", "what `tidegate check` says of it", Ok(self.check())),
            part("status.txt", "links, backlog and counters of the running gateway", status_text),
            part("status.json", "the same for a program", status_json),
            part("outbox.txt", "the buffer on disk: what is in each segment, and whether all is well", outbox_text),
            part("outbox.json", "the same for a program", outbox_json),
            part("manifest.txt", "the buffer's own table of contents, with machine ids cut short", manifest(&data_dir)),
            part("log.txt", "the newest 2,000 lines of the service's log", system::log(self.unit)),
            part("unit.txt", "the service as systemd has it", system::unit(self.unit)),
        ];
        if self.support.with_payloads {
            let mut left_out = String::new();
            let records = match &mut inspection {
                Ok(inspection) => self.records(inspection, &mut left_out),
                Err(why) => Err(why.clone()),
            };
            parts.push(part("records.ndjson", "READINGS AND DEAD LETTERS that wait, the oldest first", records));
            if !left_out.is_empty() {
                parts.push(part("left-out.txt", "what of them is not in records.ndjson", Ok(left_out)));
            }
        }
        parts
    }

    /// Named, or as the configuration says, or as it would say if the rest of it were right.
    fn data_dir(&self) -> PathBuf {
        let named = self.support.data_dir.clone();
        let loaded = || self.loaded.map(|loaded| loaded.config.gateway.data_dir.clone());
        named.or_else(loaded).or_else(|| setup::data_dirs(&self.support.config).into_iter().next()).unwrap_or_default()
    }

    /// The configuration as it is used. What came out of a variable is shown as the variable: nobody knows what it holds.
    fn config(&self) -> Result<String, String> {
        let asked: RefCell<Vec<(String, String)>> = RefCell::default();
        let env = |name: &str| {
            let value = (self.env)(name)?;
            asked.borrow_mut().push((value.clone(), name.to_owned()));
            Some(value)
        };
        let loaded = Loaded::load_in(&self.support.config, Purpose::Replay, &env);
        let loaded = loaded.map_err(|_| "it cannot be read: check.txt says why".to_owned())?;
        let mut text = loaded.print();
        let mut asked = asked.take();
        asked.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        for (value, name) in asked.iter().filter(|(value, _)| value.chars().count() >= VARIABLE_CHARS_MIN) {
            if !matches!(name.as_str(), "STATE_DIRECTORY" | "CREDENTIALS_DIRECTORY") {
                text = text.replace(value, &format!("${{{name}}}"));
            }
        }
        Ok(text)
    }

    fn check(&self) -> String {
        let checked = Loaded::load_in(&self.support.config, Purpose::Run, self.env).and_then(Setup::check_loaded);
        let mut text = match checked {
            Ok(_) => format!("{}: all is well\n", self.support.config.display()),
            Err(errors) => format!("{errors}\n"),
        };
        text.push_str(
            "\n(checked with the rights and the environment of the user who ran `tidegate support`, which may differ from \
             those of the service)\n",
        );
        text
    }

    fn inspect(&self, data_dir: &Path) -> Result<Inspection, String> {
        let keys = Loaded::load_in(&self.support.config, Purpose::Outbox, self.env);
        let keys = keys.map(|loaded| Keys::new(&loaded.config.outbox.encryption)).unwrap_or_default();
        Inspection::open(data_dir, &keys, None).map_err(|error| error.to_string())
    }

    fn records(&self, inspection: &mut Inspection, left_out: &mut String) -> Result<String, String> {
        let loaded = self.loaded.ok_or("the configuration, which says how records look, cannot be read")?;
        let mut exporter = Exporter::new(&loaded.config.gateway, &loaded.config.kafka, Format::Json);
        let mut text = Limited(Vec::new());
        let mut note = |remark: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(left_out, "{remark}");
        };
        let written =
            records::write(inspection, &mut exporter, (&Filter::default(), false), &mut text, &mut |remark| {
                remark.into_iter().for_each(&mut note);
            });
        match written {
            Ok(_) => {}
            // Whole records are written, so what fits ends with one.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                note("all beyond 16 MiB; `tidegate outbox export` has them");
            }
            Err(error) => return Err(error.to_string()),
        }
        Ok(String::from_utf8_lossy(&text.0).into_owned())
    }
}

/// Takes so much and no more.
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > PAYLOAD_BYTES_MAX {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The running gateway's report, for a person and for a program.
fn running(data_dir: &Path) -> (Result<String, String>, Result<String, String>) {
    match socket::ask(data_dir) {
        Ok(report) => {
            let json = serde_json::to_string_pretty(&report).map_err(|error| error.to_string());
            (Ok(status::table(&report)), json.map(|json| json + "\n"))
        }
        Err(error) => {
            let why = format!("not running: {error}");
            (Err(why.clone()), Err(why))
        }
    }
}

/// The manifest as it stands in the directory, damaged or not. It holds no reading and no device's name.
fn manifest(data_dir: &Path) -> Result<String, String> {
    let path = data_dir.join("outbox/MANIFEST");
    let text = archive::read(&path, MANIFEST_BYTES_MAX).map_err(|error| format!("{}: {error}", path.display()))?;
    let Some((json, checksum)) = text.split_once('\n') else {
        return Err("it is cut off: outbox.txt says more".to_owned());
    };
    let mut value: Json = serde_json::from_str(json).map_err(|error| format!("it is damaged: {error}"))?;
    for place in ["/machine", "/moved/from"] {
        if let Some(Json::String(id)) = value.pointer_mut(place) {
            *id = id.chars().take(MACHINE_ID_CHARS).collect();
        }
    }
    let pretty = serde_json::to_string_pretty(&value).map_err(|error| error.to_string())?;
    Ok(format!("{pretty}\n\nchecksum as it is stored, of the text before machine ids were cut short: {checksum}\n"))
}
