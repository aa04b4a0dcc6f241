//! What we pay by invoice: once a payment hash, whatever is repeated and whenever we crash.

use super::{Desk, bytes};
use crate::{
    answer::{Answer, Code, No, no},
    book::{Fact, Outcome},
};
use ldk_node::{
    NodeError,
    lightning::{ln::channelmanager::PaymentId, routing::router::RouteParametersConfig},
    lightning_invoice::Bolt11Invoice,
    payment::{PaymentDetails, PaymentDirection, PaymentKind, PaymentStatus},
};
use serde::{Deserialize, Serialize};
use std::str::FromStr as _;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedPayment {
    bolt11: String,
    max_fee_msat: u64,
    amount_msat: Option<u64>,
    #[serde(default)]
    pub(crate) wait_s: u64,
    #[serde(default)]
    retry: bool,
}

#[derive(Serialize)]
pub(crate) struct PaymentView {
    pub(crate) payment_hash: String,
    state: Paying,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount_msat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preimage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fee_msat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Paying {
    Pending,
    Succeeded,
    Failed,
}

/// Errors of sending after which surely nothing is on its way.
const NOT_SENT: [NodeError; 4] = [
    NodeError::NotRunning,
    NodeError::InvalidInvoice,
    NodeError::InvalidAmount,
    NodeError::PaymentSendingFailed,
];

impl PaymentView {
    pub(crate) fn is_pending(&self) -> bool {
        self.state == Paying::Pending
    }
}

impl Desk {
    pub(crate) fn pay(&self, asked: &AskedPayment) -> Answer<PaymentView> {
        let invoice = Bolt11Invoice::from_str(&asked.bolt11)
            .map_err(|_| no(Code::BadInvoice, "not a BOLT11 invoice"))?;
        if invoice.network() != self.network {
            return Err(no(Code::WrongNetwork, "the invoice is of another network"));
        }
        let amount_msat = amount(&invoice, asked.amount_msat)?;
        let hash = invoice.payment_hash().to_string();
        let _one = self.sending()?;
        let is_ours = self.stored(&hash).is_some_and(|p| p.direction == PaymentDirection::Inbound);
        if is_ours || self.journal()?.book.invoices.contains_key(&hash) {
            return Err(no(Code::BadInvoice, "the invoice is our own"));
        }
        let known = self.known(&hash)?;
        match known.as_ref().map(|known| known.state) {
            Some(Paying::Succeeded) => return self.payment(&hash),
            Some(Paying::Failed) if !asked.retry => return self.payment(&hash),
            // Pending with the node too; else a crash came before the node had it.
            Some(Paying::Pending) if self.has_pending(&hash) => return self.payment(&hash),
            Some(Paying::Pending | Paying::Failed) | None => {}
        }
        if known.is_none_or(|known| known.state != Paying::Pending) {
            let payment_hash = hash.clone();
            self.append(&mut *self.journal()?, Fact::Paying { payment_hash, amount_msat })?;
        }
        self.send(&invoice, &hash, asked)?;
        self.payment(&hash)
    }

    fn send(&self, invoice: &Bolt11Invoice, hash: &str, asked: &AskedPayment) -> Answer<()> {
        let route = Some(within(asked.max_fee_msat));
        let node = self.node.bolt11_payment();
        let sent = match asked.amount_msat {
            Some(amount_msat) => node.send_using_amount(invoice, amount_msat, route),
            None => node.send(invoice, route),
        };
        match sent {
            Ok(_) | Err(NodeError::DuplicatePayment) => Ok(()),
            Err(why) if NOT_SENT.contains(&why) => {
                let fact = Fact::Failed {
                    payment_id: hash.to_owned(),
                    payment_hash: Some(hash.to_owned()),
                    reason: super::word(&format!("{why:?}")),
                };
                self.append(&mut *self.journal()?, fact)
            }
            Err(why) => Err(why.into()),
        }
    }

    pub(crate) fn payment(&self, hash: &str) -> Answer<PaymentView> {
        self.known(hash)?.ok_or_else(unknown)
    }

    /// By the book where it has the end, else by the node.
    fn known(&self, hash: &str) -> Answer<Option<PaymentView>> {
        let booked = self.journal()?.book.payments.get(hash).cloned();
        let stored = self.stored(hash).filter(|p| p.direction == PaymentDirection::Outbound);
        let view = PaymentView {
            payment_hash: hash.to_owned(),
            state: Paying::Pending,
            amount_msat: booked.as_ref().and_then(|booked| booked.amount_msat),
            preimage: None,
            fee_msat: None,
            reason: None,
        };
        Ok(match (booked.map(|booked| booked.outcome), stored) {
            (Some(Outcome::Paid { preimage, fee_msat, .. }), stored) => {
                let amount_msat = view.amount_msat.or(stored.and_then(|p| p.amount_msat));
                Some(PaymentView {
                    state: Paying::Succeeded,
                    amount_msat,
                    preimage,
                    fee_msat,
                    ..view
                })
            }
            (Some(Outcome::Failed { reason }), _) => {
                Some(PaymentView { state: Paying::Failed, reason: Some(reason), ..view })
            }
            (Some(Outcome::Pending), _) => Some(view),
            (None, Some(stored)) => Some(PaymentView {
                state: match stored.status {
                    PaymentStatus::Pending => Paying::Pending,
                    PaymentStatus::Succeeded => Paying::Succeeded,
                    PaymentStatus::Failed => Paying::Failed,
                },
                amount_msat: stored.amount_msat,
                preimage: preimage(&stored),
                fee_msat: stored.fee_paid_msat,
                ..view
            }),
            (None, None) => None,
        })
    }

    fn has_pending(&self, hash: &str) -> bool {
        self.stored(hash).is_some_and(|payment| payment.status != PaymentStatus::Failed)
    }

    pub(super) fn stored(&self, id: &str) -> Option<PaymentDetails> {
        self.node.payment(&PaymentId(bytes(id)?))
    }
}

fn amount(invoice: &Bolt11Invoice, asked: Option<u64>) -> Answer<u64> {
    match (invoice.amount_milli_satoshis(), asked) {
        (Some(amount_msat), None) | (None, Some(amount_msat)) => Ok(amount_msat),
        (None, None) => Err(no(Code::BadRequest, "`amount_msat`: the invoice names none")),
        (Some(_), Some(_)) => Err(no(Code::BadRequest, "`amount_msat`: the invoice names one")),
    }
}

/// A route that costs at most this.
pub(super) fn within(max_fee_msat: u64) -> RouteParametersConfig {
    let max_total_routing_fee_msat = Some(max_fee_msat);
    RouteParametersConfig { max_total_routing_fee_msat, ..RouteParametersConfig::default() }
}

fn preimage(payment: &PaymentDetails) -> Option<String> {
    if let PaymentKind::Bolt11 { preimage: Some(preimage), .. } = payment.kind {
        return Some(hex::encode(preimage.0));
    }
    None
}

fn unknown() -> No {
    no(Code::NotFound, "no payment of ours has this hash")
}
