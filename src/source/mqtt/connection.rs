//! One connection to the broker, from CONNECT to its end: the driver that moves bytes and time in and out of the
//! [`Session`].
//!
//! Reads are coalesced, because wake-ups are what costs: after a read that did not come alone, the thread sleeps for
//! the read interval and then takes everything at once, and all acknowledgements that are due leave in one write. It is
//! the thread that sleeps, not the task: a task would leave epoll to wake the thread for each segment that arrives. So a
//! source has a thread of its own (see [`super::run`]). A message that comes alone is read at once, and an idle connection
//! wakes up for its keep-alive, and to say that it is there.
//!
//! At the memory budget the socket is not read, so that TCP holds the broker back, while acknowledgements and pings still
//! go out. The answers to those pings lie unread then, so silence means nothing until reading goes on.

use std::io;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use crate::beats;
use crate::clock;
use crate::config;
use crate::decode::Request;
use crate::reading::{Frames, Receipt};

use super::Sink;
use super::decoder::{self, Decoder, WireError};
use super::outage::Outage;
use super::session::Session;
use super::stream::{Socket, Stream, Turn};
use super::subscriptions::FILTERS_PER_PACKET;
use super::tls::{self, TlsError};
use super::wire::{self, Ack, ConnAck, Packet};

/// How long the way to a CONNACK may take: connecting, the TLS handshake, the broker's answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a SUBACK may take while the socket is read.
const SUBACK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a stop waits for what was accepted to become durable, so that it can be acknowledged.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the broker may take to close the connection after our DISCONNECT.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The thread never sleeps longer than this between two reads, whatever the read interval is.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// Why a connection ended or did not come to be.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("connecting to {host}:{port}: {source}")]
    Connect { host: String, port: u16, source: io::Error },
    #[error("no answer from {host}:{port} within {} s: expected an MQTT broker there", CONNECT_TIMEOUT.as_secs())]
    Timeout { host: String, port: u16 },
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("the broker refused the connection: {0}")]
    Refused(String),
    #[error("expected CONNACK as the broker's first packet, found {0}")]
    NoConnAck(String),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("{0}")]
    Encode(#[from] wire::EncodeError),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the broker closed the connection")]
    Closed,
    #[error("the broker ended the connection: {0}")]
    Disconnected(String),
    #[error("another client has connected with the client id {0:?}: each gateway needs its own")]
    TakenOver(String),
    #[error("the broker is silent: no packet within {} s of a PINGREQ", .0.as_secs())]
    Silent(Duration),
    #[error("the broker did not answer a SUBSCRIBE within {} s", SUBACK_TIMEOUT.as_secs())]
    NoSubAck,
    #[error("the broker sent a SUBACK that fits no SUBSCRIBE")]
    StraySubAck,
    #[error("the outbox has ended")]
    OutboxEnded,
}

/// What a connection needs from its source; it outlives every connection.
#[derive(Debug)]
pub(super) struct Source<S> {
    pub(super) settings: config::Mqtt,
    pub(super) client_id: String,
    /// Subscriptions that a session of before may still have and that nobody wants any more.
    pub(super) obsolete: Vec<String>,
    pub(super) session: Session,
    pub(super) sink: S,
    pub(super) durable: watch::Receiver<u64>,
    /// That the broker lost the session is durable with this append: before, nothing may be subscribed to.
    pub(super) void_at: u64,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) outage: Outage,
}

/// Connects and serves the connection until it fails, or until the gateway stops.
pub(super) async fn serve<S: Sink>(source: &mut Source<S>) -> Result<(), ConnectionError> {
    // Seen by a source before this one, which could not wait so long.
    until_durable(source, source.void_at).await;
    let settings = &source.settings;
    let (host, port) = (settings.host.clone(), settings.port);
    let hello = timeout(CONNECT_TIMEOUT, hello(settings, &source.client_id));
    let (stream, decoder, ack) = tokio::select! {
        biased;
        () = stopped(&mut source.stop) => return Ok(()),
        hello = hello => hello.map_err(|_| ConnectionError::Timeout { host, port })??,
    };
    if !ack.session_present {
        forget_receipts(source).await;
        // Perhaps they are not void yet: nothing may be subscribed to.
        if *source.stop.borrow() {
            return Ok(());
        }
    }
    Connection::new(source, stream, decoder, &ack)?.run().await
}

