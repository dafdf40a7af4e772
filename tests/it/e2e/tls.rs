//! Servers that present certificates, good ones and bad ones: only the good are spoken to, and about the
//! others people are told what is wrong.

use super::rabbitmq;
use super::stage::{PATIENCE, Stage, stop};
use crate::support::certificates::{Certificates, Pair, Served, is_presented};
use crate::support::kafka::{Kafka, Listener};
use crate::support::ledger;
use crate::support::postgres::Postgres;
use crate::support::process::free_port;
use crate::support::rabbitmq::RabbitServer;
use crate::support::relay::{Relay, Settings};
use crate::support::services::Services;
use crate::support::wait;

/// What people read about a certificate that is not good.
const BAD: [(Served, &str); 3] = [
    (Served::Expired, "the server's certificate has expired"),
    (Served::WrongName, "the server's certificate is for another name"),
    (Served::SelfSigned, "the server's certificate is signed by nobody we trust"),
];

/// A Postgres that speaks TLS to whoever wants to, and an outbox with a few orders in it.
struct Database {
    server: Postgres,
    certificates: Certificates,
    stage: Stage,
}

impl Database {
    async fn open(services: &Services) -> Self {
        let server = Postgres::start(&[]).await;
        let certificates = Certificates::make();
        let stage = Stage::open_on(&server.url, &services.kafka_brokers).await;
        stage.backlog(&stage.load(), 20).await;
        let mut database = Self { server, certificates, stage };
        database.server.take(&database.certificates.authority(), "ca.pem");
        database.present(Served::Good);
        for setting in ["ssl_ca_file = 'ca.pem'", "ssl = on"] {
            database.stage.database.execute(&format!("alter system set {setting}")).await;
        }
        database
    }

    /// Has the server present another certificate from now on.
    fn present(&mut self, served: Served) {
        let Pair { certificate, key } = self.certificates.server(served);
        self.server.take(&certificate, "server.crt");
        self.server.take(&key, "server.key");
    }

    /// Waits until it does.
    async fn reload(&mut self, served: Served) {
        let (port, certificate) = (self.server.port, self.certificates.server_file(served));
        self.server.reload();
        let presented = async || is_presented(port, Some("postgres"), &certificate);
        wait::eventually(PATIENCE, "the server presents the certificate", presented).await;
    }

    /// A relay that trusts the authority and nobody else.
    fn settings(&self, user: &str, more: &str) -> Settings {
        let url = self.stage.database.url_as(user).replace("127.0.0.1", "localhost");
        let authority = self.certificates.authority();
        let url = format!("{url}?sslmode=verify-full&sslrootcert={}{more}", authority.display());
        self.stage.settings().text("database.url", &url)
    }
}

async fn says(relay: &mut Relay, words: &str) {
    let log = relay.stderr().clone();
    relay.wait_for(PATIENCE, &format!("it says: {words}"), async || log.contain(words)).await;
}

#[tokio::test]
async fn postgres_is_spoken_to_only_with_a_good_certificate_and_bad_ones_are_named() {
    let Some(services) = Services::find("TLS to Postgres") else { return };
    let mut database = Database::open(&services).await;
    for (served, words) in BAD {
        database.present(served);
        database.reload(served).await;
        let mut relay = database.settings("postgres", "").run();
        says(&mut relay, words).await;
        assert!(relay.stderr().contain("hint="), "{}", relay.stderr().tail(5));
        assert_eq!(database.stage.delivered().await, 0, "{served:?}");
        if served == Served::SelfSigned {
            // The one that looks like an attack mends itself when it was none: no restart is needed.
            database.present(Served::Good);
            database.reload(Served::Good).await;
            database.stage.drained(&mut relay).await;
            let plain = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid)
                where application_name like 'outbox-relay%' and not ssl";
            assert_eq!(database.stage.database.one::<i64>(plain).await, 0);
            stop(relay).await;
        }
    }
    database.stage.verdict().await.assert_kept(0);
}

