//! Sensor Measurement Lists (RFC 8428) in JSON and CBOR, with the base values resolved.
//!
//! What comes out: `records`, one for each that has a value: `device` and `name` (the name, taken apart), `time`, `unit` in UCUM,
//! and `value` (a number), `text`, `flag` or `data` (base64url); `sum` with `sum_unit`, which is the unit times seconds.
//! `time` is as the pack gives it: below 2^28 it is relative to the arrival, which the time format `senml` knows; a time of 0
//! is left out, since it says "now".
//!
//! A name is one identifier to the RFC, and device and measurement to us. Where a pack has a base name that is the device, and the
//! rest is the measurement; a whole name is cut behind a device URN, or before its last part if that looks like a word.
//! A record whose name is all device is named after its unit.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Refusal, fits, malformed};
use crate::decode::doc::{Doc, Kind, Leaf, Node};
use crate::decode::value::quoted;
use crate::reading::Reason;

/// The version of RFC 8428, and the bit that RFC 9100 adds to it for the units of RFC 8798.
const VERSION: f64 = 10.0;
const SECONDARY_UNITS: f64 = 16.0;
/// What stands between the parts of names.
const SEPARATORS: [char; 8] = ['/', ':', ';', '.', '-', '_', '#', ' '];
/// Device URNs (RFC 9039): the kind and the identifier follow.
const DEVICE_URN: &str = "urn:dev:";

/// Takes a pack apart. `pack` is where it is read into before it is resolved.
pub(in crate::decode) fn senml(bytes: &[u8], pack: &mut Doc, doc: &mut Doc) -> Result<(), Refusal> {
    let cbor = read(bytes, pack)?;
    let Some((root, Kind::List)) = pack.root().map(|(index, node)| (index, node.kind)) else {
        return malformed("expected a list of records");
    };
    doc.begin(false);
    let records = doc.begin_list("records");
    let mut base = Base::default();
    let mut result = Ok(());
    for (position, (index, node)) in pack.children(root).enumerate() {
        result = match node.kind {
            Kind::Object => record(pack, index, cbor, &mut base, doc),
            _ => Err("expected an object".to_owned()),
        }
        .or_else(|detail| malformed(format!("record {position}: {detail}")));
        if result.is_err() || doc.is_full() {
            break;
        }
    }
    doc.end(records);
    doc.end(0);
    result?;
    fits(doc)
}

/// Reads JSON or CBOR; true for CBOR. A list begins with `[` in the one, and in the other with a byte that is no ASCII.
fn read(bytes: &[u8], pack: &mut Doc) -> Result<bool, Refusal> {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    if text.first().is_none_or(|byte| !matches!(byte, b'[' | b'{')) {
        return match pack.read_cbor(bytes) {
            Ok(()) => Ok(true),
            Err(detail) => malformed(format!("expected a list in JSON or CBOR: {detail}")),
        };
    }
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let detail = format!("byte {}: expected UTF-8", bytes.len() - text.len() + error.valid_up_to());
            return Err(Refusal::Wrong(Reason::NotUtf8, detail));
        }
    };
    match pack.read_json(text) {
        Ok(()) => Ok(false),
        Err(error) => {
            let reason = if error.too_large { Reason::TooLarge } else { Reason::NotJson };
            Err(Refusal::Wrong(reason, error.detail))
        }
    }
}

/// What holds for the records that follow.
#[derive(Debug, Default)]
struct Base {
    name: String,
    time: f64,
    unit: String,
    value: Option<f64>,
    sum: Option<f64>,
}

/// What a record says of itself.
#[derive(Default)]
struct Own<'p> {
    name: &'p str,
    unit: Option<&'p str>,
    time: f64,
    sum: Option<f64>,
    value: Option<(usize, &'p Node)>,
    text: Option<&'p Node>,
    flag: Option<&'p Node>,
    data: Option<&'p Node>,
}

fn record(pack: &Doc, index: usize, cbor: bool, base: &mut Base, doc: &mut Doc) -> Result<(), String> {
    let mut own = Own::default();
    for (at, node) in pack.children(index) {
        let key = pack.key(node);
        let text = || match node.kind {
            Kind::Text(text) => Ok(pack.text(text)),
            _ => Err(format!("`{key}`: expected a text")),
        };
        let finite = || {
            let found = number(pack, at, node, cbor).filter(|number| number.is_finite());
            found.ok_or_else(|| format!("`{key}`: expected a number"))
        };
        match label(key, cbor) {
            "bn" => text()?.clone_into(&mut base.name),
            "bt" => base.time = finite()?,
            "bu" => text()?.clone_into(&mut base.unit),
            "bv" => base.value = Some(finite()?),
            "bs" => base.sum = Some(finite()?),
            "bver" => version(finite()?)?,
            "n" => own.name = text()?,
            "u" => own.unit = Some(text()?),
            "t" => own.time = finite()?,
            "s" => own.sum = Some(finite()?),
            "v" => own.value = Some((at, node)),
            "vs" => own.text = Some(node),
            "vb" => own.flag = Some(node),
            "vd" => own.data = Some(node),
            // The sender asks not to be understood by halves.
            _ if key.ends_with('_') => return Err(format!("{} must be understood, and is not known", quoted(key))),
            _ => {}
        }
    }
    put(pack, &own, cbor, base, doc);
    Ok(())
}

