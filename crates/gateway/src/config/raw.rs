//! What may be written: the members of the file, as they stand in it.
//!
//! The documentation of each member becomes its description in the published schema. Every struct
//! refuses unknown members; nothing here has a meaning yet.

mod budgets;
mod lightning;
mod treasuries;

pub(super) use budgets::{
    RawBudget, RawCalendar, RawEvery, RawOnExceed, RawScope, RawWindow, RawWindowWord,
};
pub(super) use lightning::{
    RawInvoiceSource, RawL402, RawLightningAlerts, RawLightningNetwork, RawLoopd, RawMeans,
    RawRebalance, RawSources,
};
pub(super) use treasuries::RawTreasury;

use super::scalar::{SecretRef, Size, Span, Usd};
use countersign_core::policy::Intent;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Configuration of Countersign.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Config", title = "Countersign configuration")]
pub(super) struct RawConfig {
    /// Address and port of the public listener. Default: `127.0.0.1:8402`.
    pub(super) listen: Option<String>,
    /// How clients reach the gateway: scheme, host and port. Default: `http://{listen}`.
    pub(super) public_url: Option<String>,
    /// Directory for the database, the log and the keys, relative to this file. Default: `data`.
    pub(super) data_dir: Option<String>,
    /// Unix socket of the admin API, relative to this file. Default: `admin.sock` in `data_dir`.
    pub(super) admin_socket: Option<String>,
    /// Values of the `Origin` header that browsers may send, besides `public_url`. Default: none.
    pub(super) allowed_origins: Vec<String>,
    /// Tenant of principals whose issuer names none. Default: `default`.
    pub(super) tenant: Option<String>,
    /// Who may issue access tokens.
    pub(super) issuers: Vec<RawIssuer>,
    /// Assets that prices may use, by code.
    pub(super) assets: BTreeMap<String, RawAsset>,
    /// How money comes in.
    pub(super) rails: RawRails,
    /// The organisation's own wallets, by name. They pay servers that charge, for tools with
    /// `price: upstream`. Default: none, no money leaves.
    pub(super) treasuries: BTreeMap<String, RawTreasury>,
    /// Callers with a token may pay from credit: what they top it up with, and what is owed back to
    /// them. Default: `false`.
    pub(super) credit: bool,
    /// Consent.
    pub(super) consent: RawConsent,
    /// MCP servers by name; each is reached at `/{name}/mcp`.
    pub(super) servers: BTreeMap<String, RawServer>,
    /// Policies.
    pub(super) policy: RawPolicy,
    /// Whom policies may tell (`notify`), by name.
    pub(super) webhooks: BTreeMap<String, RawWebhook>,
    /// Budgets. A call is charged to all that concern it, and refused if any would be exceeded.
    pub(super) budgets: Vec<RawBudget>,
    /// Limits.
    pub(super) limits: RawLimits,
    /// The audit log.
    pub(super) audit: RawAudit,
    /// Figures for monitoring. Default: off.
    pub(super) metrics: Option<RawMetrics>,
    /// The console: pages for people, and the admin API over the network. Default: off.
    pub(super) console: Option<RawConsole>,
    /// Allow parts that move play money. Only on loopback. Default: `false`.
    pub(super) sandbox: bool,
}

/// An issuer of access tokens.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Issuer")]
pub(super) struct RawIssuer {
    /// Exactly the token's `iss`, with its final slash if it has one.
    pub(super) issuer: String,
    /// What kind of issuer; sets the claims below. Default: `rfc9068`.
    pub(super) profile: Option<RawProfile>,
    /// Its key set. Default: as its discovery document says.
    pub(super) jwks_uri: Option<String>,
    /// Its discovery document. Default: at the well-known places under `issuer`.
    pub(super) metadata_url: Option<String>,
    /// Tenant of all its principals. Instead of `tenant_claim`.
    pub(super) tenant: Option<String>,
    /// Claim that names the tenant; a token without it is refused.
    pub(super) tenant_claim: Option<String>,
    /// The tenants that `tenant_claim` may name. Default: any.
    #[serde(default)]
    pub(super) tenants: Vec<String>,
    /// Claim that names the client.
    pub(super) client_claim: Option<String>,
    /// Claim with the roles or groups of the person: a name, or a path such as
    /// `/realm_access/roles`.
    pub(super) roles_claim: Option<String>,
    /// Claim that only a person's token has, such as `auth_time`. Default: none; programs' tokens
    /// are told by what issuers are known to do.
    pub(super) human_claim: Option<String>,
    /// Its tokens carry this audience instead of the server's resource URI. Needs `clients`.
    pub(super) audience: Option<String>,
    /// Clients whose tokens are accepted. Default: any.
    #[serde(default)]
    pub(super) clients: Vec<String>,
    /// Accept tokens whose `typ` is missing or `JWT`. Default: by profile.
    pub(super) accept_typ_missing: Option<bool>,
    /// How far ahead of ours its clock may be, at most `60s`. Default: `5s`.
    pub(super) leeway: Option<Span>,
    /// It may be on loopback or in a private network, over plain http too. Default: `false`.
    #[serde(default)]
    pub(super) allow_private_network: bool,
    /// Its access tokens may carry people's consent (`authorization_details`, RFC 9396), up to
    /// this. Default: they may not.
    pub(super) consent: Option<RawTokenConsent>,
}

