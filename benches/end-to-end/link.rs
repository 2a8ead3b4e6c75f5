//! A link to Kafka that takes its time: TCP connections through a port here, with all answers so much later.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use tidegate::clock;

/// What one read takes at most, and how many of them may be on their way.
const READ_BYTES: usize = 64 * 1024;
const READS: usize = 1_024;

/// A port of its own; the threads end with the process.
#[derive(Debug)]
pub(crate) struct SlowLink {
    listener: TcpListener,
}

impl SlowLink {
    pub(crate) fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Begins to carry connections to that port, with answers that come so much later.
    pub(crate) fn carry_to(self, port: u16, delay: Duration) {
        std::thread::spawn(move || {
            for client in self.listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || carry(from, to, Duration::ZERO));
                std::thread::spawn(move || carry(server, client, delay));
            }
        });
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let _ = to.set_nodelay(true);
    let (sender, receiver) = sync_channel::<(Instant, Vec<u8>)>(READS);
    let writer = std::thread::spawn(move || {
        for (due, bytes) in receiver {
            std::thread::sleep(due.saturating_duration_since(clock::instant()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if sender.send((clock::instant() + delay, buffer[..length].to_vec())).is_err() {
            break;
        }
    }
    drop(sender);
    let _ = from.shutdown(Shutdown::Both);
    let _ = writer.join();
}
