//! One exchange after the other on a line: silence, request, answer.
//!
//! Invariants (MODBUS over Serial Line V1.02, 2.5.1; of M-Bus, EN 13757-2, 5.5.5 asks for less than that): a request goes
//! out after at least three and a half characters of silence; whatever is heard before it belongs to nobody and is counted as
//! noise; after a request that was not answered the silence is longer, so that a late answer is not taken for that of the
//! next one. At most [`HEARD_BYTES_MAX`] are held, and nothing waits without a limit.

use std::io;
use std::ops::Range;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{timeout, timeout_at};

use crate::clock;

/// Above this speed the silence is fixed (2.5.1.1).
const FIXED_ABOVE_BAUD: u32 = 19_200;
const FIXED_SILENCE: Duration = Duration::from_micros(1_750);
/// The silence after a request that was not answered.
const SETTLE: Duration = Duration::from_millis(100);
/// A line that is never silent is not waited for longer than this.
const NEVER_SILENT: Duration = Duration::from_millis(500);
/// What is heard after a request, noise and an echo included; a frame has 261 bytes at most.
const HEARD_BYTES_MAX: usize = 4_096;
/// An answer that has begun and is silent for so long, or for so many characters if that is longer, does not come any more:
/// adapters hand over in pieces what they hear.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_CHARACTERS: u32 = 33;
/// Handing a short request to the kernel takes no longer, unless the line is stuck.
const WRITE_MAX: Duration = Duration::from_secs(2);

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome<T> {
    Answer(T),
    /// Nothing was heard in time.
    Silent,
    /// Something was, but no answer that is whole and right.
    Damaged,
}

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Patience {
    /// From the moment on at which the request is on the wire.
    pub(super) first: Duration,
    /// One that has begun may take as much longer as so many characters do.
    pub(super) more: u32,
}

