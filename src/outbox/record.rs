//! CBOR: the only file that names serde_cbor.

use serde::Serialize;

/// Why a value could not be written as CBOR.
#[derive(Debug, thiserror::Error)]
#[error("encoding CBOR: {0}")]
pub struct CborError(String);

/// `value` as CBOR (RFC 8949), with field names as text.
pub fn to_cbor<T: Serialize>(value: &T) -> Result<Vec<u8>, CborError> {
    serde_cbor::to_vec(value).map_err(|error| CborError(error.to_string()))
}

/// A value from CBOR.
#[cfg(test)]
pub(crate) fn from_cbor<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, CborError> {
    serde_cbor::from_slice(bytes).map_err(|error| CborError(error.to_string()))
}
