//! Doubles as decimals: nearly all values that sensors send have few digits, and take two or three bytes so. Exact: what
//! would not come back bit by bit stays a double.

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Powers of ten that a decimal may have below its point.
const POWERS: [f64; 7] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6];
/// Doubles hold whole numbers up to 2^53 exactly.
const DIGITS_MAX: f64 = 9_007_199_254_740_992.0;

/// Digits and how many of them stand behind the point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Decimal {
    pub(super) digits: i64,
    pub(super) places: u8,
}

impl Decimal {
    /// More places than any decimal has: what stands for a double that is none.
    pub(super) const NO_PLACES: u8 = 7;

    /// The decimal that this double is the nearest one to, tried with so many places first.
    pub(super) fn of(value: f64, places: u8) -> Option<Self> {
        Self::with(value, places).or_else(|| (0..Self::NO_PLACES).find_map(|places| Self::with(value, places)))
    }

    fn with(value: f64, places: u8) -> Option<Self> {
        let power = POWERS.get(usize::from(places))?;
        let digits = rounded(value * power)?;
        let found = Self { digits, places };
        (found.value()?.to_bits() == value.to_bits()).then_some(found)
    }

    pub(super) fn value(self) -> Option<f64> {
        // A quotient of two exact doubles is the nearest double to the decimal.
        Some(self.digits as f64 / POWERS.get(usize::from(self.places))?)
    }
}

/// A double as a whole number with so many places, roughly: what another one is compared with.
pub(super) fn near(value: f64, places: u8) -> i64 {
    POWERS.get(usize::from(places)).and_then(|power| rounded(value * power)).unwrap_or(0)
}

fn rounded(value: f64) -> Option<i64> {
    // Half away from zero; `f64::round` is a call of a function on the older processors.
    (value.abs() <= DIGITS_MAX).then(|| (value + 0.5f64.copysign(value)) as i64)
}

/// A double that is a whole number in CBOR where it is a decimal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Num(pub(super) f64);

impl Serialize for Num {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match Decimal::of(self.0, 0) {
            Some(Decimal { digits, places }) => serializer.serialize_i64(digits << 3 | i64::from(places)),
            None => serializer.serialize_f64(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Num {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumVisitor)
    }
}

struct NumVisitor;

impl Visitor<'_> for NumVisitor {
    type Value = Num;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a finite number")
    }

    fn visit_i64<E: Error>(self, code: i64) -> Result<Num, E> {
        let decimal = Decimal { digits: code >> 3, places: (code & 7) as u8 };
        decimal.value().map(Num).ok_or_else(|| E::custom("a decimal with seven places"))
    }

    fn visit_u64<E: Error>(self, code: u64) -> Result<Num, E> {
        i64::try_from(code).map_err(E::custom).and_then(|code| self.visit_i64(code))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Num, E> {
        if value.is_finite() { Ok(Num(value)) } else { Err(E::custom("a number that is not finite")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimals_have_no_more_places_than_they_need() {
        let cases =
            [(21.43, 2143, 2), (0.0, 0, 0), (-4.5, -45, 1), (1e6, 1_000_000, 0), (0.000_001, 1, 6), (0.3, 3, 1)];
        for (value, digits, places) in cases {
            assert_eq!(Decimal::of(value, 0), Some(Decimal { digits, places }), "{value}");
        }
        for value in [-0.0, 0.1 + 0.2, 1e300, 5e-324, f64::MAX, std::f64::consts::PI, 1e-7] {
            assert_eq!(Decimal::of(value, 0), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn every_double_comes_back_bit_by_bit(bits in any::<u64>(), digits in -1_000_000_000i64..1_000_000_000, places in 0u8..8) {
            for value in [f64::from_bits(bits), digits as f64 / POWERS[usize::from(places.min(6))]] {
                if let Some(decimal) = Decimal::of(value, places) {
                    prop_assert_eq!(decimal.value().map(f64::to_bits), Some(value.to_bits()));
                }
                if value.is_finite() {
                    let bytes = crate::outbox::to_cbor(&Num(value)).unwrap();
                    prop_assert_eq!(crate::outbox::from_cbor::<Num>(&bytes).unwrap().0.to_bits(), value.to_bits());
                }
            }
        }
    }
}
