//! Rules that take more than one key to break.
//!
//! Each looks at what could be read and is silent about the rest, whose problems were reported.

use std::net::IpAddr;

use super::problem::Wrong;
use super::section::Reader;
use super::{Admin, Database, Delivery, Metrics, Ordering, Outbox, Route, size};
use crate::route::problems;

/// A lock wait that outlasts the statement would be reported as a slow statement.
pub(super) fn timeouts(reader: &mut Reader, database: Option<&Database>) {
    let Some(database) = database else { return };
    if database.lock_timeout >= database.statement_timeout {
        let hint = "write less than database.statement_timeout, which would end the wait first";
        reader.report("database.lock_timeout", Wrong::new("has no effect", hint));
    }
}

/// A message that may be read must fit through both windows, or it would wait for ever.
pub(super) fn windows(reader: &mut Reader, outbox: Option<&Outbox>, delivery: Option<&Delivery>) {
    let (Some(outbox), Some(delivery)) = (outbox, delivery) else { return };
    let message = outbox.message_bytes_max;
    let windows = [
        ("delivery.in_flight_bytes_max", delivery.in_flight_bytes_max),
        ("delivery.read_ahead_bytes_max", delivery.read_ahead_bytes_max),
    ];
    for (key, window) in windows.into_iter().filter(|(_, window)| *window < message) {
        let problem = format!("{} cannot hold a message", size::written(window as u64));
        let hint = format!("write at least outbox.message_bytes_max, {}", size::written(message as u64));
        reader.report(key, Wrong::new(problem, hint));
    }
}

pub(super) fn backoff(reader: &mut Reader, delivery: Option<&Delivery>) {
    let Some(delivery) = delivery else { return };
    if delivery.backoff_min > delivery.backoff_max {
        let hint = "write no more than delivery.retry.backoff_max";
        reader.report("delivery.retry.backoff_min", Wrong::new("is above backoff_max", hint));
    }
}

/// Order within a key takes a key, and a column that says what comes first.
pub(super) fn ordering(reader: &mut Reader, outbox: Option<&Outbox>, delivery: Option<&Delivery>) {
    let (Some(outbox), Some(delivery)) = (outbox, delivery) else { return };
    match delivery.ordering {
        Ordering::Key => {}
        Ordering::None => return,
    }
    let problem = "is missing with delivery.ordering = \"key\"";
    if outbox.columns.order.is_none() {
        let hint = format!(
            "name the bigint column the insert itself numbers (an identity, often the id); or add one, alter table {} \
             add column position bigint generated always as identity, and write \"position\"; or write \
             delivery.ordering = \"none\"",
            outbox.table.quoted()
        );
        reader.report("outbox.columns.order", Wrong::new(problem, hint));
    }
    if outbox.columns.key.is_none() {
        let hint = "name the column within whose values order is kept, or write delivery.ordering = \"none\"";
        reader.report("outbox.columns.key", Wrong::new(problem, hint));
    }
}

/// A destination can only be made of columns that are read, and a header's name says one thing.
pub(super) fn route(reader: &mut Reader, outbox: Option<&Outbox>, route: Option<&Route>) {
    let (Some(outbox), Some(route)) = (outbox, route) else { return };
    for problem in problems(route, &outbox.columns) {
        reader.report(problem.key, Wrong::new(problem.problem, problem.hint));
    }
}

pub(super) fn listeners(reader: &mut Reader, metrics: Option<&Metrics>, admin: Option<&Admin>) {
    let (Some(metrics), Some(admin)) = (metrics, admin) else { return };
    let (metrics, admin) = (metrics.listen, admin.listen);
    let is_same_host =
        metrics.ip() == admin.ip() || metrics.ip().is_unspecified() || admin.ip().is_unspecified();
    // Port 0 asks for any free port, so two of them never meet.
    if is_same_host && metrics.port() == admin.port() && metrics.port() != 0 {
        let hint = "write another port: /metrics is for everyone, /status is not";
        reader.report("admin.listen", Wrong::new("is the port of metrics.listen", hint));
    }
}

/// Whether what is sent to `host` stays on this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
