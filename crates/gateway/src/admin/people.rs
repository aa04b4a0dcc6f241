//! What is linked to people: the keys that they sign with, the wallets that they pay from.

use super::{
    actor::{Actor, Need},
    ask::{Named, Sent},
    denied::Denied,
    form::{Items, KeyRequest, LinkView, WalletAsk, WalletMessage, WalletProof},
    page::{Listed, Order, Page},
};
use crate::{
    gate::Gate,
    prove::{
        jws::PublicKey,
        siwx::{NotLinked, Wallet},
    },
};
use axum::{Extension, Json, extract::State, http::StatusCode};
use countersign_core::{
    person::{Link, LinkKind, Person},
    time::UnixMs,
    wire::eip712::Address,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{str::FromStr, sync::Arc};

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 512;

/// Whose.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Of this issuer's people.
    issuer: Option<String>,
    /// Of this person.
    subject: Option<String>,
}

/// A key's thumbprint (RFC 7638).
#[derive(Debug, JsonSchema)]
pub(super) struct Thumbprint(#[schemars(regex(pattern = "^[A-Za-z0-9_-]{43}$"))] String);

impl FromStr for Thumbprint {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let is_good = text.len() == 43 && text.bytes().all(good);
        is_good.then(|| Self(text.to_owned())).ok_or(())
    }
}

/// A wallet's address.
#[derive(Debug, JsonSchema)]
pub(super) struct WalletAddress(#[schemars(regex(pattern = "^0x[0-9a-fA-F]{40}$"))] String);

impl FromStr for WalletAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix("0x").ok_or(())?;
        let is_good = digits.len() == 40 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        is_good.then(|| Self(text.to_owned())).ok_or(())
    }
}

/// Lists keys.
pub(super) async fn keys(
    gate: State<Arc<Gate>>,
    actor: Extension<Actor>,
    Listed(filter, page): Listed<Filter>,
) -> Json<Items<LinkView>> {
    list(&gate, &actor, &filter, LinkKind::Key, &page)
}

/// Lists wallets.
pub(super) async fn wallets(
    gate: State<Arc<Gate>>,
    actor: Extension<Actor>,
    Listed(filter, page): Listed<Filter>,
) -> Json<Items<LinkView>> {
    list(&gate, &actor, &filter, LinkKind::Wallet, &page)
}

fn list(
    gate: &Gate,
    actor: &Actor,
    filter: &Filter,
    kind: LinkKind,
    page: &Page,
) -> Json<Items<LinkView>> {
    let fits = |link: &Arc<Link>| {
        let person = &link.person;
        may_see(actor, person)
            && filter.issuer.as_deref().is_none_or(|issuer| issuer == &*person.issuer)
            && filter.subject.as_deref().is_none_or(|subject| subject == &*person.subject)
    };
    let all = gate.store.links(kind).into_iter().filter(fits);
    let keyed = all.map(|link| (link.id.to_string(), link));
    Json(page.cut(Order::Rising, keyed, |link| LinkView::of(&link)))
}

/// Registers a key that a person signs with.
pub(super) async fn add_key(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Sent(request): Sent<KeyRequest>,
) -> Result<(StatusCode, Json<LinkView>), Denied> {
    // Whoever says whose key it is could sign for them.
    actor.may(Need::Administer)?;
    let named = (request.tenant, Some(request.issuer), Some(request.subject));
    let person = person(&gate, &actor, named)?;
    let wrong = || Denied::invalid("jwk", "expected a public Ed25519 or P-256 key as a JWK");
    let key = PublicKey::of(request.jwk).ok_or_else(wrong)?;
    let link = Link {
        kind: LinkKind::Key,
        id: key.thumbprint().into(),
        person,
        name: name(request.name)?,
        public: key.jwk().into(),
        challenge: None,
        by: actor.text(),
        at: UnixMs(0),
        ended_at: None,
    };
    let link = gate.store.link_add(link).await?;
    Ok((StatusCode::CREATED, Json(LinkView::of(&link))))
}

/// Ends a key: it signs nothing from now on, and what rests on it is suspended.
pub(super) async fn revoke_key(
    gate: State<Arc<Gate>>,
    actor: Extension<Actor>,
    Named(Thumbprint(id)): Named<Thumbprint>,
) -> Result<Json<LinkView>, Denied> {
    end(&gate, &actor, &id, LinkKind::Key).await.map(Json)
}

/// Ends the link of a wallet.
pub(super) async fn unlink_wallet(
    gate: State<Arc<Gate>>,
    actor: Extension<Actor>,
    Named(WalletAddress(id)): Named<WalletAddress>,
) -> Result<Json<LinkView>, Denied> {
    end(&gate, &actor, &id.to_ascii_lowercase(), LinkKind::Wallet).await.map(Json)
}

