//! A configuration together with the file that it came from: so that it can be printed, and so that who checks more than
//! this module can (whether a profile exists) can still point at the line.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::errors::{Show, place};
use super::section::{Context, Section};
use super::{BusProtocol, Config, Errors, Place, Problem, rules, secret, sinks, sources};

/// A configuration file is not larger than this, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// After the first syntax errors the rest are mostly their consequences.
const SYNTAX_ERRORS_MAX: usize = 3;

/// What a configuration is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To run the gateway: sources and Kafka.
    Run,
    /// To show readings only: `[kafka]` may be left out, and [`Kafka::brokers`](super::Kafka::brokers) is empty then.
    Show,
    /// To try its rules on a recording, on any machine: as for showing, sources may be left out too, and neither secrets
    /// nor certificates are looked for.
    Replay,
    /// To look at the outbox: as for trying the rules, but its keys are looked for.
    Outbox,
}

/// A valid configuration and its file.
#[derive(Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    path: PathBuf,
    text: String,
    pub(super) origins: BTreeMap<String, secret::Origin>,
    asked: BTreeSet<String>,
}

impl std::fmt::Debug for Loaded {
    // The file's text stays out: nobody knows what its comments hold.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("path", &self.path).field("config", &self.config).finish_non_exhaustive()
    }
}

impl Config {
    /// Loads a file to run the gateway with.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Errors> {
        Loaded::load(path, Purpose::Run).map(|loaded| loaded.config)
    }

    /// Reads `text` as if it stood in the file `path`, with `env` for environment variables.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(text: &str, path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Errors> {
        Loaded::parse(text, path, Purpose::Run, env).map(|loaded| loaded.config)
    }
}

impl Loaded {
    /// Loads a file, with the environment of this process.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(path: &Path, purpose: Purpose) -> Result<Self, Errors> {
        Self::load_in(path, purpose, &|name| std::env::var(name).ok())
    }

    /// The same with `env` for environment variables.
    pub(crate) fn load_in(path: &Path, purpose: Purpose, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Errors> {
        let text = read(path).map_err(|problem| Errors::new(path.to_string_lossy(), vec![problem]))?;
        Self::parse(&text, path, purpose, env)
    }

    /// Reads `text` as if it stood in the file `path`, with `env` for environment variables.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(
        text: &str,
        path: &Path,
        purpose: Purpose,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Errors> {
        let (table, syntax_errors) = DeTable::parse_recoverable(text);
        // The gateway may be started from anywhere, and what is printed should be true elsewhere too.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let base = absolute.parent().unwrap_or(Path::new("/"));
        let context = Context {
            text,
            base,
            env,
            purpose,
            problems: RefCell::default(),
            asked: RefCell::default(),
            origins: RefCell::default(),
        };
        let mut understood = true;
        let mut others = 0;
        for error in &syntax_errors {
            let span = error.span().unwrap_or(0..0);
            if error.message().contains("duplicate key") {
                let message =
                    format!("`{}` is there already: a name or key may be used once", duplicate(text, span.clone()));
                context.note(Some((span, Show::Key)), "", message, None);
                continue;
            }
            understood = false;
            others += 1;
            if others <= SYNTAX_ERRORS_MAX {
                let message = format!("not TOML: {}", error.message().replace('\n', ", "));
                context.note(Some((span, Show::Line)), "", message, None);
            }
        }
        // What could be recovered of a file that is not TOML would bring errors that are not the author's.
        let config = understood.then(|| config(&Section::root(&context, table.get_ref()), purpose));
        let problems = context.problems.take();
        match config {
            Some(config) if problems.is_empty() => Ok(Self {
                config,
                path: path.to_owned(),
                text: text.to_owned(),
                origins: context.origins.take(),
                asked: context.asked.take(),
            }),
            _ => Err(Errors::new(path.to_string_lossy(), problems)),
        }
    }

    /// The data directory that a file names, whatever else is wrong with it; none if it cannot be made out.
    #[must_use]
    pub fn data_dir(path: &Path) -> Option<PathBuf> {
        let text = read(path).ok()?;
        let (table, _) = DeTable::parse_recoverable(&text);
        let absolute = std::path::absolute(path).ok()?;
        let context = Context {
            text: &text,
            base: absolute.parent()?,
            env: &|name| std::env::var(name).ok(),
            purpose: Purpose::Show,
            problems: RefCell::default(),
            asked: RefCell::default(),
            origins: RefCell::default(),
        };
        Section::root(&context, table.get_ref()).section("gateway").path("data_dir")
    }

    /// The file's text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a key stands, such as `mqtt.home.profiles` or `mqtt.home.profiles[1]`; where it does not, the place of the
    /// table that it would stand in; none for the file itself.
    #[must_use]
    pub fn locate(&self, key: &str) -> Option<Place> {
        let (root, _) = DeTable::parse_recoverable(&self.text);
        let mut table = Some(root.get_ref());
        let mut span = None;
        for part in key.split('.') {
            let (name, index) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
                Some((name, index)) => (name, index.parse::<usize>().ok()),
                None => (part, None),
            };
            let Some((found, value)) = table.and_then(|table| table.iter().find(|(key, _)| key.get_ref() == name))
            else {
                break;
            };
            let item = index.and_then(|index| value.get_ref().as_array().and_then(|array| array.get(index)));
            span = Some(item.map_or_else(|| found.span(), toml::Spanned::span));
            table = item.map_or(value.get_ref(), toml::Spanned::get_ref).as_table();
        }
        span.map(|span| place(&self.text, span.start, span.end, Show::Line))
    }

    /// A problem with a key that another module found.
    #[must_use]
    pub fn problem(&self, key: &str, message: impl Into<String>, help: Option<String>) -> Problem {
        Problem { place: self.locate(key), key: key.to_owned(), message: message.into(), help }
    }

    /// The problems of this file that another module found.
    #[must_use]
    pub fn errors(&self, problems: Vec<Problem>) -> Errors {
        Errors::new(self.path.to_string_lossy(), problems)
    }

    /// Every key that was looked for, `*` standing for a name of the user's: the file's whole vocabulary, as far as its
    /// tables are in this file.
    pub fn vocabulary(&self) -> impl Iterator<Item = &str> {
        self.asked.iter().map(String::as_str)
    }
}

