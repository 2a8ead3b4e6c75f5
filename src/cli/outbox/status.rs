//! `tidegate outbox status` and `list`.

use std::fmt::Write as _;
use std::process::ExitCode;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::time::{rfc3339, text_and_age};
use super::{Failure, Place, print, print_json};
use crate::cli::status::size;
use crate::gateway::machine_id;
use crate::outbox::Lane;
use crate::outbox::inspect::{Inspection, ManifestState};
use crate::outbox::manifest::Declared;
use crate::outbox::segment_state::SegmentState;

/// So many declarations are listed for a person.
const DECLARED_SHOWN_MAX: usize = 10;

/// The answer of `tidegate outbox status --json`. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Status {
    /// Process of the gateway that runs on it; null if none does.
    running: Option<String>,
    /// What is wrong with the manifest; null if nothing is.
    manifest_damage: Option<String>,
    checkpoint_damage: Option<String>,
    machine: Machine,
    installation: String,
    run: String,
    clean: bool,
    segments: usize,
    bytes: u64,
    waiting: Waiting,
    oldest_waiting: Option<String>,
    kept_segments: usize,
    newest_delivered: Option<String>,
    damaged_segments: Vec<u64>,
    /// Records that the newest segment should hold and does not.
    lost: u64,
    not_yet_read: u64,
    declared: Vec<DeclaredRow>,
    quarantine: Vec<Quarantined>,
}

