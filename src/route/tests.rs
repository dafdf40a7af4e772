//! What a row becomes, case by case.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::destination::KEPT_MAX;
use super::*;
use crate::config::{ColumnName, Columns, Mark, Ordering, Outbox, TableName};
use crate::message::{Header, Position, RowId};
use crate::sink::OnUnroutable;

fn column(name: &str) -> Option<ColumnName> {
    Some(ColumnName(name.to_owned()))
}

fn outbox() -> Outbox {
    Outbox {
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
    let lane = LaneKey { destination: None, key: bytes("customer-1") };
    assert_eq!(routed.lane, Some(lane));
    assert_eq!(failure(routed).error_type, ErrorType::InvalidRecord);
}

#[test]
fn a_topic_kafka_would_refuse_is_a_permanent_failure_in_a_lane_of_that_name() {
    for (name, rule) in [("a b", "character"), ("__consumer_offsets", "reserved"), ("..", "directory")] {
        let mut row = message();
        row.destination = Some(bytes(name));
        let routed = route("{destination}").apply(row);
        assert_eq!(routed.lane.as_ref().and_then(|lane| lane.destination.clone()), Some(topic(name)));
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
    let sql = route("t.{tenant}.{kind}").destination_sql(|name| format!("o.{name}::text"));
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

#[test]
fn to_an_exchange_id_and_kind_are_properties_and_the_key_is_a_header() {
    let (record, properties) =
        properties(made(&to_exchange("events", "{destination}.{kind}")).apply(message()));
    let destination =
        Destination::Exchange { exchange: "events".into(), routing_key: "orders.Shipped".into() };
    assert_eq!(record.destination, destination);
    assert_eq!(record.destination.identity(), "events\u{1f}orders.Shipped");
    assert_eq!(properties.message_id, bytes("7"));
    assert_eq!(properties.kind, Some(bytes("Shipped")));
    assert_eq!((properties.content_type, properties.correlation_id, properties.reply_to), (None, None, None));
    let expected = [
        header("outbox-key", Some("customer-1")),
        header("trace", Some("abc")),
        header("tenant", Some("acme")),
    ];
    assert_eq!(record.headers, expected);
}

#[test]
fn a_row_without_a_key_and_a_route_without_a_key_header_send_none() {
    let mut row = message();
    row.key = None;
    let (record, _) = properties(made(&to_exchange("events", "")).apply(row));
    assert_eq!(record.headers.len(), 2);
    let mut config = to_exchange("events", "");
    config.key_header = None;
    let (record, _) = properties(made(&config).apply(message()));
    assert_eq!(record.headers.len(), 2);
}

#[test]
fn columns_that_amqp_has_properties_for_are_lifted_out_of_the_headers() {
    let config = to_exchange("events", "");
    let mut route = Route::new(&config, &outbox_of_requests(), Ordering::Key).expect("a route");
    let (record, properties) = properties(route.apply(request()));
    assert_eq!(properties.content_type, Some(bytes("text/plain")));
    assert_eq!(properties.correlation_id, Some(bytes("c-1")));
    assert_eq!(properties.reply_to, Some(bytes("answers")));
    let names: Vec<_> = record.headers.iter().map(|header| &*header.name).collect();
    assert_eq!(names, ["outbox-key", "trace", "tenant"]);
}

#[test]
fn a_rows_own_header_is_never_lifted() {
    let mut outbox = outbox();
    outbox.columns.to_headers.insert(CORRELATION_ID.to_owned(), ColumnName("c".to_owned()));
    let mut route = Route::new(&to_exchange("e", ""), &outbox, Ordering::Key).expect("a route");
    let mut row = request();
    row.headers = vec![
        header("reply-to", Some("own")),
        header("correlation-id", Some("c-1")),
        header("tenant", Some("acme")),
    ];
    let (record, properties) = properties(route.apply(row));
    assert_eq!((properties.reply_to, properties.correlation_id), (None, Some(bytes("c-1"))));
    assert_eq!(record.headers[1..], [header("reply-to", Some("own")), header("tenant", Some("acme"))]);
}

#[test]
fn to_a_topic_the_same_columns_are_headers() {
    let mut route =
        Route::new(&config("{destination}"), &outbox_of_requests(), Ordering::Key).expect("a route");
    let record = route.apply(request()).content.expect("a record");
    assert_eq!(record.headers[2..], request().headers);
    assert_eq!(record.properties, None);
}

#[test]
fn a_row_may_not_speak_for_a_mapped_property() {
    for target in [config("{destination}"), to_exchange("events", "")] {
        for name in ["correlation-id", "Reply-To", "content-type"] {
            let mut row = request();
            row.headers[0] = header(name, Some("forged"));
            let mut route = Route::new(&target, &outbox_of_requests(), Ordering::Key).expect("a route");
            assert!(failure(route.apply(row)).reason.contains(name));
        }
    }
}

#[test]
fn a_content_type_and_an_app_id_of_the_route_go_with_every_message() {
    let mut config = to_exchange("events", "");
    config.content_type = Some("application/json".to_owned());
    config.rest.app_id = Some("shop".into());
    config.rest.on_unroutable = OnUnroutable::Accept;
    let (record, sent) = properties(made(&config).apply(message()));
    assert_eq!((sent.content_type, sent.app_id), (Some(bytes("application/json")), Some("shop".into())));
    assert_eq!(record.on_unroutable(), OnUnroutable::Accept);
    let mut route = Route::new(&config, &outbox_of_requests(), Ordering::Key).expect("a route");
    let (_, sent) = properties(route.apply(request()));
    assert_eq!(sent.content_type, Some(bytes("text/plain")));
}

#[test]
fn a_property_that_amqp_cannot_carry_is_a_permanent_failure() {
    for bad in [Bytes::from(vec![b'x'; 256]), Bytes::from_static(b"\xff"), Bytes::from_static(b"a\0b")] {
        let mut row = message();
        row.kind = Some(bad.clone());
        assert!(failure(made(&to_exchange("events", "")).apply(row)).reason.contains("its kind"));
        let mut row = request();
        row.headers[2].value = Some(bad);
        let mut route =
            Route::new(&to_exchange("e", ""), &outbox_of_requests(), Ordering::Key).expect("a route");
        assert!(failure(route.apply(row)).reason.contains("its correlation-id"));
    }
    let mut row = message();
    row.row.id = RowId::Text("x".repeat(256).into());
    assert!(failure(made(&to_exchange("events", "")).apply(row)).reason.contains("its id has 256 bytes"));
}

#[test]
fn a_row_cannot_reach_the_default_exchange_or_send_what_amqp_cannot_carry() {
    for (name, rule) in [("", "default exchange"), ("a\nb", "control character"), (&"x".repeat(256), "255")] {
        let mut row = message();
        row.destination = Some(Bytes::from(name.to_owned()));
        let routed = made(&to_exchange("{destination}", "r")).apply(row.clone());
        assert_eq!(
            routed.lane.as_ref().and_then(|lane| lane.destination.clone()).map(|it| it.identity()),
            Some(format!("{name}\u{1f}r"))
        );
        let reason = failure(routed).reason;
        assert!(reason.contains(rule), "{reason}");
        if !name.is_empty() {
            let reason = failure(made(&to_exchange("e", "{destination}")).apply(row)).reason;
            assert!(reason.contains("routing key") && reason.contains(rule), "{reason}");
        }
    }
}

#[test]
fn a_reply_to_that_would_close_the_channel_is_a_permanent_failure() {
    let mut row = request();
    row.headers[3] = header("reply-to", Some("amq.rabbitmq.reply-to"));
    let mut route = Route::new(&to_exchange("e", ""), &outbox_of_requests(), Ordering::Key).expect("a route");
    assert!(failure(route.apply(row)).reason.contains("reply-to"));
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

#[test]
fn commands_go_to_the_exchange_of_their_queue_and_events_to_a_topic_exchange() {
    let mut config = to_exchange("events", "{destination}.{kind}");
    config.when =
        vec![rule(&[("kind", "Ship*"), ("destination", "orders")], exchange("commands", "{destination}"))];
    let mut route = made(&config);
    for (kind, destination, expected) in [
        ("ShipOrder", "orders", "commands:orders"),
        ("OrderShipped", "orders", "events:orders.OrderShipped"),
        ("ShipOrder", "returns", "events:returns.ShipOrder"),
    ] {
        let mut row = message();
        (row.kind, row.destination) = (Some(bytes(kind)), Some(bytes(destination)));
        assert_eq!(destination_of(&mut route, row), expected);
    }
    assert_eq!(route.fixed_destinations(), []);
}

#[test]
fn the_first_rule_a_row_meets_decides_and_null_meets_none() {
    let to = |topic: &str| config::Target::Topic(template(topic));
    let mut config = config("rest");
    config.when = vec![
        rule(&[("tenant", "acme")], to("first")),
        rule(&[("id", "7")], to("second")),
        rule(&[("key", "*")], to("third")),
    ];
    let mut route = made(&config);
    let mut row = message();
    assert_eq!(destination_of(&mut route, row.clone()), "first");
    row.headers = vec![header("tenant", Some("acme")), header("tenant", None)];
    assert_eq!(destination_of(&mut route, row.clone()), "second");
    row.row.id = RowId::Text("8".into());
    assert_eq!(destination_of(&mut route, row.clone()), "third");
    row.key = None;
    assert_eq!(destination_of(&mut route, row), "rest");
    assert_eq!(route.fixed_destinations().len(), 4);
}

#[test]
fn a_rule_has_its_own_word_on_what_nobody_takes() {
    let mut config = to_exchange("events", "r");
    config.when = vec![rule(&[("kind", "*")], exchange("events", "r"))];
    config.when[0].way.on_unroutable = OnUnroutable::Accept;
    let (record, _) = properties(made(&config).apply(message()));
    assert_eq!(record.on_unroutable(), OnUnroutable::Accept);
}

#[test]
fn rules_in_sql_are_cases() {
    let mut config = to_exchange("events", "{kind}");
    config.when = vec![rule(&[("kind", "it's_*"), ("key", "a")], exchange("c", ""))];
    let sql = made(&config).destination_sql(|name| format!("o.{name}"));
    assert_eq!(
        sql,
        r#"(case when (o.kind) collate "C" like 'it''s\_%' escape '\' and (o.key) collate "C" like 'a' escape '\' then (('c'::text) || chr(31) || (''::text)) else (('events'::text) || chr(31) || (o.kind)) end)"#
    );
}

#[test]
fn a_row_reaches_only_what_is_allowed() {
    let allow =
        |patterns: &[&str]| patterns.iter().map(|text| Glob::parse(text).expect("a pattern")).collect();
    let mut config = config("{destination}");
    config.allow = allow(&["orders", "audit.*"]);
    let mut route = made(&config);
    let mut row = message();
    assert_eq!(destination_of(&mut route, row.clone()), "orders");
    row.destination = Some(bytes("salaries"));
    for _ in 0..2 {
        let failure = failure(route.apply(row.clone()));
        assert_eq!(failure.error_type, ErrorType::InvalidRecord);
        assert_eq!(&*failure.reason, "the destination \"salaries\" is not among those of route.allow");
    }

    let mut config = to_exchange("{destination}", "{kind}");
    config.allow = allow(&["events", "orders:Ship*"]);
    let mut route = made(&config);
    let mut row = message();
    assert_eq!(destination_of(&mut route, row.clone()), "orders:Shipped");
    row.kind = Some(bytes("Lost"));
    assert!(destination_of(&mut route, row.clone()).contains("route.allow"));
    row.destination = Some(bytes("events"));
    assert_eq!(destination_of(&mut route, row), "events:Lost");
}

#[test]
fn a_row_gives_the_broker_no_orders() {
    let to_topic = ["Outbox-Id", "outbox-kind", "outbox-key", "__TypeId__", "__x", "relay-null", "Relay-x"];
    let to_exchange_too = ["CC", "bcc", "user_id", "Expiration", "x-delay", "X-death"];
    for (name, both) in
        to_topic.iter().map(|it| (it, true)).chain(to_exchange_too.iter().map(|it| (it, false)))
    {
        let mut row = message();
        row.headers[0] = header(name, Some("hostile"));
        let failed = failure(made(&to_exchange("e", "")).apply(row.clone()));
        assert_eq!(failed.error_type, ErrorType::InvalidRecord);
        assert!(failed.reason.contains(name), "{failed}");
        assert_eq!(route("{destination}").apply(row).content.is_err(), both, "{name}");
    }
}

#[test]
fn what_a_row_may_not_set_the_mapping_may() {
    let mut outbox = outbox();
    outbox.columns.to_headers = BTreeMap::from([("x-delay".to_owned(), ColumnName("delay".to_owned()))]);
    let mut route = Route::new(&to_exchange("e", ""), &outbox, Ordering::Key).expect("a route");
    let mut row = message();
    row.headers = vec![header("x-delay", Some("5000"))];
    let (record, _) = properties(route.apply(row));
    assert_eq!(record.headers[1], header("x-delay", Some("5000")));
}

#[test]
fn a_header_without_a_usable_name_is_a_permanent_failure() {
    for (name, rule) in [("", "empty"), (&*"x".repeat(256), "longer"), ("a\r\nb", "control")] {
        let mut row = message();
        row.headers[0] = header(name, None);
        let reason = failure(route("{destination}").apply(row)).reason;
        assert!(reason.contains(rule), "{reason}");
    }
}

fn formatted(format: config::Format) -> Route {
    let mut config = config("{destination}");
    config.format = format;
    made(&config)
}

#[test]
fn a_format_quotes_what_is_sent_and_not_what_order_is_kept_by() {
    let mut row = message();
    row.payload = Payload::Null;
    let routed = formatted(config::Format::JsonString).apply(row.clone());
    assert_eq!(routed.lane.expect("a lane").key, bytes("customer-1"));
    let record = routed.content.expect("a record");
    assert_eq!(
        (record.key.clone(), record.body.clone()),
        (Some(bytes("\"customer-1\"")), Some(bytes("null")))
    );
    assert_eq!(record.headers[0].value, Some(bytes("\"7\"")));

    row.headers[1].value = None;
    let record = formatted(config::Format::Plain).apply(row).content.expect("a record");
    assert_eq!((record.key.clone(), record.body.clone()), (Some(bytes("customer-1")), None));
    assert_eq!(record.headers[3], header("tenant", None));
}

#[test]
fn an_envelope_takes_its_fields_out_of_the_headers() {
    let field =
        |place: &str, name: &str| config::EnvelopeField { place: place.to_owned(), name: name.to_owned() };
    let fields = vec![field("tenant", "for \"whom\""), field("id", "id"), field("created_at", "when")];
    let mut row = message();
    row.created_at = None;
    let mut config = config("{destination}");
    config.format = config::Format::Envelope(fields);
    let mut outbox = outbox();
    outbox.columns.created_at = column("at");
    let mut route = Route::new(&config, &outbox, Ordering::Key).expect("a route");
    let record = route.apply(row).content.expect("a record");
    let expected = r#"{"payload":"{}","for \"whom\"":"acme","id":"7","when":null}"#;
    assert_eq!(record.body, Some(bytes(expected)));
    let names: Vec<_> = record.headers.iter().map(|header| &*header.name).collect();
    assert_eq!(names, ["outbox-id", "outbox-kind", "trace"]);
}

#[test]
fn what_is_no_text_or_grows_too_large_as_json_is_a_permanent_failure() {
    let mut row = message();
    row.payload = Payload::Stored(Bytes::from_static(b"\xff"));
    assert!(
        failure(formatted(config::Format::JsonString).apply(row)).reason.contains("its payload is not UTF-8")
    );
    let mut row = message();
    row.payload = Payload::Stored(Bytes::from(vec![b'"'; 1_000_000]));
    assert_eq!(failure(formatted(config::Format::JsonString).apply(row)).error_type, ErrorType::TooLarge);
}

fn any_bytes() -> impl Strategy<Value = Option<Bytes>> {
    let text = prop_oneof![any::<String>(), "[a-z._:-]{0,9}", "(x{300}|\\*|__a|CC|x-y|relay-z|\u{1f}|)"];
    let large = (0..80_000_usize).prop_map(|length| vec![b'"'; length]);
    let bytes = prop_oneof![
        6 => text.prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => large
    ];
    prop::option::weighted(0.9, bytes.prop_map(Bytes::from))
}

prop_compose! {
    fn any_message()(
        id in prop_oneof![any::<i64>().prop_map(RowId::Int), any::<String>().prop_map(|id| RowId::Text(id.into()))],
        key in any_bytes(),
        kind in any_bytes(),
        destination in any_bytes(),
        own in prop::collection::vec((prop_oneof![any::<String>(), "[a-zA-Z_-]{0,8}"], any_bytes()), 0..70),
        mapped in prop::array::uniform4(any_bytes()),
        payload in prop_oneof![
            any_bytes().prop_map(|bytes| bytes.map_or(Payload::Null, Payload::Stored)),
            any::<u64>().prop_map(Payload::Oversize)
        ],
        created_at in prop::option::of(any::<i64>().prop_map(Timestamp)),
    ) -> Message {
        // Mapped columns come last and always, by name.
        let names = [CONTENT_TYPE, CORRELATION_ID, REPLY_TO, "tenant"].map(str::to_owned);
        let headers = own.into_iter().chain(names.into_iter().zip(mapped));
        let headers = headers.map(|(name, value)| Header { name: name.into(), value }).collect();
        let row = RowRef { id, position: Position(1) };
        Message { row, key, kind, destination, headers, payload, created_at, malformed: None }
    }
}

fn every_kind_of_route() -> Vec<Route> {
    let envelope = vec![config::EnvelopeField { place: "kind".to_owned(), name: "type".to_owned() }];
    let formats = [
        config::Format::Raw,
        config::Format::Plain,
        config::Format::JsonString,
        config::Format::Envelope(envelope),
    ];
    let targets = [
        config("{destination}"),
        config("t"),
        to_exchange("{destination}", "{kind}.{id}"),
        to_exchange("e", ""),
    ];
    let mut routes = Vec::new();
    for (format, mut config) in
        formats.iter().flat_map(|format| targets.iter().cloned().map(move |it| (format, it)))
    {
        config.format = format.clone();
        config.when = vec![rule(&[("kind", "*a*b*"), ("tenant", "*")], config.rest.target.clone())];
        routes.push(Route::new(&config, &outbox_of_requests(), Ordering::Key).expect("a route"));
    }
    routes
}

fn is_within_limits(record: &Record) -> bool {
    let short = |value: &Option<Bytes>| {
        value.as_ref().is_none_or(|value| value.len() <= 255 && std::str::from_utf8(value).is_ok())
    };
    let names = match &record.destination {
        Destination::Topic(topic) => name::check_topic(topic).is_ok() && record.properties.is_none(),
        Destination::Exchange { exchange, routing_key } => {
            let properties = record.properties.as_ref().expect("an exchange's record has them");
            name::check_exchange(exchange).is_ok()
                && name::check_routing_key(routing_key).is_ok()
                && short(&Some(properties.message_id.clone()))
                && [
                    &properties.kind,
                    &properties.content_type,
                    &properties.correlation_id,
                    &properties.reply_to,
                ]
                .into_iter()
                .all(short)
        }
    };
    let size = |header: &Header| header.value.as_ref().map_or(0, Bytes::len);
    let sizes: usize = record.headers.iter().map(|header| header.name.len() + size(header)).sum();
    names
        && record.headers.len() <= HEADERS_MAX
        && sizes <= HEADER_BYTES_MAX
        && record
            .headers
            .iter()
            .all(|it| headers::check_name(&it.name).is_ok() && size(it) <= HEADER_VALUE_BYTES_MAX)
        && record.body.as_ref().is_none_or(|body| body.len() <= outbox().message_bytes_max)
}

proptest! {
    #[test]
    fn no_row_whatsoever_makes_a_route_panic_or_go_past_a_limit(row in any_message()) {
        for mut route in every_kind_of_route() {
            let routed = route.apply(row.clone());
            match &routed.content {
                Ok(record) => {
                    prop_assert!(is_within_limits(record), "{:?}", record);
                    let lane = routed.lane.as_ref().map(|lane| lane.destination.as_ref());
                    prop_assert!(lane.is_none_or(|destination| destination == Some(&record.destination)));
                }
                Err(failure) => {
                    prop_assert_eq!(failure.fault, Fault::Permanent);
                    prop_assert!(failure.reason.len() < 400 && !failure.reason.chars().any(char::is_control));
                }
            }
        }
    }
}
