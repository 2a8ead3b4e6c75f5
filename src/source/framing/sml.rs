//! The transport of the smart message language, version 1 (BSI TR-03109-1, annex): an escape sequence and four ones begin a
//! frame, an escape sequence, `1a`, the number of fill bytes and a CRC-16/X-25 end it. Its length is a multiple of four, and
//! an escape sequence inside stands there twice.

use super::scanner::Look;
use crate::reading::ChecksumMismatch;

const ESCAPE: [u8; 4] = [0x1b; 4];
pub(super) const START: [u8; 8] = [0x1b, 0x1b, 0x1b, 0x1b, 1, 1, 1, 1];
const END: u8 = 0x1a;
const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_IBM_SDLC);

/// Looks at bytes that begin with [`START`], from `seen` on, which is where the last look ended.
pub(super) fn look(window: &[u8], seen: &mut usize) -> Look {
    let mut at = (*seen).max(START.len());
    while let Some(ahead) = window.get(at..at + 8) {
        if ahead[0] != ESCAPE[0] {
            at += 1;
        } else if ahead == START {
            // Another one begins: the end of this one was lost.
            return Look::Broken(at);
        } else if !at.is_multiple_of(4) || ahead[..4] != ESCAPE {
            at += 1;
        } else if ahead[4..] == ESCAPE {
            at += 8;
        } else if ahead[4] == END {
            return Look::Whole(at + 8);
        } else {
            return Look::Broken(at);
        }
    }
    *seen = at;
    Look::More
}

/// Compares a whole frame's checksum, and puts what it carries into `inside`.
pub(super) fn unwrap(frame: &[u8], inside: &mut Vec<u8>) -> Result<(), ChecksumMismatch> {
    let Some((covered, &[low, high])) = frame.split_last_chunk() else {
        return Err(ChecksumMismatch { found: None, computed: None });
    };
    let (found, computed) = (u16::from_le_bytes([low, high]), CRC.checksum(covered));
    let carried = covered.get(START.len()..covered.len().saturating_sub(6)).unwrap_or_default();
    let fill = usize::from(covered.last().copied().unwrap_or_default());
    if found != computed || fill > 3 || fill > carried.len() {
        return Err(ChecksumMismatch { found: Some(found.into()), computed: Some(computed.into()) });
    }
    inside.clear();
    let mut groups = carried.chunks(4);
    while let Some(group) = groups.next() {
        // The second one of two escape sequences is what was meant.
        inside.extend_from_slice(if *group == ESCAPE { groups.next().unwrap_or_default() } else { group });
    }
    inside.truncate(inside.len() - fill);
    Ok(())
}
