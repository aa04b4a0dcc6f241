//! `serve`, `demo`: what runs until it is stopped.

use super::{Shared, out::note, stop::Stop};
use crate::{
    reload::{Gates, WeakGates},
    start, world,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// Runs the gateway until SIGINT or SIGTERM, or until its store can no longer be trusted.
pub(super) async fn run(shared: &Shared) -> Result<(), Stop> {
    let Signals { stop, at_once } = signals()?;
    let hangup = signal(SignalKind::hangup()).map_err(Stop::internal)?;
    let config = shared.load()?;
    let gate = start::open(config, world::system())?;
    let config = &gate.config;
    let listener = start::listen(config.listen).await.map_err(|error| Stop::serving(&error))?;
    note(&format!(
        "countersign {} listens on {}, reached at {}{}",
        env!("CARGO_PKG_VERSION"),
        config.listen,
        config.public_url,
        if config.sandbox { " (sandbox: play money)" } else { "" },
    ));
    let gates = Gates::new(gate);
    tokio::spawn(reload_on(hangup, gates.downgrade()));
    ended(start::serve(gates, listener, stop), at_once).await
}

/// Reads the configuration again at each signal, while there is a gate.
async fn reload_on(mut hangup: Signal, gates: WeakGates) {
    while hangup.recv().await.is_some() {
        let Some(gates) = gates.upgrade() else { return };
        reload(&gates).await;
    }
}

/// Puts the file's configuration in force, and says how that went.
async fn reload(gates: &Gates) {
    match gates.reload("signal:SIGHUP").await {
        Ok(done) => {
            for warning in done.warnings {
                note(&format!("warning: {warning}"));
            }
            let (file, digest) = (done.read_from.file.display(), done.read_from.digest.to_hex());
            note(&format!("reloaded {file}, sha256 {digest}"));
        }
        Err(refusal) => {
            let facts = refusal.facts().iter().map(|fact| fact.value.as_str());
            let why = facts.collect::<Vec<_>>().join("; ");
            let (code, title) = (refusal.code().text(), refusal.code().row().title);
            note(&format!("not reloaded ({code}): {title}: {why}"));
        }
    }
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
