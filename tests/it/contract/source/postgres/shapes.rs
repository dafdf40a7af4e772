//! The shapes an application's outbox comes in, each with the whole contract over it.

use std::collections::BTreeMap;
use std::time::Duration;

use outbox_relay::config::{self, Columns, HeaderColumns, Mark, MarkColumn, Start, TableName};

use super::super::MESSAGE_BYTES_MAX;
use super::{CHANNEL, Outbox, column};

/// A table, the mapping that describes it, and how its application inserts key, destination, payload.
pub(crate) struct Shape {
    pub(crate) ddl: String,
    pub(crate) insert: String,
    pub(crate) outbox: config::Outbox,
    pub(crate) scope_sql: String,
}

pub(crate) fn outbox(schema: Option<&str>, table: &str, columns: Columns, mark: Mark) -> config::Outbox {
    config::Outbox {
        table: TableName { schema: schema.map(str::to_owned), table: table.to_owned() },
        columns,
        mark,
        // Rows of a table without a creation time are of no known age.
        start: Some(Start::All),
        poll_interval: Duration::from_millis(250),
        listen: Some(CHANNEL.to_owned()),
        message_bytes_max: MESSAGE_BYTES_MAX,
        fetch_rows_max: 1_000,
    }
}

pub(crate) fn columns() -> Columns {
    Columns {
        id: column("id"),
        order: Some(column("id")),
        key: Some(column("key")),
        kind: None,
        destination: Some(column("destination")),
        payload: column("payload"),
        headers: None,
        created_at: None,
        to_headers: BTreeMap::new(),
    }
}

fn destination() -> String {
    "o.\"destination\"".to_owned()
}

/// The table that `migrate` makes: identity, json payload, jsonb headers, timestamp mark.
pub(crate) fn default_table() -> Shape {
    let columns = Columns {
        kind: Some(column("kind")),
        headers: Some(HeaderColumns::Json(column("headers"))),
        created_at: Some(column("created_at")),
        ..columns()
    };
    let mark = Mark::Update(MarkColumn::Timestamp(column("delivered_at")));
    Shape {
        ddl: String::new(),
        insert: "insert into outbox.message (key, destination, kind, payload) values ($1, $2, 'k', $3::json)"
            .into(),
        outbox: outbox(Some("outbox"), "message", columns, mark),
        scope_sql: destination(),
    }
}

/// Names that need quoting everywhere, two text arrays as headers, a nullable boolean mark.
pub(crate) fn quoted_names() -> Shape {
    let columns = Columns {
        id: column("Id"),
        order: Some(column("Id")),
        key: Some(column("the \"Key\"")),
        destination: Some(column("{table}")),
        payload: column("Payload"),
        headers: Some(HeaderColumns::Arrays { names: column("Names"), values: column("select") }),
        ..columns()
    };
    let mark = Mark::Update(MarkColumn::Boolean(column("Done?")));
    Shape {
        ddl: r#"create schema "App's"; create table "App's"."Out""Box{id}" ("Id" serial primary key,
            "the ""Key""" varchar(20), "{table}" text, "Payload" text, "Names" text[], "select" text[], "Done?" bool)"#
            .into(),
        insert: r#"insert into "App's"."Out""Box{id}" ("the ""Key""", "{table}", "Payload", "Names", "select")
            values ($1, $2, $3, array['n'], array['v'])"#
            .into(),
        outbox: outbox(Some("App's"), "Out\"Box{id}", columns, mark),
        scope_sql: "o.\"{table}\"".to_owned(),
    }
}

/// Partitioned by time, jsonb payload, a status column.
pub(crate) fn partitioned() -> Shape {
    let mark = Mark::Update(MarkColumn::Status {
        column: column("status"),
        pending: "new".to_owned(),
        delivered: "it's done".to_owned(),
    });
    let columns = Columns { created_at: Some(column("created_at")), ..columns() };
    Shape {
        ddl: "create table events (id bigint generated always as identity, key text, destination text, payload jsonb,
                created_at timestamp not null default clock_timestamp(), status text not null default 'new',
                primary key (id, created_at)) partition by range (created_at);
            create table events_old partition of events for values from (minvalue) to ('2020-01-01');
            create table events_now partition of events for values from ('2020-01-01') to (maxvalue)"
            .into(),
        insert: "insert into events (key, destination, payload) values ($1, $2, $3::jsonb)".into(),
        outbox: outbox(Some("public"), "events", columns, mark),
        scope_sql: destination(),
    }
}

/// A uuid id beside a bigint order, bytes, rows that are deleted; found through the search path.
pub(crate) fn uuid_and_bytes() -> Shape {
    let columns = Columns { order: Some(column("seq")), ..columns() };
    Shape {
        ddl: "create table outbox_events (id uuid primary key default gen_random_uuid(),
            seq bigserial not null unique, key bytea, destination text, payload bytea)"
            .into(),
        insert: "insert into outbox_events (key, destination, payload)
            values (convert_to($1, 'UTF8'), $2, convert_to($3, 'UTF8'))"
            .into(),
        outbox: outbox(None, "outbox_events", columns, Mark::Delete),
        scope_sql: destination(),
    }
}

/// A text id, a padded key, an enum as status, a varchar payload.
pub(crate) fn text_id() -> Shape {
    let mark = Mark::Update(MarkColumn::Status {
        column: column("state"),
        pending: "pending".to_owned(),
        delivered: "sent".to_owned(),
    });
    let columns = Columns { order: Some(column("seq")), ..columns() };
    Shape {
        ddl: "create type state as enum ('pending', 'sent');
            create sequence positions;
            create table notes (id varchar(40) primary key default 'n-' || gen_random_uuid(),
                seq int not null default nextval('positions') unique, key char(1), destination varchar(50),
                payload varchar, state state not null default 'pending', at timestamptz default now())"
            .into(),
        insert: "insert into notes (key, destination, payload) values ($1, $2, $3)".into(),
        outbox: outbox(Some("public"), "notes", columns, mark),
        scope_sql: destination(),
    }
}

macro_rules! shapes {
    ($($shape:ident => $name:ident, $pooled:ident),* $(,)?) => {
        $(mod $name {
            use super::{Outbox, $shape};

            crate::contract::source::source_contract!(Outbox::open($shape()));
        }

        mod $pooled {
            use super::{Outbox, $shape};

            crate::contract::source::source_contract!(Outbox::pooled($shape()));
        })*
    };
}

shapes! {
    default_table => in_the_default_table, in_the_default_table_behind_a_pooler,
    quoted_names => with_quoted_names, with_quoted_names_behind_a_pooler,
    partitioned => in_a_partitioned_table, in_a_partitioned_table_behind_a_pooler,
    uuid_and_bytes => with_uuid_ids_and_bytes, with_uuid_ids_and_bytes_behind_a_pooler,
    text_id => with_text_ids, with_text_ids_behind_a_pooler,
}
