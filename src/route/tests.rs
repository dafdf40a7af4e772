//! What a row becomes, case by case.

use std::collections::BTreeMap;
use std::time::Duration;

use super::destination::KEPT_MAX;
use super::*;
use crate::config::{ColumnName, Columns, Mark, Ordering, Outbox, TableName};
use crate::message::{Header, Position, RowId};
use crate::sink::OnUnroutable;

mod amqp;
mod format;
mod hostile;
mod rules;

fn column(name: &str) -> Option<ColumnName> {
    Some(ColumnName(name.to_owned()))
}

fn outbox() -> Outbox {
    Outbox {
        start: None,
        table: TableName { schema: None, table: "outbox".to_owned() },
        columns: Columns {
            id: ColumnName("id".to_owned()),
            order: None,
            key: column("key"),
            kind: column("kind"),
            destination: column("destination"),
            payload: ColumnName("payload".to_owned()),
            headers: None,
            created_at: None,
            to_headers: BTreeMap::from([("tenant".to_owned(), ColumnName("tenant_id".to_owned()))]),
        },
        mark: Mark::Delete,
        poll_interval: Duration::from_millis(250),
        listen: None,
        message_bytes_max: 1_048_576,
        fetch_rows_max: 1_000,
    }
}

fn template(text: &str) -> Template {
    Template::parse(text).expect("a template")
}

fn way(target: config::Target) -> config::Way {
    config::Way { target, on_unroutable: OnUnroutable::Block, app_id: None }
}

fn to(target: config::Target) -> config::Route {
    config::Route {
        rest: way(target),
        when: Vec::new(),
        allow: Vec::new(),
        id_header: "outbox-id".to_owned(),
        kind_header: Some("outbox-kind".to_owned()),
        key_header: Some("outbox-key".to_owned()),
        content_type: None,
        format: config::Format::Raw,
    }
}

fn config(topic: &str) -> config::Route {
    to(config::Target::Topic(template(topic)))
}

fn to_exchange(exchange: &str, routing_key: &str) -> config::Route {
    let (exchange, routing_key) = (template(exchange), template(routing_key));
    to(config::Target::Exchange { exchange, routing_key })
}

