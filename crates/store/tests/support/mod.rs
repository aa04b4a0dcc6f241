//! What tests and the benchmark build stores and permits from.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::as_conversions, clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use countersign_core::{
    audit::checkpoint::SignerKey,
    digest::Digest,
    grant::{Asked, Bounds, Grant, GrantTerms, WindowLimit},
    ids::{ApprovalId, CallId, DecisionId, GrantId, QuoteId},
    ledger::{CallState, Charge},
    money::{Amount, Micros},
    policy::{Answer, Decision, Intent, Obligation},
    proof::{
        Authorization, Consent, Expected, FreeUse, Identity, PaidX402, Payment, Permit, Principal,
        Profile, VerifiedCredential, VerifiedToken, VerifiedWork,
        l402::{Mint, Use, mint},
        x402::{Binding, Challenge as X402Challenge, X402Terms},
    },
    quote::{CallParts, Offer, Quote, Rail, call_digest},
    refusal::{Code, Lights, Refusal},
    terms::{ConsentRule, DoubtRule, Flow, IdentityRule, PayerRule, Terms, ToolRef, Uses},
    time::UnixMs,
    wire::{l402::Credential as Presented, l402::L402Id, pow, x402::PaymentPayload},
    world::World,
};
use countersign_store::{
    Attempt, Challenge, Durability, Evidence, Hold, Limits, LogOptions, NewCredential, NewGrant,
    Options, Outcome, Reserved, SettlementReceipt, Settling, Store, Take,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub(crate) const START: u64 = 1_795_000_000_000;

/// A directory that goes with the test.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let base =
            std::env::var_os("STORE_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = base.join(format!("countersign-{name}-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A clock that tests turn, and randomness that never repeats.
#[derive(Clone)]
pub(crate) struct Clock(pub(crate) Arc<AtomicU64>);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(START)))
    }

    pub(crate) fn now(&self) -> UnixMs {
        UnixMs(self.0.load(Ordering::SeqCst))
    }

    pub(crate) fn pass(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    pub(crate) fn world(&self) -> World {
        let clock = self.clone();
        World::new(move || clock.now(), fill)
    }
}

pub(crate) fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn fill(bytes: &mut [u8]) {
    let seed = Digest::of_parts(&[&fresh().to_be_bytes(), &std::process::id().to_be_bytes()]);
    for (to, from) in bytes.iter_mut().zip(seed.as_bytes().iter().cycle()) {
        *to = *from;
    }
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

pub(crate) fn signer() -> SignerKey {
    SignerKey::from_seed("log.example/test", &[7; 32]).unwrap()
}

pub(crate) fn options(dir: &Path) -> Options {
    Options {
        dir: dir.to_owned(),
        durability: Durability::Full,
        log: LogOptions { signer: signer(), pseudonym_key: [9; 32], interval_ms: 20 },
        limits: Limits::default(),
    }
}

pub(crate) fn open(dir: &Dir, clock: &Clock) -> Store {
    Store::open(options(&dir.0), clock.world()).unwrap()
}

/// How a test's call is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pay {
    Free,
    X402(Flow),
    L402,
    Work,
}

/// One kind of call: who, what, how paid.
#[derive(Clone)]
pub(crate) struct Kind {
    pub(crate) terms: Arc<Terms>,
    pub(crate) who: Option<&'static str>,
    pub(crate) price: u64,
    pub(crate) pay: Pay,
}

pub(crate) fn kind(pay: Pay) -> Kind {
    let flow = match pay {
        Pay::X402(flow) => flow,
        Pay::Free | Pay::L402 | Pay::Work => Flow::Upfront,
    };
    Kind {
        terms: Arc::new(Terms {
            tool: ToolRef { server: "weather".into(), tool: "forecast".into() },
            resource: "https://gw.example/weather/mcp".into(),
            identity: IdentityRule::Anonymous,
            scopes: Vec::new(),
            consent: ConsentRule::NotRequired,
            prices: Vec::new(),
            flow,
            idempotent: false,
            doubt: DoubtRule::Refund,
            uses: Uses(1),
            intent: Some(Intent::Read),
            sensitivity: 0,
            is_reversible: false,
            open_world: None,
            deadline_ms: 1_000,
            payer: PayerRule::Any,
            keep_output_schema: false,
            top_up: false,
        }),
        who: None,
        price: 10_000,
        pay,
    }
}

