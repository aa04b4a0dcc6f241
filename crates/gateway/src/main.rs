//! The binary `countersign`: parses, dispatches, and alone decides the exit code.

use clap::Parser as _;
use countersign_gateway::cli::Cli;
use std::process::ExitCode;

/// A call makes hundreds of small allocations: a sixth of its CPU with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(asked) => {
            // Help and version are no errors; a reader that has gone is none either.
            let _unheard = asked.print();
            return ExitCode::from(u8::try_from(asked.exit_code()).unwrap_or(2));
        }
    };
    let out = cli.out();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(_) => return ExitCode::FAILURE,
    };
    match runtime.block_on(cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            stop.say(out);
            ExitCode::from(stop.exit())
        }
    }
}
