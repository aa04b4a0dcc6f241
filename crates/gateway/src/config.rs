//! Configuration: what the operator wrote, resolved once into what it means.
//!
//! One model, three notations (YAML, TOML, JSON). [`load`] reads a file, checks all of it and
//! reports every problem at once; what it returns needs no further checking.
//!
//! INVARIANT: a [`Config`] exists only whole and valid; nothing outside this module builds one.
//! INVARIANT: every looseness (free, anonymous, no consent, private networks, sandbox parts) is
//! something the operator wrote; whatever is left out is strict.
//! INVARIANT: secrets come by reference and are never shown, logged or written back.
//!
//! Does not open sockets, databases or wallets, and does not look names up.

mod check;
mod explain;
mod finding;
mod locate;
mod raw;
mod report;
mod resolve;
mod scalar;
mod source;
mod template;
mod tree;

use crate::{
    fetch::Pin,
    rails::lightning::{Means, Thresholds},
};
use countersign_client::Wallet;
use countersign_core::{
    audit::checkpoint::VerifierKey,
    digest::Digest,
    ledger::Budget,
    money::{AssetCode, Assets, Micros},
    proof::TenantRule,
    terms::Terms,
};
use http::{HeaderMap, HeaderValue, Uri};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

pub use explain::explain;
pub use finding::{ConfigErrors, Finding, Warning};
pub use scalar::Secret;
pub(crate) use source::sorted;
pub use source::{Format, Surroundings, load, load_text, load_with, schema};

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that it was read from; none for a text of the program's own.
    pub read_from: Option<ReadFrom>,
    /// Address of the public listener.
    pub listen: SocketAddr,
    /// How clients reach it: scheme and authority, no trailing slash.
    pub public_url: Arc<str>,
    /// Database, log and keys.
    pub data_dir: PathBuf,
    /// Unix socket of the admin API.
    pub admin_socket: PathBuf,
    /// `Origin` values of browsers, besides `public_url`.
    pub allowed_origins: Vec<String>,
    /// Tenant of principals whose issuer maps none.
    pub tenant: Arc<str>,
    /// Who may issue access tokens.
    pub issuers: Vec<Arc<Issuer>>,
    /// Assets that prices may use, with their reference rates.
    pub assets: Assets,
    /// How money comes in.
    pub rails: Rails,
    /// The organisation's own wallets, by name.
    pub treasuries: BTreeMap<Arc<str>, Treasury>,
    /// Callers who are known may pay from credit.
    pub credit: bool,
    /// Where people approve, if elsewhere than here.
    pub approve_url: Option<Arc<str>>,
    /// Who is told of requests for approval.
    pub push: Vec<Push>,
    /// MCP servers by name.
    pub servers: BTreeMap<Arc<str>, Arc<Server>>,
    /// Where policies come from.
    pub policy: PolicySource,
    /// Who signs policy bundles.
    pub policy_key: Option<VerifierKey>,
    /// Who else must say yes, if anybody.
    pub pdp: Option<Pdp>,
    /// Who may add to a call's risk.
    pub risk_provider: Option<RiskProvider>,
    /// Whom policies may tell, by name.
    pub webhooks: BTreeMap<Arc<str>, Webhook>,
    /// Budgets; each call is charged to all that concern it.
    pub budgets: Vec<Budget>,
    /// Limits on everything.
    pub limits: Limits,
    /// The audit log.
    pub audit: Audit,
    /// Address of the listener for monitoring, if there is one.
    pub metrics: Option<SocketAddr>,
    /// Pages for people, and the admin API over the network.
    pub console: Option<Console>,
    /// Sandbox parts are in use; everything is on loopback.
    pub sandbox: bool,
}

/// A file that a configuration was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadFrom {
    /// Where it is.
    pub file: PathBuf,
    /// SHA-256 of what it held.
    pub digest: Digest,
}

