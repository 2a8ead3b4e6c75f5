//! Paths into a payload, and the measurement names that are made from what they capture.
//!
//! A path is a list of segments with dots between them: `ENERGY.Power`. A segment is a key, a key in double quotes
//! (`"PM2.5"`), `*` (any key or list position), a key with one `*` in it (`POWER*`), `(a|b)` (one of these, also in a key:
//! `temp(1|2)f`), or `**` (one or more levels). All but plain keys capture what they matched, for `{1}`, `{2}` … in a name.
//!
//! Matching is slow and simple on purpose: a decoder does it once for each path that a device uses, and remembers.

use std::fmt::Write as _;

/// One level of a path, or several for `**`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Key(Box<str>),
    Any,
    Glob {
        before: Box<str>,
        after: Box<str>,
    },
    /// What the key begins with, one of these, what it ends with.
    OneOf(Box<str>, Vec<Box<str>>, Box<str>),
    Deep,
}

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    segments: Vec<Segment>,
}

/// Why a path or a name does not parse, for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(pub String);

fn error<T>(text: String) -> Result<T, PatternError> {
    Err(PatternError(text))
}

impl Path {
    /// Parses a path.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let mut segments = Vec::new();
        let mut rest = text;
        loop {
            let (segment, after) = Self::segment(rest, text)?;
            segments.push(segment);
            match after.strip_prefix('.') {
                Some(next) => rest = next,
                None if after.is_empty() => break,
                None => return error(format!("path `{text}`: expected `.` or the end before `{after}`")),
            }
        }
        if segments.iter().filter(|segment| **segment == Segment::Deep).count() > 1 {
            return error(format!("path `{text}`: `**` may stand in it once"));
        }
        Ok(Self { segments })
    }

    fn segment<'a>(rest: &'a str, text: &str) -> Result<(Segment, &'a str), PatternError> {
        if let Some(quoted) = rest.strip_prefix('"') {
            return match quoted.split_once('"') {
                Some((key, after)) => Ok((Segment::Key(key.into()), after)),
                None => error(format!("path `{text}`: a quoted key has no closing `\"`")),
            };
        }
        let one_of = |before: &str, keys: &str, after: &str| {
            Segment::OneOf(before.into(), keys.split('|').map(Into::into).collect(), after.into())
        };
        match rest.split_once('(').filter(|(before, _)| !before.contains('.')) {
            None => {}
            Some((before, choice)) => match choice.split_once(')') {
                // A key may have parentheses that say nothing.
                Some((keys, left)) if before.is_empty() || keys.contains('|') => {
                    let (after, _) = left.split_once('.').unwrap_or((left, ""));
                    return Ok((one_of(before, keys, after), &left[after.len()..]));
                }
                None if before.is_empty() => return error(format!("path `{text}`: a choice has no closing `)`")),
                _ => {}
            },
        }
        let (word, _) = rest.split_once('.').unwrap_or((rest, ""));
        let segment = match word {
            "" => return error(format!("path `{text}`: a key is empty; write `\"\"` for an empty key")),
            "*" => Segment::Any,
            "**" => Segment::Deep,
            _ => match word.split_once('*') {
                None => Segment::Key(word.into()),
                Some((_, after)) if after.contains('*') => {
                    return error(format!("path `{text}`: a key may hold one `*`"));
                }
                Some((before, after)) => Segment::Glob { before: before.into(), after: after.into() },
            },
        };
        Ok((segment, &rest[word.len()..]))
    }

    /// The same path with one level more, of which any key will do: the elements of a list.
    #[must_use]
    pub fn with_element(&self) -> Self {
        let mut segments = self.segments.clone();
        segments.push(Segment::Any);
        Self { segments }
    }

    /// Whether it names keys that nobody listed: such a rule takes what fits and passes over the rest.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.segments.last(), Some(Segment::Any | Segment::Deep | Segment::Glob { .. }))
    }

    /// Whether `**` is in it.
    #[must_use]
    pub fn is_deep(&self) -> bool {
        self.segments.contains(&Segment::Deep)
    }

    /// How many levels it has, if `**` is not in it.
    #[must_use]
    pub fn levels(&self) -> usize {
        self.segments.len()
    }

    /// Whether a key fits its level, counted from 0.
    #[must_use]
    pub fn fits(&self, level: usize, key: &str) -> bool {
        match self.segments.get(level) {
            None => false,
            Some(Segment::Key(wanted)) => **wanted == *key,
            Some(Segment::Any | Segment::Deep) => true,
            Some(Segment::OneOf(before, keys, after)) => chosen(before, keys, after, key).is_some(),
            Some(Segment::Glob { before, after }) => {
                key.strip_prefix(&**before).is_some_and(|rest| rest.ends_with(&**after))
            }
        }
    }

    /// The plain keys, if it is made of nothing else.
    #[must_use]
    pub fn plain(&self) -> Option<Vec<Box<str>>> {
        let key = |segment: &Segment| match segment {
            Segment::Key(key) => Some(key.clone()),
            _ => None,
        };
        self.segments.iter().map(key).collect()
    }

    /// The keys of its last level, if that lists them: `(a|b)`.
    #[must_use]
    pub fn choices(&self) -> Option<Vec<String>> {
        match self.segments.last()? {
            Segment::OneOf(_, keys, _) => Some(keys.iter().map(ToString::to_string).collect()),
            _ => None,
        }
    }

    /// How many captures a match gives.
    #[must_use]
    pub fn captures(&self) -> usize {
        self.segments.iter().filter(|segment| !matches!(segment, Segment::Key(_))).count()
    }

    /// What the path captures from these keys, or nothing if it does not match them.
    #[must_use]
    pub fn matches(&self, keys: &[&str]) -> Option<Vec<String>> {
        let fixed = self.segments.iter().filter(|segment| **segment != Segment::Deep).count();
        let has_deep = fixed < self.segments.len();
        // `**` takes what the other segments leave, at least one level.
        let deep = keys.len().checked_sub(fixed)?;
        if (has_deep && deep == 0) || (!has_deep && deep != 0) {
            return None;
        }
        let mut captures = Vec::new();
        let mut rest = keys;
        for segment in &self.segments {
            let (taken, left) = rest.split_at_checked(if *segment == Segment::Deep { deep } else { 1 })?;
            rest = left;
            let key = *taken.first()?;
            match segment {
                Segment::Key(wanted) if **wanted == *key => {}
                Segment::Key(_) => return None,
                Segment::Any => captures.push(key.to_owned()),
                Segment::Deep => captures.push(taken.join("_")),
                Segment::OneOf(before, keys, after) => captures.push(chosen(before, keys, after, key)?.to_owned()),
                Segment::Glob { before, after } => {
                    captures.push(key.strip_prefix(&**before)?.strip_suffix(&**after)?.to_owned());
                }
            }
        }
        Some(captures)
    }
}

