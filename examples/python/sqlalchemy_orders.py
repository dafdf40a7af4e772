"""Ships an order with SQLAlchemy: sqlalchemy_orders.py ORDER CARRIER, with DATABASE_URL."""

import os
import sys

# docs: begin
from sqlalchemy import JSON, BigInteger, Identity, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    state: Mapped[str]
    carrier: Mapped[str | None]


class OutboxMessage(Base):
    """The columns that a writer fills; the database fills the others."""

    __tablename__ = "message"
    __table_args__ = {"schema": "outbox"}
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    destination: Mapped[str | None]
    key: Mapped[str | None]
    kind: Mapped[str]
    payload: Mapped[dict] = mapped_column(JSON)


def ship_order(engine, order_id: int, carrier: str) -> None:
    with Session(engine) as session, session.begin():
        # Lock the order before anything is written: SQLAlchemy chooses itself whether the insert or
        # the update goes first, and the event must be numbered after the lock was taken.
        order = session.get_one(Order, order_id, with_for_update=True)
        order.state = "shipped"
        order.carrier = carrier
        session.add(
            OutboxMessage(
                destination="orders",
                key=str(order.id),
                kind="OrderShipped",
                payload={"order": order.id, "carrier": carrier},
            )
        )
# docs: end


if __name__ == "__main__":
    url = os.environ["DATABASE_URL"].replace("postgres://", "postgresql+psycopg://", 1)
    ship_order(create_engine(url), int(sys.argv[1]), sys.argv[2])
