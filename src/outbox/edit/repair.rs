//! A manifest for segments that have lost theirs.

use super::super::inspect::ManifestState;
use super::super::manifest::ManifestError;
use super::super::rebuild::Rebuilt;
use super::super::{checkpoint, recovery};
use super::{Edit, EditError, Manifest};
use crate::clock;

/// What repairing would do.
#[derive(Debug)]
pub(crate) struct RepairPlan {
    /// What is wrong with the manifest; `None` if nothing is.
    pub(crate) manifest: Option<String>,
    /// What is wrong with the windows' state; `None` if nothing is.
    pub(crate) checkpoint: Option<String>,
}

impl Edit {
    /// What is to be repaired.
    pub(crate) fn plan_repair(&self) -> RepairPlan {
        let manifest = match &self.inspection.manifest {
            ManifestState::Good => None,
            ManifestState::Rebuilt { why, .. } => Some(why.clone()),
        };
        let checkpoint = match checkpoint::read(&self.inspection.directory, self.inspection.keys()) {
            Err(checkpoint::CheckpointError::Damaged(why)) => Some(why.to_owned()),
            _ => None,
        };
        RepairPlan { manifest, checkpoint }
    }

    /// What the segments were found to hold, where the manifest is lost.
    pub(crate) fn rebuilt(&self) -> Option<&Rebuilt> {
        match &self.inspection.manifest {
            ManifestState::Good => None,
            ManifestState::Rebuilt { found, .. } => Some(found),
        }
    }

    /// Writes the manifest, and sets aside what is damaged.
    pub(crate) fn repair(&self, plan: &RepairPlan, machine: &str) -> Result<(), EditError> {
        let directory = &self.inspection.directory;
        let io = |source| EditError::Io { path: directory.clone(), source };
        if plan.checkpoint.is_some() {
            checkpoint::set_aside(directory).map_err(io)?;
        }
        let Some(rebuilt) = self.rebuilt() else { return Ok(()) };
        let mut manifest: Manifest = rebuilt.manifest.clone();
        manifest.machine = machine.to_owned();
        if !rebuilt.knows_installation {
            manifest.installation = recovery::random_name().map_err(|error| io(std::io::Error::other(error)))?;
        }
        if let Err(ManifestError::Damaged { .. }) = Manifest::read(directory) {
            Manifest::set_aside(directory).map_err(io)?;
        }
        rebuilt.set_aside(directory).map_err(|error| io(std::io::Error::other(error)))?;
        self.write(&manifest)?;
        tracing::info!(segments = manifest.segments.len(), at = clock::wall_ms(), "the manifest was made anew");
        Ok(())
    }
}
