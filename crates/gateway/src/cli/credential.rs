//! `credential`: L402 credentials, read and narrowed by whoever holds one, listed and ended by the
//! operator.
//!
//! INVARIANT: a credential is read from a file or the standard input, never from an argument:
//! others can read those.

use super::{
    Shared,
    audit::read_text,
    link::Link,
    out::{Out, facts, table},
    stop::Stop,
};
use crate::admin::form::{CredentialView, Items, Revoked};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use countersign_core::{
    digest::Digest,
    wire::{caveat::Caveat, l402::L402Id, macaroon::Macaroon},
};
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Credential {
    /// Say what a credential is for. Its signature is not checked: only its gateway can.
    Inspect {
        /// The macaroon, or `macaroon:preimage`; `-` reads the standard input.
        file: PathBuf,
    },
    /// Narrow a credential, to hand it on. Whoever holds one can; it can never be widened.
    Attenuate {
        /// The macaroon, or `macaroon:preimage`; `-` reads the standard input.
        file: PathBuf,
        /// `key=value`: `valid_until`, `n_uses`, `max_price_msat`, `arguments`, `grant`, `tool`…
        #[arg(required = true, value_parser = caveat)]
        caveats: Vec<Caveat>,
    },
    /// Those of the running gateway that have not ended.
    List,
    /// End a credential; what is unused of it is owed back.
    Revoke {
        /// SHA-256 of its identifier, in hex.
        #[arg(value_parser = digest)]
        id: Digest,
    },
}

fn digest(text: &str) -> Result<Digest, &'static str> {
    Digest::from_hex(text).map_err(|_| "expected 64 hex digits")
}

fn caveat(text: &str) -> Result<Caveat, String> {
    Caveat::parse(text.as_bytes()).map_err(|error| error.to_string())
}

/// What a credential says of itself.
#[derive(Serialize)]
struct Inspected {
    id: String,
    payment_hash: String,
    caveats: Vec<String>,
    unreadable: Vec<String>,
}

impl Credential {
    /// Does it.
    pub(super) async fn run(self, shared: &Shared, out: Out) -> Result<(), Stop> {
        match self {
            Self::Inspect { file } => out.show(&inspect(&Held::read(&file)?)?, inspected),
            Self::Attenuate { file, caveats } => {
                let Held { macaroon, preimage } = Held::read(&file)?;
                let narrowed = STANDARD.encode(macaroon.restrict(&caveats).encode());
                let text = preimage.map_or(narrowed.clone(), |p| format!("{narrowed}:{p}"));
                out.show(&json!({ "credential": text }), |_| text.clone())
            }
            Self::List => {
                let link = shared.link()?;
                let found: Items<CredentialView> = link.list("/v1/credentials", None).await?;
                out.show(&found, |found| listed(&found.items))
            }
            Self::Revoke { id } => revoke(&shared.link()?, out, id).await,
        }
    }
}

async fn revoke(link: &Link, out: Out, id: Digest) -> Result<(), Stop> {
    let path = format!("/v1/credentials/{id}/revoke");
    let revoked: Revoked = link.post(&path, &json!({})).await?;
    out.show(&revoked, |revoked| format!("{} is revoked", revoked.credential))
}

/// A credential as its holder has it.
struct Held {
    macaroon: Macaroon,
    preimage: Option<String>,
}

impl Held {
    fn read(file: &std::path::Path) -> Result<Self, Stop> {
        let text = read_text(file)?;
        let words = text.trim();
        let credential = words.split_whitespace().last().unwrap_or_default();
        let (macaroon, preimage) = match credential.rsplit_once(':') {
            Some((macaroon, preimage)) => (macaroon, Some(preimage.to_owned())),
            None => (credential, None),
        };
        let alphabets = [&STANDARD, &URL_SAFE, &STANDARD_NO_PAD, &URL_SAFE_NO_PAD];
        let bytes = alphabets.into_iter().find_map(|alphabet| alphabet.decode(macaroon).ok());
        let bytes = bytes.ok_or_else(|| Stop::usage("the macaroon is not base64"))?;
        let macaroon = Macaroon::decode(&bytes).map_err(Stop::usage)?;
        Ok(Self { macaroon, preimage })
    }
}

fn inspect(held: &Held) -> Result<Inspected, Stop> {
    let id = L402Id::parse(held.macaroon.identifier()).map_err(Stop::usage)?;
    let (mut caveats, mut unreadable) = (Vec::new(), Vec::new());
    for bytes in held.macaroon.unverified_caveats() {
        match Caveat::parse(bytes) {
            Ok(caveat) => caveats.push(caveat.to_string()),
            Err(_) => unreadable.push(String::from_utf8_lossy(bytes).into_owned()),
        }
    }
    let (payment_hash, id) = (hex::encode(id.payment_hash), id.key().to_hex());
    Ok(Inspected { id, payment_hash, caveats, unreadable })
}

fn inspected(found: &Inspected) -> String {
    let mut text = facts(&[
        ("id", Some(found.id.clone())),
        ("payment hash", Some(found.payment_hash.clone())),
    ]);
    for caveat in &found.caveats {
        text.push_str(&format!("\n  {caveat}"));
    }
    for caveat in &found.unreadable {
        text.push_str(&format!("\n  {caveat}   unknown: refuses the credential"));
    }
    text
}

fn listed(items: &[CredentialView]) -> String {
    let row = |item: &CredentialView| {
        vec![
            item.credential.clone(),
            item.tenant.as_deref().unwrap_or("").to_owned(),
            item.agent.as_deref().unwrap_or("").to_owned(),
            item.price.clone(),
            format!("{} of {}", item.used, item.uses),
            item.state.text().to_owned(),
            item.expires_at.clone(),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    table(&["credential", "tenant", "agent", "price", "used", "state", "until"], &rows)
}
