//! Invoices: plain, held, and through a channel that is opened just in time.

use super::{Desk, bytes, hash_of, millis};
use crate::{
    answer::{Answer, Code, no},
    book::{End, Fact, Invoice, State},
    world,
};
use ldk_node::{
    NodeError,
    bitcoin::hashes::{Hash as _, sha256},
    lightning::ln::channelmanager::PaymentId,
    lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescription, Description, Sha256},
    lightning_types::payment::{PaymentHash, PaymentPreimage},
    payment::PaymentKind,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256 as Digest};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedInvoice {
    amount_msat: u64,
    memo: Option<String>,
    description_hash: Option<String>,
    expiry_s: Option<u32>,
    payment_hash: Option<String>,
    #[serde(default)]
    jit: bool,
    max_jit_fee_msat: Option<u64>,
}

#[derive(Serialize)]
pub(crate) struct NewInvoice {
    bolt11: String,
    payment_hash: String,
    expires_at_ms: u64,
}

#[derive(Serialize)]
pub(crate) struct InvoiceView {
    payment_hash: String,
    pub(crate) state: State,
    hold: bool,
    amount_msat: u64,
    expires_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount_received_msat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fee_skimmed_msat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claim_deadline_height: Option<u32>,
    height: u32,
}

const EXPIRY_S: std::ops::RangeInclusive<u32> = 60..=86_400;
const EXPIRY_DEFAULT_S: u32 = 3600;

impl Desk {
    pub(crate) fn make(&self, asked: &AskedInvoice) -> Answer<NewInvoice> {
        let expiry_s = asked.expiry_s.unwrap_or(EXPIRY_DEFAULT_S);
        if !EXPIRY_S.contains(&expiry_s) {
            return Err(no(Code::BadRequest, "`expiry_s`: 60 to 86400"));
        }
        if asked.amount_msat == 0 {
            return Err(no(Code::BadRequest, "`amount_msat`: at least 1"));
        }
        if asked.max_jit_fee_msat.is_some() && !asked.jit {
            return Err(no(Code::BadRequest, "`max_jit_fee_msat` without `jit`"));
        }
        let hash = match &asked.payment_hash {
            Some(text) => Some(hash_of(text).ok_or_else(bad_hash)?),
            None => None,
        };
        self.is_new(asked.payment_hash.as_ref())?;
        let invoice = self.node_makes(asked, &description(asked)?, expiry_s, hash)?;
        let payment_hash = invoice.payment_hash().to_string();
        let expires_at_ms = invoice.expires_at().map_or(u64::MAX, millis);
        let mut journal = self.journal()?;
        // Two requests for one hash: the second has the node's invoice, but nobody hears of it.
        if journal.book.invoices.contains_key(&payment_hash) {
            return Err(no(Code::Exists, "an invoice with this hash exists"));
        }
        let (amount_msat, hold) = (asked.amount_msat, hash.is_some());
        let named = payment_hash.clone();
        let fact = Fact::Invoice { payment_hash: named, amount_msat, expires_at_ms, hold };
        self.append(&mut journal, fact)?;
        Ok(NewInvoice { bolt11: invoice.to_string(), payment_hash, expires_at_ms })
    }

    fn is_new(&self, hash: Option<&String>) -> Answer<()> {
        let Some(hash) = hash else { return Ok(()) };
        let id = PaymentId(bytes(hash).ok_or_else(bad_hash)?);
        if self.journal()?.book.invoices.contains_key(hash) || self.node.payment(&id).is_some() {
            return Err(no(Code::Exists, "an invoice or a payment with this hash exists"));
        }
        Ok(())
    }

    fn node_makes(
        &self,
        asked: &AskedInvoice,
        description: &Bolt11InvoiceDescription,
        expiry_s: u32,
        hash: Option<PaymentHash>,
    ) -> Result<Bolt11Invoice, NodeError> {
        let (node, amount) = (self.node.bolt11_payment(), asked.amount_msat);
        let most = asked.max_jit_fee_msat;
        match (asked.jit, hash) {
            (false, None) => node.receive(amount, description, expiry_s),
            (false, Some(hash)) => node.receive_for_hash(amount, description, expiry_s, hash),
            (true, None) => node.receive_via_jit_channel(amount, description, expiry_s, most),
            (true, Some(hash)) => {
                node.receive_via_jit_channel_for_hash(amount, description, expiry_s, most, hash)
            }
        }
    }

    pub(crate) fn invoice(&self, hash: &str) -> Answer<InvoiceView> {
        let journal = self.journal()?;
        let invoice = journal.book.invoices.get(hash).ok_or_else(unknown)?;
        Ok(self.view(hash, invoice))
    }

