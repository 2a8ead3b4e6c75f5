//! The configuration that ran last, kept in the data directory with the profiles that it uses from `profiles_dir`: one file,
//! replaced atomically, for nobody else to read.
//!
//! It is the file's own text: secrets do not stand in it, and what is named by `${NAME}`, by a credential or by a
//! certificate's path is looked up when it is used. So a kept configuration can be unfit too, and is checked like any other.
//!
//! Invariant: only what ran is kept, and it is used only for the file that it was kept of, in the data directory that it
//! names: several gateways on one board never start with each other's.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Setup, data_dirs};
use crate::config::{Errors, Loaded, Purpose};
use crate::outbox;
use crate::profile::ProfileSet;

const NAME: &str = "CONFIG";
/// One with another number is not read.
const VERSION: u32 = 1;
/// A configuration and as many profiles as it can use are far below this.
const BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Deserialize, Serialize, PartialEq, Eq)]
struct Kept {
    version: u32,
    /// The file that it was read from: relative paths in it begin there.
    path: String,
    text: String,
    /// Files of profiles by id; built-in ones are in the program.
    profiles: BTreeMap<String, String>,
}

/// What a start goes on with instead of a file that is not fit to run.
#[derive(Debug)]
pub struct Fallback {
    /// The kept configuration.
    pub setup: Setup,
    /// Where it was kept.
    pub file: PathBuf,
}

/// Why there is no fallback.
#[derive(Debug, thiserror::Error)]
pub enum FallbackError {
    /// Nothing was kept.
    #[error("no configuration was kept that ran before (looked for {})", .looked.join(", "))]
    Nothing {
        /// Where it could have been.
        looked: Vec<String>,
    },
    /// It was kept, and is not fit to run any more.
    #[error("the configuration that ran last ({}) cannot be used either: {errors}", file.display())]
    Unfit {
        /// Where it was kept.
        file: PathBuf,
        /// What is wrong with it.
        errors: Errors,
    },
}

/// Keeps a configuration that runs. Writes nothing if it is there already.
///
/// # Errors
/// When the disk refuses; what was kept before stays then.
pub fn keep(setup: &Setup) -> io::Result<()> {
    let profiles = setup.used().filter_map(|id| Some((id.to_owned(), setup.profiles.text(id)?.to_string()))).collect();
    let kept =
        Kept { version: VERSION, path: name(setup.loaded.path()), text: setup.loaded.text().to_owned(), profiles };
    let data_dir = &setup.config().gateway.data_dir;
    if read(data_dir).is_some_and(|there| there == kept) {
        return Ok(());
    }
    let bytes = serde_json::to_vec_pretty(&kept).map_err(io::Error::other)?;
    outbox::replace(data_dir, NAME, &bytes)
}

/// What was kept of the file at `path`.
///
/// # Errors
/// When there is nothing, or it is not fit to run.
pub fn fallback(path: &Path) -> Result<Fallback, FallbackError> {
    let dirs = data_dirs(path);
    let found = dirs.iter().find_map(|dir| Some((dir.join(NAME), read(dir).filter(|kept| kept.path == name(path))?)));
    let Some((file, kept)) = found else {
        return Err(FallbackError::Nothing {
            looked: dirs.iter().map(|dir| dir.join(NAME).display().to_string()).collect(),
        });
    };
    let dir = file.parent().unwrap_or(Path::new("/")).to_owned();
    match restore(path, &kept) {
        // It belongs to another gateway, which has its data there.
        Ok(setup) if std::path::absolute(&setup.config().gateway.data_dir).ok() != std::path::absolute(&dir).ok() => {
            Err(FallbackError::Nothing { looked: vec![file.display().to_string()] })
        }
        Ok(setup) => Ok(Fallback { setup, file }),
        Err(errors) => Err(FallbackError::Unfit { file, errors }),
    }
}

fn restore(path: &Path, kept: &Kept) -> Result<Setup, Errors> {
    let loaded = Loaded::parse(&kept.text, path, Purpose::Run, &|name| std::env::var(name).ok())?;
    let mut profiles = ProfileSet::builtin();
    let mut problems = Vec::new();
    for (id, text) in &kept.profiles {
        if let Err(error) = profiles.insert_text(Path::new(id), text) {
            problems.push(loaded.problem("gateway.profiles_dir", error.to_string(), None));
        }
    }
    let setup = Setup { loaded, profiles };
    problems.extend(setup.problems());
    if problems.is_empty() { Ok(setup) } else { Err(setup.loaded.errors(problems)) }
}

/// What is kept there, if it can be read; if not it is as good as nothing, since it is only a second choice.
fn read(data_dir: &Path) -> Option<Kept> {
    let mut bytes = Vec::new();
    std::fs::File::open(data_dir.join(NAME)).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok().filter(|kept: &Kept| kept.version == VERSION)
}

/// A file's name for comparing, wherever the gateway is started.
fn name(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