/// A new session gives out packet identifiers anew, so receipts of the one before are void. That is made durable before
/// anything is subscribed to: after a crash a message of the new session must not be taken for one that is stored.
async fn forget_receipts<S: Sink>(source: &mut Source<S>) {
    if !source.session.has_receipts() {
        return;
    }
    let number = source.sink.accept(&Frames::new(clock::stamp()), &[Receipt::SESSION_LOST]);
    source.sink.hurry();
    source.void_at = number;
    until_durable(source, number).await;
}

/// Waits until that append is durable, or until the gateway stops.
async fn until_durable<S: Sink>(source: &mut Source<S>, number: u64) {
    while *source.durable.borrow() < number {
        tokio::select! {
            biased;
            () = stopped(&mut source.stop) => break,
            // An outbox that has ended is found by the connection.
            _ = source.durable.wait_for(|durable| *durable >= number) => break,
            // A full disk may take its time.
            () = tokio::time::sleep(beats::INTERVAL) => source.outage.beat(),
        }
    }
}

/// Waits until the gateway stops, or has lost the part that would say so.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Connects as far as the broker's CONNACK.
async fn hello(settings: &config::Mqtt, client_id: &str) -> Result<(Stream, Decoder, ConnAck), ConnectionError> {
    let host = settings.host.as_str();
    let wrong = |source| ConnectionError::Connect { host: host.to_owned(), port: settings.port, source };
    let tcp = TcpStream::connect((host, settings.port)).await.map_err(wrong)?;
    tcp.set_nodelay(true)?;
    let socket = match &settings.tls {
        None => Socket::Plain(tcp),
        Some(tls) => Socket::Tls(Box::new(tls::connect(tcp, host, tls).await?)),
    };
    let mut stream = Stream::new(socket);
    let connect = wire::Connect {
        version: settings.version,
        client_id,
        user: settings.user.as_deref(),
        password: settings.password.as_ref().map(config::Secret::reveal),
        keep_alive_s: u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX),
        session_expiry_s: u32::try_from(settings.session_expiry.as_secs()).unwrap_or(u32::MAX),
        receive_max: settings.in_flight_max,
    };
    wire::connect(&connect, &mut stream.output)?;
    let mut decoder = Decoder::new(settings.version, settings.packet_bytes_max);
    loop {
        match decoder.next(&mut stream.input)? {
            Some(Packet::ConnAck(ConnAck { refused: Some(why), .. })) => return Err(ConnectionError::Refused(why)),
            Some(Packet::ConnAck(ack)) => return Ok((stream, decoder, ack)),
            Some(Packet::Disconnect { reason, .. }) => return Err(ConnectionError::Disconnected(reason)),
            Some(other) => return Err(ConnectionError::NoConnAck(other.name().to_owned())),
            None if !decoder::may_be_a_broker(&stream.input) => {
                return Err(ConnectionError::NoConnAck("something that is not MQTT".to_owned()));
            }
            None => {}
        }
        stream.make_room(decoder.room(&stream.input));
        if stream.turn(true).await? == Turn::Read(0) {
            return Err(ConnectionError::Closed);
        }
    }
}

/// A connection that the broker has accepted.
struct Connection<'a, S> {
    source: &'a mut Source<S>,
    stream: Stream,
    decoder: Decoder,
    /// `None`: the broker wants no keep-alive.
    keep_alive: Option<Duration>,
    last_sent: Instant,
    /// The PINGREQ that nothing has been heard since.
    pinged: Option<Instant>,
    subscribed: Option<Instant>,
    last_read: Instant,
    /// Whether the last read did not come alone, so that the next one is waited for.
    dense: bool,
    full: bool,
}

impl<'a, S: Sink> Connection<'a, S> {
    fn new(
        source: &'a mut Source<S>,
        mut stream: Stream,
        decoder: Decoder,
        ack: &ConnAck,
    ) -> Result<Self, ConnectionError> {
        let now = clock::instant();
        let keep_alive = ack.keep_alive.map_or(source.settings.keep_alive, |s| Duration::from_secs(s.into()));
        let requests = source.session.connected(ack.session_present);
        for request in &requests {
            let (version, qos) = (source.settings.version, source.settings.qos);
            wire::subscribe(version, request.id, &request.filters, qos, &mut stream.output)?;
        }
        let obsolete = std::mem::take(&mut source.obsolete);
        if ack.session_present && !obsolete.is_empty() {
            for (filters, id) in obsolete.chunks(FILTERS_PER_PACKET).zip((0..=u16::MAX).rev()) {
                wire::unsubscribe(source.settings.version, id, filters, &mut stream.output)?;
            }
        }
        source.outage.connected(ack.session_present);
        if requests.is_empty() {
            source.outage.up(now, source.session.subscriptions.trouble());
        }
        Ok(Self {
            source,
            stream,
            decoder,
            keep_alive: (!keep_alive.is_zero()).then_some(keep_alive),
            last_sent: now,
            pinged: None,
            subscribed: (!requests.is_empty()).then_some(now),
            last_read: now,
            dense: false,
            full: false,
        })
    }

