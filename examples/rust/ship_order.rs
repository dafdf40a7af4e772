//! Ships an order with sqlx: `ship_order ORDER CARRIER`, with DATABASE_URL.

use sqlx::postgres::PgPool;

// docs: begin
async fn ship_order(pool: &PgPool, order: i64, carrier: &str) -> sqlx::Result<()> {
    let mut transaction = pool.begin().await?;
    // Lock the order before anything is written: whoever changes it next waits here and gets a
    // higher outbox id, so its event comes second.
    sqlx::query("select from orders where id = $1 for update")
        .bind(order)
        .fetch_one(&mut *transaction)
        .await?;
    sqlx::query("update orders set state = 'shipped', carrier = $2 where id = $1")
        .bind(order)
        .bind(carrier)
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "insert into outbox.message (destination, key, kind, payload)
         values ('orders', $1, 'OrderShipped', $2::json)",
    )
    .bind(order.to_string())
    .bind(serde_json::json!({ "order": order, "carrier": carrier }).to_string())
    .execute(&mut *transaction)
    .await?;
    // Dropped before this, the transaction is rolled back.
    transaction.commit().await
}
// docs: end

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(order), Some(carrier)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: ship_order ORDER CARRIER");
    };
    #[allow(clippy::disallowed_methods, reason = "an example has no configuration but this")]
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    ship_order(&pool, order.parse()?, &carrier).await?;
    Ok(())
}
