//! A sink that fails on purpose: what no broker does on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::counters::Count;
use tidegate::uplink::sink::{Connect, Failure, Message, Remedy, Report, Reports, SendError, Sink};

use super::memory::{Memory, Uplink, settings, tuning};

/// What becomes of a message, by its number of order (from 1), its generation and its `ce_id`.
type Fate = dyn Fn(usize, u32, &str) -> Answer + Send + Sync;

#[derive(Clone)]
enum Answer {
    Ok,
    /// Failed so.
    Fail(Remedy, &'static str),
    /// The queue was full.
    Full,
    /// Nothing is ever heard of it.
    Silence,
    /// Nothing, and the sink is dead.
    Fatal,
}

#[derive(Default)]
struct Seen {
    sent: usize,
    taken: BTreeMap<String, usize>,
    silent: Vec<(u32, u32)>,
    sinks: u32,
    reports: Option<Arc<Reports>>,
}

struct Broken {
    fate: Arc<Fate>,
    seen: Arc<Mutex<Seen>>,
}

struct BrokenSink {
    fate: Arc<Fate>,
    seen: Arc<Mutex<Seen>>,
    reports: Arc<Reports>,
    generation: u32,
}

impl Connect for Broken {
    type Sink = BrokenSink;

    fn change(&mut self, _: &tidegate::uplink::Settings) {}

    fn connect(&mut self, generation: u32, reports: &Arc<Reports>) -> Result<BrokenSink, String> {
        {
            let mut seen = self.seen.lock().unwrap();
            seen.sinks += 1;
            seen.reports = Some(Arc::clone(reports));
        }
        reports.push(Report::Reachable { generation });
        let (fate, seen) = (Arc::clone(&self.fate), Arc::clone(&self.seen));
        Ok(BrokenSink { fate, seen, reports: Arc::clone(reports), generation })
    }
}

impl Sink for BrokenSink {
    fn send(&mut self, message: &Message<'_>) -> Result<(), SendError> {
        let (generation, ticket) = (self.generation, message.ticket);
        let id = String::from_utf8(message.id.to_vec()).unwrap();
        let mut seen = self.seen.lock().unwrap();
        seen.sent += 1;
        match (self.fate)(seen.sent, generation, &id) {
            Answer::Ok => {
                *seen.taken.entry(id).or_default() += 1;
                self.reports.push(Report::Delivered { ticket, generation });
            }
            Answer::Fail(remedy, code) => {
                let failure = Failure { remedy, code: code.into(), detail: code.into(), topic: message.topic.into() };
                self.reports.push(Report::Failed { ticket, generation, failure: Box::new(failure) });
            }
            Answer::Full => return Err(SendError::Full),
            Answer::Silence => seen.silent.push((ticket, generation)),
            Answer::Fatal => self.reports.push(Report::Fatal { generation, reason: "out of sequence".into() }),
        }
        Ok(())
    }

