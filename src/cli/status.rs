//! `tidegate status`: asks the running gateway, and shows what it says as a table or as JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::fail;
use crate::outbox::Lane;
use crate::status::report::Report;
use crate::status::{configuration, socket};

/// Shows the status of the gateway on `data_dir`, or on the data directory of the configuration. 0 if it answered, 1 if
/// none is running.
#[must_use]
pub fn run(config: &Path, data_dir: Option<PathBuf>, json: bool) -> ExitCode {
    // The gateway may run on although its file has become unfit.
    let Some(data_dir) = super::data_dir(config, data_dir) else {
        return fail(&format!("{} does not exist (with --data-dir it is not needed)", config.display()));
    };
    let report = match socket::ask(&data_dir) {
        Ok(report) => report,
        Err(error) => {
            fail(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let text = if json { serde_json::to_string_pretty(&report).unwrap_or_default() + "\n" } else { table(&report) };
    // A closed pipe has seen enough.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn table(report: &Report) -> String {
    let mut text = String::new();
    let Report { gateway, version, run, uptime_s, backlog, process, .. } = report;
    // Writing to a string cannot fail.
    let _ = writeln!(text, "gateway {gateway}, tidegate {version}, run {run}, up {}\n", duration(*uptime_s));
    write_configuration(&mut text, &report.configuration);
    let oldest = backlog.oldest.as_ref().map(|oldest| format!(", the oldest of {oldest}")).unwrap_or_default();
    // In falling priority, and only what waits.
    let lanes = Lane::ALL.into_iter().filter_map(|lane| Some((lane, *backlog.lanes.get(lane.as_str())?)));
    let lanes = lanes.filter(|(_, records)| *records > 0).map(|(lane, records)| format!("{records} {}", lane.as_str()));
    let lanes: Vec<String> = lanes.collect();
    let lanes = if lanes.is_empty() { String::new() } else { format!(" ({})", lanes.join(", ")) };
    let _ = writeln!(
        text,
        "backlog  {} records{lanes}{oldest}; {} on disk in {} segments",
        backlog.records,
        size(backlog.bytes),
        backlog.segments,
    );
    let _ = writeln!(text, "memory   {} now, {} at most", size(process.rss_bytes), size(process.rss_peak_bytes),);
    let each = report.flash.write_amplification.map(|each| format!(", {each:.3} bytes for each byte delivered"));
    let _ = writeln!(
        text,
        "flash    {} written to disk since the start{}\n",
        size(report.flash.written_bytes),
        each.unwrap_or_default(),
    );
    let mut links = Table::new();
    links.load_preset(NOTHING).set_header(["LINK", "STATE", "SINCE", ""]);
    for (name, link) in &report.links {
        links.add_row([name, &link.state, &link.since, &link.detail]);
    }
    let mut counters = Table::new();
    counters.load_preset(NOTHING).set_header(["COUNTER", "OF", "COUNT"]);
    if let Some(column) = counters.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for counted in report.counters.iter().filter(|counted| counted.count > 0) {
        counters.add_row([&counted.name, &counted.value, &counted.count.to_string()]);
    }
    for table in [links, counters] {
        for line in table.lines() {
            let _ = writeln!(text, "{}", line.trim().trim_end());
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// The file, since when it is in use, and what became of reloads.
fn write_configuration(text: &mut String, configuration: &configuration::Report) {
    let configuration::Report { file, since, fallback, reloads_applied, reloads_refused, refusal } = configuration;
    // A gateway of an earlier release does not tell.
    if file.is_empty() {
        return;
    }
    let reloads = match (reloads_applied, reloads_refused) {
        (0, 0) => String::new(),
        (applied, refused) => format!("; reloads: {applied} applied, {refused} refused"),
    };
    let kept = if fallback.is_some() { "THE ONE THAT RAN LAST, since this is not fit to run: " } else { "" };
    let _ = writeln!(text, "config   {kept}{file}, in use since {since}{reloads}");
    if let Some(reasons) = fallback {
        indented(text, reasons);
    }
    if let Some(refusal) = refusal {
        let _ = writeln!(text, "         the last reload was refused at {}:", refusal.at);
        indented(text, &refusal.reasons);
    }
}

/// Below what stands to the right of a line's head.
fn indented(text: &mut String, lines: &str) {
    for line in lines.lines() {
        let _ = writeln!(text, "         {line}");
    }
}

pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}
