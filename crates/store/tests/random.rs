//! Random sequences of verbs, clocks and crashes: the store stays sound, and gives back what
//! nobody used.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use countersign_core::{
    digest::Digest,
    ids::GrantId,
    ledger::{Charge, Window},
    money::Micros,
    proof::{FreeUse, Payment},
    quote::Quote,
    refusal::Code,
    terms::{ConsentRule, DoubtRule, Flow, Uses},
};
use countersign_store::{FailCause, Finished, Hold, Reserved, Settling, Store, Unfinished};
use proptest::prelude::*;
use std::collections::HashMap;
use support::*;

/// One step; the numbers choose among what is there.
#[derive(Clone, Copy, Debug)]
enum Step {
    Reserve { pay: u8, nonce: u8, arguments: u8, price: u64 },
    Buy { arguments: u8 },
    Rail(Rail, u8),
    Capture(u8),
    Finish(u8),
    Fail { hold: u8, cause: u8 },
    Recover { settles: bool },
    Resolve { capture: bool },
    Refund,
    Revoke,
    Pass(u64),
    Crash,
}

/// What the rail says of a call that is being settled, before or after its run.
#[derive(Clone, Copy, Debug)]
enum Rail {
    Settled,
    SettleFailed,
    SettleUnknown,
    CaptureSettled,
    Withhold,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..5, 0u8..4, 0u8..2, 1u64..4)
            .prop_map(|(pay, nonce, arguments, price)| Step::Reserve { pay, nonce, arguments, price: price * 120 + price }),
        1 => (0u8..2).prop_map(|arguments| Step::Buy { arguments }),
        3 => any::<u8>().prop_map(|n| Step::Rail(Rail::Settled, n)),
        1 => any::<u8>().prop_map(|n| Step::Rail(Rail::SettleFailed, n)),
        1 => any::<u8>().prop_map(|n| Step::Rail(Rail::SettleUnknown, n)),
        4 => any::<u8>().prop_map(Step::Capture),
        3 => any::<u8>().prop_map(Step::Finish),
        2 => any::<u8>().prop_map(|n| Step::Rail(Rail::CaptureSettled, n)),
        1 => any::<u8>().prop_map(|n| Step::Rail(Rail::Withhold, n)),
        2 => (any::<u8>(), 0u8..3).prop_map(|(hold, cause)| Step::Fail { hold, cause }),
        2 => any::<bool>().prop_map(|settles| Step::Recover { settles }),
        1 => any::<bool>().prop_map(|capture| Step::Resolve { capture }),
        1 => Just(Step::Refund),
        1 => Just(Step::Revoke),
        2 => (1u64..40_000).prop_map(Step::Pass),
        1 => Just(Step::Crash),
    ]
}

struct Run {
    dir: Dir,
    clock: Clock,
    store: Store,
    grant: GrantId,
    bought: Vec<(Bought, u8)>,
    quotes: HashMap<(u8, u8, u64), Quote>,
    settling: Vec<Settling>,
    holds: Vec<Hold>,
    finished: Vec<Finished>,
}

const LIMIT: u64 = 2_000;

fn budgets() -> Vec<Charge> {
    vec![
        charge("short", LIMIT, Window::Rolling(30_000)),
        charge("long", LIMIT * 3, Window::Rolling(300_000)),
        charge("all", LIMIT * 20, Window::Lifetime),
    ]
}

fn pick<T>(from: &mut Vec<T>, n: u8) -> Option<T> {
    (!from.is_empty()).then(|| from.remove(usize::from(n) % from.len()))
}

fn flow_of(hold: &Hold) -> Flow {
    hold.permit().terms().flow
}

impl Run {
    async fn new() -> Self {
        let (dir, clock) = (Dir::new("random"), Clock::new());
        let store = open(&dir, &clock);
        let grant = Self::grant(&store, &clock).await;
        let (bought, settling) = (Vec::new(), Vec::new());
        let (holds, finished, quotes) = (Vec::new(), Vec::new(), HashMap::new());
        Self { dir, clock, store, grant, bought, quotes, settling, holds, finished }
    }

