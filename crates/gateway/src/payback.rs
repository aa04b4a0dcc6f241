//! What a treasury pays back by itself (`rails.refund_from`): an invoice that the holder of an ended
//! credential shows, and a transfer to whoever paid over x402 for a call that did not run.
//!
//! Owns neither whether something is owed (the store says it) nor a wallet (the treasury's buyer).
//! INVARIANT: the store has written the one payment of a debt, its payment hash or its nonce,
//! before the wallet or the facilitator is asked; what may have moved is asked about, and repeated
//! as it was or not at all.
//! INVARIANT: every signature for one call has one nonce, payee and amount, so a chain moves its
//! money back at most once, whichever of them reaches it.

use crate::{
    buy::Purse,
    gate::Gate,
    rails::{
        lightning::Invoice,
        x402::{Attempt, AuthorizationState, Decline, SettleOutcome, SignedPayment},
    },
};
use countersign_client::{DeclineReason, Order, Standing, Unpaid};
use countersign_core::{
    digest::Digest,
    ids::CallId,
    money::Micros,
    quote::Rail,
    refusal::{Code, Refusal},
    time::UnixMs,
    wire::eip712::Address,
};
use countersign_store::{Debt, Due, Intent, Payback, Refund, failpoint};
use std::sync::Arc;

/// How long a transfer back can be settled, in seconds.
const WINDOW_S: u64 = 600;
/// How long after that a facilitator without a chain is believed to be done with it, in seconds.
const MARGIN_S: u64 = 120;
/// Payments that are carried on, and begun, in one round.
const AT_ONCE: usize = 8;

/// Why an invoice is not paid that is of no use to the treasury's wallets.
const NO_WALLET: &str = "no wallet pays it";
/// Why a second invoice is not paid.
const ANOTHER: &str = "another invoice is being paid";

/// What became of an invoice that was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// It is paid.
    Paid,
    /// It is being paid, or may be.
    UnderWay,
    /// It is not paid: why.
    Unpaid(&'static str),
}

