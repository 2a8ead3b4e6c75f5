//! What encryption of the outbox costs for each value: the cipher of `outbox/cipher.rs` alone, which is all that it adds.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use tidegate::clock;

const ROUNDS: u32 = 20_000;

pub(super) fn run() {
    println!();
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).unwrap());
    let place = [0; 10];
    for bytes in [6_000, 700] {
        let plain = vec![0x5a_u8; bytes];
        let mut sealed = plain.clone();
        let nonce = |n: u32| {
            let mut nonce = [0; NONCE_LEN];
            nonce[..4].copy_from_slice(&n.to_le_bytes());
            Nonce::assume_unique_for_key(nonce)
        };
        let start = clock::instant();
        for n in 0..ROUNDS {
            sealed.clear();
            sealed.extend_from_slice(&plain);
            key.seal_in_place_append_tag(nonce(n), Aad::from(place), &mut sealed).unwrap();
        }
        let seal_ns = start.elapsed().as_nanos() as f64 / f64::from(ROUNDS);
        let start = clock::instant();
        for _ in 0..ROUNDS {
            let mut opened = sealed.clone();
            key.open_in_place(nonce(ROUNDS - 1), Aad::from(place), &mut opened).unwrap();
        }
        let open_ns = start.elapsed().as_nanos() as f64 / f64::from(ROUNDS);
        let rate = bytes as f64 * 1_000.0 / seal_ns;
        println!("encrypt a value of {bytes} bytes {seal_ns:6.0} ns ({rate:.0} MB/s), decrypt it {open_ns:6.0} ns");
    }
}
