//! Commands that make temporary files do not leave them behind when somebody loses patience.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// As a process that SIGINT killed.
const INTERRUPTED: i32 = 130;

/// At SIGINT or SIGTERM calls `clean` and ends the process.
pub(super) fn clean_up(clean: impl FnOnce() + Send + 'static) {
    let wait = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            clean();
            std::process::exit(INTERRUPTED);
        })
    };
    // Without this thread something small may stay behind.
    drop(std::thread::Builder::new().name("signals".to_owned()).spawn(move || -> io::Result<()> { wait() }));
}
