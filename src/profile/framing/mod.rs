//! How frames lie in a serial stream of bytes, as data: `[framing]` and `[checksum]` of a profile. What is done with it is in
//! `source/framing/`.

use std::ops::Range;
use std::time::Duration;

mod file;

pub(super) use file::{ChecksumPart, FramingPart, framing};

/// The longest frame where nobody says anything, in bytes.
pub const FRAME_BYTES_MAX: usize = 4_096;

/// How frames lie in a stream of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framing {
    /// How a frame's end is known.
    pub kind: FramingKind,
    /// The longest frame on the wire in bytes, with all that belongs to its framing.
    pub bytes_max: usize,
    /// How a frame proves that it is whole.
    pub checksum: Option<Checksum>,
    /// The part of a frame that is decoded; all of it if nothing is said.
    pub payload: Option<Span>,
    /// After so much silence the next byte begins a frame.
    pub gap: Option<Duration>,
}

impl Framing {
    /// Lines that end with `delimiter`.
    #[must_use]
    pub fn lines(delimiter: &[u8], bytes_max: usize) -> Self {
        Self::new(FramingKind::Delimiter(delimiter.to_vec()), bytes_max)
    }

    /// Frames of that kind, without a checksum.
    #[must_use]
    pub fn new(kind: FramingKind, bytes_max: usize) -> Self {
        Self { kind, bytes_max, checksum: None, payload: None, gap: None }
    }
}

impl Default for Framing {
    fn default() -> Self {
        Self::lines(b"\n", FRAME_BYTES_MAX)
    }
}

/// How a frame's end is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FramingKind {
    /// These bytes end it.
    Delimiter(Vec<u8>),
    /// It is always as long as this.
    Fixed {
        /// Its length in bytes, marks included.
        bytes: usize,
        /// What it begins and ends with.
        marks: Marks,
    },
    /// It says itself how long it is.
    Length {
        /// How it says so; what several fields say is added.
        fields: Vec<LengthField>,
        /// What it begins and ends with.
        marks: Marks,
    },
    /// Bytes that begin it, and others that end it.
    Markers {
        /// Which; the end is never empty.
        marks: Marks,
        /// What comes after the end marker and still belongs to it.
        tail: Tail,
        /// What may stand anywhere inside and does not belong to it.
        omit: Option<Omit>,
        /// Whether a start marker inside begins the frame anew, because it cannot be data.
        restart: bool,
        /// What says of the byte behind it that it is data, and no marker.
        escape: Option<Escape>,
    },
    /// SLIP (RFC 1055).
    Slip,
    /// Between flags, with the byte stuffing of HDLC on asynchronous lines (RFC 1662).
    Hdlc,
    /// Consistent overhead byte stuffing, frames ended by a zero.
    Cobs,
    /// Silence ends it.
    Idle,
    /// The transport of the smart message language (SML), version 1, with its checksum.
    Sml,
}

/// What frames begin and end with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// One of these begins it; with none, a frame may begin anywhere.
    pub start: Vec<Vec<u8>>,
    /// It ends with this, before a marker's tail; empty if nothing is said.
    pub end: Vec<u8>,
}

/// What comes after the end marker and still belongs to a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// That many bytes.
    Bytes(usize),
    /// All up to these bytes, and these.
    Until(Vec<u8>),
}

/// How a byte that could be taken for a marker is written: behind another one, and changed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escape {
    /// The byte that stands before it.
    pub byte: u8,
    /// What it was changed with by exclusive or; 0 if only the escape byte itself is written so, twice.
    pub xor: u8,
}

/// What is taken out of a frame before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Omit {
    /// It begins with this.
    pub start: Vec<u8>,
    /// It ends with this.
    pub end: Vec<u8>,
}

/// Where a frame says how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthField {
    /// The field's first byte, counted from the frame's first.
    pub at: usize,
    /// 1 to 4 bytes.
    pub width: usize,
    /// The order of these.
    pub endian: Endian,
    /// The bits of it that count; others are flags.
    pub mask: u32,
    /// What it counts.
    pub counts: Counts,
    /// How many bytes one of it stands for.
    pub unit: usize,
    /// Bytes that it leaves out (or counts too many, if negative).
    pub plus: i64,
}

/// What a length field counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// What comes after the field.
    Rest,
    /// The whole frame.
    All,
}

/// The order of a number's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endian {
    /// The most significant one first.
    Big,
    /// The least significant one first.
    Little,
}

/// A part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first byte; negative counts from the end.
    pub from: i64,
    /// The first byte behind it; negative counts from the end. The end if nothing is said.
    pub to: Option<i64>,
}

impl Span {
    /// That part of `length` bytes, if it is there.
    #[must_use]
    pub fn of(self, length: usize) -> Option<Range<usize>> {
        let from = offset(self.from, length)?;
        let to = self.to.map_or(Some(length), |to| offset(to, length))?;
        (from <= to).then_some(from..to)
    }
}

/// A place among `length` bytes: negative counts from the end.
pub(crate) fn offset(at: i64, length: usize) -> Option<usize> {
    let at = if at < 0 {
        length.checked_sub(usize::try_from(at.unsigned_abs()).ok()?)?
    } else {
        usize::try_from(at).ok()?
    };
    (at <= length).then_some(at)
}

/// How a frame proves that it is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// How it is computed.
    pub kind: ChecksumKind,
    /// The first byte that it covers; negative counts from the end.
    pub from: i64,
    /// The first byte that it does not cover any more; if nothing is said, where the checksum stands. Negative counts from
    /// the end of the frame, or from where the checksum stands if that is found by a mark.
    pub to: Option<i64>,
    /// Where it stands.
    pub place: Place,
    /// How many bytes the number has.
    pub width: usize,
    /// The order of these.
    pub endian: Endian,
    /// Whether it is written as hexadecimal digits.
    pub hex: bool,
    /// Whether what it covers is hexadecimal digits, and the bytes that they stand for are what counts.
    pub covers_hex: bool,
    /// Whether a frame without one is taken too. Only where it is found by a mark.
    pub optional: bool,
    /// The bits of what is computed that count.
    pub mask: u32,
    /// What is added to them.
    pub plus: u32,
    /// Bytes that the checksum must not have: one more is sent instead.
    pub avoid: Vec<u8>,
}

#[cfg(test)]
impl Checksum {
    /// One at the end of the frame, of all that comes before it, and nothing said besides.
    pub(crate) fn at_end(kind: ChecksumKind, width: usize) -> Self {
        Self {
            kind,
            from: 0,
            to: None,
            place: Place::At(-(width as i64)),
            width,
            endian: Endian::Big,
            hex: false,
            covers_hex: false,
            optional: false,
            mask: u32::MAX,
            plus: 0,
            avoid: Vec::new(),
        }
    }
}

/// How a checksum is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumKind {
    /// The sum of all bytes, modulo 2^8.
    Sum8,
    /// The sum of all bytes, modulo 2^16.
    Sum16,
    /// What is missing to make the sum of all bytes 0 modulo 2^8.
    TwosComplement,
    /// What is missing to make the sum of all bytes 0 modulo 2^16.
    TwosComplement16,
    /// The sum of all bytes modulo 2^8, each bit turned over.
    OnesComplement,
    /// All bytes by exclusive or.
    Xor8,
    /// Two sums modulo 2^8 (RFC 1145), as UBX has them: the first one is the high byte.
    Fletcher8,
    /// A cyclic redundancy check of that name in the catalogue.
    Crc(&'static str),
}

/// Where a checksum stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At that byte; negative counts from the end.
    At(i64),
    /// Behind the last of these bytes.
    After(Vec<u8>),
}
