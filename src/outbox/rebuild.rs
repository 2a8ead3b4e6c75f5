//! A manifest from the segments themselves, where it is lost or damaged: at a start, by `tidegate outbox repair`, and in
//! memory only where somebody just looks.
//!
//! What segments are found to hold is taken for all that they held. Invariants: nothing is written here; a record that two
//! segments of a run hold counts once, in the later one (a commit that failed may have left something, and its records are
//! then in the segment after it, under the same numbers); one segment at a time is in memory.

use std::collections::HashMap;
use std::path::Path;

use tracing::{error, warn};

use super::chunk::Extras;
use super::cipher::Keys;
use super::manifest::{Entry, Manifest, Range, Witness};
use super::progress::Progress;
use super::reader::whole;
use super::recovery::{self, OpenError};
use super::segment::{self, Contents, Key, SegmentError};
use super::state::missing_in;
use super::{Lane, checkpoint, holes};

/// Number and generation of a segment.
pub(crate) type Name = (u64, u32);
/// What reads a segment.
pub(crate) type Load<'a> = &'a mut dyn FnMut(Name) -> Result<Contents, SegmentError>;

/// What was found.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    pub(crate) manifest: Manifest,
    /// Segments of which nothing can be read, and why.
    pub(crate) damaged: Vec<(Name, String)>,
    /// Segments that are read with parts missing: what, and how many records.
    pub(crate) partly: Vec<(Name, String)>,
    /// Segments without a record that is not in a later one too, or rewritten half: they are left out.
    pub(crate) repeated: Vec<Name>,
    /// Records that are in a later segment too.
    pub(crate) repeated_records: u64,
    /// Whether the MQTT client id of before could be found out.
    pub(crate) knows_installation: bool,
}

impl Rebuilt {
    /// Moves what cannot be read to quarantine, before the manifest without it is written.
    pub(crate) fn set_aside(&self, directory: &Path) -> Result<(), OpenError> {
        for ((number, generation), _) in &self.damaged {
            recovery::quarantine(directory, *number, *generation).map_err(|source| OpenError::Directory {
                path: recovery::segment_path(directory, *number, *generation),
                source,
            })?;
        }
        Ok(())
    }

    /// Says what was found.
    pub(crate) fn log(&self) {
        for ((number, _), reason) in &self.damaged {
            error!(segment = number, "a segment is damaged and goes to quarantine: {reason}");
        }
        for ((number, _), reason) in &self.partly {
            error!(segment = number, "a segment is damaged, the rest of it counts: {reason}");
        }
        if self.repeated_records > 0 {
            warn!(
                records = self.repeated_records,
                "records are there twice, left by commits that failed: they count once"
            );
        }
    }
}

