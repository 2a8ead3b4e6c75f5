//! Modbus RTU: a device is asked for the registers that its profile wants. The frame's layout is in `profile::registers`.
//!
//! `wire` has requests and answers as bytes, `plan` which requests bring a profile's registers.

mod plan;
mod wire;

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::ask::Asking;
use crate::profile::{RegisterBlock, Registers, exception_text};
use plan::Read;
use wire::Answer;

/// What holds where neither configuration nor profile says anything.
pub(super) const EVERY: Duration = Duration::from_secs(10);
pub(super) const TIMEOUT: Duration = Duration::from_millis(500);
/// Requests of one round without an answer, none before them having had one, after which the round is given up.
const SILENT_MAX: usize = 2;
/// "Illegal data address" and "illegal data value": perhaps only a part of what was asked for is not there.
const PARTS_MAY_BE_THERE: [u8; 2] = [2, 3];

/// How a device is asked.
#[derive(Debug)]
pub(super) struct Device {
    address: u8,
    reads: Vec<Read>,
}

impl Device {
    pub(super) fn new(address: u8, registers: &Registers) -> Self {
        Self { address, reads: plan::reads(registers) }
    }

    /// Asks for all that its profile wants, and appends what it answers to `frame`. Whether it answered at all.
    pub(super) async fn round<S>(&mut self, mut asking: Asking<'_, S>, frame: &mut Vec<u8>) -> io::Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut answered, mut silent) = (false, 0);
        let failures = asking.failures;
        // One that does not answer is asked for something else each time: there are devices that are silent about what they lack.
        let first = failures % self.reads.len().max(1);
        self.reads.rotate_left(first);
        let mut left: VecDeque<Read> = std::mem::take(&mut self.reads).into();
        let mut gone = None;
        while let Some(read) = left.pop_front() {
            let tries = if failures == 0 && silent == 0 { 1 + asking.retries } else { 1 };
            let request = wire::request(self.address, &read);
            let find = |heard: &[u8]| wire::answer(heard, self.address, &read);
            match asking.ask(&request, tries, || describe(&read), find).await {
                Ok(Some(Answer::Data(data))) => {
                    answered = true;
                    block(&read, Ok(&data)).write(frame);
                }
                Ok(Some(Answer::Exception(code))) => {
                    answered = true;
                    if PARTS_MAY_BE_THERE.contains(&code)
                        && let Some(parts) = read.split()
                    {
                        asking.known.exceptions.add(1);
                        // From now on: what it lacks does not come to be.
                        parts.into_iter().rev().for_each(|part| left.push_front(part));
                        continue;
                    }
                    asking.known.exceptions.add(1);
                    asking.known.trouble =
                        format!("refuses {}: exception {code} ({})", describe(&read), exception_text(code));
                    asking.warn();
                    block(&read, Err(code)).write(frame);
                }
                Ok(None) => silent += 1,
                Err(error) => gone = Some(error),
            }
            self.reads.push(read);
            if gone.is_some() || (!answered && (failures > 0 || silent >= SILENT_MAX)) {
                break;
            }
        }
        self.reads.extend(left);
        gone.map_or(Ok(answered), Err)
    }
}

fn describe(read: &Read) -> String {
    format!("{} of {} from {}", read.count, read.table.as_str(), read.address)
}

fn block<'a>(read: &Read, data: Result<&'a [u8], u8>) -> RegisterBlock<'a> {
    RegisterBlock { table: read.table, address: read.address, count: read.count, data }
}