/// The name of a field, which is a number in CBOR.
fn label(key: &str, cbor: bool) -> &str {
    match key {
        _ if !cbor => key,
        "-6" => "bs",
        "-5" => "bv",
        "-4" => "bu",
        "-3" => "bt",
        "-2" => "bn",
        "-1" => "bver",
        "0" => "n",
        "1" => "u",
        "2" => "v",
        "3" => "vs",
        "4" => "vb",
        "5" => "s",
        "6" => "t",
        "8" => "vd",
        _ => key,
    }
}

fn version(version: f64) -> Result<(), String> {
    let without = if version > VERSION { version - SECONDARY_UNITS } else { version };
    if (0.0..=VERSION).contains(&without) { Ok(()) } else { Err(format!("version {version} is not known")) }
}

/// A number; in CBOR it may be a decimal fraction: a list of exponent and mantissa.
fn number(pack: &Doc, index: usize, node: &Node, cbor: bool) -> Option<f64> {
    match node.kind {
        Kind::Number(number) => Some(number),
        Kind::Digits(digits) => pack.text(digits).parse().ok(),
        Kind::List if cbor => {
            let mut parts = pack.children(index).map(|(_, part)| pack.word(part));
            let (exponent, mantissa) = (parts.next()??, parts.next()??);
            let both = parts.next().is_none().then(|| (exponent.parse::<i32>(), mantissa.parse::<i128>()))?;
            let (Ok(exponent), Ok(mantissa)) = both else { return None };
            format!("{mantissa}e{exponent}").parse().ok()
        }
        _ => None,
    }
}

fn put(pack: &Doc, own: &Own<'_>, cbor: bool, base: &Base, doc: &mut Doc) {
    let is_number = own.text.is_none() && own.flag.is_none() && own.data.is_none();
    let sum = if is_number && (own.value.is_some() || own.sum.is_some()) {
        own.sum.or(base.sum.map(|_| 0.0)).map(|sum| add(sum, base.sum))
    } else {
        own.sum
    };
    if is_number && own.value.is_none() && sum.is_none() {
        return;
    }
    let unit = own.unit.unwrap_or(&base.unit);
    let (device, name) = split(&base.name, own.name);
    let record = doc.begin_object("");
    if !device.is_empty() {
        doc.put("device", Leaf::Text(device));
    }
    doc.put("name", Leaf::Text(if name.is_empty() { named_after(unit) } else { name }));
    let time = base.time + own.time;
    if time != 0.0 {
        doc.put("time", Leaf::Number(time));
    }
    let code = ucum(unit);
    if !code.is_empty() {
        doc.put("unit", Leaf::Text(code));
    }
    if let Some((index, node)) = own.value {
        match number(pack, index, node, cbor) {
            Some(number) if base.value.is_some() || node.kind == Kind::List => {
                doc.put("value", Leaf::Number(add(number, base.value)));
            }
            _ => copy("value", pack, node, doc),
        }
    }
    for (key, node) in [("text", own.text), ("flag", own.flag)] {
        if let Some(node) = node {
            copy(key, pack, node, doc);
        }
    }
    match own.data.map(|node| (node, node.kind)) {
        // Bytes of CBOR became hexadecimal digits.
        Some((_, Kind::Text(digits))) if cbor => match hex::decode(pack.text(digits)) {
            Ok(bytes) => doc.put("data", Leaf::Text(&URL_SAFE_NO_PAD.encode(bytes))),
            Err(_) => doc.put("data", Leaf::Text(pack.text(digits))),
        },
        Some((node, _)) => copy("data", pack, node, doc),
        None => {}
    }
    if let Some(sum) = sum {
        doc.put("sum", Leaf::Number(sum));
        let unit = if code.is_empty() { "s".to_owned() } else { format!("{code}.s") };
        doc.put("sum_unit", Leaf::Text(&unit));
    }
    doc.end(record);
}

