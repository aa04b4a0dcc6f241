//! The gateway under load: its configuration, the sandbox parts beside it, grants, and the
//! credentials that callers bought before the timed part.

use crate::{
    child::{self, Child},
    disk::Dir,
    load::{Answer, Connection},
    messages,
    options::Options,
};
use anyhow::{Context as _, Result, anyhow, bail};
use countersign_core::{
    grant::{GrantTerms, WindowLimit},
    ids::GrantId,
    money::Micros,
    policy::Intent,
    time::UnixMs,
    world::World,
};
use countersign_gateway::{
    config,
    reload::Gates,
    sandbox,
    sandbox::{
        issuer::{SandboxIssuer, SandboxToken},
        lightning::SandboxLightning,
    },
    start, world,
};
use countersign_store::{NewGrant, Store};
use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, sync::watch};

/// People that callers act for, in turns.
pub(crate) const PEOPLE: [&str; 16] = [
    "alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "kim",
    "leo", "mia", "nina", "oscar", "peggy",
];
/// The agent that all of them delegate to.
pub(crate) const AGENT: &str = "bench-agent";
/// Their tenant.
pub(crate) const TENANT: &str = "bench";
/// Tokens and credentials live longer than any run.
pub(crate) const TTL_S: u64 = 7_200;
/// More than any run spends.
pub(crate) const PLENTY: Micros = Micros(1_000_000_000_000);

/// A gateway in a process of its own, with its sandbox parts in this one.
pub(crate) struct Gateway {
    child: Child,
    issuer: SandboxIssuer,
    lightning: Arc<SandboxLightning>,
    /// Calls that were asked for: each has arguments of its own.
    asked: Arc<AtomicUsize>,
    resource: String,
    runtime: Runtime,
}

impl Gateway {
    /// Starts it over a fresh database, with a grant for each person.
    pub(crate) fn start(options: &Options, dir: &Dir, name: &str, upstream: &str) -> Result<Self> {
        Self::start_with(options, dir, name, upstream, Lightning::default())
    }

    /// The same, with Lightning as it is wanted.
    pub(crate) fn start_with(
        options: &Options,
        dir: &Dir,
        name: &str,
        upstream: &str,
        wanted: Lightning,
    ) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let issuer = sandbox::issuer::start(loopback, Vec::new(), world::system());
        let issuer = runtime.block_on(issuer)?;
        let lightning = sandbox::lightning::start(loopback, world::system(), u64::MAX >> 1);
        let lightning = runtime.block_on(lightning)?;
        let listen = free_address()?;
        let settings = Settings {
            listen,
            issuer: issuer.url(),
            lightning: lightning.url(),
            upstream: &format!("{upstream}/mcp"),
            wanted,
        };
        let path = settings.write(dir, name)?;
        runtime.block_on(prepare(&path, issuer.url()))?;
        let mut child = launch(options, &path, &format!("http://{listen}"))?;
        wait_for(&mut child, listen)?;
        let resource = format!("http://{listen}{}", messages::PATH);
        let (lightning, asked) = (Arc::new(lightning), Arc::default());
        Ok(Self { child, issuer, lightning, asked, resource, runtime })
    }

    /// Its process.
    pub(crate) const fn child(&self) -> &Child {
        &self.child
    }

    /// Where a process takes MCP messages: a gateway under the server's name.
    pub(crate) fn path_for(&self, child: &Child) -> &'static str {
        if child.id() == self.child.id() { messages::PATH } else { "/mcp" }
    }

    /// Where calls are bought one by one.
    pub(crate) fn shop(&self) -> Result<Shop> {
        Ok(Shop {
            authority: self.child.authority()?.to_owned(),
            lightning: Arc::clone(&self.lightning),
            asked: Arc::clone(&self.asked),
        })
    }

    /// Buys a credential of many calls for each caller, for anybody; the requests that use it.
    pub(crate) fn buy_bundles(&self, callers: usize) -> Result<Vec<Vec<u8>>> {
        let shop = self.shop()?;
        self.runtime.block_on(async {
            let mut connection = Connection::open(&shop.authority).await?;
            let mut requests = Vec::with_capacity(callers);
            for _ in 0..callers {
                requests.push(shop.buy(&mut connection, "many").await?);
            }
            Ok(requests)
        })
    }

    /// Buys one credential for each caller, from challenge to preimage; the requests that use it.
    pub(crate) fn buy(&mut self, callers: usize) -> Result<Vec<Vec<u8>>> {
        self.runtime.block_on(async {
            let mut connection = Connection::open(self.child.authority()?).await?;
            let mut requests = Vec::with_capacity(callers);
            for caller in 0..callers {
                requests.push(self.buy_one(&mut connection, caller).await?);
            }
            Ok(requests)
        })
    }

    async fn buy_one(&self, connection: &mut Connection, caller: usize) -> Result<Vec<u8>> {
        let authority = self.child.authority()?;
        let person = PEOPLE.iter().cycle().nth(caller).context("nobody")?;
        let token = self.issuer.mint(&SandboxToken {
            subject: person,
            client: AGENT,
            actors: &[],
            audience: &self.resource,
            scope: "",
            tenant: TENANT,
            roles: &[],
            is_human: true,
            ttl_s: TTL_S,
        })?;
        let bearer = format!("Bearer {token}");
        let unpaid = messages::unpaid(authority, caller, std::slice::from_ref(&bearer));
        let answer = connection.exchange(&unpaid).await?;
        let (macaroon, invoice) = offer(&answer)?;
        let preimage =
            self.lightning.pay(&invoice).await.map_err(|e| anyhow!("paying: {}", e.text()))?;
        let l402 = format!("L402 {macaroon}:{}", hex::encode(preimage));
        Ok(messages::paid(authority, caller, &[bearer, l402]))
    }
}

