//! A `reqwest` client that pays:
//!
//!     cargo run -p countersign-client --example reqwest -- URL TOOL ARGUMENTS
//!
//! with `WALLET=file:wallet.json` in its environment.
#![allow(clippy::print_stdout, reason = "it is a program's to speak")]

mod common;

use countersign_client::{PayClient, PayLayer};

#[tokio::main]
async fn main() -> common::Fallible<()> {
    let [url, tool, arguments] = common::asked()?;
    let layer = PayLayer::new(common::options()?, common::people());
    let client = PayClient::new(reqwest::Client::new(), &layer);

    let (body, headers) = common::message(&tool, &arguments);
    let mut request = client.plain().post(url).body(body);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    println!("{}", client.execute(request.build()?).await?.text().await?);
    Ok(())
}
