//! The socket, plain or TLS, with its two buffers: everything that is there is read at once, everything that is due is
//! written at once, and neither waits for the other.
//!
//! Invariant: the read buffer holds [`READ_BYTES`], and more only while a larger packet (within the source's limit) is on
//! its way.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Read at once, at most.
pub(super) const READ_BYTES: usize = 256 * 1024;

/// A buffer that grew beyond this for one large packet is given back.
const KEPT_BYTES: usize = 4 * READ_BYTES;

/// A connection's socket.
#[derive(Debug)]
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What [`Stream::turn`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// That many bytes were read; 0 is the end.
    Read(usize),
    /// All that was to be written is written.
    Written,
}

/// A socket and its buffers.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Socket,
    /// What was read and not taken yet.
    pub(super) input: BytesMut,
    /// What is to be written.
    pub(super) output: BytesMut,
    unflushed: bool,
}

impl Stream {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, input: BytesMut::with_capacity(READ_BYTES), output: BytesMut::new(), unflushed: false }
    }

    /// Makes room for the next read and for a packet of `packet_bytes` that has begun. To be called when nobody holds
    /// slices of the input any more, so that its memory is used again.
    pub(super) fn make_room(&mut self, packet_bytes: usize) {
        if self.input.is_empty() && self.input.capacity() > KEPT_BYTES && packet_bytes == 0 {
            self.input = BytesMut::with_capacity(READ_BYTES);
        }
        let wanted = READ_BYTES.max(packet_bytes.saturating_sub(self.input.len()));
        self.input.reserve(wanted);
    }

    /// Whether something is still to be written.
    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty() || self.unflushed
    }

    /// Writes what is to be written and, if `read`, reads what is there; returns when either got somewhere. Safe to
    /// cancel: nothing is lost.
    pub(super) async fn turn(&mut self, read: bool) -> io::Result<Turn> {
        poll_fn(|cx| {
            let written = self.poll_output(cx)?;
            if read && let Poll::Ready(count) = self.poll_input(cx)? {
                return Poll::Ready(Ok(Turn::Read(count)));
            }
            if written { Poll::Ready(Ok(Turn::Written)) } else { Poll::Pending }
        })
        .await
    }

    /// Closes the writing side.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        self.socket.shutdown().await
    }

    /// Reads until the other side closes, and forgets what it reads.
    pub(super) async fn drain(&mut self) -> io::Result<()> {
        let mut unwanted = [0; 4096];
        while self.socket.read(&mut unwanted).await? > 0 {}
        Ok(())
    }

    /// Whether all of the output went out with this call.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if !self.has_output() {
            return Ok(false);
        }
        while !self.output.is_empty() {
            match Pin::new(&mut self.socket).poll_write(cx, &self.output)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => self.output.advance(count),
                Poll::Pending => return Ok(false),
            }
            self.unflushed = true;
        }
        let flushed = Pin::new(&mut self.socket).poll_flush(cx)?.is_ready();
        self.unflushed = !flushed;
        Ok(flushed)
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut total = 0;
        // A full buffer is no reason to let it grow: what it holds is taken first.
        while total == 0 || self.input.capacity() > self.input.len() {
            match pin!(self.socket.read_buf(&mut self.input)).poll(cx) {
                Poll::Ready(Ok(count @ 1..)) => total += count,
                end if total == 0 => return end,
                // An end or an error comes again with the next read; first what came before it.
                _ => break,
            }
        }
        Poll::Ready(Ok(total))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Tls(socket) => Pin::new(socket.as_mut()).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(socket) => Pin::new(socket.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(socket) => Pin::new(socket.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(socket) => Pin::new(socket.as_mut()).poll_shutdown(cx),
        }
    }
}
