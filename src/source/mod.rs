//! Sources: where frames come from.

pub mod framing;
pub mod serial;
