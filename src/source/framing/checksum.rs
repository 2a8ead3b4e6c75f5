//! Checksums, computed and compared. Which there are is the closed list of [`CHECKSUMS`].

use crc::{Algorithm, Crc};

use crate::profile::framing::{Checksum, ChecksumKind, Endian, Place, Span, offset};
use crate::reading::ChecksumMismatch;

macro_rules! catalogue {
    ($($word:literal = $size:ident $algorithm:ident,)+) => {
        const SUMS: usize = 7;
        const CRCS: usize = [$($word),+].len();

        /// The words of all checksums. Those with a slash are of the catalogue of parametrised CRC algorithms.
        pub const CHECKSUMS: [&str; SUMS + CRCS] =
            ["sum8", "sum16", "twos_complement", "twos_complement16", "ones_complement", "xor8", "fletcher8", $($word),+];

        /// The kind of that word, and how many bytes its number has.
        #[must_use]
        pub fn checksum_kind(word: &str) -> Option<(ChecksumKind, usize)> {
            Some(match word {
                "sum8" => (ChecksumKind::Sum8, 1),
                "sum16" => (ChecksumKind::Sum16, 2),
                "twos_complement" => (ChecksumKind::TwosComplement, 1),
                "twos_complement16" => (ChecksumKind::TwosComplement16, 2),
                "ones_complement" => (ChecksumKind::OnesComplement, 1),
                "xor8" => (ChecksumKind::Xor8, 1),
                "fletcher8" => (ChecksumKind::Fletcher8, 2),
                $($word => (ChecksumKind::Crc($word), size_of::<$size>()),)+
                _ => return None,
            })
        }

        fn engine(word: &str) -> Option<Engine> {
            Some(match word {
                $($word => <$size as Register>::engine(&crc::$algorithm),)+
                _ => return None,
            })
        }
    };
}

catalogue! {
    "crc-8/smbus" = u8 CRC_8_SMBUS,
    "crc-8/maxim-dow" = u8 CRC_8_MAXIM_DOW,
    "crc-8/nrsc-5" = u8 CRC_8_NRSC_5,
    "crc-8/rohc" = u8 CRC_8_ROHC,
    "crc-8/darc" = u8 CRC_8_DARC,
    "crc-8/wcdma" = u8 CRC_8_WCDMA,
    "crc-8/dvb-s2" = u8 CRC_8_DVB_S2,
    "crc-8/sae-j1850" = u8 CRC_8_SAE_J1850,
    "crc-8/autosar" = u8 CRC_8_AUTOSAR,
    "crc-8/i-432-1" = u8 CRC_8_I_432_1,
    "crc-16/modbus" = u16 CRC_16_MODBUS,
    "crc-16/arc" = u16 CRC_16_ARC,
    "crc-16/x-25" = u16 CRC_16_IBM_SDLC,
    "crc-16/ccitt-false" = u16 CRC_16_IBM_3740,
    "crc-16/kermit" = u16 CRC_16_KERMIT,
    "crc-16/xmodem" = u16 CRC_16_XMODEM,
    "crc-16/genibus" = u16 CRC_16_GENIBUS,
    "crc-16/mcrf4xx" = u16 CRC_16_MCRF4XX,
    "crc-16/spi-fujitsu" = u16 CRC_16_SPI_FUJITSU,
    "crc-16/usb" = u16 CRC_16_USB,
    "crc-16/maxim-dow" = u16 CRC_16_MAXIM_DOW,
    "crc-16/en-13757" = u16 CRC_16_EN_13757,
    "crc-16/dnp" = u16 CRC_16_DNP,
    "crc-16/umts" = u16 CRC_16_UMTS,
    "crc-32/iso-hdlc" = u32 CRC_32_ISO_HDLC,
    "crc-32/iscsi" = u32 CRC_32_ISCSI,
    "crc-32/bzip2" = u32 CRC_32_BZIP2,
    "crc-32/mpeg-2" = u32 CRC_32_MPEG_2,
    "crc-32/jamcrc" = u32 CRC_32_JAMCRC,
}

/// What computes a checksum, its table made.
enum Engine {
    Sum(ChecksumKind),
    Crc8(Box<Crc<u8>>),
    Crc16(Box<Crc<u16>>),
    Crc32(Box<Crc<u32>>),
}

/// A CRC's register, by its width.
trait Register: crc::Width {
    fn engine(algorithm: &'static Algorithm<Self>) -> Engine;
}

impl Register for u8 {
    fn engine(algorithm: &'static Algorithm<Self>) -> Engine {
        Engine::Crc8(Box::new(Crc::<Self>::new(algorithm)))
    }
}

impl Register for u16 {
    fn engine(algorithm: &'static Algorithm<Self>) -> Engine {
        Engine::Crc16(Box::new(Crc::<Self>::new(algorithm)))
    }
}

impl Register for u32 {
    fn engine(algorithm: &'static Algorithm<Self>) -> Engine {
        Engine::Crc32(Box::new(Crc::<Self>::new(algorithm)))
    }
}

impl Engine {
    fn new(kind: ChecksumKind) -> Self {
        match kind {
            ChecksumKind::Crc(word) => engine(word).unwrap_or(Self::Sum(ChecksumKind::Sum8)),
            sum => Self::Sum(sum),
        }
    }

