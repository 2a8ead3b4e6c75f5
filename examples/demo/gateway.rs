//! The gateway between them: the real one, from a configuration file like any other.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tidegate::gateway::{self, RunError, Start};
use tidegate::setup::Setup;
use tidegate::status::report::Report;
use tidegate::status::socket;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::BOUND;

/// Writes the configuration into `dir`; gives its path.
pub(crate) fn configure(dir: &Path, mqtt_port: u16, serial: &Path, kafka: &str) -> anyhow::Result<PathBuf> {
    let serial = serial.display();
    let path = dir.join("gateway.toml");
    let text = format!(
        r#"# What the demo's gateway runs with. Relative paths begin here.
[gateway]
id = "demo"
data_dir = "data"
profiles_dir = "profiles"
# So short only because the demo stops the gateway while Kafka is away.
stop_timeout = "1s"

[mqtt.house]
url = "mqtt://127.0.0.1:{mqtt_port}"
profiles = ["generic/json"]

[serial.meter]
port = "{serial}"
profile = "generic/json-line"

[kafka]
brokers = ["{kafka}"]

[kafka.advanced]
# So few only for you to see the backlog shrink. With the default of 5000 it is gone too soon.
in_flight_max = 200
reconnect_max = "1s"
"#
    );
    std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(path)
}

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    data_dir: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), RunError>>,
}

impl Gateway {
    /// Starts a gateway as `tidegate run --config` does.
    pub(crate) fn start(config: &Path) -> anyhow::Result<Self> {
        let setup = Setup::check(config)?;
        let data_dir = setup.config().gateway.data_dir.clone();
        // Nobody asks for a reload.
        let (_, hangups) = mpsc::channel(1);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            gateway::run(Start { setup, fallback: None, hangups }, shutdown).await
        });
        Ok(Self { data_dir, stop, task })
    }

    /// What `tidegate status` would show; nothing while it starts.
    pub(crate) async fn status(&self) -> Option<Report> {
        let data_dir = self.data_dir.clone();
        tokio::task::spawn_blocking(move || socket::ask(&data_dir).ok()).await.ok().flatten()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Stops it as a signal does.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let _ = self.stop.send(());
        let ended = tokio::time::timeout(BOUND, self.task).await;
        ended.context("the gateway did not stop")?.context("the gateway panicked")?.context("the gateway failed")
    }
}

/// A counter of a report, over all of its labels unless one is named.
pub(crate) fn count(report: &Report, name: &str, value: Option<&str>) -> u64 {
    let counted = report.counters.iter().filter(|counted| counted.name == name);
    counted.filter(|counted| value.is_none_or(|value| counted.value == value)).map(|counted| counted.count).sum()
}

/// Whether a link of a report is up.
pub(crate) fn is_up(report: &Report, link: &str) -> bool {
    report.links.get(link).is_some_and(|link| link.state == "up")
}