impl Kind {
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Terms)) -> Self {
        let mut terms = Terms::clone(&self.terms);
        change(&mut terms);
        self.terms = Arc::new(terms);
        self
    }

    pub(crate) fn by(mut self, who: &'static str) -> Self {
        self.who = Some(who);
        self
    }

    pub(crate) fn price(mut self, micros: u64) -> Self {
        self.price = micros;
        self
    }

    pub(crate) fn identity(&self, now: UnixMs) -> Identity {
        let Some(who) = self.who else { return Identity::anonymous(&self.terms).unwrap() };
        let token = token(who, now.plus_ms(3_600_000), now);
        Identity::of_token(&token, &self.terms, now).unwrap()
    }

    pub(crate) fn digest(&self, arguments: &str, now: UnixMs) -> Digest {
        self.digest_for(self.identity(now).principal(), arguments)
    }

    fn digest_for(&self, principal: &Principal, arguments: &str) -> Digest {
        let delegator = principal.delegator.as_ref();
        call_digest(&CallParts {
            resource: &self.terms.resource,
            tool: &self.terms.tool,
            arguments,
            delegator: delegator.map_or(("", ""), |d| (&*d.issuer, &*d.subject)),
            agent: &principal.agent,
            tenant: &principal.tenant,
        })
    }

    pub(crate) fn offer(&self) -> Option<Offer> {
        let micros = Micros(self.price);
        match self.pay {
            Pay::Free => None,
            Pay::X402(_) => Some(Offer {
                rail: Rail::X402,
                amount: Amount { asset: "USDC".into(), minor: self.price.into() },
                payee: x402_terms(Flow::Upfront).pay_to.to_string(),
                micros,
                uses: NonZeroU32::MIN,
            }),
            Pay::L402 => Some(Offer {
                rail: Rail::L402,
                amount: Amount { asset: "BTC".into(), minor: u128::from(self.price) * 2 },
                payee: "sandbox".into(),
                micros,
                uses: NonZeroU32::new(self.terms.uses.0).unwrap(),
            }),
            Pay::Work => Some(Offer::work()),
        }
    }

    pub(crate) fn quote(&self, arguments: &str, now: UnixMs) -> Quote {
        self.quote_for(self.identity(now).principal(), arguments, now)
    }

    pub(crate) fn quote_for(&self, who: &Principal, arguments: &str, now: UnixMs) -> Quote {
        let id = QuoteId::new(now, random());
        let offers = self.offer().into_iter().collect();
        Quote::new(id, self.digest_for(who, arguments), offers, now, now.plus_ms(60_000))
    }

    pub(crate) fn attempt(&self, arguments: &str, now: UnixMs) -> Attempt {
        Attempt {
            call: CallId::new(now, random()),
            call_digest: self.digest(arguments, now),
            principal: self.identity(now).principal().clone(),
            tool: self.terms.tool.clone(),
            evidence: evidence(arguments),
            decided: None,
        }
    }
}

pub(crate) fn evidence(arguments: &str) -> Evidence {
    Evidence {
        attempt: 1,
        trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        arguments: arguments.into(),
        definition: Some(Digest::of(b"definition")),
    }
}

