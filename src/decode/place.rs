//! A place in a payload, and what conditions and names ask there.

use super::doc::{Doc, Kind, Node};
use super::value::{bits_of, parse_number};
use crate::profile::Condition;

/// Where a part is: the nodes from the root down to it, and what the topic says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) doc: &'a Doc,
    /// The innermost one is the last.
    pub(crate) nodes: &'a [usize],
    /// How many of them lead down to where the part begins.
    pub(crate) depth: usize,
    pub(crate) captures: &'a [(Box<str>, Box<str>)],
}

impl<'a> Place<'a> {
    /// The value at a path of plain keys, from here; where it is not, from what is around it.
    pub(crate) fn find(&self, path: &[Box<str>]) -> Option<&'a Node> {
        match path {
            [first, rest @ ..] if **first == *"@root" => self.doc.find(rest),
            _ => self.nodes.iter().rev().find_map(|node| self.doc.find_below(*node, path)),
        }
    }

    /// The same as a text, which the topic or the place itself may say too.
    pub(crate) fn word(&self, path: &[Box<str>]) -> Option<String> {
        if let [name] = path
            && name.starts_with('@')
        {
            let captured = || self.captures.iter().find(|(own, _)| own == name).map(|(_, word)| word.to_string());
            return match &**name {
                "@key" => self.key(0).or_else(captured),
                "@outer" => self.key(1).or_else(captured),
                _ => captured(),
            };
        }
        self.doc.word(self.find(path)?)
    }

    /// The key or position of the place where the part begins, or of what is so many levels around it; the whole payload has
    /// none.
    fn key(&self, outward: usize) -> Option<String> {
        let (node, around) = match self.nodes.get(..self.depth.checked_sub(outward)?)? {
            [.., around, node] => (*node, *around),
            _ => return None,
        };
        if self.doc.kind(around) == Some(Kind::List) {
            return self.doc.children(around).position(|(index, _)| index == node).map(|position| position.to_string());
        }
        self.doc.key_at(node).map(str::to_owned)
    }

    /// Whether all conditions hold that are about other values than the one at hand.
    pub(crate) fn holds(&self, conditions: &[Condition]) -> bool {
        conditions.iter().all(|condition| self.holds_for(condition, None))
    }

    pub(super) fn holds_for(&self, condition: &Condition, node: Option<&Node>) -> bool {
        match condition {
            Condition::Present(path) => self.has(path),
            Condition::Absent(path) => !self.has(path),
            Condition::Is(path, words) => self.is(path, words),
            Condition::Not(path, words) => !self.is(path, words),
            Condition::Bit { path, bit, set } => *set == self.has_bit(path, *bit),
            Condition::Between { path, above, below } => {
                let number = match (path, node.map(|node| node.kind)) {
                    (Some(path), _) => self.number(path),
                    (None, Some(Kind::Number(number))) => Some(number),
                    (None, Some(Kind::Text(text))) if self.doc.untyped => self.doc.text(text).trim().parse().ok(),
                    _ => None,
                };
                number.is_some_and(|number| number > *above && number < *below)
            }
        }
    }

    /// The number at a path.
    pub(super) fn number(&self, path: &[Box<str>]) -> Option<f64> {
        let found = match self.find(path)?.kind {
            Kind::Text(text) => parse_number(self.doc.text(text).trim())?,
            found => found,
        };
        if let Kind::Number(number) = found { Some(number) } else { None }
    }

    fn has_bit(&self, path: &[Box<str>], bit: u8) -> bool {
        self.number(path).is_some_and(|number| bits_of(number, (bit, 1)) == 1.0)
    }

    fn has(&self, path: &[Box<str>]) -> bool {
        match path {
            [key] if key.starts_with('@') => self.word(path).is_some(),
            _ => self.find(path).is_some_and(|node| node.kind != Kind::Null),
        }
    }

    /// Whether the value at a path is one of these words; numbers are compared as numbers, and a `*` in a word stands for
    /// any text.
    pub(super) fn is(&self, path: &[Box<str>], words: &[Box<str>]) -> bool {
        match self.find(path).map(|node| node.kind) {
            Some(Kind::Text(text)) => words.iter().any(|word| fits(word, self.doc.text(text))),
            Some(Kind::Number(number)) => words.iter().any(|word| word.parse() == Ok(number)),
            Some(Kind::Flag(flag)) => words.iter().any(|word| word.parse() == Ok(flag)),
            _ => self.word(path).is_some_and(|found| words.iter().any(|word| fits(word, &found))),
        }
    }
}

/// Whether a text is the word; a `*` in that stands for any text.
pub(super) fn fits(word: &str, text: &str) -> bool {
    match word.split_once('*') {
        None => *word == *text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| rest.ends_with(after)),
    }
}
