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
