//! A payload taken apart: nodes in one flat list, texts in one arena, both reused from frame to frame. JSON and
//! delimited text end up in the same form, so that one set of rules reads either.
//!
//! Bounded: at most [`NODES_MAX`] nodes, and the depth that serde_json allows (128).

use std::collections::VecDeque;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::profile::Path;

/// A payload with more values than this is refused: its nodes would take many times its own size in memory.
pub(crate) const NODES_MAX: usize = 65_536;

/// A piece of the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

/// What a node holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Null,
    Flag(bool),
    Number(f64),
    /// A whole number that a double would falsify, as its digits.
    Digits(Span),
    Text(Span),
    List,
    Object,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    /// Its key in an object.
    key: Span,
    pub(crate) kind: Kind,
    /// Where the node after it and all below it is.
    next: u32,
}

/// A payload taken apart.
#[derive(Debug, Default)]
pub(crate) struct Doc {
    nodes: Vec<Node>,
    text: String,
    /// Whether its values have no types of their own (delimited text): a text may be a number.
    pub(crate) untyped: bool,
}

/// Whole numbers up to this are exact as a double.
const EXACT_MAX: u64 = 1 << 53;

impl Doc {
    pub(crate) fn clear(&mut self) {
        self.nodes.clear();
        self.text.clear();
        self.untyped = false;
    }

    pub(crate) fn root(&self) -> Option<(usize, &Node)> {
        self.nodes.first().map(|node| (0, node))
    }

    pub(crate) fn kind(&self, index: usize) -> Option<Kind> {
        self.nodes.get(index).map(|node| node.kind)
    }

    pub(crate) fn text(&self, span: Span) -> &str {
        self.text.get(span.start as usize..span.end as usize).unwrap_or_default()
    }

    pub(crate) fn key(&self, node: &Node) -> &str {
        self.text(node.key)
    }

    /// A value as a text; nothing for null, an object or a list.
    pub(crate) fn word(&self, node: &Node) -> Option<String> {
        match node.kind {
            Kind::Text(text) | Kind::Digits(text) => Some(self.text(text).to_owned()),
            Kind::Number(number) => Some(number.to_string()),
            Kind::Flag(flag) => Some(flag.to_string()),
            Kind::Null | Kind::List | Kind::Object => None,
        }
    }

    /// The key of the node at `index`.
    pub(crate) fn key_at(&self, index: usize) -> Option<&str> {
        self.nodes.get(index).map(|node| self.key(node))
    }

