//! What holds for every stream of readings: neither order, nor batches, nor restarts change an aggregate.

use proptest::prelude::*;

use super::*;

/// A reading of one of three devices, in seconds, with up to three values.
type Sent = (u8, i32, Vec<(u8, i16)>);

fn stream(span_s: i32, length: usize) -> impl Strategy<Value = Vec<Sent>> {
    let values = proptest::collection::vec((0u8..3, any::<i16>()), 1..4);
    proptest::collection::vec((0u8..3, 0..span_s, values), 1..length)
}

fn rules() -> config::Rules {
    let mut updated = window("updated", 30, 45);
    updated.update_within = Some(Duration::from_secs(100));
    updated.select = select(&["d0", "d1"], &["m0", "m1"]);
    let mut day = window("day", 86_400, 60);
    day.time_zone = Some("Europe/Berlin".to_owned());
    day.forward_raw = true;
    settings(&[], &[window("w", 60, 60), updated, day])
}

fn push(bed: &mut Bed, batch: &mut Batch, (device, time, values): &Sent) {
    let fields: Vec<(String, Value)> =
        values.iter().map(|(m, value)| (format!("m{m}"), Value::Number(f64::from(*value) / 100.0))).collect();
    let fields: Vec<(&str, Value)> = fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    bed.reading(batch, &format!("d{device}"), f64::from(*time), &fields);
}

/// What became of a stream: the aggregates, sorted, and how much was forwarded.
fn run(mut bed: Bed, stream: &[Sent], mut between: impl FnMut(&mut Bed, usize)) -> (Vec<String>, usize) {
    let mut forwarded = 0;
    for (index, sent) in stream.iter().enumerate() {
        let mut batch = Batch::default();
        push(&mut bed, &mut batch, sent);
        bed.rules.apply(&mut batch, &mut bed.made);
        forwarded += batch.fields.len();
        bed.take();
        between(&mut bed, index);
    }
    bed.pass(200_000);
    let mut made = bed.made();
    made.sort();
    (made, forwarded)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_order_within_the_lateness_gives_the_same_aggregates(mut sent in stream(600, 80), jitter in any::<u64>()) {
        sent.sort_by_key(|(_, time, _)| *time);
        let plain = run(Bed::new(rules()), &sent, |_, _| {});
        let mut random = fastrand::Rng::with_seed(jitter);
        // Nothing comes more than 44 seconds after something newer.
        sent.sort_by_cached_key(|(_, time, _)| time + random.i32(0..45));
        prop_assert_eq!(run(Bed::new(rules()), &sent, |_, _| {}), plain);
    }

    #[test]
    fn any_split_into_batches_gives_the_same(sent in stream(600, 60), seed in any::<u64>()) {
        let plain = run(Bed::new(rules()), &sent, |_, _| {});
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bed = Bed::new(rules());
        let (mut batch, mut forwarded) = (Batch::default(), 0);
        for sent in &sent {
            push(&mut bed, &mut batch, sent);
            if random.bool() {
                bed.rules.apply(&mut batch, &mut bed.made);
                forwarded += batch.fields.len();
                batch.clear();
                bed.rules.tick(bed.now, &mut bed.made);
                bed.now.monotonic_ms += 1;
            }
        }
        bed.rules.apply(&mut batch, &mut bed.made);
        forwarded += batch.fields.len();
        bed.pass(200_000);
        let mut made = bed.made();
        made.sort();
        prop_assert_eq!((made, forwarded), plain);
    }

    #[test]
    fn restarts_change_nothing(sent in stream(900, 60), seed in any::<u64>(), silent in any::<bool>()) {
        let mut random = fastrand::Rng::with_seed(seed);
        let silence = random.usize(0..sent.len());
        let hush = |bed: &mut Bed, index: usize| if silent && index == silence { bed.pass(100) };
        let plain = run(Bed::new(rules()), &sent, |bed, index| hush(bed, index));
        let restarted = run(Bed::new(rules()), &sent, |bed, index| {
            hush(bed, index);
            if random.u8(..) < 30 {
                // Not every checkpoint is stored, and not every one is the newest that is found.
                let made = bed.rules.checkpoint();
                if random.bool() {
                    bed.checkpoint = Some(made);
                }
            }
            if random.u8(..) < 60 {
                bed.restart();
            }
        });
        prop_assert_eq!(restarted, plain);
    }

    #[test]
    fn any_bytes_can_be_left(checkpoint in proptest::collection::vec(any::<u8>(), 0..200), pieces in proptest::collection::vec((0u64..9, proptest::collection::vec(any::<u8>(), 0..60)), 0..6)) {
        let mut bed = Bed::new(rules());
        bed.checkpoint = Some(checkpoint);
        bed.journal = pieces.into_iter().map(|(number, bytes)| Piece { number, bytes }).collect();
        bed.restart();
        bed.checkpoint = None;
        bed.restart();
        bed.send(0.0, 1.0);
        bed.pass(200_000);
    }

    #[test]
    fn damage_to_what_was_left_is_survived(sent in stream(600, 30), seed in any::<u64>()) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bed = Bed::new(rules());
        run_into(&mut bed, &sent[..sent.len() / 2]);
        bed.save();
        run_into(&mut bed, &sent[sent.len() / 2..]);
        for _ in 0..3 {
            let pieces = bed.journal.len();
            let bytes = match random.usize(0..=pieces) {
                0 => bed.checkpoint.as_mut().unwrap(),
                piece => &mut bed.journal[piece - 1].bytes,
            };
            let at = random.usize(0..bytes.len());
            bytes[at] ^= 1 << random.u8(0..8);
        }
        bed.restart();
        run_into(&mut bed, &sent);
        bed.save();
        bed.restart();
        bed.pass(200_000);
    }
}

fn run_into(bed: &mut Bed, stream: &[Sent]) {
    for sent in stream {
        let mut batch = Batch::default();
        push(bed, &mut batch, sent);
        bed.rules.apply(&mut batch, &mut bed.made);
        bed.take();
    }
}
