//! `database.url`, from wherever it is given, with its password and proof that nobody can listen in.
//!
//! Everything in a url may be a secret, a slip in it included: a password with a bare `@` or `/` turns
//! up as a host, a path or a parameter. So no message here quotes any of it.

use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::secret_file;
use crate::config::Secret;
use crate::config::check::is_loopback;
use crate::config::problem::{Wrong, nearest};
use crate::config::section::Section;
use crate::config::value::{boolean, secret};

/// What the client understands; it would pass over anything else, a misspelt `sslmode` included.
const PARAMETERS: [&str; 19] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "options[",
];

const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Where the database is, and where it is past a pooler.
pub(super) struct Urls {
    pub(super) url: Secret,
    pub(super) listen_url: Option<Secret>,
}

pub(super) fn database_urls(section: &mut Section<'_>) -> Option<Urls> {
    let url = given(section, "url", "url_file");
    let listen_url = given(section, "listen_url", "listen_url_file");
    let password = section.optional("password_file", secret_file);
    let consent = section.defaulted("insecure_allow_plaintext", boolean);
    let (url, listen_url, password, consent) = (url?, listen_url?, password?, consent?);
    let Some((key, url)) = url else {
        let hint = "write postgres://user@host/database, or set DATABASE_URL, or database.url_file";
        section.report("url", Wrong::new("is missing", hint));
        return None;
    };
    let url = private(section, key, url, password.as_deref(), consent);
    let listen_url = match listen_url {
        // The same role logs in at both, unless its url says otherwise.
        Some((key, url)) => {
            let password = password.as_deref().filter(|_| !holds_password(&url));
            Some(private(section, key, url, password, consent)?)
        }
        None => None,
    };
    Some(Urls { url: url?, listen_url })
}

/// A url that may be written or be in a file, with the key it came by; `None` once two of them were
/// reported.
#[allow(clippy::option_option)] // absent and wrong are different answers, as for `Section::optional`
fn given(
    section: &mut Section<'_>,
    key: &'static str,
    file_key: &'static str,
) -> Option<Option<(&'static str, String)>> {
    let text = section.optional(key, secret);
    let from_file = section.optional(file_key, secret_file);
    match (text?, from_file?) {
        (Some(_), Some(_)) => {
            section.report(key, Wrong::new(format!("is given besides {file_key}"), "give one of the two"));
            None
        }
        (Some(url), None) => Some(Some((key, url))),
        (None, Some(url)) => Some(Some((file_key, url))),
        (None, None) => Some(None),
    }
}

fn private(
    section: &mut Section<'_>,
    key: &str,
    url: String,
    password: Option<&str>,
    consent: bool,
) -> Option<Secret> {
    checked(url, password, consent).map(Secret::new).map_err(|wrong| section.report(key, wrong)).ok()
}

fn checked(url: String, password: Option<&str>, consent: bool) -> Result<String, Wrong> {
    let options = well_formed(&url)?;
    if !consent && may_be_plaintext(&options) {
        let hint = "add ?sslmode=verify-full (and sslrootcert=…), or consent with \
                    database.insecure_allow_plaintext = true";
        return Err(Wrong::new("leads to another host without demanding TLS", hint));
    }
    match password {
        Some(password) => with_password(&url, password),
        None => Ok(url),
    }
}

/// What the client makes of `url`.
fn well_formed(url: &str) -> Result<PgConnectOptions, Wrong> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
    let rest = rest.ok_or_else(|| {
        Wrong::new("does not start with postgres://", "write postgres://user@host:5432/database")
    })?;
    let after_authority = &rest[rest.find(['/', '?', '#']).unwrap_or(rest.len())..];
    if after_authority.contains(['@', '#']) {
        let hint = "write special characters of user and password in percent encoding: %40 for @, %2F for /, \
                    %23 for #, %3F for ?; or use database.password_file, which takes it as it is";
        return Err(Wrong::new("has an `@` or `#` after the host", hint));
    }
    for (name, value) in parameters(url) {
        known_parameter(name, value)?;
    }
    PgConnectOptions::from_str(url).map_err(|_quotes_the_url| {
        let hint = "write postgres://user@host:5432/database, special characters in percent encoding";
        Wrong::new("is not a url the client understands", hint)
    })
}

fn known_parameter(name: &str, value: &str) -> Result<(), Wrong> {
    let is_known = PARAMETERS.contains(&name) || name.starts_with("options[");
    if !is_known {
        let hint = match nearest(name, PARAMETERS) {
            Some(meant) => format!("did you mean {meant}?"),
            None => {
                "remove it; the client understands sslmode, sslrootcert, sslcert, sslkey, host, port, user, \
                     dbname, password, application_name, options"
                    .to_owned()
            }
        };
        return Err(Wrong::new("has an unknown parameter", hint));
    }
    if matches!(name, "sslmode" | "ssl-mode") && !SSL_MODES.contains(&value) {
        let hint = format!("write one of {}", SSL_MODES.join(", "));
        return Err(Wrong::new("has an unknown sslmode", hint));
    }
    Ok(())
}