/// A line that is open.
#[derive(Debug)]
pub(super) struct Bus<S> {
    stream: S,
    /// How long a character takes.
    character: Duration,
    silence: Duration,
    /// When the last byte was heard or sent.
    last: std::time::Instant,
    /// Whether an answer may still be under way.
    unsettled: bool,
    heard: Vec<u8>,
    noise: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Bus<S> {
    /// `character_bits` are those of a character with start, parity and stop bits; `pause` is the least silence.
    pub(super) fn new(stream: S, baud: u32, character_bits: u32, pause: Duration) -> Self {
        let character = Duration::from_secs(1) * character_bits / baud.max(1);
        let silence = if baud > FIXED_ABOVE_BAUD { FIXED_SILENCE } else { character.mul_f64(3.5) };
        // What is under way when a line is opened is not for us: unsettled.
        Self {
            stream,
            character,
            silence: silence.max(pause),
            last: clock::instant(),
            unsettled: true,
            heard: Vec::new(),
            noise: 0,
        }
    }

    /// The bytes that belonged to no answer since this was last asked.
    pub(super) fn take_noise(&mut self) -> u64 {
        std::mem::take(&mut self.noise)
    }

    /// Sends a request and waits for its answer, which `find` looks for in what was heard, and tells where it is.
    ///
    /// # Errors
    /// When the port is gone.
    pub(super) async fn exchange<T>(
        &mut self,
        request: &[u8],
        patience: Patience,
        find: impl Fn(&[u8]) -> Option<(T, Range<usize>)>,
    ) -> io::Result<Outcome<T>> {
        self.wait_for_silence().await?;
        match timeout(WRITE_MAX, self.stream.write_all(request)).await {
            Ok(written) => written?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the port takes no bytes")),
        }
        let sent = clock::instant() + self.character * request.len() as u32;
        self.last = sent;
        self.unsettled = true;
        self.heard.clear();
        let begun = sent + patience.first;
        let limit = begun + self.character * patience.more;
        let pause = PAUSE.max(self.character * PAUSE_CHARACTERS);
        let mut deadline = begun;
        let mut buffer = [0; 512];
        loop {
            let length = match timeout_at(deadline.into(), self.stream.read(&mut buffer)).await {
                Err(_) => break,
                Ok(read) => heard(read?)?,
            };
            self.last = clock::instant();
            deadline = (self.last + pause).max(begun).min(limit);
            self.heard.extend_from_slice(&buffer[..length]);
            if let Some((answer, place)) = find(&self.heard) {
                // The echo of the request is no noise, but that it is one can only be guessed.
                self.noise += (self.heard.len() - place.len()) as u64;
                self.unsettled = false;
                return Ok(Outcome::Answer(answer));
            }
            if self.heard.len() >= HEARD_BYTES_MAX {
                break;
            }
        }
        self.noise += self.heard.len() as u64;
        // The silence in which a late answer may come begins here, not with the request.
        self.last = clock::instant();
        Ok(if self.heard.is_empty() { Outcome::Silent } else { Outcome::Damaged })
    }

    /// After a request that was answered at a second try the answer to the first may still come.
    pub(super) fn unsettle(&mut self) {
        self.unsettled = true;
    }

    /// Waits, and listens, because only who reads a port sees that it was pulled.
    pub(super) async fn idle(&mut self, wait: Duration) -> io::Result<()> {
        let until = (clock::instant() + wait).into();
        let mut buffer = [0; 512];
        while let Ok(read) = timeout_at(until, self.stream.read(&mut buffer)).await {
            self.noise += heard(read?)? as u64;
            self.last = clock::instant();
        }
        Ok(())
    }

    async fn wait_for_silence(&mut self) -> io::Result<()> {
        let silence = if self.unsettled { self.silence.max(SETTLE) } else { self.silence };
        let limit = clock::instant() + NEVER_SILENT.max(silence * 2);
        let mut buffer = [0; 512];
        loop {
            // Also where no time is left: what the kernel holds is read first.
            let left = (self.last + silence).saturating_duration_since(clock::instant());
            match timeout(left, self.stream.read(&mut buffer)).await {
                Err(_) => return Ok(()),
                Ok(read) => {
                    self.noise += heard(read?)? as u64;
                    self.last = clock::instant();
                }
            }
            if self.last > limit {
                return Ok(());
            }
        }
    }
}

/// No bytes mean that the adapter was pulled.
fn heard(length: usize) -> io::Result<usize> {
    if length == 0 { Err(io::Error::new(io::ErrorKind::UnexpectedEof, "unplugged")) } else { Ok(length) }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const REQUEST: [u8; 8] = [0x01, 0x04, 0x00, 0x00, 0x00, 0x02, 0x71, 0xcb];
    const ANSWER: [u8; 9] = [0x01, 0x04, 0x04, 0x43, 0x66, 0x33, 0x34, 0x1b, 0x38];
    const PATIENCE: Patience = Patience { first: Duration::from_secs(1), more: 0 };

    /// The only answer that counts.
    fn find(heard: &[u8]) -> Option<((), Range<usize>)> {
        let start = heard.windows(ANSWER.len()).position(|bytes| bytes == ANSWER)?;
        Some(((), start..start + ANSWER.len()))
    }

    fn bus() -> (Bus<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(8 * 1024);
        (Bus::new(ours, 9_600, 10, Duration::ZERO), theirs)
    }

    async fn request(device: &mut DuplexStream) {
        let mut request = [0; 8];
        device.read_exact(&mut request).await.unwrap();
        assert_eq!(request[..2], [1, 4]);
    }

    #[test]
    fn the_silence_is_three_and_a_half_characters() {
        let silence = |baud, bits| Bus::new(tokio::io::empty(), baud, bits, Duration::ZERO).silence;
        assert_eq!(silence(9_600, 11).as_micros(), 4_010);
        assert_eq!(silence(2_400, 10).as_micros(), 14_583);
        assert_eq!(silence(115_200, 10), FIXED_SILENCE);
        assert_eq!(Bus::new(tokio::io::empty(), 9_600, 10, Duration::from_millis(50)).silence.as_millis(), 50);
    }

    #[tokio::test]
    async fn an_answer_is_found_in_pieces_behind_an_echo_and_noise() {
        let (mut bus, mut device) = bus();
        let answer = async {
            request(&mut device).await;
            device.write_all(&[0x01, 0x04, 0x00, 0x00, 0x00, 0x02, 0x71, 0xcb, 0xff]).await.unwrap();
            for byte in ANSWER {
                device.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (outcome, ()) = tokio::join!(bus.exchange(&REQUEST, PATIENCE, find), answer);
        assert_eq!(outcome.unwrap(), Outcome::Answer(()));
        assert_eq!(bus.take_noise(), 9);
    }

    #[tokio::test]
    async fn noise_before_a_request_is_passed_over_until_the_line_is_silent() {
        let (mut bus, mut device) = bus();
        let begun = clock::instant();
        let talk = async {
            for _ in 0..20 {
                device.write_all(&ANSWER).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let silent_since = clock::instant();
            request(&mut device).await;
            assert!(silent_since.elapsed() > SETTLE / 2, "{:?}", silent_since.elapsed());
            device.write_all(&ANSWER).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(bus.exchange(&REQUEST, PATIENCE, find), talk);
        assert_eq!(outcome.unwrap(), Outcome::Answer(()));
        assert_eq!(bus.take_noise(), 20 * 9);
        assert!(begun.elapsed() > Duration::from_millis(200));
    }

    #[tokio::test]
    async fn a_late_answer_is_not_that_of_the_next_request() {
        let (mut bus, mut device) = bus();
        let (outcome, ()) = tokio::join!(bus.exchange(&REQUEST, PATIENCE, find), request(&mut device));
        assert_eq!(outcome.unwrap(), Outcome::Silent);
        let late = async {
            tokio::time::sleep(SETTLE / 4).await;
            // The same head and a right checksum: only the time tells that it is not for the next one.
            device.write_all(&[0x01, 0x04, 0x04, 0x00, 0x00, 0x00, 0x00, 0xfb, 0x84]).await.unwrap();
            request(&mut device).await;
            device.write_all(&ANSWER).await.unwrap();
        };
        // The device first: on a machine that has no time both may be due at once.
        let ((), outcome) = tokio::join!(late, bus.exchange(&REQUEST, PATIENCE, find));
        assert_eq!(outcome.unwrap(), Outcome::Answer(()));
        assert_eq!(bus.take_noise(), 9);
    }

    #[tokio::test]
    async fn a_wrong_checksum_is_damage_and_a_babbling_line_costs_a_bounded_time() {
        let (mut bus, mut device) = bus();
        let wrong = async {
            request(&mut device).await;
            device.write_all(&[0x01, 0x04, 0x04, 0x43, 0x66, 0x33, 0x34, 0x1b, 0x39]).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(bus.exchange(&REQUEST, PATIENCE, find), wrong);
        assert_eq!(outcome.unwrap(), Outcome::Damaged);
        assert_eq!(bus.take_noise(), 9);
        let babble = async {
            loop {
                if device.write_all(&[0x55; 64]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let begun = clock::instant();
        let outcome = tokio::select! {
            outcome = bus.exchange(&REQUEST, PATIENCE, find) => outcome.unwrap(),
            () = babble => unreachable!("the bus is there"),
        };
        assert_eq!(outcome, Outcome::Damaged);
        assert!(begun.elapsed() < Duration::from_secs(5) && bus.heard.len() < HEARD_BYTES_MAX + 512);
    }

    #[tokio::test]
    async fn an_answer_that_has_begun_may_take_longer_but_not_for_ever() {
        let (mut bus, mut device) = bus();
        let patience = Patience { first: Duration::from_millis(20), more: 10_000 };
        let slow = async {
            request(&mut device).await;
            for piece in ANSWER.chunks(3) {
                device.write_all(piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        };
        let (outcome, ()) = tokio::join!(bus.exchange(&REQUEST, patience, find), slow);
        assert_eq!(outcome.unwrap(), Outcome::Answer(()));
        let half = async {
            request(&mut device).await;
            device.write_all(&ANSWER[..5]).await.unwrap();
        };
        // The pause ends it, long before ten thousand characters have passed.
        let (outcome, ()) = tokio::join!(bus.exchange(&REQUEST, patience, find), half);
        assert_eq!(outcome.unwrap(), Outcome::Damaged);
    }

    #[tokio::test]
    async fn a_port_that_was_pulled_is_an_error() {
        let (mut bus, device) = bus();
        drop(device);
        assert!(bus.exchange(&REQUEST, PATIENCE, find).await.is_err());
    }
}
