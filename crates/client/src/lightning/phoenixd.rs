//! phoenixd over its HTTP interface: `POST /payinvoice`, `GET /payments/outgoingbyhash/{hash}`,
//! under its password.

use super::{Lookup, PayError, Purse, known};
use crate::{
    error::TransportError, http::parse_url, rpc::set_secret, secret::Secret, wallet::WalletError,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use countersign_core::wire::form::form_encode;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use serde::Deserialize;

/// The daemon.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Phoenixd {
    pub(super) url: Uri,
    password: Secret,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    payment_preimage: Option<String>,
    /// Why it did not pay.
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outgoing {
    #[serde(default)]
    is_paid: bool,
    preimage: Option<String>,
    completed_at: Option<u64>,
}

impl Phoenixd {
    pub(super) fn new(url: &str, password: Secret) -> Result<Self, WalletError> {
        let url = parse_url(url.trim_end_matches('/'), false).map_err(|_| WalletError::BadUrl)?;
        Ok(Self { url, password })
    }

    /// Pays, or finds that it was paid.
    pub(super) async fn pay(
        &self,
        purse: &Purse<'_>,
        invoice: &str,
        payment_hash: &[u8; 32],
    ) -> Result<[u8; 32], PayError> {
        let form = form_encode(&[("invoice", invoice)]);
        let asked = self.ask(purse, Method::POST, "/payinvoice", form).await;
        match asked {
            Err(TransportError::Unreachable) => return Err(PayError::Refused),
            Ok((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _)) => {
                return Err(PayError::Refused);
            }
            Ok((status, body)) if status.is_success() => {
                if let Ok(answer) = serde_json::from_slice::<Answer>(&body) {
                    let preimage = answer.payment_preimage.as_deref();
                    let preimage = preimage.and_then(|text| known(text, payment_hash));
                    if let Some(preimage) = preimage {
                        return Ok(preimage);
                    }
                    if answer.reason.is_none() {
                        return Err(PayError::Unknown);
                    }
                }
            }
            Ok(_) | Err(_) => {}
        }
        // It did not say that it paid; whether it has is looked up, never guessed.
        match self.lookup(purse, payment_hash).await {
            Lookup::Paid(preimage) => Ok(preimage),
            Lookup::Not => Err(PayError::Refused),
            Lookup::Unknown | Lookup::Silent => Err(PayError::Unknown),
        }
    }

    /// What became of a payment that was asked for before.
    pub(super) async fn lookup(&self, purse: &Purse<'_>, payment_hash: &[u8; 32]) -> Lookup {
        let path = format!("/payments/outgoingbyhash/{}", hex::encode(payment_hash));
        match self.ask(purse, Method::GET, &path, String::new()).await {
            Ok((StatusCode::NOT_FOUND, _)) => Lookup::Not,
            Ok((StatusCode::OK, body)) => match serde_json::from_slice::<Outgoing>(&body) {
                Ok(found) if found.is_paid => {
                    let preimage = found.preimage.and_then(|text| known(&text, payment_hash));
                    preimage.map_or(Lookup::Unknown, Lookup::Paid)
                }
                // It ended without having paid.
                Ok(found) if found.completed_at.is_some() => Lookup::Not,
                Ok(_) | Err(_) => Lookup::Unknown,
            },
            Ok(_) | Err(_) => Lookup::Unknown,
        }
    }

    async fn ask(
        &self,
        purse: &Purse<'_>,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, Bytes), TransportError> {
        let uri = format!("{}{path}", self.url.to_string().trim_end_matches('/'));
        let uri: Uri = uri.parse().map_err(|_| TransportError::Unreachable)?;
        let mut headers = HeaderMap::new();
        let basic = STANDARD.encode(format!(":{}", self.password.expose()));
        set_secret(&mut headers, header::AUTHORIZATION, &format!("Basic {basic}"))
            .map_err(|_| TransportError::Unreachable)?;
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, form);
        let exchange = async {
            let response = purse.http.send(method, &uri, headers, body).await?;
            let status = response.status();
            Ok((status, purse.http.read(response.into_body()).await?))
        };
        purse.http.in_time(exchange).await
    }
}
