//! Writes a configuration as a file again: everything resolved, every default written out, and of secrets where they
//! come from. What it writes can be loaded, and gives the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::secret::Origin;
use super::units::{escape, format_duration, format_size};
use super::{
    Alarm, ClockTrust, Compression, Filter, FilterAction, Format, Kafka, Layout, Loaded, Modbus, Mqtt, MqttVersion,
    Outbox, Parity, Persist, Retained, Rules, Select, Serial, Timestamp, Tls, Window, WindowAlarm, sinks, values,
};
use crate::reading::Value;

/// A file being written. Writing to a `String` cannot fail.
struct Page(String);

impl Page {
    fn head(&mut self, head: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.0, "{gap}[{head}]");
    }

    fn line(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn text(&mut self, key: &str, text: &str) {
        self.line(key, quoted(text));
    }

    fn optional(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    fn path(&mut self, key: &str, path: &Path) {
        self.text(key, &path.to_string_lossy());
    }

    fn duration(&mut self, key: &str, duration: Duration) {
        self.text(key, &format_duration(duration));
    }

    fn size(&mut self, key: &str, bytes: u64) {
        self.text(key, &format_size(bytes));
    }
}

/// As a TOML string that no variable is looked for in.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.replace("${", "$${").chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn list<'a>(items: impl IntoIterator<Item = &'a String>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

fn inline(pairs: &[(&str, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) }
}

fn tls(tls: &Tls) -> String {
    let files = [("ca", &tls.ca), ("certificate", &tls.certificate), ("key", &tls.key)];
    let pairs: Vec<_> = files
        .into_iter()
        .filter_map(|(key, path)| path.as_ref().map(|path| (key, quoted(&path.to_string_lossy()))))
        .collect();
    inline(&pairs)
}

impl Loaded {
    /// The configuration as a file, with all that was left to defaults and without secrets.
    #[must_use]
    pub fn print(&self) -> String {
        let mut page = Page(String::new());
        let gateway = &self.config.gateway;
        page.head("gateway");
        page.text("id", &gateway.id);
        let labels: Vec<_> = gateway.labels.iter().map(|(name, label)| (name.as_str(), quoted(label))).collect();
        page.line("labels", inline(&labels));
        page.path("data_dir", &gateway.data_dir);
        page.path("profiles_dir", &gateway.profiles_dir);
        page.duration("stop_timeout", gateway.stop_timeout);
        match &gateway.clock {
            ClockTrust::Auto => page.text("clock", "auto"),
            ClockTrust::Ntp => page.text("clock", "ntp"),
            ClockTrust::Always => page.text("clock", "always"),
            ClockTrust::File(path) => page.line("clock", inline(&[("file", quoted(&path.to_string_lossy()))])),
        }
        for mqtt in &self.config.mqtt {
            self.mqtt(&mut page, mqtt);
        }
        for source in &self.config.serial {
            serial(&mut page, source);
        }
        for source in &self.config.modbus {
            modbus(&mut page, source);
        }
        rules(&mut page, &self.config.rules);
        self.outbox(&mut page, &self.config.outbox);
        // Without brokers there was no [kafka], which only showing readings admits.
        if !self.config.kafka.brokers.is_empty() {
            self.kafka(&mut page, &self.config.kafka);
        }
        page.0
    }

    /// Where the secret of a key comes from.
    fn origin(&self, key: &str) -> String {
        match self.origins.get(key) {
            Some(Origin::File(name)) => inline(&[("file", quoted(name))]),
            Some(Origin::Env(name)) => inline(&[("env", quoted(name))]),
            None => "{}".to_owned(),
        }
    }

    fn mqtt(&self, page: &mut Page, mqtt: &Mqtt) {
        page.head(&mqtt.name);
        page.text("url", &values::format_mqtt_url(mqtt.tls.is_some(), &mqtt.host, mqtt.port));
        if let Some(files) = &mqtt.tls {
            page.line("tls", tls(files));
        }
        page.text("version", if mqtt.version == MqttVersion::V5 { "5" } else { "3.1.1" });
        page.optional("client_id", mqtt.client_id.as_deref());
        page.optional("user", mqtt.user.as_deref());
        if mqtt.password.is_some() {
            page.line("password", self.origin(&format!("{}.password", mqtt.name)));
        }
        let profiles: Vec<String> = mqtt
            .profiles
            .iter()
            .map(|profile| {
                let mut pairs = vec![("id", quoted(&profile.id))];
                pairs.extend(profile.prefix.iter().map(|prefix| ("prefix", quoted(prefix))));
                if !profile.exclude.is_empty() {
                    pairs.push(("exclude", list(&profile.exclude)));
                }
                if pairs.len() == 1 { quoted(&profile.id) } else { inline(&pairs) }
            })
            .collect();
        page.line("profiles", format!("[{}]", profiles.join(", ")));
        page.line("qos", mqtt.qos);
        page.duration("keep_alive", mqtt.keep_alive);
        page.duration("session_expiry", mqtt.session_expiry);
        page.line("in_flight_max", mqtt.in_flight_max);
        page.size("packet_max", mqtt.packet_bytes_max as u64);
        let retained = match mqtt.retained {
            Retained::Drop => "drop",
            Retained::First => "first",
            Retained::Keep => "keep",
        };
        page.text("retained", retained);
        page.optional("time_zone", mqtt.time_zone.as_deref());
        names(page, &mqtt.names);
        page.duration("read_interval", mqtt.read_interval);
        page.size("memory_max", mqtt.memory_bytes_max as u64);
        page.line("drop_qos0", mqtt.drop_qos0);
        page.line("rebirth", mqtt.rebirth);
    }

    fn outbox(&self, page: &mut Page, outbox: &Outbox) {
        page.head("outbox");
        page.size("max_size", outbox.size_max);
        let when_full = sinks::WHEN_FULL.iter().find(|(_, when_full)| *when_full == outbox.when_full);
        page.optional("when_full", when_full.map(|(word, _)| *word));
        if let Some(bytes) = outbox.ladder.min_free {
            page.size("min_free", bytes);
        }
        page.duration("keep_delivered", outbox.keep_delivered);
        page.text("persist", if outbox.persist == Persist::Always { "always" } else { "when-behind" });
        page.head("outbox.advanced");
        page.duration("hold", outbox.hold);
        page.duration("commit_interval", outbox.commit_interval);
        page.duration("commit_interval_max", outbox.commit_interval_max);
        page.size("commit_bytes", outbox.commit_bytes as u64);
        page.size("segment_size", outbox.segment_bytes);
        page.size("memory_tail", outbox.memory_tail_bytes as u64);
        for (lane, age) in ["alarm", "aggregate", "raw"].iter().zip(outbox.ladder.max_age) {
            if let Some(age) = age {
                page.duration(&format!("max_age_{lane}"), age);
            }
        }
        page.line("thin_at_percent", outbox.ladder.thin_at_percent);
        page.duration("thin_step", outbox.ladder.thin_step);
        let encryption = &outbox.encryption;
        if encryption.key.is_some() || !encryption.previous_keys.is_empty() {
            page.head("outbox.encryption");
            if encryption.key.is_some() {
                page.line("key", self.origin("outbox.encryption.key"));
            }
            let previous = 0..encryption.previous_keys.len();
            let previous = previous.map(|at| self.origin(&format!("outbox.encryption.previous_keys[{at}]")));
            page.line("previous_keys", format!("[{}]", previous.collect::<Vec<_>>().join(", ")));
        }
    }

    fn kafka(&self, page: &mut Page, kafka: &Kafka) {
        page.head("kafka");
        page.line("brokers", list(&kafka.brokers));
        match &kafka.tls {
            Some(files) => page.line("tls", tls(files)),
            None => page.line("tls", false),
        }
        if let Some(sasl) = &kafka.sasl {
            let pairs = [
                ("mechanism", quoted(sasl.mechanism.as_str())),
                ("user", quoted(&sasl.user)),
                ("password", self.origin("kafka.sasl.password")),
            ];
            page.line("sasl", inline(&pairs));
        }
        let topics = [
            ("reading", quoted(&kafka.topics.reading)),
            ("aggregate", quoted(&kafka.topics.aggregate)),
            ("alarm", quoted(&kafka.topics.alarm)),
            ("dead_letter", quoted(&kafka.topics.dead_letter)),
        ];
        page.line("topics", inline(&topics));
        let layout = match kafka.layout {
            Layout::Wide => "wide",
            Layout::Narrow => "narrow",
            Layout::Flat => "flat",
        };
        page.text("layout", layout);
        page.text("format", if kafka.format == Format::Json { "json" } else { "cbor" });
        page.text("timestamp", if kafka.timestamp == Timestamp::Send { "send" } else { "event" });
        let compression = match kafka.compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        };
        page.text("compression", compression);
        page.duration("linger", kafka.linger);
        page.head("kafka.advanced");
        page.line("in_flight_max", kafka.in_flight_max);
        page.size("in_flight_bytes", kafka.in_flight_bytes_max as u64);
        page.duration("reconnect_max", kafka.reconnect_max);
    }
}

