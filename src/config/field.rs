//! One value of the file, as the type that it should have.
//!
//! Invariants: every getter answers with a value that is within its bounds, or notes one problem that says what was
//! expected and what was found, and answers with nothing. What may be a secret is not named in it.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::Purpose;
use super::errors::{Show, did_you_mean, is_secret_key};
use super::section::{Context, Section};
use super::units::{clip, format_duration, format_size, parse_duration, parse_size, substitute};

/// The value of one key.
pub(super) struct Field<'a> {
    pub(super) cx: &'a Context<'a>,
    /// The key's path, for messages.
    pub(super) path: String,
    /// The same with `*` for names.
    pub(super) pattern: String,
    /// Where the key stands.
    pub(super) key_span: Range<usize>,
    /// Where the value stands.
    pub(super) span: Range<usize>,
    pub(super) value: &'a DeValue<'a>,
}

impl<'a> Field<'a> {
    /// Notes a problem with the value.
    pub(super) fn problem(&self, message: String, help: Option<String>) {
        self.cx.note(Some((self.span.clone(), self.show())), &self.path, message, help);
    }

    fn show(&self) -> Show {
        if is_secret_key(&self.path) { Show::Nothing } else { Show::Line }
    }

    /// Notes that the value is not what it should be.
    pub(super) fn unexpected(&self, expected: &str, help: Option<String>) {
        self.problem(format!("expected {expected}, found {}", self.found()), help);
    }

    /// Notes a problem whose message, if it says what was expected, is yet to say what was found.
    pub(super) fn unexpected_after(&self, message: String) {
        if message.starts_with("expected ") {
            self.problem(format!("{message}, found {}", self.found()), None);
        } else {
            self.problem(message, None);
        }
    }

    /// The value in words, unless it may be a secret.
    pub(super) fn found(&self) -> String {
        let secret = is_secret_key(&self.path);
        match self.value {
            DeValue::String(text) if !secret && !text.contains('@') => format!("\"{}\"", clip(text)),
            DeValue::String(_) => "a string".to_owned(),
            DeValue::Integer(number) if !secret => format!("the number {}", clip(number.as_str())),
            DeValue::Float(number) if !secret => format!("the number {}", clip(number.as_str())),
            DeValue::Integer(_) | DeValue::Float(_) => "a number".to_owned(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(_) => "an array".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        }
    }

    /// The value as a table, whatever else it is being a problem.
    pub(super) fn section(&self) -> Section<'a> {
        let table = self.value.as_table();
        if table.is_none() {
            self.unexpected("a table", None);
        }
        Section::new(self.cx, self.path.clone(), self.pattern.clone(), table, Some(self.key_span.clone()))
    }

    /// Whether the value is a table.
    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// Whether the value is text.
    pub(super) fn is_text(&self) -> bool {
        self.value.is_str()
    }

    /// Whether the value is `true` or `false`.
    pub(super) fn is_boolean(&self) -> bool {
        self.value.is_bool()
    }

    /// Whether the value is an array.
    pub(super) fn is_array(&self) -> bool {
        self.value.is_array()
    }

    /// Whether the value is `true`.
    pub(super) fn is_true(&self) -> bool {
        self.value.as_bool() == Some(true)
    }

    /// The values of an array.
    pub(super) fn array(&self, expected: &str) -> Option<Vec<Self>> {
        let Some(array) = self.value.as_array() else {
            let help = self.value.is_str().then(|| format!("write it in brackets: [{}]", self.found()));
            self.unexpected(expected, help);
            return None;
        };
        let field = |(index, value): (usize, &'a toml::Spanned<DeValue<'a>>)| Self {
            cx: self.cx,
            path: format!("{}[{index}]", self.path),
            pattern: self.pattern.clone(),
            key_span: value.span(),
            span: value.span(),
            value: value.get_ref(),
        };
        Some(array.iter().enumerate().map(field).collect())
    }

    /// The text with its variables replaced, and whether there were any.
    fn substituted(&self) -> Option<(String, bool)> {
        match substitute(self.value.as_str()?, self.cx.env) {
            Ok(text) => Some(text),
            Err(message) => {
                self.problem(message, None);
                None
            }
        }
    }