/// How far consent in a token goes at most; what a token says beyond it is cut down to it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TokenConsent")]
pub(super) struct RawTokenConsent {
    /// The most one call may cost.
    pub(super) per_call: Usd,
    /// The most all calls of one consent may cost.
    pub(super) total: Usd,
}

/// Kinds of issuers.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Profile")]
pub(super) enum RawProfile {
    Rfc9068,
    Auth0,
    Keycloak,
    Entra,
    Okta,
    Workos,
}

/// An asset.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Asset")]
pub(super) struct RawAsset {
    /// CAIP-2 chain (`eip155:84532`), or `lightning` for `BTC`.
    pub(super) network: String,
    /// The token's contract. Not for `lightning`.
    pub(super) address: Option<String>,
    /// Decimal places. `BTC` counts in millisatoshi.
    pub(super) decimals: Option<u8>,
    /// Name in the token's EIP-712 domain. Not for `lightning`.
    pub(super) name: Option<String>,
    /// Version in the token's EIP-712 domain. Not for `lightning`.
    pub(super) version: Option<String>,
    /// What one whole unit counts for in budgets and caps: `1 USD`.
    pub(super) rate: Usd,
}

/// How money comes in.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Rails")]
pub(super) struct RawRails {
    /// x402: stablecoins on EVM chains.
    pub(super) x402: Option<RawX402>,
    /// L402: Lightning.
    pub(super) l402: Option<RawL402>,
    /// Proof of work instead of money, for tools with `work` among their prices.
    pub(super) pow: Option<RawPow>,
    /// Name of the treasury that pays back what is owed: x402 payments for calls that did not run,
    /// and what L402 credentials leave, to an invoice that their holder shows. Its limits hold:
    /// what is above `per_call` is for a person. Default: none, a person pays.
    pub(super) refund_from: Option<String>,
}

/// x402.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "X402")]
pub(super) struct RawX402 {
    /// The address that is paid. Use it for this deployment alone.
    pub(super) pay_to: String,
    /// Who verifies and settles payments.
    pub(super) facilitator: RawFacilitator,
    /// JSON-RPC endpoint of a node of the tokens' network, to check the word of a facilitator by
    /// its `url`. The built-in one has its own.
    pub(super) rpc: Option<String>,
    /// What is sent as `Authorization` to a facilitator by its `url`, by reference.
    pub(super) authorization: Option<SecretRef>,
    /// Longest validity of a payment. Default: `60s`.
    pub(super) max_timeout: Option<Span>,
    /// When money is taken, for tools that do not say. Default: `upfront`.
    pub(super) flow: Option<RawFlow>,
}

/// A facilitator.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
#[schemars(rename = "Facilitator")]
pub(super) enum RawFacilitator {
    /// Base URL of a facilitator.
    Url(String),
    /// In this process.
    Builtin(RawBuiltin),
    /// Base URL of the sandbox: play money.
    Sandbox(String),
}

/// A facilitator in this process.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Builtin")]
pub(super) struct RawBuiltin {
    /// JSON-RPC endpoint of a node.
    pub(super) rpc: String,
    /// Signing key, 32 bytes in hex.
    pub(super) key: SecretRef,
}

