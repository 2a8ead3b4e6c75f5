//! How a payload is written: what takes it apart, before the rules look at it.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::Deserialize;
use toml::Spanned;

use super::file::{Fault, OneOrMany, fault, place};
use super::path::Path;
use super::registers::{self, Registers, RegistersPart};

/// How a frame is written.
#[derive(Clone, Debug)]
pub enum Format {
    /// JSON (RFC 8259).
    Json,
    /// CBOR (RFC 8949).
    Cbor,
    /// The payload is one value; its key is `value`.
    Plain,
    /// Text in columns.
    Delimited(Delimited),
    /// Text of names and values.
    Pairs(Pairs),
    /// Text that a regular expression takes apart: its named groups are the keys.
    Regex(TextPattern),
    /// Bytes at fixed places.
    Binary(Binary),
    /// An NMEA 0183 sentence: `talker`, `sentence`, and its fields counted from 1.
    Nmea,
    /// A DSMR P1 telegram: OBIS codes, and what is on the M-Bus below `mbus`.
    Dsmr,
    /// Registers of a Modbus device.
    Registers(Registers),
    /// Smart Message Language, as German meters send it: `lists` of `server`, and `values` by OBIS code.
    Sml,
    /// Telegrams of wired M-Bus: `id`, `manufacturer`, `medium` and so on, and `records`.
    Mbus,
    /// SenML (RFC 8428) in JSON or CBOR, resolved: `records` of device, time, name, unit and value.
    Senml,
    /// A Sparkplug B payload: `time`, and `metrics` of name, unit, time and value. Its topics are
    /// `…/{group}/{message}/{device...}`.
    Sparkplug,
}

impl Format {
    /// Whether bytes that are no text are an error of their own.
    #[must_use]
    pub fn is_text(&self) -> bool {
        !matches!(
            self,
            Self::Cbor
                | Self::Binary(_)
                | Self::Registers(_)
                | Self::Sml
                | Self::Mbus
                | Self::Senml
                | Self::Sparkplug
                | Self::Pairs(_)
        )
    }
}

/// Text in columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delimited {
    /// What stands between two columns.
    pub separator: Box<str>,
    /// The columns' names; without them a column is its number, counted from 1.
    pub columns: Vec<Box<str>>,
    /// Whether a line that repeats the columns' names is passed over.
    pub header: bool,
    /// A line that begins with it is passed over.
    pub comment: Option<Box<str>>,
}

/// Text of names and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairs {
    /// What stands between two pairs.
    pub separator: Box<str>,
    /// What stands between name and value.
    pub equals: Box<str>,
    /// Names whose values need not be text: a checksum.
    pub ignore: Vec<Box<str>>,
}

/// A regular expression with named groups.
#[derive(Clone, Debug)]
pub struct TextPattern(pub regex_lite::Regex);

/// Bytes at fixed places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// How many bytes a frame must have; any number if nothing is said.
    pub length: Option<usize>,
    /// What is where.
    pub values: Vec<BinaryValue>,
}

/// A value of a binary frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinaryValue {
    /// Its key.
    pub key: Box<str>,
    /// Where it begins; below 0 it is counted from the end.
    pub at: i32,
    /// What it is.
    pub kind: BinaryKind,
    /// Whether its lowest byte comes first.
    pub little: bool,
}

/// What bytes of a binary frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryKind {
    /// A whole number of so many bytes, 1 to 8.
    Unsigned(u8),
    /// The same in two's complement.
    Signed(u8),
    /// A float of 4 bytes.
    Float,
    /// A float of 8 bytes.
    Double,
    /// Two decimal digits a byte.
    Bcd(u8),
    /// So many bytes as hexadecimal digits.
    Hex(u8),
    /// So many bytes of ASCII text; zeros and spaces at its end are left out.
    Text(u8),
}

