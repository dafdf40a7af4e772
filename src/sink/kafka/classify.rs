//! What a librdkafka error code means for the record it came with, and for everybody else. Pure.

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::sink::{ErrorType, Failure, Fault};

/// What became of a record that librdkafka reported with an error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The log holds it.
    Delivered,
    Failed {
        fault: Fault,
        error_type: ErrorType,
        maybe_published: bool,
    },
}

/// The table, in the order of who has to act: nobody, the broker's operator, the topic's, the row's, ours.
///
/// librdkafka itself retries the codes of a broker that is away or not ready, without end since
/// `message.timeout.ms` is 0; they are listed because a purge or a user's own property can surface them.
/// A code counts as not published only where no earlier try of the same record can have been stored:
/// librdkafka knows that of each record (`rd_kafka_message_status`), its binding does not tell.
/// A code this table does not know waits and is tried again: it never condemns a record.
pub(super) const fn classify(code: Code) -> Verdict {
    use ErrorType as E;
    use Fault as F;
    match code {
        // The broker has this sequence number already: an earlier try was stored.
        Code::NoError | Code::DuplicateSequenceNumber => Verdict::Delivered,

        // The broker is out.
        Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve | Code::BrokerDestroy => {
            unknown(F::Unavailable, E::BrokerUnavailable)
        }
        Code::SSL => unknown(F::Unavailable, E::Tls),
        Code::OperationTimedOut => unknown(F::Unavailable, E::Timeout),
        Code::TimedOutQueue => refused(F::Unavailable, E::Timeout),
        Code::WaitingForCoordinator | Code::DestroyBroker => refused(F::Unavailable, E::BrokerUnavailable),
        // Nothing passes with these credentials, so no single topic is at fault.
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState => unknown(F::Unavailable, E::Auth),
        // A purged queue holds records that were sent before and wait for another try, too.
        Code::PurgeQueue | Code::PurgeInflight => unknown(F::Unavailable, E::Purged),

        // Not now: the broker or this partition is busy with itself.
        Code::MessageTimedOut | Code::RequestTimedOut => unknown(F::Transient, E::Timeout),
        Code::NetworkException | Code::NotEnoughReplicasAfterAppend => {
            unknown(F::Transient, E::BrokerUnavailable)
        }
        Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::BrokerNotAvailable
        | Code::ReplicaNotAvailable
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::NotEnoughReplicas
        | Code::KafkaStorageError => refused(F::Transient, E::BrokerUnavailable),
        Code::ThrottlingQuotaExceeded => refused(F::Transient, E::Throttled),
        Code::QueueFull => refused(F::Transient, E::ClientQueueFull),
        Code::Retry => refused(F::Transient, E::Other),
        // Damaged on the way, or a neighbour in the same batch was invalid.
        Code::InvalidMessage | Code::InvalidDifferentRecord => refused(F::Transient, E::InvalidRecord),

        // This topic.
        Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::UnknownTopicId => refused(F::Blocked, E::UnknownDestination),
        Code::TopicAuthorizationFailed => refused(F::Blocked, E::Auth),
        Code::PolicyViolation => refused(F::Blocked, E::Other),

        // This record.
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            refused(F::Permanent, E::TooLarge)
        }
        Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::InvalidTopic
        | Code::InvalidArgument
        | Code::BadMessage => refused(F::Permanent, E::InvalidRecord),

        // Someone newer.
        Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced => unknown(F::Fenced, E::Fenced),

        // This broker does not do what we ask of it, whatever the record.
        Code::InvalidRequiredAcks
        | Code::UnsupportedVersion
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType
        | Code::SecurityDisabled
        | Code::InvalidConfig
        | Code::UnsupportedFeature => refused(F::Fatal, E::Other),
        // The client has lost count of its sequence numbers: only a new one may go on.
        Code::Fatal
        | Code::OutOfOrderSequenceNumber
        | Code::UnknownProducerId
        | Code::Inconsistent
        | Code::GaplessGuarantee
        | Code::InvalidTransactionalState
        | Code::InvalidTransactionTimeout => unknown(F::Fatal, E::Other),
        Code::ClusterAuthorizationFailed | Code::TransactionalIdAuthorizationFailed => {
            unknown(F::Fatal, E::Auth)
        }

        _ => unknown(F::Transient, E::Other),
    }
}

