//! A real RabbitMQ, left as it was: an exchange and a queue by a name that nobody else has, removed in the
//! end. Should the demo be killed, the broker removes the queue an hour after its last reader went, and the
//! exchange with it.

use std::future::Future;
use std::io;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, Consumer, ExchangeKind};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::{ANSWER_MAX, LOOK_EVERY, Reader, State, checked, consent_line, random};
use crate::config::{self, Secret, Sink};
use crate::demo::DemoError;
use crate::demo::folder::Folder;
use crate::demo::ledger::{Arrival, Arrivals};
use crate::demo::relay::quoted;
use crate::sink::rabbitmq;
use crate::sink::{ErrorType, Failure};

/// What the orders say their destination is; it becomes the routing key.
pub(super) const ROUTING_KEY: &str = "orders";

/// The routing key of our own last message: queues keep order, so behind it there is nothing.
const THE_END: &str = "the-end";

/// The relay's default name for the header that carries the key.
const KEY_HEADER: &str = "outbox-key";

/// Far above the time between the declaration and the first reader, even if Postgres is downloaded
/// meanwhile.
const QUEUE_EXPIRES: Duration = Duration::from_secs(3_600);

/// Acknowledged in hundreds, so that the queue is never kept waiting.
const PREFETCH: u16 = 1_000;
const ACKNOWLEDGE_EVERY: u64 = 100;

const URL_FILE: &str = "rabbitmq-url";

/// A RabbitMQ with an exchange and a queue for the demo.
#[derive(Debug)]
pub(in crate::demo) struct RabbitMq {
    settings: config::RabbitMq,
    consent: bool,
    /// Host and port.
    address: String,
    number: u32,
    kind: QueueKind,
    connection: Option<Connection>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QueueKind {
    /// What RabbitMQ advises for messages that must not be lost.
    Quorum,
    Classic,
}

impl RabbitMq {
    pub(super) fn new(url: &Secret, consent: bool) -> Result<Self, DemoError> {
        let keys = [
            ("sink.type", "rabbitmq"),
            ("sink.rabbitmq.url", url.reveal()),
            ("sink.rabbitmq.insecure_allow_plaintext", if consent { "true" } else { "false" }),
            ("sink.rabbitmq.connection_name", "outbox-relay-demo"),
            ("route.exchange", "demo"),
        ];
        let hint = "write amqp://user:password@host:5672/%2f, special characters in percent encoding; beyond \
                    this host amqps://, or consent with --insecure-allow-plaintext";
        let Sink::RabbitMq(settings) = checked("--rabbitmq", &keys, hint)?.sink else {
            unreachable!("the type of the sink is given")
        };
        let uri = settings.uri().map_err(|_quotes_it| DemoError::new("use the value of --rabbitmq", hint))?;
        let address = format!("{}:{}", uri.authority.host, uri.authority.port);
        let (number, kind) = (random()?, QueueKind::Quorum);
        Ok(Self { settings, consent, address, number, kind, connection: None })
    }

    /// Connects and declares; a broker without quorum queues gets a classic one.
    pub(super) async fn open(&mut self) -> Result<(), DemoError> {
        self.connect().await?;
        let mut declared = self.declare().await;
        if declared.as_ref().is_err_and(refuses_the_kind) {
            self.kind = QueueKind::Classic;
            // The refusal may have cost the connection.
            self.connect().await?;
            declared = self.declare().await;
        }
        declared.map_err(|error| self.undeclared(&error))
    }

    async fn connect(&mut self) -> Result<(), DemoError> {
        let connected = rabbitmq::connect(&self.settings).await;
        let connection = connected.map_err(|failure| {
            let failed = DemoError::new(format!("connect to RabbitMQ at {}", self.address), &failure.reason);
            failed.hint(match failure.error_type {
                ErrorType::Auth => "compare user, password and virtual host with those of the broker",
                _ => {
                    "see that it runs and is reached from here, or leave --rabbitmq out: the demo has a Kafka"
                }
            })
        })?;
        self.connection = Some(connection);
        Ok(())
    }

    /// One name for both. The exchange goes with its last queue.
    async fn declare(&self) -> lapin::Result<()> {
        let (name, empty) = (ShortString::from(self.name()), FieldTable::default());
        let exchange = ExchangeDeclareOptions { durable: true, auto_delete: true, ..Default::default() };
        let queue = QueueDeclareOptions { durable: true, ..Default::default() };
        answered(async {
            let channel = self.channel().await?;
            channel.exchange_declare(name.clone(), ExchangeKind::Topic, exchange, empty.clone()).await?;
            channel.queue_declare(name.clone(), queue, self.kind.arguments()).await?;
            channel.queue_bind(name.clone(), name, "#".into(), QueueBindOptions::default(), empty).await
        })
        .await
    }

