//! MQTT packets, 3.1.1 and 5, as one small [`Packet`] of our own. The only file that names rumqttc: its public codec takes
//! packets apart and puts them together.
//!
//! Payloads are slices of the read buffer (no copy): the caller lets go of them before it reads again, so that the
//! buffer can be reused.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, v4};
use rumqttc::v5::mqttbytes as v5_bytes;
use rumqttc::v5::mqttbytes::v5;

use crate::config::MqttVersion;

/// The first byte of DISCONNECT (MQTT 5, 3.14.1).
const DISCONNECT: u8 = 0xe0;

/// What a broker sends.
#[derive(Debug)]
pub(super) enum Packet {
    /// The answer to CONNECT.
    ConnAck(ConnAck),
    /// A message.
    Publish(Publish),
    /// The answer to a SUBSCRIBE: for each of its filters the QoS granted, or why it was refused.
    SubAck { id: u16, granted: Vec<Result<u8, String>> },
    /// The second half of a QoS 2 message.
    PubRel { id: u16 },
    /// The answer to PINGREQ.
    PingResp,
    /// The broker ends the connection (MQTT 5 only).
    Disconnect { reason: String, taken_over: bool },
    /// Nothing that a subscriber waits for.
    Other,
}

impl Packet {
    /// The protocol's name for it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::ConnAck(_) => "CONNACK",
            Self::Publish(_) => "PUBLISH",
            Self::SubAck { .. } => "SUBACK",
            Self::PubRel { .. } => "PUBREL",
            Self::PingResp => "PINGRESP",
            Self::Disconnect { .. } => "DISCONNECT",
            Self::Other => "another packet",
        }
    }
}

/// The answer to CONNECT.
#[derive(Debug)]
pub(super) struct ConnAck {
    /// Whether the broker still had the session.
    pub(super) session_present: bool,
    /// Why the connection is refused.
    pub(super) refused: Option<String>,
    /// The keep-alive in seconds that the broker wants instead (MQTT 5).
    pub(super) keep_alive: Option<u16>,
}

/// A message.
#[derive(Debug)]
pub(super) struct Publish {
    topic: Bytes,
    /// The payload, or the beginning of one that is over the limit.
    pub(super) payload: Bytes,
    /// The packet identifier; 0 at QoS 0.
    pub(super) id: u16,
    pub(super) qos: u8,
    /// The broker has sent it before.
    pub(super) dup: bool,
    /// The broker had kept it for new subscribers.
    pub(super) retain: bool,
    /// The payload's full length, where it is over the limit.
    pub(super) oversize: Option<u64>,
}

impl Publish {
    /// The topic; it was found to be UTF-8 when the packet was read.
    pub(super) fn topic(&self) -> &str {
        std::str::from_utf8(&self.topic).unwrap_or_default()
    }
}

/// Takes one whole packet apart; `Err` says what is wrong with it.
pub(super) fn decode(version: MqttVersion, packet: BytesMut) -> Result<Packet, String> {
    match version {
        MqttVersion::V4 => decode_v4(packet).map_err(|error| error.to_string()),
        MqttVersion::V5 => decode_v5(packet),
    }
}

fn decode_v4(mut packet: BytesMut) -> Result<Packet, mqttbytes::Error> {
    Ok(match v4::Packet::read(&mut packet, usize::MAX)? {
        v4::Packet::Publish(publish) => Packet::Publish(Publish {
            topic: Bytes::from(publish.topic),
            payload: publish.payload,
            id: publish.pkid,
            qos: publish.qos as u8,
            dup: publish.dup,
            retain: publish.retain,
            oversize: None,
        }),
        v4::Packet::ConnAck(ack) => Packet::ConnAck(ConnAck {
            session_present: ack.session_present,
            refused: (ack.code != v4::ConnectReturnCode::Success).then(|| words(&ack.code)),
            keep_alive: None,
        }),
        v4::Packet::SubAck(ack) => Packet::SubAck {
            id: ack.pkid,
            granted: ack
                .return_codes
                .iter()
                .map(|code| match code {
                    v4::SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                    v4::SubscribeReasonCode::Failure => Err("refused".to_owned()),
                })
                .collect(),
        },
        v4::Packet::PubRel(release) => Packet::PubRel { id: release.pkid },
        v4::Packet::PingResp => Packet::PingResp,
        _ => Packet::Other,
    })
}

