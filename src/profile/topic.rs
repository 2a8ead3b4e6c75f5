//! Topic patterns of profiles: MQTT topic filters whose wildcards have names.
//!
//! `tele/{device}/SENSOR` captures one level, `zigbee2mqtt/{device...}` all that follow, `tele/{device...}/SENSOR` up to
//! [`LEVELS_MAX`] levels in the middle, and any other name one level, or with dots several, that the rules can look up as
//! `@name`. `+` and a `#` at the end match as in MQTT and capture nothing.

use super::path::PatternError;

/// How many levels `{device...}` takes where something follows it: MQTT has no wildcard for that, so it is subscribed
/// to once for each number of levels.
pub const LEVELS_MAX: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Text(Box<str>),
    One {
        device: bool,
    },
    /// `{sensor}`: a level with a name of its own.
    Named(Box<str>),
    /// `{device...}`: one level or more; `#`: none or more, and it captures nothing.
    Many {
        device: bool,
    },
    /// `{path...}`: one level or more with a name of their own.
    ManyNamed(Box<str>),
}

impl Level {
    fn is_many(&self) -> bool {
        matches!(self, Self::Many { .. } | Self::ManyNamed(_))
    }
}

/// A parsed topic pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern {
    levels: Vec<Level>,
}

impl TopicPattern {
    /// Parses a pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let error = |what: &str| Err(PatternError(format!("topic `{text}`: {what}")));
        if text.is_empty() || text.contains('\0') {
            return error("expected levels with `/` between them");
        }
        let mut levels = Vec::new();
        let count = text.split('/').count();
        for (index, level) in text.split('/').enumerate() {
            levels.push(match level {
                "+" => Level::One { device: false },
                "#" if index + 1 == count => Level::Many { device: false },
                "{device}" => Level::One { device: true },
                "{device...}" => Level::Many { device: true },
                _ if level.contains(['+', '#']) => {
                    return error("`+` and `#` stand for whole levels, `#` only at the end");
                }
                _ if level.contains(['{', '}']) => {
                    let name = level.strip_prefix('{').and_then(|level| level.strip_suffix('}'));
                    let is_name = |name: &&str| {
                        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                    };
                    let many = name.and_then(|name| name.strip_suffix("..."));
                    match (name.filter(is_name), many.filter(is_name)) {
                        (Some(name), _) => Level::Named(name.into()),
                        (_, Some(name)) => Level::ManyNamed(name.into()),
                        _ => return error("expected `{device}`, `{name}`, or with dots `{name...}`, as a whole level"),
                    }
                }
                _ => Level::Text(level.into()),
            });
        }
        let wild = |level: &&Level| level.is_many();
        let device = |level: &&Level| matches!(level, Level::One { device: true } | Level::Many { device: true });
        if levels.iter().filter(wild).count() > 1 {
            return error("only one level may stand for several");
        }
        if levels.iter().filter(device).count() > 1 {
            return error("the device may be captured once");
        }
        Ok(Self { levels })
    }

    /// Whether it captures the device.
    #[must_use]
    pub fn has_device(&self) -> bool {
        self.levels.iter().any(|level| matches!(level, Level::One { device: true } | Level::Many { device: true }))
    }

    /// The pattern with `from` at its beginning replaced by `to`; `None` if it does not begin with it.
    #[must_use]
    pub fn with_prefix(text: &str, from: &str, to: &str) -> Option<String> {
        let rest = text.strip_prefix(from)?.strip_prefix('/')?;
        Some(if to.is_empty() { rest.to_owned() } else { format!("{to}/{rest}") })
    }

    /// Matches a topic; gives the device that it captures, empty if the pattern has none.
    #[must_use]
    pub fn matches<'t>(&self, topic: &'t str) -> Option<&'t str> {
        self.matches_with(topic, |_, _| {})
    }

    /// The same, and gives what the other names capture.
    pub fn matches_with<'t>(&self, topic: &'t str, mut capture: impl FnMut(&str, &'t str)) -> Option<&'t str> {
        let count = topic.split('/').count();
        let fixed = self.levels.iter().filter(|level| !level.is_many()).count();
        let spare = count.checked_sub(fixed)?;
        let mut device = "";
        let mut rest = Some(topic);
        let last = self.levels.len() - 1;
        let mut many = false;
        for (index, level) in self.levels.iter().enumerate() {
            let take = match level {
                Level::Many { .. } | Level::ManyNamed(_) => {
                    many = true;
                    let named = *level != Level::Many { device: false };
                    if (named && spare == 0) || (index != last && spare > LEVELS_MAX) {
                        return None;
                    }
                    spare
                }
                _ => 1,
            };
            if take == 0 {
                continue;
            }
            let (word, after) = split_levels(rest?, take);
            rest = after;
            match level {
                Level::Text(text) if **text == *word => {}
                Level::Text(_) => return None,
                Level::One { device: true } | Level::Many { device: true } => device = word,
                Level::Named(name) | Level::ManyNamed(name) => capture(name, word),
                Level::One { .. } | Level::Many { .. } => {}
            }
        }
        (many || spare == 0).then_some(device)
    }

    /// The MQTT topic filters that bring every topic which it matches.
    #[must_use]
    pub fn filters(&self) -> Vec<String> {
        let last = self.levels.len() - 1;
        let inner = self.levels.iter().take(last).any(Level::is_many);
        (1..=if inner { LEVELS_MAX } else { 1 })
            .map(|levels| {
                let words = self.levels.iter().enumerate().map(|(index, level)| match level {
                    Level::Text(text) => text.to_string(),
                    Level::One { .. } | Level::Named(_) => "+".to_owned(),
                    Level::Many { .. } | Level::ManyNamed(_) if index == last => "#".to_owned(),
                    Level::Many { .. } | Level::ManyNamed(_) => vec!["+"; levels].join("/"),
                });
                words.collect::<Vec<_>>().join("/")
            })
            .collect()
    }
}

