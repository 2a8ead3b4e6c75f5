//! Against librdkafka's mock cluster.

use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tidegate::config::Layout;
use tidegate::counters::Count;
use tidegate::status::LinkState;
use tidegate::uplink::Settings;
use tidegate::uplink::kafka::KafkaConnect;

use super::memory::{Memory, Uplink, consume, field, gateway, reading, settings, tuning};

type Cluster = MockCluster<'static, rdkafka::producer::DefaultProducerContext>;

const TOPIC: &str = "iot.zigbee2mqtt";

fn cluster() -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 2, 1).unwrap();
    cluster.create_topic("iot.dead", 1, 1).unwrap();
    cluster
}

fn start(cluster: &Cluster, memory: &Memory) -> Uplink {
    start_with(cluster, memory, |_| {})
}

fn start_with(cluster: &Cluster, memory: &Memory, change: impl FnOnce(&mut tidegate::config::Kafka)) -> Uplink {
    let mut settings = settings(&cluster.bootstrap_servers());
    change(&mut settings);
    let connect = KafkaConnect::new(settings.clone(), &gateway());
    Uplink::start(memory, settings, connect, tuning())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_arrive_in_order_with_key_and_headers() {
    let (cluster, memory) = (cluster(), Memory::new(300));
    let uplink = start(&cluster, &memory);
    for number in 0..5_000 {
        memory.reading(["kitchen", "attic"][number % 2], number as f64);
    }
    uplink.until_delivered(5_000).await;
    assert_eq!(uplink.link().state, LinkState::Up);
    assert_eq!(uplink.count(Count::Delivered, TOPIC), 5_000);
    assert!(memory.calls() < 2_000, "{} calls for 5,000 records", memory.calls());
    uplink.stop(Duration::from_secs(5)).await;

    let found = consume(&cluster.bootstrap_servers(), TOPIC, 2, 5_000);
    let mut last = [0; 2];
    for record in &found {
        let seq = record.json()["seq"].as_u64().unwrap();
        let last = &mut last[record.partition as usize];
        assert!(*last < seq, "{seq} after {last}");
        *last = seq;
        let device = record.json()["device"].as_str().unwrap().to_owned();
        assert_eq!(record.key, format!("home-01/{device}"));
        assert_eq!(record.headers["ce_id"], format!("9f3c1.raw-{seq}"));
    }
    let headers = &found[0].headers;
    assert_eq!(headers["ce_specversion"], "1.0");
    assert_eq!(headers["ce_type"], "io.tidegate.reading.v1");
    assert_eq!(headers["ce_source"], "/gateways/home-01");
    assert_eq!(headers["ce_time"], "2026-05-04T12:00:00.123Z");
    assert_eq!(headers["content-type"], "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_goes_down_once_and_comes_back_with_everything() {
    let (cluster, memory) = (cluster(), Memory::new(50));
    let uplink = start(&cluster, &memory);
    memory.reading("kitchen", 1.0);
    uplink.until_delivered(1).await;
    cluster.broker_down(1).unwrap();
    uplink.until("link down", |uplink| uplink.link().state == LinkState::Down).await;
    for number in 0..2_000 {
        memory.reading("kitchen", f64::from(number));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(memory.delivered(), 1);
    assert_eq!(uplink.count(Count::LinkDown, ""), 1);
    cluster.broker_up(1).unwrap();
    uplink.until_delivered(2_001).await;
    assert_eq!(uplink.link().state, LinkState::Up);
    assert_eq!(uplink.count(Count::LinkDown, ""), 1);
    assert_eq!(memory.twice(), Vec::<u64>::new());
    consume(&cluster.bootstrap_servers(), TOPIC, 2, 2_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_topic_is_parked_and_the_others_go_on() {
    let (cluster, memory) = (cluster(), Memory::new(20));
    cluster.create_topic("t.locked", 1, 1).unwrap();
    cluster.create_topic("t.open", 1, 1).unwrap();
    cluster.topic_error("t.locked", RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
    let uplink = start_with(&cluster, &memory, |settings| settings.topics.reading = "t.{device}".into());
    for number in 0..500 {
        memory.reading(if number % 2 == 0 { "open" } else { "locked" }, f64::from(number));
    }
    uplink.until_delivered(250).await;
    uplink.until("the status shows it", |uplink| uplink.link().detail.contains("parked: topic t.locked")).await;
    uplink.until("all are counted", |uplink| uplink.link().detail.contains("250 records waiting")).await;
    assert_eq!(uplink.link().state, LinkState::Up);
    assert_eq!(memory.rewinds(), 0, "a topic that stays parked costs no reading");
    cluster.topic_error("t.locked", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    uplink.until_delivered(500).await;
    uplink.until("the status is clean", |uplink| uplink.link().detail.is_empty()).await;
    assert_eq!(memory.twice(), Vec::<u64>::new());
    assert_eq!(consume(&cluster.bootstrap_servers(), "t.locked", 1, 250).len(), 250);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_with_a_parked_topic_does_not_wait_for_it() {
    let (cluster, memory) = (cluster(), Memory::new(20));
    cluster.create_topic("t.locked", 1, 1).unwrap();
    cluster.topic_error("t.locked", RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
    let uplink = start_with(&cluster, &memory, |settings| settings.topics.reading = "t.{device}".into());
    memory.reading("locked", 1.0);
    uplink.until("parked", |uplink| uplink.link().detail.contains("parked")).await;
    assert!(uplink.stop(Duration::from_secs(20)).await < Duration::from_secs(10));
    assert_eq!(memory.delivered(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_delivers_what_waits_or_gives_up_at_the_deadline() {
    let (cluster, memory) = (cluster(), Memory::new(100));
    for number in 0..1_000 {
        memory.reading("kitchen", f64::from(number));
    }
    let uplink = start(&cluster, &memory);
    uplink.stop(Duration::from_secs(20)).await;
    assert_eq!(memory.delivered(), 1_000);

    memory.reading("kitchen", 1.0);
    cluster.broker_down(1).unwrap();
    let uplink = start(&cluster, &memory);
    let took = uplink.stop(Duration::from_secs(1)).await;
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!(memory.delivered(), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_refused_without_a_name_costs_nobody_his_neighbour() {
    let (cluster, memory) = (cluster(), Memory::new(100));
    for number in 0..100 {
        memory.reading("kitchen", f64::from(number));
    }
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    let uplink = start(&cluster, &memory);
    uplink.until_delivered(100).await;
    assert!(memory.letters().is_empty(), "{:?}", memory.letters());
    assert_eq!(memory.twice(), Vec::<u64>::new());
    assert!(uplink.count(Count::DeliveryErrors, "MessageSizeTooLarge") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_client_refuses_is_dead_lettered() {
    let (cluster, memory) = (cluster(), Memory::new(100));
    memory.reading("kitchen", 1.0);
    memory.text("kitchen", &"x".repeat(1_100_000));
    memory.reading("kitchen", 3.0);
    let uplink = start(&cluster, &memory);
    uplink.until_delivered(4).await;
    let letters = memory.letters();
    assert_eq!(letters.len(), 1);
    assert!(letters[0].detail.contains("9f3c1.raw-2") && letters[0].detail.contains("size"), "{}", letters[0].detail);
    assert!(letters[0].length > 1_100_000 && letters[0].payload.len() == 4096);
    let letter = consume(&cluster.bootstrap_servers(), "iot.dead", 1, 1).remove(0).json();
    assert_eq!(letter["reason_code"], "kafka_rejected");
    assert_eq!(uplink.count(Count::Rejected, "kafka_rejected"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_narrow_layout_delivers_a_reading_when_all_its_values_are() {
    let (cluster, memory) = (cluster(), Memory::new(10));
    cluster.create_topic("n.temperature", 1, 1).unwrap();
    cluster.create_topic("n.state", 1, 1).unwrap();
    let value = tidegate::reading::Value::Number;
    for number in 0..50 {
        let text = tidegate::reading::Value::Text("on".into());
        memory
            .push(reading("kitchen", 0, 2), vec![field("temperature", value(f64::from(number))), field("state", text)]);
    }
    let uplink = start_with(&cluster, &memory, |settings| {
        settings.layout = Layout::Narrow;
        settings.topics.reading = "n.{measurement}".into();
    });
    uplink.until_delivered(50).await;
    let found = consume(&cluster.bootstrap_servers(), "n.temperature", 1, 50);
    assert_eq!(found[3].json()["value"], 3.0);
    assert_eq!(found[3].headers["ce_id"], "9f3c1.raw-4-temperature");
    assert_eq!(consume(&cluster.bootstrap_servers(), "n.state", 1, 50)[0].json()["text"], "on");
    assert_eq!(uplink.count(Count::Delivered, "n.state"), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_reachable_is_said_with_the_reason() {
    let memory = Memory::new(10);
    memory.reading("kitchen", 1.0);
    let settings = settings("no-such-host.invalid:9092");
    let connect = KafkaConnect::new(settings.clone(), &gateway());
    let uplink = Uplink::start(&memory, settings, connect, tuning());
    uplink.until("down", |uplink| uplink.link().state == LinkState::Down).await;
    uplink.until("with the host's name", |uplink| uplink.link().detail.contains("no-such-host.invalid")).await;
    uplink.stop(Duration::from_millis(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_there_is_said_and_tried_again() {
    let memory = Memory::new(10);
    let mut settings = settings("127.0.0.1:1");
    settings.tls = Some(tidegate::config::Tls {
        ca: Some("/no/such/ca.pem".into()),
        certificate: None,
        key: None,
        fingerprint: 0,
    });
    let connect = KafkaConnect::new(settings.clone(), &gateway());
    let uplink = Uplink::start(&memory, settings, connect, tuning());
    uplink.until("down", |uplink| uplink.link().state == LinkState::Down).await;
    assert!(uplink.link().detail.contains("/no/such/ca.pem"), "{:?}", uplink.link());
    uplink.stop(Duration::from_millis(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_go_on_where_the_ones_before_stopped() {
    let (first, second, memory) = (cluster(), cluster(), Memory::new(300));
    second.create_topic("other.zigbee2mqtt", 2, 1).unwrap();
    let uplink = start(&first, &memory);
    for number in 0..2_000 {
        memory.reading(["kitchen", "attic"][number % 2], number as f64);
    }
    uplink.until_delivered(2_000).await;
    // A cluster that is gone for good holds what is in flight; the next one gets it.
    first.broker_down(1).unwrap();
    for number in 2_000..4_000 {
        memory.reading(["kitchen", "attic"][number % 2], number as f64);
    }
    uplink.until("link down", |uplink| uplink.link().state == LinkState::Down).await;
    let mut kafka = settings(&second.bootstrap_servers());
    uplink.change.send_replace(Settings { kafka: kafka.clone(), gateway: gateway() });
    uplink.until_delivered(4_000).await;
    let found = consume(&second.bootstrap_servers(), TOPIC, 2, 2_000);
    let mut seqs: Vec<u64> = found.iter().map(|record| record.json()["seq"].as_u64().unwrap()).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (2_001..=4_000).collect::<Vec<u64>>());
    assert_eq!(uplink.link().state, LinkState::Up);

    // While it is sending: another topic, another layout and other labels.
    for number in 4_000..24_000 {
        memory.reading(["kitchen", "attic"][number % 2], number as f64);
    }
    uplink.until_delivered(4_100).await;
    kafka.topics.reading = "other.{profile}".into();
    kafka.layout = Layout::Narrow;
    let labels = [("moved".to_owned(), "yes".to_owned())].into();
    uplink.change.send_replace(Settings { kafka, gateway: tidegate::config::Gateway { labels, ..gateway() } });
    uplink.until_delivered(24_000).await;
    assert_eq!(memory.twice(), Vec::<u64>::new());
    let (before, after) = (uplink.count(Count::Delivered, TOPIC), uplink.count(Count::Delivered, "other.zigbee2mqtt"));
    assert_eq!(before + after, 24_000);
    assert!(after > 0, "all was sent before the change");
    let found = consume(&second.bootstrap_servers(), "other.zigbee2mqtt", 2, after as usize);
    assert!(found.iter().all(|record| record.json()["labels"]["moved"] == "yes"));
    assert!(found.iter().all(|record| record.json()["measurement"].is_string()));
    assert_eq!(uplink.count(Count::ProducerRebuilds, ""), 2);
}