fn decode_v5(mut packet: BytesMut) -> Result<Packet, String> {
    // The codec wants a reason code and properties, which the protocol lets the broker leave out (MQTT 5, 3.14.2.1).
    if packet.len() < 4 && packet.first() == Some(&DISCONNECT) {
        let code = packet.get(2).copied().unwrap_or_default();
        packet = BytesMut::from(&[DISCONNECT, 2, code, 0][..]);
    }
    Ok(match v5::Packet::read(&mut packet, None).map_err(|error| error.to_string())? {
        v5::Packet::Publish(publish) => {
            std::str::from_utf8(&publish.topic).map_err(|error| format!("the topic is not UTF-8: {error}"))?;
            if publish.topic.is_empty() {
                return Err("expected a topic: the gateway announces no topic aliases".to_owned());
            }
            Packet::Publish(Publish {
                topic: publish.topic,
                payload: publish.payload,
                id: publish.pkid,
                qos: publish.qos as u8,
                dup: publish.dup,
                retain: publish.retain,
                oversize: None,
            })
        }
        v5::Packet::ConnAck(ack) => {
            let properties = ack.properties.as_ref();
            let text = properties.and_then(|properties| properties.reason_string.as_deref());
            Packet::ConnAck(ConnAck {
                session_present: ack.session_present,
                refused: (ack.code != v5::ConnectReturnCode::Success).then(|| with_text(words(&ack.code), text)),
                keep_alive: properties.and_then(|properties| properties.server_keep_alive),
            })
        }
        v5::Packet::SubAck(ack) => {
            let text = ack.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
            Packet::SubAck {
                id: ack.pkid,
                granted: ack
                    .return_codes
                    .iter()
                    .map(|code| match code {
                        v5::SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                        refused => Err(with_text(words(refused), text)),
                    })
                    .collect(),
            }
        }
        v5::Packet::PubRel(release) => Packet::PubRel { id: release.pkid },
        v5::Packet::PingResp(_) => Packet::PingResp,
        v5::Packet::Disconnect(disconnect) => {
            let text = disconnect.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
            Packet::Disconnect {
                taken_over: disconnect.reason_code == v5::DisconnectReasonCode::SessionTakenOver,
                reason: with_text(words(&disconnect.reason_code), text),
            }
        }
        _ => Packet::Other,
    })
}

/// `NotAuthorized` as `not authorized`.
fn words(code: &impl std::fmt::Debug) -> String {
    let mut text = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

fn with_text(mut words: String, text: Option<&str>) -> String {
    if let Some(text) = text {
        words.push_str(": ");
        words.push_str(text);
    }
    words
}

/// What CONNECT says. The session is always to be kept, and no topic alias is announced.
#[derive(Debug)]
pub(super) struct Connect<'a> {
    pub(super) version: MqttVersion,
    pub(super) client_id: &'a str,
    pub(super) user: Option<&'a str>,
    pub(super) password: Option<&'a str>,
    pub(super) keep_alive_s: u16,
    /// MQTT 5 only.
    pub(super) session_expiry_s: u32,
    /// MQTT 5 only.
    pub(super) receive_max: u16,
}

/// Why a packet of ours cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("a packet for the broker cannot be written: {0}")]
pub(super) struct EncodeError(String);

/// Appends CONNECT to `out`.
pub(super) fn connect(connect: &Connect<'_>, out: &mut BytesMut) -> Result<(), EncodeError> {
    let login = (connect.user, connect.password);
    let client_id = connect.client_id.to_owned();
    match connect.version {
        MqttVersion::V4 => {
            let login = match login {
                (None, None) => None,
                (user, password) => Some(v4::Login::new(user.unwrap_or_default(), password.unwrap_or_default())),
            };
            let packet = v4::Connect {
                protocol: mqttbytes::Protocol::V4,
                keep_alive: connect.keep_alive_s,
                client_id,
                // A session that is to expire at once is not to be kept by 3.1.1 either.
                clean_session: connect.session_expiry_s == 0,
                last_will: None,
                login,
            };
            write_v4(&v4::Packet::Connect(packet), out)
        }
        MqttVersion::V5 => {
            let login = match login {
                (None, None) => None,
                (user, password) => Some(v5::Login::new(user.unwrap_or_default(), password.unwrap_or_default())),
            };
            let mut properties = v5::ConnectProperties::new();
            properties.session_expiry_interval = Some(connect.session_expiry_s);
            properties.receive_maximum = Some(connect.receive_max.max(1));
            let packet = v5::Connect {
                keep_alive: connect.keep_alive_s,
                client_id,
                clean_start: connect.session_expiry_s == 0,
                properties: Some(properties),
            };
            write_v5(&v5::Packet::Connect(packet, None, login), out)
        }
    }
}

