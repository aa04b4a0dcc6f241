//! x402 settlement: one interface over a remote facilitator and the built-in one.
//!
//! Owns what their answers mean. INVARIANT: [`SettleOutcome::Failed`] is said only of a payment that
//! has not moved money and will not through us; a time-out, a 5xx, `pending`, words we do not know,
//! and any refusal after an attempt whose end we do not know are [`SettleOutcome::Unknown`].
//! INVARIANT: a used nonce alone is no payment: a cancelled one looks the same. Only the token's
//! own events are, or a facilitator's word where no chain is configured to check it.

use crate::fetch::{Fetch, Reply};
use countersign_core::{
    refusal::Code,
    wire::{
        eip712::{Address, Domain, Signature, TransferAuthorization},
        x402::{
            ExactEvm, PaymentPayload, Requirements, SettleResponse, SupportedResponse,
            VerifyResponse,
        },
    },
};
use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use secp256k1::{
    Message, Secp256k1, VerifyOnly,
    ecdsa::{RecoverableSignature, RecoveryId},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{fmt, sync::LazyLock, time::Duration};

use super::evm::{Chain, EvmFacilitator, address_of};

/// How often a chain is asked whether it has seen what a facilitator says it settled.
const CONFIRM_TRIES: u32 = 20;
/// The pause between two such questions, in milliseconds.
const CONFIRM_PAUSE_MS: u64 = 250;

/// How a facilitator's word begins that a payment is no good.
const REFUSALS: [&str; 3] = ["invalid_", "unsupported_", "missing_"];
/// Stems of what it then says of a payment that is not what was asked for.
const TERMS: [&str; 6] = ["network", "scheme", "recipient", "value", "requirements", "token_"];

/// The account that signed a digest: `r ‖ s ‖ recovery id`.
#[must_use]
pub fn recover(digest: &[u8; 32], signature: &[u8; 65]) -> Option<[u8; 20]> {
    static CURVE: LazyLock<Secp256k1<VerifyOnly>> = LazyLock::new(Secp256k1::verification_only);
    let (compact, id) = signature.split_at(64);
    let [id] = id else { return None };
    let id = RecoveryId::from_i32(i32::from(*id)).ok()?;
    let signature = RecoverableSignature::from_compact(compact, id).ok()?;
    let key = CURVE.recover_ecdsa(&Message::from_digest(*digest), &signature).ok()?;
    Some(*address_of(&key).as_bytes())
}

/// A signed transfer: what goes on a chain.
#[derive(Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Which chain and token.
    pub domain: Domain,
    /// What moves.
    pub authorization: TransferAuthorization,
    /// By the payer.
    pub signature: Signature,
}

impl fmt::Debug for Transfer {
    /// The signature is a bearer instrument until it is settled: it is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Transfer").field(&self.domain).field(&self.authorization).finish()
    }
}

/// A payment whose terms were verified in `countersign_core`, to be settled now or after a crash.
#[derive(Clone, Debug)]
pub struct SignedPayment {
    payload: PaymentPayload,
    transfer: Transfer,
}

impl SignedPayment {
    /// Reads `PaidX402::payload`, or the copy of it in the ledger. `None` for anything else.
    #[must_use]
    pub fn from_stored(payload: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Token {
            name: String,
            version: String,
        }
        let payload = PaymentPayload::parse(payload.as_bytes()).ok()?;
        let evm = payload.accepted.evm().ok()?;
        let token: Token = serde_json::from_str(payload.accepted.extra.as_ref()?.get()).ok()?;
        let domain = Domain {
            name: token.name,
            version: token.version,
            chain_id: evm.chain_id,
            token: evm.asset,
        };
        let transfer = Transfer {
            domain,
            authorization: payload.payload.authorization,
            signature: payload.payload.signature,
        };
        Some(Self { payload, transfer })
    }

    /// What goes on the chain.
    #[must_use]
    pub const fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    /// Who pays.
    #[must_use]
    pub const fn payer(&self) -> Address {
        self.transfer.authorization.from
    }

