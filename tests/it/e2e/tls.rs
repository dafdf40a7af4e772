//! Servers that present certificates, good ones and bad ones: only the good are spoken to, and about the
//! others people are told what is wrong.

use super::stage::{PATIENCE, Stage, stop};
use crate::support::certificates::{Certificates, Pair, Served, is_presented};
use crate::support::kafka::{Kafka, Listener};
use crate::support::postgres::Postgres;
use crate::support::process::free_port;
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
