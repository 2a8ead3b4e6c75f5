//! A configuration together with the profiles that it uses, found fit to run as a whole: what `run`, `check` and a reload
//! share, so that all three find the same and say it in the same words.
//!
//! [`kept`] is the one that ran last, in the data directory: a start with a file that is not fit to run goes on with that.

pub mod kept;

use std::path::{Path, PathBuf};

use crate::config::{Config, Errors, Loaded, Problem, Purpose};
use crate::decode::Decoder;
use crate::profile::{ProfileError, ProfileSet};

/// A configuration that is fit to run, and its profiles.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The configuration, and the file that it came from.
    pub loaded: Loaded,
    /// All profiles that it can use; those that it does use are fit for it.
    pub profiles: ProfileSet,
}

impl Setup {
    /// Loads a file and its profiles to start with. Profiles that are broken and not used are left out, and given.
    ///
    /// # Errors
    /// All that is wrong with what is used.
    pub fn load(path: &Path, purpose: Purpose) -> Result<(Self, Vec<ProfileError>), Errors> {
        let loaded = Loaded::load(path, purpose)?;
        let (profiles, left_out) = ProfileSet::load(&loaded.config.gateway.profiles_dir);
        let setup = Self { loaded, profiles };
        match setup.problems() {
            problems if problems.is_empty() => Ok((setup, left_out)),
            problems => Err(setup.loaded.errors(problems)),
        }
    }

    /// Loads a file and its profiles, and takes all of it or nothing.
    ///
    /// # Errors
    /// All that is wrong, profiles that are broken and not used included.
    pub fn check(path: &Path) -> Result<Self, Errors> {
        Self::check_loaded(Loaded::load(path, Purpose::Run)?)
    }

    /// The same of a file that is loaded.
    ///
    /// # Errors
    /// As [`Setup::check`].
    pub fn check_loaded(loaded: Loaded) -> Result<Self, Errors> {
        let (profiles, left_out) = ProfileSet::load(&loaded.config.gateway.profiles_dir);
        let setup = Self { loaded, profiles };
        let mut problems = setup.problems();
        problems.extend(left_out.iter().map(|error| {
            let help = "the gateway runs without this profile; mend it or take it out of profiles_dir".to_owned();
            setup.loaded.problem("gateway.profiles_dir", error.to_string(), Some(help))
        }));
        if problems.is_empty() { Ok(setup) } else { Err(setup.loaded.errors(problems)) }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.loaded.config
    }

    /// The ids of the profiles that it uses.
    fn used(&self) -> impl Iterator<Item = &str> {
        let config = self.config();
        let mqtt = config.mqtt.iter().flat_map(|mqtt| &mqtt.profiles).map(|used| used.id.as_str());
        let buses = config.buses.iter().flat_map(|bus| &bus.units).map(|unit| unit.profile.as_str());
        mqtt.chain(config.serial.iter().map(|serial| serial.profile.as_str())).chain(buses)
    }

    /// What is wrong with the profiles that it uses.
    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for mqtt in &self.config().mqtt {
            if let Err(error) = Decoder::for_mqtt(mqtt, &self.profiles) {
                problems.push(self.loaded.problem(&format!("{}.profiles", mqtt.name), error.to_string(), None));
            }
        }
        for serial in &self.config().serial {
            if let Err(error) = Decoder::for_serial(serial, &self.profiles) {
                problems.push(self.loaded.problem(&format!("{}.profile", serial.name), error.to_string(), None));
            }
        }
        for bus in &self.config().buses {
            if let Err(error) = Decoder::for_bus(bus, &self.profiles) {
                problems.push(self.loaded.problem(&format!("{}.unit", bus.name), error.to_string(), None));
            } else if let Err(error) = self.profiles.resolve_bus(bus) {
                problems.push(self.loaded.problem(&format!("{}.{}", bus.name, error.key), error.to_string(), None));
            }
        }
        problems
    }
}

/// Where the data directory of a configuration is that is perhaps not fit to run: what its file says as far as it can still
/// be read, then what a service is given by systemd, then the default. The first one is the likeliest.
#[must_use]
pub fn data_dirs(path: &Path) -> Vec<PathBuf> {
    let given = std::env::var("STATE_DIRECTORY").ok();
    let given = given.as_deref().and_then(|list| list.split(':').next()).filter(|first| !first.is_empty());
    let mut dirs: Vec<PathBuf> = Loaded::data_dir(path).into_iter().collect();
    dirs.extend(given.map(PathBuf::from));
    dirs.push(PathBuf::from(crate::config::DATA_DIR));
    dirs
}
