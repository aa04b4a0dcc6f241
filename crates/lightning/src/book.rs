//! What stands now, by the journal: the states of invoices, payments and refunds, and the events
//! that can be asked for.
//!
//! Pure: facts in, states out; no clock, no disk, no node. A fact is applied only when it is
//! durable, and applying the same journal gives the same book.
//!
//! INVARIANT: `settled` and `cancelled` of a hold invoice are final, and once settling has begun
//! there is no way to `cancelled`, nor the other way round.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};

/// How long the node still takes a payment for an invoice that has expired.
pub(crate) const LATE_MS: u64 = 2 * 60 * 60 * 1000;

/// One thing that happened. What the journal holds, in this very form.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub(crate) enum Fact {
    Invoice {
        payment_hash: String,
        amount_msat: u64,
        expires_at_ms: u64,
        hold: bool,
    },
    Accepted {
        payment_hash: String,
        amount_msat: u64,
        claim_deadline_height: Option<u32>,
    },
    Settling {
        payment_hash: String,
        preimage: String,
    },
    Settled {
        payment_hash: String,
        amount_msat: u64,
    },
    Cancelled {
        payment_hash: String,
    },
    Paying {
        payment_hash: String,
        amount_msat: u64,
    },
    Refund {
        key: String,
        payment_id: String,
        refund: String,
        amount_msat: u64,
        expires_at_ms: u64,
    },
    Paid {
        payment_id: String,
        payment_hash: String,
        preimage: Option<String>,
        fee_msat: Option<u64>,
    },
    Failed {
        payment_id: String,
        payment_hash: Option<String>,
        reason: String,
    },
    ChannelPending {
        channel_id: String,
        node_id: String,
    },
    ChannelReady {
        channel_id: String,
        node_id: Option<String>,
    },
    ChannelClosed {
        channel_id: String,
        node_id: Option<String>,
        reason: Option<String>,
    },
    /// What came before, but for what follows, is no longer in the journal.
    Shortened {
        through: u64,
    },
}

/// A fact in its place.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Entry {
    pub(crate) n: u64,
    pub(crate) at_ms: u64,
    #[serde(flatten)]
    pub(crate) fact: Fact,
}

/// An invoice of ours.
#[derive(Clone, Debug)]
pub(crate) struct Invoice {
    pub(crate) amount_msat: u64,
    pub(crate) expires_at_ms: u64,
    pub(crate) hold: bool,
    pub(crate) held: Option<Held>,
    pub(crate) end: End,
}

/// A payment that arrived for it.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) amount_msat: u64,
    pub(crate) at_ms: u64,
    pub(crate) claim_deadline_height: Option<u32>,
}

/// How far an invoice is from its end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    None,
    /// The preimage is given out as soon as the node can: no way back.
    Settling(String),
    Settled(u64),
    Cancelled,
}

/// The word for where an invoice stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Open,
    Accepted,
    Settled,
    Cancelled,
    Expired,
}

/// Something that we pay.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Pending,
    Paid { payment_hash: String, preimage: Option<String>, fee_msat: Option<u64> },
    Failed { reason: String },
}

/// A payment by invoice.
#[derive(Clone, Debug)]
pub(crate) struct Payment {
    pub(crate) amount_msat: Option<u64>,
    pub(crate) outcome: Outcome,
}

/// A refund that was given out.
#[derive(Clone, Debug)]
pub(crate) struct Refund {
    pub(crate) payment_id: String,
    pub(crate) refund: String,
    pub(crate) amount_msat: u64,
    pub(crate) expires_at_ms: u64,
}

/// All of it.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) invoices: HashMap<String, Invoice>,
    /// By payment id, which for an invoice is its hash.
    pub(crate) payments: HashMap<String, Payment>,
    pub(crate) refunds: HashMap<String, Refund>,
    keys: HashMap<String, String>,
    events: VecDeque<Entry>,
    /// Events up to here may be gone.
    pub(crate) gone_through: u64,
    pub(crate) last: u64,
}

