//! Sums of doubles that are exact until they are asked for: any order of the same values gives the same result, which a
//! running `+=` does not, and so neither a restart nor a reading out of order can move a mean by its last digit.
//!
//! The method is Shewchuk's ("Adaptive Precision Floating-Point Arithmetic", 1997), as Python's `math.fsum` has it: the
//! sum is kept as doubles that do not overlap, in rising magnitude. Usual readings need one or two of these.
//!
//! Invariant: no step overflows, whatever is added. Values from [`HUGE`] on are summed apart, scaled down.

use smallvec::SmallVec;

/// 2^900: of smaller values the sum cannot overflow, however many a `u64` counts.
const HUGE: f64 = f64::from_bits((1023 + 900) << 52);
/// 2^-200: takes the largest doubles to where their sum cannot overflow, and no bit of a huge one below the least double.
const SCALE: f64 = f64::from_bits((1023 - 200) << 52);

/// Doubles that do not overlap, in rising magnitude; their exact sum is what counts.
type Parts = SmallVec<[f64; 3]>;

/// An exact sum.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sum {
    parts: Parts,
    /// The sum of huge values times [`SCALE`].
    huge: Option<Box<Parts>>,
}

impl Sum {
    /// Adds a finite value.
    pub(crate) fn add(&mut self, value: f64) {
        if value.abs() < HUGE {
            grow(&mut self.parts, value);
        } else {
            grow(self.huge.get_or_insert_default(), value * SCALE);
        }
    }

    /// The sum, rounded once to the nearest double; `None` if it is beyond them.
    pub(crate) fn value(&self) -> Option<f64> {
        let Some(huge) = &self.huge else { return Some(round(&self.parts)) };
        // Huge values and their opposites may leave something that fits in with the small ones.
        if round(huge).abs() < HUGE * SCALE {
            let mut parts = self.parts.clone();
            huge.iter().for_each(|part| grow(&mut parts, part / SCALE));
            return Some(round(&parts));
        }
        let mut parts = Parts::clone(huge);
        for part in &self.parts {
            let scaled = part * SCALE;
            // Too small for a double once scaled: then only its sign can matter, where the rest is half way between two.
            grow(&mut parts, if scaled == 0.0 { f64::from_bits(1).copysign(*part) } else { scaled });
        }
        Some(round(&parts) / SCALE).filter(|sum| sum.is_finite())
    }

    /// What [`Sum::from_parts`] takes.
    pub(crate) fn parts(&self) -> (&[f64], &[f64]) {
        (&self.parts, self.huge.as_ref().map_or(&[], |huge| huge.as_slice()))
    }

    /// A sum as [`Sum::parts`] gave it. Whatever the parts are, they are added anew: nothing read from a disk can break the
    /// invariant.
    pub(crate) fn from_parts(parts: &[f64], huge: &[f64]) -> Self {
        let mut sum = Self::default();
        let finite = |part: &&f64| part.is_finite() && part.abs() < HUGE;
        parts.iter().filter(finite).for_each(|part| grow(&mut sum.parts, *part));
        for part in huge.iter().filter(finite) {
            grow(sum.huge.get_or_insert_default(), *part);
        }
        sum
    }
}

/// Adds `x` to the parts, exactly.
fn grow(parts: &mut Parts, mut x: f64) {
    let mut kept = 0;
    for index in 0..parts.len() {
        let mut y = parts[index];
        if x.abs() < y.abs() {
            std::mem::swap(&mut x, &mut y);
        }
        let high = x + y;
        let low = y - (high - x);
        if low != 0.0 {
            parts[kept] = low;
            kept += 1;
        }
        x = high;
    }
    parts.truncate(kept);
    parts.push(x);
}

