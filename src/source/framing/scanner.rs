//! Frames that are recognised from their front: by a start marker, a length, an end marker, a checksum. What is no frame
//! costs one byte, and the search goes on behind it; so a start marker inside of data hides no good frame.

use std::ops::Range;

use super::checksum::{Judge, number};
use super::{Found, escaped, sml};
use crate::profile::framing::{Counts, Escape, FramingKind, LengthField, Marks, Omit, Tail};

/// What the front of the held bytes is. It depends on these bytes alone: more of them never change an answer but
/// [`Look::More`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// More bytes must come.
    More,
    /// That many bytes begin no frame.
    Noise(usize),
    /// A frame of that many bytes.
    Whole(usize),
    /// A frame that will be longer than the maximum; that many bytes say so.
    TooLong(usize),
    /// A frame that ended without its end, where the next one begins.
    Broken(usize),
    /// From the first on, so many bytes do not belong to the frame.
    Omit(usize, usize),
}

/// The state between two reads.
#[derive(Debug)]
pub(super) struct Scanner {
    shape: Shape,
    marks: Marks,
    judge: Judge,
    bytes_max: usize,
    buffer: Vec<u8>,
    /// Where in the buffer what is held begins.
    front: usize,
    /// How far behind the front the end was looked for.
    seen: usize,
    /// How many bytes behind the front were told of already: as too long, or with a wrong checksum.
    told: usize,
    /// A frame must begin at the front: the last one ended there, or it was silent.
    expecting: bool,
    /// Until the next end marker, or the next silence, everything is noise.
    skipping: bool,
    /// So many bytes may still be of a frame that was under way when the stream was opened.
    joining: usize,
    /// What a frame carries, its escapes undone.
    inside: Vec<u8>,
    /// Where in a frame with escapes these may be.
    inner: Range<usize>,
    pub(super) noise: u64,
}

#[derive(Debug)]
enum Shape {
    Fixed(usize),
    Length(Vec<LengthField>),
    Markers { tail: Tail, omit: Option<Omit>, restart: bool },
    Escaped { tail: Tail, restart: bool, escape: Escape },
    Sml,
}

impl Shape {
    /// Whether an end marker ends a frame.
    fn ends(&self) -> bool {
        matches!(self, Self::Markers { .. } | Self::Escaped { .. })
    }
}

impl Scanner {
    pub(super) fn new(kind: &FramingKind, bytes_max: usize, judge: Judge) -> Self {
        let sml = Marks { start: vec![sml::START.to_vec()], end: Vec::new() };
        let (shape, mut marks, least) = match kind {
            FramingKind::Fixed { bytes, marks } => (Shape::Fixed((*bytes).max(1)), marks.clone(), *bytes),
            FramingKind::Length { fields, marks } => (Shape::Length(fields.clone()), marks.clone(), head_of(fields)),
            FramingKind::Markers { marks, tail, omit, restart, escape } => {
                let (tail, restart) = (tail.clone(), *restart);
                let shape = match *escape {
                    Some(escape) => Shape::Escaped { tail, restart, escape },
                    None => Shape::Markers { tail, omit: omit.clone(), restart },
                };
                (shape, marks.clone(), marks.end.len() + 1)
            }
            // The others are not for this machine.
            _ => (Shape::Sml, sml, 16),
        };
        marks.start.retain(|start| !start.is_empty());
        let longest = marks.start.iter().map(Vec::len).max().unwrap_or_default();
        let bytes_max = match shape {
            Shape::Fixed(bytes) => bytes.max(longest),
            _ => bytes_max.max(least).max(longest + 1),
        };
        Self {
            shape,
            marks,
            judge,
            bytes_max,
            buffer: Vec::new(),
            front: 0,
            seen: 0,
            told: 0,
            expecting: true,
            skipping: false,
            joining: 0,
            inside: Vec::new(),
            inner: 0..0,
            noise: 0,
        }
    }

    pub(super) fn join(&mut self) {
        self.joining = self.bytes_max;
        self.expecting = false;
        // Nothing but a silence, or an end marker, tells where the next frame begins.
        self.skipping = self.marks.start.is_empty() && !self.judge.checks();
    }

    pub(super) fn push(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Found<'_>)) {
        while !bytes.is_empty() {
            self.buffer.drain(..self.front);
            self.front = 0;
            let (piece, rest) = bytes.split_at(bytes.len().min(self.bytes_max - self.buffer.len()));
            self.buffer.extend_from_slice(piece);
            bytes = rest;
            self.scan(found);
        }
    }

    pub(super) fn held(&self) -> usize {
        self.buffer.len() - self.front
    }

