use std::ops::Range;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::super::ask::Known;
use super::super::line::{Bus, Patience};
use super::*;
use crate::counters::Counter;
use crate::log::Throttle;
use crate::profile::{Telegram, checksum};
use crate::status::Links;

const METER: [u8; 8] = [0x78, 0x56, 0x34, 0x12, 0x43, 0x04, 0x01, 0x07];

/// A meter at address 5 that says these telegrams, one for each new request.
struct Meter {
    telegrams: Vec<Vec<u8>>,
    number: [u8; 8],
    /// It acknowledges resets, and selections.
    acknowledges: bool,
    /// It knows no resets at all.
    ignores: bool,
    /// Answers that are lost, counted from 1.
    lost: Range<usize>,
    requests: Vec<String>,
}

impl Meter {
    fn new(telegrams: &[&[u8]]) -> Self {
        let telegrams = telegrams.iter().map(|records| records.to_vec()).collect();
        Self { telegrams, number: METER, acknowledges: true, ignores: false, lost: 0..0, requests: Vec::new() }
    }

    fn said(&self, at: usize) -> Vec<u8> {
        let data = [&self.number[..], &[at as u8, 0, 0, 0], &self.telegrams[at]].concat();
        let mut bytes = Vec::new();
        Telegram { control: 0x08, address: 5, information: 0x72, data: &data }.write(&mut bytes);
        bytes
    }

    /// Answers until nobody asks any more.
    async fn answer(&mut self, mut wire: DuplexStream) {
        let (mut expected, mut at, mut answers) = (true, 0_usize, 0);
        let mut head = [0; 4];
        while wire.read_exact(&mut head).await.is_ok() {
            let rest = if head[0] == 0x68 { usize::from(head[1]) + 2 } else { 1 };
            let mut body = vec![0; rest];
            wire.read_exact(&mut body).await.unwrap();
            let (control, reply) = match head {
                [0x10, control, address, sum] if matches!(address, 5 | 253) && sum == checksum(&[control, address]) => {
                    (control, true)
                }
                [0x68, ..] => (body[0], body[3..7] == self.number[..4]),
                _ => (0, false),
            };
            let said = match control {
                0x40 if self.ignores => {
                    self.requests.push("reset".to_owned());
                    Vec::new()
                }
                0x40 | 0x53 => {
                    (expected, at) = (true, 0);
                    self.requests.push(if control == 0x40 { "reset" } else { "select" }.to_owned());
                    if self.acknowledges { vec![0xe5] } else { Vec::new() }
                }
                0x5b | 0x7b => {
                    let toggled = control == 0x7b;
                    self.requests.push(format!("request {}", u8::from(toggled)));
                    // The bit is what it expects: the next one; else the last one again, or the first.
                    if toggled == expected {
                        (expected, at) = (!expected, at + 1);
                    }
                    self.said(at.saturating_sub(1) % self.telegrams.len())
                }
                _ => Vec::new(),
            };
            answers += 1;
            if reply && !self.lost.contains(&answers) {
                wire.write_all(&said).await.unwrap();
            }
        }
    }
}

/// Rounds of a device on a wire to that meter: whether it answered, the frame, the trouble.
async fn rounds(address: BusAddress, meter: &mut Meter, rounds: usize) -> Vec<(bool, Vec<u8>, String)> {
    let (ours, theirs) = duplex(4 * 1024);
    let link = Links::default().link("mbus.test");
    let asking = async move {
        let mut bus = Bus::new(ours, 115_200, 11, Duration::ZERO);
        let mut device = Device::new(address);
        let (mut failures, mut out) = (0, Vec::new());
        let mut known = Known {
            name: "unit 5 (x)".to_owned(),
            patience: Patience { first: Duration::from_millis(60), more: TELEGRAM_CHARACTERS },
            trouble: String::new(),
            timeouts: Counter::default(),
            damaged: Counter::default(),
            exceptions: Counter::default(),
            log: Throttle::new(Duration::from_secs(1)),
        };
        for _ in 0..rounds {
            known.trouble.clear();
            let mut frame = Vec::new();
            let asking =
                Asking { known: &mut known, bus: &mut bus, link: &link, source: "mbus.test", retries: 1, failures };
            let answered = device.round(asking, &mut frame).await.unwrap();
            failures = if answered { 0 } else { failures + 1 };
            out.push((answered, frame, known.trouble.clone()));
        }
        out
    };
    let (out, ()) = tokio::join!(asking, meter.answer(theirs));
    out
}

const FIVE: BusAddress = BusAddress::Number(5);
const NUMBERED: BusAddress = BusAddress::Meter([0x78, 0x56, 0x34, 0x12, 0xff, 0xff, 0xff, 0xff]);

