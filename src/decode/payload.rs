//! From the bytes of a frame to the values in it, as its profile's format says.

use super::doc::{self, Kind};
use super::formats::sparkplug::{self, Heard};
use super::formats::{self, Refusal};
use super::value::quoted;
use super::{Captures, Decoder, Outcome, Step};
use crate::profile::{Format, Held, Profile};
use crate::reading::{Frame, Name, Reason, Stamp};

impl Decoder {
    /// Takes the payload apart, as its profile says.
    pub(super) fn take_apart(
        &mut self,
        frame: &Frame<'_>,
        received: Stamp,
        rules: &Profile,
        profile: usize,
        (device, captures): (&Name, &Captures),
    ) -> Step<Heard> {
        if let Some(length) = frame.oversize {
            let detail = format!("{length} bytes, more than the source's limit");
            return self.reject(profile, Reason::TooLarge, detail);
        }
        let text = if rules.format.is_text() { self.text(frame, profile)? } else { "" };
        let is_empty = if rules.format.is_text() { text.trim_ascii().is_empty() } else { frame.payload.is_empty() };
        if is_empty {
            // An empty retained message clears its topic, and an empty line says nothing.
            if frame.retained || self.routes.is_serial() {
                return Err(Outcome::Ignored);
            }
            return self.reject(profile, Reason::Empty, "the payload has no bytes");
        }
        let doc = &mut self.doc;
        let read = match &rules.format {
            Format::Json => return self.read_json(text, profile).map(|()| Heard::default()),
            Format::Cbor => return self.read_cbor(frame.payload, profile).map(|()| Heard::default()),
            Format::Sparkplug => {
                let named = |name: &str| captures.iter().find(|(own, _)| **own == *name).map_or("", |(_, word)| word);
                let topic = sparkplug::Topic { group: named("@group"), message: named("@message"), device };
                let heard = self.births.take(topic, frame.payload, doc);
                if let (Ok(heard), Some(rebirths)) = (&heard, &mut self.rebirths) {
                    if topic.message == "NBIRTH" {
                        rebirths.born(frame.origin, device);
                    } else if heard.unknown > 0 {
                        rebirths.want(frame.origin, device, received.monotonic_ms, received.wall_ms);
                    }
                }
                return heard.or_else(|refusal| self.refuse(profile, refusal));
            }
            // Who publishes a value a topic often has an object for another one.
            Format::Plain if text.trim_ascii_start().starts_with('{') => {
                return self.read_json(text, profile).map(|()| Heard::default());
            }
            Format::Plain => {
                formats::text::plain(text, doc);
                Ok(())
            }
            Format::Delimited(columns) => formats::text::delimited(text, columns, doc),
            // Banners and help stand between the lines that are meant.
            Format::Pairs(pairs) => match formats::text::pairs(frame.payload, pairs, doc) {
                Err(_) if rules.ignore_without_value => return Err(Outcome::Ignored),
                read => read,
            },
            Format::Regex(pattern) if rules.ignore_without_value && !pattern.0.is_match(text) => {
                return Err(Outcome::Ignored);
            }
            Format::Regex(pattern) => formats::text::regex(text, pattern, doc),
            Format::Binary(rules) => {
                let unread = formats::binary::binary(frame.payload, rules, doc);
                return unread.map(Heard::but).or_else(|refusal| self.refuse(profile, refusal));
            }
            Format::Nmea => formats::text::nmea(text, doc),
            Format::Dsmr => formats::dsmr::dsmr(text, doc),
            Format::Registers(rules) => formats::registers::registers(frame.payload, rules, doc),
            Format::Sml => formats::sml::sml(frame.payload, doc),
            Format::Mbus => {
                let unreadable = formats::mbus::mbus(frame.payload, doc);
                return unreadable.map(Heard::but).or_else(|refusal| self.refuse(profile, refusal));
            }
            Format::Influx => {
                let unreadable = formats::influx::influx(text, doc);
                return unreadable.map(Heard::but).or_else(|refusal| self.refuse(profile, refusal));
            }
            Format::Senml => formats::senml::senml(frame.payload, &mut self.inner, doc),
        };
        match read {
            Ok(()) => Ok(Heard::default()),
            Err(refusal) => self.refuse(profile, refusal),
        }
    }