    fn compute(&self, bytes: &[u8]) -> u32 {
        let sum = || bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        let sum16 = || bytes.iter().fold(0_u16, |sum, byte| sum.wrapping_add(u16::from(*byte)));
        match self {
            Self::Crc8(crc) => u32::from(crc.checksum(bytes)),
            Self::Crc16(crc) => u32::from(crc.checksum(bytes)),
            Self::Crc32(crc) => crc.checksum(bytes),
            Self::Sum(ChecksumKind::Sum16) => u32::from(sum16()),
            Self::Sum(ChecksumKind::TwosComplement16) => u32::from(sum16().wrapping_neg()),
            Self::Sum(ChecksumKind::TwosComplement) => u32::from(sum().wrapping_neg()),
            Self::Sum(ChecksumKind::OnesComplement) => u32::from(!sum()),
            Self::Sum(ChecksumKind::Xor8) => u32::from(bytes.iter().fold(0, |all, byte| all ^ byte)),
            Self::Sum(ChecksumKind::Fletcher8) => {
                let (a, b) = bytes.iter().fold((0_u8, 0_u8), |(a, b), byte| {
                    let a = a.wrapping_add(*byte);
                    (a, b.wrapping_add(a))
                });
                u32::from(u16::from_be_bytes([a, b]))
            }
            Self::Sum(ChecksumKind::Sum8 | ChecksumKind::Crc(_)) => u32::from(sum()),
        }
    }
}

/// Says whether a frame is whole, and which part of it is decoded.
pub(super) struct Judge {
    checksum: Option<(Checksum, Engine)>,
    payload: Option<Span>,
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let checksum = self.checksum.as_ref().map(|(checksum, _)| checksum);
        f.debug_struct("Judge").field("checksum", &checksum).field("payload", &self.payload).finish()
    }
}

impl Judge {
    pub(super) fn new(checksum: Option<&Checksum>, payload: Option<Span>) -> Self {
        let checksum = checksum.map(|checksum| (checksum.clone(), Engine::new(checksum.kind)));
        Self { checksum, payload }
    }

    /// Whether a frame can prove that it is one.
    pub(super) fn checks(&self) -> bool {
        self.checksum.is_some()
    }

    /// The part of a whole frame that is decoded, or what is wrong with its checksum.
    pub(super) fn judge<'a>(&self, frame: &'a [u8]) -> Result<&'a [u8], ChecksumMismatch> {
        if let Some((checksum, engine)) = &self.checksum {
            checksum.compare(engine, frame)?;
        }
        match self.payload {
            None => Ok(frame),
            Some(span) => Ok(span.of(frame.len()).and_then(|range| frame.get(range)).unwrap_or_default()),
        }
    }
}

impl Checksum {
    fn compare(&self, engine: &Engine, frame: &[u8]) -> Result<(), ChecksumMismatch> {
        const NONE: ChecksumMismatch = ChecksumMismatch { found: None, computed: None };
        let (at, to) = match &self.place {
            Place::At(at) => {
                let at = offset(*at, frame.len()).ok_or(NONE)?;
                (at, self.to.map_or(Some(at), |to| offset(to, frame.len())))
            }
            Place::After(mark) => match find_last(frame, mark) {
                Some(found) => {
                    let at = found + mark.len();
                    (at, self.to.map_or(Some(at), |to| offset(to, at)))
                }
                None if self.optional => return Ok(()),
                None => return Err(NONE),
            },
        };
        let written = frame.get(at..).unwrap_or_default();
        let found = if self.hex { self.digits(written) } else { self.number(written) };
        if self.optional && written.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let covered = offset(self.from, frame.len()).zip(to).and_then(|(from, to)| frame.get(from..to));
        let computed = match covered {
            Some(digits) if self.covers_hex => hex::decode(digits).ok().map(|bytes| engine.compute(&bytes)),
            covered => covered.map(|bytes| engine.compute(bytes)),
        };
        let computed = computed.map(|sum| self.finish(sum));
        if found.is_some() && found == computed { Ok(()) } else { Err(ChecksumMismatch { found, computed }) }
    }

    /// What is written of a sum.
    fn finish(&self, sum: u32) -> u32 {
        let sum = (sum & self.mask).wrapping_add(self.plus) & (u32::MAX >> (32 - 8 * self.width.clamp(1, 4)));
        let mut bytes = sum.to_be_bytes();
        for byte in bytes.iter_mut().rev().take(self.width).filter(|byte| self.avoid.contains(byte)) {
            *byte = byte.wrapping_add(1);
        }
        u32::from_be_bytes(bytes)
    }

    fn number(&self, written: &[u8]) -> Option<u32> {
        Some(number(written.get(..self.width)?, self.endian))
    }

