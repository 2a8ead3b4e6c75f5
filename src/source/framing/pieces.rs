//! Frames that end with a delimiter: lines, SLIP (RFC 1055), the byte stuffing of HDLC (RFC 1662), COBS.
//!
//! What comes before the first line of readable text after opening is noise (another line speed, a boot loader), not a dead
//! letter; a line with a checksum need not be text. A stream that is joined in its middle begins with a piece of a line, and a
//! piece of a line of numbers reads as other numbers: so it is skipped, unless it begins as a JSON text does, or has a
//! checksum to prove that it is whole.

use super::Found;
use super::checksum::Judge;

/// Ends a SLIP frame, and may begin one.
pub(super) const SLIP_END: u8 = 0xc0;
const SLIP_ESC: u8 = 0xdb;
const SLIP_ESC_END: u8 = 0xdc;
const SLIP_ESC_ESC: u8 = 0xdd;

/// Ends a frame of HDLC, and may begin one.
pub(super) const HDLC_FLAG: u8 = 0x7e;
const HDLC_ESC: u8 = 0x7d;
/// What turns the byte behind an escape into what it stands for.
const HDLC_BIT: u8 = 0x20;

/// How bytes are written so that none of them is the delimiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// They are lines: there is no such byte in them.
    Line,
    Slip,
    Hdlc,
    Cobs,
}

/// The state between two reads.
#[derive(Debug)]
pub(super) struct Pieces {
    coding: Coding,
    delimiter: Vec<u8>,
    bytes_max: usize,
    judge: Judge,
    buffer: Vec<u8>,
    /// What was written so that the delimiter is not in it, as it was before.
    decoded: Vec<u8>,
    /// Until the next delimiter everything is noise.
    skipping: bool,
    /// The first delimiter has not come yet, and the stream was under way when it was opened.
    joining: bool,
    /// Something good was seen.
    good: bool,
    pub(super) noise: u64,
}

impl Pieces {
    /// Pieces that end with `delimiter` and are at most `bytes_max` long, delimiter included. An empty delimiter is taken
    /// as a line feed, and the maximum is at least the delimiter and one byte.
    pub(super) fn new(coding: Coding, delimiter: &[u8], bytes_max: usize, judge: Judge) -> Self {
        let delimiter = if delimiter.is_empty() { b"\n".to_vec() } else { delimiter.to_vec() };
        Self {
            coding,
            bytes_max: bytes_max.max(delimiter.len() + 1),
            delimiter,
            judge,
            buffer: Vec::new(),
            decoded: Vec::new(),
            skipping: false,
            joining: false,
            good: coding != Coding::Line,
            noise: 0,
        }
    }

    pub(super) fn join(&mut self) {
        self.joining = true;
    }

    pub(super) fn trust(&mut self) {
        self.good = true;
    }

    pub(super) fn push(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Found<'_>)) {
        if let (true, true, Some(first)) = (self.joining, self.buffer.is_empty(), bytes.first())
            && self.coding == Coding::Line
            && !self.judge.checks()
        {
            self.joining = false;
            self.skipping = !matches!(first, b'{' | b'[');
        }
        let last = self.delimiter.last().copied().unwrap_or(b'\n');
        while !bytes.is_empty() {
            let room = self.bytes_max - self.buffer.len();
            let end = bytes.iter().position(|byte| *byte == last).map_or(bytes.len(), |at| at + 1);
            let (piece, rest) = bytes.split_at(end.min(room));
            bytes = rest;
            self.buffer.extend_from_slice(piece);
            if self.buffer.ends_with(&self.delimiter) {
                self.end_piece(found);
            } else if self.buffer.len() >= self.bytes_max {
                self.overflow(found);
            }
        }
    }

