//! The store alone, doing what the gateway makes it do for one call: the same proofs, budgets,
//! records and outcome, reserved and captured, by tasks that do nothing else.

use crate::{
    cpu::Cpu,
    gateway::{self, AGENT, ISSUER_OF_STORE, PEOPLE, TENANT, TTL_S},
    messages::{self, RESULT},
    sample::Sample,
};
use anyhow::{Context as _, Result, anyhow, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_core::{
    audit::record::Details,
    digest::Digest,
    ids::{CallId, DecisionId, GrantId, QuoteId},
    ledger::{Charge, Spender},
    policy::{Answer, Decision, Intent},
    proof::{
        Authorization, Consent, Expected, FreeUse, Identity, Mint, Payment, Permit, Principal,
        Profile, Use, VerifiedCredential, VerifiedToken, VerifiedWork, mint,
    },
    quote::{CallParts, Offer, Quote, Rail, call_digest},
    refusal::{Code, Lights, Refusal},
    terms::Terms,
    time::UnixMs,
    wire::{
        l402::{Credential, L402Id},
        pow,
    },
    world::World,
};
use countersign_gateway::{config, config::Config, rails::pow::sha1, start, world};
use countersign_store::{
    Attempt, Challenge, Evidence, NewCredential, Outcome, Reserved, Store, Take,
};
use serde_json::json;
use std::{
    num::NonZeroU32,
    path::Path,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Free and anonymous.
    Free,
    /// Work, and anonymous.
    Work,
    /// Four proofs.
    Paid,
}

impl FromStr for Shape {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "free" => Ok(Self::Free),
            "work" => Ok(Self::Work),
            "paid" => Ok(Self::Paid),
            _ => bail!("there is no such shape"),
        }
    }
}

const WARM: u8 = 0;
const MEASURE: u8 = 1;
const DONE: u8 = 2;

/// Measures, and prints the sample as one line of JSON.
pub(crate) fn role(
    path: &Path,
    shape: Shape,
    callers: usize,
    warm: Duration,
    time: Duration,
) -> Result<()> {
    crate::child::end_with_starter();
    let (config, _) = config::load(path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let sample = runtime.block_on(measure(&config, shape, callers, warm, time))?;
    println!("{}", serde_json::to_string(&sample)?);
    Ok(())
}

async fn measure(
    config: &Config,
    shape: Shape,
    callers: usize,
    warm: Duration,
    time: Duration,
) -> Result<Sample> {
    let world = world::system();
    let gate = start::open(config.clone(), world.clone())?;
    let store = gate.store.clone();
    drop(gate);
    let phase = Arc::new(AtomicU8::new(WARM));
    let mut grants = Vec::new();
    for person in PEOPLE {
        grants.push(gateway::grant(&store, &world, ISSUER_OF_STORE, person).await?);
    }
    let mut tasks = JoinSet::new();
    for index in 0..callers {
        let caller = Caller::new(&store, &world, config, shape, index, &grants).await?;
        tasks.spawn(caller.work(Arc::clone(&phase)));
    }
    tokio::time::sleep(warm).await;
    let (cpu, begun) = (Cpu::own(), Instant::now());
    phase.store(MEASURE, Ordering::Relaxed);
    tokio::time::sleep(time).await;
    phase.store(DONE, Ordering::Relaxed);
    let (after, elapsed) = (Cpu::own(), begun.elapsed());
    let mut latencies_us = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        latencies_us.extend(ended??);
    }
    store.close().await;
    let calls = latencies_us.len() as u64;
    Ok(Sample::new(latencies_us, elapsed, after.since(&cpu, calls)))
}

/// One caller with one call at a time.
struct Caller {
    store: Store,
    world: World,
    terms: Arc<Terms>,
    evidence: Evidence,
    digest: Digest,
    offers: Vec<Offer>,
    charges: Vec<Charge>,
    quote_ttl_ms: u64,
    decided: Arc<Details>,
    paid: Option<Paid>,
}

/// What a caller of the priced tool has.
struct Paid {
    token: VerifiedToken,
    grant: GrantId,
    credential: VerifiedCredential,
}

