//! What the fuzz targets do with their bytes, and what inputs to begin with are made of. All of it goes through what
//! `tidegate profile try` goes through, so what is found here is what a device could do.
//!
//! Input of a decoder: one byte chooses among the profiles of its format, then messages follow: one byte that chooses a
//! topic, two bytes of length (big endian), the payload. The last one may be shorter than it says, so that bytes can come
//! and go in it.

use std::path::Path;
use std::sync::OnceLock;

use tidegate::decode::Decoder;
use tidegate::profile::framing::Framing;
use tidegate::profile::{BUILTIN_FILES, Heard, Profile, Sample, Transport, decoder, run_samples};
use tidegate::reading::{Frame, Record, Stamp, Value};
use tidegate::source::framing::{CHECKSUMS, Found, Framer};

/// Profiles for what no shipped one has.
const MORE: &[&str] = &[
    include_str!("../profiles/cbor.toml"),
    include_str!("../profiles/counted.toml"),
    include_str!("../profiles/items.toml"),
    include_str!("../profiles/optional.toml"),
    include_str!("../profiles/regex.toml"),
];
/// The longest frame of the framings here: short, so that inputs reach it.
const FRAME_BYTES_MAX: usize = 48;
/// When all of it arrives.
const ARRIVAL: Stamp = Stamp { wall_ms: 1_800_000_000_000, monotonic_ms: 1, trusted: true };

/// The texts of all profiles.
pub fn texts() -> impl Iterator<Item = &'static str> {
    BUILTIN_FILES.iter().map(|(_, text)| *text).chain(MORE.iter().copied())
}

/// All profiles of a format.
pub fn profiles(format: &str) -> Vec<Profile> {
    let line = format!("format = \"{format}\"");
    let texts = texts().filter(|text| text.lines().any(|one| one == line));
    let profiles: Vec<_> = texts.map(|text| Profile::parse(Path::new("fuzz.toml"), text).expect("valid")).collect();
    assert!(!profiles.is_empty(), "no profile has the format {format}");
    profiles
}

/// The topics that a profile's samples come by, or where a frame of another transport comes from.
pub fn origins(profile: &Profile) -> Vec<String> {
    let all = profile.samples.iter().flat_map(|sample| sample.before.iter().chain([sample]));
    let mut origins: Vec<_> = match profile.transport {
        Transport::Mqtt(_) => all.filter_map(|sample| sample.topic.clone()).collect(),
        Transport::Serial(_) => vec!["sample".to_owned()],
        Transport::Bus(..) => vec!["sample#1".to_owned()],
    };
    origins.sort();
    origins.dedup();
    origins
}

/// The payloads of a sample: what its framing finds in it.
pub fn payloads(profile: &Profile, sample: &Sample) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    match &profile.transport {
        Transport::Serial(line) => Framer::read_all(&line.framing, &[&sample.payload], |found| {
            if let Found::Frame(frame) = found {
                payloads.push(frame.to_vec());
            }
        }),
        Transport::Mqtt(_) | Transport::Bus(..) => payloads.push(sample.payload.clone()),
    }
    payloads
}

/// Any messages for any profile of that format: no panic, and no number that is none.
pub fn decode(format: &str, data: &[u8]) {
    type Ready = (Vec<String>, Profile);
    static READY: OnceLock<Vec<Ready>> = OnceLock::new();
    let ready = READY.get_or_init(|| {
        let ready = |profile| (origins(&profile), profile);
        profiles(format).into_iter().map(ready).collect()
    });
    let Some((which, rest)) = data.split_first() else { return };
    let (origins, profile) = &ready[usize::from(*which) % ready.len()];
    let mut decoder = decoder(profile, None).expect("its samples had one");
    hear(&mut decoder, origins, rest);
}

fn hear(decoder: &mut Decoder, origins: &[String], mut rest: &[u8]) {
    let mut heard = Heard::default();
    while let [topic, high, low, behind @ ..] = rest {
        let (payload, behind) = behind.split_at(usize::from(u16::from_be_bytes([*high, *low])).min(behind.len()));
        rest = behind;
        let origin = &origins[usize::from(*topic) % origins.len()];
        // A profile reads such a message only if somebody sent it anew or it has a time: both are of interest.
        let frame = Frame { origin, payload, retained: topic & 0x80 != 0, oversize: None };
        heard.hear(decoder, &frame, ARRIVAL);
    }
    let _ = decoder.take_requests();
    for record in &heard.batch.records {
        if let Record::Reading(reading) = record {
            assert!(!reading.device.is_empty(), "a reading without a device");
            for field in heard.batch.fields_of(reading) {
                assert!(!matches!(field.value, Value::Number(number) if !number.is_finite()), "{field:?}");
            }
        }
    }
}

