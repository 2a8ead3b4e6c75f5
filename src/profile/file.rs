//! The shape of a profile file, and what makes it a [`Profile`]. Unknown keys are errors; errors name the line.

use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::Deserialize;
use toml::Spanned;

use super::binary::BinaryPart;
use super::field::{FieldPart, WhenPart, condition, field};
use super::format::{self, DelimitedPart, Format, InsidePart, PairsPart, Parts, RegexPart};
use super::framing::{ChecksumPart, FramingPart, framing};
use super::registers::{BusPart, RegistersPart, bus_settings, duration};
use super::{
    KeyPath, LineSettings, Part, Path, PatternError, Poll, Profile, ProfileError, Sample, StateRule, TimeRule, Topics,
    Transport, sample,
};
use crate::config::{BusProtocol, Parity};
use crate::decode::TimeFormat;
use crate::profile::TopicPattern;

/// The longest request of a device that is asked.
const POLL_BYTES_MAX: usize = 256;
/// The most requests of one round.
const POLL_REQUESTS_MAX: usize = 32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileFile {
    id: Spanned<String>,
    description: Spanned<String>,
    source: String,
    transport: Spanned<String>,
    format: Spanned<String>,
    mqtt: Option<Spanned<MqttPart>>,
    serial: Option<Spanned<SerialPart>>,
    framing: Option<Spanned<FramingPart>>,
    checksum: Option<Spanned<ChecksumPart>>,
    modbus: Option<Spanned<BusPart>>,
    mbus: Option<Spanned<BusPart>>,
    poll: Option<Spanned<PollPart>>,
    delimited: Option<Spanned<DelimitedPart>>,
    pairs: Option<Spanned<PairsPart>>,
    regex: Option<Spanned<RegexPart>>,
    binary: Option<Spanned<BinaryPart>>,
    #[serde(default)]
    inside: Vec<Spanned<InsidePart>>,
    no_value: Option<Spanned<String>>,
    registers: Option<Spanned<RegistersPart>>,
    device: Option<Spanned<OneOrMany>>,
    time: Option<TimePart>,
    #[serde(default)]
    skip: Vec<Spanned<String>>,
    #[serde(default)]
    field: Vec<Spanned<FieldPart>>,
    #[serde(default)]
    part: Vec<Spanned<PartPart>>,
    #[serde(default)]
    sample: Vec<Spanned<sample::SamplePart>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartPart {
    each: Option<Spanned<OneOrMany>>,
    device: Option<Spanned<OneOrMany>>,
    time: Option<TimePart>,
    #[serde(default)]
    when: Vec<WhenPart>,
    #[serde(default)]
    skip: Vec<Spanned<String>>,
    #[serde(default)]
    field: Vec<Spanned<FieldPart>>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged, expecting = "expected a text, or several of them in an array")]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MqttPart {
    prefix: Option<String>,
    topics: Vec<Spanned<String>>,
    #[serde(default)]
    ignore: Vec<Spanned<String>>,
    delimiter: Option<Spanned<String>>,
    #[serde(default)]
    state: Vec<Spanned<StatePart>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatePart {
    topic: String,
    device: Option<String>,
    path: Option<String>,
    online: Vec<String>,
    offline: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct SerialPart {
    baud: Option<u32>,
    data_bits: Option<u8>,
    parity: Option<String>,
    stop_bits: Option<u8>,
    delimiter: Option<String>,
    frame_bytes_max: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PollPart {
    request: Option<OneOrMany>,
    request_hex: Option<OneOrMany>,
    start: Option<OneOrMany>,
    start_hex: Option<OneOrMany>,
    every: Option<String>,
    timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TimePart {
    path: Spanned<OneOrMany>,
    format: Spanned<OneOrMany>,
    not_before: Option<Spanned<String>>,
    zone: Option<Spanned<String>>,
    plus_ns: Option<Spanned<String>>,
    #[serde(default)]
    when: Vec<WhenPart>,
}

/// What is wrong, and at which byte of the file.
pub(super) struct Fault {
    at: usize,
    message: String,
}

pub(super) fn fault<T>(span: &Range<usize>, message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { at: span.start, message: message.into() })
}

pub(super) fn at<T>(span: &Range<usize>, result: Result<T, PatternError>) -> Result<T, Fault> {
    result.or_else(|error| fault(span, error.0))
}

impl Profile {
    /// Parses a profile file; `file` is only for the error.
    pub fn parse(file: &FilePath, text: &str) -> Result<Self, ProfileError> {
        let refuse = |at: usize, message: String| ProfileError {
            file: file.to_owned(),
            line: text.get(..at).map_or(1, |before| before.matches('\n').count() + 1),
            message,
        };
        let parts: ProfileFile = toml::from_str(text).map_err(|error| {
            refuse(error.span().map_or(0, |span| span.start), error.message().trim_end().to_owned())
        })?;
        build(parts).map_err(|fault| refuse(fault.at, fault.message))
    }
}

fn build(parts: ProfileFile) -> Result<Profile, Fault> {
    let id = parts.id.get_ref();
    let id_byte = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    if id.split('/').count() > 3 || id.split('/').any(|word| word.is_empty() || !word.bytes().all(id_byte)) {
        return fault(&parts.id.span(), format!("id `{id}`: expected `vendor/model` of a-z, 0-9, `-`, `_` and `.`"));
    }
    if parts.description.get_ref().trim().is_empty() {
        return fault(&parts.description.span(), "description: say in a line which devices it is for");
    }
    if parts.field.is_empty() && parts.part.is_empty() {
        return fault(&parts.id.span(), "expected at least one [[field]]: without one no reading comes out");
    }
    let more = Parts {
        delimited: parts.delimited,
        pairs: parts.pairs,
        regex: parts.regex,
        binary: parts.binary,
        registers: parts.registers,
    };
    let format = format::build(&parts.format, more)?;
    let is_registers = matches!(format, Format::Registers(_));
    if is_registers != (parts.transport.get_ref() == "modbus") {
        return fault(&parts.format.span(), "the format `registers` and the transport `modbus` belong together");
    }
    if parts.transport.get_ref() == "mbus" && !matches!(format, Format::Mbus) {
        return fault(&parts.format.span(), "the transport `mbus` brings the format `mbus`");
    }
    if let Some(poll) = parts.poll.as_ref().filter(|_| parts.transport.get_ref() != "serial") {
        return fault(&poll.span(), "poll: it is for the transport `serial`");
    }
    if parts.transport.get_ref() != "serial"
        && let Some(span) = [parts.framing.as_ref().map(Spanned::span), parts.checksum.as_ref().map(Spanned::span)]
            .into_iter()
            .flatten()
            .next()
    {
        return fault(&span, "framing and checksum are for the transport `serial`");
    }
    let line = |part: Option<Spanned<BusPart>>| part.map(bus_settings).transpose().map(Option::unwrap_or_default);
    let transport = match (parts.transport.get_ref().as_str(), parts.mqtt, parts.serial, parts.modbus, parts.mbus) {
        ("mqtt", Some(mqtt), None, None, None) => Transport::Mqtt(topics(mqtt.into_inner())?),
        ("modbus", None, None, modbus, None) => Transport::Bus(BusProtocol::Modbus, line(modbus)?),
        ("mbus", None, None, None, mbus) => Transport::Bus(BusProtocol::Mbus, line(mbus)?),
        ("serial", None, serial, None, None) => {
            let mut line = serial.map_or_else(|| Ok(LineSettings::default()), line_settings)?;
            *line.framing = framing(&line, parts.framing, parts.checksum)?;
            line.poll = parts.poll.map(poll).transpose()?;
            Transport::Serial(line)
        }
        ("mqtt", None, None, None, None) => {
            return fault(&parts.transport.span(), "expected a [mqtt] part with its topics");
        }
        ("mqtt" | "serial" | "modbus" | "mbus", ..) => {
            return fault(
                &parts.transport.span(),
                "found the part of another transport: remove it, or change `transport`",
            );
        }
        (other, ..) => {
            return fault(
                &parts.transport.span(),
                format!("transport `{other}`: expected `mqtt`, `serial`, `modbus` or `mbus`"),
            );
        }
    };
    let whole = PartPart {
        each: None,
        device: parts.device,
        time: parts.time,
        when: Vec::new(),
        skip: parts.skip,
        field: parts.field,
    };
    let whole = part(whole, &parts.id.span())?;
    let mut all = Vec::new();
    for more in parts.part {
        let span = more.span();
        let mut more = more.into_inner();
        let places = places(more.each.take())?;
        if more.field.is_empty() && whole.fields.is_empty() {
            return fault(&span, "part: expected at least one [[part.field]], or [[field]] for the whole frame");
        }
        let mut more = part(more, &span)?;
        // What is said for the whole frame holds for a part that does not say otherwise.
        if more.fields.is_empty() {
            more.fields.clone_from(&whole.fields);
            more.skip.extend_from_slice(&whole.skip);
        }
        if more.device.is_empty() {
            more.device.clone_from(&whole.device);
        }
        more.time = more.time.or_else(|| whole.time.clone());
        all.extend(places.into_iter().map(|each| Part { each, ..more.clone() }));
    }
    if !whole.fields.is_empty() {
        all.insert(0, whole);
    }
    let samples = parts.sample.into_iter().map(Sample::build).collect::<Result<_, _>>()?;
    let ignore_without_value = match part_word(parts.no_value.as_ref()) {
        None | Some("error") => false,
        Some("ignore") => true,
        Some(other) => {
            let span = parts.no_value.as_ref().map(Spanned::span).unwrap_or_default();
            return fault(&span, format!("no_value `{other}`: expected `error` or `ignore`"));
        }
    };
    Ok(Profile {
        inside: format::all_inside(parts.inside)?,
        ignore_without_value,
        id: Arc::from(id.as_str()),
        description: parts.description.into_inner(),
        source: parts.source,
        transport,
        format,
        parts: all,
        samples,
    })
}

fn part_word(word: Option<&Spanned<String>>) -> Option<&str> {
    word.map(|word| word.get_ref().as_str())
}

fn part(part: PartPart, span: &Range<usize>) -> Result<Part, Fault> {
    let device = match part.device {
        None => Vec::new(),
        Some(device) => {
            let span = device.span();
            device.into_inner().into_vec().iter().map(|path| key_path(path, &span)).collect::<Result<_, _>>()?
        }
    };
    let fields = part.field.into_iter().map(field).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    let skip = part.skip.iter().map(|path| at(&path.span(), Path::parse(path.get_ref()))).collect::<Result<_, _>>()?;
    let when = part.when.into_iter().map(|when| condition(when, span)).collect::<Result<_, _>>()?;
    Ok(Part { each: None, device, time: part.time.map(time).transpose()?, when, fields, skip })
}

/// Where a part is; the whole frame if nothing is said.
fn places(each: Option<Spanned<OneOrMany>>) -> Result<Vec<Option<Path>>, Fault> {
    let Some(each) = each else { return Ok(vec![None]) };
    let span = each.span();
    each.into_inner().into_vec().iter().map(|text| place(text, &span).map(Some)).collect()
}

/// A path that is looked up and not searched for.
pub(super) fn place(text: &str, span: &Range<usize>) -> Result<Path, Fault> {
    let path = at(span, Path::parse(text))?;
    if path.is_deep() {
        return fault(span, format!("path `{text}`: `**` may not stand in it; write `*` for each level"));
    }
    Ok(path)
}

pub(super) fn key_path(text: &str, span: &Range<usize>) -> Result<KeyPath, Fault> {
    match at(span, Path::parse(text))?.plain() {
        Some(keys) => Ok(keys),
        None => fault(span, format!("path `{text}`: expected plain keys, since it must name one value")),
    }
}

fn topics(part: MqttPart) -> Result<Topics, Fault> {
    let check = |topic: &str, span: &Range<usize>| match &part.prefix {
        Some(prefix) if TopicPattern::with_prefix(topic, prefix, prefix).is_none() => {
            fault(span, format!("topic `{topic}`: expected it to begin with the prefix `{prefix}/`"))
        }
        _ => at(span, TopicPattern::parse(topic)).map(|_| ()),
    };
    for topic in part.topics.iter().chain(&part.ignore) {
        check(topic.get_ref(), &topic.span())?;
    }
    let mut states = Vec::new();
    for state in part.state {
        let span = state.span();
        let state = state.into_inner();
        check(&state.topic, &span)?;
        let names_device = TopicPattern::parse(&state.topic).is_ok_and(|pattern| pattern.has_device());
        if names_device == state.device.is_some() {
            return fault(&span, "state: expected either `{device}` in the topic or a `device`");
        }
        states.push(StateRule {
            path: state.path.map(|path| key_path(&path, &span)).transpose()?,
            topic: state.topic,
            device: state.device,
            online: state.online,
            offline: state.offline,
        });
    }
    let readings = part.topics.into_iter().map(Spanned::into_inner).collect();
    let ignore = part.ignore.into_iter().map(Spanned::into_inner).collect();
    let delimiter = match part.delimiter {
        Some(delimiter) if delimiter.get_ref().is_empty() => {
            return fault(&delimiter.span(), "delimiter: expected what stands between the payloads of a message");
        }
        delimiter => delimiter.map(|delimiter| delimiter.into_inner().into()),
    };
    Ok(Topics { prefix: part.prefix, readings, states, ignore, delimiter })
}

pub(super) fn parity(word: Option<&str>, span: &Range<usize>) -> Result<Option<Parity>, Fault> {
    match word {
        None => Ok(None),
        Some("none") => Ok(Some(Parity::None)),
        Some("odd") => Ok(Some(Parity::Odd)),
        Some("even") => Ok(Some(Parity::Even)),
        Some(other) => fault(span, format!("parity `{other}`: expected `none`, `odd` or `even`")),
    }
}

fn line_settings(part: Spanned<SerialPart>) -> Result<LineSettings, Fault> {
    let span = part.span();
    let part = part.into_inner();
    let parity = parity(part.parity.as_deref(), &span)?;
    if part.data_bits.is_some_and(|bits| !(5..=8).contains(&bits))
        || part.stop_bits.is_some_and(|bits| !(1..=2).contains(&bits))
    {
        return fault(&span, "expected 5 to 8 data_bits and 1 or 2 stop_bits");
    }
    if part.baud == Some(0) || part.delimiter.as_deref() == Some("") || part.frame_bytes_max == Some(0) {
        return fault(&span, "expected a baud, a delimiter and a frame_bytes_max that are not empty or 0");
    }
    Ok(LineSettings {
        baud: part.baud,
        data_bits: part.data_bits,
        parity,
        stop_bits: part.stop_bits,
        delimiter: part.delimiter.map(String::into_bytes),
        frame_bytes_max: part.frame_bytes_max,
        framing: Box::default(),
        poll: None,
    })
}

fn poll(part: Spanned<PollPart>) -> Result<Poll, Fault> {
    let span = part.span();
    let part = part.into_inner();
    let requests = requests("request", part.request, part.request_hex, &span)?;
    if requests.is_empty() {
        return fault(
            &span,
            "poll: expected `request` (a text) or `request_hex` (pairs of hexadecimal digits), or a list of them",
        );
    }
    let start = self::requests("start", part.start, part.start_hex, &span)?;
    let every = duration("every", part.every, &span)?.unwrap_or(Duration::from_secs(10));
    let timeout = duration("timeout", part.timeout, &span)?.unwrap_or(Duration::from_secs(1));
    let all = start.len() + requests.len();
    if timeout * all as u32 > every {
        let each = if all == 1 { "" } else { " for each request" };
        return fault(&span, format!("poll: expected a `timeout`{each} that is not longer than `every`"));
    }
    Ok(Poll { start, requests, every, timeout })
}

fn requests(
    key: &str,
    texts: Option<OneOrMany>,
    hex: Option<OneOrMany>,
    span: &Range<usize>,
) -> Result<Vec<Vec<u8>>, Fault> {
    let requests: Option<Vec<Vec<u8>>> = match (texts, hex) {
        (None, None) => return Ok(Vec::new()),
        (Some(texts), None) => Some(texts.into_vec().into_iter().map(String::into_bytes).collect()),
        (None, Some(hex)) => hex.into_vec().iter().map(|hex| sample::unhex(hex)).collect(),
        (Some(_), Some(_)) => None,
    };
    let fits = |requests: &Vec<Vec<u8>>| {
        requests.len() <= POLL_REQUESTS_MAX && requests.iter().all(|bytes| (1..=POLL_BYTES_MAX).contains(&bytes.len()))
    };
    requests.filter(fits).map_or_else(
        || {
            let expected = format!(
                "poll: expected one of `{key}` (a text) and `{key}_hex` (pairs of hexadecimal digits), of 1 to \
                 {POLL_BYTES_MAX} bytes, or a list of at most {POLL_REQUESTS_MAX} of them"
            );
            fault(span, expected)
        },
        Ok,
    )
}

/// `+01:00`: that of a device that knows no summer time.
fn fixed_zone(text: &str) -> Option<TimeZone> {
    let (sign, digits) =
        text.strip_prefix('+').map(|rest| (1, rest)).or_else(|| Some((-1, text.strip_prefix('-')?)))?;
    let (hours, minutes) = digits.split_once(':')?;
    let two = |digits: &str| (digits.len() == 2).then(|| digits.parse::<u8>().ok())?.map(i32::from);
    let (hours, minutes) = (two(hours)?, two(minutes).filter(|minutes| *minutes < 60)?);
    jiff::tz::Offset::from_seconds(sign * (hours * 3_600 + minutes * 60)).ok().map(TimeZone::fixed)
}

fn time(part: TimePart) -> Result<TimeRule, Fault> {
    let span = part.path.span();
    let paths = part.path.into_inner().into_vec();
    let paths = paths.iter().map(|path| key_path(path, &span)).collect::<Result<_, _>>()?;
    let span = part.format.span();
    let mut formats = Vec::new();
    for word in part.format.into_inner().into_vec() {
        match TimeFormat::parse(&word) {
            Some(format) => formats.push(format),
            None => {
                return fault(
                    &span,
                    format!(
                        "time format `{word}`: expected `rfc3339`, `local`, `epoch`, `epoch_ms`, `epoch_us`, `epoch_ns`, \
                         `senml`, `dsmr` or a pattern with %"
                    ),
                );
            }
        }
    }
    let not_before_ms = match part.not_before {
        None => None,
        Some(text) => match text.get_ref().parse::<jiff::Timestamp>() {
            Ok(time) => Some(time.as_millisecond()),
            Err(_) => return fault(&text.span(), "not_before: expected a time such as `2020-01-01T00:00:00Z`"),
        },
    };
    let zone = match part.zone {
        None => None,
        Some(name) => match fixed_zone(name.get_ref()).or_else(|| TimeZone::get(name.get_ref()).ok()) {
            Some(zone) => Some(zone),
            None => return fault(&name.span(), "zone: expected `UTC`, a name such as `Europe/Amsterdam`, or `+01:00`"),
        },
    };
    let plus_ns = part.plus_ns.map(|path| key_path(path.get_ref(), &path.span())).transpose()?;
    let when = part.when.into_iter().map(|when| condition(when, &span)).collect::<Result<_, _>>()?;
    Ok(TimeRule { paths, formats, not_before_ms, plus_ns, zone, when })
}
