//! Chunks: the values that a segment holds. A chunk is a run of records of one lane, encoded by column, compressed, and
//! guarded by a CRC-32C over all of it.
//!
//! ```text
//! version u8 | codec u8 | part u8 | parts u8 | count u32 | length u32 | extras u32 | crc u32 | extras … | data …
//! ```
//!
//! All numbers are little endian. `length` is that of the data before compression, `count` the number of records, and
//! `extras` the length of what a commit carries along (see [`Extras`]). A record that needs more than one value is spread
//! over parts, each a value with its own CRC.
//!
//! Invariant: no value is longer than [`VALUE_BYTES_MAX`]. A larger one could make sled write a blob, which it never
//! syncs, and a power cut then costs the whole database.

use serde::{Deserialize, Serialize};

use super::cipher::SEALED_BYTES;
use super::record::{self, DecodeError, Names};
use crate::reading::Batch;

/// The longest value that a segment may hold.
pub(crate) const VALUE_BYTES_MAX: usize = 6 * 1024;
/// The longest chunk: with what encryption adds it is a value.
const CHUNK_BYTES_MAX: usize = VALUE_BYTES_MAX - SEALED_BYTES;
/// The longest record after compression; a longer one is dead-lettered.
const RECORD_BYTES_MAX: usize = 40 * (CHUNK_BYTES_MAX - HEADER_BYTES);
/// The longest inside of a chunk before compression.
const LENGTH_MAX: usize = 4 * 1024 * 1024;
const HEADER_BYTES: usize = 20;
/// What of a journal goes into one value; the rest of the room is for the names of its fields.
const JOURNAL_PART_BYTES: usize = 5 * 1024;
/// The longest journal of one commit before compression: a block's appends, and the one that came last.
const JOURNAL_BYTES_MAX: u64 = 256 * 1024 * 1024;
const VERSION: u8 = 1;
const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
/// On sensor data a higher level gains a few per cent and costs a multiple.
const ZSTD_LEVEL: i32 = 1;
/// The first guess of what a record takes, before there is experience.
const RECORD_BYTES_GUESS: usize = 16;

/// Why a value is not a chunk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChunkError {
    /// Shorter than its header says.
    #[error("the chunk is cut off: {found} bytes, expected {expected}")]
    Short {
        /// Bytes that are there.
        found: usize,
        /// Bytes that should be.
        expected: usize,
    },
    /// Written by a later version.
    #[error("the chunk has version {0}, this program knows up to {VERSION}")]
    Version(u8),
    /// Damaged.
    #[error("the chunk's checksum is {found:08x}, expected {expected:08x}")]
    Checksum {
        /// Computed from what is there.
        found: u32,
        /// As it was written.
        expected: u32,
    },
    /// The checksum is right and the inside is not.
    #[error("the chunk cannot be decoded: {0}")]
    Inside(#[from] DecodeError),
    /// The checksum is right and the data does not decompress.
    #[error("the chunk cannot be decompressed: {0}")]
    Decompress(std::io::Error),
    /// Parts that do not belong together.
    #[error("a part of the chunk is missing")]
    Part,
}

/// What a commit carries along with its records, so that both are durable at once.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Extras {
    /// Counts the commits of a segment: a later one supersedes.
    pub(crate) commit: u64,
    /// By session: packet identifiers and hashes of the QoS 1 messages that the commit covers.
    pub(crate) receipts: Vec<(String, Vec<u16>, Vec<u64>)>,
    /// How far segments are delivered, if that has changed: segment, lane, next number, and the delivered ones above.
    pub(crate) cursor: Option<Vec<CursorEntry>>,
    /// What the rules' state took in, in parts that each fit into a value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) journal: Vec<JournalPart>,
    /// Numbers (lane, first, last) before this commit's that were delivered without being stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) skipped: Vec<(u8, u64, u64)>,
}

/// A part of a commit's journal: the pieces `first..=last`, each behind its length, compressed as one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct JournalPart {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) part: u32,
    pub(crate) parts: u32,
    /// Bytes of the whole before compression.
    pub(crate) length: u64,
    #[serde(with = "bytes_field")]
    pub(crate) data: Vec<u8>,
}

/// How far one lane of one segment is delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CursorEntry {
    pub(crate) segment: u64,
    pub(crate) lane: u8,
    /// All numbers below are delivered.
    pub(crate) next: u64,
    /// The segment's generation: what it says of another one means nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) generation: u32,
    /// Delivered numbers from there on, less the segment's first number: a serialized bitmap, or nothing.
    #[serde(with = "bytes_field")]
    pub(crate) above: Vec<u8>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Bytes as a CBOR byte string rather than an array of numbers.