    fn undeclared(&self, error: &lapin::Error) -> DemoError {
        let Failure { error_type, reason, .. } = rabbitmq::outage(error);
        let what = format!("declare an exchange and a queue on RabbitMQ at {}", self.address);
        let failed = DemoError::new(what, reason);
        match error_type {
            ErrorType::Auth => failed.hint(
                r"let its user configure, write and read ^(outbox-relay-demo-|relay\.lock\.): rabbitmqctl set_permissions",
            ),
            _ => failed,
        }
    }

    async fn channel(&self) -> lapin::Result<Channel> {
        self.connection.as_ref().expect("it is opened first").create_channel().await
    }

    fn name(&self) -> String {
        format!("outbox-relay-demo-{:08x}", self.number)
    }

    /// A name of its own: RabbitMQ admits one relay for each, and this may be not the only demo there.
    pub(super) fn pipeline(&self) -> String {
        format!("demo_{:08x}", self.number)
    }

    pub(super) async fn close(mut self) -> Result<(), DemoError> {
        let removed = tokio::time::timeout(ANSWER_MAX, self.remove()).await;
        removed.unwrap_or_else(|_| Err("no answer".to_owned())).map_err(|reason| {
            let what = format!("remove {} from RabbitMQ at {}", self.name(), self.address);
            DemoError::new(what, reason).hint("the broker removes it in an hour")
        })
    }

    async fn remove(&mut self) -> Result<(), String> {
        match &self.connection {
            None => return Ok(()),
            Some(connection) if connection.status().connected() => {}
            Some(_) => self.connect().await.map_err(|error| error.reason)?,
        }
        // Refused, one ends its channel; the other may still be removed over another.
        let removed = [self.delete_queue().await, self.delete_exchange().await];
        if let Some(connection) = &self.connection {
            let _ = connection.close(200, "OK".into()).await;
        }
        removed.into_iter().collect::<lapin::Result<()>>().map_err(|error| error.to_string())
    }

    async fn delete_queue(&self) -> lapin::Result<()> {
        let channel = self.channel().await?;
        channel.queue_delete(self.name().into(), QueueDeleteOptions::default()).await.map(drop)
    }

    async fn delete_exchange(&self) -> lapin::Result<()> {
        let channel = self.channel().await?;
        channel.exchange_delete(self.name().into(), ExchangeDeleteOptions::default()).await
    }

    pub(super) fn description(&self) -> String {
        let kind = match self.kind {
            QueueKind::Quorum => "quorum",
            QueueKind::Classic => "classic",
        };
        let (address, name) = (&self.address, self.name());
        format!("RabbitMQ is the one at {address}; exchange and {kind} queue {name}, removed in the end")
    }

    /// The url may hold a password, so it has a file of its own.
    pub(super) fn configuration(&self, folder: &Folder) -> Result<String, DemoError> {
        let file = folder.write(URL_FILE, self.settings.url.reveal())?;
        Ok(format!(
            "\
[route]
exchange = {}
routing_key = \"{{destination}}\"

[sink]
type = \"rabbitmq\"

[sink.rabbitmq]
url_file = {}
{}",
            quoted(&self.name()),
            quoted(&file.display().to_string()),
            consent_line(self.consent),
        ))
    }

    pub(super) async fn reader(&self) -> Result<Reader, DemoError> {
        let (name, handle) = (self.name(), Handle::current());
        let (channel, consumer) = answered(self.consumer()).await.map_err(|error| unreadable(&error))?;
        Reader::start(move |state| {
            handle.block_on(async {
                let mut reading = Reading { channel, consumer, exchange: name, asked: None };
                reading.read_all(state).await.map_err(|error| unreadable(&error))
            })
        })
    }

    async fn consumer(&self) -> lapin::Result<(Channel, Consumer)> {
        let channel = self.channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let (name, tag, options) = (self.name(), ShortString::default(), BasicConsumeOptions::default());
        let consumer = channel.basic_consume(name.into(), tag, options, FieldTable::default()).await?;
        Ok((channel, consumer))
    }
}

impl QueueKind {
    fn argument(self) -> Option<&'static str> {
        match self {
            Self::Quorum => Some("quorum"),
            // What a broker makes without being asked; an old one does not know the word.
            Self::Classic => None,
        }
    }

