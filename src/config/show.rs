//! The effective configuration as TOML, for people. Secrets show as `***`; without any, what is
//! shown can be loaded again and means the same.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::read::{
    NAMED_HEADERS, amqp_is_plaintext_allowed, amqp_redacted, kafka_is_plaintext_allowed, property_is_secret,
    url_is_plaintext_allowed, url_redacted,
};
use super::{
    ColumnName, Columns, Config, Database, Delivery, Format, HeaderColumns, Kafka, LogFormat, Mark,
    MarkColumn, Ordering, Outbox, Pooler, RabbitMq, Route, Secret, Sink, Target, Way, size,
};
use crate::sink::OnUnroutable;

/// Every key that has a value, under its section.
#[must_use]
pub fn show(config: &Config) -> String {
    let mut page = Page::default();
    page.section("pipeline");
    page.text("name", &config.pipeline.name);
    database(&mut page, &config.database);
    page.section("state");
    page.text("schema", &config.state.schema);
    outbox(&mut page, &config.outbox);
    route(&mut page, &config.route);
    sink(&mut page, &config.sink);
    delivery(&mut page, &config.delivery);
    page.section("lease");
    page.duration("ttl", config.lease.ttl);
    page.section("metrics");
    page.text("listen", config.metrics.listen);
    page.duration("backlog_interval", config.metrics.backlog_interval);
    page.section("admin");
    page.text("listen", config.admin.listen);
    page.section("log");
    page.text(
        "format",
        match config.log.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        },
    );
    page.text("filter", &config.log.filter);
    page.0
}

fn database(page: &mut Page, database: &Database) {
    page.section("database");
    page.text("url", url_redacted(&database.url));
    page.duration("statement_timeout", database.statement_timeout);
    page.duration("lock_timeout", database.lock_timeout);
    page.duration("connect_timeout", database.connect_timeout);
    page.text(
        "pooler",
        match database.pooler {
            Pooler::None => "none",
            Pooler::Transaction => "transaction",
        },
    );
    if let Some(url) = &database.listen_url {
        page.text("listen_url", url_redacted(url));
    }
    let mut urls = std::iter::once(&database.url).chain(&database.listen_url);
    page.bare("insecure_allow_plaintext", urls.any(url_is_plaintext_allowed));
}

fn outbox(page: &mut Page, outbox: &Outbox) {
    page.section("outbox");
    page.text("table", &outbox.table);
    page.text("preset", "none"); // every column the preset filled in is shown below
    page.text("capture", "poll");
    mark(page, &outbox.mark);
    if let Some(start) = outbox.start {
        page.text("start", start);
    }
    page.duration("poll_interval", outbox.poll_interval);
    page.bare("listen", outbox.listen.is_some());
    if let Some(channel) = &outbox.listen {
        page.text("listen_channel", channel);
    }
    page.size("message_bytes_max", outbox.message_bytes_max);
    page.bare("fetch_rows_max", outbox.fetch_rows_max);
    columns(page, &outbox.columns);
}

fn mark(page: &mut Page, mark: &Mark) {
    let column = match mark {
        Mark::Delete => return page.text("mark", "delete"),
        Mark::Update(column) => column,
    };
    page.text("mark", "update");
    let (kind, name) = match column {
        MarkColumn::Timestamp(name) => ("timestamp", name),
        MarkColumn::Boolean(name) => ("boolean", name),
        MarkColumn::Status { column, .. } => ("status", column),
    };
    page.text("mark_kind", kind);
    page.column("mark_column", name);
    if let MarkColumn::Status { pending, delivered, .. } = column {
        page.text("mark_value", delivered);
        page.text("pending_value", pending);
    }
}

fn columns(page: &mut Page, columns: &Columns) {
    page.section("outbox.columns");
    page.column("id", &columns.id);
    let optional = [
        ("order", &columns.order),
        ("key", &columns.key),
        ("kind", &columns.kind),
        ("destination", &columns.destination),
        ("payload", &Some(columns.payload.clone())),
        ("created_at", &columns.created_at),
    ];
    for (key, column) in optional {
        if let Some(column) = column {
            page.column(key, column);
        }
    }
    match &columns.headers {
        None => {}
        Some(HeaderColumns::Json(column)) => page.column("headers", column),
        Some(HeaderColumns::Arrays { names, values }) => {
            page.bare("headers", format!("[{}, {}]", written_column(names), written_column(values)));
        }
    }
    for (key, header) in NAMED_HEADERS {
        if let Some(column) = columns.to_headers.get(header) {
            page.column(key, column);
        }
    }
    let is_named = |header: &String| NAMED_HEADERS.iter().any(|(_, named)| named == header);
    let others: Vec<_> = columns.to_headers.iter().filter(|(header, _)| !is_named(header)).collect();
    if !others.is_empty() {
        page.section("outbox.header_columns");
    }
    for (header, column) in others {
        page.column(&written(header), column);
    }
}

fn route(page: &mut Page, route: &Route) {
    page.section("route");
    way(page, &route.rest);
    let allow: Vec<_> = route.allow.iter().map(|allowed| written(&allowed.to_string())).collect();
    page.bare("allow", format!("[{}]", allow.join(", ")));
    page.text("id_header", &route.id_header);
    page.text("kind_header", route.kind_header.as_deref().unwrap_or(""));
    page.text("key_header", route.key_header.as_deref().unwrap_or(""));
    if let Some(content_type) = &route.content_type {
        page.text("content_type", content_type);
    }
    format(page, &route.format);
    for rule in &route.when {
        page.section("[route.when]");
        for (place, glob) in &rule.conditions {
            page.text(&written(place), glob);
        }
        way(page, &rule.way);
    }
}

