//! Frames between markers, in which an escape byte says that the byte behind it is data: DLE of TSIP and DF1, `1b` of
//! Kamstrup's heat meters.
//!
//! Where a pair of escape and byte begins depends on where the frame began, so what was seen from one start says nothing of
//! another.

use std::ops::Range;

use super::scanner::Look;
use crate::profile::framing::{Escape, Marks, Tail};

/// Looks for the end of what begins at the front with a start marker of `start` bytes, from `seen` on. `inner` is what lies
/// between start and end of a whole frame.
pub(super) fn look(
    window: &[u8],
    start: usize,
    (marks, tail, escape, restart): (&Marks, &Tail, Escape, bool),
    seen: &mut usize,
    inner: &mut Range<usize>,
) -> Look {
    let end = marks.end.as_slice();
    let twice = [escape.byte; 2];
    let is_doubled = |bytes: &[u8]| escape.xor == 0 && bytes.starts_with(&twice);
    // Where markers begin with the escape, these are none: a byte of data, and an end.
    if start > 0 && (is_doubled(window) || window.starts_with(end)) {
        return Look::Noise(if window.starts_with(end) { end.len() } else { 1 });
    }
    let mut at = (*seen).max(start);
    while let Some(rest) = window.get(at..).filter(|rest| !rest.is_empty()) {
        *seen = at;
        let begins = |mark: &[u8]| rest.starts_with(mark);
        let may_begin = |mark: &[u8]| mark.len() > rest.len() && mark.starts_with(rest);
        if is_doubled(rest) {
            at += 2;
            continue;
        }
        if begins(end) {
            let behind = rest.get(end.len()..).unwrap_or_default();
            let Some(tail) = tail.length(behind) else { return Look::More };
            *inner = start..at;
            return Look::Whole(at + end.len() + tail);
        }
        let is_escape = rest[0] == escape.byte;
        if may_begin(end) || (is_escape && rest.len() == 1) {
            return Look::More;
        }
        if restart && at > 0 {
            if marks.start.iter().any(|start| begins(start)) {
                return Look::Noise(at);
            }
            if marks.start.iter().any(|start| may_begin(start)) {
                return Look::More;
            }
        }
        if is_escape && escape.xor == 0 {
            return Look::Noise(1);
        }
        at += if is_escape { 2 } else { 1 };
    }
    *seen = at.min(window.len());
    Look::More
}

/// A frame as it was before `inner` of it was written with escapes; an escape that begins a marker belongs to the writing,
/// too.
pub(super) fn undo(frame: &[u8], inner: &Range<usize>, escape: Escape, out: &mut Vec<u8>) {
    out.clear();
    let marker = |bytes: Option<&[u8]>| {
        let bytes = bytes.unwrap_or_default();
        bytes.strip_prefix(&[escape.byte]).unwrap_or(bytes).to_vec()
    };
    out.extend(marker(frame.get(..inner.start)));
    let mut written = frame.get(inner.clone()).unwrap_or_default().iter();
    while let Some(byte) = written.next() {
        let meant = if *byte == escape.byte { written.next().map(|next| next ^ escape.xor) } else { Some(*byte) };
        out.extend(meant);
    }
    out.extend(marker(frame.get(inner.end..)));
}
