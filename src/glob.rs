//! Patterns of names of devices and measurements, such as `meter-*`, `[ab]-?` or `{pump,valve}-1`.
//!
//! They mean what globset's patterns mean, against which they are tested. That crate makes a regular expression of each, whose
//! engine is a large part of a small board's binary. Here each part of a pattern leads from the places in a name where it may
//! begin to those where it may end, so no pattern takes longer than its length times that of the name, whatever is in it.

use std::fmt;
use std::iter::Peekable;
use std::str::{Chars, FromStr};

/// Groups in groups, which are matched by a function that calls itself.
const NESTING_MAX: usize = 16;

/// A pattern, ready to match.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq)]
enum Part {
    One(char),
    /// `?`
    Any,
    /// `*`, which takes a `/` too.
    Many,
    /// `**/` at the beginning of a directory: so many directories, or none.
    Directories,
    /// `[a-z]`, `[!a-z]`
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
    /// `{one,another}`
    OneOf(Vec<Vec<Part>>),
}

/// What is wrong with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// `[` without its end.
    #[error("unclosed character class; missing ']'")]
    UnclosedClass,
    /// Such as `[z-a]`.
    #[error("invalid range; '{0}' > '{1}'")]
    InvalidRange(char, char),
    /// `}` without its beginning.
    #[error("unopened alternate group; missing '{{' (maybe escape '}}' with '[}}]'?)")]
    UnopenedGroup,
    /// `{` without its end.
    #[error("unclosed alternate group; missing '}}' (maybe escape '{{' with '[{{]'?)")]
    UnclosedGroup,
    /// More than anybody writes.
    #[error("more than {NESTING_MAX} groups in one another")]
    Nesting,
    /// `\` at the end.
    #[error("dangling '\\'")]
    DanglingEscape,
}

impl Glob {
    /// The pattern that matches this name and no other.
    #[must_use]
    pub fn literal(name: &str) -> Self {
        Self { text: name.to_owned(), parts: name.chars().map(Part::One).collect() }
    }

    /// Whether the whole of `name` is what the pattern says.
    #[must_use]
    pub fn is_match(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let mut places = vec![false; name.len() + 1];
        places[0] = true;
        go(&self.parts, &name, places)[name.len()]
    }
}

/// Where these parts may end, if they may begin at `places`: before each character of the name, or behind the last.
fn go(parts: &[Part], name: &[char], places: Vec<bool>) -> Vec<bool> {
    parts.iter().fold(places, |places, part| part.go(name, places))
}

impl Part {
    fn go(&self, name: &[char], mut places: Vec<bool>) -> Vec<bool> {
        let one = |takes: &dyn Fn(char) -> bool| {
            let behind = |(&begins, &c): (&bool, &char)| begins && takes(c);
            std::iter::once(false).chain(places.iter().zip(name).map(behind)).collect()
        };
        match self {
            Self::One(only) => one(&|c| c == *only),
            Self::Any => one(&|_| true),
            Self::Class { not, ranges } => {
                one(&|c| ranges.iter().any(|&(first, last)| (first..=last).contains(&c)) != *not)
            }
            Self::Many => {
                let first = places.iter().position(|&begins| begins).unwrap_or(places.len());
                places[first..].fill(true);
                places
            }
            Self::Directories => {
                let first = places.iter().position(|&begins| begins).unwrap_or(places.len());
                for at in first + 1..places.len() {
                    places[at] |= name[at - 1] == '/';
                }
                places
            }
            Self::OneOf(ways) => {
                let mut ends = vec![false; places.len()];
                for way in ways {
                    ends.iter_mut().zip(go(way, name, places.clone())).for_each(|(end, more)| *end |= more);
                }
                ends
            }
        }
    }
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let mut rest = text.chars().peekable();
        let parts = sequence(&mut rest, 0)?;
        match rest.next() {
            // Directories and nothing in them are everything.
            None if !parts.is_empty() && parts.iter().all(|part| *part == Part::Directories) => {
                Ok(Self { text: text.to_owned(), parts: vec![Part::Many] })
            }
            None => Ok(Self { text: text.to_owned(), parts }),
            Some(_) => Err(GlobError::UnopenedGroup),
        }
    }
}

/// Reads to the end, or to what ends an alternative: `,` in a group, or `}`.
fn sequence(rest: &mut Peekable<Chars<'_>>, nesting: usize) -> Result<Vec<Part>, GlobError> {
    let mut parts = Vec::new();
    while let Some(&c) = rest.peek() {
        if c == '}' || c == ',' && nesting > 0 {
            break;
        }
        rest.next();
        parts.push(match c {
            '?' => Part::Any,
            '*' if matches!(parts.last(), None | Some(Part::One('/') | Part::Directories))
                && rest.clone().take(2).eq(['*', '/']) =>
            {
                rest.nth(1);
                Part::Directories
            }
            '*' => Part::Many,
            '[' => class(rest)?,
            '{' => group(rest, nesting + 1)?,
            '\\' => Part::One(rest.next().ok_or(GlobError::DanglingEscape)?),
            c => Part::One(c),
        });
    }
    Ok(parts)
}

