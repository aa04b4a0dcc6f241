//! From a configuration to a running gateway.

use crate::{
    admin,
    config::{self, Config, LightningNetwork, NodeAccess, Server},
    console,
    fetch::{Fetch, FetchRules, Pin},
    gate::Gate,
    hold::{self, Sealed},
    keys::{self, ReceiptSigner},
    metrics, notify,
    prove::{
        credential::Credentials,
        definitions::Definitions,
        identity::{Discovery, IssuerConfig, IssuerProblem, Verifier},
        lightning::L402Rail,
        nonce::Nonces,
        patience::Patience,
        payment::{Rails, VERIFYING_MAX, X402Rail},
        pdp::Pdp,
        policy::{Live, shadow},
        provider::Provider,
        standing::Standing,
        state::StateKey,
    },
    rails::{
        evm::{Chain, EvmFacilitator, EvmLimits, Signer},
        lightning::{Backend, Cln, Daemon, Lnd, Loopd, Node, Nodes, Phoenixd, Stock},
        pow::PowRail,
        x402::{Facilitator, Remote},
    },
    recover,
    reload::Gates,
    server,
    upstream::Upstream,
};
use anyhow::{Context as _, Result, anyhow, bail};
use countersign_client::{Buyer, Caps, KnownAsset, Means};
use countersign_core::{
    proof::{Binding, X402Terms},
    terms::Flow,
    wire::eip712::Address,
    world::World,
};
use countersign_store::{Claim, Durability, Limits, LogOptions, Options, Store};
use http::{HeaderValue, Uri};
use lightning_invoice::Currency;
use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinHandle,
};

/// Opens everything that a call needs.
///
/// # Errors
/// Whatever cannot be opened, with what to do.
pub fn open(config: Config, world: World) -> Result<Arc<Gate>> {
    refuse_open_sandbox(&config)?;
    // Before the keys: of several processes that start on nothing, one makes them.
    let claim = Claim::on(&config.data_dir).with_context(|| unopened(&config))?;
    let keys = keys::open(&config.data_dir, &config.audit.origin, &world)?;
    let store = open_store(&config, claim, &keys, world.clone())?;
    let verifier = Verifier::new(issuers(&config), world.clone()).map_err(unusable)?;
    let policy = Arc::new(open_policy(&config, &store, &world)?);
    let rails = Arc::new(open_rails(&config, &keys, &world)?);
    let upstreams = upstreams(&config, &world, &HashMap::new());
    let buyers = buyers(&config, &world);
    let programs = programs(&config).map(|issuer| Verifier::new(vec![issuer], world.clone()));
    let programs = programs.transpose().map_err(unusable)?;
    let unread = |refusal| anyhow!("the store cannot be read: {refusal}");
    let gate = Arc::new(Gate {
        pdp: config.pdp.as_ref().map(Pdp::new),
        risk_provider: config.risk_provider.as_ref().map(Provider::new),
        past: Arc::default(),
        patience: Arc::new(Patience::new(&config.limits)),
        standing: Arc::new(Standing::load(&store, world.now()).map_err(unread)?),
        definitions: Arc::new(Definitions::load(&store).map_err(unread)?),
        streams: Arc::default(),
        calling: watch::Sender::new(()),
        receipts: Arc::new(ReceiptSigner::of(&keys.log)?),
        credentials: Credentials::default(),
        nonces: Nonces::of(&keys.challenge),
        state_key: Arc::new(StateKey::of(&keys.challenge).context("the key of request states")?),
        signer: keys.log,
        config,
        world,
        store,
        verifier,
        programs,
        policy,
        rails,
        upstreams,
        buyers,
    });
    gate.recall().map_err(unread)?;
    Ok(gate)
}