/// Appends a SUBSCRIBE for these filters to `out`. MQTT 5: retained messages come only with a subscription that the
/// session did not have yet.
pub(super) fn subscribe(
    version: MqttVersion,
    id: u16,
    filters: &[String],
    qos: u8,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    match version {
        MqttVersion::V4 => {
            let qos = if qos == 0 { mqttbytes::QoS::AtMostOnce } else { mqttbytes::QoS::AtLeastOnce };
            let filters = filters.iter().map(|filter| v4::SubscribeFilter::new(filter.clone(), qos)).collect();
            write_v4(&v4::Packet::Subscribe(v4::Subscribe { pkid: id, filters }), out)
        }
        MqttVersion::V5 => {
            let qos = if qos == 0 { v5_bytes::QoS::AtMostOnce } else { v5_bytes::QoS::AtLeastOnce };
            let filters = filters
                .iter()
                .map(|filter| v5::Filter {
                    retain_forward_rule: v5::RetainForwardRule::OnNewSubscribe,
                    ..v5::Filter::new(filter.clone(), qos)
                })
                .collect();
            write_v5(&v5::Packet::Subscribe(v5::Subscribe { pkid: id, filters, properties: None }), out)
        }
    }
}

/// Appends an UNSUBSCRIBE to `out`.
pub(super) fn unsubscribe(
    version: MqttVersion,
    id: u16,
    filters: &[String],
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    match version {
        MqttVersion::V4 => {
            write_v4(&v4::Packet::Unsubscribe(v4::Unsubscribe { pkid: id, topics: filters.to_vec() }), out)
        }
        MqttVersion::V5 => write_v5(
            &v5::Packet::Unsubscribe(v5::Unsubscribe { pkid: id, filters: filters.to_vec(), properties: None }),
            out,
        ),
    }
}

/// Appends a PUBLISH of QoS 0 to `out`.
pub(super) fn publish(
    version: MqttVersion,
    topic: &str,
    payload: Vec<u8>,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    match version {
        MqttVersion::V4 => {
            write_v4(&v4::Packet::Publish(v4::Publish::new(topic, mqttbytes::QoS::AtMostOnce, payload)), out)
        }
        MqttVersion::V5 => {
            write_v5(&v5::Packet::Publish(v5::Publish::new(topic, v5_bytes::QoS::AtMostOnce, payload, None)), out)
        }
    }
}

// The packets below are the same bytes in both versions: with success as their reason, MQTT 5 leaves it out.

/// Appends an acknowledgement to `out`.
pub(super) fn ack(ack: Ack, out: &mut BytesMut) -> Result<(), EncodeError> {
    let packet = match ack {
        Ack::Taken(id) => v4::Packet::PubAck(v4::PubAck::new(id)),
        Ack::Received(id) => v4::Packet::PubRec(v4::PubRec::new(id)),
        Ack::Complete(id) => v4::Packet::PubComp(v4::PubComp::new(id)),
    };
    write_v4(&packet, out)
}

/// An acknowledgement of the message with that packet identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ack {
    /// PUBACK: of a QoS 1 message.
    Taken(u16),
    /// PUBREC: of a QoS 2 message, first half.
    Received(u16),
    /// PUBCOMP: of a QoS 2 message, second half.
    Complete(u16),
}

/// Appends PINGREQ to `out`.
pub(super) fn ping(out: &mut BytesMut) -> Result<(), EncodeError> {
    write_v4(&v4::Packet::PingReq, out)
}

/// Appends DISCONNECT to `out`; the broker keeps the session.
pub(super) fn disconnect(out: &mut BytesMut) -> Result<(), EncodeError> {
    write_v4(&v4::Packet::Disconnect, out)
}

fn write_v4(packet: &v4::Packet, out: &mut BytesMut) -> Result<(), EncodeError> {
    packet.write(out, usize::MAX).map(drop).map_err(|error| EncodeError(error.to_string()))
}

fn write_v5(packet: &v5::Packet, out: &mut BytesMut) -> Result<(), EncodeError> {
    packet.write(out, None).map(drop).map_err(|error| EncodeError(error.to_string()))
}
