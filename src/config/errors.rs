//! What is wrong with a configuration, said so that a person can put it right: file, line, column, key, what was
//! expected, what was found, and the line itself.
//!
//! Invariants: all problems that can be found are found in one go; what may be a secret is never shown, because these
//! texts end up in logs and bug reports. A line is therefore cut off where a password, a token or the user part of a
//! URL begins, whether or not the file could be understood.

use std::fmt;

/// The most problems that are shown; the rest is counted.
const SHOWN_MAX: usize = 25;
/// The longest part of a source line that is shown, in characters.
const EXCERPT_CHARS_MAX: usize = 110;
/// A key of 32 bytes takes this many characters in base64 and more in hexadecimal digits.
const KEY_CHARS_MIN: usize = 43;

/// A place in the configuration file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Characters of what stands there, as far as they are on that line.
    pub(super) width: usize,
    /// The line itself, without what may be a secret; empty if it is not to be shown.
    pub(super) excerpt: String,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, if it has a place.
    pub place: Option<Place>,
    /// The key's path, such as `mqtt.home.url`; empty for the file itself.
    pub key: String,
    /// What is wrong: what was expected and what was found.
    pub message: String,
    /// What to do about it, where more can be said.
    pub help: Option<String>,
}

/// All that is wrong with one configuration; never empty.
#[derive(Clone, Debug)]
pub struct Errors {
    file: String,
    problems: Vec<Problem>,
}

impl Errors {
    /// Gathers the problems of `file`, in the order of their places, those without one first.
    #[must_use]
    pub fn new(file: impl Into<String>, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.place.as_ref().map(|place| (place.line, place.column)));
        problems.dedup();
        Self { file: file.into(), problems }
    }

    /// The problems, in the order of their places.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl std::error::Error for Errors {}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().take(SHOWN_MAX).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.file)?;
            if let Some(place) = &problem.place {
                write!(f, ":{}:{}", place.line, place.column)?;
            }
            f.write_str(": ")?;
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            f.write_str(&problem.message)?;
            match (&problem.place, &problem.help) {
                (Some(place), help) if !place.excerpt.is_empty() => write_excerpt(f, place, help.as_deref())?,
                (_, Some(help)) => write!(f, "\n  {help}")?,
                (_, None) => {}
            }
        }
        match self.problems.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// The line, and below it what is meant and the help.
fn write_excerpt(f: &mut fmt::Formatter<'_>, place: &Place, help: Option<&str>) -> fmt::Result {
    let chars: Vec<char> = place.excerpt.chars().collect();
    let column = (place.column - 1).min(chars.len().saturating_sub(1));
    let first = if chars.len() > EXCERPT_CHARS_MAX { column.saturating_sub(EXCERPT_CHARS_MAX / 2) } else { 0 };
    let shown: String = chars.iter().skip(first).take(EXCERPT_CHARS_MAX).collect();
    let shown = shown.trim_end();
    let width = place.width.min(shown.chars().count().saturating_sub(column - first)).max(1);
    let number = place.line.to_string();
    let indent = " ".repeat(number.len());
    write!(f, "\n  {number} | {shown}\n  {indent} | {}{}", " ".repeat(column - first), "^".repeat(width))?;
    match help {
        Some(help) => write!(f, " {help}"),
        None => Ok(()),
    }
}

/// How much of a source line may be shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// All that is not a secret by its key.
    Line,
    /// Nothing behind the key, whose place it is: its value may be anything.
    Key,
    /// Nothing of the value, whose place it is.
    Nothing,
}

/// The place of a byte range of `text`.
pub(super) fn place(text: &str, start: usize, end: usize, show: Show) -> Place {
    let start = floor_char_boundary(text, start);
    let end = floor_char_boundary(text, end).max(start);
    let before = &text[..start];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line_text = text[line_start..].split('\n').next().unwrap_or_default().trim_end_matches('\r');
    let line_end = line_start + line_text.len();
    let hidden = match show {
        Show::Line => secret_start(line_text),
        // The key itself holds no secret, but what stands before it on the line may.
        Show::Key => {
            Some(secret_start(line_text).unwrap_or(usize::MAX).min(end.clamp(line_start, line_end) - line_start))
        }
        Show::Nothing => Some(secret_start(line_text).unwrap_or(usize::MAX).min(start.min(line_end) - line_start)),
    };
    let mut excerpt: String = match hidden {
        Some(0) => String::new(),
        Some(at) => format!("{} …", line_text[..at].trim_end()),
        None => line_text.to_owned(),
    };
    // A table's head goes on after its key, but with nothing that could be a secret.
    if show == Show::Key && hidden.is_some_and(|at| matches!(line_text[at..].trim_end(), "" | "]")) {
        line_text.clone_into(&mut excerpt);
    }
    let excerpt = excerpt.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Place {
        line: before.matches('\n').count() + 1,
        column: text[line_start..start].chars().count() + 1,
        width: text[start..end.min(line_end).max(start)].chars().count().max(1),
        excerpt,
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Whether a key by this name may hold a secret, misspelt or not.
pub(super) fn is_secret_key(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "secret", "token", "pwd", "credential", "encryption"].iter().any(|part| name.contains(part))
        || name.rsplit('.').any(|part| strsim::normalized_damerau_levenshtein(part, "password") > 0.5)
}

/// From where on a line of the file may hold a secret. It works on text, because a file that is not TOML is shown too.
pub(super) fn secret_start(line: &str) -> Option<usize> {
    // Inside a string of several lines nothing says whose value this is.
    if line.contains("\"\"\"") || line.contains("'''") {
        return Some(0);
    }
    // So long a run of such characters may be a key, whatever is written in front of it.
    let of_key = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let longest = line.split(|c| !of_key(c)).max_by_key(|run| run.len()).unwrap_or_default();
    if longest.len() >= KEY_CHARS_MIN {
        return line.find(longest);
    }
    let mut word = String::new();
    let mut word_ended = false;
    for (at, c) in line.char_indices() {
        match c {
            '=' if is_secret_key(&word) => return Some(at + 1),
            c if c.is_whitespace() => word_ended = true,
            c if c.is_alphanumeric() || "_-.\"'".contains(c) => {
                if word_ended {
                    word.clear();
                }
                word_ended = false;
                if !"\"'".contains(c) {
                    word.push(c);
                }
            }
            _ => word.clear(),
        }
    }
    // What stands before an `@` may be a user with a password, as in a URL.
    let address = line.find('@')?;
    Some(line[..address].rfind(['"', '\'']).or_else(|| line[..address].find('=')).map_or(0, |at| at + 1))
}

/// The candidate that `word` was probably meant to be.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Words longer than any key or name are not misspellings, and distance costs their product.
    if word.len() > 128 {
        return None;
    }
    let folded = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&folded, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The same, as help.
pub(super) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, candidates).map(|found| format!("did you mean `{found}`?"))
}