fn refused(refusal: Refusal) -> anyhow::Error {
    anyhow!("refused: {refusal}")
}

impl Caller {
    async fn new(
        store: &Store,
        world: &World,
        config: &Config,
        shape: Shape,
        index: usize,
        grants: &[GrantId],
    ) -> Result<Self> {
        let server = config.servers.get("bench").context("no server")?;
        let name = match shape {
            Shape::Free => "free",
            Shape::Work => "work",
            Shape::Paid => "paid",
        };
        let terms = server.terms(name).context("no tool")?;
        let (person, grant) =
            PEOPLE.iter().zip(grants).cycle().nth(index).context("nobody has a grant")?;
        let token = match shape {
            Shape::Free | Shape::Work => None,
            Shape::Paid => Some(token(person, &terms, world)?),
        };
        let identity = identity(token.as_ref(), &terms, world)?;
        let principal = identity.principal();
        let arguments = messages::arguments(index);
        let spender = Spender {
            principal,
            tool: &terms.tool,
            intent: Intent::Read,
            session: "bench",
            grant: None,
        };
        let mut caller = Self {
            store: store.clone(),
            world: world.clone(),
            digest: digest(principal, &terms, &arguments),
            offers: offers(config, &terms)?,
            charges: config.budgets.iter().flat_map(|b| b.charges(&spender)).collect(),
            quote_ttl_ms: config.limits.quote_ttl_ms,
            evidence: Evidence {
                attempt: 1,
                trace: None,
                arguments: arguments.as_str().into(),
                definition: None,
            },
            terms: Arc::clone(&terms),
            decided: decided(shape),
            paid: None,
        };
        if let Some(token) = token {
            let credential = caller.buy(&identity, *grant).await?;
            caller.paid = Some(Paid { token, grant: *grant, credential });
        }
        Ok(caller)
    }

    fn quote(&self) -> Quote {
        let now = self.world.now();
        let id = QuoteId::new(now, self.world.random());
        Quote::new(id, self.digest, self.offers.clone(), now, now.plus_ms(self.quote_ttl_ms))
    }

    /// Stores a credential as a challenge does.
    async fn buy(&self, identity: &Identity, grant: GrantId) -> Result<VerifiedCredential> {
        let (preimage, root_key): ([u8; 32], [u8; 32]) = (self.world.random(), self.world.random());
        let hash = Digest::of(&preimage);
        let id = L402Id { payment_hash: *hash.as_bytes(), token_id: self.world.random() };
        let quote = self.quote();
        let price = &self.offers.first().context("no offer")?.amount;
        let now = self.world.now();
        let (macaroon, minted) = mint(&Mint {
            payment_hash: id.payment_hash,
            token_id: id.token_id,
            root_key: &root_key,
            identity,
            tool: &self.terms.tool,
            quote: &quote,
            price,
            uses: self.terms.uses,
            grant: Some(grant),
            expires_at: now.plus_ms(TTL_S * 1_000),
        })
        .map_err(refused)?;
        let macaroon_bytes = macaroon.encode();
        let shown = Credential { macaroon, id, macaroon_bytes, preimage };
        let verified = VerifiedCredential::verify(&shown, &root_key, &minted);
        let attempt = Attempt {
            call: CallId::new(now, self.world.random()),
            call_digest: self.digest,
            principal: identity.principal().clone(),
            tool: self.terms.tool.clone(),
            evidence: self.evidence.clone(),
            decided: None,
        };
        let bolt11 = "lnbcrt".repeat(50);
        let credential = NewCredential {
            key: id.key(),
            root_key,
            payment_hash: hash,
            bolt11,
            invoice_expires_at: minted.expires_at,
            node: "sandbox".to_owned(),
            request: None,
            minted,
        };
        let challenge = Challenge {
            attempt,
            quote,
            credential: Some(credential),
            lights: Lights::DARK,
            code: Code::PaymentRequired,
        };
        self.store.challenge(challenge).await.map_err(refused)?;
        verified.map_err(refused)
    }