/// The gate of another configuration over what is open already. What is known of callers, tools
/// and payments is the same; so are the ways to issuers and servers that did not change.
///
/// # Errors
/// The configuration asks for something that cannot be had.
pub(crate) fn reopen(gate: &Gate, config: Config) -> Result<Gate> {
    let world = &gate.world;
    let verifier = gate.verifier.with(issuers(&config)).map_err(unusable)?;
    let programs = gate.programs.as_ref().zip(programs(&config));
    let programs = programs.map(|(known, issuer)| known.with(vec![issuer]));
    Ok(Gate {
        pdp: config.pdp.as_ref().map(Pdp::new),
        risk_provider: config.risk_provider.as_ref().map(Provider::new),
        programs: programs.transpose().map_err(unusable)?,
        upstreams: upstreams(&config, world, &gate.upstreams),
        buyers: buyers(&config, world),
        config,
        verifier,
        world: world.clone(),
        store: gate.store.clone(),
        policy: Arc::clone(&gate.policy),
        past: Arc::clone(&gate.past),
        patience: Arc::clone(&gate.patience),
        standing: Arc::clone(&gate.standing),
        definitions: Arc::clone(&gate.definitions),
        rails: Arc::clone(&gate.rails),
        streams: Arc::clone(&gate.streams),
        calling: gate.calling.clone(),
        state_key: Arc::clone(&gate.state_key),
        credentials: Credentials::default(),
        nonces: gate.nonces.clone(),
        signer: gate.signer.clone(),
        receipts: Arc::clone(&gate.receipts),
    })
}

/// Opens the public listener.
///
/// # Errors
/// The address cannot be had.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: is another process there?"))
}

/// Serves until `stop`, or until the store can no longer be trusted.
///
/// # Errors
/// Another listener cannot be opened, or the store failed.
pub async fn serve(gates: Gates, listener: TcpListener, stop: watch::Receiver<bool>) -> Result<()> {
    let gate = gates.now();
    let unwritten = |refusal| anyhow!("the store cannot be written: {refusal}");
    gate.keep_policy().await.map_err(unwritten)?;
    gate.meet_servers().await.map_err(unwritten)?;
    let telling = {
        let (gates, stop) = (gates.clone(), stop.clone());
        tokio::spawn(async move { notify::run(&gates, stop).await })
    };
    let recovering = {
        let (gates, stop) = (gates.clone(), stop.clone());
        tokio::spawn(async move { recover::run(&gates, stop).await })
    };
    let holding = tokio::spawn(hold::run(gates.clone(), stop.clone()));
    let mut shadowing = {
        let (gates, stop) = (gates.clone(), stop.clone());
        tokio::spawn(async move { shadow::run(&gates, stop).await })
    };
    let mut administering = tokio::spawn(admin::serve(gates.clone(), stop.clone()));
    wait_for(&gate.config.admin_socket, &administering).await;
    drop(gate);
    let served = tokio::select! {
        served = server::serve(gates.clone(), listener, stop.clone()) => served,
        failed = admin_failure(&mut administering) => Err(failed),
        failed = console_failure(gates.clone(), stop.clone()) => Err(failed),
        failed = metrics_failure(gates.clone(), stop.clone()) => Err(failed),
    };
    // They end by themselves at `stop`, the one with its socket; nobody stopped what failed.
    let patience = Duration::from_secs(if served.is_ok() { 2 } else { 0 });
    if !administering.is_finished() {
        let _late = tokio::time::timeout(patience, &mut administering).await;
        administering.abort();
    }
    if tokio::time::timeout(patience, &mut shadowing).await.is_err() {
        shadowing.abort();
    }
    for task in [holding, recovering, telling] {
        task.abort();
        let _cancelled = task.await;
    }
    close(gates).await;
    served
}

