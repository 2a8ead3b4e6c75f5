//! Against a real Apache Kafka.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use tidegate::config::{Kafka as Settings, Sasl, SaslMechanism, Secret, Timestamp};
use tidegate::counters::Count;
use tidegate::status::LinkState;
use tidegate::uplink::Tuning;
use tidegate::uplink::kafka::KafkaConnect;

use super::memory::{Memory, Uplink, consume, gateway, settings, tuning};
use crate::support::kafka::{Kafka, KafkaOptions};
use crate::support::{Scratch, need};

fn start(settings: Settings, memory: &Memory) -> Uplink {
    start_tuned(settings, memory, tuning())
}

fn start_tuned(settings: Settings, memory: &Memory, tuning: Tuning) -> Uplink {
    let connect = KafkaConnect::new(settings.clone(), &gateway());
    Uplink::start(memory, settings, connect, tuning)
}

/// The settings with a topic for each device below `prefix`.
fn to(address: &str, prefix: &str) -> Settings {
    let mut settings = settings(address);
    settings.topics.reading = format!("{prefix}.{{device}}");
    settings.topics.dead_letter = format!("{prefix}.dead");
    settings
}

async fn create(address: &str, topic: &str, partitions: i32, option: Option<(&str, &str)>) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", address).create().unwrap();
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    if let Some((key, value)) = option {
        new = new.set(key, value);
    }
    let made = admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
    made[0].as_ref().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_gets_everything_once_and_in_order() {
    need!(Kafka);
    let mut kafka = Kafka::start();
    let address = kafka.address();
    create(&address, "r.kitchen", 1, None).await;
    let memory = Memory::new(200);
    let uplink = start(to(&address, "r"), &memory);
    for number in 0..2_000 {
        memory.reading("kitchen", f64::from(number));
    }
    uplink.until_delivered(2_000).await;
    kafka.kill();
    for number in 2_000..4_000 {
        memory.reading("kitchen", f64::from(number));
    }
    uplink.until("link down", |uplink| uplink.link().state == LinkState::Down).await;
    kafka.restart();
    uplink.until_delivered(4_000).await;
    // While it is being written to.
    for number in 4_000..8_000 {
        memory.reading("kitchen", f64::from(number));
    }
    uplink.until_delivered(4_100).await;
    kafka.stop();
    kafka.restart();
    uplink.until_delivered(8_000).await;
    assert_eq!(memory.twice(), Vec::<u64>::new());
    let seqs: Vec<u64> =
        consume(&address, "r.kitchen", 1, 8_000).iter().map(|record| record.json()["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=8_000).collect::<Vec<u64>>());
    assert_eq!(uplink.count(Count::ProducerRebuilds, ""), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_time_is_refused_or_forgotten() {
    need!(Kafka);
    let address = Kafka::shared().address();
    create(&address, "t.kitchen", 1, None).await;
    let memory = Memory::new(100);
    let now = tidegate::clock::wall_ms();
    for time_ms in [0, 1_000, now - 8 * 86_400_000, now, now + 7_200_000, i64::MAX] {
        memory.reading_at("kitchen", 1.0, time_ms);
    }
    let uplink = start(to(&address, "t"), &memory);
    uplink.until_delivered(6).await;
    assert!(memory.letters().is_empty());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let times: Vec<String> = consume(&address, "t.kitchen", 1, 6)
        .iter()
        .map(|record| record.json()["time"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!((&*times[0], &*times[5]), ("1970-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_event_time_a_batch_costs_only_the_record_that_is_ahead() {
    need!(Kafka);
    let address = Kafka::shared().address();
    create(&address, "e.kitchen", 1, None).await;
    let memory = Memory::new(100);
    let now = tidegate::clock::wall_ms();
    for number in 0..50 {
        let ahead = if number == 20 { 7_200_000 } else { 0 };
        memory.reading_at("kitchen", f64::from(number), now + ahead);
    }
    let mut settings = to(&address, "e");
    settings.timestamp = Timestamp::Event;
    let uplink = start(settings, &memory);
    uplink.until_delivered(51).await;
    let letters = memory.letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].detail.contains("9f3c1.raw-21 "), "{}", letters[0].detail);
    consume(&address, "e.kitchen", 1, 49);
    consume(&address, "e.dead", 3, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversize_record_costs_only_itself() {
    need!(Kafka);
    let address = Kafka::shared().address();
    create(&address, "o.kitchen", 1, Some(("max.message.bytes", "3000"))).await;
    let memory = Memory::new(100);
    for number in 0..100 {
        match number {
            33 | 66 => memory.text("kitchen", &"x".repeat(5_000)),
            _ => memory.reading("kitchen", f64::from(number)),
        }
    }
    let uplink = start(to(&address, "o"), &memory);
    uplink.until_delivered(102).await;
    let mut refused: Vec<u64> = memory.letters().iter().map(|letter| letter.length).collect();
    refused.retain(|length| *length > 5_000);
    assert_eq!((memory.letters().len(), refused.len()), (2, 2), "{:?}", memory.letters());
    consume(&address, "o.kitchen", 1, 98);
    let letters = consume(&address, "o.dead", 3, 2);
    assert!(letters.iter().all(|letter| letter.json()["truncated"] == true));
    assert_eq!(memory.twice(), Vec::<u64>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_does_not_exist_is_parked_until_it_does() {
    need!(Kafka);
    let options = KafkaOptions { properties: "auto.create.topics.enable=false".into(), ..KafkaOptions::default() };
    let kafka = Kafka::with(Scratch::new("kafka"), &options);
    let address = kafka.address();
    create(&address, "u.there", 1, None).await;
    let memory = Memory::new(10);
    for number in 0..100 {
        memory.reading(["there", "later"][number % 2], number as f64);
    }
    let uplink = start(to(&address, "u"), &memory);
    uplink.until("parked", |uplink| uplink.link().detail.contains("parked: topic u.later")).await;
    uplink.until_delivered(50).await;
    create(&address, "u.later", 1, None).await;
    uplink.until_delivered(100).await;
    consume(&address, "u.later", 1, 50);
    assert_eq!(memory.twice(), Vec::<u64>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_write_waits_and_who_is_not_known_is_told() {
    need!(Kafka);
    let properties = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                      super.users=User:ANONYMOUS\nsasl.enabled.mechanisms=PLAIN\n\
                      listener.name.edge.plain.sasl.jaas.config=\
                      org.apache.kafka.common.security.plain.PlainLoginModule required user_edge=\"a-secret\";"
        .into();
    let options = KafkaOptions { properties, edge_protocol: Some("SASL_PLAINTEXT"), ..KafkaOptions::default() };
    let kafka = Kafka::with(Scratch::new("kafka"), &options);
    let plain = kafka.address();
    for topic in ["a.open", "a.locked", "a.dead"] {
        create(&plain, topic, 1, None).await;
    }
    kafka.admin(&["allow-all", "edge"]);
    kafka.admin(&["deny-write", "edge", "a.locked"]);
    let memory = Memory::new(10);
    for number in 0..200 {
        memory.reading(["open", "locked"][number % 2], number as f64);
    }
    let with_password = |password: &str| {
        let mut settings = to(&format!("127.0.0.1:{}", kafka.edge_port.unwrap()), "a");
        let (user, password) = ("edge".to_owned(), Secret::new(password.to_owned()));
        settings.sasl = Some(Sasl { mechanism: SaslMechanism::Plain, user, password });
        settings
    };

    let uplink = start(with_password("wrong"), &memory);
    uplink.until("said why", |uplink| uplink.link().detail.to_lowercase().contains("authentication")).await;
    assert_eq!(uplink.link().state, LinkState::Down);
    uplink.stop(Duration::from_millis(200)).await;
    assert_eq!(memory.delivered(), 0);

    let mut again = memory.clone();
    tidegate::uplink::source::Source::rewind(&mut again);
    let uplink = start(with_password("a-secret"), &memory);
    uplink.until_delivered(100).await;
    uplink.until("parked", |uplink| uplink.link().detail.contains("parked: topic a.locked")).await;
    uplink.until("counted", |uplink| uplink.link().detail.contains("100 records waiting")).await;
    assert_eq!(uplink.link().state, LinkState::Up);
    kafka.admin(&["permit-write", "edge", "a.locked"]);
    uplink.until_delivered(200).await;
    consume(&plain, "a.locked", 1, 100);
    assert_eq!(memory.twice(), Vec::<u64>::new());
}
