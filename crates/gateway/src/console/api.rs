//! The admin API over the network: the same routes as on the admin socket, under `/api`, for
//! programs of the operator.
//!
//! INVARIANT: only an access token of the sign-in issuer opens it, for the API's own audience, of a
//! client that is listed; a token for a tool is for another audience.
//! INVARIANT: a program never answers a request: its roles that would let it are left out.

use super::Console;
use crate::{
    admin::{self, actor::Actor, denied::Denied},
    config,
    prove::identity::{IssuerConfig, bearer_of},
};
use axum::{
    Json, Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use countersign_core::refusal::Code;
use http::{HeaderMap, HeaderValue, header};
use std::sync::Arc;

/// The claim of an access token that a person signed in (RFC 9068 section 2.2.1).
const SIGNED_IN: &str = "auth_time";

/// Whose tokens programs come with; nobody's where no client is listed. What tells a person from
/// a program is the claim that the issuer is configured with, or else that a sign-in is spoken of.
pub(crate) fn issuer(
    config: &config::Console,
    issuers: &[Arc<config::Issuer>],
) -> Option<IssuerConfig> {
    if config.api_clients.is_empty() {
        return None;
    }
    let sign_in = &config.sign_in;
    let known = issuers.iter().find(|known| known.issuer == sign_in.issuer);
    let human_claim = known.and_then(|known| known.human_claim.as_deref()).unwrap_or(SIGNED_IN);
    Some(IssuerConfig {
        clients: config.api_clients.iter().map(ToString::to_string).collect(),
        tenant: sign_in.tenant.clone(),
        human_claim: Some(human_claim.to_owned()),
        roles_claim: Some(sign_in.roles_claim.to_string()),
        allow_private_network: sign_in.allow_private_network,
        ..IssuerConfig::new(&*sign_in.issuer)
    })
}

/// The routes, each behind a token.
pub(super) fn routes(console: &Arc<Console>) -> Router {
    admin::routes(console.gates.clone())
        .layer(middleware::from_fn_with_state(Arc::clone(console), identify))
        // A token that is refused is an answer too.
        .layer(middleware::from_fn(admin::authzen::echo))
}

/// Where AuthZEN's API is; public, as the specification wants it, and where it says.
pub(super) async fn metadata(
    State(console): State<Arc<Console>>,
) -> Result<Json<admin::authzen::Metadata>, Denied> {
    admin::authzen::metadata_of(&console.gate()).map(Json)
}

async fn identify(
    State(console): State<Arc<Console>>,
    mut request: Request,
    next: Next,
) -> Response {
    let headers = request.headers().clone();
    match actor(&console, &headers).await {
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(denied) => {
            // What else the request says is not read.
            let mut response = denied.into_response();
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    }
}

async fn actor(console: &Console, headers: &HeaderMap) -> Result<Actor, Denied> {
    let token = bearer_of(headers)?.ok_or(Code::SignInNeeded)?;
    let gate = console.gate();
    let verifier = gate.programs.as_ref().ok_or(Code::SignInNeeded)?;
    let token = verifier.verify(token, &console.config.api_audience()).await?;
    let principal = token.principal();
    let delegator = principal.delegator.as_ref().ok_or(Code::SignInNeeded)?;
    // Whoever acts for another is an agent.
    let is_alone = principal.chain.is_empty() && principal.agent == *token.client();
    if !is_alone {
        return Err(Code::SignInNeeded.into());
    }
    let who = (&*delegator.issuer, &*delegator.subject, &*delegator.subject);
    let (tenant, words) = (Arc::clone(&principal.tenant), principal.roles.clone());
    let actor = Actor::person(who, tenant, words, &console.config.sign_in.roles);
    Ok(if delegator.is_human { console.as_it_may(actor) } else { actor.without_answers() })
}
