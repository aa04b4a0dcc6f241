//! `people`: the keys that people sign with, and the wallets that they pay from.

use super::{
    link::Link,
    out::{Out, table},
    stop::Stop,
};
use crate::{
    admin::form::{Items, KeyRequest, LinkView, WalletAsk, WalletMessage, WalletProof},
    fetch::form_encode,
};
use serde_json::json;
use std::path::PathBuf;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum People {
    /// Keys that people sign grants and answers with.
    #[command(subcommand)]
    Key(Key),
    /// Wallets that people pay from.
    #[command(subcommand)]
    Wallet(Wallet),
}

/// Whose.
#[derive(Debug, clap::Args)]
pub(super) struct Whose {
    /// Tenant; the configured one when absent.
    #[arg(long)]
    tenant: Option<String>,
    /// Issuer of the person's tokens.
    #[arg(long)]
    issuer: String,
    /// The person: `sub` of their tokens.
    #[arg(long)]
    subject: String,
}

/// What to do with keys.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Key {
    /// Register a public key for a person: from now on it signs for them.
    Add {
        #[command(flatten)]
        whose: Whose,
        /// File with the public key as a JWK, Ed25519 or P-256.
        #[arg(long, value_name = "FILE")]
        jwk: PathBuf,
        /// What the person calls it.
        #[arg(long, default_value = "")]
        name: String,
    },
    /// List keys.
    List(Filter),
    /// End one; grants that it signed are suspended.
    Revoke {
        /// Its thumbprint.
        key: String,
    },
}

/// What to do with wallets.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Wallet {
    /// Print the message that the wallet signs to be linked (EIP-4361, `personal_sign`).
    Ask {
        #[command(flatten)]
        whose: Whose,
        /// The wallet's address.
        #[arg(long)]
        address: String,
        /// Its chain (EIP-155); the one that is paid on when absent.
        #[arg(long, value_name = "ID")]
        chain: Option<u64>,
    },
    /// Link the wallet that signed such a message.
    Link {
        #[command(flatten)]
        whose: Whose,
        /// File with the message, as it was printed.
        #[arg(long, value_name = "FILE")]
        message: PathBuf,
        /// The signature in hex.
        #[arg(long, value_name = "HEX")]
        signature: String,
        /// What the person calls it.
        #[arg(long, default_value = "")]
        name: String,
    },
    /// List wallets.
    List(Filter),
    /// End the link of one.
    Unlink {
        /// Its address.
        address: String,
    },
}

/// Of whom.
#[derive(Debug, clap::Args)]
pub(super) struct Filter {
    /// Of this issuer's people.
    #[arg(long)]
    issuer: Option<String>,
    /// Of this person.
    #[arg(long)]
    subject: Option<String>,
}

impl Filter {
    fn path(&self, what: &str) -> String {
        let filters = [("issuer", &self.issuer), ("subject", &self.subject)];
        let pairs: Vec<(&str, &str)> = filters
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)))
            .collect();
        format!("/v1/people/{what}?{}", form_encode(&pairs))
    }
}

impl People {
    /// Does it.
    pub(super) async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        match self {
            Self::Key(key) => key.run(link, out).await,
            Self::Wallet(wallet) => wallet.run(link, out).await,
        }
    }
}

impl Key {
    async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        match self {
            Self::Add { whose, jwk, name } => {
                let jwk = serde_json::from_str(&read(&jwk)?).map_err(Stop::usage)?;
                let Whose { tenant, issuer, subject } = whose;
                let request = KeyRequest { tenant, issuer, subject, name, jwk };
                let added: LinkView = link.post("/v1/people/keys", &request).await?;
                out.show(&added, |added| lines(std::slice::from_ref(added)))
            }
            Self::List(filter) => list(link, out, &filter.path("keys")).await,
            Self::Revoke { key } => end(link, out, &format!("keys/{key}/revoke")).await,
        }
    }
}

impl Wallet {
    async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        match self {
            Self::Ask { whose, address, chain } => {
                let Whose { tenant, issuer, subject } = whose;
                let (issuer, subject) = (Some(issuer), Some(subject));
                let ask = WalletAsk { tenant, issuer, subject, address, chain_id: chain };
                let asked: WalletMessage = link.post("/v1/people/wallets/ask", &ask).await?;
                out.show(&asked, |asked| asked.message.clone())
            }
            Self::Link { whose, message, signature, name } => {
                let Whose { tenant, issuer, subject } = whose;
                let (issuer, subject) = (Some(issuer), Some(subject));
                let message = read(&message)?.trim_end().to_owned();
                let proof = WalletProof { tenant, issuer, subject, message, signature, name };
                let linked: LinkView = link.post("/v1/people/wallets", &proof).await?;
                out.show(&linked, |linked| lines(std::slice::from_ref(linked)))
            }
            Self::List(filter) => list(link, out, &filter.path("wallets")).await,
            Self::Unlink { address } => end(link, out, &format!("wallets/{address}/unlink")).await,
        }
    }
}

fn read(path: &std::path::Path) -> Result<String, Stop> {
    std::fs::read_to_string(path)
        .map_err(|error| Stop::usage(format_args!("`{}`: {error}", path.display())))
}

async fn list(link: &Link, out: Out, path: &str) -> Result<(), Stop> {
    let found: Items<LinkView> = link.list(path, None).await?;
    out.show(&found, |found| lines(&found.items))
}

async fn end(link: &Link, out: Out, path: &str) -> Result<(), Stop> {
    let ended: LinkView = link.post(&format!("/v1/people/{path}"), &json!({})).await?;
    out.show(&ended, |ended| format!("{} is no longer linked", ended.id))
}

fn lines(links: &[LinkView]) -> String {
    let row = |link: &LinkView| {
        let who = format!("{} ({})", link.subject, link.issuer);
        vec![link.id.to_string(), who, link.tenant.to_string(), link.name.clone(), link.at.clone()]
    };
    let names = ["id", "person", "tenant", "name", "since"];
    table(&names, &links.iter().map(row).collect::<Vec<_>>())
}
