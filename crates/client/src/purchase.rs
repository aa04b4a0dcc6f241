//! A credential bought over Lightning: its invoice is counted and kept before it is paid, and kept
//! with its preimage after.

use crate::{
    cache::{Entry, Paid, Proof, Scope},
    challenge::Channel,
    client::{Client, ToolCall},
    error::{ClientError, TransportError},
    lightning::{MacaroonTerms, PayError, Payable, Purse},
    means::{DeclineReason, L402Choice, OfferSummary},
    outcome::{InDoubt, Outcome},
    spend::SpendOutcome,
};
use countersign_core::{digest::Digest, quote::Rail};

/// How long a credential is kept that does not say how long it is good, in milliseconds.
const UNDATED_MS: u64 = 86_400_000;

/// What came of buying a credential.
pub(crate) enum Bought {
    /// It is paid, and held for whoever bought it.
    Paid(Box<Entry>),
    /// It was not paid.
    Not(OfferSummary),
    /// The wallet may have paid.
    Unknown(Paid),
}

impl Client {
    /// Pays an invoice: counted and kept before, kept with its preimage after.
    pub(crate) async fn buy(
        &self,
        call: &ToolCall,
        scope: &Scope,
        choice: &L402Choice<'_>,
    ) -> Result<Bought, ClientError> {
        let mut entry = self.invoice_entry(call, scope, choice);
        if let Some(offer) = self.reserve(call, &entry.paid).await? {
            return Ok(Bought::Not(offer));
        }
        self.keep(&entry).await?;
        let (invoice, hash) = (&choice.offer.invoice, &choice.payable.payment_hash);
        match choice.wallet.pay(&self.purse(), invoice, hash).await {
            Ok(preimage) => {
                let token = choice.offer.token.clone();
                entry.proof = Proof::L402 { token, preimage: Digest::from_bytes(preimage) };
            }
            Err(PayError::Refused) => {
                self.note(&entry, SpendOutcome::NotCharged, None).await;
                self.options.credentials.forget(&entry).await?;
                return Ok(Bought::Not(choice.declined(DeclineReason::WalletRefused)));
            }
            // The invoice is kept, and asked for again by the next call.
            Err(PayError::Unknown) => {
                self.options.credentials.release(&entry.key);
                return Ok(Bought::Unknown(entry.paid));
            }
        }
        // It is paid: a full disk must not keep it from being used.
        let _ = self.keep(&entry).await;
        Ok(Bought::Paid(Box::new(entry)))
    }

    /// Asks the wallet for the preimage of an invoice that it may have paid before.
    pub(crate) async fn pay_again(&self, token: &str, invoice: &str) -> Result<[u8; 32], PayError> {
        let terms = MacaroonTerms::read(token).ok_or(PayError::Refused)?;
        let wallet = self.options.means.lightning().ok_or(PayError::Unknown)?;
        wallet.pay_again(&self.purse(), invoice, &terms.payment_hash).await
    }

    /// The entry of an invoice that is about to be paid.
    fn invoice_entry(&self, call: &ToolCall, scope: &Scope, choice: &L402Choice<'_>) -> Entry {
        let Payable { terms, payment_hash, payee, .. } = &choice.payable;
        let undated = self.options.world.now().plus_ms(UNDATED_MS);
        let L402Choice { offer, price, .. } = choice;
        Entry {
            version: 1,
            key: if choice.payable.is_for_several() { scope.tool } else { scope.call },
            server: self.server(),
            tool: call.name.clone(),
            expires_at: terms.expires_at.unwrap_or(undated),
            uses_left: terms.uses,
            // `Authorization` is taken when there is a token.
            channel: if self.bearer(call).is_some() { Channel::Meta } else { choice.channel },
            paid: Paid {
                rail: Rail::L402,
                amount: price.amount.clone(),
                micros: price.micros,
                payee: payee.clone(),
                reference: hex::encode(payment_hash),
                earlier: false,
            },
            proof: Proof::Invoice { token: offer.token.clone(), invoice: offer.invoice.clone() },
        }
    }

    fn purse(&self) -> Purse<'_> {
        Purse { http: &self.endpoint.http, world: &self.options.world }
    }
}

/// The wallet may have paid: the same invoice is asked about first, and never another one paid.
pub(crate) fn wallet_doubt(paid: Paid) -> Outcome {
    let cause = Some(TransportError::TimedOut);
    Outcome::Unknown(Box::new(InDoubt { paid, problem: None, cause }))
}