fn format(page: &mut Page, format: &Format) {
    let (kind, fields) = match format {
        Format::Raw => ("raw", &[][..]),
        Format::Plain => ("plain", &[][..]),
        Format::JsonString => ("json-string", &[][..]),
        Format::Envelope(fields) => ("envelope", fields.as_slice()),
    };
    page.text("format", kind);
    let fields: Vec<_> =
        fields.iter().map(|field| written(&format!("{}:{}", field.place, field.name))).collect();
    page.bare("envelope_fields", format!("[{}]", fields.join(", ")));
}

fn way(page: &mut Page, way: &Way) {
    match &way.target {
        Target::Topic(topic) => page.text("topic", topic),
        Target::Exchange { exchange, routing_key } => {
            page.text("exchange", exchange);
            page.text("routing_key", routing_key);
        }
    }
    page.text(
        "on_unroutable",
        match way.on_unroutable {
            OnUnroutable::Block => "block",
            OnUnroutable::DeadLetter => "dead-letter",
            OnUnroutable::Accept => "accept",
        },
    );
    if let Some(app_id) = &way.app_id {
        page.text("app_id", app_id);
    }
}

fn sink(page: &mut Page, sink: &Sink) {
    page.section("sink");
    match sink {
        Sink::Stdout => page.text("type", "stdout"),
        Sink::Kafka(kafka) => {
            page.text("type", "kafka");
            self::kafka(page, kafka);
        }
        Sink::RabbitMq(rabbitmq) => {
            page.text("type", "rabbitmq");
            self::rabbitmq(page, rabbitmq);
        }
    }
}

fn rabbitmq(page: &mut Page, rabbitmq: &RabbitMq) {
    page.section("sink.rabbitmq");
    page.text("url", amqp_redacted(&rabbitmq.url));
    page.bare("insecure_allow_plaintext", amqp_is_plaintext_allowed(&rabbitmq.url));
    let identity = rabbitmq.identity.as_ref();
    let files = [
        ("ca_file", rabbitmq.ca_file.as_ref()),
        ("cert_file", identity.map(|identity| &identity.cert_file)),
        ("key_file", identity.map(|identity| &identity.key_file)),
    ];
    for (key, file) in files {
        if let Some(file) = file {
            page.text(key, file.display());
        }
    }
    page.bare("channels", rabbitmq.channels);
    page.duration("confirm_timeout", rabbitmq.confirm_timeout);
    page.duration("heartbeat", rabbitmq.heartbeat);
    if let Some(name) = &rabbitmq.connection_name {
        page.text("connection_name", name);
    }
    if let Some(name) = &rabbitmq.lock {
        page.text("lock", name);
    }
    page.size("message_bytes_max", rabbitmq.message_bytes_max);
}

fn kafka(page: &mut Page, kafka: &Kafka) {
    page.section("sink.kafka");
    page.text("brokers", &kafka.brokers);
    page.bare("insecure_allow_plaintext", kafka_is_plaintext_allowed(kafka));
    properties(page, &kafka.properties);
}

fn properties(page: &mut Page, properties: &BTreeMap<String, Secret>) {
    if !properties.is_empty() {
        page.section("sink.kafka.properties");
    }
    for (name, value) in properties {
        page.text(&written(name), if property_is_secret(name) { "***" } else { value.reveal() });
    }
}

fn delivery(page: &mut Page, delivery: &Delivery) {
    page.section("delivery");
    page.text(
        "ordering",
        match delivery.ordering {
            Ordering::Key => "key",
            Ordering::None => "none",
        },
    );
    page.bare("in_flight_rows_max", delivery.in_flight_rows_max);
    page.size("in_flight_bytes_max", delivery.in_flight_bytes_max);
    page.bare("read_ahead_rows_max", delivery.read_ahead_rows_max);
    page.size("read_ahead_bytes_max", delivery.read_ahead_bytes_max);
    page.duration("drain_timeout", delivery.drain_timeout);
    page.section("delivery.retry");
    page.duration("backoff_min", delivery.backoff_min);
    page.duration("backoff_max", delivery.backoff_max);
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn section(&mut self, name: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        writeln!(self.0, "{gap}[{name}]").expect("a string can be written to");
    }

    fn bare(&mut self, key: &str, value: impl Display) {
        writeln!(self.0, "{key} = {value}").expect("a string can be written to");
    }

    fn text(&mut self, key: &str, value: impl Display) {
        self.bare(key, written(&value.to_string()));
    }

    fn column(&mut self, key: &str, column: &ColumnName) {
        self.bare(key, written_column(column));
    }

    fn duration(&mut self, key: &str, duration: Duration) {
        self.text(key, humantime::format_duration(duration));
    }

    fn size(&mut self, key: &str, bytes: usize) {
        self.text(key, size::written(bytes as u64));
    }
}

fn written_column(column: &ColumnName) -> String {
    // A name that starts with a double quote would be read as a quoted one.
    if column.0.starts_with('"') { written(&column.quoted()) } else { written(&column.0) }
}

/// As a TOML basic string. JSON writes the same, but for DEL, which TOML wants escaped.
fn written(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
