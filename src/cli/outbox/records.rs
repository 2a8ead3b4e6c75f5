//! `tidegate outbox show` and `export`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;

use super::progress::Progress;
use super::{Failure, Format, INCOMPLETE, Place, print, remark};
use crate::config::{self, Config, Loaded, Purpose};
use crate::outbox::Lane;
use crate::outbox::edit::Filter;
use crate::outbox::inspect::{Piece, pieces};
use crate::outbox::record::Names;
use crate::outbox::state::SegmentState;
use crate::print::Columns;
use crate::reading::{Batch, Record};
use crate::uplink::lines::Exporter;
use crate::uplink::source::Chunk;

/// Output is gathered up to this.
const OUTPUT_BYTES: usize = 64 << 10;

/// What to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which {
    segment: u64,
    lane: Option<Lane>,
    number: Option<u64>,
}

impl Which {
    /// `42`, `42:raw`, `42:raw:1234`.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected =
            || "expected a segment such as 42, 42:raw or 42:raw:1234; lanes are alarm, aggregate, raw".to_owned();
        let mut parts = text.split(':');
        let segment = parts.next().and_then(|part| part.parse().ok()).ok_or_else(expected)?;
        let lane = match parts.next() {
            None => None,
            Some(name) => Some(Lane::ALL.into_iter().find(|lane| lane.as_str() == name).ok_or_else(expected)?),
        };
        let number = match parts.next() {
            None => None,
            Some(part) => Some(part.parse().map_err(|_| expected())?),
        };
        if parts.next().is_some() { Err(expected()) } else { Ok(Self { segment, lane, number }) }
    }

    fn takes(&self, lane: Lane, number: u64) -> bool {
        self.lane.is_none_or(|wanted| wanted == lane) && self.number.is_none_or(|wanted| wanted == number)
    }
}

/// `tidegate outbox show`.
pub(super) fn show(place: &Place, which: Which) -> Result<ExitCode, Failure> {
    let mut inspection = place.inspect()?;
    let there = || {
        Failure::Refused(format!("there is no segment {}; `tidegate outbox list` names those there are", which.segment))
    };
    let contents = match inspection.load(which.segment) {
        None => return Err(there()),
        Some(loaded) => loaded.map_err(|error| Failure::Refused(error.to_string()))?,
    };
    let segment = inspection.segments.get(&which.segment).ok_or_else(there)?;
    let config = configuration(place, None)?;
    let mut exporter = Exporter::new(&config.gateway, &config.kafka, config::Format::Json);
    let mut columns = Columns::default();
    let (mut shown, mut damaged, mut text) = (0_u64, false, String::new());
    let mut names = Names::default();
    for piece in pieces(&segment.entry, &contents, &mut names) {
        match piece {
            Piece::Records { lane, first, batch } => {
                let chunk = chunk(segment, lane, first, batch);
                for (index, record) in chunk.batch.records.iter().enumerate() {
                    let number = chunk.seq(index);
                    if !which.takes(lane, number) {
                        continue;
                    }
                    shown += 1;
                    let is_delivered = segment.is_delivered(lane, number);
                    if place.json {
                        json_line(&mut exporter, &chunk, index, is_delivered, &mut text)?;
                    } else {
                        let state = if is_delivered { "delivered" } else { "waits" };
                        let _ = write!(text, "{:<9} {number:>10} {state:<9}  ", lane.as_str());
                        line(&mut columns, &chunk.batch, chunk.lane, record, &mut text);
                    }
                }
                if text.len() >= OUTPUT_BYTES {
                    print(&std::mem::take(&mut text))?;
                }
            }
            Piece::Damaged(found)
                if found.lane.is_none_or(|lane| which.takes(lane, found.range.first) || which.number.is_none()) =>
            {
                damaged = true;
                remark(&super::verify::describe(which.segment, &found));
            }
            Piece::Damaged(_) => {}
        }
    }
    print(&text)?;
    if shown == 0 && !damaged {
        return Err(Failure::Refused("there is no such record in this segment".to_owned()));
    }
    Ok(if damaged { ExitCode::from(INCOMPLETE) } else { ExitCode::SUCCESS })
}

/// A record for a person, with what only declares.
fn line(columns: &mut Columns, batch: &Batch, lane: Lane, record: &Record, text: &mut String) {
    // Writing to a string cannot fail.
    let _ = match record {
        Record::Gap(gap) => {
            let (at, gap) = (super::time::text(gap.at.wall_ms), gap);
            writeln!(
                text,
                "{at}  {}: {} of {} to {} will not come ({})",
                gap.stream, gap.count, gap.from, gap.to, gap.cause
            )
        }
        Record::StreamEnd(end) => {
            writeln!(text, "{}  {} has ended with {}", super::time::text(end.at.wall_ms), end.stream, end.last)
        }
        Record::Event(event) => {
            writeln!(text, "{}  {}: {}", super::time::text(event.at.wall_ms), event.event.as_str(), event.detail)
        }
        _ => {
            columns.record(batch, lane, record, text);
            Ok(())
        }
    };
}

