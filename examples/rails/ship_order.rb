# Ships an order with Active Record.

# docs: begin
class Order < ActiveRecord::Base
  self.table_name = "orders"
end

# The columns that a writer fills; the database fills the others.
class OutboxMessage < ActiveRecord::Base
  self.table_name = "outbox.message"
end

def ship_order(order_id, carrier)
  Order.transaction do
    # Lock the order before anything is written: whoever changes it next waits here and gets a higher
    # outbox id, so its event comes second.
    order = Order.lock.find(order_id)
    order.update!(state: "shipped", carrier: carrier)
    OutboxMessage.create!(
      destination: "orders",
      key: order.id.to_s,
      kind: "OrderShipped",
      payload: { order: order.id, carrier: carrier },
    )
  end
end
# docs: end