impl Gate {
    /// The treasury that pays back.
    fn refunder(&self) -> Option<Purse<'_>> {
        self.purse(self.config.rails.refund_from.as_deref()?)
    }

    /// Whether this is paid to an invoice that its holder shows.
    pub(crate) fn pays_invoice(&self, refund: &Refund) -> bool {
        let micros = self.config.assets.micros(&refund.amount);
        self.rails.l402.is_some()
            && self.refunder().is_some_and(|purse| {
                purse.buyer.pays_invoices() && micros.is_some_and(|it| it <= purse.limits.per_call)
            })
    }

    /// Whether an invoice for it is being paid.
    pub(crate) fn is_paying_back(&self, refund: &Refund) -> bool {
        self.store.is_paying_back(Debt::Refund(refund.key))
    }

    /// Whether this is paid back without a person.
    pub(crate) fn pays_back(&self, due: &Due) -> bool {
        let Some(purse) = self.refunder() else { return false };
        let is_credit = self.config.credit && due.is_of_somebody;
        is_credit || due.is_under_way || self.returnable(due, &purse).is_some()
    }

    /// Pays an invoice over exactly what is owed for a credential, once.
    ///
    /// # Errors
    /// `StoreFault`.
    pub(crate) async fn pay_shown(
        &self,
        bolt11: &str,
        credential: Digest,
        owed: &[Refund],
    ) -> Result<Shown, Refusal> {
        let node = self.rails.l402.as_ref().and_then(|rail| rail.nodes.iter().next());
        let (Some(node), Some(purse)) = (node, self.refunder()) else {
            return Ok(Shown::Unpaid("no treasury pays invoices here"));
        };
        let Ok(invoice) = Invoice::read(bolt11, &node.network) else {
            return Ok(Shown::Unpaid("it is no invoice of our network with an amount"));
        };
        let reference = hex::encode(invoice.payment_hash);
        if let Some((debt, is_paid)) = self.store.payback_by(&reference)? {
            let is_theirs = self.store.owed_for(debt)? == Some(credential);
            return Ok(match (is_theirs, is_paid) {
                (true, true) => Shown::Paid,
                (true, false) => Shown::UnderWay,
                (false, _) => Shown::Unpaid("it was shown for something else"),
            });
        }
        if invoice.expires_at <= self.world.now() {
            return Ok(Shown::Unpaid("it has expired"));
        }
        let refund = match self.fitting(owed, invoice.amount_msat) {
            Ok(refund) => refund,
            Err(why) => return Ok(Shown::Unpaid(why)),
        };
        let order = match purse.buyer.order_of_invoice(bolt11) {
            Ok(order) => order,
            Err(DeclineReason::OverCap) => {
                return Ok(Shown::Unpaid("it is more than is paid without a person"));
            }
            Err(_) => return Ok(Shown::Unpaid(NO_WALLET)),
        };
        let Ok(lapsed) = self.offer_lapsed(refund).await else {
            return Ok(Shown::Unpaid("it is offered as a BOLT12 refund"));
        };
        self.pay_first(&purse, refund, &order, lapsed).await
    }

    /// What is owed exactly so, and not being paid.
    fn fitting<'a>(&self, owed: &'a [Refund], msat: u64) -> Result<&'a Refund, &'static str> {
        let is_it = |refund: &&Refund| {
            &*refund.amount.asset.0 == "BTC" && refund.amount.minor == u128::from(msat)
        };
        let mut fitting = owed.iter().filter(is_it).peekable();
        fitting.peek().ok_or("its amount is not what is owed")?;
        fitting.find(|refund| !self.is_paying_back(refund)).ok_or(ANOTHER)
    }

    /// The node whose offer of a refund came to nothing; none where none offers it.
    ///
    /// # Errors
    /// One offers it, or may.
    pub(crate) async fn offer_lapsed(&self, refund: &Refund) -> Result<Option<String>, Code> {
        let Some(name) = refund.node.as_deref() else { return Ok(None) };
        let node = self.rails.l402.as_ref().and_then(|rail| rail.nodes.named(name));
        match node.ok_or(Code::InternalFault)?.given(&refund.key.to_hex()).await {
            Ok(Some(given)) if !given.is_open && given.taken.is_none() => Ok(Some(name.to_owned())),
            Ok(_) | Err(_) => Err(Code::InternalFault),
        }
    }

    /// Writes down that an invoice is paid, and pays it.
    async fn pay_first(
        &self,
        purse: &Purse<'_>,
        refund: &Refund,
        order: &Order,
        lapsed: Option<String>,
    ) -> Result<Shown, Refusal> {
        let Some(micros) = order.paid().micros else { return Ok(Shown::Unpaid(NO_WALLET)) };
        let payback = Payback {
            debt: Debt::Refund(refund.key),
            treasury: Arc::from(purse.name),
            micros,
            reference: order.paid().reference.clone(),
            payload: order.to_stored(),
        };
        let reference = payback.reference.clone();
        match self.store.begin_payback(payback, purse.charge(), lapsed).await {
            Ok(Intent::Written) => {}
            Ok(Intent::UnderWay(other)) if other.reference == reference => {
                return Ok(Shown::UnderWay);
            }
            Ok(Intent::UnderWay(_)) => return Ok(Shown::Unpaid(ANOTHER)),
            Ok(Intent::Barred) => return Ok(Shown::Unpaid("it is paid, or given, another way")),
            Err(refusal) if refusal.code() == Code::BudgetExceeded => {
                return Ok(Shown::Unpaid("the treasury has paid what it may for now: later again"));
            }
            Err(refusal) => return Err(refusal),
        }
        failpoint("refund.intended");
        let paid = purse.buyer.pay(order).await.map(drop);
        failpoint("refund.paid");
        self.invoice_ended(Debt::Refund(refund.key), order, paid).await
    }

    /// Books what a wallet says of an invoice.
    async fn invoice_ended(
        &self,
        debt: Debt,
        order: &Order,
        paid: Result<(), Unpaid>,
    ) -> Result<Shown, Refusal> {
        match paid {
            Ok(()) => {
                self.store.payback_made(debt, &order.paid().reference).await?;
                failpoint("refund.booked");
                Ok(Shown::Paid)
            }
            Err(Unpaid::Refused) => {
                self.store.payback_failed(debt).await?;
                Ok(Shown::Unpaid("the wallet could not pay it: show one again"))
            }
            Err(Unpaid::Unknown) => {
                self.store.payback_unknown(debt).await?;
                Ok(Shown::UnderWay)
            }
        }
    }

    /// One round: what was begun is carried on, then what is owed is begun.
    ///
    /// # Errors
    /// `StoreFault`.
    pub(crate) async fn pay_back(&self) -> Result<(), Refusal> {
        for payback in self.store.take_paybacks(AT_ONCE).await? {
            match payback.debt {
                Debt::Refund(_) => self.carry_invoice(payback).await?,
                Debt::Call(call) => self.carry_transfer(call, payback).await?,
            }
        }
        let Some(purse) = self.refunder() else { return Ok(()) };
        let is_credit = |due: &Due| self.config.credit && due.is_of_somebody;
        let dues = self.store.refunds_due().into_iter();
        let dues = dues.filter(|due| !due.is_under_way && !is_credit(due));
        let returnable = dues.filter_map(|due| Some((due.call, self.returnable(&due, &purse)?)));
        for (call, (taken, micros)) in returnable.take(AT_ONCE) {
            match self.send_back(&purse, call, &taken, micros).await {
                Err(refusal) if refusal.code() == Code::BudgetExceeded => break,
                ended => ended?,
            }
        }
        Ok(())
    }

    /// An invoice whose payment may have been begun: asked about, then paid as long as it can be.
    async fn carry_invoice(&self, payback: Payback) -> Result<(), Refusal> {
        let debt = payback.debt;
        let (order, purse) = (Order::from_stored(&payback.payload), self.purse(&payback.treasury));
        let (Some(order), Some(purse)) = (order, purse) else {
            return self.store.payback_unknown(debt).await;
        };
        let may_pay = self.is_refunder(&payback) && self.world.now() < order.expires_at();
        let paid = match may_pay {
            true => purse.buyer.pay_again(&order).await.map(drop),
            false => Err(Unpaid::Refused),
        };
        // A no may mean that the wallet is at it still: how the payment stands decides.
        let paid = match paid {
            Err(Unpaid::Refused) => match purse.buyer.standing(&order).await {
                Standing::Paid => Ok(()),
                Standing::Unpaid => Err(Unpaid::Refused),
                Standing::Unknown => Err(Unpaid::Unknown),
            },
            known => known,
        };
        self.invoice_ended(debt, &order, paid).await.map(drop)
    }

    /// Whether the treasury that began it still pays back. What another began is only looked up:
    /// a person may have taken it over.
    fn is_refunder(&self, payback: &Payback) -> bool {
        self.refunder().is_some_and(|purse| *purse.name == *payback.treasury)
    }

    /// The payment that took what is owed, and its value, where the treasury may send it back.
    fn returnable(&self, due: &Due, purse: &Purse<'_>) -> Option<(SignedPayment, Micros)> {
        let amount = due.amount.as_ref().filter(|_| due.rail == Some(Rail::X402))?;
        let taken = SignedPayment::from_stored(due.payload.as_deref()?)?;
        let token = self.config.rails.x402.as_ref()?.tokens.get(&amount.asset)?;
        let transfer = taken.transfer();
        let is_same = transfer.domain.chain_id == token.chain_id
            && Address::from_hex(&token.address) == Ok(transfer.domain.token)
            && transfer.authorization.value == amount.minor;
        let micros = self.config.assets.micros(amount)?;
        let may = is_same && micros <= purse.limits.per_call && purse.buyer.account().is_some();
        may.then_some((taken, micros))
    }

    /// The transfer back for a call, signed: always the same but for its end.
    fn sign_back(
        &self,
        purse: &Purse<'_>,
        call: CallId,
        taken: &SignedPayment,
    ) -> Option<SignedPayment> {
        let until_s = self.world.now().seconds().saturating_add(WINDOW_S);
        let transfer = taken.reversed(purse.buyer.account()?, *nonce(call).as_bytes(), until_s);
        let signed = purse.buyer.sign(transfer, &taken.transfer().domain)?;
        taken.returned(signed, WINDOW_S)
    }

    /// Begins a transfer back.
    async fn send_back(
        &self,
        purse: &Purse<'_>,
        call: CallId,
        taken: &SignedPayment,
        micros: Micros,
    ) -> Result<(), Refusal> {
        let Some(back) = self.sign_back(purse, call, taken) else { return Ok(()) };
        let payback = Payback {
            debt: Debt::Call(call),
            treasury: Arc::from(purse.name),
            micros,
            // Not to be taken for a payment hash, which whoever makes an invoice may choose.
            reference: format!("0x{}", nonce(call).to_hex()),
            payload: back.to_stored(),
        };
        match self.store.begin_payback(payback, purse.charge(), None).await? {
            Intent::Written => {}
            Intent::UnderWay(_) | Intent::Barred => return Ok(()),
        }
        failpoint("refund.intended");
        self.settle_back(call, &back, Attempt::First).await
    }

    /// Has a transfer back settled, and books it.
    async fn settle_back(
        &self,
        call: CallId,
        back: &SignedPayment,
        attempt: Attempt,
    ) -> Result<(), Refusal> {
        let Some(rail) = &self.rails.x402 else {
            return self.store.payback_unknown(Debt::Call(call)).await;
        };
        let settled = rail.facilitator.settle(back, attempt).await;
        failpoint("refund.paid");
        match settled {
            SettleOutcome::Settled { transaction } => self.sent_back(call, &transaction).await,
            // What it lacks now, it may have later: the same transfer is tried again.
            SettleOutcome::Failed(_) | SettleOutcome::Unknown => {
                self.store.payback_unknown(Debt::Call(call)).await
            }
        }
    }

    async fn sent_back(&self, call: CallId, transaction: &str) -> Result<(), Refusal> {
        self.store.payback_made(Debt::Call(call), transaction).await?;
        failpoint("refund.booked");
        Ok(())
    }

    /// A transfer back that may have been settled: the chain is asked first. One that the chain
    /// can take no more is signed anew, in the next round or here.
    async fn carry_transfer(&self, call: CallId, payback: Payback) -> Result<(), Refusal> {
        let back = SignedPayment::from_stored(&payback.payload);
        let (Some(rail), Some(back)) = (&self.rails.x402, back) else {
            return self.store.payback_unknown(payback.debt).await;
        };
        match rail.facilitator.lookup(&back).await {
            Some(AuthorizationState::Used { transaction }) => {
                self.sent_back(call, &transaction).await
            }
            Some(AuthorizationState::Dead(Decline::Window)) => {
                self.store.payback_failed(payback.debt).await
            }
            Some(AuthorizationState::Dead(_)) => self.store.payback_unknown(payback.debt).await,
            _ if !self.is_refunder(&payback) => self.store.payback_unknown(payback.debt).await,
            None if is_over(&back, self.world.now()) => self.renew(call, &payback, &back).await,
            Some(AuthorizationState::Unused | AuthorizationState::Unknown) | None => {
                self.settle_back(call, &back, Attempt::Again).await
            }
        }
    }

    /// Signs a transfer anew whose end has passed, where nobody can say whether it moved: under the
    /// same nonce of the same account it moves nothing twice.
    async fn renew(
        &self,
        call: CallId,
        payback: &Payback,
        old: &SignedPayment,
    ) -> Result<(), Refusal> {
        let purse = self.purse(&payback.treasury);
        let purse = purse.filter(|purse| purse.buyer.account() == Some(old.payer()));
        let back = purse.and_then(|purse| {
            let until_s = self.world.now().seconds().saturating_add(WINDOW_S);
            let mut transfer = old.transfer().authorization;
            transfer.valid_before_s = until_s;
            old.signed_again(purse.buyer.sign(transfer, &old.transfer().domain)?)
        });
        let Some(back) = back else { return self.store.payback_unknown(payback.debt).await };
        self.store.payback_again(payback.debt, back.to_stored()).await?;
        self.settle_back(call, &back, Attempt::Again).await
    }
}

