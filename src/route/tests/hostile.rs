//! What a row may not do, whoever wrote it.

use proptest::prelude::*;

use super::*;

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
    outbox.columns.to_headers = BTreeMap::from([("__TypeId__".to_owned(), ColumnName("class".to_owned()))]);
    let mut route = Route::new(&to_exchange("e", ""), &outbox, Ordering::Key).expect("a route");
    let mut row = message();
    row.headers = vec![header("__TypeId__", Some("Order"))];
    let (record, _) = properties(route.apply(row));
    assert_eq!(record.headers[1], header("__TypeId__", Some("Order")));
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
                    let lane = routed.lane.as_ref().map(|lane| lane.scope.as_ref());
                    prop_assert!(lane.is_none_or(|scope| scope == Some(&record.destination.scope())));
                }
                Err(failure) => {
                    prop_assert_eq!(failure.fault, Fault::Permanent);
                    prop_assert!(failure.reason.len() < 400 && !failure.reason.chars().any(char::is_control));
                }
            }
        }
    }
}
