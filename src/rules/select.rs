//! Which values a rule is for: globs over names of devices and measurements. They are matched once for each pair of a device
//! and a measurement, when it is first seen; the answer is kept with its state.

use crate::config;
use crate::glob::Glob;

/// The patterns of a rule, ready to match.
#[derive(Debug)]
pub(super) struct Select {
    devices: Vec<Pattern>,
    measurements: Vec<Pattern>,
}

/// A glob, or what stands behind a `!`.
#[derive(Debug)]
struct Pattern {
    takes_away: bool,
    glob: Glob,
}

impl Select {
    pub(super) fn new(select: &config::Select) -> Self {
        Self { devices: patterns(&select.devices), measurements: patterns(&select.measurements) }
    }

    pub(super) fn selects(&self, device: &str, measurement: &str) -> bool {
        matches(&self.devices, device) && matches(&self.measurements, measurement)
    }
}

fn patterns(texts: &[String]) -> Vec<Pattern> {
    let pattern = |text: &String| {
        let (takes_away, glob) = text.strip_prefix('!').map_or((false, text.as_str()), |glob| (true, glob));
        // The configuration checks patterns; one from a damaged checkpoint matches nothing but its own letters.
        Pattern { takes_away, glob: glob.parse().unwrap_or_else(|_| Glob::literal(glob)) }
    };
    texts.iter().map(pattern).collect()
}

fn matches(patterns: &[Pattern], name: &str) -> bool {
    let at_first = patterns.first().is_none_or(|first| first.takes_away);
    patterns.iter().fold(at_first, |selected, pattern| {
        if pattern.takes_away != selected || !pattern.glob.is_match(name) { selected } else { !pattern.takes_away }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_add_and_take_away_in_their_order() {
        let cases: &[(&[&str], &[&str], &[&str])] = &[
            (&[], &["", "a", "meter-1"], &[]),
            (&["*"], &["", "a", "cellar/pump"], &[]),
            (&["meter-?"], &["meter-1"], &["meter-", "meter-12", "a-meter-1"]),
            (&["meter-[12]", "pump"], &["meter-1", "pump"], &["meter-3", "pumps"]),
            (&["!test-*"], &["meter", "a-test-1"], &["test-1"]),
            (&["meter-*", "!meter-9*"], &["meter-1"], &["meter-9", "meter-99", "pump"]),
            (&["meter-*", "!meter-9*", "meter-99"], &["meter-1", "meter-99"], &["meter-9", "meter-98"]),
            (&["!*", "pump"], &["pump"], &["meter"]),
            (&["cellar/*"], &["cellar/pump", "cellar/a/b"], &["cellar"]),
            (&["Pump"], &["Pump"], &["pump"]),
            (&["[", "pump"], &["[", "pump"], &["a"]),
        ];
        for (texts, selected, others) in cases {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            let select = Select::new(&config::Select { devices: texts.clone(), ..config::Select::default() });
            selected.iter().for_each(|name| assert!(select.selects(name, "power"), "{texts:?} {name}"));
            others.iter().for_each(|name| assert!(!select.selects(name, "power"), "{texts:?} {name}"));
            let select = Select::new(&config::Select { measurements: texts.clone(), ..config::Select::default() });
            selected.iter().for_each(|name| assert!(select.selects("pump", name), "{texts:?} {name}"));
            others.iter().for_each(|name| assert!(!select.selects("pump", name), "{texts:?} {name}"));
        }
    }
}
