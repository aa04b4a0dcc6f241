//! The demonstration: sandbox parts, a real gateway before them, and calls that show each proof
//! vetoing alone and the four aligning.
//!
//! Owns nothing of the path: it is a client and an operator of it, like anybody else.
//! INVARIANT: it ends with success only if every call came out as it should, the money adds up
//! and the log verifies.

mod parts;
mod scenes;

use crate::{gate::Gate, reload::Gates, start, world};
use anyhow::{Context as _, Result, bail};
use countersign_core::audit::verify::{Options, verify_log};
use parts::Parts;
use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// Writes one line to the terminal. A closed one ends nothing.
pub(crate) fn say(line: &str) {
    let _closed = writeln!(io::stdout().lock(), "{line}");
}

/// Runs the demonstration; with `once` ends after it, else keeps serving until `stop`.
///
/// # Errors
/// A part does not start, or a call did not come out as it should.
pub async fn run(once: bool, mut stop: watch::Receiver<bool>) -> Result<()> {
    let world = world::system();
    let dir = tempdir(&world)?;
    let parts = Parts::start(&dir, world.clone()).await?;
    let gate = start::open(parts.config.clone(), world.clone())?;
    let (ended, end) = watch::channel(false);
    let serving = tokio::spawn(start::serve(Gates::new(Arc::clone(&gate)), parts.listener()?, end));
    say("Countersign demonstration. Everything here is sandbox: play money, made-up people.\n");
    let failures = scenes::play(&parts, &gate).await?;
    let log = parts.config.data_dir.join("log");
    verify(&log, &gate, Duration::from_secs(5)).await?;
    if failures > 0 {
        bail!("{failures} calls did not come out as they should");
    }
    say("\nEvery call came out as it should.");
    if !once {
        parts.explain(&dir)?;
        let _closed = stop.wait_for(|stop| *stop).await.map(drop);
    }
    drop(gate);
    ended.send_replace(true);
    serving.await.context("the gateway ended early")??;
    fs::remove_dir_all(&dir).with_context(|| format!("removing `{}`", dir.display()))
}

fn tempdir(world: &countersign_core::world::World) -> Result<std::path::PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let name = format!("countersign-demo-{}", hex::encode(world.random::<6>()));
    let dir = std::env::temp_dir().join(name);
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot create `{}`", dir.display()))?;
    Ok(dir)
}

/// Verifies the published log as an outsider would: files and a public key, nothing else.
async fn verify(log: &Path, gate: &Gate, patience: Duration) -> Result<()> {
    let key = gate.signer.verifier().clone();
    let wanted = gate.store.log_size();
    let waited = tokio::time::timeout(patience, async {
        while gate.store.published_size() < wanted {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.context("no checkpoint was published")?;
    let read = |path: &str| match fs::read(log.join(path)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let report = verify_log(&read, &key, &Options::default())?;
    if !report.is_sound() {
        bail!("the log does not verify: {:?}", report.findings);
    }
    let calls = &report.calls;
    say(&format!(
        "\nThe log verifies with its public key alone: {} records, {} calls run, {} \
         refused (to ask for a payment is one).",
        report.records, calls.executed, calls.refused
    ));
    Ok(())
}
