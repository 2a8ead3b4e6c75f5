//! All parts of the demo together, and the one way to wait: until something is so, with a bound, while the display goes on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tidegate::clock;
use tidegate::status::report::Report;

use super::TOTAL;
use super::display::{Display, Figures, Kafka};
use super::gateway::{Gateway, count, is_up};
use super::kafka::{Cluster, Consumer};
use super::sensors::Sensors;
use super::serial::Meter;

/// Between two looks at everything.
const TICK: Duration = Duration::from_millis(100);
/// The links of the gateway, by its configuration.
const LINKS: [&str; 3] = ["mqtt.house", "serial.meter", "kafka"];

/// Everything that runs.
pub(crate) struct Stage {
    cluster: Cluster,
    pub(crate) consumer: Consumer,
    pub(crate) meter: Meter,
    /// Switched on when the gateway listens.
    pub(crate) sensors: Option<Sensors>,
    gateway: Option<Gateway>,
    config: PathBuf,
    /// Whether the link to Kafka is cut.
    is_cut: bool,
    display: Display,
    begun: Instant,
    /// The newest report of the gateway that runs.
    pub(crate) report: Option<Report>,
    /// Records committed, by run of the gateway.
    committed: BTreeMap<String, u64>,
    /// The longest backlog that was seen.
    pub(crate) most_waiting: u64,
}

impl Stage {
    /// With the gateway not yet running.
    pub(crate) fn new(cluster: Cluster, consumer: Consumer, meter: Meter, config: PathBuf, begun: Instant) -> Self {
        Self {
            cluster,
            consumer,
            meter,
            sensors: None,
            gateway: None,
            config,
            is_cut: false,
            display: Display::new(),
            begun,
            report: None,
            committed: BTreeMap::new(),
            most_waiting: 0,
        }
    }

    /// Tells the reader what happens next, and why it matters.
    pub(crate) fn tell(&mut self, what: &str, why: &str) {
        self.display.tell(self.begun.elapsed(), what, why);
    }

    /// Starts the gateway.
    pub(crate) fn start_gateway(&mut self) -> anyhow::Result<()> {
        self.gateway = Some(Gateway::start(&self.config)?);
        Ok(())
    }

    /// Whether the gateway runs, as far as is known.
    pub(crate) fn has_gateway(&self) -> bool {
        self.gateway.is_some()
    }

    /// Stops the gateway, if it runs.
    pub(crate) async fn stop_gateway(&mut self) -> anyhow::Result<()> {
        self.look().await;
        self.report = None;
        let Some(gateway) = self.gateway.take() else { return Ok(()) };
        let mut stopping = std::pin::pin!(gateway.stop());
        loop {
            tokio::select! {
                stopped = &mut stopping => return stopped,
                () = tokio::time::sleep(TICK) => self.look().await,
            }
        }
    }

    /// Cuts the link to Kafka.
    pub(crate) fn cut(&mut self) -> anyhow::Result<()> {
        self.is_cut = true;
        self.cluster.cut()
    }

    /// Mends it.
    pub(crate) fn mend(&mut self) -> anyhow::Result<()> {
        self.is_cut = false;
        self.cluster.mend()
    }

    /// Waits until `so`, at most `bound`.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        bound: Duration,
        so: impl Fn(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let since = clock::instant();
        loop {
            self.look().await;
            if so(self) {
                return Ok(());
            }
            if self.gateway.as_ref().is_some_and(Gateway::has_ended) {
                self.stop_gateway_early().await?;
            }
            let links = || self.links();
            if since.elapsed() > bound {
                bail!("waited {bound:?} in vain until {what}; {}", links());
            }
            if self.begun.elapsed() > TOTAL {
                bail!("after {TOTAL:?} still waiting until {what}; {}", links());
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Lets `time` pass, and then waits until `so`, at most `bound` longer.
    pub(crate) async fn go_on(
        &mut self,
        time: Duration,
        what: &str,
        bound: Duration,
        so: impl Fn(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let since = clock::instant();
        self.until(what, time + bound, |stage| since.elapsed() >= time && so(stage)).await
    }

    /// Takes the moving lines away.
    pub(crate) fn close_display(&mut self) {
        self.display.close();
    }

    /// Readings that the sensors have sent: over MQTT, and on the wire.
    pub(crate) fn sent(&self) -> u64 {
        self.sensors.as_ref().map_or(0, |sensors| sensors.counts().0) + self.meter.lines()
    }

    /// Records that wait in the gateway; none while it does not run.
    pub(crate) fn waiting(&self) -> Option<u64> {
        self.report.as_ref().map(|report| report.backlog.records)
    }

    /// Records that were stored, all runs together. A run's last commits are seen by their sequence numbers in Kafka: they
    /// were made after its last report.
    pub(crate) fn stored(&self) -> u64 {
        let found = self.consumer.found();
        self.committed.iter().map(|(run, committed)| found.highest(&format!("{run}.raw")).max(*committed)).sum()
    }

    /// Whether this link of the gateway is up.
    pub(crate) fn is_up(&self, link: &str) -> bool {
        self.report.as_ref().is_some_and(|report| is_up(report, link))
    }

    /// Whether all links are.
    pub(crate) fn all_up(&self) -> bool {
        LINKS.iter().all(|link| self.is_up(link))
    }

    /// A counter of the gateway that runs.
    pub(crate) fn count(&self, name: &str, value: Option<&str>) -> u64 {
        self.report.as_ref().map_or(0, |report| count(report, name, value))
    }

    async fn look(&mut self) {
        if let Some(gateway) = &self.gateway
            && let Some(report) = gateway.status().await
        {
            let committed = count(&report, "outbox_committed_total", None);
            self.committed.insert(report.run.clone(), committed);
            self.most_waiting = self.most_waiting.max(report.backlog.records);
            self.report = Some(report);
        }
        let kafka = match &self.report {
            _ if self.is_cut => Kafka::Cut,
            Some(report) if is_up(report, "kafka") => Kafka::Up,
            _ => Kafka::Unknown,
        };
        let (published, acknowledged) = self.sensors.as_ref().map_or((0, 0), Sensors::counts);
        let figures = Figures {
            at: self.begun.elapsed(),
            published,
            printed: self.meter.lines(),
            acknowledged,
            stored: self.stored(),
            waiting: self.waiting(),
            delivered: self.consumer.found().delivered(),
            kafka,
        };
        self.display.show(&figures);
    }

    /// It has ended without having been told to.
    async fn stop_gateway_early(&mut self) -> anyhow::Result<()> {
        let Some(gateway) = self.gateway.take() else { return Ok(()) };
        gateway.stop().await.context("the gateway ended by itself")?;
        bail!("the gateway ended by itself, without an error")
    }

    fn links(&self) -> String {
        let Some(report) = &self.report else { return "the gateway has no status yet".to_owned() };
        let links = report.links.iter().map(|(name, link)| format!("{name} is {} {}", link.state, link.detail));
        links.collect::<Vec<_>>().join(", ")
    }
}
