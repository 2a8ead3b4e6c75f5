//! `[outbox]` and `[kafka]`: their keys, defaults and bounds.

use std::time::Duration;

use super::encryption::encryption;
use super::section::Section;
use super::sources::tls;
use super::{
    Compression, Format, Kafka, Ladder, Layout, Outbox, Persist, Sasl, SaslMechanism, Secret, Timestamp, Tls, Topics,
    WhenFull, secret, units, values,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const SEGMENT_BYTES_MIN: u64 = 256 * KIB;
const SEGMENT_BYTES_DEFAULT: u64 = 4 * MIB;
/// The newest segment stays, another must fit beside it, and so must the reserve and the state of windows.
const SIZE_MIN: u64 = 4 * MIB;
/// Making room gives up whole segments, so the outbox must hold several.
const SEGMENTS_MIN: u64 = 8;

/// What to do when the outbox is full.
pub(super) const WHEN_FULL: [(&str, WhenFull); 3] =
    [("drop-oldest", WhenFull::DropOldest), ("thin", WhenFull::Thin), ("block", WhenFull::Block)];
const YEAR: Duration = secs(365 * 24 * 3_600);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// `[outbox]`
pub(super) fn outbox(section: &Section<'_>) -> Outbox {
    let size_max = section.size("max_size", SIZE_MIN..=16 * TIB).unwrap_or(GIB);
    let when_full = section.choice("when_full", &WHEN_FULL);
    let min_free = section.size("min_free", 0..=16 * TIB);
    let keep_delivered = section.duration("keep_delivered", Duration::ZERO..=secs(3650 * 86_400));
    let persist = section.choice("persist", &[("always", Persist::Always), ("when-behind", Persist::WhenBehind)]);
    let advanced = section.section("advanced");
    let segment_default = SEGMENT_BYTES_DEFAULT.min(size_max / SEGMENTS_MIN).max(SEGMENT_BYTES_MIN);
    let segment_bytes = advanced.size("segment_size", SEGMENT_BYTES_MIN..=64 * MIB).unwrap_or(segment_default);
    if size_max < SEGMENTS_MIN * segment_bytes {
        let most = units::format_size(size_max / SEGMENTS_MIN);
        advanced
            .problem_with("segment_size", format!("expected at most an eighth of outbox.max_size, which is {most}"));
    }
    let commit_bytes = advanced.size_in_memory("commit_bytes", 4 * KIB..=16 * MIB).unwrap_or(256 << 10);
    if commit_bytes as u64 > segment_bytes {
        let most = units::format_size(segment_bytes);
        advanced
            .problem_with("commit_bytes", format!("expected at most outbox.advanced.segment_size, which is {most}"));
    }
    let encryption = encryption(&section.section("encryption"));
    let commit_interval = advanced.duration("commit_interval", ms(1)..=secs(60)).unwrap_or(ms(100));
    let commit_interval_max = advanced.duration("commit_interval_max", ms(1)..=secs(60));
    if commit_interval_max.is_some_and(|max| max < commit_interval) {
        let least = units::format_duration(commit_interval);
        advanced.problem_with(
            "commit_interval_max",
            format!("expected at least outbox.advanced.commit_interval, which is {least}"),
        );
    }
    let default = Ladder::default();
    let max_age = ["max_age_alarm", "max_age_aggregate", "max_age_raw"];
    let ladder = Ladder {
        min_free,
        max_age: max_age.map(|key| advanced.duration(key, secs(60)..=10 * YEAR)),
        thin_at_percent: advanced.integer("thin_at_percent", 10..=95).unwrap_or(default.thin_at_percent),
        thin_step: advanced.duration("thin_step", secs(1)..=secs(24 * 3_600)).unwrap_or(default.thin_step),
    };
    let outbox = Outbox {
        size_max,
        when_full: when_full.unwrap_or(WhenFull::DropOldest),
        ladder,
        keep_delivered: keep_delivered.unwrap_or(Duration::ZERO),
        persist: persist.unwrap_or(Persist::Always),
        hold: advanced.duration("hold", ms(10)..=secs(10)).unwrap_or(ms(500)),
        commit_interval,
        commit_interval_max: commit_interval_max.unwrap_or(ms(500)).max(commit_interval),
        commit_bytes,
        segment_bytes,
        memory_tail_bytes: advanced.size_in_memory("memory_tail", 64 * KIB..=256 * MIB).unwrap_or(4 << 20),
        encryption,
    };
    advanced.finish();
    section.finish();
    outbox
}

/// `[kafka]`
pub(super) fn kafka(section: &Section<'_>, required: bool) -> Kafka {
    let layout = section
        .choice("layout", &[("wide", Layout::Wide), ("narrow", Layout::Narrow), ("flat", Layout::Flat)])
        .unwrap_or(Layout::Wide);
    let advanced = section.section("advanced");
    let kafka = Kafka {
        brokers: brokers(section, required),
        tls: tls_choice(section),
        sasl: sasl(section),
        topics: topics(&section.section("topics"), layout),
        layout,
        format: section.choice("format", &[("json", Format::Json), ("cbor", Format::Cbor)]).unwrap_or(Format::Json),
        timestamp: section
            .choice("timestamp", &[("send", Timestamp::Send), ("event", Timestamp::Event)])
            .unwrap_or(Timestamp::Send),
        // Every client reads gzip without further packages (kafka-python needs some for lz4 and zstd). Measured with
        // batches of 20 to 1,000 JSON records of 370 bytes: a tenth of the bytes for 1 to 3 us a record on x86_64.
        compression: section
            .choice(
                "compression",
                &[
                    ("none", Compression::None),
                    ("gzip", Compression::Gzip),
                    ("lz4", Compression::Lz4),
                    ("zstd", Compression::Zstd),
                ],
            )
            .unwrap_or(Compression::Gzip),
        linger: section.duration("linger", ms(0)..=secs(60)).unwrap_or(ms(20)),
        in_flight_max: advanced.integer("in_flight_max", 100..=100_000).unwrap_or(5_000),
        in_flight_bytes_max: advanced.size_in_memory("in_flight_bytes", 256 * KIB..=256 * MIB).unwrap_or(4 << 20),
        reconnect_max: advanced.duration("reconnect_max", secs(1)..=secs(3600)).unwrap_or(secs(30)),
    };
    advanced.finish();
    section.finish();
    kafka
}

fn brokers(section: &Section<'_>, required: bool) -> Vec<String> {
    const EXPECTED: &str = "an array of brokers, such as [\"broker.example.net:9093\"]";
    let field =
        if required || section.exists() { section.require("brokers", EXPECTED) } else { section.get("brokers") };
    let Some((field, items)) = field.and_then(|field| field.array(EXPECTED).map(|items| (field, items))) else {
        return Vec::new();
    };
    if items.is_empty() {
        field.problem("expected at least one broker, found none".to_owned(), None);
    }
    items.iter().filter_map(|item| item.checked(values::broker)).collect()
}

fn tls_choice(section: &Section<'_>) -> Option<Tls> {
    let field = section.get("tls")?;
    if field.is_table() { Some(tls(&field.section())) } else { field.boolean()?.then(Tls::default) }
}

fn sasl(section: &Section<'_>) -> Option<Sasl> {
    let section = section.get("sasl")?.section();
    let mechanisms = [SaslMechanism::Plain, SaslMechanism::ScramSha256, SaslMechanism::ScramSha512];
    let mechanisms = mechanisms.map(|mechanism| (mechanism.as_str(), mechanism));
    let mechanism = section
        .require("mechanism", "\"PLAIN\" or \"SCRAM-SHA-256\" or \"SCRAM-SHA-512\"")
        .and_then(|field| field.choice(&mechanisms));
    let user = section.require("user", "a user").and_then(|field| field.checked(values::printable(256)));
    let password = secret::required(&section, "password");
    section.finish();
    Some(Sasl {
        mechanism: mechanism.unwrap_or(SaslMechanism::Plain),
        user: user.unwrap_or_default(),
        password: password.unwrap_or_else(|| Secret::new(String::new())),
    })
}

fn topics(section: &Section<'_>, layout: Layout) -> Topics {
    let topics = Topics {
        reading: section
            .checked("reading", |text| values::topic(text, &values::READING_PLACEHOLDERS, layout))
            .unwrap_or_else(|| "iot.readings".to_owned()),
        aggregate: section
            .checked("aggregate", |text| values::topic(text, &values::READING_PLACEHOLDERS, Layout::Narrow))
            .unwrap_or_else(|| "iot.aggregates".to_owned()),
        alarm: section
            .checked("alarm", |text| values::topic(text, &values::READING_PLACEHOLDERS, layout))
            .unwrap_or_else(|| "iot.alarms".to_owned()),
        dead_letter: section
            .checked("dead_letter", |text| values::topic(text, &values::DEAD_LETTER_PLACEHOLDERS, layout))
            .unwrap_or_else(|| "iot.dead-letters".to_owned()),
    };
    section.finish();
    topics
}
