//! Torn pages: after a power cut each 4 KiB block that was written since the last sync is on the disk or is not. Whatever
//! the mixture, what a commit had made durable is there.

use std::fs;
use std::path::Path;

use crate::outbox::Lane;
use crate::outbox::cipher::Keys;
use crate::outbox::segment::{Key, Segment, load};

const PAGE: usize = 4096;
const ROUNDS: u64 = 40;

fn commit(segment: &mut Segment, next: &mut u64, random: &mut fastrand::Rng) {
    let values: Vec<_> = (0..random.usize(1..=3))
        .map(|_| {
            let mut value: Vec<u8> = (0..random.usize(10..6100)).map(|_| random.u8(..)).collect();
            value[0] = *next as u8;
            let key = Key { lane: Some(Lane::Raw), number: *next, part: 0 };
            *next += 1;
            (key, value)
        })
        .collect();
    segment.commit(&values).unwrap();
}

/// As the disk may be after a cut: `synced` is what was there at the last sync, `written` what was written since.
fn torn(synced: &[u8], written: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut image = written.to_vec();
    for (at, block) in image.chunks_mut(PAGE).enumerate() {
        if random.bool() {
            for (offset, byte) in block.iter_mut().enumerate() {
                *byte = synced.get(at * PAGE + offset).copied().unwrap_or(0);
            }
        }
    }
    if random.bool() {
        image.truncate(random.usize(synced.len()..=image.len()));
    }
    image
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to.join("blobs")).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn torn_pages_after_the_last_sync_cost_nothing_that_was_committed() {
    for seed in 0..ROUNDS {
        let random = &mut fastrand::Rng::with_seed(seed);
        let directory = tempfile::tempdir().unwrap();
        let (path, image) = (directory.path().join("1"), directory.path().join("2"));
        let mut segment = Segment::create(&path, "run", &Keys::default()).unwrap();
        let mut next = 0;
        for _ in 0..random.usize(1..60) {
            commit(&mut segment, &mut next, random);
        }
        let (durable, synced) = (next, fs::read(path.join("db")).unwrap());
        for _ in 0..random.usize(1..5) {
            commit(&mut segment, &mut next, random);
        }
        copy(&path, &image);
        let written = fs::read(image.join("db")).unwrap();
        fs::write(image.join("db"), torn(&synced, &written, random)).unwrap();
        let contents = load(&image, &Keys::default()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        for number in 0..durable {
            let found = contents.values.iter().find(|(key, _)| key.number == number);
            let found = found.unwrap_or_else(|| panic!("seed {seed}: value {number} of {durable} is lost"));
            assert_eq!(found.1[0], number as u8, "seed {seed}");
        }
    }
}
