//! What a serial port gives: the bytes between two silences, and what each profile's framing and rules find in them.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::super::attempt::as_json;
use super::super::remark;
use super::{print_line, time_of_day, what_came};
use crate::clock;
use crate::config::{Parity, Serial};
use crate::decode::{Decoder, Outcome};
use crate::profile::framing::Framing;
use crate::profile::{self, Heard, LineSettings, Profile, Transport};
use crate::reading::{Frame, Stamp};
use crate::source::framing::{Found, Framer};
use crate::source::listen::{Piece, SILENCE};

/// Bytes a line of a dump.
const DUMP_BYTES: usize = 16;

/// Shows what came, and remembers what fitted.
pub(super) struct Shown {
    ears: Vec<Ear>,
    line: String,
    json: bool,
    bytes: u64,
}

/// What a profile hears on this line.
struct Ear {
    profile: Arc<Profile>,
    framing: Framing,
    framer: Framer,
    decoder: Decoder,
    frames: u64,
    readings: u64,
    damaged: u64,
}

impl Shown {
    /// With these profiles, of which those for a port count.
    pub(super) fn new(profiles: &[Arc<Profile>], settings: &Serial, json: bool) -> Result<Self, String> {
        let ears = profiles.iter().filter_map(|profile| match &profile.transport {
            Transport::Serial(line) => Some(Ear::new(profile, line)),
            _ => None,
        });
        let ears = ears.collect::<Result<Vec<_>, _>>()?;
        if ears.is_empty() {
            let asked = "those of Modbus say nothing unless asked: `tidegate run --print` asks them";
            return Err(format!("none of these profiles is for a port; name another one, or none ({asked})"));
        }
        let line = line_text(settings.baud, settings.data_bits, settings.parity, settings.stop_bits);
        Ok(Self { ears, line, json, bytes: 0 })
    }

    /// The port is open.
    pub(super) fn begin(&self, settings: &Serial) {
        remark(&format!("listening to {} at {}; stop with Ctrl-C", settings.port.display(), self.line));
    }

    /// Shows a piece. Fails when nobody reads the output any more.
    pub(super) fn piece(&mut self, piece: Piece<'_>) -> Result<(), String> {
        self.bytes += piece.bytes.len() as u64;
        let received = clock::stamp();
        let found: Vec<_> = self
            .ears
            .iter_mut()
            .filter_map(|ear| ear.hear(piece, received).map(|heard| (Arc::clone(&ear.profile.id), heard)))
            .collect();
        let text = if self.json {
            let made: serde_json::Map<_, _> =
                found.iter().map(|(id, heard)| (id.to_string(), as_json(heard))).collect();
            json!({
                "time": jiff::Timestamp::from_millisecond(received.wall_ms).ok().map(|time| time.to_string()),
                "pause_ms": piece.pause.as_millis() as u64, "hex": hex(piece.bytes), "profiles": Json::from(made),
            })
            .to_string()
        } else {
            let (time, pause) = (time_of_day(received.wall_ms), piece.pause.as_millis());
            let mut text = format!("{time}  {} bytes after {pause} ms", piece.bytes.len());
            match super::text(piece.bytes) {
                Some(lines) => lines.split_inclusive('\n').for_each(|line| {
                    let _ = write!(text, "\n  | {}", line.replace('\r', "\\r").replace('\n', "\\n"));
                }),
                None => dump(piece.bytes, &mut text),
            }
            for (id, heard) in &found {
                // Writing to a string cannot fail.
                let _ = write!(text, "\n  {id}:");
                what_came(heard, &mut text);
            }
            text
        };
        print_line(&text)
    }

