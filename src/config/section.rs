//! Reads one table of the file, key by key: what is asked for is what may stand there.
//!
//! Invariants: a problem is noted and reading goes on, so that one run finds all; a key that nobody asked for is an
//! error when the section is [finished](Section::finish); no value is read without its environment variables replaced.
//! There is no second description of the file beside the code that asks, hence none that can be out of date.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::errors::{Problem, Show, did_you_mean, is_secret_key, place};
use super::secret::Origin;
use super::units::{clip, format_duration, format_size, parse_duration, parse_size, substitute};

/// What all sections share.
pub(super) struct Context<'a> {
    /// The file's text, for places.
    pub(super) text: &'a str,
    /// Where relative paths begin.
    pub(super) base: &'a Path,
    /// Environment variables.
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// What is wrong so far.
    pub(super) problems: RefCell<Vec<Problem>>,
    /// Every key that was asked for, with `*` for a name of the user's.
    pub(super) asked: RefCell<BTreeSet<String>>,
    /// Where each secret came from, by key path.
    pub(super) origins: RefCell<BTreeMap<String, Origin>>,
}

impl Context<'_> {
    /// Notes a problem; the section or field at hand knows its place.
    pub(super) fn note(&self, span: Option<(Range<usize>, Show)>, key: &str, message: String, help: Option<String>) {
        let place = span.map(|(span, show)| place(self.text, span.start, span.end, show));
        self.problems.borrow_mut().push(Problem { place, key: key.to_owned(), message, help });
    }
}

/// One table of the file, or its absence: asking an absent one gives nothing and is no problem.
pub(super) struct Section<'a> {
    pub(super) cx: &'a Context<'a>,
    /// The path of this table.
    pub(super) path: String,
    /// The same with `*` for names.
    pattern: String,
    table: Option<&'a DeTable<'a>>,
    /// The key that opens it.
    span: Option<Range<usize>>,
    keys: RefCell<Vec<&'static str>>,
    finished: Cell<bool>,
}

