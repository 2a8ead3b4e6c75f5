//! Frames that end when the line falls silent.

use super::Found;
use super::checksum::Judge;

/// The state between two reads.
#[derive(Debug)]
pub(super) struct Silence {
    judge: Judge,
    bytes_max: usize,
    buffer: Vec<u8>,
    /// Until the next silence everything is noise.
    skipping: bool,
    /// What comes before the first silence may be a piece of a frame.
    joining: bool,
    pub(super) noise: u64,
}

impl Silence {
    pub(super) fn new(bytes_max: usize, judge: Judge) -> Self {
        Self { judge, bytes_max: bytes_max.max(1), buffer: Vec::new(), skipping: false, joining: false, noise: 0 }
    }

    pub(super) fn join(&mut self) {
        self.joining = true;
    }

    pub(super) fn push(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Found<'_>)) {
        if !self.skipping {
            let (piece, rest) = bytes.split_at(bytes.len().min(self.bytes_max - self.buffer.len()));
            self.buffer.extend_from_slice(piece);
            bytes = rest;
            if bytes.is_empty() {
                return;
            }
            if self.joining {
                self.noise += self.buffer.len() as u64;
            } else {
                found(Found::TooLong(&self.buffer));
            }
            self.buffer.clear();
            self.skipping = true;
        }
        self.noise += bytes.len() as u64;
    }

    pub(super) fn idle(&mut self, found: &mut impl FnMut(Found<'_>)) {
        if !self.skipping && !self.buffer.is_empty() {
            let judged = self.judge.judge(&self.buffer);
            match judged {
                Ok(payload) if !self.joining || self.judge.checks() => found(Found::Frame(payload)),
                Err(mismatch) if !self.joining => found(Found::BadChecksum(&self.buffer, mismatch)),
                Ok(_) | Err(_) => self.noise += self.buffer.len() as u64,
            }
        }
        self.buffer.clear();
        self.skipping = false;
        self.joining = false;
    }

    pub(super) fn end(&mut self) {
        self.noise += self.buffer.len() as u64;
        self.buffer.clear();
        self.skipping = false;
        self.joining = false;
    }

    pub(super) fn held(&self) -> usize {
        self.buffer.len()
    }
}