#[tokio::test]
async fn a_client_certificate_logs_in_to_postgres_and_its_absence_is_explained() {
    let Some(services) = Services::find("client certificates for Postgres") else { return };
    let mut database = Database::open(&services).await;
    database.stage.database.execute("create role certified login superuser").await;
    database.server.admit("hostssl all certified all cert\nhost all certified all reject");
    database.reload(Served::Good).await;
    let mut relay = database.settings("certified", "").run();
    says(&mut relay, "certificate").await;
    assert_eq!(database.stage.delivered().await, 0);
    drop(relay);

    let Pair { certificate, key } = database.certificates.client("certified");
    let own = format!("&sslcert={}&sslkey={}", certificate.display(), key.display());
    let mut relay = database.settings("certified", &own).run();
    database.stage.drained(&mut relay).await;
    stop(relay).await;
}

/// Each with a certificate of its own, and one that asks clients for theirs.
fn listeners(certificates: &Certificates) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Served::ALL
        .map(|served| Listener::new(served.name(), free_port(), &certificates.server(served)))
        .into_iter()
        .collect();
    let mutual = Listener::new("mutual", free_port(), &certificates.server(Served::Good));
    listeners.push(mutual.asking_for_clients_of(&certificates.authority()));
    listeners
}

fn trusting(stage: &Stage, listener: &Listener, certificates: &Certificates) -> Settings {
    stage
        .settings()
        .text("sink.kafka.brokers", &format!("localhost:{}", listener.port))
        .property("security.protocol", "ssl")
        .property("ssl.ca.location", &certificates.authority().to_string_lossy())
}

#[tokio::test]
async fn kafka_is_spoken_to_only_with_a_good_certificate() {
    let Some(services) = Services::find("TLS to Kafka") else { return };
    let certificates = Certificates::make();
    let listeners = listeners(&certificates);
    let kafka = Kafka::start_with(&listeners).await;
    let stage = Stage::open_on(&services.postgres_url, &kafka.brokers).await;
    let [good, bad @ .., mutual] = &listeners[..] else { panic!("five listeners") };
    stage.backlog(&stage.load(), 20).await;
    for listener in bad {
        let mut relay = trusting(&stage, listener, &certificates).run();
        says(&mut relay, "certificate verify failed").await;
        says(&mut relay, "see that the broker's certificate is valid now, names the host").await;
        assert_eq!(stage.delivered().await, 0, "{}", listener.name);
    }
    let mut relay = trusting(&stage, good, &certificates).run();
    stage.drained(&mut relay).await;
    stop(relay).await;

    stage.backlog(&stage.load(), 20).await;
    let mut relay = trusting(&stage, mutual, &certificates).run();
    says(&mut relay, "broker lost").await;
    drop(relay);
    let client = certificates.client("relay");
    let mut relay = trusting(&stage, mutual, &certificates)
        .property("ssl.certificate.location", &client.certificate.to_string_lossy())
        .property("ssl.key.location", &client.key.to_string_lossy())
        .run();
    stage.drained(&mut relay).await;
    stop(relay).await;
    stage.verdict().await.assert_kept(40);
}

/// A RabbitMQ that asks clients for their certificates, and an outbox with a few orders in it.
struct Broker {
    server: RabbitServer,
    certificates: Certificates,
    client: Pair,
    stage: rabbitmq::Stage,
}

impl Broker {
    async fn open(services: &Services) -> Self {
        let certificates = Certificates::make();
        let client = certificates.client("relay");
        let good = certificates.server(Served::Good);
        let server = RabbitServer::start_with(&good, &certificates.authority()).await;
        let stage = rabbitmq::Stage::open_on(services, &server.url(), &[]).await;
        ledger::backlog(&stage.database.pool, &stage.load(), 20).await;
        Self { server, certificates, client, stage }
    }

