//! One connection to the broker: made, locked for this pipeline, and ended for good.
//!
//! The client cannot be asked to drop what it holds: a close waits behind it, for ever while the broker
//! reads nothing. So a [`Wire`] keeps a second handle of the socket, and cutting it ends everything.

use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::Stream;
use lapin::options::QueueDeclareOptions;
use lapin::tcp::{AMQPUriTcpExt as _, AsyncTcpStream};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Error, Event};

use super::classify::{self, code};
use super::tls;
use crate::config;
use crate::sink::{ErrorType, Failure, Fault};

/// How long name lookup and TCP may take, and then TLS and the protocol's own greetings.
const REACH_TIMEOUT: Duration = Duration::from_secs(10);
const GREET_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a close in good order may take; the socket is gone afterwards either way.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// What a connection is made of.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) broker: config::RabbitMq,
    pub(super) pipeline: String,
}

impl Settings {
    /// Exclusive to the connection that declares it: who holds it publishes, and nobody else.
    fn lock_queue(&self) -> String {
        self.broker.lock.clone().unwrap_or_else(|| format!("relay.lock.{}", self.pipeline))
    }

    fn uri(&self) -> Result<AMQPUri, String> {
        let mut uri = self.broker.uri()?;
        uri.query.heartbeat = u16::try_from(self.broker.heartbeat.as_secs()).ok();
        Ok(uri)
    }

    fn properties(&self) -> ConnectionProperties {
        let name = self.broker.connection_name.clone();
        let name = name.unwrap_or_else(|| format!("outbox-relay.{}", self.pipeline));
        ConnectionProperties::default()
            .with_connection_name(name.into())
            .with_client_property("product".into(), env!("CARGO_PKG_NAME").into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into())
    }
}

/// The socket of one attempt to connect, for whoever has to end it.
#[derive(Debug, Default)]
pub(super) struct Wire(Mutex<Socket>);

#[derive(Debug, Default)]
enum Socket {
    #[default]
    Unmade,
    Made(TcpStream),
    Cut,
}

impl Wire {
    /// Ends the connection, now or as soon as it is made. Nothing more leaves this process on it.
    pub(super) fn cut(&self) {
        let socket = std::mem::replace(&mut *self.socket(), Socket::Cut);
        if let Socket::Made(socket) = socket {
            // It may have ended by itself.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn made(&self, stream: &tokio::net::TcpStream) -> io::Result<()> {
        // Once closed, what the broker has not acknowledged is dropped instead of sent.
        stream.set_zero_linger()?;
        let mut socket = self.socket();
        if matches!(*socket, Socket::Cut) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        *socket = Socket::Made(stream.as_fd().try_clone_to_owned()?.into());
        Ok(())
    }

    fn socket(&self) -> MutexGuard<'_, Socket> {
        self.0.lock().expect("no thread panics while it holds the socket")
    }
}

/// A connection that holds the lock queue.
pub(super) struct Link {
    pub(super) connection: Arc<Connection>,
    /// Alarms, and the end.
    pub(super) news: Pin<Box<dyn Stream<Item = Event> + Send>>,
    wire: Arc<Wire>,
}

