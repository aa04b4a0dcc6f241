//! The configuration: one YAML file, read once, into what it means.
//!
//! Unknown members are refused, and so is an API off loopback that was not asked for. Secrets are
//! references; an error names the member, never the secret.

use ldk_node::{
    bitcoin::{Network, secp256k1::PublicKey},
    lightning::ln::msgs::SocketAddress,
    logger::LogLevel,
};
use serde::Deserialize;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

/// What the file means.
pub(crate) struct Config {
    pub(crate) network: Network,
    pub(crate) data_dir: PathBuf,
    pub(crate) api: SocketAddr,
    pub(crate) listen: Vec<SocketAddress>,
    pub(crate) alias: Option<String>,
    pub(crate) chain: Chain,
    pub(crate) lsps1: Option<Provider>,
    pub(crate) lsps2: Option<Provider>,
    pub(crate) lsps2_service: Option<RawOpening>,
    pub(crate) anchor_reserve_sat: u64,
    pub(crate) log: LogLevel,
}

/// Where the chain is seen.
pub(crate) enum Chain {
    Bitcoind { host: String, port: u16, user: String, password: String },
    Esplora { url: String },
}

/// Who sells inbound channels.
pub(crate) struct Provider {
    pub(crate) node_id: PublicKey,
    pub(crate) address: SocketAddress,
    pub(crate) token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    network: RawNetwork,
    data_dir: PathBuf,
    api: SocketAddr,
    #[serde(default)]
    api_off_loopback: bool,
    #[serde(default)]
    listen: Vec<String>,
    alias: Option<String>,
    chain: RawChain,
    #[serde(default)]
    liquidity: RawLiquidity,
    lsps2_service: Option<RawOpening>,
    #[serde(default = "default_reserve")]
    anchor_reserve_sat: u64,
    #[serde(default)]
    log: RawLog,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawNetwork {
    Bitcoin,
    Testnet,
    Signet,
    Regtest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChain {
    bitcoind: Option<RawBitcoind>,
    esplora: Option<RawEsplora>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBitcoind {
    url: String,
    user: String,
    password: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEsplora {
    url: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLiquidity {
    lsps1: Option<RawProvider>,
    lsps2: Option<RawProvider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProvider {
    node_id: String,
    address: String,
    token: Option<String>,
}

/// What this node asks for a channel that it opens just in time for another.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawOpening {
    pub(crate) opening_fee_ppm: u32,
    pub(crate) opening_fee_min_msat: u64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawLog {
    Error,
    #[default]
    Warn,
    Info,
    Debug,
}

fn default_reserve() -> u64 {
    25_000
}

impl Config {
    pub(crate) fn load(path: &Path) -> Result<Config, String> {
        let text = fs::read_to_string(path).map_err(|why| format!("{}: {why}", path.display()))?;
        parse(&text).map_err(|why| format!("{}: {why}", path.display()))
    }
}

fn parse(text: &str) -> Result<Config, String> {
    let raw: Raw = serde_yaml_ng::from_str(text).map_err(|why| why.to_string())?;
    if !raw.api.ip().is_loopback() && !raw.api_off_loopback {
        return Err(format!("api: {} is not loopback (`api_off_loopback: true`)", raw.api));
    }
    if raw.alias.as_ref().is_some_and(|alias| alias.len() > 32) {
        return Err("alias: at most 32 bytes".to_owned());
    }
    let listen = raw.listen.iter().map(|text| address("listen", text));
    Ok(Config {
        network: match raw.network {
            RawNetwork::Bitcoin => Network::Bitcoin,
            RawNetwork::Testnet => Network::Testnet,
            RawNetwork::Signet => Network::Signet,
            RawNetwork::Regtest => Network::Regtest,
        },
        data_dir: raw.data_dir,
        api: raw.api,
        listen: listen.collect::<Result<_, _>>()?,
        alias: raw.alias,
        chain: chain(raw.chain)?,
        lsps1: raw.liquidity.lsps1.map(|raw| provider("liquidity.lsps1", raw)).transpose()?,
        lsps2: raw.liquidity.lsps2.map(|raw| provider("liquidity.lsps2", raw)).transpose()?,
        lsps2_service: raw.lsps2_service,
        anchor_reserve_sat: raw.anchor_reserve_sat,
        log: match raw.log {
            RawLog::Error => LogLevel::Error,
            RawLog::Warn => LogLevel::Warn,
            RawLog::Info => LogLevel::Info,
            RawLog::Debug => LogLevel::Debug,
        },
    })
}

fn chain(raw: RawChain) -> Result<Chain, String> {
    match (raw.bitcoind, raw.esplora) {
        (Some(raw), None) => {
            let (host, port) = raw
                .url
                .strip_prefix("http://")
                .map(|rest| rest.trim_end_matches('/'))
                .and_then(|rest| rest.rsplit_once(':'))
                .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
                .ok_or("chain.bitcoind.url: `http://HOST:PORT`")?;
            let password = secret("chain.bitcoind.password", &raw.password)?;
            Ok(Chain::Bitcoind { host, port, user: raw.user, password })
        }
        (None, Some(raw)) => Ok(Chain::Esplora { url: raw.url }),
        (Some(_), Some(_)) | (None, None) => {
            Err("chain: either `bitcoind` or `esplora`".to_owned())
        }
    }
}

fn provider(at: &str, raw: RawProvider) -> Result<Provider, String> {
    let token = raw.token.map(|token| secret(&format!("{at}.token"), &token)).transpose()?;
    Ok(Provider {
        node_id: PublicKey::from_str(&raw.node_id)
            .map_err(|_| format!("{at}.node_id: not a node's public key"))?,
        address: address(&format!("{at}.address"), &raw.address)?,
        token,
    })
}

fn address(at: &str, text: &str) -> Result<SocketAddress, String> {
    SocketAddress::from_str(text).map_err(|_| format!("{at}: `{text}` is not HOST:PORT"))
}

/// What a reference refers to.
fn secret(at: &str, reference: &str) -> Result<String, String> {
    let text = match reference.split_once(':') {
        Some(("file", path)) => {
            fs::read_to_string(path).map_err(|why| format!("{at}: {path}: {why}"))?
        }
        Some(("env", name)) => {
            std::env::var(name).map_err(|_| format!("{at}: {name} is not set"))?
        }
        Some(_) | None => return Err(format!("{at}: a reference, `file:PATH` or `env:NAME`")),
    };
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "network: regtest\ndata_dir: data\napi: 127.0.0.1:1\n\
        chain: { esplora: { url: 'http://127.0.0.1:2' } }\n";

    fn refused(text: &str) -> String {
        parse(text).err().unwrap()
    }

    #[test]
    fn the_least_that_is_enough() {
        let config = parse(GOOD).unwrap();
        assert_eq!((config.network, config.anchor_reserve_sat), (Network::Regtest, 25_000));
        assert!(config.listen.is_empty());
    }

    #[test]
    fn an_unknown_member_is_refused() {
        assert!(refused(&format!("{GOOD}prot: 1\n")).contains("unknown field `prot`"));
    }

    #[test]
    fn the_api_stays_on_loopback_unless_told() {
        let open = GOOD.replace("127.0.0.1:1\n", "0.0.0.0:1\n");
        assert!(refused(&open).contains("not loopback"));
        assert!(parse(&format!("{open}api_off_loopback: true\n")).is_ok());
    }

    #[test]
    fn one_source_of_the_chain() {
        let none = GOOD.replace("esplora: { url: 'http://127.0.0.1:2' }", "");
        assert_eq!(refused(&none), "chain: either `bitcoind` or `esplora`");
    }

    #[test]
    fn a_secret_is_a_reference_and_is_not_repeated() {
        let chain = "bitcoind: { url: 'http://127.0.0.1:2', user: u, password: hunter2 }";
        let text = GOOD.replace("esplora: { url: 'http://127.0.0.1:2' }", chain);
        let why = refused(&text);
        assert!(why.contains("chain.bitcoind.password") && !why.contains("hunter2"), "{why}");
    }
}
