//! What is written to disk: that later releases still read it, and that it is small.

use std::path::PathBuf;

use super::*;

fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "src/rules/fixtures", name].iter().collect()
}

/// The run that the fixtures are of.
fn first_format() -> Bed {
    let mut updated = window("updated", 60, 10);
    updated.update_within = Some(Duration::from_secs(600));
    updated.select = select(&["d", "e"], &["u", "!x"]);
    let mut day = window("day", 86_400, 10);
    day.time_zone = Some("Europe/Berlin".to_owned());
    let mut bed = Bed::new(settings(&[], &[window("plain", 60, 10), updated, day]));
    let value = |n: u32| [("v", Value::Number(f64::from(n) / 10.0)), ("u", Value::Number(1e300 * f64::from(n)))];
    for n in 0..20 {
        bed.values(if n % 3 == 0 { "d" } else { "e" }, f64::from(n * 7), &value(n));
    }
    bed.pass(80);
    bed.save();
    for n in 20..30 {
        bed.values(if n % 3 == 0 { "f" } else { "d" }, f64::from(n * 7), &value(n));
    }
    bed.made();
    bed
}

#[test]
fn the_first_format_is_still_read() {
    let mut bed = first_format();
    let pieces: Vec<u8> = bed
        .journal
        .iter()
        .flat_map(|piece| [&(piece.bytes.len() as u32).to_le_bytes()[..], &piece.bytes].concat())
        .collect();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(fixture("")).unwrap();
        std::fs::write(fixture("checkpoint-1"), bed.checkpoint.as_ref().unwrap()).unwrap();
        std::fs::write(fixture("journal-1"), &pieces).unwrap();
    }
    bed.pass(200_000);
    let expected = bed.made();
    assert_eq!(expected.len(), 13);
    for with_checkpoint in [true, false] {
        let mut later = Bed::new(bed.settings.clone());
        later.checkpoint = with_checkpoint.then(|| std::fs::read(fixture("checkpoint-1")).unwrap());
        let stored = std::fs::read(fixture("journal-1")).unwrap();
        let (mut rest, mut number) = (&stored[..], 0);
        later.journal.clear();
        while let Some((length, bytes)) = rest.split_first_chunk() {
            let (piece, after) = bytes.split_at(u32::from_le_bytes(*length) as usize);
            number += 1;
            later.journal.push(Piece { number, bytes: piece.to_vec() });
            rest = after;
        }
        later.restart();
        later.pass(200_000);
        assert_eq!(later.made(), expected, "with a checkpoint: {with_checkpoint}");
        assert_eq!(later.count(Count::StateDiscarded, "damaged"), 0);
    }
}

#[test]
fn a_value_takes_three_or_four_bytes_of_journal() {
    let mut bed = Bed::new(settings(&[], &[window("w", 60, 10)]));
    let mut random = fastrand::Rng::with_seed(7);
    let mut send = |bed: &mut Bed, second: u32| {
        let mut batch = Batch::default();
        for device in 0..100 {
            let number = |value: f64| Value::Number(value);
            let fields = [
                ("temperature", number(f64::from(random.u32(1800..2600)) / 100.0)),
                ("humidity", number(f64::from(random.u32(300..700)) / 10.0)),
                ("pressure", number(f64::from(random.u32(99_000..103_000)) / 100.0)),
            ];
            bed.reading(
                &mut batch,
                &format!("sensor-{device:04}"),
                f64::from(second) + f64::from(device) / 100.0,
                &fields,
            );
        }
        bed.rules.apply(&mut batch, &mut bed.made);
        bed.take();
    };
    send(&mut bed, 0);
    bed.save();
    for second in 1..50 {
        send(&mut bed, second);
    }
    let each = bed.rules.journal_bytes() as f64 / f64::from(49 * 300);
    bed.save();
    let series = bed.checkpoint.as_ref().unwrap().len() as f64 / 300.0;
    println!("{each:.2} bytes of journal a value, {series:.1} bytes of checkpoint a series");
    assert!(each < 4.0, "{each}");
    assert!(series < 70.0, "{series}");
}
