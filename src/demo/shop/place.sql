-- What the application is about.
--
-- $1: customer, $2: number, $3: total in cents
insert into shop.placed_order (customer, number, total_cents) values ($1, $2, $3) returning id