    async fn run(mut self) -> Result<(), ConnectionError> {
        // The CONNACK may have come with messages behind it.
        self.take_packets()?;
        let mut timer = Box::pin(sleep_until(self.next_wake().into()));
        loop {
            self.source.outage.beat();
            if self.wait_for_more() {
                self.take_durable()?;
            }
            let waits = self.source.session.waits();
            let read = !self.full;
            tokio::select! {
                biased;
                () = stopped(&mut self.source.stop) => return self.stop().await,
                changed = self.source.durable.changed(), if waits => {
                    changed.map_err(|_| ConnectionError::OutboxEnded)?;
                    self.take_durable()?;
                }
                turn = self.stream.turn(read) => match turn? {
                    Turn::Read(0) => return Err(ConnectionError::Closed),
                    Turn::Read(_) => self.take_read()?,
                    Turn::Written => {}
                },
                () = &mut timer => {
                    self.on_time(clock::instant())?;
                    timer.as_mut().reset(self.next_wake().into());
                }
            }
        }
    }

    /// Lets more messages gather where they come thick. Whether it slept.
    fn wait_for_more(&mut self) -> bool {
        // What is due goes out first, and a full source has nothing to wait for.
        if !self.dense || self.full || self.stream.has_output() {
            return false;
        }
        self.dense = false;
        let passed = clock::instant().saturating_duration_since(self.last_read);
        let left = self.source.settings.read_interval.min(SLEEP_MAX).saturating_sub(passed);
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(left);
        true
    }

    fn take_read(&mut self) -> Result<(), ConnectionError> {
        let now = clock::instant();
        let quick = now.saturating_duration_since(self.last_read) < self.source.settings.read_interval;
        self.last_read = now;
        self.pinged = None;
        let packets = self.take_packets()?;
        self.dense = packets > 1 || quick;
        Ok(())
    }

