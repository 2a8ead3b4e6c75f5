//! Opening the outbox: what the run before left, and what that means.
//!
//! Only the newest segment is opened (and the one before it, if a crash left the newest empty), so that a start takes
//! as long for 100 GB as for 1 MB. Nothing is written here but, at the very first start or on another machine, the
//! manifest: a gateway whose disk is full still starts and drains. An old segment is never written again: what sled's own
//! recovery does never mixes with new promises.

mod newest;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use newest::extras;
pub(super) use newest::{Found, apply_cursor};
use newest::{end_of_stream, settle_losses};
use tracing::{error, info, warn};

use super::checkpoint::{self, Checkpoint, CheckpointError};
use super::chunk::{self, Cutter};
use super::cipher::Keys;
use super::hold::Hold;
use super::manifest::{Declared, Entry, Manifest, ManifestError, Moved, Range};
use super::rebuild::rebuild;
use super::receipts::Receipts;
use super::record::Names;
use super::segment::{self, Contents, SegmentError, sync_directory};
use super::segment_state::SegmentState;
use super::state::{Shared, State};
use super::writer::Writer;
use super::{Lane, Left, Options, owner};
use crate::config;
use crate::counters::{Count, Counters};
use crate::reading::Record;

pub(super) const LOCK: &str = ".lock";
pub(super) const QUARANTINE: &str = "quarantine";
const LOCK_ATTEMPTS: u32 = 3;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Why the outbox could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory cannot be made, read or written.
    #[error("{path}: {source}; the data directory must be readable and writable by the user that the gateway runs as")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another gateway is using it.
    #[error(
        "the data directory {path} is in use by another gateway (process {process}): stop it, or set another data_dir"
    )]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// Its process id, as far as it is known.
        process: String,
    },
    /// What root would write there, the user whom it belongs to could not open.
    #[error(
        "{path} belongs to the user {user}: files written there by root would lock the service out; run it as that user, \
         `sudo -u {user} tidegate ...` (or, if no service uses it, make root its owner); nothing was changed"
    )]
    Owner {
        /// The data directory.
        path: PathBuf,
        /// Whose it is: a name, or `'#NUMBER'`, as sudo takes it.
        user: String,
    },
    /// The manifest cannot be used.
    #[error("{0}")]
    Manifest(String),
    /// What is stored is encrypted with a key that is not configured.
    #[error(
        "{path}: {what} encrypted with key {id}, which is not among the keys in [outbox.encryption] ({configured}): set it as \
         key, or add it to previous_keys; nothing was changed"
    )]
    Key {
        /// The outbox's directory.
        path: PathBuf,
        /// The id of the key that is missing.
        id: String,
        /// What it has encrypted.
        what: String,
        /// The ids of the configured keys.
        configured: String,
    },
    /// The newest segment cannot be read now.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// No randomness for the run's name.
    #[error("no random numbers from the system: {0}")]
    Random(getrandom::Error),
    /// The thread cannot be started, or memory is short.
    #[error("the outbox's thread cannot be started: {0}")]
    Thread(io::Error),
}

/// Where a segment's database is. What is rewritten keeps its number, which is its place in the order, in a directory of
/// another name: so the old and the new one are there side by side until the manifest says which counts.
pub(crate) fn segment_path(directory: &Path, number: u64, generation: u32) -> PathBuf {
    directory.join(match generation {
        0 => format!("{number:016}"),
        generation => format!("{number:016}.{generation}"),
    })
}

/// Sets a segment aside, whole.
pub(crate) fn quarantine(directory: &Path, number: u64, generation: u32) -> io::Result<()> {
    let aside = directory.join(QUARANTINE);
    make_directory(&aside)?;
    // Numbers can come again after the manifest was lost.
    let free = (generation..).map(|again| segment_path(&aside, number, again)).find(|target| !target.exists());
    fs::rename(segment_path(directory, number, generation), free.ok_or(io::ErrorKind::AlreadyExists)?)?;
    // Where a cut brings it back to its old place, the next start removes it: no manifest names it any more.
    sync_directory(&aside)?;
    sync_directory(directory)
}

/// Makes a directory, and its name durable: whatever is synced in it is lost with its name. Each time, because the start
/// that made it may not have come to that.
fn make_durable_directory(path: &Path) -> io::Result<()> {
    make_directory(path)?;
    let Some(parent) = path.parent() else { return Ok(()) };
    sync_directory(parent)?;
    // Whoever installed the gateway made the directory above, and may not let it read the one that is above that.
    let _ = parent.parent().filter(|above| !above.as_os_str().is_empty()).map(sync_directory);
    Ok(())
}

pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(super) fn random_name() -> Result<String, OpenError> {
    let mut bytes = [0_u8; 6];
    getrandom::fill(&mut bytes).map_err(OpenError::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Opens the outbox: its shared state, and the writer that is to be started on it.
pub(crate) fn open(
    settings: &config::Outbox,
    options: &Options,
    counters: &Counters,
) -> Result<(Shared, Writer, Left), OpenError> {
    // Before anything is made.
    owner::check(&options.data_dir)?;
    let directory = options.data_dir.join("outbox");
    make_durable_directory(&directory).map_err(|source| OpenError::Directory { path: directory.clone(), source })?;
    let lock = lock(&options.data_dir)?;
    let keys = Keys::new(&settings.encryption);
    let checkpoint = checkpoint::read(&directory, &keys);
    // Before anything is written, moved or removed.
    check_keys(&directory, &keys, checkpoint.as_ref().err())?;
    let mut manifest = read_manifest(&directory, &options.machine, &keys, counters)?;
    remove_unnamed(&directory, &manifest);
    let checkpoint = take_checkpoint(&directory, checkpoint)?;
    let mut found = Found::default();
    let load = &mut |(number, generation)| segment::load(&segment_path(&directory, number, generation), &keys);
    found.read(&directory, &mut manifest, checkpoint.as_ref().map(|checkpoint| checkpoint.segment), load)?;
    if manifest.machine != options.machine && !manifest.machine.is_empty() && !options.machine.is_empty() {
        warn!(
            was = manifest.machine,
            "the data directory comes from another machine: new streams begin, and MQTT sessions under a new client id"
        );
        manifest.moved = Some(Moved { from: manifest.machine.clone(), at_ms: crate::clock::wall_ms() });
        manifest.machine.clone_from(&options.machine);
        manifest.installation = random_name()?;
        found.receipts.clear();
        write_manifest(&manifest, &directory)?;
    }
    if manifest.machine.is_empty() {
        // It was made on a machine without an id: goes into the manifest with the next change.
        manifest.machine.clone_from(&options.machine);
    }
    let mut segments: BTreeMap<u64, SegmentState> =
        manifest.segments.iter().map(|entry| (entry.number, SegmentState::new(entry.clone()))).collect();
    apply_cursor(&mut segments, &found);
    for &(number, lane, hole) in &found.holes {
        if let Some(segment) = segments.get_mut(&number) {
            segment.settle_hole(lane, hole);
        }
    }
    settle_losses(&mut segments, &found, &mut manifest, counters);
    let run = random_name()?;
    if !manifest.clean {
        let streams = manifest.segments.iter().rfind(|entry| entry.run == manifest.run);
        if streams.is_some() || manifest.holds {
            let ends: Vec<_> = Lane::ALL.into_iter().filter_map(|lane| end_of_stream(&manifest, lane)).collect();
            // Declared by an earlier start already, which ended before it could commit that.
            let ends: Vec<_> = ends.into_iter().filter(|end| !manifest.declared.contains(end)).collect();
            manifest.declared.extend(ends);
            info!("the gateway was not stopped in good order: what was stored is there, a new run begins");
        }
    }
    let left_from = checkpoint.as_ref().map(|checkpoint| checkpoint.segment);
    let left = Left {
        checkpoint: checkpoint.map(|checkpoint| checkpoint.bytes),
        journal: chunk::journal(std::mem::take(&mut found.journal)),
    };
    let names = (run.clone(), manifest.installation.clone(), manifest.next, options.receipts_max);
    let receipts = found.receipts.into_iter().map(|(name, mut receipts)| {
        while receipts.len() > options.receipts_max {
            receipts.pop_front();
        }
        (name, receipts)
    });
    let mut state = State::new(segments, Receipts::new(receipts.collect()));
    state.cursor_changed = false;
    let stored =
        state.receipts.durable().iter().map(|(session, receipts)| (session, receipts.iter().copied().collect()));
    state.hold = Hold::new(settings, stored, options.receipts_max);
    state.left_from = left_from;
    let keep_from = found.newest.unwrap_or(0);
    let cutter = Cutter::new().map_err(OpenError::Thread)?;
    let writer = Writer::new(manifest, &run, cutter, keep_from, counters);
    Ok((Shared::new(state, directory, settings.clone(), names, lock, counters), writer, left))
}

/// One gateway for each data directory. The lock goes with the process, however it ends.
pub(super) fn lock(data_dir: &Path) -> Result<File, OpenError> {
    let path = data_dir.join(LOCK);
    let error = |source| OpenError::Directory { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(error)?;
    let mut locked = file.try_lock();
    for _ in 0..LOCK_ATTEMPTS {
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            break;
        }
        // Whoever asks whether a gateway runs holds it for a moment.
        std::thread::sleep(LOCK_PAUSE);
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let process = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            return Err(OpenError::InUse { path: data_dir.to_owned(), process });
        }
        Err(TryLockError::Error(source)) => return Err(error(source)),
    }
    // Only a help for the person who meets the lock; a full disk must not keep the gateway from draining.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Whether the keys of all that is stored are there: those of the segments that the manifest names, and of the checkpoint.
pub(super) fn check_keys(directory: &Path, keys: &Keys, checkpoint: Option<&CheckpointError>) -> Result<(), OpenError> {
    let missing = |id: &str, what: String| {
        let configured = if keys.ids().is_empty() { "there are none".to_owned() } else { keys.ids().join(", ") };
        OpenError::Key { path: directory.to_owned(), id: id.to_owned(), what, configured }
    };
    // One that is damaged is made anew, and the segments then say it themselves.
    let segments = Manifest::read(directory).ok().flatten().map(|manifest| manifest.segments).unwrap_or_default();
    let unknown = |entry: &&Entry| entry.key.as_ref().is_some_and(|id| !keys.has(id));
    if let Some(id) = segments.iter().find(unknown).and_then(|entry| entry.key.as_deref()) {
        let of_key: Vec<u64> =
            segments.iter().filter(|entry| entry.key.as_deref() == Some(id)).map(|entry| entry.number).collect();
        let what = match of_key.as_slice() {
            [one] => format!("segment {one} is"),
            [first, .., last] => format!("{} segments ({first} to {last}) are", of_key.len()),
            [] => String::new(),
        };
        return Err(missing(id, what));
    }
    match checkpoint {
        Some(CheckpointError::Key(id)) => Err(missing(id, "the state of the windows is".to_owned())),
        _ => Ok(()),
    }
}

fn read_manifest(directory: &Path, machine: &str, keys: &Keys, counters: &Counters) -> Result<Manifest, OpenError> {
    let reason = match Manifest::read(directory) {
        Ok(Some(manifest)) => return Ok(manifest),
        Ok(None) => None,
        Err(ManifestError::Damaged { reason, .. }) => Some(reason),
        Err(error) => return Err(OpenError::Manifest(error.to_string())),
    };
    let found = segments_in(directory)?;
    let mut manifest = Manifest::new(machine.to_owned(), random_name()?);
    let mut rebuilt = None;
    if !found.is_empty() {
        warn!(segments = found.len(), "the outbox has segments and no manifest: it is made anew from them");
        let load = &mut |(number, generation)| segment::load(&segment_path(directory, number, generation), keys);
        // Nothing is moved before all of it was read: the key of a segment may be missing.
        rebuilt = Some(rebuild(directory, &found, manifest.clone(), keys, load)?);
    }
    if let Some(reason) = &reason {
        Manifest::set_aside(directory).map_err(|source| OpenError::Directory { path: directory.to_owned(), source })?;
        error!("the outbox's manifest is damaged ({reason}): it is made anew from the segments");
    }
    if let Some(rebuilt) = rebuilt {
        counters.add(Count::Quarantined, "", rebuilt.damaged.len() as u64);
        rebuilt.set_aside(directory)?;
        rebuilt.log();
        manifest = rebuilt.manifest;
    }
    write_manifest(&manifest, directory)?;
    Ok(manifest)
}

/// The rules' state. A damaged one is set aside; what it held is lost, and whoever reads the journal says so.
fn take_checkpoint(
    directory: &Path,
    read: Result<Option<Checkpoint>, CheckpointError>,
) -> Result<Option<Checkpoint>, OpenError> {
    let error = |source| OpenError::Directory { path: directory.join("CHECKPOINT"), source };
    match read {
        Ok(found) => Ok(found),
        Err(CheckpointError::Damaged(reason)) => {
            error!("the checkpoint of the windows' state is damaged ({reason}) and is set aside: the state is lost");
            checkpoint::set_aside(directory).map_err(error)?;
            Ok(None)
        }
        Err(CheckpointError::Io(source)) => Err(error(source)),
        Err(later @ (CheckpointError::Version(_) | CheckpointError::Key(_))) => {
            let path = directory.join("CHECKPOINT");
            Err(OpenError::Manifest(format!("{}: {later}", path.display())))
        }
    }
}

pub(super) fn write_manifest(manifest: &Manifest, directory: &Path) -> Result<(), OpenError> {
    manifest.write(directory).map_err(|source| OpenError::Directory { path: directory.join("MANIFEST"), source })
}

/// Number and generation of each segment that has a directory, in their order.
pub(super) fn segments_in(directory: &Path) -> Result<Vec<(u64, u32)>, OpenError> {
    let entries =
        fs::read_dir(directory).map_err(|source| OpenError::Directory { path: directory.to_owned(), source })?;
    let parse = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let (number, generation) = name.to_str()?.split_at_checked(16)?;
        let generation = match generation.strip_prefix('.') {
            Some(generation) => generation.parse().ok()?,
            None if generation.is_empty() => 0,
            None => return None,
        };
        Some((number.parse().ok()?, generation))
    };
    let mut found: Vec<(u64, u32)> = entries.flatten().filter_map(parse).collect();
    found.sort_unstable();
    Ok(found)
}

/// From the first to the last number of each lane that is there.
pub(super) fn ranges(whole: &[(segment::Key, usize)]) -> [Option<Range>; 3] {
    Lane::ALL.map(|lane| {
        let of_lane = || whole.iter().filter(|(key, _)| key.lane == Some(lane));
        let first = of_lane().map(|(key, _)| key.number).min()?;
        let last = of_lane().map(|(key, count)| key.number + *count as u64).max()?.checked_sub(1)?;
        (last >= first).then_some(Range { first, last })
    })
}

/// What the manifest says of a segment besides its numbers.
pub(super) fn describe(entry: &mut Entry, contents: &Contents) {
    let mut names = Names::default();
    (entry.sizes, entry.newest, entry.declares) = ([0; 3], [None; 3], Vec::new());
    let mut trusted = [true; 3];
    for (key, value) in &contents.values {
        let Some(lane) = key.lane else { continue };
        entry.sizes[lane.index()] += value.len() as u64;
        let opened = chunk::open(value).and_then(|opened| chunk::decode(&[opened], &mut names));
        let Ok(batch) = opened else {
            // In parts, or damaged: without its times it never counts as old.
            trusted[lane.index()] = false;
            continue;
        };
        for (record, seq) in batch.records.iter().zip(key.number..) {
            let received = record.received();
            entry.oldest_ms = entry.oldest_ms.or(Some(received.wall_ms));
            entry.newest[lane.index()] = entry.newest[lane.index()].max(Some(received.wall_ms));
            trusted[lane.index()] &= received.trusted;
            if lane == Lane::Raw {
                entry.declares.extend(Declared::of(record).map(|declared| (seq, declared)));
            }
        }
    }
    for lane in Lane::ALL.into_iter().filter(|lane| !trusted[lane.index()]) {
        entry.newest[lane.index()] = None;
    }
}

/// Whether its raw lane holds what stands for thinned readings: no other raw lane has aggregates.
pub(super) fn is_thinned(contents: &Contents) -> bool {
    let mut names = Names::default();
    let raw = contents.values.iter().filter(|(key, _)| key.lane == Some(Lane::Raw));
    let batches = raw.filter_map(|(_, value)| chunk::decode(&[chunk::open(value).ok()?], &mut names).ok());
    batches.into_iter().any(|batch| batch.records.iter().any(|record| matches!(record, Record::Aggregate(_))))
}

/// Removes what no manifest names: the beginnings of segments that never counted, the ends of deletions.
fn remove_unnamed(directory: &Path, manifest: &Manifest) {
    for (number, generation) in segments_in(directory).unwrap_or_default() {
        let path = segment_path(directory, number, generation);
        if manifest.segments.iter().all(|entry| (entry.number, entry.generation) != (number, generation))
            && let Err(error) = fs::remove_dir_all(&path)
        {
            warn!("{} could not be removed: {error}", path.display());
        }
    }
}
