//! How a payload is written: what takes it apart, before the rules look at it.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use toml::Spanned;

use super::binary::{Binary, BinaryPart, ItemsPart, OptionalPart, binary};
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
    /// The line protocol of InfluxDB: `lines` of measurement, tags, fields and time.
    Influx,
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
    /// Whether several separators one behind the other are as one: spaces that line up columns.
    pub runs: bool,
    /// How many of the last columns may be missing.
    pub optional: usize,
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

/// A text of the payload that holds a payload of its own: what is in that takes its place.
#[derive(Clone, Debug)]
pub struct Inside {
    /// Where such texts are.
    pub path: Path,
    /// What they hold.
    pub held: Held,
    /// Whether such a text can be nothing else: no other rule is for this place, and nothing tells by what it begins with.
    pub alone: bool,
}

/// What a text holds.
#[derive(Clone, Debug)]
pub enum Held {
    /// JSON.
    Json,
    /// Bytes.
    Bytes {
        /// How the text writes them.
        coding: Coding,
        /// What they begin with; others are left alone.
        starts: Box<[u8]>,
        /// What is where.
        layout: Binary,
    },
}

/// How a text writes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Two hexadecimal digits a byte, perhaps behind `0x`, with spaces, `:` or `-` between them.
    Hex,
    /// Base64 or base64url (RFC 4648), with or without `=` at its end.
    Base64,
}

impl Held {
    /// What it is, for a person.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Bytes { coding: Coding::Hex, .. } => "bytes in hexadecimal digits",
            Self::Bytes { coding: Coding::Base64, .. } => "bytes in base64",
        }
    }
}

impl Coding {
    /// The bytes that a text writes; `None` if it does not.
    #[must_use]
    pub fn bytes(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Coding::Hex => {
                let text = text.trim();
                let text = text.strip_prefix("0x").unwrap_or(text);
                let digits: Vec<u8> = text.bytes().filter(|byte| !b" :-".contains(byte)).collect();
                hex::decode(digits).ok()
            }
            Coding::Base64 => {
                let text = text.trim().trim_end_matches('=');
                STANDARD_NO_PAD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text)).ok()
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InsidePart {
    path: Spanned<OneOrMany>,
    text: Spanned<String>,
    starts: Option<String>,
    endian: Option<String>,
    length: Option<usize>,
    #[serde(default)]
    values: toml::Table,
    items: Option<ItemsPart>,
    optional: Option<OptionalPart>,
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
    #[serde(default)]
    runs: bool,
    #[serde(default)]
    optional: usize,
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

/// The parts of a profile file that say more about its format.
pub(super) struct Parts {
    pub(super) delimited: Option<Spanned<DelimitedPart>>,
    pub(super) pairs: Option<Spanned<PairsPart>>,
    pub(super) regex: Option<Spanned<RegexPart>>,
    pub(super) binary: Option<Spanned<BinaryPart>>,
    pub(super) registers: Option<Spanned<RegistersPart>>,
}

const FORMATS: &str = "`json`, `cbor`, `plain`, `delimited`, `pairs`, `regex`, `binary`, `nmea`, `dsmr`, `registers`, `sml`, `mbus`, `senml`, `influx` or `sparkplug`";

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
        "influx" => Format::Influx,
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
                Format::Binary(super::binary::binary(part.into_inner(), &span)?)
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
    if part.optional > 0 && part.optional >= part.columns.len() {
        return fault(span, "delimited: expected fewer `optional` columns than there are in `columns`");
    }
    Ok(Delimited {
        separator: separator.into(),
        columns: part.columns.into_iter().map(Into::into).collect(),
        header: part.header,
        comment: part.comment.map(Into::into),
        runs: part.runs,
        optional: part.optional,
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

/// The rules of a profile.
pub(super) fn all_inside(parts: Vec<Spanned<InsidePart>>) -> Result<Vec<Inside>, Fault> {
    let mut all = parts.into_iter().map(inside).collect::<Result<Vec<_>, _>>()?.concat();
    for index in 0..all.len() {
        let same = |other: &Inside| other.path == all[index].path;
        let told = matches!(&all[index].held, Held::Bytes { starts, .. } if !starts.is_empty());
        all[index].alone = !told && all.iter().filter(|other| same(other)).count() == 1;
    }
    Ok(all)
}

/// A rule for each of the paths.
fn inside(part: Spanned<InsidePart>) -> Result<Vec<Inside>, Fault> {
    let span = part.span();
    let part = part.into_inner();
    let (text, path_span) = (part.text, part.path.span());
    let coding = match text.get_ref().as_str() {
        "json" => None,
        "hex" => Some(Coding::Hex),
        "base64" => Some(Coding::Base64),
        other => return fault(&text.span(), format!("text `{other}`: expected `hex`, `base64` or `json`")),
    };
    let held = match coding {
        Some(coding) => {
            let digits: String = part.starts.iter().flat_map(|text| text.split_ascii_whitespace()).collect();
            let Ok(starts) = hex::decode(digits) else {
                return fault(&span, "starts: expected pairs of hexadecimal digits");
            };
            let (endian, length, values) = (part.endian, part.length, part.values);
            let (items, optional) = (part.items, part.optional);
            let layout = binary(BinaryPart { endian, length, values, items, optional }, &span)?;
            Held::Bytes { coding, starts: starts.into(), layout }
        }
        None if part.values.is_empty() && part.items.is_none() && part.optional.is_none() && part.starts.is_none() => {
            Held::Json
        }
        None => return fault(&span, "what JSON holds is below its path: it needs no `starts`, `values` and `items`"),
    };
    let inside = |text: &String| Ok(Inside { path: place(text, &path_span)?, held: held.clone(), alone: false });
    part.path.into_inner().into_vec().iter().map(inside).collect()
}
