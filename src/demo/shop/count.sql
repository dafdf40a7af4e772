-- Locks the customer, so that their orders are committed one after the other.
--
-- $1: customer
update shop.customer set orders = orders + 1 where name = $1 returning orders
