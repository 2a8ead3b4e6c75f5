//! How the outbox of a disk is set up. Each of these is tried by a share of the disks, alone and together.

use std::time::Duration;

use tidegate::config::{self, Encryption, EncryptionKey, Persist, WhenFull};

/// Keys that take turns.
const KEYS: u64 = 3;
/// Readings are a millisecond apart: the aggregates that stand for them are of so many.
const THIN_STEP: Duration = Duration::from_millis(200);
/// Raw records wait so long for Kafka.
const HOLD: Duration = Duration::from_millis(60);

/// What the outbox of a disk does besides the usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mode {
    /// `when_full = "thin"`, and soon.
    pub(crate) thins: bool,
    /// `persist = "when-behind"`.
    pub(crate) holds: bool,
    /// Encryption, with another key in each life.
    pub(crate) seals: bool,
}

impl Mode {
    /// None of it.
    pub(crate) const PLAIN: Self = Self { thins: false, holds: false, seals: false };

    /// Any of it, each in a third of the cases.
    pub(crate) fn any(random: &mut fastrand::Rng) -> Self {
        let mut third = || random.u8(0..3) == 0;
        Self { thins: third(), holds: third(), seals: third() }
    }

    /// The same, as a word of the orders.
    pub(crate) fn to_number(self) -> u64 {
        u64::from(self.thins) | u64::from(self.holds) << 1 | u64::from(self.seals) << 2
    }

    pub(crate) fn of_number(number: u64) -> Self {
        Self { thins: number & 1 > 0, holds: number & 2 > 0, seals: number & 4 > 0 }
    }

    /// Its part of the settings.
    pub(crate) fn set(self, settings: &mut config::Outbox, life: u64) {
        if self.thins {
            settings.when_full = WhenFull::Thin;
            settings.ladder.thin_at_percent = 40;
            settings.ladder.thin_step = THIN_STEP;
        }
        settings.persist = if self.holds { Persist::WhenBehind } else { Persist::Always };
        settings.hold = HOLD;
        if self.seals {
            let key = |number: u64| EncryptionKey::new(std::array::from_fn(|at| (number * 7 + at as u64) as u8));
            settings.encryption =
                Encryption { key: Some(key(life % KEYS)), previous_keys: (0..KEYS).map(key).collect() };
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [(self.thins, "thin"), (self.holds, "when-behind"), (self.seals, "encrypted")];
        let words: Vec<&str> = parts.into_iter().filter(|(is_so, _)| *is_so).map(|(_, word)| word).collect();
        f.write_str(if words.is_empty() { "plain".to_owned() } else { words.join("+") }.as_str())
    }
}
