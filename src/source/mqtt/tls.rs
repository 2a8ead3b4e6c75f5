//! TLS to a broker: rustls with ring. Certificates and keys are read for each connection, so that a renewed one is
//! picked up without a restart; an error names the file and what was expected in it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::config;

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("expected {what} (PEM) in {}: {source}", path.display())]
    Pem { what: &'static str, path: PathBuf, source: pem::Error },
    #[error("expected {what} (PEM) in {}, found none", path.display())]
    Empty { what: &'static str, path: PathBuf },
    #[error("expected certificates of authorities in {}: {source}", path.display())]
    Authority { path: PathBuf, source: rustls::Error },
    #[error("found no certificate authorities on this system: install ca-certificates, or set tls.ca")]
    NoSystemAuthorities,
    #[error("expected both a client certificate and its key: set tls.{missing} too")]
    Half { missing: &'static str },
    #[error("the client certificate and its key do not fit together: {0}")]
    ClientCertificate(rustls::Error),
    #[error("expected a host name or an IP address to verify the certificate against, found {0:?}")]
    ServerName(String),
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("the broker's certificate is not valid yet")]
    NotValidYet,
}

/// Makes `tcp` a TLS connection to `host`.
pub(super) async fn connect(tcp: TcpStream, host: &str, tls: &config::Tls) -> Result<TlsStream<TcpStream>, TlsError> {
    let config = client_config(tls)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::ServerName(host.to_owned()))?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(handshake)
}

fn handshake(error: io::Error) -> TlsError {
    use rustls::CertificateError::{NotValidYet, NotValidYetContext};
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. })) => TlsError::NotValidYet,
        _ => TlsError::Handshake(error),
    }
}

fn client_config(tls: &config::Tls) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_root_certificates(authorities(tls.ca.as_deref())?);
    match (&tls.certificate, &tls.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(_), None) => Err(TlsError::Half { missing: "key" }),
        (None, Some(_)) => Err(TlsError::Half { missing: "certificate" }),
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Pem {
                what: "a private key",
                path: key.clone(),
                source,
            })?;
            builder.with_client_auth_cert(chain, key).map_err(TlsError::ClientCertificate)
        }
    }
}

fn authorities(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    if let Some(path) = ca {
        for certificate in certificates(path)? {
            store.add(certificate).map_err(|source| TlsError::Authority { path: path.to_owned(), source })?;
        }
        return Ok(store);
    }
    // A single unreadable file among the system's does not matter as long as there are others.
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() { Err(TlsError::NoSystemAuthorities) } else { Ok(store) }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::Pem { what: "certificates", path: path.to_owned(), source };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(wrong)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { what: "certificates", path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { what: "certificates", path: path.to_owned() });
    }
    Ok(certificates)
}
