//! What the sink's task reports: outcomes as they come, and an outage once, with its end.

use std::sync::Arc;

use crate::sink::inbox::Inbox;
use crate::sink::{ErrorType, Failure, Fault, Shipment, SinkEvent};

#[derive(Debug)]
pub(super) struct Teller {
    inbox: Arc<Inbox>,
    /// `Down` was told and no `Up` since.
    down: bool,
    /// The broker has confirmed something since this was last asked.
    confirmed: bool,
}

impl Teller {
    pub(super) const fn new(inbox: Arc<Inbox>) -> Self {
        Self { inbox, down: false, confirmed: false }
    }

    pub(super) fn down(&mut self, failure: Failure) {
        if !std::mem::replace(&mut self.down, true) {
            self.inbox.event(SinkEvent::Down(failure));
        }
    }

    pub(super) fn up(&mut self) {
        if std::mem::take(&mut self.down) {
            self.inbox.event(SinkEvent::Up);
        }
    }

    pub(super) fn confirmed(&mut self, shipment: &Shipment) {
        self.confirmed = true;
        self.inbox.outcome(shipment.token, Ok(()));
    }

    pub(super) const fn take_confirmed(&mut self) -> bool {
        std::mem::replace(&mut self.confirmed, false)
    }

    pub(super) fn failed(&self, shipments: &[Shipment], failure: &Failure) {
        for shipment in shipments {
            self.inbox.outcome(shipment.token, Err(failure.clone()));
        }
    }

    /// `doubtful` may have been sent before.
    pub(super) fn purged(&self, doubtful: &[Shipment], unsent: &[Shipment]) {
        let reason = "taken back before the broker confirmed it";
        self.failed(doubtful, &Failure::unknown(Fault::Unavailable, ErrorType::Purged, reason));
        self.failed(unsent, &Failure::refused(Fault::Unavailable, ErrorType::Purged, reason));
    }
}
