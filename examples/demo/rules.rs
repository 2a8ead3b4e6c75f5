//! The same readings once more, through rules: what `tidegate replay` does with a recording.

use std::path::Path;

use anyhow::{Context, anyhow};
use tidegate::config::{Loaded, Purpose};
use tidegate::reading::Batch;
use tidegate::replay::{Parsed, Parser, Replay, Summary};

/// Twelve lines that keep what matters: a temperature when it has changed, the meter and the humidity as statistics.
pub(crate) const RULES: &str = r#"[[filter]]
measurement = "n"
action = "drop"

[[filter]]
measurement = "temperature"
deadband = { absolute = 1.0, at_least_every = "10s" }

[[window]]
measurement = ["humidity", "power", "energy"]
every = "10s"
forward_raw = false
"#;

/// What a gateway with these rules would have made of the recorded readings.
pub(crate) fn replay(dir: &Path, lines: &[&str]) -> anyhow::Result<Summary> {
    let path = dir.join("rules.toml");
    let sources = "[gateway]\nid = \"demo\"\n[mqtt.house]\nurl = \"mqtt://localhost\"\nprofiles = [\"generic/json\"]\n";
    std::fs::write(&path, format!("{sources}{RULES}")).with_context(|| path.display().to_string())?;
    let loaded = Loaded::load(&path, Purpose::Show)?;
    let mut replay = Replay::new(&loaded.config, false);
    let (mut parser, mut batch) = (Parser::default(), Batch::default());
    for line in lines {
        let parsed = parser.read(line.as_bytes(), &mut batch).map_err(|reason| anyhow!("{reason}: {line}"))?;
        let Parsed::Record(at) = parsed else { continue };
        if replay.is_due(at) {
            while let Some(tick) = replay.pending().and_then(|pending| replay.next_tick(pending)) {
                replay.tick(tick);
            }
            replay.apply();
        }
        replay.push(at, &mut batch);
    }
    let (summary, _) = replay.finish(true);
    Ok(summary)
}
