//! What a code of AMQP 0-9-1 means for a message, and for everybody else. Pure.

use lapin::{Error, ErrorKind};

use super::tls::Unprepared;
use crate::sink::{ErrorType, Failure, Fault, printable};
use crate::tls;

/// Characters of the broker's or the client's own words that are passed on.
const REASON_CHARS_MAX: usize = 300;

/// The codes that this side asks about by name.
pub(super) mod code {
    pub(in crate::sink::rabbitmq) const NO_ROUTE: u16 = 312;
    pub(in crate::sink::rabbitmq) const ACCESS_REFUSED: u16 = 403;
    pub(in crate::sink::rabbitmq) const NOT_FOUND: u16 = 404;
    pub(in crate::sink::rabbitmq) const RESOURCE_LOCKED: u16 = 405;
    pub(in crate::sink::rabbitmq) const CHANNEL_ERROR: u16 = 504;
}

/// The table, in the order of who has to act: nobody, the broker's operator, the destination's, the row's.
///
/// A code this table does not know waits and is tried again: it never condemns a message.
pub(super) const fn verdict(code: u16) -> (Fault, ErrorType) {
    use ErrorType as E;
    use Fault as F;
    match code {
        // Closed by an operator or at a shutdown; out of some resource; an error of its own.
        320 | 506 | 541 => (F::Unavailable, E::BrokerUnavailable),
        // Somebody else holds what we need for ourselves alone: the lock queue.
        code::RESOURCE_LOCKED => (F::Unavailable, E::Fenced),
        // The virtual host: missing, or not for us.
        402 | 530 => (F::Unavailable, E::Auth),
        // One side does not understand the other. Never a verdict on a message: it tells of no one in particular.
        501..=505 | 540 => (F::Unavailable, E::Other),

        // This destination.
        code::NOT_FOUND => (F::Blocked, E::UnknownDestination),
        code::ACCESS_REFUSED => (F::Blocked, E::Auth),
        code::NO_ROUTE | 313 => (F::Blocked, E::Unroutable),

        // This message.
        311 => (F::Permanent, E::TooLarge),
        406 => (F::Permanent, E::InvalidRecord),

        _ => (F::Transient, E::Other),
    }
}