/// Which of the words a key has between its beginning and its end.
fn chosen<'k>(before: &str, words: &[Box<str>], after: &str, key: &'k str) -> Option<&'k str> {
    let word = key.strip_prefix(before)?.strip_suffix(after)?;
    words.iter().any(|wanted| **wanted == *word).then_some(word)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Capture {
        index: usize,
        plus_one: bool,
    },
    /// What the payload has at that path.
    Found(Vec<Box<str>>),
}

/// A measurement's name with captures in it: `{1}_temperature`, or `channel_{1+1}` for lists counted from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    parts: Vec<Part>,
}

impl NamePattern {
    /// Parses a name; `captures` is how many the path gives.
    pub fn parse(text: &str, captures: usize) -> Result<Self, PatternError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            parts.push(Part::Text(before.into()));
            let Some((inside, after)) = after.split_once('}') else {
                return error(format!("name `{text}`: a `{{` has no closing `}}`"));
            };
            let (number, plus_one) = match inside.strip_suffix("+1") {
                Some(number) => (number, true),
                None => (inside, false),
            };
            match number.parse::<usize>() {
                Ok(number) if (1..=captures).contains(&number) => {
                    parts.push(Part::Capture { index: number - 1, plus_one });
                }
                Ok(_) => {
                    return error(format!(
                        "name `{text}`: `{{{inside}}}` should be the number of a capture, and the path gives {captures}"
                    ));
                }
                Err(_) => match Path::parse(inside)?.plain() {
                    Some(keys) => parts.push(Part::Found(keys)),
                    None => {
                        return error(format!(
                            "name `{text}`: `{{{inside}}}` should be the number of a capture, or plain keys"
                        ));
                    }
                },
            }
            rest = after;
        }
        parts.push(Part::Text(rest.into()));
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        let wrong = |part: &Part| match part {
            Part::Text(text) => !text.bytes().all(is_name_byte),
            Part::Capture { .. } | Part::Found(_) => false,
        };
        if parts.is_empty() || parts.iter().any(wrong) {
            return error(format!("name `{text}`: expected a-z, 0-9, `_` and captures such as `{{1}}`"));
        }
        Ok(Self { parts })
    }

    /// The name for an element of a list: `power_1`.
    #[must_use]
    pub fn with_element(&self, captures: usize) -> Self {
        let mut parts = self.parts.clone();
        parts.push(Part::Text("_".into()));
        parts.push(Part::Capture { index: captures, plus_one: true });
        Self { parts }
    }

    /// The part of the name that is the same for all captures and says what was measured: the whole of a plain name,
    /// `temperature` of `{1}_temperature`; nothing if only the device knows.
    #[must_use]
    pub fn fixed(&self) -> Option<&str> {
        match self.parts.last() {
            Some(Part::Text(text)) => Some(text.trim_start_matches('_')),
            // `power_{1+1}`: numbered, the quantity stands before the number.
            _ => match self.parts.first() {
                Some(Part::Text(text)) => Some(text.trim_end_matches('_')),
                _ => None,
            },
        }
    }

    /// Whether the payload says a part of it.
    #[must_use]
    pub fn is_found(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Found(_)))
    }

    /// Whether it is nothing but what the path captured.
    #[must_use]
    pub fn is_one_capture(&self) -> bool {
        matches!(self.parts.as_slice(), [Part::Capture { .. }])
    }

    /// The name that these captures give.
    #[must_use]
    pub fn name(&self, captures: &[String]) -> String {
        self.name_with(captures, |_| Some(String::new())).unwrap_or_default()
    }

    /// The same where the payload says a part of it; nothing if it does not.
    #[must_use]
    pub fn name_with(&self, captures: &[String], find: impl Fn(&[Box<str>]) -> Option<String>) -> Option<String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Capture { index, plus_one } => {
                    let capture = captures.get(*index).map(String::as_str).unwrap_or_default();
                    match capture.parse::<u64>() {
                        Ok(number) if *plus_one => text.push_str(&number.saturating_add(1).to_string()),
                        _ => text.push_str(capture),
                    }
                }
                Part::Found(path) => text.push_str(&find(path)?),
            }
        }
        Some(sanitise(&text))
    }
}