    /// The transfer that would give this payment's money back, out of `from`.
    pub(crate) const fn reversed(
        &self,
        from: Address,
        nonce: [u8; 32],
        valid_before_s: u64,
    ) -> TransferAuthorization {
        let taken = &self.transfer.authorization;
        let (to, value) = (taken.from, taken.value);
        TransferAuthorization { from, to, value, valid_after_s: 0, valid_before_s, nonce }
    }

    /// That transfer, signed, as a payment of its own: of the same token on the same network.
    pub(crate) fn returned(&self, signed: ExactEvm, window_s: u64) -> Option<Self> {
        let Domain { name, version, .. } = &self.transfer.domain;
        let extra = serde_json::json!({ "name": name, "version": version }).to_string();
        let accepted = Requirements {
            amount: signed.authorization.value,
            pay_to: signed.authorization.to.to_string(),
            max_timeout_seconds: window_s,
            extra: Some(RawValue::from_string(extra).ok()?),
            unknown: Vec::new(),
            ..self.payload.accepted.clone()
        };
        let payload =
            PaymentPayload { resource: None, accepted, payload: signed, extensions: None };
        Self::from_stored(&payload.to_json())
    }

    /// The same payment under another signature.
    pub(crate) fn signed_again(&self, signed: ExactEvm) -> Option<Self> {
        let payload = PaymentPayload { payload: signed, ..self.payload.clone() };
        Self::from_stored(&payload.to_json())
    }

    /// As it is kept: a bearer instrument.
    pub(crate) fn to_stored(&self) -> String {
        self.payload.to_json()
    }

    /// Whether the transfer goes to the payee of the accepted offer, with its amount.
    pub(crate) fn is_as_accepted(&self) -> bool {
        let authorization = &self.transfer.authorization;
        let evm = self.payload.accepted.evm();
        evm.is_ok_and(|evm| evm.pay_to == authorization.to)
            && self.payload.accepted.amount == authorization.value
    }

    /// The receipt that the payer gets for a settlement.
    #[must_use]
    pub fn receipt(&self, transaction: &str) -> SettleResponse {
        self.response(true, None, transaction)
    }

    /// What the payer gets instead of a receipt.
    #[must_use]
    pub fn failure(&self, decline: Decline) -> SettleResponse {
        self.response(false, Some(decline.text().to_owned()), "")
    }

    fn response(&self, success: bool, reason: Option<String>, transaction: &str) -> SettleResponse {
        SettleResponse {
            success,
            error_reason: reason,
            payer: Some(self.payer().to_string()),
            transaction: transaction.to_owned(),
            network: self.payload.accepted.network.clone(),
            amount: None,
            extensions: None,
        }
    }

    /// The body of `POST /verify` and `POST /settle`. The offer is the one that the payload
    /// accepted, which was compared with ours.
    fn request(&self) -> String {
        self.payload.facilitator_request(&self.payload.accepted)
    }
}

/// Why a payment is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decline {
    /// The signature.
    Signature,
    /// Network, token, payee, amount.
    Terms,
    /// Not yet valid, or no longer.
    Window,
    /// The nonce was used before.
    Used,
    /// The payer took it back.
    Cancelled,
    /// The payer has too little.
    Funds,
    /// The token refuses the transfer.
    Reverted,
    /// We cannot, or will not, pay for the gas.
    OperatorGas,
    /// The facilitator's reason is not one we know.
    Other,
}

