//! The binary `countersign`: parses, dispatches, and alone decides the exit code.

use clap::Parser as _;
use countersign_gateway::cli::{Cli, Out, Stop};
use std::{io::IsTerminal as _, process::ExitCode};

/// A call makes hundreds of small allocations: a sixth of its CPU with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are no errors; a reader that has gone is none either.
        Err(asked) if !asked.use_stderr() || std::io::stderr().is_terminal() => {
            let _unheard = asked.print();
            return ExitCode::from(u8::try_from(asked.exit_code()).unwrap_or(2));
        }
        Err(wrong) => return end(&Stop::arguments(&wrong), Out::new(true)),
    };
    let out = cli.out();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => end(&stop, out),
    }
}

fn end(stop: &Stop, out: Out) -> ExitCode {
    stop.say(out);
    ExitCode::from(stop.exit())
}
