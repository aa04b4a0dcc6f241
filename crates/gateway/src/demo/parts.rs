//! The sandbox parts, and a gateway's configuration before them.

use super::say;
use crate::{
    config::{self, Config, Format, Surroundings},
    sandbox::{
        facilitator::{self, SandboxFacilitator},
        issuer::{self, SandboxIssuer, SandboxToken},
        lightning::{self, SandboxLightning},
        server::{self, SandboxServer},
    },
};
use anyhow::{Context as _, Result, anyhow};
use countersign_client::{EvmWallet, Secret};
use countersign_core::{wire::eip712::Address, world::World};
use std::{
    cell::RefCell,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};
use tokio::net::TcpListener;

/// Where the sandbox's token lies: the address that payment clients expect on this test chain.
pub(super) const TOKEN: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
/// Who is paid.
pub(super) const MERCHANT: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
/// What each sandbox account starts with: 1 USDC.
const FAUCET_MINOR: u128 = 1_000_000;
/// What the sandbox wallet starts with: 1,000 sat.
const WALLET_MSAT: u64 = 1_000_000;
/// The demonstration's people and programs.
pub(super) const TENANT: &str = "acme";
pub(super) const PERSON: &str = "alice";
pub(super) const AGENT: &str = "travel-agent";

/// Everything that runs beside the gateway.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) facilitator: SandboxFacilitator,
    pub(super) lightning: SandboxLightning,
    pub(super) issuer: SandboxIssuer,
    pub(super) server: SandboxServer,
    pub(super) payer_key: Secret,
    listener: RefCell<Option<TcpListener>>,
}

impl Parts {
    /// Starts everything on loopback.
    pub(super) async fn start(dir: &Path, world: World) -> Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let facilitator = facilitator::start(any, world.clone(), FAUCET_MINOR).await?;
        let lightning = lightning::start(any, world.clone(), WALLET_MSAT).await?;
        let issuer = issuer::start(any, Vec::new(), world.clone()).await?;
        let server = server::start(any).await.context("the sandbox MCP server")?;
        let preferred = SocketAddr::from((Ipv4Addr::LOCALHOST, 8402));
        let listener = match TcpListener::bind(preferred).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind(any).await.context("no port for the gateway")?,
        };
        let text = configuration(
            listener.local_addr()?,
            [facilitator.url(), lightning.url(), issuer.url(), &server.url],
        );
        fs::write(dir.join("countersign.yaml"), &text)?;
        let (config, _warnings) =
            config::load_text(&text, Format::Yaml, dir, &Surroundings::of_process())
                .map_err(|errors| anyhow!("{errors}"))?;
        let payer_key = Secret::new(hex::encode(world.random::<32>()));
        Ok(Self {
            config,
            facilitator,
            lightning,
            issuer,
            server,
            payer_key,
            listener: RefCell::new(Some(listener)),
        })
    }

    /// The gateway's listener, once.
    pub(super) fn listener(&self) -> Result<TcpListener> {
        self.listener.borrow_mut().take().context("the listener was taken")
    }

    /// The server's endpoint before the gateway.
    pub(super) fn url(&self) -> String {
        format!("{}/weather/mcp", self.config.public_url)
    }

    /// A person's token, acting through the agent.
    pub(super) fn person_token(&self, ttl_s: u64) -> Result<String> {
        Ok(self.issuer.mint(&SandboxToken {
            subject: PERSON,
            client: AGENT,
            actors: &[],
            audience: &self.url(),
            scope: "mcp:call",
            tenant: TENANT,
            roles: &[],
            is_human: true,
            ttl_s,
        })?)
    }

    /// A program's own token: nobody delegated.
    pub(super) fn machine_token(&self) -> Result<String> {
        Ok(self.issuer.mint(&SandboxToken {
            subject: AGENT,
            client: AGENT,
            actors: &[],
            audience: &self.url(),
            scope: "mcp:call",
            tenant: TENANT,
            roles: &[],
            is_human: false,
            ttl_s: 600,
        })?)
    }

    /// Balances, in the units people read: payer and merchant in USDC, payer and merchant in sat.
    pub(super) fn money(&self) -> Result<Money> {
        let token = Address::from_hex(TOKEN).map_err(|_| anyhow!("the token's address"))?;
        let merchant = Address::from_hex(MERCHANT).map_err(|_| anyhow!("the payee"))?;
        let wallet = EvmWallet::from_private_key(&self.payer_key)?;
        let payer = Address::from_hex(&wallet.address().to_string())
            .map_err(|_| anyhow!("the payer's address"))?;
        let (wallet_msat, node_msat) = self.lightning.balances_msat();
        Ok(Money {
            payer_minor: self.facilitator.balance(token, payer),
            merchant_minor: self.facilitator.balance(token, merchant),
            wallet_msat,
            node_msat,
        })
    }

    /// How to connect a client to what keeps running.
    pub(super) fn explain(&self, dir: &Path) -> Result<()> {
        let token = self.person_token(3_600)?;
        let token_file = dir.join("token");
        let wallet_file = dir.join("wallet.json");
        write_secret(&token_file, &token)?;
        let wallet = serde_json::json!({ "wallets": [
            { "kind": "evm", "private_key": self.payer_key.expose() },
            { "kind": "lightning", "url": self.lightning.url() },
        ]});
        write_secret(&wallet_file, &wallet.to_string())?;
        let config = dir.join("countersign.yaml");
        // It may be on no search path: `cargo run` leaves it where it was built.
        let program = std::env::current_exe().context("where this program is")?;
        let program = program.display();
        say("\nStill serving; Ctrl-C ends it and removes its files. Connect any MCP client:");
        say(&format!("  URL     {}", self.url()));
        say(&format!("  token   {} (for one hour)", token_file.display()));
        say("Or from another terminal:");
        say(&format!(
            "  {program} call {} get_forecast '{{\"city\":\"Oslo\"}}' --bearer file:{} --wallet {}",
            self.url(),
            token_file.display(),
            wallet_file.display()
        ));
        say(&format!("  {program} --config {} grant list", config.display()));
        say(&format!("  {program} --config {} audit tail", config.display()));
        Ok(())
    }
}