/// An issuer of access tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Exactly the token's `iss`.
    pub issuer: Arc<str>,
    /// Where its keys are.
    pub keys: Keys,
    /// Its tokens carry this audience instead of the resource URI. Then `clients` is not empty.
    pub audience: Option<Arc<str>>,
    /// Clients whose tokens are accepted; empty for any.
    pub clients: Vec<Arc<str>>,
    /// Accept tokens whose `typ` is missing or `JWT`.
    pub accept_typ_missing: bool,
    /// Claim with the client's id.
    pub client_claim: Arc<str>,
    /// Which tenant its principals belong to.
    pub tenant: TenantRule,
    /// Claim with roles or groups: a name, or a JSON pointer.
    pub roles_claim: Option<Arc<str>>,
    /// Claim that only a person's token has: a name, or a JSON pointer.
    pub human_claim: Option<Arc<str>>,
    /// It may be on loopback or in a private network, over plain HTTP too.
    pub allow_private_network: bool,
    /// How far ahead of ours its clock may be, in seconds.
    pub leeway_s: u64,
    /// How far its tokens may carry people's consent; `None` for not at all.
    pub consent: Option<TokenConsent>,
}

/// How far consent in a token goes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenConsent {
    /// The most one call may cost.
    pub per_call: Micros,
    /// The most all calls of one consent may cost.
    pub total: Micros,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// At the well-known places under the issuer.
    WellKnown,
    /// In a discovery document elsewhere.
    Document(Arc<str>),
    /// In this key set.
    Jwks(Arc<str>),
}

/// Who is told of requests for approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Name of a webhook.
    pub webhook: Arc<str>,
    /// Only of this tenant's.
    pub tenant: Option<Arc<str>>,
    /// Only of those for this person, `iss|sub`.
    pub delegator: Option<Arc<str>>,
}

/// The console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// Address of its listener.
    pub listen: SocketAddr,
    /// How browsers reach it: scheme and authority, no trailing slash.
    pub public_url: Arc<str>,
    /// Who signs people in.
    pub sign_in: SignIn,
    /// How long a session lasts, in milliseconds.
    pub session_ms: u64,
    /// What a yes above an amount wants of the sign-in.
    pub step_up: Option<StepUp>,
    /// Clients whose access tokens may use the admin API.
    pub api_clients: Vec<Arc<str>>,
}

/// A fresh or a stronger sign-in before a yes above an amount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepUp {
    /// From more than this on.
    pub above: Micros,
    /// How long ago the person may have signed in, in seconds.
    pub max_age_s: u64,
    /// Classes of which the sign-in is one; empty for any.
    pub acr_values: Vec<Arc<str>>,
}

impl Console {
    /// The audience of access tokens for the admin API.
    #[must_use]
    pub fn api_audience(&self) -> String {
        format!("{}/api", self.public_url)
    }
}

/// Sign-in by OpenID Connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    /// Exactly the ID token's `iss`.
    pub issuer: Arc<str>,
    /// The console's client id.
    pub client_id: Arc<str>,
    /// Its secret, unless it is a public client.
    pub client_secret: Option<Secret>,
    /// Scopes beside `openid`.
    pub scopes: Vec<Arc<str>>,
    /// Which tenant a person belongs to.
    pub tenant: TenantRule,
    /// Claim with roles or groups: a name, or a JSON pointer.
    pub roles_claim: Arc<str>,
    /// Which value of it gives which role.
    pub roles: Vec<(Arc<str>, Role)>,
    /// It may be on loopback or in a private network, over plain HTTP too.
    pub allow_private_network: bool,
}

/// What a person may do in the console and the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Answers requests, makes and ends grants.
    Approver,
    /// Settles what needs a person, suspends and ends grants.
    Operator,
    /// Sees everything, changes nothing.
    Auditor,
    /// All of these.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Approver, Self::Operator, Self::Auditor, Self::Admin];

    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Approver => "approver",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }
}

