//! What is served over HTTP, asked for over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outbox_relay::admin::{self, Server, Shown};
use outbox_relay::metrics::Meter;
use outbox_relay::pump::Observer;
use outbox_relay::relay::{Action, GateState, Input, News, View};
use outbox_relay::sink::{ErrorType, Failure, Fault};
use outbox_relay::source::Holder;
use outbox_relay::status::{Board, LOOP_SILENCE_MAX, Reporter};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::heard::{
    Time, broker_out, database_out, failed, holding, leading, measured, row, shipment, standing_by, topic,
};

const ANY: &str = "127.0.0.1:0";

/// A relay that is served and told what to say.
struct Served {
    time: Time,
    observers: Vec<Box<dyn Observer>>,
    server: Server,
}

impl Served {
    async fn new() -> Self {
        let time = Time::default();
        let meter = Meter::new("orders", Duration::from_secs(5), &[], time.clock());
        let page = meter.page();
        let board = Board::new("orders", Arc::clone(&page), time.clock());
        let shown = Shown { page, board: Arc::clone(&board) };
        let server = admin::serve(ANY.parse().unwrap(), ANY.parse().unwrap(), shown).await.unwrap();
        Self { time, observers: vec![Box::new(meter), Box::new(Reporter::new(board))], server }
    }

    fn hear(&mut self, input: &Input) {
        self.observers.input(self.time.now(), input);
    }

    fn act(&mut self, action: &Action) {
        self.observers.action(self.time.now(), action);
    }

    fn view(&mut self, view: &View) {
        self.observers.view(self.time.now(), view);
    }

    async fn code(&self, path: &str) -> u16 {
        get(self.server.metrics_address(), path).await.0
    }

    async fn status(&self) -> Value {
        let (code, _, body) = get(self.server.admin_address(), "/status").await;
        assert_eq!(code, 200);
        serde_json::from_str(&body).unwrap()
    }
}

/// Status code, head and body of one request.
async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_lowercase(), body.to_owned())
}

#[tokio::test]
async fn readiness_does_not_depend_on_the_broker() {
    let mut served = Served::new().await;
    served.view(&leading());
    served.hear(&Input::Lease(Err(database_out())));
    served.hear(&failed(&[shipment(1, "orders", None)], &broker_out()));
    served.view(&View { gate: GateState::Shut, ..standing_by() });
    for probe in ["/livez", "/readyz", "/startupz"] {
        assert_eq!(served.code(probe).await, 200, "{probe}");
    }
}

#[tokio::test]
async fn a_stalled_loop_fails_liveness() {
    let mut served = Served::new().await;
    served.time.pass(LOOP_SILENCE_MAX * 10);
    assert_eq!(served.code("/livez").await, 200, "what has not begun is not stuck");
    assert_eq!(served.code("/startupz").await, 503);
    served.view(&leading());
    assert_eq!(served.code("/startupz").await, 200);
    served.time.pass(LOOP_SILENCE_MAX);
    assert_eq!(served.code("/livez").await, 200);
    served.time.pass(Duration::from_secs(1));
    assert_eq!(served.code("/livez").await, 503);
    assert_eq!(served.code("/readyz").await, 200);
    served.view(&leading());
    assert_eq!(served.code("/livez").await, 200);
}

#[tokio::test]
async fn metrics_come_in_the_text_format() {
    let served = Served::new().await;
    let (code, head, body) = get(served.server.metrics_address(), "/metrics").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("outbox_relay_lag_seconds{pipeline=\"orders\"} NaN\n"), "{body}");
}

#[tokio::test]
async fn every_link_of_a_landing_page_leads_somewhere() {
    let mut served = Served::new().await;
    served.view(&leading());
    for address in [served.server.metrics_address(), served.server.admin_address()] {
        let (code, _, body) = get(address, "/").await;
        assert_eq!(code, 200);
        let links: Vec<&str> =
            body.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(!links.is_empty());
        for link in links {
            assert_eq!(get(address, link).await.0, 200, "{link}");
        }
    }
}

#[tokio::test]
async fn metrics_and_status_do_not_share_an_address() {
    let served = Served::new().await;
    assert_eq!(served.code("/status").await, 404);
    assert_eq!(get(served.server.admin_address(), "/metrics").await.0, 404);
}

#[tokio::test]
async fn the_status_says_what_is_done_and_what_went_wrong() {
    let mut served = Served::new().await;
    assert_eq!(served.status().await["role"], "starting");
    served.hear(&Input::Lease(Ok(Holder::Other { expires_in: Duration::from_secs(1) })));
    served.view(&standing_by());
    assert_eq!(served.status().await["role"], "standby");

    served.hear(&Input::Lease(Ok(Holder::Us(1))));
    served.view(&leading());
    served.act(&Action::Measure);
    let measured = measured(&served.time, 3, Duration::from_secs(8));
    served.hear(&measured);
    served.hear(&Input::Fetched { number: 1, result: Err(database_out()) });
    let failure = Failure::refused(Fault::Blocked, ErrorType::UnknownDestination, "unknown topic");
    let again_in = Duration::from_secs(1);
    let destination = Some(topic("orders"));
    served.act(&Action::Tell(News::Held { row: row(7), destination, failure, tries: 1, again_in }));
    served.view(&holding(2));
    served.time.pass(Duration::from_secs(2));

    let status = served.status().await;
    assert_eq!(status["role"], "leader");
    assert_eq!(status["epoch"], 1);
    assert_eq!(status["gate"], "open");
    assert_eq!(status["ready"]["rows"], 2);
    assert_eq!(status["lag_seconds"], 10.0);
    assert_eq!(status["database_up"], false);
    assert_eq!(status["broker_up"], Value::Null);
    let errors = &status["last_errors"];
    assert_eq!(errors["database"]["hint"], "see whether Postgres runs");
    assert_eq!(errors["database"]["seconds_ago"], 2);
    assert_eq!(errors["message"]["row"], "7");
    assert_eq!(errors["message"]["hint"], "create the topic or the exchange, or correct [route]");
    assert_eq!(errors["mark"], Value::Null);
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_key() {
    let taken = TcpListener::bind(ANY).await.unwrap();
    let address = taken.local_addr().unwrap();
    let time = Time::default();
    let page = Meter::new("orders", Duration::from_secs(5), &[], time.clock()).page();
    let board = Board::new("orders", Arc::clone(&page), time.clock());
    for (metrics, admin, key) in
        [(address, ANY.parse().unwrap(), "metrics.listen"), (ANY.parse().unwrap(), address, "admin.listen")]
    {
        let shown = Shown { page: Arc::clone(&page), board: Arc::clone(&board) };
        let error = admin::serve(metrics, admin, shown).await.unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(&address.to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_closed_server_frees_its_addresses_though_a_client_stays() {
    let served = Served::new().await;
    let addresses = [served.server.metrics_address(), served.server.admin_address()];
    let mut idle = TcpStream::connect(addresses[0]).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), served.server.close()).await.expect("it ends");
    for address in addresses {
        TcpListener::bind(address).await.expect("the address is free");
    }
}
