//! Bytes written and held for each byte stored in sled, by how many values a tree takes: `cargo bench --bench sled_layout`.
//! It is why `outbox/segment.rs` begins a new tree after eight values. These are counts, so they hold on any machine.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement has nobody to hand an error to but its reader"
)]

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

const PAYLOAD_BYTES: usize = 4 << 20;

fn main() {
    // `cargo test --benches` runs this with `--test`, and wants no measurement.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    println!(
        "{:>11} {:>15} {:>15} {:>15} {:>9} {:>6}",
        "value bytes", "values a tree", "written by sled", "to the disk", "held", "blobs"
    );
    for value_bytes in [6000, 3500, 700] {
        for tree_values in [usize::MAX, 14, 8, 4] {
            measure(value_bytes, tree_values);
        }
    }
}

/// One value a commit, each synced, until 4 MiB (or 2,000 values) are stored.
fn measure(value_bytes: usize, tree_values: usize) {
    let directory = tempfile::tempdir_in(".").unwrap();
    let before = written();
    let database =
        sled::Config::new().path(directory.path()).cache_capacity(1 << 20).flush_every_ms(None).open().unwrap();
    let file = File::open(directory.path().join("db")).unwrap();
    let count = (PAYLOAD_BYTES / value_bytes).min(2_000);
    let mut tree = database.open_tree("0").unwrap();
    for number in 0..count {
        if number > 0 && number % tree_values == 0 {
            tree = database.open_tree(number.to_string()).unwrap();
        }
        let value: Vec<u8> = (0..value_bytes).map(|_| fastrand::u8(..)).collect();
        tree.insert(number.to_be_bytes(), value).unwrap();
        database.flush().unwrap();
        file.sync_data().unwrap();
    }
    let after = written();
    let stored = (count * value_bytes) as f64;
    let held = file.metadata().unwrap().blocks() * 512;
    let blobs = fs::read_dir(directory.path().join("blobs")).map_or(0, Iterator::count);
    let values = if tree_values == usize::MAX { "all".to_owned() } else { tree_values.to_string() };
    println!(
        "{value_bytes:>11} {values:>15} {:>15.2} {:>15.2} {:>9.2} {blobs:>6}",
        (after.0 - before.0) as f64 / stored,
        (after.1 - before.1) as f64 / stored,
        held as f64 / stored,
    );
}

/// Bytes that this process has handed to write calls, and that it has caused to go to the disk.
fn written() -> (u64, u64) {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let number = |key: &str| io.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().parse().unwrap();
    (number("wchar:"), number("write_bytes:"))
}
