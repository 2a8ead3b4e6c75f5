//! Frames out of a stream of bytes. Pure: no clock, no I/O; what knows the time says that it was silent ([`Framer::idle`]).
//!
//! Invariants: how the stream is split into reads never changes what comes out; never more than the framing's maximum is
//! held; every byte ends up in a frame, in one that is reported as too long or as damaged, or counted as noise.
//!
//! Three machines do all framings. [`pieces`] cuts at a delimiter (lines, SLIP, HDLC, COBS). [`scanner`] looks at the front of what
//! it holds, finds a frame there or goes on by one byte (fixed length, length field, markers, SML). [`silence`] waits.
//!
//! What is found again after noise:
//!
//! | framing | promise |
//! |---|---|
//! | start marker and checksum; SML | every whole frame: after a false start the search goes on one byte behind it |
//! | checksum alone (fixed, length) | every whole frame, since each byte may begin one; a false one passes as often as its checksum is weak |
//! | start marker alone | every whole frame behind which no false start reaches; between markers a second start begins anew |
//! | delimiter, SLIP, HDLC, COBS, end marker alone | every whole frame but the one that the noise runs into |
//! | nothing of these (fixed, length), idle gap | every frame after the next silence |
//!
//! A false start delays the frames behind it until as many bytes have come as it seemed to announce.

mod checksum;
mod escaped;
mod pieces;
mod scanner;
mod silence;
mod sml;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use checksum::{CHECKSUMS, checksum_kind};

use crate::profile::framing::{Framing, FramingKind};
use crate::reading::ChecksumMismatch;
use checksum::Judge;
use pieces::{Coding, Pieces};
use scanner::Scanner;
use silence::Silence;

/// What the framing found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// What is to be decoded of a whole frame.
    Frame(&'a [u8]),
    /// The beginning of a frame that is longer than the maximum.
    TooLong(&'a [u8]),
    /// A frame as it came, and what is wrong with its checksum.
    BadChecksum(&'a [u8], ChecksumMismatch),
}

/// The state of one stream between two reads.
#[derive(Debug)]
pub struct Framer {
    machine: Machine,
    gap: Option<Duration>,
    /// Something came since the last silence.
    stirred: bool,
}

#[derive(Debug)]
enum Machine {
    Pieces(Pieces),
    Scanner(Scanner),
    Silence(Silence),
}

impl Framer {
    /// For one stream, from its first byte on.
    #[must_use]
    pub fn new(framing: &Framing) -> Self {
        let judge = Judge::new(framing.checksum.as_ref(), framing.payload);
        let max = framing.bytes_max;
        let machine = match &framing.kind {
            FramingKind::Delimiter(delimiter) => Machine::Pieces(Pieces::new(Coding::Line, delimiter, max, judge)),
            FramingKind::Slip => Machine::Pieces(Pieces::new(Coding::Slip, &[pieces::SLIP_END], max, judge)),
            FramingKind::Hdlc => Machine::Pieces(Pieces::new(Coding::Hdlc, &[pieces::HDLC_FLAG], max, judge)),
            FramingKind::Cobs => Machine::Pieces(Pieces::new(Coding::Cobs, &[0], max, judge)),
            FramingKind::Idle => Machine::Silence(Silence::new(max, judge)),
            FramingKind::Fixed { .. } | FramingKind::Length { .. } | FramingKind::Markers { .. } | FramingKind::Sml => {
                Machine::Scanner(Scanner::new(&framing.kind, max, judge))
            }
        };
        Self { machine, gap: framing.gap, stirred: false }
    }

    /// The stream was under way when it was opened: what comes first may be a piece of a frame, and is no fault then. To be
    /// called before the first [`Framer::push`].
    pub fn join(&mut self) {
        match &mut self.machine {
            Machine::Pieces(pieces) => pieces.join(),
            Machine::Scanner(scanner) => scanner.join(),
            Machine::Silence(silence) => silence.join(),
        }
    }

    /// Takes what one read gave, and tells what was found.
    pub fn push(&mut self, bytes: &[u8], mut found: impl FnMut(Found<'_>)) {
        self.stirred |= !bytes.is_empty();
        match &mut self.machine {
            Machine::Pieces(pieces) => pieces.push(bytes, &mut found),
            Machine::Scanner(scanner) => scanner.push(bytes, &mut found),
            Machine::Silence(silence) => silence.push(bytes, &mut found),
        }
    }

    /// After so much silence [`Framer::idle`] is to be called; `None` if silence says nothing now.
    #[must_use]
    pub fn idle_after(&self) -> Option<Duration> {
        self.gap.filter(|_| self.stirred)
    }

    /// It was silent for that long: what was begun ends here, and the next byte begins a frame.
    pub fn idle(&mut self, mut found: impl FnMut(Found<'_>)) {
        self.stirred = false;
        match &mut self.machine {
            Machine::Pieces(_) => {}
            Machine::Scanner(scanner) => scanner.idle(&mut found),
            Machine::Silence(silence) => silence.idle(&mut found),
        }
    }

    /// The stream has ended: a frame that was begun will not be whole.
    pub fn end(&mut self) {
        self.stirred = false;
        match &mut self.machine {
            Machine::Pieces(pieces) => pieces.end(),
            Machine::Scanner(scanner) => scanner.end(),
            Machine::Silence(silence) => silence.end(),
        }
    }

    /// All that is found in some reads of a device that is known and was silent before and afterwards: a sample, or what a
    /// person has written down. Lines need not have their last delimiter.
    pub fn read_all(framing: &Framing, reads: &[&[u8]], mut found: impl FnMut(Found<'_>)) {
        let mut framer = Self::new(framing);
        if let Machine::Pieces(pieces) = &mut framer.machine {
            pieces.trust();
        }
        reads.iter().for_each(|read| framer.push(read, &mut found));
        if let FramingKind::Delimiter(delimiter) = &framing.kind
            && framer.held() > 0
        {
            framer.push(delimiter, &mut found);
        }
        if framer.idle_after().is_some() {
            framer.idle(&mut found);
        }
    }

    /// Bytes skipped since the last call.
    pub fn take_noise(&mut self) -> u64 {
        std::mem::take(match &mut self.machine {
            Machine::Pieces(pieces) => &mut pieces.noise,
            Machine::Scanner(scanner) => &mut scanner.noise,
            Machine::Silence(silence) => &mut silence.noise,
        })
    }

    /// Bytes held until the rest of their frame comes.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.machine {
            Machine::Pieces(pieces) => pieces.held(),
            Machine::Scanner(scanner) => scanner.held(),
            Machine::Silence(silence) => silence.held(),
        }
    }
}
