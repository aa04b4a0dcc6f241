//! How many calls a second, and what each costs the writer: `throughput [callers] [seconds]
//! [dir]`. A call is two durable transactions, six records, four budgets, a grant, a use of a
//! credential and two transfers.
#![allow(clippy::unwrap_used, clippy::as_conversions, clippy::float_arithmetic, reason = "bench")]
#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::panic, reason = "bench")]
#![allow(clippy::indexing_slicing, reason = "bench")]

#[path = "../tests/support/mod.rs"]
mod support;

use countersign_core::{
    ids::{CallId, DecisionId},
    ledger::{Charge, Window},
    policy::{Answer, Decision, Intent},
    proof::{Authorization, Consent, Identity, Payment, Permit, Use, VerifiedToken},
    terms::{ConsentRule, IdentityRule, Uses},
    time::UnixMs,
    world::World,
};
use countersign_store::{Limits, Reserved, Store};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use support::*;

// Several agents act for few people, as in life.
const WHO: [&str; 16] = [
    "alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "kim",
    "leo", "mia", "nina", "oscar", "peggy",
];

struct Caller {
    store: Store,
    kind: Kind,
    token: VerifiedToken,
    bought: Bought,
    grant: countersign_core::ids::GrantId,
    charges: Vec<Charge>,
}

fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    UnixMs(u64::try_from(since.as_millis()).unwrap())
}

async fn caller(store: &Store, index: usize) -> Caller {
    let who = WHO[index % WHO.len()];
    let kind = kind(Pay::L402).by(who).with(|terms| {
        terms.uses = Uses(1_000_000);
        terms.identity = IdentityRule::Human;
        terms.consent = ConsentRule::Required;
    });
    let kind = kind.price(1_000_000_000_000);
    let quote = kind.quote("{}", now());
    let mut bought = buy_l402(&kind, &quote, now());
    bought.new.minted.expires_at = now().plus_ms(3_600_000);
    let asked = challenge(&kind, &quote, "{}", Some(bought.new.clone()), now());
    store.challenge(asked).await.unwrap();
    let terms = countersign_core::grant::GrantTerms {
        windows: vec![rolling(3_600_000, u64::MAX >> 2)],
        total: Some(countersign_core::money::Micros(u64::MAX >> 2)),
        per_call: countersign_core::money::Micros(u64::MAX >> 2),
        ..grant_terms(who, now().minus_ms(1_000))
    };
    let grant = store.grant_create(new_grant(terms, now())).await.unwrap().id;
    let names = ["tenant".to_owned(), format!("human:{who}"), "agent".into(), "tool".into()];
    let day = Window::Rolling(86_400_000);
    let charges = names.iter().map(|name| charge(name, u64::MAX >> 2, day.clone())).collect();
    let token = token(who, now().plus_ms(3_600_000), now());
    Caller { store: store.clone(), kind, token, bought, grant, charges }
}

impl Caller {
    fn permit(&self, verified: &countersign_core::proof::VerifiedCredential) -> Permit {
        let (terms, at) = (&self.kind.terms, now());
        let identity = Identity::of_token(&self.token, terms, at).unwrap();
        let quote = self.kind.quote_for(identity.principal(), "{}", at);
        let grant = self.store.grant(self.grant).unwrap();
        let consent = Consent::by_grant(
            &grant,
            terms,
            &identity,
            &quote,
            &countersign_core::grant::Asked::of(Intent::Read),
            at,
        )
        .unwrap();
        let call = Use {
            principal: identity.principal(),
            terms,
            arguments: "{}",
            quote: &quote,
            grant: None,
            at,
        };
        let payment = Payment::l402(verified, &call).unwrap();
        let decision = Decision {
            id: DecisionId::new(at, random()),
            call_digest: quote.call_digest(),
            answer: Answer::Allow(Vec::new()),
            reasons: Vec::new(),
            revision: None,
            took_ms: 0,
            bundle: countersign_core::digest::Digest::of(b"bundle"),
            at,
            input: Default::default(),
        };
        let authorization = Authorization::of(decision, Vec::new()).unwrap();
        let call = CallId::new(at, random());
        Permit::join(call, Arc::clone(terms), quote, identity, consent, payment, authorization, at)
            .unwrap()
    }

    async fn work(
        self,
        stop: Arc<AtomicBool>,
        on: Arc<AtomicBool>,
        done: Arc<AtomicU64>,
    ) -> Vec<u64> {
        let verified = self.bought.verified();
        let mut times = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let permit = self.permit(&verified);
            let begun = Instant::now();
            let reserved = self.store.reserve(permit, self.charges.clone(), &evidence("{}")).await;
            let Reserved::Run(hold) = reserved.unwrap() else { panic!("settled already") };
            let held = begun.elapsed();
            self.store.capture(hold, outcome("{\"content\":[]}")).await.unwrap();
            if on.load(Ordering::Relaxed) {
                done.fetch_add(1, Ordering::Relaxed);
                times.push(u64::try_from(held.as_micros()).unwrap());
            }
        }
        times
    }
}

/// CPU time of the threads of this name, in nanoseconds.
fn cpu_ns(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let ours = tasks.filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    });
    ours.filter_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    })
    .sum()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |i: usize, or: u64| arguments.get(i).map_or(or, |a| a.parse().unwrap());
    let (callers, seconds) = (number(1, 256), number(2, 10));
    let dir = Dir::new("throughput");
    let dir = arguments.get(3).map_or(dir.0.clone(), PathBuf::from);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    runtime.unwrap().block_on(run(callers, seconds, dir));
}

async fn run(callers: u64, seconds: u64, dir: PathBuf) {
    let mut options = options(&dir);
    options.log.interval_ms = 1_000;
    options.limits = Limits { open_quotes_per_principal: 10_000, ..Limits::default() };
    let store = Store::open(
        options,
        World::new(now, |bytes| {
            let fresh: [u8; 64] = random();
            bytes.copy_from_slice(&fresh[..bytes.len()]);
        }),
    )
    .unwrap();
    let flags = || Arc::new(AtomicBool::new(false));
    let (stop, on, done) = (flags(), flags(), Arc::new(AtomicU64::new(0)));
    let mut tasks = Vec::new();
    for index in 0..callers {
        let caller = caller(&store, usize::try_from(index).unwrap()).await;
        tasks.push(tokio::spawn(caller.work(stop.clone(), on.clone(), done.clone())));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (records, writer, publisher) = (store.log_size(), cpu_ns("ledger"), cpu_ns("log"));
    let begun = Instant::now();
    on.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    on.store(false, Ordering::Relaxed);
    let elapsed = begun.elapsed().as_secs_f64();
    let calls = done.load(Ordering::Relaxed);
    let (writer, publisher) = (cpu_ns("ledger") - writer, cpu_ns("log") - publisher);
    let records = store.log_size() - records;
    stop.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    times.sort_unstable();
    let quantile = |q: usize| times.get(times.len() * q / 1000).copied().unwrap_or(0) as f64 / 1e3;
    println!(
        "{:.0} calls/s, {:.1} records a call, reserve p50/p99 {:.1}/{:.1} ms, writer {:.1} µs a \
         call, publisher {:.1} µs a call",
        calls as f64 / elapsed,
        records as f64 / calls as f64,
        quantile(500),
        quantile(990),
        writer as f64 / 1e3 / calls as f64,
        publisher as f64 / 1e3 / calls as f64,
    );
    store.close().await;
}
