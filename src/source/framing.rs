//! Lines out of a stream of bytes. Pure.
//!
//! Invariants: how the stream is split into reads never changes what comes out; never more than the maximum is held; every
//! byte ends up in a line, in a line that was too long, or counted as noise.
//!
//! What comes before the first line of readable text after opening is noise (another line speed, a boot loader), not a dead
//! letter. A stream that is joined in its middle begins with a piece of a line, and a piece of a line of numbers reads as
//! other numbers: so it is skipped, unless it begins as a JSON text does.

/// What the framing found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A whole line, without its delimiter.
    Line(&'a [u8]),
    /// The beginning of a line that is longer than the maximum; the rest of it is skipped and counted as noise.
    TooLong(&'a [u8]),
}

/// The state between two reads.
#[derive(Debug)]
pub struct Lines {
    delimiter: Vec<u8>,
    bytes_max: usize,
    buffer: Vec<u8>,
    /// Until the next delimiter everything is noise.
    skipping: bool,
    /// Nothing was read yet, and the stream was under way when it was opened.
    joining: bool,
    /// A line of readable text was seen.
    good: bool,
    noise: u64,
}

impl Lines {
    /// Lines that end with `delimiter` and are at most `bytes_max` long, delimiter included. An empty delimiter is taken
    /// as a line feed, and the maximum is at least the delimiter and one byte.
    #[must_use]
    pub fn new(delimiter: &[u8], bytes_max: usize) -> Self {
        let delimiter = if delimiter.is_empty() { b"\n".to_vec() } else { delimiter.to_vec() };
        Self {
            bytes_max: bytes_max.max(delimiter.len() + 1),
            delimiter,
            buffer: Vec::new(),
            skipping: false,
            joining: false,
            good: false,
            noise: 0,
        }
    }

    /// The stream was under way when it was opened: what comes first may be a piece of a line. To be called before the
    /// first [`Lines::push`].
    pub fn join(&mut self) {
        self.joining = true;
    }

    /// Takes what one read gave, and tells what was found.
    pub fn push(&mut self, mut bytes: &[u8], mut found: impl FnMut(Found<'_>)) {
        if let (true, Some(first)) = (self.joining, bytes.first()) {
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
                self.end_line(&mut found);
            } else if self.buffer.len() >= self.bytes_max {
                self.overflow(&mut found);
            }
        }
    }

    fn end_line(&mut self, found: &mut impl FnMut(Found<'_>)) {
        let whole = self.buffer.len() as u64;
        let mut line = &self.buffer[..self.buffer.len() - self.delimiter.len()];
        if self.delimiter == b"\n" {
            line = line.strip_suffix(b"\r").unwrap_or(line);
        }
        if self.skipping || !(self.good || is_text(line)) {
            self.noise += whole;
        } else {
            self.good |= !line.is_empty();
            found(Found::Line(line));
        }
        self.skipping = false;
        self.buffer.clear();
    }

    fn overflow(&mut self, found: &mut impl FnMut(Found<'_>)) {
        // The end of what is dropped may be the beginning of the delimiter.
        let kept = self.delimiter.len() - 1;
        let dropped = self.buffer.len() - kept;
        if self.skipping || !self.good {
            self.noise += dropped as u64;
        } else {
            found(Found::TooLong(&self.buffer[..dropped]));
        }
        self.skipping = true;
        self.buffer.drain(..dropped);
    }

    /// The stream has ended: a line that was begun will not be whole.
    pub fn end(&mut self) {
        self.noise += self.buffer.len() as u64;
        self.buffer.clear();
        self.skipping = false;
        self.good = false;
    }

    /// Bytes skipped since the last call.
    pub fn take_noise(&mut self) -> u64 {
        std::mem::take(&mut self.noise)
    }

    /// Bytes held until the rest of their line comes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.len()
    }
}

fn is_text(line: &[u8]) -> bool {
    let control = |c: char| c.is_control() && c != '\t' && c != '\r';
    std::str::from_utf8(line).is_ok_and(|text| !text.contains(control))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq)]
    enum Owned {
        Line(Vec<u8>),
        TooLong(Vec<u8>),
    }

    fn read(lines: &mut Lines, pieces: &[&[u8]]) -> Vec<Owned> {
        let mut all = Vec::new();
        for piece in pieces {
            lines.push(piece, |found| {
                all.push(match found {
                    Found::Line(line) => Owned::Line(line.to_vec()),
                    Found::TooLong(line) => Owned::TooLong(line.to_vec()),
                });
            });
            assert!(lines.held() < lines.bytes_max);
        }
        all
    }

    fn line(text: &str) -> Owned {
        Owned::Line(text.as_bytes().to_vec())
    }

    #[test]
    fn lines_come_out_whole() {
        let mut lines = Lines::new(b"\n", 100);
        assert_eq!(read(&mut lines, &[b"a\r\nb", b"c\n\nd"]), [line("a"), line("bc"), line("")]);
        assert_eq!((lines.held(), lines.take_noise()), (1, 0));
        lines.end();
        assert_eq!((lines.held(), lines.take_noise()), (0, 1));
    }

    #[test]
    fn noise_before_the_first_good_line_is_skipped_and_counted() {
        let mut lines = Lines::new(b"\n", 100);
        assert_eq!(read(&mut lines, &[b"\xf0\x80\n\0\0\n{}\n\xff\n"]), [line("{}"), Owned::Line(vec![0xff])]);
        assert_eq!(lines.take_noise(), 6);
    }

    #[test]
    fn a_stream_joined_in_its_middle_begins_with_the_next_line() {
        let mut lines = Lines::new(b"\n", 100);
        lines.join();
        assert_eq!(read(&mut lines, &[b"1.4,55\n21.4,55\n"]), [line("21.4,55")]);
        assert_eq!(lines.take_noise(), 7);
        let mut lines = Lines::new(b"\n", 100);
        lines.join();
        assert_eq!(read(&mut lines, &[b"{\"t\":1}\n"]), [line("{\"t\":1}")]);
    }

    #[test]
    fn a_line_that_never_ends_is_dropped_and_counted() {
        let mut lines = Lines::new(b"\r\n", 8);
        let endless = [b'x'; 1000];
        let found = read(&mut lines, &[b"ok\r\n", &endless, b"\r\nok\r\n"]);
        assert_eq!(found, [line("ok"), Owned::TooLong(vec![b'x'; 7]), line("ok")]);
        assert_eq!(lines.take_noise(), 1000 - 7 + 2);
    }

    #[test]
    fn the_longest_line_fits_exactly() {
        let mut lines = Lines::new(b"\r\n", 6);
        assert_eq!(read(&mut lines, &[b"1234\r\n12345\r\n1\r\n"])[0], line("1234"));
        let mut lines = Lines::new(b"\n", 3);
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
            let mut whole = Lines::new(delimiter, bytes_max);
            let mut split = Lines::new(delimiter, bytes_max);
            if join {
                whole.join();
                split.join();
            }
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            prop_assert_eq!(read(&mut whole, &[&stream]), read(&mut split, &pieces));
            whole.end();
            split.end();
            prop_assert_eq!(whole.take_noise(), split.take_noise());
        }

        #[test]
        fn whole_lines_after_noise_are_found(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut lines = Lines::new(b"\n", 64);
            let mut stream = noise;
            stream.extend_from_slice(b"\n{\"t\":1}\n{\"t\":2}\n");
            let found = read(&mut lines, &[&stream]);
            let whole = found.ends_with(&[line("{\"t\":1}"), line("{\"t\":2}")]);
            prop_assert!(whole);
        }
    }
}
