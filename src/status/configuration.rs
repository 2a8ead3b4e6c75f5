//! Which configuration a gateway runs with, since when, and what became of the reloads: kept here by who loads it.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::report::rfc3339;
use crate::clock;

/// What is known of a gateway's configuration. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub struct Configuration(Arc<Mutex<Known>>);

#[derive(Debug)]
struct Known {
    file: String,
    since_ms: i64,
    fallback: Option<String>,
    applied: u64,
    refused: u64,
    refusal: Option<(i64, String)>,
}

/// The same as it is reported.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The file.
    pub file: String,
    /// Since when the gateway runs with what it runs with (RFC 3339).
    pub since: String,
    /// Why it runs with the configuration that it had kept, and not with the file; nothing if it runs with the file.
    pub fallback: Option<String>,
    /// Reloads since the start that were applied.
    pub reloads_applied: u64,
    /// Reloads since the start that were refused.
    pub reloads_refused: u64,
    /// The last reload, if it was refused.
    pub refusal: Option<Refusal>,
}

/// A reload that was refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// When (RFC 3339).
    pub at: String,
    /// Why.
    pub reasons: String,
}

/// What became of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether the gateway goes on with the new configuration.
    pub applied: bool,
    /// What has changed, or all reasons why it was refused.
    pub detail: String,
}

impl Configuration {
    /// The gateway starts with this file, or because of `fallback` with what it had kept of it.
    #[must_use]
    pub fn new(file: &Path, fallback: Option<String>) -> Self {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let (file, since_ms) = (file.display().to_string(), clock::wall_ms());
        Self(Arc::new(Mutex::new(Known { file, since_ms, fallback, applied: 0, refused: 0, refusal: None })))
    }

    /// A reload has ended so.
    pub fn reloaded(&self, outcome: &Outcome) {
        let mut known = self.lock();
        if outcome.applied {
            known.applied += 1;
            known.since_ms = clock::wall_ms();
            (known.fallback, known.refusal) = (None, None);
        } else {
            known.refused += 1;
            known.refusal = Some((clock::wall_ms(), outcome.detail.clone()));
        }
    }

    /// How it is now.
    #[must_use]
    pub fn report(&self) -> Report {
        let known = self.lock();
        Report {
            file: known.file.clone(),
            since: rfc3339(known.since_ms),
            fallback: known.fallback.clone(),
            reloads_applied: known.applied,
            reloads_refused: known.refused,
            refusal: known.refusal.as_ref().map(|(at, reasons)| Refusal { at: rfc3339(*at), reasons: reasons.clone() }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
