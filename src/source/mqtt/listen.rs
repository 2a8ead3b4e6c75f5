//! Listening to a broker for a person: every message as it comes, nothing stored, no session left behind.

use std::fmt;

use tokio::sync::watch;

use super::outage::Outage;
use super::session::Session;
use super::{Sink, Source, start};
use crate::config;
use crate::counters::Counters;
use crate::decode::Request;
use crate::outbox::KnownReceipts;
use crate::reading::{Frames, Receipt};
use crate::status::Links;

/// Hands all that a broker sends for `filters` to `hear`, until `stop` says so or its sender is gone. Errors are logged, and the
/// connection is tried again.
///
/// # Errors
/// When its thread cannot be started, or ended before its time.
pub async fn listen(
    settings: config::Mqtt,
    filters: Vec<String>,
    hear: impl FnMut(&Frames) + Send + 'static,
    stop: watch::Receiver<bool>,
) -> Result<(), String> {
    let (heard, durable) = watch::channel(0);
    let source = Source {
        session: Session::new(&settings, &[], filters),
        outage: Outage::new(&settings.name, Links::default().link(&settings.name), &Counters::default()),
        client_id: format!("tidegate-watch-{:08x}", fastrand::u32(..)),
        settings,
        obsolete: Vec::new(),
        sink: Listener { hear, heard },
        durable,
        void_at: KnownReceipts::default().void_at,
        stop,
    };
    let finished = start(source).map_err(|error| format!("no thread can be started: {error}"))?;
    match finished.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("no runtime can be started: {error}")),
        Err(_) => Err("listening has panicked, which is a defect: please report it".to_owned()),
    }
}

/// What was heard is done with.
struct Listener<F> {
    hear: F,
    heard: watch::Sender<u64>,
}

impl<F> fmt::Debug for Listener<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

impl<F: FnMut(&Frames)> Sink for Listener<F> {
    fn accept(&mut self, frames: &Frames, _receipts: &[Receipt]) -> u64 {
        (self.hear)(frames);
        let number = *self.heard.borrow() + 1;
        self.heard.send_replace(number);
        number
    }

    fn hurry(&mut self) {}

    fn take_requests(&mut self) -> Vec<Request> {
        Vec::new()
    }
}
