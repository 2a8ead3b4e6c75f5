//! What each framing costs for a frame, its checksum included: those of the shipped profiles with their own samples, and
//! each kind with frames made for it.

use std::path::Path;
use std::time::Duration;

use tidegate::clock;
use tidegate::profile::framing::{Framing, FramingKind};
use tidegate::profile::{Expected, Profile, ProfileSet, Transport};
use tidegate::source::framing::{Found, Framer};

use crate::decoders;

/// So many bytes go through each.
const BYTES: usize = 20_000_000;
/// As one read of a port gives them.
const READ_BYTES: usize = 2_048;

pub(super) fn run() {
    println!("\nframings, without decoding");
    let sum16 = |bytes: &mut Vec<u8>| {
        let sum: u16 = bytes.iter().map(|byte| u16::from(*byte)).sum();
        bytes.extend(sum.to_be_bytes());
    };
    let mut particles = vec![0x42, 0x4d, 0, 28];
    particles.extend((0..26).map(|n| n * 9));
    sum16(&mut particles);
    let mut fixed = particles.get(..8).unwrap_or_default().to_vec();
    sum16(&mut fixed);
    let line = b"{\"temperature\":21.45,\"humidity\":55.2,\"pressure\":1013.25}\n".to_vec();
    let sentence = sentence("GPGGA,120000.00,5222.3198,N,00454.5784,E,1,08,1.0,3.0,M,46.0,M,,");
    let telegram = telegram();
    let mut slip = vec![0xc0];
    slip.extend((0..40).flat_map(|n| if n == 7 { vec![0xdb, 0xdc] } else { vec![n * 5] }).chain([0xc0]));
    let mut hdlc = vec![0x7e];
    hdlc.extend((0..40).flat_map(|n| if n == 7 { vec![0x7d, 0x5e] } else { vec![n * 5] }).chain([0x7e]));
    let mut escaped = vec![0x40];
    escaped.extend((0x41..0x69).flat_map(|n| if n == 0x47 { vec![0x1b, 0xbf] } else { vec![n] }).chain([0x0d]));
    let cobs: Vec<u8> = (0..41).map(|n| if n == 0 { 41 } else { n }).chain([0]).collect();
    for (what, text, frame) in [
        ("delimiter", "kind = \"delimiter\"", &line),
        (
            "delimiter, NMEA's checksum",
            "kind = \"delimiter\"\ndelimiter = \"\\r\\n\"\n[checksum]\nkind = \"nmea\"",
            &sentence,
        ),
        ("markers, CRC-16 in hex", TELEGRAM, &telegram),
        ("fixed, sum16", "kind = \"fixed\"\nbytes = 10\nstart = [0x42, 0x4d]\n[checksum]\nkind = \"sum16\"", &fixed),
        (
            "length, sum16",
            "kind = \"length\"\nstart = [0x42, 0x4d]\nlength = { at = 2, width = 2 }\n[checksum]\nkind = \"sum16\"",
            &particles,
        ),
        (
            "markers, escapes",
            "kind = \"markers\"\nstart = [0x40]\nend = [0x0d]\nescape = { byte = 0x1b, xor = 0xff }",
            &escaped,
        ),
        ("slip", "kind = \"slip\"", &slip),
        ("hdlc", "kind = \"hdlc\"", &hdlc),
        ("cobs", "kind = \"cobs\"", &cobs),
        ("sml", "kind = \"sml\"", &sml()),
    ] {
        measure(what, &framing(text), frame);
    }
    silence(&particles);
    shipped();
}

/// One for each framing that shipped profiles have, with the longest good sample of the first of them.
fn shipped() {
    println!("\nframings of shipped profiles, with what a sample has on the wire");
    let mut seen = Vec::new();
    for profile in ProfileSet::builtin().iter() {
        let Transport::Serial(line) = &profile.transport else { continue };
        let good = profile.samples.iter().filter(|sample| {
            matches!(sample.expected, Expected::Readings(_))
                && decoders::payloads(profile, sample).len() == 1
                && !has_noise(&line.framing, &sample.payload)
        });
        let Some(sample) = good.max_by_key(|sample| sample.payload.len()) else { continue };
        if seen.contains(&line.framing) {
            continue;
        }
        let mut wire = sample.payload.clone();
        if let FramingKind::Delimiter(delimiter) = &line.framing.kind
            && !wire.ends_with(delimiter)
        {
            wire.extend(delimiter);
        }
        measure(&profile.id, &line.framing, &wire);
        seen.push(line.framing.clone());
    }
}