fn parity(parity: Parity) -> &'static str {
    match parity {
        Parity::None => "none",
        Parity::Odd => "odd",
        Parity::Even => "even",
    }
}

fn modbus(page: &mut Page, modbus: &Modbus) {
    page.head(&modbus.name);
    page.path("port", &modbus.port);
    // What is left out here comes from the profiles.
    if let Some(baud) = modbus.baud {
        page.line("baud", baud);
    }
    page.optional("parity", modbus.parity.map(parity));
    if let Some(bits) = modbus.stop_bits {
        page.line("stop_bits", bits);
    }
    page.line("rs485", modbus.rs485);
    let asking = |page: &mut Page, every: Option<Duration>, timeout: Option<Duration>| {
        for (key, duration) in [("every", every), ("timeout", timeout)] {
            if let Some(duration) = duration {
                page.duration(key, duration);
            }
        }
    };
    asking(page, modbus.every, modbus.timeout);
    page.line("retries", modbus.retries);
    page.duration("pause", modbus.pause);
    for unit in &modbus.units {
        page.head(&format!("[{}.unit]", modbus.name));
        page.line("address", unit.address);
        page.text("profile", &unit.profile);
        page.text("device", &unit.device);
        asking(page, unit.every, unit.timeout);
    }
}

fn serial(page: &mut Page, serial: &Serial) {
    page.head(&serial.name);
    page.path("port", &serial.port);
    page.text("profile", &serial.profile);
    page.text("device", &serial.device);
    // What is left out here comes from the profile.
    if let Some(baud) = serial.baud {
        page.line("baud", baud);
    }
    if let Some(bits) = serial.data_bits {
        page.line("data_bits", bits);
    }
    page.optional("parity", serial.parity.map(parity));
    if let Some(bits) = serial.stop_bits {
        page.line("stop_bits", bits);
    }
    if let Some(every) = serial.every {
        page.duration("every", every);
    }
    page.optional("delimiter", serial.delimiter.as_deref().map(escape).as_deref());
    if let Some(bytes) = serial.frame_bytes_max {
        page.size("frame_max", bytes as u64);
    }
    page.optional("time_zone", serial.time_zone.as_deref());
    names(page, &serial.names);
}

