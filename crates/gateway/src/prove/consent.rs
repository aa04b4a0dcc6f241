//! Proof two: finding the grant that covers a quote, or saying which one to ask for.

use crate::gate::Gate;
use countersign_core::{
    call::Call,
    proof::{Consent, Identity, Principal},
    quote::Quote,
    refusal::{Code, Refusal},
    terms::ConsentRule,
};

impl Gate {
    /// A grant that covers the quote, or the operator's word that none is needed.
    ///
    /// # Errors
    /// The limit that the nearest grant would break; [`Code::NoGrant`] with what to approve and
    /// where, when there is none.
    pub fn consent(
        &self,
        call: &Call,
        identity: &Identity,
        quote: &Quote,
    ) -> Result<Consent, Refusal> {
        if call.terms.consent == ConsentRule::NotRequired {
            return Consent::not_required(&call.terms, quote);
        }
        let now = self.world.now();
        let mut nearest = None;
        for grant in self.store.grants_for(identity.principal(), &call.terms.tool) {
            match Consent::by_grant(&grant, &call.terms, identity, quote, call.intent(), now) {
                Ok(consent) => return Ok(consent),
                Err(refusal) => nearest = Some(refusal),
            }
        }
        let refusal = nearest.unwrap_or_else(|| Code::NoGrant.into());
        Err(self.ask_for_grant(refusal, call, identity.principal(), quote))
    }

    /// Says what to approve and where.
    fn ask_for_grant(
        &self,
        refusal: Refusal,
        call: &Call,
        principal: &Principal,
        quote: &Quote,
    ) -> Refusal {
        let terms = &call.terms;
        let delegator = principal.delegator.as_ref();
        let (issuer, subject) = delegator.map_or(("", ""), |d| (&*d.issuer, &*d.subject));
        let command = format!(
            "countersign grant create --tenant {} --issuer {} --subject {} --agent {} --server {} \
             --tool {} --intent {} --per-call '{}' --expires 24h",
            principal.tenant,
            issuer,
            subject,
            principal.agent,
            terms.tool.server,
            terms.tool.tool,
            call.intent().text(),
            quote.micros(),
        );
        refusal
            .with("tool", &terms.tool)
            .with("agent", &principal.agent)
            .with("intent", call.intent().text())
            .with("price", self.price_text(quote))
            .with("approve_with", command)
    }
}
