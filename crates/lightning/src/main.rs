//! The daemon `countersign-lightning`: a Lightning node of one's own behind a small HTTP API on
//! loopback, for the gateway beside it.
//!
//! Owns the order of starting and stopping, and alone decides the exit code. Does not know the
//! gateway: it depends on none of its crates, and they on none of this one's.
//!
//! `docs/guides/lightning.md` is the API, the configuration and the files. What the modules own:
//! `config` (the file), `disk` (lock, token, modes), `journal` (invoices, events and payments,
//! durable, in the order they happened), `book` (what the journal says stands now), `desk` (the
//! node and the journal together), `api` (HTTP), `answer` (its codes).

mod answer;
mod api;
mod book;
mod config;
mod desk;
mod disk;
mod journal;
mod world;

use crate::{config::Config, desk::Desk};
use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

const USAGE: &str = "usage: countersign-lightning FILE.yaml   (docs/guides/lightning.md)";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let file = arguments.next().filter(|file| !file.as_encoded_bytes().starts_with(b"-"));
    let (Some(file), None) = (file, arguments.next()) else {
        say(USAGE);
        return ExitCode::from(2);
    };
    match run(&PathBuf::from(file)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("countersign-lightning: {why}"));
            ExitCode::FAILURE
        }
    }
}

fn run(file: &Path) -> Result<(), String> {
    let config = Config::load(file)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|_| "no runtime".to_owned())?;
    let _lock = disk::take(&config.data_dir)?;
    let token = disk::token(&config.data_dir)?;
    // Inside the runtime, so that the node uses this one and not a second of its own.
    let served = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(config.api)
            .await
            .map_err(|why| format!("api {}: {why}", config.api))?;
        let address = listener.local_addr().map_err(|why| why.to_string())?;
        let desk = tokio::task::spawn_blocking(move || Desk::open(config))
            .await
            .map_err(|_| "the node could not be started".to_owned())??;
        let desk = Arc::new(desk);
        let pump = tokio::spawn(Arc::clone(&desk).pump());
        say(&format!("countersign-lightning: {} at http://{address}", desk.node_id()));
        let served = api::serve(listener, Arc::clone(&desk), token, stopped(pump)).await;
        let stopping = tokio::task::spawn_blocking(move || desk.stop());
        let _ended = stopping.await;
        served
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    served
}

/// Ends when the process is asked to stop, or when events can no longer be kept: then nothing may
/// be acknowledged any more.
async fn stopped(pump: tokio::task::JoinHandle<String>) -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).map_err(|why| why.to_string())?;
    tokio::select! {
        _ = term.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
        why = pump => Err(why.unwrap_or_else(|_| "events stopped".to_owned())),
    }
}

/// A line to standard error.
fn say(line: &str) {
    let _unheard = writeln!(io::stderr(), "{line}");
}