pub(crate) fn token(who: &str, expires_at: UnixMs, now: UnixMs) -> VerifiedToken {
    let part = |value: serde_json::Value| base64url(value.to_string().as_bytes());
    let header = part(json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k"}));
    let claims = part(json!({
        "iss": "https://idp.example/", "sub": who, "aud": "https://gw.example/weather/mcp",
        "exp": expires_at.seconds(), "iat": now.seconds(), "client_id": "bot",
        "jti": format!("{who}-{}", fresh()), "auth_time": now.seconds(),
    }));
    let mut profile = Profile::strict("https://idp.example/", "acme");
    profile.human_claim = Some("auth_time".into());
    let expected = Expected { profile: &profile, audience: "https://gw.example/weather/mcp" };
    let jwt = format!("{header}.{claims}.{}", base64url(&[1; 64]));
    VerifiedToken::verify(&jwt, &expected, now, |_, _, _| Ok(())).unwrap()
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * i) & 63) as usize]));
        }
    }
    text
}

pub(crate) fn x402_terms(flow: Flow) -> X402Terms {
    X402Terms {
        chain_id: 84532,
        asset: "USDC".into(),
        token: "0x036CbD53842c5426634e7929541eC2318f3dCF7e".parse().unwrap(),
        pay_to: "0x90F79bf6EB2c4f870365E785982E1f101E93b906".parse().unwrap(),
        name: "USDC".into(),
        version: "2".into(),
        max_timeout_s: 60,
        margin_s: 6,
        skew_s: 30,
        binding: Binding::Required,
        flow,
    }
}

/// An x402 payment of a quote, under a nonce.
pub(crate) fn pay_x402(kind: &Kind, quote: &Quote, nonce: [u8; 32], now: UnixMs) -> Payment {
    let Pay::X402(flow) = kind.pay else { panic!("an x402 kind") };
    let (terms, offer) = (x402_terms(flow), kind.offer().unwrap());
    let challenge = X402Challenge::of(&[7; 32], quote);
    let accepted = terms.requirements(&offer, &challenge).to_json();
    let payment = json!({
        "x402Version": 2,
        "accepted": serde_json::from_str::<serde_json::Value>(&accepted).unwrap(),
        "payload": {
            "signature": format!("0x{}1b", "11".repeat(64)),
            "authorization": {
                "from": format!("0x{}", "11".repeat(20)),
                "to": terms.pay_to.to_string(),
                "value": kind.price.to_string(),
                "validAfter": "0",
                "validBefore": (now.seconds() + 60).to_string(),
                "nonce": format!("0x{}", Digest::from_bytes(nonce).to_hex()),
            },
        },
    });
    let payment = PaymentPayload::parse(payment.to_string().as_bytes()).unwrap();
    let signed = |_: &[u8; 32], _: &[u8; 65]| Some([0x11; 20]);
    let paid = PaidX402::verify(&payment, quote, &offer, &terms, &challenge, now, signed).unwrap();
    Payment::x402(paid, quote, flow).unwrap()
}

/// Work done for a quote's call under a challenge.
pub(crate) fn pay_work(id: [u8; 16], quote: &Quote, free: FreeUse, now: UnixMs) -> Payment {
    let key = pow::Key::of(&[5; 32]);
    let challenge = pow::Challenge {
        id,
        expires_at: now.plus_ms(60_000),
        difficulty: 1,
        call: quote.call_digest(),
        subject: free.subject,
    };
    let presented = pow::Presented::of(&challenge.seal(&key), "0").unwrap();
    let work = VerifiedWork::verify(&presented, &key, |_| [0xff; 20]).unwrap();
    Payment::work(&work, free, quote, now).unwrap()
}

/// An L402 credential with its preimage, as minted with a challenge.
pub(crate) struct Bought {
    pub(crate) new: NewCredential,
    presented: Presented,
}

