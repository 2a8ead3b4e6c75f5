//! Lanes: who is first, and who is counted where.

use super::*;

fn alarms(batch: &mut Batch) -> Append<'_> {
    Append { alarms: Some(batch), ..Append::default() }
}

#[tokio::test]
async fn an_alarm_is_committed_at_once_and_many_do_not_cost_a_commit_each() {
    let mut rig = Rig::new();
    rig.settings.commit_interval = Duration::from_secs(60);
    let (outbox, closer) = rig.open();
    // What waits goes along.
    let mut raw = rig.readings(3);
    outbox.append(Lane::Raw, &mut raw, None, &[]);
    let number = outbox.append_all(alarms(&mut rig.readings(1)));
    durable(&outbox, number).await;
    assert_eq!((rig.count(Count::Commits, ""), rig.count(Count::Committed, "alarm")), (1, 1));
    // Very many of them share commits, and none waits for the interval.
    let start = clock::instant();
    let mut last = 0;
    for _ in 0..200 {
        last = outbox.append_all(alarms(&mut rig.readings(1)));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    durable(&outbox, last).await;
    let (commits, tenths) = (rig.count(Count::Commits, ""), start.elapsed().as_millis() as u64 / 100);
    assert!((2..=tenths + 3).contains(&commits), "{commits} commits in {tenths} tenths of a second");
    // Afterwards all is as it was: nothing is due for those that are no alarms.
    let mut raw = rig.readings(3);
    let number = outbox.append(Lane::Raw, &mut raw, None, &[]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(*outbox.durable().borrow() < number);
    closer.close().unwrap();
    assert_eq!(rig.count(Count::Committed, "alarm"), 201);
}

#[tokio::test]
async fn an_append_without_an_alarm_hurries_nothing() {
    let mut rig = Rig::new();
    rig.settings.commit_interval = Duration::from_secs(60);
    let (outbox, closer) = rig.open();
    let mut raw = rig.readings(3);
    outbox.append_all(Append { alarms: Some(&mut Batch::default()), raw: Some(&mut raw), ..Append::default() });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.count(Count::Commits, ""), 0);
    closer.close().unwrap();
}

#[tokio::test]
async fn alarms_are_read_first_wherever_they_are_and_counted_by_lane() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    // So many that the memory tail holds neither the first of them nor the alarms between them.
    let mut expected = Vec::new();
    for _ in 0..20 {
        rig.store(&outbox, 200).await;
        let mut batch = rig.readings(2);
        expected.extend([rig.next - 1, rig.next]);
        let number = outbox.append(Lane::Alarm, &mut batch, None, &[]);
        durable(&outbox, number).await;
    }
    let backlog = outbox.backlog();
    assert!(backlog.segments > 5, "{backlog:?}");
    assert_eq!((backlog.lanes, backlog.records), ([40, 0, 4_000], 4_040));
    let stream = format!("{}.alarm", outbox.run());
    closer.close().unwrap();

    // The same again after a restart, of which the second half from the disk.
    let (outbox, closer) = rig.open();
    let mut reader = outbox.reader();
    let mut found = Vec::new();
    while found.len() < expected.len() {
        let stored = next(&mut reader).await.unwrap();
        assert_eq!((stored.lane, &*stored.stream), (Lane::Alarm, stream.as_str()));
        found.extend(stored.batch.fields.iter().filter_map(|field| match field.value {
            Value::Number(n) => Some(n as i64),
            _ => None,
        }));
        deliver(&outbox, &[stored]);
    }
    assert_eq!(found, expected);
    assert_eq!(outbox.backlog().lanes[0], 0);
    // Half way through the backlog another one comes: it is next, and nobody else is before it.
    let mut raw = 0;
    while raw < 2_000 {
        let stored = next(&mut reader).await.unwrap();
        assert_eq!(stored.lane, Lane::Raw);
        raw += stored.batch.len();
    }
    let none = tokio::time::timeout(Duration::from_millis(100), reader.next_alarms()).await;
    assert!(none.is_err(), "only alarms were asked for");
    let number = outbox.append(Lane::Alarm, &mut rig.readings(1), None, &[]);
    durable(&outbox, number).await;
    let alarm = tokio::time::timeout(Duration::from_secs(5), reader.next_alarms()).await.unwrap().unwrap();
    assert_eq!((alarm.lane, alarm.first_seq), (Lane::Alarm, 1), "a new run, a new stream");
    let (rest, ..) = drain(&mut reader).await;
    assert_eq!(raw + rest.iter().filter(|(stream, ..)| stream.ends_with(".raw")).count(), 4_000);
    closer.close().unwrap();
}

#[tokio::test]
async fn the_end_of_a_stream_is_declared_though_all_of_it_was_delivered_and_is_gone() {
    let mut rig = Rig::new();
    let (outbox, closer) = rig.open();
    // More than a segment takes: what follows is in another one.
    rig.store(&outbox, 1_000).await;
    let (.., all) = drain(&mut outbox.reader()).await;
    let mut batch = rig.readings(1);
    let number = outbox.append(Lane::Alarm, &mut batch, None, &[]);
    durable(&outbox, number).await;
    deliver(&outbox, &all);
    drop(all);
    for _ in 0..200 {
        if directories(&rig) == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(directories(&rig), 1);
    let run = outbox.run().to_owned();
    crash(&mut rig, outbox, closer);
    let (outbox, closer) = rig.open();
    let (_, others, _) = drain(&mut outbox.reader()).await;
    let mut ends: Vec<_> = others
        .iter()
        .filter_map(|record| if let Record::StreamEnd(end) = record { Some(end) } else { None })
        .map(|end| (end.stream.to_string(), end.last))
        .collect();
    ends.sort_unstable();
    assert_eq!(ends, [(format!("{run}.alarm"), 1), (format!("{run}.raw"), 1_000)]);
    closer.close().unwrap();
}
