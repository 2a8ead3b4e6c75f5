//! A message that says whether a device is there.

use super::doc::Kind;
use super::value::quoted;
use super::{Decoder, Outcome, Step};
use crate::profile::Transport;
use crate::reading::{Batch, DeviceState, Frame, Name, Reason, Record, Stamp};
use std::sync::Arc;

impl Decoder {
    pub(super) fn state(
        &mut self,
        frame: &Frame<'_>,
        received: Stamp,
        out: &mut Batch,
        profile: usize,
        rule: usize,
        device: Name,
    ) -> Step<Outcome> {
        let text = self.text(frame, profile)?.trim();
        if text.is_empty() {
            return Err(Outcome::Ignored);
        }
        let rules = Arc::clone(self.extractors[profile].profile());
        let Transport::Mqtt(topics) = &rules.transport else { return Err(Outcome::Ignored) };
        let Some(rule) = topics.states.get(rule) else { return Err(Outcome::Ignored) };
        let mut word = text;
        if let Some(path) = &rule.path
            && text.starts_with('{')
        {
            self.read_json(text, profile)?;
            match self.doc.find(path).map(|node| node.kind) {
                Some(Kind::Text(text)) => word = self.doc.text(text),
                _ => {
                    let detail = format!("expected a text at `{}`", path.join("."));
                    return self.reject(profile, Reason::MissingField, detail);
                }
            }
        }
        let is = |words: &[String]| words.iter().any(|known| known == word);
        let online = match (is(&rule.online), is(&rule.offline)) {
            (true, _) => true,
            (_, true) => false,
            _ => {
                let known =
                    rule.online.iter().chain(&rule.offline).map(String::as_str).collect::<Vec<_>>().join("`, `");
                let detail = format!("expected one of `{known}`, found {}", quoted(word));
                return self.reject(profile, Reason::WrongType, detail);
            }
        };
        let (device, profile) = (self.devices.called(device), Arc::clone(&rules.id));
        out.records.push(Record::State(Box::new(DeviceState { device, profile, online, received })));
        Ok(Outcome::State)
    }
}