/// How money comes in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rails {
    /// x402.
    pub x402: Option<X402>,
    /// Lightning.
    pub l402: Option<L402>,
    /// Work instead of money.
    pub pow: Option<Pow>,
    /// The treasury that pays back what is owed.
    pub refund_from: Option<Arc<str>>,
}

/// A wallet of the organisation, which pays servers that charge, and what is owed back.
#[derive(Clone, Debug)]
pub struct Treasury {
    /// What it pays from.
    pub wallets: Vec<Wallet>,
    /// The most that one call may cost.
    pub per_call: Micros,
    /// The most that may leave it within any 24 hours.
    pub per_day: Micros,
}

/// x402: stablecoins on EVM chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X402 {
    /// Receiving address, EIP-55.
    pub pay_to: Arc<str>,
    /// Who verifies and settles.
    pub facilitator: Facilitator,
    /// Tokens that are taken, by asset.
    pub tokens: BTreeMap<AssetCode, Token>,
    /// Longest validity of an authorization, in seconds.
    pub max_timeout_s: u64,
}

/// An EIP-3009 token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// CAIP-2, `eip155:84532`.
    pub network: Arc<str>,
    /// The number in it.
    pub chain_id: u64,
    /// Contract, EIP-55.
    pub address: Arc<str>,
    /// EIP-712 domain name.
    pub name: Arc<str>,
    /// EIP-712 domain version.
    pub version: Arc<str>,
}

/// Who verifies and settles x402 payments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Facilitator {
    /// A facilitator's HTTP API.
    Remote {
        /// Base URL.
        url: Uri,
        /// JSON-RPC endpoint of a node to check its word by.
        rpc: Option<Uri>,
        /// Sent as `Authorization`: a secret, in printable ASCII.
        authorization: Option<HeaderValue>,
    },
    /// In process: needs a node and a funded key.
    Builtin {
        /// JSON-RPC endpoint of the node.
        rpc: Uri,
        /// Signing key: 32 bytes in hex.
        key: Secret,
    },
    /// Play money.
    Sandbox {
        /// Base URL, on loopback.
        url: Uri,
    },
}

/// L402: Lightning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L402 {
    /// The nodes that make invoices, the preferred one first; none in a template that names none.
    pub nodes: Vec<LightningNode>,
    /// Whose bitcoins.
    pub network: LightningNetwork,
    /// How long a paid credential is valid, in milliseconds.
    pub credential_ttl_ms: u64,
    /// Money is held until the call has run, where the node can do it.
    pub hold: bool,
    /// The most that is held at once.
    pub hold_max_msat: u64,
    /// So many times the price must be receivable.
    pub inbound_factor: u64,
    /// Invoices that are kept ready for each tool and price that is asked for.
    pub prefetch: usize,
    /// When somebody is told that a node needs them.
    pub alerts: Option<LightningAlerts>,
    /// Who swaps money in channels for money on the chain.
    pub loopd: Option<LoopDaemon>,
    /// How far room to receive may be bought; without it only its price is asked.
    pub rebalance: Option<RebalanceLimits>,
}

/// The loop daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopDaemon {
    /// Base URL of its REST API.
    pub url: Uri,
    /// Macaroon, in hex.
    pub macaroon: Secret,
    /// The only certificate accepted.
    pub pin: Option<Pin>,
}

/// How far room to receive may be bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebalanceLimits {
    /// The most that one rebalance may cost.
    pub max_fee_sat: u64,
    /// The most that all of a day may move.
    pub max_per_day_sat: u64,
    /// When one is made without a person's word.
    pub rule: Option<Rule>,
}

/// When room to receive is bought without a person's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// While less than this can be received.
    pub inbound_below_sat: u64,
    /// How much is bought at a time.
    pub amount_sat: u64,
    /// How.
    pub via: Means,
}

/// When somebody is told that a Lightning node needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LightningAlerts {
    /// Name of the webhook that is told.
    pub webhook: Option<Arc<str>>,
    /// From where on something is wrong.
    pub thresholds: Thresholds,
}

