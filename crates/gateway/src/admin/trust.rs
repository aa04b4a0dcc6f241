//! How far everybody is trusted, and what the rules did lately.

use super::{
    actor::Actor,
    ask::Sent,
    denied::Denied,
    form::{Items, RuleView, SetTier, TierView},
    page::{Listed, Order, Unfiltered},
};
use crate::{gate::Gate, prove::standing::Party};
use axum::{Extension, Json, extract::State};
use serde_json::Value;
use std::sync::Arc;

/// From how many refusals on, and from which part of all decisions, a rule refuses too often.
const TOO_OFTEN: u64 = 10;
const TOO_MANY_PERCENT: u64 = 10;

/// Tiers that people set, and falls that hold.
pub(super) async fn list(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Listed(Unfiltered {}, page): Listed<Unfiltered>,
) -> Result<Json<Items<TierView>>, Denied> {
    actor.may_here()?;
    let (set, fallen) = gate.standing.list(gate.world.now());
    let set = set.into_iter().filter_map(|(key, tier)| {
        let (party, name) = party_of(&key)?;
        let view = TierView { party, name, tier, because: None, until: None };
        Some((format!("{key}\u{1f}set"), view))
    });
    let fallen = fallen.into_iter().map(|(key, fallen)| {
        // Only agents fall, each for one behaviour at a time.
        let (_, name) = key.split_once(':').unwrap_or(("", &key));
        let (party, name) = (Party::Agent, name.to_owned());
        let because = Some(fallen.because.text().to_owned());
        let until = Some(fallen.until.rfc3339());
        let view = TierView { party, name, tier: fallen.tier, because, until };
        (format!("{key}\u{1f}fallen"), view)
    });
    Ok(Json(page.cut(Order::Rising, set.chain(fallen), |view| view)))
}

/// The party and the name behind a key of the standing.
fn party_of(key: &str) -> Option<(Party, String)> {
    let (party, name) = key.split_once(':')?;
    let party = serde_json::from_value(Value::from(party)).ok()?;
    Some((party, name.to_owned()))
}

/// A person's word on a tier. What was said is said back.
pub(super) async fn set(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Sent(word): Sent<SetTier>,
) -> Result<Json<SetTier>, Denied> {
    actor.may_here()?;
    if word.name.is_empty() || word.name.len() > 512 {
        return Err(Denied::invalid("name", "from 1 to 512 bytes"));
    }
    let (is_one, reason) = match word.party {
        Party::Agent => (word.name.contains('/'), "an agent is `tenant/agent`"),
        Party::Human => (word.name.contains('|'), "a person is `issuer|subject`"),
        Party::Server => (gate.server(&word.name).is_some(), "no such server is configured"),
    };
    if !is_one {
        return Err(Denied::invalid("name", reason));
    }
    let by = actor.text();
    let said = (&*gate.config.tenant, by.as_str());
    gate.standing.set(&gate.store, (word.party, &word.name), word.tier, said).await?;
    Ok(Json(word))
}

/// Rules that refused since the start, and how often.
pub(super) async fn report(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Listed(Unfiltered {}, page): Listed<Unfiltered>,
) -> Result<Json<Items<RuleView>>, Denied> {
    actor.may_here()?;
    let rules = gate.standing.refusals().into_iter();
    let (decisions, since) = gate.standing.decisions();
    let since = since.rfc3339();
    let keyed = rules.map(|(policy, refused)| {
        let percent = refused.saturating_mul(100).checked_div(decisions).unwrap_or(0);
        let too_often = refused >= TOO_OFTEN && percent >= TOO_MANY_PERCENT;
        let (key, since) = (policy.clone(), since.clone());
        (key, RuleView { policy, refused, decisions, percent, too_often, since })
    });
    Ok(Json(page.cut(Order::Rising, keyed, |view| view)))
}