pub(crate) fn buy_l402(kind: &Kind, quote: &Quote, now: UnixMs) -> Bought {
    let (preimage, root_key): ([u8; 32], [u8; 32]) = (random(), random());
    let payment_hash: [u8; 32] = Sha256::digest(preimage).into();
    let token_id = random();
    let (macaroon, minted) = mint(&Mint {
        payment_hash,
        token_id,
        root_key: &root_key,
        identity: &kind.identity(now),
        tool: &kind.terms.tool,
        quote,
        price: &kind.offer().unwrap().amount,
        uses: kind.terms.uses,
        grant: None,
        expires_at: now.plus_ms(120_000),
    })
    .unwrap();
    let id = L402Id { payment_hash, token_id };
    let macaroon_bytes = macaroon.encode();
    Bought {
        new: NewCredential {
            key: id.key(),
            root_key,
            payment_hash: Digest::from_bytes(payment_hash),
            bolt11: "lnbcrt1".into(),
            invoice_expires_at: now.plus_ms(120_000),
            node: "sandbox".into(),
            request: None,
            minted,
        },
        presented: Presented { macaroon, id, macaroon_bytes, preimage },
    }
}

impl Bought {
    /// A copy that is good for one use alone.
    pub(crate) fn narrowed(&self) -> Self {
        let Self { new, presented } = self;
        let macaroon = presented.macaroon.clone().attenuate(b"n_uses=1");
        let presented = Presented {
            macaroon_bytes: macaroon.encode(),
            macaroon,
            id: presented.id,
            preimage: presented.preimage,
        };
        Self { new: new.clone(), presented }
    }

    pub(crate) fn verified(&self) -> VerifiedCredential {
        let Self { new, presented } = self;
        VerifiedCredential::verify(presented, &new.root_key, &new.minted).unwrap()
    }

    pub(crate) fn payment(&self, kind: &Kind, quote: &Quote, now: UnixMs) -> Payment {
        let identity = kind.identity(now);
        let (principal, terms) = (identity.principal(), &*kind.terms);
        let call = Use { principal, terms, arguments: "{}", quote, grant: None, at: now };
        Payment::l402(&self.verified(), &call).unwrap()
    }
}

pub(crate) fn challenge(
    kind: &Kind,
    quote: &Quote,
    arguments: &str,
    credential: Option<NewCredential>,
    now: UnixMs,
) -> Challenge {
    let attempt = kind.attempt(arguments, now);
    let (quote, lights, code) = (quote.clone(), Lights::DARK, Code::PaymentRequired);
    Challenge { attempt, quote, credential, lights, code }
}

pub(crate) fn permit(kind: &Kind, quote: &Quote, payment: Payment, now: UnixMs) -> Permit {
    join(kind, quote, payment, (None, Vec::new()), now).unwrap()
}

pub(crate) fn join(
    kind: &Kind,
    quote: &Quote,
    payment: Payment,
    (grant, approvals): (Option<&Grant>, Vec<ApprovalId>),
    now: UnixMs,
) -> Result<Permit, Refusal> {
    join_under(kind, quote, payment, (grant, approvals, Vec::new()), now)
}

/// With obligations on the call.
pub(crate) fn join_under(
    kind: &Kind,
    quote: &Quote,
    payment: Payment,
    (grant, approvals, obligations): (Option<&Grant>, Vec<ApprovalId>, Vec<Obligation>),
    now: UnixMs,
) -> Result<Permit, Refusal> {
    let identity = kind.identity(now);
    let consent = match grant {
        Some(grant) => {
            Consent::by_grant(grant, &kind.terms, &identity, quote, &Asked::of(Intent::Read), now)?
        }
        None => Consent::not_required(&kind.terms, quote)?,
    };
    let decision = Decision {
        id: DecisionId::new(now, random()),
        call_digest: quote.call_digest(),
        answer: Answer::Allow(obligations),
        reasons: Vec::new(),
        bundle: Digest::of(b"bundle"),
        revision: None,
        took_ms: 0,
        at: now,
        input: Default::default(),
    };
    let authorization = Authorization::of(decision, approvals)?;
    let call = CallId::new(now, random());
    let terms = Arc::clone(&kind.terms);
    Permit::join(call, terms, quote.clone(), identity, consent, payment, authorization, now)
}

