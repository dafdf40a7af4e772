//! What is served over HTTP: metrics and probes on one address, the status page on another.
//!
//! Everything here only reads. Probes are shallow on purpose: a relay whose broker or database is out
//! is alive and ready, because waiting is its work, and a restart, or an application taken out of
//! service with it, would help nobody.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::metrics::Page;
use crate::status::{Board, Status};

/// What is shown.
#[derive(Debug, Clone)]
pub struct Shown {
    pub page: Arc<Page>,
    pub board: Arc<Board>,
}

/// The two listeners at work.
#[derive(Debug)]
pub struct Server {
    metrics: Listening,
    admin: Listening,
    closing: watch::Sender<bool>,
}

#[derive(Debug)]
struct Listening {
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// Serves metrics and probes on `metrics_listen`, and the status page on `admin_listen`.
///
/// # Errors
///
/// If one of the addresses cannot be listened on; the error names it and its configuration key.
pub async fn serve(metrics_listen: SocketAddr, admin_listen: SocketAddr, shown: Shown) -> io::Result<Server> {
    let metrics = bind(metrics_listen, "metrics.listen").await?;
    let admin = bind(admin_listen, "admin.listen").await?;
    let (closing, closed) = watch::channel(false);
    Ok(Server {
        metrics: listen(metrics, metrics_router(shown.clone()), closed.clone())?,
        admin: listen(admin, admin_router(shown), closed)?,
        closing,
    })
}

impl Server {
    /// Requests still under way at the end are given so long.
    const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

    /// Where metrics and probes are, which matters where port 0 was asked for.
    #[must_use]
    pub const fn metrics_address(&self) -> SocketAddr {
        self.metrics.address
    }

    #[must_use]
    pub const fn admin_address(&self) -> SocketAddr {
        self.admin.address
    }

    /// Takes no more requests, and answers those under way.
    pub async fn close(self) {
        self.closing.send_replace(true);
        for mut listening in [self.metrics, self.admin] {
            if tokio::time::timeout(Self::CLOSE_TIMEOUT, &mut listening.task).await.is_err() {
                listening.task.abort();
            }
        }
    }
}

async fn bind(address: SocketAddr, key: &str) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(error.kind(), format!("could not listen on {address} ({key}): {error}"))
    })
}

fn listen(listener: TcpListener, router: Router, mut closed: watch::Receiver<bool>) -> io::Result<Listening> {
    let address = listener.local_addr()?;
    let until_closed = async move {
        // An error means that the server was dropped, which closes it as well.
        let _ = closed.wait_for(|&closed| closed).await;
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(until_closed);
    #[allow(clippy::disallowed_methods, reason = "the server owns the task and awaits it in `close`")]
    let task = tokio::spawn(async move {
        // It answers until it is closed; errors of single connections end those alone.
        let _ = serving.await;
    });
    Ok(Listening { address, task })
}

fn metrics_router(shown: Shown) -> Router {
    Router::new()
        .route("/", get(|| async { Html(METRICS_LANDING) }))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(|| async { OK }))
        .route("/startupz", get(startupz))
        .with_state(shown)
}

fn admin_router(shown: Shown) -> Router {
    Router::new()
        .route("/", get(|| async { Html(ADMIN_LANDING) }))
        .route("/status", get(status))
        .with_state(shown)
}

const OK: &str = "ok\n";

const METRICS_LANDING: &str = "<!doctype html><title>outbox-relay</title><h1>outbox-relay</h1><ul>\
    <li><a href=\"/metrics\">/metrics</a>: for Prometheus\
    <li><a href=\"/livez\">/livez</a>: the loop turns\
    <li><a href=\"/readyz\">/readyz</a>: requests are answered\
    <li><a href=\"/startupz\">/startupz</a>: the loop has begun to turn</ul>\n";

const ADMIN_LANDING: &str = "<!doctype html><title>outbox-relay</title><h1>outbox-relay</h1><ul>\
    <li><a href=\"/status\">/status</a>: what it does now, as JSON</ul>\n";

async fn metrics(State(shown): State<Shown>) -> impl IntoResponse {
    match shown.page.text() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => {
            let text = format!("could not write the metrics: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

async fn livez(State(shown): State<Shown>) -> (StatusCode, String) {
    match shown.board.stalled() {
        None => (StatusCode::OK, OK.to_owned()),
        Some(silence) => {
            let text = format!("the loop has not turned for {} s\n", silence.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

async fn startupz(State(shown): State<Shown>) -> (StatusCode, &'static str) {
    if shown.board.started() { (StatusCode::OK, OK) } else { (StatusCode::SERVICE_UNAVAILABLE, "starting\n") }
}

async fn status(State(shown): State<Shown>) -> Json<Status> {
    Json(shown.board.status())
}
