//! The source against real mosquitto, with commits that the test controls.

use std::time::Duration;

use crate::config::{self, MqttVersion, Retained};

/// Settings for a broker on loopback.
pub(super) fn settings(version: MqttVersion, port: u16) -> config::Mqtt {
    config::Mqtt {
        name: "mqtt.test".to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        tls: None,
        version,
        client_id: None,
        user: None,
        password: None,
        profiles: Vec::new(),
        qos: 1,
        keep_alive: Duration::from_secs(30),
        session_expiry: Duration::from_secs(3600),
        in_flight_max: 20,
        packet_bytes_max: 1024 * 1024,
        retained: Retained::First,
        time_zone: None,
        read_interval: Duration::from_millis(1),
        memory_bytes_max: 8 * 1024 * 1024,
        drop_qos0: false,
    }
}
