//! Consent that comes along with a call: evidence becomes a grant's row, once.
//!
//! INVARIANT: the row is authoritative. Evidence makes it once, and never again: what was revoked
//! stays revoked, and what is used stays used, however often the evidence comes.
//! INVARIANT: a row is never wider than the evidence, nor than the operator lets its source say;
//! whatever in the evidence is not understood refuses the call.

use crate::{config::TokenConsent, gate::Gate};
use countersign_core::{
    approval::Approver,
    call::Call,
    digest::Digest,
    grant::{Bounds, Brought, GrantTerms, Source, WindowLimit},
    ids::GrantId,
    money::Asset,
    proof::{Delegator, Identity},
    refusal::{Code, Refusal},
    time::UnixMs,
    wire::rar::{SpendDetail, TYPE},
};
use countersign_store::NewGrant;
use std::sync::Arc;

/// Why evidence is not acceptable.
pub(crate) fn unacceptable(rule: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::ConsentEvidence).with("rule", rule)
}

impl Gate {
    /// Turns the consent that came along with a call into grants.
    ///
    /// # Errors
    /// [`Code::ConsentEvidence`] for what is not understood or goes too far; what keeps a grant
    /// from being stored.
    pub(super) async fn bring(
        &self,
        call: &Call,
        identity: &Identity,
        mandate: Option<&str>,
    ) -> Result<(), Refusal> {
        if identity.details().is_some() {
            Box::pin(self.bring_details(call, identity)).await?;
        }
        match mandate {
            Some(mandate) => Box::pin(self.bring_mandate(mandate, call, identity)).await,
            None => Ok(()),
        }
    }

    /// Consent in the access token (RFC 9396), where its issuer is trusted for that.
    async fn bring_details(&self, call: &Call, identity: &Identity) -> Result<(), Refusal> {
        let (Some(details), Some(delegator)) =
            (identity.details(), &identity.principal().delegator)
        else {
            return Ok(());
        };
        let issuer = self.config.issuers.iter().find(|i| i.issuer == delegator.issuer);
        let Some(most) = issuer.and_then(|issuer| issuer.consent) else { return Ok(()) };
        let details = details.as_ref().map_err(unacceptable)?;
        if !delegator.is_human {
            return Err(unacceptable("the token is a program's own: nobody consented"));
        }
        self.may_consent(&delegator.issuer, &delegator.subject)?;
        for detail in details.iter().filter(|d| d.location() == &*call.terms.resource) {
            self.bring_detail(detail, most, call, identity, delegator).await?;
        }
        Ok(())
    }

    /// Whoever may no longer answer requests consents by no evidence either.
    pub(super) fn may_consent(&self, issuer: &str, subject: &str) -> Result<(), Refusal> {
        let who = Approver::person(issuer, subject, Vec::new());
        match self.store.approver_withdrawn_at(&who) {
            Some(_) => Err(unacceptable("the person was withdrawn: their consent counts no more")),
            None => Ok(()),
        }
    }

    async fn bring_detail(
        &self,
        detail: &SpendDetail,
        most: TokenConsent,
        call: &Call,
        identity: &Identity,
        delegator: &Delegator,
    ) -> Result<(), Refusal> {
        let brought = Brought {
            source: Source::Rar,
            key: named(detail, identity),
            content: detail.content,
            signer: None,
        };
        let now = self.world.now();
        let ends = [identity.expires_at(), Some(detail.expires_at())];
        let longest = now.plus_ms(GrantTerms::LONGEST_MS);
        let expires_at = ends.into_iter().flatten().fold(longest, UnixMs::min);
        if let Some(known) = self.store.grant_of_evidence(brought.key) {
            let is_same = known.brought.as_ref().is_some_and(|b| b.content == brought.content);
            if is_same && expires_at <= known.terms.expires_at {
                return Ok(());
            }
        }
        if expires_at <= now {
            return Err(unacceptable("`exp` of an authorization detail has passed"));
        }
        let mut terms = self.detail_terms(detail, most, call)?;
        let principal = identity.principal();
        terms.tenant = Arc::clone(&principal.tenant);
        terms.issuer = Arc::clone(&delegator.issuer);
        terms.subject = Arc::clone(&delegator.subject);
        terms.agent = Arc::clone(&principal.agent);
        (terms.not_before, terms.expires_at) = (now, expires_at);
        let id = GrantId::new(now, self.world.random());
        let approved_by = format!("{}|{}", delegator.issuer, delegator.subject);
        let new = NewGrant { id, terms, approved_by, brought: Some(brought), agreed: None };
        self.store.grant_bring(new).await.map(drop)
    }