/// Proof of work.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Pow")]
pub(super) struct RawPow {
    /// Calls a second that work is accepted for. Beyond, chance decides. Default: `50`.
    #[schemars(range(min = 1, max = 10_000))]
    pub(super) capacity_per_s: Option<u32>,
    /// Calls for work that one person, one client without a person, or one address without a token
    /// has in a day (UTC). Default: `100`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) daily_quota: Option<u32>,
    /// Hashes that a proof takes on average when nobody else calls. Default: `50000`.
    #[schemars(range(min = 1, max = 1_099_511_627_776u64))]
    pub(super) min_difficulty: Option<u64>,
    /// Hashes that it takes under the heaviest load, but for what a used quota adds (twice as many
    /// at its end). Default: `4000000`.
    #[schemars(range(min = 1, max = 1_099_511_627_776u64))]
    pub(super) max_difficulty: Option<u64>,
    /// How long a challenge is good. Default: `60s`.
    pub(super) ttl: Option<Span>,
}

/// Consent.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Consent")]
pub(super) struct RawConsent {
    /// Page where people approve, if it is not the gateway's own.
    pub(super) approve_url: Option<String>,
    /// Webhooks that are told of each request for approval. People answer there, or by a signed
    /// answer.
    pub(super) push: Vec<RawPush>,
}

/// Whom to tell of requests for approval.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Push")]
pub(super) struct RawPush {
    /// Name of a webhook.
    pub(super) webhook: String,
    /// Only of this tenant's. Default: every tenant's.
    pub(super) tenant: Option<String>,
    /// Only of those for this person: issuer and subject, `iss|sub`. Default: everybody's.
    pub(super) delegator: Option<String>,
}

/// An MCP server behind the gateway.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Server")]
pub(super) struct RawServer {
    /// Its streamable HTTP endpoint.
    pub(super) upstream: String,
    /// Its name may resolve to loopback and private addresses. Default: `true`.
    pub(super) allow_private_network: Option<bool>,
    /// Its resource URI, the audience of its tokens. Default: `{public_url}/{name}/mcp`.
    pub(super) resource: Option<String>,
    /// Headers to send to it, by name; values are references: `Bearer env:NAME`.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, SecretRef>,
    /// Name of the treasury that pays what this server asks for tools with `price: upstream`.
    pub(super) pay: Option<String>,
    /// Terms of tools that are not listed. Default: `refuse`.
    pub(super) default: Option<RawDefault>,
    /// Who may use methods other than `tools/call`.
    #[serde(default)]
    pub(super) relay: RawRelay,
    /// What its tools say of themselves (`readOnlyHint`, `destructiveHint`, `openWorldHint`) is
    /// believed. Default: `false`, it can only raise what a tool is taken to do.
    #[serde(default)]
    pub(super) trust_annotations: bool,
    /// How payment is asked for. Default: `auto`.
    pub(super) payment_form: Option<RawPaymentForm>,
    /// Terms by tool name.
    #[serde(default)]
    pub(super) tools: BTreeMap<String, RawTerms>,
}

/// Who may use methods other than `tools/call`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Relay")]
pub(super) struct RawRelay {
    /// Anybody. Default: `false`, a token is required.
    pub(super) anonymous: bool,
    /// Scopes that the token must have.
    pub(super) scopes: Vec<String>,
}

/// How payment is asked for.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "PaymentForm")]
pub(super) enum RawPaymentForm {
    Auto,
    Mcp,
    Http,
}

/// Terms of tools that are not listed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Default")]
pub(super) enum RawDefault {
    Word(RawDefaultWord),
    Terms(Box<RawTerms>),
}

/// `refuse`: hidden and refused; `free`: like `price: free`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "DefaultWord")]
pub(super) enum RawDefaultWord {
    Refuse,
    Free,
}

