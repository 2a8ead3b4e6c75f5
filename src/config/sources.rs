//! `[gateway]`, `[mqtt.NAME]`, `[serial.NAME]`, `[modbus.NAME]` and `[mbus.NAME]`: their keys, defaults and bounds.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use super::field::{Field, clip_path};
use super::section::Section;
use super::{
    Bus, BusAddress, BusProtocol, BusUnit, ClockTrust, Gateway, Mqtt, MqttVersion, Parity, ProfileUse, Retained,
    Serial, Tls, secret, units, values,
};

const LABELS_MAX: usize = 32;
/// Devices with another name than their own, and the longest of these.
const NAMES_MAX: usize = 10_000;
const DEVICE_BYTES_MAX: usize = 256;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(86_400);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// `[gateway]`
pub(super) fn gateway(section: &Section<'_>) -> Gateway {
    let cx = section.cx;
    let id = match section.get("id") {
        Some(field) => field.checked(values::gateway_id).unwrap_or_default(),
        None => host_name(section),
    };
    let state_directory = (cx.env)("STATE_DIRECTORY").and_then(|list| list.split(':').next().map(str::to_owned));
    let state_directory = state_directory.filter(|first| !first.is_empty());
    let gateway = Gateway {
        id,
        labels: labels(section),
        data_dir: section
            .path("data_dir")
            .unwrap_or_else(|| PathBuf::from(state_directory.unwrap_or_else(|| super::DATA_DIR.to_owned()))),
        profiles_dir: section.path("profiles_dir").unwrap_or_else(|| PathBuf::from("/etc/tidegate/profiles")),
        stop_timeout: section.duration("stop_timeout", secs(0)..=secs(600)).unwrap_or(secs(20)),
        clock: clock_trust(section),
    };
    section.finish();
    gateway
}

/// `clock = "ntp"`, or `{ file = PATH }`.
fn clock_trust(section: &Section<'_>) -> ClockTrust {
    let Some(field) = section.get("clock") else { return ClockTrust::Auto };
    if field.is_table() {
        let table = field.section();
        let file = table.require("file", "the path of a file").and_then(|file| file.path());
        table.finish();
        return file.map_or(ClockTrust::Auto, ClockTrust::File);
    }
    let choice = field.choice(&[("auto", 0), ("ntp", 1), ("always", 2)]);
    match choice {
        Some(1) => ClockTrust::Ntp,
        Some(2) => ClockTrust::Always,
        _ => ClockTrust::Auto,
    }
}

/// The host's name, if it can be an id.
fn host_name(section: &Section<'_>) -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    match values::gateway_id(&name) {
        Ok(id) => id,
        Err(expected) => {
            let message = format!(
                "missing, and the host's name cannot stand in: expected {expected}, found \"{}\"",
                units::clip(&name)
            );
            section.problem_at("id", message, None);
            String::new()
        }
    }
}

fn labels(section: &Section<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let Some(field) = section.get("labels") else { return labels };
    for (name, label) in field.section().entries() {
        if let Err(expected) = values::name(&name) {
            label.problem(format!("expected {expected} as a label's name"), None);
        } else if let Some(text) = label.checked(values::printable(256)) {
            labels.insert(name, text);
        }
    }
    if labels.len() > LABELS_MAX {
        field.problem(format!("expected at most {LABELS_MAX} labels, found {}", labels.len()), None);
    }
    labels
}

/// Certificates and keys; the files must be there, but are read when a connection is made.
pub(super) fn tls(section: &Section<'_>) -> Tls {
    let file = |key| section.get(key).and_then(|field| field.file());
    let mut tls = Tls { ca: file("ca"), certificate: file("certificate"), key: file("key"), fingerprint: 0 };
    tls.fingerprint = fingerprint(&tls);
    match (section.has("certificate"), section.has("key")) {
        (true, false) => section.problem_at("key", "missing: expected the key of `certificate`".to_owned(), None),
        (false, true) => {
            section.problem_at("certificate", "missing: expected the certificate of `key`".to_owned(), None);
        }
        _ => {}
    }
    section.finish();
    tls
}

/// Of what is in the files now. One that cannot be read is told by who needs it.
fn fingerprint(tls: &Tls) -> u64 {
    /// A file of certificates is not larger than this, in bytes.
    const READ_MAX: u64 = 4 << 20;
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for path in [&tls.ca, &tls.certificate, &tls.key] {
        let mut bytes = Vec::new();
        if let Some(file) = path.as_ref().and_then(|path| std::fs::File::open(path).ok()) {
            let _ = file.take(READ_MAX).read_to_end(&mut bytes);
        }
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
    }
    hash.digest()
}