mod bytes_field {
    use serde::{Deserializer, Serializer, de::Visitor};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            // JSON has no byte strings.
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut numbers: A) -> Result<Vec<u8>, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = numbers.next_element()? {
                    bytes.push(byte);
                }
                Ok(bytes)
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// A chunk before it is sealed: what the header says, and its data.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Index of its first record in the batch that was encoded.
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) part: u8,
    parts: u8,
    codec: u8,
    length: usize,
    data: Vec<u8>,
}

impl Chunk {
    /// A value without records, for extras alone.
    pub(crate) fn empty() -> Self {
        Self { first: 0, count: 0, part: 0, parts: 1, codec: CODEC_RAW, length: 0, data: Vec::new() }
    }

    /// How many values the chunk is spread over.
    pub(crate) fn parts(&self) -> u8 {
        self.parts
    }

    /// Bytes that it takes, extras not counted.
    pub(crate) fn bytes(&self) -> usize {
        HEADER_BYTES + self.data.len()
    }

    /// Whether `extras` more bytes still fit.
    pub(crate) fn has_room(&self, extras: usize) -> bool {
        HEADER_BYTES + extras + self.data.len() <= CHUNK_BYTES_MAX
    }

    /// The value to store.
    pub(crate) fn seal(&self, extras: &[u8]) -> Vec<u8> {
        let mut value = Vec::with_capacity(HEADER_BYTES + extras.len() + self.data.len());
        value.extend([VERSION, self.codec, self.part, self.parts]);
        for number in [self.count, self.length, extras.len()] {
            value.extend((number as u32).to_le_bytes());
        }
        let crc = checksum(&value, extras, &self.data);
        value.extend(crc.to_le_bytes());
        value.extend(extras);
        value.extend(&self.data);
        debug_assert!(value.len() <= CHUNK_BYTES_MAX);
        value
    }
}

fn checksum(header: &[u8], extras: &[u8], data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(header), extras), data)
}

/// A value as it was read back, its checksum right.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    pub(crate) count: usize,
    pub(crate) parts: u8,
    codec: u8,
    length: usize,
    pub(crate) extras: &'a [u8],
    data: &'a [u8],
}

/// Checks a value and takes it apart.
///
/// # Errors
/// When it is damaged or of a later version.
pub(crate) fn open(value: &[u8]) -> Result<Opened<'_>, ChunkError> {
    let short = |expected| ChunkError::Short { found: value.len(), expected };
    let (header, rest) = value.split_at_checked(HEADER_BYTES).ok_or_else(|| short(HEADER_BYTES))?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let extras = word(12) as usize;
    let (extras, data) = rest.split_at_checked(extras).ok_or_else(|| short(HEADER_BYTES + extras))?;
    let (found, expected) = (checksum(&header[..16], extras, data), word(16));
    if found != expected {
        return Err(ChunkError::Checksum { found, expected });
    }
    if header[0] != VERSION {
        return Err(ChunkError::Version(header[0]));
    }
    let (count, length) = (word(4) as usize, word(8) as usize);
    if count > record::RECORDS_MAX || length > LENGTH_MAX {
        return Err(ChunkError::Inside(DecodeError::Columns("the header claims more than a chunk may hold")));
    }
    Ok(Opened { count, parts: header[3], codec: header[1], length, extras, data })
}

