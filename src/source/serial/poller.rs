//! Asks a device that does not talk by itself, and knows whether it is there.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::clock;
use crate::counters::{Count, Counter, Counters};
use crate::profile::Poll;
use crate::profile::framing::Framing;
use crate::source::framing::{Found, Framer};
use crate::source::poll::{Asker, Turn};
use crate::status::Link;

/// Handing a request to the kernel takes no longer, unless the line is stuck.
const WRITE_MAX: Duration = Duration::from_secs(2);

/// The request's rhythm, and what came of it.
#[derive(Debug)]
pub(super) struct Poller {
    poll: Poll,
    asker: Asker,
    link: Link,
    missed: Counter,
    /// How the line's frames are found: an echo comes in them.
    framing: Framing,
    /// The frames that the last request makes, for as long as they may come back.
    echo: VecDeque<Vec<u8>>,
    /// What was told of the device: online or not; nothing yet.
    told: Option<bool>,
}

impl Poller {
    pub(super) fn new(poll: Poll, link: Link, counters: &Counters, name: &str, framing: &Framing) -> Self {
        let asker = Asker::new(poll.clone(), clock::monotonic());
        let missed = counters.counter(Count::UnitTimeouts, name);
        Self { poll, asker, link, missed, framing: framing.clone(), echo: VecDeque::new(), told: None }
    }

    /// The port was opened: another device may be there now.
    pub(super) fn begin(&mut self) {
        self.asker = Asker::new(self.poll.clone(), clock::monotonic());
    }

    /// Does what is to be done. Gives the state to tell of the device, if it is another one; or why the port is lost.
    pub(super) async fn turn(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> Result<Option<bool>, String> {
        match self.asker.turn(clock::monotonic()) {
            None => Ok(None),
            Some(Turn::Ask) => {
                self.echo = frames_of(self.asker.request(), &self.framing);
                match timeout(WRITE_MAX, stream.write_all(self.asker.request())).await {
                    Ok(Ok(())) => Ok(None),
                    Ok(Err(error)) => Err(format!("cannot be written: {error}")),
                    Err(_) => Err("takes no bytes".to_owned()),
                }
            }
            Some(Turn::Missed { tell }) => {
                self.missed.add(1);
                if !tell {
                    return Ok(None);
                }
                self.link.up("the device does not answer");
                Ok(self.tell(false))
            }
        }
    }

    /// Whether a frame is what was sent, as half-duplex adapters give it back: each of it once, and before all else.
    pub(super) fn is_echo(&mut self, frame: &[u8]) -> bool {
        let is_echo = self.echo.pop_front().is_some_and(|sent| sent == *frame);
        if !is_echo {
            self.echo.clear();
        }
        is_echo
    }

    /// A frame has come. Gives the state to tell of the device, if it is another one.
    pub(super) fn heard(&mut self) -> Option<bool> {
        if self.asker.heard(clock::monotonic()) {
            self.link.up("");
        }
        self.tell(true)
    }

    fn tell(&mut self, online: bool) -> Option<bool> {
        (self.told.replace(online) != Some(online)).then_some(online)
    }
}

/// What the framing finds in a request.
fn frames_of(request: &[u8], framing: &Framing) -> VecDeque<Vec<u8>> {
    let mut frames = VecDeque::new();
    let mut found = |found: Found<'_>| {
        if let Found::Frame(frame) = found {
            frames.push_back(frame.to_vec());
        }
    };
    let mut framer = Framer::new(framing);
    framer.push(request, &mut found);
    if framer.idle_after().is_some() {
        framer.idle(found);
    }
    frames
}

/// Returns when there is something to ask; never, where nobody has to be asked.
pub(super) async fn due(poller: Option<&Poller>) {
    match poller {
        Some(poller) => tokio::time::sleep(poller.asker.wait(clock::monotonic())).await,
        None => std::future::pending().await,
    }
}
