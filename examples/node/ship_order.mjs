// Ships an order with node-postgres: node ship_order.mjs ORDER CARRIER, with DATABASE_URL.
import pg from "pg";

// docs: begin
async function shipOrder(pool, orderId, carrier) {
  const client = await pool.connect();
  try {
    await client.query("begin");
    // Lock the order before anything is written: whoever changes it next waits here and gets a
    // higher outbox id, so its event comes second.
    const { rows } = await client.query("select id from orders where id = $1 for update", [orderId]);
    if (rows.length === 0) throw new Error(`there is no order ${orderId}`);
    await client.query("update orders set state = 'shipped', carrier = $2 where id = $1", [orderId, carrier]);
    await client.query(
      `insert into outbox.message (destination, key, kind, payload)
       values ('orders', $1, 'OrderShipped', $2)`,
      [String(orderId), JSON.stringify({ order: orderId, carrier })],
    );
    await client.query("commit");
  } catch (error) {
    await client.query("rollback");
    throw error;
  } finally {
    client.release();
  }
}
// docs: end

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
try {
  await shipOrder(pool, Number(process.argv[2]), process.argv[3]);
} finally {
  await pool.end();
}