    fn end_piece(&mut self, found: &mut impl FnMut(Found<'_>)) {
        let noise = if self.skipping { self.buffer.len() as u64 } else { self.take(found) };
        self.noise += noise;
        self.skipping = false;
        self.joining = false;
        self.buffer.clear();
    }

    /// Takes a piece that is whole, and gives how many bytes of noise it was.
    fn take(&mut self, found: &mut impl FnMut(Found<'_>)) -> u64 {
        let whole = self.buffer.len() as u64;
        let mut piece = &self.buffer[..self.buffer.len() - self.delimiter.len()];
        match self.coding {
            Coding::Line => {
                if self.delimiter == b"\n" {
                    piece = piece.strip_suffix(b"\r").unwrap_or(piece);
                }
                if !(self.good || self.judge.checks() || is_text(piece)) {
                    return whole;
                }
            }
            // Many senders put a delimiter on either side of a frame.
            Coding::Slip | Coding::Hdlc | Coding::Cobs if piece.is_empty() => return 0,
            Coding::Slip | Coding::Hdlc | Coding::Cobs => {
                if (self.joining && !self.judge.checks()) || !decode(self.coding, piece, &mut self.decoded) {
                    return whole;
                }
                piece = &self.decoded;
            }
        }
        if self.judge.checks() && piece.is_empty() {
            return whole;
        }
        match self.judge.judge(piece) {
            Ok(payload) => {
                found(Found::Frame(payload));
                self.good |= !piece.is_empty();
                0
            }
            Err(_) if self.joining || !(self.good || is_text(piece)) => whole,
            Err(mismatch) => {
                found(Found::BadChecksum(piece, mismatch));
                0
            }
        }
    }

    fn overflow(&mut self, found: &mut impl FnMut(Found<'_>)) {
        // The end of what is dropped may be the beginning of the delimiter.
        let kept = self.delimiter.len() - 1;
        let dropped = self.buffer.len() - kept;
        if self.skipping || self.joining || !self.good {
            self.noise += dropped as u64;
        } else {
            found(Found::TooLong(&self.buffer[..dropped]));
        }
        self.skipping = true;
        self.buffer.drain(..dropped);
    }

    pub(super) fn end(&mut self) {
        self.noise += self.buffer.len() as u64;
        self.buffer.clear();
        self.skipping = false;
        self.joining = false;
        self.good = self.coding != Coding::Line;
    }

    pub(super) fn held(&self) -> usize {
        self.buffer.len()
    }
}

/// Undoes the coding; whether it was one.
fn decode(coding: Coding, piece: &[u8], decoded: &mut Vec<u8>) -> bool {
    decoded.clear();
    match coding {
        Coding::Line => decoded.extend_from_slice(piece),
        Coding::Slip => {
            let meant = |byte| match byte {
                SLIP_ESC_END => Some(SLIP_END),
                SLIP_ESC_ESC => Some(SLIP_ESC),
                _ => None,
            };
            return unescape(piece, SLIP_ESC, meant, decoded);
        }
        Coding::Hdlc => return unescape(piece, HDLC_ESC, |byte| Some(byte ^ HDLC_BIT), decoded),
        Coding::Cobs => {
            // What is decoded is shorter than what was encoded.
            decoded.resize(piece.len(), 0);
            match cobs::decode(piece, decoded) {
                Ok(report) => decoded.truncate(report.frame_size()),
                Err(_) => return false,
            }
        }
    }
    true
}

/// Puts what is `meant` in the place of an escape and the byte behind it.
fn unescape(piece: &[u8], escape: u8, meant: impl Fn(u8) -> Option<u8>, decoded: &mut Vec<u8>) -> bool {
    let mut bytes = piece.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != escape {
            decoded.push(byte);
        } else if let Some(byte) = bytes.next().and_then(&meant) {
            decoded.push(byte);
        } else {
            return false;
        }
    }
    true
}

fn is_text(line: &[u8]) -> bool {
    let control = |c: char| c.is_control() && c != '\t' && c != '\r';
    std::str::from_utf8(line).is_ok_and(|text| !text.contains(control))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    use super::super::tests::{Owned, frame as line, reads};

    fn machine(delimiter: &[u8], bytes_max: usize) -> Pieces {
        Pieces::new(Coding::Line, delimiter, bytes_max, Judge::new(None, None))
    }

    fn read(lines: &mut Pieces, pieces: &[&[u8]]) -> Vec<Owned> {
        let mut all = Vec::new();
        for piece in pieces {
            lines.push(piece, &mut |found| all.push(Owned::from(found)));
            assert!(lines.held() < lines.bytes_max);
        }
        all
    }

    #[test]
    fn lines_come_out_whole() {
        let mut lines = machine(b"\n", 100);
        assert_eq!(read(&mut lines, &[b"a\r\nb", b"c\n\nd"]), [line("a"), line("bc"), line("")]);
        assert_eq!((lines.held(), lines.noise), (1, 0));
        lines.end();
        assert_eq!((lines.held(), lines.noise), (0, 1));
    }

    #[test]
    fn noise_before_the_first_good_line_is_skipped_and_counted() {
        let mut lines = machine(b"\n", 100);
        assert_eq!(read(&mut lines, &[b"\xf0\x80\n\0\0\n{}\n\xff\n"]), [line("{}"), Owned::Frame(vec![0xff])]);
        assert_eq!(lines.noise, 6);
    }

    #[test]
    fn a_stream_joined_in_its_middle_begins_with_the_next_line() {
        let mut lines = machine(b"\n", 100);
        lines.join();
        assert_eq!(read(&mut lines, &[b"1.4,55\n21.4,55\n"]), [line("21.4,55")]);
        assert_eq!(lines.noise, 7);
        let mut lines = machine(b"\n", 100);
        lines.join();
        assert_eq!(read(&mut lines, &[b"{\"t\":1}\n"]), [line("{\"t\":1}")]);
    }

    #[test]
    fn a_line_that_never_ends_is_dropped_and_counted() {
        let mut lines = machine(b"\r\n", 8);
        let endless = [b'x'; 1000];
        let found = read(&mut lines, &[b"ok\r\n", &endless, b"\r\nok\r\n"]);
        assert_eq!(found, [line("ok"), Owned::TooLong(vec![b'x'; 7]), line("ok")]);
        assert_eq!(lines.noise, 1000 - 7 + 2);
    }

    #[test]
    fn the_longest_line_fits_exactly() {
        let mut lines = machine(b"\r\n", 6);
        assert_eq!(read(&mut lines, &[b"1234\r\n12345\r\n1\r\n"])[0], line("1234"));
        let mut lines = machine(b"\n", 3);
        assert_eq!(read(&mut lines, &[b"a\nabc\nb\n"]), [line("a"), Owned::TooLong(b"abc".to_vec()), line("b")]);
    }

    proptest! {
        #[test]
        fn the_split_into_reads_changes_nothing(
            stream in prop::collection::vec(prop::sample::select(b"ab{\r\n\0\xff;".to_vec()), 0..400),
            cuts in prop::collection::vec(0_usize..400, 0..20),
            bytes_max in 1_usize..20,
            delimiter in prop::sample::select(vec![&b"\n"[..], b"\r\n", b";;", b"aba"]),
            join in any::<bool>(),
        ) {
            let mut whole = machine(delimiter, bytes_max);
            let mut split = machine(delimiter, bytes_max);
            if join {
                whole.join();
                split.join();
            }
            prop_assert_eq!(read(&mut whole, &[&stream]), read(&mut split, &reads(&stream, cuts)));
            whole.end();
            split.end();
            prop_assert_eq!(whole.noise, split.noise);
        }

        #[test]
        fn whole_lines_after_noise_are_found(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut lines = machine(b"\n", 64);
            let mut stream = noise;
            stream.extend_from_slice(b"\n{\"t\":1}\n{\"t\":2}\n");
            let found = read(&mut lines, &[&stream]);
            let whole = found.ends_with(&[line("{\"t\":1}"), line("{\"t\":2}")]);
            prop_assert!(whole);
        }
    }
}
