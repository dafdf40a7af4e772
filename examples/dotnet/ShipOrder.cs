using System.ComponentModel.DataAnnotations.Schema;
using System.Text.Json;
using Microsoft.EntityFrameworkCore;

// docs: begin
[Table("orders")]
public class Order
{
    [Column("id")] public long Id { get; set; }
    [Column("state")] public string State { get; set; } = "placed";
    [Column("carrier")] public string? Carrier { get; set; }
}

/// <summary>The columns that a writer fills; the database fills the others.</summary>
[Table("message", Schema = "outbox")]
public class OutboxMessage
{
    [Column("id"), DatabaseGenerated(DatabaseGeneratedOption.Identity)] public long Id { get; set; }
    [Column("destination")] public string? Destination { get; set; }
    [Column("key")] public string? Key { get; set; }
    [Column("kind")] public required string Kind { get; set; }
    [Column("payload", TypeName = "json")] public string? Payload { get; set; }
}

public class Shop(DbContextOptions<Shop> options) : DbContext(options)
{
    public DbSet<Order> Orders => Set<Order>();
    public DbSet<OutboxMessage> Outbox => Set<OutboxMessage>();

    public async Task ShipOrderAsync(long orderId, string carrier)
    {
        await using var transaction = await Database.BeginTransactionAsync();
        // Lock the order before anything is written: SaveChanges chooses itself whether the insert or
        // the update goes first, and the event must be numbered after the lock was taken.
        var order = await Orders
            .FromSql($"select * from orders where id = {orderId} for update")
            .SingleAsync();
        order.State = "shipped";
        order.Carrier = carrier;
        Outbox.Add(new OutboxMessage
        {
            Destination = "orders",
            Key = orderId.ToString(),
            Kind = "OrderShipped",
            Payload = JsonSerializer.Serialize(new { order = orderId, carrier }),
        });
        await SaveChangesAsync();
        await transaction.CommitAsync();
    }
}
// docs: end
