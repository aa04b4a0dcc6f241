//! A stack of `tower` that pays:
//!
//!     cargo run -p countersign-client --example tower -- URL TOOL ARGUMENTS
//!
//! with `WALLET=file:wallet.json` in its environment.
#![allow(clippy::print_stdout, reason = "it is a program's to speak")]

mod common;

use bytes::Bytes;
use countersign_client::PayLayer;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{ServiceBuilder, ServiceExt as _};

#[tokio::main]
async fn main() -> common::Fallible<()> {
    let [url, tool, arguments] = common::asked()?;
    let client = ServiceBuilder::new()
        .layer(PayLayer::new(common::options()?, common::people()))
        .service(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());

    let (body, headers) = common::message(&tool, &arguments);
    let mut request = Request::post(url);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let response = client.oneshot(request.body(Full::new(Bytes::from(body)))?).await?;
    let answer = response.into_body().collect().await?.to_bytes();
    println!("{}", String::from_utf8_lossy(&answer));
    Ok(())
}
