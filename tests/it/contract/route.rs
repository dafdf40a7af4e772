//! The scope of a destination is computed twice, for the lane and, in SQL, to leave rows out of a read: over
//! the real server both must give the same bytes, whatever stands in the rows.

use std::collections::BTreeMap;
use std::time::Duration;

use outbox_relay::config::{self, ColumnName, Columns, Mark, Ordering, Rule, TableName, Target, Way};
use outbox_relay::message::{Header, Message, Payload, Position, RowId, RowRef};
use outbox_relay::route::{Glob, Route, Template};
use outbox_relay::run::{scope_columns, scope_sql};
use outbox_relay::sink::OnUnroutable;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::services::Services;

const ROUTES: usize = 250;
const ROWS: usize = 60;

/// Destination, kind, key and a mapped header.
type Values = [Option<String>; 4];

/// Few letters, so that patterns meet values, and all that SQL and patterns read as more than a letter.
fn value() -> impl Strategy<Value = Option<String>> {
    let text = prop_oneof![
        4 => r"[abAB%_*.\\']{0,5}",
        1 => "[aä\u{1f511}\u{301}é ]{0,4}",
        1 => any::<String>().prop_map(|text| text.replace('\0', "")),
    ];
    prop::option::weighted(0.85, text)
}

fn glob() -> impl Strategy<Value = Glob> {
    let pattern = prop_oneof![3 => r"[abA%_*.\\']{1,5}", 1 => r"\*?[aä\u{1f511}é]{1,2}\*?"];
    pattern.prop_map(|text| Glob::parse(&text).expect("a pattern"))
}

fn template() -> impl Strategy<Value = Template> {
    let part =
        prop::sample::select(vec!["{destination}", "{kind}", "{key}", "{id}", "{tenant}", "a", ".b", "_z"]);
    prop::collection::vec(part, 1..4).prop_map(|parts| Template::parse(&parts.concat()).expect("a template"))
}

fn way(to_exchange: bool) -> impl Strategy<Value = Way> {
    (template(), template()).prop_map(move |(one, other)| {
        let target = if to_exchange {
            Target::Exchange { exchange: one, routing_key: other }
        } else {
            Target::Topic(one)
        };
        Way { target, on_unroutable: OnUnroutable::Block, app_id: None }
    })
}

fn rule(to_exchange: bool) -> impl Strategy<Value = Rule> {
    let place = prop::sample::select(vec!["destination", "kind", "key", "id", "tenant"]);
    let condition = (place.prop_map(str::to_owned), glob());
    (prop::collection::vec(condition, 1..3), way(to_exchange))
        .prop_map(|(conditions, way)| Rule { conditions, way })
}

fn route() -> impl Strategy<Value = config::Route> {
    any::<bool>().prop_flat_map(|to_exchange| {
        (way(to_exchange), prop::collection::vec(rule(to_exchange), 0..4)).prop_map(|(rest, when)| {
            config::Route {
                rest,
                when,
                allow: Vec::new(),
                id_header: "id".to_owned(),
                kind_header: None,
                key_header: None,
                content_type: None,
                format: config::Format::Raw,
            }
        })
    })
}

fn column(name: &str) -> ColumnName {
    ColumnName(name.to_owned())
}

fn outbox() -> config::Outbox {
    config::Outbox {
        table: TableName { schema: None, table: "o".to_owned() },
        columns: Columns {
            id: column("id"),
            order: Some(column("id")),
            key: Some(column("key")),
            kind: Some(column("kind")),
            destination: Some(column("destination")),
            payload: column("payload"),
            headers: None,
            created_at: None,
            to_headers: BTreeMap::from([("tenant".to_owned(), column("tenant"))]),
        },
        mark: Mark::Delete,
        start: None,
        listen: None,
        poll_interval: Duration::from_millis(250),
        message_bytes_max: 1 << 20,
        fetch_rows_max: 1_000,
    }
}

fn message(id: i64, [destination, kind, key, tenant]: Values) -> Message {
    let bytes = |text: Option<String>| text.map(|text| text.into_bytes().into());
    Message {
        row: RowRef { id: RowId::Int(id), position: Position(id) },
        // The lane is where the scope shows even of a row that cannot be sent.
        key: Some(bytes(key).unwrap_or_default()),
        kind: bytes(kind),
        destination: bytes(destination),
        headers: vec![Header { name: "tenant".into(), value: bytes(tenant) }],
        payload: Payload::Null,
        created_at: None,
        malformed: None,
    }
}

/// The scopes the server computes, in the order of the rows.
async fn asked(database: &mut PgConnection, sql: &str, rows: &[Values]) -> Vec<Option<String>> {
    let columns: [Vec<Option<&str>>; 4] =
        std::array::from_fn(|i| rows.iter().map(|row| row[i].as_deref()).collect());
    // A key is never null here: without one there is no lane to look at.
    let statement = format!(
        "select {sql} from (select id, destination, kind, coalesce(key, '') as key, tenant \
         from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality \
         as r (destination, kind, key, tenant, id)) as o order by id"
    );
    let [destination, kind, key, tenant] = columns;
    let query = sqlx::query_scalar(AssertSqlSafe(statement.clone()));
    let query = query.bind(destination).bind(kind).bind(key).bind(tenant);
    query.fetch_all(database).await.unwrap_or_else(|error| panic!("{statement}: {error}"))
}

#[tokio::test]
async fn the_database_computes_the_scope_that_the_route_computes() {
    let Some(services) = Services::find("scopes in SQL") else { return };
    let mut database = PgConnection::connect(&services.postgres_url).await.expect("the server answers");
    let seed = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), seed);
    let rows = prop::collection::vec(prop::array::uniform4(value()), ROWS);
    let rows: Vec<Values> = rows.new_tree(&mut runner).expect("rows").current();
    let mut computed_by = [0_usize; 3];
    for _ in 0..ROUTES {
        let config = route().new_tree(&mut runner).expect("a route").current();
        let outbox = outbox();
        let mut route = Route::new(&config, &outbox, Ordering::Key).unwrap_or_else(|it| panic!("{it:?}"));
        let sql = scope_sql(&route, &outbox.columns);
        // Whose type the source looks at: bytes would be compared as digits.
        let compared = scope_columns(&route, &outbox.columns);
        for name in ["destination", "kind", "key", "tenant"] {
            assert_eq!(sql.contains(&column(name).quoted()), compared.contains(&column(name)), "{sql}");
        }
        let asked = asked(&mut database, &sql, &rows).await;
        for ((id, row), asked) in (1..).zip(&rows).zip(asked) {
            let lane = route.apply(message(id, row.clone())).lane.expect("every row has a key");
            let computed = lane.scope.map(|scope| scope.identity());
            assert_eq!(asked, computed, "{config:?} over {row:?}");
            let way = if computed.is_none() { 0 } else { 1 + usize::from(!config.when.is_empty()) };
            computed_by[way] += 1;
        }
    }
    assert!(computed_by.iter().all(|count| *count > 100), "too few to prove anything: {computed_by:?}");
}
