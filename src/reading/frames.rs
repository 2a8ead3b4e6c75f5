//! Bytes as they came from a wire, a batch of them laid out flat.

use std::ops::Range;

use super::Stamp;

/// Where in [`Frames`] one frame lies, and what is known about it.
#[derive(Clone, Debug)]
struct FrameMeta {
    origin: Range<u32>,
    payload: Range<u32>,
    retained: bool,
    oversize: Option<u64>,
    bad_checksum: Option<ChecksumMismatch>,
}

/// Why a frame is not whole: what its checksum says, and what its bytes give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumMismatch {
    /// What stands in the frame; nothing where there is no checksum to be read.
    pub found: Option<u32>,
    /// What the checksum of its bytes is; nothing where it has not the bytes that it covers.
    pub computed: Option<u32>,
}

impl std::fmt::Display for ChecksumMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.found, self.computed) {
            (Some(found), Some(computed)) => {
                write!(f, "the checksum is 0x{found:02x}, its bytes give 0x{computed:02x}")
            }
            (None, Some(computed)) => write!(f, "there is no checksum; its bytes give 0x{computed:02x}"),
            (_, None) => write!(f, "it is too short for its checksum, or its end was lost"),
        }
    }
}

/// All the frames that one read of a source gave, in the order of arrival.
#[derive(Debug, Default)]
pub struct Frames {
    /// When the read happened.
    pub received: Stamp,
    data: Vec<u8>,
    frames: Vec<FrameMeta>,
}

/// Bytes as one unit from a wire.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The topic or the port that it came from.
    pub origin: &'a str,
    /// The bytes; for a frame that is over the limit only its beginning.
    pub payload: &'a [u8],
    /// Whether the broker had kept it for new subscribers.
    pub retained: bool,
    /// Its full length in bytes where it was too long to be kept whole.
    pub oversize: Option<u64>,
}

impl Frames {
    /// An empty batch for frames that were read at `received`.
    #[must_use]
    pub fn new(received: Stamp) -> Self {
        Self { received, ..Self::default() }
    }

    /// Empties the batch and keeps its memory, for the next read.
    pub fn reset(&mut self, received: Stamp) {
        self.received = received;
        self.data.clear();
        self.frames.clear();
    }

    /// Adds a frame. A batch holds less than 4 GiB, which every source's read limit guarantees.
    pub fn push(&mut self, origin: &str, payload: &[u8], retained: bool) {
        self.push_part(origin, payload, retained, None, None);
    }

    /// Adds the beginning of a frame that was over the limit; `length` is what it would have had in bytes.
    pub fn push_oversize(&mut self, origin: &str, beginning: &[u8], retained: bool, length: u64) {
        self.push_part(origin, beginning, retained, Some(length), None);
    }

    /// Adds a frame whose checksum is wrong: [`Frames::iter`] passes it over, [`Frames::damaged`] gives it.
    pub fn push_damaged(&mut self, origin: &str, frame: &[u8], mismatch: ChecksumMismatch) {
        self.push_part(origin, frame, false, None, Some(mismatch));
    }

    fn push_part(
        &mut self,
        origin: &str,
        payload: &[u8],
        retained: bool,
        oversize: Option<u64>,
        bad_checksum: Option<ChecksumMismatch>,
    ) {
        let origin = self.extend(origin.as_bytes());
        let payload = self.extend(payload);
        self.frames.push(FrameMeta { origin, payload, retained, oversize, bad_checksum });
    }

    fn extend(&mut self, bytes: &[u8]) -> Range<u32> {
        let start = self.data.len() as u32;
        self.data.extend_from_slice(bytes);
        start..self.data.len() as u32
    }

    /// The frames that may be whole, in the order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = Frame<'_>> {
        self.frames.iter().filter(|meta| meta.bad_checksum.is_none()).map(|meta| self.frame(meta))
    }

    /// The frames whose checksum is wrong, in the order of arrival.
    pub fn damaged(&self) -> impl Iterator<Item = (Frame<'_>, ChecksumMismatch)> {
        self.frames.iter().filter_map(|meta| Some((self.frame(meta), meta.bad_checksum?)))
    }

    fn frame(&self, meta: &FrameMeta) -> Frame<'_> {
        Frame {
            // The range was made from a `&str`, so the bytes are UTF-8.
            origin: std::str::from_utf8(slice(&self.data, &meta.origin)).unwrap_or_default(),
            payload: slice(&self.data, &meta.payload),
            retained: meta.retained,
            oversize: meta.oversize,
        }
    }

    /// How many frames there are, damaged ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes of all origins and payloads together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data.len()
    }
}

fn slice<'a>(data: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    data.get(range.start as usize..range.end as usize).unwrap_or_default()
}