/// The whole file.
fn config(root: &Section<'_>, purpose: Purpose) -> Config {
    let gateway = sources::gateway(&root.section("gateway"));
    let mqtt_section = root.section("mqtt");
    let serial_section = root.section("serial");
    let mqtt: Vec<_> = mqtt_section.named().into_iter().map(|(name, at)| (sources::mqtt(&name, &at), at)).collect();
    let serial: Vec<_> =
        serial_section.named().into_iter().map(|(name, at)| (sources::serial(&name, &at), at)).collect();
    let modbus_section = root.section("modbus");
    let mbus_section = root.section("mbus");
    let mut buses = Vec::new();
    for (section, protocol) in [(&modbus_section, BusProtocol::Modbus), (&mbus_section, BusProtocol::Mbus)] {
        buses.extend(section.named().into_iter().map(|(name, at)| (sources::bus(protocol, &name, &at), at)));
    }
    sources::between(&mqtt, &serial, &buses);
    if matches!(purpose, Purpose::Replay | Purpose::Outbox) {
        // The rules alone are enough.
    } else if [&mqtt_section, &serial_section, &modbus_section, &mbus_section].iter().all(|section| section.is_empty())
    {
        let message =
            "nothing to collect: expected at least one table [mqtt.NAME], [serial.NAME], [modbus.NAME] or [mbus.NAME]"
                .to_owned();
        let sections = [
            ("mqtt", &mqtt_section),
            ("serial", &serial_section),
            ("modbus", &modbus_section),
            ("mbus", &mbus_section),
        ];
        match sections.into_iter().find(|(key, _)| root.has(key)) {
            Some((_, head)) => head.problem_here(message),
            None => root.cx.note(None, "", message, None),
        }
    }
    let mut rules = rules::rules(root);
    let outbox = sinks::outbox(&root.section("outbox"));
    rules::fit(&mut rules, &outbox, root);
    let kafka = sinks::kafka(&root.section("kafka"), purpose == Purpose::Run);
    root.finish();
    Config {
        gateway,
        mqtt: mqtt.into_iter().map(|(source, _)| source).collect(),
        serial: serial.into_iter().map(|(source, _)| source).collect(),
        buses: buses.into_iter().map(|(source, _)| source).collect(),
        rules,
        outbox,
        kafka,
    }
}

/// The key that stands there twice.
fn duplicate(text: &str, span: std::ops::Range<usize>) -> String {
    super::units::clip(text.get(span).unwrap_or_default().trim_matches(['"', '\'']))
}

fn read(path: &Path) -> Result<String, Problem> {
    let problem = |message: String| Problem { place: None, key: String::new(), message, help: None };
    let bytes = (|| {
        if std::fs::metadata(path)?.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    })();
    let bytes = bytes.map_err(|error| match error.kind() {
        // What a package that was just installed says in its one line.
        std::io::ErrorKind::NotFound => problem(
            "no configuration yet: write one to this path; gateway.example.toml explains every key (in packages: \
             /usr/share/doc/tidegate)"
                .to_owned(),
        ),
        _ => problem(format!("expected a readable configuration file: {error}")),
    })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(problem("expected a configuration file of at most 1 MiB".to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        problem(format!("expected UTF-8, found other bytes on line {line}"))
    })
}
