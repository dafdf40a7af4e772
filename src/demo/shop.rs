//! The application: customers whose orders are placed by several writers, each order with its outbox row
//! in one transaction. Some transactions are rolled back, as those of any application are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::DemoError;
use super::ledger::{Commit, Order};

pub(super) const WRITERS: u64 = 4;
pub(super) const CUSTOMERS: u64 = 200;

/// One transaction in so many is rolled back.
pub(super) const ROLLED_BACK_ONE_IN: u32 = 10;

const ORDERS_PER_TRANSACTION_MAX: u64 = 3;

/// Where orders are placed.
#[derive(Debug, Clone)]
pub(super) struct Shop {
    pub(super) database: PgConnectOptions,
    /// What an outbox row says about where its event goes.
    pub(super) destination: String,
}

impl Shop {
    /// Creates its tables, next to the outbox.
    pub(super) async fn open(&self) -> Result<(), DemoError> {
        let opened = async {
            let mut connection = PgConnection::connect_with(&self.database).await?;
            connection.execute(include_str!("shop/tables.sql")).await?;
            connection.close().await
        };
        opened.await.map_err(|error: sqlx::Error| DemoError::new("create the application's tables", error))
    }

    /// What the database holds in the end: that, and nothing else, is to be on the broker.
    pub(super) async fn orders(&self) -> Result<Vec<Order>, DemoError> {
        let read = async {
            let mut connection = PgConnection::connect_with(&self.database).await?;
            let orders: Vec<(i64, String, i64, String)> =
                sqlx::query_as(include_str!("shop/orders.sql")).fetch_all(&mut connection).await?;
            connection.close().await?;
            Ok(orders)
        };
        let read = read.await.map_err(|error: sqlx::Error| DemoError::new("read the orders back", error))?;
        let order = |(id, customer, number, payload)| Order { id, customer, number, payload };
        Ok(read.into_iter().map(order).collect())
    }

    /// Starts writers that commit `orders` between them, `per_second` at most.
    pub(super) fn place(&self, orders: u64, per_second: f64) -> Writers {
        let counts = Arc::new(Counts { left: AtomicU64::new(orders), ..Counts::default() });
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        for number in 0..WRITERS {
            let (shop, counts) = (self.clone(), Arc::clone(&counts));
            let rng = SmallRng::seed_from_u64(number);
            tasks.spawn(async move { Writer { shop, counts, rng, start, per_second }.work().await });
        }
        Writers { tasks, counts, commits: Vec::new() }
    }
}

#[derive(Debug, Default)]
struct Counts {
    /// To be committed still, without those that are being placed.
    left: AtomicU64,
    committed: AtomicU64,
    rolled_back: AtomicU64,
}

/// Writers at work; they end with this value.
#[derive(Debug)]
pub(super) struct Writers {
    tasks: JoinSet<Result<Vec<Commit>, sqlx::Error>>,
    counts: Arc<Counts>,
    commits: Vec<Commit>,
}

impl Writers {
    /// Orders committed so far.
    pub(super) fn committed(&self) -> u64 {
        self.counts.committed.load(Ordering::Relaxed)
    }

    /// Orders that were placed and taken back.
    pub(super) fn rolled_back(&self) -> u64 {
        self.counts.rolled_back.load(Ordering::Relaxed)
    }

    /// Whether all is committed.
    pub(super) fn are_done(&mut self) -> Result<bool, DemoError> {
        while let Some(ended) = self.tasks.try_join_next() {
            let commits = ended.expect("a writer neither panics nor is aborted");
            self.commits.extend(commits.map_err(|error| DemoError::new("place orders", error))?);
        }
        Ok(self.tasks.is_empty())
    }

    /// When each row was committed; complete once they are done.
    pub(super) fn into_commits(self) -> Vec<Commit> {
        self.commits
    }
}

struct Writer {
    shop: Shop,
    counts: Arc<Counts>,
    rng: SmallRng,
    start: Instant,
    per_second: f64,
}

impl Writer {
    async fn work(mut self) -> Result<Vec<Commit>, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.shop.database).await?;
        let mut commits = Vec::new();
        while let Some(orders) = self.take() {
            self.keep_pace().await;
            match self.transaction(&mut connection, orders).await? {
                Some(ids) => {
                    _ = self.counts.committed.fetch_add(orders, Ordering::Relaxed);
                    commits.extend(ids);
                }
                None => {
                    _ = self.counts.rolled_back.fetch_add(orders, Ordering::Relaxed);
                    _ = self.counts.left.fetch_add(orders, Ordering::Relaxed);
                }
            }
        }
        connection.close().await?;
        Ok(commits)
    }

    /// How many orders to place next; `None` if there are none left.
    fn take(&mut self) -> Option<u64> {
        let wanted = self.rng.random_range(1..=ORDERS_PER_TRANSACTION_MAX);
        let taken = self.counts.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (left > 0).then(|| left.saturating_sub(wanted))
        });
        taken.ok().map(|left| left.min(wanted))
    }

    /// The writers' pace is common: who is behind is made up for by the others.
    async fn keep_pace(&self) {
        #[allow(clippy::cast_precision_loss, reason = "nobody places 2^52 orders")]
        let due = self.counts.committed.load(Ordering::Relaxed) as f64 / self.per_second;
        tokio::time::sleep_until(self.start + Duration::from_secs_f64(due)).await;
    }

    /// Places orders of different customers; their outbox rows, unless it was rolled back.
    async fn transaction(
        &mut self,
        connection: &mut PgConnection,
        orders: u64,
    ) -> Result<Option<Vec<Commit>>, sqlx::Error> {
        let mut transaction = connection.begin().await?;
        let mut ids = Vec::new();
        for customer in self.customers(orders) {
            ids.push(self.order(&mut transaction, &customer).await?);
        }
        if self.rng.random_ratio(1, ROLLED_BACK_ONE_IN) {
            transaction.rollback().await?;
            return Ok(None);
        }
        // The latest moment before which nobody can have seen it.
        let at = Instant::now();
        transaction.commit().await?;
        Ok(Some(ids.into_iter().map(|id| Commit { id, at }).collect()))
    }

    /// Sorted, so that two transactions never wait for each other.
    fn customers(&mut self, count: u64) -> Vec<String> {
        let mut numbers = Vec::new();
        while (numbers.len() as u64) < count {
            let number = self.rng.random_range(1..=CUSTOMERS);
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        numbers.into_iter().map(|number| format!("customer-{number:03}")).collect()
    }

    /// The outbox pattern: the order and the event about it, in the caller's transaction.
    async fn order(&mut self, connection: &mut PgConnection, customer: &str) -> Result<i64, sqlx::Error> {
        let count = sqlx::query_scalar(include_str!("shop/count.sql")).bind(customer);
        let number: i64 = count.fetch_one(&mut *connection).await?;
        let total_cents: i32 = self.rng.random_range(100..100_000);
        let place =
            sqlx::query_scalar(include_str!("shop/place.sql")).bind(customer).bind(number).bind(total_cents);
        let order: i64 = place.fetch_one(&mut *connection).await?;
        let announce = sqlx::query_scalar(include_str!("shop/announce.sql")).bind(&self.shop.destination);
        announce.bind(customer).bind(order).bind(number).fetch_one(connection).await
    }
}
