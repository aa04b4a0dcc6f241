//! The built-in x402 facilitator: EIP-3009 transfers over a chain's JSON-RPC interface.
//!
//! Owns one signing key and the order of its transactions. It talks to the chain through a few
//! hundred lines of its own: the general Ethereum libraries would multiply the cold build of the
//! whole program, and of what they do, this needs one transaction type and four contract calls.
//!
//! INVARIANT: [`SettleOutcome::Failed`] is said only when this authorization has not moved money and
//! will not through us. Whatever could still turn out otherwise is [`SettleOutcome::Unknown`].
//! INVARIANT: nonces of the signing key are handed out one at a time, by one task.

mod abi;
mod chain;
mod evidence;
mod transaction;

pub use chain::{Chain, RpcFault};
pub use transaction::{NotAKey, Signer};

pub(crate) use transaction::address_of;

use countersign_core::wire::eip712::Address;
use std::time::Duration;
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::x402::{Attempt, AuthorizationState, Decline, SettleOutcome, Transfer, VerifyOutcome};
use chain::Mined;
use transaction::ContractCall;

/// Gas that no transfer of a sane token reaches.
const MAX_GAS: u64 = 500_000;
/// How often a nonce that turned out stale is replaced.
const MAX_NONCE_TRIES: u32 = 3;

/// Limits of the built-in facilitator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvmLimits {
    /// How long a settlement waits for its block, in milliseconds.
    pub settle_ms: u64,
    /// The most it offers for a unit of gas, in wei.
    pub max_fee_wei: u128,
}

impl Default for EvmLimits {
    fn default() -> Self {
        Self { settle_ms: 30_000, max_fee_wei: 100_000_000_000 }
    }
}

/// A facilitator of our own.
#[derive(Debug)]
pub struct EvmFacilitator {
    chain: Chain,
    signer: Signer,
    limits: EvmLimits,
    /// The next nonce, while we know it.
    nonce: Mutex<Option<u64>>,
}

/// Why a settlement stopped before its transaction was sent.
enum Stop {
    Declined(Decline),
    Fault,
}

impl From<RpcFault> for Stop {
    fn from(_: RpcFault) -> Self {
        Self::Fault
    }
}

/// What a node made of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Taken,
    Perhaps,
    Never,
    StaleNonce,
    NoGas,
}

impl EvmFacilitator {
    /// A facilitator on one chain, paying gas with one key.
    #[must_use]
    pub const fn new(chain: Chain, signer: Signer, limits: EvmLimits) -> Self {
        Self { chain, signer, limits, nonce: Mutex::const_new(None) }
    }

    /// The account that pays gas.
    #[must_use]
    pub const fn account(&self) -> Address {
        self.signer.address()
    }

    /// Whether the node serves the chain and `token` answers as an EIP-3009 token. For start-up.
    ///
    /// # Errors
    /// What the node answered instead.
    pub async fn check(&self, token: Address) -> Result<(), RpcFault> {
        self.chain.check().await?;
        let newest = self.chain.newest_block().await?;
        let nobody = Address::from_bytes([0; 20]);
        self.chain.is_nonce_used(token, nobody, &[0; 32], newest.number).await.map(|_| ())
    }

    /// Runs the transfer without effect: signature, nonce, balance, window, pauses and blocklists
    /// are what the token itself says.
    pub async fn verify(&self, transfer: &Transfer) -> VerifyOutcome {
        if transfer.domain.chain_id != self.chain.id() {
            return VerifyOutcome::Invalid(Decline::Terms);
        }
        let token = transfer.domain.token;
        let view = self.chain.view(self.account(), token, &call_data(transfer), "pending").await;
        match view {
            Ok(_) => VerifyOutcome::Valid,
            Err(fault) if is_revert(&fault) => match self.diagnose(transfer).await {
                Ok(decline) => VerifyOutcome::Invalid(decline),
                Err(_) => VerifyOutcome::Unavailable,
            },
            Err(_) => VerifyOutcome::Unavailable,
        }
    }

