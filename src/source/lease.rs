//! The right to publish: one row, on the database's clock. Who holds it is decided here, how long it
//! may be trusted by the relay.

use std::time::Duration;

use uuid::Uuid;

use super::Holder;
use super::statement::Statement;
use super::wire::Wire;
use crate::config::ColumnName;

/// There is one slice of keys so far.
const SHARD: i32 = 0;

/// The statements over the lease of one pipeline.
#[derive(Debug)]
pub(crate) struct Lease {
    pipeline: String,
    owner: Uuid,
    ttl: Duration,
    look: Statement,
    create: Statement,
    take: Statement,
    release: Statement,
}

impl Lease {
    pub(crate) fn new(schema: &ColumnName, pipeline: &str, ttl: Duration) -> Self {
        let schema = schema.quoted();
        let statement = |sql| Statement::fill(sql, &[("schema", &schema)]);
        Self {
            pipeline: pipeline.to_owned(),
            owner: Uuid::new_v4(),
            ttl,
            look: statement(include_str!("outbox/lease_look.sql")),
            create: statement(include_str!("outbox/lease_create.sql")),
            take: statement(include_str!("outbox/lease_take.sql")),
            release: statement(include_str!("outbox/lease_release.sql")),
        }
    }

    /// Takes it if it is free. Standing by costs one read and writes nothing.
    pub(crate) async fn take(&self, c: &mut Wire) -> Result<Holder, sqlx::Error> {
        let look = sqlx::query_as::<_, (bool, f64)>(self.look.sql()).bind(&self.pipeline).bind(SHARD);
        match look.bind(self.owner).fetch_optional(&mut *c).await? {
            Some((false, seconds)) => {
                let expires_in = Duration::try_from_secs_f64(seconds).unwrap_or(self.ttl);
                Ok(Holder::Other { expires_in })
            }
            Some((true, _)) => self.renew(c).await,
            None => {
                sqlx::query(self.create.sql()).bind(&self.pipeline).bind(SHARD).execute(&mut *c).await?;
                self.renew(c).await
            }
        }
    }

    /// Renews it if it is ours, takes it if it is free; one statement.
    pub(crate) async fn renew(&self, c: &mut Wire) -> Result<Holder, sqlx::Error> {
        let take = sqlx::query_scalar::<_, i64>(self.take.sql()).bind(&self.pipeline).bind(SHARD);
        let taken = take.bind(self.owner).bind(self.ttl.as_secs_f64()).fetch_optional(c).await?;
        // Whoever was quicker has only just taken it.
        let other = Holder::Other { expires_in: self.ttl };
        Ok(taken.map_or(other, |epoch| Holder::Us(epoch.unsigned_abs())))
    }

    pub(crate) async fn release(&self, c: &mut Wire) -> Result<(), sqlx::Error> {
        let release = sqlx::query(self.release.sql()).bind(&self.pipeline).bind(SHARD).bind(self.owner);
        release.execute(c).await.map(drop)
    }
}