fn made(config: &config::Route) -> Route {
    Route::new(config, &outbox(), Ordering::Key).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn route(topic: &str) -> Route {
    made(&config(topic))
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn header(name: &str, value: Option<&'static str>) -> Header {
    Header { name: name.into(), value: value.map(bytes) }
}

fn message() -> Message {
    Message {
        row: RowRef { id: RowId::Int(7), position: Position(7) },
        key: Some(bytes("customer-1")),
        kind: Some(bytes("Shipped")),
        destination: Some(bytes("orders")),
        headers: vec![header("trace", Some("abc")), header("tenant", Some("acme"))],
        payload: Payload::Stored(bytes("{}")),
        created_at: Some(Timestamp(1_700_000_000_123_456)),
        malformed: None,
    }
}

fn topic(name: &str) -> Destination {
    Destination::Topic(name.into())
}

fn failure(routed: Routed) -> Failure {
    let failure = routed.content.expect_err("a failure");
    assert_eq!(failure.fault, Fault::Permanent);
    assert!(!failure.maybe_published);
    failure
}

#[test]
fn a_row_becomes_a_record_with_its_own_headers_first() {
    let record = route("{destination}").apply(message()).content.expect("a record");
    assert_eq!(record.destination, topic("orders"));
    assert_eq!(record.key, Some(bytes("customer-1")));
    assert_eq!(record.body, Some(bytes("{}")));
    assert_eq!(record.timestamp_ms, Some(1_700_000_000_123));
    let expected = [
        header("outbox-id", Some("7")),
        header("outbox-kind", Some("Shipped")),
        header("trace", Some("abc")),
        header("tenant", Some("acme")),
    ];
    assert_eq!(record.headers, expected);
}

#[test]
fn a_record_shares_the_bytes_of_its_row() {
    let message = message();
    let (Payload::Stored(payload), Some(key)) = (message.payload.clone(), message.key.clone()) else {
        unreachable!("the message has both");
    };
    let record = route("{destination}").apply(message).content.expect("a record");
    assert_eq!(record.body.as_ref().map(|body| body.as_ptr()), Some(payload.as_ptr()));
    assert_eq!(record.key.as_ref().map(|it| it.as_ptr()), Some(key.as_ptr()));
}

#[test]
fn every_place_of_a_template_is_filled() {
    let record = route("t.{tenant}.{kind}-{key}_{id}").apply(message()).content.expect("a record");
    assert_eq!(record.destination, topic("t.acme.Shipped-customer-1_7"));
}

#[test]
fn a_header_of_the_row_is_not_taken_for_a_mapped_column_of_the_same_name() {
    let mut row = message();
    row.headers = vec![header("tenant", Some("forged")), header("tenant", None)];
    let reason = failure(route("{tenant}").apply(row)).reason;
    assert_eq!(&*reason, "the topic needs {tenant}, which is NULL in this row");
}

#[test]
fn a_null_in_the_template_is_a_permanent_failure_and_its_lane_has_no_destination() {
    let mut row = message();
    row.destination = None;
    let routed = route("{destination}").apply(row);
    let lane = LaneKey { scope: None, key: bytes("customer-1") };
    assert_eq!(routed.lane, Some(lane));
    assert_eq!(failure(routed).error_type, ErrorType::InvalidRecord);
}

#[test]
fn a_topic_kafka_would_refuse_is_a_permanent_failure_in_a_lane_of_that_name() {
    for (name, rule) in [("a b", "character"), ("__consumer_offsets", "reserved"), ("..", "directory")] {
        let mut row = message();
        row.destination = Some(bytes(name));
        let routed = route("{destination}").apply(row);
        assert_eq!(routed.lane.as_ref().and_then(|lane| lane.scope.clone()), Some(topic(name)));
        let reason = failure(routed).reason;
        assert!(reason.contains(rule), "{reason}");
    }
}

#[test]
fn a_reason_shows_the_beginning_of_a_bad_topic_and_no_control_characters() {
    let mut row = message();
    row.destination = Some(Bytes::from(format!("a\u{1b}[31m\n{}", "x".repeat(10_000))));
    let reason = failure(route("{destination}").apply(row)).reason;
    assert!(reason.len() < 200 && !reason.chars().any(char::is_control), "{reason}");
}

#[test]
fn a_topic_that_is_not_text_is_a_permanent_failure() {
    let mut row = message();
    row.destination = Some(Bytes::from_static(b"\xff\xfe"));
    assert!(failure(route("{destination}").apply(row)).reason.contains("not UTF-8"));
}

#[test]
fn a_payload_left_in_the_database_is_too_large() {
    let mut row = message();
    row.payload = Payload::Oversize(2_000_000);
    let failure = failure(route("{destination}").apply(row));
    assert_eq!(failure.error_type, ErrorType::TooLarge);
    assert_eq!(&*failure.reason, "the payload has 2000000 bytes, message_bytes_max is 1048576");
}

#[test]
fn a_null_payload_is_a_tombstone_and_an_empty_one_is_not() {
    let mut row = message();
    row.payload = Payload::Null;
    assert_eq!(route("{destination}").apply(row).content.expect("a record").body, None);
    let mut row = message();
    row.payload = Payload::Stored(Bytes::new());
    assert_eq!(route("{destination}").apply(row).content.expect("a record").body, Some(Bytes::new()));
}

#[test]
fn a_null_header_stays_null() {
    let mut row = message();
    row.kind = None;
    row.headers = vec![header("tenant", None)];
    let record = route("{destination}").apply(row).content.expect("a record");
    assert_eq!(record.headers[1..], [header("outbox-kind", None), header("tenant", None)]);
}

#[test]
fn a_row_may_not_set_the_headers_the_relay_sets() {
    for name in ["outbox-id", "outbox-kind"] {
        let mut row = message();
        row.headers.insert(0, header(name, Some("forged")));
        assert!(failure(route("{destination}").apply(row)).reason.contains(name));
    }
}

#[test]
fn headers_have_a_limit_in_number_and_in_bytes() {
    let mut row = message();
    row.headers = vec![header("h", None); HEADERS_MAX - 2];
    assert!(route("{destination}").apply(row.clone()).content.is_ok());
    row.headers.push(header("h", None));
    assert_eq!(failure(route("{destination}").apply(row)).error_type, ErrorType::InvalidRecord);

    let mut row = message();
    let large = |bytes| Header { name: "h".into(), value: Some(Bytes::from(vec![0; bytes])) };
    let own = "outbox-id".len() + "7".len() + "outbox-kind".len() + "Shipped".len();
    let rest = HEADER_BYTES_MAX - HEADER_VALUE_BYTES_MAX - own - 2;
    row.headers = vec![large(HEADER_VALUE_BYTES_MAX), large(rest)];
    assert!(route("{destination}").apply(row.clone()).content.is_ok());
    row.headers.push(header("h", None));
    assert_eq!(failure(route("{destination}").apply(row.clone())).error_type, ErrorType::TooLarge);
    row.headers = vec![large(HEADER_VALUE_BYTES_MAX + 1)];
    assert_eq!(failure(route("{destination}").apply(row)).error_type, ErrorType::TooLarge);
}

#[test]
fn a_timestamp_before_1970_is_left_to_the_client() {
    for created_at in [None, Some(Timestamp(-1)), Some(Timestamp(i64::MIN))] {
        let mut row = message();
        row.created_at = created_at;
        let routed = route("{destination}").apply(row);
        assert_eq!(routed.created_at, created_at);
        assert_eq!(routed.content.expect("a record").timestamp_ms, None);
    }
}

#[test]
fn a_row_without_a_key_and_an_unordered_outbox_have_no_lanes() {
    let mut row = message();
    row.key = None;
    assert_eq!(route("{destination}").apply(row).lane, None);
    let mut unordered = Route::new(&config("{destination}"), &outbox(), Ordering::None).expect("a route");
    assert_eq!(unordered.apply(message()).lane, None);
}

#[test]
fn equal_topics_share_one_allocation() {
    let mut route = route("{destination}");
    let name = |routed: Routed| match &routed.content.expect("a record").destination {
        Destination::Topic(name) => Arc::clone(name),
        other => panic!("{other} is not a topic"),
    };
    let (first, second) = (name(route.apply(message())), name(route.apply(message())));
    assert!(Arc::ptr_eq(&first, &second));
}

#[test]
fn the_names_kept_for_reuse_are_bounded() {
    let mut route = route("{id}");
    for id in 0..(KEPT_MAX as i64 + 10) {
        let mut row = message();
        row.row.id = RowId::Int(id);
        let record = route.apply(row).content.expect("a record");
        assert_eq!(record.destination, topic(&id.to_string()));
    }
    assert_eq!(route.destinations.kept(), KEPT_MAX);
}

#[test]
fn a_row_counts_for_what_is_sent_of_it() {
    let routed = route("{destination}").apply(message());
    assert_eq!(routed.bytes, routed.content.expect("a record").bytes());
}

#[test]
fn a_route_over_columns_that_are_not_mapped_is_refused_with_all_its_problems() {
    let mut outbox = outbox();
    outbox.columns.destination = None;
    let mut config = config("{destination}/{nobody}");
    config.id_header = "tenant".to_owned();
    let problems = Route::new(&config, &outbox, Ordering::Key).expect_err("problems");
    let expected = [
        "outbox.columns.destination is not set",
        "holds \"/\"",
        "{nobody}, which is not known",
        "remove it, or rename route.id_header",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, part) in problems.iter().zip(expected) {
        assert!(problem.contains(part), "{problem}");
    }
}

#[test]
fn the_topic_in_sql_asks_for_the_same_places() {
    let sql = route("t.{tenant}.{kind}").scope_sql(|name| format!("o.{name}::text"));
    assert_eq!(sql, "('t.'::text || o.tenant::text || '.'::text || o.kind::text)");
}

fn properties(routed: Routed) -> (Record, crate::sink::Properties) {
    let record = routed.content.unwrap_or_else(|failure| panic!("{failure}"));
    let properties = *record.properties.clone().expect("an exchange's record has them");
    (Record::clone(&record), properties)
}

/// A mapping with all the columns that AMQP has properties for.
fn outbox_of_requests() -> Outbox {
    let mut outbox = outbox();
    for header in [CONTENT_TYPE, CORRELATION_ID, REPLY_TO] {
        outbox.columns.to_headers.insert(header.to_owned(), ColumnName("c".to_owned()));
    }
    outbox
}

fn request() -> Message {
    let mut row = message();
    row.headers = vec![
        header("trace", Some("abc")),
        header("content-type", Some("text/plain")),
        header("correlation-id", Some("c-1")),
        header("reply-to", Some("answers")),
        header("tenant", Some("acme")),
    ];
    row
}

fn rule(conditions: &[(&str, &str)], target: config::Target) -> config::Rule {
    let glob = |text: &str| Glob::parse(text).expect("a pattern");
    let conditions = conditions.iter().map(|(place, text)| ((*place).to_owned(), glob(text))).collect();
    config::Rule { conditions, way: way(target) }
}

fn exchange(exchange: &str, routing_key: &str) -> config::Target {
    config::Target::Exchange { exchange: template(exchange), routing_key: template(routing_key) }
}

fn destination_of(route: &mut Route, row: Message) -> String {
    route
        .apply(row)
        .content
        .map_or_else(|failure| failure.to_string(), |record| record.destination.to_string())
}
