//! Requests and answers of Modbus RTU as bytes (MODBUS over Serial Line Specification and Implementation Guide V1.02). The
//! only file that names modbus-core.
//!
//! An answer does not say which address it is for, so an answer is what has the head that this request must bring (unit,
//! function, number of bytes) and a right checksum, wherever it begins in what was heard: noise before it, the echo of a
//! two-wire adapter and the end of a late answer are passed over. The crate's own search for a frame is not used: it takes a
//! byte of noise for a head and waits for a frame that never comes, and `decode_response` panics on an exception code that it
//! does not know.

use std::ops::Range;

use modbus_core::rtu::{Header, MAX_FRAME_LEN, RequestAdu, client, extract_frame};
use modbus_core::{Request, RequestPdu};

use super::plan::Read;
use crate::profile::RegisterTable;

/// Added to the function code of a request that the device refused.
const REFUSED: u8 = 0x80;

/// What a device answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Data(Vec<u8>),
    /// It refused: the exception code.
    Exception(u8),
}

/// The request for a read.
pub(super) fn request(unit: u8, read: &Read) -> Vec<u8> {
    let (address, count) = (read.address, read.count);
    let request = match read.table {
        RegisterTable::Coil => Request::ReadCoils(address, count),
        RegisterTable::Discrete => Request::ReadDiscreteInputs(address, count),
        RegisterTable::Holding => Request::ReadHoldingRegisters(address, count),
        RegisterTable::Input => Request::ReadInputRegisters(address, count),
    };
    let adu = RequestAdu { hdr: Header { slave: unit }, pdu: RequestPdu(request) };
    let mut bytes = [0; MAX_FRAME_LEN];
    // It cannot fail: a read takes eight bytes.
    let length = client::encode_request(adu, &mut bytes).unwrap_or_default();
    bytes[..length].to_vec()
}

/// The answer to a read in what was heard, and where it is.
pub(super) fn answer(heard: &[u8], unit: u8, read: &Read) -> Option<(Answer, Range<usize>)> {
    (0..heard.len()).find_map(|start| {
        let (answer, length) = answer_at(&heard[start..], unit, read)?;
        Some((answer, start..start + length))
    })
}

/// The same if it begins with the first byte, and its length.
fn answer_at(bytes: &[u8], unit: u8, read: &Read) -> Option<(Answer, usize)> {
    let (function, length) = (read.table.code(), read.table.bytes(read.count));
    // Without the unit before it and the checksum behind it.
    let pdu_length = match bytes {
        [from, code, count, ..] if *from == unit && *code == function && usize::from(*count) == length => 2 + length,
        [from, code, ..] if *from == unit && *code == function | REFUSED => 2,
        _ => return None,
    };
    let pdu = extract_frame(bytes, pdu_length).ok()??.pdu;
    let answer = match pdu {
        [code, exception] if *code == function | REFUSED => Answer::Exception(*exception),
        [_, _, data @ ..] => Answer::Data(data.to_vec()),
        _ => return None,
    };
    Some((answer, pdu_length + 3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two input registers from 0 of unit 1, as the guide of a meter shows them.
    const REQUEST: [u8; 8] = [0x01, 0x04, 0x00, 0x00, 0x00, 0x02, 0x71, 0xcb];
    const ANSWER: [u8; 9] = [0x01, 0x04, 0x04, 0x43, 0x66, 0x33, 0x34, 0x1b, 0x38];
    const REFUSAL: [u8; 5] = [0x01, 0x84, 0x02, 0xc2, 0xc1];

    fn read() -> Read {
        Read { table: RegisterTable::Input, address: 0, count: 2, wanted: Vec::new() }
    }

    #[test]
    fn requests_and_answers_are_those_of_the_guide() {
        assert_eq!(request(1, &read()), REQUEST);
        assert_eq!(answer(&ANSWER, 1, &read()), Some((Answer::Data(vec![0x43, 0x66, 0x33, 0x34]), 0..9)));
        assert_eq!(answer(&REFUSAL, 1, &read()), Some((Answer::Exception(2), 0..5)));
        // A code that no specification knows.
        assert_eq!(answer(&[0x01, 0x84, 0x63, 0x03, 0x29], 1, &read()), Some((Answer::Exception(0x63), 0..5)));
    }

    #[test]
    fn the_answer_of_another_and_one_with_a_wrong_checksum_are_none() {
        assert_eq!(answer(&ANSWER, 2, &read()), None);
        assert_eq!(answer(&ANSWER, 1, &Read { count: 3, ..read() }), None);
        assert_eq!(answer(&ANSWER, 1, &Read { table: RegisterTable::Holding, ..read() }), None);
        for at in 0..ANSWER.len() {
            let mut wrong = ANSWER;
            wrong[at] ^= 0x10;
            assert_eq!(answer(&wrong, 1, &read()), None, "byte {at}");
            assert_eq!(answer(&ANSWER[..at], 1, &read()), None, "only {at} bytes");
        }
    }

    proptest! {
        #[test]
        fn an_answer_is_found_behind_any_noise(noise in prop::collection::vec(any::<u8>(), 0..300), after in prop::collection::vec(any::<u8>(), 0..20)) {
            let heard = [&noise[..], &REQUEST, &ANSWER, &after].concat();
            let (found, place) = answer(&heard, 1, &read()).unwrap();
            // Noise that is an answer itself, checksum and all, does not come up.
            prop_assert_eq!(found, Answer::Data(vec![0x43, 0x66, 0x33, 0x34]));
            prop_assert_eq!(place, noise.len() + 8..noise.len() + 17);
        }
    }
}
