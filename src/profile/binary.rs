//! `[binary]`, and the same of bytes in a text: values at fixed places, and items that say by a tag what they are.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;

use super::file::{Fault, OneOrMany, fault};

/// The longest tag of an item.
const TAG_BYTES_MAX: usize = 16;

/// Bytes at fixed places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binary {
    /// How many bytes a frame must have; any number if nothing is said.
    pub length: Option<usize>,
    /// What is where.
    pub values: Vec<BinaryValue>,
    /// What comes in any order, each with a tag.
    pub items: Option<Items>,
    /// What is there if a bit says so.
    pub optional: Option<Optional>,
}

/// A row of values, each of which is there if a bit of a number says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Optional {
    /// Where that number is.
    pub flags: BinaryValue,
    /// Where the first value begins.
    pub from: usize,
    /// What each bit stands for, the lowest first. They have no tag.
    pub bits: Vec<(u8, Item)>,
}

/// A row of values, each behind a tag that says what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Items {
    /// Where the first one begins.
    pub from: usize,
    /// How many bytes between a tag and what belongs to it say how long that is. Items that nobody knows can be passed over
    /// then.
    pub length: Option<usize>,
    /// Which there are; the first one that fits counts.
    pub known: Vec<Item>,
}

/// One of [`Items`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// How it begins; `None` is any byte, which becomes the last part of the values' paths.
    pub tag: Vec<Option<u8>>,
    /// What follows, one behind the other.
    pub values: Vec<ItemValue>,
}

/// A value of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemValue {
    /// Its key.
    pub key: Box<str>,
    /// What it is.
    pub kind: ItemKind,
    /// Whether its lowest byte comes first.
    pub little: bool,
}

/// What a value of an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    /// As long as it always is.
    Fixed(BinaryKind),
    /// One byte says how many bytes follow: `hex*`.
    CountedHex,
    /// The same, and these are text: `text*`.
    CountedText,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BinaryPart {
    #[serde(default)]
    pub(super) endian: Option<String>,
    pub(super) length: Option<usize>,
    #[serde(default)]
    pub(super) values: toml::Table,
    pub(super) items: Option<ItemsPart>,
    pub(super) optional: Option<OptionalPart>,
}

/// `optional`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OptionalPart {
    flags: String,
    from: usize,
    bits: BTreeMap<String, OneOrMany>,
}

/// `items`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ItemsPart {
    #[serde(default)]
    from: usize,
    length: Option<usize>,
    values: BTreeMap<String, OneOrMany>,
}

pub(super) fn binary(part: BinaryPart, span: &Range<usize>) -> Result<Binary, Fault> {
    let little = match part.endian.as_deref() {
        None | Some("big") => false,
        Some("little") => true,
        Some(other) => return fault(span, format!("endian `{other}`: expected `big` or `little`")),
    };
    let mut values = Vec::new();
    for (key, value) in part.values {
        match value.as_str() {
            Some(text) => values.push(binary_value(&key, text, little, span)?),
            None => return wrong_value(&key, &value.to_string(), span),
        }
    }
    let items = part.items.map(|part| items(part, little, span)).transpose()?;
    let optional = part.optional.map(|part| optional(&part, little, span)).transpose()?;
    if values.is_empty() && items.is_none() && optional.is_none() {
        return fault(span, "binary: expected at least one value in `values`, or `items`, or `optional`");
    }
    Ok(Binary { length: part.length, values, items, optional })
}

fn binary_value(key: &str, text: &str, little: bool, span: &Range<usize>) -> Result<BinaryValue, Fault> {
    let mut words = text.split_ascii_whitespace();
    let (at, kind) = (words.next().map(str::parse), words.next().map(BinaryKind::parse));
    match (at, kind, order(words.next(), little), words.next()) {
        (Some(Ok(at)), Some(Some(kind)), Some(little), None) => Ok(BinaryValue { key: key.into(), at, kind, little }),
        _ => wrong_value(key, &format!("`{text}`"), span),
    }
}

fn wrong_value<T>(key: &str, found: &str, span: &Range<usize>) -> Result<T, Fault> {
    fault(
        span,
        format!(
            "binary value `{key}`: expected a place and a kind such as \"4 u16\", \"-2 i8\", \"6 f32 little\", \
             \"0 bcd4\", \"2 hex6\" or \"8 text10\", found {found}"
        ),
    )
}