/// The parts' sum, rounded half to even.
fn round(parts: &Parts) -> f64 {
    let Some((&last, rest)) = parts.split_last() else { return 0.0 };
    let (mut high, mut low) = (last, 0.0);
    let mut left = rest.len();
    while left > 0 {
        left -= 1;
        let (x, y) = (high, rest[left]);
        high = x + y;
        low = y - (high - x);
        if low != 0.0 {
            break;
        }
    }
    // Half way between two doubles `+` has rounded to even, and yet what lies further below decides.
    if left > 0 && ((low < 0.0 && rest[left - 1] < 0.0) || (low > 0.0 && rest[left - 1] > 0.0)) {
        let twice = low * 2.0;
        let moved = high + twice;
        if twice == moved - high {
            high = moved;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(values: &[f64]) -> Option<f64> {
        let mut sum = Sum::default();
        values.iter().for_each(|value| sum.add(*value));
        let (parts, huge) = sum.parts();
        assert_eq!(Sum::from_parts(parts, huge).value(), sum.value(), "kept and read back");
        sum.value()
    }

    #[test]
    fn sums_are_those_of_pythons_fsum() {
        // From CPython's test_math.py, and from its shell. Half of the distance between the two greatest doubles:
        let half = 2f64.powi(970);
        let cases: &[(&[f64], Option<f64>)] = &[
            (&[], Some(0.0)),
            (&[0.1; 10], Some(1.0)),
            (&[1e100, 1.0, -1e100, 1e-100, 1e50, -1.0, -1e50], Some(1e-100)),
            (&[9007199254740992.0, -0.5, -5.551115123125783e-17], Some(9007199254740991.0)),
            (&[9007199254740992.0, 1.0, 5.551115123125783e-17], Some(9007199254740994.0)),
            (&[9007199254740996.0, 1.0, 5.551115123125783e-17], Some(9007199254740998.0)),
            (&[1e16, 1.0, 1e-16], Some(10000000000000002.0)),
            (&[1e16 - 2.0, 1.0 - 2f64.powi(-53), -(1e16 - 2.0), -(1.0 - 2f64.powi(-53))], Some(0.0)),
            (&[f64::MAX, f64::MAX], None),
            (&[f64::MAX, f64::MAX, -f64::MAX], Some(f64::MAX)),
            (&[-f64::MAX, f64::MAX, 5e-324], Some(5e-324)),
            (&[f64::MAX, half.next_down()], Some(f64::MAX)),
            (&[f64::MAX, half], None),
            (&[f64::MAX, half, -5e-324], Some(f64::MAX)),
            (&[1e300], Some(1e300)),
            (&[1e300, 1e280, -1e300], Some(1e280)),
        ];
        for (values, expected) in cases {
            assert_eq!(sum(values), *expected, "{values:?}");
        }
    }

    /// The sum of whole numbers times 2^-1074, which every double is, in 2,240 bits and rounded by hand.
    fn reference(values: &[f64]) -> Option<f64> {
        const WORDS: usize = 70;
        let mut positive = [0u64; WORDS];
        let mut negative = [0u64; WORDS];
        for value in values {
            let bits = value.to_bits();
            let exponent = (bits >> 52 & 0x7ff) as usize;
            let fraction = bits & ((1 << 52) - 1);
            let (digits, shift) = if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent - 1) };
            let target = if value.is_sign_negative() { &mut negative } else { &mut positive };
            let wide = u128::from(digits) << (shift % 32);
            let mut carry = 0;
            for (index, word) in target.iter_mut().enumerate().skip(shift / 32) {
                let place = (index - shift / 32) * 32;
                let add = if place < 128 { (wide >> place) as u64 & 0xffff_ffff } else { 0 };
                *word += add + carry;
                carry = *word >> 32;
                *word &= 0xffff_ffff;
            }
        }
        let less = positive.iter().rev().lt(negative.iter().rev());
        let (from, take) = if less { (negative, positive) } else { (positive, negative) };
        let mut left = [0u64; WORDS];
        let mut borrow = 0;
        for index in 0..WORDS {
            let found = (1 << 32) + from[index] - take[index] - borrow;
            left[index] = found & 0xffff_ffff;
            borrow = 1 - (found >> 32);
        }
        let bit = |at: usize| left[at / 32] >> (at % 32) & 1;
        let top = (0..WORDS * 32).rev().find(|at| bit(*at) == 1);
        let Some(top) = top else { return Some(0.0) };
        let lowest = top.saturating_sub(52);
        let mut digits = (lowest..=top).rev().fold(0u64, |digits, at| digits << 1 | bit(at));
        let half = lowest > 0 && bit(lowest - 1) == 1;
        let below = (0..lowest.saturating_sub(1)).any(|at| bit(at) == 1);
        digits += u64::from(half && (below || digits & 1 == 1));
        let carried = digits == 1 << 53;
        let exponent = if lowest == 0 { digits >> 52 } else { lowest as u64 + 1 + u64::from(carried) };
        let fraction = if carried { 0 } else { digits & ((1 << 52) - 1) };
        let value = f64::from_bits(exponent << 52 | fraction);
        (exponent < 2047).then_some(if less { -value } else { value })
    }

    fn any_finite() -> impl Strategy<Value = f64> {
        let bits = any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite());
        let near = (-1_000_000i64..1_000_000).prop_map(|digits| digits as f64 / 100.0);
        let huge = (any::<bool>(), 2000u64..2047, any::<u64>()).prop_map(|(negative, exponent, fraction)| {
            f64::from_bits(u64::from(negative) << 63 | exponent << 52 | fraction >> 12)
        });
        prop_oneof![2 => near, 1 => bits, 1 => huge]
    }

    proptest! {
        #[test]
        fn a_sum_is_the_exact_one_rounded_once(
            mut values in proptest::collection::vec(any_finite(), 0..40), opposite in any::<bool>(), seed in any::<u64>(),
        ) {
            if opposite {
                // So that great parts of it take each other away.
                let back: Vec<f64> = values.iter().step_by(2).map(|value| -value).collect();
                values.extend(back);
            }
            let expected = reference(&values);
            prop_assert_eq!(sum(&values), expected);
            fastrand::Rng::with_seed(seed).shuffle(&mut values);
            prop_assert_eq!(sum(&values), expected);
        }
    }
}
