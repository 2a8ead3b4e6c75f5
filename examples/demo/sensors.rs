//! The simulated MQTT sensors: each a client of its own that publishes a numbered reading at QoS 1, and believes that it
//! arrived only when the broker says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use serde_json::json;
use tidegate::clock;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// Who is at home.
pub(crate) const NAMES: [&str; 16] = [
    "attic",
    "bathroom",
    "bedroom",
    "boiler",
    "cellar",
    "freezer",
    "garage",
    "greenhouse",
    "hall",
    "kitchen",
    "office",
    "pantry",
    "porch",
    "shed",
    "solar",
    "workshop",
];
/// Each publishes this often.
const INTERVAL: Duration = Duration::from_millis(50);
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(500);

/// What one sensor has done so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Readings handed to its client, numbered from 1.
    pub(crate) published: AtomicU64,
    /// Readings that the broker acknowledged.
    pub(crate) acknowledged: AtomicU64,
}

/// All sensors; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Sensors {
    tallies: Vec<(&'static str, Arc<Tally>)>,
    stop: Arc<AtomicBool>,
    /// Aborted when dropped.
    _tasks: JoinSet<()>,
}

impl Sensors {
    /// Switches the sensors on.
    pub(crate) fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let mut tallies = Vec::new();
        for name in NAMES {
            let mut options = MqttOptions::new(format!("sensor-{name}"), "127.0.0.1", port);
            options.set_keep_alive(Duration::from_secs(30));
            let (client, connection) = AsyncClient::new(options, 16);
            let tally = Arc::new(Tally::default());
            tasks.spawn(publish(name, client, Arc::clone(&tally), Arc::clone(&stop)));
            tasks.spawn(listen(connection, Arc::clone(&tally)));
            tallies.push((name, tally));
        }
        Self { tallies, stop, _tasks: tasks }
    }

    /// Readings published and readings acknowledged, of all sensors.
    pub(crate) fn counts(&self) -> (u64, u64) {
        self.tallies.iter().fold((0, 0), |(published, acknowledged), (_, tally)| {
            // Acknowledged first, or it might be the larger one.
            let acked = tally.acknowledged.load(Ordering::SeqCst);
            (published + tally.published.load(Ordering::SeqCst), acknowledged + acked)
        })
    }

    /// How many readings each sensor has published.
    pub(crate) fn published(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.tallies.iter().map(|(name, tally)| (*name, tally.published.load(Ordering::SeqCst)))
    }

    /// Switches the sensors off; what they have published may still wait for its acknowledgement.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

async fn publish(name: &'static str, client: AsyncClient, tally: Arc<Tally>, stop: Arc<AtomicBool>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut temperature = 15.0 + fastrand::f64() * 10.0;
    let mut number = 0;
    loop {
        ticks.tick().await;
        if stop.load(Ordering::SeqCst) {
            // The client stays: dropping it would end the connection.
            std::future::pending::<()>().await;
        }
        number += 1;
        temperature += fastrand::f64() - 0.5;
        let reading = json!({
            "n": number,
            "time": jiff::Timestamp::from_millisecond(clock::wall_ms()).unwrap_or_default().to_string(),
            "temperature": (temperature * 10.0).round() / 10.0,
            "humidity": 40 + fastrand::u8(0..20),
        });
        tally.published.fetch_add(1, Ordering::SeqCst);
        // Waits while the client has no room. An error means that the demo is ending.
        if client.publish(format!("sensors/{name}"), QoS::AtLeastOnce, false, reading.to_string()).await.is_err() {
            return;
        }
    }
}

async fn listen(mut connection: EventLoop, tally: Arc<Tally>) {
    loop {
        match connection.poll().await {
            Ok(Event::Incoming(Packet::PubAck(_))) => {
                tally.acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            Ok(_) => {}
            // The client publishes again what was not acknowledged.
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}
