//! The four proofs and the permit that joins them.
//!
//! Each proof has private fields and no `Clone`, `Default` or `Deserialize`; each comes from
//! constructors here, which are pure functions of verified evidence and the operator's terms.
//! INVARIANT: [`Permit::join`] is the only way to a permit, and consumes all four proofs.

mod authorization;
mod consent;
mod held;
mod identity;
mod inquiry;
pub mod l402;
mod payment;
mod permit;
mod token;
mod work;
pub mod x402;

pub use authorization::Authorization;
pub use consent::Consent;
pub use held::{HeldPayment, hold_preimage};
pub use identity::{Delegator, Identity, Principal};
pub use inquiry::Inquiry;
pub use l402::{Mint, Minted, Use, VerifiedCredential, grant_digest, mint};
pub use payment::{FreeUse, Nonce, Payment, Settlement, credit_key};
pub use permit::Permit;
pub use token::{
    Algorithm, Expected, ExpectedId, Header, MAX_TOKEN_BYTES, Profile, SignIn, SignedIn,
    TenantRule, TokenError, TypRule, UnverifiedToken, VerifiedToken,
};
pub use work::VerifiedWork;
pub use x402::{Binding, Challenge as X402Challenge, PaidX402, X402Terms};
