// Command ship_order ships an order with database/sql: ship_order ORDER CARRIER, with DATABASE_URL.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"

	_ "github.com/jackc/pgx/v5/stdlib"
)

// docs: begin
func shipOrder(ctx context.Context, db *sql.DB, orderID int64, carrier string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after a commit this does nothing

	// Lock the order before anything is written: whoever changes it next waits here and gets a
	// higher outbox id, so its event comes second.
	var state string
	row := tx.QueryRowContext(ctx, "select state from orders where id = $1 for update", orderID)
	if err := row.Scan(&state); err != nil {
		return fmt.Errorf("could not find order %d: %w", orderID, err)
	}
	_, err = tx.ExecContext(ctx, "update orders set state = 'shipped', carrier = $2 where id = $1", orderID, carrier)
	if err != nil {
		return err
	}
	payload, err := json.Marshal(map[string]any{"order": orderID, "carrier": carrier})
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx,
		`insert into outbox.message (destination, key, kind, payload)
		 values ('orders', $1, 'OrderShipped', $2)`,
		strconv.FormatInt(orderID, 10), string(payload))
	if err != nil {
		return err
	}
	return tx.Commit()
}

// docs: end

func main() {
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	orderID, err := strconv.ParseInt(os.Args[1], 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	if err := shipOrder(context.Background(), db, orderID, os.Args[2]); err != nil {
		log.Fatal(err)
	}
}