    /// The nodes directly below the one at `index`.
    pub(crate) fn children(&self, index: usize) -> impl Iterator<Item = (usize, &Node)> {
        let end = self.nodes.get(index).map_or(0, |node| node.next as usize);
        let mut at = index + 1;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let node = self.nodes.get(at)?;
            let index = at;
            at = node.next as usize;
            Some((index, node))
        })
    }

    /// The node at a path of plain keys; in a list a key is a position, counted from 0.
    pub(crate) fn find(&self, path: &[Box<str>]) -> Option<&Node> {
        self.find_below(0, path)
    }

    /// The same from another node than the root.
    pub(crate) fn find_below(&self, index: usize, path: &[Box<str>]) -> Option<&Node> {
        let (mut index, mut node) = (index, self.nodes.get(index)?);
        for key in path {
            (index, node) = match node.kind {
                // The last one, as nearly all readers of JSON do with a key that is there twice.
                Kind::Object => self.children(index).filter(|(_, child)| self.key(child) == &**key).last()?,
                Kind::List => self.children(index).nth(key.parse().ok()?)?,
                _ => return None,
            };
        }
        Some(node)
    }

    /// The nodes from the root down to each place that a path matches, in their order.
    pub(crate) fn places(&self, path: &Path, out: &mut VecDeque<Vec<usize>>) {
        if self.root().is_some() {
            self.places_below(path, &mut vec![0], out);
        }
    }

    fn places_below(&self, path: &Path, nodes: &mut Vec<usize>, out: &mut VecDeque<Vec<usize>>) {
        let level = nodes.len() - 1;
        if level == path.levels() {
            out.push_back(nodes.clone());
            return;
        }
        let Some(&parent) = nodes.last() else { return };
        let in_list = self.kind(parent) == Some(Kind::List);
        for (position, (index, node)) in self.children(parent).enumerate() {
            let fits = if in_list { path.fits(level, &position.to_string()) } else { path.fits(level, self.key(node)) };
            if fits {
                nodes.push(index);
                self.places_below(path, nodes, out);
                nodes.pop();
            }
        }
    }

    /// Whether the root is an object or a list.
    pub(crate) fn is_tree(&self) -> bool {
        matches!(self.kind(0), Some(Kind::Object | Kind::List))
    }

    /// Whether that node is a list with nothing in it.
    pub(crate) fn is_empty_list(&self, index: usize) -> bool {
        self.nodes.get(index).is_some_and(|node| node.kind == Kind::List && node.next as usize == index + 1)
    }

    fn span(&mut self, text: &str) -> Span {
        let start = self.text.len() as u32;
        self.text.push_str(text);
        Span { start, end: self.text.len() as u32 }
    }

    /// Adds a node; its subtree must be closed with [`Doc::close`]. False if there are too many.
    fn open(&mut self, key: Span, kind: Kind) -> bool {
        let next = self.nodes.len() as u32 + 1;
        self.nodes.push(Node { key, kind, next });
        self.nodes.len() <= NODES_MAX
    }

    fn close(&mut self, index: usize) {
        let next = self.nodes.len() as u32;
        if let Some(node) = self.nodes.get_mut(index) {
            node.next = next;
        }
    }

    /// Begins an object as the root. `untyped` says that a text in it may be a number.
    pub(crate) fn begin(&mut self, untyped: bool) {
        self.clear();
        self.untyped = untyped;
        self.open(Span::default(), Kind::Object);
    }

    /// Adds a value to what was opened last. Nothing happens if there are too many, which [`Doc::is_full`] tells.
    pub(crate) fn put(&mut self, key: &str, value: Leaf<'_>) {
        if self.is_full() {
            return;
        }
        let key = self.span(key);
        let kind = match value {
            Leaf::Null => Kind::Null,
            Leaf::Flag(flag) => Kind::Flag(flag),
            Leaf::Number(number) => Kind::Number(number),
            Leaf::Whole(number) if number.unsigned_abs() <= EXACT_MAX.into() => Kind::Number(number as f64),
            Leaf::Whole(number) => Kind::Digits(self.span(&number.to_string())),
            Leaf::Text(text) => Kind::Text(self.span(text)),
        };
        self.open(key, kind);
    }

    /// Begins an object in what was opened last. It must be ended with [`Doc::end`], whatever comes.
    pub(crate) fn begin_object(&mut self, key: &str) -> usize {
        let key = self.span(key);
        self.open(key, Kind::Object);
        self.nodes.len() - 1
    }

    /// Begins a list in what was opened last.
    pub(crate) fn begin_list(&mut self, key: &str) -> usize {
        let key = self.span(key);
        self.open(key, Kind::List);
        self.nodes.len() - 1
    }

    /// Ends what was begun; 0 is the root.
    pub(crate) fn end(&mut self, index: usize) {
        self.close(index);
    }

    /// Puts the root of another payload in the place of a leaf. False, and nothing happens, if there are too many nodes.
    pub(crate) fn replace(&mut self, index: usize, with: &Self) -> bool {
        let Some((root, below)) = with.nodes.split_first().filter(|_| index < self.nodes.len()) else { return true };
        if self.nodes.len() + below.len() > NODES_MAX {
            return false;
        }
        let before = self.text.len() as u32;
        self.text.push_str(&with.text);
        let moved = |span: Span| Span { start: span.start + before, end: span.end + before };
        for node in &mut self.nodes {
            if node.next as usize > index {
                node.next += below.len() as u32;
            }
        }
        self.nodes[index].kind = root.kind;
        let below = below.iter().map(|node| Node {
            key: moved(node.key),
            kind: match node.kind {
                Kind::Digits(span) => Kind::Digits(moved(span)),
                Kind::Text(span) => Kind::Text(moved(span)),
                kind => kind,
            },
            next: node.next + index as u32,
        });
        self.nodes.splice(index + 1..index + 1, below);
        true
    }

    /// Whether nothing more is taken.
    pub(crate) fn is_full(&self) -> bool {
        self.nodes.len() >= NODES_MAX
    }

    /// Reads CBOR. The error says what.
    pub(crate) fn read_cbor(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.clear();
        let mut reader = serde_cbor::Deserializer::from_slice(bytes);
        let result = Build { doc: self, key: Span::default() }.deserialize(&mut reader).and_then(|()| reader.end());
        result.map_err(|error| error.to_string())
    }

    /// Reads a JSON text, or what devices mean by one: [`mended`](super::json::mended). The error says where and what.
    pub(crate) fn read_json(&mut self, json: &str) -> Result<(), JsonError> {
        self.read_strict_json(json).or_else(|error| match super::json::mended(json) {
            Some(mended) if !error.too_large => self.read_strict_json(&mended).map_err(|_| error),
            _ => Err(error),
        })
    }

    fn read_strict_json(&mut self, json: &str) -> Result<(), JsonError> {
        self.clear();
        let mut reader = serde_json::Deserializer::from_str(json);
        let result = Build { doc: self, key: Span::default() }.deserialize(&mut reader).and_then(|()| reader.end());
        result.map_err(|error| JsonError::new(json, &error))
    }
}

