//! An `rmcp` client that pays:
//!
//!     cargo run -p countersign-client --example rmcp -- URL TOOL ARGUMENTS
//!
//! with `WALLET=file:wallet.json` in its environment.
#![allow(clippy::print_stdout, reason = "it is a program's to speak")]

mod common;

use countersign_client::{PayTransport, Secret};
use rmcp::{ServiceExt as _, model::CallToolRequestParams};

#[tokio::main]
async fn main() -> common::Fallible<()> {
    let [url, tool, arguments] = common::asked()?;
    let mut options = common::options()?;
    options.bearer = std::env::var("TOKEN").ok().as_deref().map(Secret::new);

    let client = ().serve(PayTransport::new(&url, options, common::people())?).await?;
    let mut call = CallToolRequestParams::new(tool);
    call.arguments = serde_json::from_str(&arguments)?;
    println!("{}", serde_json::to_string(&client.call_tool(call).await?)?);
    client.cancel().await?;
    Ok(())
}
