//! The status socket: whoever connects gets one report and the end of the stream. Only the gateway's own user and root
//! can connect.

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tracing::warn;

use super::report::{Report, Reporter};

/// Longer than any report.
const REPORT_BYTES_MAX: u64 = 16 << 20;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the socket of a data directory is.
#[must_use]
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("status.sock")
}

/// The listening end. Its file goes with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens below `data_dir`, which the caller holds the lock of: a socket that is there is a dead one's.
    ///
    /// # Errors
    /// When the socket cannot be made; the gateway works without.
    pub fn bind(data_dir: &Path) -> io::Result<Self> {
        let path = path(data_dir);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers for ever.
    pub async fn serve(self, reporter: Reporter) {
        loop {
            match self.listener.accept().await {
                Ok((mut stream, _)) => {
                    let text = serde_json::to_vec(&reporter.report()).unwrap_or_default();
                    // One at a time, and a client that does not read does not keep the next one waiting for long.
                    let _ = tokio::time::timeout(TIMEOUT, stream.write_all(&text)).await;
                }
                Err(error) => {
                    warn!("the status socket cannot accept: {error}");
                    tokio::time::sleep(TIMEOUT).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no gateway is running on {path}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is there and may not be asked.
    #[error("{path} may only be asked by the user that the gateway runs as, or root")]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// It answered something else.
    #[error("the gateway's answer cannot be read: {0}")]
    Answer(String),
}

/// Asks the gateway that runs on `data_dir`.
///
/// # Errors
/// When none runs there, or it does not answer in time.
pub fn ask(data_dir: &Path) -> Result<Report, AskError> {
    let path = path(data_dir);
    let stream = UnixStream::connect(&path).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => AskError::Permission { path: path.clone() },
        _ => AskError::Connect { path: path.clone(), source },
    })?;
    let answer = |error: io::Error| AskError::Answer(error.to_string());
    stream.set_read_timeout(Some(TIMEOUT)).map_err(answer)?;
    let mut text = Vec::new();
    stream.take(REPORT_BYTES_MAX).read_to_end(&mut text).map_err(answer)?;
    serde_json::from_slice(&text).map_err(|error| AskError::Answer(error.to_string()))
}
