//! What a person may change in an outbox whose gateway is stopped: `tidegate outbox repair`, `replay` and `purge`.
//!
//! Each is planned first, without touching anything, so that it can be shown in numbers; then carried out. Invariants:
//! the data directory's lock is held from before the plan until it is done, so no gateway runs; whatever counts is one
//! replacement of the manifest, and directories are deleted only after the manifest no longer names them; what is given
//! up is declared in the manifest, and the next start stores it as gap records.

mod purge;
mod repair;
mod replay;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::Lane;
use super::cipher::Keys;
use super::inspect::{InspectError, Inspection};
use super::manifest::Manifest;
use super::owner;
use super::recovery::{self, OpenError};
use super::segment::SegmentError;
use crate::glob::Glob;
use crate::reading::Record;

/// Why nothing was changed, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
    #[error("a gateway (process {process}) is running on {path}: stop it first")]
    Running { path: PathBuf, process: String },
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error("{0}; nothing was changed")]
    Segment(#[from] SegmentError),
    #[error("the manifest is lost or damaged ({why}): `tidegate outbox repair` first")]
    NoManifest { why: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// Which records are meant. Everything unless it says less.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// Lanes; empty for all.
    pub(crate) lanes: Vec<Lane>,
    /// Names of devices; of a dead letter its source.
    pub(crate) device: Option<Glob>,
    /// When they were received, by the wall clock of then (ms): from that moment on …
    pub(crate) from_ms: Option<i64>,
    /// … and before this one.
    pub(crate) to_ms: Option<i64>,
}

impl Filter {
    /// Whether it says nothing about single records: a lane is taken whole or not at all.
    pub(crate) fn is_by_lane(&self) -> bool {
        self.device.is_none() && self.from_ms.is_none() && self.to_ms.is_none()
    }

    pub(crate) fn takes_lane(&self, lane: Lane) -> bool {
        self.lanes.is_empty() || self.lanes.contains(&lane)
    }

    /// Whether a record of a lane that it takes is meant.
    pub(crate) fn takes(&self, record: &Record) -> bool {
        let at = record.received().wall_ms;
        self.from_ms.is_none_or(|from| at >= from)
            && self.to_ms.is_none_or(|to| at < to)
            && self.device.as_ref().is_none_or(|device| subject(record).is_some_and(|name| device.is_match(name)))
    }
}

/// Whom a record is about.
fn subject(record: &Record) -> Option<&str> {
    match record {
        Record::Reading(reading) => Some(&reading.device),
        Record::Aggregate(aggregate) => Some(&aggregate.device),
        Record::State(state) => Some(&state.device),
        Record::DeadLetter(letter) => Some(&letter.source),
        Record::Gap(_) | Record::StreamEnd(_) | Record::Event(_) => None,
    }
}

/// An outbox that nobody else uses until this is dropped.
#[derive(Debug)]
pub(crate) struct Edit {
    pub(crate) inspection: Inspection,
    _lock: File,
}

impl Edit {
    /// Takes the data directory, unless a gateway has it, or what is written there would lock out the user whose it is.
    pub(crate) fn open(data_dir: &Path, keys: &Keys, work_dir: Option<&Path>) -> Result<Self, EditError> {
        if !data_dir.join("outbox").is_dir() {
            return Err(InspectError::NoOutbox { path: data_dir.to_owned() }.into());
        }
        owner::check(data_dir).map_err(InspectError::Open)?;
        let lock = match recovery::lock(data_dir) {
            Ok(lock) => lock,
            Err(OpenError::InUse { path, process }) => return Err(EditError::Running { path, process }),
            Err(error) => return Err(InspectError::Open(error).into()),
        };
        Ok(Self { inspection: Inspection::open_as(data_dir, keys, work_dir, None)?, _lock: lock })
    }

    /// The same for what needs a manifest.
    pub(crate) fn open_whole(data_dir: &Path, keys: &Keys, work_dir: Option<&Path>) -> Result<Self, EditError> {
        let edit = Self::open(data_dir, keys, work_dir)?;
        match &edit.inspection.manifest {
            super::inspect::ManifestState::Good => Ok(edit),
            super::inspect::ManifestState::Rebuilt { why, .. } => Err(EditError::NoManifest { why: why.clone() }),
        }
    }

    fn write(&self, manifest: &Manifest) -> Result<(), EditError> {
        let directory = &self.inspection.directory;
        manifest.write(directory).map_err(|source| EditError::Io { path: directory.join("MANIFEST"), source })
    }
}