/// `[mqtt.NAME]`
pub(super) fn mqtt(name: &str, section: &Section<'_>) -> Mqtt {
    let url_field = section.require("url", "mqtt://HOST[:PORT] or mqtts://HOST[:PORT]");
    let url = url_field.as_ref().and_then(|field| field.checked(values::mqtt_url));
    let version = section.choice("version", &[("3.1.1", MqttVersion::V4), ("5", MqttVersion::V5)]);
    let version = version.unwrap_or(MqttVersion::V5);
    let tls = section.get("tls").map(|field| {
        if url.as_ref().is_some_and(|url| !url.tls) {
            let help = Some("write the url with mqtts://".to_owned());
            field.problem("expected `tls` only with an mqtts:// url".to_owned(), help);
        }
        tls(&field.section())
    });
    let user = section.checked("user", values::mqtt_text);
    let password = secret::optional(section, "password");
    if password.is_some() && !section.has("user") && version == MqttVersion::V4 {
        let message = "missing: expected a user with the password: MQTT 3.1.1 has no password alone".to_owned();
        section.problem_at("user", message, None);
    }
    let packet_bytes_max = section.size_in_memory("packet_max", KIB..=256 * MIB).unwrap_or(MIB as usize);
    let memory_default = packet_bytes_max.max(4 * MIB as usize);
    let memory_bytes_max = section.size_in_memory("memory_max", 64 * KIB..=1024 * MIB).unwrap_or(memory_default);
    if memory_bytes_max < packet_bytes_max {
        let least = units::format_size(packet_bytes_max as u64);
        section.problem_with("memory_max", format!("expected at least packet_max, which is {least}"));
    }
    let in_flight_default = if version == MqttVersion::V5 { 4096 } else { 20 };
    let (tls_url, host, port) = url.map_or((false, String::new(), 0), |url| (url.tls, url.host, url.port));
    let mqtt = Mqtt {
        name: format!("mqtt.{name}"),
        host,
        port,
        tls: tls_url.then(|| tls.unwrap_or_default()),
        version,
        client_id: section.checked("client_id", values::mqtt_text),
        user,
        password,
        profiles: profiles(section),
        qos: section.integer("qos", 0..=1).unwrap_or(1),
        keep_alive: section.duration("keep_alive", secs(5)..=secs(65_535)).unwrap_or(secs(30)),
        session_expiry: section.duration("session_expiry", secs(1)..=DAY * 3650).unwrap_or(DAY * 7),
        in_flight_max: section.integer("in_flight_max", 1..=65_535).unwrap_or(in_flight_default),
        packet_bytes_max,
        retained: section
            .choice("retained", &[("drop", Retained::Drop), ("first", Retained::First), ("keep", Retained::Keep)])
            .unwrap_or(Retained::First),
        time_zone: section.checked("time_zone", values::time_zone),
        names: names(section),
        read_interval: section.duration("read_interval", secs(0)..=ms(100)).unwrap_or(ms(5)),
        memory_bytes_max,
        drop_qos0: section.boolean("drop_qos0").unwrap_or(false),
        rebirth: section.boolean("rebirth").unwrap_or(true),
    };
    section.finish();
    mqtt
}

impl Mqtt {
    /// The settings of someone who only listens: 3.1.1, which every broker speaks, QoS 0, and no session that stays.
    ///
    /// # Errors
    /// What was expected as the address.
    pub fn listener(name: &str, url: &str) -> Result<Self, String> {
        let url = values::mqtt_url(url)?;
        Ok(Self {
            name: name.to_owned(),
            host: url.host,
            port: url.port,
            tls: url.tls.then(Tls::default),
            version: MqttVersion::V4,
            client_id: None,
            user: None,
            password: None,
            profiles: Vec::new(),
            qos: 0,
            keep_alive: secs(30),
            session_expiry: Duration::ZERO,
            in_flight_max: 20,
            packet_bytes_max: MIB as usize,
            retained: Retained::Keep,
            time_zone: None,
            names: BTreeMap::new(),
            read_interval: ms(5),
            memory_bytes_max: 4 * MIB as usize,
            drop_qos0: false,
            rebirth: false,
        })
    }
}

