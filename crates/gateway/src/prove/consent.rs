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
        let refusal = match &self.config.approve_url {
            Some(url) => refusal.next(&**url, None),
            None => refusal,
        };
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