/// In a role: the gateway, as the library starts it.
pub(crate) fn role(path: &Path) -> Result<()> {
    child::end_with_starter();
    let (config, _) = config::load(path)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = start::listen(config.listen).await?;
        let gate = start::open(config, world::system())?;
        let (_never, stop) = watch::channel(false);
        start::serve(Gates::new(gate), listener, stop).await
    })
}

fn launch(options: &Options, config: &Path, url: &str) -> Result<Child> {
    let config = config.to_str().context("the directory's name is not UTF-8")?;
    match &options.gateway {
        Some(binary) => Child::start_program(binary, &["serve", "--config", config], url),
        None => {
            let own = std::env::current_exe()?;
            Child::start_program(&own, &["gateway", config], url)
        }
    }
}

fn wait_for(child: &mut Child, listen: SocketAddr) -> Result<()> {
    let begun = Instant::now();
    while TcpStream::connect(listen).is_err() {
        if child.has_ended() || begun.elapsed() > Duration::from_secs(20) {
            bail!("the gateway does not listen on {listen}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A configuration for the store alone: the same terms and budgets, nothing that is listened to.
pub(crate) fn config_for_store(dir: &Dir, shape: &str) -> Result<PathBuf> {
    let settings = Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 9)),
        issuer: ISSUER_OF_STORE,
        lightning: "http://127.0.0.1:9",
        upstream: "http://127.0.0.1:7/mcp",
        wanted: Lightning::default(),
    };
    settings.write(dir, &format!("store-{shape}"))
}

/// Nobody is there: the store asks nobody.
pub(crate) const ISSUER_OF_STORE: &str = "http://127.0.0.1:9";

struct Settings<'a> {
    listen: SocketAddr,
    issuer: &'a str,
    lightning: &'a str,
    upstream: &'a str,
    wanted: Lightning,
}

/// How the gateway makes its invoices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lightning {
    pub(crate) hold: bool,
    pub(crate) prefetch: usize,
}

impl Default for Lightning {
    fn default() -> Self {
        Self { hold: true, prefetch: 0 }
    }
}

/// Where calls are bought one by one.
#[derive(Clone, Debug)]
pub(crate) struct Shop {
    authority: String,
    lightning: Arc<SandboxLightning>,
    asked: Arc<AtomicUsize>,
}

impl Shop {
    /// Asks for a call that nobody asked for before: its number and its offer, macaroon and
    /// invoice.
    pub(crate) async fn ask(
        &self,
        connection: &mut Connection,
        tool: &str,
    ) -> Result<(usize, String, String)> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let unpaid = messages::asked(&self.authority, tool, number);
        let answer = connection.exchange(&unpaid).await?;
        let (macaroon, invoice) = offer(&answer)?;
        Ok((number, macaroon, invoice))
    }

    /// Asks for a call and pays for it: the request that makes it.
    pub(crate) async fn buy(&self, connection: &mut Connection, tool: &str) -> Result<Vec<u8>> {
        let (number, macaroon, invoice) = self.ask(connection, tool).await?;
        let paid = self.lightning.pay(&invoice).await;
        let preimage = paid.map_err(|error| anyhow!("paying: {}", error.text()))?;
        let l402 = format!("L402 {macaroon}:{}", hex::encode(preimage));
        Ok(messages::bought(&self.authority, tool, number, l402))
    }
}