    /// Some devices leave out leading zeros.
    fn digits(&self, written: &[u8]) -> Option<u32> {
        let digits = written.iter().take(2 * self.width).take_while(|byte| byte.is_ascii_hexdigit()).count();
        let text = std::str::from_utf8(written.get(..digits)?).ok()?;
        let number = u32::from_str_radix(text, 16).ok()?;
        if self.endian == Endian::Little && digits == 2 * self.width {
            let bytes = number.to_be_bytes();
            return Some(self::number(bytes.get(4 - self.width..)?, Endian::Little));
        }
        Some(number)
    }
}

/// A number of at most four bytes.
pub(super) fn number(bytes: &[u8], endian: Endian) -> u32 {
    let fold = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
    match endian {
        Endian::Big => bytes.iter().fold(0, fold),
        Endian::Little => bytes.iter().rev().fold(0, fold),
    }
}

fn find_last(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len().max(1)).rposition(|window| window == mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_known_and_its_crc_gives_the_catalogues_check_value() {
        for word in CHECKSUMS {
            let (kind, width) = checksum_kind(word).unwrap();
            let engine = Engine::new(kind);
            let check = match &engine {
                Engine::Sum(_) => continue,
                Engine::Crc8(crc) => u32::from(crc.algorithm.check),
                Engine::Crc16(crc) => u32::from(crc.algorithm.check),
                Engine::Crc32(crc) => crc.algorithm.check,
            };
            assert_eq!(engine.compute(b"123456789"), check, "{word}");
            assert!(word.starts_with(&format!("crc-{}/", width * 8)), "{word}");
        }
        assert_eq!(checksum_kind("crc-16"), None);
    }

    #[test]
    fn sums_are_as_their_documents_say() {
        let of = |word: &str, bytes: &[u8]| Engine::new(checksum_kind(word).unwrap().0).compute(bytes);
        assert_eq!(of("sum8", &[0xff, 2]), 1);
        assert_eq!(of("sum16", &[0xff, 2]), 0x101);
        assert_eq!(of("twos_complement", &[0x86, 2, 0x20]), 0x58);
        assert_eq!(of("ones_complement", &[0x86, 2, 0x20]), 0x57);
        // A JBD battery: the sum of status, length and data of an answer without data, from 0x10000.
        assert_eq!(of("twos_complement16", &[0x05, 0x00]), 0xfffb);
        assert_eq!(of("twos_complement16", &[0xff; 0x200]), 0x0200);
        assert_eq!(of("xor8", &[0x0f, 0xf0, 0x01]), 0xfe);
        // UBX: the poll of UBX-MON-VER has no payload, and ends with these two bytes.
        assert_eq!(of("fletcher8", &[0x0a, 0x04, 0, 0]), 0x0e34);
        assert_eq!(of("crc-16/modbus", &[0x01, 0x03, 0x00, 0x00, 0x00, 0x0a]), 0xcdc5);
    }

    #[test]
    fn a_checksum_may_cover_what_digits_stand_for() {
        // Modbus over serial line, ASCII mode: a request for three registers of unit 17.
        let lrc = Checksum {
            from: 1,
            place: Place::At(-2),
            hex: true,
            covers_hex: true,
            ..Checksum::at_end(ChecksumKind::TwosComplement, 1)
        };
        let judged = |frame: &str| Judge::new(Some(&lrc), None).judge(frame.as_bytes()).map(<[u8]>::len);
        assert_eq!(judged(":1103006B00037E"), Ok(15));
        assert_eq!(judged(":1103006B00047E"), Err(ChecksumMismatch { found: Some(0x7e), computed: Some(0x7d) }));
        assert_eq!(judged(":1103006BxX037E"), Err(ChecksumMismatch { found: Some(0x7e), computed: None }));
        assert_eq!(judged(":1103006B0037E"), Err(ChecksumMismatch { found: Some(0x7e), computed: None }));
    }

    #[test]
    fn a_checksum_may_stand_anywhere_and_cover_any_part() {
        let sum = |from, to, at| Checksum { from, to, place: Place::At(at), ..Checksum::at_end(ChecksumKind::Sum8, 1) };
        let judged = |checksum: &Checksum, frame: &[u8]| Judge::new(Some(checksum), None).judge(frame).map(<[u8]>::len);
        assert_eq!(judged(&sum(1, None, -1), &[9, 1, 2, 3]), Ok(4));
        assert_eq!(judged(&sum(1, Some(-1), 0), &[3, 1, 2, 9]), Ok(4));
        assert_eq!(judged(&sum(-2, None, -1), &[9, 9, 3, 3]), Ok(4));
        let wrong = Err(ChecksumMismatch { found: Some(9), computed: Some(3) });
        assert_eq!(judged(&sum(1, Some(3), -1), &[9, 1, 2, 9]), wrong);
        for frame in [&[][..], &[1], &[1, 2]] {
            assert!(judged(&sum(3, None, -1), frame).is_err());
            assert!(judged(&sum(0, Some(-3), -1), frame).is_err());
            assert!(judged(&sum(0, None, 5), frame).is_err());
        }
    }
}
