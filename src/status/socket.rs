//! The status socket: who connects says in one line what it wants, and gets one answer and the end of the stream. `status`
//! is answered with a report, `reload` with what became of it. Only the gateway's own user and root can connect.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as Client;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

use super::configuration::Outcome;
use super::report::{Report, Reporter};

/// Longer than any answer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
const TIMEOUT: Duration = Duration::from_secs(5);
/// A reload waits for sources that acknowledge what they had taken, and perhaps for one before it.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Who says nothing for so long wants a report: `socat` in a shell, and clients of a release that knew nothing else.
const SILENCE: Duration = Duration::from_millis(250);
const REQUEST_BYTES_MAX: u64 = 64;
/// Clients that are answered at the same time; others wait to be accepted.
const CLIENTS_MAX: usize = 8;
const STATUS: &str = "status";
const RELOAD: &str = "reload";

/// Asks the gateway to load its configuration anew; the answer is what became of it.
pub type ReloadRequest = oneshot::Sender<Outcome>;

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

    /// Answers for ever; who wants a reload is sent to `reloads`.
    pub async fn serve(self, reporter: Reporter, reloads: mpsc::Sender<ReloadRequest>) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                    Ok((stream, _)) => {
                        clients.spawn(answer(stream, reporter.clone(), reloads.clone()));
                    }
                    Err(error) => {
                        warn!("the status socket cannot accept: {error}");
                        tokio::time::sleep(TIMEOUT).await;
                    }
                },
                Some(_) = clients.join_next() => {}
            }
        }
    }
}

async fn answer(stream: UnixStream, reporter: Reporter, reloads: mpsc::Sender<ReloadRequest>) {
    let (read, mut write) = stream.into_split();
    let mut request = String::new();
    let mut line = BufReader::new(read.take(REQUEST_BYTES_MAX));
    let said = timeout(SILENCE, line.read_line(&mut request)).await;
    let text = match (said, request.trim()) {
        (Ok(Ok(_)), RELOAD) => {
            let (sender, outcome) = oneshot::channel();
            // While the gateway stops nobody answers, and the client is told so by the end of the stream.
            if reloads.send(sender).await.is_err() {
                return;
            }
            let Ok(outcome) = outcome.await else { return };
            serde_json::to_vec(&outcome)
        }
        (Err(_), _) | (Ok(Ok(_)), "" | STATUS) => serde_json::to_vec(&reporter.report()),
        _ => Ok(b"\"expected `status` or `reload`\"".to_vec()),
    };
    // A client that does not read is not waited for.
    let _ = timeout(TIMEOUT, write.write_all(&text.unwrap_or_default())).await;
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Why there is no answer.
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

/// Asks the gateway that runs on `data_dir` how it is.
///
/// # Errors
/// When none runs there, or it does not answer in time.
pub fn ask(data_dir: &Path) -> Result<Report, AskError> {
    request(data_dir, STATUS, TIMEOUT)
}

/// Has the gateway that runs on `data_dir` load its configuration anew, and waits for what becomes of it.
///
/// # Errors
/// When none runs there, or it does not answer in time. A configuration that is refused is an answer.
pub fn reload(data_dir: &Path) -> Result<Outcome, AskError> {
    request(data_dir, RELOAD, RELOAD_TIMEOUT)
}

fn request<T: DeserializeOwned>(data_dir: &Path, what: &str, limit: Duration) -> Result<T, AskError> {
    let path = path(data_dir);
    let mut stream = Client::connect(&path).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => AskError::Permission { path: path.clone() },
        _ => AskError::Connect { path: path.clone(), source },
    })?;
    let answer = |error: io::Error| AskError::Answer(error.to_string());
    stream.set_read_timeout(Some(limit)).map_err(answer)?;
    // A gateway of a release before this answers without listening: what it says tells more than that it did not.
    let _ = stream.write_all(format!("{what}\n").as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut text = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut text).map_err(answer)?;
    if text.is_empty() {
        return Err(AskError::Answer("it has ended without one".to_owned()));
    }
    serde_json::from_slice(&text).map_err(|error| AskError::Answer(error.to_string()))
}
