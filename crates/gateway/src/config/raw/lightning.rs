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
