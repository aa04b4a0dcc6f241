//! What was asked, read strictly: JSON without duplicate keys, known members only, identifiers of
//! the right kind.

use super::{denied::Denied, object, policies::BODY_BYTES_MAX};
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
};
use countersign_core::{
    refusal::{Code, Refusal},
    wire::json::{self, JsonError, Limits},
};
use http::{Uri, header, request::Parts};
use serde::de::DeserializeOwned;
use std::str::FromStr;

/// A JSON body.
#[derive(Debug)]
pub(super) struct Sent<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Sent<T> {
    type Rejection = Denied;

    async fn from_request(request: Request, state: &S) -> Result<Self, Denied> {
        let bytes = checked(request, state, &Limits::REQUEST).await?;
        let read = object::read(&bytes);
        read.map(Self).map_err(|error| Denied::invalid("", error.to_string()))
    }
}

/// A JSON body with files in it.
#[derive(Debug)]
pub(super) struct SentFiles<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for SentFiles<T> {
    type Rejection = Denied;

    async fn from_request(request: Request, state: &S) -> Result<Self, Denied> {
        let limits = Limits { max_bytes: BODY_BYTES_MAX, ..Limits::REQUEST };
        let bytes = checked(request, state, &limits).await?;
        let read = object::read(&bytes);
        read.map(Self).map_err(|error| Denied::invalid("", error.to_string()))
    }
}

/// A body that is JSON within limits.
async fn checked<S: Send + Sync>(
    request: Request,
    state: &S,
    limits: &Limits,
) -> Result<Bytes, Denied> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    if kind != Some("application/json") {
        return Err(Refusal::new(Code::UnsupportedMedia).into());
    }
    body(request, state, limits).await
}

/// A body that is JSON within limits, whatever its type.
pub(super) async fn body<S: Send + Sync>(
    request: Request,
    state: &S,
    limits: &Limits,
) -> Result<Bytes, Denied> {
    let bytes = Bytes::from_request(request, state).await;
    let bytes = bytes.map_err(|_| Refusal::new(Code::TooLarge))?;
    json::check(&bytes, limits).map_err(|error| {
        Refusal::new(match error {
            JsonError::TooLarge => Code::TooLarge,
            JsonError::TooDeep => Code::TooDeep,
            JsonError::DuplicateKey => Code::DuplicateKey,
            JsonError::Syntax { .. } | JsonError::BadUtf8 | JsonError::BadNumber => {
                Code::MalformedJson
            }
        })
    })?;
    Ok(bytes)
}

/// A query.
#[derive(Debug)]
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Denied> {
        strict_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// A query's members: known ones, each once.
pub(super) fn strict_query<T: DeserializeOwned>(query: &str) -> Result<T, Denied> {
    let uri = Uri::builder().path_and_query(format!("/?{query}")).build();
    let uri = uri.map_err(|_| Denied::invalid("", "the query is malformed"))?;
    match Query::<T>::try_from_uri(&uri) {
        Ok(Query(asked)) => Ok(asked),
        Err(error) => {
            let text = error.body_text();
            let reason = text.rsplit_once("string: ").map_or(&*text, |(_, reason)| reason);
            Err(Denied::invalid("", reason))
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
