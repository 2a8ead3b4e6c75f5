//! What devices are called: each name once, and another one where the configuration says so.
//!
//! Pure. In bounds: so many names are remembered, and what is longer than a name may be is none.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::{DEVICE_BYTES_MAX, DEVICES_MAX};
use crate::reading::Name;

/// Names of devices.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// Those that payloads have.
    pub(super) known: HashMap<Box<str>, Name>,
    /// What the owner calls a device, by the name that it gives itself: hardware is swapped, and the name stays.
    called: HashMap<Box<str>, Name>,
}

impl Devices {
    /// With these names instead of those that the devices give themselves.
    pub(super) fn new(names: &BTreeMap<String, String>) -> Self {
        let called = names.iter().map(|(own, name)| (own.as_str().into(), Arc::from(name.as_str()))).collect();
        Self { known: HashMap::new(), called }
    }

    /// The name that a payload has, if it can be one.
    pub(super) fn name(&mut self, device: &str) -> Option<Name> {
        if device.is_empty() || device.len() > DEVICE_BYTES_MAX {
            return None;
        }
        if let Some(name) = self.known.get(device) {
            return Some(Arc::clone(name));
        }
        if self.known.len() >= DEVICES_MAX {
            self.known.clear();
        }
        let name: Name = Arc::from(device);
        self.known.insert(device.into(), Arc::clone(&name));
        Some(name)
    }

    /// What a device is called in a record.
    pub(super) fn called(&self, own: Name) -> Name {
        // Nearly all configurations rename nothing, and a look-up for each reading is not for nothing.
        if self.called.is_empty() {
            return own;
        }
        self.called.get(&*own).map_or(own, Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{mqtt, used};
    use super::super::{Decoder, Outcome};
    use crate::config::Mqtt;
    use crate::profile::{Profile, ProfileSet};
    use crate::reading::{Batch, Frame, Record, Stamp};
    use std::path::Path;

    const PROFILE: &str = r#"
id = "own"
description = "d"
source = "s"
transport = "mqtt"
format = "json"
device = "id"
[mqtt]
topics = ["t/{device}"]
[[mqtt.state]]
topic = "t/{device}/state"
online = ["up"]
offline = ["down"]
[[field]]
path = "n"
name = "n"
unit = "1"
"#;

    #[test]
    fn a_device_is_called_as_its_owner_says_wherever_its_own_name_comes_from() {
        let names = [("plug-7", "washer"), ("3C01D607B4A1", "boiler"), ("boiler", "never twice")];
        let names = names.map(|(own, name)| (own.to_owned(), name.to_owned())).into();
        let mut profiles = ProfileSet::default();
        profiles.insert(Profile::parse(Path::new("own.toml"), PROFILE).unwrap());
        let settings = Mqtt { names, ..mqtt(&[used("own")], None) };
        let mut decoder = Decoder::for_mqtt(&settings, &profiles).unwrap();
        let mut batch = Batch::default();
        let mut hear = |origin: &str, payload: &str| {
            batch.clear();
            let frame = Frame { origin, payload: payload.as_bytes(), retained: false, oversize: None };
            let outcome = decoder.decode(&frame, Stamp::default(), &mut batch);
            assert!(matches!(outcome, Outcome::Readings(1) | Outcome::State), "{outcome:?}");
            match &batch.records[..] {
                [Record::State(state)] => state.device.to_string(),
                [Record::Reading(reading)] => reading.device.to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(hear("t/plug-7", r#"{"n":5}"#), "washer");
        assert_eq!(hear("t/plug-7/state", "up"), "washer");
        assert_eq!(hear("t/plug-8", r#"{"n":5}"#), "plug-8");
        assert_eq!(hear("t/plug-7", r#"{"id":"3C01D607B4A1","n":5}"#), "boiler");
        assert_eq!(hear("t/plug-7", r#"{"id":"3C01D607B4A2","n":5}"#), "3C01D607B4A2");
    }
}