    fn arguments(self) -> FieldTable {
        let expires = i32::try_from(QUEUE_EXPIRES.as_millis()).expect("an hour is few milliseconds");
        let mut table = FieldTable::default();
        table.insert("x-expires".into(), AMQPValue::LongInt(expires));
        if let Some(name) = self.argument() {
            table.insert("x-queue-type".into(), AMQPValue::LongString(name.into()));
        }
        table
    }
}

/// Whether another kind of queue may be declared where this one was not: the broker has answered, and it is
/// not the user who may do nothing.
fn refuses_the_kind(error: &lapin::Error) -> bool {
    error.is_amqp_error() && rabbitmq::outage(error).error_type != ErrorType::Auth
}

async fn answered<T>(asked: impl Future<Output = lapin::Result<T>>) -> lapin::Result<T> {
    let elapsed = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {ANSWER_MAX:?}"));
    tokio::time::timeout(ANSWER_MAX, asked).await.map_err(elapsed)?
}

fn unreadable(error: &lapin::Error) -> DemoError {
    DemoError::new("read from RabbitMQ", rabbitmq::outage(error).reason)
}

/// A queue that is read by nobody else.
struct Reading {
    channel: Channel,
    consumer: Consumer,
    exchange: String,
    /// When our own last message was sent.
    asked: Option<Instant>,
}

impl Reading {
    async fn read_all(&mut self, state: &State) -> lapin::Result<Arrivals> {
        let mut arrivals = Arrivals::default();
        for count in 1.. {
            let Some(delivery) = self.next(state).await? else { break };
            if count % ACKNOWLEDGE_EVERY == 0 {
                delivery.acker.ack(BasicAckOptions { multiple: true }).await?;
            }
            if delivery.routing_key.as_str() == THE_END {
                break;
            }
            arrivals.push(arrival(delivery, count));
            state.arrived(&arrivals);
        }
        Ok(arrivals)
    }

    /// `None` if nobody wants it any more.
    async fn next(&mut self, state: &State) -> lapin::Result<Option<Delivery>> {
        let started = Instant::now();
        while !state.is_abandoned() {
            if state.is_last() && self.asked.is_none() {
                self.ask_for_the_end().await?;
            }
            match tokio::time::timeout(LOOK_EVERY, self.consumer.next()).await {
                Ok(Some(delivery)) => return delivery.map(Some),
                Ok(None) => return Err(io::Error::other("the queue is gone").into()),
                Err(_elapsed) => self.check_silence(started)?,
            }
        }
        Ok(None)
    }

    /// By now the relay has ended, and all it published is confirmed: in the queue.
    async fn ask_for_the_end(&mut self) -> lapin::Result<()> {
        let (exchange, options) = (self.exchange.as_str().into(), BasicPublishOptions::default());
        let sent =
            self.channel.basic_publish(exchange, THE_END.into(), options, &[], BasicProperties::default());
        // What shows that it has arrived is reading it.
        let _unconfirmed = sent.await?;
        self.asked = Some(Instant::now());
        Ok(())
    }

    fn check_silence(&self, started: Instant) -> io::Result<()> {
        match self.asked {
            Some(asked) if asked.max(started).elapsed() > ANSWER_MAX => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the last message does not come"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// The `count`th message of the queue, which is one partition as far as the ledger is concerned.
fn arrival(delivery: Delivery, count: u64) -> Arrival {
    let id = delivery.properties.message_id().as_ref();
    let headers = delivery.properties.headers().as_ref();
    let key = headers.and_then(|headers| match headers.inner().get(KEY_HEADER)? {
        AMQPValue::LongString(key) => Some(key.as_bytes().to_vec()),
        _ => None,
    });
    Arrival {
        partition: 0,
        offset: i64::try_from(count).unwrap_or(i64::MAX),
        id: id.and_then(|id| id.as_str().parse().ok()),
        key,
        payload: Some(delivery.data),
        at: Instant::now(),
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    #[test]
    fn a_kind_of_queue_is_refused_by_an_answer_that_is_not_about_the_user() {
        let said = |code| {
            let error = AMQPError::from_id(code, "said".into()).expect("the client knows it");
            refuses_the_kind(&lapin::ErrorKind::ProtocolError(error).into())
        };
        assert!(said(406) && said(540) && said(541));
        assert!(!said(403));
        assert!(!refuses_the_kind(&io::Error::from(io::ErrorKind::TimedOut).into()));
    }
}
