//! Telegrams of wired M-Bus (EN 13757-2): what a poll of a meter gives.
//!
//! **The frame** of one meter and one round is its answers as they were on the wire, one behind the other: long frames, of
//! which there are several where a meter has more to say than one of them holds. Decoding is pure so, and a dead letter of it
//! says all that there was.
//!
//! | bytes | |
//! |---|---|
//! | 4 | `68`, the length twice, `68` |
//! | 3 | the control field, the address, and the control information, which says what follows |
//! | … | data; the length counts it and the three bytes before it |
//! | 2 | the sum of all that the length counts, `16` |

/// Begins a long frame.
const START: u8 = 0x68;
/// Ends it.
const STOP: u8 = 0x16;
/// What stands before the bytes that its length counts.
const HEAD_BYTES: usize = 4;
/// What stands behind them.
const TAIL_BYTES: usize = 2;

/// A long frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Telegram<'a> {
    /// The control field: what kind of frame it is.
    pub control: u8,
    /// The meter's primary address.
    pub address: u8,
    /// The control information field: what the data is.
    pub information: u8,
    /// What it carries.
    pub data: &'a [u8],
}

impl<'a> Telegram<'a> {
    /// The long frame that begins with the first byte, whole and with a right checksum, and how many bytes it takes.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let &[START, length, again, START, ..] = bytes else { return None };
        let length = usize::from(length);
        let content = bytes.get(HEAD_BYTES..HEAD_BYTES + length).filter(|_| length == usize::from(again))?;
        let tail = bytes.get(HEAD_BYTES + length..HEAD_BYTES + length + TAIL_BYTES)?;
        let &[control, address, information, ref data @ ..] = content else { return None };
        let whole = tail == [checksum(content), STOP];
        whole.then_some((Self { control, address, information, data }, HEAD_BYTES + length + TAIL_BYTES))
    }

    /// Appends it to `out`; nothing if it carries more than a long frame holds.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Ok(length) = u8::try_from(self.data.len() + 3) else { return };
        out.extend([START, length, length, START]);
        let begin = out.len();
        out.extend([self.control, self.address, self.information]);
        out.extend_from_slice(self.data);
        out.extend([checksum(&out[begin..]), STOP]);
    }
}

/// The sum of bytes, of which the lowest eight bits count.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; 13] = [0x68, 7, 7, 0x68, 0x08, 5, 0x78, 0x01, 0xfd, 0x17, 0x00, 0x9a, 0x16];

    #[test]
    fn a_long_frame_is_read_if_it_is_whole_and_right() {
        let heard = [&FRAME[..], &[0xff]].concat();
        let (telegram, length) = Telegram::read(&heard).unwrap();
        assert_eq!((telegram.control, telegram.address, telegram.information, length), (8, 5, 0x78, 13));
        assert_eq!(telegram.data, [0x01, 0xfd, 0x17, 0x00]);
        let mut written = Vec::new();
        telegram.write(&mut written);
        assert_eq!(written, FRAME);
        for at in 0..FRAME.len() {
            let mut wrong = FRAME;
            wrong[at] ^= 0x04;
            assert_eq!(Telegram::read(&wrong), None, "byte {at}");
            assert_eq!(Telegram::read(&FRAME[..at]), None, "only {at} bytes");
        }
        assert_eq!(Telegram::read(&[0x68, 2, 2, 0x68, 0x08, 5, 0x0d, 0x16]), None, "without control information");
    }
}
