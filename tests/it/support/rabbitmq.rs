//! RabbitMQ: exchanges, queues and what is in them, for any broker; and a broker of one's own, for tests
//! that stop it or raise its alarms.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use tempfile::TempDir;

use super::certificates::Pair;
use super::process::{Process, free_port};
use super::{services, wait};

const CONF: &str = include_str!("rabbitmq.conf");
/// Where a broker that speaks TLS finds whom it trusts, and who it is.
const AUTHORITY: &str = "ca.pem";
const CERTIFICATE: &str = "server.pem";
const CERTIFICATE_KEY: &str = "server.key";
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const TAKE_DEADLINE: Duration = Duration::from_secs(120);

/// How a test sets the stage at a broker, and looks at it afterwards.
#[derive(Debug)]
pub struct Rabbit {
    pub url: String,
    channel: Channel,
    connection: Connection,
}

impl Rabbit {
    /// At the shared broker, or at one's own.
    pub async fn at(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await;
        let connection = connection.expect("the broker answers");
        let channel = connection.create_channel().await.expect("a channel");
        Self { url: url.to_owned(), channel, connection }
    }

    /// A new topic exchange, by a name of its own.
    pub async fn exchange(&self) -> String {
        let name = format!("test-{}", uuid::Uuid::new_v4());
        self.declare_exchange(&name).await;
        name
    }

    pub async fn declare_exchange(&self, name: &str) {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let declared =
            self.channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default());
        declared.await.expect("an exchange");
    }

    pub async fn delete_exchange(&self, name: &str) {
        self.channel
            .exchange_delete(name.into(), ExchangeDeleteOptions::default())
            .await
            .expect("an exchange");
    }

    /// A durable queue with `arguments`, such as `x-queue-type`, bound to the exchange.
    pub async fn queue(&self, exchange: &str, routing_key: &str, arguments: &[(&str, AMQPValue)]) -> String {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let name = format!("test-{}", uuid::Uuid::new_v4());
        self.channel.queue_declare(name.as_str().into(), options, table).await.expect("a queue");
        self.bind(&name, exchange, routing_key).await;
        name
    }

    pub async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) {
        let (queue, exchange, routing_key) = (queue.into(), exchange.into(), routing_key.into());
        let bound = self.channel.queue_bind(
            queue,
            exchange,
            routing_key,
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bound.await.expect("a binding");
    }

    /// Whether there is an exchange or a queue of that name.
    pub async fn knows(&self, name: &str) -> bool {
        // A refusal ends its channel.
        let channel = async || self.connection.create_channel().await.expect("a channel");
        let (queue, exchange) = (
            QueueDeclareOptions { passive: true, ..Default::default() },
            ExchangeDeclareOptions { passive: true, ..Default::default() },
        );
        let table = FieldTable::default;
        channel().await.queue_declare(name.into(), queue, table()).await.is_ok()
            || channel()
                .await
                .exchange_declare(name.into(), ExchangeKind::Topic, exchange, table())
                .await
                .is_ok()
    }

    /// How many messages the queue holds ready.
    pub async fn depth(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default());
        declared.await.expect("the queue exists").message_count()
    }

    /// Takes everything out of the queue, in order.
    pub async fn take(&self, queue: &str) -> Vec<Delivery> {
        let depth = self.depth(queue).await as usize;
        let channel = self.connection.create_channel().await.expect("a channel");
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await;
        let taking = consumer.expect("the queue exists").take(depth).try_collect();
        let taken: Result<Vec<Delivery>, _> =
            tokio::time::timeout(TAKE_DEADLINE, taking).await.expect("the queue gives what it holds");
        taken.expect("the broker stays")
    }
}

