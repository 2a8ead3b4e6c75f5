//! Tells the program which target it is built for: `tidegate selftest` and `tidegate support` say it.

fn main() {
    let target = std::env::var("TARGET").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo:rustc-env=TIDEGATE_TARGET={target}");
    println!("cargo:rerun-if-changed=build.rs");
}