/// Proof of work: a free lane beside the paid one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pow {
    /// Calls that it serves in a second.
    pub capacity_per_s: u32,
    /// Calls that one identity, or one address without a token, has in a day.
    pub daily_quota: u32,
    /// The least difficulty: hashes that a proof takes on average.
    pub min_difficulty: u64,
    /// The greatest, but for what a used quota adds.
    pub max_difficulty: u64,
    /// How long a challenge is good, in milliseconds.
    pub ttl_ms: u64,
}

/// A Lightning network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LightningNetwork {
    /// Real money.
    Bitcoin,
    /// Test money.
    Testnet,
    /// Test money.
    Signet,
    /// Money of one's own chain.
    Regtest,
}

/// A Lightning node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LightningNode {
    /// Its kind, with a number where there are several.
    pub name: Arc<str>,
    /// Base URL of its API.
    pub url: Uri,
    /// Which API, and what opens it.
    pub access: NodeAccess,
}

impl NodeAccess {
    /// Whether the node can hold money.
    #[must_use]
    pub const fn can_hold(&self) -> bool {
        match self {
            Self::Sandbox | Self::Ldk { .. } | Self::Lnd { .. } => true,
            Self::Phoenixd { .. } | Self::Cln { .. } => false,
        }
    }
}

/// The API of a node, and what opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAccess {
    /// Play money.
    Sandbox,
    /// `countersign-lightning`.
    Ldk {
        /// Its token.
        token: Secret,
    },
    /// LND.
    Lnd {
        /// Macaroon, in hex.
        macaroon: Secret,
        /// The only certificate accepted.
        pin: Option<Pin>,
    },
    /// phoenixd.
    Phoenixd {
        /// Limited-access password.
        password: Secret,
    },
    /// Core Lightning.
    Cln {
        /// Rune.
        rune: Secret,
        /// The only certificate accepted.
        pin: Option<Pin>,
    },
}

/// One MCP server behind the gateway.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its name: the first segment of its path.
    pub name: Arc<str>,
    /// Its endpoint.
    pub upstream: Uri,
    /// Its name may resolve to loopback and private addresses.
    pub allow_private_network: bool,
    /// Headers of the operator's own; values are marked sensitive.
    pub headers: HeaderMap,
    /// Resource URI, the audience of its tokens: `{public_url}/{name}/mcp` unless said otherwise.
    pub resource: Arc<str>,
    /// The treasury that pays what it asks.
    pub treasury: Option<Arc<str>>,
    /// Terms by tool name.
    pub tools: BTreeMap<Arc<str>, Arc<Terms>>,
    /// Terms of every other tool.
    pub default: DefaultTool,
    /// Who may use methods other than `tools/call`.
    pub relay: Relay,
    /// What its tools say of themselves is believed.
    pub trusts_annotations: bool,
    /// How payment is asked for.
    pub payment_form: PaymentForm,
}

impl Server {
    /// The longest that a call of one of its tools may take, in milliseconds.
    #[must_use]
    pub fn longest_deadline_ms(&self) -> u64 {
        let default = match &self.default {
            DefaultTool::Refuse => None,
            DefaultTool::Terms(terms) => Some(terms.deadline_ms),
        };
        self.tools.values().map(|terms| terms.deadline_ms).chain(default).max().unwrap_or(0)
    }

    /// Tools that the gateway itself answers.
    pub fn top_ups(&self) -> impl Iterator<Item = &Terms> {
        self.tools.values().map(|terms| &**terms).filter(|terms| terms.top_up)
    }

    /// The terms of a tool, or `None` when it is not offered.
    #[must_use]
    pub fn terms(&self, tool: &str) -> Option<Arc<Terms>> {
        if let Some(terms) = self.tools.get(tool) {
            return Some(Arc::clone(terms));
        }
        match &self.default {
            DefaultTool::Refuse => None,
            DefaultTool::Terms(terms) => {
                let mut terms = Terms::clone(terms);
                terms.tool.tool = tool.into();
                Some(Arc::new(terms))
            }
        }
    }
}