#[tokio::test]
async fn all_telegrams_of_a_meter_are_one_frame() {
    let mut meter = Meter::new(&[&[0x01, 0x16, 1, 0x1f], &[0x01, 0x5b, 2, 0x1f], &[0x01, 0x5f, 3]]);
    for (address, begin) in [(FIVE, "reset"), (NUMBERED, "select")] {
        let expected = [meter.said(0), meter.said(1), meter.said(2)].concat();
        meter.requests.clear();
        for (answered, frame, trouble) in rounds(address, &mut meter, 2).await {
            assert!(answered && trouble.is_empty(), "{trouble}");
            assert_eq!(frame, expected);
        }
        let round = [begin, "request 1", "request 0", "request 1"];
        assert_eq!(meter.requests, [round, round].concat());
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_bit() {
    let mut meter = Meter::new(&[&[0x01, 0x16, 1, 0x1f], &[0x01, 0x5b, 2]]);
    meter.lost = 3..4;
    let expected = [meter.said(0), meter.said(1)].concat();
    let out = rounds(FIVE, &mut meter, 1).await;
    assert_eq!(out, [(true, expected, String::new())]);
    assert_eq!(meter.requests, ["reset", "request 1", "request 0", "request 0"]);
}

/// Whether each round was answered.
fn answered(rounds: Vec<(bool, Vec<u8>, String)>) -> Vec<bool> {
    rounds.into_iter().map(|(answered, ..)| answered).collect()
}

#[tokio::test]
async fn one_that_knows_no_reset_is_found_out_and_never_asked_for_the_same_twice() {
    let mut meter = Meter::new(&[&[0x01, 0x16, 1]]);
    meter.ignores = true;
    let rounds = 2 + (IGNORED_MAX + TRY_AGAIN) as usize;
    let found = answered(self::rounds(FIVE, &mut meter, rounds).await);
    // The first round with its retry, then it is asked for its data all the same.
    assert_eq!((found[0], found[1..].iter().all(|&answered| answered)), (false, true));
    let mut expected = vec!["reset", "reset", "request 1", "reset", "request 0", "reset", "request 1"];
    // Now it is known. The bit goes on where it was: a meter says the old values again to one that does not.
    for round in 1..TRY_AGAIN {
        expected.push(if round % 2 == 1 { "request 0" } else { "request 1" });
    }
    expected.extend(["reset", "request 1", "request 0"]);
    assert_eq!(meter.requests[..expected.len()], expected);
}

#[tokio::test]
async fn one_that_missed_a_reset_once_is_reset_again() {
    let mut meter = Meter::new(&[&[0x01, 0x16, 1]]);
    meter.lost = 1..3;
    assert_eq!(answered(rounds(FIVE, &mut meter, 4).await), [false, true, true, true]);
    assert_eq!(meter.requests, ["reset", "reset", "request 1", "reset", "request 1", "reset", "request 1"]);
}

#[tokio::test]
async fn one_that_begins_anew_without_saying_so_gives_all_its_telegrams() {
    let mut meter = Meter::new(&[&[0x01, 0x16, 1, 0x1f], &[0x01, 0x5b, 2, 0x1f], &[0x01, 0x5f, 3]]);
    meter.acknowledges = false;
    let all = [meter.said(0), meter.said(1), meter.said(2)].concat();
    let out = rounds(FIVE, &mut meter, 4).await;
    assert_eq!(out[1..], vec![(true, all, String::new()); 3]);
}

#[tokio::test]
async fn one_that_is_dead_takes_little_time() {
    let mut dead = Meter::new(&[&[]]);
    let out = rounds(BusAddress::Number(6), &mut dead, 3).await;
    let troubles: Vec<_> = out.iter().map(|(_, _, trouble)| trouble.as_str()).collect();
    assert_eq!(
        troubles,
        ["did not answer for the reset", "did not answer for its data", "did not answer for the reset"]
    );
}

#[tokio::test]
async fn one_that_never_ends_is_asked_no_more_when_it_says_the_same_again() {
    let mut meter = Meter::new(&[&[0x01, 0x16, 1, 0x1f]]);
    let [(answered, frame, _)] = rounds(FIVE, &mut meter, 1).await.try_into().unwrap();
    assert!(answered);
    assert_eq!(frame, meter.said(0));
    // And one that always has something new, when it is enough.
    let telegrams: Vec<Vec<u8>> = (0..40).map(|number| vec![0x01, 0x16, number, 0x1f]).collect();
    let mut meter = Meter::new(&telegrams.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let [(_, frame, _)] = rounds(FIVE, &mut meter, 1).await.try_into().unwrap();
    assert_eq!(frame, (0..TELEGRAMS_MAX).flat_map(|at| meter.said(at)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_telegram_that_is_lost_does_not_cost_those_before_it() {
    let mut meter = Meter::new(&[&[0x01, 0x16, 1, 0x1f], &[0x01, 0x5b, 2]]);
    meter.lost = 3..10;
    let out = rounds(FIVE, &mut meter, 1).await;
    assert_eq!(out, [(true, meter.said(0), "did not answer for telegram 2 of its data".to_owned())]);
}

#[tokio::test]
async fn another_meter_at_the_same_address_is_told() {
    let (ours, mut theirs) = duplex(4 * 1024);
    let mut device = Device::new(FIVE);
    let mut first = Meter::new(&[&[0x01, 0x16, 1]]);
    let said = first.said(0);
    first.number[0] = 0x79;
    let other = first.said(0);
    let link = Links::default().link("mbus.test");
    let meters = async {
        for said in [said, other] {
            let mut request = [0; 5];
            theirs.read_exact(&mut request).await.unwrap();
            theirs.write_all(&[0xe5]).await.unwrap();
            theirs.read_exact(&mut request).await.unwrap();
            theirs.write_all(&said).await.unwrap();
        }
    };
    let asking = async {
        let mut bus = Bus::new(ours, 115_200, 11, Duration::ZERO);
        let mut known = Known {
            name: "unit 5 (x)".to_owned(),
            patience: Patience { first: Duration::from_secs(1), more: 0 },
            trouble: String::new(),
            timeouts: Counter::default(),
            damaged: Counter::default(),
            exceptions: Counter::default(),
            log: Throttle::new(Duration::from_secs(1)),
        };
        for _ in 0..2 {
            let asking =
                Asking { known: &mut known, bus: &mut bus, link: &link, source: "mbus.test", retries: 0, failures: 0 };
            assert!(device.round(asking, &mut Vec::new()).await.unwrap());
        }
        known.trouble
    };
    let (trouble, ()) = tokio::join!(asking, meters);
    assert!(
        trouble.starts_with("is another meter than before, 1234567943040107 and not 1234567843040107"),
        "{trouble}"
    );
}
