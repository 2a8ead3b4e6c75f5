//! Power cuts and failing disks, on a file system of the tests' own.
//!
//! - [`disk`]: a disk in memory that knows what a power cut leaves. [`mount`]: the same as a real file system, by FUSE.
//!   [`faults`]: what goes wrong on it, and when.
//! - [`writer`]: the child, a process that uses an outbox, and [`made`]: what it appends. [`orders`]: what it is told.
//!   [`modes`]: how its outbox is set up. [`rig`]: one life of it.
//! - [`ledger`]: what children said, and whether what is found later agrees.
//! - [`vm`]: power cuts of a virtual machine. [`machine`]: QEMU. [`power`]: what a cut leaves on its disk.
//! - [`cuts`]: power cuts, and the proof that they would be noticed. [`kth`]: each operation fails once, or from then on.

// These are tests, although clippy knows only functions marked `#[test]` as such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod cuts;
mod disk;
mod faults;
mod kth;
mod ledger;
mod machine;
mod made;
mod modes;
mod mount;
mod orders;
mod power;
mod rig;
#[path = "../support/mod.rs"]
mod support;
mod vm;
mod writer;

/// Whether the long variants are to run.
fn heavy() -> bool {
    std::env::var("TIDEGATE_HEAVY").as_deref() == Ok("1")
}

/// Where the random choices begin: another place each time, unless one is given.
fn seed() -> u64 {
    let given = std::env::var("TIDEGATE_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(0..1 << 40))
}