/// The kind of queue that RabbitMQ advises for what must not be lost.
pub fn quorum() -> [(&'static str, AMQPValue); 1] {
    [("x-queue-type", AMQPValue::LongString("quorum".into()))]
}

/// `rabbitmqctl` with `arguments`, at the shared broker.
pub fn control(arguments: &[&str]) {
    control_says(arguments);
}

/// What it prints.
pub fn control_says(arguments: &[&str]) -> String {
    run_control(&services::rabbitmq_environment(), arguments)
}

fn run_control(environment: &[(String, String)], arguments: &[&str]) -> String {
    let program = Path::new(&services::rabbitmq_bin()).join("rabbitmqctl");
    let mut command = Command::new(program);
    command.arg("-q").args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
    let output = command.output().expect("rabbitmqctl runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A private broker. Its ports and its data survive a stop; both end with this value.
#[derive(Debug)]
pub struct RabbitServer {
    pub port: u16,
    /// Where it speaks TLS, if it does.
    pub tls_port: u16,
    environment: Vec<(String, String)>,
    process: Option<Process>,
    dir: TempDir,
}

impl RabbitServer {
    pub async fn start() -> Self {
        let mut server = Self::prepare();
        server.restart().await;
        server
    }

    /// A broker that speaks TLS as well, to clients with a certificate of `authority` alone, who may log in
    /// with it.
    pub async fn start_with(presented: &Pair, authority: &Path) -> Self {
        let mut server = Self::prepare();
        let path = |name| server.dir.path().join(name).to_string_lossy().into_owned();
        let (certificate, key, trusted) = (path(CERTIFICATE), path(CERTIFICATE_KEY), path(AUTHORITY));
        server.write(
            "rabbitmq.conf",
            &format!(
                "{CONF}\nlisteners.ssl.default = 127.0.0.1:{}\nssl_options.certfile = {certificate}\n\
                 ssl_options.keyfile = {key}\nssl_options.cacertfile = {trusted}\n\
                 ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n\
                 auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\nssl_cert_login_from = common_name\n",
                server.tls_port
            ),
        );
        server.write("plugins", "[rabbitmq_auth_mechanism_ssl].");
        server.copy(authority, AUTHORITY);
        server.copy_pair(presented);
        server.restart().await;
        server
    }

    fn prepare() -> Self {
        let dir = TempDir::with_prefix("outbox-relay-rabbitmq").expect("the temporary directory takes files");
        let (port, tls_port) = (free_port(), free_port());
        let environment = environment(dir.path(), port);
        let server = Self { port, tls_port, environment, process: None, dir };
        server.write("rabbitmq.conf", CONF);
        server.write("plugins", "[].");
        server
    }

    /// Has the broker present another certificate from now on.
    pub fn present(&self, presented: &Pair) {
        self.copy_pair(presented);
        // It keeps what it has read for minutes.
        self.control(&["eval", "ssl:clear_pem_cache()."]);
    }

    fn copy_pair(&self, Pair { certificate, key }: &Pair) {
        self.copy(certificate, CERTIFICATE);
        self.copy(key, CERTIFICATE_KEY);
    }

    fn copy(&self, file: &Path, name: &str) {
        fs::copy(file, self.dir.path().join(name)).expect("the temporary directory takes files");
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).expect("the temporary directory takes files");
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Starts the stopped broker again, on the same port, and waits until it answers.
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "this RabbitMQ is running");
        let mut command = Command::new(Path::new(&services::rabbitmq_bin()).join("rabbitmq-server"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // The broker takes the place of the script.
        command.env("RUNNING_UNDER_SYSTEMD", "1").env_remove("NOTIFY_SOCKET");
        self.process = Some(Process::spawn(&mut command));
        let address = ("127.0.0.1", self.port);
        wait::eventually(START_DEADLINE, "RabbitMQ listens", async || {
            let process = self.process.as_mut().expect("just started");
            let log = process.stdout.clone();
            assert!(process.exited().is_none(), "RabbitMQ did not start: {}", log.tail(40));
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
    }

    /// Kills the broker.
    pub async fn kill_9(&mut self) {
        let mut process = self.process.take().expect("this RabbitMQ is stopped");
        process.signal("KILL");
        process.ended(STOP_DEADLINE).await;
    }

    /// `rabbitmqctl` with `arguments`.
    pub fn control(&self, arguments: &[&str]) {
        run_control(&self.environment, arguments);
    }
}

impl Drop for RabbitServer {
    fn drop(&mut self) {
        self.process = None;
        // The broker started it and it outlives the broker.
        let port = self.environment.iter().find(|(name, _)| name == "ERL_EPMD_PORT");
        let port = port.map_or("", |(_, port)| port);
        let _ = Command::new("epmd").args(["-port", port, "-kill"]).output();
    }
}

fn environment(dir: &Path, port: u16) -> Vec<(String, String)> {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let pairs = [
        ("HOME", path("")),
        ("ERL_EPMD_PORT", free_port().to_string()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ("RABBITMQ_NODENAME", format!("outbox-{port}@localhost")),
        ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
        ("RABBITMQ_NODE_PORT", port.to_string()),
        ("RABBITMQ_DIST_PORT", free_port().to_string()),
        ("RABBITMQ_MNESIA_BASE", path("data")),
        ("RABBITMQ_LOG_BASE", path("log")),
        ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins")),
        ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
}