impl BinaryKind {
    /// How many bytes it takes.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Unsigned(bytes) | Self::Signed(bytes) | Self::Bcd(bytes) | Self::Hex(bytes) | Self::Text(bytes) => {
                bytes.into()
            }
            Self::Float => 4,
            Self::Double => 8,
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        let number = |prefix: &str| word.strip_prefix(prefix)?.parse::<u8>().ok().filter(|number| *number > 0);
        let bytes = |prefix: &str| {
            let bits = number(prefix)?;
            (bits.is_multiple_of(8) && bits <= 64).then_some(bits / 8)
        };
        Some(match word {
            "f32" => Self::Float,
            "f64" => Self::Double,
            _ if word.starts_with("bcd") => Self::Bcd(number("bcd").filter(|bytes| *bytes <= 7)?),
            _ if word.starts_with("hex") => Self::Hex(number("hex")?),
            _ if word.starts_with("text") => Self::Text(number("text")?),
            _ if word.starts_with('u') => Self::Unsigned(bytes("u")?),
            _ => Self::Signed(bytes("i")?),
        })
    }
}

/// A text of the payload that holds bytes: an object with the values of the bytes takes its place.
#[derive(Clone, Debug)]
pub struct Inside {
    /// Where such texts are.
    pub path: Path,
    /// How the text writes its bytes.
    pub coding: Coding,
    /// What the bytes begin with; others are left alone.
    pub starts: Box<[u8]>,
    /// What is where.
    pub layout: Binary,
}

/// How a text writes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Two hexadecimal digits a byte.
    Hex,
    /// Base64 (RFC 4648), with or without `=` at its end.
    Base64,
}

