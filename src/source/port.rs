//! Opening a serial port. The only file that names tokio-serial and serial2.

use std::fmt::Display;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tokio_serial::{DataBits, FlowControl, SerialPortBuilderExt, StopBits};

use super::holder;
use crate::config::Parity;
use crate::service::sandbox;

/// What holds where neither configuration nor profile says anything.
pub(super) const BAUD: u32 = 9_600;

/// A port that is open.
pub(super) type Port = tokio_serial::SerialStream;

/// How a line is set; 9600 8N1 where nothing is said.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Line {
    pub(super) baud: Option<u32>,
    pub(super) data_bits: Option<u8>,
    pub(super) parity: Option<Parity>,
    pub(super) stop_bits: Option<u8>,
}

/// Opens a port.
pub(super) fn open(port: &Path, line: Line) -> Result<Port, String> {
    let builder = tokio_serial::new(port.to_string_lossy(), line.baud.unwrap_or(BAUD))
        .data_bits(match line.data_bits {
            Some(5) => DataBits::Five,
            Some(6) => DataBits::Six,
            Some(7) => DataBits::Seven,
            _ => DataBits::Eight,
        })
        .parity(match line.parity {
            Some(Parity::Odd) => tokio_serial::Parity::Odd,
            Some(Parity::Even) => tokio_serial::Parity::Even,
            Some(Parity::None) | None => tokio_serial::Parity::None,
        })
        .stop_bits(if line.stop_bits == Some(2) { StopBits::Two } else { StopBits::One })
        .flow_control(FlowControl::None);
    builder.open_native_async().map_err(|error| match error.kind() {
        tokio_serial::ErrorKind::Io(std::io::ErrorKind::NotFound) => cannot_be_opened(&error),
        _ => refused(port, &error),
    })
}

/// The same with the direction of its RS-485 transceiver switched by the kernel, which must be said before the first byte is
/// sent. The descriptor by which it is said lives until the port is open, so that no driver forgets it in between.
pub(super) fn open_rs485(port: &Path, line: Line) -> Result<Port, String> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let descriptor = rustix::fs::open(port, flags, Mode::empty()).map_err(|error| match error {
        rustix::io::Errno::NOENT => cannot_be_opened(&error),
        _ => refused(port, &error),
    })?;
    let transceiver = serial2::SerialPort::from(descriptor);
    transceiver.set_rs4xx_mode(serial2::rs4xx::Rs485Config::new()).map_err(|error| {
        format!(
            "its driver does not switch an RS-485 transceiver: {error}; take `rs485` out where the adapter switches by itself, as \
             USB adapters do, or where the device tree has it"
        )
    })?;
    open(port, line)
}

fn cannot_be_opened(error: &dyn Display) -> String {
    format!("cannot be opened: {error}")
}

fn refused(port: &Path, error: &dyn Display) -> String {
    if let Some(hint) = sandbox::port_refused(port) {
        return format!("cannot be opened: {error}: {hint}");
    }
    match holder::of(port) {
        Some(holder) => format!("cannot be opened: {error}: {holder} has it; a port is for one program at a time"),
        None => cannot_be_opened(error),
    }
}

/// Warns of a program that reads the port too: each would get a part of the bytes.
pub(super) fn warn_if_shared(source: &str, port: &Path) {
    if let Some(holder) = holder::of(port) {
        tracing::warn!(
            source,
            "{}: {holder} has it open too, and takes a part of what comes: stop one of the two",
            port.display()
        );
    }
}