fn names(page: &mut Page, names: &BTreeMap<String, String>) {
    if !names.is_empty() {
        let pairs: Vec<_> = names.iter().map(|(own, name)| (quoted(own), quoted(name))).collect();
        let pairs: Vec<_> = pairs.iter().map(|(own, name)| (own.as_str(), name.clone())).collect();
        page.line("names", inline(&pairs));
    }
}

fn rules(page: &mut Page, rules: &Rules) {
    for rule in &rules.filters {
        filter(page, rule);
    }
    for rule in &rules.windows {
        window(page, rule);
    }
    page.head("limits");
    page.line("series", rules.series_max);
    page.line("open_windows", rules.open_windows_max);
    page.size("state", rules.state_bytes_max as u64);
    page.duration("future", rules.future_max);
}

fn select(page: &mut Page, select: &Select) {
    for (key, patterns) in [("device", &select.devices), ("measurement", &select.measurements)] {
        if !patterns.is_empty() {
            page.line(key, list(patterns));
        }
    }
}

fn filter(page: &mut Page, filter: &Filter) {
    page.head("[filter]");
    page.text("name", &filter.name);
    select(page, &filter.select);
    match filter.action {
        FilterAction::Test => {}
        FilterAction::Keep => page.text("action", "keep"),
        FilterAction::Drop => page.text("action", "drop"),
    }
    if let Some(range) = filter.range {
        let pairs: Vec<_> = [number("min", range.min), number("max", range.max)].into_iter().flatten().collect();
        page.line("range", inline(&pairs));
    }
    if let Some(deadband) = filter.deadband {
        let every = deadband.at_least_every.map(|every| ("at_least_every", quoted(&format_duration(every))));
        let pairs = [number("absolute", deadband.absolute), number("percent", deadband.percent), every];
        page.line("deadband", inline(&pairs.into_iter().flatten().collect::<Vec<_>>()));
    }
    if let Some(interval) = filter.min_interval {
        page.duration("min_interval", interval);
    }
    if let Some(alarm) = &filter.alarm {
        page.line("alarm", filter_alarm(alarm));
    }
}

// Debug writes a number so that TOML reads it as the same one: `5.0`, `1e300`.
fn number(key: &'static str, number: Option<f64>) -> Option<(&'static str, String)> {
    number.map(|number| (key, format!("{number:?}")))
}

fn filter_alarm(alarm: &Alarm) -> String {
    let value = |value: &Value| match value {
        Value::Number(number) => format!("{number:?}"),
        Value::Text(text) => quoted(text),
        Value::Flag(flag) => flag.to_string(),
    };
    let equals: Vec<String> = alarm.equals.iter().map(value).collect();
    let equals = (!equals.is_empty()).then(|| ("equals", format!("[{}]", equals.join(", "))));
    let every = alarm.at_most_every.map(|every| ("at_most_every", quoted(&format_duration(every))));
    let pairs: Vec<_> =
        [number("below", alarm.below), number("above", alarm.above), equals, every].into_iter().flatten().collect();
    if pairs.is_empty() { "true".to_owned() } else { inline(&pairs) }
}

fn window(page: &mut Page, window: &Window) {
    page.head("[window]");
    page.text("name", &window.name);
    select(page, &window.select);
    page.duration("every", window.every);
    page.optional("time_zone", window.time_zone.as_deref());
    page.duration("lateness", window.lateness);
    if let Some(within) = window.update_within {
        page.duration("update_within", within);
    }
    page.line("forward_raw", window.forward_raw);
    match window.alarm {
        None => {}
        Some(WindowAlarm::All) => page.line("alarm", true),
        Some(WindowAlarm::Field { field, below, above }) => {
            let pairs = [Some(("field", quoted(field.as_str()))), number("below", below), number("above", above)];
            page.line("alarm", inline(&pairs.into_iter().flatten().collect::<Vec<_>>()));
        }
    }
}
