//! Requests and answers of wired M-Bus as bytes (EN 13757-2, 5.4 to 5.7, and the selection of EN 13757-7).
//!
//! Unlike on a Modbus an answer says whom it is from, but not what it answers; that it is new tells a bit that each request
//! toggles and the meter remembers. An answer is looked for anywhere in what was heard: noise before it and the echo of a level
//! converter are passed over.

use std::ops::Range;

use crate::decode;
use crate::profile::{Telegram, checksum};

/// The address at which a selected meter answers, whatever its own is.
pub(super) const SELECTED: u8 = 253;
/// To it every meter answers, with its own address.
const ANY: u8 = 254;
/// What a meter says that has understood and has nothing to say.
const ACKNOWLEDGED: u8 = 0xe5;

/// Has a meter begin anew: it forgets the bit and whatever it was about to say (SND_NKE).
pub(super) fn reset(address: u8) -> Vec<u8> {
    short(0x40, address)
}

/// Asks for the next telegram of its data (REQ_UD2).
pub(super) fn request(address: u8, toggled: bool) -> Vec<u8> {
    short(if toggled { 0x7b } else { 0x5b }, address)
}

/// Has the meter with that secondary address answer at [`SELECTED`], and no other.
pub(super) fn select(meter: &[u8; 8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Telegram { control: 0x53, address: SELECTED, information: 0x52, data: meter }.write(&mut bytes);
    bytes
}

fn short(control: u8, address: u8) -> Vec<u8> {
    vec![0x10, control, address, checksum(&[control, address]), 0x16]
}

/// Whether a request was acknowledged.
pub(super) fn acknowledged(heard: &[u8], request: &[u8]) -> Option<((), Range<usize>)> {
    let echo = if heard.starts_with(request) { request.len() } else { 0 };
    let at = echo + heard[echo..].iter().position(|byte| *byte == ACKNOWLEDGED)?;
    Some(((), at..at + 1))
}

/// A telegram with data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// As it is on the wire.
    pub(super) bytes: Vec<u8>,
    /// What it brings behind its header.
    pub(super) records: Vec<u8>,
    /// The meter's secondary address, if it says it.
    pub(super) meter: Option<[u8; 8]>,
    /// Whether it has more to say.
    pub(super) more: bool,
}

/// The answer to a request for data in what was heard, and where it is. `meter` is the one that was selected.
pub(super) fn answer(heard: &[u8], address: u8, meter: Option<&[u8; 8]>) -> Option<(Answer, Range<usize>)> {
    (0..heard.len()).find_map(|start| {
        let (telegram, length) = Telegram::read(&heard[start..])?;
        // RSP_UD, with or without a wish for an alarm to be asked for, and with or without room for more.
        let is_answer = telegram.control & 0xcf == 0x08;
        let is_from = address == ANY || address == SELECTED || telegram.address == address;
        let own = secondary(&telegram);
        let is_meter = meter.zip(own.as_ref()).is_none_or(|(wanted, own)| fits(wanted, own));
        if !(is_answer && is_from && is_meter) {
            return None;
        }
        let header = match telegram.information {
            0x72 => 12,
            0x7a => 4,
            _ => 0,
        };
        let answer = Answer {
            bytes: heard[start..start + length].to_vec(),
            records: telegram.data.get(header..).unwrap_or_default().to_vec(),
            meter: own,
            more: decode::more_telegrams_follow(&telegram),
        };
        Some((answer, start..start + length))
    })
}

fn secondary(telegram: &Telegram<'_>) -> Option<[u8; 8]> {
    telegram.data.first_chunk().filter(|_| telegram.information == 0x72).copied()
}