    /// Has the broker present another certificate, and waits until it does.
    async fn present(&self, served: Served) {
        self.server.present(&self.certificates.server(served));
        let (port, certificate) = (self.server.tls_port, self.certificates.server_file(served));
        let presented = async || is_presented(port, None, &certificate);
        wait::eventually(PATIENCE, "the broker presents the certificate", presented).await;
    }

    /// A relay that trusts the authority and nobody else, without a certificate of its own.
    fn unknown(&self, port: u16) -> Settings {
        self.stage
            .settings()
            .text("sink.rabbitmq.url", &format!("amqps://guest:guest@localhost:{port}/%2f"))
            .text("sink.rabbitmq.ca_file", &self.certificates.authority().to_string_lossy())
    }

    fn settings(&self) -> Settings {
        showing(&self.client, self.unknown(self.server.tls_port))
    }

    /// A relay with these settings says why it does not speak to the broker, and delivers nothing.
    async fn is_refused(&self, settings: &Settings, words: &str) -> Relay {
        let mut relay = settings.run();
        says(&mut relay, words).await;
        says(&mut relay, r#"error_type="tls""#).await;
        says(&mut relay, "see that the broker's certificate is valid now, names the host").await;
        assert_eq!(self.stage.delivered().await, 0, "{words}");
        relay
    }

    /// A relay with these settings delivers nothing. With TLS 1.3 a server judges our certificate once we
    /// think that all is well, and may reset the connection before its reason is read: the words are luck.
    async fn is_shut_out(&self, settings: &Settings) {
        let mut relay = settings.run();
        says(&mut relay, "broker lost").await;
        assert_eq!(self.stage.delivered().await, 0);
    }
}

fn showing(client: &Pair, settings: Settings) -> Settings {
    settings
        .text("sink.rabbitmq.cert_file", &client.certificate.to_string_lossy())
        .text("sink.rabbitmq.key_file", &client.key.to_string_lossy())
}

#[tokio::test]
async fn rabbitmq_is_spoken_to_only_with_a_good_certificate_and_bad_ones_are_named() {
    let Some(services) = Services::find("TLS to RabbitMQ") else { return };
    let broker = Broker::open(&services).await;
    for (served, words) in BAD {
        broker.present(served).await;
        let mut relay = broker.is_refused(&broker.settings(), words).await;
        if served == Served::SelfSigned {
            // Mended, it is spoken to by the relay that refused it.
            broker.present(Served::Good).await;
            broker.stage.drained(&mut relay).await;
            stop(relay).await;
        }
    }
    broker.stage.verdict().await.assert_kept(0);
}

#[tokio::test]
async fn a_client_certificate_opens_rabbitmq_and_without_it_nothing_passes() {
    let Some(services) = Services::find("client certificates for RabbitMQ") else { return };
    let broker = Broker::open(&services).await;
    let Broker { server, client, stage, .. } = &broker;
    let absent = broker.unknown(server.tls_port);
    broker.is_shut_out(&absent).await;
    let stranger = Certificates::make();
    let foreign = showing(&stranger.client("relay"), absent);
    broker.is_shut_out(&foreign).await;
    let plain = showing(client, broker.unknown(server.port));
    broker.is_refused(&plain, "the server does not speak TLS").await;
    let missing = broker.settings().text("sink.rabbitmq.key_file", "/nowhere.key");
    broker.is_refused(&missing, "could not read /nowhere.key").await;

    // The user is the certificate's name, and has no password.
    server.control(&["add_user", "relay", &uuid::Uuid::new_v4().to_string()]);
    server.control(&["set_permissions", "relay", r"^relay\.lock\.", ".*", "^$"]);
    let url = format!("amqps://localhost:{}/%2f?auth_mechanism=external", server.tls_port);
    let mut relay = broker.settings().text("sink.rabbitmq.url", &url).run();
    stage.drained(&mut relay).await;
    stop(relay).await;
    stage.verdict().await.assert_kept(0);
}