/// The message that a wallet signs to be linked.
pub(super) async fn ask_wallet(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Sent(ask): Sent<WalletAsk>,
) -> Result<Json<WalletMessage>, Denied> {
    let person = person(&gate, &actor, (ask.tenant, ask.issuer, ask.subject))?;
    let wallet = wallet(&gate, &ask.address, ask.chain_id)?;
    Ok(Json(WalletMessage { message: gate.wallet_message(&person, wallet) }))
}

/// Links a wallet by its signature.
pub(super) async fn link_wallet(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Sent(proof): Sent<WalletProof>,
) -> Result<(StatusCode, Json<LinkView>), Denied> {
    let person =
        person(&gate, &actor, (proof.tenant.clone(), proof.issuer.clone(), proof.subject.clone()))?;
    let link = link(&gate, &actor, person, proof).await?;
    Ok((StatusCode::CREATED, Json(LinkView::of(&link))))
}

/// Links the wallet that signed to a person of whom the actor may say so.
pub(crate) async fn link(
    gate: &Gate,
    actor: &Actor,
    person: Person,
    proof: WalletProof,
) -> Result<Arc<Link>, Denied> {
    let refused = |error: NotLinked| {
        let (member, reason) = error.text();
        Denied::invalid(member, reason)
    };
    let (wallet, challenge) =
        gate.wallet_of(&person, &proof.message, &proof.signature).map_err(refused)?;
    let link = Link {
        kind: LinkKind::Wallet,
        id: wallet.address.to_string().to_ascii_lowercase().into(),
        person,
        name: name(proof.name)?,
        public: wallet.address.to_string().into(),
        challenge: Some(challenge),
        by: actor.text(),
        at: UnixMs(0),
        ended_at: None,
    };
    Ok(gate.store.link_add(link).await?)
}

pub(crate) async fn end(
    gate: &Gate,
    actor: &Actor,
    id: &str,
    kind: LinkKind,
) -> Result<LinkView, Denied> {
    let found = gate.store.link(kind, id).filter(|link| may_see(actor, &link.person));
    let found = found.ok_or(Denied::not_found(kind.text()))?;
    if !actor.is_person(&found.person) {
        actor.may(Need::Administer)?;
    }
    Ok(LinkView::of(&*gate.store.link_end(kind, id, &actor.text()).await?))
}

fn may_see(actor: &Actor, person: &Person) -> bool {
    actor.is_person(person) || (actor.can(Need::See) && actor.sees(&person.tenant))
}

/// Whom a request is about: the actor themself, or whom they name and may speak for.
fn person(
    gate: &Gate,
    actor: &Actor,
    (tenant, issuer, subject): (Option<String>, Option<String>, Option<String>),
) -> Result<Person, Denied> {
    let (Some(issuer), Some(subject)) = (issuer, subject) else {
        let themself = actor.as_person().filter(|_| tenant.is_none());
        return themself.ok_or_else(|| Denied::invalid("subject", "say whose: issuer and subject"));
    };
    let own = actor.tenant().unwrap_or(&gate.config.tenant).to_owned();
    let tenant = tenant.unwrap_or(own);
    for (member, text) in [("tenant", &tenant), ("issuer", &issuer), ("subject", &subject)] {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(Denied::invalid(member, "expected 1 to 512 bytes"));
        }
    }
    let person = Person { tenant: tenant.into(), issuer: issuer.into(), subject: subject.into() };
    if !actor.is_person(&person) {
        actor.may(Need::Administer)?;
        if !actor.sees(&person.tenant) {
            return Err(Denied::not_found("tenant"));
        }
    }
    Ok(person)
}

/// A wallet on a chain that is paid on.
pub(crate) fn wallet(gate: &Gate, address: &str, chain_id: Option<u64>) -> Result<Wallet, Denied> {
    let address = Address::from_hex(address)
        .map_err(|_| Denied::invalid("address", "expected 20 bytes in hex"))?;
    let rail = gate.config.rails.x402.as_ref();
    let mut chains = rail.into_iter().flat_map(|rail| rail.tokens.values().map(|t| t.chain_id));
    let chain_id = match chain_id {
        Some(wanted) => chains.find(|chain| *chain == wanted),
        None => chains.next(),
    };
    let chain_id = chain_id.ok_or_else(|| Denied::invalid("chain_id", "nobody pays there"))?;
    Ok(Wallet { address, chain_id })
}

fn name(name: String) -> Result<String, Denied> {
    let fits = name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
    if fits { Ok(name) } else { Err(Denied::invalid("name", "at most 512 bytes on one line")) }
}
