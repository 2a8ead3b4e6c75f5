//! Settings that change while the outbox is open.

use super::*;

#[tokio::test]
async fn bounds_and_what_to_do_at_them_change_while_it_is_open() {
    let mut rig = Rig::new();
    rig.settings.size_max = 3 << 20;
    rig.settings.segment_bytes = 64 * 1024;
    rig.settings.when_full = WhenFull::Block;
    let (outbox, closer) = rig.open();
    let mut last = 0;
    for _ in 0..200 {
        last = outbox.append(Lane::Raw, &mut rig.readings(100), None, &[]);
    }
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(*outbox.durable().borrow() < last, "it is full, and blocks");
    // More room: nothing is given up.
    rig.settings.size_max = 64 << 20;
    outbox.change(&rig.settings, 20);
    durable(&outbox, last).await;
    assert_eq!(rig.count(Count::Evicted, "raw"), 0);
    // Less of it, and the oldest may go: what comes next makes room for itself.
    rig.settings.size_max = 3 << 20;
    rig.settings.when_full = WhenFull::DropOldest;
    outbox.change(&rig.settings, 20);
    for _ in 0..40 {
        last = outbox.append(Lane::Raw, &mut rig.readings(100), None, &[]);
        durable(&outbox, last).await;
    }
    assert!(rig.count(Count::Evicted, "raw") > 0);
    assert!(outbox.backlog().bytes <= rig.settings.size_max, "{:?}", outbox.backlog());
    // What an open outbox is stays as it was opened.
    rig.settings.persist = config::Persist::WhenBehind;
    rig.settings.encryption.key = Some(config::EncryptionKey::new(*b"a key of the tests, of 32 bytes."));
    outbox.change(&rig.settings, 20);
    last = outbox.append(Lane::Raw, &mut rig.readings(100), None, &[]);
    durable(&outbox, last).await;
    closer.close().unwrap();
    rig.settings.encryption = config::Encryption::default();
    let (outbox, closer) = rig.open();
    assert!(outbox.backlog().records > 0, "it is read without a key");
    closer.close().unwrap();
}

/// A source that a reload stops while the disk takes nothing leaves messages that its successor is sent again.
#[tokio::test]
async fn receipts_that_are_not_durable_yet_are_known_with_their_append() {
    let mut rig = Rig::new();
    rig.settings.size_max = 3 << 20;
    rig.settings.segment_bytes = 64 * 1024;
    rig.settings.when_full = WhenFull::Block;
    let (outbox, closer) = rig.open();
    let (session, other): (Name, Name) = ("s".into(), "t".into());
    let receipt = |n: u16| Receipt { packet_id: n, hash: 7 };
    let first = outbox.append(Lane::Raw, &mut rig.readings(1), Some(&session), &[receipt(1)]);
    durable(&outbox, first).await;
    for _ in 0..200 {
        outbox.append(Lane::Raw, &mut rig.readings(100), None, &[]);
    }
    let second = outbox.append(Lane::Raw, &mut rig.readings(1), Some(&session), &[receipt(2), receipt(3)]);
    let third = outbox.append(Lane::Raw, &mut rig.readings(1), Some(&other), &[receipt(4)]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(*outbox.durable().borrow() < second, "it is full, and blocks");
    let receipts = vec![(receipt(1), 0), (receipt(2), second), (receipt(3), second)];
    assert_eq!(outbox.known_receipts("s"), KnownReceipts { receipts, void_at: 0 });
    assert_eq!(outbox.known_receipts("t"), KnownReceipts { receipts: vec![(receipt(4), third)], void_at: 0 });
    // A session that the broker has lost: nothing of before, and something to wait for.
    let lost = outbox.append(Lane::Raw, &mut Batch::default(), Some(&session), &[Receipt::SESSION_LOST]);
    let last = outbox.append(Lane::Raw, &mut rig.readings(1), Some(&session), &[receipt(1)]);
    assert_eq!(outbox.known_receipts("s"), KnownReceipts { receipts: vec![(receipt(1), last)], void_at: lost });
    rig.settings.size_max = 64 << 20;
    outbox.change(&rig.settings, 20);
    durable(&outbox, last).await;
    assert_eq!(outbox.known_receipts("s"), KnownReceipts { receipts: vec![(receipt(1), 0)], void_at: 0 });
    assert_eq!(known_to(&outbox, "t"), [receipt(4)]);
    closer.close().unwrap();
}

/// A start with a larger in-flight limit takes notice of older receipts, which the held records were not measured by.
#[tokio::test]
async fn with_more_receipts_to_take_notice_of_the_stored_ones_of_a_gateway_that_holds_are_void() {
    let mut rig = Rig::new();
    rig.settings.persist = config::Persist::Always;
    let session: Name = "s".into();
    let receipt = |n: u16| Receipt { packet_id: n, hash: 7 };
    let (outbox, closer) = rig.open();
    for n in 1..=30 {
        let number = outbox.append(Lane::Raw, &mut rig.readings(1), Some(&session), &[receipt(n)]);
        durable(&outbox, number).await;
    }
    closer.close().unwrap();
    rig.settings.persist = config::Persist::WhenBehind;
    let (outbox, closer) = rig.open();
    assert_eq!(known_to(&outbox, "s"), (11..=30).map(receipt).collect::<Vec<_>>());
    outbox.change(&rig.settings, 20);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(known_to(&outbox, "s").len(), 20, "no more than before");
    outbox.change(&rig.settings, 40);
    for _ in 0..200 {
        if known_to(&outbox, "s").is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(known_to(&outbox, "s").is_empty());
    closer.close().unwrap();
    let options = Options { data_dir: rig.dir.path().to_owned(), receipts_max: 40, machine: "m".to_owned() };
    let (outbox, closer, _) = Outbox::open(&rig.settings, &options, &rig.counters).unwrap();
    assert!(known_to(&outbox, "s").is_empty(), "and durably so");
    closer.close().unwrap();
}
