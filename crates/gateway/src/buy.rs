//! Buyer mode: a server behind charges us, and the treasury pays it, on the path and under the hold
//! of the call.
//!
//! Asking the price is a part of `quote`; what the server asks is the quote that consent, policy
//! and budgets see. Paying is the `settle` before `run`. What the server said of its money goes
//! into the capture.
//! INVARIANT: no payment that is not written down first, none above the quote, one for a call; what
//! may have been paid is asked about at our own wallet, and repeated as it was or not at all.
//! INVARIANT: a server's word that it took nothing frees the caller's budgets, never the treasury's
//! own limit: the payment was in its hands.

use crate::{
    answer::{self, Done},
    call::Attempt,
    conclude::Says,
    config::Treasury,
    gate::Gate,
    oblige,
    prove::{
        Known,
        payment::{Earlier, Repeat, unfinished},
    },
    upstream::{Failure, Relay},
};
use countersign_client::{
    Asked, Buyer, DeclineReason, Heard, NotAsked, Order, Standing, Unpaid, Voucher, Word,
};
use countersign_core::{
    call::Call,
    digest::Digest,
    ids::QuoteId,
    ledger::{Charge, Window},
    money::{Amount, Micros},
    policy::Obligation,
    proof::{Identity, Inquiry, Principal},
    quote::{Offer, Quote},
    refusal::{Charged, Code, Refusal},
    time::UnixMs,
};
use countersign_store::{
    FailCause, Hold, Outcome, Outlay, Purchase, SettlementReceipt, Settling, Take, Unsettled,
    failpoint,
};
use http::{Method, header::AUTHORIZATION};

/// How long what a server asked is paid without asking again, in milliseconds.
const FRESH_MS: u64 = 2_000;
/// A treasury's own window, in milliseconds.
const DAY_MS: u64 = 86_400_000;
/// Longest reference that is kept of what a server says, in bytes.
const REFERENCE_BYTES_MAX: usize = 128;

/// What a server asked, and for which message.
#[derive(Debug)]
pub struct Inquired {
    asked: Asked,
    message: Digest,
    at: UnixMs,
}

impl Inquired {
    fn offer(&self) -> Offer {
        let Asked { amount, micros, payee, .. } = &self.asked;
        Offer::treasury(amount.clone(), payee.clone(), *micros)
    }
}

/// A treasury with what pays from it.
pub(crate) struct Purse<'a> {
    pub(crate) name: &'a str,
    pub(crate) limits: &'a Treasury,
    pub(crate) buyer: &'a Buyer,
}

impl Purse<'_> {
    /// The treasury's own limit.
    pub(crate) fn charge(&self) -> Charge {
        let key = format!("treasury\u{1f}{}", self.name);
        Charge::hard(key, self.limits.per_day, Window::Rolling(DAY_MS))
    }
}

impl Gate {
    /// Whether the treasury pays for this call.
    pub(crate) fn is_bought(&self, call: &Call, principal: &Principal) -> bool {
        let price = call.terms.price_for(&principal.tenant, &principal.agent);
        price.is_some_and(|price| price.upstream)
    }

