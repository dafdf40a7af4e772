//! A session that waits for notifications. They say that somebody wrote, not what: a hint, never needed.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};

use super::SourceError;
use super::connection::{Connector, bounded, explain, silent};

const LISTEN: &str = "could not listen for notifications";

/// A connection over which nobody says anything for this long is asked whether it still lives.
const QUIET_MAX: Duration = Duration::from_secs(30);

/// A connection that listens to one channel.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: PgListener,
    limit: Duration,
}

impl Listener {
    /// # Errors
    /// Whatever kept it from listening.
    pub(crate) async fn open(connector: &Connector, channel: &str) -> Result<Self, SourceError> {
        let patience = connector.connect_timeout();
        // The client library listens over pools only: this one has a single connection, and ends with it.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(patience)
            .connect_lazy_with(connector.options());
        let listening = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.ignore_pool_close_event(true);
            // A lost connection is for the relay to know and to make again.
            listener.eager_reconnect(false);
            listener.listen(channel).await?;
            Ok(listener)
        };
        let listener = match bounded(patience, listening).await {
            Err(sqlx::Error::PoolTimedOut) => return Err(silent(LISTEN, patience)),
            listening => listening.map_err(|error| explain(LISTEN, &error))?,
        };
        Ok(Self { listener, limit: connector.statement_limit() })
    }

    /// Waits for a notification. Those that have come together are one.
    ///
    /// # Errors
    /// The connection is lost; the listener is of no use any more.
    pub(crate) async fn notified(&mut self) -> Result<(), SourceError> {
        loop {
            match tokio::time::timeout(QUIET_MAX, self.listener.try_recv()).await {
                Ok(Ok(Some(_))) => break,
                Ok(Ok(None)) => return Err(lost()),
                Ok(Err(error)) => return Err(explain(LISTEN, &error)),
                Err(_quiet) => self.probe().await?,
            }
        }
        while self.listener.next_buffered().is_some() {}
        Ok(())
    }

    /// A half-open connection would be quiet for ever.
    async fn probe(&mut self) -> Result<(), SourceError> {
        let asked = bounded(self.limit, sqlx::raw_sql("select 1").execute(&mut self.listener)).await;
        asked.map(drop).map_err(|error| explain(LISTEN, &error))
    }
}

fn lost() -> SourceError {
    explain(LISTEN, &sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into()))
}
