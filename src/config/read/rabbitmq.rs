//! `[sink.rabbitmq]`: where the broker is, who we are to it, and proof that nobody can listen in.
//!
//! As with the database's url, everything in this one may be a secret, so no message quotes any of it.

use std::path::PathBuf;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};

use super::database_url::percent_encoded;
use super::{BYTES_MAX, HOUR, ms, secret_file};
use crate::config::check::is_loopback;
use crate::config::problem::Wrong;
use crate::config::section::Section;
use crate::config::value::{boolean, bytes, count, duration, path, secret, text};
use crate::config::{Identity, RabbitMq, Secret};

/// What a url may ask for besides; the client would pass over anything else.
const PARAMETERS: [&str; 2] = ["auth_mechanism", "frame_max"];

/// Parameters that have a key of their own here.
const MOVED: [(&str, &str); 5] = [
    ("heartbeat", "sink.rabbitmq.heartbeat"),
    ("channel_max", "sink.rabbitmq.channels"),
    ("cacertfile", "sink.rabbitmq.ca_file"),
    ("certfile", "sink.rabbitmq.cert_file"),
    ("keyfile", "sink.rabbitmq.key_file"),
];

/// A channel is a process of the broker's and a window of ours; beyond this many neither gains.
const CHANNELS_MAX: usize = 256;

/// A short string of the protocol.
const NAME_BYTES_MAX: usize = 255;

pub(super) fn rabbitmq(section: &mut Section<'_>) -> Option<RabbitMq> {
    let url = url(section);
    let tls = tls(section);
    let channels = section.defaulted("channels", count(1..=CHANNELS_MAX));
    let confirm_timeout = section.defaulted("confirm_timeout", duration(ms(1_000)..=HOUR));
    let heartbeat = section.defaulted("heartbeat", duration(ms(1_000)..=HOUR));
    let connection_name = section.optional("connection_name", connection_name);
    let lock = section.optional("lock", lock);
    let message_bytes_max = section.defaulted("message_bytes_max", bytes(1..=BYTES_MAX));
    let (confirm_timeout, heartbeat) = (confirm_timeout?, heartbeat?);
    patience(section, confirm_timeout, heartbeat)?;
    let (url, (ca_file, identity)) = (url?, tls?);
    if !is_tls(url.reveal()) && (ca_file.is_some() || identity.is_some()) {
        let wrong =
            Wrong::new("is given with amqp://, which uses no certificates", "write amqps:// in the url");
        section.report(if ca_file.is_some() { "ca_file" } else { "cert_file" }, wrong);
        return None;
    }
    Some(RabbitMq {
        url,
        ca_file,
        identity,
        channels: channels?,
        confirm_timeout,
        heartbeat,
        connection_name: connection_name?,
        lock: lock?,
        message_bytes_max: message_bytes_max?,
    })
}

/// Knows the keys and judges none: another sink was chosen, perhaps for a moment.
pub(super) fn pass_over(section: &mut Section<'_>) {
    let keys = [
        "url",
        "url_file",
        "password_file",
        "insecure_allow_plaintext",
        "ca_file",
        "cert_file",
        "key_file",
        "channels",
        "confirm_timeout",
        "heartbeat",
        "connection_name",
        "lock",
        "message_bytes_max",
    ];
    for key in keys {
        let _value = section.optional(key, |_| Ok(()));
    }
}

/// What the client makes of `url`. Its own parser takes an IPv6 address for no host, and goes to this
/// machine instead.
pub(in crate::config) fn parsed(url: &str) -> Result<AMQPUri, String> {
    let mut uri: AMQPUri = url.parse()?;
    let (_, authority, _) = parts(url);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if let Some((address, _port)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        address.clone_into(&mut uri.authority.host);
    }
    Ok(uri)
}

/// Whether messages, having been consented to, may leave this host in the clear.
pub(in crate::config) fn is_plaintext_allowed(url: &Secret) -> bool {
    parsed(url.reveal()).is_ok_and(|uri| may_be_plaintext(&uri))
}

/// The url with the password in it replaced by `***`.
pub(in crate::config) fn redacted(url: &Secret) -> String {
    let (scheme, authority, rest) = parts(url.reveal());
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _password)) => format!("{user}:***@{host}"),
            None => format!("{user}@{host}"),
        },
        None => authority.to_owned(),
    };
    format!("{scheme}://{authority}{rest}")
}