/// A permit for a free or x402 call of its own.
pub(crate) fn any_permit(kind: &Kind, arguments: &str, now: UnixMs) -> Permit {
    let quote = kind.quote(arguments, now);
    let payment = match kind.pay {
        Pay::Free => Payment::not_required(&quote).unwrap(),
        Pay::X402(_) => pay_x402(kind, &quote, random(), now),
        Pay::L402 | Pay::Work => panic!("needs a challenge"),
    };
    permit(kind, &quote, payment, now)
}

pub(crate) fn grant_terms(who: &str, now: UnixMs) -> GrantTerms {
    GrantTerms {
        tenant: "acme".into(),
        issuer: "https://idp.example/".into(),
        subject: who.into(),
        agent: "bot".into(),
        server: "weather".into(),
        tools: vec!["*".into()],
        intents: vec![Intent::Read],
        per_call: Micros(1_000_000),
        windows: Vec::new(),
        total: None,
        max_calls: None,
        bounds: Bounds::default(),
        purpose: "weather".into(),
        not_before: now,
        expires_at: now.plus_ms(86_400_000),
    }
}

pub(crate) fn new_grant(terms: GrantTerms, now: UnixMs) -> NewGrant {
    NewGrant {
        id: GrantId::new(now, random()),
        terms,
        approved_by: "alice@acme.example".into(),
        brought: None,
        agreed: None,
    }
}

pub(crate) fn rolling(length_ms: u64, limit: u64) -> WindowLimit {
    WindowLimit { length_ms, limit: Micros(limit) }
}

pub(crate) fn charge(name: &str, limit: u64, window: countersign_core::ledger::Window) -> Charge {
    Charge::hard(format!("budget:{name}"), Micros(limit), window)
}

pub(crate) fn outcome(text: &str) -> Outcome {
    Outcome {
        result: text.as_bytes().to_vec(),
        is_error: false,
        digest: Digest::of(text.as_bytes()),
        take: Take::All,
    }
}

pub(crate) fn receipt(transaction: &str) -> SettlementReceipt {
    SettlementReceipt {
        transaction: transaction.to_owned(),
        payer: Some("0x1111111111111111111111111111111111111111".to_owned()),
        raw: "{\"success\":true}".to_owned(),
    }
}

/// Reserves and expects to run.
pub(crate) async fn run(store: &Store, permit: Permit, arguments: &str) -> Hold {
    running(store.reserve(permit, Vec::new(), &evidence(arguments)).await)
}

pub(crate) fn running(reserved: Result<Reserved, Refusal>) -> Hold {
    match reserved.unwrap() {
        Reserved::Run(hold) => hold,
        other @ (Reserved::Settle(_) | Reserved::Replay(_)) => panic!("{other:?}"),
    }
}

pub(crate) fn settling(reserved: Result<Reserved, Refusal>) -> Settling {
    match reserved.unwrap() {
        Reserved::Settle(settling) => settling,
        other @ (Reserved::Run(_) | Reserved::Replay(_)) => panic!("{other:?}"),
    }
}

/// A copy of a store's files as a crash at this moment leaves them.
pub(crate) fn crash(dir: &Dir) -> Dir {
    let copy = Dir::new("crash");
    copy_all(&dir.0, &copy.0);
    copy
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else if entry.file_name() != "countersign.db-shm" {
            // A file may be renamed meanwhile: the crash came before it.
            let _ = std::fs::copy(entry.path(), target);
        }
    }
}

pub(crate) fn assert_sound(store: &Store) {
    assert_eq!(store.fsck().unwrap().findings, Vec::new());
}

pub(crate) fn posted(store: &Store, account: &str) -> i128 {
    let balances = store.balances();
    let found = balances.iter().filter(|b| b.account.to_string() == account);
    found.map(|b| b.posted_minor).sum()
}

pub(crate) fn state_of(store: &Store, call: CallId) -> CallState {
    store.call(call).unwrap().unwrap().state
}