    /// Takes the money, or finds that it was taken. The caller has written its intent durably.
    /// Repeating it is safe: a nonce moves money once.
    pub async fn settle(&self, transfer: &Transfer, attempt: Attempt) -> SettleOutcome {
        if transfer.domain.chain_id != self.chain.id() {
            return SettleOutcome::Failed(Decline::Terms);
        }
        match (self.try_settle(transfer).await, attempt) {
            (Ok(outcome), _) => outcome,
            (Err(Stop::Declined(decline)), Attempt::First) => SettleOutcome::Failed(decline),
            // An earlier transaction of ours may still be on its way.
            (Err(Stop::Declined(_)), Attempt::Again) | (Err(Stop::Fault), _) => {
                SettleOutcome::Unknown
            }
        }
    }

    /// What the chain says about the authorization.
    pub async fn lookup(&self, transfer: &Transfer) -> AuthorizationState {
        self.chain.lookup(transfer).await
    }

    async fn try_settle(&self, transfer: &Transfer) -> Result<SettleOutcome, Stop> {
        if let Some(outcome) = ended(evidence::state(&self.chain, transfer, 0).await?) {
            return Ok(outcome);
        }
        let call = self.prepare(transfer).await?;
        let transaction = self.submit(call).await?;
        let Some(mined) = self.wait(&transaction).await else {
            // The transaction may be stuck or lost: ask the node for the next nonce.
            *self.nonce.lock().await = None;
            return Ok(SettleOutcome::Unknown);
        };
        if mined.is_success && evidence::is_paid(&mined.logs, transfer) {
            return Ok(SettleOutcome::Settled { transaction });
        }
        match ended(evidence::state(&self.chain, transfer, mined.block).await?) {
            Some(outcome) => Ok(outcome),
            None => Err(Stop::Declined(self.diagnose(transfer).await?)),
        }
    }

    /// The transaction, all but its nonce.
    async fn prepare(&self, transfer: &Transfer) -> Result<ContractCall, Stop> {
        let (to, data) = (transfer.domain.token, call_data(transfer));
        let gas = match self.chain.estimate_gas(self.account(), to, &data).await {
            Ok(gas) => gas,
            Err(fault) if is_revert(&fault) => {
                return Err(Stop::Declined(self.diagnose(transfer).await?));
            }
            Err(_) => return Err(Stop::Fault),
        };
        let base_wei = self.chain.newest_block().await?.base_fee_wei;
        let tip_wei = self.chain.tip_wei().await?;
        let fee_wei = base_wei.saturating_mul(2).saturating_add(tip_wei);
        if fee_wei > self.limits.max_fee_wei || gas > MAX_GAS {
            return Err(Stop::Declined(Decline::OperatorGas));
        }
        let gas_limit = gas.saturating_add(gas / 4).min(MAX_GAS);
        Ok(ContractCall {
            chain_id: self.chain.id(),
            nonce: 0,
            max_priority_fee_wei: tip_wei,
            max_fee_wei: fee_wei,
            gas_limit,
            to,
            data,
        })
    }

    /// Signs and sends under the next nonce. Returns the hash of what was, or may have been, taken.
    async fn submit(&self, mut call: ContractCall) -> Result<String, Stop> {
        let mut next = self.nonce.lock().await;
        for _ in 0..MAX_NONCE_TRIES {
            call.nonce = match next.take() {
                Some(nonce) => nonce,
                None => self.chain.next_nonce(self.account()).await?,
            };
            let raw = call.sign(&self.signer);
            let hash = format!("0x{}", hex::encode(raw.hash));
            match sent(self.chain.send(&raw.bytes).await) {
                Sent::Taken => {
                    *next = call.nonce.checked_add(1);
                    return Ok(hash);
                }
                Sent::Perhaps => return Ok(hash),
                Sent::Never => return Err(Stop::Fault),
                Sent::StaleNonce => {}
                Sent::NoGas => return Err(Stop::Declined(Decline::OperatorGas)),
            }
        }
        Err(Stop::Fault)
    }

    /// Waits for a transaction's block; `None` when the time is up.
    async fn wait(&self, transaction: &str) -> Option<Mined> {
        let polled = async {
            let mut pause_ms = 25u64;
            loop {
                if let Ok(Some(mined)) = self.chain.receipt(transaction).await {
                    return mined;
                }
                sleep(Duration::from_millis(pause_ms)).await;
                pause_ms = pause_ms.saturating_mul(2).min(1_000);
            }
        };
        timeout(Duration::from_millis(self.limits.settle_ms), polled).await.ok()
    }

