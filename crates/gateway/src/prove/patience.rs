//! How many failed payments are borne: of a principal, and of an address, on every rail.
//!
//! A call that asks for payment and comes without, a credential that is spent, foreign or forged, a
//! payment that does not settle: each is counted, and given back once the caller has paid for a
//! call. Beyond the allowance nothing is minted, no facilitator is asked, and nothing is recorded
//! one by one.
//!
//! INVARIANT: a payment that is good where it is checked here is never refused for those that
//! failed before it.

use crate::{
    allowance::{Allowances, Caller},
    call::Attempt,
    config::Limits,
    gate::Gate,
    prove::{Evidence, Known},
};
use countersign_core::{
    proof::Principal,
    refusal::{Charged, Code, Family, Refusal},
};

/// What callers may leave unpaid.
#[derive(Debug)]
pub struct Patience {
    failures: Allowances,
    invoices: Allowances,
}

impl Patience {
    /// As configured.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            failures: Allowances::new(
                limits.failed_payments_per_principal_per_minute,
                limits.failed_payments_per_address_per_minute,
            ),
            invoices: Allowances::new(
                limits.invoices_per_principal_per_minute,
                limits.invoices_per_address_per_minute,
            ),
        }
    }
}

impl Gate {
    /// Counts a refusal that is a failed payment. One too many is answered as that, unless money
    /// moved or may have.
    pub(crate) fn borne(&self, caller: &Caller, refusal: Refusal) -> Refusal {
        if !is_failed_payment(refusal.code()) {
            return refusal;
        }
        match self.patience.failures.take(caller, self.world.now()) {
            Err(seconds) if refusal.is_charged() == Charged::No => {
                too_many(Code::FailuresTooMany, seconds).with("cause", refusal.code())
            }
            Ok(()) | Err(_) => refusal,
        }
    }

    /// The same of a call. Nobody asks for one whose money is held; one that was permitted is
    /// counted, but what became of it is what its caller must know.
    pub(crate) fn borne_call(&self, attempt: &Attempt, known: &Known, refusal: Refusal) -> Refusal {
        if attempt.evidence.held.is_some() {
            return refusal;
        }
        let caller = Caller::new(known.principal.as_ref(), attempt.evidence.peer);
        if known.is_permitted {
            let _answered = self.borne(&caller, refusal.clone());
            return refusal;
        }
        self.borne(&caller, refusal)
    }

    /// Whether a call that brings nothing to pay with may still ask what it costs.
    ///
    /// # Errors
    /// [`Code::FailuresTooMany`].
    pub(crate) fn may_ask(&self, attempt: &Attempt, principal: &Principal) -> Result<(), Refusal> {
        let Evidence { l402, held, x402, work, peer, .. } = &attempt.evidence;
        let brings = l402.is_some() || held.is_some() || x402.is_some() || work.is_some();
        let price = attempt.call.terms.price_for(&principal.tenant, &principal.agent);
        if brings || price.is_none_or(|price| price.is_free()) {
            return Ok(());
        }
        self.may_fail(&Caller::new(Some(principal), *peer))
    }

    /// Whether somebody else may be asked about a payment of this caller.
    ///
    /// # Errors
    /// [`Code::FailuresTooMany`].
    pub(crate) fn may_fail(&self, caller: &Caller) -> Result<(), Refusal> {
        let left = self.patience.failures.left(caller, self.world.now());
        left.map_err(|seconds| too_many(Code::FailuresTooMany, seconds))
    }

    /// Counts an invoice that is to be made.
    ///
    /// # Errors
    /// [`Code::InvoicesTooMany`].
    pub(crate) fn may_mint(&self, caller: &Caller) -> Result<(), Refusal> {
        let left = self.patience.invoices.take(caller, self.world.now());
        left.map_err(|seconds| too_many(Code::InvoicesTooMany, seconds))
    }

    /// A call was paid for: that it asked first was no failure.
    pub(crate) fn has_paid(&self, attempt: &Attempt, known: &Known) {
        if known.quote.as_ref().is_none_or(|quote| quote.is_free()) {
            return;
        }
        let caller = Caller::new(known.principal.as_ref(), attempt.evidence.peer);
        let now = self.world.now();
        self.patience.failures.give_back(&caller, now);
        self.patience.invoices.give_back(&caller, now);
    }
}

/// Whether a refusal of the rates: counted, like those of nobody in particular, since each one
/// written down would be what the flood is after.
#[must_use]
pub(crate) const fn is_counted(code: Code) -> bool {
    matches!(code, Code::FailuresTooMany | Code::InvoicesTooMany)
}

fn too_many(code: Code, seconds: u64) -> Refusal {
    Refusal::new(code).retry_after_s(seconds)
}

/// Whether a refusal says that the caller's payment is missing or no good. What is ours to mend,
/// and what is only not known yet, is no failure of its own.
fn is_failed_payment(code: Code) -> bool {
    let row = code.row();
    let is_payers = matches!(row.status, 400 | 401 | 402 | 409);
    (row.family == Family::Payment && is_payers)
        || matches!(code, Code::ResultWithheld | Code::IdempotencyConflict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_payments_are_the_payers() {
        let failed: Vec<&str> =
            Code::ALL.iter().filter(|code| is_failed_payment(**code)).map(|c| c.text()).collect();
        let all = "REQ-017 PAY-001 PAY-002 PAY-003 PAY-004 PAY-005 PAY-006 PAY-007 PAY-008 PAY-009 \
                   PAY-012 PAY-013 PAY-014 PAY-015 PAY-016 PAY-017 PAY-019 PAY-021 PAY-022 PAY-023 \
                   PAY-024 UPS-005";
        assert_eq!(failed.join(" "), all);
    }
}