impl Invoice {
    /// Where it stands, seen at this time and this block.
    pub(crate) fn state(&self, now_ms: u64, height: u32) -> State {
        match (&self.end, &self.held) {
            (End::Settled(_), _) => State::Settled,
            (End::Cancelled, _) => State::Cancelled,
            (End::Settling(_), _) => State::Accepted,
            (End::None, Some(held)) if held.went_back(height) => State::Cancelled,
            (End::None, Some(_)) => State::Accepted,
            (End::None, None) if now_ms >= self.expires_at_ms => State::Expired,
            (End::None, None) => State::Open,
        }
    }

    /// Whether nothing can happen to it any more.
    fn is_over(&self, now_ms: u64) -> bool {
        match self.end {
            End::Settled(_) | End::Cancelled => true,
            End::Settling(_) => false,
            End::None => {
                self.held.is_none() && now_ms >= self.expires_at_ms.saturating_add(LATE_MS)
            }
        }
    }
}

impl Held {
    pub(crate) fn went_back(&self, height: u32) -> bool {
        self.claim_deadline_height.is_some_and(|deadline| height >= deadline)
    }
}

impl Book {
    /// Whether this tells what the book already knows: the node repeats its last event when a
    /// crash came between our writing it down and the node's forgetting it.
    pub(crate) fn knows(&self, fact: &Fact) -> bool {
        match fact {
            Fact::Accepted { payment_hash, claim_deadline_height, .. } => {
                let held = self.invoices.get(payment_hash).and_then(|i| i.held.as_ref());
                held.is_some_and(|held| held.claim_deadline_height == *claim_deadline_height)
            }
            Fact::Settled { payment_hash, .. } => self
                .invoices
                .get(payment_hash)
                .is_some_and(|invoice| matches!(invoice.end, End::Settled(_))),
            Fact::Paid { payment_id, .. } => self
                .payments
                .get(payment_id)
                .is_some_and(|payment| matches!(payment.outcome, Outcome::Paid { .. })),
            Fact::Failed { payment_id, .. } => self
                .payments
                .get(payment_id)
                .is_some_and(|payment| payment.outcome != Outcome::Pending),
            Fact::Invoice { .. }
            | Fact::Settling { .. }
            | Fact::Cancelled { .. }
            | Fact::Paying { .. }
            | Fact::Refund { .. }
            | Fact::ChannelPending { .. }
            | Fact::ChannelReady { .. }
            | Fact::ChannelClosed { .. }
            | Fact::Shortened { .. } => false,
        }
    }

    /// Whether a payment for this hash may be held: for a hold invoice of ours that has not ended.
    pub(crate) fn takes(&self, payment_hash: &str, height: u32) -> bool {
        self.invoices.get(payment_hash).is_some_and(|invoice| {
            let went_back = invoice.held.as_ref().is_some_and(|held| held.went_back(height));
            invoice.hold && invoice.end == End::None && !went_back
        })
    }