    /// What a detail lets this gateway spend; for nobody and no time yet.
    fn detail_terms(
        &self,
        detail: &SpendDetail,
        most: TokenConsent,
        call: &Call,
    ) -> Result<GrantTerms, Refusal> {
        let (spend, server) = (&detail.spend, &call.terms.tool.server);
        let known = self.server(server).ok_or(Code::InternalFault)?;
        if !detail.tools.iter().all(|tool| known.terms(tool).is_some()) {
            return Err(unacceptable("an authorization detail names a tool that is not offered"));
        }
        let asset = self.asset(&spend.asset, spend.decimals)?;
        // As prices are counted, so that a limit covers a price of the same amount.
        let limit = |minor| {
            let micros = asset.rate.micros_of(minor);
            micros.ok_or_else(|| unacceptable("an amount is too large to be counted"))
        };
        let window = |rolling: &countersign_core::wire::rar::Rolling| {
            let length_ms = rolling.length_ms().ok_or(Code::InternalFault)?;
            Ok(WindowLimit { length_ms, limit: limit(rolling.max)? })
        };
        let windows = spend.budgets.iter().map(window).collect::<Result<_, Refusal>>();
        let payees = detail.payees.iter().map(|payee| self.payee(payee)).collect::<Result<_, _>>();
        Ok(GrantTerms {
            tenant: "".into(),
            issuer: "".into(),
            subject: "".into(),
            agent: "".into(),
            server: Arc::clone(server),
            tools: detail.tools.clone(),
            intents: detail.intents.clone(),
            per_call: limit(spend.per_call_max)?.min(most.per_call),
            windows: windows?,
            total: Some(limit(spend.total_max)?.min(most.total)),
            max_calls: spend.max_calls,
            purpose: detail.purpose.clone(),
            not_before: UnixMs(0),
            expires_at: UnixMs(0),
            bounds: Bounds { payees: payees?, ..Bounds::default() },
        })
    }

    /// The configured asset of a CAIP-19 name, if both sides mean the same minor unit.
    fn asset(&self, caip: &str, decimals: u8) -> Result<&Asset, Refusal> {
        let asset = self.config.assets.iter().find(|asset| asset.caip.eq_ignore_ascii_case(caip));
        let asset = asset.ok_or_else(|| unacceptable("the asset is not configured here"))?;
        if asset.decimals != decimals {
            return Err(unacceptable("`decimals` are not those of the asset")
                .with("decimals", asset.decimals));
        }
        Ok(asset)
    }

    /// The address of a CAIP-10 account on a network that is paid on.
    fn payee(&self, account: &str) -> Result<String, Refusal> {
        let tokens = self.config.rails.x402.iter().flat_map(|rail| rail.tokens.values());
        let on = |network: &str| account.strip_prefix(network)?.strip_prefix(':');
        let address = tokens.into_iter().find_map(|token| on(&token.network));
        let address = address
            .filter(|address| countersign_core::wire::eip712::Address::from_hex(address).is_ok());
        let address = address.map(str::to_owned);
        address.ok_or_else(|| unacceptable("a payee is no account on a network that is paid on"))
    }
}

/// The name of a consent within a token: whose it is, for which agent and server, and what its
/// issuer calls it. Not the token's own name: a refreshed token carries the same consent.
fn named(detail: &SpendDetail, identity: &Identity) -> Digest {
    let principal = identity.key();
    Digest::of_parts(&[
        TYPE.as_bytes(),
        principal.as_bytes(),
        detail.location().as_bytes(),
        detail.identifier.as_bytes(),
    ])
}
