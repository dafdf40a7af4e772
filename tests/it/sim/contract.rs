//! The fakes pass the suites of what they fake.

use std::sync::Arc;

use outbox_relay::message::RowId;
use outbox_relay::sink::{Destination, Record};
use outbox_relay::source::Refusal;

use super::fakes::{FakeBroker, FakeOutbox, FakeSink, FakeSource};
use super::memory_outbox::{self, Transaction};
use super::world::TTL;
use crate::contract::sink::{Broker, sink_contract};
use crate::contract::source::{Harness, MESSAGE_BYTES_MAX, NewRow, source_contract};

mod sink {
    use super::*;

    const RECORD_BYTES_MAX: usize = 10_000;

    struct Fake(FakeBroker);

    fn broker() -> Option<Fake> {
        let broker = FakeBroker::default();
        broker.configure(|broker| {
            broker.record_bytes_max = Some(RECORD_BYTES_MAX);
            broker.missing.insert(missing());
        });
        Some(Fake(broker))
    }

    fn missing() -> Destination {
        Destination::Topic("missing".into())
    }

    impl Broker for Fake {
        type Sink = FakeSink;

        fn sink(&self) -> FakeSink {
            self.0.sink()
        }

        async fn destination(&self) -> Destination {
            Destination::Topic("orders".into())
        }

        fn missing_destination(&self) -> Option<Destination> {
            Some(missing())
        }

        async fn read(&self, destination: &Destination) -> Vec<Record> {
            let log = self.0.log();
            log.iter().filter(|record| record.destination == *destination).map(|r| Record::clone(r)).collect()
        }

        async fn stop(&self) -> bool {
            self.0.stop();
            true
        }

        fn start(&self) {
            self.0.start();
        }

        fn oversize(&self) -> usize {
            RECORD_BYTES_MAX + 1
        }
    }

    sink_contract!(broker());
}

mod source {
    use super::*;

    struct Fake(FakeOutbox);

    async fn outbox() -> Option<Fake> {
        tokio::task::yield_now().await;
        let outbox = FakeOutbox::new(TTL);
        outbox.look().message_bytes_max = Some(MESSAGE_BYTES_MAX);
        Some(Fake(outbox))
    }

    impl Harness for Fake {
        type Source = FakeSource;
        type Writer = Transaction;

        fn source(&self) -> FakeSource {
            self.0.source()
        }

        async fn begin(&self) -> Transaction {
            self.0.look().begin()
        }

        async fn insert(&self, writer: &mut Transaction, rows: &[NewRow]) {
            for row in rows {
                let row = memory_outbox::NewRow {
                    key: row.key.clone().map(Into::into),
                    destination: row.destination.as_deref().map(Arc::from),
                    payload: row.payload.clone().map(Into::into),
                };
                self.0.look().insert(*writer, row);
            }
        }

        async fn commit(&self, writer: Transaction) {
            self.0.look().commit(writer);
            self.0.notify();
        }

        async fn rollback(&self, writer: Transaction) {
            self.0.look().roll_back(writer);
        }

        async fn pending(&self) -> usize {
            self.0.look().rows().filter(|(_, row)| row.pending).count()
        }

        async fn refuse_mark(&self, id: &RowId) {
            let refusal = Refusal::Failed("could not mark the row: a check failed".into());
            self.0.look().unmarkable.insert(id.clone(), refusal);
        }

        async fn swallow_mark(&self, id: &RowId) {
            let refusal = Refusal::Vanished("the row is still pending".into());
            self.0.look().unmarkable.insert(id.clone(), refusal);
        }

        async fn delete(&self, id: &RowId) {
            self.0.look().delete(id);
        }

        fn lease_ttl(&self) -> std::time::Duration {
            TTL
        }

        async fn expire_lease(&self) {
            self.0.look().lease.expires_at = std::time::Duration::ZERO;
        }
    }

    source_contract!(outbox());
}
