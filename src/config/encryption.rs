//! `[outbox.encryption]`: the keys of what is stored. A key is 32 random bytes, written as 64 hexadecimal digits, in base64,
//! or as they are.
//!
//! Invariant: a key is never shown. What is wrong with one is told by its length alone, and a key that stands where its
//! file's name should be is recognised before that name is shown.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::field::Field;
use super::secret;
use super::section::Section;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Keys of earlier segments: each rotation needs one until what it encrypted is delivered.
const PREVIOUS_MAX: usize = 64;
const EXPECTED: &str = "expected a key of 32 bytes as 64 hexadecimal digits, in base64, or as they are";
const HOW: &str = "`openssl rand -hex 32` makes one";

/// What the outbox encrypts with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encryption {
    /// New segments are encrypted with it; `None` leaves them plain.
    pub key: Option<EncryptionKey>,
    /// Only what is there already is read with these.
    pub previous_keys: Vec<EncryptionKey>,
}

/// A key: never printed. Equality is for telling whether it has changed since it was last read.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey([u8; KEY_BYTES]);

impl EncryptionKey {
    /// Wraps it.
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The key itself, for the one call that needs it.
    #[must_use]
    pub fn reveal(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl std::fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// Reads `[outbox.encryption]`.
pub(super) fn encryption(section: &Section<'_>) -> Encryption {
    let field = section.get("key");
    let previous = section.get("previous_keys");
    if section.exists() && field.is_none() && previous.is_none() {
        section.problem_at("key", "missing: expected where to find the key".to_owned(), Some(secret::HOW.to_owned()));
    }
    let items = previous.and_then(|previous| {
        let items = previous.array("an array of places of keys, such as [{ file = \"old-outbox-key\" }]")?;
        if items.len() > PREVIOUS_MAX {
            previous.problem(format!("expected at most {PREVIOUS_MAX} keys, found {}", items.len()), None);
        }
        Some(items)
    });
    section.finish();
    Encryption {
        key: field.and_then(|field| key(&field)),
        previous_keys: items.into_iter().flatten().filter_map(|item| key(&item)).collect(),
    }
}

fn key(field: &Field<'_>) -> Option<EncryptionKey> {
    let found = secret::found(field, None, |bytes, place| match parse(bytes) {
        Ok(key) => Ok(Some(EncryptionKey(key))),
        Err(what) => Err(format!("{EXPECTED}, found {what} in {place}; {HOW}")),
    });
    found.flatten()
}

/// Whether text is a key, which must then not be shown.
pub(super) fn is_key(text: &str) -> bool {
    decode(text.trim()).is_some()
}

fn parse(bytes: &[u8]) -> Result<[u8; KEY_BYTES], String> {
    let text = std::str::from_utf8(bytes).ok().map(str::trim);
    let raw = || {
        // A pass phrase of 32 characters is no random key.
        let printable = bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
        <[u8; KEY_BYTES]>::try_from(bytes).ok().filter(|_| !printable)
    };
    let Some(key) = text.and_then(decode).or_else(raw) else {
        return Err(match text {
            Some("") => "nothing".to_owned(),
            Some(text) => format!("{} characters of something else", text.chars().count()),
            None => format!("{} bytes", bytes.len()),
        });
    };
    if key.iter().all(|byte| *byte == key[0]) {
        return Err("the same byte 32 times".to_owned());
    }
    Ok(key)
}

fn decode(text: &str) -> Option<[u8; KEY_BYTES]> {
    let bytes = if text.len() == 2 * KEY_BYTES {
        hex::decode(text).ok()?
    } else {
        STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok()?
    };
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_be_written_in_three_ways() {
        let key: [u8; KEY_BYTES] = std::array::from_fn(|at| (at * 7 + 200) as u8);
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let padded = STANDARD.encode(key);
        for text in [hex.clone(), hex.to_uppercase(), format!("{hex}\r\n"), padded.clone(), format!(" {padded}\n")] {
            assert_eq!(parse(text.as_bytes()), Ok(key), "{text:?}");
            assert!(is_key(&text));
        }
        assert_eq!(parse(padded.trim_end_matches('=').as_bytes()), Ok(key));
        assert_eq!(parse(&key), Ok(key));
        // Whitespace is part of raw bytes.
        let mut raw = key;
        raw[31] = b'\n';
        assert_eq!(parse(&raw), Ok(raw));
    }

    #[test]
    fn what_is_no_key_is_told_by_its_length() {
        for (bytes, told) in [
            (b"".as_slice(), "nothing"),
            (b"\n", "nothing"),
            (b"correct horse battery staple", "28 characters of something else"),
            (b"0123456789abcdef0123456789abcdef", "32 characters of something else"),
            (&[b'f'; 65], "65 characters of something else"),
            (&[0xff; 31], "31 bytes"),
            (&[0; 32], "the same byte 32 times"),
            (&[b'0'; 64], "the same byte 32 times"),
        ] {
            assert_eq!(parse(bytes), Err(told.to_owned()), "{bytes:?}");
        }
    }
}