    fn refuse<T>(&self, profile: usize, refusal: Refusal) -> Step<T> {
        match refusal {
            Refusal::Ignored => Err(Outcome::Ignored),
            Refusal::Wrong(reason, detail) => self.reject(profile, reason, detail),
        }
    }

    /// Takes apart texts of the payload that hold a payload of their own, where the profile knows them. Gives the first that could not be read
    /// to its end; each is among what is rejected.
    pub(super) fn look_inside(&mut self, rules: &Profile, profile: usize) -> Step<Option<String>> {
        let mut first = None;
        for inside in &rules.inside {
            self.places.clear();
            self.doc.places(&inside.path, &mut self.places);
            // From the last one to the first: what is put in moves all that follows.
            while let Some(nodes) = self.places.pop_back() {
                let Some(&index) = nodes.last() else { continue };
                let Some(Kind::Text(text)) = self.doc.kind(index) else { continue };
                let text = self.doc.text(text);
                let read = match &inside.held {
                    Held::Json => self.inner.read_json(text).ok().filter(|()| self.inner.is_tree()).map(|()| None),
                    Held::Bytes { coding, starts, layout } => match coding.bytes(text) {
                        // Bytes of another kind are for the next rule, or for none.
                        Some(bytes) if !bytes.starts_with(starts) => continue,
                        Some(bytes) => match formats::binary::binary(&bytes, layout, &mut self.inner) {
                            Ok(unread) => Some(unread),
                            Err(_) => continue,
                        },
                        None => None,
                    },
                };
                let Some(unread) = read else {
                    if inside.alone && !text.is_empty() {
                        self.rejected.push(Reason::WrongType);
                        let (expected, found) = (inside.held.words(), quoted(text));
                        first.get_or_insert_with(|| format!("expected {expected}, found {found}"));
                    }
                    continue;
                };
                if !self.doc.replace(index, &self.inner) {
                    return self.reject(profile, Reason::TooLarge, doc::TOO_MANY);
                }
                self.rejected.extend(unread.iter().map(|_| Reason::Malformed));
                first = first.or(unread);
            }
        }
        Ok(first)
    }

    /// The payload as text, if there is a whole one.
    pub(super) fn text<'f>(&self, frame: &Frame<'f>, profile: usize) -> Step<&'f str> {
        if let Some(length) = frame.oversize {
            let detail = format!("{length} bytes, more than the source's limit");
            return self.reject(profile, Reason::TooLarge, detail);
        }
        match std::str::from_utf8(frame.payload) {
            Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
            Err(error) => {
                let at = error.valid_up_to();
                let byte = frame.payload.get(at).copied().unwrap_or_default();
                self.reject(profile, Reason::NotUtf8, format!("byte {at}: expected UTF-8, found 0x{byte:02x}"))
            }
        }
    }

    pub(super) fn read_json(&mut self, text: &str, profile: usize) -> Step<()> {
        match self.doc.read_json(text) {
            Ok(()) if self.doc.is_tree() => Ok(()),
            Ok(()) => {
                self.reject(profile, Reason::WrongType, format!("expected a JSON object, found {}", quoted(text)))
            }
            Err(error) if error.too_large => self.reject(profile, Reason::TooLarge, error.detail),
            Err(error) => self.reject(profile, Reason::NotJson, error.detail),
        }
    }

    fn read_cbor(&mut self, bytes: &[u8], profile: usize) -> Step<()> {
        match self.doc.read_cbor(bytes) {
            Ok(()) if self.doc.is_tree() => Ok(()),
            Ok(()) => self.reject(profile, Reason::WrongType, "expected a CBOR map"),
            Err(detail) => self.reject(profile, Reason::Malformed, format!("no CBOR: {detail}")),
        }
    }
}
