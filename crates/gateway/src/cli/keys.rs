//! `keys`: the gateway's keys. Secrets are never shown.

use super::{
    Shared,
    out::{Out, facts},
    stop::Stop,
};
use crate::{keys, world};
use countersign_core::audit::checkpoint::VerifierKey;
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Keys {
    /// Show the log's public key: what others need to verify receipts and the log.
    Show,
    /// Make the keys that are missing, as `serve` would.
    Init,
}

#[derive(Serialize)]
struct PublicKey {
    origin: String,
    key: String,
    kid: String,
    file: PathBuf,
}

impl Keys {
    /// Does it.
    pub(super) fn run(self, shared: &Shared, out: Out) -> Result<(), Stop> {
        let config = shared.load_quietly()?.0;
        let file = keys::public_path(&config.data_dir);
        let key = match self {
            Self::Show => read(&file).map_err(|stop| {
                if file.exists() { stop } else { stop.next("make it with `countersign keys init`") }
            })?,
            Self::Init => {
                let opened = keys::open(&config.data_dir, &config.audit.origin, &world::system())?;
                opened.log.verifier().clone()
            }
        };
        let origin = key.name().to_owned();
        let shown = PublicKey { origin, key: key.to_string(), kid: key.kid(), file };
        out.show(&shown, |shown| {
            facts(&[
                ("log", Some(shown.origin.clone())),
                ("public key", Some(shown.key.clone())),
                ("kid", Some(shown.kid.clone())),
                ("file", Some(shown.file.display().to_string())),
            ])
        })
    }
}

/// The key that was given, as text or as a file with it; else that of the configuration.
pub(super) fn public_key(shared: &Shared, given: Option<&str>) -> Result<VerifierKey, Stop> {
    let Some(given) = given else {
        let config = shared.load_quietly()?.0;
        return read(&keys::public_path(&config.data_dir)).map_err(|stop| {
            stop.next("give the public key with --key, or make one with `countersign keys init`")
        });
    };
    read_public(given)
}

/// A public key that was given, as text or as a file with it.
pub(super) fn read_public(given: &str) -> Result<VerifierKey, Stop> {
    match given.parse() {
        Ok(key) => Ok(key),
        Err(_) if Path::new(given).exists() => read(Path::new(given)),
        Err(error) => {
            Err(Stop::usage(format_args!("`{given}` is neither a file nor a public key: {error}"))
                .next("give what `countersign keys show` prints as `public key`"))
        }
    }
}

fn read(file: &Path) -> Result<VerifierKey, Stop> {
    let shown = file.display();
    let text = fs::read_to_string(file)
        .map_err(|error| Stop::usage(format_args!("cannot read `{shown}`: {error}")))?;
    text.trim().parse().map_err(|error| {
        Stop::usage(format_args!("`{shown}` holds no public key of a log: {error}"))
    })
}