fn has_noise(framing: &Framing, wire: &[u8]) -> bool {
    let mut framer = Framer::new(framing);
    framer.push(wire, |_| {});
    framer.take_noise() > 0
}

/// A frame ends where it is silent, so each is a read of its own.
fn silence(frame: &[u8]) {
    let mut framer = Framer::new(&framing("kind = \"idle\"\ngap = \"20ms\""));
    let count = BYTES / frame.len();
    let mut found = 0;
    let start = clock::instant();
    for _ in 0..count {
        framer.push(frame, |_| {});
        framer.idle(|one| found += usize::from(matches!(one, Found::Frame(_))));
    }
    print_row("idle", start.elapsed(), found, frame.len());
    assert_eq!(found, count);
}

const TELEGRAM: &str = "kind = \"markers\"\nstart = \"/\"\nend = \"!\"\ntail = \"\\r\\n\"\n[checksum]\n\
                        kind = \"crc-16/arc\"\nafter = \"!\"";

fn sentence(body: &str) -> Vec<u8> {
    format!("${body}*{:02X}\r\n", body.bytes().fold(0, |all, byte| all ^ byte)).into_bytes()
}

fn telegram() -> Vec<u8> {
    let lines: String = (0..30).map(|n| format!("1-0:{n}.7.0(00{n:02}.244*kW)\r\n")).collect();
    let text = format!("/ABC5 meter\r\n\r\n{lines}!");
    let crc = crc::Crc::<u16>::new(&crc::CRC_16_ARC).checksum(text.as_bytes());
    format!("{text}{crc:04X}\r\n").into_bytes()
}

fn sml() -> Vec<u8> {
    let mut bytes = vec![0x1b, 0x1b, 0x1b, 0x1b, 1, 1, 1, 1];
    bytes.extend((0..320_u32).map(|n| (n % 251) as u8));
    bytes.extend([0x1b, 0x1b, 0x1b, 0x1b, 0x1a, 0]);
    let crc = crc::Crc::<u16>::new(&crc::CRC_16_IBM_SDLC).checksum(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

fn framing(text: &str) -> Framing {
    let text = format!(
        "id = \"a/b\"\ndescription = \"d\"\nsource = \"s\"\ntransport = \"serial\"\nformat = \"json\"\n\
         [[field]]\npath = \"a\"\nname = \"a\"\n[framing]\n{text}\n"
    );
    match Profile::parse(Path::new("bench.toml"), &text).unwrap().transport {
        Transport::Serial(line) => *line.framing,
        Transport::Mqtt(_) | Transport::Bus(..) => Framing::default(),
    }
}

fn measure(what: &str, framing: &Framing, frame: &[u8]) {
    let count = BYTES / frame.len();
    let stream = frame.repeat(count);
    let mut framer = Framer::new(framing);
    let mut found = 0;
    let start = clock::instant();
    for read in stream.chunks(READ_BYTES) {
        framer.push(read, |one| found += usize::from(matches!(one, Found::Frame(_))));
    }
    let took = start.elapsed();
    // The end of the last one may be known only by what comes after it.
    assert!(found == count || found + 1 == count, "{what}: {found} of {count}");
    print_row(what, took, found, frame.len());
}

fn print_row(what: &str, took: Duration, frames: usize, bytes: usize) {
    let nanos = took.as_nanos() as f64;
    let rate = (frames * bytes) as f64 * 1_000.0 / nanos;
    println!("{what:34} {:6.0} ns a frame of {bytes} bytes ({rate:.0} MB/s)", nanos / frames as f64);
}
