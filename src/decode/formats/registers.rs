//! Registers of a Modbus device, in the frame that `profile::registers` describes.

use super::binary::put;
use super::{Refusal, fits, malformed};
use crate::decode::doc::{Doc, Leaf};
use crate::profile::{RegisterBlock, RegisterOrder, RegisterValue, Registers, exception_text};

/// Takes a frame apart. A value of which a register is missing is not there: a device may refuse some of them.
pub(in crate::decode) fn registers(frame: &[u8], rules: &Registers, doc: &mut Doc) -> Result<(), Refusal> {
    let mut blocks = Vec::new();
    let mut rest = frame;
    while !rest.is_empty() {
        let Some((block, after)) = RegisterBlock::read(rest) else {
            return malformed(format!("byte {}: expected a block of registers", frame.len() - rest.len()));
        };
        blocks.push(block);
        rest = after;
    }
    doc.begin(false);
    let mut found = false;
    for value in &rules.values {
        found |= put_value(value, &blocks, doc);
    }
    doc.end(0);
    fits(doc)?;
    if found {
        return Ok(());
    }
    let refused = blocks.iter().find_map(|block| Some((block, block.data.err()?)));
    malformed(match refused {
        Some((block, code)) => format!(
            "the device refused all: exception {code} ({}) for {} of {} from {}",
            exception_text(code),
            block.count,
            block.table.as_str(),
            block.address
        ),
        None => "none of the profile's registers is there".to_owned(),
    })
}

fn put_value(value: &RegisterValue, blocks: &[RegisterBlock<'_>], doc: &mut Doc) -> bool {
    let Some(kind) = value.kind else {
        let bit = blocks.iter().find_map(|block| block.bit(value.table, value.address));
        if let Some(bit) = bit {
            doc.put(&value.key, Leaf::Flag(bit));
        }
        return bit.is_some();
    };
    let bytes = blocks.iter().find_map(|block| block.registers(value.table, value.address, value.count()));
    let Some(bytes) = bytes else { return false };
    put(&in_order(bytes, value.order), &value.key, kind, false, doc);
    true
}

/// Registers with the highest byte first.
fn in_order(bytes: &[u8], order: RegisterOrder) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    // All bytes the other way round, and the bytes of each register back: the registers the other way round.
    if order.little {
        bytes.reverse();
    }
    if order.little != order.swapped {
        bytes.chunks_exact_mut(2).for_each(<[u8]>::reverse);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::doc::Kind;
    use crate::profile::{BinaryKind, RegisterTable};

    fn value(address: u16, kind: BinaryKind, little: bool, swapped: bool) -> RegisterValue {
        let order = RegisterOrder { little, swapped };
        RegisterValue { key: "v".into(), table: RegisterTable::Input, address, kind: Some(kind), order }
    }

    fn decode(frame: &[u8], value: RegisterValue) -> Result<Option<Kind>, Refusal> {
        let mut doc = Doc::default();
        registers(frame, &Registers { values: vec![value], gap: 0, count_max: 125 }, &mut doc)?;
        Ok(doc.find(&["v".into()]).map(|node| node.kind))
    }

    #[test]
    fn every_order_gives_the_same_number() {
        let f32_bytes = 230.2_f32.to_be_bytes();
        let [a, b, c, d] = f32_bytes;
        for (bytes, little, swapped) in [
            ([a, b, c, d], false, false),
            ([c, d, a, b], true, false),
            ([b, a, d, c], false, true),
            ([d, c, b, a], true, true),
        ] {
            let mut frame = Vec::new();
            RegisterBlock { table: RegisterTable::Input, address: 8, count: 2, data: Ok(&bytes) }.write(&mut frame);
            let found = decode(&frame, value(8, BinaryKind::Float, little, swapped)).unwrap();
            assert_eq!(found, Some(Kind::Number(230.2)), "{little} {swapped}");
        }
        let bytes = (-2_i64).to_be_bytes();
        for little in [false, true] {
            let mut words: Vec<[u8; 2]> = bytes.chunks(2).map(|pair| [pair[0], pair[1]]).collect();
            if little {
                words.reverse();
            }
            let mut frame = Vec::new();
            RegisterBlock { table: RegisterTable::Input, address: 0, count: 4, data: Ok(&words.concat()) }
                .write(&mut frame);
            assert_eq!(
                decode(&frame, value(0, BinaryKind::Signed(8), little, false)).unwrap(),
                Some(Kind::Number(-2.0))
            );
        }
    }

    #[test]
    fn what_the_device_refused_is_not_there_and_all_of_it_is_an_error() {
        let mut frame = Vec::new();
        RegisterBlock { table: RegisterTable::Input, address: 0, count: 1, data: Err(2) }.write(&mut frame);
        let error = decode(&frame, value(0, BinaryKind::Unsigned(2), false, false)).unwrap_err();
        let Refusal::Wrong(_, detail) = error else { panic!() };
        assert_eq!(detail, "the device refused all: exception 2 (illegal data address) for 1 of input from 0");
        RegisterBlock { table: RegisterTable::Input, address: 5, count: 1, data: Ok(&[0x01, 0x90]) }.write(&mut frame);
        assert_eq!(decode(&frame, value(5, BinaryKind::Unsigned(2), false, false)).unwrap(), Some(Kind::Number(400.0)));
        assert!(decode(&frame[..frame.len() - 1], value(5, BinaryKind::Unsigned(2), false, false)).is_err());
        assert!(decode(&[], value(5, BinaryKind::Unsigned(2), false, false)).is_err());
    }
}
