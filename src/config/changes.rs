//! What differs between two configurations, and so what a reload has to do. Pure.
//!
//! Invariant: what is not named here goes on undisturbed, and whatever can change is compared: sections as wholes, so that a
//! key that is added later cannot be forgotten.

use super::{Bus, Config, Mqtt, Serial};

/// What differs between the configuration that runs and the next one. Sources by their names, such as `mqtt.home`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that cannot change while the gateway runs.
    pub restart: Vec<&'static str>,
    /// Sources that are new.
    pub added: Vec<String>,
    /// Sources of which settings, secrets, certificates or profiles are others.
    pub changed: Vec<String>,
    /// Sources that are no longer there.
    pub removed: Vec<String>,
    /// Filters, windows or limits.
    pub rules: bool,
    /// What may change of the outbox while it runs.
    pub outbox: bool,
    /// The way to Kafka, or what stands in every record.
    pub uplink: bool,
    /// Keys that are only read when they are needed.
    pub other: bool,
}

impl Changes {
    /// From `old` to `new`; `profile_changed` knows whether the profile of an id is another one.
    #[must_use]
    pub fn between(old: &Config, new: &Config, profile_changed: &dyn Fn(&str) -> bool) -> Self {
        let mqtt_profiles =
            |mqtt: &Mqtt| mqtt.profiles.iter().map(|used| used.id.clone()).any(|id| profile_changed(&id));
        let mut changes = Self {
            restart: restart(old, new),
            rules: old.rules != new.rules,
            outbox: old.outbox != new.outbox || receipts(old) != receipts(new),
            uplink: old.kafka != new.kafka
                || old.gateway.labels != new.gateway.labels
                // At most a part of it may be in flight.
                || old.outbox.size_max != new.outbox.size_max,
            other: (&old.gateway.profiles_dir, old.gateway.stop_timeout)
                != (&new.gateway.profiles_dir, new.gateway.stop_timeout),
            ..Self::default()
        };
        changes.sources(&old.mqtt, &new.mqtt, |mqtt| &mqtt.name, mqtt_profiles);
        changes.sources(
            &old.serial,
            &new.serial,
            |serial| &serial.name,
            |serial: &Serial| profile_changed(&serial.profile),
        );
        let bus_profiles = |bus: &Bus| bus.units.iter().any(|unit| profile_changed(&unit.profile));
        changes.sources(&old.buses, &new.buses, |bus| &bus.name, bus_profiles);
        changes
    }

    fn sources<T: PartialEq>(
        &mut self,
        old: &[T],
        new: &[T],
        name: impl Fn(&T) -> &String,
        profile_changed: impl Fn(&T) -> bool,
    ) {
        for source in new {
            match old.iter().find(|old| name(old) == name(source)) {
                None => self.added.push(name(source).clone()),
                Some(old) if old != source || profile_changed(source) => self.changed.push(name(source).clone()),
                Some(_) => {}
            }
        }
        let gone = old.iter().filter(|old| new.iter().all(|source| name(source) != name(old)));
        self.removed.extend(gone.map(|old| name(old).clone()));
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Sources that stop: they are gone, or begin anew.
    pub fn stopping(&self) -> impl Iterator<Item = &String> {
        self.removed.iter().chain(&self.changed)
    }

    /// Sources that start, or begin anew.
    pub fn starting(&self) -> impl Iterator<Item = &String> {
        self.changed.iter().chain(&self.added)
    }
}

/// Keys that differ and that a running gateway cannot change: names of streams and sessions, what an open outbox is, and
/// whom the clock is believed.
fn restart(old: &Config, new: &Config) -> Vec<&'static str> {
    [
        ("gateway.id", old.gateway.id != new.gateway.id),
        ("gateway.data_dir", old.gateway.data_dir != new.gateway.data_dir),
        ("gateway.clock", old.gateway.clock != new.gateway.clock),
        ("outbox.persist", old.outbox.persist != new.outbox.persist),
        ("outbox.encryption", old.outbox.encryption != new.outbox.encryption),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}

/// How many receipts of each session the outbox keeps.
fn receipts(config: &Config) -> u16 {
    config.mqtt.iter().map(|mqtt| mqtt.in_flight_max).fold(crate::reading::Receipt::KEPT_MIN, u16::max)
}

impl std::fmt::Display for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sources = [(&self.changed, "changed"), (&self.added, "added"), (&self.removed, "removed")];
        let sources =
            sources.into_iter().flat_map(|(names, what)| names.iter().map(move |name| format!("{name} {what}")));
        let parts = [
            (self.rules, "rules changed"),
            (self.outbox, "[outbox] changed"),
            (self.uplink, "the way to Kafka changed"),
            (self.other, "[gateway] changed"),
        ];
        let parts = parts.into_iter().filter(|(differs, _)| *differs).map(|(_, what)| what.to_owned());
        let all: Vec<String> = sources.chain(parts).collect();
        if all.is_empty() { f.write_str("nothing has changed") } else { f.write_str(&all.join(", ")) }
    }
}

#[cfg(test)]
#[path = "changes_tests.rs"]
mod tests;
