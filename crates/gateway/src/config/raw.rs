//! What may be written: the members of the file, as they stand in it.
//!
//! The documentation of each member becomes its description in the published schema. Every struct
//! refuses unknown members; nothing here has a meaning yet.

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
    /// Consent.
    pub(super) consent: RawConsent,
    /// MCP servers by name; each is reached at `/{name}/mcp`.
    pub(super) servers: BTreeMap<String, RawServer>,
    /// Policies.
    pub(super) policy: RawPolicy,
    /// Budgets. A call is charged to all that concern it, and refused if any would be exceeded.
    pub(super) budgets: Vec<RawBudget>,
    /// Limits.
    pub(super) limits: RawLimits,
    /// The audit log.
    pub(super) audit: RawAudit,
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

/// L402.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "L402")]
pub(super) struct RawL402 {
    /// Who makes invoices.
    pub(super) source: RawInvoiceSource,
    /// How long a paid credential is valid. Default: `10m`.
    pub(super) credential_ttl: Option<Span>,
}

/// A maker of invoices.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
#[schemars(rename = "InvoiceSource")]
pub(super) enum RawInvoiceSource {
    /// Not said: only a template may leave it open.
    #[serde(skip)]
    Missing,
    /// Base URL of the sandbox: play money.
    Sandbox(String),
}

/// Consent.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Consent")]
pub(super) struct RawConsent {
    /// Page where people approve, if it is not the gateway's own.
    pub(super) approve_url: Option<String>,
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
    /// Terms of tools that are not listed. Default: `refuse`.
    pub(super) default: Option<RawDefault>,
    /// Who may use methods other than `tools/call`.
    #[serde(default)]
    pub(super) relay: RawRelay,
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
    /// `free`, an amount (`0.01 USDC`), alternatives (`["0.01 USDC", "3 sat"]`), or a list of
    /// rules of which the first that fits the caller applies.
    pub(super) price: RawPriceList,
    /// Who may call. Default: `required`.
    pub(super) identity: Option<RawIdentity>,
    /// Whether a person must have agreed. Default: `required` for a priced tool that is not
    /// anonymous, else `none`.
    pub(super) consent: Option<RawConsentRule>,
    /// Scopes that the token must have.
    #[serde(default)]
    pub(super) scopes: Vec<String>,
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
    /// Time for the whole call. Default: `30s`.
    pub(super) deadline: Option<Span>,
    /// Keep the tool's `outputSchema`, and leave `structuredContent` out of payment challenges.
    /// Default: `false`.
    #[serde(default)]
    pub(super) keep_output_schema: bool,
}

impl RawTerms {
    /// Terms of which only the price is said.
    pub(super) const fn priced(price: RawPriceList) -> Self {
        Self {
            price,
            identity: None,
            consent: None,
            scopes: Vec::new(),
            flow: None,
            idempotent: false,
            in_doubt: None,
            uses: None,
            intent: None,
            sensitivity: None,
            deadline: None,
            keep_output_schema: false,
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
    /// `free` or an amount.
    One(String),
    /// Alternatives in different assets.
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
    /// `free`, an amount, or alternatives.
    pub(super) price: RawPrice,
}

/// `free`, an amount, or alternatives.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Price")]
pub(super) enum RawPrice {
    /// `free` or an amount.
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

/// Policies.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Policy")]
pub(super) struct RawPolicy {
    /// Directory of the policy bundle, relative to this file. Default: the built-in bundle.
    pub(super) dir: Option<String>,
}

/// A budget.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Budget")]
pub(super) struct RawBudget {
    /// Its name.
    pub(super) name: String,
    /// Whose spending it counts. Default: everybody's together.
    #[serde(default)]
    pub(super) scope: RawScope,
    /// The most within the window.
    pub(super) limit: Usd,
    /// Length of the rolling window, or `lifetime`.
    pub(super) window: RawWindow,
}

/// A value counts that one; `*` counts each one by itself; nothing counts all together.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Scope")]
pub(super) struct RawScope {
    /// Tenant.
    pub(super) tenant: Option<String>,
    /// Person: issuer and subject, `iss|sub`.
    pub(super) delegator: Option<String>,
    /// Agent.
    pub(super) agent: Option<String>,
    /// Tool: `server/tool`.
    pub(super) tool: Option<String>,
}

/// A budget's window.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Window")]
pub(super) enum RawWindow {
    Word(RawWindowWord),
    Rolling(Span),
}

/// From the beginning.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "WindowWord")]
pub(super) enum RawWindowWord {
    Lifetime,
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
    /// Calls being worked on. Default: 1024.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) calls: Option<usize>,
    /// Unpaid quotes of one principal. Default: 64.
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) open_quotes_per_principal: Option<usize>,
    /// Approvals that one principal waits for. Default: 16.
    #[schemars(range(min = 1, max = 10_000))]
    pub(super) pending_approvals_per_principal: Option<usize>,
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
