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

use super::Purpose;
use super::errors::{Problem, Show, did_you_mean, place};
use super::field::Field;
use super::secret::Origin;
use super::units::clip;

/// What all sections share.
pub(super) struct Context<'a> {
    /// The file's text, for places.
    pub(super) text: &'a str,
    /// Where relative paths begin.
    pub(super) base: &'a Path,
    /// Environment variables.
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// What the file is wanted for.
    pub(super) purpose: Purpose,
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

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(cx: &'a Context<'a>, table: &'a DeTable<'a>) -> Self {
        Self::new(cx, String::new(), String::new(), Some(table), None)
    }

    pub(super) fn new(
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

    /// The line that it begins on.
    pub(super) fn line(&self) -> usize {
        self.span.as_ref().map_or(1, |span| place(self.cx.text, span.start, span.end, Show::Nothing).line)
    }

    /// A problem with this table itself.
    pub(super) fn problem_here(&self, message: String) {
        self.problem_own(message, None);
    }

    /// The same, with help.
    pub(super) fn problem_own(&self, message: String, help: Option<String>) {
        self.cx.note(self.span.clone().map(|span| (span, Show::Line)), &self.path, message, help);
    }

    /// The value of `key`, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<Field<'a>> {
        let mut keys = self.keys.borrow_mut();
        if !keys.contains(&key) {
            keys.push(key);
        }
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

    /// The tables of an array of tables, each `[[key]]` in the file.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Self> {
        let Some(field) = self.get(key) else { return Vec::new() };
        let head = format!("[[{}]]", join(&self.path, key));
        let expected = format!("tables, each headed {head}");
        if field.is_table() {
            field.unexpected(&expected, Some(format!("write its head in double brackets: {head}")));
            return Vec::new();
        }
        field.array(&expected).into_iter().flatten().map(|item| item.section()).collect()
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

    /// A problem with `key` being there at all.
    pub(super) fn problem_key(&self, key: &'static str, message: String, help: Option<String>) {
        if let Some(field) = self.get(key) {
            self.cx.note(Some((field.key_span, Show::Line)), &field.path, message, help);
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
        let mut expected = keys.clone();
        expected.sort_unstable();
        for (name, _) in self.table.into_iter().flatten() {
            if keys.iter().any(|key| key == name.get_ref()) {
                continue;
            }
            let help = did_you_mean(name.get_ref(), keys.iter().copied())
                .unwrap_or_else(|| format!("expected one of: {}", expected.join(", ")));
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
