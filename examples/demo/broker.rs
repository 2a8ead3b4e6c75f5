//! The MQTT broker: rumqttd, embedded, on a free loopback port. It runs until the process ends; it has no other end.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use tidegate::clock;

use super::BOUND;

/// What the broker keeps for a client that is away: more than the demo ever sends.
const LOG_SEGMENT_BYTES: usize = 4 << 20;
const LOG_SEGMENTS: usize = 8;

/// Starts a broker; gives its port once it answers.
pub(crate) async fn start() -> anyhow::Result<u16> {
    let address = free_address()?;
    let mut broker = Broker::new(Config {
        router: RouterConfig {
            max_connections: 64,
            max_outgoing_packet_count: 200,
            max_segment_size: LOG_SEGMENT_BYTES,
            max_segment_count: LOG_SEGMENTS,
            ..RouterConfig::default()
        },
        v5: Some(HashMap::from([("demo".to_owned(), settings(address))])),
        ..Config::default()
    });
    std::thread::Builder::new()
        .name("broker".to_owned())
        .spawn(move || {
            // That it does not run shows below: it does not answer.
            let _ = broker.start();
        })
        .context("the broker's thread cannot be started")?;
    let begun = clock::instant();
    while let Err(error) = tokio::net::TcpStream::connect(address).await {
        anyhow::ensure!(begun.elapsed() < BOUND, "the embedded broker does not answer on {address}: {error}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Ok(address.port())
}

fn settings(listen: SocketAddr) -> ServerSettings {
    ServerSettings {
        name: "demo".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 60_000,
            max_payload_size: 64 << 10,
            max_inflight_count: 200,
            auth: None,
            external_auth: None,
            dynamic_filters: false,
        },
    }
}

/// An address that nobody listens on. rumqttd binds by itself, so it is given back for a moment.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free on 127.0.0.1")?;
    Ok(listener.local_addr()?)
}