fn profiles(section: &Section<'_>) -> Vec<ProfileUse> {
    const EXPECTED: &str = "an array of profiles, such as [\"tasmota\"]";
    let Some(field) = section.require("profiles", EXPECTED) else { return Vec::new() };
    let Some(items) = field.array(EXPECTED) else { return Vec::new() };
    if items.is_empty() {
        field.problem(
            "expected at least one profile, found none: it is the profiles that bring the topics".to_owned(),
            None,
        );
    }
    let mut profiles: Vec<ProfileUse> = Vec::new();
    for item in items {
        let Some(profile) = profile(&item) else { continue };
        if profiles.iter().any(|other| other.id == profile.id && other.prefix == profile.prefix) {
            item.problem(
                format!("profile \"{}\" is there already, with the same prefix", units::clip(&profile.id)),
                None,
            );
        }
        profiles.push(profile);
    }
    profiles
}

fn profile(field: &Field<'_>) -> Option<ProfileUse> {
    if !field.is_table() {
        return Some(ProfileUse { id: field.checked(values::profile_id)?, prefix: None, exclude: Vec::new() });
    }
    let section = field.section();
    let id = section.require("id", "the id of a profile").and_then(|field| field.checked(values::profile_id));
    let prefix = section.checked("prefix", values::topic_prefix);
    let exclude = section.get("exclude").and_then(|field| field.array("an array of topic filters"));
    let exclude = exclude.into_iter().flatten().filter_map(|field| field.checked(values::topic_filter)).collect();
    section.finish();
    Some(ProfileUse { id: id?, prefix, exclude })
}

/// `[serial.NAME]`
pub(super) fn serial(name: &str, section: &Section<'_>) -> Serial {
    let frame_bytes_max = section.size_in_memory("frame_max", 16..=64 * KIB);
    let delimiter = section.get("delimiter").and_then(|field| {
        let bytes = field.checked(units::unescape)?;
        if !(1..=16).contains(&bytes.len()) {
            field.problem(format!("expected 1 to 16 bytes, found {}", bytes.len()), None);
        }
        Some(bytes)
    });
    let serial = Serial {
        name: format!("serial.{name}"),
        port: port(section),
        profile: section
            .require("profile", "the id of a profile")
            .and_then(|field| field.checked(values::profile_id))
            .unwrap_or_default(),
        device: section.checked("device", values::printable(128)).unwrap_or_else(|| name.to_owned()),
        baud: section.integer("baud", 50..=4_000_000),
        data_bits: section.integer("data_bits", 5..=8),
        parity: parity(section),
        stop_bits: section.integer("stop_bits", 1..=2),
        delimiter,
        every: section.duration("every", ms(100)..=DAY),
        frame_bytes_max,
        time_zone: section.checked("time_zone", values::time_zone),
        names: names(section),
    };
    section.finish();
    serial
}

/// `names = { "what a device calls itself" = "what it is called" }`. Two may be called the same: the old one and the new one.
fn names(section: &Section<'_>) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let Some(field) = section.get("names") else { return names };
    for (own, name) in field.section().entries() {
        if own.is_empty() || own.len() > DEVICE_BYTES_MAX {
            name.problem(format!("expected 1 to {DEVICE_BYTES_MAX} bytes as the name that a device has now"), None);
        } else if let Some(text) = name.checked(values::printable(128)) {
            names.insert(own, text);
        }
    }
    if names.len() > NAMES_MAX {
        field.problem(format!("expected at most {NAMES_MAX} names, found {}", names.len()), None);
    }
    names
}

fn parity(section: &Section<'_>) -> Option<Parity> {
    section.choice("parity", &[("none", Parity::None), ("odd", Parity::Odd), ("even", Parity::Even)])
}

/// `[modbus.NAME]` and `[mbus.NAME]`
pub(super) fn bus(protocol: BusProtocol, name: &str, section: &Section<'_>) -> Bus {
    let tables = section.tables("unit");
    let units: Vec<BusUnit> = tables.iter().map(|table| bus_unit(protocol, name, table)).collect();
    let word = protocol.as_str();
    if !section.has("unit") {
        let message = format!("missing: expected the devices on this line, each headed [[{word}.NAME.unit]]");
        section.problem_at("unit", message, None);
    }
    for (index, (unit, table)) in units.iter().zip(&tables).enumerate() {
        let before = &units[..index];
        let key = if matches!(unit.address, BusAddress::Meter(_)) { "id" } else { "address" };
        // One that was refused is told already.
        let refused = unit.address == UNKNOWN;
        let taken = table.has(key) && !refused && before.iter().any(|other| other.address == unit.address);
        if taken {
            table.problem_with(key, format!("{} is the {key} of another unit on this line already", unit.address));
        }
        // A name that was made of such an address is no second mistake.
        let named = table.has("device") || !(refused || taken);
        if named && before.iter().any(|other| other.device == unit.device) {
            let message = format!("\"{}\" is the name of another unit on this line already", units::clip(&unit.device));
            table.problem_with("device", message);
        }
    }
    let bus = Bus {
        name: format!("{word}.{name}"),
        protocol,
        port: port(section),
        baud: section.integer("baud", 50..=4_000_000),
        parity: parity(section),
        stop_bits: section.integer("stop_bits", 1..=2),
        rs485: protocol == BusProtocol::Modbus && section.boolean("rs485").unwrap_or(false),
        every: every(section),
        timeout: section.duration("timeout", TIMEOUT),
        retries: section.integer("retries", 0..=10).unwrap_or(2),
        pause: section.duration("pause", ms(0)..=secs(1)).unwrap_or(ms(0)),
        units,
    };
    section.finish();
    bus
}

