//! Records as lines of JSON, the same that Kafka would get: for a person, or for a file that is replayed later.

use std::sync::Arc;

use super::encode::{EncodeError, Encoder};
use super::source::Chunk;
use crate::clock;
use crate::config;
use crate::outbox::Lane;
use crate::reading::{Batch, Name};

/// Writes records of one stream as lines.
#[derive(Debug)]
pub struct Lines {
    encoder: Encoder,
    lane: Lane,
    stream: Name,
    next_seq: u64,
}

impl Lines {
    /// Lines of a lane's stream of that name, from number 1 on, always as wide JSON.
    #[must_use]
    pub fn new(gateway: &config::Gateway, kafka: &config::Kafka, lane: Lane, stream: &str) -> Self {
        let wide = config::Kafka { layout: config::Layout::Wide, format: config::Format::Json, ..kafka.clone() };
        Self { encoder: Encoder::new(gateway, &wide), lane, stream: stream.into(), next_seq: 1 }
    }

    /// Takes all records out of `batch` and appends a line for each to `out`.
    pub fn write(&mut self, batch: &mut Batch, out: &mut Vec<u8>) {
        let chunk = Chunk {
            segment: 0,
            lane: self.lane,
            stream: Arc::clone(&self.stream),
            first_seq: self.next_seq,
            batch: Arc::new(std::mem::take(batch)),
            delivered: Vec::new(),
            replayed: Vec::new(),
            pin: None,
        };
        self.next_seq += chunk.batch.len() as u64;
        for (index, record) in chunk.batch.records.iter().enumerate() {
            // Nothing that a decoder makes fails to encode as JSON: numbers are finite.
            if self.encoder.encode(&chunk, index, record, 0).is_ok() {
                out.extend_from_slice(&self.encoder.value);
                out.push(b'\n');
            }
        }
    }
}

/// Writes stored records as Kafka would get them: lines of JSON, or a CBOR sequence (RFC 8742).
#[derive(Debug)]
pub(crate) struct Exporter {
    encoder: Encoder,
    format: config::Format,
}

impl Exporter {
    /// Records of this gateway in its layout, in that format.
    pub(crate) fn new(gateway: &config::Gateway, kafka: &config::Kafka, format: config::Format) -> Self {
        let boots = clock::boots_in(&gateway.data_dir);
        let encoder = Encoder::new(gateway, &config::Kafka { format, ..kafka.clone() }).knowing(boots);
        Self { encoder, format }
    }

    /// Appends the record at `index` of `chunk` to `out`; in the narrow layout that is one for each value.
    pub(crate) fn write(&mut self, chunk: &Chunk, index: usize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let Some(record) = chunk.batch.records.get(index) else { return Ok(()) };
        for part in 0..self.encoder.parts(record) {
            self.encoder.encode(chunk, index, record, part)?;
            out.extend_from_slice(&self.encoder.value);
            if self.format == config::Format::Json {
                out.push(b'\n');
            }
        }
        Ok(())
    }
}
