//! BOLT12 refunds: a text that whoever gets it turns into money, once.

use super::{Desk, millis, payments::within};
use crate::{
    answer::{Answer, Code, No, no},
    book::{Fact, Outcome},
};
use ldk_node::{
    bitcoin::constants::ChainHash,
    lightning::offers::refund::Refund,
    payment::{PaymentDetails, PaymentDirection, PaymentKind},
};
use serde::{Deserialize, Serialize};
use std::{collections::HashSet, str::FromStr as _};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedRefund {
    key: String,
    amount_msat: u64,
    expiry_s: Option<u32>,
    note: Option<String>,
    max_fee_msat: u64,
}

#[derive(Serialize)]
pub(crate) struct RefundView {
    key: String,
    refund: String,
    state: &'static str,
    amount_msat: u64,
    expires_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preimage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fee_msat: Option<u64>,
}

#[derive(Serialize)]
pub(crate) struct Requested {
    payment_hash: String,
    amount_msat: u64,
}

const EXPIRY_S: std::ops::RangeInclusive<u32> = 60..=31_536_000;
const EXPIRY_DEFAULT_S: u32 = 604_800;
const KEY_BYTES: std::ops::RangeInclusive<usize> = 1..=128;
const NOTE_BYTES: usize = 256;

impl Desk {
    /// The refund of this key, and whether it is new.
    pub(crate) fn give(&self, asked: &AskedRefund) -> Answer<(RefundView, bool)> {
        let expiry_s = asked.expiry_s.unwrap_or(EXPIRY_DEFAULT_S);
        let is_plain = asked.key.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if !KEY_BYTES.contains(&asked.key.len()) || !is_plain {
            return Err(no(Code::BadRequest, "`key`: 1 to 128 visible characters without `/`"));
        }
        if !EXPIRY_S.contains(&expiry_s) {
            return Err(no(Code::BadRequest, "`expiry_s`: 60 to 31536000"));
        }
        if asked.note.as_ref().is_some_and(|note| note.len() > NOTE_BYTES) {
            return Err(no(Code::BadRequest, "`note`: at most 256 bytes"));
        }
        let _one = self.sending()?;
        if let Some(given) = self.journal()?.book.refunds.get(&asked.key) {
            if given.amount_msat != asked.amount_msat {
                return Err(no(Code::Exists, "a refund of another amount has this key"));
            }
        } else {
            // A crash before the journal has it leaves a refund that nobody has seen.
            let (payment_id, refund) = self.offer(asked, expiry_s)?;
            let fact = Fact::Refund {
                key: asked.key.clone(),
                payment_id,
                expires_at_ms: refund.absolute_expiry().map_or(u64::MAX, millis),
                refund: refund.to_string(),
                amount_msat: asked.amount_msat,
            };
            self.append(&mut *self.journal()?, fact)?;
            return Ok((self.refund(&asked.key)?, true));
        }
        Ok((self.refund(&asked.key)?, false))
    }

    /// Makes it, and finds the id that the node gave it: the only one that was not there before.
    fn offer(&self, asked: &AskedRefund, expiry_s: u32) -> Answer<(String, Refund)> {
        let given = || self.node.list_payments_with_filter(|payment| is_given(payment));
        let before: HashSet<[u8; 32]> = given().iter().map(|payment| payment.id.0).collect();
        let refund = self.node.bolt12_payment().initiate_refund(
            asked.amount_msat,
            expiry_s,
            None,
            asked.note.clone(),
            Some(within(asked.max_fee_msat)),
        )?;
        let new = given().into_iter().find(|payment| !before.contains(&payment.id.0));
        let new = new.ok_or_else(|| no(Code::Fault, "the node lost the refund"))?;
        Ok((hex::encode(new.id.0), refund))
    }

    pub(crate) fn refund(&self, key: &str) -> Answer<RefundView> {
        let journal = self.journal()?;
        let given = journal.book.refunds.get(key).ok_or_else(unknown)?;
        let outcome = journal.book.payments.get(&given.payment_id).map(|payment| &payment.outcome);
        let mut view = RefundView {
            key: key.to_owned(),
            refund: given.refund.clone(),
            state: "offered",
            amount_msat: given.amount_msat,
            expires_at_ms: given.expires_at_ms,
            payment_hash: None,
            preimage: None,
            fee_msat: None,
        };
        match outcome {
            Some(Outcome::Paid { payment_hash, preimage, fee_msat }) => {
                view.state = "succeeded";
                view.payment_hash = Some(payment_hash.clone());
                (view.preimage, view.fee_msat) = (preimage.clone(), *fee_msat);
            }
            Some(Outcome::Failed { reason }) if reason == "invoice_request_expired" => {
                view.state = "expired";
            }
            Some(Outcome::Failed { .. }) => view.state = "failed",
            Some(Outcome::Pending) | None => {}
        }
        Ok(view)
    }

    /// Asks the giver of a refund to pay us.
    pub(crate) fn request(&self, refund: &str) -> Answer<Requested> {
        let refund =
            Refund::from_str(refund).map_err(|_| no(Code::BadRefund, "not a BOLT12 refund"))?;
        if refund.chain() != ChainHash::using_genesis_block(self.network) {
            return Err(no(Code::WrongNetwork, "the refund is of another network"));
        }
        let invoice = self.node.bolt12_payment().request_refund_payment(&refund)?;
        let payment_hash = hex::encode(invoice.payment_hash().0);
        Ok(Requested { payment_hash, amount_msat: refund.amount_msats() })
    }
}

fn is_given(payment: &PaymentDetails) -> bool {
    let is_out = payment.direction == PaymentDirection::Outbound;
    is_out && matches!(payment.kind, PaymentKind::Bolt12Refund { .. })
}

fn unknown() -> No {
    no(Code::NotFound, "no refund of ours has this key")
}