/// Waits for what still holds the gate, then closes the store: last checkpoint, last counts.
/// Calls have ended by now, or have had their time; those are recovered at the next start.
async fn close(mut gates: Gates) {
    for _ in 0..500 {
        gates = match gates.last() {
            Ok(gate) if gate.store.is_last() => return gate.store.close().await,
            // A gate that was replaced still serves something.
            Ok(gate) => Gates::new(Arc::new(gate)),
            Err(shared) => shared,
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gates.now().store.clone().close().await;
}

/// How the admin API failed. Its orderly end is none: the public listener drains after it.
async fn admin_failure(administering: &mut JoinHandle<std::io::Result<()>>) -> anyhow::Error {
    match administering.await {
        Ok(Ok(())) => std::future::pending().await,
        Ok(Err(error)) => anyhow::Error::new(error).context("the admin API"),
        Err(_panicked) => anyhow!("the admin API broke"),
    }
}

/// How the console failed. Its orderly end is none.
async fn console_failure(gates: Gates, stop: watch::Receiver<bool>) -> anyhow::Error {
    match console::serve(gates, stop).await {
        Ok(()) => std::future::pending().await,
        Err(error) => error.context("the console"),
    }
}

/// How the listener for monitoring failed. Its orderly end is none.
async fn metrics_failure(gates: Gates, stop: watch::Receiver<bool>) -> anyhow::Error {
    match metrics::serve(gates, stop).await {
        Ok(()) => std::future::pending().await,
        Err(error) => error.context("the metrics"),
    }
}

/// Whoever sees the public listener answer finds the admin API too.
async fn wait_for(socket: &std::path::Path, administering: &JoinHandle<std::io::Result<()>>) {
    for _ in 0..250 {
        let is_there = tokio::net::UnixStream::connect(socket).await.is_ok();
        if is_there || administering.is_finished() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn refuse_open_sandbox(config: &Config) -> Result<()> {
    let beside = config.metrics.into_iter().chain(config.console.as_ref().map(|it| it.listen));
    let mut listens = std::iter::once(config.listen).chain(beside);
    match listens.find(|listen| config.sandbox && !listen.ip().is_loopback()) {
        Some(open) => bail!("sandbox parts are served on loopback only, not on {open}"),
        None => Ok(()),
    }
}

fn unopened(config: &Config) -> String {
    format!("cannot open the store in `{}`", config.data_dir.display())
}

fn open_store(config: &Config, claim: Claim, keys: &keys::Keys, world: World) -> Result<Store> {
    let limits = Limits {
        open_quotes_per_principal: config.limits.open_quotes_per_principal,
        pending_approvals_per_principal: config.limits.pending_approvals_per_principal,
        asks_per_agent_per_hour: config.limits.asks_per_agent_per_hour,
        live_calls: config.limits.calls,
        credit: config.credit,
        ..Limits::default()
    };
    let options = Options {
        dir: config.data_dir.clone(),
        durability: durability(),
        log: LogOptions {
            signer: keys.log.clone(),
            pseudonym_key: keys.pseudonym,
            interval_ms: config.audit.checkpoint_ms,
        },
        limits,
    };
    Store::open_claimed(claim, options, world).with_context(|| unopened(config))
}

/// Power-cut tests need a control that must lose; it exists in debug builds only.
fn durability() -> Durability {
    let wants_control = cfg!(debug_assertions)
        && std::env::var_os("COUNTERSIGN_TEST_DURABILITY").is_some_and(|value| value == "normal");
    if wants_control { Durability::Normal } else { Durability::Full }
}

fn open_policy(config: &Config, store: &Store, world: &World) -> Result<Live> {
    Live::start(config, store, world.now()).map_err(|error| {
        let next = error.next();
        anyhow::Error::new(error).context(format!("the policy bundle is not accepted: {next}"))
    })
}

fn unusable(problem: IssuerProblem) -> anyhow::Error {
    anyhow!("the issuers cannot be used: {problem}")
}

/// Whose tokens programs use the admin API with.
fn programs(config: &Config) -> Option<IssuerConfig> {
    console::api::issuer(config.console.as_ref()?, &config.issuers)
}

/// The ways to all servers; one that is there already is kept with its connections.
fn upstreams(
    config: &Config,
    world: &World,
    open: &HashMap<Arc<str>, Arc<Upstream>>,
) -> HashMap<Arc<str>, Arc<Upstream>> {
    let way = |(name, server): (&Arc<str>, &Arc<Server>)| {
        let kept = open.get(name).filter(|way| way.leads_to(server)).cloned();
        let new = || Upstream::new(server, config.limits.result_bytes, world.clone());
        (Arc::clone(name), kept.unwrap_or_else(|| Arc::new(new())))
    };
    config.servers.iter().map(way).collect()
}

fn issuers(config: &Config) -> Vec<IssuerConfig> {
    config.issuers.iter().map(|issuer| issuer_config(issuer)).collect()
}

fn issuer_config(issuer: &config::Issuer) -> IssuerConfig {
    IssuerConfig {
        discovery: match &issuer.keys {
            config::Keys::WellKnown => Discovery::WellKnown,
            config::Keys::Document(uri) => Discovery::Document(uri.to_string()),
            config::Keys::Jwks(uri) => Discovery::Keys(uri.to_string()),
        },
        audience: issuer.audience.as_ref().map(ToString::to_string),
        clients: issuer.clients.iter().map(ToString::to_string).collect(),
        accept_typ_missing: issuer.accept_typ_missing,
        client_claim: issuer.client_claim.to_string(),
        tenant: issuer.tenant.clone(),
        roles_claim: issuer.roles_claim.as_ref().map(ToString::to_string),
        human_claim: issuer.human_claim.as_ref().map(ToString::to_string),
        allow_private_network: issuer.allow_private_network,
        leeway_s: issuer.leeway_s,
        ..IssuerConfig::new(&*issuer.issuer)
    }
}

/// What pays servers that charge. Its own limits are looked at again by whoever lets it pay.
pub(crate) fn buyers(config: &Config, world: &World) -> HashMap<Arc<str>, Buyer> {
    let assets: Vec<KnownAsset> = config.assets.iter().map(KnownAsset::from).collect();
    let buyer = |treasury: &config::Treasury| {
        let caps = Caps { per_call: Some(treasury.per_call), ..Caps::default() };
        let wallets = treasury.wallets.clone();
        Buyer::new(Means { wallets, assets: assets.clone(), caps, rail: None }, world.clone())
    };
    config.treasuries.iter().map(|(name, it)| (Arc::clone(name), buyer(it))).collect()
}

fn open_rails(config: &Config, keys: &keys::Keys, world: &World) -> Result<Rails> {
    let x402 = match &config.rails.x402 {
        Some(x402) => Some(X402Rail {
            terms: x402
                .tokens
                .iter()
                .map(|(asset, token)| {
                    let terms = X402Terms {
                        chain_id: token.chain_id,
                        asset: asset.clone(),
                        token: address(&token.address)?,
                        pay_to: address(&x402.pay_to)?,
                        name: token.name.to_string(),
                        version: token.version.to_string(),
                        max_timeout_s: x402.max_timeout_s,
                        margin_s: 6,
                        skew_s: 5,
                        binding: Binding::Required,
                        flow: Flow::Upfront,
                    };
                    Ok((asset.clone(), terms))
                })
                .collect::<Result<_>>()?,
            facilitator: facilitator(x402)?,
            challenge_key: keys.challenge,
            verifying: Semaphore::new(VERIFYING_MAX),
        }),
        None => None,
    };
    let l402 = config.rails.l402.as_ref().filter(|l402| !l402.nodes.is_empty());
    let quote_ttl_s = config.limits.quote_ttl_ms / 1000;
    let l402 = l402.map(|l402| open_lightning(l402, quote_ttl_s, keys, world)).transpose()?;
    let pow = config.rails.pow.as_ref();
    let pow = pow.map(|pow| PowRail::new(pow, &keys.challenge, world.now()));
    Ok(Rails { x402, l402, pow })
}

fn open_lightning(
    l402: &config::L402,
    quote_ttl_s: u64,
    keys: &keys::Keys,
    world: &World,
) -> Result<L402Rail> {
    let stock = Stock { size: l402.prefetch, expiry_s: quote_ttl_s };
    let nodes = lightning_nodes(l402, world);
    let nodes = Nodes::new(nodes, l402.inbound_factor, stock, world.clone());
    let sealed = Sealed::of(&keys.challenge).context("the key of requests that wait")?;
    let holds = (l402.hold, l402.hold_max_msat);
    let loopd = l402.loopd.as_ref().map(|loopd| {
        let fetch = pinned_fetch(&loopd.pin);
        Loopd::new(fetch, &loopd.url.to_string(), loopd.macaroon.clone())
    });
    Ok(L402Rail::new(nodes, l402.credential_ttl_ms, holds, sealed, loopd))
}

/// The configured nodes.
pub(crate) fn lightning_nodes(l402: &config::L402, world: &World) -> Vec<Node> {
    let network = match l402.network {
        LightningNetwork::Bitcoin => Currency::Bitcoin,
        LightningNetwork::Testnet => Currency::BitcoinTestnet,
        LightningNetwork::Signet => Currency::Signet,
        LightningNetwork::Regtest => Currency::Regtest,
    };
    let node = |node: &config::LightningNode| Node {
        name: Arc::clone(&node.name),
        network: network.clone(),
        backend: backend(node, world),
    };
    l402.nodes.iter().map(node).collect()
}

/// A node may take its time: it asks its disk and its peers, and news waits for something to tell.
const NODE_TIMEOUT_MS: u64 = 30_000;

fn backend(node: &config::LightningNode, world: &World) -> Backend {
    let fetch = private_fetch(NODE_TIMEOUT_MS);
    let url = node.url.to_string();
    match &node.access {
        NodeAccess::Sandbox => Backend::Sandbox(Daemon::new(fetch, &url, None)),
        NodeAccess::Ldk { token } => Backend::Ldk(Daemon::new(fetch, &url, Some(token.clone()))),
        NodeAccess::Lnd { macaroon, pin } => {
            Backend::Lnd(Lnd::new(pinned_fetch(pin), &url, macaroon.clone()))
        }
        NodeAccess::Phoenixd { password } => {
            Backend::Phoenixd(Phoenixd::new(fetch, &url, password.clone()))
        }
        NodeAccess::Cln { rune, pin } => {
            Backend::Cln(Cln::new(pinned_fetch(pin), &url, rune.clone(), world.clone()))
        }
    }
}

/// Requests to a node, over TLS to nobody but who has the certificate, where there is one.
fn pinned_fetch(pin: &Option<Pin>) -> Fetch {
    match pin {
        Some(pin) => private_fetch(NODE_TIMEOUT_MS).pinned(pin.clone()),
        None => private_fetch(NODE_TIMEOUT_MS),
    }
}

fn address(text: &str) -> Result<Address> {
    Address::from_hex(text).map_err(|_| anyhow!("`{text}` is no address"))
}

fn private_fetch(timeout_ms: u64) -> Fetch {
    Fetch::new(FetchRules { allow_private: true, timeout_ms, ..FetchRules::PUBLIC })
}

/// A settlement waits for a block: longer than any other request.
const SETTLE_TIMEOUT_MS: u64 = 40_000;

fn remote(url: &Uri, authorization: Option<&HeaderValue>) -> Remote {
    Remote::new(private_fetch(SETTLE_TIMEOUT_MS), &url.to_string(), authorization.cloned())
}

fn facilitator(x402: &config::X402) -> Result<Facilitator> {
    match &x402.facilitator {
        config::Facilitator::Sandbox { url } => Ok(Facilitator::Remote(remote(url, None))),
        config::Facilitator::Remote { url, rpc: None, authorization } => {
            Ok(Facilitator::Remote(remote(url, authorization.as_ref())))
        }
        config::Facilitator::Remote { url, rpc: Some(rpc), authorization } => {
            let network = x402.tokens.values().next().map(|token| token.chain_id);
            let network = network.context("no token is paid over x402")?;
            let chain = Chain::new(private_fetch(10_000), rpc.to_string(), network);
            Ok(Facilitator::Remote(remote(url, authorization.as_ref()).checked_on(chain)))
        }
        config::Facilitator::Builtin { rpc, key } => {
            let signer = Signer::from_secret(key.expose())
                .map_err(|_| anyhow!("{key} holds no 32-byte key in hex"))?;
            let ids: Vec<u64> = x402.tokens.values().map(|token| token.chain_id).collect();
            let [id] = ids.as_slice() else { bail!("the built-in facilitator serves one token") };
            let chain = Chain::new(private_fetch(10_000), rpc.to_string(), *id);
            Ok(Facilitator::Builtin(EvmFacilitator::new(chain, signer, EvmLimits::default())))
        }
    }
}
