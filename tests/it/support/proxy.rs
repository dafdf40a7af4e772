//! A bad network between two processes: a TCP proxy in this process whose behaviour a test changes
//! while connections are open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::wait;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Bytes go through.
    Forward,
    /// Bytes go through, each piece this much later.
    Delay(Duration),
    /// Connections stay open and nothing arrives, in both directions: half-open, as after a pulled
    /// cable. New connections are accepted and treated alike.
    Stall,
    /// Open connections are reset, new ones too.
    Cut,
    /// Open connections are ended in good order, as by a server that stops, new ones too. They stay
    /// until the client has ended its side, which [`Proxy::connections`] tells.
    Refuse,
}

/// The network, and how often all its connections were reset so far.
#[derive(Debug, Clone, Copy)]
struct State {
    network: Network,
    resets: u64,
}

/// A proxy in front of one server; ends with this value.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    state: watch::Sender<State>,
    /// One holder a connection, and this.
    connections: Arc<()>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on `port` (0 for any) and forwards to `server`.
    pub async fn start(port: u16, server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the proxy's port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let (state, view) = watch::channel(State { network: Network::Forward, resets: 0 });
        let connections = Arc::default();
        let accepting = tokio::spawn(accept(listener, server, view, Arc::clone(&connections)));
        Self { port, state, connections, accepting }
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        Arc::strong_count(&self.connections) - 2
    }

    /// Changes what the network does, for open connections and new ones.
    pub fn set(&self, network: Network) {
        self.state.send_modify(|state| state.network = network);
    }

    /// Resets every open connection; new ones are treated as before.
    pub fn reset_connections(&self) {
        self.state.send_modify(|state| state.resets += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Owns the connections' tasks: they are aborted with it.
async fn accept(listener: TcpListener, server: SocketAddr, state: watch::Receiver<State>, counted: Arc<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                let (state, counted) = (state.clone(), Arc::clone(&counted));
                connections.spawn(async move {
                    connect(client, server, state).await;
                    drop(counted);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(mut client: TcpStream, server: SocketAddr, mut state: watch::Receiver<State>) {
    let resets = state.borrow().resets;
    let broken = |state: &State| state.network == Network::Cut || state.resets != resets;
    let refused = |state: &State| state.network == Network::Refuse;
    if refused(&state.borrow()) {
        return;
    }
    let server = TcpStream::connect(server).await;
    let (Ok(mut server), false) = (server, broken(&state.borrow())) else {
        // A server that is away looks like a network that is cut.
        _ = client.set_zero_linger();
        return;
    };
    _ = (client.set_nodelay(true), server.set_nodelay(true));
    let reset = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let there = carry(client_read, server_write, state.clone());
        let back = carry(server_read, client_write, state.clone());
        tokio::select! {
            Ok(state) = state.wait_for(|state| broken(state) || refused(state)) => broken(&state),
            _ = async { tokio::join!(there, back) } => false,
        }
    };
    if refused(&state.borrow()) {
        drop(server);
        _ = client.shutdown().await;
        while let Ok(1..) = client.read(&mut [0; 4096]).await {}
        return;
    }
    if reset {
        // Without linger, dropping a stream resets it instead of closing it in good order.
        _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

/// Carries bytes one way until their end, and then the end.
async fn carry(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut state: watch::Receiver<State>) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let Some(network) = moving(&mut state).await else { return };
        if let Network::Delay(delay) = network {
            wait::pass(delay).await;
        }
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
    moving(&mut state).await;
    _ = to.shutdown().await;
}

/// What the network does once it does not stall: what was read just before it stalled, the end of a
/// connection included, must not arrive before it moves again. `None` if the proxy is gone.
async fn moving(state: &mut watch::Receiver<State>) -> Option<Network> {
    let state = state.wait_for(|state| state.network != Network::Stall).await.ok()?;
    Some(state.network)
}