    /// Why the token refuses a transfer, from what can be read.
    async fn diagnose(&self, transfer: &Transfer) -> Result<Decline, RpcFault> {
        let authorization = &transfer.authorization;
        let token = transfer.domain.token;
        let newest = self.chain.newest_block().await?;
        let (from, nonce) = (authorization.from, &authorization.nonce);
        if self.chain.is_nonce_used(token, from, nonce, newest.number).await? {
            return Ok(Decline::Used);
        }
        if self.chain.balance(token, from).await? < authorization.value {
            return Ok(Decline::Funds);
        }
        let is_open = authorization.valid_after_s < newest.timestamp_s
            && newest.timestamp_s < authorization.valid_before_s;
        Ok(if is_open { Decline::Reverted } else { Decline::Window })
    }
}

impl Chain {
    /// What the chain says about an authorization.
    pub async fn lookup(&self, transfer: &Transfer) -> AuthorizationState {
        evidence::state(self, transfer, 0).await.unwrap_or(AuthorizationState::Unknown)
    }
}

/// The outcome that a state already decides.
fn ended(state: AuthorizationState) -> Option<SettleOutcome> {
    match state {
        AuthorizationState::Used { transaction } => Some(SettleOutcome::Settled { transaction }),
        AuthorizationState::Dead(decline) => Some(SettleOutcome::Failed(decline)),
        AuthorizationState::Unknown => Some(SettleOutcome::Unknown),
        AuthorizationState::Unused => None,
    }
}

fn call_data(transfer: &Transfer) -> Vec<u8> {
    abi::transfer_with_authorization(&transfer.authorization, &transfer.signature)
}

/// What the contract refused, as opposed to what the node could not do.
fn is_revert(fault: &RpcFault) -> bool {
    match fault {
        RpcFault::Refused { code, message } => {
            *code == 3 || message.to_ascii_lowercase().contains("revert")
        }
        RpcFault::Unreachable | RpcFault::Ambiguous | RpcFault::Nonsense => false,
    }
}

/// Reads a node's answer to a transaction. Nodes differ in words only; what is not understood may
/// have been taken.
fn sent(answer: Result<(), RpcFault>) -> Sent {
    let message = match answer {
        Ok(()) => return Sent::Taken,
        Err(RpcFault::Refused { message, .. }) => message.to_ascii_lowercase(),
        Err(RpcFault::Unreachable) => return Sent::Never,
        Err(RpcFault::Ambiguous | RpcFault::Nonsense) => return Sent::Perhaps,
    };
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["already known", "known transaction", "already imported"]) {
        Sent::Taken
    } else if says(&["nonce too low", "underpriced", "nonce is too low"]) {
        Sent::StaleNonce
    } else if says(&["insufficient funds"]) {
        Sent::NoGas
    } else {
        Sent::Perhaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str) -> RpcFault {
        RpcFault::Refused { code: -32000, message: message.into() }
    }

    #[test]
    fn what_a_node_does_not_clearly_refuse_may_have_been_taken() {
        assert_eq!(sent(Ok(())), Sent::Taken);
        assert_eq!(sent(Err(refused("already known"))), Sent::Taken);
        assert_eq!(sent(Err(RpcFault::Unreachable)), Sent::Never);
        assert_eq!(sent(Err(refused("Nonce too low: next 5"))), Sent::StaleNonce);
        let funds = "insufficient funds for gas * price + value";
        assert_eq!(sent(Err(refused(funds))), Sent::NoGas);
        for fault in [RpcFault::Ambiguous, RpcFault::Nonsense, refused("try again")] {
            assert_eq!(sent(Err(fault)), Sent::Perhaps);
        }
    }

    #[test]
    fn a_revert_is_the_contracts_word() {
        assert!(is_revert(&refused("execution reverted: used")));
        assert!(is_revert(&RpcFault::Refused { code: 3, message: String::new() }));
        assert!(!is_revert(&refused("rate limited")));
        assert!(!is_revert(&RpcFault::Nonsense));
    }
}
