//! The HTTP API: who may ask, what they may ask, and waiting.
//!
//! Every request needs the token. Every verb runs off these threads, since it may wait for the
//! disk or for peers. Once begun, a change goes on whether or not the caller stays.

use crate::{
    answer::{Answer, Code, no},
    book::{Entry, Fact, State as Stands},
    desk::{AskedInvoice, AskedPayment, Desk, InvoiceView, PaymentView},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use subtle::ConstantTimeEq as _;
use tokio::{net::TcpListener, sync::watch, time};

const BODY_BYTES: usize = 64 * 1024;
const WAIT_MOST_S: u64 = 60;
const SETTLE_WAIT: Duration = Duration::from_secs(10);
const EVENTS: usize = 100;
const EVENTS_MOST: usize = 1000;

type App = Arc<Desk>;
type Asked<T> = Result<Query<T>, QueryRejection>;

/// Answers until `stopped` ends, then lets what runs come to its end for a moment.
pub(crate) async fn serve(
    listener: TcpListener,
    desk: App,
    token: String,
    stopped: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    let (stop, mut told) = watch::channel(());
    let serving = axum::serve(listener, routes(desk, token)).with_graceful_shutdown(async move {
        // An error is the other end gone, which says the same.
        let _told = told.changed().await;
    });
    let mut serving = tokio::spawn(async move { serving.await });
    let why = tokio::select! {
        ended = &mut serving => ended.map_or_else(|why| Err(why.to_string()), |_| Ok(())),
        why = stopped => why,
    };
    stop.send_replace(());
    if time::timeout(Duration::from_secs(2), &mut serving).await.is_err() {
        serving.abort();
    }
    why
}

fn routes(desk: App, token: String) -> Router {
    let token: Arc<str> = token.into();
    Router::new()
        .route("/v1/info", get(info))
        .route("/v1/balances", get(balances))
        .route("/v1/invoices", post(make))
        .route("/v1/invoices/{hash}", get(invoice))
        .route("/v1/invoices/{hash}/settle", post(settle))
        .route("/v1/invoices/{hash}/cancel", post(cancel))
        .route("/v1/events", get(events))
        .route("/v1/payments", post(pay))
        .route("/v1/payments/{hash}", get(payment))
        .route("/v1/refunds", post(give))
        .route("/v1/refunds/{key}", get(refund))
        .route("/v1/requests", post(request))
        .route("/v1/lsps1/orders", post(order))
        .route("/v1/lsps1/orders/{id}", get(ordered))
        .route("/v1/address", post(address))
        .route("/v1/peers", post(connect))
        .route("/v1/channels", post(open_channel))
        .route("/v1/channels/{id}", delete(close_channel))
        .route("/v1/sync", post(sync))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(middleware::from_fn(coded))
        .layer(middleware::from_fn(move |request, next| {
            authorized(Arc::clone(&token), request, next)
        }))
        .with_state(desk)
}

async fn authorized(token: Arc<str>, request: Request, next: Next) -> Response {
    if bears(request.headers(), &token) {
        return next.run(request).await;
    }
    no(Code::Unauthorized, "the token in `api.token`, as a bearer token").into_response()
}

fn bears(headers: &HeaderMap, token: &str) -> bool {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(given), None) = (given.next(), given.next()) else { return false };
    let given = given.as_bytes();
    let Some((scheme, given)) = given.split_at_checked(7) else { return false };
    scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.ct_eq(token.as_bytes()))
}

/// Gives the refusals of the router itself a code.
async fn coded(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let is_json = response.headers().get(header::CONTENT_TYPE);
    let is_json = is_json.is_some_and(|kind| kind.as_bytes() == b"application/json");
    match response.status() {
        status if is_json || !(status.is_client_error() || status.is_server_error()) => response,
        StatusCode::NOT_FOUND => no(Code::NotFound, "no such path").into_response(),
        StatusCode::PAYLOAD_TOO_LARGE => no(Code::TooLarge, "at most 64 KiB").into_response(),
        _ => no(Code::BadRequest, "not a request of this API").into_response(),
    }
}

/// Runs a verb where it may wait.
async fn run<T: Send + 'static>(
    desk: App,
    verb: impl FnOnce(&Desk) -> Answer<T> + Send + 'static,
) -> Answer<T> {
    let run = tokio::task::spawn_blocking(move || verb(&desk));
    run.await.unwrap_or_else(|_| Err(no(Code::Fault, "the request was not finished")))
}

/// Reads a body, and repeats none of its values.
fn read<T: DeserializeOwned>(body: &Bytes) -> Answer<T> {
    serde_json::from_slice(body).map_err(|why| {
        let why = why.to_string();
        let names = ["unknown field", "missing field", "duplicate field"];
        let says = if names.iter().any(|name| why.starts_with(name)) {
            why.chars().take(200).collect()
        } else {
            "the body is not the JSON that is expected here".to_owned()
        };
        no(Code::BadRequest, says)
    })
}