/// Passwords and payloads could go through a network in the clear.
fn may_be_plaintext(options: &PgConnectOptions) -> bool {
    let demands_tls = match options.get_ssl_mode() {
        PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer => false,
        PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull => true,
    };
    let is_socket = options.get_socket().is_some() || options.get_host().starts_with('/');
    !demands_tls && !is_socket && !is_loopback(options.get_host())
}

/// Whether the connection, having been consented to, may leave this host in the clear.
pub(in crate::config) fn is_plaintext_allowed(url: &Secret) -> bool {
    PgConnectOptions::from_str(url.reveal()).is_ok_and(|options| may_be_plaintext(&options))
}

/// As a parameter, which unlike the part before `@` needs no user name beside it.
fn with_password(url: &str, password: &str) -> Result<String, Wrong> {
    if holds_password(url) {
        let hint = "remove it from the url, or remove database.password_file";
        return Err(Wrong::new("holds a password besides password_file", hint));
    }
    let separator = if url.contains('?') { '&' } else { '?' };
    Ok(format!("{url}{separator}password={}", percent_encoded(password)))
}

fn holds_password(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or(authority);
    let has_own = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
    has_own || parameters(url).any(|(name, _)| name == "password")
}

/// Whether the url sets parameters of the session.
pub(in crate::config) fn has_options(url: &Secret) -> bool {
    PgConnectOptions::from_str(url.reveal()).is_ok_and(|options| options.get_options().is_some())
}

/// The url with every password in it replaced by `***`.
pub(in crate::config) fn redacted(url: &Secret) -> String {
    let Some((scheme, rest)) = url.reveal().split_once("://") else { return "***".to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _password)) => format!("{user}:***@{host}"),
            None => format!("{user}@{host}"),
        },
        None => authority.to_owned(),
    };
    let path = path.split('?').next().unwrap_or(path);
    let query: Vec<_> = parameters(url.reveal())
        .map(|(name, value)| format!("{name}={}", if name == "password" { "***" } else { value }))
        .collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{scheme}://{authority}{path}{mark}{}", query.join("&"))
}

fn parameters(url: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

pub(super) fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;

    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            other => write!(encoded, "%{other:02X}").expect("a string can be written to"),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plaintext(url: &str) -> bool {
        may_be_plaintext(&well_formed(url).unwrap())
    }

    #[test]
    fn only_what_stays_on_this_host_or_demands_tls_is_private() {
        assert!(plaintext("postgres://relay@db/app"));
        assert!(plaintext("postgres://relay@db/app?sslmode=prefer"));
        assert!(plaintext("postgres://relay@localhost/app?host=db"));
        assert!(plaintext("postgres://relay@localhost.example.com/app"));
        assert!(!plaintext("postgres://relay@db/app?sslmode=require"));
        assert!(!plaintext("postgres://relay@localhost/app"));
        assert!(!plaintext("postgres://relay@127.0.0.1:54329/app"));
        assert!(!plaintext("postgres://relay@[::1]/app"));
        assert!(!plaintext("postgres:///app?host=/var/run/postgresql"));
        assert!(!plaintext("postgres://%2Fvar%2Frun/app"));
    }

    #[test]
    fn a_url_with_a_slip_in_it_is_refused_and_not_quoted() {
        for url in [
            "mysql://u:canary@h/d",
            "postgres://u:1/canary@h/d",
            "postgres://u:1#canary@h/d",
            "postgres://u:1?canary@h/d",
            "postgres://u:1?canary=1",
            "postgres://u:canary@h:port/d",
            "postgres://u@h/d?sslmode=canary",
            "postgres://u@h/d?port=canary",
        ] {
            let wrong = well_formed(url).unwrap_err();
            assert!(!format!("{wrong:?}").contains("canary"), "{url}: {wrong:?}");
        }
    }

    #[test]
    fn a_password_file_is_merged_in_whatever_it_holds() {
        use sqlx::ConnectOptions as _;

        let url = with_password("postgres://relay@localhost/app?port=1", "p@ss w/+ö&=").unwrap();
        let reread = PgConnectOptions::from_str(&url).unwrap().to_url_lossy();
        assert_eq!(reread.password(), Some("p%40ss%20w%2F%2B%C3%B6%26%3D"));
        assert!(with_password("postgres://u:p@h/d", "x").is_err());
        assert!(with_password("postgres://h/d?password=p", "x").is_err());
    }

    #[test]
    fn a_redacted_url_shows_everything_but_the_password() {
        let redacted = |url: &str| redacted(&Secret::new(url));
        assert_eq!(
            redacted("postgres://u:p:q@h:1/d?sslmode=require"),
            "postgres://u:***@h:1/d?sslmode=require"
        );
        assert_eq!(redacted("postgres://u@h/d?password=p&port=1"), "postgres://u@h/d?password=***&port=1");
        assert_eq!(redacted("postgres:///d"), "postgres:///d");
    }
}
