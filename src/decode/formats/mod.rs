//! Formats other than JSON: each takes a payload apart into a [`Doc`], so that one set of rules reads them all.
//!
//! Pure, bounded by [`Doc`]; no payload panics. What a format cannot read at all is a [`Refusal`]; a value of it that makes
//! no sense is left to the rules, which reject it alone.

pub(super) mod binary;
pub(super) mod dsmr;
pub(super) mod influx;
pub(super) mod mbus;
mod protobuf;
pub(super) mod registers;
pub(super) mod senml;
pub(super) mod sml;
pub(super) mod sparkplug;
pub(super) mod text;

use super::doc::Doc;
use crate::reading::Reason;

/// Why a payload gives nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It says that there is nothing to take.
    Ignored,
    /// It is not in this format.
    Wrong(Reason, String),
}

fn malformed<T>(detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Wrong(Reason::Malformed, detail.into()))
}

/// Refuses a payload with more values than a [`Doc`] takes.
fn fits(doc: &Doc) -> Result<(), Refusal> {
    if doc.is_full() {
        return Err(Refusal::Wrong(Reason::TooLarge, super::doc::TOO_MANY.to_owned()));
    }
    Ok(())
}