fn url(section: &mut Section<'_>) -> Option<Secret> {
    let text = section.optional("url", secret);
    let from_file = section.optional("url_file", secret_file);
    let password = section.optional("password_file", secret_file);
    let consent = section.defaulted("insecure_allow_plaintext", boolean);
    let (key, url) = match (text?, from_file?) {
        (Some(url), None) => ("url", url),
        (None, Some(url)) => ("url_file", url),
        (Some(_), Some(url)) if !section.is_given("url") => ("url_file", url),
        (Some(_), Some(_)) => {
            section.report("url", Wrong::new("is given besides url_file", "give one of the two"));
            return None;
        }
        (None, None) => {
            let hint = "write amqp://user@host/%2f, or give sink.rabbitmq.url_file";
            section.report("url", Wrong::new("is missing", hint));
            return None;
        }
    };
    let url = checked(url, password?.as_deref(), consent?);
    url.map(Secret::new).map_err(|wrong| section.report(key, wrong)).ok()
}

fn checked(url: String, password: Option<&str>, consent: bool) -> Result<String, Wrong> {
    let uri = well_formed(&url)?;
    if !consent && may_be_plaintext(&uri) {
        let hint = "write amqps://, or consent with sink.rabbitmq.insecure_allow_plaintext = true";
        return Err(Wrong::new("leads to another host without TLS", hint));
    }
    match password {
        Some(password) => with_password(&url, password),
        None => Ok(url),
    }
}

/// What the client makes of `url`.
fn well_formed(url: &str) -> Result<AMQPUri, Wrong> {
    let (scheme, _, rest) = parts(url);
    if !matches!(scheme, "amqp" | "amqps") {
        return Err(Wrong::new("does not start with amqp:// or amqps://", "write amqp://user@host:5672/%2f"));
    }
    if rest.contains(['@', '#']) {
        let hint = "write special characters of user and password in percent encoding: %40 for @, %2F for /, \
                    %23 for #, %3F for ?; or use sink.rabbitmq.password_file, which takes it as it is";
        return Err(Wrong::new("has an `@` or `#` after the host", hint));
    }
    let (vhost, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    if vhost == "/" {
        let hint = "write /%2f for the default virtual host, or nothing after the host";
        return Err(Wrong::new("names a virtual host without a name", hint));
    }
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        known_parameter(parameter.split('=').next().unwrap_or(parameter))?;
    }
    parsed(url).map_err(|_quotes_the_url| {
        let hint = "write amqp://user@host:5672/%2f, special characters in percent encoding";
        Wrong::new("is not a url the client understands", hint)
    })
}

fn known_parameter(name: &str) -> Result<(), Wrong> {
    if PARAMETERS.contains(&name) {
        return Ok(());
    }
    let hint = match MOVED.iter().find(|(moved, _)| *moved == name) {
        Some((_, key)) => format!("write {key} instead"),
        None => format!("remove it; known here: {}", PARAMETERS.join(", ")),
    };
    Err(Wrong::new("has a parameter that is not taken here", hint))
}

fn may_be_plaintext(uri: &AMQPUri) -> bool {
    match uri.scheme {
        AMQPScheme::AMQP => !is_loopback(&uri.authority.host),
        AMQPScheme::AMQPS => false,
    }
}

fn is_tls(url: &str) -> bool {
    parts(url).0 == "amqps"
}

/// Between the user and the `@`.
fn with_password(url: &str, password: &str) -> Result<String, Wrong> {
    let (scheme, authority, rest) = parts(url);
    let Some((user, host)) = authority.rsplit_once('@').filter(|(user, _)| !user.is_empty()) else {
        let hint = "write the user into it: amqp://user@host";
        return Err(Wrong::new("names no user for the password of password_file", hint));
    };
    if user.contains(':') {
        let hint = "remove it from the url, or remove sink.rabbitmq.password_file";
        return Err(Wrong::new("holds a password besides password_file", hint));
    }
    Ok(format!("{scheme}://{user}:{}@{host}{rest}", percent_encoded(password)))
}

/// Scheme, user and host, and all that follows.
fn parts(url: &str) -> (&str, &str, &str) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    (scheme, authority, rest)
}

