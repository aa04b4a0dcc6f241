//! A Lightning Labs node over its REST interface: `POST /v2/router/send`, `GET
//! /v2/router/track/{hash}`. The node keeps one payment for a hash, so asking twice pays once.
//!
//! INVARIANT: the macaroon goes to the node whose certificate is pinned, or that public
//! authorities vouch for, and nowhere else.

use super::{Lookup, PayError, known};
use crate::{
    error::TransportError,
    http::{Http, parse_url},
    rpc::set_secret,
    secret::Secret,
    wallet::WalletError,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use serde::Deserialize;
use serde_json::json;

/// How long the node may look for a way, in seconds.
const SEARCH_S: u64 = 60;
/// How long an exchange may take, in milliseconds: the search, and a little.
const EXCHANGE_MS: u64 = 75_000;
/// Largest answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// gRPC: there is none.
const NOT_FOUND: i64 = 5;
/// gRPC: the request, its macaroon or the method is not taken, so nothing was begun.
const NOT_TAKEN: [i64; 4] = [3, 7, 12, 16];

/// The node.
#[derive(Clone)]
pub(super) struct Lnd {
    pub(super) url: Uri,
    macaroon: Secret,
    http: Http,
}

/// The same node, opened with the same macaroon.
impl PartialEq for Lnd {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url && self.macaroon == other.macaroon
    }
}

impl Eq for Lnd {}

/// A line of an answer. gRPC's gateway puts an error into `error`, or at the top.
#[derive(Deserialize)]
struct Line {
    result: Option<Payment>,
    error: Option<Status>,
    code: Option<i64>,
}

#[derive(Deserialize)]
struct Status {
    #[serde(alias = "grpc_code")]
    code: Option<i64>,
}

#[derive(Deserialize)]
struct Payment {
    status: String,
    #[serde(default)]
    payment_preimage: String,
}

/// What the node says of a payment.
enum Said {
    Paid([u8; 32]),
    Failed,
    Pending,
    Error(i64),
    Nothing,
}

impl Lnd {
    /// A node; its macaroon in hex, its certificate in PEM where no authority vouches for it.
    pub(super) fn new(
        url: &str,
        macaroon: Secret,
        certificate: Option<&str>,
    ) -> Result<Self, WalletError> {
        let url = parse_url(url.trim_end_matches('/'), false).map_err(|_| WalletError::BadUrl)?;
        if hex::decode(macaroon.expose()).is_err() {
            return Err(WalletError::Shape);
        }
        let mut http = Http::new(10_000, EXCHANGE_MS, ANSWER_BYTES_MAX);
        if let Some(pem) = certificate {
            http = Http::pinned(pem, (10_000, EXCHANGE_MS), ANSWER_BYTES_MAX)
                .ok_or(WalletError::Certificate)?;
        }
        Ok(Self { url, macaroon, http })
    }

    /// Pays, or finds that it was paid.
    pub(super) async fn pay(
        &self,
        invoice: &str,
        payment_hash: &[u8; 32],
        max_fee_msat: u64,
    ) -> Result<[u8; 32], PayError> {
        let body = json!({
            "payment_request": invoice,
            "timeout_seconds": SEARCH_S,
            "fee_limit_msat": max_fee_msat.to_string(),
            "no_inflight_updates": true,
        });
        let sent = self.ask(Method::POST, "/v2/router/send", body.to_string()).await;
        match sent.map(|(status, body)| (status, said(&body, payment_hash))) {
            Err(TransportError::Unreachable) => Err(PayError::Refused),
            Ok((_, Said::Paid(preimage))) => Ok(preimage),
            Ok((_, Said::Failed)) => Err(PayError::Refused),
            Ok((_, Said::Error(code))) if NOT_TAKEN.contains(&code) => Err(PayError::Refused),
            Ok((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _)) => Err(PayError::Refused),
            // The node has it already, or its answer was lost: it knows which.
            Ok(_) | Err(_) => match self.lookup(payment_hash).await {
                Lookup::Paid(preimage) => Ok(preimage),
                Lookup::Not => Err(PayError::Refused),
                Lookup::Unknown | Lookup::Silent => Err(PayError::Unknown),
            },
        }
    }

    /// What became of a payment that was asked for before.
    pub(super) async fn lookup(&self, payment_hash: &[u8; 32]) -> Lookup {
        let hash = URL_SAFE.encode(payment_hash);
        let path = format!("/v2/router/track/{hash}?no_inflight_updates=true");
        let asked = self.ask(Method::GET, &path, String::new()).await;
        match asked.map(|(_, body)| said(&body, payment_hash)) {
            Ok(Said::Paid(preimage)) => Lookup::Paid(preimage),
            Ok(Said::Failed | Said::Error(NOT_FOUND)) => Lookup::Not,
            Ok(Said::Pending | Said::Error(_) | Said::Nothing) | Err(_) => Lookup::Unknown,
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, Bytes), TransportError> {
        let uri = format!("{}{path}", self.url.to_string().trim_end_matches('/'));
        let uri: Uri = uri.parse().map_err(|_| TransportError::Unreachable)?;
        let mut headers = HeaderMap::new();
        let name = HeaderName::from_static("grpc-metadata-macaroon");
        set_secret(&mut headers, name, self.macaroon.expose())
            .map_err(|_| TransportError::Unreachable)?;
        headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        self.http
            .in_time(async {
                let response = self.http.send(method, &uri, headers, body).await?;
                let status = response.status();
                Ok((status, self.http.read(response.into_body()).await?))
            })
            .await
    }
}

/// The last word of an answer: one JSON object, or one a line.
fn said(body: &[u8], payment_hash: &[u8; 32]) -> Said {
    let lines = body.split(|byte| *byte == b'\n');
    let mut lines = lines.filter(|line| !line.trim_ascii().is_empty());
    let Some(last) = lines.next_back() else { return Said::Nothing };
    let line = serde_json::from_slice::<Line>(last).or_else(|_| serde_json::from_slice(body));
    let Ok(line) = line else { return Said::Nothing };
    match (line.result, line.error.and_then(|error| error.code).or(line.code)) {
        (Some(payment), _) => match &*payment.status {
            "SUCCEEDED" => match known(&payment.payment_preimage, payment_hash) {
                Some(preimage) => Said::Paid(preimage),
                None => Said::Pending,
            },
            "FAILED" => Said::Failed,
            _ => Said::Pending,
        },
        (None, Some(code)) => Said::Error(code),
        (None, None) => Said::Nothing,
    }
}