/// Whether the broker may have judged a batch and not this record. A broker names the invalid records of
/// a batch, but refuses a batch that is too large as a whole.
pub(super) const fn judges_batch(code: Code) -> bool {
    matches!(code, Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize)
}

/// The failure of a record that came back with `code`; `None` if it was delivered after all.
/// `alone` says that the record cannot have shared its batch.
pub(super) fn failure(code: Code, alone: bool) -> Option<Failure> {
    match classify(code) {
        Verdict::Delivered => None,
        Verdict::Failed { fault, error_type, maybe_published } => {
            // Condemning a record for its neighbours' size would be for ever; trying it again is not.
            let shared = judges_batch(code) && !alone;
            let fault = if shared { Fault::Transient } else { fault };
            Some(Failure { fault, error_type, maybe_published, reason: code.to_string().into() })
        }
    }
}

const fn refused(fault: Fault, error_type: ErrorType) -> Verdict {
    Verdict::Failed { fault, error_type, maybe_published: false }
}

const fn unknown(fault: Fault, error_type: ErrorType) -> Verdict {
    Verdict::Failed { fault, error_type, maybe_published: true }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaRespErr;

    use super::*;

    /// One row per code: the fault, the error type, and whether the broker may hold the record.
    const TABLE: &[(Code, Fault, ErrorType, bool)] = {
        use ErrorType as E;
        use Fault as F;
        &[
            (Code::BrokerTransportFailure, F::Unavailable, E::BrokerUnavailable, true),
            (Code::AllBrokersDown, F::Unavailable, E::BrokerUnavailable, true),
            (Code::Resolve, F::Unavailable, E::BrokerUnavailable, true),
            (Code::SSL, F::Unavailable, E::Tls, true),
            (Code::BrokerDestroy, F::Unavailable, E::BrokerUnavailable, true),
            (Code::OperationTimedOut, F::Unavailable, E::Timeout, true),
            (Code::TimedOutQueue, F::Unavailable, E::Timeout, false),
            (Code::WaitingForCoordinator, F::Unavailable, E::BrokerUnavailable, false),
            (Code::DestroyBroker, F::Unavailable, E::BrokerUnavailable, false),
            (Code::Authentication, F::Unavailable, E::Auth, true),
            (Code::SaslAuthenticationFailed, F::Unavailable, E::Auth, true),
            (Code::UnsupportedSASLMechanism, F::Unavailable, E::Auth, true),
            (Code::IllegalSASLState, F::Unavailable, E::Auth, true),
            (Code::PurgeQueue, F::Unavailable, E::Purged, true),
            (Code::PurgeInflight, F::Unavailable, E::Purged, true),
            (Code::MessageTimedOut, F::Transient, E::Timeout, true),
            (Code::RequestTimedOut, F::Transient, E::Timeout, true),
            (Code::NetworkException, F::Transient, E::BrokerUnavailable, true),
            (Code::NotEnoughReplicasAfterAppend, F::Transient, E::BrokerUnavailable, true),
            (Code::LeaderNotAvailable, F::Transient, E::BrokerUnavailable, false),
            (Code::NotLeaderForPartition, F::Transient, E::BrokerUnavailable, false),
            (Code::BrokerNotAvailable, F::Transient, E::BrokerUnavailable, false),
            (Code::ReplicaNotAvailable, F::Transient, E::BrokerUnavailable, false),
            (Code::CoordinatorLoadInProgress, F::Transient, E::BrokerUnavailable, false),
            (Code::CoordinatorNotAvailable, F::Transient, E::BrokerUnavailable, false),
            (Code::NotCoordinator, F::Transient, E::BrokerUnavailable, false),
            (Code::NotEnoughReplicas, F::Transient, E::BrokerUnavailable, false),
            (Code::KafkaStorageError, F::Transient, E::BrokerUnavailable, false),
            (Code::ThrottlingQuotaExceeded, F::Transient, E::Throttled, false),
            (Code::QueueFull, F::Transient, E::ClientQueueFull, false),
            (Code::Retry, F::Transient, E::Other, false),
            (Code::InvalidMessage, F::Transient, E::InvalidRecord, false),
            (Code::InvalidDifferentRecord, F::Transient, E::InvalidRecord, false),
            (Code::UnknownTopic, F::Blocked, E::UnknownDestination, false),
            (Code::UnknownPartition, F::Blocked, E::UnknownDestination, false),
            (Code::UnknownTopicOrPartition, F::Blocked, E::UnknownDestination, false),
            (Code::UnknownTopicId, F::Blocked, E::UnknownDestination, false),
            (Code::TopicAuthorizationFailed, F::Blocked, E::Auth, false),
            (Code::PolicyViolation, F::Blocked, E::Other, false),
            (Code::MessageSizeTooLarge, F::Permanent, E::TooLarge, false),
            (Code::MessageBatchTooLarge, F::Permanent, E::TooLarge, false),
            (Code::InvalidMessageSize, F::Permanent, E::TooLarge, false),
            (Code::InvalidRecord, F::Permanent, E::InvalidRecord, false),
            (Code::InvalidTimestamp, F::Permanent, E::InvalidRecord, false),
            (Code::InvalidTopic, F::Permanent, E::InvalidRecord, false),
            (Code::InvalidArgument, F::Permanent, E::InvalidRecord, false),
            (Code::BadMessage, F::Permanent, E::InvalidRecord, false),
            (Code::Fenced, F::Fenced, E::Fenced, true),
            (Code::InvalidProducerEpoch, F::Fenced, E::Fenced, true),
            (Code::ProducerFenced, F::Fenced, E::Fenced, true),
            (Code::InvalidRequiredAcks, F::Fatal, E::Other, false),
            (Code::UnsupportedVersion, F::Fatal, E::Other, false),
            (Code::UnsupportedForMessageFormat, F::Fatal, E::Other, false),
            (Code::UnsupportedCompressionType, F::Fatal, E::Other, false),
            (Code::SecurityDisabled, F::Fatal, E::Other, false),
            (Code::InvalidConfig, F::Fatal, E::Other, false),
            (Code::UnsupportedFeature, F::Fatal, E::Other, false),
            (Code::Fatal, F::Fatal, E::Other, true),
            (Code::OutOfOrderSequenceNumber, F::Fatal, E::Other, true),
            (Code::UnknownProducerId, F::Fatal, E::Other, true),
            (Code::Inconsistent, F::Fatal, E::Other, true),
            (Code::GaplessGuarantee, F::Fatal, E::Other, true),
            (Code::InvalidTransactionalState, F::Fatal, E::Other, true),
            (Code::InvalidTransactionTimeout, F::Fatal, E::Other, true),
            (Code::ClusterAuthorizationFailed, F::Fatal, E::Auth, true),
            (Code::TransactionalIdAuthorizationFailed, F::Fatal, E::Auth, true),
        ]
    };

    #[test]
    fn every_row_of_the_table_is_what_is_decided() {
        for &(code, fault, error_type, maybe_published) in TABLE {
            let expected = Verdict::Failed { fault, error_type, maybe_published };
            assert_eq!(classify(code), expected, "{code:?}");
        }
    }

    #[test]
    fn a_sequence_number_seen_before_was_delivered_before() {
        assert_eq!(classify(Code::DuplicateSequenceNumber), Verdict::Delivered);
        assert_eq!(failure(Code::DuplicateSequenceNumber, true), None);
    }

    #[test]
    fn a_code_without_a_row_waits_and_condemns_nobody() {
        let known = |code| TABLE.iter().any(|row| row.0 == code);
        let all = (-200..=200).filter_map(|code| RDKafkaRespErr::try_from(code).ok()).map(Code::from);
        let others: Vec<Code> =
            all.filter(|code| !known(*code) && classify(*code) != Verdict::Delivered).collect();
        assert!(others.len() > 50, "the bindings name more codes than the table: {}", others.len());
        for code in others {
            let expected = unknown(Fault::Transient, ErrorType::Other);
            assert_eq!(classify(code), expected, "{code:?}");
        }
    }

    #[test]
    fn a_batch_that_is_too_large_condemns_only_a_record_that_was_alone_in_it() {
        let fault = |code, alone| failure(code, alone).map(|failure| failure.fault);
        assert_eq!(fault(Code::MessageSizeTooLarge, true), Some(Fault::Permanent));
        assert_eq!(fault(Code::MessageSizeTooLarge, false), Some(Fault::Transient));
        assert_eq!(fault(Code::InvalidRecord, false), Some(Fault::Permanent));
    }
}