fn optional(part: &OptionalPart, little: bool, span: &Range<usize>) -> Result<Optional, Fault> {
    let flags = binary_value("flags", &part.flags, little, span)?;
    if !matches!(flags.kind, BinaryKind::Unsigned(_)) {
        return fault(span, "optional: expected whole numbers without a sign as `flags`, such as \"3 u16\"");
    }
    let mut bits = Vec::new();
    for (bit, values) in &part.bits {
        let known = bit.parse().ok().filter(|bit: &u8| usize::from(*bit) < 8 * flags.kind.bytes());
        let Some(number) = known else {
            let count = 8 * flags.kind.bytes();
            return fault(span, format!("optional: expected bits from 0 to {}, found `{bit}`", count - 1));
        };
        let values = match values {
            OneOrMany::One(value) => std::slice::from_ref(value),
            OneOrMany::Many(values) => values,
        };
        let values: Result<Vec<_>, _> = values.iter().map(|text| item_value(bit, text, little, span)).collect();
        bits.push((number, Item { tag: Vec::new(), values: values? }));
    }
    bits.sort_by_key(|(bit, _)| *bit);
    Ok(Optional { flags, from: part.from, bits })
}

/// Whether the lowest byte comes first; nothing if that is not what the word says.
fn order(word: Option<&str>, little: bool) -> Option<bool> {
    match word {
        None => Some(little),
        Some("little") => Some(true),
        Some("big") => Some(false),
        Some(_) => None,
    }
}

fn items(part: ItemsPart, little: bool, span: &Range<usize>) -> Result<Items, Fault> {
    let mut known = Vec::new();
    for (tag, values) in part.values {
        let bytes: Option<Vec<Option<u8>>> = tag
            .split_ascii_whitespace()
            .map(|pair| {
                if pair == "??" {
                    Some(None)
                } else {
                    hex::decode(pair).ok().filter(|byte| byte.len() == 1).map(|byte| Some(byte[0]))
                }
            })
            .collect();
        let bytes = bytes.filter(|bytes| bytes.iter().any(Option::is_some) && bytes.len() <= TAG_BYTES_MAX);
        let Some(bytes) = bytes.filter(|bytes| bytes.iter().filter(|byte| byte.is_none()).count() <= 1) else {
            return fault(
                span,
                format!(
                    "items: `{tag}`: expected up to {TAG_BYTES_MAX} bytes such as \"01 75\"; one of several may be \"??\", any byte"
                ),
            );
        };
        let values = match values {
            OneOrMany::One(value) => vec![value],
            OneOrMany::Many(values) => values,
        };
        let values: Result<Vec<_>, _> = values.iter().map(|text| item_value(&tag, text, little, span)).collect();
        known.push(Item { tag: bytes, values: values? });
    }
    let width = known.first().map_or(0, |item| item.tag.len());
    if known.is_empty() || part.length.is_some() && known.iter().any(|item| item.tag.len() != width) {
        return fault(span, "items: expected at least one tag in `values`, and with `length` all of them equally long");
    }
    if part.length.is_some_and(|length| !(1..=4).contains(&length)) {
        return fault(span, "items: expected a `length` of 1 to 4 bytes");
    }
    // A tag without a byte that may be any is meant before one that has it.
    known.sort_by_key(|item| item.tag.iter().filter(|byte| byte.is_none()).count());
    Ok(Items { from: part.from, length: part.length, known })
}

fn item_value(tag: &str, text: &str, little: bool, span: &Range<usize>) -> Result<ItemValue, Fault> {
    let mut words = text.split_ascii_whitespace();
    let key = words.next();
    let kind = words.next().and_then(|word| match word {
        "hex*" => Some(ItemKind::CountedHex),
        "text*" => Some(ItemKind::CountedText),
        word => BinaryKind::parse(word).map(ItemKind::Fixed),
    });
    match (key, kind, order(words.next(), little), words.next()) {
        (Some(key), Some(kind), Some(little), None) => Ok(ItemValue { key: key.into(), kind, little }),
        _ => fault(
            span,
            format!(
                "items: tag `{tag}`: expected a key and a kind such as \"temperature i16\", \"door u8\", \"name text*\" (one \
                 byte says how long it is), or a list of them, found `{text}`"
            ),
        ),
    }
}
