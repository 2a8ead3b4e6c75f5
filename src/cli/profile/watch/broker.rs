//! What a broker sends: topic, payload, and what each profile that knows the topic makes of it.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::super::attempt::as_json;
use super::port::{dump, hex};
use super::{print_line, text, time_of_day, what_came};
use crate::decode::{Decoder, Outcome};
use crate::profile::{self, Heard, Profile, Transport};
use crate::reading::{Frame, Reason, Stamp};

/// Of a longer payload only the beginning is shown, in bytes.
const PAYLOAD_BYTES_MAX: usize = 2_048;
/// Levels that may stand for those of a profile's prefix.
const PREFIX_LEVELS_MAX: usize = 3;

/// Shows messages.
pub(super) struct Shown {
    profiles: Vec<(Arc<Profile>, Decoder)>,
    json: bool,
}

impl Shown {
    /// With these profiles, of which those for a broker count.
    pub(super) fn new(profiles: &[Arc<Profile>], json: bool) -> Result<Self, String> {
        let of_broker = profiles.iter().filter(|profile| matches!(profile.transport, Transport::Mqtt(_)));
        let decoders = of_broker.map(|profile| Ok((Arc::clone(profile), profile::decoder(profile, None)?)));
        let profiles = decoders.collect::<Result<Vec<_>, String>>()?;
        if profiles.is_empty() {
            return Err("none of these profiles is for a broker; name another one, or none".to_owned());
        }
        Ok(Self { profiles, json })
    }

    /// Shows a message. Fails when nobody reads the output any more.
    pub(super) fn message(&mut self, frame: &Frame<'_>, received: Stamp) -> Result<(), String> {
        let mut known = Vec::new();
        for (profile, decoder) in &mut self.profiles {
            let mut heard = Heard::default();
            heard.hear(decoder, frame, received);
            if !is_stranger(&heard) {
                known.push((Arc::clone(&profile.id), heard));
            }
        }
        let likely = if known.is_empty() { self.likely(frame, received) } else { Vec::new() };
        if self.json {
            let made: serde_json::Map<_, _> =
                known.iter().map(|(id, heard)| (id.to_string(), as_json(heard))).collect();
            let likely: Vec<Json> = likely.iter().map(|(id, prefix)| json!({ "id": id, "prefix": prefix })).collect();
            let payload = match std::str::from_utf8(frame.payload) {
                Ok(text) => ("payload", text.to_owned()),
                Err(_) => ("hex", hex(frame.payload)),
            };
            let mut line = json!({
                "time": jiff::Timestamp::from_millisecond(received.wall_ms).ok().map(|time| time.to_string()),
                "topic": frame.origin, "retained": frame.retained, "profiles": made, "likely": likely,
            });
            line[payload.0] = Json::from(payload.1);
            return print_line(&line.to_string());
        }
        let mut text = format!("{}  {}", time_of_day(received.wall_ms), frame.origin);
        // Writing to a string cannot fail.
        let _ = write!(text, "  {} bytes{}", frame.payload.len(), if frame.retained { ", retained" } else { "" });
        payload(frame.payload, &mut text);
        for (id, heard) in &known {
            let _ = write!(text, "\n  {id}:");
            what_came(heard, &mut text);
        }
        for (id, prefix) in &likely {
            let _ = write!(text, "\n  would be {id} with prefix = {prefix:?}");
        }
        if known.is_empty() && likely.is_empty() {
            text.push_str("\n  no profile knows this topic");
        }
        print_line(&text)
    }

    /// Profiles that would read this message if their topics began as this one does: their id and that beginning. Of these, those
    /// that find the most in it.
    fn likely(&mut self, frame: &Frame<'_>, received: Stamp) -> Vec<(String, String)> {
        let mut likely = Vec::new();
        for (profile, decoder) in &mut self.profiles {
            let Transport::Mqtt(topics) = &profile.transport else { continue };
            let Some(prefix) = &topics.prefix else { continue };
            for (at, _) in frame.origin.match_indices('/').take(PREFIX_LEVELS_MAX) {
                let origin = format!("{prefix}{}", &frame.origin[at..]);
                let mut heard = Heard::default();
                heard.hear(decoder, &Frame { origin: &origin, ..*frame }, received);
                if heard.outcomes.iter().any(|one| matches!(one, Outcome::Readings(_))) && heard.rejected.is_empty() {
                    likely.push((heard.values(), profile.id.to_string(), frame.origin[..at].to_owned()));
                    break;
                }
            }
        }
        let most = likely.iter().map(|(values, ..)| *values).max();
        likely.retain(|(values, ..)| Some(*values) == most);
        likely.into_iter().map(|(_, id, prefix)| (id, prefix)).collect()
    }
}

/// Whether the profile has nothing to do with it.
fn is_stranger(heard: &Heard) -> bool {
    let stranger = |one: &Outcome| matches!(one, Outcome::Rejected(why) if why.reason == Reason::NoProfile);
    heard.outcomes.iter().all(stranger)
}

/// The payload as a person can read it, below what is there.
fn payload(bytes: &[u8], out: &mut String) {
    let shown = &bytes[..bytes.len().min(PAYLOAD_BYTES_MAX)];
    match text(shown) {
        Some(text) => {
            for line in text.lines() {
                let _ = write!(out, "\n  | {line}");
            }
        }
        None => dump(shown, out),
    }
    if shown.len() < bytes.len() {
        let _ = write!(out, "\n  | … {} bytes more", bytes.len() - shown.len());
    }
}