/// Makes a manifest for `found` that goes on from `manifest`, a new one.
///
/// # Errors
/// When a segment cannot be read for a reason that is not damage.
pub(crate) fn rebuild(
    directory: &Path,
    found: &[Name],
    manifest: Manifest,
    keys: &Keys,
    load: Load<'_>,
) -> Result<Rebuilt, OpenError> {
    let mut rebuilt = Rebuilt {
        manifest,
        damaged: Vec::new(),
        partly: Vec::new(),
        repeated: Vec::new(),
        repeated_records: 0,
        knows_installation: false,
    };
    rebuilt.manifest.clean = false;
    let mut installation = None;
    // What each segment holds without a hole, by lane.
    let mut held: Vec<[Vec<Range>; 3]> = Vec::new();
    for generations in found.chunk_by(|a, b| a.0 == b.0) {
        // The older one is whole for as long as it is there; a newer one may be half written.
        let mut taken = false;
        for &name in generations {
            if taken {
                rebuilt.repeated.push(name);
                continue;
            }
            let contents = match load(name) {
                Ok(contents) => contents,
                Err(SegmentError::Damaged { reason, .. }) => {
                    rebuilt.damaged.push((name, reason));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let whole = whole(&contents);
            // A database that opens empty, or whose header is lost and whose values are unreadable with it.
            if contents.run.is_none() && whole.is_empty() {
                rebuilt.damaged.push((name, "it has neither a header nor a record that can be read".to_owned()));
                continue;
            }
            taken = true;
            let extras = recovery::extras(&contents, None);
            let holes = holes::of_commits(extras.iter());
            installation = installation_in(&extras).or(installation);
            let entry = entry(directory, name, &contents, &whole);
            let lost: u64 = Lane::ALL
                .into_iter()
                .filter_map(|lane| Some((lane, entry.lanes[lane.index()]?)))
                .filter(|_| name.1 == 0)
                .flat_map(|(lane, range)| holes::without_holes(missing_in(&whole, lane, range), lane, &holes))
                .map(Range::count)
                .sum();
            if lost > 0 || contents.damage.is_some() {
                let why = contents.damage.as_deref().unwrap_or("it holds less than was stored");
                rebuilt.partly.push((name, format!("{why}; {lost} records are missing")));
            }
            held.push(Lane::ALL.map(|lane| joined(&whole, lane)));
            rebuilt.manifest.run.clone_from(&entry.run);
            rebuilt.manifest.segments.push(entry);
        }
    }
    if let Some(installation) = installation {
        rebuilt.manifest.installation = installation;
        rebuilt.knows_installation = true;
    }
    rebuilt.leave_out_repeated(&held);
    rebuilt.manifest.next = next_number(directory, found, keys);
    rebuilt.open_newest(directory);
    Ok(rebuilt)
}

impl Rebuilt {
    fn leave_out_repeated(&mut self, held: &[[Vec<Range>; 3]]) {
        let mut later: HashMap<(String, usize), Vec<Range>> = HashMap::new();
        let mut kept = Vec::new();
        for (mut entry, held) in std::mem::take(&mut self.manifest.segments).into_iter().zip(held).rev() {
            let had = entry.lanes;
            for (lane, held) in held.iter().enumerate() {
                let Some(range) = entry.lanes[lane] else { continue };
                // The numbers of what stands for thinned readings are its own.
                if entry.thinned.is_some() && lane == Lane::Raw.index() {
                    continue;
                }
                let of_later = later.entry((entry.run.clone(), lane)).or_default();
                let rest = without_repeated(range, of_later);
                self.repeated_records += range.count() - rest.map_or(0, Range::count);
                entry.lanes[lane] = rest;
                of_later.extend_from_slice(held);
            }
            let last = entry.lanes[Lane::Raw.index()].map_or(0, |range| range.last);
            entry.declares.retain(|(seq, _)| *seq <= last);
            if entry.lanes == [None; 3] && had != [None; 3] {
                self.repeated.push((entry.number, entry.generation));
            } else {
                kept.push(entry);
            }
        }
        kept.reverse();
        self.manifest.segments = kept;
    }

    /// The newest segment is left open, so that the next start compares it with the witness.
    fn open_newest(&mut self, directory: &Path) {
        let Some(newest) = self.manifest.segments.last_mut() else { return };
        let witnessed = Witness::read(directory).filter(|witnessed| witnessed.segment == newest.number);
        let witnessed = witnessed.unwrap_or_default().last;
        newest.sealed = false;
        // Of a lane that it does not hold nothing is known but that nothing is missing.
        newest.starts = std::array::from_fn(|lane| newest.lanes[lane].map_or(witnessed[lane] + 1, |range| range.first));
    }
}

fn entry(directory: &Path, (number, generation): Name, contents: &Contents, whole: &[(Key, usize)]) -> Entry {
    let bytes = segment::disk_bytes(&recovery::segment_path(directory, number, generation));
    let run = contents.run.clone().unwrap_or_else(|| format!("unknown{number}"));
    let mut entry = Entry { number, generation, run, bytes, ..entry_of(contents, whole) };
    if generation > 0 {
        entry.thinned = recovery::is_thinned(contents).then_some(generation);
        // What is not there was delivered when it was rewritten.
        for lane in Lane::ALL {
            let Some(range) = entry.lanes[lane.index()] else { continue };
            let mut progress = Progress::new(range.first);
            for gone in missing_in(whole, lane, range) {
                for number in gone.first..=gone.last {
                    progress.deliver(number);
                }
            }
            entry.cursor.push(progress.entry(number, generation, lane.index_byte()));
        }
    }
    entry
}

/// What a segment holds by its own account.
pub(crate) fn entry_of(contents: &Contents, whole: &[(Key, usize)]) -> Entry {
    let run = contents.run.clone().unwrap_or_default();
    let key = contents.key.clone();
    let mut entry = Entry { run, key, lanes: recovery::ranges(whole), sealed: true, ..Entry::default() };
    recovery::describe(&mut entry, contents);
    entry
}

/// The lane's numbers without a hole.
fn joined(whole: &[(Key, usize)], lane: Lane) -> Vec<Range> {
    let mut joined: Vec<Range> = Vec::new();
    for (key, count) in whole.iter().filter(|(key, count)| key.lane == Some(lane) && *count > 0) {
        let range = Range { first: key.number, last: key.number + *count as u64 - 1 };
        match joined.last_mut() {
            Some(before) if before.last + 1 == range.first => before.last = range.last,
            _ => joined.push(range),
        }
    }
    joined
}

/// What is left of a range whose end a later segment holds too.
fn without_repeated(range: Range, later: &[Range]) -> Option<Range> {
    let mut last = range.last;
    while let Some(other) = later.iter().find(|other| (other.first..=other.last).contains(&last)) {
        if other.first <= range.first {
            return None;
        }
        last = other.first - 1;
    }
    Some(Range { last, ..range })
}

/// A number that was never used, as far as can be seen.
fn next_number(directory: &Path, found: &[Name], keys: &Keys) -> u64 {
    let aside = recovery::segments_in(&directory.join(recovery::QUARANTINE)).unwrap_or_default();
    let checkpoint = checkpoint::read(directory, keys).ok().flatten().map_or(0, |checkpoint| checkpoint.segment);
    let witnessed = Witness::read(directory).map_or(0, |witnessed| witnessed.segment);
    let used = found.iter().chain(&aside).map(|(number, _)| *number);
    used.chain([checkpoint.saturating_sub(1), witnessed]).max().unwrap_or(0) + 1
}

/// Receipts name the MQTT session, whose client id names the installation: with it the broker's queue is found again.
fn installation_in(extras: &[Extras]) -> Option<String> {
    let sessions = extras.iter().rev().flat_map(|extras| &extras.receipts).map(|(session, ..)| session);
    let of_session = |session: &String| {
        let (_, client) = session.split_once("/tidegate-")?;
        let (_, name) = client.rsplit_once('-')?;
        let is_ours =
            name.len() == 12 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        is_ours.then(|| name.to_owned())
    };
    sessions.filter_map(of_session).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> Range {
        Range { first, last }
    }

    #[test]
    fn what_a_later_segment_holds_too_is_cut_off() {
        assert_eq!(without_repeated(range(1, 10), &[]), Some(range(1, 10)));
        assert_eq!(without_repeated(range(1, 10), &[range(11, 20)]), Some(range(1, 10)));
        assert_eq!(without_repeated(range(1, 10), &[range(8, 20)]), Some(range(1, 7)));
        assert_eq!(without_repeated(range(1, 10), &[range(9, 10), range(5, 8)]), Some(range(1, 4)));
        assert_eq!(without_repeated(range(5, 10), &[range(5, 20)]), None);
        // A later one with a hole: what only the earlier one has stays.
        assert_eq!(without_repeated(range(1, 10), &[range(3, 5)]), Some(range(1, 10)));
    }

    #[test]
    fn the_client_id_of_before_is_found_in_the_receipts() {
        let with = |session: &str| {
            installation_in(&[Extras { receipts: vec![(session.to_owned(), vec![1], vec![2])], ..Extras::default() }])
        };
        assert_eq!(with("mqtt.home/tidegate-home-01-home-0123456789ab").as_deref(), Some("0123456789ab"));
        assert_eq!(with("mqtt.home/my-own-0123456789ab"), None);
        assert_eq!(with("mqtt.home/tidegate-home-01-home-longer"), None);
    }
}