/// Terms of a tool.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Terms")]
pub(super) struct RawTerms {
    /// `free`, an amount (`0.01 USDC`), `work`, alternatives (`["0.01 USDC", "3 sat", "work"]`),
    /// `upstream` (what the server asks; the treasury pays it), or a list of rules of which the
    /// first that fits the caller applies.
    pub(super) price: RawPriceList,
    /// Who may call. Default: `required`.
    pub(super) identity: Option<RawIdentity>,
    /// Whether a person must have agreed. Default: `required` for a priced tool that is not
    /// anonymous, else `none`.
    pub(super) consent: Option<RawConsentRule>,
    /// Scopes that the token must have.
    #[serde(default)]
    pub(super) scopes: Vec<String>,
    /// Whose wallet may pay: `linked` for one that is linked to the person. Then all prices are in
    /// x402 assets, since Lightning does not tell the payer. Default: `any`.
    pub(super) payer: Option<RawPayer>,
    /// When x402 money is taken: before the run, or after it. Default: the rail's.
    pub(super) flow: Option<RawFlow>,
    /// You vouch that running it twice with one key is the same as once. Default: `false`.
    #[serde(default)]
    pub(super) idempotent: bool,
    /// Money of a call whose outcome nobody knows. Default: `refund`.
    pub(super) in_doubt: Option<RawDoubt>,
    /// Calls that one L402 credential pays for. Default: `1`.
    #[schemars(range(min = 1, max = 10000))]
    pub(super) uses: Option<u32>,
    /// What the tool does. Default: derived from its name.
    #[serde(default)]
    #[schemars(schema_with = "intent_schema")]
    pub(super) intent: Option<Intent>,
    /// From 0, public, to 3, secret. Default: `1`.
    #[schemars(range(min = 0, max = 3))]
    pub(super) sensitivity: Option<u8>,
    /// What it does can be undone. Default: `false`.
    #[serde(default)]
    pub(super) reversible: bool,
    /// It deals with what is outside of the server's own domain: its results can hold what anybody
    /// wrote, and it can carry data out. Default: `true`, unless a trusted server says otherwise.
    pub(super) open_world: Option<bool>,
    /// Time for the whole call. Default: `30s`.
    pub(super) deadline: Option<Span>,
    /// Keep the tool's `outputSchema`, and leave `structuredContent` out of payment challenges.
    /// Default: `false`.
    #[serde(default)]
    pub(super) keep_output_schema: bool,
    /// The gateway itself answers this tool, and its price becomes the caller's credit. Default:
    /// `false`.
    #[serde(default)]
    pub(super) top_up: bool,
}

impl RawTerms {
    /// Terms of which only the price is said.
    pub(super) const fn priced(price: RawPriceList) -> Self {
        Self {
            price,
            identity: None,
            consent: None,
            scopes: Vec::new(),
            payer: None,
            flow: None,
            idempotent: false,
            in_doubt: None,
            uses: None,
            intent: None,
            sensitivity: None,
            reversible: false,
            open_world: None,
            deadline: None,
            keep_output_schema: false,
            top_up: false,
        }
    }
}

fn intent_schema(_: &mut SchemaGenerator) -> Schema {
    let words: Vec<&str> = Intent::ALL.into_iter().map(Intent::text).collect();
    json_schema!({ "type": "string", "enum": words })
}

/// A price, alternatives, or rules.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "PriceList")]
pub(super) enum RawPriceList {
    /// `free`, an amount, `work`, or `upstream`.
    One(String),
    /// Alternatives in different assets, `work` among them.
    Several(Vec<String>),
    /// Rules; the first that fits applies.
    Rules(Vec<RawPriceRule>),
}

/// A price for some callers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PriceRule")]
pub(super) struct RawPriceRule {
    /// Only for this tenant.
    pub(super) tenant: Option<String>,
    /// Only for this agent.
    pub(super) agent: Option<String>,
    /// `free`, an amount, `upstream`, or alternatives.
    pub(super) price: RawPrice,
}

/// `free`, an amount, or alternatives.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Price")]
pub(super) enum RawPrice {
    /// `free`, an amount, or `upstream`.
    One(String),
    /// Alternatives in different assets.
    Several(Vec<String>),
}

/// Who may call.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Identity")]
pub(super) enum RawIdentity {
    Human,
    Required,
    Anonymous,
}

/// Whether a person must have agreed.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ConsentRule")]
pub(super) enum RawConsentRule {
    Required,
    None,
}

/// Whose wallet may pay.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Payer")]
pub(super) enum RawPayer {
    Any,
    Linked,
}

/// When x402 money is taken.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Flow")]
pub(super) enum RawFlow {
    Upfront,
    Authorization,
}

/// Money of a call whose outcome nobody knows.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Doubt")]
pub(super) enum RawDoubt {
    Refund,
    Capture,
}