impl Decline {
    /// The refusal that it means for the call.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Signature => Code::PaymentSignature,
            Self::Terms => Code::PaymentTerms,
            Self::Window => Code::PaymentWindow,
            Self::Used => Code::PaymentUsed,
            Self::Funds => Code::PayerFunds,
            Self::OperatorGas => Code::FacilitatorDown,
            Self::Cancelled | Self::Reverted | Self::Other => Code::SettlementFailed,
        }
    }

    /// Its word in `errorReason`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Signature => "invalid_exact_evm_signature",
            Self::Terms => "invalid_payment_requirements",
            Self::Window => "invalid_exact_evm_payload_authorization_valid_before",
            Self::Used => "invalid_exact_evm_nonce_already_used",
            Self::Cancelled => "authorization_canceled",
            Self::Funds => "insufficient_funds",
            Self::Reverted => "invalid_transaction_state",
            Self::OperatorGas => "facilitator_gas",
            Self::Other => "settlement_failed",
        }
    }

    /// What a facilitator's reason says. Facilitators agree on the stems only.
    fn of_reason(reason: Option<&str>) -> Self {
        let reason = reason.unwrap_or_default();
        let says = |stems: &[&str]| stems.iter().any(|stem| reason.contains(stem));
        // An error on the way may name the network, too.
        let is_refusal = REFUSALS.iter().any(|word| reason.starts_with(word));
        if says(&["pending", "timeout", "timed_out", "unexpected", "facilitator"]) {
            Self::Other
        } else if says(&["nonce", "already_used", "duplicate"]) {
            Self::Used
        } else if says(&["insufficient_funds", "insufficient_balance"]) {
            Self::Funds
        } else if says(&["valid_before", "valid_after"]) {
            Self::Window
        } else if says(&["signature"]) {
            Self::Signature
        } else if is_refusal && says(&TERMS) {
            Self::Terms
        } else if says(&["transaction_state", "simulation_failed"]) {
            Self::Reverted
        } else {
            Self::Other
        }
    }

    /// Whether a facilitator that says so has surely moved nothing. A used nonce may be its own
    /// earlier work; a transaction that failed may have come behind another of the same transfer,
    /// which anybody can send (EIP-3009); what we do not know may be anything.
    const fn is_final(self) -> bool {
        match self {
            Self::Signature | Self::Terms | Self::Window | Self::Funds | Self::OperatorGas => true,
            Self::Used | Self::Cancelled | Self::Reverted | Self::Other => false,
        }
    }
}

/// Whether a payment would settle now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyOutcome {
    /// It would.
    Valid,
    /// It would not.
    Invalid(Decline),
    /// Nobody can say right now ([`Code::FacilitatorDown`]).
    Unavailable,
}

/// Whether an earlier settlement of the same payment may be on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Nothing was sent before.
    First,
    /// Something may have been: after [`SettleOutcome::Unknown`], and after a restart.
    Again,
}

/// What became of a settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettleOutcome {
    /// The money has moved.
    Settled {
        /// The transaction.
        transaction: String,
    },
    /// It has not, and will not through us.
    Failed(Decline),
    /// It may have, or still may. The hold stays; settle again with the same payment.
    Unknown,
}

/// What is known of an authorization without acting on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorizationState {
    /// It moved exactly this money.
    Used {
        /// The transaction.
        transaction: String,
    },
    /// It has not been used, and still can be.
    Unused,
    /// It has not been used, and never can be: cancelled, or past its window by the chain's time.
    Dead(Decline),
    /// Not known.
    Unknown,
}

/// Who settles.
#[derive(Debug)]
pub enum Facilitator {
    /// Somebody else, over HTTP.
    Remote(Remote),
    /// We ourselves.
    Builtin(EvmFacilitator),
}

impl Facilitator {
    /// Whether it serves a token on a network. For start-up.
    pub async fn is_ready(&self, network: &str, token: Address) -> bool {
        match self {
            Self::Remote(remote) => remote.settles(network).await,
            Self::Builtin(builtin) => builtin.check(token).await.is_ok(),
        }
    }

    /// Whether the payment would settle now. Moves nothing.
    pub async fn verify(&self, payment: &SignedPayment) -> VerifyOutcome {
        match self {
            Self::Remote(remote) => remote.verify(payment).await,
            Self::Builtin(builtin) => builtin.verify(payment.transfer()).await,
        }
    }