    /// Text that `check` accepts; it says what was expected.
    pub(super) fn checked<T>(&self, check: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        if !self.value.is_str() {
            let help = matches!(self.value, DeValue::Integer(_)).then(|| "write it in quotes".to_owned());
            self.unexpected("a string", help);
            return None;
        }
        let (text, substituted) = self.substituted()?;
        match check(&text) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.wrong_text(&expected, &text, substituted, None);
                None
            }
        }
    }

    /// Notes that text is not what was expected; what a variable gave is shown too, unless it may be a secret.
    fn wrong_text(&self, expected: &str, text: &str, substituted: bool, help: Option<String>) {
        if substituted && !is_secret_key(&self.path) && !text.contains('@') {
            self.problem(format!("expected {expected}, found {}, which is \"{}\"", self.found(), clip(text)), help);
        } else {
            self.unexpected(expected, help);
        }
    }

    /// A duration within bounds.
    pub(super) fn duration(&self, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        const EXPECTED: &str = "a duration such as \"20ms\", \"30s\" or \"1h30m\"";
        if !self.value.is_str() {
            let help = matches!(self.value, DeValue::Integer(_)).then(|| "write it in quotes, with a unit".to_owned());
            self.unexpected(EXPECTED, help);
            return None;
        }
        let duration = self.checked(|text| parse_duration(text).ok_or_else(|| EXPECTED.to_owned()))?;
        self.bounded(duration, &bounds, |bound| format_duration(*bound))
    }

    /// A number of bytes within bounds.
    pub(super) fn size(&self, bounds: RangeInclusive<u64>) -> Option<u64> {
        const EXPECTED: &str = "a size such as \"512KiB\" or \"2GiB\"";
        let size = match self.value {
            DeValue::Integer(_) => self.whole_number().and_then(|number| u64::try_from(number).ok()),
            DeValue::String(_) => {
                let (text, substituted) = self.substituted()?;
                let size = parse_size(&text);
                if size.is_none() {
                    let help =
                        parse_size(&format!("{}iB", text.to_uppercase().trim_end_matches('B').trim_end_matches('I')))
                            .map(|meant| format!("did you mean \"{}\"?", format_size(meant)));
                    self.wrong_text(EXPECTED, &text, substituted, help);
                    return None;
                }
                size
            }
            _ => None,
        };
        let Some(size) = size else {
            self.unexpected(EXPECTED, None);
            return None;
        };
        self.bounded(size, &bounds, |bound| format_size(*bound))
    }

    fn bounded<T: PartialOrd>(&self, value: T, bounds: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> Option<T> {
        if bounds.contains(&value) {
            return Some(value);
        }
        let expected = format!("{} to {}", show(bounds.start()), show(bounds.end()));
        self.problem(format!("expected {expected}, found {}", self.found()), None);
        None
    }

    fn whole_number(&self) -> Option<i64> {
        let number = self.value.as_integer()?;
        i64::from_str_radix(number.as_str(), number.radix()).ok()
    }

    /// Whether a variable gives the value, or was meant to.
    fn has_variable(&self) -> bool {
        let substituted = self.value.as_str().map(|text| substitute(text, self.cx.env));
        matches!(substituted, Some(Ok((_, true)) | Err(_)))
    }

    /// A whole number within bounds; a string counts if a variable gave it.
    pub(super) fn integer<T>(&self, bounds: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let expected = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        let within = |number: i64| T::try_from(number).ok().filter(|value| bounds.contains(value));
        if self.has_variable() {
            return self.checked(|text| text.trim().parse().ok().and_then(within).ok_or(expected));
        }
        let value = self.whole_number().and_then(within);
        if value.is_none() {
            self.unexpected(&expected, self.value.is_str().then(|| "write it without quotes".to_owned()));
        }
        value
    }

    /// A finite number within bounds; a string counts if a variable gave it.
    pub(super) fn number(&self, bounds: RangeInclusive<f64>, expected: &str) -> Option<f64> {
        // The bounds are finite, so neither infinity nor NaN is within.
        let within = |number: f64| Some(number).filter(|number| bounds.contains(number));
        if self.has_variable() {
            return self.checked(|text| text.trim().parse().ok().and_then(within).ok_or(expected.to_owned()));
        }
        let number = match self.value {
            DeValue::Integer(_) => self.whole_number().map(|number| number as f64),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => None,
        };
        let number = number.and_then(within);
        if number.is_none() {
            self.unexpected(expected, self.value.is_str().then(|| "write it without quotes".to_owned()));
        }
        number
    }

    /// `true` or `false`; a string counts if a variable gave it.
    pub(super) fn boolean(&self) -> Option<bool> {
        const EXPECTED: &str = "true or false";
        if self.has_variable() {
            return self.checked(|text| text.trim().parse().map_err(|_| EXPECTED.to_owned()));
        }
        let value = self.value.as_bool();
        if value.is_none() {
            self.unexpected(EXPECTED, self.value.is_str().then(|| "write it without quotes".to_owned()));
        }
        value
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let expected = words.join(" or ");
        if !self.value.is_str() {
            let number = self.value.as_integer().map(|number| number.as_str());
            let meant = choices.iter().find(|(word, _)| Some(*word) == number);
            self.unexpected(&expected, meant.map(|(word, _)| format!("write it in quotes: \"{word}\"")));
            return None;
        }
        let (text, substituted) = self.substituted()?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let help = did_you_mean(&text, choices.iter().map(|(word, _)| *word));
            self.wrong_text(&expected, &text, substituted, help);
        }
        found
    }

    /// A path, relative to the configuration file.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let text = self.checked(|text| {
            if text.is_empty() || text.contains('\0') { Err("a path".to_owned()) } else { Ok(text.to_owned()) }
        })?;
        Some(self.cx.base.join(text))
    }

    /// A path of a file that must be there and readable.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let path = self.path()?;
        if matches!(self.cx.purpose, Purpose::Replay | Purpose::Outbox) {
            return Some(path);
        }
        // Opening a FIFO would wait for its writer, so what it is comes first.
        let opened = std::fs::metadata(&path).and_then(|about| {
            if about.is_file() {
                std::fs::File::open(&path).map(drop)
            } else {
                Err(std::io::Error::other("not a file"))
            }
        });
        if let Err(error) = opened {
            self.problem(format!("expected a readable file: {}: {error}", clip_path(&path)), None);
            return None;
        }
        Some(path)
    }
}

/// A path in a message.
pub(super) fn clip_path(path: &Path) -> String {
    path.to_string_lossy().chars().take(200).flat_map(char::escape_debug).collect()
}