    /// Takes all whole packets of what was read, hands their messages over as one batch, and makes room again.
    fn take_packets(&mut self) -> Result<usize, ConnectionError> {
        self.source.session.begin(clock::stamp());
        let mut packets = 0;
        let outcome = loop {
            match self.decoder.next(&mut self.stream.input) {
                Ok(Some(packet)) => {
                    packets += 1;
                    if let Err(error) = self.on_packet(packet) {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(packets),
                Err(error) => break Err(error.into()),
            }
        };
        // What came before an error is good: it is handed over in any case.
        self.source.session.end(&mut self.source.sink);
        self.publish_requests()?;
        let tally = self.source.session.take_tally();
        self.source.outage.count(tally);
        self.stream.make_room(self.decoder.room(&self.stream.input));
        self.take_durable()?;
        outcome
    }

    /// Sends what devices are to be asked. At QoS 0: who does not hear it is asked again.
    fn publish_requests(&mut self) -> Result<(), ConnectionError> {
        for Request { topic, payload } in self.source.sink.take_requests() {
            tracing::info!(source = self.source.settings.name, topic, "asking a Sparkplug node for its birth message");
            wire::publish(self.source.settings.version, &topic, payload, &mut self.stream.output)?;
        }
        Ok(())
    }

    fn on_packet(&mut self, packet: Packet) -> Result<(), ConnectionError> {
        match packet {
            Packet::Publish(publish) => self.source.session.publish(&publish),
            Packet::SubAck { id, granted } => {
                let subscriptions = &mut self.source.session.subscriptions;
                let refused = subscriptions.granted(id, &granted).ok_or(ConnectionError::StraySubAck)?;
                self.source.outage.refused(refused);
                if !subscriptions.waits() {
                    self.subscribed = None;
                    self.source.outage.up(clock::instant(), subscriptions.trouble());
                }
            }
            Packet::PubRel { id } => wire::ack(Ack::Complete(id), &mut self.stream.output)?,
            Packet::Disconnect { taken_over: true, .. } => {
                return Err(ConnectionError::TakenOver(self.source.client_id.clone()));
            }
            Packet::Disconnect { reason, .. } => return Err(ConnectionError::Disconnected(reason)),
            Packet::ConnAck(_) => return Err(ConnectionError::NoConnAck("a second one".to_owned())),
            Packet::PingResp | Packet::Other => {}
        }
        Ok(())
    }

    /// Takes note of what became durable and queues the acknowledgements that are due.
    fn take_durable(&mut self) -> Result<(), ConnectionError> {
        let session = &mut self.source.session;
        session.durable(*self.source.durable.borrow_and_update());
        let before = self.stream.output.len();
        while let Some(ack) = session.take_due() {
            wire::ack(ack, &mut self.stream.output)?;
        }
        if self.stream.output.len() > before {
            self.last_sent = clock::instant();
        }
        session.hurry_if_near_the_limit(&mut self.source.sink);
        let full = session.is_full();
        if self.full && !full {
            // Whatever the broker said meanwhile was not read: its time begins anew.
            let now = clock::instant();
            self.pinged = self.pinged.map(|_| now);
            self.subscribed = self.subscribed.map(|_| now);
        }
        self.full = full;
        Ok(())
    }

    fn on_time(&mut self, now: Instant) -> Result<(), ConnectionError> {
        if !self.full {
            if let (Some(pinged), Some(patience)) = (self.pinged, self.patience())
                && now >= pinged + patience
            {
                return Err(ConnectionError::Silent(patience));
            }
            if self.subscribed.is_some_and(|subscribed| now >= subscribed + SUBACK_TIMEOUT) {
                return Err(ConnectionError::NoSubAck);
            }
        }
        if let Some(interval) = self.ping_interval()
            && now >= self.last_sent + interval
        {
            wire::ping(&mut self.stream.output)?;
            self.last_sent = now;
            self.pinged.get_or_insert(now);
        }
        Ok(())
    }

    /// When [`Connection::on_time`] has something to do. It may find that it came early: deadlines only move on.
    fn next_wake(&self) -> Instant {
        let ping = self.ping_interval().map(|interval| self.last_sent + interval);
        let silent = self.pinged.zip(self.patience()).map(|(pinged, patience)| pinged + patience);
        let subscribed = self.subscribed.map(|subscribed| subscribed + SUBACK_TIMEOUT);
        let soonest = match self.full {
            true => ping,
            false => [ping, silent, subscribed].into_iter().flatten().min(),
        };
        // With nothing to do it comes around all the same, to say that it is there.
        let beat = clock::instant() + beats::INTERVAL;
        soonest.map_or(beat, |soonest| soonest.min(beat))
    }

    /// A little less than the keep-alive, which counts from one packet of ours to the next (MQTT 5, 3.1.2.10).
    fn ping_interval(&self) -> Option<Duration> {
        self.keep_alive.map(|keep_alive| keep_alive.mul_f32(0.9))
    }

    /// How long the broker may be silent after a PINGREQ.
    fn patience(&self) -> Option<Duration> {
        self.keep_alive.map(|keep_alive| keep_alive.mul_f32(1.5))
    }

    /// Waits until what was accepted is safe, acknowledges it, and takes leave; the broker keeps the session.
    async fn stop(mut self) -> Result<(), ConnectionError> {
        let last = self.source.session.last_append();
        if *self.source.durable.borrow() < last {
            self.source.sink.hurry();
            let durable = self.source.durable.wait_for(|durable| *durable >= last);
            // Too late or outbox gone: what is not acknowledged comes again after the restart.
            let _ = timeout(STOP_TIMEOUT, durable).await;
        }
        self.take_durable()?;
        wire::disconnect(&mut self.stream.output)?;
        let farewell = async {
            while self.stream.has_output() {
                self.stream.turn(false).await?;
            }
            self.stream.shutdown().await
        };
        match timeout(STOP_TIMEOUT, farewell).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(ConnectionError::Silent(STOP_TIMEOUT)),
        }
        // A socket that is closed with something unread resets the connection, and then the broker may never see the last
        // acknowledgements. What still comes is not acknowledged, so it comes again; how the broker closes does not matter.
        let _ = timeout(CLOSE_TIMEOUT, self.stream.drain()).await;
        Ok(())
    }
}