/// The value of one key.
pub(super) struct Field<'a> {
    cx: &'a Context<'a>,
    pub(super) path: String,
    pattern: String,
    key_span: Range<usize>,
    span: Range<usize>,
    value: &'a DeValue<'a>,
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(cx: &'a Context<'a>, table: &'a DeTable<'a>) -> Self {
        Self::new(cx, String::new(), String::new(), Some(table), None)
    }

    fn new(
        cx: &'a Context<'a>,
        path: String,
        pattern: String,
        table: Option<&'a DeTable<'a>>,
        span: Option<Range<usize>>,
    ) -> Self {
        Self { cx, path, pattern, table, span, keys: RefCell::default(), finished: Cell::new(false) }
    }

    /// Whether the file has it.
    pub(super) fn exists(&self) -> bool {
        self.table.is_some()
    }

    /// Whether it has no keys.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_none_or(|table| table.is_empty())
    }

    /// A problem with this table itself.
    pub(super) fn problem_here(&self, message: String) {
        self.cx.note(self.span.clone().map(|span| (span, Show::Line)), &self.path, message, None);
    }

    /// The value of `key`, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<Field<'a>> {
        self.keys.borrow_mut().push(key);
        let pattern = join(&self.pattern, key);
        self.cx.asked.borrow_mut().insert(pattern.clone());
        let (name, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Field {
            cx: self.cx,
            path: join(&self.path, key),
            pattern,
            key_span: name.span(),
            span: value.span(),
            value: value.get_ref(),
        })
    }

    /// The value of `key`, whose absence is a problem.
    pub(super) fn require(&self, key: &'static str, expected: &str) -> Option<Field<'a>> {
        let field = self.get(key);
        if field.is_none() {
            self.problem_at(key, format!("missing: expected {expected}"), None);
        }
        field
    }

    /// The table below `key`.
    pub(super) fn section(&self, key: &'static str) -> Self {
        match self.get(key) {
            Some(field) => field.section(),
            None => Self::new(self.cx, join(&self.path, key), join(&self.pattern, key), None, None),
        }
    }

    /// The tables below this one, by names of the user's choice.
    pub(super) fn named(&self) -> Vec<(String, Self)> {
        self.finished.set(true);
        let mut sections = Vec::new();
        for (name, field) in self.entries() {
            if let Err(expected) = super::values::name(&name) {
                let message = format!("expected {expected} as a name, found `{}`", clip(&name));
                self.cx.note(Some((field.key_span.clone(), Show::Key)), &self.path, message, None);
            } else if field.value.is_table() {
                sections.push((name, field.section()));
            } else {
                let message = format!("expected a table [{}.NAME], found {}", self.path, field.found());
                let help =
                    Some(format!("`{}` is a name of your choice here; its keys go below `[{}]`", name, field.path));
                self.cx.note(Some((field.key_span.clone(), Show::Key)), &field.path, message, help);
            }
        }
        sections
    }

    /// All keys and values of a table whose keys are of the user's choice.
    pub(super) fn entries(&self) -> Vec<(String, Field<'a>)> {
        self.finished.set(true);
        let entry = |(name, value): (&'a toml::Spanned<Cow<'a, str>>, &'a toml::Spanned<DeValue<'a>>)| {
            let field = Field {
                cx: self.cx,
                path: join(&self.path, &clip(name.get_ref())),
                pattern: join(&self.pattern, "*"),
                key_span: name.span(),
                span: value.span(),
                value: value.get_ref(),
            };
            (name.get_ref().to_string(), field)
        };
        self.table.into_iter().flatten().map(entry).collect()
    }

    /// Whether the file has this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.keys().any(|name| name.get_ref() == key))
    }

    /// A problem with the value of `key`, or with its absence.
    pub(super) fn problem_with(&self, key: &'static str, message: String) {
        match self.get(key) {
            Some(field) => field.unexpected_after(message),
            None => self.problem_at(key, message, None),
        }
    }

    /// A problem with `key` of this table, at the table's head.
    pub(super) fn problem_at(&self, key: &str, message: String, help: Option<String>) {
        let span = self.span.clone().map(|span| (span, Show::Key));
        self.cx.note(span, &join(&self.path, key), message, help);
    }

    /// Ends the reading of this table: what was not asked for is unknown.
    pub(super) fn finish(&self) {
        if self.finished.replace(true) {
            return;
        }
        let keys = self.keys.borrow();
        for (name, _) in self.table.into_iter().flatten() {
            if keys.iter().any(|key| key == name.get_ref()) {
                continue;
            }
            let help = did_you_mean(name.get_ref(), keys.iter().copied())
                .unwrap_or_else(|| format!("expected one of: {}", keys.join(", ")));
            let path = join(&self.path, &clip(name.get_ref()));
            self.cx.note(Some((name.span(), Show::Key)), &path, "unknown key".to_owned(), Some(help));
        }
    }

    /// Text that `check` accepts; it says what was expected.
    pub(super) fn checked<T>(&self, key: &'static str, check: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.get(key)?.checked(check)
    }

    /// A duration within bounds.
    pub(super) fn duration(&self, key: &'static str, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        self.get(key)?.duration(bounds)
    }

    /// A number of bytes within bounds.
    pub(super) fn size(&self, key: &'static str, bounds: RangeInclusive<u64>) -> Option<u64> {
        self.get(key)?.size(bounds)
    }

    /// A number of bytes that fits in memory, within bounds.
    pub(super) fn size_in_memory(&self, key: &'static str, bounds: RangeInclusive<u64>) -> Option<usize> {
        // The bounds of what is held in memory are below 4 GiB, so it fits in a usize of 32 bits too.
        self.size(key, bounds).and_then(|bytes| usize::try_from(bytes).ok())
    }

    /// A whole number within bounds.
    pub(super) fn integer<T>(&self, key: &'static str, bounds: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        self.get(key)?.integer(bounds)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &'static str) -> Option<bool> {
        self.get(key)?.boolean()
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        self.get(key)?.choice(choices)
    }

    /// A path, relative to the configuration file.
    pub(super) fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.get(key)?.path()
    }
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
    fn unexpected(&self, expected: &str, help: Option<String>) {
        self.problem(format!("expected {expected}, found {}", self.found()), help);
    }

    fn unexpected_after(&self, message: String) {
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
    fn duration(&self, bounds: RangeInclusive<Duration>) -> Option<Duration> {
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
    fn size(&self, bounds: RangeInclusive<u64>) -> Option<u64> {
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

    /// A whole number within bounds; a string counts if a variable gave it.
    fn integer<T>(&self, bounds: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let number = match self.value {
            DeValue::String(_) => match self.substituted()? {
                (text, true) => text.trim().parse().ok(),
                (_, false) => None,
            },
            _ => self.whole_number(),
        };
        match number.and_then(|number| T::try_from(number).ok()) {
            Some(value) if bounds.contains(&value) => Some(value),
            _ => {
                let help = (self.value.is_str() && number.is_none()).then(|| "write it without quotes".to_owned());
                self.unexpected(&format!("a whole number from {} to {}", bounds.start(), bounds.end()), help);
                None
            }
        }
    }

    /// `true` or `false`; a string counts if a variable gave it.
    pub(super) fn boolean(&self) -> Option<bool> {
        let value = match self.value {
            DeValue::Boolean(value) => Some(*value),
            DeValue::String(_) => match self.substituted()? {
                (text, true) => text.trim().parse().ok(),
                (_, false) => None,
            },
            _ => None,
        };
        if value.is_none() {
            self.unexpected("true or false", self.value.is_str().then(|| "write it without quotes".to_owned()));
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