fn tls(section: &mut Section<'_>) -> Option<(Option<PathBuf>, Option<Identity>)> {
    let ca_file = section.optional("ca_file", path);
    let cert_file = section.optional("cert_file", path);
    let key_file = section.optional("key_file", path);
    let identity = match (cert_file?, key_file?) {
        (Some(cert_file), Some(key_file)) => Some(Identity { cert_file, key_file }),
        (None, None) => None,
        (Some(_), None) => {
            section
                .report("key_file", Wrong::new("is missing beside cert_file", "name the certificate's key"));
            return None;
        }
        (None, Some(_)) => {
            section
                .report("cert_file", Wrong::new("is missing beside key_file", "name the key's certificate"));
            return None;
        }
    };
    Some((ca_file?, identity))
}

fn connection_name(value: &config::Value) -> Result<String, Wrong> {
    let name = text(value)?;
    if name.len() > NAME_BYTES_MAX {
        return Err(Wrong::new("is too long", format!("write at most {NAME_BYTES_MAX} bytes")));
    }
    Ok(name)
}

fn lock(value: &config::Value) -> Result<String, Wrong> {
    let name = text(value)?;
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let hint = format!("write 1 to {NAME_BYTES_MAX} bytes, such as relay.lock.orders");
        return Err(Wrong::new("is no name of a queue", hint));
    }
    if name.starts_with("amq.") {
        return Err(Wrong::new("begins with amq., which the broker keeps for itself", "write another name"));
    }
    Ok(name)
}

/// A dead network is told by its heartbeats; only a broker that lives and is silent by this timeout.
fn patience(section: &mut Section<'_>, confirm_timeout: Duration, heartbeat: Duration) -> Option<()> {
    if confirm_timeout > heartbeat {
        return Some(());
    }
    let hint = "write more than sink.rabbitmq.heartbeat";
    section.report("confirm_timeout", Wrong::new("is not above the heartbeat", hint));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_on_this_host_or_demands_tls_is_private() {
        let plaintext = |url: &str| may_be_plaintext(&well_formed(url).unwrap());
        assert!(plaintext("amqp://relay@rabbit/%2f"));
        assert!(plaintext("amqp://localhost.example.com"));
        assert!(!plaintext("amqps://relay@rabbit/%2f"));
        assert!(!plaintext("amqp://localhost"));
        assert!(!plaintext("amqp://127.0.0.1:5673/app"));
        assert!(!plaintext("amqp://u:p@[::1]:5673"));
        assert!(plaintext("amqp://u:p@[2001:db8::1]"));
    }

    #[test]
    fn a_url_with_a_slip_in_it_is_refused_and_not_quoted() {
        for url in [
            "http://u:canary@h",
            "amqp://u:1/canary@h",
            "amqp://u:1#canary@h",
            "amqp://u:canary@h/",
            "amqp://u:canary@h:port",
            "amqp://u@h/%2f?canary=1",
            "amqp://u:canary@h/%2f?heartbeat=1",
        ] {
            let wrong = well_formed(url).unwrap_err();
            assert!(!format!("{wrong:?}").contains("canary"), "{url}: {wrong:?}");
        }
    }

    #[test]
    fn an_ipv6_address_is_a_host_like_any_other() {
        let host = |url: &str| parsed(url).unwrap().authority.host;
        assert_eq!(host("amqp://relay:p%40@[2001:db8::1]:5673/%2f"), "2001:db8::1");
        assert_eq!(host("amqp://relay@rabbit/%2f"), "rabbit");
    }

    #[test]
    fn a_password_file_is_merged_in_whatever_it_holds() {
        let url = with_password("amqp://relay@localhost:1/app?frame_max=4096", "p@ss w/+ö&=").unwrap();
        let uri = well_formed(&url).unwrap();
        assert_eq!(uri.authority.userinfo.password, "p@ss w/+ö&=");
        assert_eq!((uri.authority.userinfo.username.as_str(), uri.vhost.as_str()), ("relay", "app"));
        assert!(with_password("amqp://u:p@h", "x").is_err());
        assert!(with_password("amqp://h", "x").is_err());
    }

    #[test]
    fn a_redacted_url_shows_everything_but_the_password() {
        let redacted = |url: &str| redacted(&Secret::new(url));
        assert_eq!(redacted("amqps://u:p:q@h:1/d?frame_max=1"), "amqps://u:***@h:1/d?frame_max=1");
        assert_eq!(redacted("amqp://u@h/%2f"), "amqp://u@h/%2f");
        assert_eq!(redacted("amqp://h"), "amqp://h");
    }
}
