//! The shape of a profile file, and what makes it a [`Profile`]. Unknown keys are errors; errors name the line.

use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use super::{
    Condition, Convert, Delimited, FieldRule, Format, KeyPath, LineSettings, NamePattern, Path, PatternError, Profile,
    ProfileError, Sample, StateRule, TimeRule, Topics, Transport, ValueType, framing, sample,
};
use crate::config::Parity;
use crate::decode::TimeFormat;
use crate::profile::TopicPattern;
use crate::reading::MeasurementKind;

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
    framing: Option<Spanned<framing::FramingPart>>,
    checksum: Option<Spanned<framing::ChecksumPart>>,
    delimited: Option<DelimitedPart>,
    device: Option<Spanned<OneOrMany>>,
    time: Option<TimePart>,
    #[serde(default)]
    skip: Vec<Spanned<String>>,
    #[serde(default)]
    field: Vec<Spanned<FieldPart>>,
    #[serde(default)]
    sample: Vec<Spanned<sample::SamplePart>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
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

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct DelimitedPart {
    separator: Option<String>,
    #[serde(default)]
    columns: Vec<String>,
    #[serde(default)]
    header: bool,
    comment: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TimePart {
    path: Spanned<String>,
    format: Spanned<OneOrMany>,
    not_before: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldPart {
    path: String,
    name: String,
    unit: Option<String>,
    kind: Option<String>,
    #[serde(rename = "type")]
    value_type: Option<String>,
    scale: Option<f64>,
    offset: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    #[serde(default)]
    no_reading: Vec<toml::Value>,
    #[serde(default)]
    on: Vec<String>,
    #[serde(default)]
    off: Vec<String>,
    #[serde(default)]
    when: Vec<WhenPart>,
    #[serde(default)]
    list: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WhenPart {
    path: Option<String>,
    is: Option<String>,
    above: Option<f64>,
}

/// What is wrong, and at which byte of the file.
pub(super) struct Fault {
    at: usize,
    message: String,
}

pub(super) fn fault<T>(span: &Range<usize>, message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { at: span.start, message: message.into() })
}

fn at<T>(span: &Range<usize>, result: Result<T, PatternError>) -> Result<T, Fault> {
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
    if parts.field.is_empty() {
        return fault(&parts.id.span(), "expected at least one [[field]]: without one no reading comes out");
    }
    let format = match (parts.format.get_ref().as_str(), parts.delimited) {
        ("json", None) => Format::Json,
        ("delimited", delimited) => {
            Format::Delimited(self::delimited(delimited.unwrap_or_default(), &parts.format.span())?)
        }
        ("json", Some(_)) => {
            return fault(&parts.format.span(), "a [delimited] part belongs to format = \"delimited\"");
        }
        (other, _) => return fault(&parts.format.span(), format!("format `{other}`: expected `json` or `delimited`")),
    };
    let transport = match (parts.transport.get_ref().as_str(), parts.mqtt, parts.serial) {
        ("mqtt", Some(mqtt), None) if parts.framing.is_none() && parts.checksum.is_none() => {
            Transport::Mqtt(topics(mqtt.into_inner())?)
        }
        ("serial", None, serial) => {
            let mut line = serial.map_or_else(|| Ok(LineSettings::default()), line_settings)?;
            *line.framing = framing::framing(&line, parts.framing, parts.checksum)?;
            Transport::Serial(line)
        }
        ("mqtt", None, _) => return fault(&parts.transport.span(), "expected a [mqtt] part with its topics"),
        ("mqtt" | "serial", ..) => {
            return fault(
                &parts.transport.span(),
                "found the part of another transport: remove it, or change `transport`",
            );
        }
        (other, ..) => {
            return fault(&parts.transport.span(), format!("transport `{other}`: expected `mqtt` or `serial`"));
        }
    };
    let device = match parts.device {
        None => Vec::new(),
        Some(device) => {
            let span = device.span();
            device.into_inner().into_vec().iter().map(|path| key_path(path, &span)).collect::<Result<_, _>>()?
        }
    };
    let fields = parts.field.into_iter().map(field).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    let skip = parts.skip.iter().map(|path| at(&path.span(), Path::parse(path.get_ref()))).collect::<Result<_, _>>()?;
    let samples = parts.sample.into_iter().map(Sample::build).collect::<Result<_, _>>()?;
    Ok(Profile {
        id: Arc::from(id.as_str()),
        description: parts.description.into_inner(),
        source: parts.source,
        transport,
        format,
        device,
        time: parts.time.map(time).transpose()?,
        fields,
        skip,
        samples,
    })
}

fn key_path(text: &str, span: &Range<usize>) -> Result<KeyPath, Fault> {
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
    Ok(Topics { prefix: part.prefix, readings, states, ignore })
}

fn line_settings(part: Spanned<SerialPart>) -> Result<LineSettings, Fault> {
    let span = part.span();
    let part = part.into_inner();
    let parity = match part.parity.as_deref() {
        None => None,
        Some("none") => Some(Parity::None),
        Some("odd") => Some(Parity::Odd),
        Some("even") => Some(Parity::Even),
        Some(other) => return fault(&span, format!("parity `{other}`: expected `none`, `odd` or `even`")),
    };
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
    })
}

