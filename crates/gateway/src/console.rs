//! The console: the pages on which people approve, watch, stop and understand.
//!
//! Owns its listener, sign-in, sessions and pages. What may be done and who may do it is the admin
//! API's ([`crate::admin`]); a page and a route of the API call the same functions.
//!
//! INVARIANT: off unless configured; a listener of its own, on an origin that agents do not use.
//! INVARIANT: no page runs a script or takes a style but from this binary, and none can be framed.
//! INVARIANT: looking changes nothing; a change is a POST that carries the session's form key.

mod about;
pub(crate) mod api;
mod assets;
mod events;
mod grants;
mod inbox;
mod live;
mod log;
mod me;
mod page;
mod policy;
mod session;
mod settlements;
mod sign_in;
mod spend;
mod visitor;

use crate::{
    admin::{self, actor::Actor},
    config::{self, Role},
    gate::Gate,
    prove::identity::{Endpoints, Provider, SignInProblem},
    reload::Gates,
};
use anyhow::{Context as _, Result};
use aws_lc_rs::hmac;
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use countersign_core::{
    refusal::{Code, Refusal},
    time::UnixMs,
};
use http::{HeaderName, HeaderValue, header};
use page::Failed;
use session::{Session, Sessions};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};

/// The session's cookie.
const COOKIE: &str = "__Host-countersign-session";
/// Connections at a time.
const CONNECTIONS_MAX: usize = 512;
/// Live views at a time.
const STREAMS_MAX: usize = 128;
/// Codes that are exchanged at a time.
const EXCHANGES_MAX: usize = 8;
/// Checks of the whole log at a time.
const CHECKS_MAX: usize = 1;
/// The largest form.
const FORM_BYTES_MAX: usize = 64 << 10;
/// How long the issuer's endpoints are remembered, in milliseconds.
const ENDPOINTS_MS: u64 = 300_000;

/// Everything that pages need.
struct Console {
    gates: Gates,
    config: config::Console,
    provider: Provider,
    sessions: Sessions,
    /// Derives what belongs to one sign-in; new with each process.
    key: hmac::Key,
    endpoints: Mutex<Option<(UnixMs, Endpoints)>>,
    exchanges: Semaphore,
    streams: Arc<Semaphore>,
    checks: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Console {
    /// The gate as it is now.
    fn gate(&self) -> Arc<Gate> {
        self.gates.now()
    }

    /// The session of a cookie's secret. That of a person whose answers were withdrawn since is
    /// over: the issuer is asked again who they are.
    fn session_of(&self, secret: &str) -> Option<Arc<Session>> {
        let session = self.sessions.of(secret)?;
        let withdrawn = self.gate().store.approver_withdrawn_at(&session.actor.approver());
        withdrawn.is_none_or(|at| at < session.began_at).then_some(session)
    }

    /// An actor with what they may do today: who was withdrawn answers nothing.
    fn as_it_may(&self, actor: Actor) -> Actor {
        let is_withdrawn = self.gate().store.approver_withdrawn_at(&actor.approver()).is_some();
        if is_withdrawn { actor.without_answers() } else { actor }
    }

    fn redirect_uri(&self) -> String {
        format!("{}/sign-in/callback", self.config.public_url)
    }

    /// Where the issuer signs people in; asked for at most once in a while.
    async fn endpoints(&self) -> Result<Endpoints, SignInProblem> {
        let now = self.gate().world.now();
        let known = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((since, endpoints)) = known
            && now.since_ms(since) < ENDPOINTS_MS
        {
            return Ok(endpoints);
        }
        let found = self.provider.endpoints().await?;
        let mut known = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((now, found.clone()));
        Ok(found)
    }
}

/// Serves until `stop`, where a console is configured; else waits for `stop`.
///
/// # Errors
/// The listener cannot be opened, or the sign-in issuer cannot be used.
pub(crate) async fn serve(gates: Gates, mut stop: watch::Receiver<bool>) -> Result<()> {
    let (config, world) = {
        let gate = gates.now();
        (gate.config.console.clone(), gate.world.clone())
    };
    let Some(config) = config else {
        let _stopped = stop.wait_for(|stop| *stop).await.map(drop);
        return Ok(());
    };
    let address = config.listen;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for the console"))?;
    let provider = Provider::new(config.sign_in.clone(), world.clone())?;
    let console = Arc::new(Console {
        sessions: Sessions::new(world.clone(), config.session_ms),
        key: hmac::Key::new(hmac::HMAC_SHA256, &world.random::<32>()),
        endpoints: Mutex::default(),
        exchanges: Semaphore::new(EXCHANGES_MAX),
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        checks: Arc::new(Semaphore::new(CHECKS_MAX)),
        stop: stop.clone(),
        gates,
        config,
        provider,
    });
    admin::answer(listener, routes(console), CONNECTIONS_MAX, stop).await;
    Ok(())
}

fn routes(console: Arc<Console>) -> Router {
    let programs = api::routes(&console);
    Router::new()
        .nest_service("/api", programs)
        .route("/.well-known/authzen-configuration/api", get(api::metadata))
        .route("/", get(inbox::list))
        .route("/inbox/rows", get(inbox::rows))
        .route("/approvals/{id}", get(inbox::show))
        .route("/approvals/{id}/approve", post(inbox::approve))
        .route("/approvals/{id}/deny", post(inbox::deny))
        .route("/live", get(live::list))
        .route("/live/rows", get(live::rows))
        .route("/live/{id}", get(live::show))
        .route("/live/{id}/proof", get(live::proof))
        .route("/grants", get(grants::list))
        .route("/grants/{id}/{verb}", post(grants::change))
        .route("/me", get(me::show))
        .route("/me/wallets", post(me::link))
        .route("/me/wallets/ask", post(me::ask))
        .route("/me/{kind}/{id}/end", post(me::end))
        .route("/settlements", get(settlements::list))
        .route("/settlements/{id}/{verb}", post(settlements::settle))
        .route("/spend", get(spend::show))
        .route("/log", get(log::show))
        .route("/log/verify", post(log::verify))
        .route("/policy", get(policy::show))
        .route("/tools", get(about::tools))
        .route("/connect", get(about::connect))
        .route("/events", get(events::stream))
        .route("/sign-in", get(sign_in::start))
        .route("/sign-in/callback", get(sign_in::finish))
        .route("/sign-out", post(page::sign_out))
        .route("/signed-out", get(page::signed_out))
        .route("/assets/{name}", get(assets::serve))
        .route("/healthz", get(async || "ok\n"))
        .fallback(async || Failed::from(Refusal::new(Code::AdminNotFound).with("what", "page")))
        .method_not_allowed_fallback(async || Failed::from(Refusal::new(Code::MethodNotAllowed)))
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .layer(middleware::from_fn(fortify))
        .with_state(console)
}

/// What every answer tells the browser to keep to.
async fn fortify(request: Request, next: Next) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
        connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    const HEADERS: [(&str, &str); 7] = [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=()"),
    ];
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// Roles as they are shown.
fn role_words(roles: &[Role]) -> String {
    match roles {
        [] => "no role".to_owned(),
        roles => roles.iter().map(|role| role.text()).collect::<Vec<_>>().join(", "),
    }
}
