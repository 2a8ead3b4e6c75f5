//! Holes: numbers within segments that were delivered without being stored, as the commits behind them say
//! ([`super::hold`]). What is missing and no hole is lost.

use super::manifest::Range;
use super::progress::Progress;
use super::segment::{Contents, Key};
use super::state::missing_in;
use super::{Lane, chunk, recovery};

/// The numbers within segments that were never stored, as their commits say.
pub(crate) fn of_commits<'a>(all: impl Iterator<Item = &'a chunk::Extras>) -> Vec<(Lane, Range)> {
    let holes = all.flat_map(|extras| &extras.skipped);
    holes
        .filter(|(_, first, last)| first <= last)
        .filter_map(|&(lane, first, last)| Some((Lane::from_byte(lane)?, Range { first, last })))
        .collect()
}

/// The same of all commits in a segment.
pub(crate) fn of_segment(contents: &Contents) -> Vec<(Lane, Range)> {
    of_commits(recovery::extras(contents, None).iter())
}

/// What of a lane should be there, cannot be read, and is not delivered: it is lost.
pub(crate) fn lost_in(
    whole: &[(Key, usize)],
    holes: &[(Lane, Range)],
    (lane, range): (Lane, Range),
    progress: Option<&Progress>,
) -> Vec<Range> {
    // What is delivered is no loss: a commit that says of its holes may be among what is damaged, and what was rewritten
    // has left it out.
    let waits = |lost: &Range| progress.is_none_or(|progress| progress.first_missing(lost.first) <= lost.last);
    let missing = without_holes(missing_in(whole, lane, range), lane, holes);
    missing.into_iter().filter(waits).collect()
}

/// What is left of `missing` without the holes of that lane.
pub(crate) fn without_holes(missing: Vec<Range>, lane: Lane, holes: &[(Lane, Range)]) -> Vec<Range> {
    let mut left = missing;
    for (_, hole) in holes.iter().filter(|(of, _)| *of == lane) {
        let mut next = Vec::with_capacity(left.len() + 1);
        for range in left {
            if hole.last < range.first || range.last < hole.first {
                next.push(range);
                continue;
            }
            if range.first < hole.first {
                next.push(Range { first: range.first, last: hole.first - 1 });
            }
            if hole.last < range.last {
                next.push(Range { first: hole.last + 1, last: range.last });
            }
        }
        left = next;
    }
    left
}