    fn scan(&mut self, found: &mut impl FnMut(Found<'_>)) {
        while self.held() > 0 {
            if self.skipping && !self.shape.ends() {
                self.skip(self.held());
                return;
            }
            match self.look() {
                Look::More if self.held() < self.bytes_max => return,
                Look::More => self.overflow(found),
                Look::Noise(count) => self.skip(count),
                Look::Whole(count) => self.whole(count, found),
                Look::Broken(count) => {
                    self.tell(count, found, |frame| {
                        Found::BadChecksum(frame, crate::reading::ChecksumMismatch { found: None, computed: None })
                    });
                    self.skip(count);
                }
                Look::TooLong(count) => {
                    // A false start announces any length. Only where a frame had to begin one is missing.
                    if self.expecting {
                        self.tell(count, found, Found::TooLong);
                    }
                    self.skip(1);
                }
                Look::Omit(at, count) => {
                    let at = self.front + at;
                    self.buffer.drain(at..at + count);
                }
            }
        }
    }

    /// What is held is no frame yet, and may not grow.
    fn overflow(&mut self, found: &mut impl FnMut(Found<'_>)) {
        let held = self.held();
        if !self.marks.start.is_empty() {
            self.tell(held, found, Found::TooLong);
            self.skip(1);
            return;
        }
        // The end of what is dropped may be the beginning of the end marker.
        let dropped = held - self.marks.end.len().saturating_sub(1).min(held - 1);
        if !self.skipping {
            self.tell(dropped, found, Found::TooLong);
        }
        self.skip(dropped);
        self.skipping = true;
    }

    fn whole(&mut self, count: usize, found: &mut impl FnMut(Found<'_>)) {
        let free = self.marks.start.is_empty();
        if free && self.skipping {
            self.skip(count);
            self.skipping = false;
            self.expecting = true;
            return;
        }
        let Some(frame) = self.buffer.get(self.front..self.front + count) else { return };
        let judged = match &self.shape {
            Shape::Sml => sml::unwrap(frame, &mut self.inside).map(|()| self.inside.as_slice()),
            Shape::Escaped { escape, .. } => {
                escaped::undo(frame, &self.inner, *escape, &mut self.inside);
                self.judge.judge(&self.inside)
            }
            Shape::Fixed(_) | Shape::Length(_) | Shape::Markers { .. } => self.judge.judge(frame),
        };
        match judged {
            Ok(payload) => {
                found(Found::Frame(payload));
                self.front += count;
                self.seen = 0;
                self.told = self.told.saturating_sub(count);
                self.joining = 0;
                self.expecting = true;
            }
            Err(mismatch) => {
                let ends = self.shape.ends();
                // Where each byte may begin a frame, a wrong checksum says something only where one had to begin.
                if !free || ends || self.expecting {
                    self.tell(count, found, |frame| Found::BadChecksum(frame, mismatch));
                }
                self.skip(if free && ends { count } else { 1 });
                self.expecting = free && ends;
            }
        }
    }

    /// Tells of a frame that could not be had, unless it is a part of one that was told of, or of what was under way when the
    /// stream was opened.
    fn tell<'a>(
        &'a mut self,
        count: usize,
        found: &mut impl FnMut(Found<'_>),
        what: impl FnOnce(&'a [u8]) -> Found<'a>,
    ) {
        if self.told > 0 || self.joining > 0 {
            return;
        }
        self.told = count;
        if let Some(frame) = self.buffer.get(self.front..self.front + count) {
            found(what(frame));
        }
    }

    fn skip(&mut self, count: usize) {
        self.noise += count.saturating_sub(self.told) as u64;
        self.told = self.told.saturating_sub(count);
        self.joining = self.joining.saturating_sub(count);
        self.front += count;
        // An end that was not found there is not found there from further on either; SML and escapes count from the front.
        let from_front = matches!(self.shape, Shape::Sml | Shape::Escaped { .. });
        self.seen = if from_front { 0 } else { self.seen.saturating_sub(count) };
        self.expecting = false;
    }

    pub(super) fn idle(&mut self, found: &mut impl FnMut(Found<'_>)) {
        while self.held() > 0 {
            // Its rest will not come.
            self.skip(1);
            self.scan(found);
        }
        self.told = 0;
        self.expecting = true;
        self.skipping = false;
        self.joining = 0;
    }

    pub(super) fn end(&mut self) {
        self.skip(self.held());
        self.told = 0;
        self.expecting = true;
        self.skipping = false;
        self.joining = 0;
    }

    fn look(&mut self) -> Look {
        let window = self.buffer.get(self.front..).unwrap_or_default();
        let start = match self.marks.look_for_start(window) {
            Start::Here(length) => length,
            Start::Perhaps(0) => return Look::More,
            Start::Perhaps(noise) => return Look::Noise(noise),
        };
        match &self.shape {
            Shape::Fixed(bytes) => self.marks.ended(window, *bytes),
            Shape::Length(fields) => self.look_at_length(fields, window),
            Shape::Markers { tail, omit, restart } => {
                let look = self.marks.look_for_end(window, start, tail, omit.as_ref(), &mut self.seen);
                match look {
                    Look::Whole(count) if start > 0 && *restart => {
                        let inner = window.get(1..count - self.marks.end.len()).unwrap_or_default();
                        self.marks.last_start(inner).map_or(look, |at| Look::Noise(at + 1))
                    }
                    look => look,
                }
            }
            Shape::Escaped { tail, restart, escape } => {
                let rules = (&self.marks, tail, *escape, *restart);
                escaped::look(window, start, rules, &mut self.seen, &mut self.inner)
            }
            Shape::Sml => sml::look(window, &mut self.seen),
        }
    }

    fn look_at_length(&self, fields: &[LengthField], window: &[u8]) -> Look {
        let head = head_of(fields);
        let mut total = if fields.iter().any(|field| field.counts == Counts::All) { 0 } else { head as i64 };
        for field in fields {
            let Some(written) = window.get(field.at..field.at + field.width) else { return Look::More };
            total += i64::from(number(written, field.endian) & field.mask) * field.unit as i64 + field.plus;
        }
        let Ok(total) = usize::try_from(total) else { return Look::Noise(1) };
        if total < head.max(self.marks.end.len()) {
            Look::Noise(1)
        } else if total > self.bytes_max {
            Look::TooLong(head)
        } else {
            self.marks.ended(window, total)
        }
    }
}

/// How many bytes must be there for all of these to be.
fn head_of(fields: &[LengthField]) -> usize {
    fields.iter().map(|field| field.at + field.width).max().unwrap_or_default()
}

/// Where a frame may begin.
enum Start {
    /// Here, with a marker of that length.
    Here(usize),
    /// Not before so many bytes, and perhaps there.
    Perhaps(usize),
}

impl Tail {
    /// How long it is, if it is there.
    pub(super) fn length(&self, behind: &[u8]) -> Option<usize> {
        match self {
            Self::Bytes(count) => (*count <= behind.len()).then_some(*count),
            Self::Until(mark) => find(behind, mark).map(|at| at + mark.len()),
        }
    }
}

impl Marks {
    fn look_for_start(&self, window: &[u8]) -> Start {
        if self.start.is_empty() {
            return Start::Here(0);
        }
        for at in 0..window.len() {
            let rest = window.get(at..).unwrap_or_default();
            if let Some(start) = self.start.iter().find(|start| rest.starts_with(start)) {
                return if at == 0 { Start::Here(start.len()) } else { Start::Perhaps(at) };
            }
            if self.start.iter().any(|start| start.starts_with(rest)) {
                return Start::Perhaps(at);
            }
        }
        Start::Perhaps(window.len())
    }

    fn last_start(&self, window: &[u8]) -> Option<usize> {
        let last = |start: &Vec<u8>| window.windows(start.len()).rposition(|bytes| bytes == start);
        self.start.iter().filter_map(last).max()
    }

    /// Whether the first `count` bytes are a frame.
    fn ended(&self, window: &[u8], count: usize) -> Look {
        match window.get(..count) {
            None => Look::More,
            Some(frame) if frame.ends_with(&self.end) => Look::Whole(count),
            Some(_) => Look::Noise(1),
        }
    }

    fn look_for_end(&self, window: &[u8], start: usize, tail: &Tail, omit: Option<&Omit>, seen: &mut usize) -> Look {
        let end = self.end.as_slice();
        let first = (end.first(), omit.and_then(|omit| omit.start.first()));
        let candidate = |byte: &u8| first.0 == Some(byte) || first.1 == Some(byte);
        let mut at = (*seen).max(start);
        while let Some(next) = window.get(at..).and_then(|rest| rest.iter().position(candidate)) {
            at += next;
            *seen = at;
            let rest = window.get(at..).unwrap_or_default();
            if let Some(behind) = rest.strip_prefix(end) {
                if at == start && self.start.iter().any(|start| start == end) {
                    // One and the same marker twice: the second one begins a frame.
                    return Look::Noise(at);
                }
                return tail.length(behind).map_or(Look::More, |tail| Look::Whole(at + end.len() + tail));
            }
            if end.starts_with(rest) {
                return Look::More;
            }
            if let Some(omit) = omit {
                if let Some(behind) = rest.strip_prefix(omit.start.as_slice()) {
                    let count = |found: usize| omit.start.len() + found + omit.end.len();
                    return find(behind, &omit.end).map_or(Look::More, |found| Look::Omit(at, count(found)));
                }
                if omit.start.starts_with(rest) {
                    return Look::More;
                }
            }
            at += 1;
        }
        *seen = window.len();
        Look::More
    }
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len().max(1)).position(|window| window == mark)
}