#[derive(Debug, Serialize)]
struct Machine {
    /// The beginning of the machine id that the outbox belongs to.
    id: String,
    /// Whether it is this machine; null where that is not known.
    is_this: Option<bool>,
    /// The beginning of the id of the machine before, and when the gateway noticed.
    moved_from: Option<String>,
    moved_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct Waiting {
    total: u64,
    alarm: u64,
    aggregate: u64,
    raw: u64,
}

#[derive(Debug, Serialize)]
struct DeclaredRow {
    stream: String,
    /// `gap` or `stream-end`.
    kind: &'static str,
    from: Option<u64>,
    to: u64,
    count: Option<u64>,
    cause: Option<String>,
}

#[derive(Debug, Serialize)]
struct Quarantined {
    path: String,
    bytes: u64,
}

/// `tidegate outbox status`.
pub(super) fn status(place: &Place) -> Result<ExitCode, Failure> {
    let inspection = place.inspect()?;
    let status = gather(&inspection);
    if place.json {
        print_json(&status)?;
    } else {
        print(&text(&inspection, &status))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn gather(inspection: &Inspection) -> Status {
    let manifest = &inspection.stored;
    let [alarm, aggregate, raw] = inspection.waiting();
    let segments = || inspection.segments.values();
    let waits = segments().filter(|segment| segment.missing() > 0);
    let kept = segments().filter(|segment| segment.entry.delivered.is_some());
    let this = machine_id();
    let known = !this.is_empty() && !manifest.machine.is_empty();
    Status {
        running: inspection.running.clone(),
        manifest_damage: match &inspection.manifest {
            ManifestState::Good => None,
            ManifestState::Rebuilt { why, .. } => Some(why.clone()),
        },
        checkpoint_damage: inspection.checkpoint_damage(),
        machine: Machine {
            id: short(&manifest.machine),
            is_this: known.then(|| manifest.machine == this),
            moved_from: manifest.moved.as_ref().map(|moved| short(&moved.from)),
            moved_at: manifest.moved.as_ref().map(|moved| rfc3339(moved.at_ms)),
        },
        installation: manifest.installation.clone(),
        run: manifest.run.clone(),
        clean: manifest.clean,
        segments: inspection.segments.len(),
        bytes: inspection.disk_bytes(),
        waiting: Waiting { total: alarm + aggregate + raw, alarm, aggregate, raw },
        oldest_waiting: waits.filter_map(|segment| segment.entry.oldest_ms).min().map(rfc3339),
        kept_segments: kept.clone().count(),
        newest_delivered: kept.filter_map(|segment| segment.entry.delivered).max().map(rfc3339),
        damaged_segments: segments()
            .filter(|segment| segment.entry.damaged)
            .map(|segment| segment.entry.number)
            .collect(),
        lost: inspection.lost.iter().map(|(_, _, range)| range.count()).sum(),
        not_yet_read: inspection.not_yet_read,
        declared: manifest.declared.iter().map(declared).collect(),
        quarantine: inspection
            .quarantine()
            .into_iter()
            .map(|(path, bytes)| Quarantined { path: path.display().to_string(), bytes })
            .collect(),
    }
}

/// Enough of a machine id to tell two apart; all of it is nobody's business (machine-id(5)).
fn short(machine: &str) -> String {
    machine.chars().take(8).collect()
}

fn declared(declared: &Declared) -> DeclaredRow {
    match declared {
        Declared::Gap { stream, from, to, count, cause, .. } => DeclaredRow {
            stream: stream.clone(),
            kind: "gap",
            from: Some(*from),
            to: *to,
            count: Some(*count),
            cause: Some(cause.clone()),
        },
        Declared::End { stream, last } => {
            DeclaredRow { stream: stream.clone(), kind: "stream-end", from: None, to: *last, count: None, cause: None }
        }
    }
}

fn text(inspection: &Inspection, status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<13}{value}");
    };
    line("outbox", &inspection.directory.display().to_string());
    if let Some(why) = &status.manifest_damage {
        line(
            "MANIFEST",
            &format!("damaged: {why}; this is what the segments say; `tidegate outbox repair` writes it anew"),
        );
    }
    if let Some(why) = &status.checkpoint_damage {
        line("CHECKPOINT", &format!("the state of the windows is damaged: {why}"));
    }
    let machine = match (status.machine.is_this, status.machine.id.as_str()) {
        (_, "") => "not known".to_owned(),
        (Some(true), id) => format!("{id}…, this one"),
        (Some(false), id) => format!(
            "{id}…, NOT THIS ONE: a clone or a restored backup; a start here begins new streams and a new MQTT client id"
        ),
        (None, id) => format!("{id}…"),
    };
    line("machine", &machine);
    if let (Some(from), Some(at)) = (&status.machine.moved_from, &status.machine.moved_at) {
        line("moved", &format!("from machine {from}…, noticed {at}: new streams and a new MQTT client id since"));
    }
    line("installation", &format!("{}, the end of the MQTT client ids", status.installation));
    let run = match (&status.running, status.clean) {
        (Some(process), _) => format!("{}, going on (process {process}); this is a look from beside", status.run),
        (None, _) if status.run.is_empty() => "none yet".to_owned(),
        (None, true) => format!("{}, stopped in good order", status.run),
        (None, false) => format!("{}, not stopped in good order", status.run),
    };
    line("run", &run);
    let waiting = &status.waiting;
    let oldest = inspection.segments.values().filter(|segment| segment.missing() > 0);
    let oldest = oldest.filter_map(|segment| segment.entry.oldest_ms).min();
    let oldest = oldest.map(|ms| format!(", the oldest of {}", text_and_age(ms))).unwrap_or_default();
    line("waiting", &format!("{} records{oldest}", waiting.total));
    for (lane, count) in [("alarm", waiting.alarm), ("aggregate", waiting.aggregate), ("raw", waiting.raw)] {
        if count > 0 {
            line("", &format!("{count} {lane}"));
        }
    }
    line("on disk", &format!("{} in {} segments", size(status.bytes), status.segments));
    if status.kept_segments > 0 {
        line("kept", &format!("{} segments are delivered and kept for `tidegate outbox replay`", status.kept_segments));
    }
    if status.not_yet_read > 0 {
        line("", &format!("{} records that were stored while this was read are not in it", status.not_yet_read));
    }
    for number in &status.damaged_segments {
        line("DAMAGED", &format!("segment {number}; `tidegate outbox verify` says more"));
    }
    if status.lost > 0 {
        line("", &format!("{} records that were stored cannot be read any more", status.lost));
    }
    for row in status.declared.iter().take(DECLARED_SHOWN_MAX) {
        let what = match (&row.from, &row.count, &row.cause) {
            (Some(from), Some(count), Some(cause)) => {
                format!("{} gives up {count} records of {from} to {} ({cause})", row.stream, row.to)
            }
            _ => format!("{} ends with {}", row.stream, row.to),
        };
        line("to declare", &what);
    }
    if let Some(more) = status.declared.len().checked_sub(DECLARED_SHOWN_MAX).filter(|more| *more > 0) {
        line("", &format!("and {more} more"));
    }
    for row in &status.quarantine {
        line("quarantine", &format!("{} ({})", row.path, size(row.bytes)));
    }
    text
}

/// A segment in `tidegate outbox list --json`. Fields are only ever added.
#[derive(Debug, Serialize)]
struct SegmentRow {
    segment: u64,
    generation: u32,
    run: String,
    lanes: Vec<LaneRow>,
    waiting: u64,
    bytes: u64,
    oldest: Option<String>,
    /// Whether no gateway writes it any more.
    closed: bool,
    /// Since when it is kept though delivered.
    delivered: Option<String>,
    damaged: bool,
}

#[derive(Debug, Serialize)]
struct LaneRow {
    lane: &'static str,
    first: u64,
    last: u64,
    delivered: u64,
}

/// `tidegate outbox list`.
pub(super) fn list(place: &Place) -> Result<ExitCode, Failure> {
    let inspection = place.inspect()?;
    if let ManifestState::Rebuilt { why, .. } = &inspection.manifest {
        super::remark(&format!("the manifest is damaged ({why}): this is what the segments say"));
    }
    let rows = rows(&inspection);
    if place.json {
        print_json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&list_text(&inspection, &rows))?;
    Ok(ExitCode::SUCCESS)
}

fn rows(inspection: &Inspection) -> Vec<SegmentRow> {
    let newest = inspection.segments.keys().next_back().copied();
    let is_closed = |number: u64| inspection.running.is_none() || Some(number) != newest;
    inspection.segments.values().map(|segment| row(segment, is_closed(segment.entry.number))).collect()
}

fn list_text(inspection: &Inspection, rows: &[SegmentRow]) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["SEGMENT", "RUN", "LANE", "NUMBERS", "WAITING", "BYTES", "OLDEST", ""]);
    for column in [0, 4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (row, segment) in rows.iter().zip(inspection.segments.values()) {
        let mut remark = Vec::new();
        row.damaged.then(|| remark.push("damaged"));
        row.delivered.is_some().then(|| remark.push("kept"));
        segment.entry.settled.is_some().then(|| remark.push("replayed or purged"));
        (!row.closed).then(|| remark.push("being written"));
        let oldest = segment.entry.oldest_ms.map(super::time::text).unwrap_or_default();
        let name = match row.generation {
            0 => row.segment.to_string(),
            generation => format!("{}.{generation}", row.segment),
        };
        let mut first = [name, row.run.clone(), size(row.bytes), oldest, remark.join(", ")];
        if row.lanes.is_empty() {
            let [name, run, bytes, oldest, remark] = std::mem::take(&mut first);
            table.add_row([name, run, String::new(), String::new(), String::new(), bytes, oldest, remark]);
        }
        for lane in &row.lanes {
            let [name, run, bytes, oldest, remark] = std::mem::take(&mut first);
            let waits = (lane.last - lane.first + 1 - lane.delivered).to_string();
            let numbers = format!("{} to {}", lane.first, lane.last);
            table.add_row([name, run, lane.lane.to_owned(), numbers, waits, bytes, oldest, remark]);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Both answers, for `tidegate support`: for a person, and as JSON.
pub(in crate::cli) fn both(inspection: &Inspection) -> (String, String) {
    let (status, rows) = (gather(inspection), rows(inspection));
    let both = serde_json::json!({"status": status, "segments": rows});
    let json = serde_json::to_string_pretty(&both).unwrap_or_default() + "\n";
    (text(inspection, &status) + "\n" + &list_text(inspection, &rows), json)
}

fn row(segment: &SegmentState, closed: bool) -> SegmentRow {
    let entry = &segment.entry;
    let lanes = Lane::ALL.into_iter().filter_map(|lane| {
        let range = entry.lanes[lane.index()]?;
        let delivered = range.count() - segment.missing_of(lane).min(range.count());
        Some(LaneRow { lane: lane.as_str(), first: range.first, last: range.last, delivered })
    });
    SegmentRow {
        segment: entry.number,
        generation: entry.generation,
        run: entry.run.clone(),
        lanes: lanes.collect(),
        waiting: segment.missing(),
        bytes: entry.bytes,
        oldest: entry.oldest_ms.map(rfc3339),
        closed,
        delivered: entry.delivered.map(rfc3339),
        damaged: segment.entry.damaged,
    }
}
