//! `tidegate reload`: has the running gateway load its configuration anew, and says what became of it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::fail;
use crate::status::socket;

/// The exit code for a configuration that was refused.
const REFUSED: u8 = 2;

/// Asks the gateway on `data_dir`, or on that of the configuration. 0 if the new configuration is in use, 2 if it was refused,
/// 1 if no gateway answered.
#[must_use]
pub fn run(config: &Path, data_dir: Option<PathBuf>) -> ExitCode {
    let Some(data_dir) = super::data_dir(config, data_dir) else {
        return fail(&format!("{} does not exist (with --data-dir it is not needed)", config.display()));
    };
    let outcome = match socket::reload(&data_dir) {
        Ok(outcome) => outcome,
        Err(error) => {
            fail(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    if !outcome.applied {
        // The reasons in the words of `check`; what follows says what it means for the gateway.
        let _ = writeln!(std::io::stderr(), "{}", outcome.detail);
        fail("the configuration is refused, the gateway goes on with the one before");
        return ExitCode::from(REFUSED);
    }
    let _ = writeln!(std::io::stdout(), "reloaded: {}", outcome.detail);
    ExitCode::SUCCESS
}
