//! `[framing]` and `[checksum]` as they stand in a profile file.

use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::*;
use crate::profile::LineSettings;
use crate::profile::file::{Fault, fault};
use crate::source::framing::checksum_kind;

/// No profile may ask for more.
const FRAME_BYTES_LIMIT: usize = 64 * 1_024;
/// The longest marker or delimiter in bytes.
const MARKER_BYTES_MAX: usize = 32;
/// How many start markers one framing may have.
const STARTS_MAX: usize = 16;
/// The shortest and the longest silence that can be told from the serial adapters' own pauses, and be waited for.
const GAP: std::ops::RangeInclusive<Duration> = Duration::from_millis(2)..=Duration::from_secs(60);

/// `[framing]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::profile) struct FramingPart {
    kind: Spanned<String>,
    delimiter: Option<Spanned<Bytes>>,
    start: Option<Spanned<Starts>>,
    end: Option<Spanned<Bytes>>,
    tail: Option<Spanned<TailPart>>,
    omit: Option<Spanned<OmitPart>>,
    restart: Option<Spanned<bool>>,
    escape: Option<Spanned<EscapePart>>,
    bytes: Option<Spanned<usize>>,
    length: Option<Spanned<toml::Value>>,
    gap: Option<Spanned<String>>,
    payload: Option<Spanned<Vec<i64>>>,
}

/// Bytes: a text, or an array of numbers.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected bytes, as a text or an array of numbers from 0 to 255")]
enum Bytes {
    Text(String),
    Numbers(Vec<u8>),
}