    /// Says what fitted, to the person.
    pub(super) fn summary(&self) {
        let mut fitting: Vec<&Ear> = self.ears.iter().filter(|ear| ear.readings > 0 || ear.damaged > 0).collect();
        fitting.sort_by_key(|ear| std::cmp::Reverse(ear.readings));
        for ear in &fitting {
            let (frames, readings, damaged) = (ear.frames, ear.readings, ear.damaged);
            let damaged = if damaged > 0 { format!(", {damaged} with a wrong checksum") } else { String::new() };
            remark(&format!("{}: {frames} frames, {readings} readings{damaged}", ear.profile.id));
        }
        if fitting.iter().any(|ear| ear.readings > 0) {
            return;
        }
        if self.bytes == 0 {
            remark(
                "nothing came: is it the right port, and does the device talk by itself? One that has to be asked is asked when \
                 its profile is named (--profile), Modbus devices by `tidegate run --print`",
            );
            return;
        }
        let mut others: Vec<String> = self.ears.iter().map(Ear::line).filter(|line| *line != self.line).collect();
        others.sort();
        others.dedup();
        remark(&format!(
            "{} bytes came at {}, and no profile found a reading in them; profiles of other lines are for {}",
            self.bytes,
            self.line,
            others.join(", ")
        ));
    }
}

impl Ear {
    fn new(profile: &Arc<Profile>, line: &LineSettings) -> Result<Self, String> {
        let mut framer = Framer::new(&line.framing);
        framer.join();
        Ok(Self {
            decoder: profile::decoder(profile, None)?,
            framing: (*line.framing).clone(),
            framer,
            profile: Arc::clone(profile),
            frames: 0,
            readings: 0,
            damaged: 0,
        })
    }

    fn line(&self) -> String {
        match &self.profile.transport {
            Transport::Serial(line) => line_text(line.baud, line.data_bits, line.parity, line.stop_bits),
            _ => String::new(),
        }
    }

    /// What the profile makes of it, if it gives a reading.
    fn hear(&mut self, piece: Piece<'_>, received: Stamp) -> Option<Heard> {
        let Self { framing, framer, decoder, frames, damaged, .. } = self;
        let mut heard = Heard::default();
        let mut found = |found: Found<'_>| match found {
            Found::Frame(payload) => {
                *frames += 1;
                heard.hear(decoder, &Frame { origin: "watch", payload, retained: false, oversize: None }, received);
            }
            Found::BadChecksum(..) => *damaged += 1,
            Found::TooLong(_) => {}
        };
        if framing.gap.is_some_and(|gap| piece.pause >= gap) && framer.idle_after().is_some() {
            framer.idle(&mut found);
        }
        framer.push(piece.bytes, &mut found);
        if piece.ended && framing.gap.is_some_and(|gap| gap <= SILENCE) && framer.idle_after().is_some() {
            framer.idle(&mut found);
        }
        let readings =
            heard.outcomes.iter().map(|one| if let Outcome::Readings(count) = one { *count as u64 } else { 0 });
        let readings: u64 = readings.sum();
        self.readings += readings;
        (readings > 0).then_some(heard)
    }
}

fn line_text(baud: Option<u32>, data_bits: Option<u8>, parity: Option<Parity>, stop_bits: Option<u8>) -> String {
    let parity = match parity {
        Some(Parity::Odd) => 'O',
        Some(Parity::Even) => 'E',
        Some(Parity::None) | None => 'N',
    };
    format!("{} {}{parity}{}", baud.unwrap_or(9_600), data_bits.unwrap_or(8), stop_bits.unwrap_or(1))
}

/// Pairs of hexadecimal digits, as `tidegate profile try --hex` and a sample's `hex` take them.
pub(super) fn hex(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(" ")
}

/// Lines of hexadecimal digits with the same as text beside them.
pub(super) fn dump(bytes: &[u8], out: &mut String) {
    for line in bytes.chunks(DUMP_BYTES) {
        let text: String =
            line.iter().map(|&byte| if matches!(byte, 0x20..=0x7e) { char::from(byte) } else { '.' }).collect();
        let _ = write!(out, "\n  | {:47}  {text}", hex(line));
    }
}
