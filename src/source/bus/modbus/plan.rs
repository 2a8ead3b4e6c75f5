//! Which requests bring all registers of a profile: as few as the device's limit and the gaps between them allow. Pure.
//!
//! A device may refuse a request that reads along what it does not have, or have fewer registers than its profile knows. So a
//! read that was refused can be [split](Read::split), first at its gaps, then into single values; what is refused alone is not
//! there.

use crate::profile::{BITS_MAX, RegisterTable, Registers};

/// A gap costs a character or two for a register; a bit costs an eighth of a byte.
const BITS_A_REGISTER: u16 = 16;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) table: RegisterTable,
    pub(super) address: u16,
    pub(super) count: u16,
    /// The values in it: address and how many, in their order.
    pub(super) wanted: Vec<(u16, u16)>,
}

/// The requests that bring all values.
pub(super) fn reads(registers: &Registers) -> Vec<Read> {
    let mut wanted: Vec<_> = registers.values.iter().map(|value| (value.table, value.address, value.count())).collect();
    wanted.sort_unstable();
    let mut reads: Vec<Read> = Vec::new();
    for (table, address, count) in wanted {
        let (gap, most) = if table.is_bits() {
            (registers.gap * BITS_A_REGISTER, (registers.count_max * BITS_A_REGISTER).min(BITS_MAX))
        } else {
            (registers.gap, registers.count_max)
        };
        match reads.last_mut().filter(|last| last.table == table) {
            Some(last) if last.takes(address, count, gap, most) => last.add(address, count),
            _ => reads.push(Read { table, address, count, wanted: vec![(address, count)] }),
        }
    }
    reads
}

impl Read {
    /// The address behind the last one.
    fn end(&self) -> u32 {
        u32::from(self.address) + u32::from(self.count)
    }

    fn takes(&self, address: u16, count: u16, gap: u16, most: u16) -> bool {
        let end = self.end().max(u32::from(address) + u32::from(count));
        u32::from(address) <= self.end() + u32::from(gap) && end - u32::from(self.address) <= u32::from(most)
    }

    fn add(&mut self, address: u16, count: u16) {
        let end = self.end().max(u32::from(address) + u32::from(count));
        // It `takes` it: the sum is at most the device's limit.
        self.count = (end - u32::from(self.address)) as u16;
        self.wanted.push((address, count));
    }

    /// Smaller ones that bring the same, if there are any.
    pub(super) fn split(&self) -> Option<Vec<Self>> {
        let one = |(address, count): &(u16, u16)| Self {
            table: self.table,
            address: *address,
            count: *count,
            wanted: vec![(*address, *count)],
        };
        let mut parts: Vec<Self> = Vec::new();
        for value in &self.wanted {
            match parts.last_mut() {
                Some(last) if last.takes(value.0, value.1, 0, u16::MAX) => last.add(value.0, value.1),
                _ => parts.push(one(value)),
            }
        }
        if parts.len() == 1 {
            let mut values = self.wanted.clone();
            values.dedup();
            parts = values.iter().map(one).collect();
        }
        (parts.len() > 1).then_some(parts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::profile::{BinaryKind, RegisterValue};

    fn value(table: RegisterTable, address: u16, registers: u8) -> RegisterValue {
        let kind = (!table.is_bits()).then_some(BinaryKind::Unsigned(registers * 2));
        RegisterValue { key: "v".into(), table, address, kind, order: crate::profile::RegisterOrder::default() }
    }

    fn plan(values: Vec<RegisterValue>, gap: u16, count_max: u16) -> Vec<(RegisterTable, u16, u16)> {
        let reads = reads(&Registers { values, gap, count_max });
        reads.iter().map(|read| (read.table, read.address, read.count)).collect()
    }

    use RegisterTable::{Coil, Holding, Input};

    #[test]
    fn near_ones_are_read_together() {
        let values = || vec![value(Input, 6, 2), value(Input, 0, 2), value(Input, 70, 2), value(Holding, 1, 1)];
        assert_eq!(plan(values(), 8, 125), [(Holding, 1, 1), (Input, 0, 8), (Input, 70, 2)]);
        assert_eq!(plan(values(), 62, 125), [(Holding, 1, 1), (Input, 0, 72)]);
        assert_eq!(plan(values(), 62, 71), [(Holding, 1, 1), (Input, 0, 8), (Input, 70, 2)]);
        assert_eq!(plan(values(), 0, 125), [(Holding, 1, 1), (Input, 0, 2), (Input, 6, 2), (Input, 70, 2)]);
        assert_eq!(
            plan(vec![value(Coil, 0, 0), value(Coil, 100, 0), value(Coil, 400, 0)], 8, 125),
            [(Coil, 0, 101), (Coil, 400, 1)]
        );
        assert_eq!(plan(vec![value(Input, 65_535, 1), value(Input, 65_534, 1)], 8, 125), [(Input, 65_534, 2)]);
    }

    #[test]
    fn a_refused_read_is_split_at_gaps_and_then_into_values() {
        let values = vec![value(Input, 0, 2), value(Input, 2, 1), value(Input, 6, 2), value(Input, 6, 2)];
        let [read] = reads(&Registers { values, gap: 8, count_max: 125 }).try_into().unwrap();
        let parts = read.split().unwrap();
        assert_eq!(parts.iter().map(|part| (part.address, part.count)).collect::<Vec<_>>(), [(0, 3), (6, 2)]);
        let values = parts[0].split().unwrap();
        assert_eq!(values.iter().map(|part| (part.address, part.count)).collect::<Vec<_>>(), [(0, 2), (2, 1)]);
        assert_eq!(values[0].split(), None);
        assert_eq!(parts[1].split(), None, "the same value twice is one");
    }

    proptest! {
        #[test]
        fn every_value_is_in_one_read_and_no_read_is_too_long(
            places in prop::collection::vec((0..300_u16, 1..5_u8), 1..60), gap in 0..20_u16, count_max in 4..126_u16,
        ) {
            let values: Vec<_> = places.iter().map(|(address, registers)| value(Input, *address, *registers)).collect();
            let all = reads(&Registers { values: values.clone(), gap, count_max });
            for read in &all {
                prop_assert!(read.count <= count_max);
            }
            let mut levels = vec![all.clone()];
            let split = |reads: &[Read]| reads.iter().flat_map(|read| read.split().unwrap_or_else(|| vec![read.clone()])).collect::<Vec<_>>();
            levels.push(split(&all));
            levels.push(split(&levels[1]));
            for reads in levels {
                for value in &values {
                    let holds = |read: &Read| value.address >= read.address && u32::from(value.address) + u32::from(value.count()) <= read.end();
                    prop_assert!(reads.iter().any(holds), "{value:?} in {reads:?}");
                }
            }
        }
    }
}
