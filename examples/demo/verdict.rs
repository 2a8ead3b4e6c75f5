//! The verdict: what the sensors sent against what a Kafka consumer read.

use std::fmt;
use std::path::Path;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use tidegate::replay::Summary;

use super::stage::Stage;
use super::{rules, serial};

/// All of it counted.
#[derive(Debug)]
pub(crate) struct Verdict {
    by_mqtt: u64,
    by_serial: u64,
    stored: u64,
    delivered: u64,
    stored_twice: u64,
    sent_twice: u64,
    lost: Vec<String>,
    gaps: u64,
    strange: u64,
    last_strange: String,
    most_waiting: u64,
    /// What rules would have made of it.
    with_rules: Summary,
}

impl Verdict {
    /// Compares, reading by reading, and replays them through rules.
    pub(crate) fn of(stage: &Stage, dir: &Path) -> anyhow::Result<Self> {
        let found = stage.consumer.found();
        let published = stage.sensors.iter().flat_map(|sensors| sensors.published());
        let mut lost = Vec::new();
        for (device, count) in published.chain([(serial::NAME, stage.meter.lines())]) {
            let numbers = found.readings.get(device);
            let missing = (1..=count).filter(|number| numbers.is_none_or(|numbers| !numbers.contains(number)));
            lost.extend(missing.map(|number| format!("{device} {number}")));
        }
        let (delivered, stored_twice, sent_twice) = (found.delivered(), found.stored_twice, found.sent_twice);
        let (gaps, strange, last_strange) = (found.gaps(), found.strange, found.last_strange.clone());
        let with_rules = rules::replay(dir, &found.recording())?;
        drop(found);
        let by_serial = stage.meter.lines();
        Ok(Self {
            by_mqtt: stage.sent() - by_serial,
            by_serial,
            stored: stage.stored(),
            delivered,
            stored_twice,
            sent_twice,
            lost,
            gaps,
            strange,
            last_strange,
            most_waiting: stage.most_waiting,
            with_rules,
        })
    }

    /// Nothing lost, and nothing came that nobody sent.
    pub(crate) fn is_good(&self) -> bool {
        self.lost.is_empty() && self.gaps == 0 && self.strange == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(NOTHING);
        let (mqtt, wire) = (self.by_mqtt, self.by_serial);
        let duplicates = self.stored_twice + self.sent_twice;
        // What is on its way when the link is cut arrives, but its acknowledgement does not.
        let again = match (duplicates, self.stored_twice) {
            (0, _) => "nothing came twice".to_owned(),
            (_, 0) => "sent again: the cut took Kafka's answer; same stream, seq".to_owned(),
            (_, twice) => format!("came twice, {twice} of them under another stream and seq"),
        };

        let rows = [
            ("produced", mqtt + wire, format!("{mqtt} acknowledged by the MQTT broker, {wire} on the wire")),
            ("stored", self.stored, format!("on the gateway's disk; at most {} waited at once", self.most_waiting)),
            ("delivered", self.delivered, "different readings that a consumer found in Kafka".to_owned()),
            ("duplicates", duplicates, again),
            ("lost", self.lost.len() as u64, "were sent and did not arrive".to_owned()),
        ];
        for (name, count, meaning) in rows {
            table.add_row([name.to_owned(), count.to_string(), meaning]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "{table}\n")?;
        let (before, after) = (&self.with_rules.without_rules, &self.with_rules.sent);
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
        writeln!(
            f,
            "The same readings through a dozen lines of rules, as `tidegate replay` does it: {} records became\n\
             {}, that is {:.0} % of them and {:.0} % of the bytes: temperatures that changed, and {} aggregates.\n",
            before.records(),
            after.records(),
            percent(after.records(), before.records()),
            percent(after.bytes, before.bytes),
            after.aggregates,
        )?;
        if self.is_good() {
            return write!(
                f,
                "Nothing was lost. Next, see what Tidegate makes of your own broker's messages;\n\
                 this only shows them, nothing is stored or sent:\n\
                 \n    cargo run -- run --print --config gateway.toml\n\n\
                 README.md has a gateway.toml to begin with, gateway.example.toml every key."
            );
        }
        if !self.lost.is_empty() {
            let some: Vec<&str> = self.lost.iter().take(5).map(String::as_str).collect();
            writeln!(f, "Lost, which should not happen, among others: {}", some.join(", "))?;
        }
        if self.gaps > 0 {
            writeln!(f, "{} sequence numbers are missing in Kafka, which should not happen.", self.gaps)?;
        }
        if self.strange > 0 {
            writeln!(f, "{} records came that no sensor sent, the last one: {}", self.strange, self.last_strange)?;
        }
        Ok(())
    }
}
