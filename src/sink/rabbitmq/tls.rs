//! Certificates from files, for a broker that is spoken to over TLS.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::RabbitMq;

/// It is not the broker: a file of ours is missing, or is not what it should be.
#[derive(Debug)]
pub(super) struct Unprepared(io::Error);

impl fmt::Display for Unprepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Unprepared {}

/// An [`Unprepared`] within the error says that the broker was not spoken to at all.
pub(super) fn connector(broker: &RabbitMq) -> io::Result<RustlsConnector> {
    prepared(broker).map_err(|error| io::Error::new(error.kind(), Unprepared(error)))
}

/// Trusts the authorities of `ca_file` alone, or without one those of this machine, and shows the
/// broker our own certificate if there is one.
fn prepared(broker: &RabbitMq) -> io::Result<RustlsConnector> {
    let trusted = match &broker.ca_file {
        Some(file) => RustlsConnectorConfig::default().with_parsable_certificates(certificates(file)?),
        None => RustlsConnectorConfig::new_with_native_certs()?,
    };
    match &broker.identity {
        None => trusted.connector_with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::from_pem_slice(&read(&identity.key_file)?)
                .map_err(|error| unusable(&identity.key_file, "private key", &error))?;
            trusted.connector_with_single_cert(certificates(&identity.cert_file)?, key)
        }
    }
}

fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    let found = found.map_err(|error| unusable(file, "certificate", &error))?;
    if found.is_empty() {
        return Err(unusable(file, "certificate", &"there is none in it"));
    }
    Ok(found)
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(file)
        .map_err(|error| io::Error::new(error.kind(), format!("could not read {}: {error}", file.display())))
}

fn unusable(file: &Path, what: &str, why: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("could not use the {what} of {}: {why}", file.display()))
}