    /// Takes a durable fact in.
    pub(crate) fn apply(&mut self, entry: Entry) {
        self.last = self.last.max(entry.n);
        match &entry.fact {
            Fact::Invoice { payment_hash, amount_msat, expires_at_ms, hold } => {
                let (amount_msat, expires_at_ms, hold) = (*amount_msat, *expires_at_ms, *hold);
                let invoice =
                    Invoice { amount_msat, expires_at_ms, hold, held: None, end: End::None };
                self.invoices.insert(payment_hash.clone(), invoice);
                return;
            }
            Fact::Accepted { payment_hash, amount_msat, claim_deadline_height } => {
                if let Some(invoice) = self.invoices.get_mut(payment_hash) {
                    invoice.held = Some(Held {
                        amount_msat: *amount_msat,
                        at_ms: entry.at_ms,
                        claim_deadline_height: *claim_deadline_height,
                    });
                }
            }
            Fact::Settling { payment_hash, preimage } => {
                self.end(payment_hash, End::Settling(preimage.clone()));
                return;
            }
            Fact::Settled { payment_hash, amount_msat } => {
                self.end(payment_hash, End::Settled(*amount_msat));
            }
            Fact::Cancelled { payment_hash } => self.end(payment_hash, End::Cancelled),
            Fact::Paying { payment_hash, amount_msat } => {
                let payment =
                    Payment { amount_msat: Some(*amount_msat), outcome: Outcome::Pending };
                self.payments.insert(payment_hash.clone(), payment);
                return;
            }
            Fact::Refund { key, payment_id, refund, amount_msat, expires_at_ms } => {
                let refund = Refund {
                    payment_id: payment_id.clone(),
                    refund: refund.clone(),
                    amount_msat: *amount_msat,
                    expires_at_ms: *expires_at_ms,
                };
                self.refunds.insert(key.clone(), refund);
                self.keys.insert(payment_id.clone(), key.clone());
                let (amount_msat, outcome) = (Some(*amount_msat), Outcome::Pending);
                self.payments.insert(payment_id.clone(), Payment { amount_msat, outcome });
                return;
            }
            Fact::Paid { payment_id, payment_hash, preimage, fee_msat } => {
                let payment_hash = payment_hash.clone();
                let (preimage, fee_msat) = (preimage.clone(), *fee_msat);
                self.ended(payment_id, Outcome::Paid { payment_hash, preimage, fee_msat });
            }
            Fact::Failed { payment_id, reason, .. } => {
                self.ended(payment_id, Outcome::Failed { reason: reason.clone() });
            }
            Fact::ChannelPending { .. }
            | Fact::ChannelReady { .. }
            | Fact::ChannelClosed { .. } => {}
            Fact::Shortened { through } => {
                self.gone_through = *through;
                return;
            }
        }
        self.events.push_back(entry);
    }

    fn end(&mut self, payment_hash: &str, end: End) {
        if let Some(invoice) = self.invoices.get_mut(payment_hash) {
            invoice.end = end;
        }
    }

    fn ended(&mut self, payment_id: &str, outcome: Outcome) {
        let unknown = Payment { amount_msat: None, outcome: Outcome::Pending };
        self.payments.entry(payment_id.to_owned()).or_insert(unknown).outcome = outcome;
    }

    /// The refund that this payment id is of.
    pub(crate) fn key_of(&self, payment_id: &str) -> Option<&String> {
        self.keys.get(payment_id)
    }

    /// The invoices whose money never came.
    pub(crate) fn unpaid(&self) -> impl Iterator<Item = &String> {
        let all = self.invoices.iter();
        all.filter(|(_, invoice)| !matches!(invoice.end, End::Settled(_))).map(|(hash, _)| hash)
    }

    /// Events after the cursor, oldest first.
    pub(crate) fn events(&self, cursor: u64, limit: usize) -> Vec<Entry> {
        let from = self.events.partition_point(|entry| entry.n <= cursor);
        self.events.iter().skip(from).take(limit).cloned().collect()
    }