/// Macaroon and invoice of a challenge.
fn offer(answer: &Answer<'_>) -> Result<(String, String)> {
    let challenge = answer.header("www-authenticate").filter(|_| answer.status() == "402");
    let Some(challenge) = challenge else {
        bail!("no challenge: {}\n{}", answer.head, String::from_utf8_lossy(answer.body));
    };
    let part = |name: &str| {
        let from = challenge.split_once(&format!("{name}=\""))?.1;
        Some(from.split_once('"')?.0.to_owned())
    };
    part("macaroon").zip(part("invoice")).context("no offer")
}

impl Settings<'_> {
    fn write(&self, dir: &Dir, name: &str) -> Result<PathBuf> {
        let dir = dir.path().join(name);
        fs::create_dir_all(&dir)?;
        let path = dir.join("countersign.yaml");
        fs::write(&path, self.yaml())?;
        Ok(path)
    }

    /// Five tools: one that wants nothing, one that wants work, two that want money of anybody, for
    /// one call or for many, and one that wants all four proofs. Four budgets count the last one's calls, besides the grant's window.
    fn yaml(&self) -> String {
        let Self { listen, issuer, lightning, upstream, wanted } = self;
        let Lightning { hold, prefetch } = wanted;
        let budget = |scope: &str| {
            format!(
                "  - {{ name: {scope}, scope: {{ {scope}: \"*\", tool: bench/paid }}, \
                 limit: 1000000 USD, window: 24h }}\n"
            )
        };
        let budgets: String = ["tenant", "delegator", "agent"].map(budget).concat();
        format!(
            "listen: {listen}
sandbox: true
data_dir: data
admin_socket: data/admin.sock
issuers:
  - {{ issuer: \"{issuer}\", allow_private_network: true, tenant_claim: tenant }}
assets:
  BTC: {{ network: lightning, rate: 60000 USD }}
rails:
  l402:
    source: {{ sandbox: \"{lightning}\" }}
    credential_ttl: 2h
    hold: {hold}
    prefetch: {prefetch}
  pow: {{ capacity_per_s: 10000, daily_quota: 1000000, min_difficulty: 1, max_difficulty: 1 }}
servers:
  bench:
    upstream: \"{upstream}\"
    relay: {{ anonymous: true }}
    tools:
      free: {{ price: free, identity: anonymous, consent: none, intent: read }}
      work: {{ price: work, identity: anonymous, consent: none, intent: read }}
      once: {{ price: 1 sat, identity: anonymous, consent: none, intent: read }}
      many:
        price: 100 sat
        uses: 10000
        identity: anonymous
        consent: none
        intent: read
      paid:
        price: 100 sat
        uses: 10000
        identity: human
        consent: required
        intent: read
limits:
  quote_ttl: 10s
  failed_payments_per_principal_per_minute: 1000000
  failed_payments_per_address_per_minute: 1000000
  invoices_per_principal_per_minute: 1000000
  invoices_per_address_per_minute: 1000000
budgets:
{budgets}  - {{ name: tool, scope: {{ tool: bench/paid }}, limit: 1000000 USD, window: 24h }}
"
        )
    }
}

/// Creates the grants, in the database that the gateway is about to open.
async fn prepare(path: &Path, issuer: &str) -> Result<()> {
    let (config, _) = config::load(path)?;
    let world = world::system();
    let gate = start::open(config, world.clone())?;
    let store = gate.store.clone();
    drop(gate);
    for person in PEOPLE {
        grant(&store, &world, issuer, person).await?;
    }
    store.close().await;
    Ok(())
}

/// A grant that covers every call of a person's agent.
pub(crate) async fn grant(
    store: &Store,
    world: &World,
    issuer: &str,
    person: &str,
) -> Result<GrantId> {
    let now = world.now();
    let id = GrantId::new(now, world.random());
    let terms = GrantTerms {
        tenant: TENANT.into(),
        issuer: issuer.into(),
        subject: person.into(),
        agent: AGENT.into(),
        server: "bench".into(),
        tools: vec!["paid".into()],
        intents: vec![Intent::Read],
        per_call: PLENTY,
        windows: vec![WindowLimit { length_ms: 3_600_000, limit: PLENTY }],
        total: Some(PLENTY),
        max_calls: None,
        bounds: countersign_core::grant::Bounds::default(),
        purpose: "measuring".to_owned(),
        not_before: UnixMs(now.0.saturating_sub(1_000)),
        expires_at: now.plus_ms(86_400_000),
    };
    let new = NewGrant { id, terms, approved_by: "bench".to_owned(), brought: None, agreed: None };
    store.grant_create(new).await.map_err(|refusal| anyhow!("granting: {refusal}"))?;
    Ok(id)
}
