//! What single values may be: names, addresses, topics, time zones. Pure; every check answers any text with a value or
//! with what was expected.

use super::Layout;
use crate::glob::Glob;

/// The placeholders of the topic for readings.
pub(super) const READING_PLACEHOLDERS: [&str; 5] = ["gateway", "profile", "device", "kind", "measurement"];
/// Those of the topic for dead letters, which are of no measurement.
pub(super) const DEAD_LETTER_PLACEHOLDERS: [&str; 4] = ["gateway", "profile", "device", "kind"];
/// Kafka's limit for a topic's name.
const TOPIC_CHARS_MAX: usize = 249;
/// The longest pattern.
const PATTERN_CHARS_MAX: usize = 128;
/// MQTT's limit for a text.
const MQTT_TEXT_BYTES_MAX: usize = 65_535;

/// The name of a source, as the file's author chooses it.
pub(super) fn name(text: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=64).contains(&text.len()) && text.chars().all(legal) {
        Ok(())
    } else {
        Err("1 to 64 of A-Z a-z 0-9 _ -".to_owned())
    }
}

/// The secondary address of a meter on an M-Bus, as it is on the wire: its number of eight digits, perhaps with what tools
/// print behind it: manufacturer, version and medium.
pub(super) fn meter_id(text: &str) -> Result<[u8; 8], String> {
    let expected =
        || "the eight digits of a meter's number, or its whole secondary address of 16 hexadecimal digits".to_owned();
    let digits: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| matches!(digits.len(), 8 | 16)).ok_or_else(expected)?;
    let mut id = [0xff; 8];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    // It is sent with its lowest digits first.
    id[..4].reverse();
    Ok(id)
}

/// The name of a filter or a window: part of the ids of aggregates, and the label of counters.
pub(super) fn rule_name(text: &str) -> Result<String, String> {
    if (1..=64).contains(&text.len()) && text.chars().all(in_rule_names) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 of A-Z a-z 0-9 . _ + -".to_owned())
    }
}

fn in_rule_names(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._+-".contains(c)
}

/// A pattern as a part of a rule's name.
pub(super) fn in_rule_name(pattern: &str) -> String {
    let (not, glob) = pattern.strip_prefix('!').map_or(("", pattern), |glob| ("not_", glob));
    if glob.chars().all(|c| c == '*') {
        return format!("{not}all");
    }
    let legal = |c: char| if in_rule_names(c) { c } else { '_' };
    format!("{not}{}", glob.chars().map(legal).collect::<String>())
}

/// A glob, or `!` and a glob.
pub(super) fn pattern(text: &str) -> Result<String, String> {
    let glob = text.strip_prefix('!').unwrap_or(text);
    if glob.is_empty() || glob.chars().count() > PATTERN_CHARS_MAX || glob.chars().any(char::is_control) {
        return Err(format!("a pattern of 1 to {PATTERN_CHARS_MAX} printable characters, such as \"power*\""));
    }
    match glob.parse::<Glob>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("a pattern such as \"power*\" or \"!test-?\" ({error})")),
    }
}

/// A gateway's id: part of Kafka keys, topics and MQTT client ids.
pub(super) fn gateway_id(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 of A-Z a-z 0-9 . _ -".to_owned())
    }
}

/// Some printable text.
pub(super) fn printable(chars_max: usize) -> impl Fn(&str) -> Result<String, String> {
    move |text| {
        if !text.is_empty() && text.chars().count() <= chars_max && !text.chars().any(char::is_control) {
            Ok(text.to_owned())
        } else {
            Err(format!("1 to {chars_max} printable characters"))
        }
    }
}

/// Where an MQTT broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MqttUrl {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

/// `mqtt://host[:port]` or `mqtts://host[:port]`.
pub(super) fn mqtt_url(text: &str) -> Result<MqttUrl, String> {
    const EXPECTED: &str = "mqtt://HOST[:PORT] or mqtts://HOST[:PORT]";
    let (scheme, rest) = text.split_once("://").ok_or(EXPECTED)?;
    let tls = match scheme {
        "mqtt" => false,
        "mqtts" => true,
        _ => return Err(EXPECTED.to_owned()),
    };
    if rest.contains('@') {
        return Err(format!("{EXPECTED}, with user and password in the keys `user` and `password`"));
    }
    let (host, port) = host_port(rest.strip_suffix('/').unwrap_or(rest)).ok_or(EXPECTED)?;
    Ok(MqttUrl { tls, host, port: port.unwrap_or(if tls { 8883 } else { 1883 }) })
}

/// What [`mqtt_url`] reads back to the same.
pub(super) fn format_mqtt_url(tls: bool, host: &str, port: u16) -> String {
    format!("{}://{}", if tls { "mqtts" } else { "mqtt" }, format_host_port(host, port))
}

fn format_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A Kafka broker's address, with its port.
pub(crate) fn broker(text: &str) -> Result<String, String> {
    let (host, port) = host_port(text).ok_or("HOST or HOST:PORT")?;
    Ok(format_host_port(&host, port.unwrap_or(9092)))
}

