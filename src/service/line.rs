//! The line that `systemctl status` shows: what waits, and which links are not up.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::outbox::Backlog;
use crate::reading::Name;
use crate::status::{LinkInfo, LinkState};

/// Links that are named; the others are counted.
const NAMED_MAX: usize = 4;
/// Of the reason why a link is down.
const DETAIL_CHARS_MAX: usize = 120;
/// A number that only grows or shrinks is told this often.
const NUMBER_INTERVAL: Duration = Duration::from_secs(60);

/// What the line is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// What changes all the time.
    waiting: String,
    is_behind: bool,
    /// What is news when it changes.
    links: String,
    remark: String,
}

impl Facts {
    pub(super) fn new(
        backlog: &Backlog,
        links: &BTreeMap<Name, LinkInfo>,
        remark: String,
        now_ms: i64,
        zone: &TimeZone,
    ) -> Self {
        Self { waiting: waiting(backlog, now_ms, zone), is_behind: backlog.records > 0, links: states(links), remark }
    }

    /// All of it in one line.
    pub(super) fn line(&self) -> String {
        let parts = [self.remark.as_str(), &self.waiting, &self.links];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("; ")
    }
}

/// Knows what was told, and when.
#[derive(Debug, Default)]
pub(super) struct Teller {
    told: Option<(Facts, Duration)>,
}

impl Teller {
    /// Whether to tell this now.
    pub(super) fn is_news(&mut self, facts: &Facts, now: Duration) -> bool {
        let is_news = self.told.as_ref().is_none_or(|(told, at)| {
            (&told.links, &told.remark) != (&facts.links, &facts.remark)
                || told != facts && (told.is_behind != facts.is_behind || now.saturating_sub(*at) >= NUMBER_INTERVAL)
        });
        if is_news {
            self.told = Some((facts.clone(), now));
        }
        is_news
    }
}

fn waiting(backlog: &Backlog, now_ms: i64, zone: &TimeZone) -> String {
    if backlog.records == 0 {
        return "nothing is waiting".to_owned();
    }
    let mut text = grouped(backlog.records);
    text.push_str(if backlog.records == 1 { " record waiting" } else { " records waiting" });
    let local = |ms| Timestamp::from_millisecond(ms).ok().map(|time| time.to_zoned(zone.clone()));
    if let (Some(oldest), Some(now)) = (backlog.oldest_ms.and_then(local), local(now_ms)) {
        let format = if oldest.date() == now.date() { "%H:%M" } else { "%Y-%m-%d %H:%M" };
        let _ = write!(text, " since {}", oldest.strftime(format));
    }
    text
}

/// First what is not as it should be, with the reason.
fn states(links: &BTreeMap<Name, LinkInfo>) -> String {
    let (up, others): (Vec<_>, Vec<_>) = links.iter().partition(|(_, info)| info.state == LinkState::Up);
    let mut parts: Vec<String> = others.iter().chain(&up).take(NAMED_MAX).map(one).collect();
    let more = |links: &[(&Name, &LinkInfo)], named: usize, word| {
        links.len().checked_sub(named).filter(|left| *left > 0).map(|left| format!("{left} more {word}"))
    };
    let named = others.len().min(NAMED_MAX);
    parts.extend(more(&others, named, "not up"));
    parts.extend(more(&up, NAMED_MAX - named, "up"));
    parts.join("; ")
}

fn one((name, info): &(&Name, &LinkInfo)) -> String {
    let detail: String = info.detail.chars().take(DETAIL_CHARS_MAX).collect();
    let separator = if detail.is_empty() { "" } else { ": " };
    format!("{name} {}{separator}{detail}", info.state.as_str())
}

/// 12300 as `12,300`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-05-04T12:00:00Z
    const NOON_MS: i64 = 1_777_896_000_000;

    fn links(states: &[(&str, LinkState, &str)]) -> BTreeMap<Name, LinkInfo> {
        let info = |state, detail: &str| LinkInfo { state, since_ms: 0, detail: detail.to_owned() };
        states.iter().map(|(name, state, detail)| (Name::from(*name), info(*state, detail))).collect()
    }

    fn facts(records: u64, oldest_ms: i64, states: &[(&str, LinkState, &str)]) -> Facts {
        let backlog = Backlog { records, oldest_ms: (records > 0).then_some(oldest_ms), ..Backlog::default() };
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        Facts::new(&backlog, &links(states), String::new(), NOON_MS, &zone)
    }

    #[test]
    fn it_says_what_waits_since_when_and_what_is_down_first() {
        let states = [
            ("kafka", LinkState::Down, "connection refused"),
            ("mqtt.home", LinkState::Up, ""),
            ("serial.meter", LinkState::Connecting, ""),
        ];
        assert_eq!(
            facts(12_300, NOON_MS - 60_000, &states).line(),
            "12,300 records waiting since 13:59; kafka down: connection refused; serial.meter connecting; mqtt.home up"
        );
        assert_eq!(facts(1, NOON_MS - 86_400_000, &[]).line(), "1 record waiting since 2026-05-03 14:00");
        let mut refused = facts(0, 0, &[("kafka", LinkState::Up, "")]);
        refused.remark = "the new configuration was refused".to_owned();
        assert_eq!(refused.line(), "the new configuration was refused; nothing is waiting; kafka up");
    }

    #[test]
    fn many_links_do_not_make_it_longer() {
        let names: Vec<String> = (0..100).map(|number| format!("serial.n{number:02}")).collect();
        let long = "x".repeat(5_000);
        let mut states: Vec<_> = names.iter().map(|name| (name.as_str(), LinkState::Up, "")).collect();
        assert!(facts(0, 0, &states).line().ends_with("serial.n03 up; 96 more up"));
        for state in &mut states[..90] {
            *state = (state.0, LinkState::Down, &long);
        }
        let line = facts(0, 0, &states).line();
        assert!(line.ends_with("86 more not up; 10 more up"), "{line}");
        assert!(line.len() < 800, "{}", line.len());
    }

    #[test]
    fn a_link_is_news_at_once_and_a_number_once_a_minute() {
        let up = [("kafka", LinkState::Up, "")];
        let down = [("kafka", LinkState::Down, "gone")];
        let s = Duration::from_secs;
        let mut teller = Teller::default();
        assert!(teller.is_news(&facts(0, 0, &up), s(0)));
        assert!(!teller.is_news(&facts(0, 0, &up), s(1_000)), "nothing has changed");
        assert!(teller.is_news(&facts(10, NOON_MS, &up), s(1_001)), "it has fallen behind");
        assert!(!teller.is_news(&facts(20, NOON_MS, &up), s(1_060)));
        assert!(teller.is_news(&facts(20, NOON_MS, &down), s(1_060)));
        assert!(!teller.is_news(&facts(30, NOON_MS, &down), s(1_119)));
        assert!(teller.is_news(&facts(30, NOON_MS, &down), s(1_120)));
    }

    #[test]
    fn numbers_are_grouped() {
        let texts = [0, 7, 999, 1_000, 12_300, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "7", "999", "1,000", "12,300", "1,234,567"]);
    }
}
