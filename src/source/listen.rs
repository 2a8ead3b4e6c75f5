//! Listening to a serial port for a person: what comes, as it comes.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::poll::{Asker, Turn};
use super::port::{self, Line, Port};
use super::serial::stopped;
use crate::clock;
use crate::config::Serial;
use crate::profile::Poll;

/// So much silence ends what is shown as one piece.
pub const SILENCE: Duration = Duration::from_millis(50);
/// A longer piece is shown in parts, in bytes.
const PIECE_BYTES_MAX: usize = 4_096;
/// Handing a request to the kernel takes no longer, unless the line is stuck.
const WRITE_MAX: Duration = Duration::from_secs(2);

/// What came between two silences, or a part of it.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// How long it was silent before.
    pub pause: Duration,
    /// Whether silence follows; else it goes on with the next piece.
    pub ended: bool,
}

/// A port that is open.
#[derive(Debug)]
pub struct Listener(Port);

/// Opens the port with these settings of the line.
///
/// # Errors
/// Why it cannot be opened.
pub fn open(settings: &Serial) -> Result<Listener, String> {
    let Serial { baud, data_bits, parity, stop_bits, .. } = *settings;
    let port = port::open(&settings.port, Line { baud, data_bits, parity, stop_bits })?;
    port::warn_if_shared(&settings.name, &settings.port);
    Ok(Listener(port))
}

/// Hands what the port gives to `hear`, until `stop` says so or its sender is gone. The device is asked what `poll` says,
/// if anything.
///
/// # Errors
/// When the port is gone or cannot be read or written, and why.
pub async fn listen(
    Listener(mut port): Listener,
    poll: Option<Poll>,
    mut hear: impl FnMut(Piece<'_>),
    mut stop: watch::Receiver<bool>,
) -> Result<(), String> {
    let mut asker = poll.map(|poll| Asker::new(poll, clock::monotonic()));
    let mut piece = Vec::with_capacity(PIECE_BYTES_MAX);
    let mut buffer = vec![0; PIECE_BYTES_MAX];
    let (mut last, mut pause) = (clock::instant(), Duration::ZERO);
    loop {
        let due = asker.as_ref().map_or(Duration::MAX, |asker| asker.wait(clock::monotonic()));
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return Ok(()),
            read = port.read(&mut buffer) => {
                let length = match read {
                    Ok(0) => return Err("unplugged".to_owned()),
                    Ok(length) => length,
                    Err(error) => return Err(format!("cannot be read: {error}")),
                };
                let now = clock::instant();
                if piece.is_empty() {
                    pause = now.saturating_duration_since(last);
                }
                last = now;
                piece.extend_from_slice(&buffer[..length]);
                if piece.len() >= PIECE_BYTES_MAX {
                    hear(Piece { bytes: &piece, pause, ended: false });
                    piece.clear();
                    pause = Duration::ZERO;
                }
            }
            () = tokio::time::sleep(SILENCE), if !piece.is_empty() => {
                hear(Piece { bytes: &piece, pause, ended: true });
                piece.clear();
            }
            () = tokio::time::sleep(due), if asker.is_some() => {
                let Some(asker) = &mut asker else { continue };
                if asker.turn(clock::monotonic()) == Some(Turn::Ask) {
                    match timeout(WRITE_MAX, port.write_all(asker.request())).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return Err(format!("cannot be written: {error}")),
                        Err(_) => return Err("takes no bytes".to_owned()),
                    }
                }
            }
        }
    }
}
