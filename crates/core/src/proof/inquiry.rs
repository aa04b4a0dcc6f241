//! Leave to ask a server what a call costs.

use super::Identity;
use crate::{
    refusal::{Code, Refusal},
    terms::Terms,
};

/// Leave to send a call to its server without a payment, so that it says what it asks. Only for a
/// caller who is known, and a tool of which the operator says that its server asks to be paid
/// before it runs anything.
#[derive(Debug)]
pub struct Inquiry(());

impl Inquiry {
    /// Leave for this caller and tool.
    ///
    /// # Errors
    /// [`Code::TokenMissing`] for nobody in particular; [`Code::NoPrice`] where the operator's terms
    /// name another price.
    pub fn of(identity: &Identity, terms: &Terms) -> Result<Self, Refusal> {
        if identity.is_anonymous() {
            return Err(Code::TokenMissing.into());
        }
        let principal = identity.principal();
        let price = terms.price_for(&principal.tenant, &principal.agent);
        if price.is_some_and(|price| price.upstream) {
            Ok(Self(()))
        } else {
            Err(Code::NoPrice.into())
        }
    }
}
