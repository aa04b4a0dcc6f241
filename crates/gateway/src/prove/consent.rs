//! Proof two: finding the grant that covers a quote, or saying which one to ask for.

use super::{Known, ask::refuse_denied};
use crate::{call::Attempt, gate::Gate};
use countersign_core::{
    approval::{Approval, AskKind},
    call::Call,
    grant::Asked,
    person::{LinkKind, Person},
    proof::{Consent, Identity, Principal, grant_digest},
    quote::Quote,
    refusal::{Code, Refusal},
    terms::{ConsentRule, PayerRule},
};
use countersign_store::CallView;
use std::sync::Arc;

/// Of two grants that do not cover a call, why not by the one that is nearer to it: one that is
/// over says nothing about one that is there.
pub(super) fn nearer(known: Option<Refusal>, next: Refusal) -> Refusal {
    let distance = |refusal: &Refusal| {
        let code = refusal.code();
        if code == Code::GrantRevoked || code == Code::GrantExpired {
            2
        } else {
            u8::from(code == Code::GrantSuspended)
        }
    };
    known.filter(|known| distance(known) <= distance(&next)).unwrap_or(next)
}

impl Gate {
    /// A grant that covers the quote, people's yes to this very call, or the operator's word that
    /// neither is needed. A call that was begun may use what it holds already; nobody is asked
    /// about it again.
    ///
    /// # Errors
    /// The limit that the nearest grant would break, or [`Code::NoGrant`], with what to approve and
    /// where; [`Code::ApprovalDenied`]; [`Code::ConsentEvidence`].
    pub async fn consent(
        &self,
        attempt: &Attempt,
        identity: &Identity,
        quote: &Quote,
        begun: Option<&CallView>,
        known: &Known,
    ) -> Result<Consent, Refusal> {
        let call = &attempt.call;
        self.check_returned(attempt, identity, quote).await?;
        self.has_payer(call.terms.payer == PayerRule::Linked, identity, quote)?;
        if call.terms.consent == ConsentRule::NotRequired {
            return Consent::not_required(&call.terms, quote);
        }
        self.bring(call, identity, attempt.evidence.mandate.as_deref()).await?;
        let now = self.world.now();
        let mut nearest = None;
        let token = identity.reference().to_hex();
        let asked = Asked {
            intent: call.intent(),
            purpose: call.purpose.as_deref(),
            arguments: &call.arguments,
            session: attempt.evidence.session.as_deref().unwrap_or(&token),
        };
        // What was paid under one grant pays under no other: that one is tried first.
        let mut grants = self.store.grants_for(identity.principal(), &call.terms.tool);
        grants.sort_by_key(|grant| known.tied.is_some_and(|tied| tied != grant_digest(grant.id)));
        for grant in grants {
            let own = begun.filter(|begun| begun.grant == Some(grant.id));
            let grant = match own {
                Some(own) => Arc::new(grant.without(own.micros)),
                None => grant,
            };
            let consent = Consent::by_grant(&grant, &call.terms, identity, quote, &asked, now);
            let wants_link = grant.terms.bounds.wants_link();
            match consent.and_then(|c| self.has_payer(wants_link, identity, quote).map(|()| c)) {
                Ok(consent) => return Ok(consent),
                Err(refusal) => nearest = Some(nearer(nearest, refusal)),
            }
        }
        let refusal = nearest.unwrap_or_else(|| Code::NoGrant.into());
        let refusal = self.ask_for_grant(refusal, call, identity.principal(), quote);
        Box::pin(self.agreed_or_asked(refusal, attempt, identity, quote, (begun, known))).await
    }

    /// Nobody is asked for money that no wallet of theirs may pay.
    fn has_payer(
        &self,
        wants_link: bool,
        identity: &Identity,
        quote: &Quote,
    ) -> Result<(), Refusal> {
        let person = Person::of(identity.principal());
        let has_wallet =
            || person.is_some_and(|p| !self.store.links_of(LinkKind::Wallet, &p).is_empty());
        if !wants_link || quote.is_free() || has_wallet() {
            return Ok(());
        }
        Err(Code::PayerNotLinked.into())
    }

    /// People's yes to this very call; they are asked for it, unless the call is doomed anyway.
    async fn agreed_or_asked(
        &self,
        refusal: Refusal,
        attempt: &Attempt,
        identity: &Identity,
        quote: &Quote,
        (begun, known): (Option<&CallView>, &Known),
    ) -> Result<Consent, Refusal> {
        // Nobody in particular cannot be asked for.
        if identity.is_anonymous() {
            return Err(refusal);
        }
        let (call, principal, now) = (&attempt.call, identity.principal(), self.world.now());
        let approvals = self.approvals(identity, quote, begun, now);
        refuse_denied(&approvals)?;
        let reason = refusal.code().text().to_owned();
        let wanted = self.would_want(attempt, identity, quote, reason, begun, known).await;
        let Ok(wanted) = wanted else { return Err(refusal) };
        let ask = self.ask(AskKind::Consent, call, principal, quote, &wanted);
        let agreed = |a: &Approval| Consent::by_approval(a, &ask, identity, quote, now).ok();
        if let Some(consent) = approvals.iter().find_map(agreed) {
            return Ok(consent);
        }
        if begun.is_some() {
            return Err(refusal);
        }
        match self.open_approval(call, principal, ask, wanted).await {
            Ok(approval) => Err(self.pending(refusal, &approval)),
            Err(full) if full.code() == Code::RateLimited => Err(full
                .facts()
                .iter()
                .fold(refusal, |refusal, fact| refusal.with(fact.name, &fact.value))),
            Err(fault) => Err(fault),
        }
    }

    /// Says what to approve and where.
    pub(super) fn ask_for_grant(
        &self,
        refusal: Refusal,
        call: &Call,
        principal: &Principal,
        quote: &Quote,
    ) -> Refusal {
        let terms = &call.terms;
        let delegator = principal.delegator.as_ref();
        let (issuer, subject) = delegator.map_or(("", ""), |d| (&*d.issuer, &*d.subject));
        let words = [
            ("--tenant", &*principal.tenant),
            ("--issuer", issuer),
            ("--subject", subject),
            ("--agent", &*principal.agent),
            ("--server", &*terms.tool.server),
            ("--tool", &*terms.tool.tool),
            ("--intent", call.intent().text()),
        ];
        let words: String =
            words.iter().map(|(flag, value)| format!(" {flag} {}", shell_word(value))).collect();
        let command = format!(
            "countersign grant create{words} --per-call {} --expires 24h",
            shell_word(&quote.micros().to_string()),
        );
        refusal
            .with("tool", &terms.tool)
            .with("agent", &principal.agent)
            .with("intent", call.intent().text())
            .with("price", self.price_text(quote))
            .with("approve_with", command)
    }
}

/// A value as one word of a shell: names come from tokens, and people paste the command.
fn shell_word(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    let printable: String = value.chars().filter(|c| !c.is_control()).collect();
    if !printable.is_empty() && printable.chars().all(is_plain) {
        return printable;
    }
    format!("'{}'", printable.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::shell_word;

    #[test]
    fn a_name_from_a_token_stays_one_word() {
        assert_eq!(shell_word("travel-agent"), "travel-agent");
        assert_eq!(shell_word("x'; rm -rf ~ #"), r"'x'\''; rm -rf ~ #'");
        assert_eq!(shell_word("$(id)\n"), "'$(id)'");
        assert_eq!(shell_word(""), "''");
    }
}
