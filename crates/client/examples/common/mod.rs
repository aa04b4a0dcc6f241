//! What the examples share: a call from the command line, a wallet and limits.
//!
//! `WALLET` is a reference as `countersign call --wallet` takes it; `TOKEN`, if it is set, the
//! access token; `STATE`, if it is set, a directory in which credentials and the log of what was
//! spent outlive the program.

use countersign_client::{
    BridgeOptions, CredentialCache, Observer, Options, SpendLimits, SpendLog, Wallet,
    countersign_core::wire::json::quote, world,
};
use std::{env, error::Error, path::PathBuf};

/// What any of it can end in.
pub(crate) type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// URL, tool and arguments.
pub(crate) fn asked() -> Fallible<[String; 3]> {
    let words: Vec<String> = env::args().skip(1).collect();
    words.try_into().map_err(|_| "expected URL TOOL ARGUMENTS".into())
}

/// The call as a message of MCP 2026-07-28, and the headers that mirror it.
#[allow(dead_code, reason = "one of the examples has a client that writes its messages")]
pub(crate) fn message(tool: &str, arguments: &str) -> (String, Vec<(&'static str, String)>) {
    let meta = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    let params = format!(r#"{{"name":{},"arguments":{arguments},"_meta":{meta}}}"#, quote(tool));
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
    let mut headers = vec![
        ("content-type", "application/json".to_owned()),
        ("accept", "application/json, text/event-stream".to_owned()),
        ("mcp-protocol-version", "2026-07-28".to_owned()),
        ("mcp-method", "tools/call".to_owned()),
        ("mcp-name", tool.to_owned()),
    ];
    headers.extend(env::var("TOKEN").map(|token| ("authorization", format!("Bearer {token}"))));
    (body, headers)
}

/// Ten cents or twenty sat a call, or a second or two of work.
pub(crate) fn options() -> Fallible<Options> {
    let mut options = Options::new(world::system());
    if let Ok(reference) = env::var("WALLET") {
        options.means.wallets = Wallet::from_reference(&reference, None)?;
    }
    options.means.caps.per_asset.insert("BTC".into(), 20_000);
    if let Ok(state) = env::var("STATE").map(PathBuf::from) {
        options.credentials =
            CredentialCache::open(&state.join("credentials"), options.world.now())?;
        options.spending = SpendLog::open(&state.join("spend.jsonl"), SpendLimits::default())?;
    }
    Ok(options)
}

/// Says on the standard error what a person should read; waits for nobody.
#[allow(clippy::print_stderr, reason = "it is a program's to speak")]
pub(crate) fn people() -> BridgeOptions {
    BridgeOptions {
        say: Observer::new(|text| eprintln!("{text}")),
        open_page: None,
        approval_wait_ms: 0,
        prefetch: false,
    }
}
