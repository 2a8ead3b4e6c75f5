//! Framing of what a broker sends: where a packet begins and ends, and what to do with one that is over the limit. Framing
//! is done here, because rumqttc's codec answers such a packet with an error, and it must not cost the connection: with
//! QoS 1 the broker would send it again for ever.
//!
//! Invariants: a decoder holds at most one packet of `packet_bytes_max`, and of a larger one no more than
//! [`OVERSIZE_HEAD_BYTES`]; whatever bytes come, it answers with packets or with an error and never panics; after an
//! error the connection is of no use any more.

use bytes::{Buf, BufMut, BytesMut};

use crate::config::MqttVersion;
use crate::reading::DeadLetter;

use super::wire::{self, Packet, Publish};

/// How much of a packet over the limit is looked at: the longest topic, room for MQTT 5 properties, and what a dead
/// letter keeps of the payload.
const OVERSIZE_HEAD_BYTES: usize = 2 + 65_535 + 2 + 32 * 1024 + DeadLetter::PAYLOAD_BYTES_MAX;

/// Packets other than PUBLISH are this long at most, however small the limit for messages is.
const CONTROL_BYTES_MAX: usize = 64 * 1024;

/// Packet types (MQTT 3.1.1 and 5, section 2.1.2).
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const DISCONNECT: u8 = 14;

/// What the broker sent is not MQTT.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum WireError {
    /// The length of a packet takes more than four bytes.
    #[error("expected a packet length of at most 4 bytes, found a fifth: this is not MQTT")]
    Length,
    /// A packet that does not parse.
    #[error("the broker sent a malformed packet of type {packet_type} ({length} bytes): {why}")]
    Malformed { packet_type: u8, length: usize, why: String },
}

/// Whether what was read first can be a broker's answer to CONNECT: anything else would be waited for in vain.
pub(super) fn may_be_a_broker(buffer: &[u8]) -> bool {
    buffer.first().is_none_or(|first| [CONNACK << 4, DISCONNECT << 4].contains(first))
}

/// Takes packets out of what was read.
#[derive(Debug)]
pub(super) struct Decoder {
    version: MqttVersion,
    packet_bytes_max: usize,
    skip: Option<Skip>,
}

/// A packet over the limit that is being read past.
#[derive(Debug)]
struct Skip {
    left: usize,
    publish: Publish,
}

impl Decoder {
    pub(super) fn new(version: MqttVersion, packet_bytes_max: usize) -> Self {
        Self { version, packet_bytes_max, skip: None }
    }

    /// Takes the next packet off the front of `buffer`; `None` means that more has to be read first.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, WireError> {
        if let Some(mut skip) = self.skip.take() {
            let skipped = skip.left.min(buffer.len());
            buffer.advance(skipped);
            skip.left -= skipped;
            if skip.left == 0 {
                return Ok(Some(Packet::Publish(skip.publish)));
            }
            self.skip = Some(skip);
            return Ok(None);
        }
        let Some(header) = Header::read(buffer)? else { return Ok(None) };
        if header.length > self.length_max(header.packet_type) {
            return self.begin_skip(header, buffer);
        }
        if buffer.len() < header.packet_len() {
            return Ok(None);
        }
        self.decode(header, buffer.split_to(header.packet_len())).map(Some)
    }

    /// How many bytes the buffer must be able to hold so that the packet at its front fits.
    pub(super) fn room(&self, buffer: &[u8]) -> usize {
        match Header::read(buffer) {
            Ok(Some(header)) if self.skip.is_none() => header.packet_len().min(self.packet_bytes_max + 5),
            _ => 0,
        }
    }

    fn length_max(&self, packet_type: u8) -> usize {
        if packet_type == PUBLISH { self.packet_bytes_max } else { self.packet_bytes_max.max(CONTROL_BYTES_MAX) }
    }

    /// Reads topic, identifier and the beginning of the payload of a packet over the limit, as soon as they are there.
    fn begin_skip(&mut self, header: Header, buffer: &mut BytesMut) -> Result<Option<Packet>, WireError> {
        if header.packet_type != PUBLISH {
            return Err(header.malformed(format!("expected at most {} bytes", self.length_max(header.packet_type))));
        }
        let head = header.length.min(OVERSIZE_HEAD_BYTES);
        if buffer.len() < header.size + head {
            return Ok(None);
        }
        let body = &buffer[header.size..header.size + head];
        // To the codec the packet ends where the head ends, so that only the payload is cut. Where MQTT 5 properties
        // fill the whole head, nothing of the payload is kept, but the message can still be named and acknowledged.
        let mut packet = self.decode(header, shortened(buffer[0], &[body]));
        if self.version == MqttVersion::V5 && packet.is_err() {
            let topic = body.first_chunk().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
            let id = if buffer[0] & 0b110 == 0 { 0 } else { 2 };
            if let Some(named) = body.get(..2 + topic + id) {
                packet = self.decode(header, shortened(buffer[0], &[named, &[0]]));
            }
        }
        let Packet::Publish(mut publish) = packet? else {
            return Err(header.malformed("expected a PUBLISH".to_owned()));
        };
        publish.oversize = Some((header.length - head + publish.payload.len()) as u64);
        publish.payload.truncate(DeadLetter::PAYLOAD_BYTES_MAX);
        self.skip = Some(Skip { left: header.packet_len(), publish });
        self.next(buffer)
    }

    fn decode(&self, header: Header, packet: BytesMut) -> Result<Packet, WireError> {
        wire::decode(self.version, packet).map_err(|why| header.malformed(why))
    }
}

/// The fixed header of a packet.
#[derive(Clone, Copy, Debug)]
struct Header {
    packet_type: u8,
    /// Bytes of the header itself.
    size: usize,
    /// Bytes that follow it.
    length: usize,
}

impl Header {
    fn read(buffer: &[u8]) -> Result<Option<Self>, WireError> {
        let Some((first, rest)) = buffer.split_first() else { return Ok(None) };
        let mut length = 0;
        for (index, byte) in rest.iter().take(4).enumerate() {
            length |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(Some(Self { packet_type: first >> 4, size: index + 2, length }));
            }
        }
        if rest.len() >= 4 { Err(WireError::Length) } else { Ok(None) }
    }

    fn packet_len(&self) -> usize {
        self.size + self.length
    }

    fn malformed(&self, why: String) -> WireError {
        WireError::Malformed { packet_type: self.packet_type, length: self.length, why }
    }
}

/// A packet of these parts.
fn shortened(first_byte: u8, parts: &[&[u8]]) -> BytesMut {
    let mut rest: usize = parts.iter().map(|part| part.len()).sum();
    let mut packet = BytesMut::with_capacity(rest + 5);
    packet.put_u8(first_byte);
    while rest > 0x7f {
        packet.put_u8(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    packet.put_u8(rest as u8);
    parts.iter().for_each(|part| packet.put_slice(part));
    packet
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
