# The front door. `just` lists what there is; each recipe is one line, to be run by hand without just.

_default:
    @just --list --unsorted

# All a change must pass, as in CI
check:
    .ci/run

# Every test with its services; arguments filter, as in `just test e2e`
test *ARGS:
    scripts/test {{ARGS}}

# The tests that need neither Postgres nor Kafka
quick *ARGS:
    OUTBOX_TEST_SKIP_SERVICES=1 cargo test --features rule-removal -- {{ARGS}}

# The simulation alone: `just sim 1000000` for many seeds, `just sim trace 4711` for one step by step
sim *ARGS:
    scripts/sim {{ARGS}}

# See it work: `just demo --rows 100000`
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# Against the bare loop, side by side; see docs/performance.md
bench *ARGS:
    scripts/bench {{ARGS}}

# Postgres and Kafka for the tests: `just services up`, `just services down`
services ACTION="status":
    scripts/services {{ACTION}}
