//! `connect`: an MCP server over stdio for any desktop client, in front of a server elsewhere.
//!
//! INVARIANT: the standard output carries MCP messages only; what people should read goes to the
//! standard error.

use super::{
    call::{Purse, secret},
    out::note,
    serve,
    stop::Stop,
};
use crate::world;
use countersign_client::{Bridge, BridgeOptions, Observer, Options};
use std::{
    io::Read as _,
    process::{Command, Stdio},
    sync::Arc,
};
use tokio::{io::AsyncWriteExt as _, runtime::Handle};

/// Bytes that are read of the standard input at a time.
const CHUNK: usize = 64 << 10;

/// Whom to connect to, and what to pay with.
#[derive(Debug, clap::Args)]
pub(super) struct Connect {
    /// The server's MCP URL.
    url: String,
    /// Access token: `env:NAME` or `file:PATH`.
    #[arg(long, value_name = "REFERENCE")]
    bearer: Option<String>,
    #[command(flatten)]
    purse: Purse,
    /// Do not open approval pages in a browser; say their addresses on the standard error.
    #[arg(long)]
    no_browser: bool,
    /// Longest wait for a person's approval, in seconds.
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
        let served = bridge.serve_stdio(standard_input(), tokio::io::stdout(), stop).await;
        served.map_err(Stop::internal)
    }

    fn options(&self) -> Result<Options, Stop> {
        let mut options = Options::new(world::system());
        if let Some(reference) = &self.bearer {
            options.bearer = Some(secret("--bearer", reference)?);
        }
        options.means = self.purse.means()?;
        options.credentials = self.purse.cache(options.world.now())?;
        options.allow_plain_http = self.allow_plain_http;
        options.exchange_timeout_ms = self.timeout.saturating_mul(1000);
        Ok(options)
    }

    fn people(&self) -> BridgeOptions {
        BridgeOptions {
            say: Observer::new(note),
            open_page: (!self.no_browser).then(|| Observer::new(open_page)),
            approval_wait_ms: self.approval_wait.saturating_mul(1000),
        }
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