fn json_line(
    exporter: &mut Exporter,
    chunk: &Chunk,
    index: usize,
    delivered: bool,
    text: &mut String,
) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    exporter.write(chunk, index, &mut bytes).map_err(|error| Failure::Refused(error.to_string()))?;
    for record in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let record: serde_json::Value =
            serde_json::from_slice(record).map_err(|error| Failure::Refused(error.to_string()))?;
        let (segment, lane, number) = (chunk.segment, chunk.lane.as_str(), chunk.seq(index));
        let line =
            json!({"segment": segment, "lane": lane, "number": number, "delivered": delivered, "record": record});
        let _ = writeln!(text, "{line}");
    }
    Ok(())
}

fn chunk(segment: &SegmentState, lane: Lane, first_seq: u64, batch: Batch) -> Chunk {
    Chunk {
        segment: segment.entry.number,
        lane,
        stream: Arc::clone(&segment.streams[lane.index()]),
        first_seq,
        batch: Arc::new(batch),
        delivered: Vec::new(),
        replayed: Vec::new(),
        pin: None,
    }
}

/// The gateway's id, labels and layout: from the configuration where there is one, else its defaults.
fn configuration(place: &Place, gateway: Option<&str>) -> Result<Config, Failure> {
    let path = &place.config;
    let mut config = match Loaded::load(path, Purpose::Replay) {
        Ok(loaded) => loaded.config,
        Err(errors) if place.data_dir.is_none() => return Err(errors.into()),
        Err(errors) => {
            let config = Loaded::parse("", path, Purpose::Replay, &|_| None)?.config;
            if path.exists() {
                remark(&errors.to_string());
            }
            if gateway.is_none() {
                remark(&format!(
                    "{}: no configuration that could be read: records are those of gateway `{}`, in the wide layout",
                    path.display(),
                    config.gateway.id
                ));
            }
            config
        }
    };
    if let Some(gateway) = gateway {
        gateway.clone_into(&mut config.gateway.id);
    }
    Ok(config)
}

/// How to export.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) format: Format,
    pub(super) all: bool,
    pub(super) gateway: Option<String>,
}

/// `tidegate outbox export`.
pub(super) fn export(place: &Place, filter: &Filter, how: &Export) -> Result<ExitCode, Failure> {
    let config = configuration(place, how.gateway.as_deref())?;
    let mut inspection = place.inspect()?;
    let format = match how.format {
        Format::Ndjson => config::Format::Json,
        Format::CborSeq => config::Format::Cbor,
    };
    let mut exporter = Exporter::new(&config.gateway, &config.kafka, format);
    let progress = Progress::new(inspection.segments.len(), true);
    if inspection.not_yet_read > 0 {
        progress.remark(&format!("{} records that were stored just now are not in it", inspection.not_yet_read));
    }
    let numbers: Vec<u64> = inspection.segments.keys().copied().collect();
    let (mut exported, mut damaged, mut out) = (0_u64, false, Vec::with_capacity(OUTPUT_BYTES));
    for number in numbers {
        progress.advance();
        let wanted = inspection.segments.get(&number).is_some_and(|segment| {
            Lane::ALL.into_iter().any(|lane| {
                filter.takes_lane(lane)
                    && if how.all { segment.entry.lanes[lane.index()].is_some() } else { segment.missing_of(lane) > 0 }
            })
        });
        let contents = match wanted.then(|| inspection.load(number)).flatten() {
            None => continue,
            Some(Ok(contents)) => contents,
            Some(Err(error)) => {
                damaged = true;
                progress.remark(&format!("left out: {error}"));
                continue;
            }
        };
        let Some(segment) = inspection.segments.get(&number) else { continue };
        let mut names = Names::default();
        for piece in pieces(&segment.entry, &contents, &mut names) {
            match piece {
                Piece::Records { lane, first, batch } if filter.takes_lane(lane) => {
                    let chunk = chunk(segment, lane, first, batch);
                    for (index, record) in chunk.batch.records.iter().enumerate() {
                        let is_wanted = how.all || !segment.is_delivered(lane, chunk.seq(index));
                        if !is_wanted || !filter.takes(record) {
                            continue;
                        }
                        match exporter.write(&chunk, index, &mut out) {
                            Ok(()) => exported += 1,
                            Err(error) => {
                                damaged = true;
                                progress.remark(&format!("left out: segment {number}, {}: {error}", chunk.seq(index)));
                            }
                        }
                    }
                    if out.len() >= OUTPUT_BYTES {
                        io::stdout().lock().write_all(&out)?;
                        out.clear();
                    }
                }
                Piece::Damaged(found) if found.lane.is_some_and(|lane| filter.takes_lane(lane)) => {
                    damaged = true;
                    progress.remark(&format!("left out: {}", super::verify::describe(number, &found)));
                }
                _ => {}
            }
        }
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(&out).and_then(|()| stdout.flush())?;
    progress.remark(&format!("{exported} records"));
    Ok(if damaged { ExitCode::from(INCOMPLETE) } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_lanes_and_numbers_are_named() {
        let which = |segment, lane, number| Ok(Which { segment, lane, number });
        assert_eq!(Which::parse("42"), which(42, None, None));
        assert_eq!(Which::parse("42:raw"), which(42, Some(Lane::Raw), None));
        assert_eq!(Which::parse("42:alarm:7"), which(42, Some(Lane::Alarm), Some(7)));
        for text in ["", "x", "42:", "42:cooked", "42:raw:x", "42:raw:1:2"] {
            assert!(Which::parse(text).is_err(), "{text}");
        }
    }
}
