"""Ships an order with Django: django_orders.py ORDER CARRIER, with DATABASE_URL."""

import os
import sys
from urllib.parse import unquote, urlsplit

import django
from django.conf import settings

URL = urlsplit(os.environ["DATABASE_URL"])
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": URL.hostname,
            "PORT": URL.port or 5432,
            "USER": unquote(URL.username or ""),
            "PASSWORD": unquote(URL.password or ""),
            "NAME": URL.path.lstrip("/"),
        }
    }
)
django.setup()

# docs: begin
from django.db import models, transaction


class Order(models.Model):
    id = models.BigAutoField(primary_key=True)
    state = models.TextField()
    carrier = models.TextField(null=True)

    class Meta:
        app_label = "shop"
        db_table = "orders"


class OutboxMessage(models.Model):
    """The columns that a writer fills; the database fills the others."""

    id = models.BigAutoField(primary_key=True)
    destination = models.TextField(null=True)
    key = models.TextField(null=True)
    kind = models.TextField()
    payload = models.JSONField(null=True)

    class Meta:
        app_label = "shop"
        # `outbox-relay migrate` creates the table, not Django; the quotes make schema and table of it.
        managed = False
        db_table = 'outbox"."message'


def ship_order(order_id: int, carrier: str) -> None:
    with transaction.atomic():
        # Lock the order before anything is written: whoever changes it next waits here and gets a
        # higher outbox id, so its event comes second.
        order = Order.objects.select_for_update().get(pk=order_id)
        order.state = "shipped"
        order.carrier = carrier
        order.save()
        OutboxMessage.objects.create(
            destination="orders",
            key=str(order.pk),
            kind="OrderShipped",
            payload={"order": order.pk, "carrier": carrier},
        )
# docs: end


if __name__ == "__main__":
    ship_order(int(sys.argv[1]), sys.argv[2])
