//! Running samples: a decoder of its own for a profile, and what must come compared with what came.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::framing::{Framing, FramingKind};
use super::{Expected, Profile, ProfileSet, Sample, Transport};
use crate::config::{Bus, BusAddress, BusProtocol, BusUnit, Mqtt, MqttVersion, ProfileUse, Retained, Serial};
use crate::decode::{Decoder, Outcome};
use crate::reading::{Batch, Frame, Reason, Record, Stamp, TimeQuality, Value};
use crate::source::framing::{Found, Framer};

/// A sample that did not give what it must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The sample's name.
    pub sample: String,
    /// What was expected and did not come, and what came and was not expected: lines that begin with `-` and `+`.
    pub diff: Vec<String>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sample {:?}: `-` was expected, `+` was found", self.sample)?;
        self.diff.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// Runs all samples of a profile. Empty if each gives what it must.
#[must_use]
pub fn run_samples(profile: &Profile) -> Vec<Mismatch> {
    profile.samples.iter().filter_map(|sample| run(profile, sample)).collect()
}

/// When samples arrive: after all times in them would be too much to ask of their authors, so it is just a fixed moment.
const ARRIVAL: Stamp = Stamp { wall_ms: 1_800_000_000_000, monotonic_ms: 1, trusted: true };

/// All that came of a sample.
#[derive(Debug, Default)]
pub struct Heard {
    /// What became of each frame.
    pub outcomes: Vec<Outcome>,
    /// What they gave.
    pub batch: Batch,
    /// Single values that were left out.
    pub rejected: Vec<Reason>,
    /// What the framing refused.
    pub unframed: Vec<(Reason, String)>,
}

/// What comes of a sample, from its bytes on the wire if it is of a serial device.
#[must_use]
pub fn hear(profile: &Profile, decoder: &mut Decoder, sample: &Sample) -> Heard {
    for before in &sample.before {
        let _ = hear(profile, decoder, before);
    }
    let mut heard = Heard::default();
    let origin = sample.topic.as_deref().unwrap_or(origin(&profile.transport));
    match framing_of(profile, sample) {
        Some(framing) => heard.frame(decoder, origin, sample, framing),
        None => heard.decode(decoder, origin, sample, &sample.payload),
    }
    heard
}

impl Heard {
    fn decode(&mut self, decoder: &mut Decoder, origin: &str, sample: &Sample, payload: &[u8]) {
        let frame = Frame { origin, payload, retained: sample.retained, oversize: None };
        self.hear(decoder, &frame, ARRIVAL);
    }

    /// How many values came of it.
    #[must_use]
    pub fn values(&self) -> usize {
        let of = |record: &Record| {
            if let Record::Reading(reading) = record { self.batch.fields_of(reading).len() } else { 0 }
        };
        self.batch.records.iter().map(of).sum()
    }

    /// What comes of one frame.
    pub fn hear(&mut self, decoder: &mut Decoder, frame: &Frame<'_>, received: Stamp) {
        for piece in decoder.pieces(*frame) {
            self.outcomes.push(decoder.decode(&piece, received, &mut self.batch));
            self.rejected.extend_from_slice(decoder.values_rejected());
        }
    }

    /// Reads the sample as it comes from a wire.
    fn frame(&mut self, decoder: &mut Decoder, origin: &str, sample: &Sample, framing: &Framing) {
        let mut reads = Vec::new();
        let mut rest = sample.payload.as_slice();
        for (cut, before) in sample.cuts.iter().zip([0].iter().chain(&sample.cuts)) {
            let (read, behind) = rest.split_at((cut - before).min(rest.len()));
            reads.push(read);
            rest = behind;
        }
        reads.push(rest);
        Framer::read_all(framing, &reads, |found| match found {
            Found::Frame(payload) => self.decode(decoder, origin, sample, payload),
            Found::TooLong(beginning) => {
                let detail = format!("longer than {} bytes, begins with {beginning:02x?}", framing.bytes_max);
                self.unframed.push((Reason::TooLarge, detail));
            }
            Found::BadChecksum(_, mismatch) => self.unframed.push((Reason::BadChecksum, mismatch.to_string())),
        });
    }
}