/// The nonce of the transfer back for a call.
fn nonce(call: CallId) -> Digest {
    Digest::of_parts(&[b"refund", call.as_bytes()])
}

/// Whether nobody settles it any more.
fn is_over(back: &SignedPayment, now: UnixMs) -> bool {
    let end_s = back.transfer().authorization.valid_before_s.saturating_add(MARGIN_S);
    now.seconds() >= end_s
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_client::{Buyer, Caps, KnownAsset, Means, Secret, Wallet};
    use countersign_core::{
        wire::{
            eip712::{Domain, TransferAuthorization},
            x402::{PaymentPayload, Requirements},
        },
        world::World,
    };
    use serde_json::value::RawValue;

    const TOKEN: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";

    fn buyer(digit: &str) -> Buyer {
        let wallets = Wallet::of_secret(&Secret::new(digit.repeat(64)), None).unwrap();
        let (assets, caps) = (Vec::<KnownAsset>::new(), Caps::default());
        let world = World::new(|| UnixMs(1_798_000_000_000), |bytes| bytes.fill(7));
        Buyer::new(Means { wallets, assets, caps, rail: None }, world)
    }

    /// What a payer signed for, as it is stored.
    fn taken(payer: &Buyer) -> SignedPayment {
        let pay_to = "0x90F79bf6EB2c4f870365E785982E1f101E93b906";
        let domain = Domain {
            name: "USDC".into(),
            version: "2".into(),
            chain_id: 84532,
            token: TOKEN.parse().unwrap(),
        };
        let transfer = TransferAuthorization {
            from: payer.account().unwrap(),
            to: pay_to.parse().unwrap(),
            value: 10_000,
            valid_after_s: 0,
            valid_before_s: 1_798_000_060,
            nonce: [9; 32],
        };
        let extra = r#"{"name":"USDC","version":"2","challenge":"ours"}"#;
        let accepted = Requirements {
            scheme: "exact".into(),
            network: "eip155:84532".into(),
            amount: 10_000,
            asset: TOKEN.into(),
            pay_to: pay_to.into(),
            max_timeout_seconds: 60,
            extra: Some(RawValue::from_string(extra.into()).unwrap()),
            unknown: Vec::new(),
        };
        let payload = payer.sign(transfer, &domain).unwrap();
        let payload = PaymentPayload { resource: None, accepted, payload, extensions: None };
        SignedPayment::from_stored(&payload.to_json()).unwrap()
    }

    #[test]
    fn a_transfer_back_is_what_was_taken_the_other_way_round() {
        let (payer, treasury) = (buyer("1"), buyer("2"));
        let taken = taken(&payer);
        let account = treasury.account().unwrap();
        let transfer = taken.reversed(account, [3; 32], 1_798_000_600);
        assert_eq!((transfer.from, transfer.to), (account, taken.payer()));
        let domain = &taken.transfer().domain;
        assert!(payer.sign(transfer, domain).is_none(), "of nobody else's account");
        let back = taken.returned(treasury.sign(transfer, domain).unwrap(), WINDOW_S).unwrap();
        assert!(back.is_as_accepted());
        assert_eq!(back.transfer().domain, *domain);
        assert_eq!(back.transfer().authorization.value, 10_000);
        assert!(!back.to_stored().contains("ours"), "of the offer only what names the token");
        let stored = SignedPayment::from_stored(&back.to_stored()).unwrap();
        assert_eq!(stored.transfer(), back.transfer());
        let later = TransferAuthorization { valid_before_s: 1_798_001_200, ..transfer };
        let again = back.signed_again(treasury.sign(later, domain).unwrap()).unwrap();
        assert_eq!(again.transfer().authorization, later);
    }

    #[test]
    fn a_call_has_one_nonce_and_a_transfer_an_end() {
        let (one, other) = (CallId::from_bytes([1; 16]), CallId::from_bytes([2; 16]));
        assert_eq!(nonce(one), nonce(one));
        assert_ne!(nonce(one), nonce(other));
        let back = taken(&buyer("1"));
        let end_s = 1_798_000_060 + MARGIN_S;
        assert!(!is_over(&back, UnixMs::from_seconds(end_s - 1)));
        assert!(is_over(&back, UnixMs::from_seconds(end_s)));
    }
}
