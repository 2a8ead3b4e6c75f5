//! `[[field]]` and `when` of a profile file.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::file::{Fault, OneOrMany, at, fault, key_path};
use super::{Condition, Convert, FieldRule, KeyPath, NamePattern, Path, Sign, TextPattern, UnitRule, ValueType};
use crate::reading::MeasurementKind;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FieldPart {
    path: String,
    name: String,
    unit: Option<String>,
    #[serde(default)]
    units: BTreeMap<String, String>,
    kind: Option<String>,
    #[serde(rename = "type")]
    value_type: Option<String>,
    scale: Option<f64>,
    offset: Option<f64>,
    bits: Option<[u8; 2]>,
    bit: Option<u8>,
    sign: Option<String>,
    base: Option<u32>,
    #[serde(default)]
    degrees: bool,
    negative: Option<WhenPart>,
    pattern: Option<String>,
    decimal: Option<char>,
    times: Option<OneOrMany>,
    exponent: Option<String>,
    #[serde(default)]
    plus: Vec<PlusPart>,
    #[serde(default)]
    words: BTreeMap<String, String>,
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
pub(super) struct WhenPart {
    path: Option<String>,
    is: Option<OneOrMany>,
    not: Option<OneOrMany>,
    bit: Option<u8>,
    above: Option<f64>,
    below: Option<f64>,
    #[serde(default)]
    absent: bool,
}

/// `plus`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlusPart {
    path: String,
    scale: Option<f64>,
}

impl PlusPart {
    fn rule(&self, span: &Range<usize>) -> Result<(KeyPath, f64), Fault> {
        match self.scale.unwrap_or(1.0) {
            scale if scale.is_finite() && scale != 0.0 => Ok((key_path(&self.path, span)?, scale)),
            _ => fault(span, "plus: expected a finite scale that is not 0"),
        }
    }
}

/// One rule, and a second one for the elements where the value may be a list.
pub(super) fn field(part: Spanned<FieldPart>) -> Result<Vec<FieldRule>, Fault> {
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
    let numeric = part.scale.is_some()
        || part.offset.is_some()
        || part.min.is_some()
        || part.max.is_some()
        || part.degrees
        || part.negative.is_some()
        || part.sign.is_some()
        || part.base.is_some()
        || part.decimal.is_some()
        || part.times.is_some()
        || part.exponent.is_some()
        || !part.plus.is_empty();
    if value_type != ValueType::Number && (numeric || part.unit.is_some()) {
        return fault(
            &span,
            "unit, scale, offset, min, max, degrees, negative, sign, base, decimal, times, exponent and plus are for type = \"number\"",
        );
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
    if value_type != ValueType::Text && !part.words.is_empty() {
        return fault(&span, "words are for type = \"text\"");
    }
    let bits = match (part.bits, part.bit) {
        (None, None) => None,
        (Some([lowest, count]), None) if count > 0 && lowest + count <= 53 => Some((lowest, count)),
        (None, Some(bit)) if bit < 53 => Some((bit, 1)),
        _ => return fault(&span, "expected either `bit`, or `bits = [lowest, how many]`, within the lowest 53"),
    };
    let negative = match part.negative {
        None => None,
        Some(WhenPart { path: None, .. }) => return fault(&span, "negative: expected { path, is } or { path, bit }"),
        Some(part) => Some(condition(part, &span)?),
    };
    let sign = match (part.sign.as_deref(), bits) {
        (None, _) => None,
        (Some("complement"), Some(_)) => Some(Sign::Complement),
        (Some("magnitude"), Some(_)) => Some(Sign::Magnitude),
        (Some("complement" | "magnitude"), None) => {
            return fault(&span, "sign: expected `bits`, the highest of which it is");
        }
        (Some(other), _) => return fault(&span, format!("sign `{other}`: expected `complement` or `magnitude`")),
    };
    if let Some(base) = part.base.filter(|base| !(2..=36).contains(base)) {
        return fault(&span, format!("base: expected 2 to 36, found {base}"));
    }
    let unit = match part.unit {
        None if !part.units.is_empty() => return fault(&span, "units translate what `unit = \"{path}\"` finds"),
        None => None,
        Some(text) => match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            None => Some(UnitRule::Fixed(text.into())),
            Some(path) => {
                let words = part.units.into_iter().map(|(word, code)| (word.into(), code.into())).collect();
                Some(UnitRule::Found(key_path(path, &span)?, words))
            }
        },
    };
    let pattern = part.pattern.as_deref().map(|pattern| value_pattern(pattern, &span)).transpose()?;
    if let Some(mark) = part.decimal.filter(|mark| mark.is_ascii_alphanumeric() || matches!(mark, '+' | '-')) {
        return fault(
            &span,
            format!("decimal: expected what stands before the decimals, such as \",\", found \"{mark}\""),
        );
    }
    let times = part.times.map(OneOrMany::into_vec).unwrap_or_default();
    let rule = FieldRule {
        pattern,
        decimal: part.decimal,
        times: times.iter().map(|path| key_path(path, &span)).collect::<Result<_, _>>()?,
        exponent: part.exponent.as_deref().map(|path| key_path(path, &span)).transpose()?,
        plus: part.plus.iter().map(|plus| plus.rule(&span)).collect::<Result<_, _>>()?,
        bits,
        sign,
        base: part.base,
        degrees: part.degrees,
        negative,
        words: part.words.into_iter().map(|(word, meaning)| (word.into(), meaning.into())).collect(),
        open: path.is_open(),
        path,
        name,
        unit,
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

/// A pattern with a group that is the value.
fn value_pattern(pattern: &str, span: &Range<usize>) -> Result<TextPattern, Fault> {
    match regex_lite::Regex::new(pattern) {
        Ok(regex) if regex.capture_names().flatten().all(|name| name != "value") => {
            fault(span, "pattern: expected a group `value`, such as `^(?<value>[-0-9.]+) *°C$`: it is what counts")
        }
        Ok(regex) => Ok(TextPattern(regex)),
        Err(error) => fault(span, format!("pattern: {error}")),
    }
}

pub(super) fn condition(part: WhenPart, span: &Range<usize>) -> Result<Condition, Fault> {
    let words = |words: OneOrMany| words.into_vec().into_iter().map(Into::into).collect();
    let path = part.path.as_deref().map(|path| key_path(path, span)).transpose()?;
    let compares = part.above.is_some() || part.below.is_some();
    match (path, part.is, part.not, part.bit, compares, part.absent) {
        (Some(path), None, None, None, false, false) => Ok(Condition::Present(path)),
        (Some(path), None, None, None, false, true) => Ok(Condition::Absent(path)),
        (Some(path), Some(is), None, None, false, false) => Ok(Condition::Is(path, words(is))),
        (Some(path), None, Some(not), None, false, false) => Ok(Condition::Not(path, words(not))),
        (Some(path), None, None, Some(bit), false, absent) if bit < 53 => {
            Ok(Condition::Bit { path, bit, set: !absent })
        }
        (path, None, None, None, true, false) => {
            let (above, below) = (part.above.unwrap_or(f64::NEG_INFINITY), part.below.unwrap_or(f64::INFINITY));
            Ok(Condition::Between { path, above, below })
        }
        _ => fault(
            span,
            "when: expected { path }, { path, absent = true }, { path, is }, { path, not }, { path, bit }, \
             { path, bit, absent = true }, { path, above }, { path, below } or, of the number itself, { above } or { below }",
        ),
    }
}