    /// What pays a server.
    ///
    /// # Errors
    /// A server without a treasury is a fault of ours.
    pub(crate) fn treasury(&self, server: &str) -> Result<Purse<'_>, Refusal> {
        let server = self.config.servers.get(server);
        let name = server.and_then(|server| server.treasury.as_deref()).unwrap_or_default();
        self.purse(name).ok_or_else(|| Code::InternalFault.into())
    }

    /// The treasury whose limit has this counter. A payment that was begun is carried on by the
    /// wallet that began it, whoever pays the server by now.
    fn purse_of(&self, limit: Option<&str>) -> Option<Purse<'_>> {
        let mut purses = self.config.treasuries.keys().filter_map(|name| self.purse(name));
        purses.find(|purse| Some(&*purse.charge().key) == limit)
    }

    /// The treasury of a name.
    pub(crate) fn purse<'a>(&'a self, name: &'a str) -> Option<Purse<'a>> {
        let (limits, buyer) = (self.config.treasuries.get(name)?, self.buyers.get(name)?);
        Some(Purse { name, limits, buyer })
    }

    /// The quote that is made of what the server asks, and what it asked in `known`. The server is
    /// asked only what policy lets pass at any price, and nothing is paid.
    ///
    /// # Errors
    /// As [`Gate::foresee`]; [`Code::PriceUnusable`], [`Code::UpstreamUnreachable`],
    /// [`Code::BudgetExceeded`] above what the treasury may pay for one call.
    pub(crate) async fn ask_price(
        &self,
        attempt: &Attempt,
        identity: &Identity,
        known: &mut Known,
    ) -> Result<Quote, Refusal> {
        let obligations = self.foresee(attempt, identity, known).await?;
        let asked = self.inquire(attempt, identity, &obligations).await?;
        let quote = self.quote_over(&attempt.call, identity.principal(), asked.offer());
        known.asked = Some(asked);
        Ok(quote)
    }

    /// The quote of the lowest price that there can be, for what is looked at before the price.
    pub(crate) fn least_quote(&self, call: &Call, principal: &Principal) -> Quote {
        let nothing = Amount { asset: "USD".into(), minor: 0 };
        self.quote_over(call, principal, Offer::treasury(nothing, String::new(), Micros(0)))
    }

    fn quote_over(&self, call: &Call, principal: &Principal, offer: Offer) -> Quote {
        let now = self.world.now();
        let id = QuoteId::new(now, self.world.random());
        let until = now.plus_ms(self.config.limits.quote_ttl_ms);
        Quote::new(id, call.digest(principal), vec![offer], now, until)
    }

    /// Asks the server what this message costs.
    async fn inquire(
        &self,
        attempt: &Attempt,
        identity: &Identity,
        obligations: &[Obligation],
    ) -> Result<Inquired, Refusal> {
        let call = &attempt.call;
        let leave = Inquiry::of(identity, &call.terms)?;
        let server = &call.terms.tool.server;
        let purse = self.treasury(server)?;
        let (headers, body) = self.outgoing(obligations, attempt)?;
        let message = Digest::of(&body);
        let session = self.session(attempt, identity)?;
        let relay = Relay {
            method: Method::POST,
            headers: &headers,
            body,
            session: session.as_ref(),
            caller: Some(identity.key()),
        };
        let reply = self.upstream(server)?.inquire(&leave, call, &relay).await;
        let reply = reply.map_err(|failure| {
            let why = match failure {
                Failure::NotExecuted | Failure::Refused(_) => "it was not reached",
                Failure::Timeout => "it did not answer in time",
                Failure::Broken | Failure::TooLarge => "its answer makes no sense",
            };
            Refusal::new(Code::UpstreamUnreachable).with("why", why)
        })?;
        match purse.buyer.read(reply) {
            Ok(asked) => Ok(Inquired { asked, message, at: self.world.now() }),
            Err(not) => Err(self.not_asked(&not, purse.limits)),
        }
    }

    /// What it means that a server asks for nothing that is paid.
    fn not_asked(&self, not: &NotAsked, limits: &Treasury) -> Refusal {
        let unusable = Refusal::new(Code::PriceUnusable);
        match not {
            NotAsked::Answered => unusable.with("why", "it answered without asking for a payment"),
            NotAsked::Failed => unusable.with("why", "it failed without asking for a payment"),
            NotAsked::Refused(problem) => {
                let said = problem.known.map_or("no", Code::text);
                unusable.with("why", "it refuses the call whatever is paid").with("said", said)
            }
            NotAsked::Unusable(offers) => {
                let is_over = |reason: &DeclineReason| matches!(reason, DeclineReason::OverCap);
                if let Some(dear) = offers.iter().find(|offer| is_over(&offer.reason)) {
                    let refusal = Refusal::new(Code::BudgetExceeded).with("limit", limits.per_call);
                    return match &dear.amount {
                        Some(price) => refusal.with("price", self.config.assets.show(price)),
                        None => refusal,
                    };
                }
                match offers.first() {
                    Some(offer) => unusable.with("why", &offer.reason),
                    None => unusable.with("why", "what it asks contradicts itself"),
                }
            }
        }
    }

    /// What became of this very call before: the payment that may have been made for it is carried
    /// on, and no other is made.
    pub(crate) fn bought_before(&self, digest: Digest) -> Result<Repeat, Refusal> {
        let until = self.world.now().plus_ms(self.config.limits.quote_ttl_ms);
        match self.store.buying(digest, until)? {
            None => Ok(Repeat::Fresh),
            Some((call, Some(quote))) => Ok(Repeat::Again(Box::new(Earlier { call, quote }))),
            Some((call, None)) => Err(unfinished(&call)),
        }
    }

    /// Pays the server for a call that is reserved; what then shows that it is paid.
    ///
    /// # Errors
    /// [`Code::PriceChanged`], [`Code::BudgetExceeded`], [`Code::TreasuryUnpaid`] and what the
    /// re-check found: released, nothing paid. [`Code::SettlementUnknown`].
    pub(crate) async fn buy(
        &self,
        settling: Settling,
        attempt: &Attempt,
        asked: Option<Inquired>,
    ) -> Result<(Hold, Voucher), Refusal> {
        failpoint("settling");
        // What was begun is carried on, whatever is asked by now.
        if let Some(order) = settling.payload().and_then(Order::from_stored) {
            let paid = match self.purse_of(settling.limit()) {
                Some(purse) => purse.buyer.pay_again(&order).await,
                None => Err(Unpaid::Unknown),
            };
            return self.once_paid(settling, &order, paid).await;
        }
        let purse = self.treasury(&attempt.call.terms.tool.server)?;
        let order = match self.order(&settling, attempt, asked, &purse).await {
            Ok(order) => order,
            Err(refusal) => {
                let call = settling.call();
                self.store.settle_failed(settling, refusal.code()).await?;
                return Err(refusal.call(call));
            }
        };
        let purchase = Purchase {
            amount: order.paid().amount.clone(),
            micros: order.paid().micros.unwrap_or_default(),
            reference: order.paid().reference.clone(),
            payload: order.to_stored(),
            limit: purse.charge(),
        };
        if order.is_paid_by_showing() {
            let Ok(voucher) = purse.buyer.pay(&order).await else {
                let call = settling.call();
                self.store.settle_failed(settling, Code::TreasuryUnpaid).await?;
                return Err(Refusal::new(Code::TreasuryUnpaid).call(call));
            };
            let hold = self.store.start_paying(settling, purchase).await?;
            failpoint("intended");
            return Ok((hold, voucher));
        }
        let settling = self.store.intend(settling, purchase).await?;
        failpoint("intended");
        let paid = purse.buyer.pay(&order).await;
        failpoint("bought");
        self.once_paid(settling, &order, paid).await
    }

    /// The payment to make: of what was asked a moment ago, or of what is asked now where that is
    /// no more than was quoted.
    async fn order(
        &self,
        settling: &Settling,
        attempt: &Attempt,
        asked: Option<Inquired>,
        purse: &Purse<'_>,
    ) -> Result<Order, Refusal> {
        let permit = settling.permit();
        let obligations = permit.authorization().obligations();
        let (_, message) = self.outgoing(obligations, attempt)?;
        let (message, now) = (Digest::of(&message), self.world.now());
        let is_fresh =
            |asked: &Inquired| asked.message == message && now.since_ms(asked.at) < FRESH_MS;
        let asked = match asked.filter(is_fresh) {
            Some(asked) => asked,
            None => self.inquire(attempt, permit.identity(), obligations).await?,
        };
        let quoted = permit.quote().of_treasury().ok_or(Code::InternalFault)?;
        let offer = asked.offer();
        if !quoted.covers(&offer) {
            let show = |offer: &Offer| self.config.assets.show(&offer.amount);
            let refusal = Refusal::new(Code::PriceChanged).with("quoted", show(quoted));
            return Err(refusal.with("asked", show(&offer)));
        }
        let server = self.server(&attempt.call.terms.tool.server).ok_or(Code::InternalFault)?;
        let has_token = server.headers.contains_key(AUTHORIZATION);
        purse.buyer.order(&asked.asked, has_token).ok_or_else(|| Code::TreasuryUnpaid.into())
    }

    /// What the wallet's answer comes to.
    async fn once_paid(
        &self,
        settling: Settling,
        order: &Order,
        paid: Result<Voucher, Unpaid>,
    ) -> Result<(Hold, Voucher), Refusal> {
        match paid {
            Ok(voucher) => {
                let receipt = receipt(Some(order), &Word::default());
                Ok((self.store.settled(settling, receipt).await?, voucher))
            }
            Err(Unpaid::Refused) => {
                let call = settling.call();
                self.store.settle_failed(settling, Code::TreasuryUnpaid).await?;
                Err(Refusal::new(Code::TreasuryUnpaid).call(call))
            }
            Err(Unpaid::Unknown) => Err(self.store.settle_unknown(settling).await),
        }
    }

    /// What shows that a call that is carried on is paid; nothing for one that pays no server.
    ///
    /// # Errors
    /// Our own wallet does not say it: the call is left in doubt.
    pub(crate) async fn voucher(&self, hold: Hold) -> Result<(Hold, Option<Voucher>), Refusal> {
        let Some(order) = hold.payload().and_then(Order::from_stored) else {
            return Ok((hold, None));
        };
        let paid = match self.purse_of(hold.limit()) {
            Some(purse) => Box::pin(purse.buyer.pay_again(&order)).await,
            None => Err(Unpaid::Unknown),
        };
        match paid {
            Ok(voucher) => Ok((hold, Some(voucher))),
            Err(_) => {
                let call = hold.call();
                let charged = self.store.fail(hold, FailCause::InDoubt).await?;
                Err(Refusal::new(Code::UpstreamTimeout).charged(charged).call(call))
            }
        }
    }

    /// Ends a call that was paid for outward.
    ///
    /// # Errors
    /// What became of it, with whether the server was paid.
    pub(crate) async fn conclude_bought(&self, hold: Hold, heard: Heard) -> Result<Done, Refusal> {
        let obligations = hold.permit().authorization().obligations();
        let (obliged, word) = match &heard {
            Heard::Result(result, word) => (oblige::result(obligations, result.get()), word),
            Heard::Error(error, word) => (oblige::error(obligations, error.get()), word),
            Heard::Refused(word) => {
                let (call, said) = (hold.call(), word.code.clone());
                let outlay = outlay(&hold, word);
                let charged = self.store.fail_bought(hold, FailCause::NotExecuted, outlay).await?;
                let refusal = Refusal::new(Code::PurchaseRefused).charged(charged).call(call);
                return Err(refusal.with("said", said.as_deref().unwrap_or("no")));
            }
        };
        let outlay = outlay(&hold, word);
        let Ok(answer) = obliged.map(|answer| answer::in_its_own_name(&answer)) else {
            let call = hold.call();
            let charged = self.store.fail_bought(hold, FailCause::ToolError, outlay).await?;
            return Err(Refusal::new(Code::UnknownObligation).charged(charged).call(call));
        };
        let is_result = matches!(heard, Heard::Result(..));
        let cause = match is_result.then(|| Says::of(&answer)) {
            Some(Says::Answer) => {
                let receipt = receipt(order_of(&hold).as_ref(), word);
                let outcome = Outcome {
                    digest: Digest::of(answer.as_bytes()),
                    result: answer.into_bytes(),
                    is_error: false,
                    take: Take::All,
                };
                let captured = self.store.capture_bought(hold, outcome, receipt).await;
                return captured.map(Done::Captured);
            }
            Some(says) => says.cause(),
            None => FailCause::ToolError,
        };
        let charged = self.store.fail_bought(hold, cause, outlay).await?;
        Ok(match is_result {
            true => Done::ToolError(answer, charged),
            false => Done::ProtocolError(answer, charged),
        })
    }

    /// What becomes of a payment that nobody carries on: what our own wallet says of it. As long as
    /// the caller may repeat its request, it is left to it.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn recover_purchase(
        &self,
        item: Unsettled,
        is_callers: bool,
    ) -> Result<(), Refusal> {
        let Some(order) = item.payload().and_then(Order::from_stored) else {
            return self.store.recover_failed(item, Code::TreasuryUnpaid).await;
        };
        let standing = match self.purse_of(item.limit()) {
            Some(purse) if !is_callers => purse.buyer.standing(&order).await,
            Some(_) | None => Standing::Unknown,
        };
        match standing {
            Standing::Paid => {
                let receipt = receipt(Some(&order), &Word::default());
                self.store.recover_settled(item, receipt).await?;
                failpoint("recovered");
                Ok(())
            }
            Standing::Unpaid => self.store.recover_failed(item, Code::TreasuryUnpaid).await,
            Standing::Unknown => {
                self.store.recover_unknown(item).await;
                Ok(())
            }
        }
    }
}

fn order_of(hold: &Hold) -> Option<Order> {
    hold.payload().and_then(Order::from_stored)
}

/// What is kept of a payment: its reference, or the transaction that the server names for a
/// signature; and the server's word.
fn receipt(order: Option<&Order>, word: &Word) -> SettlementReceipt {
    let is_signature = order.is_some_and(Order::is_paid_by_showing);
    let said = word.transaction.as_deref().filter(|text| is_signature && is_plain(text));
    let reference = order.map(|order| order.paid().reference.as_str());
    let transaction = said.or(reference).unwrap_or_default().to_owned();
    let raw = if word.raw.is_empty() { "{}".to_owned() } else { word.raw.clone() };
    SettlementReceipt { transaction, payer: None, raw }
}

/// Whether a server's reference is kept as it is.
fn is_plain(text: &str) -> bool {
    (1..=REFERENCE_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// What is known of the money once the server has answered.
fn outlay(hold: &Hold, word: &Word) -> Outlay {
    match word.charged {
        Some(Charged::Yes | Charged::Unused) => {
            Outlay::Taken(receipt(order_of(hold).as_ref(), word))
        }
        Some(Charged::No) => Outlay::Untouched,
        Some(Charged::Unknown) | None => Outlay::Unknown,
    }
}
