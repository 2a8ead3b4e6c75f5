//! What must arrive, when it is acknowledged, and what must not be taken twice.

use std::time::Duration;

use super::broker::{Broker, numbers};
use super::{Commits, Rig, elapsed, settings, wait_for};
use crate::clock;
use crate::config::{MqttVersion, Retained};
use crate::counters::Count;

const VERSIONS: [MqttVersion; 2] = [MqttVersion::V4, MqttVersion::V5];

fn texts(from: u32, to: u32) -> Vec<String> {
    (from..=to).map(|number| number.to_string()).collect()
}

#[test]
fn messages_are_acknowledged_only_when_they_are_durable() {
    for version in VERSIONS {
        let broker = Broker::plain();
        let rig = Rig::start(settings(version, broker.port), "acks", Commits::Never, &["t/#"]);
        rig.wait_up();
        broker.publish(&[], "t/a", 1, &numbers(1, 50));
        rig.wait_frames(20);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(rig.store.texts(), texts(1, 20), "the broker waits for acknowledgements");
        assert!(rig.store.state().hurries > 0, "which the source knew to be near");
        rig.store.commit(Commits::Always);
        rig.wait_frames(50);
        assert_eq!(rig.store.texts(), texts(1, 50));
        rig.stop();
    }
}

/// A commit comes only when the source asks for it, as if the timer were endless.
#[test]
fn twenty_in_flight_do_not_wait_for_a_timer() {
    for version in VERSIONS {
        let broker = Broker::start(|_| "max_queued_messages 0\n".to_owned());
        let rig = Rig::start(settings(version, broker.port), "fast", Commits::OnHurry, &["t"]);
        rig.wait_up();
        let begun = clock::instant();
        broker.publish(&[], "t", 1, &numbers(1, 5000));
        rig.wait_frames(4981);
        assert!(elapsed(begun) < Duration::from_secs(5), "expected 1000 a second, took {:?}", elapsed(begun));
        rig.store.commit(Commits::Always);
        rig.wait_frames(5000);
        assert_eq!(rig.store.texts(), texts(1, 5000));
        rig.stop();
    }
}

#[test]
fn slow_traffic_asks_for_no_haste() {
    let broker = Broker::plain();
    let rig = Rig::start(settings(MqttVersion::V4, broker.port), "slow", Commits::Never, &["t"]);
    rig.wait_up();
    broker.publish(&[], "t", 1, &numbers(1, 10));
    rig.wait_frames(10);
    assert_eq!(rig.store.state().hurries, 0);
    rig.store.commit(Commits::Always);
    rig.stop();
}

#[test]
fn a_broker_that_restarts_brings_nothing_twice_and_loses_nothing() {
    for version in VERSIONS {
        let mut broker = Broker::plain();
        let rig = Rig::start(settings(version, broker.port), "again", Commits::Never, &["t"]);
        rig.wait_up();
        broker.publish(&[], "t", 1, &numbers(1, 30));
        rig.wait_frames(20);
        broker.stop();
        rig.wait_down("");
        broker.restart();
        wait_for("a second connection", || rig.count(Count::Connects) >= 2);
        wait_for("the redelivery", || rig.count(Count::RedeliveredKnown) == 20);
        rig.store.commit(Commits::Always);
        rig.wait_frames(30);
        broker.publish(&[], "t", 1, &numbers(31, 40));
        rig.wait_frames(40);
        assert_eq!(rig.store.texts(), texts(1, 40));
        assert!(rig.count(Count::ConnectionErrors) >= 1);
        rig.stop();
    }
}