impl Inside {
    /// The bytes of a text, if they begin as they must.
    #[must_use]
    pub fn bytes(&self, text: &str) -> Option<Vec<u8>> {
        let text = text.trim();
        let bytes = match self.coding {
            Coding::Hex => unhex(text),
            Coding::Base64 => STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok(),
        };
        bytes.filter(|bytes| bytes.starts_with(&self.starts))
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    // A sign is no digit, though the parser of the standard library takes it.
    let digits = text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits { text.as_bytes().chunks(2).map(pair).collect() } else { None }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InsidePart {
    path: Spanned<OneOrMany>,
    text: Spanned<String>,
    starts: Option<String>,
    endian: Option<String>,
    length: Option<usize>,
    values: toml::Table,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct DelimitedPart {
    separator: Option<String>,
    #[serde(default)]
    columns: Vec<String>,
    #[serde(default)]
    header: bool,
    comment: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PairsPart {
    separator: String,
    equals: String,
    #[serde(default)]
    ignore: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegexPart {
    pattern: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BinaryPart {
    #[serde(default)]
    endian: Option<String>,
    length: Option<usize>,
    values: toml::Table,
}

/// The parts of a profile file that say more about its format.
pub(super) struct Parts {
    pub(super) delimited: Option<Spanned<DelimitedPart>>,
    pub(super) pairs: Option<Spanned<PairsPart>>,
    pub(super) regex: Option<Spanned<RegexPart>>,
    pub(super) binary: Option<Spanned<BinaryPart>>,
    pub(super) registers: Option<Spanned<RegistersPart>>,
}

const FORMATS: &str = "`json`, `cbor`, `plain`, `delimited`, `pairs`, `regex`, `binary`, `nmea`, `dsmr`, `registers`, `sml`, `mbus`, `senml` or `sparkplug`";

pub(super) fn build(word: &Spanned<String>, parts: Parts) -> Result<Format, Fault> {
    let Parts { mut delimited, mut pairs, mut regex, mut binary, mut registers } = parts;
    let span = word.span();
    let missing = |name: &str| fault(&span, format!("expected a [{name}] part that says more about the format"));
    let format = match word.get_ref().as_str() {
        "json" => Format::Json,
        "cbor" => Format::Cbor,
        "plain" => Format::Plain,
        "nmea" => Format::Nmea,
        "dsmr" => Format::Dsmr,
        "sml" => Format::Sml,
        "mbus" => Format::Mbus,
        "senml" => Format::Senml,
        "sparkplug" => Format::Sparkplug,
        "delimited" => {
            let part = delimited.take().map(Spanned::into_inner).unwrap_or_default();
            Format::Delimited(self::delimited(part, &span)?)
        }
        "pairs" => match pairs.take() {
            Some(part) => Format::Pairs(self::pairs(part)?),
            None => return missing("pairs"),
        },
        "regex" => match regex.take() {
            Some(part) => Format::Regex(self::regex(part.get_ref())?),
            None => return missing("regex"),
        },
        "binary" => match binary.take() {
            Some(part) => {
                let span = part.span();
                Format::Binary(self::binary(part.into_inner(), &span)?)
            }
            None => return missing("binary"),
        },
        "registers" => match registers.take() {
            Some(part) => Format::Registers(registers::registers(part)?),
            None => return missing("registers"),
        },
        other => return fault(&span, format!("format `{other}`: expected {FORMATS}")),
    };
    let left = [
        delimited.map(|part| part.span()),
        pairs.map(|part| part.span()),
        regex.map(|part| part.span()),
        binary.map(|part| part.span()),
        registers.map(|part| part.span()),
    ];
    match left.into_iter().flatten().next() {
        Some(span) => fault(&span, format!("this part belongs to another format than `{}`", word.get_ref())),
        None => Ok(format),
    }
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

fn pairs(part: Spanned<PairsPart>) -> Result<Pairs, Fault> {
    let span = part.span();
    let part = part.into_inner();
    if part.separator.is_empty() || part.equals.is_empty() {
        return fault(&span, "pairs: `separator` and `equals` must not be empty");
    }
    Ok(Pairs {
        separator: part.separator.into(),
        equals: part.equals.into(),
        ignore: part.ignore.into_iter().map(Into::into).collect(),
    })
}

fn regex(part: &RegexPart) -> Result<TextPattern, Fault> {
    let span = part.pattern.span();
    match regex_lite::Regex::new(part.pattern.get_ref()) {
        Ok(regex) if regex.capture_names().flatten().next().is_none() => {
            fault(&span, "regex: expected named groups such as `(?<temperature>[0-9.]+)`: they are the keys")
        }
        Ok(regex) => Ok(TextPattern(regex)),
        Err(error) => fault(&span, format!("regex: {error}")),
    }
}

/// A rule for each of the paths.
pub(super) fn inside(part: Spanned<InsidePart>) -> Result<Vec<Inside>, Fault> {
    let span = part.span();
    let part = part.into_inner();
    let coding = match part.text.get_ref().as_str() {
        "hex" => Coding::Hex,
        "base64" => Coding::Base64,
        other => return fault(&part.text.span(), format!("text `{other}`: expected `hex` or `base64`")),
    };
    let digits: String = part.starts.iter().flat_map(|text| text.split_ascii_whitespace()).collect();
    let Some(starts) = unhex(&digits) else {
        return fault(&span, "starts: expected pairs of hexadecimal digits");
    };
    let layout = binary(BinaryPart { endian: part.endian, length: part.length, values: part.values }, &span)?;
    let starts: Box<[u8]> = starts.into();
    let path_span = part.path.span();
    let inside = |text: &String| {
        let path = place(text, &path_span)?;
        Ok(Inside { path, coding, starts: starts.clone(), layout: layout.clone() })
    };
    part.path.into_inner().into_vec().iter().map(inside).collect()
}

fn binary(part: BinaryPart, span: &Range<usize>) -> Result<Binary, Fault> {
    let little = match part.endian.as_deref() {
        None | Some("big") => false,
        Some("little") => true,
        Some(other) => return fault(span, format!("endian `{other}`: expected `big` or `little`")),
    };
    let mut values = Vec::new();
    for (key, value) in part.values {
        let wrong = |found: &str| {
            fault(
                span,
                format!(
                    "binary value `{key}`: expected a place and a kind such as \"4 u16\", \"-2 i8\", \"6 f32 little\", \
                     \"0 bcd4\", \"2 hex6\" or \"8 text10\", found {found}"
                ),
            )
        };
        let Some(text) = value.as_str() else { return wrong(&value.to_string()) };
        let mut words = text.split_ascii_whitespace();
        let (at, kind) = (words.next().map(str::parse), words.next().map(BinaryKind::parse));
        let little = match words.next() {
            None => little,
            Some("little") => true,
            Some("big") => false,
            Some(_) => return wrong(&format!("`{text}`")),
        };
        match (at, kind, words.next()) {
            (Some(Ok(at)), Some(Some(kind)), None) => {
                values.push(BinaryValue { key: key.into(), at, kind, little });
            }
            _ => return wrong(&format!("`{text}`")),
        }
    }
    if values.is_empty() {
        return fault(span, "binary: expected at least one value");
    }
    Ok(Binary { length: part.length, values })
}
