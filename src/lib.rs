//! outbox-relay takes the rows an application committed to its Postgres outbox table and puts them on
//! a message broker: none lost, in order within a key, marked delivered.
//!
//! The modules, in the order a message meets them:
//!
//! * [`message`]: what flows
//! * [`source`]: the outbox, asked for rows and told what became of them
//! * [`route`]: a row becomes a record
//! * [`relay`]: the decisions: what may be published now, and what then; pure
//! * [`sink`]: the broker
//! * [`pump`]: the only loop, carrying the relay's actions out and their results back
//! * [`metrics`], [`log`], [`status`] and [`admin`]: what can be seen of it, by the [`clock`] of the
//!   machine and with one notion of [`health`]; [`supervisor`] tells the service manager
//! * `tls`: why a server is not trusted, in words for people
//! * [`config`] and [`cli`]: what can be asked of it
//! * [`run`]: puts the parts together
//! * [`demo`]: shows all of it at work, on a stage of its own
//!
//! Absent on purpose: a cursor that is stored anywhere (a row's own mark is the only progress), a
//! transaction that is open while the broker is spoken to, a task or an allocation per message in the
//! core, DDL in `run`.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod health;
pub mod log;
pub mod message;
pub mod metrics;
pub mod pump;
pub mod relay;
pub mod route;
pub mod run;
pub mod sink;
pub mod source;
pub mod status;
pub mod supervisor;
mod tls;