/// The same value in the other document: whether it is right is for the rules to say.
fn copy(key: &str, pack: &Doc, node: &Node, doc: &mut Doc) {
    match node.kind {
        Kind::Null => doc.put(key, Leaf::Null),
        Kind::Flag(flag) => doc.put(key, Leaf::Flag(flag)),
        Kind::Number(number) => doc.put(key, Leaf::Number(number)),
        Kind::Digits(digits) => match pack.text(digits).parse() {
            Ok(whole) => doc.put(key, Leaf::Whole(whole)),
            Err(_) => doc.put(key, Leaf::Text(pack.text(digits))),
        },
        Kind::Text(text) => doc.put(key, Leaf::Text(pack.text(text))),
        Kind::List | Kind::Object => {
            let list = doc.begin_list(key);
            doc.end(list);
        }
    }
}

/// The sum of two decimals, without the noise of binary fractions: 20.1 and 1.2 are 21.3.
fn add(number: f64, base: Option<f64>) -> f64 {
    let Some(base) = base else { return number };
    let sum = number + base;
    if sum.abs() < 100_000.0 { (sum * 1e10).round() / 1e10 } else { sum }
}

/// Device and measurement; either may be empty.
fn split<'a>(base: &'a str, own: &'a str) -> (&'a str, &'a str) {
    let device = base.trim_end_matches(SEPARATORS);
    let name = own.trim_start_matches(SEPARATORS);
    match (device.is_empty(), name.is_empty()) {
        (false, false) => (device, name),
        (false, true) => split_whole(device),
        (true, _) => split_whole(own.trim_end_matches(SEPARATORS)),
    }
}

fn split_whole(name: &str) -> (&str, &str) {
    if let Some(rest) = name.strip_prefix(DEVICE_URN)
        && let Some((kind, identifier)) = rest.split_once(':')
    {
        let end = identifier.find([':', '_', ';', '/']).unwrap_or(identifier.len());
        let end = DEVICE_URN.len() + kind.len() + 1 + end;
        return (&name[..end], name[end..].trim_start_matches(SEPARATORS));
    }
    let (before, last) = name.rfind(['/', ':']).map_or(("", name), |at| (&name[..at], &name[at + 1..]));
    if is_word(last) { (before.trim_end_matches(SEPARATORS), last) } else { (name, "") }
}

/// Whether it names a quantity rather than a thing: identifiers are mostly numbers, in decimal or hexadecimal digits.
fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().any(|byte| !byte.is_ascii_hexdigit())
}

/// The measurement's name where the record has no other than the device's: where the unit is that of the measurement of this
/// name (docs/measurements.md), and says what it is of.
fn named_after(unit: &str) -> &'static str {
    match unit {
        "Cel" => "temperature",
        "%RH" => "humidity",
        "%EL" => "battery",
        "lat" => "latitude",
        "lon" => "longitude",
        "V" => "voltage",
        "A" => "current",
        "W" => "power",
        "kWh" => "energy",
        "hPa" => "pressure",
        "lx" => "illuminance",
        _ => "value",
    }
}

/// The UCUM code of a unit (RFC 8428, section 12.1, and RFC 8798); most are the same.
fn ucum(unit: &str) -> &str {
    match unit {
        "l" => "L",
        "l/s" => "L/s",
        "lat" | "lon" => "deg",
        "%RH" | "%EL" | "/100" => "%",
        "EL" => "s",
        "/" | "count" => "1",
        "/1000" => "[ppth]",
        "ppm" => "[ppm]",
        "ppb" => "[ppb]",
        "pH" => "[pH]",
        "dBW" => "dB[W]",
        "dBm" => "dB[mW]",
        "Bspl" => "B[SPL]",
        "beats" => "{beat}",
        "beat/min" => "{beat}/min",
        "NTU" => "{NTU}",
        "B" => "By",
        "KiB" => "KiBy",
        "GB" => "GBy",
        "B/s" => "By/s",
        "MB/s" => "MBy/s",
        "VA" => "V.A",
        "VAs" => "V.A.s",
        "kVA" => "kV.A",
        "kVAh" => "kV.A.h",
        "var" => "V.A{reactive}",
        "vars" => "V.A.s{reactive}",
        "varh" => "V.A.h{reactive}",
        "kvar" => "kV.A{reactive}",
        "kvarh" => "kV.A.h{reactive}",
        "Ah" => "A.h",
        "Wh" => "W.h",
        "kWh" => "kW.h",
        "Wh/km" => "W.h/km",
        _ => unit,
    }
}

#[cfg(test)]
#[path = "senml_tests.rs"]
mod tests;
