//! `tidegate outbox replay`, `repair` and `purge`: what would be done, in numbers; the question; then it is done.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use serde_json::json;

use super::progress::Progress;
use super::time::{text, text_and_age};
use super::{Consent, Failure, Place, Select, print, print_json};
use crate::cli::status::size;
use crate::gateway::machine_id;
use crate::outbox::Lane;
use crate::outbox::edit::Edit;

/// What to purge besides what is selected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purge {
    pub(super) all: bool,
    pub(super) quarantine: bool,
}

/// `tidegate outbox replay`.
pub(super) fn replay(place: &Place, select: &Select, consent: Consent) -> Result<ExitCode, Failure> {
    if select.from.is_none() {
        return Err(Failure::Refused("--from says from when on: a time, or 2h for two hours ago".to_owned()));
    }
    let mut edit = Edit::open_whole(&place.data_dir()?, &place.keys()?, place.work_dir.as_deref())?;
    let progress = Progress::new(edit.inspection.segments.len(), false);
    let plan = edit.plan_replay(&select.filter(), &mut |_| progress.advance())?;
    drop(progress);
    let total: u64 = plan.records.iter().sum();
    let mut said = match plan.span_ms {
        Some((from, to)) => format!(
            "{total} delivered records ({}) of {} segments, received {} to {}, are to be delivered again",
            by_lane(plan.records),
            plan.segments(),
            text(from),
            text(to)
        ),
        None => "there is no delivered record of that time".to_owned(),
    };
    match plan.oldest_ms {
        Some(oldest) if select.from.is_some_and(|from| from < oldest) => {
            said += &format!("; the oldest that is still there is of {}", text_and_age(oldest));
        }
        None => said += "; the outbox is empty: outbox.keep_delivered says for how long delivered records are kept",
        Some(_) => {}
    }
    if plan.damaged > 0 {
        said += &format!("; {} records are damaged", plan.damaged);
    }
    let wanted = total > 0 && agreed(place, consent, &said, "Deliver them again at the next start?")?;
    if wanted {
        edit.replay(&plan)?;
    }
    let [alarm, aggregate, raw] = plan.records;
    let numbers = json!({"alarm": alarm, "aggregate": aggregate, "raw": raw, "segments": plan.segments(),
        "damaged": plan.damaged});
    let done = format!("{total} records will be delivered again at the next start, with the header ce_replayed");
    report(place, total == 0, wanted, &said, &done, &numbers)
}

/// `tidegate outbox repair`.
pub(super) fn repair(place: &Place, consent: Consent) -> Result<ExitCode, Failure> {
    let data_dir = place.data_dir()?;
    let edit = {
        let _waiting = Progress::waiting("reading the segments");
        Edit::open(&data_dir, &place.keys()?, place.work_dir.as_deref())?
    };
    let plan = edit.plan_repair();
    let mut said = Vec::new();
    let mut numbers = json!({"manifest": plan.manifest, "checkpoint": plan.checkpoint});
    if let (Some(why), Some(found)) = (&plan.manifest, edit.rebuilt()) {
        let manifest = &found.manifest;
        let records: u64 =
            manifest.segments.iter().flat_map(|entry| entry.lanes).flatten().map(|range| range.count()).sum();
        said.push(format!(
            "the manifest is damaged: {why}; the segments hold {records} records in {} segments",
            manifest.segments.len()
        ));
        said.extend(found.partly.iter().map(|((number, _), why)| format!("segment {number} is damaged: {why}")));
        said.extend(
            found.damaged.iter().map(|((number, _), why)| format!("segment {number} goes to quarantine: {why}")),
        );
        if found.repeated_records > 0 {
            said.push(format!("{} records are there twice and count once", found.repeated_records));
        }
        said.push("what had been delivered of segments that were kept for a replay is not known any more: they are delivered again".to_owned());
        if !found.knows_installation {
            said.push("the MQTT client ids begin anew: what a broker holds for the old ones does not come".to_owned());
        }
        numbers["records"] = json!(records);
        numbers["segments"] = json!(manifest.segments.len());
        numbers["quarantined"] = json!(found.damaged.len());
        numbers["repeated_records"] = json!(found.repeated_records);
        numbers["same_mqtt_client_id"] = json!(found.knows_installation);
    }
    if let Some(why) = &plan.checkpoint {
        said.push(format!("the state of the windows is damaged ({why}) and is set aside; open windows begin anew"));
    }
    let nothing = said.is_empty();
    if nothing {
        said.push("the manifest and the state of the windows are good: there is nothing to repair; `tidegate outbox verify` reads the records".to_owned());
    }
    let said = said.join("\n");
    let wanted = !nothing && agreed(place, consent, &said, "Repair it?")?;
    if wanted {
        edit.repair(&plan, &machine_id())?;
    }
    report(place, nothing, wanted, &said, "repaired; the next start goes on from here", &numbers)
}

