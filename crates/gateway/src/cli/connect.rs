//! `connect`: an MCP server over stdio for any desktop client, or over HTTP for this machine, in
//! front of a server elsewhere.
//!
//! INVARIANT: the standard output carries MCP messages only; what people should read goes to the
//! standard error.

use super::{
    call::{Purse, ceiling, secret, state_directory},
    out::note,
    serve,
    stop::Stop,
};
use crate::world;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_client::{
    Bridge, BridgeOptions, Caps, Ceiling, Observer, Options, Secret, SignIn, SpendLimits, SpendLog,
    exit,
};
use countersign_core::money::{AssetCode, Micros};
use std::{
    io::Read as _,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener, runtime::Handle, sync::watch};

/// Bytes that are read of the standard input at a time.
const CHUNK: usize = 64 << 10;

/// Whom to connect to, and what to pay with.
#[derive(Debug, clap::Args)]
pub(super) struct Connect {
    /// The server's MCP URL.
    url: String,
    /// Access token: `env:NAME` or `file:PATH`. Without it you sign in, in a browser, when the
    /// server wants it.
    #[arg(long, value_name = "REFERENCE")]
    bearer: Option<String>,
    /// Sign in now, and end.
    #[arg(long, conflicts_with = "bearer")]
    sign_in: bool,
    /// A client that the issuer knows; without it one is registered.
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// The address of this client's metadata document, for issuers that read those.
    #[arg(long, value_name = "URL")]
    client_metadata: Option<String>,
    /// Ask for this scope too; repeat for several.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    #[command(flatten)]
    purse: Purse,
    /// The most to spend in an hour, on all servers; repeat for several. Without it ten times what
    /// a call may cost.
    #[arg(long = "max-per-hour", value_name = "MONEY")]
    max_per_hour: Vec<String>,
    /// The most to spend on one host in a day; repeat for several.
    #[arg(long = "max-per-host", value_name = "MONEY")]
    max_per_host: Vec<String>,
    /// Pay this host only; repeat for several.
    #[arg(long = "allow-host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Buy the next credential of a tool that is sold for several calls at a time once the last use
    /// of one was made: the next call waits for no payment, but what it would have paid is spent
    /// before it is made, and lost if it never is. Within the same limits.
    #[arg(long)]
    prefetch: bool,
    /// File in which each payment is written down, and from which the limits are counted.
    #[arg(long, value_name = "FILE")]
    spend_log: Option<PathBuf>,
    /// Serve HTTP at this address of this machine instead of stdio; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// What clients must show over HTTP: `env:NAME` or `file:PATH`. Without it a new one is made
    /// and said on the standard error.
    #[arg(long, value_name = "REFERENCE", requires = "listen")]
    listen_token: Option<String>,
    /// Do not open pages in a browser; say their addresses on the standard error.
    #[arg(long)]
    no_browser: bool,
    /// Longest wait for a person to approve or sign in, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    approval_wait: u64,
    /// Allow plain http to other machines, where tokens and payments can be read on the way.
    #[arg(long)]
    allow_plain_http: bool,
    /// Longest wait for the answer to a tool call, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

impl Connect {
    /// Serves until the client goes, or SIGINT or SIGTERM.
    pub(super) async fn run(self) -> Result<(), Stop> {
        let stop = serve::stop_on_signal()?;
        let bridge = Arc::new(Bridge::new(&self.url, self.options()?, self.people())?);
        if self.sign_in {
            return match bridge.sign_in().await? {
                true => Ok(()),
                false => Err(Stop::new(exit::IDENTITY, "the server does not let you in")),
            };
        }
        if let Some(address) = self.listen {
            return self.serve_http(bridge, address, stop).await;
        }
        let served = bridge.serve_stdio(standard_input(), tokio::io::stdout(), stop).await;
        served.map_err(Stop::internal)
    }