#[test]
fn what_an_earlier_run_stored_is_acknowledged_and_not_taken_again() {
    for version in VERSIONS {
        let broker = Broker::plain();
        let first = Rig::start(settings(version, broker.port), "crash", Commits::Never, &["t"]);
        first.wait_up();
        broker.publish(&[], "t", 1, &numbers(1, 25));
        first.wait_frames(20);
        let stored: Vec<_> = first.store.state().receipts.clone();
        assert_eq!(stored.len(), 20);
        // Half of it was committed before the crash.
        let second =
            Rig::start_knowing(settings(version, broker.port), "crash", Commits::Always, &["t"], &stored[..10], 0);
        second.wait_frames(15);
        assert_eq!(second.store.texts(), texts(11, 25));
        assert_eq!(second.count(Count::RedeliveredKnown), 10);
        second.stop();
        first.stop();
    }
}

#[test]
fn what_was_published_while_the_source_was_away_comes_with_the_session() {
    for version in VERSIONS {
        let broker = Broker::plain();
        let rig = Rig::start(settings(version, broker.port), "away", Commits::Always, &["t"]);
        rig.wait_up();
        rig.stop();
        broker.publish(&[], "t", 1, &numbers(1, 100));
        let rig = Rig::start(settings(version, broker.port), "away", Commits::Always, &["t"]);
        rig.wait_frames(100);
        assert_eq!(rig.stop().texts(), texts(1, 100));
    }
}

#[test]
fn a_stop_acknowledges_what_becomes_durable() {
    let broker = Broker::plain();
    let rig = Rig::start(settings(MqttVersion::V5, broker.port), "stop", Commits::OnHurry, &["t"]);
    rig.wait_up();
    broker.publish(&[], "t", 1, &numbers(1, 5));
    rig.wait_frames(5);
    assert_eq!(rig.stop().state().hurries, 1);
    let rig = Rig::start(settings(MqttVersion::V5, broker.port), "stop", Commits::Always, &["t"]);
    broker.publish(&[], "t", 1, "6\n");
    rig.wait_frames(1);
    assert_eq!(rig.stop().texts(), ["6"], "nothing was sent again");
}

#[test]
fn retained_messages_are_taken_once_or_dropped() {
    for (retained, expected, dropped) in [(Retained::First, 1, 1), (Retained::Drop, 0, 2), (Retained::Keep, 2, 0)] {
        let mut broker = Broker::plain();
        broker.publish(&["-r"], "t", 1, "old\n");
        let mut settings = settings(MqttVersion::V4, broker.port);
        settings.retained = retained;
        let rig = Rig::start(settings, "retained", Commits::Always, &["t"]);
        rig.wait_up();
        wait_for("the retained message", || rig.store.state().frames + rig.count(Count::RetainedDropped) == 1);
        // The broker loses the session and keeps the message.
        broker.stop();
        rig.wait_down("");
        std::fs::remove_file(broker.dir.path().join("mosquitto.db")).unwrap();
        // The gateway may be there again before a client could publish.
        broker.aside(|broker| broker.publish(&["-r"], "t", 1, "old\n"));
        broker.restart();
        rig.wait_up();
        wait_for("both", || rig.store.state().frames + rig.count(Count::RetainedDropped) == 2);
        assert_eq!((rig.store.state().frames, rig.count(Count::RetainedDropped)), (expected, dropped), "{retained:?}");
        rig.stop();
    }
}

#[test]
fn a_shared_subscription_delivers() {
    for version in VERSIONS {
        let broker = Broker::plain();
        let rig = Rig::start(settings(version, broker.port), "shared", Commits::Always, &["$share/gateways/t/+"]);
        rig.wait_up();
        broker.publish(&[], "t/1", 1, &numbers(1, 30));
        rig.wait_frames(30);
        assert_eq!(rig.stop().texts(), texts(1, 30));
    }
}

/// After a reload on a full disk: the source before saw that the broker has lost the session, and had no time to wait.
#[test]
fn a_source_does_not_connect_before_it_is_durable_that_the_session_was_lost() {
    let broker = Broker::plain();
    let settings = settings(MqttVersion::V5, broker.port);
    let rig = Rig::start_knowing(settings, "void", Commits::Never, &["t"], &[], 1);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(rig.count(Count::Connects), 0);
    rig.store.announce(1);
    rig.wait_up();
    rig.stop();
}