/// Somebody to tell, by a signed POST (Standard Webhooks).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Webhook")]
pub(super) struct RawWebhook {
    /// Where to. `https`, or `http` on loopback.
    pub(super) url: String,
    /// The key of its signature (HMAC-SHA-256), at least 24 bytes.
    pub(super) secret: SecretRef,
    /// Its name may resolve to loopback and private addresses. Default: `false`.
    #[serde(default)]
    pub(super) allow_private_network: bool,
}

/// An external policy decision point, asked over OpenID AuthZEN 1.0 about every call that the
/// bundle lets pass.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Pdp")]
pub(super) struct RawPdp {
    /// Its Access Evaluation endpoint: `https`, or `http` on loopback.
    pub(super) url: String,
    /// Token to send it as `Authorization: Bearer`. Default: none.
    pub(super) bearer: Option<SecretRef>,
    /// How long an answer may take, from `10ms` to `5s`. Default: `500ms`.
    pub(super) timeout: Option<Span>,
    /// It decides alone: the bundle's policies are not asked. Default: `false`, both must say yes.
    #[serde(default)]
    pub(super) sole: bool,
    /// Its name may resolve to loopback and private addresses. Default: `false`.
    #[serde(default)]
    pub(super) allow_private_network: bool,
}

/// A service that adds points to the risk of a call. It only raises: one that does not answer
/// within 50 ms, or nonsense, adds 10.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RiskProvider")]
pub(super) struct RawRiskProvider {
    /// Where the question is posted: `https`, or `http` on loopback. It answers `{"points": 12}`.
    pub(super) url: String,
    /// Value of the `Authorization` header, whole: `Bearer ...`. Default: none.
    pub(super) authorization: Option<SecretRef>,
    /// Its name may resolve to loopback and private addresses. Default: `false`.
    #[serde(default)]
    pub(super) allow_private_network: bool,
}

/// Policies.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Policy")]
pub(super) struct RawPolicy {
    /// Directory of the policy bundle, relative to this file. Default: the built-in bundle.
    pub(super) dir: Option<String>,
    /// An external policy decision point that must say yes as well, or that decides alone.
    pub(super) pdp: Option<RawPdp>,
    /// An outside provider of risk, which only raises it. Default: none.
    pub(super) risk_provider: Option<RawRiskProvider>,
    /// Public key of whoever signs bundles, as `countersign policy key` prints it. With it only
    /// signed bundles are accepted. Default: unsigned ones are accepted too.
    pub(super) key: Option<String>,
}

/// Figures for monitoring, in the text format of Prometheus, at `/metrics` of a listener of its
/// own. Whoever reaches it can read it: amounts and counts, no names and no secrets.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Metrics")]
pub(super) struct RawMetrics {
    /// Address and port of its listener: `127.0.0.1:9464`.
    pub(super) listen: String,
}

/// The console. It has a listener of its own; agents have no business there.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Console")]
pub(super) struct RawConsole {
    /// Address and port of its listener: `127.0.0.1:8403`.
    pub(super) listen: String,
    /// How browsers reach it: scheme, host and port. Must be https off loopback. Default:
    /// `http://{listen}`.
    pub(super) public_url: Option<String>,
    /// Who signs people in.
    pub(super) sign_in: RawSignIn,
    /// How long a session lasts; after it the issuer is asked again, roles included. Default:
    /// `1h`.
    pub(super) session: Option<Span>,
    /// What a yes above an amount wants of the sign-in. Default: nothing more than the session.
    pub(super) step_up: Option<RawStepUp>,
    /// Clients of the issuer whose access tokens for `{public_url}/api` may use the admin API.
    /// Name no client that an agent uses. Default: none.
    #[serde(default)]
    pub(super) api_clients: Vec<String>,
}

/// A fresh or a stronger sign-in before a yes above an amount.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ConsoleStepUp")]
pub(super) struct RawStepUp {
    /// From more than this on: the price of the call, or all that a grant allows.
    pub(super) above: Usd,
    /// How long ago the person may have signed in at the issuer, at most `12h`. Default: `5m`.
    pub(super) max_age: Option<Span>,
    /// The sign-in is of one of these classes (`acr`). Default: any.
    #[serde(default)]
    pub(super) acr_values: Vec<String>,
}