/// A value without others in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Leaf<'a> {
    Null,
    Flag(bool),
    /// Must be finite.
    Number(f64),
    /// A whole number, exact at any size.
    Whole(i128),
    Text(&'a str),
}

/// Why a text is not JSON that we take.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct JsonError {
    pub(crate) too_large: bool,
    pub(crate) detail: String,
}

pub(crate) const TOO_MANY: &str = "more than 65,536 values";

impl JsonError {
    fn new(json: &str, error: &serde_json::Error) -> Self {
        let lines_before = error.line().saturating_sub(1);
        let line_start: usize = json.split_inclusive('\n').take(lines_before).map(str::len).sum();
        let byte = (line_start + error.column()).min(json.len());
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or(&text);
        Self { too_large: what == TOO_MANY, detail: format!("byte {byte}: {what}") }
    }
}

/// Builds the nodes of one value.
struct Build<'d> {
    doc: &'d mut Doc,
    key: Span,
}

impl Build<'_> {
    fn leaf<E: de::Error>(self, kind: Kind) -> Result<(), E> {
        if self.doc.open(self.key, kind) { Ok(()) } else { Err(E::custom(TOO_MANY)) }
    }

    fn digits<E: de::Error>(self, digits: &str) -> Result<(), E> {
        let digits = self.doc.span(digits);
        self.leaf(Kind::Digits(digits))
    }
}