/// Decodes the records of a chunk from all of its parts, in order.
///
/// # Errors
/// When the parts do not belong together or the inside is not what the header says.
pub(crate) fn decode(parts: &[Opened<'_>], names: &mut Names) -> Result<Batch, ChunkError> {
    let first = parts.first().ok_or(ChunkError::Part)?;
    if parts.len() != usize::from(first.parts) {
        return Err(ChunkError::Part);
    }
    let whole: Vec<u8>;
    let data = if let [one] = parts {
        one.data
    } else {
        whole = parts.iter().flat_map(|part| part.data).copied().collect();
        &whole
    };
    let batch = match first.codec {
        CODEC_RAW => record::decode(data, names)?,
        CODEC_ZSTD => {
            let inside = zstd::bulk::decompress(data, first.length).map_err(ChunkError::Decompress)?;
            record::decode(&inside, names)?
        }
        _ => return Err(ChunkError::Version(first.codec)),
    };
    if batch.len() != first.count {
        return Err(DecodeError::Columns("another number of records than the header says").into());
    }
    Ok(batch)
}

/// Puts the journals of a segment's commits together from their parts, which may come in any order: the pieces with their
/// numbers. A journal of which a part is missing or damaged is left out; the gap in the numbers shows it.
pub(crate) fn journal(mut parts: Vec<JournalPart>) -> Vec<(u64, Vec<u8>)> {
    parts.sort_by_key(|part| (part.first, part.last, part.part));
    parts.dedup_by_key(|part| (part.first, part.last, part.part));
    let mut pieces = Vec::new();
    for whole in parts.chunk_by(|a, b| (a.first, a.last) == (b.first, b.last)) {
        let head = &whole[0];
        if whole.len() != head.parts as usize || head.length > JOURNAL_BYTES_MAX {
            continue;
        }
        let packed: Vec<u8> = whole.iter().flat_map(|part| &part.data).copied().collect();
        let Ok(bytes) = zstd::bulk::decompress(&packed, head.length as usize) else { continue };
        let mut rest = bytes.as_slice();
        for number in head.first..=head.last {
            let Some((length, after)) = rest.split_first_chunk::<4>() else { break };
            let Some((piece, after)) = after.split_at_checked(u32::from_le_bytes(*length) as usize) else { break };
            pieces.push((number, piece.to_vec()));
            rest = after;
        }
    }
    pieces
}

/// Cuts batches into chunks. It remembers what a record took lately, so that a chunk fits at the first try.
pub(crate) struct Cutter {
    compressor: zstd::bulk::Compressor<'static>,
    record_bytes: usize,
}

impl std::fmt::Debug for Cutter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cutter").field("record_bytes", &self.record_bytes).finish_non_exhaustive()
    }
}

/// What does not fit into chunks: a record by its index, with its size after compression.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge {
    pub(crate) index: usize,
    pub(crate) bytes: usize,
}

impl Cutter {
    /// A cutter without experience.
    ///
    /// # Errors
    /// When zstd cannot allocate its context.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL)?, record_bytes: RECORD_BYTES_GUESS })
    }

    /// A commit's journal as parts: pieces from number `first` to `last`, each behind its length.
    pub(crate) fn journal(&mut self, first: u64, last: u64, pieces: &[u8]) -> std::io::Result<Vec<JournalPart>> {
        let packed = self.compressor.compress(pieces)?;
        let parts = packed.len().div_ceil(JOURNAL_PART_BYTES) as u32;
        let length = pieces.len() as u64;
        let part = |(data, part): (&[u8], u32)| JournalPart { first, last, part, parts, length, data: data.to_vec() };
        Ok(packed.chunks(JOURNAL_PART_BYTES).zip(0..).map(part).collect())
    }

    /// Cuts all of `batch` into chunks.
    ///
    /// # Errors
    /// [`TooLarge`] for the first record that no chunk can hold.
    pub(crate) fn cut(&mut self, batch: &Batch) -> Result<Vec<Chunk>, TooLarge> {
        let mut chunks = Vec::new();
        let mut first = 0;
        let room = CHUNK_BYTES_MAX - HEADER_BYTES;
        while first < batch.len() {
            let fits = (room * 7 / 8 / self.record_bytes).max(1);
            let mut count = fits.min(batch.len() - first).min(record::RECORDS_MAX);
            loop {
                let (codec, length, data) = self.encode(batch, first, count);
                if data.len() <= room {
                    self.record_bytes = (data.len() / count).max(1);
                    chunks.push(Chunk { first, count, part: 0, parts: 1, codec, length, data });
                    break;
                }
                if count == 1 {
                    if data.len() > RECORD_BYTES_MAX || length > LENGTH_MAX {
                        return Err(TooLarge { index: first, bytes: data.len() });
                    }
                    let parts = data.len().div_ceil(room) as u8;
                    chunks.extend(data.chunks(room).zip(0_u8..).map(|(data, part)| {
                        let data = data.to_vec();
                        Chunk { first, count, part, parts, codec, length, data }
                    }));
                    break;
                }
                // As many as would have fitted by what was just learned, and at the most half as many again.
                count = (count * room * 7 / 8 / data.len()).clamp(1, count - count / 4 - 1);
            }
            first += count;
        }
        Ok(chunks)
    }

    fn encode(&mut self, batch: &Batch, first: usize, count: usize) -> (u8, usize, Vec<u8>) {
        // Encoding into memory fails for no record that this crate makes: maps and sequences have known lengths.
        let inside = record::encode(batch, first..first + count).unwrap_or_default();
        match self.compressor.compress(&inside) {
            Ok(data) if data.len() < inside.len() => (CODEC_ZSTD, inside.len(), data),
            _ => (CODEC_RAW, inside.len(), inside),
        }
    }
}
