//! Nor is the verified evidence that proofs are made of.

use countersign_core::{
    digest::Digest,
    money::Amount,
    proof::{PaidX402, Principal, VerifiedCredential, VerifiedToken, VerifiedWork},
    time::UnixMs,
};

fn token(token: VerifiedToken, principal: Principal) -> VerifiedToken {
    VerifiedToken { principal, ..token }
}

fn credential(credential: VerifiedCredential, price: Amount) -> VerifiedCredential {
    VerifiedCredential { price, uses: 1000, expires_at: UnixMs(u64::MAX), ..credential }
}

fn paid(paid: PaidX402, quote_digest: Digest) -> PaidX402 {
    PaidX402 { quote_digest, ..paid }
}

fn work(work: VerifiedWork, call: Digest) -> VerifiedWork {
    VerifiedWork { call, ..work }
}

fn main() {}
