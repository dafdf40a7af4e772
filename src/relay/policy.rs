//! Judgement: what a failure means for the message, its lane and the broker.

use crate::sink::{ErrorType, Failure, Fault, OnUnroutable};

/// What to do about a record that was not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken back from the client's queue: keep the message, blame nobody.
    Keep,
    /// The broker is out: keep the message, shut the gate, count nothing against it.
    Outage,
    /// Hold this message and its lane back, and try again later.
    Hold,
    /// Nobody wants it, which is legal: it has been delivered to all there are.
    Accept,
    /// Someone newer owns the shard: stop at once.
    StepDown,
    /// The client is broken: keep the message and open the sink anew.
    Reopen,
}

/// Nothing is ever given up here: a failure that is not an outage holds its key until it passes, unless
/// the message's route says that it is none.
#[must_use]
pub const fn judge(failure: &Failure, on_unroutable: OnUnroutable) -> Verdict {
    match failure.fault {
        Fault::Unavailable if matches!(failure.error_type, ErrorType::Purged) => Verdict::Keep,
        Fault::Unavailable => Verdict::Outage,
        Fault::Blocked if matches!(failure.error_type, ErrorType::Unroutable) => match on_unroutable {
            OnUnroutable::Accept => Verdict::Accept,
            // There are no dead letters to put it to.
            OnUnroutable::Block | OnUnroutable::DeadLetter => Verdict::Hold,
        },
        Fault::Blocked | Fault::Transient | Fault::Permanent => Verdict::Hold,
        Fault::Fenced => Verdict::StepDown,
        Fault::Fatal => Verdict::Reopen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_message_that_may_be_unroutable_is_accepted_without_a_queue() {
        let failed = |error_type| Failure::refused(Fault::Blocked, error_type, "no");
        for on_unroutable in [OnUnroutable::Block, OnUnroutable::DeadLetter, OnUnroutable::Accept] {
            let accepted = on_unroutable == OnUnroutable::Accept;
            let unroutable = if accepted { Verdict::Accept } else { Verdict::Hold };
            assert_eq!(judge(&failed(ErrorType::Unroutable), on_unroutable), unroutable);
            assert_eq!(judge(&failed(ErrorType::Nack), on_unroutable), Verdict::Hold);
            assert_eq!(judge(&failed(ErrorType::UnknownDestination), on_unroutable), Verdict::Hold);
        }
    }
}
