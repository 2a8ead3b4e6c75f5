//! Writes inputs to begin with for each target, `corpus/TARGET/…`, from the samples of all profiles: `corpus DIR TARGET…`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

// Its coverage counters, with which cargo-fuzz has every program here compiled.
use libfuzzer_sys as _;
use tidegate::profile::{Profile, Transport};
use tidegate_fuzz::{origins, payloads, profiles, texts};

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().expect("corpus DIR TARGET..."));
    for target in arguments {
        let inputs = match target.as_str() {
            "profiles" => texts().map(|text| text.as_bytes().to_vec()).collect(),
            "framings" => framings(),
            format => messages(&profiles(format)),
        };
        let dir = dir.join(target);
        fs::create_dir_all(&dir)?;
        for (number, input) in inputs.iter().enumerate() {
            fs::write(dir.join(format!("sample-{number:03}")), input)?;
        }
    }
    Ok(())
}

/// A sample, with what comes before it.
fn messages(profiles: &[Profile]) -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for (which, profile) in profiles.iter().enumerate() {
        let origins = origins(profile);
        for sample in &profile.samples {
            let mut input = vec![which as u8];
            for sample in sample.before.iter().chain([sample]) {
                let topic = origins.iter().position(|origin| Some(origin) == sample.topic.as_ref()).unwrap_or(0) as u8;
                for payload in payloads(profile, sample) {
                    input.push(topic | if sample.retained { 0x80 } else { 0 });
                    input.extend((payload.len() as u16).to_be_bytes());
                    input.extend(payload);
                }
            }
            // The last one is all that is left, however long: its bytes can come and go.
            inputs.push(input);
        }
    }
    inputs
}

/// What is on the wire, in the framing that it has: those of shipped profiles come first there too.
fn framings() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    let parse = |text| Profile::parse(Path::new("fuzz.toml"), text).expect("valid");
    let serial = texts().map(parse).filter(|profile| matches!(profile.transport, Transport::Serial(_)));
    for (which, profile) in serial.enumerate() {
        for sample in &profile.samples {
            let mut input = vec![0, which as u8, 0, 1, 2];
            input.extend(&sample.payload);
            inputs.push(input.clone());
            input[2] = 1;
            input.extend(b"\n");
            input.extend(&sample.payload);
            inputs.push(input);
        }
    }
    inputs
}