    fn permit(&self) -> Result<Permit, Refusal> {
        let (now, terms, quote) = (self.world.now(), &self.terms, self.quote());
        let decision = Decision {
            id: DecisionId::new(now, self.world.random()),
            call_digest: self.digest,
            answer: Answer::Allow(Vec::new()),
            reasons: Vec::new(),
            bundle: Digest::from_bytes([1; 32]),
            revision: None,
            at: now,
            took_ms: 0,
            input: Arc::clone(&self.decided),
        };
        let authorization = Authorization::of(decision, Vec::new())?;
        let call = CallId::new(now, self.world.random());
        let Some(Paid { token, grant, credential }) = &self.paid else {
            let identity = Identity::anonymous(terms)?;
            let consent = Consent::not_required(terms, &quote)?;
            let payment = self.worked(&quote, now)?;
            let terms = Arc::clone(terms);
            return Permit::join(
                call,
                terms,
                quote,
                identity,
                consent,
                payment,
                authorization,
                now,
            );
        };
        let identity = Identity::of_token(token, terms, now)?;
        let grant = self.store.grant(*grant).ok_or(Code::NoGrant)?;
        let consent = Consent::by_grant(
            &grant,
            terms,
            &identity,
            &quote,
            &countersign_core::grant::Asked::of(Intent::Read),
            now,
        )?;
        let payment = Payment::l402(
            credential,
            &Use {
                principal: identity.principal(),
                terms,
                arguments: &self.evidence.arguments,
                quote: &quote,
                grant: Some(grant.id),
                at: now,
            },
        )?;
        let terms = Arc::clone(terms);
        Permit::join(call, terms, quote, identity, consent, payment, authorization, now)
    }

    /// The payment of an anonymous call: none, or work that was done for it.
    fn worked(&self, quote: &Quote, now: UnixMs) -> Result<Payment, Refusal> {
        if quote.is_free() {
            return Payment::not_required(quote);
        }
        let (key, subject) = (pow::Key::of(&[1; 32]), Digest::of(b"bench"));
        let challenge = pow::Challenge {
            id: self.world.random(),
            expires_at: now.plus_ms(60_000),
            difficulty: 1,
            call: quote.call_digest(),
            subject,
        };
        let presented = pow::Presented::of(&challenge.seal(&key), "0");
        let presented = presented.map_err(|_| Code::PaymentMalformed)?;
        let work = VerifiedWork::verify(&presented, &key, sha1)?;
        Payment::work(&work, FreeUse { subject, daily_quota: u32::MAX }, quote, now)
    }

    async fn work(self, phase: Arc<AtomicU8>) -> Result<Vec<u32>> {
        let mut latencies_us = Vec::new();
        let result_digest = Digest::of(RESULT.as_bytes());
        while phase.load(Ordering::Relaxed) != DONE {
            let begun = Instant::now();
            let permit = self.permit().map_err(refused)?;
            let reserved = self.store.reserve(permit, self.charges.clone(), &self.evidence).await;
            let Reserved::Run(hold) = reserved.map_err(refused)? else { bail!("not to be run") };
            let outcome = Outcome {
                result: RESULT.as_bytes().to_vec(),
                is_error: false,
                digest: result_digest,
                take: Take::All,
            };
            self.store.capture(hold, outcome).await.map_err(refused)?;
            if phase.load(Ordering::Relaxed) == MEASURE {
                let us = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
                latencies_us.push(us);
            }
        }
        Ok(latencies_us)
    }
}

/// What the gateway puts on record of its decision about such a call, which is a third of a
/// decision's record or more: one such record's texts.
fn decided(shape: Shape) -> Arc<Details> {
    let of_shape: &[_] = match shape {
        Shape::Free | Shape::Work => &FREE,
        Shape::Paid => &PAID,
    };
    let all = ANY.iter().chain(of_shape);
    Arc::new(all.map(|(name, text)| ((*name).into(), (*text).to_owned())).collect())
}

