//! Encryption of what the outbox keeps: ChaCha20-Poly1305 (RFC 8439), which needs no support by the processor to be quick,
//! under keys made by HKDF-SHA-256 (RFC 5869). The only file that names ring.
//!
//! ```text
//! master key (32 bytes, configured) ─┬─ HKDF ─► key id: 16 hexadecimal digits, stored beside what is sealed
//!                                    └─ HKDF with salt and context ─► the key of one segment, or of one checkpoint
//! sealed value: counter u64 (little endian) | ciphertext | tag of 16 bytes
//! ```
//!
//! Invariants:
//! - A key and a nonce meet once. The nonce is a counter of the [`Sealer`], which is made together with a new random salt
//!   and can be made in no other way: what is stored gives an [`Opener`] only. So neither a commit that is tried again, nor a
//!   number that is used again, nor a restored backup can make one nonce cover two values.
//! - A value opens only under the associated data that it was sealed with (its key in the database, the head of the
//!   checkpoint) and in the context that its key was made for (the run): it cannot be put in another's place.
//! - The id of a key says which key it is and nothing about it, so a wrong key is told from damage without trying.

use std::fmt;
use std::io;
use std::sync::Arc;

use ring::{aead, hkdf};

use crate::config::{Encryption, EncryptionKey, KEY_BYTES};

/// Bytes of a salt.
pub(crate) const SALT_BYTES: usize = 32;
/// Characters of a key's id.
pub(crate) const ID_CHARS: usize = 16;
const COUNTER_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
/// What sealing adds to a value.
pub(crate) const SEALED_BYTES: usize = COUNTER_BYTES + TAG_BYTES;
/// Parts what is made here from what anybody else makes of the same key.
const ID_SALT: &[u8] = b"tidegate outbox key id 1";
const KEY_INFO: &[u8] = b"tidegate outbox 1 ";

/// The configured keys, of which the first may be for new segments. Cloning gives another handle.
#[derive(Clone, Default)]
pub(crate) struct Keys {
    keys: Arc<[Master]>,
    /// Whether what is new is encrypted, with the first of them.
    seals: bool,
}

struct Master {
    id: String,
    key: EncryptionKey,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("ids", &self.ids()).field("seals", &self.seals).finish()
    }
}

impl Keys {
    /// The keys of a configuration.
    pub(crate) fn new(encryption: &Encryption) -> Self {
        let keys = encryption.key.iter().chain(&encryption.previous_keys);
        let keys = keys.map(|key| Master { id: id_of(key), key: key.clone() }).collect();
        Self { keys, seals: encryption.key.is_some() }
    }

    /// The ids of all of them.
    pub(crate) fn ids(&self) -> Vec<&str> {
        self.keys.iter().map(|master| master.id.as_str()).collect()
    }

    /// Whether the key of that id is there.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.keys.iter().any(|master| master.id == id)
    }

    /// What seals something new, under a key of its own; `None` where that is to stay plain.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub(crate) fn sealer(&self, context: &[u8]) -> io::Result<Option<Sealer>> {
        let Some(master) = self.keys.first().filter(|_| self.seals) else { return Ok(None) };
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|error| io::Error::other(error.to_string()))?;
        let key = derive(&master.key, &salt, context)?;
        Ok(Some(Sealer { id: master.id.clone(), salt, key: Arc::new(key), next: 0 }))
    }

    /// What opens what a sealer of that key, salt and context has sealed; `None` where that key is not there.
    pub(crate) fn opener(&self, id: &str, salt: &[u8], context: &[u8]) -> Option<Opener> {
        let master = self.keys.iter().find(|master| master.id == id)?;
        derive(&master.key, salt, context).ok().map(|key| Opener(Arc::new(key)))
    }
}

/// Seals the values of one segment, or one checkpoint.
pub(crate) struct Sealer {
    id: String,
    salt: [u8; SALT_BYTES],
    key: Arc<aead::LessSafeKey>,
    next: u64,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("id", &self.id).field("next", &self.next).finish_non_exhaustive()
    }
}

impl Sealer {
    /// The id of the configured key.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// To be stored beside what is sealed.
    pub(crate) fn salt(&self) -> &[u8; SALT_BYTES] {
        &self.salt
    }

    /// What opens its values.
    pub(crate) fn opener(&self) -> Opener {
        Opener(Arc::clone(&self.key))
    }

    /// Seals a value under what it belongs to.
    ///
    /// # Errors
    /// When it is longer than the cipher takes, which no value is.
    pub(crate) fn seal(&mut self, belongs_to: &[u8], value: &[u8]) -> io::Result<Vec<u8>> {
        let counter = self.next.to_le_bytes();
        self.next += 1;
        let mut sealed = Vec::with_capacity(value.len() + SEALED_BYTES);
        sealed.extend(counter);
        sealed.extend(value);
        let inside = &mut sealed[COUNTER_BYTES..];
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(counter), aead::Aad::from(belongs_to), inside)
            .map_err(|_| io::Error::other("the value is too long to be encrypted"))?;
        sealed.extend(tag.as_ref());
        Ok(sealed)
    }
}

/// Opens the values of one segment, or one checkpoint. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Opener(Arc<aead::LessSafeKey>);

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener")
    }
}