/// The framing that a sample goes through, if it does.
fn framing_of<'a>(profile: &'a Profile, sample: &Sample) -> Option<&'a Framing> {
    let Transport::Serial(line) = &profile.transport else { return None };
    let line_itself = match &line.framing.kind {
        FramingKind::Delimiter(delimiter) => line.framing.checksum.is_none() && !sample.payload.ends_with(delimiter),
        _ => false,
    };
    (sample.hex || !sample.cuts.is_empty() || !line_itself).then_some(&line.framing)
}

fn run(profile: &Profile, sample: &Sample) -> Option<Mismatch> {
    let mut expected = describe_expected(&sample.expected, sample.values_rejected);
    expected.extend(sample.state.map(|online| state_text(online).to_owned()));
    expected.extend(sample.error.map(|reason| format!("error {}", reason.as_str())));
    let found = match decoder(profile, sample.time_zone.clone()) {
        Ok(mut decoder) => describe_found(&hear(profile, &mut decoder, sample), sample),
        Err(error) => vec![error],
    };
    let in_order = |lines: &[String]| {
        let mut lines = lines.to_vec();
        lines.sort_unstable();
        lines
    };
    if in_order(&expected) == in_order(&found) {
        return None;
    }
    let missing = expected.iter().filter(|line| !found.contains(line)).map(|line| format!("- {line}"));
    let surplus = found.iter().filter(|line| !expected.contains(line)).map(|line| format!("+ {line}"));
    Some(Mismatch { sample: sample.name.clone(), diff: missing.chain(surplus).collect() })
}

/// Where a sample comes from that does not say it.
fn origin(transport: &Transport) -> &'static str {
    if transport.bus().is_some() { "sample#1" } else { "sample" }
}

/// A decoder with this profile alone.
///
/// # Errors
/// What is wrong with its topics, or with the time zone.
pub fn decoder(profile: &Profile, time_zone: Option<String>) -> Result<Decoder, String> {
    let mut profiles = ProfileSet::default();
    profiles.insert(profile.clone());
    let id = profile.id.to_string();
    let decoder = match &profile.transport {
        Transport::Mqtt(_) => Decoder::for_mqtt(&mqtt(id, time_zone), &profiles),
        Transport::Serial(_) => Decoder::for_serial(&serial(id, time_zone), &profiles),
        Transport::Bus(protocol, _) => Decoder::for_bus(&bus(*protocol, id), &profiles),
    };
    decoder.map_err(|error| error.to_string())
}

fn mqtt(id: String, time_zone: Option<String>) -> Mqtt {
    Mqtt {
        name: "sample".to_owned(),
        host: String::new(),
        port: 0,
        tls: None,
        version: MqttVersion::V4,
        client_id: None,
        user: None,
        password: None,
        profiles: vec![ProfileUse { id, prefix: None, exclude: Vec::new() }],
        qos: 1,
        keep_alive: Duration::ZERO,
        session_expiry: Duration::ZERO,
        in_flight_max: 1,
        packet_bytes_max: usize::MAX,
        retained: Retained::Keep,
        time_zone,
        names: BTreeMap::new(),
        read_interval: Duration::ZERO,
        memory_bytes_max: usize::MAX,
        drop_qos0: false,
        rebirth: false,
    }
}

fn serial(profile: String, time_zone: Option<String>) -> Serial {
    Serial { name: "sample".to_owned(), profile, device: "sample".to_owned(), time_zone, ..Serial::default() }
}

/// With one device, which is [`origin`]'s.
fn bus(protocol: BusProtocol, profile: String) -> Bus {
    let address = BusAddress::Number(1);
    let unit = BusUnit { address, profile, device: "sample".to_owned(), every: None, timeout: None };
    Bus {
        name: "sample".to_owned(),
        protocol,
        port: PathBuf::from("sample"),
        baud: None,
        parity: None,
        stop_bits: None,
        rs485: false,
        every: None,
        timeout: None,
        retries: 0,
        pause: Duration::ZERO,
        units: vec![unit],
    }
}

/// All digits that a meter has, without the last bits of a conversion.
const DIGITS: usize = 13;
/// Nobody has to write down more digits of a fraction.
const DIGITS_WRITTEN: usize = 9;

/// How many digits of a number count that is compared with this one.
fn digits_of(wanted: Option<&Value>) -> usize {
    match wanted {
        Some(Value::Number(number)) if number.fract() != 0.0 => {
            let digits =
                format!("{number:e}").bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit).count();
            digits.clamp(DIGITS_WRITTEN, DIGITS)
        }
        _ => DIGITS,
    }
}

