-- What others shall know of it, in the same transaction.
--
-- $1: destination, $2: customer, $3: order, $4: number
insert into outbox.message (destination, key, kind, payload)
values ($1, $2, 'OrderPlaced', json_build_object('order', $3::bigint, 'customer', $2, 'number', $4::bigint))
returning id
