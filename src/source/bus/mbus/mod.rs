//! Wired M-Bus: a meter is asked for all telegrams that it has. The frame is these as they came (`profile::telegram`).
//!
//! A round begins with a reset, or with the selection of a meter by its number, so that it always begins with the first
//! telegram. A meter that answers though it acknowledged no reset [`IGNORED_MAX`] times in a row is asked without, but
//! for one round in [`TRY_AGAIN`]. At most [`TELEGRAMS_MAX`] are asked for; one that says the same again has not
//! understood and is asked no more.

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
/// So many resets that a meter does not acknowledge and answers all the same: it knows none. Fewer may be noise.
const IGNORED_MAX: u32 = 3;
/// Of so many rounds of such a meter one begins with a reset: it may have been noise after all, or another meter now.
const TRY_AGAIN: u32 = 16;

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
    /// It has not acknowledged the last reset, and not answered since.
    unacknowledged: bool,
    /// Resets in a row that it has not acknowledged, but answered after them.
    ignored: u32,
    /// Rounds since then.
    without: u32,
    /// Who answered last.
    meter: Option<[u8; 8]>,
}

impl Device {
    pub(super) fn new(address: BusAddress) -> Self {
        Self { address, toggled: true, unacknowledged: false, ignored: 0, without: 0, meter: None }
    }

    /// Asks for all that it has, and appends it to `frame`. Whether it answered at all.
    pub(super) async fn round<S>(&mut self, mut asking: Asking<'_, S>, frame: &mut Vec<u8>) -> io::Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let tries = if asking.failures == 0 { 1 + asking.retries } else { 1 };
        let plain = asking.failures % 2 == 1 || self.goes_without();
        let (begin, what) = match self.address {
            BusAddress::Meter(meter) => (Some(wire::select(&meter)), "the selection by its number"),
            // One that does not answer is asked for its data every other time: there are meters that acknowledge no reset.
            BusAddress::Number(_) if plain => (None, ""),
            BusAddress::Number(address) => (Some(wire::reset(address)), "the reset"),
        };
        // Whether it may have begun anew without saying so.
        let mut unsure = false;
        if let Some(begin) = &begin {
            // One that may know no reset loses no time by it.
            let tries = if self.ignored == 0 { tries } else { 1 };
            let find = |heard: &[u8]| wire::acknowledged(heard, begin);
            let begun = asking.ask(begin, tries, || what.to_owned(), find).await?.is_some();
            self.unacknowledged = !begun;
            if begun {
                (self.toggled, self.ignored) = (true, 0);
            } else if self.ignored == 0 || asking.failures != 0 {
                return Ok(false);
            } else {
                // Not the bit of a beginning: a meter that has ignored the reset would say again what it said last time.
                unsure = true;
                asking.known.trouble.clear();
            }
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
                if !std::mem::take(&mut unsure) {
                    break;
                }
                // It has begun anew, and took the first request for a repeated one: this is the first telegram again.
                continue;
            }
            if before.is_some() {
                unsure = false;
            }
            frame.extend_from_slice(&answer.bytes);
            let more = answer.more;
            before = Some(answer);
            if !more {
                break;
            }
        }
        let Some(answer) = before else { return Ok(false) };
        if std::mem::take(&mut self.unacknowledged) {
            (self.ignored, self.without) = (self.ignored + 1, 0);
        }
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

    /// Whether it is asked without a reset in this round.
    fn goes_without(&mut self) -> bool {
        if self.ignored < IGNORED_MAX {
            return false;
        }
        self.without += 1;
        !self.without.is_multiple_of(TRY_AGAIN)
    }
}

#[cfg(test)]
mod tests;
