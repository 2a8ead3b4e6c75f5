//! Sources: where bytes come from. Each reads all that is there at once and hands it over as one batch of frames; each owns
//! its connection, comes back by itself, and acknowledges only what is safe.

pub mod framing;
mod holder;
pub mod listen;
pub mod modbus;
pub mod mqtt;
mod poll;
mod port;
pub mod serial;
