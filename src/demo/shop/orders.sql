-- Every order and its event. An order without one, or an event without an order, would be the
-- application's mistake: it shows as a count that is not the same.
select m.id, o.customer, o.number, m.payload::text
from shop.placed_order o
join outbox.message m on (m.payload ->> 'order')::bigint = o.id
order by m.id