/// Stands for an address that was refused: a broadcast, to which nobody answers.
const UNKNOWN: BusAddress = BusAddress::Number(255);

/// How long an answer may take.
const TIMEOUT: std::ops::RangeInclusive<Duration> = ms(20)..=secs(10);

fn every(section: &Section<'_>) -> Option<Duration> {
    section.duration("every", ms(100)..=DAY * 31)
}

fn bus_unit(protocol: BusProtocol, name: &str, section: &Section<'_>) -> BusUnit {
    let address = match protocol {
        BusProtocol::Modbus => section.require("address", "1 to 254").and_then(|field| field.integer(1..=254)),
        BusProtocol::Mbus if section.has("id") => {
            if section.has("address") {
                section.problem_with("address", "expected either an address or an id".to_owned());
            }
            None
        }
        BusProtocol::Mbus => {
            let expected = "the primary address, 0 to 250, or as `id` the number of the meter";
            section.require("address", expected).and_then(|field| field.integer(0..=254))
        }
    };
    if protocol == BusProtocol::Mbus && matches!(address, Some(251..=253)) {
        section.problem_with("address", "expected 0 to 250, or 254 for the only meter on the line".to_owned());
    }
    let id = if protocol == BusProtocol::Mbus { section.checked("id", values::meter_id) } else { None };
    let address = id.map(BusAddress::Meter).or(address.map(BusAddress::Number)).unwrap_or(UNKNOWN);
    let unit = BusUnit {
        address,
        profile: section
            .require("profile", "the id of a profile")
            .and_then(|field| field.checked(values::profile_id))
            .unwrap_or_default(),
        device: section.checked("device", values::printable(128)).unwrap_or_else(|| format!("{name}-{address}")),
        every: every(section),
        timeout: section.duration("timeout", TIMEOUT),
    };
    section.finish();
    unit
}

/// The device file: an absolute path, because it is not beside the configuration. It need not exist.
fn port(section: &Section<'_>) -> PathBuf {
    let Some(field) = section.require("port", "a device file, such as \"/dev/serial/by-id/…\"") else {
        return PathBuf::new();
    };
    let path = field.checked(|text| match text.starts_with('/') && !text.contains('\0') {
        true => Ok(PathBuf::from(text)),
        false => Err("the absolute path of a device file, such as \"/dev/serial/by-id/…\"".to_owned()),
    });
    path.unwrap_or_default()
}

/// What is wrong between sources: two that would throw each other off one broker, or read one port.
pub(super) fn between(mqtt: &[(Mqtt, Section<'_>)], serial: &[(Serial, Section<'_>)], buses: &[(Bus, Section<'_>)]) {
    for (index, (source, section)) in mqtt.iter().enumerate() {
        let same = |other: &Mqtt| {
            other.client_id.is_some()
                && other.client_id == source.client_id
                && other.host == source.host
                && other.port == source.port
        };
        if let Some((other, _)) = mqtt[..index].iter().find(|(other, _)| same(other)) {
            let message =
                format!("`{}` has the same client_id at the same broker, which admits only one of them", other.name);
            section.problem_with("client_id", message);
        }
    }
    let serial = serial.iter().map(|(source, section)| (&source.name, &source.port, section));
    let buses = buses.iter().map(|(source, section)| (&source.name, &source.port, section));
    let ports: Vec<_> = serial.chain(buses).collect();
    for (index, (_, port, section)) in ports.iter().enumerate() {
        let same = |other: &PathBuf| other == *port && !port.as_os_str().is_empty();
        if let Some((other, ..)) = ports[..index].iter().find(|(_, other, _)| same(other)) {
            section.problem_with("port", format!("`{other}` reads {} already", clip_path(port)));
        }
    }
}