impl Link {
    /// Connects and takes the lock queue, or says why not.
    pub(super) async fn make(settings: Arc<Settings>, wire: Arc<Wire>) -> Result<Self, Failure> {
        let connection = greeted(&settings, &wire).await?;
        let news = Box::pin(connection.events_listener());
        let link = Self { news, connection: Arc::new(connection), wire };
        match tokio::time::timeout(GREET_TIMEOUT, lock(&link.connection, &settings)).await {
            Ok(locked) => locked.map(|()| link),
            Err(_elapsed) => Err(silent("the broker did not declare the lock queue within 20 s")),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.connection.status().connected()
    }

    /// What one frame carries at most, as agreed on.
    pub(super) fn frame_bytes_max(&self) -> usize {
        self.connection.configuration().frame_max() as usize
    }

    /// Windows the broker lets us have under way, each on a channel of its own.
    pub(super) fn windows_max(&self) -> usize {
        windows_max(self.connection.configuration().channel_max())
    }

    pub(super) fn cut(&self) {
        self.wire.cut();
    }

    /// In good order if the broker answers soon.
    pub(super) async fn close(self) {
        // Whether it did makes no difference any more.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.connection.close(200, "OK".into())).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.wire.cut();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// Connects, or says why not.
pub(super) async fn greeted(settings: &Settings, wire: &Arc<Wire>) -> Result<Connection, Failure> {
    match tokio::time::timeout(GREET_TIMEOUT, connect(settings, Arc::clone(wire))).await {
        Ok(connected) => connected.map_err(|error| classify::outage(&error)),
        Err(_elapsed) => {
            wire.cut();
            Err(silent("the broker did not greet within 20 s"))
        }
    }
}

/// One channel is for looking at exchanges, and one may be about to close.
fn windows_max(channel_max: u16) -> usize {
    usize::from(channel_max).saturating_sub(2).max(1)
}

/// The queue goes with the connection, however that ends.
async fn lock(connection: &Connection, settings: &Settings) -> Result<(), Failure> {
    let queue = settings.lock_queue();
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    let declared = async {
        let channel = open_channel(connection).await?;
        let name = ShortString::try_new(queue.as_str()).expect("names were measured when they were read");
        channel.queue_declare(name, options, FieldTable::default()).await?;
        channel.close(200, "OK".into()).await
    };
    declared.await.map_err(|error| unlocked(&error, &queue, &settings.pipeline))
}

/// Why the lock queue is not ours, and what a person can do.
fn unlocked(error: &Error, queue: &str, pipeline: &str) -> Failure {
    let failure = classify::outage(error);
    let why = match classify::code_of(error) {
        Some(code::RESOURCE_LOCKED) => format!(
            "another relay publishes under the pipeline name {pipeline} on this virtual host: it holds the lock \
             queue {queue}; if it serves another database, give one of them another pipeline.name"
        ),
        Some(code::ACCESS_REFUSED) => {
            format!("could not declare the lock queue {queue}: grant its user to configure it: {failure}")
        }
        Some(_) | None => format!("could not declare the lock queue {queue}: {failure}"),
    };
    Failure { reason: why.into(), ..failure }
}

async fn connect(settings: &Settings, wire: Arc<Wire>) -> lapin::Result<Connection> {
    let uri = settings.uri().map_err(io::Error::other)?;
    let broker = settings.broker.clone();
    let runtime = lapin::runtime::default_runtime()?;
    Connection::connector(
        uri,
        runtime,
        async move |uri: AMQPUri, runtime| {
            let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
            let reached = tokio::time::timeout(REACH_TIMEOUT, plain.connect_async(&runtime)).await;
            let stream = reached.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
            if let AsyncTcpStream::Plain(socket) = &stream {
                wire.made(socket.get_ref())?;
            }
            match uri.scheme {
                AMQPScheme::AMQP => Ok(stream),
                // Read at every connect, so that renewed certificates need no restart. This thread is the
                // client's own: it may wait for files.
                AMQPScheme::AMQPS => {
                    let connector = tls::connector(&broker)?;
                    Ok(stream.into_rustls(&connector, &uri.authority.host).await?)
                }
            }
        },
        settings.properties(),
    )
    .await
}

fn silent(reason: &str) -> Failure {
    Failure::unknown(Fault::Unavailable, ErrorType::Timeout, reason)
}

/// A new channel.
///
/// Whatever prevents one is the connection's fault: numbers of channels come round, and then the client
/// answers for the new channel with what the broker ended an older one of its number for.
pub(super) async fn open_channel(connection: &Connection) -> lapin::Result<Channel> {
    connection.create_channel().await.map_err(connection_error)
}

/// An error that tells of no message and no exchange, whatever it says.
pub(super) fn connection_error(error: Error) -> Error {
    if ended_channel(&error) {
        io::Error::other(format!("could not use a new channel: {error}")).into()
    } else {
        error
    }
}

/// Whether the error ended one channel and not the connection.
pub(super) fn ended_channel(error: &Error) -> bool {
    error.is_amqp_soft_error() || matches!(error.kind(), lapin::ErrorKind::InvalidChannelState(..))
}

#[cfg(test)]
mod tests {
    use lapin::ErrorKind;
    use lapin::protocol::AMQPError;

    use super::*;

    #[test]
    fn what_prevents_a_new_channel_is_an_outage_and_blames_nobody() {
        for code in [403, 404, 405, 406] {
            let stale = AMQPError::from_id(code, "said of another".into()).expect("the client knows it");
            let error = connection_error(ErrorKind::ProtocolError(stale).into());
            assert!(!ended_channel(&error) && classify::code_of(&error).is_none(), "{code}");
            let failure = classify::outage(&error);
            assert_eq!(
                (failure.fault, failure.error_type),
                (Fault::Unavailable, ErrorType::BrokerUnavailable)
            );
            assert!(failure.reason.contains("said of another"), "{failure}");
        }
        let ended = AMQPError::from_id(504, "the connection's own".into()).expect("the client knows it");
        let error = connection_error(ErrorKind::ProtocolError(ended).into());
        assert_eq!(classify::code_of(&error), Some(code::CHANNEL_ERROR));
    }

    #[test]
    fn a_lock_that_another_holds_names_the_pipeline_and_the_way_out() {
        let locked = AMQPError::from_id(405, "RESOURCE_LOCKED".into()).expect("the client knows it");
        let failure = unlocked(&ErrorKind::ProtocolError(locked).into(), "relay.lock.default", "default");
        assert_eq!((failure.fault, failure.error_type), (Fault::Unavailable, ErrorType::Fenced));
        for part in ["pipeline name default", "queue relay.lock.default", "another pipeline.name"] {
            assert!(failure.reason.contains(part), "{failure}");
        }
    }

    #[test]
    fn two_channels_are_left_for_what_is_not_a_window() {
        assert_eq!([0, 1, 2, 3, 8, 2047].map(windows_max), [1, 1, 1, 1, 6, 2045]);
    }
}
