//! `tidegate check`: says whether a configuration is fit to run, without touching a port, the network or the data
//! directory.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::config::{Errors, Loaded};
use crate::profile::Board;
use crate::setup::Setup;

/// The exit code for a configuration that is wrong.
const WRONG: u8 = 2;

/// Checks `path` and the profiles that it uses; with `print` it also shows the configuration as it will be used. Ends with 0 if
/// all is well, with 2 if not, with 1 if the outcome could not be written. What does not fit the board is a warning: it runs.
pub fn run(path: &Path, print: bool, board: Option<&str>) -> ExitCode {
    let board = match board.map(Board::find).transpose() {
        Ok(board) => board,
        Err(error) => return super::fail(&format!("--board: {error}")),
    };
    let check = |path: &Path| {
        let loaded = Setup::check(path).map(|setup| setup.loaded)?;
        for line in board.iter().flat_map(|board| board.misfits(&loaded.config)) {
            // Nobody is left to tell when this fails.
            let _ = writeln!(std::io::stderr(), "warning: {line}");
        }
        Ok(loaded)
    };
    report(path, print, check, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())
}

/// The same by any `check`, written to where a test can read it.
pub fn report(
    path: &Path,
    print: bool,
    check: impl FnOnce(&Path) -> Result<Loaded, Errors>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> ExitCode {
    let checked = check(path);
    let (code, written) = match checked {
        Ok(loaded) if print => (ExitCode::SUCCESS, write!(out, "{}", loaded.print()).and_then(|()| out.flush())),
        Ok(_) => (ExitCode::SUCCESS, writeln!(out, "{}: all is well", path.display()).and_then(|()| out.flush())),
        Err(errors) => (ExitCode::from(WRONG), writeln!(err, "{errors}")),
    };
    match written {
        // Whoever closed the pipe (`check --print | head`) has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => code,
    }
}
