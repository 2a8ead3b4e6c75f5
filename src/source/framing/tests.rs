//! Frames as devices send them, made after their data sheets, and properties of every framing.

use proptest::prelude::*;

use super::*;
use crate::profile::{Profile, Transport};

/// [`Found`], to be kept.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Owned {
    Frame(Vec<u8>),
    TooLong(Vec<u8>),
    BadChecksum(Vec<u8>),
}

impl From<Found<'_>> for Owned {
    fn from(found: Found<'_>) -> Self {
        match found {
            Found::Frame(bytes) => Self::Frame(bytes.to_vec()),
            Found::TooLong(bytes) => Self::TooLong(bytes.to_vec()),
            Found::BadChecksum(bytes, _) => Self::BadChecksum(bytes.to_vec()),
        }
    }
}

pub(super) fn frame(text: &str) -> Owned {
    Owned::Frame(text.as_bytes().to_vec())
}

/// A stream as reads that end at these bytes.
pub(super) fn reads(stream: &[u8], mut cuts: Vec<usize>) -> Vec<&[u8]> {
    cuts.iter_mut().for_each(|cut| *cut = (*cut).min(stream.len()));
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect()
}

fn whole(bytes: &[u8]) -> Owned {
    Owned::Frame(bytes.to_vec())
}

fn bad(bytes: &[u8]) -> Owned {
    Owned::BadChecksum(bytes.to_vec())
}

/// What a profile file says of its framing.
fn framing(text: &str) -> Framing {
    let head = "id = \"a/b\"\ndescription = \"d\"\nsource = \"s\"\ntransport = \"serial\"\nformat = \"json\"\n\
                [[field]]\npath = \"a\"\nname = \"a\"\n";
    let profile = Profile::parse("test.toml".as_ref(), &format!("{head}{text}")).unwrap();
    match profile.transport {
        Transport::Serial(line) => *line.framing,
        Transport::Mqtt(_) | Transport::Bus(..) => panic!("not serial"),
    }
}

/// All that is found in these reads, and how many bytes of noise there were.
fn read(framer: &mut Framer, reads: &[&[u8]]) -> (Vec<Owned>, u64) {
    let mut all = Vec::new();
    for read in reads {
        framer.push(read, |found| all.push(Owned::from(found)));
    }
    (all, framer.take_noise())
}

fn read_all(framing: &Framing, stream: &[u8]) -> (Vec<Owned>, u64) {
    read(&mut Framer::new(framing), &[stream])
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    hex::decode(digits).unwrap()
}

const PMS5003: &str = r#"
[framing]
kind = "length"
start = [0x42, 0x4d]
length = { at = 2, width = 2 }
[checksum]
kind = "sum16"
[serial]
frame_bytes_max = 64
"#;

const SDS011: &str = r#"
[framing]
kind = "fixed"
bytes = 10
start = [0xaa, 0xc0]
end = [0xab]
[checksum]
kind = "sum8"
from = 2
at = -2
"#;

const MHZ19: &str = r#"
[framing]
kind = "fixed"
bytes = 9
start = [0xff, 0x86]
[checksum]
kind = "twos_complement"
from = 1
"#;

const ESP3: &str = r#"
[framing]
kind = "length"
start = [0x55]
length = [{ at = 1, width = 2 }, { at = 3, plus = 3 }]
[checksum]
kind = "crc-8/smbus"
from = 6
"#;

const MODBUS_ASCII: &str = r#"
[framing]
kind = "markers"
start = ":"
end = "\r\n"
restart = true
[checksum]
kind = "twos_complement"
from = 1
at = -4
encoding = "hex"
covers = "hex"
"#;

const KAMSTRUP: &str = r#"
[framing]
kind = "markers"
start = [0x40]
end = [0x0d]
escape = { byte = 0x1b, xor = 0xff }
[checksum]
kind = "crc-16/xmodem"
from = 1
at = -3
"#;

const DF1: &str = r#"
[framing]
kind = "markers"
start = [0x10, 0x02]
end = [0x10, 0x03]
tail = 2
escape = { byte = 0x10 }
[checksum]
kind = "crc-16/arc"
endian = "little"
from = 1
"#;

const MODBUS: &str = r#"
[framing]
kind = "length"
length = { at = 2, plus = 2 }
[checksum]
kind = "crc-16/modbus"
endian = "little"
"#;

const UBX: &str = r#"
[framing]
kind = "length"
start = [0xb5, 0x62]
length = { at = 4, width = 2, endian = "little", plus = 2 }
[checksum]
kind = "fletcher8"
from = 2
"#;

const NMEA: &str = r#"
[framing]
kind = "markers"
start = ["$", "!"]
end = "\r\n"
restart = true
[checksum]
kind = "nmea"
[serial]
frame_bytes_max = 82
"#;

const DSMR: &str = r#"
[framing]
kind = "markers"
start = "/"
end = "!"
tail = "\r\n"
[checksum]
kind = "crc-16/arc"
after = "!"
"#;

const VE_DIRECT: &str = r#"
[framing]
kind = "markers"
end = "\r\nChecksum\t"
tail = 1
omit = { start = ":", end = "\n" }
payload = [0, -1]
[checksum]
kind = "twos_complement"
[serial]
frame_bytes_max = 512
"#;

const MBUS: &str = r#"
[framing]
kind = "length"
start = [0x68]
end = [0x16]
length = { at = 1, plus = 4 }
[checksum]
kind = "sum8"
from = 4
at = -2
"#;

