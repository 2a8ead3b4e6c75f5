//! All rules of a configuration, and which of them a channel meets: its plan. Many channels share one.

use super::filter::{self, FilterRule, Step};
use super::window::{Definition, WindowRule};
use crate::config;
use crate::counters::Counters;

/// What happens to the values of a channel.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) filters: Box<[Step]>,
    /// How many of the filters keep a state.
    pub(super) states: usize,
    /// Whether the filters let nothing through.
    closed: bool,
    /// The window rules that numbers are for, whatever the filters let through: a filter that comes later takes away
    /// nothing that a window holds already.
    pub(super) windows: Box<[u16]>,
}

impl Plan {
    /// Whether a value needs a state to be kept; `number` says whether it is one.
    pub(super) fn wants_state(&self, number: bool) -> bool {
        self.states > 0 || (number && !self.closed && !self.windows.is_empty())
    }
}

/// The rules.
#[derive(Debug, Default)]
pub(super) struct RuleSet {
    pub(super) filters: Vec<FilterRule>,
    pub(super) windows: Vec<WindowRule>,
    plans: Vec<Plan>,
    /// The shortest silence that closes a window, in milliseconds.
    pub(super) silence_min_ms: u64,
}

impl RuleSet {
    pub(super) fn new(settings: &config::Rules, counters: &Counters) -> Self {
        let filters = settings.filters.iter().map(|filter| FilterRule::new(filter, counters)).collect();
        Self::with(filters, settings.windows.iter().map(|window| WindowRule::new(window, counters)).collect())
    }

    /// The rules of an earlier run: what its state means. Filters leave none.
    pub(super) fn earlier(definitions: Vec<Definition>) -> Self {
        Self::with(Vec::new(), definitions.into_iter().map(WindowRule::earlier).collect())
    }

    fn with(filters: Vec<FilterRule>, mut windows: Vec<WindowRule>) -> Self {
        // The configuration allows 256.
        windows.truncate(usize::from(u16::MAX));
        let silence_min_ms = windows.iter().map(WindowRule::silence_ms).min().unwrap_or(u64::MAX);
        Self { filters, windows, plans: Vec::new(), silence_min_ms }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filters.is_empty() && self.windows.is_empty()
    }

    pub(super) fn definitions(&self) -> impl Iterator<Item = &Definition> {
        self.windows.iter().map(|rule| &rule.definition)
    }

    pub(super) fn window(&self, rule: u16) -> Option<&WindowRule> {
        self.windows.get(usize::from(rule))
    }

    /// The rules that values of this device and measurement meet, worked out anew.
    pub(super) fn work_out(&self, device: &str, measurement: &str) -> Plan {
        let (steps, states) = filter::steps(&self.filters, device, measurement);
        let selects = |rule: &WindowRule| rule.select.selects(device, measurement);
        let windows = self.windows.iter().zip(0..=u16::MAX).filter(|(rule, _)| selects(rule)).map(|(_, index)| index);
        Plan { closed: filter::drop_all(&steps), filters: steps.into(), states, windows: windows.collect() }
    }

    /// The number of a plan; it is kept.
    pub(super) fn keep(&mut self, plan: Plan) -> u32 {
        let known = self.plans.iter().position(|other| *other == plan);
        known.unwrap_or_else(|| {
            self.plans.push(plan);
            self.plans.len() - 1
        }) as u32
    }

    pub(super) fn plan(&self, plan: u32) -> Option<&Plan> {
        self.plans.get(plan as usize)
    }

    /// Hands on what was counted.
    pub(super) fn count(&mut self) {
        self.filters.iter_mut().for_each(FilterRule::count);
        self.windows.iter_mut().for_each(WindowRule::count);
    }
}
