//! What inputs say about the health of the database and the broker: one reading of it, shared by the
//! metrics, the log and the status page, so that they cannot disagree.

use crate::relay::Input;
use crate::sink::{ErrorType, Failure, Fault, SinkEvent};
use crate::source::SourceError;

/// The kinds of calls on the source. Each has its own health: a lease may be renewed while reads fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Lease,
    Release,
    Fetch,
    Settle,
    Measure,
}

impl Call {
    const COUNT: usize = 5;
}

/// The database's answer that `input` carries, if it carries one.
#[must_use]
pub fn database_answer(input: &Input) -> Option<(Call, Result<(), &SourceError>)> {
    match input {
        Input::Lease(result) => Some((Call::Lease, result.as_ref().map(drop))),
        Input::Released(result) => Some((Call::Release, result.as_ref().map(drop))),
        Input::Fetched { result, .. } => Some((Call::Fetch, result.as_ref().map(drop))),
        Input::Settled(result) => Some((Call::Settle, result.as_ref().map(drop))),
        Input::Measured(result) => Some((Call::Measure, result.as_ref().map(drop))),
        // A hint that cannot be had makes nothing fail.
        Input::Hinted(_) => None,
        Input::Opened(_) | Input::Sink(_) | Input::Tick | Input::Drain | Input::Abort => None,
    }
}

/// The failure says that the broker is out, rather than that we emptied or filled our own queue.
#[must_use]
pub fn blames_broker(failure: &Failure) -> bool {
    let ours = matches!(failure.error_type, ErrorType::Purged | ErrorType::ClientQueueFull);
    failure.fault == Fault::Unavailable && !ours
}

/// What was last heard. `None` is unknown, which is neither up nor down.
#[derive(Debug, Clone, Default)]
pub struct Health {
    calls: [Option<bool>; Call::COUNT],
    broker: Option<bool>,
}

impl Health {
    pub fn hear(&mut self, input: &Input) {
        if let Some((call, answer)) = database_answer(input) {
            self.calls[call as usize] = Some(answer.is_ok());
        }
        if let Input::Sink(events) = input {
            events.iter().for_each(|event| self.hear_sink(event));
        }
    }

    fn hear_sink(&mut self, event: &SinkEvent) {
        match event {
            SinkEvent::Up => self.broker = Some(true),
            SinkEvent::Down(_) => self.broker = Some(false),
            SinkEvent::Outcomes(outcomes) => {
                // The last that says anything about the broker is the newest.
                let said = outcomes.iter().rev().find_map(|outcome| match &outcome.result {
                    Ok(()) => Some(true),
                    Err(failure) => blames_broker(failure).then_some(false),
                });
                self.broker = said.or(self.broker);
            }
        }
    }

    /// Without the lease only the lease is asked for: what was known of the rest grows old.
    pub fn stand_by(&mut self) {
        let lease = self.calls[Call::Lease as usize];
        *self = Self::default();
        self.calls[Call::Lease as usize] = lease;
    }

    /// Whether the last call of every kind succeeded.
    #[must_use]
    pub fn database(&self) -> Option<bool> {
        self.calls.iter().flatten().copied().reduce(|all, one| all && one)
    }

    /// Whether the last thing heard of the broker was good.
    #[must_use]
    pub const fn broker(&self) -> Option<bool> {
        self.broker
    }
}

/// What a person can do about a failure of a message or of the broker, where that is known.
#[must_use]
pub const fn advice(error_type: ErrorType) -> Option<&'static str> {
    match error_type {
        ErrorType::BrokerUnavailable => {
            Some("check the broker's address in [sink] and the way to it; nothing is lost")
        }
        ErrorType::Tls => Some(
            "see that the broker's certificate is valid now, names the host it is called by, and is signed by an \
             authority we were told of; and that it accepts ours, if it asks for one",
        ),
        ErrorType::Auth => Some("check the credentials, and that they may write to this destination"),
        ErrorType::UnknownDestination => Some("create the topic or the exchange, or correct [route]"),
        ErrorType::Unroutable => Some("bind a queue to the exchange, or correct the route"),
        ErrorType::TooLarge => Some("raise the limit at the broker and in [sink], or shrink the row"),
        ErrorType::InvalidRecord => Some("correct the row, or delete it from the outbox"),
        ErrorType::Fenced => {
            Some("another relay took over; see that only one is configured for this pipeline")
        }
        ErrorType::Timeout
        | ErrorType::Nack
        | ErrorType::Throttled
        | ErrorType::ClientQueueFull
        | ErrorType::Purged
        | ErrorType::Other => None,
    }
}