    /// Takes the money. The caller has written its intent durably.
    pub async fn settle(&self, payment: &SignedPayment, attempt: Attempt) -> SettleOutcome {
        match self {
            Self::Remote(remote) => remote.settle(payment, attempt).await,
            Self::Builtin(builtin) => builtin.settle(payment.transfer(), attempt).await,
        }
    }

    /// What is known of the authorization, by the chain; `None` where none is configured.
    pub async fn lookup(&self, payment: &SignedPayment) -> Option<AuthorizationState> {
        match self {
            Self::Remote(Remote { chain: Some(chain), .. }) => {
                Some(chain.lookup(payment.transfer()).await)
            }
            Self::Remote(Remote { chain: None, .. }) => None,
            Self::Builtin(builtin) => Some(builtin.lookup(payment.transfer()).await),
        }
    }
}

/// A facilitator behind a URL.
pub struct Remote {
    /// Its time-out must exceed the time a settlement takes there.
    fetch: Fetch,
    url: String,
    /// Sent as `Authorization`; a secret.
    authorization: Option<HeaderValue>,
    /// To check its word by.
    chain: Option<Chain>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl Remote {
    /// A facilitator at `url`, below which `/verify` and `/settle` lie.
    #[must_use]
    pub fn new(fetch: Fetch, url: &str, authorization: Option<HeaderValue>) -> Self {
        Self { fetch, url: url.trim_end_matches('/').to_owned(), authorization, chain: None }
    }

    /// Checks its word on a chain.
    #[must_use]
    pub fn checked_on(self, chain: Chain) -> Self {
        Self { chain: Some(chain), ..self }
    }

    async fn settles(&self, network: &str) -> bool {
        let url = format!("{}/supported", self.url);
        let Ok(reply) = self.fetch.get_with(&url, self.headers()).await else {
            return false;
        };
        let supported = SupportedResponse::parse(&reply.body);
        reply.status == 200 && supported.is_ok_and(|s| s.settles("exact", network))
    }

    async fn verify(&self, payment: &SignedPayment) -> VerifyOutcome {
        let Some(reply) = self.post("verify", payment).await else {
            return VerifyOutcome::Unavailable;
        };
        let Ok(answer) = VerifyResponse::parse(&reply.body) else {
            return VerifyOutcome::Unavailable;
        };
        if !answer.is_valid {
            return VerifyOutcome::Invalid(Decline::of_reason(answer.invalid_reason.as_deref()));
        }
        if is_other_payer(answer.payer.as_deref(), payment) {
            return VerifyOutcome::Unavailable;
        }
        VerifyOutcome::Valid
    }

    async fn settle(&self, payment: &SignedPayment, attempt: Attempt) -> SettleOutcome {
        let told = match self.post("settle", payment).await {
            Some(reply) => told(&reply.body, payment, attempt),
            None => SettleOutcome::Unknown,
        };
        match (told, &self.chain) {
            (told, None) => told,
            (SettleOutcome::Settled { .. }, Some(chain)) => confirm(chain, payment).await,
            (told, Some(chain)) => match chain.lookup(payment.transfer()).await {
                AuthorizationState::Used { transaction } => SettleOutcome::Settled { transaction },
                AuthorizationState::Dead(decline) => SettleOutcome::Failed(decline),
                AuthorizationState::Unused | AuthorizationState::Unknown => told,
            },
        }
    }

    /// An answer below 500, whatever it says.
    async fn post(&self, endpoint: &str, payment: &SignedPayment) -> Option<Reply> {
        let url = format!("{}/{endpoint}", self.url);
        let mut headers = self.headers();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let sent = self.fetch.post_with(&url, headers, payment.request()).await;
        sent.ok().filter(|reply| reply.status < 500)
    }

    fn headers(&self) -> HeaderMap {
        self.authorization.iter().map(|value| (AUTHORIZATION, value.clone())).collect()
    }
}

/// What a facilitator's answer to `/settle` says by itself.
fn told(body: &[u8], payment: &SignedPayment, attempt: Attempt) -> SettleOutcome {
    let Ok(answer) = SettleResponse::parse(body) else {
        return SettleOutcome::Unknown;
    };
    let decline = Decline::of_reason(answer.error_reason.as_deref());
    match (answer.success, attempt) {
        (true, _) => {
            let value = payment.transfer.authorization.value;
            let is_other = answer.network != payment.payload.accepted.network
                || answer.amount.is_some_and(|amount| amount != value)
                || is_other_payer(answer.payer.as_deref(), payment);
            if is_other {
                return SettleOutcome::Unknown;
            }
            SettleOutcome::Settled { transaction: answer.transaction }
        }
        // Whoever names a transaction has sent one.
        (false, Attempt::First) if decline.is_final() && answer.transaction.is_empty() => {
            SettleOutcome::Failed(decline)
        }
        (false, Attempt::First | Attempt::Again) => SettleOutcome::Unknown,
    }
}

/// Whether a facilitator speaks of somebody else.
fn is_other_payer(payer: Option<&str>, payment: &SignedPayment) -> bool {
    let is_ours = |payer| Address::from_hex(payer) == Ok(payment.payer());
    payer.is_some_and(|payer| !payer.is_empty() && !is_ours(payer))
}

/// Waits until the chain shows what a facilitator says it settled.
async fn confirm(chain: &Chain, payment: &SignedPayment) -> SettleOutcome {
    for _ in 0..CONFIRM_TRIES {
        match chain.lookup(payment.transfer()).await {
            AuthorizationState::Used { transaction } => {
                return SettleOutcome::Settled { transaction };
            }
            AuthorizationState::Dead(decline) => return SettleOutcome::Failed(decline),
            AuthorizationState::Unused | AuthorizationState::Unknown => {
                tokio::time::sleep(Duration::from_millis(CONFIRM_PAUSE_MS)).await;
            }
        }
    }
    SettleOutcome::Unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_by_their_stems() {
        for (reason, decline) in [
            ("insufficient_funds", Decline::Funds),
            ("invalid_exact_evm_insufficient_balance", Decline::Funds),
            ("invalid_exact_evm_payload_authorization_valid_before", Decline::Window),
            ("invalid_exact_evm_payload_signature", Decline::Signature),
            ("invalid_exact_evm_recipient_mismatch", Decline::Terms),
            ("invalid_exact_evm_payload_authorization_value_mismatch", Decline::Terms),
            ("invalid_transaction_state", Decline::Reverted),
            ("invalid_exact_evm_nonce_already_used", Decline::Used),
            ("settlement_pending", Decline::Other),
            ("unexpected_settle_error", Decline::Other),
            ("invalid_exact_evm_transaction_failed", Decline::Other),
            ("", Decline::Other),
        ] {
            assert_eq!(Decline::of_reason(Some(reason)), decline, "{reason}");
        }
        assert_eq!(Decline::of_reason(None), Decline::Other);
    }

    #[test]
    fn only_what_a_facilitator_checks_before_it_sends_is_final() {
        for decline in [Decline::Used, Decline::Cancelled, Decline::Reverted, Decline::Other] {
            assert!(!decline.is_final(), "{decline:?}");
        }
        for reason in [
            "network_error",
            "failed to get receipt: network is unreachable",
            "invalid_transaction_state",
            "value",
        ] {
            assert!(!Decline::of_reason(Some(reason)).is_final(), "{reason}");
        }
        assert!(Decline::Funds.is_final() && Decline::Window.is_final());
    }

    #[test]
    fn a_signature_of_nobody_recovers_nobody() {
        assert_eq!(recover(&[1; 32], &[0; 65]), None);
        let mut wrong_id = [1; 65];
        wrong_id[64] = 9;
        assert_eq!(recover(&[1; 32], &wrong_id), None);
    }
}