const SML: &str = "[framing]\nkind = \"sml\"\n";
const SLIP: &str = "[framing]\nkind = \"slip\"\n[checksum]\nkind = \"crc-16/x-25\"\nendian = \"little\"\n";
const SHDLC: &str = "[framing]\nkind = \"hdlc\"\n[checksum]\nkind = \"ones_complement\"\n";
const COBS: &str = "[framing]\nkind = \"cobs\"\n[checksum]\nkind = \"crc-32/iso-hdlc\"\n";
const IDLE: &str =
    "[framing]\nkind = \"idle\"\ngap = \"20ms\"\n[checksum]\nkind = \"crc-16/modbus\"\nendian = \"little\"\n";

/// A frame of thirteen words, as the manual lays it out: two start bytes, the length of the rest, the words, their sum.
fn pms5003(words: [u16; 13]) -> Vec<u8> {
    let mut bytes = vec![0x42, 0x4d, 0, 28];
    bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    let sum: u16 = bytes.iter().map(|byte| u16::from(*byte)).sum();
    bytes.extend(sum.to_be_bytes());
    bytes
}

fn sds011(pm25: u16, pm10: u16, id: [u8; 2]) -> Vec<u8> {
    let mut bytes = vec![0xaa, 0xc0];
    bytes.extend(pm25.to_le_bytes());
    bytes.extend(pm10.to_le_bytes());
    bytes.extend(id);
    bytes.push(bytes[2..].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
    bytes.push(0xab);
    bytes
}

fn modbus(unit: u8, registers: &[u16]) -> Vec<u8> {
    let mut bytes = vec![unit, 3, 2 * registers.len() as u8];
    bytes.extend(registers.iter().flat_map(|register| register.to_be_bytes()));
    let crc = crc::Crc::<u16>::new(&crc::CRC_16_MODBUS).checksum(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

fn ubx(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xb5, 0x62, 1, 7];
    bytes.extend((payload.len() as u16).to_le_bytes());
    bytes.extend(payload);
    let (a, b) = bytes[2..].iter().fold((0_u8, 0_u8), |(a, b), byte| {
        let a = a.wrapping_add(*byte);
        (a, b.wrapping_add(a))
    });
    bytes.extend([a, b]);
    bytes
}

fn nmea(body: &str) -> Vec<u8> {
    format!("${body}*{:02X}\r\n", body.bytes().fold(0, |all, byte| all ^ byte)).into_bytes()
}

fn telegram(lines: &[&str]) -> Vec<u8> {
    let text = format!("/ABC5 meter\r\n\r\n{}\r\n!", lines.join("\r\n"));
    let crc = crc::Crc::<u16>::new(&crc::CRC_16_ARC).checksum(text.as_bytes());
    format!("{text}{crc:04X}\r\n").into_bytes()
}

fn ve_direct(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        fields.iter().flat_map(|(name, value)| format!("\r\n{name}\t{value}").into_bytes()).collect();
    bytes.extend(b"\r\nChecksum\t");
    bytes.push(bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)).wrapping_neg());
    bytes
}