/// Sign-in by OpenID Connect: authorization code with PKCE.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SignIn")]
pub(super) struct RawSignIn {
    /// Exactly the ID token's `iss`.
    pub(super) issuer: String,
    /// The console's client id there. Its redirect URI is `{public_url}/sign-in/callback`.
    pub(super) client_id: String,
    /// The client's secret. Default: none, a public client.
    pub(super) client_secret: Option<SecretRef>,
    /// Scopes to ask for beside `openid`. Default: `profile`.
    pub(super) scopes: Option<Vec<String>>,
    /// Tenant of everybody who signs in. Instead of `tenant_claim`.
    pub(super) tenant: Option<String>,
    /// Claim that names the person's tenant; they see that one alone.
    pub(super) tenant_claim: Option<String>,
    /// The tenants that `tenant_claim` may name. Default: any.
    #[serde(default)]
    pub(super) tenants: Vec<String>,
    /// Claim with roles or groups: a name, or a path such as `/realm_access/roles`. Default:
    /// `roles`.
    pub(super) roles_claim: Option<String>,
    /// Which values of that claim give which role. Default: each role by its own name.
    #[serde(default)]
    pub(super) roles: RawRoles,
    /// It may be on loopback or in a private network, over plain http too. Default: `false`.
    #[serde(default)]
    pub(super) allow_private_network: bool,
}

/// Values of the roles claim, by the role they give.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Roles")]
pub(super) struct RawRoles {
    /// Answers requests, makes and ends grants.
    pub(super) approver: Option<Vec<String>>,
    /// Settles what needs a person, suspends and ends grants.
    pub(super) operator: Option<Vec<String>>,
    /// Sees everything of the tenant, changes nothing.
    pub(super) auditor: Option<Vec<String>>,
    /// All of these.
    pub(super) admin: Option<Vec<String>>,
}

/// Limits.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Limits")]
pub(super) struct RawLimits {
    /// A request's body. Default: `1 MiB`.
    pub(super) body: Option<Size>,
    /// An upstream's result. Default: `8 MiB`.
    pub(super) result: Option<Size>,
    /// Nesting of JSON. Default: 64.
    #[schemars(range(min = 8, max = 100))]
    pub(super) depth: Option<usize>,
    /// A request's headers. Default: `32 KiB`.
    pub(super) headers: Option<Size>,
    /// Open connections. Default: 4096.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) connections: Option<usize>,
    /// Open connections from one address; an IPv6 network of 64 bits counts as one. Default: 512.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) connections_per_address: Option<usize>,
    /// Calls being worked on. Default: 1024.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) calls: Option<usize>,
    /// Unpaid quotes of one principal. Default: 64.
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) open_quotes_per_principal: Option<usize>,
    /// Approvals that one principal waits for. Default: 16.
    #[schemars(range(min = 1, max = 10_000))]
    pub(super) pending_approvals_per_principal: Option<usize>,
    /// Approvals that one agent may ask for within an hour. Default: 60.
    #[schemars(range(min = 1, max = 10_000))]
    pub(super) asks_per_agent_per_hour: Option<usize>,
    /// Payments of one principal that may fail, or be left out, within a minute. What is paid in
    /// the end is not counted. Default: 120.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) failed_payments_per_principal_per_minute: Option<u32>,
    /// The same from one address. Callers without a token share half of it. Default: 1200.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) failed_payments_per_address_per_minute: Option<u32>,
    /// Lightning invoices that one principal may ask for within a minute and not pay. Default: 120.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) invoices_per_principal_per_minute: Option<u32>,
    /// The same from one address. Callers without a token share half of it. Default: 600.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) invoices_per_address_per_minute: Option<u32>,
    /// How long a quote holds. Default: `5m`.
    pub(super) quote_ttl: Option<Span>,
    /// How long an approval is waited for. Default: `15m`.
    pub(super) approval_ttl: Option<Span>,
    /// Time to receive a request's headers. Default: `10s`.
    pub(super) header_timeout: Option<Span>,
    /// Time to receive a request's body. Default: `30s`.
    pub(super) body_timeout: Option<Span>,
}

/// The audit log.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Audit")]
pub(super) struct RawAudit {
    /// The log's name in its checkpoints. Default: host and port of `public_url`.
    pub(super) origin: Option<String>,
    /// Time between checkpoints while there is something new. Default: `1s`.
    pub(super) checkpoint: Option<Span>,
}
