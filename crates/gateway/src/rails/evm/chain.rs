//! Reading and writing one EVM chain through its JSON-RPC interface.
//!
//! Owns the few methods that a facilitator needs, as typed values. It judges nothing about
//! payments.
//!
//! INVARIANT: an answer that is not of the expected type is [`RpcFault::Nonsense`], never a default.

use crate::fetch::Fetch;
use countersign_core::wire::eip712::Address;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::fmt;

use super::abi;

/// Why a node gave no usable answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RpcFault {
    /// The request surely had no effect.
    Unreachable,
    /// The request may have had its effect.
    Ambiguous,
    /// The answer is not what the method returns.
    Nonsense,
    /// The node answered with an error.
    Refused {
        /// JSON-RPC code.
        code: i64,
        /// The node's words, cut to 200 characters; for classification and the operator's log.
        message: String,
    },
}

impl fmt::Display for RpcFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("the chain's node cannot be reached"),
            Self::Ambiguous => f.write_str("the chain's node did not answer"),
            Self::Nonsense => f.write_str("the chain's node answered with nonsense"),
            Self::Refused { code, message } => write!(f, "the chain's node: {code} {message}"),
        }
    }
}

impl std::error::Error for RpcFault {}

/// One chain behind one node.
pub struct Chain {
    fetch: Fetch,
    url: String,
    id: u64,
}

impl fmt::Debug for Chain {
    /// The URL may carry an API key: it is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain({})", self.id)
    }
}

/// The newest block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub number: u64,
    pub timestamp_s: u64,
    pub base_fee_wei: u128,
}

/// An event of a contract.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Log {
    pub address: String,
    pub topics: Vec<String>,
    pub data: String,
    #[serde(default)]
    pub transaction_hash: Option<String>,
}

/// What became of a transaction.
#[derive(Clone, Debug)]
pub(super) struct Mined {
    pub is_success: bool,
    pub block: u64,
    pub logs: Vec<Log>,
}

impl Chain {
    /// A chain. Nothing is asked yet; see [`Chain::check`].
    #[must_use]
    pub const fn new(fetch: Fetch, url: String, id: u64) -> Self {
        Self { fetch, url, id }
    }

    /// Its EIP-155 id.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Whether the node serves this chain.
    ///
    /// # Errors
    /// [`RpcFault::Nonsense`] when it serves another one.
    pub async fn check(&self) -> Result<(), RpcFault> {
        if self.quantity("eth_chainId", json!([])).await? == u128::from(self.id) {
            Ok(())
        } else {
            Err(RpcFault::Nonsense)
        }
    }

    pub(super) async fn newest_block(&self) -> Result<Block, RpcFault> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Header {
            number: String,
            timestamp: String,
            base_fee_per_gas: String,
        }
        let header: Header = self.ask("eth_getBlockByNumber", json!(["latest", false])).await?;
        Ok(Block {
            number: small(&header.number)?,
            timestamp_s: small(&header.timestamp)?,
            base_fee_wei: parse(&header.base_fee_per_gas)?,
        })
    }

    /// What the chain suggests as a tip; a chain without the method wants next to nothing.
    pub(super) async fn tip_wei(&self) -> Result<u128, RpcFault> {
        match self.quantity("eth_maxPriorityFeePerGas", json!([])).await {
            Err(RpcFault::Refused { .. }) => Ok(1_000_000),
            other => other,
        }
    }

    /// How many transactions the account has sent, those waiting included.
    pub(super) async fn next_nonce(&self, account: Address) -> Result<u64, RpcFault> {
        let params = json!([account.to_string(), "pending"]);
        narrow(self.quantity("eth_getTransactionCount", params).await?)
    }

    pub(super) async fn estimate_gas(
        &self,
        from: Address,
        to: Address,
        data: &[u8],
    ) -> Result<u64, RpcFault> {
        narrow(self.quantity("eth_estimateGas", json!([message(from, to, data)])).await?)
    }

    /// Runs a call without effect. `block` is a number or a tag.
    pub(super) async fn view(
        &self,
        from: Address,
        to: Address,
        data: &[u8],
        block: &str,
    ) -> Result<Vec<u8>, RpcFault> {
        let text: String = self.ask("eth_call", json!([message(from, to, data), block])).await?;
        bytes(&text)
    }

    pub(super) async fn balance(&self, token: Address, of: Address) -> Result<u128, RpcFault> {
        let answer = self.view(of, token, &abi::balance_of(of), "latest").await?;
        abi::number(&answer).ok_or(RpcFault::Nonsense)
    }

    /// Whether the authorization's nonce was used or cancelled, as of a block.
    pub(super) async fn is_nonce_used(
        &self,
        token: Address,
        from: Address,
        nonce: &[u8; 32],
        block: u64,
    ) -> Result<bool, RpcFault> {
        let data = abi::authorization_state(from, nonce);
        let answer = self.view(from, token, &data, &format!("{block:#x}")).await?;
        abi::boolean(&answer).ok_or(RpcFault::Nonsense)
    }

    /// Events of `token` whose topics match, between two blocks. A list in `topics` means any of.
    pub(super) async fn logs(
        &self,
        token: Address,
        topics: Value,
        (first, last): (u64, u64),
    ) -> Result<Vec<Log>, RpcFault> {
        let filter = json!([{
            "address": token.to_string(),
            "topics": topics,
            "fromBlock": format!("{first:#x}"),
            "toBlock": format!("{last:#x}"),
        }]);
        self.ask("eth_getLogs", filter).await
    }

    /// Hands a signed transaction to the node.
    pub(super) async fn send(&self, raw: &[u8]) -> Result<(), RpcFault> {
        let params = json!([format!("0x{}", hex::encode(raw))]);
        self.ask::<String>("eth_sendRawTransaction", params).await.map(|_| ())
    }

    /// The receipt of a transaction; `None` while it is not in a block.
    pub(super) async fn receipt(&self, hash: &str) -> Result<Option<Mined>, RpcFault> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Receipt {
            status: String,
            block_number: String,
            logs: Vec<Log>,
        }
        let receipt: Option<Receipt> = self.ask("eth_getTransactionReceipt", json!([hash])).await?;
        let Some(receipt) = receipt else { return Ok(None) };
        let is_success = match parse(&receipt.status)? {
            0 => false,
            1 => true,
            _ => return Err(RpcFault::Nonsense),
        };
        let block = small(&receipt.block_number)?;
        Ok(Some(Mined { is_success, block, logs: receipt.logs }))
    }

    async fn quantity(&self, method: &str, params: Value) -> Result<u128, RpcFault> {
        parse(&self.ask::<String>(method, params).await?)
    }

    async fn ask<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T, RpcFault> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let sent = self.fetch.post(&self.url, "application/json", &[], body.to_string()).await;
        let reply = sent.map_err(|error| match error.may_have_arrived() {
            true => RpcFault::Ambiguous,
            false => RpcFault::Unreachable,
        })?;
        answer(&reply.body)
    }
}