fn mbus(payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u8;
    let mut bytes = vec![0x68, length, length, 0x68];
    bytes.extend(payload);
    bytes.push(payload.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
    bytes.push(0x16);
    bytes
}

fn sml(inside: &[u8]) -> Vec<u8> {
    let mut bytes = sml::START.to_vec();
    let fill = (4 - inside.len() % 4) % 4;
    let mut padded = inside.to_vec();
    padded.resize(inside.len() + fill, 0);
    for group in padded.chunks(4) {
        bytes.extend(group);
        if group == [0x1b; 4] {
            bytes.extend(group);
        }
    }
    bytes.extend([0x1b, 0x1b, 0x1b, 0x1b, 0x1a, fill as u8]);
    let crc = crc::Crc::<u16>::new(&crc::CRC_16_IBM_SDLC).checksum(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

/// What the framing hands on, with its checksum, and what is on the wire.
fn slip(payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut carried = payload.to_vec();
    carried.extend(crc::Crc::<u16>::new(&crc::CRC_16_IBM_SDLC).checksum(payload).to_le_bytes());
    let mut bytes = vec![0xc0];
    for byte in &carried {
        match byte {
            0xc0 => bytes.extend([0xdb, 0xdc]),
            0xdb => bytes.extend([0xdb, 0xdd]),
            byte => bytes.push(*byte),
        }
    }
    bytes.push(0xc0);
    (carried, bytes)
}

/// As Sensirion's sensors write it.
fn shdlc(payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut carried = payload.to_vec();
    carried.push(!payload.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)));
    let mut bytes = vec![0x7e];
    for byte in &carried {
        match byte {
            0x7e | 0x7d | 0x11 | 0x13 => bytes.extend([0x7d, byte ^ 0x20]),
            byte => bytes.push(*byte),
        }
    }
    bytes.push(0x7e);
    (carried, bytes)
}

fn cobs(payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut carried = payload.to_vec();
    carried.extend(crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(payload).to_be_bytes());
    let mut bytes = vec![0; cobs::max_encoding_length(carried.len())];
    let length = cobs::encode(&carried, &mut bytes);
    bytes.truncate(length);
    bytes.push(0);
    (carried, bytes)
}

#[test]
fn a_pms5003_frame_is_found_behind_a_false_start() {
    let framing = framing(PMS5003);
    let frame = pms5003([5, 8, 9, 5, 8, 9, 810, 240, 40, 4, 2, 0, 0x9700]);
    assert_eq!(frame.len(), 32);
    // `42 4d 42` before the real `42 4d`: its length would be far over the maximum.
    let stream = [&hex("00 ff 42 00 42 4d"), &frame[..], &frame].concat();
    assert_eq!(read_all(&framing, &stream), (vec![whole(&frame), whole(&frame)], 6));
    // A false start that announces a possible length costs nothing either.
    let stream = [&hex("42 4d 00 1c 01"), &frame[..], &hex("42 4d 00 1c 00")].concat();
    let (found, noise) = read_all(&framing, &stream);
    assert_eq!(found, [bad(&stream[..32]), whole(&frame)]);
    assert_eq!(noise, 0);
}

#[test]
fn a_damaged_pms5003_frame_is_told_of_once_and_hides_no_good_one() {
    let framing = framing(PMS5003);
    let good = pms5003([1; 13]);
    let mut damaged = pms5003([0x424d, 0x001c, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
    damaged[20] ^= 1;
    let stream = [&good[..], &damaged, &good, &damaged, &damaged, &good].concat();
    let (found, noise) = read_all(&framing, &stream);
    let expected = [whole(&good), bad(&damaged), whole(&good), bad(&damaged), bad(&damaged), whole(&good)];
    assert_eq!((found.as_slice(), noise), (&expected[..], 0));
    // Another frame of the family is shorter and has the same start: its length says so.
    let mut short = hex("42 4d 00 04 01 02");
    let sum: u16 = short.iter().map(|byte| u16::from(*byte)).sum();
    short.extend(sum.to_be_bytes());
    assert_eq!(read_all(&framing, &short).0, [whole(&short)]);
}

#[test]
fn a_frame_that_announces_too_much_is_told_of_only_where_one_had_to_begin() {
    let framing = framing(PMS5003);
    let good = pms5003([1; 13]);
    let long = hex("42 4d 01 00");
    let (found, noise) = read_all(&framing, &[&good[..], &long, &good].concat());
    assert_eq!(found, [whole(&good), Owned::TooLong(long.clone()), whole(&good)]);
    assert_eq!(noise, 0);
    let (found, noise) = read_all(&framing, &[b"x", &long[..], &good].concat());
    assert_eq!((found, noise), (vec![whole(&good)], 5));
}

#[test]
fn an_sds011_frame_has_a_start_an_end_and_a_sum_of_its_middle() {
    let framing = framing(SDS011);
    // The example of the protocol's document: 123.6 and 261.8 µg/m³, device A160.
    let example = hex("aa c0 d4 04 3a 0a a1 60 1d ab");
    assert_eq!(sds011(1236, 2618, [0xa1, 0x60]), example);
    let mut damaged = example.clone();
    damaged[3] ^= 4;
    let mut without_end = example.clone();
    without_end[9] = 0;
    let stream = [&[0xc0, 0, 0xab][..], &example, &damaged, &without_end, &example].concat();
    assert_eq!(read_all(&framing, &stream), (vec![whole(&example), bad(&damaged), whole(&example)], 13));
    // The answer to a command begins otherwise.
    assert_eq!(read_all(&framing, &hex("aa c5 07 12 0a 1e a1 60 42 ab")), (vec![], 10));
}

#[test]
fn an_mhz19_answer_is_found_behind_the_echo_of_its_request() {
    let framing = framing(MHZ19);
    let answer = hex("ff 86 02 20 00 00 00 00 58");
    let stream = [&hex("ff 01 86 00 00 00 00 00 79"), &answer[..]].concat();
    assert_eq!(read_all(&framing, &stream), (vec![whole(&answer)], 9));
    let mut damaged = answer;
    damaged[2] = 3;
    assert_eq!(read_all(&framing, &damaged), (vec![bad(&damaged)], 0));
}

#[test]
fn modbus_answers_have_no_start_and_are_found_by_their_checksum() {
    let framing = framing(MODBUS);
    let answer = hex("fe 04 02 01 90 ac d8");
    let (other, empty) = (modbus(1, &[0x0102, 0xfe04]), modbus(2, &[]));
    let stream = [&answer[..], &other, &empty, &answer].concat();
    assert_eq!(read_all(&framing, &stream), (vec![whole(&answer), whole(&other), whole(&empty), whole(&answer)], 0));
    let mut damaged = answer.clone();
    damaged[4] ^= 1;
    let mut framer = Framer::new(&framing);
    let (mut found, _) = read(&mut framer, &[&answer, &damaged, &hex("00 ff 00"), &other]);
    // Some byte of the damaged one announces more than comes: so the rest is found when it is silent.
    framer.idle(|one| found.push(Owned::from(one)));
    assert_eq!((found, framer.take_noise()), (vec![whole(&answer), bad(&damaged), whole(&other)], 3));
}

#[test]
fn ubx_is_found_between_nmea_sentences_and_nmea_between_ubx() {
    let message = ubx(&[0x24, 0x0d, 0x0a, 0xb5, 0x62, 1, 7, 4]);
    let sentence = nmea("GPGGA,120000.00,5222.31,N,00454.57,E,1,08,1.0,3.0,M,46.0,M,,");
    let stream = [&sentence[..], &message, &sentence, &message].concat();
    assert_eq!(read_all(&framing(UBX), &stream).0, [whole(&message), whole(&message)]);
    let found = read_all(&framing(NMEA), &stream).0;
    assert_eq!(found.iter().filter(|found| **found == whole(&sentence)).count(), 2);
    let mut damaged = message;
    damaged[8] ^= 0x80;
    assert_eq!(read_all(&framing(UBX), &damaged).0, [bad(&damaged)]);
}

#[test]
fn an_nmea_sentence_is_whole_if_its_two_digits_say_so() {
    let framing = framing(NMEA);
    let good = b"$IIMWV,074,T,05.85,N,A*2E\r\n";
    assert_eq!(nmea("IIMWV,074,T,05.85,N,A"), good);
    let lower = b"$IIMWV,074,T,05.85,N,A*2e\r\n";
    let wrong = b"$IIMWV,074,T,05.95,N,A*2E\r\n";
    let none = b"$IIMWV,074,T,05.85,N,A\r\n";
    let stream = [&good[..], lower, wrong, none, b"$IIMW", good, b"!AIVDM\x0e,*2E\r\n"].concat();
    let (found, noise) = read_all(&framing, &stream);
    let expected = [whole(good), whole(lower), bad(wrong), bad(none), whole(good), bad(b"!AIVDM\x0e,*2E\r\n")];
    assert_eq!((found.as_slice(), noise), (&expected[..], 5));
    let optional = self::framing(&NMEA.replace("[serial]", "optional = true\n[serial]"));
    assert_eq!(read_all(&optional, none).0, [whole(none)]);
    assert_eq!(read_all(&optional, wrong).0, [bad(wrong)]);
}

#[test]
fn a_telegram_is_checked_up_to_its_exclamation_mark() {
    let framing = framing(DSMR);
    let good = telegram(&["1-0:1.7.0(00.244*kW)", "0-1:24.2.1(170102161005W)(00000.107*m3)"]);
    let mut wrong = good.clone();
    wrong[30] ^= 1;
    let cut = &good[..40];
    let stream = [&b"(00.070*kW)\r\n!6EEE\r\n"[..], &good, &wrong, cut, &good].concat();
    let (found, noise) = read_all(&framing, &stream);
    let together = [cut, &good[..]].concat();
    assert_eq!(found, [whole(&good), bad(&wrong), bad(&together), whole(&good)]);
    assert_eq!(noise, 20);
    // Some meters leave out leading zeros.
    let short = (0..2_000).map(|number| telegram(&[&number.to_string()])).find_map(|telegram| {
        let at = telegram.iter().position(|byte| *byte == b'!')? + 1;
        (telegram[at] == b'0').then(|| [&telegram[..at], &telegram[at + 1..]].concat())
    });
    let short = short.unwrap();
    assert_eq!(read_all(&framing, &short).0, [whole(&short)]);
}

#[test]
fn without_a_checksum_the_last_start_before_an_end_counts() {
    let framing = framing("[framing]\nkind = \"markers\"\nstart = \"/\"\nend = \"!\"\ntail = \"\\r\\n\"\n");
    let (found, noise) = read_all(&framing, b"/a\r\n/b\r\n!\r\nx!\r\n/c!12\r\n");
    assert_eq!((found, noise), (vec![frame("/b\r\n!\r\n"), frame("/c!12\r\n")], 8));
}

#[test]
fn a_ve_direct_block_is_whole_if_all_its_bytes_sum_up_to_nothing() {
    let framing = framing(VE_DIRECT);
    let (one, two) = (ve_direct(&[("PID", "0x203"), ("V", "12065"), ("I", "-7625")]), ve_direct(&[("H1", "-149322")]));
    let text = |block: &[u8]| whole(&block[..block.len() - 1]);
    assert_eq!(read_all(&framing, &[&one[..], &two].concat()), (vec![text(&one), text(&two)], 0));
    let mut damaged = one.clone();
    damaged[14] ^= 1;
    let stream = [&one[..], &damaged, &two].concat();
    assert_eq!(read_all(&framing, &stream).0, [text(&one), bad(&damaged), text(&two)]);
    // Joined in its middle: the rest of a block is no fault.
    let mut framer = Framer::new(&framing);
    framer.join();
    assert_eq!(read(&mut framer, &[&one[10..], &two]), (vec![text(&two)], one.len() as u64 - 10));
}

#[test]
fn lines_of_the_hex_protocol_are_taken_out_of_ve_direct_blocks() {
    let framing = framing(VE_DIRECT);
    // A value for the checksum byte that is the colon itself.
    let texts = ('A'..='Z').flat_map(|last| (0..40).map(move |length| format!("{}{last}", "A".repeat(length))));
    let colon = texts.map(|text| ve_direct(&[("V", &text)])).find(|block| block.ends_with(b":")).unwrap();
    let (one, hex_line) = (ve_direct(&[("V", "12065"), ("I", "-7625")]), &b":A0202000543\n"[..]);
    let text = |block: &[u8]| whole(&block[..block.len() - 1]);
    let mixed = [&one[..9], hex_line, &one[9..], hex_line, hex_line, &colon, &one[..1], hex_line, &one[1..]].concat();
    let expected = vec![text(&one), text(&colon), text(&one)];
    assert_eq!(read_all(&framing, &mixed), (expected.clone(), 0));
    let bytes: Vec<&[u8]> = mixed.chunks(1).collect();
    assert_eq!(read(&mut Framer::new(&framing), &bytes), (expected, 0));
}

#[test]
fn an_end_marker_that_never_comes_costs_what_was_read_without_it() {
    let framing = framing(VE_DIRECT);
    let block = ve_direct(&[("V", "12065")]);
    let stream = [&block[..], &[b'x'; 2_000], &block, &block].concat();
    let (found, noise) = read_all(&framing, &stream);
    let text = whole(&block[..block.len() - 1]);
    assert_eq!(found, [text.clone(), Owned::TooLong(vec![b'x'; 502]), text]);
    assert_eq!(noise, 2_000 - 502 + block.len() as u64);
}

#[test]
fn an_m_bus_telegram_is_checked_for_its_end_too() {
    let framing = framing(MBUS);
    let good = mbus(&[0x08, 0x02, 0x72, 0x68, 0x16]);
    let mut framer = Framer::new(&framing);
    let mut found = read(&mut framer, &[&[0xe5, 0x16], &good, &[0x68, 0x68, 0xe5], &good]).0;
    framer.idle(|one| found.push(Owned::from(one)));
    assert_eq!((found, framer.take_noise()), (vec![whole(&good), whole(&good)], 3));
}

#[test]
fn sml_carries_escape_sequences_and_is_filled_up_to_four() {
    let framing = framing(SML);
    for inside in [
        &b"\x76\x05"[..],
        b"abcd",
        b"\x1b\x1b\x1b\x1b",
        b"1234\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x01\x01\x01\x01x",
        b"\x1b\x1b\x1b\x1b\x1a\x00\x1b",
        b"",
    ] {
        let frame = sml(inside);
        assert_eq!(frame.len() % 4, 0);
        assert_eq!(read_all(&framing, &[&b"\x1b\x1b"[..], &frame, &frame].concat()), (vec![whole(inside); 2], 2));
    }
    let frame = sml(b"\x76\x05\x0d\x34\x12");
    let mut damaged = frame.clone();
    damaged[9] ^= 1;
    // Bytes that were lost bring the end out of step: the next start tells.
    let cut = [&frame[..9], &frame[11..]].concat();
    let stream = [&damaged[..], &frame, &cut, &frame].concat();
    let expected = vec![bad(&damaged), whole(b"\x76\x05\x0d\x34\x12"), bad(&cut), whole(b"\x76\x05\x0d\x34\x12")];
    assert_eq!(read_all(&framing, &stream), (expected, 0));
}

#[test]
fn slip_frames_may_have_an_end_on_either_side_and_hold_any_byte() {
    let framing = framing(SLIP);
    let (carried, wire) = slip(&[0xc0, 0xdb, 0, 0xdc, 0xdd, 1]);
    let broken = [0xc0, 1, 0xdb, 7, 0xc0];
    let stream = [&wire[..], &wire[1..], &broken, &wire].concat();
    assert_eq!(read_all(&framing, &stream), (vec![whole(&carried); 3], 4));
    let mut framer = Framer::new(&framing);
    framer.join();
    assert_eq!(read(&mut framer, &[&wire[4..], &wire[1..]]), (vec![whole(&carried)], wire.len() as u64 - 4));
}

#[test]
fn hdlc_frames_may_share_a_flag_and_hold_any_byte() {
    let framing = framing(SHDLC);
    // An SPS30's answer to "read the version", with an escaped byte put in.
    let (carried, wire) = shdlc(&[0x00, 0xd1, 0x00, 0x07, 0x02, 0x03, 0x00, 0x07, 0x00, 0x02, 0x7e]);
    assert!(wire.ends_with(&[0x02, 0x7d, 0x5e, carried[11], 0x7e]), "{wire:02x?}");
    let aborted = [1, 2, 0x7d, 0x7e];
    let stream = [&wire[..], &wire[1..], &aborted, &wire].concat();
    assert_eq!(read_all(&framing, &stream), (vec![whole(&carried); 3], 4));
}

fn esp3(data: &[u8], optional: &[u8]) -> Vec<u8> {
    let crc = |bytes: &[u8]| crc::Crc::<u8>::new(&crc::CRC_8_SMBUS).checksum(bytes);
    let head = [0, data.len() as u8, optional.len() as u8, 1];
    let body = [data, optional].concat();
    [&[0x55][..], &head, &[crc(&head)], &body, &[crc(&body)]].concat()
}

#[test]
fn several_fields_may_say_how_long_a_frame_is() {
    // A request for a gateway's version, of EnOcean's own description: one byte of data, none that is optional.
    let request = hex("55 00 01 00 05 70 03 09");
    assert_eq!(read_all(&framing(ESP3), &request), (vec![whole(&request)], 0));
    let frame = esp3(&[0xa5; 10], &[1; 7]);
    // One that was cut is told of, and hides nothing.
    let (found, _) = read_all(&framing(ESP3), &[&frame[..9], &request, &frame].concat());
    assert!(matches!(&found[0], Owned::BadChecksum(_)), "{found:02x?}");
    assert_eq!(found[1..], [whole(&request), whole(&frame)]);
    let wrong = Profile::parse(
        "x.toml".as_ref(),
        "id = \"a/b\"\ndescription = \"d\"\nsource = \"s\"\ntransport = \"serial\"\nformat = \"json\"\n[[field]]\npath = \"a\"\n\
         name = \"a\"\n[framing]\nkind = \"length\"\nstart = \"a\"\nlength = [{ at = 1 }, { at = 2, counts = \"all\" }]\n",
    );
    assert!(wrong.unwrap_err().to_string().contains("of several fields none counts the whole frame"));
}

/// A frame with its escapes undone, and on the wire.
fn kamstrup(body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let sum = crc::Crc::<u16>::new(&crc::CRC_16_XMODEM).checksum(body).to_be_bytes();
    let inner = [body, &sum].concat();
    let written = inner.iter().flat_map(|byte| match byte {
        0x40 | 0x80 | 0x0d | 0x06 | 0x1b => vec![0x1b, byte ^ 0xff],
        byte => vec![*byte],
    });
    let around = |inner: Vec<u8>| [vec![0x40], inner, vec![0x0d]].concat();
    (around(inner.clone()), around(written.collect()))
}

fn df1(body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let sum = crc::Crc::<u16>::new(&crc::CRC_16_ARC).checksum(&[body, &[3]].concat()).to_le_bytes();
    let written = body.iter().flat_map(|byte| if *byte == 0x10 { vec![0x10, 0x10] } else { vec![*byte] });
    ([&[2], body, &[3], &sum].concat(), [vec![0x10, 2], written.collect(), vec![0x10, 3], sum.to_vec()].concat())
}

#[test]
fn an_escape_says_that_a_marker_is_data() {
    for text in [KAMSTRUP, DF1] {
        let body = hex("10 03 40 0d 1b 10 10 02 06 80 10");
        let (alone, wire) = example(text, &body);
        assert_eq!(read_all(&framing(text), &wire), (vec![whole(&alone)], 0));
        // A frame that was cut, and an escape just before a start.
        let stream = [&wire[..6], &[0x10, 0x1b], &wire, &wire].concat();
        let (found, _) = read_all(&framing(text), &stream);
        assert_eq!(found[found.len() - 2..], [whole(&alone), whole(&alone)], "{found:02x?}");
    }
    // Trimble's TSIP has neither checksum nor length: a DLE alone begins a packet inside of another, too.
    let tsip = "[framing]\nkind = \"markers\"\nstart = [0x10]\nend = [0x10, 0x03]\nescape = { byte = 0x10 }\n";
    let stream = hex("05 10 10 10 03 10 8f 20 10 10 05 10 03 10 41 01 10 42 07 10 03");
    let expected = [whole(&hex("8f 20 10 05 03")), whole(&hex("42 07 03"))];
    let (found, noise) = read_all(&framing(tsip), &stream);
    assert_eq!((&found[..], noise), (&expected[..], 8));
}

#[test]
fn a_length_may_share_its_bytes_with_flags() {
    // A meter's HDLC frame without byte stuffing (IEC 62056-46): type 3 in the highest four bits, eleven bits of length.
    let framing = framing(
        "[framing]\nkind = \"length\"\nstart = [0x7e]\nend = [0x7e]\n\
         length = { at = 1, width = 2, mask = 0x7ff, plus = -1 }\n\
         [checksum]\nkind = \"crc-16/x-25\"\nendian = \"little\"\nfrom = 1\nat = -3\n",
    );
    let mut frame = vec![0x7e, 0xa1, 0x0b];
    frame.extend((0..0x109 - 2).map(|at| at as u8));
    frame.extend(crc::Crc::<u16>::new(&crc::CRC_16_IBM_SDLC).checksum(&frame[1..]).to_le_bytes());
    frame.push(0x7e);
    assert_eq!(frame.len(), 0x10b + 2);
    assert_eq!(read_all(&framing, &[&frame[..], &frame].concat()), (vec![whole(&frame); 2], 0));
}

#[test]
fn a_sum_may_be_masked_and_moved_into_what_can_be_printed() {
    // A line of a French meter: the lowest six bits of the sum, and 0x20.
    let framing = framing(
        "[framing]\nkind = \"markers\"\nstart = \"\\n\"\nend = \"\\r\"\n\
         [checksum]\nkind = \"sum8\"\nmask = 0x3f\nplus = 0x20\nfrom = 1\nto = -3\nat = -2\n",
    );
    let good = b"\nISOUSC 45 ?\r";
    let (found, noise) = read_all(&framing, b"\nISOUSC 45 ?\r\nISOUSC 46 ?\r");
    assert_eq!((found.len(), &found[0], noise), (2, &whole(good), 0));
    assert!(matches!(found[1], Owned::BadChecksum(..)), "{found:?}");
}

#[test]
fn a_checksum_may_avoid_bytes_that_mean_something_else() {
    // An inverter's answer: each byte of its CRC that is `(`, a line feed or a carriage return is sent one higher.
    let framing = framing(
        "[framing]\nkind = \"markers\"\nstart = \"(\"\nend = \"\\r\"\n\
         [checksum]\nkind = \"crc-16/xmodem\"\navoid = [0x28, 0x0d, 0x0a]\nat = -3\n",
    );
    let crc = crc::Crc::<u16>::new(&crc::CRC_16_XMODEM);
    let mut moved = 0;
    for number in 0..2_000 {
        let mut frame = format!("({number}").into_bytes();
        let sum = crc.checksum(&frame).to_be_bytes();
        let sent = sum.map(|byte| if matches!(byte, 0x28 | 0x0d | 0x0a) { byte + 1 } else { byte });
        moved += usize::from(sent != sum);
        frame.extend(sent);
        frame.push(b'\r');
        assert_eq!(read_all(&framing, &frame), (vec![whole(&frame)], 0), "{number}");
    }
    assert!(moved > 20, "{moved}");
}

#[test]
fn cobs_frames_end_with_a_zero_and_hold_any_byte() {
    let framing = framing(COBS);
    for payload in [&[0; 4][..], &[1, 0, 2], &[7; 300]] {
        let (carried, wire) = cobs(payload);
        assert_eq!(read_all(&framing, &[&[9, 1, 0][..], &wire, &wire].concat()), (vec![whole(&carried); 2], 3));
    }
}

#[test]
fn silence_ends_a_frame_where_nothing_else_does() {
    let framing = framing(IDLE);
    let (one, two) = (modbus(1, &[2, 3]), modbus(7, &[]));
    let mut framer = Framer::new(&framing);
    let mut all = Vec::new();
    assert_eq!(framer.idle_after(), None);
    for part in [&one[..3], &one[3..]] {
        framer.push(part, |found| panic!("{found:?}"));
    }
    assert_eq!(framer.idle_after(), Some(Duration::from_millis(20)));
    framer.idle(|found| all.push(Owned::from(found)));
    assert_eq!(framer.idle_after(), None);
    framer.push(&[&one[..], &two].concat(), |found| panic!("{found:?}"));
    framer.idle(|found| all.push(Owned::from(found)));
    framer.push(&two, |found| panic!("{found:?}"));
    framer.idle(|found| all.push(Owned::from(found)));
    assert_eq!(all, [whole(&one), bad(&[&one[..], &two].concat()), whole(&two)]);
    assert_eq!((framer.take_noise(), framer.held()), (0, 0));
    // Too much without silence.
    let (found, noise) = read(&mut framer, &[&[1; 5_000]]);
    assert_eq!((found, noise), (vec![Owned::TooLong(vec![1; 4_096])], 904));
}

#[test]
fn a_silence_brings_frames_without_a_mark_back_into_step() {
    let framing = framing("[framing]\nkind = \"fixed\"\nbytes = 4\ngap = \"50ms\"\n");
    let mut framer = Framer::new(&framing);
    framer.join();
    assert_eq!(read(&mut framer, &[b"34", b"1234"]), (vec![], 6));
    framer.idle(|found| panic!("{found:?}"));
    assert_eq!(read(&mut framer, &[b"123", b"4ab"]), (vec![frame("1234")], 0));
    framer.idle(|found| panic!("{found:?}"));
    assert_eq!(read(&mut framer, &[b"1234"]), (vec![frame("1234")], 2));
    // A frame that was cut hides a whole one only until it is silent.
    let framing = Framing { gap: Some(Duration::from_millis(50)), ..self::framing(PMS5003) };
    let good = pms5003([1; 13]);
    let mut framer = Framer::new(&framing);
    assert_eq!(read(&mut framer, &[&hex("42 4d 00 3c 00"), &good]).0, []);
    let mut all = Vec::new();
    framer.idle(|found| all.push(Owned::from(found)));
    assert_eq!((all, framer.take_noise(), framer.held()), (vec![whole(&good)], 5, 0));
}

#[test]
fn the_examples_of_the_documentation_are_these() {
    const DOC: &str = include_str!("../../../docs/framings.md");
    let examples: Vec<_> = DOC.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 12);
    for example in examples {
        let documented = framing(example);
        let same = |text: &&&str| Framing { bytes_max: documented.bytes_max, ..framing(text) } == documented;
        assert!(ALL.iter().find(same).is_some(), "{example}");
    }
    for word in CHECKSUMS.iter().filter(|word| !word.contains('/')) {
        assert!(DOC.contains(&format!("`{word}`")), "{word}");
    }
}

/// Every framing of these tests, with a frame that has as much to say as `size`, as it comes out and on the wire.
const ALL: [&str; 17] = [
    PMS5003,
    SDS011,
    MHZ19,
    MODBUS,
    UBX,
    NMEA,
    DSMR,
    VE_DIRECT,
    MBUS,
    SML,
    SLIP,
    SHDLC,
    MODBUS_ASCII,
    ESP3,
    KAMSTRUP,
    DF1,
    COBS,
];

fn example(text: &str, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let word = |at: usize| body.get(at).copied().unwrap_or_default();
    let letters: String = body.iter().map(|byte| char::from(b'a' + byte % 26)).take(60).collect();
    let same = |wire: Vec<u8>| (wire.clone(), wire);
    match text {
        PMS5003 => same(pms5003(std::array::from_fn(|at| u16::from_be_bytes([word(2 * at), word(2 * at + 1)])))),
        SDS011 => same(sds011(word(0).into(), word(1).into(), [word(2), word(3)])),
        MHZ19 => {
            let mut bytes = vec![0xff, 0x86, word(0), word(1), word(2), 0, word(3), 0];
            bytes.push(bytes[1..].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)).wrapping_neg());
            same(bytes)
        }
        MODBUS => same(modbus(word(0), &body.iter().map(|byte| u16::from(*byte)).collect::<Vec<_>>())),
        UBX => same(ubx(body)),
        NMEA => same(nmea(&letters)),
        DSMR => same(telegram(&[&letters])),
        VE_DIRECT => {
            let wire = ve_direct(&[("V", &letters)]);
            (wire[..wire.len() - 1].to_vec(), wire)
        }
        MBUS => same(mbus(body)),
        SML => (body.to_vec(), sml(body)),
        SLIP => slip(body),
        SHDLC => shdlc(body),
        MODBUS_ASCII => {
            let sum = body.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
            same(format!(":{}{sum:02X}\r\n", hex::encode_upper(body)).into_bytes())
        }
        ESP3 => same(esp3(body, &body[..body.len().min(7)])),
        KAMSTRUP => kamstrup(body),
        DF1 => df1(body),
        _ => cobs(body),
    }
}