fn ask<T>(query: Asked<T>) -> Answer<T> {
    query.map(|Query(asked)| asked).map_err(|_| no(Code::BadRequest, "the query is not understood"))
}

fn wait(seconds: u64) -> Answer<Duration> {
    if seconds > WAIT_MOST_S {
        return Err(no(Code::BadRequest, "`wait_s`: 0 to 60"));
    }
    Ok(Duration::from_secs(seconds))
}

fn created<T: Serialize>(what: T) -> Response {
    (StatusCode::CREATED, Json(what)).into_response()
}

async fn info(State(desk): State<App>) -> Answer<Response> {
    run(desk, |desk| Ok(Json(desk.info()).into_response())).await
}

async fn balances(State(desk): State<App>) -> Answer<Response> {
    run(desk, |desk| Ok(Json(desk.balances()).into_response())).await
}

async fn make(State(desk): State<App>, body: Bytes) -> Answer<Response> {
    let asked: AskedInvoice = read(&body)?;
    run(desk, move |desk| desk.make(&asked).map(created)).await
}

async fn invoice(State(desk): State<App>, Path(hash): Path<String>) -> Answer<Json<InvoiceView>> {
    run(desk, move |desk| desk.invoice(&hash).map(Json)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedSettle {
    preimage: String,
}

async fn settle(
    State(desk): State<App>,
    Path(hash): Path<String>,
    body: Bytes,
) -> Answer<Json<InvoiceView>> {
    let AskedSettle { preimage } = read(&body)?;
    let mut seen = desk.watch();
    let until = time::Instant::now() + SETTLE_WAIT;
    let of = hash.clone();
    let mut view = run(Arc::clone(&desk), move |desk| desk.settle(&of, &preimage)).await?;
    while view.state != Stands::Settled {
        if !is_seen(&mut seen, until).await {
            return Err(no(Code::Pending, "settling has begun: repeat this"));
        }
        let of = hash.clone();
        view = run(Arc::clone(&desk), move |desk| desk.invoice(&of)).await?;
    }
    Ok(Json(view))
}

async fn cancel(State(desk): State<App>, Path(hash): Path<String>) -> Answer<Json<InvoiceView>> {
    run(desk, move |desk| desk.cancel(&hash).map(Json)).await
}

/// Whether something new happened before that moment.
async fn is_seen(seen: &mut watch::Receiver<u64>, until: time::Instant) -> bool {
    matches!(time::timeout_at(until, seen.changed()).await, Ok(Ok(())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedEvents {
    #[serde(default)]
    cursor: u64,
    #[serde(default)]
    wait_s: u64,
    limit: Option<usize>,
}

async fn events(State(desk): State<App>, query: Asked<AskedEvents>) -> Answer<Json<Value>> {
    let AskedEvents { cursor, wait_s, limit } = ask(query)?;
    let limit = limit.unwrap_or(EVENTS);
    if !(1..=EVENTS_MOST).contains(&limit) {
        return Err(no(Code::BadRequest, "`limit`: 1 to 1000"));
    }
    let until = time::Instant::now() + wait(wait_s)?;
    let mut seen = desk.watch();
    loop {
        let found = run(Arc::clone(&desk), move |desk| {
            let events = desk.events(cursor, limit)?;
            Ok(events.into_iter().map(|entry| event_view(desk, entry)).collect::<Vec<_>>())
        });
        let found = found.await?;
        if !found.is_empty() || !is_seen(&mut seen, until).await {
            let last = found.last().map_or(cursor, |(cursor, _)| *cursor);
            let events: Vec<Value> = found.into_iter().map(|(_, event)| event).collect();
            return Ok(Json(json!({ "cursor": last, "events": events })));
        }
    }
}

/// An event as it is told, with its cursor.
fn event_view(desk: &Desk, entry: Entry) -> (u64, Value) {
    let mut event = match entry.fact {
        Fact::Accepted { payment_hash, amount_msat, claim_deadline_height } => json!({
            "kind": "accepted", "payment_hash": payment_hash, "amount_msat": amount_msat,
            "claim_deadline_height": claim_deadline_height,
        }),
        Fact::Settled { payment_hash, amount_msat } => json!({
            "kind": "settled", "payment_hash": payment_hash, "amount_msat": amount_msat,
        }),
        Fact::Cancelled { payment_hash } => {
            json!({ "kind": "cancelled", "payment_hash": payment_hash })
        }
        Fact::Paid { payment_id, payment_hash, preimage, fee_msat } => json!({
            "kind": "paid", "payment_hash": payment_hash, "preimage": preimage,
            "fee_msat": fee_msat, "key": desk.key_of(&payment_id),
        }),
        Fact::Failed { payment_id, payment_hash, reason } => json!({
            "kind": "failed", "payment_hash": payment_hash, "reason": reason,
            "key": desk.key_of(&payment_id),
        }),
        Fact::ChannelPending { channel_id, node_id } => json!({
            "kind": "channel_pending", "channel_id": channel_id, "node_id": node_id,
        }),
        Fact::ChannelReady { channel_id, node_id } => json!({
            "kind": "channel_ready", "channel_id": channel_id, "node_id": node_id,
        }),
        Fact::ChannelClosed { channel_id, node_id, reason } => json!({
            "kind": "channel_closed", "channel_id": channel_id, "node_id": node_id,
            "reason": reason,
        }),
        // The book keeps none of these among the events.
        Fact::Invoice { .. }
        | Fact::Settling { .. }
        | Fact::Paying { .. }
        | Fact::Refund { .. }
        | Fact::Shortened { .. } => json!({}),
    };
    if let Some(members) = event.as_object_mut() {
        members.retain(|_, value| !value.is_null());
        members.insert("cursor".to_owned(), entry.n.into());
        members.insert("at_ms".to_owned(), entry.at_ms.into());
    }
    (entry.n, event)
}

async fn pay(State(desk): State<App>, body: Bytes) -> Answer<Json<PaymentView>> {
    let asked: AskedPayment = read(&body)?;
    let until = time::Instant::now() + wait(asked.wait_s)?;
    let mut seen = desk.watch();
    let mut view = run(Arc::clone(&desk), move |desk| desk.pay(&asked)).await?;
    while view.is_pending() && is_seen(&mut seen, until).await {
        let hash = view.payment_hash.clone();
        view = run(Arc::clone(&desk), move |desk| desk.payment(&hash)).await?;
    }
    Ok(Json(view))
}

async fn payment(State(desk): State<App>, Path(hash): Path<String>) -> Answer<Json<PaymentView>> {
    run(desk, move |desk| desk.payment(&hash).map(Json)).await
}

async fn give(State(desk): State<App>, body: Bytes) -> Answer<Response> {
    let asked = read(&body)?;
    run(desk, move |desk| {
        let (refund, is_new) = desk.give(&asked)?;
        Ok(if is_new { created(refund) } else { Json(refund).into_response() })
    })
    .await
}

async fn refund(State(desk): State<App>, Path(key): Path<String>) -> Answer<Response> {
    run(desk, move |desk| desk.refund(&key).map(|refund| Json(refund).into_response())).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedRequest {
    refund: String,
}

async fn request(State(desk): State<App>, body: Bytes) -> Answer<Response> {
    let AskedRequest { refund } = read(&body)?;
    run(desk, move |desk| desk.request(&refund).map(|asked| Json(asked).into_response())).await
}

async fn order(State(desk): State<App>, body: Bytes) -> Answer<Response> {
    let asked = read(&body)?;
    run(desk, move |desk| desk.order(&asked).map(created)).await
}

async fn ordered(State(desk): State<App>, Path(id): Path<String>) -> Answer<Response> {
    run(desk, move |desk| desk.ordered(id).map(|order| Json(order).into_response())).await
}

async fn address(State(desk): State<App>) -> Answer<Response> {
    run(desk, |desk| {
        desk.address().map(|address| Json(json!({ "address": address })).into_response())
    })
    .await
}

async fn connect(State(desk): State<App>, body: Bytes) -> Answer<Response> {
    let asked = read(&body)?;
    run(desk, move |desk| desk.connect(&asked).map(|()| Json(json!({})).into_response())).await
}

async fn open_channel(State(desk): State<App>, body: Bytes) -> Answer<Response> {
    let asked = read(&body)?;
    run(desk, move |desk| desk.open_channel(&asked).map(|id| created(json!({ "id": id })))).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedClose {
    #[serde(default)]
    force: bool,
}

async fn close_channel(
    State(desk): State<App>,
    Path(id): Path<String>,
    query: Asked<AskedClose>,
) -> Answer<Response> {
    let AskedClose { force } = ask(query)?;
    let close = move |desk: &Desk| desk.close_channel(&id, force);
    run(desk, close).await.map(|()| Json(json!({})).into_response())
}

async fn sync(State(desk): State<App>) -> Answer<Response> {
    run(desk, |desk| desk.sync().map(|height| Json(json!({ "height": height })).into_response()))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_token_and_nothing_else_opens() {
        let token = "s".repeat(64);
        let good = format!("Bearer {token}");
        assert!(bears(&headers(&[&good]), &token));
        assert!(bears(&headers(&[&format!("bearer {token}")]), &token));
        for bad in ["", "Bearer ", "Basic abcdefgh", &format!("Bearer {token}x"), &token] {
            assert!(!bears(&headers(&[bad]), &token), "{bad}");
        }
        assert!(!bears(&headers(&[]), &token));
        assert!(!bears(&headers(&[&good, &good]), &token));
    }

    #[test]
    fn a_bad_body_is_not_repeated() {
        let body = Bytes::from_static(b"{\"preimage\": {\"hunter2\": 1}}");
        let why = format!("{:?}", read::<AskedSettle>(&body).err().unwrap());
        assert!(!why.contains("hunter2"), "{why}");
        let body = Bytes::from_static(b"{\"image\": 1}");
        let why = format!("{:?}", read::<AskedSettle>(&body).err().unwrap());
        assert!(why.contains("unknown field `image`"), "{why}");
    }
}
