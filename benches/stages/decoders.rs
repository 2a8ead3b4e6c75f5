//! What each decoder costs for a frame: the longest sample of a shipped profile that has its format.

use tidegate::clock;
use tidegate::profile::framing::FramingKind;
use tidegate::profile::{Expected, Profile, ProfileSet, Sample, SampleReading, Transport, decoder};
use tidegate::reading::{Batch, Frame, Record, Stamp};
use tidegate::source::framing::{Found, Framer};

/// So many bytes go through each.
const BYTES: usize = 20_000_000;
/// A batch is emptied after so many frames, as one read of a port fills it.
const BATCH: usize = 100;
/// When samples arrive.
const ARRIVAL: Stamp = Stamp { wall_ms: 1_800_000_000_000, monotonic_ms: 1, trusted: true };

/// A format, and a profile that has it; no shipped one has CBOR or a regular expression.
const FORMATS: &[(&str, &str)] = &[
    ("json", "generic/json-line"),
    ("plain", "esphome"),
    ("delimited", "generic/csv-line"),
    ("pairs", "openenergymonitor/emontx"),
    ("pairs, a block of lines", "victron/bmv"),
    ("binary", "plantower/pms5003"),
    ("nmea", "nmea/gps"),
    ("dsmr", "dsmr/5"),
    ("sml", "sml"),
    ("registers", "eastron/sdm630"),
    ("mbus", "mbus/meter"),
    ("senml", "senml"),
    ("influx", "telegraf/influx"),
    ("sparkplug", "sparkplug/sparkplug-b"),
];
const MORE: [(&str, &str); 2] = [
    ("cbor", include_str!("../../fuzz/profiles/cbor.toml")),
    ("regex", include_str!("../../fuzz/profiles/regex.toml")),
];

pub(super) fn run() {
    println!("\ndecoders, without framing");
    let set = ProfileSet::builtin();
    for (format, id) in FORMATS {
        let profile = set.iter().find(|profile| &*profile.id == *id || profile.id.starts_with(&format!("{id}/")));
        measure(format, profile.unwrap_or_else(|| panic!("{id}: no such profile")));
    }
    for (format, text) in MORE {
        measure(format, &Profile::parse("bench.toml".as_ref(), text).unwrap());
    }
}

/// What the profile's framing finds in a sample.
pub(super) fn payloads(profile: &Profile, sample: &Sample) -> Vec<Vec<u8>> {
    let Transport::Serial(line) = &profile.transport else { return vec![sample.payload.clone()] };
    let line_itself = matches!(line.framing.kind, FramingKind::Delimiter(_)) && line.framing.checksum.is_none();
    if line_itself && !sample.hex {
        return vec![sample.payload.clone()];
    }
    let mut payloads = Vec::new();
    Framer::read_all(&line.framing, &[&sample.payload], |found| {
        if let Found::Frame(frame) = found {
            payloads.push(frame.to_vec());
        }
    });
    payloads
}

fn readings(sample: &Sample) -> &[SampleReading] {
    if let Expected::Readings(readings) = &sample.expected { readings } else { &[] }
}

fn measure(format: &str, profile: &Profile) {
    // Only what makes all of its readings in one frame can be repeated.
    let good = profile.samples.iter().filter(|sample| !readings(sample).is_empty() && !sample.retained);
    let good = good.filter(|sample| payloads(profile, sample).len() == 1);
    let sample = good.max_by_key(|sample| sample.payload.len()).unwrap_or_else(|| panic!("{}", profile.id));
    let mut decoder = decoder(profile, sample.time_zone.clone()).unwrap();
    let origin = sample.topic.as_deref().unwrap_or(match profile.transport {
        Transport::Bus(..) => "sample#1",
        Transport::Mqtt(_) | Transport::Serial(_) => "sample",
    });
    let mut batch = Batch::default();
    for before in &sample.before {
        let origin = before.topic.as_deref().unwrap_or(origin);
        for payload in payloads(profile, before) {
            decoder.decode(&Frame { origin, payload: &payload, retained: false, oversize: None }, ARRIVAL, &mut batch);
        }
    }
    let payload = payloads(profile, sample).remove(0);
    let frame = Frame { origin, payload: &payload, retained: false, oversize: None };
    let count = (BYTES / payload.len()).min(200_000);
    let mut values = 0;
    let start = clock::instant();
    for number in 0..count {
        if number % BATCH == 0 {
            batch.clear();
        }
        decoder.decode(&frame, ARRIVAL, &mut batch);
        if number == 0 {
            values = values_of(&batch);
        }
    }
    let nanos = start.elapsed().as_nanos() as f64 / count as f64;
    assert!(values > 0, "{}: nothing came of {:?}", profile.id, sample.name);
    println!("{format:24} {nanos:8.0} ns a frame of {:4} bytes, {values:3} values ({})", payload.len(), profile.id);
}

fn values_of(batch: &Batch) -> usize {
    let of = |record: &Record| match record {
        Record::Reading(reading) => batch.fields_of(reading).len(),
        _ => 0,
    };
    batch.records.iter().map(of).sum()
}
