//! The two traits over the outbox and the broker in memory, for tests that need the real loop and no
//! services. Everything takes effect at once; time is the runtime's, so a paused clock is obeyed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use outbox_relay::message::RowRef;
use outbox_relay::sink::{ErrorType, Failure, Fault, Outcome, Record, Shipment, Sink, SinkEvent};
use outbox_relay::source::{Backlog, Batch, Fetch, Holder, Settled, Settlement, Source, SourceError};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::memory_broker::{Client, MemoryBroker};
use super::memory_outbox::{MemoryOutbox, Owner};

/// An outbox that any number of relays may share.
#[derive(Debug, Clone)]
pub struct FakeOutbox {
    outbox: Arc<Mutex<MemoryOutbox>>,
    owners: Arc<AtomicU64>,
    hints: Arc<Notify>,
    started: Instant,
}

impl FakeOutbox {
    pub fn new(ttl: Duration) -> Self {
        Self {
            outbox: Arc::new(Mutex::new(MemoryOutbox::new(ttl))),
            owners: Arc::default(),
            hints: Arc::default(),
            started: Instant::now(),
        }
    }

    /// Another relay at the same outbox.
    pub fn source(&self) -> FakeSource {
        let owner = self.owners.fetch_add(1, Ordering::Relaxed);
        FakeSource { outbox: self.clone(), owner, listening: AtomicBool::new(false) }
    }

    /// What a trigger does at a commit.
    pub fn notify(&self) {
        self.hints.notify_one();
    }

    pub fn look(&self) -> MutexGuard<'_, MemoryOutbox> {
        self.outbox.lock().expect("no test panics with the outbox in hand")
    }
}

#[derive(Debug)]
pub struct FakeSource {
    outbox: FakeOutbox,
    owner: Owner,
    listening: AtomicBool,
}

/// What a statement takes.
const STATEMENT: Duration = Duration::from_millis(1);

impl Source for FakeSource {
    async fn lease(&self) -> Result<Holder, SourceError> {
        tokio::time::sleep(STATEMENT).await;
        Ok(self.outbox.look().lease(self.owner, self.outbox.started.elapsed()))
    }

    async fn release(&self) -> Result<(), SourceError> {
        tokio::time::sleep(STATEMENT).await;
        self.outbox.look().release(self.owner);
        Ok(())
    }

    async fn fetch(&self, fetch: Fetch) -> Result<Batch, SourceError> {
        tokio::time::sleep(STATEMENT).await;
        Ok(self.outbox.look().fetch(&fetch))
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Settled, SourceError> {
        tokio::time::sleep(STATEMENT).await;
        Ok(self.outbox.look().settle(&settlements, |_| None))
    }

    async fn backlog(&self) -> Result<Backlog, SourceError> {
        tokio::time::sleep(STATEMENT).await;
        Ok(self.outbox.look().backlog(self.outbox.started.elapsed()))
    }

    /// A commit between two calls is told by the second.
    async fn listen(&self) -> Result<(), SourceError> {
        let begun = self.listening.swap(true, Ordering::Relaxed);
        if begun {
            self.outbox.hints.notified().await;
        }
        Ok(())
    }
}

/// A broker that any number of sinks may share.
#[derive(Debug, Clone, Default)]
pub struct FakeBroker {
    state: Arc<Mutex<BrokerState>>,
    news: Arc<Notify>,
}

#[derive(Debug, Default)]
struct BrokerState {
    broker: MemoryBroker,
    inboxes: BTreeMap<Client, Vec<SinkEvent>>,
    clients: Client,
    published: usize,
}

impl BrokerState {
    /// Delivers what a client has queued, if it can be.
    fn deliver(&mut self, client: Client) {
        if self.broker.down {
            return;
        }
        let mut outcomes = Vec::new();
        for (token, record) in self.broker.empty(client) {
            outcomes.push(Outcome { token, result: self.broker.accept(record) });
        }
        if !outcomes.is_empty() {
            self.tell(client, SinkEvent::Outcomes(outcomes));
        }
    }

    fn tell(&mut self, client: Client, event: SinkEvent) {
        self.inboxes.entry(client).or_default().push(event);
    }
}

impl FakeBroker {
    /// Another client of the same broker.
    pub fn sink(&self) -> FakeSink {
        let mut state = self.look();
        state.clients += 1;
        let client = state.clients;
        FakeSink { broker: self.clone(), client }
    }

    fn look(&self) -> MutexGuard<'_, BrokerState> {
        self.state.lock().expect("no test panics with the broker in hand")
    }

    /// Changes what the broker takes.
    pub fn configure(&self, change: impl FnOnce(&mut MemoryBroker)) {
        change(&mut self.look().broker);
    }

    /// Everything it holds, in the order in which it came.
    pub fn log(&self) -> Vec<Arc<Record>> {
        self.look().broker.log.clone()
    }

    /// How many records were given to its clients.
    pub fn published(&self) -> usize {
        self.look().published
    }

    /// Cuts the broker off. Its clients notice.
    pub fn stop(&self) {
        let mut state = self.look();
        state.broker.down = true;
        for client in 1..=state.clients {
            state.tell(client, SinkEvent::Down(down()));
        }
        self.news.notify_waiters();
    }

    pub fn start(&self) {
        let mut state = self.look();
        state.broker.down = false;
        for client in 1..=state.clients {
            state.tell(client, SinkEvent::Up);
            state.deliver(client);
        }
        self.news.notify_waiters();
    }
}

fn down() -> Failure {
    Failure::refused(Fault::Unavailable, ErrorType::BrokerUnavailable, "the broker is down")
}

#[derive(Debug)]
pub struct FakeSink {
    broker: FakeBroker,
    client: Client,
}

impl Sink for FakeSink {
    async fn open(&mut self, _epoch: u64) -> Result<Vec<RowRef>, Failure> {
        tokio::task::yield_now().await;
        let mut state = self.broker.look();
        state.broker.empty(self.client);
        state.inboxes.remove(&self.client);
        if state.broker.down {
            state.tell(self.client, SinkEvent::Down(down()));
        }
        Ok(Vec::new())
    }

    fn publish(&mut self, shipments: Vec<Shipment>) {
        let mut state = self.broker.look();
        state.published += shipments.len();
        for shipment in shipments {
            state.broker.queue(self.client, shipment);
        }
        state.deliver(self.client);
        self.broker.news.notify_waiters();
    }

    async fn events(&mut self) -> Vec<SinkEvent> {
        loop {
            let news = self.broker.news.notified();
            if let Some(events) = self.broker.look().inboxes.remove(&self.client) {
                return events;
            }
            news.await;
        }
    }

    fn purge(&mut self) {
        let mut state = self.broker.look();
        let purged = state.broker.empty(self.client);
        let maybe_published = state.broker.opaque;
        let failure = || Failure {
            maybe_published,
            ..Failure::refused(Fault::Unavailable, ErrorType::Purged, "purged")
        };
        let outcomes: Vec<Outcome> =
            purged.into_iter().map(|(token, _)| Outcome { token, result: Err(failure()) }).collect();
        if !outcomes.is_empty() {
            state.tell(self.client, SinkEvent::Outcomes(outcomes));
            self.broker.news.notify_waiters();
        }
    }

    async fn close(&mut self) {
        tokio::task::yield_now().await;
        self.broker.look().broker.empty(self.client);
    }
}
