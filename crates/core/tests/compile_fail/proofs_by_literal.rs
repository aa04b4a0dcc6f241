//! A proof is not built by hand.

use countersign_core::{
    digest::Digest,
    ids::DecisionId,
    proof::{Authorization, Consent, Identity, Payment, Principal},
    time::UnixMs,
};

fn identity(principal: Principal, reference: Digest) -> Identity {
    Identity { principal, reference, expires_at: None }
}

fn consent(digest: Digest) -> Consent {
    Consent { grant: None, quote_digest: digest, call_digest: digest, cap: None }
}

fn payment(digest: Digest, payment: Payment) -> Payment {
    Payment { quote_digest: digest, call_digest: digest, ..payment }
}

fn authorization(decision: DecisionId, digest: Digest) -> Authorization {
    Authorization {
        decision,
        call_digest: digest,
        bundle: digest,
        reasons: Vec::new(),
        obligations: Vec::new(),
        approvals: Vec::new(),
        at: UnixMs(0),
    }
}

fn main() {}