    async fn grant(store: &Store, clock: &Clock) -> GrantId {
        let mut terms = grant_terms("alice", clock.now());
        terms.windows = vec![rolling(30_000, LIMIT)];
        terms.total = Some(Micros(LIMIT * 5));
        store.grant_create(new_grant(terms, clock.now())).await.unwrap().id
    }

    fn kind(&self, pay: u8, price: u64) -> Kind {
        let pay = match pay {
            0 => Pay::Free,
            1 => Pay::X402(Flow::Upfront),
            2 => Pay::X402(Flow::Authorization),
            4 => Pay::Work,
            _ => Pay::L402,
        };
        let idempotent = price.is_multiple_of(2);
        let price = if pay == Pay::L402 { 300 } else { price };
        kind(pay).by("alice").price(price).with(|terms| {
            terms.consent = ConsentRule::Required;
            terms.idempotent = idempotent;
            terms.uses = Uses(2);
        })
    }

    async fn reserve(&mut self, pay: u8, nonce: u8, arguments: u8, price: u64) {
        let (kind, now) = (self.kind(pay, price), self.clock.now());
        let text = arguments.to_string();
        let place = (pay, arguments, price);
        let known = self.quotes.get(&place).filter(|quote| now < quote.expires_at()).cloned();
        let quote = known.unwrap_or_else(|| kind.quote(&text, now));
        self.quotes.insert(place, quote.clone());
        let payment = match kind.pay {
            Pay::Free => Payment::not_required(&quote).unwrap(),
            Pay::X402(_) => pay_x402(&kind, &quote, [nonce; 32], now),
            Pay::Work => {
                let free = FreeUse { subject: Digest::of(b"somebody"), daily_quota: 50 };
                pay_work([nonce; 16], &quote, free, now)
            }
            Pay::L402 => {
                let usable = |(bought, _): &&(Bought, u8)| now < bought.new.minted.expires_at;
                let Some((bought, _)) = self.bought.iter().find(usable) else { return };
                bought.payment(&kind, &quote, now)
            }
        };
        let grant = self.store.grant(self.grant).unwrap();
        let Ok(permit) = join(&kind, &quote, payment, (Some(&grant), vec![]), now) else { return };
        match self.store.reserve(permit, budgets(), &evidence(&text)).await {
            Ok(Reserved::Run(hold)) => self.holds.push(hold),
            Ok(Reserved::Settle(settling)) => self.settling.push(settling),
            Ok(Reserved::Replay(_)) | Err(_) => {}
        }
    }

    async fn buy(&mut self, arguments: u8) {
        let (kind, now) = (self.kind(3, 300), self.clock.now());
        let quote = kind.quote(&arguments.to_string(), now);
        let bought = buy_l402(&kind, &quote, now);
        let asked = challenge(&kind, &quote, "{}", Some(bought.new.clone()), now);
        if self.store.challenge(asked).await.is_ok() {
            self.bought.insert(0, (bought, arguments));
        }
    }

    async fn rail(&mut self, rail: Rail, n: u8) {
        let store = self.store.clone();
        match rail {
            Rail::Settled => {
                if let Some(settling) = pick(&mut self.settling, n) {
                    self.holds.extend(store.settled(settling, receipt("0x1")).await);
                }
            }
            Rail::SettleFailed => {
                if let Some(settling) = pick(&mut self.settling, n) {
                    store.settle_failed(settling, Code::PayerFunds).await.unwrap();
                }
            }
            Rail::SettleUnknown => {
                if let Some(settling) = pick(&mut self.settling, n) {
                    store.settle_unknown(settling).await;
                }
            }
            Rail::CaptureSettled => {
                if let Some(finished) = pick(&mut self.finished, n) {
                    store.capture_settled(finished, receipt("0x2")).await.unwrap();
                }
            }
            Rail::Withhold => {
                if let Some(finished) = pick(&mut self.finished, n) {
                    store.withhold(finished, Code::ResultWithheld).await.unwrap();
                }
            }
        }
    }

