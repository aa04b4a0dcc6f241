//! `countersign sandbox`: the parts that `countersign init`'s configuration expects beside the
//! gateway: a Lightning node, an x402 facilitator, an issuer and an MCP server, all play.

use super::{Stop, out, serve};
use crate::{
    sandbox::{
        facilitator,
        issuer::{self, SandboxClient},
        lightning, server,
    },
    world,
};
use std::net::{Ipv4Addr, SocketAddr};

/// Ports on loopback; 0 takes a free one.
#[derive(Debug, clap::Args)]
pub(super) struct Sandbox {
    /// Lightning node and wallet.
    #[arg(long, default_value_t = 9740)]
    lightning: u16,
    /// x402 facilitator.
    #[arg(long, default_value_t = 9741)]
    facilitator: u16,
    /// OpenID issuer.
    #[arg(long, default_value_t = 9742)]
    issuer: u16,
    /// MCP server.
    #[arg(long, default_value_t = 9743)]
    server: u16,
}

/// What each account starts with: 1,000 USDC, 100,000 sat.
const FAUCET_MINOR: u128 = 1_000_000_000;
const WALLET_MSAT: u64 = 100_000_000;

/// The issuer's one client, for `client_credentials`.
const CLIENT: (&str, &str) = ("sandbox-agent", "sandbox-secret");

impl Sandbox {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let world = world::system();
        let lightning = lightning::start(at(self.lightning), world.clone(), WALLET_MSAT).await;
        let lightning = lightning.map_err(anyhow::Error::from)?;
        let facilitator = facilitator::start(at(self.facilitator), world.clone(), FAUCET_MINOR);
        let facilitator = facilitator.await.map_err(anyhow::Error::from)?;
        let client = SandboxClient { id: CLIENT.0.to_owned(), secret: CLIENT.1.to_owned() };
        let issuer = issuer::start(at(self.issuer), vec![client], world).await;
        let issuer = issuer.map_err(anyhow::Error::from)?;
        let server = server::start(at(self.server)).await.map_err(anyhow::Error::from)?;
        let mut stop = serve::stop_on_signal()?;
        let urls = serde_json::json!({
            "sandbox": true,
            "lightning": lightning.url(),
            "facilitator": facilitator.url(),
            "issuer": issuer.url(),
            "server": server.url,
            "client_id": CLIENT.0,
            "client_secret": CLIENT.1,
        });
        out::write(&format!("{urls}\n"))?;
        let _stopped = stop.wait_for(|stop| *stop).await.map(drop);
        Ok(())
    }
}