/// `tidegate outbox purge`.
pub(super) fn purge(place: &Place, select: &Select, what: Purge, consent: Consent) -> Result<ExitCode, Failure> {
    if select.is_empty() && !what.all && !what.quarantine {
        return Err(Failure::Refused("say what: --all, --quarantine, or --lane, --device, --from and --to".to_owned()));
    }
    if what.all && !select.is_empty() {
        return Err(Failure::Refused("--all leaves nothing to select by: give either".to_owned()));
    }
    let mut edit = Edit::open_whole(&place.data_dir()?, &place.keys()?, place.work_dir.as_deref())?;
    let records = what.all || !select.is_empty();
    let plan = if records {
        let progress = Progress::new(edit.inspection.segments.len(), false);
        edit.plan_purge(&select.filter(), &mut |_| progress.advance())?
    } else {
        Default::default()
    };
    let aside = if what.quarantine { edit.inspection.quarantine() } else { Vec::new() };
    let total: u64 = plan.records.iter().sum();
    let mut said = Vec::new();
    if records {
        said.push(format!(
            "{total} records that wait ({}) are to be given up, for good; {} segments go whole, {} at once",
            by_lane(plan.records),
            plan.removed(),
            size(plan.freed_bytes)
        ));
        if plan.partly > 0 {
            said.push(format!("{} segments stay for what else they hold, or until the next start", plan.partly));
        }
    }
    if what.quarantine {
        let bytes = aside.iter().map(|(_, bytes)| bytes).sum();
        said.push(format!("{} damaged segments in quarantine, {}, are to be deleted", aside.len(), size(bytes)));
    }
    let nothing = plan.is_empty() && aside.is_empty();
    let said = said.join("\n");
    let wanted = !nothing && agreed(place, consent, &said, "Give them up?")?;
    let (mut deleted, mut deleted_bytes) = (0, 0);
    if wanted {
        if !plan.is_empty() {
            edit.purge(&plan)?;
        }
        if what.quarantine {
            (deleted, deleted_bytes) = edit.purge_quarantine()?;
        }
    }
    let [alarm, aggregate, raw] = plan.records;
    let numbers = json!({"alarm": alarm, "aggregate": aggregate, "raw": raw, "segments_removed": plan.removed(),
        "kept_segments_removed": plan.kept_segments, "bytes_freed": plan.freed_bytes,
        "quarantine_deleted": deleted, "quarantine_bytes": deleted_bytes});
    let mut done = format!("{total} records are given up; the streams declare them at the next start");
    if deleted > 0 {
        done += &format!("; {deleted} damaged segments are deleted");
    }
    report(place, nothing, wanted, &said, &done, &numbers)
}

fn by_lane(records: [u64; 3]) -> String {
    let some = Lane::ALL.into_iter().zip(records).filter(|(_, count)| *count > 0);
    let words: Vec<String> = some.map(|(lane, count)| format!("{count} {}", lane.as_str())).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// Whether to go on: asked at a terminal, said with --yes, never with --dry-run.
fn agreed(place: &Place, consent: Consent, said: &str, question: &str) -> Result<bool, Failure> {
    if consent.dry_run || consent.yes {
        return Ok(!consent.dry_run);
    }
    if !io::stdin().is_terminal() || place.json {
        return Err(Failure::Refused(format!("{said}\nnothing was changed: --yes does it where nobody can be asked")));
    }
    let mut stderr = io::stderr();
    let _ = write!(stderr, "{said}\n{question} [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Failure::Output)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn report(
    place: &Place,
    nothing: bool,
    done: bool,
    said: &str,
    done_text: &str,
    numbers: &serde_json::Value,
) -> Result<ExitCode, Failure> {
    if place.json {
        let mut numbers = numbers.clone();
        numbers["done"] = json!(done);
        print_json(&numbers)?;
    } else if done {
        print(&format!("{said}\n{done_text}\n"))?;
    } else if nothing {
        print(&format!("{said}\n"))?;
    } else {
        print(&format!("{said}\nnothing was changed\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