fn is_name_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')
}

/// The longest measurement name in bytes; a longer one is cut.
pub const NAME_BYTES_MAX: usize = 96;

/// Makes a measurement name of any text: `DewPoint` gives `dew_point`, `PM2.5` `pm2_5`, `DS18B20-1` `ds18b20_1`. Letters
/// outside of ASCII become their code (`u00e9`), so that two names that differ stay different.
#[must_use]
pub fn sanitise(text: &str) -> String {
    let mut name = String::with_capacity(text.len() + 4);
    let mut word = 0_usize;
    let mut after_lower = false;
    for c in text.chars() {
        if name.len() >= NAME_BYTES_MAX {
            break;
        }
        match c {
            'a'..='z' => name.push(c),
            '0'..='9' => name.push(c),
            'A'..='Z' => {
                // After a single letter it is a symbol (kWh, eCO2, pH), after more it is a new word.
                if after_lower && word > 1 {
                    name.push('_');
                    word = 0;
                }
                name.push(c.to_ascii_lowercase());
            }
            c if c.is_alphanumeric() => {
                // Writing to a String cannot fail.
                let _ = write!(name, "u{:04x}", u32::from(c));
            }
            _ if !name.is_empty() && !name.ends_with('_') => name.push('_'),
            _ => {}
        }
        word = if name.ends_with('_') { 0 } else { word + 1 };
        after_lower = c.is_ascii_lowercase();
    }
    let name = name.trim_matches('_');
    if name.is_empty() { "value".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captures(path: &str, keys: &[&str]) -> Option<Vec<String>> {
        Path::parse(path).unwrap().matches(keys)
    }

    #[test]
    fn paths_match_and_capture() {
        type Case<'a> = (&'a str, &'a [&'a str], Option<&'a [&'a str]>);
        let cases: &[Case<'_>] = &[
            ("a.b", &["a", "b"], Some(&[])),
            ("a.b", &["a"], None),
            ("a.b", &["a", "b", "c"], None),
            ("*.b", &["x", "b"], Some(&["x"])),
            ("*.\"PM2.5\"", &["SDS", "PM2.5"], Some(&["SDS"])),
            ("\"\".total", &["", "total"], Some(&[])),
            ("*.(T|PM2.5)", &["s", "PM2.5"], Some(&["s", "PM2.5"])),
            ("*.(T|PM2.5)", &["s", "H"], None),
            ("temp(1|2)f.x", &["temp2f", "x"], Some(&["2"])),
            ("temp(1|2)f.x", &["temp3f", "x"], None),
            ("temp(1|2)f.x", &["temp1c", "x"], None),
            ("a.temp (C)", &["a", "temp (C)"], Some(&[])),
            ("a.(b|c)d", &["a", "cd"], Some(&["c"])),
            ("POWER*", &["POWER"], Some(&[""])),
            ("POWER*", &["POWER2"], Some(&["2"])),
            ("POWER*", &["Power2"], None),
            ("**.T", &["T"], None),
            ("**.T", &["a", "T"], Some(&["a"])),
            ("**.T", &["a", "b", "T"], Some(&["a_b"])),
            ("**", &["a", "b"], Some(&["a_b"])),
            ("a.**.z.*", &["a", "b", "c", "z", "y"], Some(&["b_c", "y"])),
        ];
        for (path, keys, expected) in cases {
            let expected = expected.map(|captures| captures.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(captures(path, keys), expected, "{path} on {keys:?}");
        }
    }

    #[test]
    fn wrong_paths_are_refused() {
        for path in ["", "a.", ".a", "a..b", "\"a", "(a|b", "a*b*c", "**.x.**", "\"a\"b"] {
            assert!(Path::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn names_are_made_of_captures() {
        let name = |pattern: &str, captures: &[&str]| {
            let captures: Vec<_> = captures.iter().map(ToString::to_string).collect();
            NamePattern::parse(pattern, captures.len()).unwrap().name(&captures)
        };
        assert_eq!(name("{1}_temperature", &["DS18B20-1"]), "ds18b20_1_temperature");
        assert_eq!(name("{1}_{2}", &["", "total"]), "total");
        assert_eq!(name("relay_{1+1}", &["0"]), "relay_1");
        assert_eq!(name("relay_{1}", &[""]), "relay");
        for wrong in ["", "Power", "{2}", "{0}", "{x.*}", "{1", "a b"] {
            assert!(NamePattern::parse(wrong, 1).is_err(), "{wrong}");
        }
        assert_eq!(NamePattern::parse("{1}_temperature", 1).unwrap().fixed(), Some("temperature"));
        assert_eq!(NamePattern::parse("power", 0).unwrap().with_element(0).fixed(), Some("power"));
        assert_eq!(NamePattern::parse("{1}", 1).unwrap().fixed(), None);
        let found = NamePattern::parse("{DisplayName}_raw", 0).unwrap();
        assert_eq!(found.name_with(&[], |_| Some("Op 02".to_owned())).as_deref(), Some("op_02_raw"));
        assert_eq!(found.name_with(&[], |_| None), None);
    }

    #[test]
    fn any_text_becomes_a_name() {
        for (text, expected) in [
            ("DewPoint", "dew_point"),
            ("BME280", "bme280"),
            ("PM2.5", "pm2_5"),
            ("eCO2", "eco2"),
            ("pH", "ph"),
            ("MyScript", "my_script"),
            ("kWh", "kwh"),
            ("soil moisture (%)", "soil_moisture"),
            ("温度", "u6e29u5ea6"),
            ("", "value"),
            ("--", "value"),
        ] {
            assert_eq!(sanitise(text), expected);
        }
        assert!(sanitise(&"x".repeat(500)).len() <= NAME_BYTES_MAX);
    }
}
