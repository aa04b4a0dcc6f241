//! The Lightning rail, as it is written.

use crate::config::scalar::{SecretRef, Span};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{
        MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use std::fmt;

/// L402.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "L402")]
pub(in crate::config) struct RawL402 {
    /// Who makes invoices: a node, or several, of which the first that can makes the next one.
    pub(in crate::config) source: RawSources,
    /// Whose bitcoins. Default: `bitcoin`; the sandbox is on `regtest`.
    pub(in crate::config) network: Option<RawLightningNetwork>,
    /// How long a paid credential is valid. Default: `10m`.
    pub(in crate::config) credential_ttl: Option<Span>,
    /// Take the payer's money only when the call has run, where the node can hold it. Default:
    /// `true`.
    pub(in crate::config) hold: Option<bool>,
    /// The most that is held at once, in satoshi. Default: `1000000`.
    #[schemars(range(min = 1))]
    pub(in crate::config) hold_max_sat: Option<u64>,
    /// Offer it only while the node can receive so many times the price. Default: `1`.
    #[schemars(range(min = 1, max = 1000))]
    pub(in crate::config) inbound_factor: Option<u64>,
    /// Invoices that are made ahead for each tool and price that is asked for, so that a challenge
    /// waits for no node. `0` makes each when it is asked for. Default: `4`.
    #[schemars(range(max = 256))]
    pub(in crate::config) prefetch: Option<usize>,
    /// When somebody is told that a node needs them. Default: never.
    pub(in crate::config) alerts: Option<RawLightningAlerts>,
    /// The loop daemon of the node, which swaps money in channels for money on the chain.
    #[serde(rename = "loop")]
    pub(in crate::config) loopd: Option<RawLoopd>,
    /// How far room to receive may be bought. Default: not at all, only its price is asked.
    pub(in crate::config) rebalance: Option<RawRebalance>,
}

/// The loop daemon.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Loopd")]
pub(in crate::config) struct RawLoopd {
    /// Base URL of its REST API.
    pub(in crate::config) url: String,
    /// Its macaroon in hex.
    pub(in crate::config) macaroon: SecretRef,
    /// File with its certificate, which is then the only one accepted.
    pub(in crate::config) certificate: Option<String>,
}

/// How far room to receive may be bought.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rebalance")]
pub(in crate::config) struct RawRebalance {
    /// The most that one may cost, in satoshi.
    pub(in crate::config) max_fee_sat: u64,
    /// The most that all within 24 hours may move, in satoshi.
    #[schemars(range(min = 1))]
    pub(in crate::config) max_per_day_sat: u64,
    /// When one is made without a person's word. Default: never.
    pub(in crate::config) rule: Option<RawRule>,
}

/// When room to receive is bought without a person's word: at most once an hour, and within the
/// limits.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RebalanceRule")]
pub(in crate::config) struct RawRule {
    /// While all nodes together can receive less, in satoshi.
    #[schemars(range(min = 1))]
    pub(in crate::config) inbound_below_sat: u64,
    /// How much at a time, in satoshi.
    #[schemars(range(min = 1))]
    pub(in crate::config) amount_sat: u64,
    /// `loop`, or `lsps1`: an inbound channel of the provider of `countersign-lightning`.
    pub(in crate::config) via: RawMeans,
}

/// How room to receive is bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "RebalanceMeans")]
pub(in crate::config) enum RawMeans {
    Loop,
    Lsps1,
}

/// When somebody is told that a Lightning node needs them: always when it gives no answer, and
/// beyond these thresholds. Each stands in the status too.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "LightningAlerts")]
pub(in crate::config) struct RawLightningAlerts {
    /// Name of the webhook that is told when an alert begins and ends. Default: nobody.
    pub(in crate::config) webhook: Option<String>,
    /// The node can receive less, in satoshi.
    #[schemars(range(min = 1))]
    pub(in crate::config) inbound_below_sat: Option<u64>,
    /// The node can send less, in satoshi.
    #[schemars(range(min = 1))]
    pub(in crate::config) outbound_below_sat: Option<u64>,
    /// Fewer of a hundred invoices that ended within an hour were paid; looked at from twenty on.
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::config) success_below_percent: Option<u8>,
    /// One of a hundred payments within an hour took longer from its invoice to its money.
    pub(in crate::config) p99_above: Option<Span>,
}

/// A node, or several.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(rename = "InvoiceSources", untagged)]
pub(in crate::config) enum RawSources {
    /// One.
    One(RawInvoiceSource),
    /// Several, the preferred one first.
    Several(Vec<RawInvoiceSource>),
}

impl RawSources {
    /// All of them.
    pub(in crate::config) fn all(&self) -> &[RawInvoiceSource] {
        match self {
            Self::One(source) => std::slice::from_ref(source),
            Self::Several(sources) => sources,
        }
    }
}

impl<'de> Deserialize<'de> for RawSources {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;

        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = RawSources;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a source of invoices, or a list of them")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawSources, A::Error> {
                let source = RawInvoiceSource::deserialize(MapAccessDeserializer::new(map));
                source.map(RawSources::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<RawSources, A::Error> {
                let sources = Vec::deserialize(SeqAccessDeserializer::new(seq));
                sources.map(RawSources::Several)
            }
        }
        deserializer.deserialize_any(OneOrSeveral)
    }
}

/// A Lightning network.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "LightningNetwork")]
pub(in crate::config) enum RawLightningNetwork {
    Bitcoin,
    Testnet,
    Signet,
    Regtest,
}

/// A maker of invoices.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
#[schemars(rename = "InvoiceSource")]
pub(in crate::config) enum RawInvoiceSource {
    /// Not said: only a template may leave it open.
    #[serde(skip)]
    Missing,
    /// Base URL of the sandbox: play money.
    Sandbox(String),
    /// `countersign-lightning`, an embedded LDK node as a daemon.
    Ldk(RawLdk),
    /// LND, over its REST API.
    Lnd(RawLnd),
    /// phoenixd.
    Phoenixd(RawPhoenixd),
    /// Core Lightning, over clnrest.
    Cln(RawCln),
}

/// `countersign-lightning`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Ldk")]
pub(in crate::config) struct RawLdk {
    /// Base URL of its API.
    pub(in crate::config) url: String,
    /// Its token, `api.token` in its data directory.
    pub(in crate::config) token: SecretRef,
}

/// LND.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Lnd")]
pub(in crate::config) struct RawLnd {
    /// Base URL of its REST API.
    pub(in crate::config) url: String,
    /// A macaroon in hex, for `invoices:read invoices:write info:read offchain:read`.
    pub(in crate::config) macaroon: SecretRef,
    /// File with its certificate (`tls.cert`), which is then the only one accepted.
    pub(in crate::config) certificate: Option<String>,
}

/// phoenixd.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Phoenixd")]
pub(in crate::config) struct RawPhoenixd {
    /// Base URL of its API.
    pub(in crate::config) url: String,
    /// Its limited-access password.
    pub(in crate::config) password: SecretRef,
}

/// Core Lightning.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Cln")]
pub(in crate::config) struct RawCln {
    /// Base URL of clnrest.
    pub(in crate::config) url: String,
    /// A rune for `invoice`, `listinvoices`, `waitanyinvoice` and `listpeerchannels`.
    pub(in crate::config) rune: SecretRef,
    /// File with its certificate, which is then the only one accepted.
    pub(in crate::config) certificate: Option<String>,
}
