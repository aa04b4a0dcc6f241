//! `serve`, `demo`: what runs until it is stopped.

use super::stop::Stop;
use crate::{config::Config, start, world};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Runs the gateway until SIGINT or SIGTERM, or until its store can no longer be trusted.
pub(super) async fn run(config: Config) -> Result<(), Stop> {
    let stop = stop_on_signal()?;
    super::out::note(&format!(
        "countersign {} listens on {}, reached at {}{}",
        env!("CARGO_PKG_VERSION"),
        config.listen,
        config.public_url,
        if config.sandbox { " (sandbox: play money)" } else { "" },
    ));
    let gate = start::open(config, world::system())?;
    Ok(start::serve(gate, stop).await?)
}

/// Shows the proofs at work.
pub(super) async fn demo(once: bool) -> Result<(), Stop> {
    Ok(crate::demo::run(once, stop_on_signal()?).await?)
}

/// Becomes true at the first SIGINT or SIGTERM.
pub(super) fn stop_on_signal() -> Result<watch::Receiver<bool>, Stop> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Stop::internal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Stop::internal)?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.send_replace(true);
        // A second signal ends the process at once: nothing is lost that was acknowledged.
        stop.closed().await;
    });
    Ok(stopped)
}