impl<'de> DeserializeSeed<'de> for Build<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Build<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.leaf(Kind::Null)
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<(), E> {
        self.leaf(Kind::Flag(flag))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        if number <= EXACT_MAX { self.leaf(Kind::Number(number as f64)) } else { self.digits(&number.to_string()) }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        if number.unsigned_abs() <= EXACT_MAX {
            self.leaf(Kind::Number(number as f64))
        } else {
            self.digits(&number.to_string())
        }
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<(), E> {
        self.leaf(Kind::Number(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let text = self.doc.span(text);
        self.leaf(Kind::Text(text))
    }

    /// The shortest decimals that mean this float: 21.3, not 21.299999237060547.
    fn visit_f32<E: de::Error>(self, number: f32) -> Result<(), E> {
        self.leaf(Kind::Number(number.to_string().parse().unwrap_or_else(|_| number.into())))
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<(), E> {
        let text = self.doc.span(&hex::encode(bytes));
        self.leaf(Kind::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { doc, key } = self;
        let index = doc.nodes.len();
        Build { doc, key }.leaf(Kind::List)?;
        while list.next_element_seed(Build { doc, key: Span::default() })?.is_some() {}
        doc.close(index);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { doc, key } = self;
        let index = doc.nodes.len();
        Build { doc, key }.leaf(Kind::Object)?;
        while let Some(key) = map.next_key_seed(Key { doc })? {
            map.next_value_seed(Build { doc, key })?;
        }
        doc.close(index);
        Ok(())
    }
}

struct Key<'d> {
    doc: &'d mut Doc,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Span;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Span, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Span, E> {
        Ok(self.doc.span(key))
    }

    // Keys of CBOR may be numbers.
    fn visit_u64<E: de::Error>(self, key: u64) -> Result<Span, E> {
        Ok(self.doc.span(&key.to_string()))
    }

    fn visit_i64<E: de::Error>(self, key: i64) -> Result<Span, E> {
        Ok(self.doc.span(&key.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_becomes_nodes() {
        let mut doc = Doc::default();
        doc.read_json(r#"{"a":{"b":[1,2,{"c":"x\n"}]},"d":null,"e":18446744073709551615}"#).unwrap();
        let path = |text: &str| text.split('.').map(Into::into).collect::<Vec<Box<str>>>();
        assert_eq!(doc.find(&path("a.b.1")).unwrap().kind, Kind::Number(2.0));
        let Kind::Text(text) = doc.find(&path("a.b.2.c")).unwrap().kind else { panic!() };
        assert_eq!(doc.text(text), "x\n");
        assert_eq!(doc.find(&path("d")).unwrap().kind, Kind::Null);
        let Kind::Digits(digits) = doc.find(&path("e")).unwrap().kind else { panic!() };
        assert_eq!(doc.text(digits), "18446744073709551615");
        assert!(doc.find(&path("a.x")).is_none());
    }

    #[test]
    fn an_object_takes_the_place_of_a_leaf() {
        let (mut doc, mut inner) = (Doc::default(), Doc::default());
        doc.read_json(r#"{"a":{"x":"0102","y":1},"b":["0304"],"c":"end"}"#).unwrap();
        inner.read_json(r#"{"p":"inner","q":7}"#).unwrap();
        let path = |text: &str| text.split('.').map(Into::into).collect::<Vec<Box<str>>>();
        let word = |doc: &Doc, text: &str| doc.find(&path(text)).and_then(|node| doc.word(node));
        // Nodes: 0 root, 1 a, 2 x, 3 y, 4 b, 5 its element, 6 c.
        assert!(doc.replace(5, &inner) && doc.replace(2, &inner));
        for (path, expected) in
            [("a.x.p", "inner"), ("a.x.q", "7"), ("a.y", "1"), ("b.0.p", "inner"), ("b.0.q", "7"), ("c", "end")]
        {
            assert_eq!(word(&doc, path).as_deref(), Some(expected), "{path}");
        }
        assert!(doc.find(&path("a.p")).is_none() && doc.find(&path("b.1")).is_none());
        doc.read_json(&format!("[{}0]", "0,".repeat(NODES_MAX - 3))).unwrap();
        assert!(!doc.replace(1, &inner) && doc.kind(1) == Some(Kind::Number(0.0)));
    }

    #[test]
    fn errors_say_where() {
        let mut doc = Doc::default();
        let detail = |doc: &mut Doc, json: &str| doc.read_json(json).unwrap_err().detail;
        assert_eq!(detail(&mut doc, "invalid"), "byte 1: expected value");
        assert_eq!(detail(&mut doc, "{\"a\":1\n,\"b\":}"), "byte 13: expected value");
        assert_eq!(detail(&mut doc, "{} x"), "byte 4: trailing characters");
        assert!(doc.read_json(&format!("[{}0]", "0,".repeat(NODES_MAX))).unwrap_err().too_large);
        assert!(doc.read_json(&"[".repeat(10_000)).is_err());
    }

    #[test]
    fn cbor_becomes_nodes_and_no_bytes_do_harm() {
        let mut doc = Doc::default();
        // {"t": 21.5 (16 bits), 1: h'0aff', "l": [true, null]}
        doc.read_cbor(b"\xa3\x61t\xf9\x4d\x60\x01\x42\x0a\xff\x61l\x82\xf5\xf6").unwrap();
        let path = |text: &str| text.split('.').map(Into::into).collect::<Vec<Box<str>>>();
        assert_eq!(doc.find(&path("t")).unwrap().kind, Kind::Number(21.5));
        assert_eq!(doc.find(&path("1")).and_then(|node| doc.word(node)).as_deref(), Some("0aff"));
        assert_eq!(doc.find(&path("l.0")).unwrap().kind, Kind::Flag(true));
        // Lists in lists, and lengths of what is not there.
        for bytes in
            [vec![0x81; 100_000], vec![0x9f; 100_000], vec![0x7b; 9], vec![0x5b; 9], vec![0xbb; 9], vec![0xc6; 9_000]]
        {
            assert!(doc.read_cbor(&bytes).is_err());
        }
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..fastrand::usize(..64)).map(|_| fastrand::u8(..)).collect();
            let _ = doc.read_cbor(&bytes);
            assert!(doc.nodes.len() <= NODES_MAX + 1);
        }
    }
}
