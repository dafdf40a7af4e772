//! The process: arguments in, an exit code out.

use std::io::{self, Write};
use std::process::ExitCode;

/// librdkafka allocates in one thread what another frees, where glibc's allocator fragments: jemalloc
/// takes less time and gives memory back. See docs/performance.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

use outbox_relay::config::load::process_environment;
use outbox_relay::{cli, run};

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os(), process_environment()) {
        Ok(command) => command,
        Err(error) => {
            // If nobody listens, the exit code still says it.
            let _ = error.print();
            return error.exit_code.into();
        }
    };
    match run::run(command) {
        Ok(exit) => exit.into(),
        Err(failed) => {
            let _ = writeln!(io::stderr(), "error: {failed}");
            failed.exit.into()
        }
    }
}
