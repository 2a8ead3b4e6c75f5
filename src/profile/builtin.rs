//! The built-in profiles: all files of the folder `firmware-profiles`, as `build.rs` finds them. A test proves that each of
//! them is valid.

include!(concat!(env!("OUT_DIR"), "/builtin_profiles.rs"));