/// The result of a JSON-RPC response.
fn answer<T: DeserializeOwned>(body: &[u8]) -> Result<T, RpcFault> {
    #[derive(Deserialize)]
    struct Refused {
        code: i64,
        message: String,
    }
    let response: Value = serde_json::from_slice(body).map_err(|_| RpcFault::Nonsense)?;
    if let Some(error) = response.get("error").filter(|error| !error.is_null()) {
        let error = Refused::deserialize(error).map_err(|_| RpcFault::Nonsense)?;
        let message = error.message.chars().take(200).collect();
        return Err(RpcFault::Refused { code: error.code, message });
    }
    let result = response.get("result").ok_or(RpcFault::Nonsense)?;
    T::deserialize(result).map_err(|_| RpcFault::Nonsense)
}

fn message(from: Address, to: Address, data: &[u8]) -> Value {
    json!({
        "from": from.to_string(),
        "to": to.to_string(),
        "data": format!("0x{}", hex::encode(data)),
    })
}

/// Reads a hexadecimal quantity.
fn parse(text: &str) -> Result<u128, RpcFault> {
    let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
    let digits = digits.ok_or(RpcFault::Nonsense)?;
    u128::from_str_radix(digits, 16).map_err(|_| RpcFault::Nonsense)
}

fn small(text: &str) -> Result<u64, RpcFault> {
    narrow(parse(text)?)
}

fn narrow(value: u128) -> Result<u64, RpcFault> {
    u64::try_from(value).map_err(|_| RpcFault::Nonsense)
}

/// Reads hexadecimal bytes.
pub(super) fn bytes(text: &str) -> Result<Vec<u8>, RpcFault> {
    let digits = text.strip_prefix("0x").ok_or(RpcFault::Nonsense)?;
    hex::decode(digits).map_err(|_| RpcFault::Nonsense)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_strictly() {
        let ok = br#"{"jsonrpc":"2.0","id":1,"result":"0x2a"}"#;
        assert_eq!(answer::<String>(ok).as_deref(), Ok("0x2a"));
        assert_eq!(answer::<Option<u8>>(br#"{"result":null}"#), Ok(None));
        for bad in [&b"<html>"[..], b"{}", br#"{"result":7}"#, br#"{"error":"x"}"#] {
            assert_eq!(answer::<String>(bad), Err(RpcFault::Nonsense));
        }
        let refused = br#"{"error":{"code":3,"message":"execution reverted","data":"0x"}}"#;
        let fault = RpcFault::Refused { code: 3, message: "execution reverted".into() };
        assert_eq!(answer::<String>(refused), Err(fault));
        assert_eq!(parse("0x"), Err(RpcFault::Nonsense));
        assert_eq!(parse("42"), Err(RpcFault::Nonsense));
        assert_eq!(parse("0xff"), Ok(255));
    }
}
