//! A wallet behind `POST {url}/pay {"invoice"}` → `{"preimage"}`, which recognises an invoice that
//! it has paid: the sandbox's, or one's own.

use super::{PayError, Purse, known};
use crate::wallet::WalletError;
use crate::{error::TransportError, http::parse_url, rpc::set_secret, secret::Secret};
use countersign_core::wire::json::quote;
use http::{HeaderMap, Uri, header};
use serde::Deserialize;

/// The wallet.
#[derive(Clone)]
pub(super) struct Plain {
    pub(super) pay: Uri,
    token: Option<Secret>,
}

#[derive(Deserialize)]
struct Paid {
    preimage: String,
}

impl Plain {
    pub(super) fn new(url: &str, token: Option<Secret>) -> Result<Self, WalletError> {
        let pay = format!("{}/pay", url.trim_end_matches('/'));
        let pay = parse_url(&pay, false).map_err(|_| WalletError::BadUrl)?;
        Ok(Self { pay, token })
    }

    /// Pays once; the same invoice asked again is the wallet's to recognise.
    pub(super) async fn pay(
        &self,
        purse: &Purse<'_>,
        invoice: &str,
        payment_hash: &[u8; 32],
    ) -> Result<[u8; 32], PayError> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.token {
            let value = format!("Bearer {}", token.expose());
            set_secret(&mut headers, header::AUTHORIZATION, &value)
                .map_err(|_| PayError::Refused)?;
        }
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