fn group(rest: &mut Peekable<Chars<'_>>, nesting: usize) -> Result<Part, GlobError> {
    if nesting > NESTING_MAX {
        return Err(GlobError::Nesting);
    }
    let mut ways = Vec::new();
    loop {
        ways.push(sequence(rest, nesting)?);
        match rest.next() {
            Some(',') => {}
            Some(_) => break,
            None => return Err(GlobError::UnclosedGroup),
        }
    }
    // Nothing between two commas is no alternative, unless there is no other.
    if ways.iter().any(|way| !way.is_empty()) {
        ways.retain(|way| !way.is_empty());
    }
    Ok(Part::OneOf(ways))
}

/// What stands behind a `[`. A `]` that comes first is one of the characters, and so is a `-` at either end.
fn class(rest: &mut Peekable<Chars<'_>>) -> Result<Part, GlobError> {
    let not = rest.next_if(|&c| c == '!' || c == '^').is_some();
    let mut ranges: Vec<(char, char)> = Vec::new();
    // Whether what comes is the end of the last range.
    let mut open = false;
    loop {
        let c = rest.next().ok_or(GlobError::UnclosedClass)?;
        match ranges.last_mut() {
            Some(_) if c == ']' => break,
            Some(_) if c == '-' && !open => {
                open = true;
                continue;
            }
            Some((first, _)) if open && *first > c => return Err(GlobError::InvalidRange(*first, c)),
            Some((_, last)) if open => *last = c,
            _ => ranges.push((c, c)),
        }
        open = false;
    }
    if open {
        ranges.push(('-', '-'));
    }
    Ok(Part::Class { not, ranges })
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glob({:?})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matches_and_what_does_not() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("", &[""], &["a"]),
            ("meter-?", &["meter-1", "meter-ö"], &["meter-", "meter-12"]),
            ("*", &["", "a", "a/b"], &[]),
            ("a*c*", &["ac", "abcb", "aacca/"], &["a", "bac"]),
            ("[a-c0]x", &["ax", "cx", "0x"], &["dx", "x", "-x"]),
            ("[!a-c]", &["d", "é"], &["a", "c", ""]),
            ("[é-ü]", &["ö"], &["a"]),
            ("[]a]", &["]", "a"], &["b"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[a-c-e]", &["a", "d"], &["-", "f"]),
            ("{pump,valve-?}s", &["pumps", "valve-1s"], &["pump", "valves"]),
            ("{a,{b,c}d}", &["a", "bd", "cd"], &["b", "ad"]),
            ("{a,}b", &["ab"], &["b"]),
            ("a,b", &["a,b"], &["a"]),
            ("\\*", &["*"], &["a", "\\*"]),
            ("**/a", &["a", "x/a", "x/y/a", "/a"], &["xa"]),
            ("x/**/a", &["x/a", "x/y/a", "x/y/z/a"], &["x/ya", "xa"]),
            ("x/**", &["x/", "x/a", "x/a/b"], &["x"]),
            ("a**/b", &["a/b", "axy/b", "ax/y/b"], &["ab"]),
        ];
        for (text, same, other) in cases {
            let glob: Glob = text.parse().unwrap();
            same.iter().for_each(|name| assert!(glob.is_match(name), "{text} {name}"));
            other.iter().for_each(|name| assert!(!glob.is_match(name), "{text} {name}"));
        }
        assert!(Glob::literal("[*").is_match("[*") && !Glob::literal("[*").is_match("[a"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("a[", GlobError::UnclosedClass),
            ("[]", GlobError::UnclosedClass),
            ("[a-", GlobError::UnclosedClass),
            ("[z-a]", GlobError::InvalidRange('z', 'a')),
            ("a}", GlobError::UnopenedGroup),
            ("{a}}", GlobError::UnopenedGroup),
            ("b{c", GlobError::UnclosedGroup),
            ("{a,{b}", GlobError::UnclosedGroup),
            ("a\\", GlobError::DanglingEscape),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Glob>(), Err(error), "{text}");
        }
        assert_eq!("{".repeat(100_000).parse::<Glob>(), Err(GlobError::Nesting));
    }

    /// Twenty thousand pairs of a pattern and a name, of the few characters that mean something to one of them.
    #[test]
    fn it_agrees_with_globset() {
        let mut random = fastrand::Rng::with_seed(20_261_125);
        let (mut both, mut matches, mut refused) = (0, 0, 0);
        for _ in 0..20_000 {
            let mut text = |letters: &[&str], parts_max| -> String {
                (0..random.usize(0..=parts_max)).map(|_| letters[random.usize(0..letters.len())]).collect()
            };
            let name = text(&["a", "b", "c", "/", "-", "]", "*", "\\"], 6);
            let glob = text(
                &["a", "b", "?", "*", "**", "/", "[", "]", "!", "-", "{", "}", ",", "[ab]", "{a,b", "[!a-b]", "\\"],
                7,
            );
            let (ours, theirs) = (glob.parse::<Glob>(), globset::Glob::new(&glob));
            match (ours, theirs) {
                (Ok(ours), Ok(theirs)) => {
                    both += 1;
                    let expected = theirs.compile_matcher().is_match(&name);
                    matches += usize::from(expected);
                    assert_eq!(ours.is_match(&name), expected, "{glob:?} {name:?}");
                }
                (Err(_), Err(_)) => refused += 1,
                (ours, theirs) => panic!("{glob:?}: {ours:?}, {theirs:?}"),
            }
        }
        // Otherwise it says little.
        assert!(both > 5_000 && matches > 500 && refused > 2_000, "{both} {matches} {refused}");
    }
}
