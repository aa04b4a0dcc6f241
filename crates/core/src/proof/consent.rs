//! Proof two: a person agreed to this spend, for this purpose, within these limits.

use crate::{
    approval::{Approval, ApprovalStatus, Ask, AskKind, offers_digest},
    digest::Digest,
    grant::{Asked, Grant},
    ids::{ApprovalId, GrantId},
    money::Micros,
    quote::Quote,
    refusal::{Code, Refusal},
    terms::{ConsentRule, Terms},
    time::UnixMs,
};

use super::Identity;

/// Consent to one quote.
#[derive(Debug)]
pub struct Consent {
    grant: Option<(GrantId, u32)>,
    approval: Option<ApprovalId>,
    quote_digest: Digest,
    call_digest: Digest,
    cap: Option<Micros>,
}

impl Consent {
    /// A grant covers the quote. Sums over windows are checked again in the reservation.
    ///
    /// # Errors
    /// The first limit of the grant that the call would break, or [`Code::NoGrant`] when the
    /// grant is not about this principal and tool.
    pub fn by_grant(
        grant: &Grant,
        terms: &Terms,
        identity: &Identity,
        quote: &Quote,
        asked: &Asked<'_>,
        now: UnixMs,
    ) -> Result<Self, Refusal> {
        if !grant.concerns(identity.principal(), &terms.tool) {
            return Err(Code::NoGrant.into());
        }
        grant
            .covers(quote, asked, now)
            .map_err(|code| Refusal::new(code).with("grant", grant.id))?;
        Ok(Self {
            grant: Some((grant.id, grant.version)),
            approval: None,
            quote_digest: quote.digest(),
            call_digest: quote.call_digest(),
            cap: Some(grant.terms.per_call),
        })
    }

    /// People agreed to this very call, this once. That the approval is unused is checked again in
    /// the reservation.
    ///
    /// # Errors
    /// [`Code::NoGrant`] when they did not, or agreed to something else.
    pub fn by_approval(
        approval: &Approval,
        ask: &Ask,
        identity: &Identity,
        quote: &Quote,
        now: UnixMs,
    ) -> Result<Self, Refusal> {
        let seen = approval.at(now);
        let is_consent = seen.ask.kind == AskKind::Consent && seen.grant.is_none();
        let is_agreed = seen.status == ApprovalStatus::Approved && seen.answers(ask);
        let is_this = ask.call_digest == quote.call_digest() && ask.offers == offers_digest(quote);
        if !is_consent || !is_agreed || !is_this || !seen.is_of(identity.principal()) {
            return Err(Code::NoGrant.into());
        }
        Ok(Self {
            grant: None,
            approval: Some(approval.id),
            quote_digest: quote.digest(),
            call_digest: quote.call_digest(),
            cap: Some(ask.micros),
        })
    }

    /// The operator's terms say that no grant is needed.
    ///
    /// # Errors
    /// [`Code::NoGrant`] when they say that one is.
    pub fn not_required(terms: &Terms, quote: &Quote) -> Result<Self, Refusal> {
        match terms.consent {
            ConsentRule::NotRequired => Ok(Self {
                grant: None,
                approval: None,
                quote_digest: quote.digest(),
                call_digest: quote.call_digest(),
                cap: None,
            }),
            ConsentRule::Required => Err(Code::NoGrant.into()),
        }
    }

    /// The grant and its version, unless none was required.
    #[must_use]
    pub const fn grant(&self) -> Option<(GrantId, u32)> {
        self.grant
    }

    /// The approval of this very call, where that is the consent.
    #[must_use]
    pub const fn approval(&self) -> Option<ApprovalId> {
        self.approval
    }

    /// The quote it covers.
    #[must_use]
    pub const fn quote_digest(&self) -> Digest {
        self.quote_digest
    }

    /// The call it covers.
    #[must_use]
    pub const fn call_digest(&self) -> Digest {
        self.call_digest
    }

    /// The most it lets one call cost.
    #[must_use]
    pub const fn cap(&self) -> Option<Micros> {
        self.cap
    }
}