const ANY: [(&str, &str); 7] = [
    ("answer", "allow"),
    ("evaluation.ms", "0"),
    ("intent", "read derived=read declared=none from=catalogue"),
    ("reasons", "call.within-limits"),
    ("resource", "mcp http://127.0.0.1:34215/bench/mcp"),
    ("risk.model", "1830e87ebcff30a7bb2d67ad512aedde5085f77d741e74635acf825d53149f5a"),
    ("tool", "sensitivity=1 reversible=false open_world=true definition=approved"),
];
const FREE: [(&str, &str); 10] = [
    ("caller", "human=false assurance=0 chain=0"),
    ("facts", "at=1796274711541 identity=not_required payment=not_required consent=not_required"),
    ("history", "calls=1 same=1 budget=0"),
    ("micros", "0"),
    ("price", "free"),
    ("remaining", "none"),
    ("risk", "30 medium"),
    ("risk.points", "SENSITIVITY+5 ASSURANCE+20 INTENT_UNDECLARED+5"),
    ("session", "tainted=false private=false calls=512"),
    ("tier", "T3 agent=T3 human=T3 consent=T3 server=T3"),
];
const PAID: [(&str, &str); 11] = [
    ("caller", "human=true assurance=2 chain=0"),
    (
        "facts",
        "at=1796274596616 identity=valid payment=valid consent=valid per_call=1000000000000 \
         expires=1796360992378 left=999999985696 intents=read sign_in_age_s=4",
    ),
    ("history", "calls=37639 same=3 budget=0 median=60000 judged"),
    ("micros", "6"),
    ("price", "100 sat"),
    ("remaining", "999999773728"),
    ("risk", "25 low"),
    ("risk.points", "SENSITIVITY+5 FLOW_UNTRUSTED+10 ASSURANCE+5 INTENT_UNDECLARED+5"),
    ("session", "tainted=true private=false calls=512"),
    ("tier", "T3 agent=T3 human=T3 consent=T3 server=T3"),
    ("tightest", "tenant"),
];

fn identity(token: Option<&VerifiedToken>, terms: &Terms, world: &World) -> Result<Identity> {
    match token {
        Some(token) => Identity::of_token(token, terms, world.now()),
        None => Identity::anonymous(terms),
    }
    .map_err(refused)
}

fn digest(principal: &Principal, terms: &Terms, arguments: &str) -> Digest {
    let delegator = principal.delegator.as_ref();
    call_digest(&CallParts {
        resource: &terms.resource,
        tool: &terms.tool,
        arguments,
        delegator: delegator.map_or(("", ""), |d| (&*d.issuer, &*d.subject)),
        agent: &principal.agent,
        tenant: &principal.tenant,
    })
}

fn offers(config: &Config, terms: &Terms) -> Result<Vec<Offer>> {
    let price = terms.price_for(TENANT, AGENT).context("no price")?;
    if price.work {
        return Ok(vec![Offer::work()]);
    }
    let offer = |amount: &countersign_core::money::Amount| {
        let micros = config.assets.micros(amount)?;
        let (amount, payee) = (amount.clone(), "sandbox".to_owned());
        Some(Offer {
            rail: Rail::L402,
            amount,
            payee,
            micros,
            uses: NonZeroU32::new(terms.uses.0)?,
        })
    };
    price.amounts.iter().map(|amount| offer(amount).context("no rate")).collect()
}

/// A token as the gateway's verifier would have found it.
fn token(person: &str, terms: &Terms, world: &World) -> Result<VerifiedToken> {
    let now = world.now();
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(json!({ "alg": "ES256", "typ": "at+jwt", "kid": "bench" }));
    let claims = part(json!({
        "iss": ISSUER_OF_STORE, "sub": person, "aud": &*terms.resource, "client_id": AGENT,
        "exp": now.seconds() + TTL_S, "iat": now.seconds(), "auth_time": now.seconds(),
        "jti": hex::encode(world.random::<16>()),
    }));
    let mut profile = Profile::strict(ISSUER_OF_STORE, TENANT);
    profile.human_claim = Some("auth_time".into());
    let expected = Expected { profile: &profile, audience: &terms.resource };
    let jwt = format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode([1u8; 64]));
    VerifiedToken::verify(&jwt, &expected, now, |_, _, _| Ok(()))
        .map_err(|error| anyhow!("token: {}", Refusal::from(error)))
}