impl Opener {
    /// The value as it was; `None` where anything of it, or what it belongs to, has changed.
    pub(crate) fn open(&self, belongs_to: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (counter, inside) = sealed.split_first_chunk::<COUNTER_BYTES>()?;
        let mut inside = inside.to_vec();
        let length = self.0.open_in_place(nonce(*counter), aead::Aad::from(belongs_to), &mut inside).ok()?.len();
        inside.truncate(length);
        Some(inside)
    }
}

fn nonce(counter: [u8; COUNTER_BYTES]) -> aead::Nonce {
    let mut nonce = [0; aead::NONCE_LEN];
    nonce[..COUNTER_BYTES].copy_from_slice(&counter);
    aead::Nonce::assume_unique_for_key(nonce)
}

fn derive(master: &EncryptionKey, salt: &[u8], context: &[u8]) -> io::Result<aead::LessSafeKey> {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(master.reveal());
    let info = [KEY_INFO, context];
    // An output as long as the cipher's own key is never too long.
    let okm = prk.expand(&info, &aead::CHACHA20_POLY1305).map_err(|_| io::Error::other("no key could be derived"))?;
    Ok(aead::LessSafeKey::new(aead::UnboundKey::from(okm)))
}

/// Which key it is, in 16 hexadecimal digits.
fn id_of(key: &EncryptionKey) -> String {
    struct Length;
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            ID_CHARS / 2
        }
    }
    let mut id = [0; ID_CHARS / 2];
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, ID_SALT).extract(key.reveal());
    // Neither fails for so short an output. All zeros would be an id like any other.
    let _ = prk.expand(&[], Length).and_then(|okm| okm.fill(&mut id));
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

const _: () = assert!(KEY_BYTES == 32, "the key that HKDF begins with has the strength of what it gives");

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> EncryptionKey {
        EncryptionKey::new(std::array::from_fn(|at| byte ^ at as u8))
    }

    fn keys(bytes: &[u8]) -> Keys {
        let previous_keys = bytes[1..].iter().map(|byte| key(*byte)).collect();
        Keys::new(&Encryption { key: Some(key(bytes[0])), previous_keys })
    }

    #[test]
    fn what_is_sealed_opens_only_with_its_key_salt_context_and_place() {
        let all = keys(&[1, 2]);
        let mut sealer = all.sealer(b"run").unwrap().unwrap();
        let (id, salt) = (sealer.id().to_owned(), *sealer.salt());
        let first = sealer.seal(b"a", b"value").unwrap();
        let second = sealer.seal(b"a", b"value").unwrap();
        assert_eq!(first.len(), 5 + SEALED_BYTES);
        assert_ne!(first, second, "each has a nonce of its own");
        let opener = all.opener(&id, &salt, b"run").unwrap();
        assert_eq!(opener.open(b"a", &first).as_deref(), Some(b"value".as_slice()));
        assert_eq!(sealer.opener().open(b"a", &second).as_deref(), Some(b"value".as_slice()));
        assert_eq!(opener.open(b"b", &first), None);
        assert_eq!(all.opener(&id, &salt, b"another run").unwrap().open(b"a", &first), None);
        assert_eq!(all.opener(&id, &[7; SALT_BYTES], b"run").unwrap().open(b"a", &first), None);
        let other = all.ids()[1].to_owned();
        assert_ne!(other, id);
        assert_eq!(all.opener(&other, &salt, b"run").unwrap().open(b"a", &first), None);
        assert!(keys(&[3]).opener(&id, &salt, b"run").is_none());
    }

    #[test]
    fn each_changed_bit_and_each_cut_is_noticed() {
        let all = keys(&[1]);
        let mut sealer = all.sealer(b"").unwrap().unwrap();
        let sealed = sealer.seal(b"a", b"some value").unwrap();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(sealer.opener().open(b"a", &changed), None, "byte {at}, bit {bit}");
            }
            assert_eq!(sealer.opener().open(b"a", &sealed[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn two_sealers_of_a_key_have_nothing_in_common_but_its_id() {
        let all = keys(&[1]);
        let [mut one, mut two] = [(); 2].map(|()| all.sealer(b"run").unwrap().unwrap());
        assert_eq!(one.id(), two.id());
        assert_ne!(one.salt(), two.salt());
        assert_ne!(one.seal(b"a", b"value").unwrap(), two.seal(b"a", b"value").unwrap());
    }

    #[test]
    fn an_id_stays_the_same_and_keys_do_not_show() {
        // What stands in segments of today: an id that changed would make them look like those of another key.
        assert_eq!(id_of(&key(1)), "808678424d76b7f0");
        let shown = format!("{:?}", keys(&[1]));
        assert!(shown.contains("808678424d76b7f0") && !shown.contains("[1, 0, 3"), "{shown}");
    }

    #[test]
    fn without_a_key_nothing_is_sealed() {
        assert!(Keys::default().sealer(b"").unwrap().is_none());
        let only_previous = Keys::new(&Encryption { key: None, previous_keys: vec![key(1)] });
        assert!(only_previous.sealer(b"").unwrap().is_none());
        assert!(only_previous.has(&id_of(&key(1))));
    }
}
