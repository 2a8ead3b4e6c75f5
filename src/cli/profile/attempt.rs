//! `tidegate profile try`: what a profile makes of a message, and how that is shown.

use std::io;

use serde_json::{Value as Json, json};

use super::{find, print};
use crate::decode::Outcome;
use crate::outbox::Lane;
use crate::print::Columns;
use crate::profile::{self, Heard, Profile, ProfileSet, Sample, Transport};
use crate::reading::{Field, MeasurementKind, Record, TimeQuality, Value};

/// A message to try.
pub(super) struct Message {
    pub(super) topic: Vec<String>,
    pub(super) payload: Vec<String>,
    pub(super) hex: Vec<String>,
    pub(super) retained: bool,
    pub(super) time_zone: Option<String>,
}

impl Message {
    fn payloads(&self) -> Result<Vec<Vec<u8>>, String> {
        let wrong = |hex: &String| format!("--hex {hex}: expected pairs of hexadecimal digits");
        let text = |text: &String| match text.as_str() {
            "-" => {
                let mut bytes = Vec::new();
                io::Read::read_to_end(&mut io::stdin(), &mut bytes).map_err(|error| format!("stdin: {error}"))?;
                Ok(bytes)
            }
            text => Ok(text.as_bytes().to_vec()),
        };
        match (self.payload.is_empty(), self.hex.is_empty()) {
            (true, true) => Err("expected --payload or --hex".to_owned()),
            (false, _) => self.payload.iter().map(text).collect(),
            (true, false) => self.hex.iter().map(|hex| profile::unhex(hex).ok_or_else(|| wrong(hex))).collect(),
        }
    }

    /// The messages as samples that expect nothing.
    fn samples(&self, profile: &Profile) -> Result<Vec<Sample>, String> {
        let payloads = self.payloads()?;
        if let (Transport::Mqtt(topics), true) = (&profile.transport, self.topic.is_empty()) {
            let first = topics.readings.first().cloned().unwrap_or_default();
            return Err(format!("expected --topic: `{}` reads topics such as {first}", profile.id));
        }
        if self.topic.len() > 1 && self.topic.len() != payloads.len() {
            return Err(format!("expected one --topic, or {} as there are messages", payloads.len()));
        }
        let sample = |(at, payload)| {
            let topic = self.topic.get(at).or(self.topic.first()).cloned();
            let time_zone = self.time_zone.clone();
            Sample {
                topic,
                payload,
                hex: !self.hex.is_empty(),
                time_zone,
                retained: self.retained,
                ..Sample::default()
            }
        };
        Ok(payloads.into_iter().enumerate().map(sample).collect())
    }
}

/// What a profile makes of messages. Whether all went well.
pub(super) fn attempt(set: &ProfileSet, which: &str, message: &Message, json: bool) -> Result<bool, String> {
    let profile = find(set, which)?;
    let mut decoder = profile::decoder(&profile, message.time_zone.clone())?;
    let mut well = true;
    for sample in message.samples(&profile)? {
        let heard = profile::hear(&profile, &mut decoder, &sample);
        well &= heard.unframed.is_empty() && !heard.outcomes.iter().any(|one| matches!(one, Outcome::Rejected(_)));
        if json {
            print(&format!("{}\n", as_json(&heard)))?;
            continue;
        }
        let mut out = Vec::new();
        Columns::default().write(&heard.batch, Lane::Raw, &mut out);
        print(&String::from_utf8_lossy(&out))?;
        for text in heard.outcomes.iter().filter_map(said) {
            print(&format!("{text}\n"))?;
        }
        for (reason, detail) in &heard.unframed {
            print(&format!("no frame ({}): {detail}\n", reason.as_str()))?;
        }
        if heard.outcomes.is_empty() && heard.unframed.is_empty() {
            well = false;
            print("no frame was found in these bytes; docs/framings.md says what is looked for\n")?;
        }
        if !heard.rejected.is_empty() {
            let reasons: Vec<&str> = heard.rejected.iter().map(|reason| reason.as_str()).collect();
            print(&format!("{} of the values left out: {}\n", reasons.len(), reasons.join(", ")))?;
        }
    }
    Ok(well)
}

/// What there is to say of a frame that gave no reading.
pub(super) fn said(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Readings(_) | Outcome::State => None,
        Outcome::Ignored => Some("ignored: the profile knows this message and takes nothing from it".to_owned()),
        Outcome::RetainedWithoutTime => {
            Some("dropped: it was retained, and nothing in it says when it was measured".to_owned())
        }
        Outcome::Rejected(rejection) => Some(format!("refused ({}): {}", rejection.reason.as_str(), rejection.detail)),
    }
}

/// All of it, for a script.
pub(super) fn as_json(heard: &Heard) -> Json {
    let batch = &heard.batch;
    let value = |field: &Field| {
        let value = match &field.value {
            Value::Number(number) => json!(number),
            Value::Text(text) => json!(&**text),
            Value::Flag(flag) => json!(flag),
        };
        let kind = match field.measurement.kind {
            MeasurementKind::Gauge => "gauge",
            MeasurementKind::Counter => "counter",
        };
        let one = json!({ "value": value, "unit": field.measurement.unit.as_deref(), "kind": kind });
        (field.measurement.name.to_string(), one)
    };
    let (mut readings, mut states) = (Vec::new(), Vec::new());
    for record in &batch.records {
        match record {
            Record::Reading(reading) => {
                let time = (reading.time_quality == TimeQuality::Device)
                    .then(|| jiff::Timestamp::from_millisecond(reading.time_ms).ok())
                    .flatten();
                readings.push(json!({
                    "device": &*reading.device, "time": time.map(|time| time.to_string()),
                    "values": batch.fields_of(reading).iter().map(value).collect::<serde_json::Map<_, _>>(),
                }));
            }
            Record::State(state) => states.push(json!({ "device": &*state.device, "online": state.online })),
            _ => {}
        }
    }
    let frame = |outcome: &Outcome| match outcome {
        Outcome::Readings(_) => json!({ "outcome": "readings" }),
        Outcome::State => json!({ "outcome": "state" }),
        Outcome::Ignored => json!({ "outcome": "ignored" }),
        Outcome::RetainedWithoutTime => json!({ "outcome": "retained_without_time" }),
        Outcome::Rejected(rejection) => json!({ "outcome": rejection.reason.as_str(), "detail": rejection.detail }),
    };
    let refused = heard.unframed.iter().map(|(reason, detail)| json!({ "outcome": reason.as_str(), "detail": detail }));
    json!({
        "frames": heard.outcomes.iter().map(frame).chain(refused).collect::<Vec<_>>(),
        "readings": readings, "states": states,
        "values_rejected": heard.rejected.iter().map(|reason| reason.as_str()).collect::<Vec<_>>(),
    })
}
