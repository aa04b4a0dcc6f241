//! What was asked, read strictly: JSON without duplicate keys, known members only, identifiers of
//! the right kind.

use super::denied::Denied;
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
};
use countersign_core::{
    refusal::{Code, Refusal},
    wire::json::{self, JsonError, Limits},
};
use http::{header, request::Parts};
use serde::de::DeserializeOwned;
use std::str::FromStr;

/// A JSON body.
#[derive(Debug)]
pub(super) struct Sent<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Sent<T> {
    type Rejection = Denied;

    async fn from_request(request: Request, state: &S) -> Result<Self, Denied> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
        if kind != Some("application/json") {
            return Err(Refusal::new(Code::UnsupportedMedia).into());
        }
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|_| Refusal::new(Code::TooLarge))?;
        json::check(&bytes, &Limits::REQUEST).map_err(|error| {
            Refusal::new(match error {
                JsonError::TooLarge => Code::TooLarge,
                JsonError::TooDeep => Code::TooDeep,
                JsonError::DuplicateKey => Code::DuplicateKey,
                JsonError::Syntax { .. } | JsonError::BadUtf8 | JsonError::BadNumber => {
                    Code::MalformedJson
                }
            })
        })?;
        let read = serde_json::from_slice(&bytes);
        read.map(Self).map_err(|error| Denied::invalid("", error.to_string()))
    }
}

/// A query.
#[derive(Debug)]
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Denied> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(error) => {
                let text = error.body_text();
                let reason = text.rsplit_once("string: ").map_or(&*text, |(_, reason)| reason);
                Err(Denied::invalid("", reason))
            }
        }
    }
}

/// The identifier in the path.
#[derive(Debug)]
pub(super) struct Named<T>(pub(super) T);

impl<S: Send + Sync, T: FromStr> FromRequestParts<S> for Named<T> {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Denied> {
        let malformed = || Denied::invalid("", "the identifier in the path is malformed");
        let Path(text) =
            Path::<String>::from_request_parts(parts, state).await.map_err(|_| malformed())?;
        text.parse().map(Self).map_err(|_| malformed())
    }
}