    async fn conclude(&mut self, n: u8, wanted: Flow) {
        let Some(hold) = pick(&mut self.holds, n) else { return };
        let after = flow_of(&hold) == Flow::Authorization;
        match (after, wanted) {
            (true, Flow::Authorization) => {
                self.finished.push(self.store.finish(hold, outcome("x")).await.unwrap());
            }
            (false, Flow::Upfront) => drop(self.store.capture(hold, outcome("x")).await.unwrap()),
            (true, Flow::Upfront) | (false, Flow::Authorization) => self.holds.push(hold),
        }
    }

    async fn recover(&mut self, settles: bool) {
        for item in self.store.unfinished().await.unwrap() {
            match item {
                Unfinished::Settling(item) | Unfinished::Finished(item) if settles => {
                    drop(self.store.recover_settled(item, receipt("0x3")).await.unwrap());
                }
                Unfinished::Settling(item) | Unfinished::Finished(item) => {
                    self.store.recover_failed(item, Code::SettlementFailed).await.unwrap();
                }
                Unfinished::Starting(item) => self.store.give_up(item.call).await.unwrap(),
            }
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Reserve { pay, nonce, arguments, price } => {
                self.reserve(pay, nonce, arguments, price).await;
            }
            Step::Buy { arguments } => self.buy(arguments).await,
            Step::Capture(n) => self.conclude(n, Flow::Upfront).await,
            Step::Finish(n) => self.conclude(n, Flow::Authorization).await,
            Step::Fail { hold, cause } => {
                let causes = [FailCause::NotExecuted, FailCause::ToolError, FailCause::InDoubt];
                if let Some(hold) = pick(&mut self.holds, hold) {
                    self.store.fail(hold, causes[usize::from(cause)]).await.unwrap();
                }
            }
            Step::Recover { settles } => self.recover(settles).await,
            Step::Resolve { capture } => {
                let rule = if capture { DoubtRule::Capture } else { DoubtRule::Refund };
                if let Some(doubt) = self.store.in_doubt().first() {
                    self.store.resolve(doubt.call, rule, "operator").await.unwrap();
                }
            }
            Step::Refund => {
                if let Some(due) = self.store.refunds_due().first() {
                    self.store.refunded(due.call, receipt("0x4")).await.unwrap();
                }
            }
            Step::Revoke => {
                self.store.grant_revoke(self.grant, "alice").await.unwrap();
                self.grant = Self::grant(&self.store, &self.clock).await;
            }
            Step::Pass(ms) => self.clock.pass(ms),
            Step::Crash => self.crash(),
            Step::Rail(rail, n) => self.rail(rail, n).await,
        }
    }

    /// Goes on from what a crash leaves. What was in memory must follow from what was durable.
    fn crash(&mut self) {
        let copy = crash(&self.dir);
        let after = open(&copy, &self.clock);
        assert_sound(&after);
        for budget in budgets() {
            let left = |store: &Store| {
                store.remaining(std::slice::from_ref(&budget), None, self.clock.now())
            };
            // Opening releases nothing that counts, so both see the same room.
            assert_eq!(left(&self.store), left(&after));
        }
        self.store = after;
        self.dir = copy;
        self.settling.clear();
        self.holds.clear();
        self.finished.clear();
    }

    /// Ends everything: nothing is held any more.
    async fn wind_up(mut self) {
        self.crash();
        self.recover(true).await;
        for doubt in self.store.in_doubt() {
            self.store.resolve(doubt.call, doubt.rule, "operator").await.unwrap();
        }
        for due in self.store.refunds_due() {
            self.store.refunded(due.call, receipt("0x5")).await.unwrap();
        }
        assert_sound(&self.store);
        for name in ["short", "long", "all"] {
            if let Some((held, ..)) = self.store.counter(&format!("budget:{name}")) {
                assert_eq!(held, Micros(0), "no hold outlives its owner");
            }
        }
        for account in ["held", "suspense"] {
            assert_eq!(posted(&self.store, account), 0);
        }
        let pending = |b: &countersign_store::Balance| b.pending_in_minor == 0;
        assert!(self.store.balances().iter().all(pending));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_stays_sound(steps in prop::collection::vec(steps(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new().await;
            for step in steps {
                run.step(step).await;
            }
            run.wind_up().await;
        });
    }
}