/// Terms of tools that are not listed.
#[derive(Clone, Debug)]
pub enum DefaultTool {
    /// Hidden and refused.
    Refuse,
    /// These; the tool's name in them is `*` until it is known.
    Terms(Arc<Terms>),
}

/// Who may use methods other than `tools/call`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relay {
    /// Anybody; else a token is required.
    pub anonymous: bool,
    /// Scopes that the token must have.
    pub scopes: Vec<Arc<str>>,
}

/// How payment is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaymentForm {
    /// By what the client shows: MCP unless it comes as plain HTTP.
    Auto,
    /// Always a tool result.
    Mcp,
    /// Always HTTP 402.
    Http,
}

/// Somebody to tell.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Where to.
    pub url: Uri,
    /// The key of its signature.
    pub secret: Secret,
    /// Its name may resolve to loopback and private addresses.
    pub allow_private_network: bool,
}

/// An external policy decision point (OpenID AuthZEN 1.0).
#[derive(Clone, Debug)]
pub struct Pdp {
    /// Its Access Evaluation endpoint.
    pub url: Uri,
    /// Token to send it, if any.
    pub bearer: Option<Secret>,
    /// How long an answer may take, in milliseconds.
    pub timeout_ms: u64,
    /// It decides alone, the bundle's policies do not.
    pub is_sole: bool,
    /// Its name may resolve to loopback and private addresses.
    pub allow_private_network: bool,
}

/// An outside provider of risk.
#[derive(Clone, Debug)]
pub struct RiskProvider {
    /// Where it is asked.
    pub url: Uri,
    /// The value of its `Authorization` header, if any.
    pub authorization: Option<Secret>,
    /// Its name may resolve to loopback and private addresses.
    pub allow_private_network: bool,
}

/// Where policies come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicySource {
    /// The bundle in the binary.
    Builtin,
    /// A directory.
    Dir(PathBuf),
}

/// Limits on everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A request's body.
    pub body_bytes: usize,
    /// An upstream's result.
    pub result_bytes: usize,
    /// Nesting of JSON.
    pub json_depth: usize,
    /// A request's header block.
    pub header_bytes: usize,
    /// Open connections.
    pub connections: usize,
    /// Open connections from one address.
    pub connections_per_address: usize,
    /// Calls being worked on; more are refused, not queued.
    pub calls: usize,
    /// Unpaid quotes of one principal.
    pub open_quotes_per_principal: usize,
    /// Approvals that one principal waits for.
    pub pending_approvals_per_principal: usize,
    /// Approvals that one agent may ask for within an hour.
    pub asks_per_agent_per_hour: usize,
    /// Payments of one principal that may fail, or be left out, within a minute.
    pub failed_payments_per_principal_per_minute: u32,
    /// The same from one address.
    pub failed_payments_per_address_per_minute: u32,
    /// Invoices that one principal may ask for within a minute and not pay.
    pub invoices_per_principal_per_minute: u32,
    /// The same from one address.
    pub invoices_per_address_per_minute: u32,
    /// How long a quote holds, in milliseconds.
    pub quote_ttl_ms: u64,
    /// How long an approval is waited for, in milliseconds.
    pub approval_ttl_ms: u64,
    /// How long reading a request's header may take, in milliseconds.
    pub header_timeout_ms: u64,
    /// How long reading a request's body may take, in milliseconds.
    pub body_timeout_ms: u64,
}

/// The audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// The log's name, first line of its checkpoints.
    pub origin: Arc<str>,
    /// Time between checkpoints while there is something new, in milliseconds.
    pub checkpoint_ms: u64,
}

/// The commented file that `countersign init` writes. It loads as it is.
#[must_use]
pub const fn init_template() -> &'static str {
    include_str!("config/init.yaml")
}
