//! Tells the program which target it is built for (`tidegate selftest` and `tidegate support` say it), and lists the built-in
//! profiles: adding a device or a board is adding a file.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

const PROFILES: &str = "firmware-profiles";

fn main() -> io::Result<()> {
    let target = std::env::var("TARGET").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo:rustc-env=TIDEGATE_TARGET={target}");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={PROFILES}");

    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join(PROFILES);
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();
    let (boards, devices): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.starts_with(root.join("boards")));
    let mut list = String::new();
    for (name, files) in [("FILES", devices), ("BOARD_FILES", boards)] {
        // Writing to a String cannot fail.
        let _ = writeln!(list, "/// Path below `firmware-profiles`, and content.");
        let _ = writeln!(list, "pub const {name}: &[(&str, &str)] = &[");
        for file in files {
            let name = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
            let _ = writeln!(list, "    ({name:?}, include_str!({:?})),", file.display().to_string());
        }
        list.push_str("];\n");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("builtin_profiles.rs");
    std::fs::write(out, list)
}

/// All profiles below a folder, of devices and of boards.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    println!("cargo:rerun-if-changed={}", dir.display());
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    Ok(())
}
