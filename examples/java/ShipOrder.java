import jakarta.persistence.Column;
import jakarta.persistence.Entity;
import jakarta.persistence.EntityManager;
import jakarta.persistence.GeneratedValue;
import jakarta.persistence.GenerationType;
import jakarta.persistence.Id;
import jakarta.persistence.LockModeType;
import jakarta.persistence.Table;
import java.util.Map;
import org.hibernate.annotations.Immutable;
import org.hibernate.annotations.JdbcTypeCode;
import org.hibernate.type.SqlTypes;

/** Ships an order with JPA and Hibernate. Call it within a transaction, as under {@code @Transactional}. */
public class ShipOrder {

    // docs: begin
    @Entity
    @Table(name = "orders")
    public static class Order {
        @Id
        @GeneratedValue(strategy = GenerationType.IDENTITY)
        Long id;
        String state;
        String carrier;
    }

    /** The columns that a writer fills; the database fills the others. Immutable: inserted and never updated. */
    @Entity
    @Immutable
    @Table(schema = "outbox", name = "message")
    public static class OutboxMessage {
        @Id
        @GeneratedValue(strategy = GenerationType.IDENTITY)
        Long id;
        String destination;
        String key;
        @Column(nullable = false)
        String kind;
        @JdbcTypeCode(SqlTypes.JSON)
        @Column(columnDefinition = "json")
        Map<String, Object> payload;
    }

    /** In a transaction: Spring's {@code @Transactional}, or {@code entityManager.getTransaction()}. */
    public void shipOrder(EntityManager entityManager, long orderId, String carrier) {
        // Lock the order before anything is written. With an identity, Hibernate inserts the event at
        // persist() and updates the order only when it flushes; without this lock the event would be
        // numbered before the order is locked, and two events of one order could swap.
        Order order = entityManager.find(Order.class, orderId, LockModeType.PESSIMISTIC_WRITE);
        if (order == null) {
            throw new IllegalArgumentException("there is no order " + orderId);
        }
        order.state = "shipped";
        order.carrier = carrier;

        OutboxMessage message = new OutboxMessage();
        message.destination = "orders";
        message.key = String.valueOf(orderId);
        message.kind = "OrderShipped";
        message.payload = Map.of("order", orderId, "carrier", carrier);
        entityManager.persist(message);
    }
    // docs: end
}
