//! Wired M-Bus: a meter is asked for all telegrams that it has. The frame is these as they came (`profile::telegram`).
//!
//! A round begins with a reset, or with the selection of a meter by its number, so that it always begins with the first
//! telegram. A meter that acknowledges no reset, and answers without one, is asked without from then on. At most
//! [`TELEGRAMS_MAX`] are asked for; one that says the same again has not understood and is asked no more.

mod wire;

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::ask::Asking;
use crate::config::BusAddress;

/// What holds where neither configuration nor profile says anything. Many meters run on a battery that bears so much.
pub(super) const EVERY: Duration = Duration::from_secs(900);
pub(super) const BAUD: u32 = 2_400;
/// An answer begins within 330 bits and 50 ms (EN 13757-2, 5.5.5) …
const ANSWER_BITS: u32 = 330;
/// … to which level converters and USB add something.
const ANSWER_MORE: Duration = Duration::from_millis(150);
/// The longest telegram, and a little for gaps in it.
pub(super) const TELEGRAM_CHARACTERS: u32 = 261 + 33;
/// Telegrams of one round.
const TELEGRAMS_MAX: usize = 16;

/// How long an answer may take to begin.
pub(super) fn timeout(baud: u32) -> Duration {
    Duration::from_secs(1) * ANSWER_BITS / baud.max(1) + ANSWER_MORE
}

/// How a meter is asked.
#[derive(Debug)]
pub(super) struct Device {
    address: BusAddress,
    /// Of the next request: whether its bit is set.
    toggled: bool,
    /// It has not acknowledged the last reset.
    ignored_reset: bool,
    /// It answers, but acknowledges none.
    without_reset: bool,
    /// Who answered last.
    meter: Option<[u8; 8]>,
}

impl Device {
    pub(super) fn new(address: BusAddress) -> Self {
        Self { address, toggled: true, ignored_reset: false, without_reset: false, meter: None }
    }

    /// Asks for all that it has, and appends it to `frame`. Whether it answered at all.
    pub(super) async fn round<S>(&mut self, mut asking: Asking<'_, S>, frame: &mut Vec<u8>) -> io::Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let tries = if asking.failures == 0 { 1 + asking.retries } else { 1 };
        let (begin, what) = match self.address {
            BusAddress::Meter(meter) => (Some(wire::select(&meter)), "the selection by its number"),
            // One that does not answer is asked for its data every other time: there are meters that acknowledge no reset.
            BusAddress::Number(_) if self.without_reset || asking.failures % 2 == 1 => (None, ""),
            BusAddress::Number(address) => (Some(wire::reset(address)), "the reset"),
        };
        if let Some(begin) = &begin {
            let find = |heard: &[u8]| wire::acknowledged(heard, begin);
            let begun = asking.ask(begin, tries, || what.to_owned(), find).await?.is_some();
            self.ignored_reset = !begun;
            if !begun {
                return Ok(false);
            }
            self.toggled = true;
        }
        let (address, meter) = match &self.address {
            BusAddress::Number(address) => (*address, None),
            BusAddress::Meter(meter) => (wire::SELECTED, Some(meter)),
        };
        let mut tries = tries;
        let mut before: Option<wire::Answer> = None;
        for number in 1..=TELEGRAMS_MAX {
            let request = wire::request(address, self.toggled);
            let find = |heard: &[u8]| wire::answer(heard, address, meter);
            let what = || if number == 1 { "its data".to_owned() } else { format!("telegram {number} of its data") };
            let Some(answer) = asking.ask(&request, tries, what, find).await? else { break };
            // It is there: what is lost from now on is asked for again.
            tries = 1 + asking.retries;
            self.toggled = !self.toggled;
            if before.as_ref().is_some_and(|before| before.records == answer.records) {
                break;
            }
            frame.extend_from_slice(&answer.bytes);
            let more = answer.more;
            before = Some(answer);
            if !more {
                break;
            }
        }
        let Some(answer) = before else { return Ok(false) };
        self.without_reset |= begin.is_none() && self.ignored_reset;
        let known = std::mem::replace(&mut self.meter, answer.meter);
        if let Some((known, now)) = known.zip(answer.meter).filter(|(known, now)| known != now) {
            asking.known.trouble = format!(
                "is another meter than before, {} and not {}: it was exchanged, or two have that address",
                BusAddress::Meter(now),
                BusAddress::Meter(known)
            );
            asking.warn();
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
