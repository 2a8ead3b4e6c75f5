//! Decoding: a profile turns a frame into readings. (API first; see the items.)
use crate::reading::{Batch, Frame, Name, Reason, Stage, Stamp};

/// Decodes the frames of one source.
#[derive(Debug)]
pub struct Decoder {}

/// What became of a frame.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// That many readings were pushed.
    Readings(usize),
    /// A device state was pushed.
    State,
    /// The profile knows this frame and asks to ignore it.
    Ignored,
    /// A retained message without a time of its own: nothing says when it was measured.
    RetainedWithoutTime,
    /// It could not be read.
    Rejected(Rejection),
}

/// Why a frame could not be read.
#[derive(Debug, PartialEq)]
pub struct Rejection {
    /// The profile that tried.
    pub profile: Option<Name>,
    /// Where.
    pub stage: Stage,
    /// Why, as a code.
    pub reason: Reason,
    /// Why, for a person: what was expected and what was found.
    pub detail: String,
}

impl Decoder {
    /// Decodes one frame onto the end of `out`.
    pub fn decode(&mut self, _frame: &Frame<'_>, _received: Stamp, _out: &mut Batch) -> Outcome {
        unimplemented!()
    }

    /// The MQTT topic filters to subscribe to.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<String> {
        unimplemented!()
    }
}
