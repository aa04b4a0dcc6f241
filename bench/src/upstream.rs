//! A light MCP server: answers every request with the same small result. It costs little, so that
//! what is in front of it shows.

use crate::{child, messages::RESULT};
use anyhow::Result;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

/// Serves until the starter ends.
pub(crate) fn role() -> Result<()> {
    child::end_with_starter();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve())
}

async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let connection = http1::Builder::new();
            // The peer's going away is the end of it.
            let _ended =
                connection.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await?.to_bytes();
    let id = serde_json::from_slice::<Envelope<'_>>(&body).ok().and_then(|message| message.id);
    let mut answer = Response::new(Full::default());
    let Some(id) = id else {
        *answer.status_mut() = StatusCode::ACCEPTED;
        return Ok(answer);
    };
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{RESULT}}}"#);
    *answer.body_mut() = Full::from(body);
    Ok(answer)
}