    /// The facts of what is not over yet, and the invoices that the rest was about.
    pub(crate) fn is_needed(&self, fact: &Fact, now_ms: u64) -> bool {
        let live = |hash: &String| self.invoices.get(hash).is_some_and(|i| !i.is_over(now_ms));
        let open = |id: &String| {
            self.payments.get(id).is_some_and(|payment| payment.outcome == Outcome::Pending)
        };
        match fact {
            Fact::Invoice { payment_hash, .. }
            | Fact::Accepted { payment_hash, .. }
            | Fact::Settling { payment_hash, .. }
            | Fact::Settled { payment_hash, .. }
            | Fact::Cancelled { payment_hash } => live(payment_hash),
            Fact::Paying { payment_hash, .. } => open(payment_hash),
            Fact::Refund { payment_id, .. }
            | Fact::Paid { payment_id, .. }
            | Fact::Failed { payment_id, .. } => {
                // A refund's key must never give out a second one.
                open(payment_id) || self.keys.contains_key(payment_id)
            }
            Fact::ChannelPending { .. }
            | Fact::ChannelReady { .. }
            | Fact::ChannelClosed { .. }
            | Fact::Shortened { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice::from_ref;

    fn book(facts: &[Fact]) -> Book {
        let mut book = Book::default();
        for (n, fact) in (1..).zip(facts) {
            book.apply(Entry { n, at_ms: 1_000 * n, fact: fact.clone() });
        }
        book
    }

    fn invoice(hold: bool) -> Fact {
        let (payment_hash, amount_msat) = ("h".to_owned(), 5_000);
        Fact::Invoice { payment_hash, amount_msat, expires_at_ms: 60_000, hold }
    }

    fn accepted(height: u32) -> Fact {
        let claim_deadline_height = Some(height);
        Fact::Accepted { payment_hash: "h".to_owned(), amount_msat: 5_000, claim_deadline_height }
    }

    fn state(facts: &[Fact], now_ms: u64, height: u32) -> State {
        book(facts).invoices["h"].state(now_ms, height)
    }

    #[test]
    fn an_invoice_goes_its_ways() {
        let settling = Fact::Settling { payment_hash: "h".to_owned(), preimage: "p".to_owned() };
        let settled = Fact::Settled { payment_hash: "h".to_owned(), amount_msat: 5_000 };
        let cancelled = Fact::Cancelled { payment_hash: "h".to_owned() };
        let hold = invoice(true);
        assert_eq!(state(from_ref(&hold), 59_999, 1), State::Open);
        assert_eq!(state(from_ref(&hold), 60_000, 1), State::Expired);
        assert_eq!(state(&[hold.clone(), cancelled.clone()], 60_000, 1), State::Cancelled);
        let mut path = vec![hold, accepted(100)];
        assert_eq!(state(&path, 60_000, 99), State::Accepted);
        assert_eq!(state(&path, 60_000, 100), State::Cancelled, "it went back by itself");
        path.push(settling);
        assert_eq!(state(&path, 60_000, 100), State::Accepted, "begun is not undone");
        path.push(settled);
        assert_eq!(state(&path, 60_000, 100), State::Settled);
    }

    #[test]
    fn a_repeated_event_is_known_and_a_new_one_is_not() {
        let book = book(&[invoice(true), accepted(100)]);
        assert!(book.knows(&accepted(100)));
        assert!(!book.knows(&accepted(150)));
        assert!(!book.knows(&Fact::Settled { payment_hash: "h".to_owned(), amount_msat: 5_000 }));
    }

    #[test]
    fn a_retry_can_fail_again() {
        let id = || "h".to_owned();
        let paying = Fact::Paying { payment_hash: id(), amount_msat: 1 };
        let failed =
            Fact::Failed { payment_id: id(), payment_hash: Some(id()), reason: "r".to_owned() };
        assert!(!book(from_ref(&paying)).knows(&failed));
        assert!(book(&[paying.clone(), failed.clone()]).knows(&failed));
        assert!(!book(&[paying.clone(), failed.clone(), paying]).knows(&failed));
    }

    #[test]
    fn events_are_what_comes_after_the_cursor() {
        let cancelled = Fact::Cancelled { payment_hash: "h".to_owned() };
        let book = book(&[invoice(true), accepted(100), cancelled]);
        let numbers = |cursor, limit| -> Vec<u64> {
            book.events(cursor, limit).iter().map(|entry| entry.n).collect()
        };
        assert_eq!(numbers(0, 100), [2, 3]);
        assert_eq!(numbers(0, 1), [2]);
        assert_eq!(numbers(2, 100), [3]);
        assert!(numbers(3, 100).is_empty());
    }
}