/// `host`, `host:port`, `[v6]:port`; the host without brackets.
fn host_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let legal = |c: char| c.is_alphanumeric() || "._-".contains(c);
            if host.is_empty() || host.len() > 253 || !host.chars().all(legal) {
                return None;
            }
            (host, port)
        }
    };
    let port = match port {
        Some(digits) if digits.chars().all(|c| c.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port > 0)?)
        }
        Some(_) => return None,
        None => None,
    };
    Some((host.to_owned(), port))
}

/// What may stand in an MQTT text field.
pub(super) fn mqtt_text(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MQTT_TEXT_BYTES_MAX || text.chars().any(char::is_control) {
        Err("1 to 65535 bytes of printable text".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// Topic levels without wildcards.
pub(super) fn topic_prefix(text: &str) -> Result<String, String> {
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.contains(['+', '#', '{', '}']) {
        return Err("topic levels without wildcards".to_owned());
    }
    mqtt_text(text)
}

/// A topic filter (MQTT 3.1.1, 4.7.1): `+` is a whole level, `#` the last one.
pub(super) fn topic_filter(text: &str) -> Result<String, String> {
    let mut levels = text.split('/').peekable();
    while let Some(level) = levels.next() {
        let legal = match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            level => !level.contains(['+', '#']),
        };
        if !legal {
            return Err("a topic filter, with `+` for a whole level and `#` for the last ones".to_owned());
        }
    }
    mqtt_text(text)
}

/// The id of a profile; whether there is such a profile is for the profiles to say.
pub(super) fn profile_id(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "/._-".contains(c);
    if (1..=128).contains(&text.len()) && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("the id of a profile, such as \"tasmota\" or \"dsmr/5\"".to_owned())
    }
}

/// A name of the IANA time zone database.
pub(super) fn time_zone(text: &str) -> Result<String, String> {
    if jiff::tz::TimeZone::get(text).is_ok() {
        return Ok(text.to_owned());
    }
    let zones: Vec<String> = jiff::tz::db().available().map(|zone| zone.to_string()).collect();
    let near = super::errors::nearest(text, zones.iter().map(String::as_str));
    Err(format!("an IANA time zone such as \"{}\"", near.unwrap_or("Europe/Amsterdam")))
}

/// A topic's name, without placeholders.
pub(crate) fn plain_topic(text: &str) -> Result<String, String> {
    if text.contains(['{', '}']) {
        Err("a topic without placeholders".to_owned())
    } else {
        topic(text, &[], Layout::Wide)
    }
}

/// A topic's template: what Kafka allows in a topic's name, and placeholders.
pub(super) fn topic(text: &str, placeholders: &[&str], layout: Layout) -> Result<String, String> {
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        literal.push_str(&rest[..at]);
        let after = rest[at..].strip_prefix('{').ok_or("`{` before each `}`")?;
        let (found, after) = after.split_once('}').ok_or("`}` after each `{`")?;
        if !placeholders.contains(&found) {
            let known: Vec<String> = placeholders.iter().map(|known| format!("{{{known}}}")).collect();
            return Err(format!("only the placeholders {}", known.join(" ")));
        }
        if found == "measurement" && layout != Layout::Narrow {
            return Err("no {measurement} unless layout = \"narrow\": a record holds several".to_owned());
        }
        // Whatever it becomes, it is at least one legal character.
        literal.push('x');
        rest = after;
    }
    literal.push_str(rest);
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !(1..=TOPIC_CHARS_MAX).contains(&literal.len()) || !literal.chars().all(legal) {
        return Err(format!("a topic: 1 to {TOPIC_CHARS_MAX} of A-Z a-z 0-9 . _ - and placeholders"));
    }
    if literal == "." || literal == ".." {
        return Err("a topic other than \".\" and \"..\"".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broker_addresses() {
        let url = |text: &str| mqtt_url(text).ok().map(|url| (url.tls, url.host, url.port));
        for (text, tls, host, port) in [
            ("mqtt://broker", false, "broker", 1883),
            ("mqtts://broker.example.net", true, "broker.example.net", 8883),
            ("mqtt://192.168.1.10:1884/", false, "192.168.1.10", 1884),
            ("mqtt://[::1]", false, "::1", 1883),
            ("mqtt://[fe80::1]:1", false, "fe80::1", 1),
        ] {
            assert_eq!(url(text), Some((tls, host.to_owned(), port)), "{text}");
            assert_eq!(url(&format_mqtt_url(tls, host, port)), Some((tls, host.to_owned(), port)), "{text}");
        }
        for text in [
            "broker",
            "tcp://broker",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://a/b",
            "mqtt://a:",
            "mqtt://a:+1",
            "mqtt://a:0",
            "mqtt://::1",
            "mqtt://[a]",
            "mqtt://u@a",
            "mqtt://a b",
        ] {
            assert_eq!(url(text), None, "{text}");
        }
    }

    #[test]
    fn topic_templates() {
        let reading = |text: &str, layout| topic(text, &READING_PLACEHOLDERS, layout).is_ok();
        for text in ["iot.readings", "{kind}", "a.{gateway}.{device}_{profile}-x", &"x".repeat(249)] {
            assert!(reading(text, Layout::Wide), "{text}");
        }
        assert!(reading("iot.{measurement}", Layout::Narrow));
        for text in ["", "a b", "a/b", "{}", "{ kind }", "{kind", "kind}", "}{", ".", "..", "é", &"x".repeat(250)] {
            assert!(!reading(text, Layout::Narrow), "{text}");
        }
    }
}
