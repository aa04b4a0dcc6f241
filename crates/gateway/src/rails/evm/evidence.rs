//! What a chain says about one authorization.
//!
//! INVARIANT: "paid" needs the token's own events, `AuthorizationUsed` and `Transfer` with exactly
//! this payer, payee and value, in one transaction: some tokens do not revert on a used nonce, and
//! a cancelled nonce looks used too. "Dead" needs a block whose own time lies past the window, or
//! the event of a cancellation. Everything else is open or unknown.

use crate::rails::x402::{AuthorizationState, Decline, Transfer};
use serde_json::json;

use super::{
    abi,
    chain::{Block, Chain, Log, RpcFault, bytes},
};

/// How far back events are looked for. Windows last minutes; blocks come every second or slower.
const LOOKBACK_BLOCKS: u64 = 5_000;

/// The state of the authorization as of the newest block, or as of `at_least` if that is newer.
pub(super) async fn state(
    chain: &Chain,
    transfer: &Transfer,
    at_least: u64,
) -> Result<AuthorizationState, RpcFault> {
    let newest = chain.newest_block().await?;
    let block = newest.number.max(at_least);
    let (token, authorization) = (transfer.domain.token, &transfer.authorization);
    let is_used =
        chain.is_nonce_used(token, authorization.from, &authorization.nonce, block).await?;
    if is_used {
        return used(chain, transfer, block).await;
    }
    if is_past(&newest, transfer) {
        return Ok(AuthorizationState::Dead(Decline::Window));
    }
    Ok(AuthorizationState::Unused)
}

/// Whether no later block can carry the authorization.
fn is_past(newest: &Block, transfer: &Transfer) -> bool {
    newest.timestamp_s >= transfer.authorization.valid_before_s
}

/// How a used nonce was used.
async fn used(
    chain: &Chain,
    transfer: &Transfer,
    block: u64,
) -> Result<AuthorizationState, RpcFault> {
    let authorization = &transfer.authorization;
    let topics = json!([
        [abi::AUTHORIZATION_USED, abi::AUTHORIZATION_CANCELED],
        topic(&authorization.from.to_word()),
        topic(&authorization.nonce),
    ]);
    let range = (block.saturating_sub(LOOKBACK_BLOCKS), block);
    let logs = chain.logs(transfer.domain.token, topics, range).await?;
    let Some(log) = logs.into_iter().next() else {
        return Ok(AuthorizationState::Unknown);
    };
    if log.topics.first().is_some_and(|first| is_same(first, abi::AUTHORIZATION_CANCELED)) {
        return Ok(AuthorizationState::Dead(Decline::Cancelled));
    }
    let Some(transaction) = log.transaction_hash else {
        return Err(RpcFault::Nonsense);
    };
    match chain.receipt(&transaction).await? {
        Some(mined) if mined.is_success && is_paid(&mined.logs, transfer) => {
            Ok(AuthorizationState::Used { transaction })
        }
        Some(_) | None => Ok(AuthorizationState::Unknown),
    }
}

/// Whether a transaction's events show this very payment.
pub(super) fn is_paid(logs: &[Log], transfer: &Transfer) -> bool {
    let authorization = &transfer.authorization;
    let (from, to) = (authorization.from.to_word(), authorization.to.to_word());
    let is_event = |log: &Log, wanted: &[&str]| {
        is_same(&log.address, &transfer.domain.token.to_string())
            && log.topics.len() == wanted.len()
            && log.topics.iter().zip(wanted).all(|(topic, wanted)| is_same(topic, wanted))
    };
    let used = [abi::AUTHORIZATION_USED, &topic(&from), &topic(&authorization.nonce)];
    let moved = [abi::TRANSFER, &topic(&from), &topic(&to)];
    let is_value = |log: &Log| {
        bytes(&log.data).ok().and_then(|data| abi::number(&data)) == Some(authorization.value)
    };
    logs.iter().any(|log| is_event(log, &used))
        && logs.iter().any(|log| is_event(log, &moved) && is_value(log))
}

fn topic(word: &[u8; 32]) -> String {
    format!("0x{}", hex::encode(word))
}

fn is_same(left: &str, right: &str) -> bool {
    left.eq_ignore_ascii_case(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::wire::eip712::{Address, Domain, Signature, TransferAuthorization, word};

    const TOKEN: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";

    fn transfer() -> Transfer {
        Transfer {
            domain: Domain {
                name: "USDC".into(),
                version: "2".into(),
                chain_id: 84532,
                token: TOKEN.parse().unwrap(),
            },
            authorization: TransferAuthorization {
                from: Address::from_bytes([1; 20]),
                to: Address::from_bytes([2; 20]),
                value: 10_000,
                valid_after_s: 0,
                valid_before_s: 100,
                nonce: [9; 32],
            },
            signature: Signature::from_bytes(&[1; 65]).unwrap(),
        }
    }

    fn log(topics: &[&str], data: &str) -> Log {
        Log {
            address: TOKEN.to_lowercase(),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            data: data.into(),
            transaction_hash: None,
        }
    }

    #[test]
    fn only_both_events_with_the_exact_value_are_a_payment() {
        let transfer = transfer();
        let from = topic(&transfer.authorization.from.to_word());
        let to = topic(&transfer.authorization.to.to_word());
        let nonce = topic(&transfer.authorization.nonce);
        let used = log(&[abi::AUTHORIZATION_USED, &from, &nonce], "0x");
        let moved = log(&[abi::TRANSFER, &from, &to], &topic(&word(10_000)));
        assert!(is_paid(&[moved.clone(), used.clone()], &transfer));
        assert!(!is_paid(std::slice::from_ref(&moved), &transfer));
        assert!(!is_paid(std::slice::from_ref(&used), &transfer));
        for wrong in [
            log(&[abi::TRANSFER, &from, &to], &topic(&word(9_999))),
            log(&[abi::TRANSFER, &to, &from], &topic(&word(10_000))),
            log(&[abi::TRANSFER, &from], &topic(&word(10_000))),
            Log { address: "0x00".into(), ..moved.clone() },
        ] {
            assert!(!is_paid(&[used.clone(), wrong], &transfer));
        }
        let cancelled = log(&[abi::AUTHORIZATION_CANCELED, &from, &nonce], "0x");
        assert!(!is_paid(&[moved, cancelled], &transfer));
    }

    #[test]
    fn only_a_block_past_the_window_ends_it() {
        let block = |timestamp_s| Block { number: 1, timestamp_s, base_fee_wei: 0 };
        assert!(!is_past(&block(99), &transfer()));
        assert!(is_past(&block(100), &transfer()));
    }
}