fn value_text(value: &Value, digits: usize) -> String {
    match value {
        Value::Number(number) => {
            format!("{}", format!("{number:.0$e}", digits - 1).parse::<f64>().unwrap_or(*number))
        }
        Value::Text(text) => format!("{text:?}"),
        Value::Flag(flag) => flag.to_string(),
    }
}

fn time_text(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}

fn state_text(online: bool) -> &'static str {
    if online { "state online" } else { "state offline" }
}

fn describe_expected(expected: &Expected, values_rejected: usize) -> Vec<String> {
    let mut lines =
        match expected {
            Expected::State(online) => vec![state_text(*online).to_owned()],
            Expected::Ignored => vec!["ignored".to_owned()],
            Expected::RetainedWithoutTime => vec!["retained without a time".to_owned()],
            Expected::Noise => vec!["noise".to_owned()],
            Expected::Error(reason) => vec![format!("error {}", reason.as_str())],
            Expected::Readings(readings) => readings
                .iter()
                .enumerate()
                .flat_map(|(index, reading)| {
                    let device = reading.device.iter().map(move |device| format!("reading {index}: device {device:?}"));
                    let time = reading.time_ms.map(time_text).unwrap_or_else(|| "of arrival".to_owned());
                    let values = reading.values.iter();
                    device
                        .chain([format!("reading {index}: time {time}")])
                        .chain(values.map(move |(name, value)| {
                            format!("reading {index}: {name} = {}", value_text(value, DIGITS))
                        }))
                        .collect::<Vec<_>>()
                })
                .collect(),
        };
    if values_rejected > 0 {
        lines.push(format!("{values_rejected} values rejected"));
    }
    lines
}

fn describe_found(heard: &Heard, sample: &Sample) -> Vec<String> {
    let Heard { outcomes, batch, rejected, unframed } = heard;
    let expected = &sample.expected;
    let mut lines = Vec::new();
    // A frame that is passed over among others says nothing.
    match outcomes.first() {
        None if unframed.is_empty() => lines.push("noise".to_owned()),
        Some(Outcome::Ignored)
            if outcomes.iter().all(|outcome| *outcome == Outcome::Ignored) && unframed.is_empty() =>
        {
            lines.push("ignored".to_owned());
        }
        _ => {}
    }
    let mut error = |reason: Reason, detail: &str| {
        let line = format!("error {}", reason.as_str());
        if !lines.contains(&line) {
            lines.push(line);
        }
        if *expected != Expected::Error(reason) && sample.error != Some(reason) {
            lines.push(format!("({detail})"));
        }
    };
    unframed.iter().for_each(|(reason, detail)| error(*reason, detail));
    for outcome in outcomes {
        if let Outcome::Rejected(rejection) = outcome {
            error(rejection.reason, &rejection.detail);
        }
    }
    if outcomes.contains(&Outcome::RetainedWithoutTime) {
        lines.push("retained without a time".to_owned());
    }
    let mut index = 0;
    for record in &batch.records {
        match record {
            Record::State(state) => lines.push(state_text(state.online).to_owned()),
            Record::Reading(reading) => {
                let wanted = match expected {
                    Expected::Readings(readings) => readings.get(index),
                    _ => None,
                };
                if wanted.is_none_or(|wanted| wanted.device.is_some()) {
                    lines.push(format!("reading {index}: device {:?}", reading.device));
                }
                let time = match reading.time_quality {
                    TimeQuality::Device => time_text(reading.time_ms),
                    _ => "of arrival".to_owned(),
                };
                lines.push(format!("reading {index}: time {time}"));
                let mut values: Vec<_> = batch.fields_of(reading).iter().collect();
                values.sort_by(|a, b| a.measurement.name.cmp(&b.measurement.name));
                let value = |field: &&crate::reading::Field| {
                    let name = &*field.measurement.name;
                    let wanted = wanted.and_then(|wanted| wanted.values.get(name));
                    format!("reading {index}: {name} = {}", value_text(&field.value, digits_of(wanted)))
                };
                lines.extend(values.iter().map(value));
                index += 1;
            }
            _ => {}
        }
    }
    if !rejected.is_empty() {
        let reasons: Vec<&str> = rejected.iter().map(|reason| reason.as_str()).collect();
        let why =
            if rejected.len() == sample.values_rejected { String::new() } else { format!(" ({})", reasons.join(", ")) };
        lines.push(format!("{} values rejected{why}", rejected.len()));
    }
    lines
}