    /// Serves until SIGINT or SIGTERM.
    async fn serve_http(
        &self,
        bridge: Arc<Bridge>,
        address: SocketAddr,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Stop> {
        if !address.ip().is_loopback() {
            return Err(
                Stop::usage("--listen: not an address of this machine").next("use 127.0.0.1:PORT")
            );
        }
        let token = match &self.listen_token {
            Some(reference) => secret("--listen-token", reference)?,
            None => Secret::new(URL_SAFE_NO_PAD.encode(world::system().random::<32>())),
        };
        let listener = TcpListener::bind(address).await.map_err(Stop::usage)?;
        let url = format!("http://{}/mcp", listener.local_addr().map_err(Stop::internal)?);
        note(&format!("{} is served at {url}", self.url));
        if self.listen_token.is_none() {
            note(&format!("clients show this, until this ends: Bearer {}", token.expose()));
        }
        bridge.serve_http(listener, token, stop).await.map_err(Stop::internal)
    }

    fn options(&self) -> Result<Options, Stop> {
        let mut options = Options::new(world::system());
        if let Some(reference) = &self.bearer {
            options.bearer = Some(secret("--bearer", reference)?);
        }
        options.sign_in = Some(SignIn {
            directory: state_directory().map(|state| state.join("tokens")),
            client_id: self.client_id.clone(),
            client_metadata_url: self.client_metadata.clone(),
            scopes: self.scopes.clone(),
            say: Observer::new(note),
            open_page: self.pages(),
            wait_ms: self.approval_wait.saturating_mul(1000),
        });
        options.means = self.purse.means()?;
        options.credentials = self.purse.cache(options.world.now())?;
        options.spending = self.spending(&options.means.caps)?;
        options.allow_plain_http = self.allow_plain_http;
        options.exchange_timeout_ms = self.timeout.saturating_mul(1000);
        Ok(options)
    }

    fn spending(&self, caps: &Caps) -> Result<SpendLog, Stop> {
        let hour = match self.max_per_hour.is_empty() {
            true => ten_times(caps),
            false => ceiling("--max-per-hour", &self.max_per_hour)?,
        };
        let host_day = ceiling("--max-per-host", &self.max_per_host)?;
        let hosts = self.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        let hosts = (!self.hosts.is_empty()).then_some(hosts);
        let limits = SpendLimits { hour, host_day, hosts };
        let home = || Some(state_directory()?.join("spend.jsonl"));
        match self.spend_log.clone().or_else(home) {
            Some(path) => Ok(SpendLog::open(&path, limits)?),
            None => Err(Stop::usage("there is no home in which spending could be written down")
                .next("name a file with --spend-log")),
        }
    }

    fn people(&self) -> BridgeOptions {
        BridgeOptions {
            say: Observer::new(note),
            open_page: self.pages(),
            approval_wait_ms: self.approval_wait.saturating_mul(1000),
            prefetch: self.prefetch,
        }
    }
}

impl Connect {
    /// What shows a person a page.
    fn pages(&self) -> Option<Observer> {
        (!self.no_browser).then(|| Observer::new(open_page))
    }
}

/// An hour's ceiling for these caps of one call.
fn ten_times(caps: &Caps) -> Ceiling {
    let times = |(asset, minor): (&AssetCode, &u128)| (asset.clone(), minor.saturating_mul(10));
    Ceiling {
        micros: caps.per_call.map(|Micros(micros)| Micros(micros.saturating_mul(10))),
        per_asset: caps.per_asset.iter().map(times).collect(),
    }
}

/// The standard input, read by a thread that does not keep the program from ending.
fn standard_input() -> tokio::io::DuplexStream {
    let (input, mut into) = tokio::io::duplex(CHUNK);
    let runtime = Handle::current();
    std::thread::spawn(move || {
        let mut chunk = vec![0u8; CHUNK];
        while let Ok(read) = std::io::stdin().read(&mut chunk) {
            let (read, _) = chunk.split_at(read);
            if read.is_empty() || runtime.block_on(into.write_all(read)).is_err() {
                break;
            }
        }
    });
    input
}

/// Opens a page with the desktop's own command; where there is none, its address was said.
fn open_page(url: &str) {
    let command = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let opened = Command::new(command)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match opened {
        // Waited for, so that it leaves nothing behind.
        Ok(mut child) => drop(std::thread::spawn(move || child.wait())),
        Err(_) => note("no browser could be opened here"),
    }
}
