//! `serve`, `demo`: what runs until it is stopped.

use super::stop::Stop;
use crate::{config::Config, start, world};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Runs the gateway until SIGINT or SIGTERM, or until its store can no longer be trusted.
pub(super) async fn run(config: Config) -> Result<(), Stop> {
    let Signals { stop, at_once } = signals()?;
    let gate = start::open(config, world::system())?;
    let config = &gate.config;
    let listener = start::listen(config.listen).await.map_err(|error| Stop::serving(&error))?;
    super::out::note(&format!(
        "countersign {} listens on {}, reached at {}{}",
        env!("CARGO_PKG_VERSION"),
        config.listen,
        config.public_url,
        if config.sandbox { " (sandbox: play money)" } else { "" },
    ));
    ended(start::serve(gate, listener, stop), at_once).await
}

/// Shows the proofs at work.
pub(super) async fn demo(once: bool) -> Result<(), Stop> {
    let Signals { stop, at_once } = signals()?;
    ended(crate::demo::run(once, stop), at_once).await
}

/// What runs ends in good order, or at once.
async fn ended(
    running: impl Future<Output = anyhow::Result<()>>,
    mut at_once: watch::Receiver<bool>,
) -> Result<(), Stop> {
    tokio::select! {
        ended = running => ended.map_err(|error| Stop::serving(&error)),
        Ok(_) = at_once.wait_for(|now| *now) => {
            // Nothing is lost that was acknowledged.
            Err(Stop::internal("ended at once: calls under way are recovered at the next start"))
        }
    }
}

/// Becomes true at the first SIGINT or SIGTERM.
pub(super) fn stop_on_signal() -> Result<watch::Receiver<bool>, Stop> {
    Ok(signals()?.stop)
}

/// What SIGINT and SIGTERM ask for.
struct Signals {
    /// True from the first one on: let what runs end.
    stop: watch::Receiver<bool>,
    /// True from the second one on.
    at_once: watch::Receiver<bool>,
}

fn signals() -> Result<Signals, Stop> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Stop::internal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Stop::internal)?;
    let (first, stop) = watch::channel(false);
    let (second, at_once) = watch::channel(false);
    tokio::spawn(async move {
        for asked in [&first, &second] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            asked.send_replace(true);
        }
    });
    Ok(Signals { stop, at_once })
}
