use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::reading::{
    Aggregate, DeadLetter, DeviceState, Event, EventKind, Field, Gap, Mark, Measurement, MeasurementKind, Name, Origin,
    Reading, Reason, Record, Stage, Stamp, StreamEnd, TimeQuality, Value,
};

fn measurement(name: &str, unit: Option<&str>) -> Arc<Measurement> {
    Arc::new(Measurement { name: name.into(), unit: unit.map(Into::into), kind: MeasurementKind::Gauge })
}

fn stamp() -> impl Strategy<Value = Stamp> {
    (any::<i64>(), any::<u64>(), any::<bool>()).prop_map(|(wall_ms, monotonic_ms, trusted)| Stamp {
        wall_ms,
        monotonic_ms,
        trusted,
    })
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-100_000_i64..100_000, 0..4_i32)
            .prop_map(|(digits, places)| Value::Number(digits as f64 / 10_f64.powi(places))),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::Number),
        ".{0,12}".prop_map(|text| Value::Text(text.into())),
        any::<bool>().prop_map(Value::Flag),
    ]
}

fn batch() -> impl Strategy<Value = Batch> {
    let reading = (0..5_usize, stamp(), any::<i64>(), prop::collection::vec((0..4_usize, value()), 0..5));
    let other = (0..6_u8, stamp(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..50));
    prop::collection::vec(prop_oneof![reading.prop_map(Ok), other.prop_map(Err)], 0..40).prop_map(|records| {
        let names: Vec<Name> = (0..5).map(|n| format!("device-{n}").into()).collect();
        let measurements: Vec<_> =
            (0..4).map(|n| measurement(&format!("m{n}"), (n % 2 == 0).then_some("Cel"))).collect();
        let mut batch = Batch::default();
        for record in records {
            let record = match record {
                Ok((device, received, time_ms, fields)) => {
                    let mark = batch.mark();
                    batch.fields.extend(
                        fields.into_iter().map(|(m, value)| Field { measurement: Arc::clone(&measurements[m]), value }),
                    );
                    Record::Reading(Reading {
                        device: Arc::clone(&names[device]),
                        profile: "p".into(),
                        time_ms,
                        time_quality: TimeQuality::Device,
                        received,
                        mark: if time_ms % 5 == 0 { Mark::Late } else { Mark::None },
                        alarm: (time_ms % 3 == 0).then(|| Arc::clone(&names[(time_ms % 2).unsigned_abs() as usize])),
                        fields: mark..batch.mark(),
                    })
                }
                Err((0, received, n, _)) => Record::State(Box::new(DeviceState {
                    device: "d".into(),
                    profile: "p".into(),
                    online: n % 2 == 0,
                    received,
                })),
                Err((1, received, length, payload)) => Record::DeadLetter(Box::new(DeadLetter {
                    source: "mqtt.a".into(),
                    origin: "a/b".into(),
                    profile: None,
                    received,
                    stage: Stage::Decode,
                    reason: Reason::NotJson,
                    detail: "why".into(),
                    length,
                    payload: payload.into(),
                })),
                Err((2, at, count, _)) => Record::Gap(Box::new(Gap {
                    stream: "r.raw".into(),
                    from: 1,
                    to: 5,
                    count,
                    cause: "evicted".into(),
                    replaced_by: (count % 2 == 0).then(|| "a.thinned.7.1".into()),
                    at,
                })),
                Err((3, at, n, _)) => Record::Aggregate(Box::new(Aggregate {
                    device: "d".into(),
                    profile: "p".into(),
                    measurement: Arc::clone(&measurements[(n % 4) as usize]),
                    origin: if n % 3 == 0 { Origin::Thinned } else { Origin::Window },
                    window: "w".into(),
                    start_ms: n as i64,
                    end_ms: (n as i64).wrapping_add(60_000),
                    revision: 2,
                    count: n,
                    sum: (n % 2 == 0).then_some(0.1),
                    min: -1.0,
                    max: 1e300,
                    first: 0.5,
                    last: -0.0,
                    at,
                })),
                Err((4, at, n, _)) => Record::Event(Box::new(Event::new(EventKind::ALL[(n % 3) as usize], "why", at))),
                Err((_, at, last, _)) => Record::StreamEnd(Box::new(StreamEnd { stream: "r.raw".into(), last, at })),
            };
            batch.records.push(record);
        }
        batch
    })
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(batch in batch()) {
        let bytes = encode(&batch, 0..batch.len()).unwrap();
        prop_assert_eq!(decode(&bytes, &mut Names::default()).unwrap(), batch);
    }

    #[test]
    fn a_part_is_encoded_alone(batch in batch(), from in 0..40_usize, count in 0..40_usize) {
        let from = from.min(batch.len());
        let to = (from + count).min(batch.len());
        let bytes = encode(&batch, from..to).unwrap();
        let decoded = decode(&bytes, &mut Names::default()).unwrap();
        prop_assert_eq!(decoded.len(), to - from);
        for (was, is) in batch.records[from..to].iter().zip(&decoded.records) {
            if let (Record::Reading(was), Record::Reading(is)) = (was, is) {
                prop_assert_eq!(batch.fields_of(was), decoded.fields_of(is));
            } else {
                prop_assert_eq!(was, is);
            }
        }
    }

    /// Byte for byte, as the parser by itself would read it, whole or damaged.
    #[test]
    fn items_make_what_the_parser_makes(batch in batch(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = encode(&batch, 0..batch.len()).unwrap();
        let again = |body: &Body| to_cbor(body).unwrap();
        let by_items: Body = items::from_slice(&bytes).unwrap();
        prop_assert_eq!(again(&by_items), again(&serde_cbor::from_slice(&bytes).unwrap()));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let (Ok(by_items), Ok(by_parser)) = (items::from_slice(&bytes), serde_cbor::from_slice(&bytes)) {
            prop_assert_eq!(again(&by_items), again(&by_parser));
        }
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes, &mut Names::default());
    }

    #[test]
    fn a_changed_byte_never_panics(batch in batch(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = encode(&batch, 0..batch.len()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode(&bytes, &mut Names::default());
    }
}

#[test]
fn decimals_are_kept_exactly() {
    for (numbers, places) in [
        (vec![21.4, 21.45, -3.0], Some(2)),
        (vec![0.1 + 0.2], None),
        (vec![-0.0], None),
        (vec![1e300], None),
        (vec![9_007_199_254_740_991.0], Some(0)),
        (vec![9_007_199_254_740_991.0, 0.5], None),
    ] {
        let found = match decimals(&numbers) {
            Some(Column::D(places, _)) => Some(places),
            _ => None,
        };
        assert_eq!(found, places, "{numbers:?}");
    }
}