/// The first `count` levels of a topic, and what follows them.
fn split_levels(topic: &str, count: usize) -> (&str, Option<&str>) {
    match topic.match_indices('/').nth(count - 1) {
        Some((at, _)) => (&topic[..at], Some(&topic[at + 1..])),
        None => (topic, None),
    }
}

/// Whether every topic that `narrow` brings is brought by `wide` too.
#[must_use]
pub fn covers(wide: &str, narrow: &str) -> bool {
    let mut narrow = narrow.split('/');
    for word in wide.split('/') {
        match (word, narrow.next()) {
            ("#", _) => return true,
            ("+", Some(other)) if other != "#" => {}
            (word, Some(other)) if word == other => {}
            _ => return false,
        }
    }
    narrow.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches<'t>(pattern: &str, topic: &'t str) -> Option<&'t str> {
        TopicPattern::parse(pattern).unwrap().matches(topic)
    }

    #[test]
    fn patterns_match_and_capture() {
        for (pattern, topic, expected) in [
            ("tele/{device}/SENSOR", "tele/plug/SENSOR", Some("plug")),
            ("tele/{device}/SENSOR", "tele/a/b/SENSOR", None),
            ("tele/{device}/SENSOR", "tele/plug/STATE", None),
            ("tele/{device...}/SENSOR", "tele/a/b/SENSOR", Some("a/b")),
            ("tele/{device...}/SENSOR", "tele/a/SENSOR", Some("a")),
            ("tele/{device...}/SENSOR", "tele/SENSOR", None),
            ("tele/{device...}/SENSOR", "tele/a/b/c/d/e/SENSOR", None),
            ("z/{device...}", "z/a/b/c/d/e/f/g", Some("a/b/c/d/e/f/g")),
            ("z/{device...}", "z", None),
            ("z/bridge/#", "z/bridge", Some("")),
            ("z/bridge/#", "z/bridge/a/b", Some("")),
            ("z/bridge/#", "z/bridges", None),
            ("z/+/set", "z/a/set", Some("")),
            ("{device}", "a", Some("a")),
            ("a/b", "a/b", Some("")),
            ("a/b", "a", None),
            ("a/b", "a/b/c", None),
            ("a/{device}", "a/", Some("")),
        ] {
            assert_eq!(matches(pattern, topic), expected, "{pattern} on {topic}");
        }
    }

    #[test]
    fn levels_with_a_name_are_captured() {
        let pattern = TopicPattern::parse("home/{device}/{kind}/{sensor}/state").unwrap();
        let mut found = Vec::new();
        let device = pattern.matches_with("home/attic/sensor/dew_point/state", |name, word| {
            found.push((name.to_owned(), word.to_owned()));
        });
        assert_eq!(device, Some("attic"));
        let expected = [("kind", "sensor"), ("sensor", "dew_point")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(found, expected);
        assert_eq!(pattern.filters(), ["home/+/+/+/state"]);
        // A tree of any depth, as Victron's Venus OS publishes it.
        let pattern = TopicPattern::parse("N/{portal}/{service}/{device}/{path...}").unwrap();
        for (topic, path) in [("N/c0/battery/0/Dc/0/Voltage", "Dc/0/Voltage"), ("N/c0/battery/0/Soc", "Soc")] {
            found.clear();
            pattern.matches_with(topic, |name, word| found.push((name.to_owned(), word.to_owned())));
            assert_eq!(found.last(), Some(&("path".to_owned(), path.to_owned())));
        }
        assert_eq!(pattern.matches("N/c0/battery/0"), None);
        assert_eq!(pattern.filters(), ["N/+/+/+/#"]);
    }

    #[test]
    fn wrong_patterns_are_refused() {
        for pattern in [
            "",
            "a/#/b",
            "a/x+",
            "{device}/{device}",
            "a/{sen-sor}",
            "{device...}/#",
            "{a...}/{b...}",
            "{...}",
            "x{device}",
        ] {
            assert!(TopicPattern::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn filters_bring_what_the_pattern_matches() {
        let filters = |pattern: &str| TopicPattern::parse(pattern).unwrap().filters();
        assert_eq!(filters("tele/{device}/SENSOR"), ["tele/+/SENSOR"]);
        assert_eq!(filters("zigbee2mqtt/{device...}"), ["zigbee2mqtt/#"]);
        assert_eq!(filters("t/{device...}/S"), ["t/+/S", "t/+/+/S", "t/+/+/+/S", "t/+/+/+/+/S"]);
    }

    #[test]
    fn wider_filters_cover_narrower_ones() {
        assert!(covers("z/#", "z/+/availability"));
        assert!(covers("z/#", "z"));
        assert!(covers("z/+/a", "z/b/a"));
        assert!(covers("z/a", "z/a"));
        assert!(!covers("z/+", "z/#"));
        assert!(!covers("z/b/a", "z/+/a"));
        assert!(!covers("z/+", "z/a/b"));
    }

    #[test]
    fn a_prefix_is_replaced() {
        let with = |to| TopicPattern::with_prefix("tele/{device}/SENSOR", "tele", to);
        assert_eq!(with("home/tele").as_deref(), Some("home/tele/{device}/SENSOR"));
        assert_eq!(with("").as_deref(), Some("{device}/SENSOR"));
        assert_eq!(TopicPattern::with_prefix("telemetry/x", "tele", "a"), None);
    }
}