/// All kinds of framing, each with several checksums, and those of the shipped profiles.
pub fn framings() -> Vec<Framing> {
    const KINDS: &[&str] = &[
        "kind = \"delimiter\"",
        "kind = \"delimiter\"\ndelimiter = \"\\r\\n\"",
        "kind = \"fixed\"\nbytes = 9\nstart = [0x42, 0x4d]\nend = [0xab]",
        "kind = \"fixed\"\nbytes = 9\ngap = \"20ms\"",
        "kind = \"length\"\nstart = [0x42]\nlength = { at = 1, width = 2, endian = \"little\", plus = -1 }",
        "kind = \"length\"\nlength = { at = 0, counts = \"all\", unit = 2 }\ngap = \"20ms\"",
        "kind = \"markers\"\nstart = [\"/\", \"#!\"]\nend = \"!\"\ntail = \"\\r\\n\"",
        "kind = \"markers\"\nstart = \"a\"\nend = \"bc\"\ntail = 2\nrestart = false",
        "kind = \"markers\"\nend = \"\\n\"\nomit = { start = \":\", end = \"\\n\" }",
        "kind = \"markers\"\nstart = [0x40]\nend = [0x0d]\nescape = { byte = 0x1b, xor = 0xff }",
        "kind = \"markers\"\nstart = [0x10]\nend = [0x10, 0x03]\ntail = 1\nescape = { byte = 0x10 }",
        "kind = \"slip\"",
        "kind = \"hdlc\"",
        "kind = \"cobs\"",
        "kind = \"idle\"\ngap = \"20ms\"",
    ];
    let mut texts = vec!["[framing]\nkind = \"sml\"".to_owned()];
    for kind in KINDS {
        texts.push(format!("[framing]\n{kind}"));
        texts.push(format!("[framing]\n{kind}\npayload = [1, -1]"));
        for checksum in CHECKSUMS.iter().copied().chain(["nmea"]) {
            for place in ["", "encoding = \"hex\"", "after = \"*\"\noptional = true", "at = 1\nfrom = 2"] {
                texts.push(format!("[framing]\n{kind}\n[checksum]\nkind = \"{checksum}\"\n{place}"));
            }
        }
    }
    let head = format!(
        "id = \"a/b\"\ndescription = \"d\"\nsource = \"s\"\ntransport = \"serial\"\nformat = \"json\"\n\
         [[field]]\npath = \"a\"\nname = \"a\"\n[serial]\nframe_bytes_max = {FRAME_BYTES_MAX}\n"
    );
    let texts: Vec<_> = texts.into_iter().map(|text| head.clone() + &text).collect();
    let parse =
        |text: &str| Profile::parse(Path::new("fuzz.toml"), text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let own = texts.iter().map(|text| parse(text));
    let shipped = self::texts().map(parse);
    // The shipped come first: the first bytes of the corpus choose them.
    let all = shipped.chain(own).filter_map(|profile| match profile.transport {
        Transport::Serial(line) => Some(*line.framing),
        Transport::Mqtt(_) | Transport::Bus(..) => None,
    });
    all.collect()
}

#[derive(Debug, PartialEq)]
enum Owned {
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

/// Any bytes for any framing: two bytes choose it, one says whether the stream was under way, two where reads end. No
/// panic, never more held than the maximum, and what is found does not depend on where reads end.
pub fn framing(data: &[u8]) {
    static READY: OnceLock<Vec<Framing>> = OnceLock::new();
    let ready = READY.get_or_init(framings);
    let [which @ .., _, _, _] = data.get(..5).unwrap_or_default() else { return };
    let which = which.iter().fold(0, |all, byte| all << 8 | usize::from(*byte));
    let framing = &ready[which % ready.len()];
    let (join, seed, stream) = (data[2] & 1 == 1, u16::from_be_bytes([data[3], data[4]]), &data[5..]);
    let whole = read(framing, join, &mut [stream].into_iter());
    let split = read(framing, join, &mut Reads { rest: stream, seed });
    assert_eq!(whole, split, "{framing:?}");
}

/// Reads of 1 to 16 bytes.
struct Reads<'a> {
    rest: &'a [u8],
    seed: u16,
}

impl<'a> Iterator for Reads<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        self.seed = self.seed.wrapping_mul(25_173).wrapping_add(13_849);
        let (read, rest) = self.rest.split_at(usize::from(self.seed >> 12).saturating_add(1).min(self.rest.len()));
        self.rest = rest;
        (!read.is_empty()).then_some(read)
    }
}

fn read(framing: &Framing, join: bool, reads: &mut dyn Iterator<Item = &[u8]>) -> (Vec<Owned>, u64) {
    let mut framer = Framer::new(framing);
    if join {
        framer.join();
    }
    let mut all = Vec::new();
    for read in reads {
        framer.push(read, |found| all.push(found.into()));
        assert!(framer.held() <= framing.bytes_max, "{} held: {framing:?}", framer.held());
    }
    if framer.idle_after().is_some() {
        framer.idle(|found| all.push(found.into()));
    }
    framer.end();
    assert_eq!(framer.held(), 0, "held after the end: {framing:?}");
    (all, framer.take_noise())
}

/// Any text as a profile's file: an error with a line, or a profile whose samples can be run.
pub fn profile(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Profile::parse(Path::new("fuzz.toml"), text) {
        Ok(profile) => drop(run_samples(&profile)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
