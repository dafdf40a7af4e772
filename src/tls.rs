//! What a TLS handshake that failed means to people: the same words for every server whose client is
//! rustls. Whose certificate it was, and what follows, its caller knows.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

/// Why one side does not trust the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Distrust {
    pub(crate) reason: &'static str,
    pub(crate) hint: &'static str,
}

/// What `error` says about trust, if that is what it is about.
pub(crate) fn distrust(error: &(dyn Error + 'static)) -> Option<Distrust> {
    let (reason, hint) = match cause(error)? {
        rustls::Error::InvalidCertificate(fault) => certificate(fault),
        rustls::Error::AlertReceived(alert) => refused(*alert)?,
        rustls::Error::InvalidMessage(_) => NO_TLS,
        _ => return None,
    };
    Some(Distrust { reason, hint })
}

/// The handshake's error, wherever the client wrapped it.
fn cause<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An io error's source skips over what it carries.
        let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = carried.map(|carried| carried as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

fn certificate(fault: &CertificateError) -> (&'static str, &'static str) {
    use CertificateError as E;
    match fault {
        E::Expired | E::ExpiredContext { .. } => {
            ("the server's certificate has expired", "renew it and have the server read it again")
        }
        E::NotValidYet | E::NotValidYetContext { .. } => (
            "the server's certificate is not valid yet",
            "compare the clocks of both machines, or wait until it is valid",
        ),
        E::NotValidForName | E::NotValidForNameContext { .. } => (
            "the server's certificate is for another name",
            "write the name in the certificate as the host, or have one made for this host",
        ),
        E::Revoked => ("the server's certificate was revoked", "have a new one made"),
        E::UnknownIssuer => UNKNOWN_ISSUER,
        // A certificate that signed itself is an authority where a server's belongs.
        E::Other(_) => UNKNOWN_ISSUER,
        _ => (
            "the server's certificate cannot be used",
            "look at it with: openssl s_client -connect host:port -showcerts",
        ),
    }
}

const UNKNOWN_ISSUER: (&str, &str) = (
    "the server's certificate is signed by nobody we trust, perhaps by itself",
    "name the file of the authority that signed it: sslrootcert=/path/to/ca.pem in a database's url",
);

const NO_TLS: (&str, &str) =
    ("the server does not speak TLS on this port", "write the port on which it does");

fn refused(alert: AlertDescription) -> Option<(&'static str, &'static str)> {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => Some((
            "the server asks for a client certificate",
            "name one that it trusts: sslcert=…&sslkey=… in a database's url",
        )),
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateExpired
        | A::CertificateUnknown
        | A::UnknownCA
        | A::AccessDenied => Some((
            "the server does not accept our client certificate",
            "see that it has not expired and is signed by an authority the server trusts",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_found_however_deep_the_client_wrapped_it() {
        let fault = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let wrapped = sqlx::Error::Io(io::Error::new(io::ErrorKind::InvalidData, fault));
        let found = distrust(&wrapped).expect("it is about a certificate");
        assert!(found.reason.contains("expired"), "{found:?}");
        assert_eq!(distrust(&io::Error::other("connection refused")), None);
    }
}