/// The broker's code, if it gave one.
pub(super) fn code_of(error: &Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// What a message's own channel was closed for.
pub(super) fn message_failure(error: &Error, maybe_published: bool) -> Failure {
    let (fault, error_type) = code_of(error).map_or((Fault::Transient, ErrorType::Other), verdict);
    Failure { fault, error_type, maybe_published, reason: reason(error) }
}

/// Whether the broker ended one channel, for what was done on it.
pub(super) fn is_about_a_channel(error: &Error) -> bool {
    error.is_amqp_soft_error()
}

/// Why a connection ended, of two things said about it: the broker's code before the client's own words,
/// otherwise the first. What ended a channel is never it: that may be one message's fault.
pub(super) fn cause(known: Option<Error>, said: Error) -> Option<Error> {
    let explains = code_of(&said).is_some() && known.as_ref().and_then(code_of).is_none();
    match known {
        known if is_about_a_channel(&said) => known,
        Some(known) if !explains => Some(known),
        Some(_) | None => Some(said),
    }
}

/// Why there is no connection. Whatever it is, it is no message's fault.
pub(crate) fn outage(error: &Error) -> Failure {
    if let Some(distrust) = tls::distrust(error) {
        return Failure::unknown(Fault::Unavailable, ErrorType::Tls, distrust.reason);
    }
    let error_type = match code_of(error).map(verdict) {
        Some((_, error_type)) => error_type,
        None if matches!(error.kind(), ErrorKind::MissingHeartbeatError) => ErrorType::Timeout,
        None if is_unprepared(error) => ErrorType::Tls,
        None => ErrorType::BrokerUnavailable,
    };
    Failure::unknown(Fault::Unavailable, error_type, reason(error))
}

fn is_unprepared(error: &Error) -> bool {
    let ErrorKind::IOError(error) = error.kind() else { return false };
    error.get_ref().is_some_and(|carried| carried.is::<Unprepared>())
}

/// The broker is up and takes nothing, for want of memory or disk.
pub(super) fn alarm(reason: &str) -> Failure {
    let reason = format!("the broker has blocked publishing: {}", printable(reason, REASON_CHARS_MAX));
    Failure::unknown(Fault::Unavailable, ErrorType::Throttled, reason)
}

/// The connection ended and said nothing.
pub(super) fn gone() -> Failure {
    Failure::unknown(
        Fault::Unavailable,
        ErrorType::BrokerUnavailable,
        "the connection to the broker has ended",
    )
}

/// One of the queues bound for it did not take it; the others may have.
pub(super) fn nack() -> Failure {
    let reason = "the broker did not take it: a queue bound for it is full or has failed";
    Failure::unknown(Fault::Blocked, ErrorType::Nack, reason)
}

pub(super) fn no_route() -> Failure {
    Failure::refused(Fault::Blocked, ErrorType::Unroutable, "no queue is bound for it")
}

pub(super) fn unconfirmed() -> Failure {
    Failure::unknown(Fault::Transient, ErrorType::Other, "the broker was not asked to confirm it")
}

fn reason(error: &Error) -> std::sync::Arc<str> {
    let said = match error.kind() {
        ErrorKind::ProtocolError(error) => format!("{} ({})", error.get_message(), error.get_id()),
        ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    };
    printable(&said, REASON_CHARS_MAX).into()
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn protocol_error(code: u16) -> Option<Error> {
        AMQPError::from_id(code, "said".into()).map(|error| ErrorKind::ProtocolError(error).into())
    }

    #[test]
    fn every_row_of_the_table_is_what_is_decided() {
        use ErrorType as E;
        use Fault as F;
        for (code, fault, error_type) in [
            (311, F::Permanent, E::TooLarge),
            (312, F::Blocked, E::Unroutable),
            (313, F::Blocked, E::Unroutable),
            (320, F::Unavailable, E::BrokerUnavailable),
            (402, F::Unavailable, E::Auth),
            (403, F::Blocked, E::Auth),
            (404, F::Blocked, E::UnknownDestination),
            (405, F::Unavailable, E::Fenced),
            (406, F::Permanent, E::InvalidRecord),
            (501, F::Unavailable, E::Other),
            (502, F::Unavailable, E::Other),
            (503, F::Unavailable, E::Other),
            (504, F::Unavailable, E::Other),
            (505, F::Unavailable, E::Other),
            (506, F::Unavailable, E::BrokerUnavailable),
            (530, F::Unavailable, E::Auth),
            (540, F::Unavailable, E::Other),
            (541, F::Unavailable, E::BrokerUnavailable),
        ] {
            assert_eq!(verdict(code), (fault, error_type), "{code}");
            let failure = message_failure(&protocol_error(code).expect("the client knows it"), true);
            assert_eq!((failure.fault, failure.error_type), (fault, error_type), "{code}");
            assert_eq!(&*failure.reason, format!("said ({code})"));
        }
    }

    #[test]
    fn a_code_without_a_row_waits_and_condemns_nobody() {
        for code in [0, 200, 299, 314, 407, 499, 600, u16::MAX] {
            assert_eq!(verdict(code), (Fault::Transient, ErrorType::Other), "{code}");
        }
        let failure = message_failure(&ErrorKind::ChannelsLimitReached.into(), true);
        assert_eq!((failure.fault, failure.error_type), (Fault::Transient, ErrorType::Other));
    }

    #[test]
    fn a_connection_ends_for_what_the_broker_said_of_it_and_never_for_what_ended_a_channel() {
        let said = |code| protocol_error(code).expect("the client knows it");
        let io = || Error::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        let code = |cause: Option<Error>| cause.as_ref().and_then(code_of);
        for soft in [311, 313, 403, 404, 405, 406] {
            assert!(cause(None, said(soft)).is_none(), "{soft}");
            assert_eq!(code(cause(Some(said(504)), said(soft))), Some(504));
        }
        assert_eq!(code(cause(None, said(504))), Some(504));
        assert_eq!(code(cause(Some(io()), said(504))), Some(504));
        assert_eq!(code(cause(Some(said(504)), io())), Some(504));
        assert_eq!(code(cause(Some(said(504)), said(320))), Some(504));
        assert!(cause(None, io()).is_some());
    }

    #[test]
    fn one_queue_s_no_leaves_open_what_the_others_of_its_exchange_hold() {
        let failure = nack();
        assert_eq!((failure.fault, failure.error_type), (Fault::Blocked, ErrorType::Nack));
        assert!(failure.maybe_published);
        assert!(!no_route().maybe_published);
    }

    #[test]
    fn no_connection_is_no_message_s_fault() {
        for code in [320, 403, 404, 405, 406, 530] {
            assert_eq!(outage(&protocol_error(code).expect("the client knows it")).fault, Fault::Unavailable);
        }
        let silent = outage(&ErrorKind::MissingHeartbeatError.into());
        assert_eq!((silent.fault, silent.error_type), (Fault::Unavailable, ErrorType::Timeout));
        let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let distrusted = outage(&std::io::Error::other(expired).into());
        assert_eq!((distrusted.fault, distrusted.error_type), (Fault::Unavailable, ErrorType::Tls));
        assert_eq!(&*distrusted.reason, "the server's certificate has expired");
        let gone = outage(&std::io::Error::from(std::io::ErrorKind::ConnectionReset).into());
        assert_eq!((gone.fault, gone.error_type), (Fault::Unavailable, ErrorType::BrokerUnavailable));
    }
}