fn delimited(part: DelimitedPart, span: &Range<usize>) -> Result<Delimited, Fault> {
    let separator = part.separator.unwrap_or_else(|| ",".to_owned());
    if separator.is_empty() || part.comment.as_deref() == Some("") {
        return fault(span, "delimited: the separator and the comment mark must not be empty");
    }
    if part.header && part.columns.is_empty() {
        return fault(span, "delimited: `header` needs the names in `columns`");
    }
    Ok(Delimited {
        separator: separator.into(),
        columns: part.columns.into_iter().map(Into::into).collect(),
        header: part.header,
        comment: part.comment.map(Into::into),
    })
}

fn time(part: TimePart) -> Result<TimeRule, Fault> {
    let path = key_path(part.path.get_ref(), &part.path.span())?;
    let span = part.format.span();
    let mut formats = Vec::new();
    for word in part.format.into_inner().into_vec() {
        match TimeFormat::parse(&word) {
            Some(format) => formats.push(format),
            None => {
                return fault(
                    &span,
                    format!(
                        "time format `{word}`: expected `rfc3339`, `local`, `epoch`, `epoch_ms` or a pattern with %"
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
    Ok(TimeRule { path, formats, not_before_ms })
}

/// One rule, and a second one for the elements where the value may be a list.
fn field(part: Spanned<FieldPart>) -> Result<Vec<FieldRule>, Fault> {
    let span = part.span();
    let part = part.into_inner();
    let path = at(&span, Path::parse(&part.path))?;
    let name = at(&span, NamePattern::parse(&part.name, path.captures()))?;
    let value_type = match part.value_type.as_deref() {
        None | Some("number") => ValueType::Number,
        Some("text") => ValueType::Text,
        Some("flag") => ValueType::Flag,
        Some("any") => ValueType::Any,
        Some(other) => return fault(&span, format!("type `{other}`: expected `number`, `text`, `flag` or `any`")),
    };
    let kind = match part.kind.as_deref() {
        None | Some("gauge") => MeasurementKind::Gauge,
        Some("counter") => MeasurementKind::Counter,
        Some(other) => return fault(&span, format!("kind `{other}`: expected `gauge` or `counter`")),
    };
    let numeric = part.scale.is_some() || part.offset.is_some() || part.min.is_some() || part.max.is_some();
    if value_type != ValueType::Number && (numeric || part.unit.is_some()) {
        return fault(&span, "unit, scale, offset, min and max are for type = \"number\"");
    }
    if value_type != ValueType::Flag && !(part.on.is_empty() && part.off.is_empty()) {
        return fault(&span, "on and off are for type = \"flag\"");
    }
    let (scale, offset) = (part.scale.unwrap_or(1.0), part.offset.unwrap_or(0.0));
    if !scale.is_finite() || scale == 0.0 || !offset.is_finite() {
        return fault(&span, "expected a finite scale that is not 0, and a finite offset");
    }
    let mut no_reading = Vec::new();
    let mut no_reading_texts = Vec::new();
    for value in part.no_reading {
        match value {
            toml::Value::Integer(number) => no_reading.push(number as f64),
            toml::Value::Float(number) => no_reading.push(number),
            toml::Value::String(text) => no_reading_texts.push(text.into()),
            other => return fault(&span, format!("no_reading: expected numbers and texts, found `{other}`")),
        }
    }
    let when = part.when.into_iter().map(|when| condition(when, &span)).collect::<Result<_, _>>()?;
    let rule = FieldRule {
        open: path.is_open(),
        path,
        name,
        unit: part.unit.map(Into::into),
        kind,
        value_type,
        convert: ((scale, offset) != (1.0, 0.0)).then_some(Convert { scale, offset }),
        range: (part.min.is_some() || part.max.is_some())
            .then(|| (part.min.unwrap_or(f64::NEG_INFINITY), part.max.unwrap_or(f64::INFINITY))),
        no_reading,
        no_reading_texts,
        on: part.on.into_iter().map(Into::into).collect(),
        off: part.off.into_iter().map(Into::into).collect(),
        when,
        list: part.list,
    };
    if !part.list {
        return Ok(vec![rule]);
    }
    let captures = rule.path.captures();
    let elements = FieldRule {
        path: rule.path.with_element(),
        name: rule.name.with_element(captures),
        list: false,
        open: true,
        ..rule.clone()
    };
    Ok(vec![rule, elements])
}

fn condition(part: WhenPart, span: &Range<usize>) -> Result<Condition, Fault> {
    match (part.path, part.is, part.above) {
        (Some(path), None, None) => Ok(Condition::Present(key_path(&path, span)?)),
        (Some(path), Some(is), None) => Ok(Condition::Is(key_path(&path, span)?, is.into())),
        (None, None, Some(above)) => Ok(Condition::Above(above)),
        _ => fault(span, "when: expected { path }, { path, is } or { above }"),
    }
}