/// Bytes in which the marks of all framings are frequent.
fn bytes(length: usize) -> impl Strategy<Value = Vec<u8>> {
    let marks =
        b"\x42\x4d\x00\x1c\xaa\xc0\xab\xff\x86\xb5\x62$*/!\r\n:\x68\x16\x1b\x01\x1a\xdb\xdc\xdd\x02\x7e\x7d\x5e\x10\x03\x40\x0d\xe4"
            .to_vec();
    prop::collection::vec(prop_oneof![2 => prop::sample::select(marks), 1 => any::<u8>()], 0..length)
}

/// Frames with noise between them.
fn stream(text: &str, pieces: &[(Vec<u8>, Vec<u8>, bool)]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (noise, body, damage) in pieces {
        stream.extend(noise);
        let mut wire = example(text, body).1;
        if *damage {
            let at = wire.len() / 2;
            wire[at] ^= 1;
        }
        stream.extend(wire);
    }
    stream
}

proptest! {
    #[test]
    fn the_split_into_reads_changes_nothing(
        which in 0..ALL.len(),
        pieces in prop::collection::vec((bytes(50), bytes(40), any::<bool>()), 0..6),
        cuts in prop::collection::vec(0_usize..1_000, 0..30),
        join in any::<bool>(),
        bytes_max in prop::sample::select(vec![1_usize, 7, 20, 40, 200, 4_096]),
        checked in any::<bool>(),
    ) {
        let mut framing = framing(ALL[which]);
        framing.bytes_max = bytes_max;
        if !checked {
            framing.checksum = None;
        }
        let stream = stream(ALL[which], &pieces);
        let (mut whole, mut split) = (Framer::new(&framing), Framer::new(&framing));
        if join {
            whole.join();
            split.join();
        }
        prop_assert_eq!(read(&mut whole, &[&stream]), read(&mut split, &reads(&stream, cuts)));
        prop_assert_eq!(whole.held(), split.held());
        let (mut last, mut last_of_split) = (Vec::new(), Vec::new());
        whole.idle(|found| last.push(Owned::from(found)));
        split.idle(|found| last_of_split.push(Owned::from(found)));
        whole.end();
        split.end();
        prop_assert_eq!((last, whole.take_noise()), (last_of_split, split.take_noise()));
    }

    #[test]
    fn no_more_than_the_maximum_is_held_and_every_byte_is_accounted_for(
        which in 0..ALL.len(),
        pieces in prop::collection::vec((bytes(60), bytes(40), any::<bool>()), 0..6),
        bytes_max in prop::sample::select(vec![64_usize, 200]),
        read_bytes in 1_usize..100,
    ) {
        let mut framing = framing(ALL[which]);
        framing.bytes_max = bytes_max;
        // What comes out is what went in only where nothing is undone or cut off.
        framing.payload = None;
        let encoded = matches!(framing.kind, FramingKind::Slip | FramingKind::Hdlc | FramingKind::Cobs | FramingKind::Sml)
            || matches!(framing.kind, FramingKind::Markers { escape: Some(_), .. });
        let omits = ALL[which] == VE_DIRECT;
        let stream = stream(ALL[which], &pieces);
        let mut framer = Framer::new(&framing);
        if let Machine::Pieces(pieces) = &mut framer.machine {
            pieces.trust();
        }
        let mut told = 0;
        for read in stream.chunks(read_bytes) {
            framer.push(read, |found| {
                told += match found {
                    Found::Frame(bytes) | Found::TooLong(bytes) | Found::BadChecksum(bytes, _) => bytes.len(),
                };
            });
            prop_assert!(framer.held() <= bytes_max);
        }
        framer.end();
        let accounted = told + framer.take_noise() as usize;
        // A good frame may begin in one that was told of as damaged, so a byte can be told of twice, never not at all.
        prop_assert!(encoded || omits || accounted >= stream.len(), "{accounted} of {}", stream.len());
        prop_assert_eq!(framer.held(), 0);
    }

    #[test]
    fn all_whole_frames_after_noise_are_found(
        which in 0..ALL.len(),
        pieces in prop::collection::vec((bytes(60), bytes(20)), 1..5),
    ) {
        let text = ALL[which];
        let framing = framing(text);
        let mut expected = Vec::new();
        let mut stream = Vec::new();
        for (noise, body) in &pieces {
            // Frames without a start are lost with the noise that runs into them: the next one is not.
            let (alone, wire) = example(text, body);
            stream.extend(noise);
            if matches!(framing.kind, FramingKind::Cobs) || text == VE_DIRECT {
                stream.extend(&wire);
            }
            stream.extend(&wire);
            expected.push(whole(&alone));
        }
        // A false start can announce this much, and no more.
        stream.extend(vec![b'\n'; framing.bytes_max]);
        let mut framer = Framer::new(&framing);
        let mut found = read(&mut framer, &[&stream]).0;
        framer.idle(|one| found.push(Owned::from(one)));
        // A checksum of eight bits passes noise now and then: what that hides nobody can find.
        prop_assume!(found.iter().all(|found| !matches!(found, Owned::Frame(_)) || expected.contains(found)));
        let mut found = found.iter();
        for frame in &expected {
            prop_assert!(found.any(|found| found == frame), "{frame:02x?} is missing in {:02x?}", stream);
        }
    }
}