    fn view(&self, hash: &str, invoice: &Invoice) -> InvoiceView {
        let height = self.height();
        let held = invoice.held.as_ref();
        let settled = match &invoice.end {
            End::Settled(amount_msat) => Some(*amount_msat),
            End::None | End::Settling(_) | End::Cancelled => None,
        };
        InvoiceView {
            payment_hash: hash.to_owned(),
            state: invoice.state(world::now_ms(), height),
            hold: invoice.hold,
            amount_msat: invoice.amount_msat,
            expires_at_ms: invoice.expires_at_ms,
            amount_received_msat: settled.or(held.map(|held| held.amount_msat)),
            fee_skimmed_msat: self.skimmed(hash),
            accepted_at_ms: held.map(|held| held.at_ms),
            claim_deadline_height: held.and_then(|held| held.claim_deadline_height),
            height,
        }
    }

    fn skimmed(&self, hash: &str) -> Option<u64> {
        let payment = self.node.payment(&PaymentId(bytes(hash)?))?;
        if let PaymentKind::Bolt11Jit { counterparty_skimmed_fee_msat, .. } = payment.kind {
            return counterparty_skimmed_fee_msat;
        }
        None
    }

    /// Begins to settle, or finds it begun; the invoice is settled when its fact is there.
    pub(crate) fn settle(&self, hash: &str, preimage: &str) -> Answer<InvoiceView> {
        let bytes = bytes(preimage).ok_or_else(|| no(Code::BadRequest, "`preimage`: 32 bytes"))?;
        if hex::encode(Digest::digest(bytes)) != hash {
            return Err(no(Code::WrongPreimage, "SHA-256 of the preimage is another hash"));
        }
        let mut journal = self.journal()?;
        let invoice = journal.book.invoices.get(hash).ok_or_else(unknown)?;
        let held_msat = match (&invoice.end, &invoice.held) {
            (End::Settled(_), _) => return Ok(self.view(hash, invoice)),
            (End::Cancelled, _) => return Err(no(Code::Cancelled, "the invoice was cancelled")),
            (_, None) => return Err(no(Code::NotHeld, "no payment is held for this invoice")),
            (End::None, Some(held)) if held.went_back(self.height()) => {
                return Err(no(Code::NotHeld, "the payment went back at its deadline"));
            }
            (End::None | End::Settling(_), Some(held)) => held.amount_msat,
        };
        if invoice.end == End::None {
            let (payment_hash, preimage) = (hash.to_owned(), preimage.to_owned());
            self.append(&mut journal, Fact::Settling { payment_hash, preimage })?;
        }
        // Again for one that was begun: the node ignores what it has done.
        let payment_hash = hash_of(hash).ok_or_else(bad_hash)?;
        self.node.bolt11_payment().claim_for_hash(
            payment_hash,
            held_msat,
            PaymentPreimage(bytes),
        )?;
        let invoice = journal.book.invoices.get(hash).ok_or_else(unknown)?;
        Ok(self.view(hash, invoice))
    }

    pub(crate) fn cancel(&self, hash: &str) -> Answer<InvoiceView> {
        let mut journal = self.journal()?;
        let invoice = journal.book.invoices.get(hash).ok_or_else(unknown)?;
        match &invoice.end {
            End::Settled(_) | End::Settling(_) => {
                return Err(no(Code::Settled, "settling this invoice was begun"));
            }
            End::Cancelled => return Ok(self.view(hash, invoice)),
            End::None if !invoice.hold => {
                return Err(no(Code::NotHold, "a plain invoice cannot be withdrawn"));
            }
            End::None => {}
        }
        let payment_hash = hash_of(hash).ok_or_else(bad_hash)?;
        self.append(&mut journal, Fact::Cancelled { payment_hash: hash.to_owned() })?;
        self.node.bolt11_payment().fail_for_hash(payment_hash)?;
        let invoice = journal.book.invoices.get(hash).ok_or_else(unknown)?;
        Ok(self.view(hash, invoice))
    }
}

fn description(asked: &AskedInvoice) -> Answer<Bolt11InvoiceDescription> {
    match (&asked.memo, &asked.description_hash) {
        (Some(_), Some(_)) => {
            Err(no(Code::BadRequest, "either `memo` or `description_hash`, not both"))
        }
        (None, Some(text)) => {
            let hash = bytes(text)
                .ok_or_else(|| no(Code::BadRequest, "`description_hash`: 32 bytes, hex"))?;
            Ok(Bolt11InvoiceDescription::Hash(Sha256(sha256::Hash::from_byte_array(hash))))
        }
        (memo, None) => Description::new(memo.clone().unwrap_or_default())
            .map(Bolt11InvoiceDescription::Direct)
            .map_err(|_| no(Code::BadRequest, "`memo`: at most 639 bytes")),
    }
}

fn bad_hash() -> crate::answer::No {
    no(Code::BadRequest, "a payment hash is 32 bytes, in lower-case hex")
}

fn unknown() -> crate::answer::No {
    no(Code::NotFound, "no invoice of ours has this hash")
}