    fn probe(&mut self, _: Option<&str>) {
        self.reports.push(Report::Reachable { generation: self.generation });
    }
}

fn start(
    memory: &Memory,
    fate: impl Fn(usize, u32, &str) -> Answer + Send + Sync + 'static,
) -> (Uplink, Arc<Mutex<Seen>>) {
    start_patient(Duration::from_millis(300), memory, fate)
}

/// One that bears so much silence before it makes a new producer.
fn start_patient(
    stall: Duration,
    memory: &Memory,
    fate: impl Fn(usize, u32, &str) -> Answer + Send + Sync + 'static,
) -> (Uplink, Arc<Mutex<Seen>>) {
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let broken = Broken { fate: Arc::new(fate), seen: Arc::clone(&seen) };
    let tuning = tidegate::uplink::Tuning { stall, ..tuning() };
    (Uplink::start(memory, settings("unused:1"), broken, tuning), seen)
}

fn filled(count: u32) -> Memory {
    let memory = Memory::new(64);
    for number in 0..count {
        memory.reading("kitchen", f64::from(number));
    }
    memory
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_once_is_delivered_all_the_same() {
    let memory = filled(300);
    let (uplink, seen) = start(&memory, |sent, _, _| match sent % 10 {
        1 => Answer::Fail(Remedy::Again, "Odd"),
        4 => Answer::Full,
        _ => Answer::Ok,
    });
    uplink.until_delivered(300).await;
    let seen = seen.lock().unwrap();
    assert_eq!((seen.taken.len(), memory.twice()), (300, Vec::new()));
    assert!(seen.taken.values().all(|times| *times == 1), "nothing is sent twice that was taken");
    assert!(memory.letters().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fatal_error_at_every_step_builds_a_new_producer_and_loses_nothing() {
    for step in [1, 2, 63, 64, 65, 500, 1_000] {
        let memory = filled(1_000);
        let (uplink, seen) = start(&memory, move |sent, generation, _| match sent {
            _ if generation > 0 || sent < step => Answer::Ok,
            _ if sent == step => Answer::Fatal,
            _ => Answer::Silence,
        });
        uplink.until_delivered(1_000).await;
        assert_eq!(seen.lock().unwrap().taken.len(), 1_000);
        assert!(uplink.count(Count::ProducerRebuilds, "") >= 1);
        assert_eq!(memory.twice(), Vec::<u64>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_with_a_broker_that_answers_builds_a_new_producer() {
    let memory = filled(100);
    let (uplink, seen) = start(&memory, |_, generation, _| if generation == 0 { Answer::Silence } else { Answer::Ok });
    uplink.until_delivered(100).await;
    assert_eq!(seen.lock().unwrap().sinks, 2);
    assert_eq!(uplink.count(Count::ProducerRebuilds, ""), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_record_of_a_batch_that_is_refused_is_found() {
    let memory = filled(300);
    // The first hundred go in one batch, which fails whole; later only a batch with the culprit does.
    let (uplink, seen) = start(&memory, |sent, _, id| {
        if sent <= 100 || id == "9f3c1.raw-42" { Answer::Fail(Remedy::Suspect, "InvalidRecord") } else { Answer::Ok }
    });
    uplink.until_delivered(301).await;
    let letters = memory.letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].detail.contains("9f3c1.raw-42 "), "{}", letters[0].detail);
    assert_eq!(seen.lock().unwrap().taken.len(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_dead_letter_is_counted_and_let_go() {
    let memory = filled(3);
    let (uplink, _) = start(&memory, |_, _, _| Answer::Fail(Remedy::Reject, "TooLarge"));
    uplink.until_delivered(6).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((memory.letters().len(), uplink.count(Count::Rejected, "kafka_rejected")), (3, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_nobody_knows_parks_in_the_end() {
    let memory = filled(200);
    let (uplink, seen) =
        start(&memory, |sent, _, _| if sent < 2_000 { Answer::Fail(Remedy::Again, "Odd") } else { Answer::Ok });
    uplink.until("parked", |uplink| uplink.link().detail.contains("parked: topic iot.zigbee2mqtt (Odd)")).await;
    seen.lock().unwrap().sent = 2_000;
    uplink.until_delivered(200).await;
    assert_eq!(memory.twice(), Vec::<u64>::new());
    assert!(memory.is_delivered(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn late_reports_of_an_old_producer_confirm_and_never_fail() {
    let memory = filled(10);
    let (uplink, seen) =
        start(&memory, |_, generation, _| if generation == 0 { Answer::Silence } else { Answer::Full });
    uplink.until("a second producer", |_| seen.lock().unwrap().sinks >= 2).await;
    let (late, reports) = {
        let seen = seen.lock().unwrap();
        (seen.silent.clone(), Arc::clone(seen.reports.as_ref().unwrap()))
    };
    assert_eq!(late.len(), 10);
    for (at, (ticket, generation)) in late.into_iter().enumerate() {
        reports.push(if at < 5 {
            Report::Delivered { ticket, generation }
        } else {
            let (code, topic) = ("Purged".to_owned(), "t".to_owned());
            let failure = Failure { remedy: Remedy::Reject, code: code.clone(), detail: code, topic };
            Report::Failed { ticket, generation, failure: Box::new(failure) }
        });
    }
    uplink.until_delivered(5).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((memory.delivered(), memory.letters().len()), (5, 0));
    uplink.stop(Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_waits_neither_for_what_is_in_flight_nor_for_the_chunk_at_hand() {
    // A sink that says nothing is what an outage is: so much is in flight, and no more.
    let memory = filled(3_000);
    let quiet: Arc<std::sync::atomic::AtomicBool> = Arc::default();
    let (order, answers) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&quiet));
    let sent = Arc::clone(&order);
    // Long enough for this test to look around on a machine that is busy.
    let (uplink, seen) = start_patient(Duration::from_secs(8), &memory, move |_, _, id| {
        sent.lock().unwrap().push(id.to_owned());
        if answers.load(std::sync::atomic::Ordering::Acquire) { Answer::Ok } else { Answer::Silence }
    });
    uplink.until("a full flight", |_| seen.lock().unwrap().sent == 1_000).await;
    for n in 0..300 {
        memory.alarm("kitchen", f64::from(n));
    }
    // An eighth of the limit is theirs alone.
    uplink.until("alarms as far as there is room", |_| seen.lock().unwrap().sent == 1_000 + 125).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    {
        let order = order.lock().unwrap();
        assert_eq!(order.len(), 1_125, "no more than that");
        assert!(
            order[1_000..].iter().zip(1..).all(|(id, n)| *id == format!("9f3c1.alarm-{n}")),
            "{:?}",
            &order[1_000..]
        );
    }
    // Nothing is heard for long, so there is a new producer: it gets the alarms first, then the others, then all the rest.
    quiet.store(true, std::sync::atomic::Ordering::Release);
    uplink.until("all alarms", |_| memory.alarms_delivered().len() == 300).await;
    uplink.until_delivered(3_000).await;
    let order = order.lock().unwrap();
    let again: Vec<&str> = order[1_125..].iter().map(String::as_str).collect();
    assert!(again[..125].iter().all(|id| id.starts_with("9f3c1.alarm-")), "{:?}", &again[..125]);
    let alarms: Vec<u64> = again.iter().filter_map(|id| id.strip_prefix("9f3c1.alarm-")?.parse().ok()).collect();
    assert_eq!(alarms, (1..=300).collect::<Vec<u64>>(), "in their order, and once");
    assert_eq!(memory.twice(), Vec::<u64>::new());
}