/// Balances at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Money {
    pub(super) payer_minor: u128,
    pub(super) merchant_minor: u128,
    pub(super) wallet_msat: u64,
    pub(super) node_msat: u64,
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

fn configuration(
    listen: SocketAddr,
    [facilitator, lightning, issuer, server]: [&str; 4],
) -> String {
    format!(
        r#"# The demonstration's gateway: everything is sandbox.
listen: {listen}
data_dir: ./data
sandbox: true
issuers:
  - issuer: "{issuer}"
    allow_private_network: true
    tenant_claim: tenant
    roles_claim: roles
    human_claim: auth_time
assets:
  USDC: {{ network: "eip155:84532", address: "{TOKEN}", decimals: 6, name: USDC, version: "2", rate: 1 USD }}
  BTC: {{ network: lightning, rate: 60000 USD }}
rails:
  x402: {{ pay_to: "{MERCHANT}", facilitator: {{ sandbox: "{facilitator}" }} }}
  l402: {{ source: {{ sandbox: "{lightning}" }} }}
servers:
  weather:
    upstream: "{server}"
    relay: {{ anonymous: true }}
    tools:
      status: {{ price: free, identity: anonymous, open_world: false }}
      get_forecast: {{ price: ["0.01 USDC", "3 sat"], open_world: false }}
      get_report: {{ price: ["0.02 USDC", "30 sat"], sensitivity: 3, intent: read, open_world: false }}
      get_slow: {{ price: "0.03 USDC", intent: read, open_world: false }}
      delete_report: {{ price: "0.05 USDC", intent: delete, open_world: false }}
budgets:
  - {{ name: slow-tool, scope: {{ tenant: acme, tool: weather/get_slow }}, limit: 0.03 USD, window: 24h }}
"#
    )
}