/// Whether a meter is the one that was meant: of its number each digit may be left open, of the rest each byte.
fn fits(wanted: &[u8; 8], own: &[u8; 8]) -> bool {
    let digit = |wanted: u8, own: u8| wanted == 0xf || wanted == own;
    let number = |(wanted, own): (&u8, &u8)| digit(wanted >> 4, own >> 4) && digit(wanted & 15, own & 15);
    wanted[..4].iter().zip(own).all(number)
        && wanted.iter().zip(own).skip(4).all(|(wanted, own)| *wanted == 0xff || wanted == own)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const METER: [u8; 8] = [0x78, 0x56, 0x34, 0x12, 0x43, 0x04, 0x01, 0x07];

    fn said(control: u8, address: u8, records: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let data = [&METER[..], &[7, 0, 0, 0], records].concat();
        Telegram { control, address, information: 0x72, data: &data }.write(&mut bytes);
        bytes
    }

    #[test]
    fn requests_are_those_of_the_standard() {
        assert_eq!(reset(5), [0x10, 0x40, 0x05, 0x45, 0x16]);
        assert_eq!(request(5, true), [0x10, 0x7b, 0x05, 0x80, 0x16]);
        assert_eq!(request(250, false), [0x10, 0x5b, 0xfa, 0x55, 0x16]);
        let expected =
            [0x68, 0x0b, 0x0b, 0x68, 0x53, 0xfd, 0x52, 0x78, 0x56, 0x34, 0x12, 0xff, 0xff, 0xff, 0xff, 0xb2, 0x16];
        assert_eq!(select(&[0x78, 0x56, 0x34, 0x12, 0xff, 0xff, 0xff, 0xff]), expected);
    }

    #[test]
    fn an_acknowledgement_is_not_taken_from_an_echo() {
        let request = reset(0xe5);
        assert_eq!(acknowledged(&request, &request), None);
        assert_eq!(acknowledged(&[&request[..], &[0xe5]].concat(), &request), Some(((), 5..6)));
        assert_eq!(acknowledged(&[0xff, 0xe5], &reset(5)), Some(((), 1..2)));
    }

    #[test]
    fn an_answer_is_of_the_meter_that_was_asked() {
        let frame = said(0x08, 5, &[0x01, 0x16, 7, 0x1f]);
        let (found, place) = answer(&frame, 5, None).unwrap();
        assert_eq!((found.bytes.as_slice(), place), (frame.as_slice(), 0..frame.len()));
        assert_eq!(
            (found.meter, found.more, found.records.as_slice()),
            (Some(METER), true, &[0x01, 0x16, 7, 0x1f][..])
        );
        assert!(answer(&said(0x38, 5, &[]), 5, None).is_some_and(|(answer, _)| !answer.more));
        assert_eq!(answer(&frame, 6, None), None);
        assert!(answer(&frame, 254, None).is_some());
        // The echo of a selection is none.
        assert_eq!(answer(&select(&METER), SELECTED, None), None);
        assert!(answer(&frame, SELECTED, Some(&METER)).is_some());
        let other = [0x77, 0x56, 0x34, 0xff, 0xff, 0xff, 0xff, 0x07];
        assert!(answer(&frame, SELECTED, Some(&other)).is_none(), "another digit");
        let any = [0xf8, 0x56, 0x34, 0xff, 0xff, 0xff, 0xff, 0x07];
        assert!(answer(&frame, SELECTED, Some(&any)).is_some());
        let other = [0x78, 0x56, 0x34, 0x12, 0x43, 0x04, 0x01, 0x04];
        assert!(answer(&frame, SELECTED, Some(&other)).is_none(), "another medium");
    }

    proptest! {
        #[test]
        fn an_answer_is_found_behind_any_noise(noise in prop::collection::vec(any::<u8>(), 0..300), after in prop::collection::vec(any::<u8>(), 0..20)) {
            let frame = said(0x08, 5, &[0x01, 0x16, 7]);
            let heard = [&noise[..], &request(5, true), &frame, &after].concat();
            let (found, place) = answer(&heard, 5, None).unwrap();
            prop_assert_eq!(found.bytes, &frame[..]);
            prop_assert_eq!(place, noise.len() + 5..noise.len() + 5 + frame.len());
        }
    }
}
