//! What a running gateway says of itself: its links, kept here by who holds them; the [`report`] that is made of these,
//! the counters, the backlog and the [`configuration`]; and the [`socket`] in the data directory on which `tidegate status` asks for it.

pub mod configuration;
pub mod report;
pub mod socket;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::beats::{Beat, Beats};
use crate::clock;
use crate::reading::Name;

/// How a link to something outside is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Not up yet, and nothing known to be wrong.
    Connecting,
    /// Up.
    Up,
    /// Down; the detail says why. It is tried again by itself.
    Down,
}

impl LinkState {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// One link as it was at some moment.
#[derive(Clone, Debug)]
pub struct LinkInfo {
    /// How it is.
    pub state: LinkState,
    /// Since when (wall clock, ms).
    pub since_ms: i64,
    /// What a person should know: why it is down, what was refused; empty if nothing.
    pub detail: String,
}

/// All links of one gateway. Cloning gives another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct Links(Arc<Mutex<BTreeMap<Name, LinkInfo>>>, Beats);

/// One link, for who holds it.
#[derive(Clone, Debug)]
pub struct Link {
    name: Name,
    links: Links,
    beat: Beat,
}

impl Links {
    /// A link by its name (`mqtt.home`, `serial.meter`, `kafka`), connecting.
    #[must_use]
    pub fn link(&self, name: &str) -> Link {
        let link = Link { name: Arc::from(name), links: self.clone(), beat: self.1.part(name) };
        link.set(LinkState::Connecting, String::new());
        link
    }

    /// Whether the parts behind the links make progress: those that beat.
    #[must_use]
    pub fn beats(&self) -> &Beats {
        &self.1
    }

    /// It is no longer there.
    pub fn remove(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// All links by name.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<Name, LinkInfo> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Link {
    /// It is up; `detail` says what is not as it should be all the same (a refused subscription), or is empty.
    pub fn up(&self, detail: impl Into<String>) {
        self.set(LinkState::Up, detail.into());
    }

    /// It is being connected anew.
    pub fn connecting(&self) {
        self.set(LinkState::Connecting, String::new());
    }

    /// It is down.
    pub fn down(&self, why: impl Into<String>) {
        self.set(LinkState::Down, why.into());
    }

    /// The part that holds it has come around its loop (see [`beats`](crate::beats)).
    pub fn beat(&self) {
        self.beat.beat();
    }

    fn set(&self, state: LinkState, detail: String) {
        let mut links = self.links.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since_ms = match links.get(&self.name) {
            Some(info) if info.state == state => info.since_ms,
            _ => clock::wall_ms(),
        };
        links.insert(Arc::clone(&self.name), LinkInfo { state, since_ms, detail });
    }
}