impl Bytes {
    fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Numbers(numbers) => numbers,
        }
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected bytes, as a text or an array of numbers from 0 to 255, or several of them in an array"
)]
enum Starts {
    One(Bytes),
    Many(Vec<Bytes>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected how many bytes, or a text that ends them")]
enum TailPart {
    Bytes(usize),
    Until(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OmitPart {
    start: Bytes,
    end: Bytes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EscapePart {
    byte: u8,
    #[serde(default)]
    xor: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LengthPart {
    at: usize,
    #[serde(default = "one")]
    width: usize,
    endian: Option<String>,
    mask: Option<u32>,
    counts: Option<String>,
    #[serde(default = "one")]
    unit: usize,
    #[serde(default)]
    plus: i64,
}

fn one() -> usize {
    1
}

/// `[checksum]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::profile) struct ChecksumPart {
    kind: Spanned<String>,
    from: Option<i64>,
    to: Option<i64>,
    at: Option<Spanned<i64>>,
    after: Option<Spanned<Bytes>>,
    endian: Option<String>,
    encoding: Option<String>,
    covers: Option<String>,
    #[serde(default)]
    optional: bool,
    mask: Option<u32>,
    #[serde(default)]
    plus: u32,
    #[serde(default)]
    avoid: Vec<u8>,
}

/// The framing of a profile: what `[serial]` says in short, `[framing]` and `[checksum]`.
pub(in crate::profile) fn framing(
    line: &LineSettings,
    part: Option<Spanned<FramingPart>>,
    check: Option<Spanned<ChecksumPart>>,
) -> Result<Framing, Fault> {
    let bytes_max = line.frame_bytes_max.unwrap_or(FRAME_BYTES_MAX);
    let Some(part) = part else {
        let mut framing = Framing::lines(line.delimiter.as_deref().unwrap_or(b"\n"), bytes_max);
        framing.checksum = check.map(checksum).transpose()?;
        return Ok(framing);
    };
    let span = part.span();
    if bytes_max > FRAME_BYTES_LIMIT {
        return fault(&span, format!("expected a frame_bytes_max of at most {FRAME_BYTES_LIMIT}, found {bytes_max}"));
    }
    let part = part.into_inner();
    part.check_keys()?;
    let gap = part.gap.as_ref().map(gap).transpose()?;
    let payload = part.payload.as_ref().map(payload).transpose()?;
    let kind_span = part.kind.span();
    let kind = part.kind.get_ref().clone();
    let marks = marks(part.start, part.end)?;
    let kind = match kind.as_str() {
        "delimiter" => FramingKind::Delimiter(match (part.delimiter, &line.delimiter) {
            (Some(own), None) => {
                let span = own.span();
                marker(own.into_inner(), &span)?
            }
            (None, Some(short)) => short.clone(),
            (None, None) => b"\n".to_vec(),
            (Some(own), Some(_)) => {
                return fault(&own.span(), "the delimiter is given in [serial] too; keep one of them");
            }
        }),
        _ if line.delimiter.is_some() => {
            return fault(&kind_span, format!("framing `{kind}` has no delimiter; remove it from [serial]"));
        }
        "fixed" => match part.bytes.map(Spanned::into_inner) {
            Some(bytes) if (1..=bytes_max).contains(&bytes) => FramingKind::Fixed { bytes, marks },
            _ => return fault(&span, format!("framing `fixed`: expected `bytes`, from 1 to {bytes_max}")),
        },
        "length" => match part.length {
            Some(fields) => FramingKind::Length { fields: length_fields(fields, bytes_max)?, marks },
            None => return fault(&span, "framing `length`: expected `length`, such as { at = 2, width = 2 }"),
        },
        "markers" if marks.end.is_empty() => {
            return fault(&span, "framing `markers`: expected `end`, the bytes that end a frame");
        }
        "markers" if part.escape.is_some() && part.omit.is_some() => {
            return fault(&span, "`omit` is for texts, where nothing is escaped; keep one of `omit` and `escape`");
        }
        "markers" => FramingKind::Markers {
            marks,
            tail: part.tail.map_or(Ok(Tail::Bytes(0)), |part| tail(part, bytes_max))?,
            omit: part.omit.map(omit).transpose()?,
            // Without a checksum nothing else could tell a frame that lost its end.
            restart: part.restart.map_or(check.is_none(), Spanned::into_inner),
            escape: part.escape.map(Spanned::into_inner).map(|EscapePart { byte, xor }| Escape { byte, xor }),
        },
        "slip" => FramingKind::Slip,
        "hdlc" => FramingKind::Hdlc,
        "cobs" => FramingKind::Cobs,
        "idle" if gap.is_none() => return fault(&span, "framing `idle`: expected `gap`, such as \"20ms\""),
        "idle" => FramingKind::Idle,
        "sml" if check.is_some() => {
            return fault(&kind_span, "framing `sml` has a checksum of its own; remove the [checksum] part");
        }
        "sml" => FramingKind::Sml,
        other => {
            return fault(
                &kind_span,
                format!(
                    "framing `{other}`: expected `delimiter`, `fixed`, `length`, `markers`, `slip`, `hdlc`, `cobs`, `idle` or `sml`"
                ),
            );
        }
    };
    if let FramingKind::Fixed { marks, .. } | FramingKind::Length { marks, .. } = &kind
        && marks.start.is_empty()
        && check.is_none()
        && gap.is_none()
    {
        return fault(
            &span,
            "expected `start`, a [checksum] or a `gap`: without one of them a lost byte is never noticed",
        );
    }
    Ok(Framing { kind, bytes_max, checksum: check.map(checksum).transpose()?, payload, gap })
}

impl FramingPart {
    /// A key that says nothing to this kind is a mistake of whoever wrote it.
    fn check_keys(&self) -> Result<(), Fault> {
        fn misplaced<T>(part: &Option<Spanned<T>>, key: &str, kinds: &[&str], kind: &str) -> Result<(), Fault> {
            match part {
                Some(part) if !kinds.contains(&kind) => fault(
                    &part.span(),
                    format!("`{key}` is for framing `{}`, found it with `{kind}`", kinds.join("` or `")),
                ),
                _ => Ok(()),
            }
        }
        let kind = self.kind.get_ref().as_str();
        let marked = ["fixed", "length", "markers"];
        misplaced(&self.delimiter, "delimiter", &["delimiter"], kind)?;
        misplaced(&self.start, "start", &marked, kind)?;
        misplaced(&self.end, "end", &marked, kind)?;
        misplaced(&self.tail, "tail", &["markers"], kind)?;
        misplaced(&self.omit, "omit", &["markers"], kind)?;
        misplaced(&self.restart, "restart", &["markers"], kind)?;
        misplaced(&self.escape, "escape", &["markers"], kind)?;
        misplaced(&self.bytes, "bytes", &["fixed"], kind)?;
        misplaced(&self.length, "length", &["length"], kind)?;
        misplaced(&self.gap, "gap", &["fixed", "length", "markers", "idle"], kind)
    }
}

fn marker(bytes: Bytes, span: &Range<usize>) -> Result<Vec<u8>, Fault> {
    let bytes = bytes.into_vec();
    if (1..=MARKER_BYTES_MAX).contains(&bytes.len()) {
        Ok(bytes)
    } else {
        fault(span, format!("expected 1 to {MARKER_BYTES_MAX} bytes, found {}", bytes.len()))
    }
}

fn marks(start: Option<Spanned<Starts>>, end: Option<Spanned<Bytes>>) -> Result<Marks, Fault> {
    let mut marks = Marks::default();
    if let Some(start) = start {
        let span = start.span();
        let starts = match start.into_inner() {
            Starts::One(one) => vec![one],
            Starts::Many(many) => many,
        };
        if !(1..=STARTS_MAX).contains(&starts.len()) {
            return fault(&span, format!("expected 1 to {STARTS_MAX} start markers, found {}", starts.len()));
        }
        marks.start = starts.into_iter().map(|start| marker(start, &span)).collect::<Result<_, _>>()?;
        for (index, start) in marks.start.iter().enumerate() {
            if marks.start.iter().enumerate().any(|(other, longer)| other != index && longer.starts_with(start)) {
                return fault(&span, "one start marker is the beginning of another: the short one is enough");
            }
        }
    }
    if let Some(end) = end {
        let span = end.span();
        marks.end = marker(end.into_inner(), &span)?;
    }
    Ok(marks)
}

fn tail(part: Spanned<TailPart>, bytes_max: usize) -> Result<Tail, Fault> {
    let span = part.span();
    match part.into_inner() {
        TailPart::Bytes(bytes) if bytes < bytes_max => Ok(Tail::Bytes(bytes)),
        TailPart::Bytes(bytes) => fault(&span, format!("tail: expected less than the longest frame, found {bytes}")),
        TailPart::Until(text) => Ok(Tail::Until(marker(Bytes::Text(text), &span)?)),
    }
}

fn omit(part: Spanned<OmitPart>) -> Result<Omit, Fault> {
    let span = part.span();
    let part = part.into_inner();
    Ok(Omit { start: marker(part.start, &span)?, end: marker(part.end, &span)? })
}

/// One field, or several in an array. Taken apart here, so that a wrong key is named.
fn length_fields(parts: Spanned<toml::Value>, bytes_max: usize) -> Result<Vec<LengthField>, Fault> {
    let span = parts.span();
    let parts = match parts.into_inner() {
        toml::Value::Array(parts) => parts,
        part => vec![part],
    };
    let field = |part: toml::Value| match part.try_into::<LengthPart>() {
        Ok(part) => length_field(&part, &span, bytes_max),
        Err(error) => fault(&span, format!("length: {}", error.message())),
    };
    let fields = parts.into_iter().map(field).collect::<Result<Vec<_>, _>>()?;
    if fields.is_empty() || (fields.len() > 1 && fields.iter().any(|field| field.counts == Counts::All)) {
        return fault(
            &span,
            "length: of several fields none counts the whole frame: each counts a part of what comes after them",
        );
    }
    Ok(fields)
}

fn length_field(part: &LengthPart, span: &Range<usize>, bytes_max: usize) -> Result<LengthField, Fault> {
    let counts = match part.counts.as_deref() {
        None | Some("rest") => Counts::Rest,
        Some("all") => Counts::All,
        Some(other) => return fault(span, format!("counts `{other}`: expected `rest` (what comes after) or `all`")),
    };
    if !(1..=4).contains(&part.width) || part.unit == 0 || part.unit > bytes_max {
        return fault(span, "length: expected a width of 1 to 4 bytes, and a unit of at least 1");
    }
    if part.at.saturating_add(part.width) > bytes_max || part.plus.unsigned_abs() > bytes_max as u64 {
        return fault(span, format!("length: expected it within the longest frame, which is {bytes_max} bytes"));
    }
    let endian = endian(part.endian.as_deref(), span)?;
    let mask = part.mask.unwrap_or(u32::MAX);
    Ok(LengthField { at: part.at, width: part.width, endian, mask, counts, unit: part.unit, plus: part.plus })
}

fn endian(word: Option<&str>, span: &Range<usize>) -> Result<Endian, Fault> {
    match word {
        None | Some("big") => Ok(Endian::Big),
        Some("little") => Ok(Endian::Little),
        Some(other) => fault(span, format!("endian `{other}`: expected `big` or `little`")),
    }
}

fn gap(text: &Spanned<String>) -> Result<Duration, Fault> {
    let expected = "gap: expected a duration from 2ms to 60s, such as \"20ms\"";
    let word = text.get_ref();
    let duration = match (word.strip_suffix("ms"), word.strip_suffix('s')) {
        (Some(number), _) => number.parse().ok().map(Duration::from_millis),
        (None, Some(number)) => number.parse().ok().map(Duration::from_secs),
        _ => None,
    };
    match duration {
        Some(duration) if GAP.contains(&duration) => Ok(duration),
        _ => fault(&text.span(), expected),
    }
}

fn payload(part: &Spanned<Vec<i64>>) -> Result<Span, Fault> {
    match part.get_ref().as_slice() {
        [from] => Ok(Span { from: *from, to: None }),
        [from, to] => Ok(Span { from: *from, to: Some(*to) }),
        _ => fault(&part.span(), "payload: expected [from] or [from, to]; negative counts from the end"),
    }
}

fn checksum(part: Spanned<ChecksumPart>) -> Result<Checksum, Fault> {
    let span = part.span();
    let part = part.into_inner();
    let word = part.kind.get_ref().as_str();
    let nmea = word == "nmea";
    let Some((kind, width)) = checksum_kind(if nmea { "xor8" } else { word }) else {
        return fault(&part.kind.span(), format!("checksum `{word}`: expected one of {}", names().join(", ")));
    };
    let is_hex = |key: &str, word: Option<&str>, unless_said: bool| match word {
        None => Ok(unless_said),
        Some("binary") => Ok(false),
        Some("hex") => Ok(true),
        Some(other) => fault(&span, format!("{key} `{other}`: expected `binary` or `hex`")),
    };
    let hex = is_hex("encoding", part.encoding.as_deref(), nmea || part.after.is_some())?;
    let covers_hex = is_hex("covers", part.covers.as_deref(), false)?;
    let place = match (part.at, part.after) {
        (None, Some(after)) => {
            let span = after.span();
            Place::After(marker(after.into_inner(), &span)?)
        }
        (Some(at), None) => Place::At(at.into_inner()),
        (None, None) if nmea => Place::After(b"*".to_vec()),
        (None, None) => Place::At(-(width as i64) * if hex { 2 } else { 1 }),
        (Some(at), Some(_)) => return fault(&at.span(), "the checksum stands `at` a byte or `after` a mark, not both"),
    };
    if part.optional && matches!(place, Place::At(_)) {
        return fault(&span, "`optional` is for a checksum that stands `after` a mark");
    }
    Ok(Checksum {
        kind,
        from: part.from.unwrap_or(i64::from(nmea)),
        to: part.to.or(nmea.then_some(-1)),
        place,
        width,
        endian: endian(part.endian.as_deref(), &span)?,
        hex,
        covers_hex,
        optional: part.optional,
        mask: part.mask.unwrap_or(u32::MAX),
        plus: part.plus,
        avoid: part.avoid,
    })
}

fn names() -> Vec<&'static str> {
    crate::source::framing::CHECKSUMS.iter().copied().chain(["nmea"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Profile, Transport};

    const HEAD: &str = "id = \"a/b\"\ndescription = \"d\"\nsource = \"s\"\ntransport = \"serial\"\nformat = \"json\"\n\
                        [[field]]\npath = \"a\"\nname = \"a\"\n";

    fn parse(text: &str) -> Result<Framing, String> {
        match Profile::parse("x.toml".as_ref(), &format!("{HEAD}{text}")) {
            Ok(Profile { transport: Transport::Serial(line), .. }) => Ok(*line.framing),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        assert_eq!(parse("").unwrap(), Framing::lines(b"\n", FRAME_BYTES_MAX));
        let short = "[serial]\ndelimiter = \"\\r\\n\"\nframe_bytes_max = 80\n[checksum]\nkind = \"nmea\"\n";
        let framing = parse(short).unwrap();
        assert_eq!((&framing.kind, framing.bytes_max), (&FramingKind::Delimiter(b"\r\n".to_vec()), 80));
        let nmea = Checksum {
            from: 1,
            to: Some(-1),
            place: Place::After(b"*".to_vec()),
            hex: true,
            ..Checksum::at_end(ChecksumKind::Xor8, 1)
        };
        assert_eq!(framing.checksum, Some(nmea));
        let framing = parse("[framing]\nkind = \"slip\"\n[checksum]\nkind = \"crc-16/x-25\"\n").unwrap();
        assert_eq!(framing.checksum.unwrap().place, Place::At(-2));
        let hex = "[framing]\nkind = \"cobs\"\n[checksum]\nkind = \"crc-16/x-25\"\nencoding = \"hex\"\n";
        assert_eq!(parse(hex).unwrap().checksum.unwrap().place, Place::At(-4));
        let markers = "[framing]\nkind = \"markers\"\nstart = [\"a\", [0x02, 0x03]]\nend = [3]\n";
        let kind = FramingKind::Markers {
            marks: Marks { start: vec![b"a".to_vec(), vec![2, 3]], end: vec![3] },
            tail: Tail::Bytes(0),
            omit: None,
            restart: true,
            escape: None,
        };
        assert_eq!(parse(markers).unwrap().kind, kind);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_line() {
        for (text, expected) in [
            ("[framing]\nkind = \"line\"\n", "x.toml:10: framing `line`: expected `delimiter`, `fixed`,"),
            (
                "[framing]\nkind = \"slip\"\nbytes = 3\n",
                "x.toml:11: `bytes` is for framing `fixed`, found it with `slip`",
            ),
            ("[framing]\nkind = \"cobs\"\nend = \"x\"\n", "x.toml:11: `end` is for framing `fixed` or `length` or"),
            ("[framing]\nkind = \"sml\"\ngap = \"1s\"\n", "x.toml:11: `gap` is for framing"),
            ("[framing]\nkind = \"fixed\"\n", "x.toml:9: framing `fixed`: expected `bytes`, from 1 to 4096"),
            ("[framing]\nkind = \"fixed\"\nbytes = 9\n", "x.toml:9: expected `start`, a [checksum] or a `gap`"),
            ("[framing]\nkind = \"length\"\nstart = \"a\"\n", "x.toml:9: framing `length`: expected `length`"),
            (
                "[framing]\nkind = \"length\"\nstart = \"a\"\nlength = { at = 1, width = 5 }\n",
                "x.toml:12: length: expected a width of 1 to 4 bytes",
            ),
            (
                "[framing]\nkind = \"length\"\nstart = \"a\"\nlength = { at = 5000 }\n",
                "x.toml:12: length: expected it within the longest frame",
            ),
            (
                "[framing]\nkind = \"length\"\nstart = \"a\"\nlength = { at = 1, endian = \"middle\" }\n",
                "x.toml:12: endian `middle`: expected `big` or `little`",
            ),
            ("[framing]\nkind = \"markers\"\nstart = \"a\"\n", "x.toml:9: framing `markers`: expected `end`"),
            ("[framing]\nkind = \"markers\"\nend = \"\"\n", "x.toml:11: expected 1 to 32 bytes, found 0"),
            (
                "[framing]\nkind = \"markers\"\nstart = [\"a\", \"ab\"]\nend = \"x\"\n",
                "x.toml:11: one start marker is the beginning of another",
            ),
            ("[framing]\nkind = \"idle\"\n", "x.toml:9: framing `idle`: expected `gap`"),
            ("[framing]\nkind = \"idle\"\ngap = \"1ms\"\n", "x.toml:11: gap: expected a duration from 2ms to 60s"),
            ("[framing]\nkind = \"idle\"\ngap = \"1s\"\npayload = []\n", "x.toml:12: payload: expected [from] or"),
            (
                "[framing]\nkind = \"slip\"\n[serial]\ndelimiter = \"x\"\n",
                "x.toml:10: framing `slip` has no delimiter; remove it from [serial]",
            ),
            (
                "[framing]\nkind = \"delimiter\"\ndelimiter = \"a\"\n[serial]\ndelimiter = \"x\"\n",
                "x.toml:11: the delimiter is given in [serial] too",
            ),
            ("[framing]\nkind = \"sml\"\n[checksum]\nkind = \"sum8\"\n", "x.toml:10: framing `sml` has a checksum of"),
            ("[framing]\nkind = \"sml\"\n[serial]\nframe_bytes_max = 100000\n", "x.toml:9: expected a frame_bytes_max"),
            ("[checksum]\nkind = \"crc-16\"\n", "x.toml:10: checksum `crc-16`: expected one of sum8, sum16,"),
            ("[checksum]\nkind = \"sum8\"\nat = 1\nafter = \"x\"\n", "x.toml:11: the checksum stands `at` a byte or"),
            ("[checksum]\nkind = \"sum8\"\noptional = true\n", "x.toml:9: `optional` is for a checksum that stands"),
            ("[checksum]\nkind = \"sum8\"\nencoding = \"bcd\"\n", "x.toml:9: encoding `bcd`: expected `binary` or"),
            ("[checksum]\nkind = \"sum8\"\nover = 1\n", "x.toml:11: unknown field `over`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}\n{error}\n{expected}");
        }
        let mqtt = HEAD.replace("serial", "mqtt") + "[mqtt]\ntopics = [\"x\"]\n[checksum]\nkind = \"sum8\"\n";
        let error = Profile::parse("x.toml".as_ref(), &mqtt).unwrap_err().to_string();
        assert_eq!(error, "x.toml:11: framing and checksum are for the transport `serial`");
    }

    #[test]
    fn a_part_of_a_frame_is_counted_from_either_end() {
        let part = |from, to, length| Span { from, to }.of(length);
        assert_eq!(part(0, None, 3), Some(0..3));
        assert_eq!(part(1, Some(-1), 3), Some(1..2));
        assert_eq!(part(-2, None, 3), Some(1..3));
        for (from, to) in [(4, None), (-4, None), (0, Some(4)), (2, Some(1)), (i64::MIN, None), (i64::MAX, None)] {
            assert_eq!(part(from, to, 3), None, "{from} {to:?}");
        }
    }
}
