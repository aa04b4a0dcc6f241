//! A wallet behind `POST {url}/pay {"invoice"}` → `{"preimage"}`, which recognises an invoice that
//! it has paid, or says at `GET {url}/payments/{hash}` → `{"state", "preimage"}` whether it has: the
//! sandbox's, or one's own.

use super::{Lookup, PayError, Purse, known};
use crate::wallet::WalletError;
use crate::{
    error::{ClientError, TransportError},
    http::parse_url,
    rpc::set_secret,
    secret::Secret,
};
use countersign_core::wire::json::quote;
use http::{HeaderMap, Method, Uri, header};
use serde::Deserialize;

/// The wallet.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Plain {
    pub(super) pay: Uri,
    token: Option<Secret>,
}

#[derive(Deserialize)]
struct Paid {
    preimage: String,
}

#[derive(Deserialize)]
struct Payment {
    state: String,
    preimage: Option<String>,
}

impl Plain {
    pub(super) fn new(url: &str, token: Option<Secret>) -> Result<Self, WalletError> {
        let pay = format!("{}/pay", url.trim_end_matches('/'));
        let pay = parse_url(&pay, false).map_err(|_| WalletError::BadUrl)?;
        Ok(Self { pay, token })
    }

    /// What became of a payment, where the wallet says so.
    pub(super) async fn lookup(&self, purse: &Purse<'_>, payment_hash: &[u8; 32]) -> Lookup {
        let url = self.pay.to_string();
        let base = url.strip_suffix("/pay").unwrap_or(&url);
        let uri = format!("{base}/payments/{}", hex::encode(payment_hash)).parse::<Uri>();
        let (Ok(uri), Ok(headers)) = (uri, self.headers()) else { return Lookup::Unknown };
        let exchange = async {
            let response = purse.http.send(Method::GET, &uri, headers, String::new()).await?;
            let status = response.status();
            Ok((status, purse.http.read(response.into_body()).await?))
        };
        let Ok((status, body)) = purse.http.in_time(exchange).await else {
            return Lookup::Unknown;
        };
        let Ok(payment) = serde_json::from_slice::<Payment>(&body) else {
            let has_none = matches!(status.as_u16(), 404 | 405);
            return if has_none { Lookup::Silent } else { Lookup::Unknown };
        };
        match (&*payment.state, payment.preimage) {
            ("paid", Some(preimage)) => {
                known(&preimage, payment_hash).map_or(Lookup::Unknown, Lookup::Paid)
            }
            ("unpaid", None) => Lookup::Not,
            _ => Lookup::Unknown,
        }
    }

    fn headers(&self) -> Result<HeaderMap, ClientError> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.token {
            let value = format!("Bearer {}", token.expose());
            set_secret(&mut headers, header::AUTHORIZATION, &value)?;
        }
        Ok(headers)
    }

    /// Pays once; the same invoice asked again is the wallet's to recognise.
    pub(super) async fn pay(
        &self,
        purse: &Purse<'_>,
        invoice: &str,
        payment_hash: &[u8; 32],
    ) -> Result<[u8; 32], PayError> {
        let headers = self.headers().map_err(|_| PayError::Refused)?;
        let body = format!(r#"{{"invoice":{}}}"#, quote(invoice));
        let exchange = async {
            let response = purse.http.post(&self.pay, headers, body).await?;
            let status = response.status();
            Ok((status, purse.http.read(response.into_body()).await?))
        };
        let (status, body) = match purse.http.in_time(exchange).await {
            Ok(answer) => answer,
            Err(TransportError::Unreachable) => return Err(PayError::Refused),
            Err(_) => return Err(PayError::Unknown),
        };
        if status.is_client_error() {
            return Err(PayError::Refused);
        }
        let answer: Paid = serde_json::from_slice(&body).map_err(|_| PayError::Unknown)?;
        match known(&answer.preimage, payment_hash) {
            Some(preimage) if status.is_success() => Ok(preimage),
            _ => Err(PayError::Unknown),
        }
    }
}
