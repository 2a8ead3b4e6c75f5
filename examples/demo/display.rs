//! What the reader sees: on a terminal, lines that move in place below the story; elsewhere, plain lines.
#![allow(clippy::print_stdout, reason = "printing is what a demo is for")]

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Rates are taken over this long.
const RATE_OVER: Duration = Duration::from_secs(2);
/// The backlog's bar is made for this many readings, and for more when more wait.
const BACKLOG_USUAL: u64 = 5_000;
/// A plain status line comes this often.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

/// How the link to Kafka is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kafka {
    /// The gateway has no connection yet.
    #[default]
    Unknown,
    /// The gateway is connected.
    Up,
    /// The demo has cut the link.
    Cut,
}

/// All figures at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Since the start.
    pub(crate) at: Duration,
    /// Readings that the MQTT sensors have published.
    pub(crate) published: u64,
    /// Readings that the serial sensor has printed.
    pub(crate) printed: u64,
    /// Readings that the MQTT broker has acknowledged.
    pub(crate) acknowledged: u64,
    /// Records on the gateway's disk, delivered ones included.
    pub(crate) stored: u64,
    /// Records that wait there; none while the gateway does not run.
    pub(crate) waiting: Option<u64>,
    /// Different readings that the consumer has read from Kafka.
    pub(crate) delivered: u64,
    /// The link to Kafka.
    pub(crate) kafka: Kafka,
}

/// Where the story is told.
pub(crate) struct Display {
    bars: Option<Bars>,
    past: VecDeque<Figures>,
    plain_at: Duration,
}

struct Bars {
    all: MultiProgress,
    phase: ProgressBar,
    sensors: ProgressBar,
    broker: ProgressBar,
    outbox: ProgressBar,
    kafka: ProgressBar,
    /// Where the bar of the backlog is full.
    most: u64,
}

impl Display {
    /// For whatever standard output is.
    pub(crate) fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let bars = (std::io::stdout().is_terminal() && !dumb).then(Bars::new);
        Self { bars, past: VecDeque::new(), plain_at: Duration::ZERO }
    }

    /// Something happens: what, and why it matters.
    pub(crate) fn tell(&mut self, at: Duration, what: &str, why: &str) {
        let seconds = at.as_secs();
        match &self.bars {
            Some(bars) => {
                bars.phase.set_message(what.to_owned());
                // Fails only when the terminal is gone, and then nobody reads.
                let _ = bars.all.println(format!("{seconds:>4} s  {what}\n        {why}"));
            }
            None => println!("{seconds:>4} s  {what}\n        {why}"),
        }
    }

    /// The figures have changed.
    pub(crate) fn show(&mut self, now: &Figures) {
        while self.past.front().is_some_and(|first| first.at + RATE_OVER < now.at) {
            self.past.pop_front();
        }
        let before = self.past.front().unwrap_or(now).clone();
        self.past.push_back(now.clone());
        match &mut self.bars {
            Some(bars) => bars.show(&before, now),
            None if self.plain_at <= now.at => {
                println!("{}", plain(&before, now));
                self.plain_at = now.at + PLAIN_EVERY;
            }
            None => {}
        }
    }

    /// Takes the moving lines away.
    pub(crate) fn close(&mut self) {
        if let Some(bars) = self.bars.take() {
            for bar in [&bars.phase, &bars.sensors, &bars.broker, &bars.outbox, &bars.kafka] {
                bar.finish_and_clear();
            }
            let _ = bars.all.clear();
        }
    }
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let line = |name: &'static str, template: &str| {
            let bar = all.add(ProgressBar::new(1));
            bar.set_style(style(template));
            bar.set_prefix(name);
            bar
        };
        let phase = line("", "\n  {spinner:.cyan} {msg:.bold}");
        phase.enable_steady_tick(Duration::from_millis(120));
        Self {
            phase,
            sensors: line("sensors", ROW),
            broker: line("broker", ROW),
            outbox: line("outbox", "  {prefix:>8.cyan}  {msg}  {wide_bar:.yellow/dim}"),
            kafka: line("Kafka", ROW),
            all,
            most: BACKLOG_USUAL,
        }
    }

    fn show(&mut self, before: &Figures, now: &Figures) {
        let rate = |count: fn(&Figures) -> u64| rate(before, now, count);
        let sent = rate(|figures| figures.published + figures.printed);
        let wire = number(now.printed);
        self.sensors.set_message(format!(
            "{} sent by MQTT       {sent}  {} on the wire",
            number(now.published),
            wire.trim()
        ));
        let acknowledged = rate(|figures| figures.acknowledged);
        self.broker.set_message(format!("{} acknowledged       {}", number(now.acknowledged), acknowledged));
        match now.waiting {
            Some(waiting) => {
                self.most = self.most.max(waiting);
                self.outbox.set_length(self.most);
                self.outbox.set_position(waiting);
                let stored = rate(|figures| figures.stored);
                self.outbox.set_message(format!(
                    "{} stored on disk     {stored}  {} wait",
                    number(now.stored),
                    number(waiting)
                ));
            }
            None => self.outbox.set_message(format!("{} stored on disk     the gateway is off", number(now.stored))),
        }
        let (template, word) = match now.kafka {
            Kafka::Up => (ROW_GOOD, rate(|figures| figures.delivered)),
            Kafka::Cut => (ROW_BAD, "cut off".to_owned()),
            Kafka::Unknown => (ROW, String::new()),
        };
        self.kafka.set_style(style(template));
        self.kafka.set_message(format!("{} read from Kafka    {word}", number(now.delivered)));
    }
}

const ROW: &str = "  {prefix:>8.cyan}  {msg}";
const ROW_GOOD: &str = "  {prefix:>8.cyan}  {msg:.green}";
const ROW_BAD: &str = "  {prefix:>8.cyan}  {msg:.red}";

fn style(template: &str) -> ProgressStyle {
    // The templates are constants; if one were wrong, the default would show.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("█▉▊▋▌▍▎▏ ")
}

fn plain(before: &Figures, now: &Figures) -> String {
    let waiting = now.waiting.map_or_else(|| "gateway off".to_owned(), |waiting| format!("{waiting} waiting"));
    let kafka = match now.kafka {
        Kafka::Up => "up",
        Kafka::Cut => "cut off",
        Kafka::Unknown => "not connected",
    };
    format!(
        "{:>4} s    sensors: {} by MQTT, {} on the wire ({}) | broker: {} acknowledged | outbox: {} stored, {waiting} | Kafka: {} delivered, link {kafka}",
        now.at.as_secs(),
        now.published,
        now.printed,
        rate(before, now, |figures| figures.published + figures.printed).trim(),
        now.acknowledged,
        now.stored,
        now.delivered,
    )
}

/// How fast a count grows.
fn rate(before: &Figures, now: &Figures, count: fn(&Figures) -> u64) -> String {
    let seconds = now.at.saturating_sub(before.at).as_secs_f64();
    let more = count(now).saturating_sub(count(before)) as f64;
    let rate = if seconds > 0.0 { more / seconds } else { 0.0 };
    format!("{rate:>5.0}/s")
}

/// With thousands set apart, as wide as any that the demo shows.
fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    format!("{text:>7}")
}
