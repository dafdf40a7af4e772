//! Judgement: what a failure means for the message, its lane and the broker.

use crate::sink::{ErrorType, Failure, Fault};

/// What to do about a record that was not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken back from the client's queue: keep the message, blame nobody.
    Keep,
    /// The broker is out: keep the message, shut the gate, count nothing against it.
    Outage,
    /// Hold this message and its lane back, and try again later.
    Hold,
    /// Someone newer owns the shard: stop at once.
    StepDown,
    /// The client is broken: keep the message and open the sink anew.
    Reopen,
}

/// Nothing is ever given up here: a failure that is not an outage holds its key until it passes.
#[must_use]
pub const fn judge(failure: &Failure) -> Verdict {
    match failure.fault {
        Fault::Unavailable if matches!(failure.error_type, ErrorType::Purged) => Verdict::Keep,
        Fault::Unavailable => Verdict::Outage,
        Fault::Blocked | Fault::Transient | Fault::Permanent => Verdict::Hold,
        Fault::Fenced => Verdict::StepDown,
        Fault::Fatal => Verdict::Reopen,
    }
}
